"""Boxes of a scan to label next: pairs of image and pre-filled mask that a training takes as they are.

One walk over probability and grey values finds them; their voxels are read once more when they are written.
"""

import functools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from engine.base.console import describeShape, relativePath
from engine.base.passes import passOver
from engine.base.workers import Workers
from engine.formats.growing import decodeProbability
from engine.formats.nrrdGeometry import resultHeader
from engine.formats.nrrdHeaders import TYPES
from engine.formats.nrrdWriter import ENCODING, openPlanes
from engine.formats.opening import openVolume
from engine.formats.rawData import isSequential
from engine.masks.targets import Target
from engine.measures.boxes import Box, Cells, Grid, chooseBoxes
from engine.measures.labelling import Joining, Relabelling
from engine.results.evaluation import Criteria, Evaluation, Written
from engine.results.fillings import chooseFilling
from engine.results.ranges import Blocks, Range, Source, walk
from engine.results.reading import listPairs
from engine.results.suggested import LIST, Folder, Planned, nameFolder
from engine.volumes.scale import MOMENTS_FIELD, Scale
from engine.volumes.volume import Volume

# ----------------------------------------------------------------------------------------------- what is seen


class Search(NamedTuple):
    """What is looked at, as plain data."""

    grid: Grid
    criteria: Criteria
    scale: Scale


class _Joined:
    """Finds out which components belong together, where small particles are left out: an observer."""

    def __init__(self, criteria: Criteria) -> None:
        self._threshold = criteria.threshold
        self.joining = Joining(criteria.connectivity) if criteria.minimumVoxels > 1 else None

    def add(self, z: int, probability: np.ndarray, grey: np.ndarray) -> None:
        """Take planes (z, y, x)."""
        if self.joining:
            self.joining.add(probability >= self._threshold)


def seeRange(search: Search, place: Range, blocks: Blocks) -> tuple[Cells, Joining | None]:
    """Look at one range, in any process: blocks of the probability and of the grey values."""
    cells = Cells(search.grid, search.criteria.threshold, search.scale, place.first, place.last)
    joined = _Joined(search.criteria)
    planes = ((decodeProbability(probability.T), grey.T) for probability, grey in blocks)
    passOver(planes, cells, joined, first=place.first)
    return cells, joined.joining


def seeAll(search: Search, source: Source, workers: Workers) -> tuple[Cells, Joining | None]:
    """Look at all planes once."""
    whole = Cells(search.grid, search.criteria.threshold, search.scale, 0, search.grid.shape[2])
    joined = _Joined(search.criteria).joining
    look = functools.partial(seeRange, search)
    for cells, joining in walk(look, source, source.ranges(), workers, "Looking for boxes"):
        whole.join(cells)
        if joined:
            joined.join(joining)
    return whole, joined


# -------------------------------------------------------------------------------------------- what is written


def suggestBoxes(
    written: Written, evaluation: Evaluation, workers: Workers, count: int, scale: Scale
) -> list[str]:
    """Choose boxes that are worth a label, and write each as an image and a mask to correct.

    Parameters
    ----------
    written : Written
        The probability.
    evaluation : Evaluation
        What is looked for, and the rules by which the masks are filled.
    workers : Workers
        Who looks at the voxels.
    count : int
        Boxes that are wanted.
    scale : Scale
        What the grey values were z-scored with.

    Returns
    -------
    list of str
        What to tell.
    """
    target, criteria, *_ = evaluation
    folder = Folder(nameFolder(written.path), written.volume).read()
    folder.make()
    corner = [start for start, _ in written.region]
    source = Source.of(written.path, written.region, written.volume, written.memoryBudget)
    search = Search(Grid.of(written.shape), criteria, scale)
    cells, joining = seeAll(search, source, workers)
    if missing := max(count - len(folder.listUnwritten(written.region)), 0):
        labelled = [_move(planned.box, [-first for first in corner]) for planned in folder.boxes.values()]
        choices = chooseBoxes(search.grid, cells.sums, missing, labelled, written.learnt)
        moved = (choice._replace(box=_move(choice.box, corner)) for choice in choices)
        folder.plan(moved, evaluation)
    planned = folder.listUnwritten(written.region)
    planned.sort(key=lambda one: (one.box[2][1], one.number))  # as voxels are read
    inside = [_move(one.box, [-first for first in corner]) for one in planned]
    positives = _readPositives(source._replace(reference=None), criteria, joining, inside)
    greys = readBoxes(written.volume, [one.box for one in planned], source.slab)
    for one, grey, positive in zip(planned, greys, positives, strict=True):
        _writePair(one, grey, positive, (folder.path, written.volume, scale, target))
    folder.finish(planned)
    return _describe(folder, planned, count, search.grid)


def _move(box: Box, steps: Sequence[int]) -> Box:
    """Move a box by so many voxels along x, y, z."""
    return tuple((first + step, last + step) for (first, last), step in zip(box, steps, strict=True))


def _describe(folder: Folder, planned: Sequence[Planned], count: int, grid: Grid) -> list[str]:
    """Tell what was written, and what to do with it."""
    place, shape = relativePath(folder.path), describeShape(grid.box)
    lines = [f"To label next: {len(planned)} boxes of {shape} voxels in {place}"]
    lines += [folder.describe(one) for one in sorted(planned, key=lambda one: one.number)]
    if len(planned) < count:
        lines.append(f"No more boxes fit beside one another and those of {place / LIST}")
    if planned:
        lines.append("Correct the masks and put both files of each to those of the training")
    return lines


def readBoxes(volume: Volume, boxes: Sequence[Box], slab: int) -> Iterator[np.ndarray]:
    """Read boxes (x, y, z) of a volume, in the order of their last planes; a compressed one only once."""
    if isSequential(volume):
        return cutBoxes(volume.slabs(None, slab), boxes)
    return map(volume.read, boxes)


def cutBoxes(blocks: Iterable[np.ndarray], boxes: Sequence[Box]) -> Iterator[np.ndarray]:
    """Cut boxes, in the order of their last planes, out of a volume that comes in blocks (x, y, planes)."""
    begun: dict[int, np.ndarray] = {}
    first = done = 0
    for block in blocks:
        last = first + block.shape[2]
        for number in range(done, len(boxes)):
            (x1, x2), (y1, y2), (z1, z2) = boxes[number]
            begin, end = max(z1, first), min(z2, last)
            if begin < end:
                sides = x2 - x1, y2 - y1, z2 - z1
                part = begun.setdefault(number, np.empty(sides, block.dtype, order="F"))
                part[:, :, begin - z1 : end - z1] = block[x1:x2, y1:y2, begin - first : end - first]
        while done < len(boxes) and boxes[done][2][1] <= last:
            yield begun.pop(done)
            done += 1
        if done == len(boxes):
            return
        first = last


def _readPositives(
    source: Source, criteria: Criteria, joining: Joining | None, boxes: Sequence[Box]
) -> Iterator[np.ndarray]:
    """Read where boxes (x, y, z) of the probability are positive by all rules."""
    if joining is None:
        parts = readBoxes(openVolume(source.result), boxes, source.slab)
        return (decodeProbability(part) >= criteria.threshold for part in parts)
    again = Relabelling(joining.finish(criteria.minimumVoxels), criteria.connectivity)
    depth = source.region[2][1] - source.region[2][0]
    planes = (probability for probability, _ in listPairs(source.open(0, depth)))
    return cutBoxes((again.label(part >= criteria.threshold).T > 0 for part in planes), boxes)


def _writePair(
    planned: Planned, grey: np.ndarray, positive: np.ndarray, of: tuple[Path, Volume, Scale, Target]
) -> None:
    """Write image and mask of a box; what is there is left as it is."""
    folder, volume, scale, target = of
    filling = chooseFilling(target)
    image, mask = planned.paths(folder, filling.isSegmentation)
    if not image.exists():
        dtype = volume.dtype if volume.dtype.str[1:] in TYPES else np.dtype(np.float32)
        header = resultHeader(volume, planned.box, dtype)
        header.pop(MOMENTS_FIELD, None)  # of a scan that was cut itself, and predicted by its own moments
        if scale.std:
            header[MOMENTS_FIELD] = f"{float(scale.mean)!r} {float(scale.std)!r}"
        with openPlanes(image, grey.shape, dtype.str, header, "raw") as write:
            write(grey.T)
    if not planned.hasMask(folder):
        dtype = filling.dtype
        header = resultHeader(volume, planned.box, dtype) | filling.describe(positive.shape, target.colour)
        header.pop(MOMENTS_FIELD, None)
        with openPlanes(mask, positive.shape, dtype.str, header, ENCODING) as write:
            write(np.where(positive, filling.inside, filling.outside).astype(dtype).T)
