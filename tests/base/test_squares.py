"""Features of squares of planes against plain NumPy."""

import numpy as np
import pytest

from engine.base.squares import FEATURES, MOST, SHARES, SIDE, Squares, describeSquares


def describeByNumpy(square):
    """Quantiles and noise of one square, by sorting."""
    values = square.astype(np.float64)
    ordered = sorted(values.ravel().tolist())
    quantiles = [ordered[round(share * (len(ordered) - 1))] for share in SHARES]
    steps = np.abs(values[:, 1:] - values[:, :-1])
    return [*quantiles, np.median(steps) / (0.67449 * np.sqrt(2)) if steps.size else 0.0]


def makePlane(shape, dtype="float64", seed=0):
    generator = np.random.default_rng(seed)
    waves = np.sin(np.arange(shape[0]) / 9)[:, np.newaxis] * 300
    return (2000 + waves + generator.normal(0, 40, shape)).astype(dtype)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "float32", "float64"])
def testFeaturesAreThoseOfNumPy(dtype, order):
    plane = np.asarray(makePlane((200, 150), dtype), order=order)
    expected = [
        describeByNumpy(plane[64 * row : 64 * (row + 1), 64 * column : 64 * (column + 1)])
        for row in range(3)
        for column in range(2)
    ]
    found = describeSquares(plane)
    assert found.shape == (6, len(FEATURES)) and found.dtype == np.float64
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("shape", [(20, 33), (64, 9), (7, 200), (64, 64), (127, 63), (1, 1), (1, 5), (5, 1)])
def testPlanesThatAreSmallerGiveWhatFits(shape):
    plane = makePlane(shape)
    height, width = min(shape[0], SIDE), min(shape[1], SIDE)
    found = describeSquares(plane)
    assert len(found) == (shape[0] // height) * (shape[1] // width)
    np.testing.assert_allclose(found[0], describeByNumpy(plane[:height, :width]), rtol=1e-12)


def testLargePlanesGiveEvenlySpreadSquaresFromCornerToCorner():
    plane = np.kron(np.arange(30 * 20.0).reshape(30, 20), np.ones((SIDE, SIDE)))
    found = describeSquares(plane)
    assert found.shape == (MOST, len(FEATURES))
    numbers = found[:, 0]
    assert numbers[0] == 0 and numbers[-1] == 599 and (found[:, :-1] == numbers[:, np.newaxis]).all()
    assert set(np.diff(numbers)) <= {9, 10} and (found[:, -1] == 0).all()


def testNoiseIsThatOfWhiteNoiseWhateverSlopeTheSquareHas():
    plane = np.random.default_rng(3).normal(0, 7, (256, 256)) + np.arange(256)[:, np.newaxis]
    assert np.median(describeSquares(plane)[:, -1]) == pytest.approx(7, rel=0.03)


def testFeaturesFollowOffsetAndGain():
    plane = makePlane((128, 128))
    features, scaled = describeSquares(plane), describeSquares(3 * plane - 50)
    np.testing.assert_allclose(scaled[:, :-1], 3 * features[:, :-1] - 50, rtol=1e-12)
    np.testing.assert_allclose(scaled[:, -1], 3 * features[:, -1], rtol=1e-12)


def testTheMiddlePlaneOfEveryBlockIsLookedAt():
    planes = np.stack([makePlane((70, 140), seed=seed) for seed in range(11)])
    squares = Squares()
    assert squares.finish().shape == (0, len(FEATURES))
    for start in (0, 4, 8):
        squares.add(start, planes[start : start + 4])
    expected = np.concatenate([describeSquares(planes[middle]) for middle in (2, 6, 9)])
    np.testing.assert_array_equal(squares.finish(), expected)
