"""How a pass over a probability is cut into ranges of planes, and who does them.

The ranges follow from the shape, and from a memoryBudget below 1 GiB; what is found in them is joined in
their order: results are the same to the last byte, however many processes have made them.
"""

import contextlib
import functools
import itertools
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple, TypeVar

import numpy as np

from engine.base.console import showProgress
from engine.base.errors import PipelineError
from engine.base.machine import coreCount, freeMemoryGiB
from engine.base.ranges import cutRanges
from engine.base.records import sketchFile, spreadOver
from engine.base.workers import Processes, Workers, openWorkers
from engine.formats.opening import openMask, openVolume
from engine.masks.place import View, openView, viewOf
from engine.measures.labelling import Labels
from engine.volumes.names import nameOf
from engine.volumes.volume import Region, Volume, chooseSlab

LOGGER = logging.getLogger(__name__)
LEAST_VOXELS = 1 << 24  # of a range
WORTHWHILE_VOXELS = 200_000_000  # of a volume from which on several processes are worth their start
PROCESS_GIB, VOXEL_BYTES = 0.25, 160  # that a process takes: by itself, and for a voxel of a slab
MOST_GIB = 8.0  # for all processes, where no budget is given
Answer = TypeVar("Answer")
Blocks = Iterator[tuple[np.ndarray, np.ndarray | None]]


class Range(NamedTuple):
    """Planes that are looked at together, half-open ranges of planes and of slabs."""

    first: int
    last: int
    firstSlab: int
    lastSlab: int
    labels: Labels | None = None  # of its slabs, once they are known


class Source(NamedTuple):
    """A written probability, and a manual mask, as any process can open them."""

    result: Path
    region: Region  # of the volume, which the mask has the shape of
    slab: int  # planes that are read at a time
    reference: Path | None = None
    view: View = View()  # of the reference
    seen: tuple[tuple[Path, dict], ...] = ()  # what other machines must see: sketches of files, of many some

    @classmethod
    def of(cls, result: Path, region: Region, reference: Volume | None, memoryBudget: float) -> "Source":
        """Describe a result that lies on the disk, and the opened reference."""
        slab = chooseSlab([stop - start for start, stop in region], memoryBudget)
        if reference is None:
            return cls(result, region, slab)
        return cls(result, region, slab, nameOf(reference), viewOf(reference))

    @property
    def isSeekable(self) -> bool:
        """Whether a part can be read without all that lies before it."""
        volumes = [openVolume(self.result)] + ([openMask(self.reference)] if self.reference else [])
        return all(getattr(volume, "encoding", "raw") == "raw" for volume in volumes)

    def absolute(self) -> "Source":
        """Give the same with names that mean it on other machines too, which must find the same files."""
        named = [path.resolve() if path else None for path in (self.result, self.reference)]
        volumes = [openVolume(named[0]), *([openMask(named[1])] if named[1] else ())]
        files = [file for volume in volumes for file in spreadOver(volume.files)]
        seen = tuple((file, sketchFile(file)) for file in files)
        return self._replace(result=named[0], reference=named[1], seen=seen)

    def _check(self) -> None:
        """Require that this machine sees the files as the one does that has begun."""
        for path, sketch in self.seen:
            try:
                isSame = sketchFile(path) == sketch
            except OSError as error:
                rule = f"a worker cannot read it: {error.strerror}"
                raise PipelineError(rule, file=path, remedy="all machines need the same paths") from error
            if not isSame:
                remedy = "all machines need the same files"
                raise PipelineError("a worker sees another file than this process", file=path, remedy=remedy)

    def open(self, first: int, last: int) -> Blocks:
        """Read planes as blocks (x, y, z) of the result and, with one, of the reference."""
        self._check()
        results = openVolume(self.result).slabs(((None, None), (None, None), (first, last)), self.slab)
        if self.reference is None:
            yield from ((block, None) for block in results)
            return
        reference = openView(self.reference, self.view)
        across, start = self.region[:2], self.region[2][0]
        masks = reference.slabs((*across, (start + first, start + last)), self.slab)
        yield from zip(results, masks, strict=True)  # both to their ends

    def ranges(self) -> list[Range]:
        """Cut the planes into ranges of whole slabs."""
        shape = [stop - start for start, stop in self.region]
        return [
            Range(first, last, first // self.slab, -(-last // self.slab))
            for first, last in cutRanges(shape, self.slab, LEAST_VOXELS)
        ]


def walk(
    function: Callable[[Range, Blocks], Answer],
    source: Source,
    ranges: Sequence[Range],
    workers: Workers,
    words: str,
    known: Mapping[int, Answer] = MappingProxyType({}),
) -> Iterator[Answer]:
    """Call a function with every range and its blocks; gives the answers in the order of the ranges.

    Parameters
    ----------
    function : callable
        Pickles, unless there is one worker.
    source : Source
        Is opened anew for every range; by one worker, or where its voxels are compressed, once for all ranges
        in a row.
    ranges : sequence of Range
        In order.
    workers : Workers
        Who does it.
    words : str
        For the progress bar.
    known : mapping, optional
        Answers that there are already, by the first plane of their range.
    """
    left = [place for place in ranges if place.first not in known]
    if workers.count > 1 and len(left) > 1 and source.isSeekable:
        found = _doAlone(function, source, left, workers)
    else:
        found = _doInTurn(function, source, left)
    answers = (known[place.first] if place.first in known else next(found) for place in ranges)
    bar = {"total": len(ranges), "desc": words, "unit": "range", "leave": False, "delay": 2}
    return iter(showProgress(answers, **bar))


def _doAlone(
    function: Callable[[Range, Blocks], Answer], source: Source, ranges: Sequence[Range], workers: Workers
) -> Iterator[Answer]:
    """Do ranges in other processes, each by itself; gives the answers in their order."""
    source = source if isinstance(workers, Processes) else source.absolute()
    return workers.map(functools.partial(doOne, function, source), ranges)


def doOne(function: Callable[[Range, Blocks], Answer], source: Source, place: Range) -> Answer:
    """Do one range, in any process."""
    with contextlib.closing(source.open(place.first, place.last)) as blocks:
        return function(place, blocks)


def _doInTurn(
    function: Callable[[Range, Blocks], Answer], source: Source, ranges: Sequence[Range]
) -> Iterator[Answer]:
    """Do ranges in this process, each when its answer is asked for; those in a row are read together."""
    for row in listRows(ranges):
        *others, end = row
        with contextlib.closing(source.open(row[0].first, end.last)) as blocks:
            for place in others:
                yield function(place, itertools.islice(blocks, place.lastSlab - place.firstSlab))
            yield function(end, blocks)  # to its end, where damage is noticed


def listRows(ranges: Sequence[Range]) -> list[list[Range]]:
    """List ranges, which are in order, by rows without gaps."""
    rows: list[list[Range]] = []
    for place in ranges:
        if rows and rows[-1][-1].last == place.first:
            rows[-1].append(place)
        else:
            rows.append([place])
    return rows


@contextlib.contextmanager
def openHands(
    workers: Workers | None, count: int, shape: tuple[int, int, int], memoryBudget: float
) -> Iterator[Workers]:
    """Give the workers that there are, or start processes of this machine for a block.

    Parameters
    ----------
    workers : Workers or None
        Of a cluster.
    count : int
        Of processes; 0: one for each core where the volume is large enough.
    shape : (int, int, int)
        Of the volume, (x, y, z).
    memoryBudget : float
        GiB for all processes, fewer are started where it is too small; 0: half of what is free, at most 8.
    """
    if workers:
        yield workers
        return
    wanted, fitting = chooseCount(count, shape), countFitting(shape, memoryBudget)
    if fitting < count:
        LOGGER.warning("memory for %d of %d processes, which do the results", fitting, count)
    with openWorkers(min(wanted, fitting)) as hands:
        yield hands


def chooseCount(count: int, shape: tuple[int, int, int]) -> int:
    """Choose how many processes do the results: those asked for, or one for each core of a large volume."""
    return count or (coreCount() if math.prod(shape) >= WORTHWHILE_VOXELS else 1)


def countFitting(shape: tuple[int, int, int], memoryBudget: float) -> int:
    """Count the processes that the memory is large enough for, at least 1."""
    budget = memoryBudget or min(freeMemoryGiB() / 2, MOST_GIB)
    voxels = shape[0] * shape[1] * chooseSlab(shape, memoryBudget)
    return max(int(budget / (PROCESS_GIB + voxels * VOXEL_BYTES / 2**30)), 1)
