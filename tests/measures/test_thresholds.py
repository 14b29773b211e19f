"""The threshold that is chosen, and curves over all of them, against a plain search."""

import numpy as np
import pytest

from engine.measures import thresholds
from engine.measures.thresholds import (
    AS_GOOD,
    CURVE_POINTS,
    HALF_COUNT,
    ThresholdScores,
    VoxelCurves,
    _count,
    _lowerEdges,
)
from functions import scoreVoxels


def makeSample(generator, share, contrast):
    mask = generator.random((6, 7, 8)) < share
    probability = np.clip(generator.normal(0.2 + contrast * mask, 0.15), 0, 1).astype(np.float32)
    return probability, mask


@pytest.mark.parametrize("asGood", [0.0, AS_GOOD, 0.1])
@pytest.mark.parametrize("seed", range(5))
def testThresholdIsTheMiddleOfTheBestOfAPlainSearchOverAllSamples(seed, asGood, monkeypatch):
    monkeypatch.setattr(thresholds, "AS_GOOD", asGood)
    generator = np.random.default_rng(seed)
    samples = [
        makeSample(generator, 0.1, 0.4),
        makeSample(generator, 0.3, 0.2),
        makeSample(generator, 0.0, 0),
    ]
    scores = ThresholdScores()
    for probability, mask in samples:
        scores.add(probability, mask)
    probability, mask = (np.stack(arrays) for arrays in zip(*samples, strict=True))
    bins = np.floor(probability * np.float32(100)) / 100  # thresholds lie between bins
    dices = {number / 100: scoreVoxels(bins + 1e-9, mask, number / 100)["dice"] for number in range(1, 100)}
    threshold, dice = scores.choose()
    first = last = max(dices, key=dices.get)
    limit = dices[first] - asGood
    while dices.get(round(first - 0.01, 2), 0) >= limit:
        first = round(first - 0.01, 2)
    while dices.get(round(last + 0.01, 2), 0) >= limit:
        last = round(last + 0.01, 2)
    assert threshold == pytest.approx((first + last) / 2, abs=0.0051) and (first < last or asGood < 0.1)
    assert dices[threshold] == pytest.approx(dice) and dice >= limit
    expected = [scoreVoxels(part[0], part[1], threshold)["dice"] for part in samples[:2]]
    np.testing.assert_allclose(scores.dices[:2], expected, atol=1e-3)
    assert scores.extremes() == tuple(np.argsort(scores.dices[:2]))  # the empty one is no example


def testNothingPositiveGivesTheUsualThreshold():
    scores = ThresholdScores()
    scores.add(np.linspace(0, 1, 8).reshape(2, 2, 2), np.zeros((2, 2, 2), bool))
    assert scores.choose() == (0.5, 0.0)
    assert scores.extremes() == (0, 0)


def testOneLuckyThresholdBesideOthersAsGoodIsNotTaken():
    """Four of 400 voxels make the lowest threshold the best one by a thousandth."""
    probability = np.concatenate([np.full(200, 0.905), np.full(4, 0.205), np.full(196, 0.105)])
    mask = np.arange(400) < 203  # one of the four is a mistake of the label
    scores = ThresholdScores()
    scores.add(probability.astype(np.float32), mask)
    dices = {limit: scoreVoxels(probability, mask, limit)["dice"] for limit in (0.2, 0.5)}
    assert 0 < dices[0.2] - dices[0.5] < AS_GOOD
    assert scores.choose() == (0.5, pytest.approx(dices[0.5]))


def testThresholdsBehindAValleyAreNotJoined():
    scores = ThresholdScores()
    probability = np.repeat(np.float32([0.155, 0.305, 0.605, 0.905]), [40, 10, 40, 100])
    scores.add(probability, np.repeat([False, True, False, True], [40, 10, 40, 100]))
    threshold, dice = scores.choose()
    assert threshold == 0.75 and dice == pytest.approx(200 / 210)


def testProbabilityOneIsCounted():
    scores = ThresholdScores()
    scores.add(np.float32([1, 1, 0, 0]), np.array([True, True, False, False]))
    assert scores.choose()[1] == 1.0


# --------------------------------------------------------------------------------------------------- curves


def drawScores(seed=0, size=4000, sureness=1.0):
    """Draw probabilities, surer ones closer to 0 and 1, and a truth that they are worth in part."""
    generator = np.random.default_rng(seed)
    logit = generator.normal(-1, 3, size) * sureness
    truth = generator.random(size) < 1 / (1 + np.exp(-0.7 * logit / sureness))
    return (1 / (1 + np.exp(-logit))).astype(np.float32), truth


def countInParts(probability, truth):
    curves = VoxelCurves()
    for part in np.array_split(np.arange(len(truth)), 3):
        curves.add(probability[part], truth[part])
    return curves


def testEveryProbabilityLiesInItsBin():
    generator = np.random.default_rng(0)
    near = np.float32(0.5) + np.arange(-40, 40, dtype=np.float32) * np.float32(2**-24)
    tiny = np.float32(2) ** np.arange(-40, 0, dtype=np.float32)
    values = np.concatenate([generator.random(5000, np.float32), near, tiny, 1 - tiny, [0, 1]]).astype(
        np.float32
    )
    values = np.sort(values)
    bins, edges = np.array([_count(value).argmax() for value in values[:, np.newaxis]]), _lowerEdges()
    np.testing.assert_array_equal(_count(values), np.bincount(bins, minlength=len(edges)))
    assert (np.diff(bins) >= 0).all() and 0 <= bins.min() and bins.max() < len(edges) == 2 * HALF_COUNT
    assert (np.diff(edges) >= 0).all() and (edges[bins] <= values).all()
    above = np.append(edges[1:], np.float32(2))
    assert (values < above[bins])[edges[bins] < above[bins]].all()
    assert (edges[1:] - edges[:-1]).max() <= 2**-10 + 2**-24


@pytest.mark.parametrize("sureness", [0.3, 1.0, 4.0])
def testCurveAndItsAreaEqualScikitLearn(sureness):
    metrics = pytest.importorskip("sklearn.metrics")
    probability, truth = drawScores(sureness=sureness)
    curves = countInParts(probability, truth)
    curve = curves.precisionRecall()
    area = metrics.average_precision_score(truth, probability)
    assert curve["averagePrecision"] == pytest.approx(area, abs=2e-3)
    assert len(curve["threshold"]) <= CURVE_POINTS and (np.diff(curve["threshold"]) < 0).all()
    for number in range(0, len(curve["threshold"]), 50):
        predicted = probability >= curve["threshold"][number]
        assert curve["precision"][number] == pytest.approx(metrics.precision_score(truth, predicted))
        assert curve["recall"][number] == pytest.approx(metrics.recall_score(truth, predicted))


@pytest.mark.parametrize("sureness", [0.3, 4.0])
def testBestThresholdGivesTheDiceThatIsPromisedAndNoneIsBetter(sureness):
    probability, truth = drawScores(2, sureness=sureness)
    threshold, dice = countInParts(probability, truth).best()
    assert scoreVoxels(probability, truth, threshold)["dice"] == pytest.approx(dice)
    dices = [scoreVoxels(probability, truth, value)["dice"] for value in np.unique(probability)]
    assert dice == pytest.approx(max(dices), abs=2e-3)


def testCalibrationEqualsScikitLearn():
    calibration = pytest.importorskip("sklearn.calibration")
    probability, truth = drawScores(1)
    ours = countInParts(probability, truth).calibration()
    share, mean = calibration.calibration_curve(truth, probability, n_bins=10)
    np.testing.assert_allclose(ours["share"], share, atol=5e-3)  # a bin may lie across an end
    np.testing.assert_allclose(ours["probability"], mean, atol=1e-3)
    assert ours["voxels"].sum() == len(truth)
    expected = (np.abs(share - mean) * ours["voxels"]).sum() / len(truth)
    assert ours["error"] == pytest.approx(expected, abs=2e-3)


def testCurvesWithoutPositivesAreUnknownNotWrong():
    curves = countInParts(np.array([0.05, 0.15, 0.2], np.float32), np.zeros(3, bool))
    curve = curves.precisionRecall()
    assert np.isnan(curve["recall"]).all() and (curve["precision"] == 0).all()
    assert np.isnan(curves.calibration()["share"][5]) and curves.best() == (0.5, 0.0)
