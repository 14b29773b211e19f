"""Pictures: real PNGs that show what they should."""

import re

import numpy as np
import pytest
from drawings import countColour, isCyan, isRed, keepFigures, slicesOf
from PIL import Image

import engine.results.pictures
from engine.results.pictures import drawPrediction

PANELS = ("xy", "xz", "yz")  # of a picture, from left to right: axis to the right, axis downwards
NANOMETRES = ((50.0,) * 3, ("nm",) * 3)


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


@pytest.fixture
def figures(monkeypatch):
    """Keep the figures that are drawn."""
    yield from keepFigures(monkeypatch, engine.results.pictures)


def panelsOf(figure):
    """Find the panels of a picture of a prediction: [upper, lower], a column each."""
    places = {}
    for axes in figure.axes:
        spec = axes.get_subplotspec()
        places[spec.rowspan.start, spec.colspan.start] = axes
    return [[places[row, column] for row in (0, 1)] for column in range(3)]


def boxOf(axes):
    """Place of a panel in the picture: left, top, right, bottom in pixels."""
    box, height = axes.get_window_extent(), axes.figure.bbox.height
    return np.array([box.x0, height - box.y1, box.x1, height - box.y0])


@pytest.mark.parametrize(
    ("shape", "voxelSize", "metres"),
    [
        ((128, 128, 15), NANOMETRES, (1, 1, 1)),
        ((14, 14, 128), NANOMETRES, (1, 1, 1)),
        ((8, 300, 9), None, (1, 1, 1)),
        ((90, 100, 30), NANOMETRES, (1, 1, 1)),
        ((128, 128, 60), ((50.0, 50.0, 0.05), ("nm", "nm", "um")), (1, 1, 1000)),
        ((128, 128, 15), ((2e-5, 2e-5, 1.0), ("m", "m", "um")), (1e6, 1e6, 1)),
        ((40, 50, 60), ((1.0, 2e9, 3.0), ("nm", "pc", "um")), (1, 5e-10, 1 / 3)),  # cubes
    ],
)
def testPanelsAreReadableAndSayWhereTheyAreStretched(tmp_path, figures, shape, voxelSize, metres):
    image = np.random.default_rng(0).random(shape)
    drawPrediction(slicesOf(image), slicesOf(image), None, tmp_path / "a.png", voxelSize)
    lengths = np.multiply(shape, voxelSize[0] if voxelSize else 1) * metres
    for names, column in zip(PANELS, panelsOf(figures[0]), strict=True):
        sizes = [np.subtract(boxOf(axes)[2:], boxOf(axes)[:2]) for axes in column]
        np.testing.assert_allclose(sizes[0], sizes[1], rtol=1e-6)
        assert sizes[0].min() > 50 and sizes[0].max() / sizes[0].min() < 6.01
        for axes, size in zip(column, sizes, strict=True):
            scales = size / [lengths["xyz".index(name)] for name in names]
            words = [
                re.search(r"stretched (\S+) times", text) for text in (axes.get_xlabel(), axes.get_ylabel())
            ]
            told = [float(word[1]) if word else 1 for word in words]
            assert scales[0] / scales[1] == pytest.approx(told[0] / told[1], rel=0.01)
            assert min(told) == 1


@pytest.mark.parametrize(
    "box", [((3, 9), (5, 12), (12, 15)), ((0, 15), (0, 2), (6, 8)), ((7, 8), (7, 8), (7, 8))]
)
def testReferenceIsOutlinedAlongTheEdgesOfItsVoxels(tmp_path, figures, box):
    mask = np.zeros((15, 15, 15), bool)
    mask[tuple(slice(*ends) for ends in box)] = True
    nothing = slicesOf(np.zeros(mask.shape, np.float32))
    drawPrediction(nothing, nothing, slicesOf(mask), tmp_path / "a.png", NANOMETRES)
    cyan = isCyan(*np.moveaxis(np.asarray(Image.open(tmp_path / "a.png").convert("RGB")).astype(int), -1, 0))
    seen = 0
    for names, (_, lower) in zip(PANELS, panelsOf(figures[0]), strict=True):
        left, top, right, bottom = boxOf(lower)
        rows, columns = np.nonzero(cyan[int(top) - 3 : int(bottom) + 4, int(left) - 3 : int(right) + 4])
        (normal,) = {*"xyz"} - {*names}
        if not mask.take(7, "xyz".index(normal)).any():
            assert not len(rows)
            continue
        found = [(columns.min(), columns.max()), (rows.min(), rows.max())]
        for ends, name, size in zip(found, names, (right - left, bottom - top), strict=True):
            expected = np.array(box["xyz".index(name)]) / 15 * size + 3
            np.testing.assert_allclose(ends, expected, atol=2.5)  # a voxel is more than 20 pixels wide
        seen += 1
    assert seen


def testOutlineOfAThinnedOutSliceIsInItsPlace(tmp_path, figures):
    mask = np.zeros((1601, 6, 5), bool)
    mask[1501:] = True
    drawPrediction(*[slicesOf(mask.astype(np.float32))] * 2, slicesOf(mask), tmp_path / "a.png", NANOMETRES)
    for _, lower in panelsOf(figures[0])[:2]:
        across = np.concatenate(lower.collections[0].get_segments())[:, 0]
        assert across.min() == pytest.approx(1501 * 50, abs=3 * 50) and across.max() >= 1601 * 50
        assert lower.get_xlim() == (0, 1601 * 50)


def testFirstRowIsOnTopAsInTheReport(tmp_path, figures):
    image, place = np.zeros((12, 10, 8), np.float32), {"x": 2, "y": 1, "z": 6}
    middle = {"x": 6, "y": 5, "z": 4}
    for names in PANELS:
        image[tuple((middle | {name: place[name] for name in names})[name] for name in "xyz")] = 1
    drawPrediction(slicesOf(image), slicesOf(image), None, tmp_path / "a.png", ((2.0, 2.0, 2.0), ("um",) * 3))
    pixels = np.asarray(Image.open(tmp_path / "a.png").convert("RGB")).astype(int)
    for names, column in zip(PANELS, panelsOf(figures[0]), strict=True):
        shares = np.array([(place[name] + 0.5) / image.shape["xyz".index(name)] for name in names])
        for axes, isMarked in zip(
            column, (lambda r, g, b: r + g + b > 700, lambda r, g, b: r > b + 100), strict=True
        ):
            left, top, right, bottom = boxOf(axes)
            across, down = shares * (right - left, bottom - top) + (left, top)
            assert isMarked(*pixels[int(down), int(across)])
            mirrored = int(bottom + top - down)
            assert pixels[mirrored, int(across)].sum() < 30
            ticks = axes.transData.transform([2 * (place[name] + 0.5) for name in names])
            np.testing.assert_allclose(ticks, (across, len(pixels) - down), atol=1)


@pytest.mark.parametrize(
    ("voxelSize", "words"),
    [
        (((0.5, 0.5, 2.0), ("",) * 3), "unit not given"),
        (((0.5, 0.5, 0.5), ("nm",) * 3), "nm"),
        (((0.5, 0.0, 0.5), ("nm",) * 3), "voxel"),
        (None, "voxel"),
    ],
)
def testAxesSayTheirUnit(tmp_path, figures, voxelSize, words):
    image = np.random.default_rng(0).random((12, 10, 8))
    drawPrediction(slicesOf(image), slicesOf(image), None, tmp_path / "a.png", voxelSize)
    for names, column in zip(PANELS, panelsOf(figures[0]), strict=True):
        for axes in column:
            assert (axes.get_xlabel(), axes.get_ylabel()) == tuple(f"{name} ({words})" for name in names)
