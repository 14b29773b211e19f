"""A volume whose values are those of its file times a slope, plus an offset."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from engine.base.errors import PipelineError
from engine.volumes.frame import Frame
from engine.volumes.rawData import isSequential
from engine.volumes.volume import SLAB, Region, Volume, checkRegion

SLAB_BYTES = 1 << 26  # of a block that is read for a whole region


@dataclass(frozen=True, eq=False)
class ScaledVolume:
    """Values of another volume, scaled; as every `Volume` otherwise.

    Parameters
    ----------
    source : Volume
        As it lies in its file.
    slope, intercept : float
        A voxel is `slope * value + intercept`.
    place : Frame, optional
        Where the voxels lie in space; without it, where those of the source do.
    header : dict
        As of every `Volume`.
    """

    source: Volume
    slope: float
    intercept: float
    place: Frame | None = None
    header: dict = field(default_factory=dict)

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
    def shape(self) -> tuple[int, int, int]:
        """Voxels along (x, y, z)."""
        return self.source.shape

    @property
    def frame(self) -> Frame:
        """Where the voxels lie in space."""
        return self.place or self.source.frame

    @property
    def dtype(self) -> np.dtype:
        """Type of a scaled voxel: float32 where it holds every value of the file, else float64."""
        return np.result_type(self.source.dtype, np.float32).newbyteorder("=")

    @property
    def encoding(self) -> str:
        """That of the file where it can only be read from its beginning."""
        return self.source.encoding if isSequential(self.source) else "scaled"

    def read(self, region: Region | None = None) -> np.ndarray:
        """Read a region: (x, y, z), Fortran order."""
        ranges = checkRegion(self, region)
        shape = tuple(stop - start for start, stop in ranges)
        try:
            whole, z = np.empty(shape, self.dtype, order="F"), 0
        except MemoryError as error:
            remedy = "choose a smaller region"
            raise PipelineError("does not fit in memory", file=self.path, remedy=remedy) from error
        for block in self.slabs(ranges, max(1, SLAB_BYTES // (math.prod(shape[:2]) * 8))):
            whole[:, :, z : z + block.shape[2]] = block
            z += block.shape[2]
        return whole

    def slabs(self, region: Region | None = None, planeCount: int = SLAB) -> Iterator[np.ndarray]:
        """Read a region as blocks (x, y, planes) in Fortran order, each an array of its own."""
        return map(self._scale, self.source.slabs(region, planeCount))

    def _scale(self, block: np.ndarray) -> np.ndarray:
        """Scale a block plane by plane, in float64."""
        scaled = np.empty(block.shape, self.dtype, order="F")
        for z in range(block.shape[2]):
            scaled[:, :, z] = block[:, :, z] * np.float64(self.slope) + self.intercept
        return scaled
