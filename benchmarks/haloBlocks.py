"""Prediction in blocks with a halo, as the first version did it; benchmarks/prediction.py times it.

At inference the network's view is finite. A block with a halo of `haloOf(plan)` voxels, aligned to the
pooling cells, therefore gives exactly the values that one pass over everything gives.
"""

import itertools
import math
from collections.abc import Callable

import numpy as np

from engine.network.plan import Layer, haloOf, sideMultiple

GIB_PER_MVOXEL = 0.33  # one pass of Keras on TensorFlow, published width, CPU: 5.5 GB for 256^3


def predictInBlocks(
    predict: Callable[[np.ndarray], np.ndarray], image: np.ndarray, plan: list[Layer], memoryBudget: float
) -> np.ndarray:
    """Predict block by block.

    Parameters
    ----------
    predict : callable
        One pass of the network: (1, x, y, z, 1) float32 -> the same shape.
    image : array
        (x, y, z) float32, every side a multiple of `sideMultiple(plan)`.
    plan : list of Layer
        The network, of the published width.
    memoryBudget : float
        GiB that one pass may take; blocks are as large as it allows.

    Returns
    -------
    array
        (x, y, z) float32.
    """
    counts = chooseSplit(image.shape, plan, memoryBudget)
    intervals = [_splitAxis(side, count, plan) for side, count in zip(image.shape, counts, strict=True)]
    probability = np.empty(image.shape, np.float32)
    for axes in itertools.product(*intervals):
        block = np.ascontiguousarray(image[tuple(slice(*outer) for outer, _ in axes)])
        result = predict(block[np.newaxis, ..., np.newaxis])[0, ..., 0]
        inner = tuple(slice(core[0] - outer[0], core[1] - outer[0]) for outer, core in axes)
        probability[tuple(slice(*core) for _, core in axes)] = result[inner]
    return probability


def chooseSplit(shape: tuple[int, ...], plan: list[Layer], memoryBudget: float) -> list[int]:
    """Choose into how many blocks each axis is cut: little work, and the largest block fits the budget."""
    finest = [side // sideMultiple(plan) for side in shape]
    counts = [1] * len(shape)
    while counts != finest and GIB_PER_MVOXEL / 1e6 * _blockVoxels(shape, counts, plan) > memoryBudget:
        choices = []
        for axis in range(len(shape)):
            if counts[axis] < finest[axis]:
                finer = [count + (index == axis) for index, count in enumerate(counts)]
                shrink = math.log(_blockVoxels(shape, counts, plan) / _blockVoxels(shape, finer, plan))
                growth = math.log(_workVoxels(shape, finer, plan) / _workVoxels(shape, counts, plan))
                choices.append((shrink - growth, finer))
        counts = max(choices)[1]
    return counts


def _splitAxis(side: int, count: int, plan: list[Layer]) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Cut one axis into (outer, core) intervals: cores tile it, outer ones add the halo inside the volume."""
    cell, halo = sideMultiple(plan), haloOf(plan)
    length = -(-side // cell // count) * cell
    cores = [(start, min(start + length, side)) for start in range(0, side, length)]
    return [((max(start - halo, 0), min(stop + halo, side)), (start, stop)) for start, stop in cores]


def _blockVoxels(shape: tuple[int, ...], counts: list[int], plan: list[Layer]) -> int:
    """Voxels of the largest block with its halo."""
    sides = (
        max(outer[1] - outer[0] for outer, _ in _splitAxis(side, count, plan))
        for side, count in zip(shape, counts, strict=True)
    )
    return math.prod(sides)


def _workVoxels(shape: tuple[int, ...], counts: list[int], plan: list[Layer]) -> int:
    """Voxels that all blocks with their halos pass through the network."""
    sums = (
        sum(outer[1] - outer[0] for outer, _ in _splitAxis(side, count, plan))
        for side, count in zip(shape, counts, strict=True)
    )
    return math.prod(sums)
