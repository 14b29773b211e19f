"""A volume in chunks: HDF5 and Zarr. Each chunk is decoded once in a walk, as far as memory allows it."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from engine.base.errors import PipelineError
from engine.volumes.frame import Frame
from engine.volumes.volume import SLAB, Region, checkRegion

LAYER_BYTES = 1 << 28  # of a layer of chunks that is held; thicker ones are decoded more than once

Ranges = tuple[tuple[int, int], ...]  # half-open, along x, y, z


@dataclass(frozen=True, eq=False)
class ChunkedVolume:
    """Voxels that a library decodes chunk by chunk.

    Parameters
    ----------
    path, files, shape, dtype, place, header, inner
        As of every `Volume`; place is its frame.
    depth : int
        Planes along z of a chunk; walks read as many at a time.
    readBlock : callable
        Ranges along x, y, z -> voxels (z, y, x) of any memory order. A function of a module, or a `partial`
        of one: the volume travels to other processes.
    """

    path: Path
    files: tuple[Path, ...]
    shape: tuple[int, int, int]
    dtype: np.dtype
    place: Frame
    depth: int
    readBlock: Callable[[Ranges], np.ndarray]
    header: dict = field(default_factory=dict)
    inner: str = ""

    @property
    def frame(self) -> Frame:
        """Where the voxels lie in space."""
        return self.place

    def read(self, region: Region | None = None) -> np.ndarray:
        """Read a region: (x, y, z) in the type of the file, Fortran order."""
        (block,) = self.slabs(region, self.shape[2])
        return block

    def slabs(self, region: Region | None = None, planeCount: int = SLAB) -> Iterator[np.ndarray]:
        """Read a region as blocks (x, y, planes) in Fortran order; a block and a layer of chunks are held."""
        return self._slabs(checkRegion(self, region), planeCount)

    def _slabs(self, region: Ranges, planeCount: int) -> Iterator[np.ndarray]:
        (left, right), (top, bottom), (first, last) = region
        layers = _Layers(self, region)
        for z in range(first, last, planeCount):
            stop = min(z + planeCount, last)
            try:
                block = np.empty((right - left, bottom - top, stop - z), self.dtype, order="F")
                layers.copyInto(block, z)
            except MemoryError as error:
                remedy = "choose a smaller region"
                raise PipelineError("does not fit in memory", file=self.path, remedy=remedy) from error
            yield block


class _Layers:
    """The layer of chunks in hand, of a walk along z."""

    def __init__(self, volume: ChunkedVolume, region: Ranges) -> None:
        self._volume, self._across, self._last = volume, region[:2], region[2][1]
        planeBytes = math.prod(stop - start for start, stop in self._across) * volume.dtype.itemsize
        self._step = max(1, min(volume.depth, LAYER_BYTES // planeBytes))
        self._held, self._start = None, 0  # planes (z, y, x) from a number on

    def copyInto(self, block: np.ndarray, z: int) -> None:
        """Fill a block (x, y, planes) with the planes from z on."""
        planes, done = block.T, 0
        while done < len(planes):
            part = self._layerAt(z + done)[: len(planes) - done]
            planes[done : done + len(part)] = part
            done += len(part)

    def _layerAt(self, z: int) -> np.ndarray:
        """Give the planes (z, y, x) from z to the end of its layer."""
        if self._held is None or not self._start <= z < self._start + len(self._held):
            stop = min((z // self._step + 1) * self._step, self._last)
            self._held = None  # before the next one is read
            self._held, self._start = self._volume.readBlock((*self._across, (z, stop))), z
        return self._held[z - self._start :]
