"""Histograms of grey values against sorting, for every type of voxel."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.base.histograms import FINE_BINS, LARGEST, FineHistogram, Histogram

INTEGERS = [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)]
TYPES = [*INTEGERS, "float32", "float64"]
HUGE = {"float32": 3.4028234663852886e38, "float64": 1e308}
SHARES = (0.0, 0.01, 0.25, 0.5, 0.99, 1.0)


def extremeValues(dtype):
    """Values near zero and at both ends of a type."""
    kind = np.dtype(dtype)
    if kind.kind == "f":
        sizes = np.array([1e-38, 0.001, 0.5, 1, 1.5, 300, 7e9, HUGE[dtype]])
        return np.concatenate([-sizes, [0.0], sizes]).astype(kind)
    limits = np.iinfo(kind)
    near = [value for value in (-200, -3, -2, -1, 0, 1, 2, 100, 40000) if limits.min <= value <= limits.max]
    return np.array([limits.min, limits.min + 1, *near, limits.max - 1, limits.max], kind)


def someValues(dtype, seed=0, shape=(7, 8, 9)):
    """Values of one type: some of both signs, some far out."""
    generator, kind = np.random.default_rng(seed), np.dtype(dtype)
    values = generator.normal(60, 40, shape)
    if kind.kind == "i":
        values -= 60
    values = values.clip(0 if kind.kind == "u" else -120, 120).astype(kind)
    values.flat[: len(extremeValues(dtype))] = extremeValues(dtype)
    return values


def countAll(values):
    histogram = Histogram(values.dtype)
    histogram.add(values)
    return histogram


def binOf(value):
    """Find the number of the bin of a value, from its counts."""
    return int(np.flatnonzero(countAll(np.array([value])).counts)[0])


def asFloat(value):
    """Give what a histogram knows of a value: single precision, the largest number at most."""
    return float(np.clip(np.float64(value), -LARGEST, LARGEST))


def assertEncloses(low, high, value):
    """Require that edges enclose a value, to the rounding of float32."""
    rounding = max(abs(asFloat(value)) * 2.0**-24, 2.0**-149)
    assert low - rounding <= asFloat(value) <= high + rounding, (low, value, high)


@pytest.mark.parametrize("dtype", TYPES)
def testBinsAreInTheOrderOfTheValuesAndTheirEdgesEncloseThem(dtype):
    values = np.sort(extremeValues(dtype))
    bins = [binOf(value) for value in values]
    assert bins == sorted(bins)
    for value, number in zip(values, bins, strict=True):
        low, high = countAll(values).edgesOf(number)
        assertEncloses(float(low), float(high), value)
    lows, highs = countAll(values).edgesOf(np.unique(bins))
    assert (lows <= highs).all() and (highs[:-1] < lows[1:]).all()


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16"])
def testSmallIntegersHaveABinEach(dtype):
    limits = np.iinfo(dtype)
    histogram = countAll(np.arange(limits.min, limits.max + 1, dtype=dtype))
    assert (histogram.counts == 1).all() and len(histogram.counts) == limits.max - limits.min + 1
    low, high = histogram.edgesOf(np.arange(len(histogram.counts)))
    np.testing.assert_array_equal(low, np.arange(limits.min, limits.max + 1))
    np.testing.assert_array_equal(low, high)


@pytest.mark.parametrize("dtype", ["int32", "uint64", "float32", "float64"])
def testOtherBinsAreLessThanAHundredthOfTheirValuesWide(dtype):
    for value in (1, 100, 8000, 12345678):
        low, high = countAll(np.array([value], dtype)).edgesOf(binOf(np.dtype(dtype).type(value)))
        assert 0 < high - low < 0.008 * value


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", TYPES)
def testCountsAndExtremesAreThoseOfAllValuesInAnyOrderOfMemory(dtype, order):
    values = np.asarray(someValues(dtype), order=order)
    histogram = countAll(values)
    assert histogram.counts.sum() == values.size
    np.testing.assert_array_equal(histogram.counts, countAll(values.ravel()).counts)
    np.testing.assert_array_equal(histogram.counts, countAll(values[::-1, :, ::-1]).counts)
    pieces = Histogram(values.dtype)
    for plane in values:
        pieces.add(plane)
    np.testing.assert_array_equal(pieces.counts, histogram.counts)
    edges = [histogram.edgesOf(binOf(value)) for value in (values.min(), values.max())]
    assert (histogram.lowest, histogram.highest) == (float(edges[0][0]), float(edges[1][1]))
    assertEncloses(histogram.lowest, histogram.highest, values.min())
    assertEncloses(histogram.lowest, histogram.highest, values.max())


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("dtype", TYPES)
def testBoundsOfAQuantileEncloseTheOrderStatisticOfNumPy(dtype, share):
    values = someValues(dtype, seed=3)
    low, high = countAll(values).quantile(share)
    assertEncloses(low, high, np.quantile(values.ravel(), share, method="lower"))


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=40),
    st.floats(0, 1),
)
def testBoundsOfAQuantileEncloseAnOrderStatisticOfAnyFloats(numbers, share):
    values = np.array(numbers, np.float32)
    low, high = countAll(values).quantile(share)
    assertEncloses(low, high, np.sort(values)[int(np.floor(share * (len(values) - 1)))])


@pytest.mark.parametrize("dtype", TYPES)
def testAValueIsTakenOutOfACopy(dtype):
    values = someValues(dtype, seed=5)
    histogram, value = countAll(values), values.max()
    before, count = histogram.counts.copy(), int((values == value).sum())
    other = histogram.without(value, count)
    np.testing.assert_array_equal(histogram.counts, before)
    assert other.counts.sum() == values.size - count
    np.testing.assert_array_equal(other.counts, countAll(values[values != value]).counts)
    emptied = histogram.without(value).counts
    assert emptied[binOf(value)] == 0 and emptied.sum() == values.size - before[binOf(value)]


def testAFineHistogramTellsQuantilesToTheWidthOfItsBins():
    values = np.random.default_rng(1).normal(1e6, 1, (30, 40, 50)).astype(np.float64)
    low, high = values.min(), values.max()
    histogram = FineHistogram(low, high)
    for plane in values:
        histogram.add(plane)
    width = (high - low) / FINE_BINS
    assert histogram.counts.sum() == values.size
    for share in SHARES:
        bounds, expected = histogram.quantile(share), np.quantile(values, share, method="lower")
        assert bounds[1] - bounds[0] == pytest.approx(width, rel=1e-3)
        assert bounds[0] - 1e-3 * width <= expected <= bounds[1] + 1e-3 * width


def testAFineHistogramCountsWhatLiesOutsideInItsOutermostBins():
    histogram = FineHistogram(-1.0, 3.0)
    histogram.add(np.array([-3.4e38, -1.5, -1.0, 0.999, 3.0, 1e300]))
    assert histogram.counts[0] == 3 and histogram.counts[-1] == 2 and histogram.counts.sum() == 6
