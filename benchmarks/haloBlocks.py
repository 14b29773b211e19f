"""Exact prediction of a volume in blocks, in bounded memory.

At inference the network's view is finite. A block with a halo of `haloOf(plan)` voxels, aligned to the
pooling cells, therefore gives exactly the values that one pass over everything gives.
"""

import itertools
import logging
import math
from collections.abc import Callable

import numpy as np
from tqdm import tqdm

from engine.errors import PipelineError
from engine.plan import Layer, haloOf, sideMultiple

LOGGER = logging.getLogger(__name__)
MUCH_WORK = 6  # times the work of one pass from which on the user is told
GIB_PER_MVOXEL = 0.33  # one pass of Keras on TensorFlow, published width, CPU: 5.5 GB for 256^3
PUBLISHED_DEPTH = 8
OUT_OF_MEMORY = ("ResourceExhausted", "RESOURCE_EXHAUSTED", "MemoryError", "OutOfMemory", "out of memory")


def predictInBlocks(
    predict: Callable[[np.ndarray], np.ndarray],
    image: np.ndarray,
    plan: list[Layer],
    probability: np.ndarray,
    memoryBudget: float,
) -> None:
    """Fill `probability` block by block.

    Parameters
    ----------
    predict : callable
        One pass of the network: (1, x, y, z, 1) float32 -> the same shape.
    image : array
        (x, y, z) float32, every side a multiple of `sideMultiple(plan)`.
    plan : list of Layer
        The network.
    probability : array
        (x, y, z), at most the shape of `image`; what lies beyond is cropped.
    memoryBudget : float
        GiB that one pass may take; blocks are as large as it allows.

    Raises
    ------
    PipelineError
        The budget is too small for the smallest block.
    """
    counts = chooseSplit(image.shape, plan, memoryBudget)
    intervals = [_splitAxis(side, count, plan) for side, count in zip(image.shape, counts, strict=True)]
    factor = _workVoxels(image.shape, counts, plan) / image.size
    if factor > MUCH_WORK:
        words = "%d blocks, %.0f times the work of one pass: a larger memoryBudget than %g GiB is faster"
        LOGGER.warning(words, math.prod(map(len, intervals)), factor, memoryBudget)
    with tqdm(total=probability.size / 1e6, unit="Mvoxel", desc="Predicting", disable=None) as bar:
        for axes in itertools.product(*intervals):
            outer = tuple(slice(*axis[0]) for axis in axes)
            result = _runPass(predict, image[outer])
            inner = tuple(slice(axis[1][0] - axis[0][0], axis[1][1] - axis[0][0]) for axis in axes)
            core = tuple(
                slice(axis[1][0], min(axis[1][1], side))
                for axis, side in zip(axes, probability.shape, strict=True)
            )
            target = probability[core]
            target[...] = result[inner][tuple(slice(side) for side in target.shape)]
            bar.update(target.size / 1e6)


def _runPass(predict: Callable[[np.ndarray], np.ndarray], block: np.ndarray) -> np.ndarray:
    """Run the network over one block (x, y, z); a back end without memory is the user's to correct."""
    try:
        return predict(np.ascontiguousarray(block)[np.newaxis, ..., np.newaxis])[0, ..., 0]
    except Exception as error:  # each back end has a class of its own for it
        if any(words in f"{type(error).__name__} {error}" for words in OUT_OF_MEMORY):
            raise PipelineError(
                f"out of memory in a block of {'x'.join(map(str, block.shape))} voxels",
                remedy="try a smaller --memoryBudget",
            ) from error
        raise


def chooseSplit(shape: tuple[int, ...], plan: list[Layer], memoryBudget: float) -> list[int]:
    """Choose into how many blocks each axis is cut: little work, and the largest block fits the budget."""
    width = next(layer.filters for layer in plan if layer.kind == "convolution")
    gibPerVoxel = GIB_PER_MVOXEL / 1e6 * width / PUBLISHED_DEPTH
    finest = [side // sideMultiple(plan) for side in shape]
    least = gibPerVoxel * _blockVoxels(shape, finest, plan)
    if not least <= memoryBudget:  # of NaN as well
        raise PipelineError(
            f"memoryBudget of {memoryBudget} GiB is too small",
            remedy=f"at least {math.ceil(least * 10) / 10} GiB is needed",
        )
    counts = [1, 1, 1]
    while gibPerVoxel * _blockVoxels(shape, counts, plan) > memoryBudget:
        choices = []
        for axis in range(3):
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
