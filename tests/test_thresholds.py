"""The best threshold, against a plain search."""

import numpy as np
import pytest

from engine.thresholds import ThresholdScores
from functions import scoreVoxels


def makeSample(generator, share, contrast):
    mask = generator.random((6, 7, 8)) < share
    probability = np.clip(generator.normal(0.2 + contrast * mask, 0.15), 0, 1).astype(np.float32)
    return probability, mask


@pytest.mark.parametrize("seed", range(5))
def testBestThresholdIsThatOfAPlainSearchOverAllSamples(seed):
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
    threshold, dice = scores.best()
    assert dice == pytest.approx(max(dices.values()))
    assert dices[threshold] == pytest.approx(dice)
    expected = [scoreVoxels(part[0], part[1], threshold)["dice"] for part in samples[:2]]
    np.testing.assert_allclose(scores.dices[:2], expected, atol=1e-3)
    assert scores.extremes() == tuple(np.argsort(scores.dices[:2]))  # the empty one is no example


def testNothingPositiveGivesTheUsualThreshold():
    scores = ThresholdScores()
    scores.add(np.linspace(0, 1, 8).reshape(2, 2, 2), np.zeros((2, 2, 2), bool))
    assert scores.best() == (0.5, 0.0)
    assert scores.extremes() == (0, 0)


def testProbabilityOneIsCounted():
    scores = ThresholdScores()
    scores.add(np.float32([1, 1, 0, 0]), np.array([True, True, False, False]))
    assert scores.best()[1] == 1.0


# --------------------------------------------------------------------------------------------------- curves


def drawScores(seed=0, size=4000):
    """Draw probabilities and the truth they are worth, badly calibrated."""
    generator = np.random.default_rng(seed)
    probability = generator.beta(0.5, 2, size).astype(np.float32)
    return probability, generator.random(size) < probability**1.5


def testCurveAndItsAreaEqualScikitLearn():
    metrics = pytest.importorskip("sklearn.metrics")
    probability, truth = drawScores()
    scores = ThresholdScores(1000)
    for part in np.split(np.arange(len(truth)), 4):
        scores.add(probability[part], truth[part])
    curve = scores.precisionRecall()
    rounded = np.minimum(np.floor(probability * 1000), 999) / 1000
    assert curve["averagePrecision"] == pytest.approx(metrics.average_precision_score(truth, rounded))
    assert curve["averagePrecision"] == pytest.approx(
        metrics.average_precision_score(truth, probability), abs=2e-3
    )
    for threshold in (0.9, 0.5, 0.1):
        number = int(np.argmin(np.abs(curve["threshold"] - threshold)))
        predicted = rounded >= curve["threshold"][number]
        assert curve["precision"][number] == pytest.approx(metrics.precision_score(truth, predicted))
        assert curve["recall"][number] == pytest.approx(metrics.recall_score(truth, predicted))


def testCalibrationEqualsScikitLearn():
    calibration = pytest.importorskip("sklearn.calibration")
    probability, truth = drawScores(1)
    scores = ThresholdScores(1000)
    scores.add(probability, truth)
    ours = scores.calibration()
    share, mean = calibration.calibration_curve(truth, probability, n_bins=10)
    np.testing.assert_allclose(ours["share"], share, atol=2e-3)
    np.testing.assert_allclose(ours["probability"], mean, atol=1e-3)
    assert ours["voxels"].sum() == len(truth)
    assert ours["error"] == pytest.approx(
        (np.abs(share - mean) * ours["voxels"]).sum() / len(truth), abs=2e-3
    )


def testCurvesWithoutPositivesAreUnknownNotWrong():
    scores = ThresholdScores(10)
    scores.add(np.array([0.05, 0.15]), np.array([False, False]))
    curve = scores.precisionRecall()
    assert np.isnan(curve["recall"]).all() and np.isnan(curve["precision"][0])
    assert np.isnan(scores.calibration()["share"][5])
