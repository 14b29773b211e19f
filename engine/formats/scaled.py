"""A volume whose values are those of its file times a slope, plus an offset."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from engine.base.errors import PipelineError
from engine.formats.rawData import isSequential
from engine.volumes.volume import SLAB, Region, VolumeView, checkRegion

SLAB_BYTES = 1 << 26  # of a block that is read for a whole region


@dataclass(frozen=True, eq=False)
class ScaledVolume(VolumeView):
    """Values of another volume, scaled; as every `Volume` otherwise.

    Parameters
    ----------
    source : Volume
        As it lies in its file.
    slope, intercept : float
        A voxel is `slope * value + intercept`.
    """

    slope: float
    intercept: float

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
