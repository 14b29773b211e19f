"""What a prediction consists of: tiles and ranges of planes, in any order, by anybody."""

from collections.abc import Iterable
from typing import NamedTuple

from engine.prediction.layout import Geometry, Layout, listTiles

Range = tuple[int, int]


class Task(NamedTuple):
    """Planes of a tile: idempotent, writes its own voxels of the result and no others.

    The planes before them that the network needs to see are the executor's business.
    """

    tile: int  # number in `listTiles`
    planes: Range  # half-open


def listTasks(geometry: Geometry, layout: Layout, planeCount: int = 0) -> list[Task]:
    """Cut a prediction into tasks of at most so many planes; 0: one a tile."""
    depth = geometry.size[0]
    step = planeCount or depth
    return [
        Task(tile, (first, min(first + step, depth)))
        for tile in range(len(listTiles(geometry, layout)))
        for first in range(0, depth, step)
    ]


def mergeTasks(tasks: Iterable[Task]) -> list[Task]:
    """Join tasks that touch or overlap; in order of tile and plane."""
    merged: list[Task] = []
    for task in sorted(tasks):
        if merged and merged[-1].tile == task.tile and task.planes[0] <= merged[-1].planes[1]:
            first, last = merged[-1].planes
            merged[-1] = Task(task.tile, (first, max(last, task.planes[1])))
        else:
            merged.append(task)
    return merged


def leaveOut(tasks: Iterable[Task], finished: Iterable[Task]) -> list[Task]:
    """Give what is left of tasks without those that are finished, wholly or in part."""
    done, left = mergeTasks(finished), []
    for tile, (first, last) in tasks:
        for start, stop in [task.planes for task in done if task.tile == tile]:
            if first < min(start, last):
                left.append(Task(tile, (first, min(start, last))))
            first = max(first, min(stop, last))
        if first < last:
            left.append(Task(tile, (first, last)))
    return left
