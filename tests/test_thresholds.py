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
