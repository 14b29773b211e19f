"""Voxels without data are predicted as matrix."""

import itertools
from collections.abc import Iterator

import numpy as np

from engine.prediction.tasks import Task
from engine.prediction.tiles import Sink
from engine.volumes.scale import equals
from engine.volumes.volume import Volume


class NoDataSink:
    """Hands probabilities on to another sink, 0 where the volume holds no data.

    The grey values are read again where they are written, since the network gives a plane only long after it
    took it: twice the reading, for such volumes alone.

    Parameters
    ----------
    sink : Sink
        Takes float32 probabilities (z, y, x).
    volume, region : Volume, three (start, stop)
        What is predicted.
    noData : float
        Grey value, or NaN.
    """

    def __init__(self, sink: Sink, volume: Volume, region: tuple, noData: float) -> None:
        self._sink, self._volume, self._region, self._noData = sink, volume, region, noData
        self.finished = sink.finished
        self._place: tuple | None = None  # first plane, rows and columns that `_greys` goes on with
        self._greys: Iterator[np.ndarray] = iter(())

    def write(self, planes: np.ndarray, plane: int, row: int, column: int) -> None:
        """Take probabilities (plane, row, column) that begin at this voxel of the region."""
        depth, height, width = planes.shape
        rows, columns = (row, row + height), (column, column + width)
        if self._place != (plane, rows, columns):
            (left, _), (top, _), (first, last) = self._region
            across = [[start + offset for offset in part] for start, part in ((left, columns), (top, rows))]
            self._greys = self._volume.slabs((*across, (first + plane, last)), 1)
        greys = np.concatenate([block.T for block in itertools.islice(self._greys, depth)])
        self._place = plane + depth, rows, columns
        self._sink.write(np.where(equals(greys, self._noData), np.float32(0), planes), plane, row, column)

    def commit(self, task: Task) -> None:
        """Note planes of a tile that have been written."""
        self._sink.commit(task)
