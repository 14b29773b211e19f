"""Losses against their formulas."""

import numpy as np
import pytest
from batches import makeBatch, plainLosses


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
