"""A volume in chunks: HDF5 and Zarr. Each chunk is decoded once in a walk, as far as memory allows it."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from engine.formats.planes import DecodedVolume, Ranges

LAYER_BYTES = 1 << 28  # of a layer of chunks that is held; thicker ones are decoded more than once
GROUP_BYTES = 1 << 25  # thin layers are read together up to this: every reading opens the file anew


@dataclass(frozen=True, eq=False)
class ChunkedVolume(DecodedVolume):
    """Voxels that a library decodes chunk by chunk; a block and a layer of chunks are held.

    Parameters
    ----------
    depth : int
        Planes along z of a chunk; walks read whole chunks as far as memory allows it.
    readBlock : callable
        Ranges along x, y, z -> voxels (z, y, x) of any memory order. A function of a module, or a `partial`
        of one: the volume travels to other processes.
    """

    depth: int
    readBlock: Callable[[Ranges], np.ndarray]

    def _slabs(self, region: Ranges, planeCount: int) -> Iterator[np.ndarray]:
        first, last = region[2]
        layers = _Layers(self, region)
        for z in range(first, last, planeCount):
            block = self._makeBlock(region, min(planeCount, last - z))
            try:
                layers.copyInto(block, z)
            except MemoryError as error:
                raise self._refuseSize() from error
            yield block
            del block  # before the next one is made


class _Layers:
    """The planes in hand, of a walk along z: a layer of chunks, a part of it, or several thin ones."""

    def __init__(self, volume: ChunkedVolume, region: Ranges) -> None:
        self._volume, self._across, self._last = volume, region[:2], region[2][1]
        planeBytes = math.prod(stop - start for start, stop in self._across) * volume.dtype.itemsize
        depth = max(1, min(volume.depth, volume.shape[2]))
        parts = math.ceil(depth / max(1, min(depth, LAYER_BYTES // planeBytes)))
        # a seam of chunks at every multiple of _depth; what is too thick to hold is read in parts
        self._depth = depth * max(1, GROUP_BYTES // (depth * planeBytes))
        self._step = math.ceil(self._depth / parts)  # parts as equal as possible
        self._held, self._start = None, 0  # planes (z, y, x) from a number on

    def copyInto(self, block: np.ndarray, z: int) -> None:
        """Fill a block (x, y, planes) with the planes from z on."""
        planes, done = block.T, 0
        while done < len(planes):
            self._load(z + done)
            start = z + done - self._start
            count = min(len(planes) - done, len(self._held) - start)
            planes[done : done + count] = self._held[start : start + count]
            done += count

    def _load(self, z: int) -> None:
        """Have the plane z in hand, and those up to the end of its layer."""
        if self._held is not None and self._start <= z < self._start + len(self._held):
            return
        layer = z // self._depth * self._depth
        seam = layer + ((z - layer) // self._step + 1) * self._step
        stop = min(seam, layer + self._depth, self._last)
        self._held = None  # before the next one is read
        held = self._volume.readBlock((*self._across, (z, stop)))
        assert held.shape[0] == stop - z
        self._held, self._start = held, z
