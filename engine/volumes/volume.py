"""What a volume is, and what part of it is meant.

Arrays are (x, y, z), the first axis changes fastest in the files; slabs are blocks of planes along z.
"""

import math
import operator
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from engine.base.console import showProgress
from engine.base.errors import PipelineError
from engine.volumes.frame import Frame

SLAB = 16  # planes read at a time, fewer where they are large
SLAB_VOXELS = 1 << 22  # of these, fewer where memoryBudget is below 1 GiB
Region = tuple[tuple[int | None, int | None], ...]


class Volume(Protocol):
    """Voxels on the disk, of any format; made by `engine.formats.opening.openVolume`.

    Attributes
    ----------
    path : Path
        What was asked for: a file or a folder, without `inner`; opens every message.
    files : tuple of Path
        All that the voxels follow from: digests are of them, and no result may replace one.
    shape : tuple of int
        Voxels along (x, y, z).
    dtype : np.dtype
        Type of a voxel.
    frame : Frame
        Where the voxels lie in space.
    header : dict
        Fields of NRRD that travel to the result unchanged; empty for other formats.
    inner : str
        What of a file with several things is meant, such as a dataset; empty where there is one.
    """

    path: Path
    files: tuple[Path, ...]
    shape: tuple[int, int, int]
    dtype: np.dtype
    frame: Frame
    header: dict
    inner: str

    def read(self, region: Region | None = None) -> np.ndarray:
        """Read a region: (x, y, z) in the type of the file."""

    def slabs(self, region: Region | None = None, planeCount: int = SLAB) -> Iterator[np.ndarray]:
        """Read a region as consecutive blocks (x, y, planes) in Fortran order, each an array of its own."""


@dataclass(frozen=True, eq=False)
class VolumeView:
    """What every volume is that is read from another one.

    Parameters
    ----------
    source : Volume
        As it lies in its file, or a view on that.
    """

    source: Volume

    @property
    def path(self) -> Path:
        """What was asked for."""
        return self.source.path

    @property
    def files(self) -> tuple[Path, ...]:
        """All that the voxels follow from."""
        return self.source.files

    @property
    def inner(self) -> str:
        """Which of the things in the file is meant."""
        return self.source.inner

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels along (x, y, z)."""
        return self.source.shape

    @property
    def dtype(self) -> np.dtype:
        """Type of a voxel."""
        return self.source.dtype

    @property
    def frame(self) -> Frame:
        """Where the voxels lie in space."""
        return self.source.frame

    @property
    def header(self) -> dict:
        """Empty: that of the file tells where its own first voxel lies."""
        return {}


def listSources(volume: Volume) -> list[Volume]:
    """List a volume and all that it is a view on; the last one is the file."""
    found = [volume]
    while isinstance(found[-1], VolumeView):
        found.append(found[-1].source)
    return found


def completeRegion(shape: tuple[int, ...], region: Region | None) -> tuple[tuple[int, int], ...]:
    """Put numbers in place of None in three (start, stop) pairs."""
    pairs = ((None, None),) * 3 if region is None else region
    return tuple(
        (0 if start is None else operator.index(start), int(size) if stop is None else operator.index(stop))
        for (start, stop), size in zip(pairs, shape, strict=True)
    )


def checkRegion(volume: Volume, region: Region | None) -> tuple[tuple[int, int], ...]:
    """Complete a region and require that it lies in the volume.

    Parameters
    ----------
    volume : Volume
        The volume to cut from.
    region : three (start, stop) pairs or None
        Half-open ranges along x, y, z; None for an end, or for the region, means all of it.

    Returns
    -------
    tuple
        Three pairs of int.

    Raises
    ------
    PipelineError
        A range is empty or leaves the volume.
    """
    ranges = completeRegion(volume.shape, region)
    for axis, (start, stop), size in zip("xyz", ranges, volume.shape, strict=True):
        inside = 0 <= start and stop <= size
        if not inside or start >= stop:
            rule = f"the range along {axis} {'is empty' if inside else 'leaves the volume'}"
            raise PipelineError(
                rule, file=volume.path, expected=f"a part of 0:{size}", received=f"{start}:{stop}"
            )
    return ranges


def checkSlabs(volume: Volume, region: Region | None, planeCount: int) -> tuple[tuple[int, int], ...]:
    """Complete and check a region that is read in blocks of so many planes; ValueError for less than one."""
    if planeCount < 1:
        raise ValueError(f"planeCount must be 1 or more, not {planeCount}")
    return checkRegion(volume, region)


def chooseSlab(shape: tuple[int, ...], memoryBudget: float = 0.0) -> int:
    """Choose how many planes of a volume (x, y, z) are read at a time, so that memory stays small."""
    voxels = SLAB_VOXELS * min(memoryBudget or 1, 1)
    return min(SLAB, max(1, int(voxels / (shape[0] * shape[1]))))


def watchSlabs(volume: Volume, region: Region | None, slab: int, words: str) -> Iterator[np.ndarray]:
    """Read a region slab by slab, with a progress bar if it takes a while."""
    depth = region[2][1] - region[2][0] if region else volume.shape[2]
    bar = {"desc": words, "total": math.ceil(depth / slab), "unit": "slab", "leave": False, "delay": 2}
    return showProgress(volume.slabs(region, slab), **bar)
