"""The Dice of an epoch."""

import numpy as np
import pytest
from batches import makeBatch

from functions import scoreVoxels


def testDiceIsThatOfAllBatchesTogether():
    from engine.learning.metrics import PositiveDice

    metric = PositiveDice()
    batches = [makeBatch(seed) for seed in range(3)]
    for masks, probabilities in batches:
        metric.update_state(masks, probabilities)
    masks, probabilities = (np.concatenate(arrays) for arrays in zip(*batches, strict=True))
    expected = scoreVoxels(probabilities[..., 0], masks[..., 0] > 0)["dice"]
    assert float(metric.result()) == pytest.approx(expected, rel=1e-6)
    metric.reset_state()
    assert float(metric.result()) == 0
    metric.update_state(np.zeros((1, 2, 2, 2, 1)), np.zeros((1, 2, 2, 2, 1)))
    assert float(metric.result()) == 0
