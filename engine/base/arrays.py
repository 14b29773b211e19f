"""Walking through arrays in the order in which they lie in memory, or block by block."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from engine.base.errors import PipelineError

ROUNDING = 2e-15  # relative deviation that equal float64 values can seem to have


def slowestFirst(image: np.ndarray) -> np.ndarray:
    """View whose first axis has the largest stride, so that a loop over it walks through memory in order."""
    return np.moveaxis(image, int(np.argmax(np.abs(image.strides))), 0)


def copyInOrder(image: np.ndarray) -> np.ndarray:
    """Copy to C order, (x, z) tile by tile: they fit the cache.

    5 times faster than np.ascontiguousarray on a 192x192x128 cut of a uint16 volume in file order, which took
    half of the time of prepareData.py (benchmarks/preparation.py).
    """
    copy = np.empty(image.shape, image.dtype)
    for y in range(image.shape[1]):
        copy[:, y] = image[:, y]
    return copy


def measureMoments(image: np.ndarray) -> tuple[float, float]:
    """Measure mean and standard deviation in float64, plane by plane: no copy of the volume is made."""
    return mergeMoments(slowestFirst(image))


def mergeMoments(blocks: Iterable[np.ndarray]) -> tuple[float, float]:
    """Measure mean and standard deviation of a volume that comes block by block, in one pass."""
    moments = Moments()
    for block in blocks:
        moments.merge(block)
    return moments.finish()


class Moments:
    """Mean and standard deviation of a volume that comes block by block, in float64.

    Source: Chan, Golub & LeVeque, Am. Stat. 37 (1983) 242, doi 10.1080/00031305.1983.10483115; a sum of
    squares minus the squared mean would cancel.
    """

    STATE = ("_blocks",)

    def __init__(self) -> None:
        self._count, self._mean, self._squares = 0, 0.0, 0.0
        self._seen: list[tuple[int, float, float]] = []  # count, mean and squares of every block

    def add(self, z: int, planes: np.ndarray) -> None:
        """Take planes (z, y, x), one after the other: the result does not depend on how they come."""
        for plane in planes:
            self.merge(plane)

    @property
    def _blocks(self) -> np.ndarray:
        """What is known of every block: (block, 3) float64."""
        return np.array(self._seen, np.float64).reshape(-1, 3)

    @_blocks.setter
    def _blocks(self, blocks: np.ndarray) -> None:
        for count, middle, squares in blocks.tolist():
            self._take(int(count), middle, squares)

    def join(self, other: "Moments") -> None:
        """Take the blocks of another one: the result is that of having seen them."""
        self._blocks = other._blocks

    def merge(self, block: np.ndarray) -> None:
        """Take the voxels of a block."""
        values = block.astype(np.float64).ravel(order="K")
        with np.errstate(invalid="ignore", over="ignore"):  # such grey values are refused afterwards
            middle = float(values.mean())
            values -= middle
            squares = float(values @ values)
            self._take(values.size, middle, squares)

    def _take(self, count: int, middle: float, squares: float) -> None:
        """Take what is known of a block."""
        self._seen.append((count, middle, squares))
        difference, known = middle - self._mean, self._count
        self._count += count
        self._mean += difference * count / self._count
        self._squares += squares + difference * difference * known * count / self._count

    take = merge  # as histograms call it

    def finish(self) -> tuple[float, float]:
        """Give mean and standard deviation; the deviation of equal values, whose mean is rounded, is 0."""
        std = (self._squares / self._count) ** 0.5 if self._count else 0.0
        return self._mean, 0.0 if std < ROUNDING * abs(self._mean) else std


class NonFinite:
    """Counts voxels that are NaN or infinite."""

    def __init__(self) -> None:
        self.count = 0

    def add(self, z: int, block: np.ndarray) -> None:
        """Take a block."""
        if block.dtype.kind == "f":
            self.count += block.size - int(np.count_nonzero(np.isfinite(block)))

    def refuse(self, fileName: str | Path, substitute: str = "a grey value") -> None:
        """Raise PipelineError naming the file and the number of such voxels, if there were any."""
        if self.count:
            raise PipelineError(
                f"{self.count} voxels are NaN or infinite",
                file=fileName,
                remedy=f"replace them by {substitute} and repeat",
            )


def refuseNonFinite(image: np.ndarray, fileName: str | Path) -> None:
    """Raise PipelineError naming the file and the number of voxels that are NaN or infinite."""
    seen = NonFinite()
    for block in slowestFirst(image):
        seen.add(0, block)
    seen.refuse(fileName)
