"""A volume that is read plane by plane by a function of its format."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from engine.base.errors import PipelineError
from engine.volumes.frame import Frame
from engine.volumes.volume import SLAB, Region, checkRegion


@dataclass(frozen=True, eq=False)
class PlaneVolume:
    """Voxels that have to be decoded plane by plane.

    Parameters
    ----------
    path, files, shape, dtype, place, header, inner
        As of every `Volume`; place is its frame.
    readPlanes : callable
        Range of planes -> planes (y, x) one after the other.
    """

    path: Path
    files: tuple[Path, ...]
    shape: tuple[int, int, int]
    dtype: np.dtype
    place: Frame
    readPlanes: Callable[[range], Iterable[np.ndarray]]
    header: dict = field(default_factory=dict)
    inner: str = ""

    @property
    def frame(self) -> Frame:
        """Where the voxels lie in space."""
        return self.place

    def read(self, region: Region | None = None) -> np.ndarray:
        """Read a region: (x, y, z) in the type of the file."""
        (block,) = self.slabs(region, self.shape[2])
        return block

    def slabs(self, region: Region | None = None, planeCount: int = SLAB) -> Iterator[np.ndarray]:
        """Read a region as blocks (x, y, planes) in Fortran order; memory holds a block and a plane."""
        return self._slabs(checkRegion(self, region), planeCount)

    def _slabs(self, region: tuple[tuple[int, int], ...], planeCount: int) -> Iterator[np.ndarray]:
        (left, right), (top, bottom), (first, last) = region
        planes = iter(self.readPlanes(range(first, last)))
        for z in range(first, last, planeCount):
            count = min(planeCount, last - z)
            try:
                block = np.empty((right - left, bottom - top, count), self.dtype, order="F")
            except MemoryError as error:
                remedy = "choose a smaller region"
                raise PipelineError("does not fit in memory", file=self.path, remedy=remedy) from error
            for number in range(count):
                block[:, :, number] = next(planes)[top:bottom, left:right].T
            yield block
