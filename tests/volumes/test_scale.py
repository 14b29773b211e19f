"""Mean and standard deviation without what is no grey value, against plain NumPy; what replaces it."""

import json

import numpy as np
import pytest
import scans
from hypothesis import given, settings
from hypothesis import strategies as st
from sampleVolumes import writeVolume
from scans import addHot, hide, makeGreys, measure, outsideOf, robustByNumpy

from engine.base.arrays import measureMoments
from engine.base.errors import PipelineError
from engine.base.histograms import FineHistogram
from engine.formats.opening import openVolume
from engine.volumes.scale import (
    MOMENTS_FIELD,
    Scale,
    Statistics,
    describeFinding,
    measureKept,
    measureVolume,
)

TYPES = {  # mean, deviation, hot value
    **{"int8": (0, 5, 127), "uint8": (60, 5, 255), "int16": (-300, 40, 30000), "uint16": (900, 60, 65535)},
    **{"int32": (-7000, 300, 2**30), "uint32": (7000, 300, 2**32 - 1), "int64": (10**6, 900, -(2**50))},
    **{"uint64": (10**6, 900, 2**50), "float32": (0.1, 0.04, 1000), "float64": (-2.5, 1e-3, -1e4)},
}


def assertMoments(scale, expected):
    """Require mean and deviation of plain NumPy to 1e-12 of them, or what a large offset leaves of that."""
    mean, std = expected[:2]
    assert scale.mean == pytest.approx(mean, rel=1e-12, abs=1e-12 * std)
    assert scale.std == pytest.approx(std, rel=max(1e-12, 2e-17 * abs(mean / std)))


def refusal(image, **flags):
    """Text of the refusal of a volume: one line that names the file."""
    with np.errstate(over="raise", invalid="raise", divide="raise"), pytest.raises(PipelineError) as caught:
        measure(image, **flags)
    text = str(caught.value)
    assert text.startswith("scan.nrrd: ") and "\n" not in text
    return text


# --------------------------------------------------------------------------------------------- robust moments


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", TYPES)
def testRobustMomentsAreThoseOfNumPy(dtype, order):
    mean, deviation, hot = TYPES[dtype]
    image = np.asarray(addHot(makeGreys(dtype, mean, deviation), 3, hot), order=order)
    found = measure(image)
    assertMoments(found.scale, robustByNumpy(image))
    assert found.beyondCount == robustByNumpy(image)[2] == 3
    assert (
        found.scale.fences[0] < image[image != hot].min() <= image[image != hot].max() < found.scale.fences[1]
    )


@pytest.mark.parametrize("count", [3, 20, 100, scans.SHAPE[0] * scans.SHAPE[1] * scans.SHAPE[2] // 100])
def testUpToAHundredthOfTheVoxelsMayBeHot(count):
    image = addHot(makeGreys("float32", 0.0, 0.08), count, 1000)
    found = measure(image)
    assert found.beyondCount == count
    assertMoments(found.scale, robustByNumpy(image))


@pytest.mark.parametrize("dtype", ["int16", "uint16"])
def testFencesLieThreeDistancesOfTheQuantilesBeyondThem(dtype):
    image = makeGreys(dtype, 9000, 100)
    low, high = np.quantile(image, (0.01, 0.99), method="lower").astype(int)
    first, last = low - 3 * (high - low), high + 3 * (high - low)
    lowest, highest = np.argsort(image.T.ravel())[[0, 1, -2, -1]].reshape(2, 2)  # no quantile changes
    image.T.flat[lowest], image.T.flat[highest] = (first - 1, first), (last, last + 1)
    found = measure(image)
    assert found.beyondCount == 2
    assert found.scale.fences == (first, last) and found.scale.ends == (low, high)
    kept = image[(image >= first) & (image <= last)].astype(np.float64)
    assertMoments(found.scale, (kept.mean(), kept.std()))


@pytest.mark.parametrize("offset", [0.0, 20.0, 1000.0, 1e6])  # deviations
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def testFencesOfFloatsAreThoseOfNumPyToTheWidthOfABin(dtype, offset):
    image = addHot(makeGreys(dtype, offset, 1.0), 5, offset + 1e5)
    low, high = np.quantile(image, (0.01, 0.99), method="lower").astype(float)
    scale = measure(image).scale
    np.testing.assert_allclose(scale.ends, (low, high), atol=0.1, rtol=0)
    expected = low - 3 * (high - low), high + 3 * (high - low)
    np.testing.assert_allclose(scale.fences, expected, atol=0.5, rtol=0)


def testVoxelsFarBelowAreLeftOutAsWell():
    image = addHot(addHot(makeGreys(mean=30000), 5, 65535), 4, 0, seed=2)
    found = measure(image)
    assert found.beyondCount == 9
    assertMoments(found.scale, robustByNumpy(image))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("gain", [1e-5, 1e-2, 1.0, 1e3, 1e5])
@pytest.mark.parametrize("offset", [0.0, -30.0, 300.0, 1e4, -1e6])  # deviations
def testOffsetsAndGainsOfTenDecadesChangeNothing(dtype, gain, offset):
    image = makeGreys(dtype, offset * gain, gain, seed=4)
    for hot in (offset + 60, offset + 5000, offset - 1e7):
        spoilt = addHot(image, 7, hot * gain)
        found = measure(spoilt)
        assert found.beyondCount == 7
        assertMoments(found.scale, robustByNumpy(spoilt))


def testALargeOffsetIsLookedAtInFineBins():
    found = measure(makeGreys("float32", 1e6, 1.0))
    assert isinstance(found.histogram, FineHistogram) and found.beyondCount == 0
    middle = sum(found.histogram.quantile(0.5)) / 2
    assert abs(middle - 1e6) < 0.2


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 100),
    st.floats(-1e6, 1e6),
    st.floats(1e-3, 1e3),
    st.integers(0, 60),
    st.sampled_from([-1, 1]),
)
def testRobustMomentsOfAnyScanAreThoseOfNumPy(seed, offset, deviation, hotCount, sign):
    image = makeGreys("float64", offset * deviation, deviation, seed, (16, 18, 22))
    image = addHot(image, hotCount, (offset + sign * 1e5) * deviation)
    found = measure(image, planeCount=1 + seed % 7)
    assert found.beyondCount == hotCount
    assertMoments(found.scale, robustByNumpy(image))


@pytest.mark.parametrize("noData", ["auto", "none", "nan", "8000"])
@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def testTheResultIsTheSameToTheBitHoweverTheBlocksCome(dtype, noData):
    image = addHot(makeGreys(dtype, shape=(64, 20, 33)), 5, 60000)
    image = hide(image, outsideOf(image.shape), 65535 if dtype == "uint16" else -1e30)
    if noData == "nan" and dtype == "float32":
        image = hide(image, outsideOf(image.shape), np.nan)
    if dtype == "float32" and noData in ("none", "8000"):
        image = addHot(makeGreys(dtype, shape=(64, 20, 33)), 5, 60000)
    expected = measure(image, noData=noData, planeCount=33)
    assert expected.scale.std > 0
    for planeCount in (1, 2, 5, 16):
        found = measure(image, noData=noData, planeCount=planeCount)
        assert found.scale == expected.scale or noData == "nan"
        assert repr(found.scale) == repr(expected.scale) and found.extent == expected.extent
        assert repr(found[4:]) == repr(expected[4:])


def bimodal():
    """Bone and what surrounds it, both broad, a tenth of it bone."""
    image, bone = makeGreys("int16", -50, 60), makeGreys("int16", 1600, 250, seed=3)
    image[:7] = bone[:7]
    return image


@pytest.mark.parametrize(
    "image",
    [
        bimodal(),
        makeGreys("uint8", 200, 60),
        makeGreys("float32", 1e6, 1),
        makeGreys("float64", 0, 1e-20),
        makeGreys("uint8", 120, 90).clip(20, 230),
        np.where(makeGreys() > 8000, 255, 0).astype(np.uint8),
    ],
    ids=["bone", "clipped", "offset", "tiny", "saturated", "labels"],
)
def testWhereNothingIsLeftOutTheBitsAreThoseOfThePublishedMoments(image):
    found = measure(image)
    assert found.scale == Scale(*measureMoments(image)) == measure(image, moments="plain").scale
    assert found.beyondCount == found.noDataCount == 0
    assert describeFinding(found, "volume") == []


def testPlainMomentsKeepHotVoxels():
    image = addHot(makeGreys("float32", 0, 0.08), 3, 1000)
    found = measure(image, moments="plain")
    assert found.scale == Scale(*measureMoments(image)) and found.beyondCount == 0
    assert found.scale.std > 5 * measure(image).scale.std


# ---------------------------------------------------------------------------------------------------- no data


@pytest.mark.parametrize("moments", ["plain", "robust"])
@pytest.mark.parametrize("value", [-3.4028234663852886e38, 3.4028234663852886e38, 1e30, -1000.0])
def testNoDataAreLeftOutOfTheMoments(value, moments):
    greys = makeGreys("float32", 0.0, 0.08)
    isHidden = outsideOf(greys.shape)
    found = measure(hide(greys, isHidden, value), moments=moments)
    assert found.scale.noData == pytest.approx(value, rel=1e-7) and found.noDataCount == isHidden.sum()
    assertMoments(found.scale, robustByNumpy(greys, isHidden))
    assert greys.min() * 1.02 < found.extent[0] <= greys[~isHidden].min()
    assert greys[~isHidden].max() <= found.extent[1] < 1.02 * greys.max()
    line = f"No data: {isHidden.sum()} voxels ({isHidden.mean():.3%}) hold {value:g}: left out of mean and"
    assert describeFinding(found, "volume")[0].startswith(line) and "--noData none" in line + str(
        describeFinding(found, "volume")
    )


def testHotVoxelsBesidesNoDataAreLeftOutToo():
    greys = addHot(makeGreys("float32", 0.0, 0.08), 40, 900.0)
    isHidden = outsideOf(greys.shape)
    found = measure(hide(greys, isHidden, -1e30))
    assertMoments(found.scale, robustByNumpy(greys, isHidden))
    assert found.beyondCount == (greys[~isHidden] == 900).sum() > 0
    lines = describeFinding(found, "region")
    assert len(lines) == 2 and lines[1].startswith(f"Warning: {found.beyondCount} voxels (")
    assert "hot voxels or zingers?" in lines[1] and lines[1].endswith("(--moments plain keeps them)")


@pytest.mark.parametrize("planeCount", [1, 5, 16])
@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def testSingleVoxelsOfTheNoDataValueCountToo(dtype, planeCount):
    isHidden = np.indices(scans.SHAPE)[2] > 10
    isHidden[5, 5, 2] = isHidden[20, 9, 3] = isHidden[21, 9, 3] = True
    found = measure(hide(makeGreys(dtype), isHidden, 0), planeCount=planeCount)
    assert (found.noDataCount, found.beyondCount) == (isHidden.sum(), 0)
    assert found.histogram.counts.sum() == isHidden.size - isHidden.sum()
    assert found.extent[0] > 4000
    assertMoments(found.scale, robustByNumpy(makeGreys(dtype), isHidden))
    if dtype == "float32":
        assert measure(hide(makeGreys(dtype), isHidden, -3.4e38), planeCount=planeCount).extent[0] > 4000


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def testTheFillIsTheMedianOfWhatAdjoins(dtype):
    greys = makeGreys(dtype)
    isHidden = outsideOf(greys.shape)
    beside = np.zeros(greys.shape, bool)
    beside[:-1] |= isHidden[1:]
    beside[1:] |= isHidden[:-1]
    beside &= ~isHidden
    greys[beside] = makeGreys(dtype, 3000, 100)[beside]
    expected = np.median(greys[beside])
    assert abs(measure(hide(greys, isHidden, 65535)).scale.fill - expected) < (1 if dtype == "uint16" else 20)
    declared = measure(hide(greys, isHidden, 65535), noData="65535").scale
    assert abs(declared.fill - expected) < (1 if dtype == "uint16" else 20)


@pytest.mark.parametrize("offset", [0.0, 300.0, -1e4, 1e6])  # deviations
@pytest.mark.parametrize("where", ["circle", "slab"])
def testTheFillIsAGreyValueAlsoWithALargeOffset(where, offset):
    greys = makeGreys("float32", offset, 1.0)
    isHidden = outsideOf(greys.shape) if where == "circle" else np.indices(greys.shape)[2] > 12
    scale = measure(hide(greys, isHidden, -3.4e38)).scale
    assert abs(scale.fill - offset) < 1.01


def testADeclaredNumberIsLeftOutWhereverItIs():
    image = makeGreys("uint8", 60, 5)
    found = measure(image, noData="61")
    assert found.noDataCount == (image == 61).sum() > 0 and found.scale.noData == 61
    assertMoments(found.scale, robustByNumpy(image, image == 61))


@pytest.mark.parametrize("text", ["nan", "inf", "-inf"])
def testDeclaredNumbersThatAreNotFiniteAreLeftOut(text):
    greys = makeGreys("float32", 0.0, 0.08)
    isHidden = outsideOf(greys.shape)
    found = measure(hide(greys, isHidden, float(text)), noData=text)
    assertMoments(found.scale, robustByNumpy(greys, isHidden))
    assert found.noDataCount == isHidden.sum() and np.isfinite(found.extent).all()
    assert abs(found.scale.fill) < 0.08


@pytest.mark.parametrize("text", ["none", "-7", "nan", "300"])
def testANumberThatOccursNowhereLeavesNothingOut(text):
    greys = makeGreys("uint8", 60, 5)
    found = measure(greys, noData=text)
    assert found.scale == Scale(*measureMoments(greys)) and found.noDataCount == 0


def testNoneMakesEveryNumberAGreyValue():
    image = hide(makeGreys(), outsideOf(scans.SHAPE), 0)
    assert measure(image, noData="none").scale == Scale(*measureMoments(image))
    assert measure(image).scale.noData == 0


def testAVolumeWithoutAnyDataIsConstant():
    found = measure(np.full(scans.SHAPE, 7, np.uint8), noData="7")
    assert (found.scale.std, found.noDataCount, found.extent) == (0.0, 49152, (0.0, 0.0))
    assert "same grey value" in describeFinding(found, "volume")[-1]


@pytest.mark.parametrize("text", ["automatic", "", "1,2", "0x10"])
def testWordsThatAreNoNumberAreRefused(text):
    with pytest.raises(PipelineError, match="noData must be auto, none or a number"):
        Statistics.parse("robust", text)


# --------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def testVoxelsThatAreNoNumbersAreCountedAndRefusedUnlessDeclared(value):
    image = addHot(makeGreys("float32"), 13, value)
    for noData in ("auto", "none", "8000"):
        text = refusal(image, noData=noData)
        assert "13 voxels are NaN or infinite" in text and "--noData" in text
    assert measure(image, noData=str(value)).noDataCount == 13


def testOtherVoxelsThatAreNoNumbersAreRefusedBesidesADeclaredOne():
    image = addHot(hide(makeGreys("float32"), outsideOf(scans.SHAPE), np.nan), 400, np.inf)
    count = int(np.isinf(image).sum())
    assert f"{count} voxels are NaN or infinite" in refusal(image, noData="nan")


@pytest.mark.parametrize("moments", ["plain", "robust"])
@pytest.mark.parametrize(
    ("image", "words"),
    [
        (makeGreys("float64", 0, 1e200), "too large for a z-score"),
        (makeGreys("float64", 0, 1e307), "too large for a z-score"),
        (makeGreys("float32", 1e35, 1e33), "too large for a z-score"),
        (makeGreys("float64", 0, 1e-40), "too close for a z-score"),
        (makeGreys("float64", 0, 1e-200), "too close for a z-score"),
        (makeGreys("float64", 1, 1e-40) - 1 + makeGreys("float64", 0, 1e-35), "too close for a z-score"),
        (2**60 + makeGreys("int64", 0, 600), "the offset of 1.15e+18 hides"),
        (2**60 + makeGreys("int64", 0, 3), "the offset of 1.15e+18 hides"),
        (np.uint64(2**63) + makeGreys("uint64", 9000, 600), "the offset of 9.22e+18 hides"),
        (makeGreys("float64", 1e17, 100), "hides grey values that differ"),
    ],
    ids=["1e200", "1e307", "1e35", "1e-40", "1e-200", "1e-35", "2**60", "2**60 near", "2**63", "1e17"],
)
def testGreyValuesThatSinglePrecisionCannotHoldAreRefused(image, words, moments):
    text = refusal(image, moments=moments)
    assert words in text and "multiply them by a constant, or subtract one" in text


@pytest.mark.parametrize("dtype", ["uint8", "int64", "float32", "float64"])
@pytest.mark.parametrize("value", [0, 7, 100])
def testAConstantVolumeIsOnlyWarnedOf(dtype, value):
    found = measure(np.full(scans.SHAPE, value, dtype))
    assert found.scale == Scale(value, 0.0)
    line = "Warning: all voxels of the region have the same grey value; it becomes zeros"
    assert describeFinding(found, "region") == [line]


def testAConstantVolumeOfLargeNumbersIsNotRefused():
    assert measure(np.full(scans.SHAPE, 2**60, np.int64)).scale.std == 0
    assert measure(np.full(scans.SHAPE, 0.1, np.float64)).scale.std == 0


# -------------------------------------------------------------------------------------------------- replacing


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "float32", "float64"])
def testWhatIsNoGreyValueIsReplacedInACopyOfTheSameKind(dtype, order):
    image = np.asarray(makeGreys(dtype, 60, 5), order=order)
    image[0, 0, :3], image[1, 1, :2], image[2, 2, 2] = 127, 0, 100
    before = image.copy()
    scale = Scale(60.0, 5.0, fences=(20.0, 99.0), ends=(48.0, 72.0), noData=127.0, fill=61.0)
    mended = scale.mend(image)
    np.testing.assert_array_equal(image, before)
    assert mended.dtype == image.dtype and mended.strides == image.strides
    expected = np.where(before == 127, 61, np.where(before < 20, 48, np.where(before > 99, 72, before)))
    np.testing.assert_array_equal(mended, expected)
    strided = scale.mend(image[::-1, 1:, ::2])
    np.testing.assert_array_equal(strided, expected[::-1, 1:, ::2])


def testNothingIsCopiedWhereNothingIsReplaced():
    image = makeGreys()
    assert Scale(1.0, 1.0).mend(image) is image
    assert Scale(1.0, 1.0, (0.0, 65535.0), (1.0, 2.0), 65535.0, 3.0).mend(image) is image


@pytest.mark.parametrize("value", [np.nan, np.inf, -3.4028234663852886e38])
def testNoDataOfAnyKindAreFilled(value):
    greys = makeGreys("float32")
    isHidden = outsideOf(greys.shape)
    scale = Scale(8000.0, 600.0, (5000.0, 11000.0), (6600.0, 9400.0), value, 8000.0)
    mended = scale.mend(hide(greys, isHidden, value))
    assert (mended[isHidden] == 8000).all()
    np.testing.assert_array_equal(mended[~isHidden], greys[~isHidden])


def testMomentsOfAPieceAreThoseOfWhatItsScaleLeavesIn():
    greys = makeGreys("float32")
    isHidden = outsideOf(greys.shape)
    image = addHot(hide(greys, isHidden, -1e30), 20, 1e6)
    scale = measure(image).scale
    piece = np.s_[3:20, 5:, 2:9]
    kept = image[piece][(image[piece] != np.float32(-1e30)) & (image[piece] != 1e6)].astype(np.float64)
    assert measureKept(image[piece], scale) == pytest.approx((kept.mean(), kept.std()), rel=1e-12)
    assert measureKept(greys, Scale(0.0, 1.0)) == measureMoments(greys)
    assert measureKept(np.full((3, 4, 5), -1e30, np.float32), scale) == (0.0, 0.0)


@pytest.mark.parametrize(
    "scale",
    [Scale(1.5, 2.0), Scale(1.5, 2.0, (0.1, 1e30), (0.3, 4.0)), Scale(0.0, 1.0, None, None, -3.4e38, 0.25)],
)
def testAScaleSurvivesJson(scale):
    assert Scale.of(json.loads(json.dumps(scale))) == scale


def testAFewParticlesFarFromAllOthersAreAPhaseAndNoHotVoxels():
    generator, places = np.random.default_rng(4), np.indices((48, 48, 48))
    image = generator.normal(100, 1, (48, 48, 48)).astype(np.float32)
    isParticle = sum((place - 20) ** 2 for place in places) < 36
    image[isParticle] += 25
    found = scans.measure(image)
    assert (found.phaseCount, found.beyondCount, found.scale.fences) == (isParticle.sum(), 0, None)
    assert found.scale[:2] == pytest.approx((image.mean(dtype=float), image.std(dtype=float)), rel=1e-6)
    assert found.scale.mend(image) is image
    image[generator.random(image.shape) < 1e-3] += 60
    hot = scans.measure(generator.permutation(image.ravel()).reshape(image.shape))
    assert hot.phaseCount == 0 and hot.beyondCount > isParticle.sum()


def testADeclaredValueThatNoVoxelHoldsIsWarnedOf():
    image = np.random.default_rng(5).normal(0, 1, (16, 16, 16)).astype(np.float32)
    (line,) = describeFinding(scans.measure(image, noData="-999"), "volume")
    assert line == "Warning: no voxel holds -999, which was declared as the no-data value"


@pytest.mark.parametrize("dtype", ["uint8", "int32", "float32"])
def testAVolumeWithoutAnyDataBecomesZeros(dtype):
    found = scans.measure(np.zeros((8, 8, 8), dtype), noData="0")
    assert (found.noDataCount, found.scale.std) == (512, 0) and np.isfinite(found.scale.fill)
    assert (found.scale.mend(np.zeros((8, 8, 8), dtype)) == found.scale.fill).all()


# ------------------------------------------------------------------------------- moments that a header tells


def measureFile(image, header, areOfScan=True, folder=None):
    writeVolume(folder / "box.nrrd", image, header)
    volume = openVolume(folder / "box.nrrd")
    asked = Statistics.parse("robust", "auto", areOfScan)
    return measureVolume(lambda: ((block.T,) for block in volume.slabs()), volume, asked)


def testMomentsOfTheHeaderTakeThePlaceOfThoseOfTheVoxels(tmp_path):
    image = hide(addHot(makeGreys("float32"), 5, 1e6), outsideOf(scans.SHAPE), -7)
    own = measureFile(image, {}, folder=tmp_path)
    found = measureFile(image, {MOMENTS_FIELD: "0.1 1e3"}, folder=tmp_path)
    assert found.scale == own.scale._replace(mean=0.1, std=1000.0) and found.isOfScan
    assert found._replace(scale=own.scale, isOfScan=False, histogram=own.histogram) == own
    assert (
        "mean 0.1 and deviation 1000 of the scan that it was cut from" in describeFinding(found, "volume")[-1]
    )
    left = measureFile(image, {MOMENTS_FIELD: "0.1 1e3"}, False, tmp_path)
    assert left.scale == own.scale and not left.isOfScan


def testAConstantCutHasTheDeviationOfItsScan(tmp_path):
    image = np.full((8, 8, 8), 7, np.uint8, order="F")
    found = measureFile(image, {MOMENTS_FIELD: "5 2"}, folder=tmp_path)
    assert found.scale[:2] == (5, 2) and len(describeFinding(found, "volume")) == 1


@pytest.mark.parametrize("text", ["", "1", "1 0", "1 -2", "nan 1", "1 inf", "1 2 3", "one two"])
def testMomentsOfTheHeaderThatAreNoneAreRefused(tmp_path, text):
    with pytest.raises(
        PipelineError, match="pipeline_moments cannot be read .*expected a mean and"
    ) as caught:
        measureFile(makeGreys(), {MOMENTS_FIELD: text}, folder=tmp_path)
    assert "box.nrrd" in str(caught.value) and "\n" not in str(caught.value)
