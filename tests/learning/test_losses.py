"""Losses against their formulas."""

import numpy as np
import pytest
from batches import makeBatch


def plainLosses(y, p):
    """Every loss of one sample, written out."""
    entropy = -np.mean(y * np.log(p) + (1 - y) * np.log(1 - p))
    focal = -np.mean(y * (1 - p) ** 2 * np.log(p) + (1 - y) * p**2 * np.log(1 - p))
    dice = 1 - 2 * np.sum(y * p) / np.sum(y + p)
    misses, alarms = np.sum(y * (1 - p)), np.sum((1 - y) * p)
    tversky = 1 - np.sum(y * p) / (np.sum(y * p) + 0.3 * alarms + 0.7 * misses)
    return {"bce": entropy, "dice": dice, "bce+dice": entropy + dice, "focal": focal, "tversky": tversky}


@pytest.mark.parametrize("name", ["bce", "dice", "bce+dice", "focal", "tversky"])
def testLossesAreMeansOverSamples(name):
    from engine.learning.losses import makeLoss

    masks, probabilities = makeBatch()
    expected = np.mean(
        [
            plainLosses(y.astype(float), p.astype(float))[name]
            for y, p in zip(masks, probabilities, strict=True)
        ]
    )
    assert float(makeLoss(name)(masks, probabilities)) == pytest.approx(expected, rel=1e-4)
