"""How a volume is cut for the stream: planes that enter at a time, tiles across a plane, memory it takes.

One tile needs no overlap at all. Where the planes are too large for the memory they are cut into tiles with a
halo of `haloOf(plan)` voxels, which gives exactly the values of one pass too, for more work.
"""

import itertools
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

from engine.base.errors import PipelineError
from engine.prediction.rings import planesOf
from engine.prediction.stream import Step, listWindows

GIB = 2**30
SLABS_ON_THEIR_WAY = 7  # float32: two being read, one being fed, one predicted, three being written
SAMPLE = 64  # cells along a side of the section that memory is extrapolated from
ALLOCATOR = 1.04  # what the process takes, over what is asked for
SLABS = (32, 16, 8)  # planes that enter at a time; 16 is as fast as 32, memory is smaller
SLOWER = {8: 1.07}  # than with more planes


class Tile(NamedTuple):
    """Rows and columns, half-open: what passes through the network and what of it is kept."""

    outerRows: tuple[int, int]
    outerColumns: tuple[int, int]
    rows: tuple[int, int]
    columns: tuple[int, int]


class Layout(NamedTuple):
    """How a volume is predicted."""

    slab: int  # planes that enter at a time
    rowTiles: int
    columnTiles: int
    memory: float  # GiB that the process is expected to take


class Geometry(NamedTuple):
    """What the layout follows from."""

    size: tuple[int, int, int]  # planes, rows, columns of the region
    cell: int  # voxels that the network needs sides to be multiples of
    halo: int  # voxels of context of a tile, a multiple of `cell`

    @property
    def shape(self) -> tuple[int, int, int]:
        """Planes, rows and columns with what is mirrored at the far ends to fill the last cells."""
        return tuple(-(-side // self.cell) * self.cell for side in self.size)


def listTiles(geometry: Geometry, layout: Layout) -> list[Tile]:
    """List the tiles of a layout, row by row; all have the same outer size so that one graph serves them."""
    rows, columns = (
        list(_cutAxis(side, count, geometry))
        for side, count in zip(geometry.shape[1:], (layout.rowTiles, layout.columnTiles), strict=True)
    )
    return [Tile(row[0], column[0], row[1], column[1]) for row, column in itertools.product(rows, columns)]


def countTiles(geometry: Geometry, layout: Layout) -> int:
    """Count the tiles of a layout, without listing them: there may be millions."""
    sides = zip(geometry.shape[1:], (layout.rowTiles, layout.columnTiles), strict=True)
    return math.prod(-(-side // _tileSides(side, count, geometry)[0]) for side, count in sides)


def tileSection(geometry: Geometry, layout: Layout) -> tuple[int, int]:
    """Rows and columns of every tile with its halo."""
    _, height, width = geometry.shape
    rows, columns = layout.rowTiles, layout.columnTiles
    return _tileSides(height, rows, geometry)[1], _tileSides(width, columns, geometry)[1]


def workFactor(geometry: Geometry, layout: Layout) -> float:
    """Voxels that pass through the network, relative to those of the volume."""
    factor = 1.0
    for side, count in zip(geometry.shape[1:], (layout.rowTiles, layout.columnTiles), strict=True):
        length, outer = _tileSides(side, count, geometry)
        factor *= -(-side // length) * outer / side
    return factor


def _tileSides(side: int, count: int, geometry: Geometry) -> tuple[int, int]:
    """Side of the tiles that an axis is cut into, without and with halo."""
    length = -(-side // geometry.cell // count) * geometry.cell
    neighbours = min(-(-side // length) - 1, 2)
    return length, min(side, length + neighbours * geometry.halo)


def _cutAxis(side: int, count: int, geometry: Geometry) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """Cut one axis into (outer, core) ranges; the outer ones are equally long and lie inside the volume."""
    length, outer = _tileSides(side, count, geometry)
    for start in range(0, side, length):
        first = min(max(start - geometry.halo, 0), side - outer)
        yield (first, first + outer), (start, min(start + length, side))


def costOf(geometry: Geometry, layout: Layout) -> float:
    """Relative time: work, and what of the first and the last slab lies outside the volume."""
    planes = geometry.shape[0]
    return workFactor(geometry, layout) * SLOWER.get(layout.slab, 1.0) * (planes + layout.slab / 2) / planes


def chooseLayout(
    geometry: Geometry,
    steps: list[Step],
    byteCount: int,
    memoryBudget: float,
    base: float,
    cost: Callable[[Geometry, Layout], float] = costOf,
) -> Layout:
    """Choose the layout with the least work that fits into the memory.

    Parameters
    ----------
    geometry : Geometry
        Region and network.
    steps : list of Step
        From `describeStream`.
    byteCount : int
        Bytes of a stored number: 4, or 2 for the half precisions.
    memoryBudget : float
        GiB that the whole process may take.
    base : float
        GiB that it takes before any plane is read, libraries included.
    cost : callable
        Gives the relative time of a layout; default: in one process.

    Raises
    ------
    PipelineError
        Not even the smallest tile fits; says what would.
    """
    best, least = None, math.inf
    for slab in _slabChoices(geometry):
        perArea = measureStream(steps, slab, (SAMPLE * geometry.cell,) * 2, byteCount)
        perArea /= (SAMPLE * geometry.cell) ** 2
        for counts in itertools.product(*(_countChoices(side, geometry.cell) for side in geometry.shape[1:])):
            layout = Layout(slab, *counts, 0.0)
            memory = base + perArea * math.prod(tileSection(geometry, layout)) / GIB
            least = min(least, memory)
            if memory <= memoryBudget:
                found = layout._replace(memory=memory)
                spent = cost(geometry, found)
                best = min(best or (spent, found), (spent, found), key=lambda pair: pair[0])
    if best is None:
        raise PipelineError(
            f"memoryBudget of {memoryBudget:g} GiB is too small",
            remedy=f"at least {math.ceil(least * 100) / 100:g} GiB is needed",
        )
    return best[1]


def _slabChoices(geometry: Geometry) -> list[int]:
    """Slabs worth a try: multiples of the cell, at most the volume."""
    planes = geometry.shape[0]
    choices = [
        slab for slab in SLABS if slab % geometry.cell == 0 and slab <= max(planes // 4, geometry.cell)
    ]
    return choices or [geometry.cell]


def _countChoices(side: int, cell: int) -> list[int]:
    """Numbers of tiles along an axis that differ in the length of a tile."""
    cells = side // cell
    return sorted({-(-cells // length) for length in range(1, cells + 1)})


def measureStream(steps: list[Step], slab: int, section: tuple[int, int], byteCount: int) -> int:
    """Bytes that the stream of one tile takes: rings, what operations keep inside, slabs on their way."""
    windows = listWindows(steps, slab)
    pooled = {step.inputs[0] for step in steps if step.kind == "pool"}
    total = 0
    for step in steps:
        area = (section[0] >> step.level) * (section[1] >> step.level)
        plane = area * step.channels * (4 if step.kind == "input" else byteCount)
        count = slab >> step.level
        if windows[step.name]:
            total += planesOf(count, step.lag, windows[step.name]) * plane
        inside = 3 * (step.kind == "merge") + (step.name in pooled) + (step.head is not None)
        total += inside * count * plane
    total += SLABS_ON_THEIR_WAY * slab * math.prod(section) * 4
    return round(ALLOCATOR * total)
