"""A scan beside what a network has learnt on: what is like it, what is warned of."""

import json
import re
import types

import numpy as np
import pytest
import scans
from scans import hide, outsideOf

from engine.base.squares import EDGES, FEATURES, Squares, describeSquares
from engine.prediction.comparison import NEAR, Comparison, compareGreys, describeGreys
from functions import prep_img

SHAPE = (128, 128, 24)
INSIDE = np.s_[36:92, 36:92]
UNKNOWN = "Grey values: nothing tells which ones the network has learnt on"


def makeScan(seed, noise=60, mean=8000, gain=1.0):
    """Air, a wall and what is inside, (x, y, z) float32."""
    x, y, _ = np.indices(SHAPE)
    radius = np.hypot(x - 63.5, y - 63.5)
    image = np.where(radius < 40, 1600, np.where(radius < 52, 2600, 0))
    return np.float32((image + np.random.default_rng(seed).normal(0, noise, SHAPE)) * gain + mean)


def learnFrom(*images):
    """Describe what a training would have drawn."""
    scored = [prep_img(image) for image in images]
    parts = [part[:, :, z].T for image in scored for part in (image, image[INSIDE]) for z in range(0, 24, 3)]
    squares = np.concatenate([describeSquares(part) for part in parts])
    histogram = sum(np.histogram(image, EDGES)[0] for image in scored)
    return {
        "features": list(FEATURES),
        "squares": squares.round(3).tolist(),
        "histogram": (histogram / histogram.sum()).tolist(),
    }


LEARNT = learnFrom(makeScan(1), makeScan(2, noise=80))


def compare(image, learnt=LEARNT, scale=None, **flags):
    """Compare an array as predictData.py compares a volume."""
    squares = Squares()
    found = scans.measure(image, flags.get("moments", "robust"), flags.get("noData", "auto"), 8, squares)
    found = (
        found if scale is None else found._replace(scale=found.scale._replace(mean=scale[0], std=scale[1]))
    )
    request = {"learnt": learnt, "normalization": "region", "shape": image.shape}
    return compareGreys(found, squares.finish(), types.SimpleNamespace(**request))


@pytest.mark.parametrize("gain", [1e-4, 1.0, 300.0])
@pytest.mark.parametrize("noise", [60, 70, 80])
def testAScanLikeTheTrainingIsKnownWhateverItsGreyValuesMean(noise, gain):
    found = compare(makeScan(5, noise, gain=gain, mean=8000 * gain))
    assert found.unlikeShare < 0.03 and found.warning == "" and found.remarks == []
    known = f"Grey values: {1 - found.unlikeShare:.0%} of the scan looks like what the network has learnt on"
    assert found.describe() == [known]


def testBothHistogramsAreThoseOfNumPy():
    image = makeScan(5)
    found = compare(image)
    counts, _ = np.histogram(prep_img(image), EDGES)
    assert found.edges == EDGES.tolist() and found.training == LEARNT["histogram"]
    assert sum(found.scan) == pytest.approx(1, abs=1e-4)
    ends = np.cumsum(found.scan) - np.cumsum(counts / counts.sum())
    assert np.abs(ends).max() < 0.1 and np.abs(ends).mean() < 0.01  # bins of 0.8 % of a grey value


OTHERS = {
    "shifted": (makeScan(5), (0.0, 900.0)),
    "darker": (makeScan(5), (12000.0, 1000.0)),
    "scaled": (makeScan(5), (8700.0, 90.0)),
    "noisy": (makeScan(5, noise=6000), (8700.0, 900.0)),
}


@pytest.mark.parametrize("kind", OTHERS)
def testAScanUnlikeTheTrainingIsWarnedOf(kind):
    image, scale = OTHERS[kind]
    found = compare(image, scale=scale)
    assert found.unlikeShare > 0.3
    line = found.describe()[-1]
    words = "(darkest|darker|middle|brighter|brightest) grey values of -?[0-9.]+|noise of [0-9.]+"
    expected = (
        f"Warning: {found.unlikeShare:.0%} of the scan is unlike what the network has learnt on: there "
        rf"({words}) \(z-scored; learnt (-?[0-9.]+) to (-?[0-9.]+)\); the result may be wrong: "
        r"take the scan that this one was cut from \(--momentsOf\), or train with scans like this one"
    )
    match = re.fullmatch(expected, line)
    assert match, line
    value, low, high = (float(re.search("-?[0-9.]+$", match[number])[0]) for number in (1, 3, 4))
    assert low < high and not low <= value <= high


def testTheMomentsOfTheWholeMakeACutKnown():
    image = makeScan(5)
    whole = scans.measure(image).scale
    inside = image[INSIDE]
    assert compare(inside, scale=whole[:2]).unlikeShare == 0
    assert compare(inside, scale=(whole.mean - 2 * whole.std, whole.std)).warning


def testTheShareIsThatOfTheSquaresThatLieFarFromAllLearntOnes():
    learnt = LEARNT | {"squares": [[0, 0, 0, 0, 0, 0.1]]}
    image = makeScan(5)
    squares = np.concatenate([describeSquares(image[:, :, z].T) for z in (4, 12, 20)])
    scale = scans.measure(image).scale
    scored = np.column_stack([(squares[:, :-1] - scale.mean) / scale.std, squares[:, -1] / scale.std])
    distances = np.abs(scored - learnt["squares"][0]).max(axis=1)
    assert compare(image, learnt).unlikeShare == pytest.approx((distances > NEAR).mean())


def testAComparisonSurvivesJson():
    for found in (compare(makeScan(5)), compare(makeScan(5, noise=6000)), compare(makeScan(5), {})):
        again = json.loads(json.dumps(found._asdict()))
        assert Comparison(**again) == found
        assert describeGreys(types.SimpleNamespace(origin={"greys": again})) == found.describe()
    assert describeGreys(types.SimpleNamespace(origin={"greys": None})) == []


@pytest.mark.parametrize("learnt", [{}, {"voxelSizes": []}, LEARNT | {"features": ["q5%"]}])
def testWithoutAContractItIsSaidThatNothingTells(learnt):
    found = compare(makeScan(5), learnt)
    assert found.unlikeShare is None and found.describe() == [UNKNOWN]


def testRemarksComeFirst():
    image = scans.addHot(hide(makeScan(5), outsideOf(SHAPE), -1e30), 30, 1e6)
    remarks = [line.split(":")[0] for line in compare(image, {}).describe()]
    assert remarks == ["No data", "Warning", "Grey values"]
    assert compare(np.full(SHAPE, 3, np.uint8)).describe() == [
        "Warning: all voxels of the region have the same grey value; it becomes zeros",
        UNKNOWN,
    ]


@pytest.mark.parametrize("value", [-3.4028234663852886e38, 1e30, np.nan, np.inf])
@pytest.mark.filterwarnings("error")
def testSquaresWithoutDataAreLeftOut(value):
    image = hide(makeScan(5), np.indices(SHAPE)[0] < 64, value)
    flags = {} if abs(value) < np.inf else {"noData": str(value)}
    scale = scans.measure(makeScan(5)).scale[:2]
    found = compare(image, scale=scale, **flags)
    assert found.unlikeShare < 0.03 and not found.warning and np.isfinite(found.scan).all()
    everywhere = hide(makeScan(5), np.indices(SHAPE)[1] % 64 < 40, value)
    nothing = compare(everywhere, scale=scale, **flags)
    assert nothing.unlikeShare is None and "free of no-data" in nothing.describe()[-1]


def testManySquaresAreComparedInPieces(monkeypatch):
    import engine.prediction.comparison as comparison

    image = makeScan(5, noise=300)
    expected = compare(image)
    monkeypatch.setattr(comparison, "CHUNK", 500)
    assert compare(image) == expected
