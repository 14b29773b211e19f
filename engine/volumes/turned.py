"""A volume whose axes run another way than in its file: the same voxels in another order."""

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from engine.volumes.frame import Frame, Turn, turnFrame
from engine.volumes.volume import SLAB, Region, VolumeView, checkRegion, checkSlabs

GROUP_BYTES = (
    1 << 26
)  # read together where planes come in another order; a compressed file is read once a group


@dataclass(frozen=True, eq=False)
class TurnedVolume(VolumeView):
    """A volume with its axes flipped or in another order; as every `Volume` otherwise.

    Parameters
    ----------
    source : Volume
        As it lies in its file.
    turn : Turn
        For every axis that of the source, and whether it runs the other way.
    """

    turn: Turn

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels along (x, y, z)."""
        return tuple(self.source.shape[axis] for axis in self.turn.axes)

    @functools.cached_property
    def frame(self) -> Frame:
        """Where the voxels lie in space."""
        return turnFrame(self.source.frame, self.source.shape, self.turn)

    def read(self, region: Region | None = None) -> np.ndarray:
        """Read a region: (x, y, z) in the type of the file, a view on what is read of the source."""
        return self._turn(self.source.read(self._place(checkRegion(self, region))))

    def slabs(self, region: Region | None = None, planeCount: int = SLAB) -> Iterator[np.ndarray]:
        """Read a region as blocks (x, y, planes) in Fortran order, each an array of its own.

        Where z runs the other way, or along another axis of the source, memory holds a group of planes more.
        """
        return self._slabs(checkSlabs(self, region, planeCount), planeCount)

    def _slabs(self, region: tuple[tuple[int, int], ...], planeCount: int) -> Iterator[np.ndarray]:
        """Yield the blocks of a region that was checked."""
        if self.turn.axes[2] == 2 and not self.turn.flips[2]:
            for block in self.source.slabs(self._place(region), planeCount):
                yield np.array(self._turn(block), order="F")
            return
        across, (first, last) = region[:2], region[2]
        planeBytes = math.prod(stop - start for start, stop in across) * self.dtype.itemsize
        step = max(1, GROUP_BYTES // (planeBytes * planeCount)) * planeCount
        for start in range(first, last, step):
            place = self._place((*across, (start, min(start + step, last))))
            (group,) = self.source.slabs(place, place[2][1] - place[2][0])
            turned = self._turn(group)
            for z in range(0, turned.shape[2], planeCount):
                yield np.array(turned[:, :, z : z + planeCount], order="F")

    def _place(self, region: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int], ...]:
        """Give a region of the source that holds the voxels of a region."""
        place = [(0, 0)] * 3
        for (start, stop), axis, isFlipped in zip(region, *self.turn, strict=True):
            side = self.source.shape[axis]
            place[axis] = (side - stop, side - start) if isFlipped else (start, stop)
        return tuple(place)

    def _turn(self, block: np.ndarray) -> np.ndarray:
        """View a block of the source in the order of this volume."""
        steps = tuple(slice(None, None, -1 if isFlipped else 1) for isFlipped in self.turn.flips)
        return block.transpose(self.turn.axes)[steps]
