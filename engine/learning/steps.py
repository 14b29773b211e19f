"""The steps of a training: numbered, and each of them read by its number."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

Batch = tuple[np.ndarray, ...]


class Steps(NamedTuple):
    """What is learnt from, step by step."""

    read: Callable[[int, int], Batch]  # (epoch, step) -> images and masks (sample, x, y, z, 1) float32;
    # masks are 1, 0 or, where a voxel is not labelled, -1
    count: int  # of an epoch
    epochCount: int
    batchSize: int
    sides: tuple[int, ...]  # of a sample, voxels

    @property
    def total(self) -> int:
        """Steps of the whole training."""
        return self.count * self.epochCount

    def readExtra(self, number: int) -> np.ndarray:
        """Read the images of a step that would come after the last epoch."""
        epoch, step = divmod(number, self.count)
        return self.read(self.epochCount + epoch, step)[0]

    def measurePositives(self) -> float:
        """Measure the share of positive voxels, of the labelled ones, in the first steps."""
        masks = [self.read(0, step)[1] for step in range(min(self.count, 8))]
        if all(mask.min() >= 0 for mask in masks):
            return np.mean([mask.mean() for mask in masks])
        labelled = sum(np.count_nonzero(mask >= 0) for mask in masks)
        return sum(np.count_nonzero(mask > 0) for mask in masks) / max(labelled, 1)


def stackPairs(pairs: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Make a batch of images and masks (x, y, z): (sample, x, y, z, 1) float32 both."""
    stacks = map(np.stack, zip(*pairs, strict=True))  # cast afterwards, five times as fast
    return tuple(stack.astype(np.float32, copy=False)[..., np.newaxis] for stack in stacks)
