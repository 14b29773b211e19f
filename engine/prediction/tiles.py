"""Predict a volume tile by tile as a stream of planes: reading, computing and writing overlap.

Arrays are (plane, row, column): z, y, x of the file, so that a plane is contiguous in it.
"""

import contextlib
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import numpy as np

from engine.base.console import showProgress
from engine.prediction.layout import Geometry, Layout, Tile, listTiles
from engine.prediction.tasks import Range, Task, leaveOut, listTasks

SWITCH_SECONDS = 2e-4  # between the threads of Python
WAITING = 3  # slabs that may wait to be written: a flush to the disk takes longer than a slab
MANY = 1000  # slabs of an imagined volume
ReadPlanes = Callable[[int, Range, Range, int], Iterable[np.ndarray]]


class Stream(Protocol):
    """What predicts planes as they come; one class a back end."""

    slab: int
    lag: int

    def restart(self, planeCount: int) -> None:
        """Begin a volume of so many planes."""

    def feed(self, index: int, planes: np.ndarray) -> np.ndarray:
        """Take slab number `index`; give the probabilities of `lag` planes ago, perhaps unfinished."""


class Sink(Protocol):
    """What takes the probabilities; for example a `GrowingResult`."""

    finished: Sequence[Task]

    def write(self, planes: np.ndarray, plane: int, row: int, column: int) -> None:
        """Take probabilities (plane, row, column) that begin at this voxel."""

    def commit(self, task: Task) -> None:
        """Note planes of a tile that have been written."""


def predictVolume(
    readPlanes: ReadPlanes,
    geometry: Geometry,
    layout: Layout,
    stream: Stream,
    sink: Sink,
    tasks: Sequence[Task] | None = None,
) -> None:
    """Predict every voxel of some tasks that the sink has not got yet.

    Parameters
    ----------
    readPlanes : callable
        (first plane, rows, columns, slab) -> blocks of normalised planes, float32, `slab` planes each, the
        last one what is left. Rows and columns are half-open ranges in the region.
    geometry, layout
        Region, network, and how the region is cut.
    stream : Stream
        The network, for tiles of this layout.
    sink : Sink
        Receives every voxel once, the last ones before an interruption perhaps twice.
    tasks : sequence of Task, optional
        Default: the whole region.
    """
    tasks = listTasks(geometry, layout) if tasks is None else tasks
    tiles, left = listTiles(geometry, layout), leaveOut(tasks, sink.finished)
    kept = [_insideOf(tile, geometry) for tile in tiles]
    areas = [(rows.stop - rows.start) * (columns.stop - columns.start) / 1e6 for rows, columns in kept]
    total, missing = (
        sum((last - first) * areas[tile] for tile, (first, last) in part) for part in (tasks, left)
    )
    bar = showProgress(total=round(total, 3), initial=total - missing, unit="Mvoxel", desc="Predicting")
    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer, bar, _promptThreads():
        written: deque[Future] = deque()
        for task in left:
            tile = tiles[task.tile]
            for plane, planes in _streamTile(readPlanes, geometry, stream, tile, task.planes, reader):
                if len(written) == WAITING:
                    written.popleft().result()
                latest = written[-1] if written else None
                block = Task(task.tile, (plane, plane + len(planes)))
                written.append(writer.submit(_write, latest, sink, planes, kept[task.tile], block, tile))
                bar.update(len(planes) * areas[task.tile])
        for write in written:
            write.result()


@contextlib.contextmanager
def _promptThreads() -> Iterator[None]:
    """Let the thread that computes wait less for the interpreter: 5 % faster than with the usual 5 ms."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_SECONDS)
    try:
        yield
    finally:
        sys.setswitchinterval(interval)


def timeSlab(stream: Stream, section: tuple[int, int]) -> float:
    """Seconds that one slab takes, after one to warm up."""
    slab = np.zeros((stream.slab, *section), np.float32)
    stream.restart(MANY * stream.slab)
    for index in (MANY // 2, MANY // 2 + 1):
        begin = time.perf_counter()
        np.asarray(stream.feed(index, slab))
    return time.perf_counter() - begin


def _write(
    before: Future | None, sink: Sink, planes: np.ndarray, kept: tuple[slice, slice], block: Task, tile: Tile
) -> None:
    """Hand over what is kept of some planes; a device finishes them here, while it is fed the next ones."""
    if before:
        before.result()  # after a failure nothing more may be noted as done
    sink.write(np.asarray(planes)[:, *kept], block.planes[0], tile.rows[0], tile.columns[0])
    sink.commit(block)


def _insideOf(tile: Tile, geometry: Geometry) -> tuple[slice, slice]:
    """Rows and columns to keep, counted in the tile: no halo, nothing beyond the region."""
    _, height, width = geometry.size
    (top, _), (left, _) = tile.outerRows, tile.outerColumns
    return (
        slice(tile.rows[0] - top, min(tile.rows[1], height) - top),
        slice(tile.columns[0] - left, min(tile.columns[1], width) - left),
    )


def _streamTile(
    readPlanes: ReadPlanes,
    geometry: Geometry,
    stream: Stream,
    tile: Tile,
    planes: Range,
    reader: ThreadPoolExecutor,
) -> Iterator[tuple[int, np.ndarray]]:
    """Stream some planes of one tile; gives (first plane, probabilities with the halo) block by block."""
    slab, extended, (start, stop) = stream.slab, geometry.shape[0], planes
    first = max(start - geometry.halo - geometry.cell, 0) // slab  # from here `start` sees all it needs
    slabs = _readSlabs(readPlanes, geometry, tile, first, slab)
    stream.restart(extended)
    ahead = reader.submit(next, slabs)
    for index in range(first, -(-(stop + stream.lag) // slab)):
        block = ahead.result()
        ahead = reader.submit(next, slabs)
        made = stream.feed(index, block)
        plane = index * slab - stream.lag
        low, high = max(plane, start), min(plane + slab, stop)
        if low < high:
            yield low, made[low - plane : high - plane]
    ahead.result()
    slabs.close()


def _readSlabs(
    readPlanes: ReadPlanes, geometry: Geometry, tile: Tile, first: int, slab: int
) -> Iterator[np.ndarray]:
    """Read slabs of a tile from number `first` on, mirrored at the far ends, and zeros after the last."""
    size, shape = geometry.size, geometry.shape
    ranges = [
        (start, min(stop, side))
        for (start, stop), side in zip((tile.outerRows, tile.outerColumns), size[1:], strict=True)
    ]
    missing = [
        (0, outer[1] - stop)
        for outer, (_, stop) in zip((tile.outerRows, tile.outerColumns), ranges, strict=True)
    ]
    before = None
    for block in readPlanes(first * slab, *ranges, slab):
        block = np.pad(block, [(0, 0), *missing], "symmetric") if any(map(any, missing)) else block
        if len(block) < slab:
            known = block if before is None else np.concatenate([before, block])
            mirrored = np.pad(known, [(0, shape[0] - size[0]), (0, 0), (0, 0)], "symmetric")[len(known) :]
            rest = np.zeros((slab - len(block) - len(mirrored), *block.shape[1:]), np.float32)
            block = np.concatenate([block, mirrored, rest])
        before = block
        yield block
    nothing = np.zeros_like(before)
    while True:
        yield nothing
