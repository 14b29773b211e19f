"""Pictures: real PNGs that show what they should."""

import numpy as np
import pytest
from PIL import Image

from engine.figures import MidSlices, drawPrediction, drawTrainingCurves, drawValidationExample

CURVES = ("loss", "dice", "precision", "recall")


def countColour(path, isColour) -> int:
    """Pixels of a picture for which isColour(red, green, blue) holds."""
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
    return int(np.count_nonzero(isColour(*np.moveaxis(pixels, -1, 0))))


def isCyan(red, green, blue):
    return (red < 90) & (green > 180) & (blue > 200)


def isRed(red, green, blue):
    return (red > 150) & (green < 90) & (blue < 90)


def slicesOf(volume, count=3):
    """Mid-slices of a volume (x, y, z) that comes `count` planes at a time."""
    slices = MidSlices(volume.shape)
    for z in range(0, volume.shape[2], count):
        slices.add(z, volume[:, :, z : z + count].T)
    return slices


@pytest.mark.parametrize("count", [1, 3, 16])
@pytest.mark.parametrize("shape", [(24, 20, 16), (5, 1, 7), (1, 1, 1)])
def testMidSlicesAreThoseOfTheVolume(shape, count):
    volume = np.random.default_rng(0).integers(0, 1000, shape).astype(">u2")
    slices = slicesOf(volume, count)
    for axis in range(3):
        assert np.array_equal(slices.slice(axis), np.take(volume, shape[axis] // 2, axis).T)


def testMidSlicesOfHugeVolumesAreThinnedOut():
    slices = slicesOf(np.random.default_rng(0).random((4000, 2, 3)))
    assert slices.slice(1).shape == (3, 667) and slices.slice(0).shape == (3, 2)


@pytest.fixture
def ball():
    """Make a dark ball in the middle of a noisy volume (24, 20, 16) and its mask."""
    grid = np.stack(np.meshgrid(*(np.arange(side) - side / 2 for side in (24, 20, 16)), indexing="ij"))
    mask = (grid**2).sum(0) < 16
    return np.random.default_rng(0).normal(100, 5, mask.shape) - 40 * mask, mask


def testPredictionAndReferenceAreSeenWhereTheyAre(tmp_path, ball):
    image, mask = ball
    drawPrediction(slicesOf(image), slicesOf(mask.astype(np.float32)), slicesOf(mask), tmp_path / "both.png")
    drawPrediction(slicesOf(image), slicesOf(mask.astype(np.float32)), None, tmp_path / "alone.png")
    drawPrediction(
        slicesOf(image), slicesOf(np.zeros(mask.shape, np.float32)), slicesOf(mask), tmp_path / "missed.png"
    )
    red = {name: countColour(tmp_path / f"{name}.png", isRed) for name in ("both", "alone", "missed")}
    cyan = {name: countColour(tmp_path / f"{name}.png", isCyan) for name in ("both", "alone", "missed")}
    assert red["alone"] > 2 * red["missed"] + 1000
    assert cyan["both"] > 200 and cyan["missed"] > 200 and cyan["alone"] == 0


@pytest.mark.parametrize("shape", [(24, 20, 1), (1, 20, 16), (300, 8, 8), (1, 1, 1)])
@pytest.mark.parametrize("sides", [(0.5, 0.5, 2.0), (0.0, 1.0, 1.0), (1.0, -1.0, 1.0)])
def testFlatAndLongVolumesAreDrawnWhateverTheSpacing(tmp_path, shape, sides):
    image = np.random.default_rng(0).random(shape)
    drawPrediction(
        slicesOf(image), slicesOf(image), slicesOf(image > 0.5), tmp_path / "a.png", (sides, ("nm",) * 3)
    )
    width, height = Image.open(tmp_path / "a.png").size
    assert 1000 < width < 2000 and 400 < height < 2000


@pytest.mark.parametrize("epochCount", [1, 40])
@pytest.mark.parametrize("value", [0.5, float("nan")])
def testTrainingCurvesAreDrawn(tmp_path, epochCount, value):
    names = ["learning_rate", *(f"{prefix}{name}" for prefix in ("", "val_") for name in CURVES)]
    history = [dict.fromkeys(names, 1 / (epoch + 1)) for epoch in range(epochCount)]
    history[0]["recall"] = value
    drawTrainingCurves(history, {"val_loss": epochCount - 1, "val_dice": 0}, tmp_path / "curves.png")
    assert countColour(tmp_path / "curves.png", lambda r, g, b: (r > 180) & (g < 120) & (b < 60)) > 20
    assert Image.open(tmp_path / "curves.png").size[0] > 1000


def testValidationExamplesShowLabelAndPredictionWhereTheyAre(tmp_path):
    image, mask = np.zeros((24, 16, 8), np.float32), np.zeros((24, 16, 8), bool)
    image[::2] = 1
    mask[4:9, 3:12, 5] = True
    empty = np.zeros_like(image)

    def countRed(probability):
        examples = [("worst: sub-volume 0", image, mask, probability), ("best", image, mask, probability)]
        drawValidationExample(examples, 0.5, tmp_path / "example.png")
        return countColour(tmp_path / "example.png", lambda r, g, b: (r > 180) & (g < 120) & (b < 110))

    assert countRed(np.where(mask, 1, empty)) > 1.5 * countRed(empty) > 500
