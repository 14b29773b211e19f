"""Masks and probabilities of a batch, as losses and metrics take them."""

import numpy as np


def makeBatch(seed=0):
    """Make masks and probabilities; the second sample has no positive voxel."""
    generator = np.random.default_rng(seed)
    masks = (generator.random((3, 4, 4, 8, 1)) < 0.2).astype(np.float32)
    masks[1] = 0
    return masks, generator.uniform(0.02, 0.98, masks.shape).astype(np.float32)
