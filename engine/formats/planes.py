"""Volumes that a function of their format decodes, whole plane by whole plane or otherwise."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from engine.base.errors import PipelineError
from engine.volumes.frame import Frame
from engine.volumes.volume import SLAB, Region, checkSlabs

Ranges = tuple[tuple[int, int], ...]  # half-open, along x, y, z


@dataclass(frozen=True, eq=False)
class DecodedVolume:
    """What every volume is that a function of its format decodes; a kind of it says how slabs are made.

    Parameters
    ----------
    path, files, shape, dtype, place, header, inner
        As of every `Volume`; place is its frame.
    """

    path: Path
    files: tuple[Path, ...]
    shape: tuple[int, int, int]
    dtype: np.dtype
    place: Frame
    header: dict = field(default_factory=dict, kw_only=True)
    inner: str = field(default="", kw_only=True)

    @property
    def frame(self) -> Frame:
        """Where the voxels lie in space."""
        return self.place

    def read(self, region: Region | None = None) -> np.ndarray:
        """Read a region: (x, y, z) in the type of the file, Fortran order."""
        (block,) = self.slabs(region, self.shape[2])
        return block

    def slabs(self, region: Region | None = None, planeCount: int = SLAB) -> Iterator[np.ndarray]:
        """Read a region as blocks (x, y, planes) in Fortran order; little more than a block is held."""
        return self._slabs(checkSlabs(self, region, planeCount), planeCount)

    def _slabs(self, region: Ranges, planeCount: int) -> Iterator[np.ndarray]:
        raise NotImplementedError

    def _makeBlock(self, region: Ranges, depth: int) -> np.ndarray:
        """Make an empty block (x, y, planes) for planes of a region."""
        (left, right), (top, bottom), _ = region
        try:
            return np.empty((right - left, bottom - top, depth), self.dtype, order="F")
        except MemoryError as error:
            raise self._refuseSize() from error

    def _refuseSize(self) -> PipelineError:
        """Say that the memory is too small for what is asked for."""
        return PipelineError("does not fit in memory", file=self.path, remedy="choose a smaller region")


@dataclass(frozen=True, eq=False)
class PlaneVolume(DecodedVolume):
    """Voxels that have to be decoded plane by plane.

    Parameters
    ----------
    readPlanes : callable
        Range of planes -> planes (y, x) one after the other.
    """

    readPlanes: Callable[[range], Iterable[np.ndarray]]

    def _slabs(self, region: Ranges, planeCount: int) -> Iterator[np.ndarray]:
        (left, right), (top, bottom), (first, last) = region
        planes = iter(self.readPlanes(range(first, last)))
        for z in range(first, last, planeCount):
            block = self._makeBlock(region, min(planeCount, last - z))
            for number in range(block.shape[2]):
                block[:, :, number] = next(planes)[top:bottom, left:right].T
            yield block
