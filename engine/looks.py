"""What is kept of a volume that comes plane by plane, to be shown later."""

import numpy as np

VOXEL_LIMIT = 6_000_000  # of a volume in the report: four of them stay under 20 MB in total


def chooseFactor(shape: tuple[int, int, int]) -> int:
    """Choose by how much a volume is thinned out along every axis to fit into the report."""
    factor = 1
    while np.prod([-(-side // factor) for side in shape]) > VOXEL_LIMIT:
        factor += 1
    return factor


class Preview:
    """A volume that comes plane by plane, averaged over blocks of `factor` voxels a side.

    Parameters
    ----------
    shape : (int, int, int)
        Voxels along (x, y, z).
    factor : int
        Side of a block.
    """

    def __init__(self, shape: tuple[int, int, int], factor: int) -> None:
        self.factor = factor
        self._starts = [np.arange(0, side, factor) for side in reversed(shape)]  # z, y, x
        self._sizes = [
            np.diff(starts, append=side) for starts, side in zip(self._starts, reversed(shape), strict=True)
        ]
        self._sums = np.zeros([len(starts) for starts in self._starts], np.float32)

    def add(self, z: int, planes: np.ndarray) -> None:
        """Take planes (z, y, x) that begin at plane `z`."""
        for number, plane in enumerate(planes.astype(np.float32, copy=False), z):
            if self.factor > 1:
                rows = np.add.reduceat(plane, self._starts[1], axis=0)
                plane = np.add.reduceat(rows, self._starts[2], axis=1)
            self._sums[number // self.factor] += plane

    def finish(self) -> np.ndarray:
        """Give the averages (z, y, x) float32."""
        z, y, x = (sizes.astype(np.float32) for sizes in self._sizes)
        return self._sums / (z[:, np.newaxis, np.newaxis] * y[:, np.newaxis] * x)
