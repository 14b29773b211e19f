"""What is cut from every volume: which sub-volumes, and where they go."""

import itertools
import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from engine.base.errors import PipelineError
from engine.preparation.labelled import Labelled
from engine.preparation.pairs import Pair
from engine.preparation.samples import Part
from engine.volumes.scale import Scale


class Cut(NamedTuple):
    """The sub-volumes of one volume."""

    pair: Pair
    scale: Scale
    starts: tuple[list[int], ...]  # along x, y and z
    shape: tuple[int, int, int]
    rotationCount: int
    first: int  # number of its first sample in the set
    labelled: Labelled
    kept: np.ndarray | None  # bool, a sub-volume each along x, y and z; None: all are

    @property
    def sampleCount(self) -> int:
        """Samples, with turned copies."""
        count = math.prod(map(len, self.starts)) if self.kept is None else int(self.kept.sum())
        return count * self.rotationCount

    def keep(self, places: Iterable) -> Iterator:
        """Leave out sub-volumes without a labelled voxel, of all in their order with turned copies."""
        if self.kept is None:
            return iter(places)
        return itertools.compress(places, np.repeat(self.kept, self.rotationCount).tolist())


def listCuts(part: Part, scales: list[Scale], rotationCount: int) -> list[Cut]:
    """List what is cut from every volume of a set, and where it goes."""
    cuts, first = [], 0
    kept = part.kept or [None] * len(part.pairs)
    for pair, starts, scale, isKept in zip(part.pairs, part.starts, scales, kept, strict=True):
        labelled = part.labelled.of(pair.mask)
        cuts.append(Cut(pair, scale, starts, part.shape, rotationCount, first, labelled, isKept))
        first += cuts[-1].sampleCount
    return cuts


def keepLabelled(part: Part, counts: list[np.ndarray], rotationCount: int) -> Part:
    """Leave out the sub-volumes of a set in which nothing is labelled.

    Parameters
    ----------
    part : Part
        All of them.
    counts : list of array
        A volume: labelled voxels of its sub-volumes along x, y and z.
    rotationCount : int
        Copies of each.

    Raises
    ------
    PipelineError
        Nothing is labelled in any of them.
    """
    if part.labelled.isDense:
        return part
    kept = [count > 0 for count in counts]
    keptCount = sum(int(isKept.sum()) for isKept in kept)
    if not keptCount:
        where = part.pairs[0].mask.path.parent
        remedy = "look at --ignoreLabel and the labelled slices; --cover uses every voxel"
        raise PipelineError(f"nothing labelled in the {part.name} sub-volumes", file=where, remedy=remedy)
    isWhole = all(
        (count[isKept] == math.prod(part.shape)).all() for count, isKept in zip(counts, kept, strict=True)
    )
    return part._replace(sampleCount=keptCount * rotationCount, kept=kept, isSparse=not isWhole)
