"""Volumes of a set that differ from the others: in their grey values, in the size of their voxels."""

import json
import types
from pathlib import Path

import numpy as np
import pytest
from scans import addHot, hide, makeGreys, measure, outsideOf

from engine.preparation.pairs import Pair
from engine.preparation.samples import Part
from engine.preparation.sets import SHARES, describeSets, doubtSets
from engine.volumes.frame import Frame, frameOfVoxels

UNKNOWN = frameOfVoxels("no size")


def frameOf(*sides, unit="um"):
    return Frame(np.diag(np.float64(sides)), np.zeros(3), unit)


def makeSets(images, frames=None, moments="robust"):
    """Describe volumes: the last one for the validation, the others for the training."""
    frames = frames or [UNKNOWN] * len(images)
    volumes = [
        types.SimpleNamespace(path=Path(f"scan{number}.nrrd"), frame=frame)
        for number, frame in enumerate(frames, 1)
    ]
    pairs, findings = (
        [Pair(volume, volume) for volume in volumes],
        [measure(image, moments) for image in images],
    )
    parts = [Part("training", pairs[:-1], (8, 8, 8), [], 1), Part("validation", pairs[-1:], (8, 8, 8), [], 1)]
    sets = describeSets(parts, {"training": findings[:-1], "validation": findings[-1:]})
    assert json.loads(json.dumps(sets)) == sets
    return sets


def usual(seed, dtype="uint16", offset=8000.0, deviation=600.0):
    """Make a scan of which a tenth is dark."""
    image = makeGreys(dtype, offset, deviation, seed)
    image[:6] = makeGreys(dtype, offset - 4 * deviation, deviation, seed + 50)[:6]
    return image


def sized(*frames):
    return doubtSets(makeSets([usual(number) for number in range(len(frames))], frames))


def testQuantilesNoiseAndWhatWasLeftOutAreThoseOfNumPy():
    image = usual(0)
    isHidden = outsideOf(image.shape)
    image = hide(image, isHidden, 65535)
    spoilt = addHot(image, 4, 60000, seed=3)
    hotCount = int((spoilt[~isHidden] == 60000).sum())
    spoilt[isHidden] = 65535
    known = makeSets([spoilt, usual(1)], [frameOf(0.65, 0.65, 1.3), UNKNOWN])["training"]["scan1.nrrd"]
    values = spoilt[~isHidden & (spoilt != 60000)].astype(float)
    assert known["mean"] == pytest.approx(values.mean()) and known["std"] == pytest.approx(values.std())
    expected = (np.quantile(values, SHARES) - values.mean()) / values.std()
    np.testing.assert_allclose(known["quantiles"], expected, atol=0.01)
    assert known["noise"] == pytest.approx(600 / values.std(), rel=0.1)
    assert known["noDataShare"] == pytest.approx(isHidden.mean()) and known["beyondCount"] == hotCount
    assert known["voxelSize"] == [650.0, 650.0, 1300.0, "nm"]


@pytest.mark.parametrize("gains", [(1, 1, 1), (1, 20, 0.3)])
def testVolumesThatDifferByGainAndOffsetAloneAreAlike(gains):
    images = [usual(number, "float32") * gain - 500 * gain for number, gain in enumerate(gains)]
    assert doubtSets(makeSets(images)) == []


@pytest.mark.parametrize("odd", [0, 2, 3])
def testAnOddVolumeIsWarnedOf(odd):
    images = [usual(number) for number in range(4)]
    images[odd][:44] = makeGreys(mean=4000, seed=9)[:44]  # air in most of it
    lines = doubtSets(makeSets(images))
    part = "validation" if odd == 3 else "training"
    assert len(lines) == 1
    assert lines[0].startswith(f"Warning: {part}Images/scan{odd + 1}.nrrd is unlike the other volumes: ")
    assert "of its z-scored grey values lie below" in lines[0] and "of the others below" in lines[0]


@pytest.mark.parametrize("moments", ["plain", "robust"])
@pytest.mark.parametrize("ratio", [10, 300, 1e4, 1e6])
@pytest.mark.parametrize("dtype", ["float32", "int32"])
def testLargeOffsetsMakeNoVolumeOdd(dtype, ratio, moments):
    images = [usual(number, dtype, 100 * (ratio + 3.7 * number), 100) for number in range(5)]
    assert doubtSets(makeSets(images, moments=moments)) == []


def testHotVoxelsMakeAVolumeOddOnlyWherePlainMomentsKeepThem():
    images = [usual(number, "float32") for number in range(3)]
    images[1] = addHot(images[1], 20, 1e6)
    assert doubtSets(makeSets(images)) == []
    assert any("scan2.nrrd is unlike" in line for line in doubtSets(makeSets(images, moments="plain")))


def testConstantVolumesAreNotCompared():
    images = [usual(0), np.full(usual(0).shape, 7, np.uint16), usual(1)]
    sets = makeSets(images)
    assert sets["training"]["scan2.nrrd"]["quantiles"] == [] and doubtSets(sets) == []


def testVoxelsOfSeveralSizesAreWarnedOfWithBoth():
    lines = sized(frameOf(0.65, 0.65, 0.65), frameOf(0.66, 0.65, 0.65), frameOf(0.65, 0.65, 1.3))
    assert lines == [
        "Warning: voxels of several sizes in one set: trainingImages/scan1.nrrd 650 nm, validationImages/"
        "scan3.nrrd 650 x 650 x 1300 nm; "
        "the network sees voxels, not lengths: resample the volumes to one size"
    ]


@pytest.mark.parametrize(
    "frames",
    [
        (
            frameOf(0.65, 0.65, 1.3),
            frameOf(650, 650, 1300, unit="nm"),
            frameOf(6.5e-4, 6.5e-4, 1.3e-3, unit="mm"),
        ),
        (frameOf(1, 1, 1), UNKNOWN, frameOf(1.04, 1, 1)),
        (UNKNOWN, UNKNOWN, frameOf(2, 2, 2)),
        (UNKNOWN, UNKNOWN),
        (frameOf(1, 1, 1), frameOf(3, 3, 3, unit="pixel")),
        (frameOf(1, 1, 1, unit=""), frameOf(1, 1, 1, unit="")),
    ],
    ids=["units", "one unknown", "one known", "none", "no length", "no unit"],
)
def testEqualSizesInOtherUnitsAndUnknownOnesAreSilent(frames):
    assert sized(*frames) == []
