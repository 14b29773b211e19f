"""One walk over the grey values: noise, extremes, and which value means that there is none."""

import numpy as np
import pytest
from scans import addHot, hide, makeGreys, measure, outsideOf

from engine.base.errors import PipelineError
from engine.base.passes import passOver
from engine.volumes.greys import Greys, NoData, equals

SHAPE = (64, 64, 24)
OUTSIDE = outsideOf(SHAPE)
SLAB = np.indices(SHAPE)[0] > 52


def look(image, noData="auto", planeCount=6):
    """Walk over an array (x, y, z)."""
    greys, planes = Greys(image.dtype, NoData.parse(noData)), image.T
    passOver(((planes[start : start + planeCount],) for start in range(0, len(planes), planeCount)), greys)
    return greys


def floats(mean=0.0, deviation=0.08):
    return makeGreys("float32", mean, deviation, shape=SHAPE)


def clippedAir():
    """Half of the volume is air whose noise is cut off at 0."""
    image = makeGreys("uint8", 90, 12, shape=SHAPE)
    image[:32] = makeGreys("uint8", 2, 6, seed=2, shape=SHAPE)[:32]
    return image


def phantom(*values):
    """Nested boxes without noise; what lies around them is the first value."""
    image = np.full(SHAPE, values[0], np.float32)
    for depth, value in enumerate(values[1:], 1):
        image[8 * depth : -8 * depth, 8 * depth : -8 * depth] = value
    return image


NO_DATA = {
    "lowest float outside": (floats(), OUTSIDE, -3.4028234663852886e38),
    "highest float outside": (floats(), OUTSIDE, 3.4028234663852886e38),
    "lowest float in a slab": (floats(), SLAB, -3.4028234663852886e38),
    "1e30": (floats(), OUTSIDE, 1e30),
    "-1000": (floats(40, 100), OUTSIDE, -1000),
    "-1000 in a slab": (makeGreys("int16", 40, 100, shape=SHAPE), SLAB, -1000),
    "0 below the data": (makeGreys(shape=SHAPE), OUTSIDE, 0),
    "0 below the data in a slab": (makeGreys(shape=SHAPE), SLAB, 0),
    "65535": (makeGreys(shape=SHAPE), OUTSIDE, 65535),
    "255": (makeGreys("uint8", 90, 12, shape=SHAPE), SLAB, 255),
    "far float64": (makeGreys("float64", shape=SHAPE), OUTSIDE, -1e300),
    "below a phantom": (phantom(100, 150, 120), OUTSIDE, -1000),
}
GREYS = {
    "noise": floats(),
    "clipped air": clippedAir(),
    "saturated": makeGreys("uint8", 230, 30, shape=SHAPE),
    "phantom in air": phantom(0, 100, 150),
    "phantom of two values": phantom(0, 100),
    "constant": np.full(SHAPE, 5, np.uint8),
    "two labels": (OUTSIDE * 255).astype(np.uint8),
    "three labels": phantom(0, 100, 200).astype(np.uint8),
    "instances": phantom(*range(4)).astype(np.uint16),
    "hot voxels": addHot(makeGreys(shape=SHAPE), 90, 65535),
    "a hundredth is hot": addHot(floats(), OUTSIDE.size // 100, 1e30),
    "scattered": addHot(makeGreys(shape=SHAPE), OUTSIDE.size // 20, 0),
    "small region": hide(makeGreys(shape=SHAPE), np.indices(SHAPE).max(axis=0) < 4, 0),
    "near the data": hide(makeGreys(shape=SHAPE), OUTSIDE, 5400),
}


@pytest.mark.parametrize("name", NO_DATA)
def testAValueFarFromTheOthersThatFillsARegionMeansNoData(name):
    greys, isHidden, value = NO_DATA[name]
    image = hide(greys, isHidden, value)
    found = look(image).findNoData()
    assert found.value == image.dtype.type(value) and found.count == isHidden.sum()
    assert look(image, "none").findNoData() is None
    assert look(np.asarray(image, order="C")).findNoData().count == isHidden.sum()


@pytest.mark.parametrize("name", GREYS)
def testOtherExtremeValuesAreGreyValues(name):
    assert look(GREYS[name]).findNoData() is None


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30, 5.0])
def testADeclaredValueIsTheOnlyOneThatMeansNoData(value):
    image = hide(hide(floats(), SLAB, -3.4e38), OUTSIDE & ~SLAB, value)
    found = look(image, str(value)).findNoData()
    assert equals(np.float32(found.value), np.float32(value)) and found.count == (OUTSIDE & ~SLAB).sum()
    assert look(image, "123").findNoData() is None


@pytest.mark.parametrize("planeCount", [1, 5, 24])
def testARegionAndWhatAdjoinsItAreFoundHoweverTheBlocksCome(planeCount):
    image = hide(floats(), SLAB, -40.0)
    image[7, 7, 7], image[9, 9, 9] = -90, 50  # hot voxels are further out, but no region
    greys = look(image, planeCount=planeCount)
    found = greys.findNoData()
    assert (found.value, found.count) == (-40, SLAB.sum())
    assert (greys.lowest, greys.highest) == (-90, 50)
    beside = image[52]
    assert found.rim.counts.sum() == beside.size
    assert found.rim.sums.sum() == pytest.approx(beside.sum(dtype=float))


@pytest.mark.parametrize("offset", [0, 10**6, 2**60, -(2**62)])
def testLargeWholeNumbersAreToldApart(offset):
    image = np.full((9, 8, 7), offset + 3, np.int64)
    image[2, 2, 2], image[3, 3, 6] = offset + 1, offset + 6
    greys = look(image, planeCount=1)
    assert (greys.lowest, greys.highest) == (offset + 1, offset + 6)


@pytest.mark.parametrize(("dtype", "deviation"), [("uint8", 12), ("uint16", 600), ("float32", 0.08)])
def testNoiseIsTheDeviationOfWhiteNoise(dtype, deviation):
    image = makeGreys(dtype, 0.0 if dtype == "float32" else 8 * deviation, deviation, shape=SHAPE)
    assert look(image).noise == pytest.approx(deviation, rel=0.05)
    assert look(np.asarray(image + np.indices(SHAPE)[1] * image.dtype.type(2))).noise < 1.1 * deviation


def testNoiseIsNotThatOfARegionWithoutData():
    image = floats()
    expected = look(image).noise
    for value in (-3.4e38, 1e30):
        assert look(hide(image, OUTSIDE | SLAB, value)).noise == pytest.approx(expected, rel=0.05)
    hidden = hide(image, OUTSIDE | SLAB, np.nan)
    assert look(hidden, "nan").noise == pytest.approx(expected, rel=0.05)


def testWhatHasNoNeighboursHasNoNoise():
    assert look(floats()[:1]).noise == 0
    assert look(np.full(SHAPE, 3, np.uint8)).noise == 0
    assert look(phantom(0, 100, 150)).noise == 0


@pytest.mark.parametrize("planeCount", [1, 24])
def testVoxelsThatAreNoNumbersAreCountedInAllBlocks(planeCount):
    image = addHot(addHot(floats(), 11, np.nan), 5, np.inf, seed=8)
    count = int((~np.isfinite(image)).sum())
    greys = look(image, planeCount=planeCount)
    assert greys.unusableCount == count
    with pytest.raises(PipelineError, match=f"^scan.nrrd: {count} voxels are NaN or infinite; .*--noData$"):
        greys.refuse("scan.nrrd")
    look(floats()).refuse("scan.nrrd")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("auto", (None, True)),
        ("none", (None, False)),
        ("-1000", (-1000.0, False)),
        ("1e30", (1e30, False)),
        ("-inf", (-np.inf, False)),
    ],
)
def testWordsAndNumbersAreRead(text, expected):
    assert NoData.parse(text) == expected
    assert np.isnan(NoData.parse("nan").value)


def testTheWholeVolumeIsCounted():
    found = measure(hide(makeGreys(shape=SHAPE), OUTSIDE, 0))
    assert (found.count, found.noDataCount) == (np.prod(SHAPE), OUTSIDE.sum())
    assert found.histogram.counts.sum() == found.count - found.noDataCount
