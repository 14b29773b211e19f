"""Masks and probabilities of a batch, as losses and metrics take them."""

import numpy as np


def makeBatch(seed=0):
    """Make masks and probabilities; the second sample has no positive voxel."""
    generator = np.random.default_rng(seed)
    masks = (generator.random((3, 4, 4, 8, 1)) < 0.2).astype(np.float32)
    masks[1] = 0
    return masks, generator.uniform(0.02, 0.98, masks.shape).astype(np.float32)


def plainLosses(y, p):
    """Every loss of one sample, written out."""
    entropy = -np.mean(y * np.log(p) + (1 - y) * np.log(1 - p))
    focal = -np.mean(y * (1 - p) ** 2 * np.log(p) + (1 - y) * p**2 * np.log(1 - p))
    dice = 1 - 2 * np.sum(y * p) / np.sum(y + p)
    misses, alarms = np.sum(y * (1 - p)), np.sum((1 - y) * p)
    tversky = 1 - np.sum(y * p) / (np.sum(y * p) + 0.3 * alarms + 0.7 * misses)
    return {"bce": entropy, "dice": dice, "bce+dice": entropy + dice, "focal": focal, "tversky": tversky}
