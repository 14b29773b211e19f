"""A volume that is a part of a larger one: its voxels where they lie, one value everywhere else."""

import contextlib
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from engine.base.errors import PipelineError
from engine.volumes.frame import Frame, cutFrame
from engine.volumes.volume import SLAB, Region, VolumeView, checkRegion, checkSlabs

Ranges = tuple[tuple[int, int], ...]  # half-open, along x, y, z


class Window(NamedTuple):
    """Where a volume lies in a larger one.

    Attributes
    ----------
    corner : (int, int, int)
        Voxel of the larger one, or beyond its border, at which the other one begins.
    shape : (int, int, int)
        Of the larger one.
    fill : int or float
        Value of the voxels outside of the other one.
    """

    corner: tuple[int, ...]
    shape: tuple[int, ...]
    fill: float = 0

    def coverage(self, shape: tuple[int, ...]) -> Ranges:
        """Give the ranges of the larger one that a volume of a shape covers; one is empty where none is."""
        return tuple(
            (min(max(start, 0), side), max(min(start + length, side), 0))
            for start, side, length in zip(self.corner, self.shape, shape, strict=True)
        )


@dataclass(frozen=True, eq=False)
class PlacedVolume(VolumeView):
    """A volume with the shape of a larger one; what of it lies beyond that is cut off.

    Parameters
    ----------
    source : Volume
        The part, its axes along those of the larger one.
    window : Window
        Where it lies.
    """

    window: Window

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels along (x, y, z)."""
        return self.window.shape

    @functools.cached_property
    def frame(self) -> Frame:
        """Where the voxels lie in space."""
        return cutFrame(self.source.frame, tuple(-start for start in self.window.corner))

    @property
    def coverage(self) -> Ranges:
        """Ranges along x, y, z that the source covers."""
        return self.window.coverage(self.source.shape)

    def read(self, region: Region | None = None) -> np.ndarray:
        """Read a region: (x, y, z) in the type of the file, Fortran order."""
        region = checkRegion(self, region)
        block, common = self._empty(region), self._common(region)
        if common:
            block[_within(common, region)] = self.source.read(self._inSource(common))
        return block

    def slabs(self, region: Region | None = None, planeCount: int = SLAB) -> Iterator[np.ndarray]:
        """Read a region as blocks (x, y, planes) in Fortran order; memory holds one more of the source."""
        return self._slabs(checkSlabs(self, region, planeCount), planeCount)

    def _slabs(self, region: Ranges, planeCount: int) -> Iterator[np.ndarray]:
        """Yield the blocks of a region that was checked; the source is read once, from front to back."""
        across, (first, last) = region[:2], region[2]
        common = self._common(region)
        source = self.source.slabs(self._inSource(common), planeCount) if common else iter(())
        held, start = None, 0  # planes of the source, from a plane of the larger volume on
        with contextlib.closing(source) if common else contextlib.nullcontext():
            for z in range(first, last, planeCount):
                place = (*across, (z, min(z + planeCount, last)))
                block, inside = self._empty(place), self._common(place)
                at, stop = inside[2] if inside else (0, 0)
                while at < stop:
                    if held is None or at >= start + held.shape[2]:
                        held, start = next(source), at
                    part = held[:, :, at - start : stop - start]
                    end = at + part.shape[2]
                    block[_within((*inside[:2], (at, end)), place)] = part
                    at = end
                yield block
            next(source, None)  # to its end, where damage is noticed

    def _empty(self, region: Ranges) -> np.ndarray:
        """Make a block in which nothing of the source lies."""
        try:
            return np.full([stop - start for start, stop in region], self.window.fill, self.dtype, order="F")
        except MemoryError as error:
            remedy = "choose a smaller region"
            raise PipelineError("does not fit in memory", file=self.path, remedy=remedy) from error

    def _common(self, region: Ranges) -> Ranges | None:
        """Give the part of a region that the source covers; None where there is none."""
        pairs = zip(region, self.coverage, strict=True)
        common = tuple((max(one[0], other[0]), min(one[1], other[1])) for one, other in pairs)
        return common if all(start < stop for start, stop in common) else None

    def _inSource(self, region: Ranges) -> Ranges:
        """Give the same region by the voxels of the source."""
        return tuple(
            (start - first, stop - first)
            for (start, stop), first in zip(region, self.window.corner, strict=True)
        )


def _within(part: Ranges, region: Ranges) -> tuple[slice, ...]:
    """Give the place of a part in the block of a region."""
    return tuple(
        slice(start - first, stop - first) for (start, stop), (first, _) in zip(part, region, strict=True)
    )
