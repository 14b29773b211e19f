"""Predict a volume tile by tile as a stream of planes: reading, computing and writing overlap.

Arrays are (plane, row, column): z, y, x of the file, so that a plane is contiguous in it.
"""

import contextlib
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import numpy as np

from engine.base.console import showProgress
from engine.prediction.layout import Geometry, Layout, Tile, listTiles

SWITCH_SECONDS = 2e-4  # between the threads of Python
WAITING = 3  # slabs that may wait to be written: a flush to the disk takes longer than a slab
MANY = 1000  # slabs of an imagined volume
Range = tuple[int, int]
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
    """What takes the probabilities; for example a `PartialVolume`."""

    progress: dict

    def write(self, planes: np.ndarray, plane: int, row: int, column: int) -> None:
        """Take probabilities (plane, row, column) that begin at this voxel."""

    def commit(self, progress: dict) -> None:
        """Note what is done."""


def predictVolume(
    readPlanes: ReadPlanes, geometry: Geometry, layout: Layout, stream: Stream, sink: Sink
) -> None:
    """Predict every voxel, from where the sink's progress says.

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
        Receives every voxel of the region once, the last ones before an interruption perhaps twice.
    """
    planeCount = geometry.size[0]
    begun, done = sink.progress.get("tile", 0), sink.progress.get("planes", 0)
    bar = showProgress(total=round(np.prod(geometry.size) / 1e6, 3), unit="Mvoxel", desc="Predicting")
    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer, bar, _promptThreads():
        written: deque[Future] = deque()
        for number, tile in enumerate(listTiles(geometry, layout)):
            kept = _insideOf(tile, geometry)
            area = (kept[0].stop - kept[0].start) * (kept[1].stop - kept[1].start) / 1e6
            start = planeCount if number < begun else done if number == begun else 0
            bar.update(start * area)
            if start == planeCount:
                continue
            for plane, planes in _streamTile(readPlanes, geometry, stream, tile, start, reader):
                if len(written) == WAITING:
                    written.popleft().result()
                latest = written[-1] if written else None
                written.append(writer.submit(_write, latest, sink, planes, kept, plane, tile, number))
                bar.update(len(planes) * area)
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
    before: Future | None,
    sink: Sink,
    planes: np.ndarray,
    kept: tuple[slice, slice],
    plane: int,
    tile: Tile,
    number: int,
) -> None:
    """Hand over what is kept of some planes; a device finishes them here, while it is fed the next ones."""
    if before:
        before.result()  # after a failure nothing more may be noted as done
    sink.write(np.asarray(planes)[:, *kept], plane, tile.rows[0], tile.columns[0])
    sink.commit({"tile": number, "planes": plane + len(planes)})


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
    start: int,
    reader: ThreadPoolExecutor,
) -> Iterator[tuple[int, np.ndarray]]:
    """Stream one tile; gives (first plane, probabilities with the halo) from plane `start` on."""
    slab, planeCount, extended = stream.slab, geometry.size[0], geometry.shape[0]
    first = (
        max(start - geometry.halo - geometry.cell, 0) // slab
    )  # from here on, `start` sees all it depends on
    slabs = _readSlabs(readPlanes, geometry, tile, first, slab)
    stream.restart(extended)
    ahead = reader.submit(next, slabs)
    for index in range(first, -(-(planeCount + stream.lag) // slab)):
        block = ahead.result()
        ahead = reader.submit(next, slabs)
        planes = stream.feed(index, block)
        plane = index * slab - stream.lag
        low, high = max(plane, start), min(plane + slab, planeCount)
        if low < high:
            yield low, planes[low - plane : high - plane]
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
