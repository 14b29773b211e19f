"""A prediction in parts that different processes do: as equal as possible, with the least work in all.

The tiles of a layout lie one behind the other, and the line of all their planes is cut into pieces of equal
length. So a part is a range of planes of a tile, a whole tile, several, or what is left between.
"""

from typing import NamedTuple

from engine.base.errors import PipelineError
from engine.prediction.layout import SLOWER, Geometry, Layout, countTiles, tileSection
from engine.prediction.tasks import Task

MOST_EXTRA = 0.1  # of the work, for as many parts as nobody asked for
IMPOSSIBLE = 1e30  # relative time
LAG = 2  # planes less than the halo by which the last probabilities come later


class Part(NamedTuple):
    """One part of so many, counted from 0."""

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> "Part | None":
        """Read 3/32; None where the text is empty.

        Raises
        ------
        PipelineError
            It is no such pair, or the part is not one of them.
        """
        if not text:
            return None
        first, slash, second = text.partition("/")
        if not (slash and first.removeprefix("-").isdecimal() and second.isdecimal()):
            raise PipelineError("part must be like 3/32", received=repr(text))
        index, count = int(first), int(second)
        if not 0 <= index < count:
            expected = f"0/{count} to {count - 1}/{count}" if count else "at least one part, like 0/1"
            raise PipelineError("there is no such part", expected=expected, received=text)
        return cls(index, count)

    def __str__(self) -> str:
        """Write it as a user does."""
        return f"{self.index}/{self.count}"


def mostParts(geometry: Geometry, layout: Layout) -> int:
    """Count the smallest pieces that a layout can be cut into."""
    return countTiles(geometry, layout) * -(-geometry.size[0] // geometry.cell)


def cutParts(geometry: Geometry, layout: Layout, count: int) -> list[list[Task]]:
    """Cut a prediction into so many parts, a list of tasks each.

    Raises
    ------
    PipelineError
        More parts than there are pieces.
    """
    depth, cell = geometry.size[0], geometry.cell
    cells, most = -(-depth // cell), mostParts(geometry, layout)
    if count > most:
        raise PipelineError("more parts than tasks", expected=f"at most {most}", received=count)
    ends = [number * most // count for number in range(count + 1)]
    return [
        [
            Task(tile, (max(first - tile * cells, 0) * cell, min((last - tile * cells) * cell, depth)))
            for tile in range(first // cells, -(-last // cells))
        ]
        for first, last in zip(ends[:-1], ends[1:], strict=True)
    ]


def measureTask(geometry: Geometry, layout: Layout, task: Task) -> int:
    """Count the voxels that pass through the network for a task, those that lead in and out as well."""
    (start, stop), slab = task.planes, layout.slab
    height, width = tileSection(geometry, layout)
    first = max(start - geometry.halo - geometry.cell, 0) // slab
    return (-(-(stop + geometry.halo - LAG) // slab) - first) * slab * height * width


def partFactor(geometry: Geometry, layout: Layout, count: int) -> float:
    """Tell how many times the work of the volume so many parts are, if all are as long as the longest."""
    works = [
        sum(measureTask(geometry, layout, task) for task in part)
        for part in cutParts(geometry, layout, count)
    ]
    planes, rows, columns = geometry.size
    return max(works) * count / (planes * rows * columns)


def costOfParts(count: int, geometry: Geometry, layout: Layout) -> float:
    """Estimate the relative time of the longest part; where there are not so many, least for the most."""
    tiles, depth = layout.rowTiles * layout.columnTiles, geometry.size[0]
    if count > (most := mostParts(geometry, layout)):
        return IMPOSSIBLE / most
    height, width = tileSection(geometry, layout)
    runs = max(1, -(-tiles // count))  # begun by a part
    planes = max(tiles * depth / count, geometry.cell)
    isWhole = tiles % count == 0  # all parts are whole tiles: nothing leads in
    lead = geometry.halo - LAG + layout.slab / 2 + (0 if isWhole else geometry.halo + geometry.cell)
    return (planes + runs * lead) * height * width * SLOWER.get(layout.slab, 1.0)


def chooseCount(geometry: Geometry, layout: Layout, atLeast: int = 1) -> int:
    """Choose as many parts as keep the extra work small; not fewer than asked for."""
    tiles = layout.rowTiles * layout.columnTiles
    alone = partFactor(geometry, layout, 1)
    count = tiles + int(MOST_EXTRA * tiles * geometry.size[0] / geometry.halo)
    count = min(count, mostParts(geometry, layout))
    while count > atLeast and partFactor(geometry, layout, count) > (1 + MOST_EXTRA) * alone:
        count -= 1
    return max(count, min(atLeast, mostParts(geometry, layout)))


def describeCut(geometry: Geometry, layout: Layout, count: int) -> str:
    """Tell what cutting costs."""
    factor = partFactor(geometry, layout, count)
    tiles = layout.rowTiles * layout.columnTiles
    planes = -(-tiles * geometry.size[0] // count)
    what = f"{tiles} tiles" if tiles > 1 else "one tile"
    return f"{count} parts of at most {planes} planes of {what}: {factor:.2f} times the work of one pass"
