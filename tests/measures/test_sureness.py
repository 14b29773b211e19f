"""How sure a network is, and which Dice that lets expect."""

import numpy as np
import pytest

from engine.measures.sureness import DOUBTFUL, Sureness, describeExpectation, expectDice
from engine.measures.thresholds import ThresholdScores

LINE = [[0.98, 0.95], [0.97, 0.90], [0.96, 0.85], [0.94, 0.75]]  # Dice = 5 sureness - 3.95
RANDOM = np.random.default_rng(3)
PROBABILITY = (RANDOM.random((12, 10, 8)) ** 3).astype(np.float32)


@pytest.mark.parametrize("planeCount", [1, 5, 12])
@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.95])
def testSurenessIsTheDiceOfCalibratedProbabilities(planeCount, threshold):
    sureness = Sureness(threshold, {})
    for first in range(0, 12, planeCount):
        sureness.add(first, PROBABILITY[first : first + planeCount], None)
    positive = PROBABILITY >= threshold
    right, wanted = PROBABILITY[positive].sum(), PROBABILITY[PROBABILITY >= 0.01].sum()
    assert sureness.finish() == pytest.approx(2 * right / (positive.sum() + wanted), rel=1e-5)


def testCalibratedProbabilitiesHaveTheDiceThatTheySay():
    probability = RANDOM.random((64, 64, 64)).astype(np.float32) ** 2
    truth = RANDOM.random(probability.shape) < probability
    sureness = Sureness(0.5, {})
    sureness.add(0, probability)
    positive = probability >= 0.5
    dice = 2 * (positive & truth).sum() / (positive.sum() + truth.sum())
    assert sureness.finish() == pytest.approx(dice, abs=0.01)


def testTheThresholdOfTheContractBeatsThatOfTheResult():
    sureness = Sureness(0.01, {"threshold": 0.9, "sureness": LINE})
    sureness.add(0, np.full((2, 2, 2), 0.5, np.float32))
    assert sureness.finish() is None and sureness.describe() == []
    empty = Sureness(0.6, {"threshold": 0.4, "sureness": LINE})
    empty.add(0, np.full((2, 2, 2), 0.5, np.float32))
    assert "no voxel reaches the threshold" in empty.describe()[0]


def testSurenessOfTheValidationIsThatOfAPrediction():
    mask = PROBABILITY > RANDOM.random(PROBABILITY.shape)
    scores = ThresholdScores()
    scores.add(PROBABILITY, mask)
    scores.add(np.zeros_like(PROBABILITY), mask)  # nothing is positive: tells nothing
    ((known, dice),) = scores.sureness
    sureness = Sureness(scores.choose()[0], {})
    sureness.add(0, PROBABILITY)
    assert known == pytest.approx(sureness.finish(), abs=1e-4)
    assert dice == pytest.approx(scores.dices[0], abs=1e-5)


def testTheLineThroughTheValidationIsFollowed():
    for sureness in (0.975, 0.95, 0.9):
        assert expectDice(sureness, LINE) == pytest.approx(5 * sureness - 3.95)
    assert (expectDice(0.5, LINE), expectDice(1.0, [[a, b + 0.1] for a, b in LINE])) == (0, 1)


@pytest.mark.parametrize(
    "known", [LINE[:2], [[0.97, 0.9]] * 5, [[0.9, 0.9], [0.95, 0.8], [0.98, 0.7]], []], ids=str
)
def testNoLineIsDrawnThroughTooFewOrTooEqualSamples(known):
    assert expectDice(0.95, known) is None


def testWhatIsToldOfTheExpectation():
    assert describeExpectation(0.98, LINE)[0].startswith("Expected Dice: about 0.95 ")
    low = (DOUBTFUL + 3.95) / 5 - 0.002
    assert describeExpectation(low, LINE)[0].startswith("Warning: a Dice of about 0.87 is to be expected")
    few = [[0.97, 0.92]]
    assert describeExpectation(0.965, few) == []
    assert "less sure here than on all validation data" in describeExpectation(0.955, few)[0]
    assert describeExpectation(0.5, []) == []
