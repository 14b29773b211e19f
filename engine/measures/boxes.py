"""Which boxes of a scan would teach a network most: uncertain ones, unlike those that are labelled.

Sums over small cells are all that is kept of a volume; sums over boxes follow from them. There are at most a
million cells, which grow with the volume.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from engine.base.squares import FEATURES
from engine.volumes.greys import equals
from engine.volumes.scale import Scale

SIDE = 64  # voxels of a box, fewer where the volume is thinner
MULTIPLE = 8  # sides of boxes, and the least ones of cells: what prepareData.py cuts
MOST_CELLS = 1 << 20
LEAST_DATA = 0.5  # share of the voxels of a box that hold data
LEAST_UNCERTAINTY = 1e-9  # is added, so that equally certain boxes are told apart by what they are like
LEAST_SPREAD = 1e-6  # standard deviation of a feature that tells boxes apart
LEAST_CLASS = 1e-6  # range of probabilities on one side of the threshold, at least
QUARTILES = 1.349  # standard deviations between the quartiles of normal values
SUMS = ("data", "uncertainty", "probability", "grey", "square")  # over the voxels of a cell
Box = tuple[tuple[int, int], ...]  # half-open ranges of voxels along x, y, z


class Grid(NamedTuple):
    """A volume that is cut into cells, and the box that is looked for; voxels along (x, y, z)."""

    shape: tuple[int, ...]
    box: tuple[int, ...]  # a multiple of the cell
    cell: tuple[int, ...]

    @classmethod
    def of(cls, shape: Sequence[int]) -> "Grid":
        """Choose box and cells; a side of 0 means that no box fits."""
        box = tuple(min(SIDE, side // MULTIPLE * MULTIPLE) for side in shape)
        cell = [MULTIPLE] * 3
        while math.prod(cls(tuple(shape), box, tuple(cell)).counts) > MOST_CELLS:
            growing = [axis for axis in range(3) if box[axis] % (2 * cell[axis]) == 0]
            if not growing:
                break
            cell[max(growing, key=lambda axis: shape[axis] / cell[axis])] *= 2
        return cls(tuple(shape), box, tuple(cell))

    @property
    def counts(self) -> tuple[int, ...]:
        """Cells along (x, y, z); the last ones may be cut."""
        return tuple(-(-side // cell) for side, cell in zip(self.shape, self.cell, strict=True))

    @property
    def starts(self) -> tuple[np.ndarray, ...]:
        """First voxels of all boxes along x, y and z."""
        return tuple(
            np.arange(0, side - box + 1, cell)
            for side, box, cell in zip(self.shape, self.box, self.cell, strict=True)
        )


class Choice(NamedTuple):
    """A box, and why it was chosen."""

    box: Box
    score: float
    uncertainty: float  # mean over its voxels: 1 at the threshold, 0 at the probabilities 0 and 1
    unlikeness: float  # 0 to 1, to labelled boxes and the training


# ------------------------------------------------------------------------------------------ sums over cells


class Cells:
    """Sums over the cells of some planes of a volume: an observer.

    Parameters
    ----------
    grid : Grid
        Of the whole volume.
    threshold : float
        Probability from which on a voxel is positive: there it is most uncertain.
    scale : Scale
        What grey values are z-scored with, and which of them means that there is none.
    first, last : int
        Planes, half-open.

    Attributes
    ----------
    sums : (kind, z, y, x) float64
        Of the kinds in `SUMS`, for all layers of cells that the planes touch.
    """

    STATE = ("sums",)

    def __init__(self, grid: Grid, threshold: float, scale: Scale, first: int, last: int) -> None:
        self._grid, self._threshold, self._scale = grid, threshold, scale
        width, height, _ = grid.counts
        self._layer, end = first // grid.cell[2], -(-last // grid.cell[2])
        self.sums = np.zeros((len(SUMS), end - self._layer, height, width))

    def add(self, z: int, probability: np.ndarray, grey: np.ndarray) -> None:
        """Take planes (z, y, x) that begin at plane `z`: float32, and grey values."""
        depth, end = self._grid.cell[2], z + len(probability)
        ends = [z, *range((z // depth + 1) * depth, end, depth), end]
        for sums, values in zip(self.sums, self._describe(probability, grey), strict=True):
            for first, last in itertools.pairwise(ends):
                sums[first // depth - self._layer] += self._sumLayer(values[first - z : last - z])

    def join(self, other: "Cells") -> None:
        """Add the sums of other planes."""
        first = other._layer - self._layer
        self.sums[:, first : first + other.sums.shape[1]] += other.sums

    def _describe(self, probability: np.ndarray, grey: np.ndarray) -> Iterator[np.ndarray]:
        """Give what is summed up, kind by kind; voxels without data are 0."""
        scale = self._scale
        scored = np.subtract(scale.mend(grey), scale.mean, dtype=np.float64)
        scored *= 1 / scale.std if scale.std else 0.0
        isData = np.ones(grey.shape, bool) if scale.noData is None else ~equals(grey, scale.noData)
        scored *= isData
        probability = probability * isData
        yield isData
        yield measureUncertainty(probability, self._threshold) * isData
        yield probability
        yield scored
        yield np.square(scored, out=scored)

    def _sumLayer(self, planes: np.ndarray) -> np.ndarray:
        """Sum planes of one layer over its cells: (y, x) float64."""
        layer = np.add.reduce(planes, axis=0, dtype=np.float64)
        for axis, cell in ((0, self._grid.cell[1]), (1, self._grid.cell[0])):
            layer = np.add.reduceat(layer, np.arange(0, layer.shape[axis], cell), axis=axis)
        return layer


def measureUncertainty(probability: np.ndarray, threshold: float) -> np.ndarray:
    """Give 1 at the threshold, 0 at the probabilities 0 and 1, and what lies on straight lines between."""
    below, above = (max(part, LEAST_CLASS) for part in (threshold, 1 - threshold))
    return np.where(probability < threshold, probability / below, (1 - probability) / above)


# ------------------------------------------------------------------------------------------ sums over boxes


class Candidates:
    """All boxes of a volume.

    Parameters
    ----------
    grid : Grid
        Where they lie.
    sums : (kind, z, y, x) float64
        Over all cells.

    Attributes
    ----------
    dataShare, uncertainty : (box,) float64
        Share of the voxels that hold data; mean over all voxels.
    weight : (box,) float64
        The uncertainty, that of the middle counted twice: what one is to look at has something around it.
    features : (box, 3) float64
        What a box is like: mean and standard deviation of z-scored grey values, mean probability.
    """

    def __init__(self, grid: Grid, sums: np.ndarray) -> None:
        self._grid, self._sums = grid, sums
        sides = [box // cell for box, cell in zip(grid.box, grid.cell, strict=True)][::-1]  # z, y, x
        inner = [max(side // 2, 1) for side in sides]
        self._counts = tuple(map(len, grid.starts[::-1]))
        found = self._slide(sums, sides, (0, 0, 0))
        offsets = [(side - part) // 2 for side, part in zip(sides, inner, strict=True)]
        middle = self._slide(sums[SUMS.index("uncertainty")][np.newaxis], inner, offsets)[0]
        size = math.prod(grid.box)
        self.dataShare, self.uncertainty = found[0] / size, found[1].clip(0) / size
        self.weight = self.uncertainty + middle.clip(0) / size
        self.features = describeSums(found)

    def _slide(self, sums: np.ndarray, sides: Sequence[int], offsets: Sequence[int]) -> np.ndarray:
        """Sum over so many cells along z, y, x, at this offset in every box: (kind, box)."""
        for axis, (side, offset, count) in enumerate(zip(sides, offsets, self._counts, strict=True), 1):
            ends = np.insert(np.cumsum(sums, axis=axis), 0, 0, axis=axis)
            firsts = np.arange(offset, offset + count)
            sums = ends.take(firsts + side, axis=axis) - ends.take(firsts, axis=axis)
        return sums.reshape(len(sums), -1)

    def boxOf(self, number: int) -> Box:
        """Give the voxels of a box."""
        places = np.unravel_index(number, self._counts)[::-1]
        firsts = [int(starts[place]) for starts, place in zip(self._grid.starts, places, strict=True)]
        return tuple((first, first + side) for first, side in zip(firsts, self._grid.box, strict=True))

    def lieOn(self, strides: Sequence[int]) -> np.ndarray:
        """Tell which boxes begin at multiples of so many voxels along x, y, z: (box,) bool."""
        x, y, z = (starts % stride == 0 for starts, stride in zip(self._grid.starts, strides, strict=True))
        return (z[:, np.newaxis, np.newaxis] & y[:, np.newaxis] & x).ravel()

    def overlaps(self, box: Box) -> np.ndarray:
        """Tell which boxes have a voxel in common with a given one: (box,) bool."""
        x, y, z = (
            (starts < last) & (starts + side > first)
            for starts, side, (first, last) in zip(self._grid.starts, self._grid.box, box, strict=True)
        )
        return (z[:, np.newaxis, np.newaxis] & y[:, np.newaxis] & x).ravel()

    def describe(self, box: Box) -> np.ndarray | None:
        """Give the features (3,) of any box, by the cells that it touches; None where it holds no data."""
        cells = []
        for (first, last), cell, side in zip(box, self._grid.cell, self._grid.shape, strict=True):
            first, last = max(first, 0), min(last, side)
            if first >= last:
                return None
            cells.insert(0, slice(first // cell, -(-last // cell)))
        found = self._sums[:, *cells].sum(axis=(1, 2, 3))
        return describeSums(found[:, np.newaxis])[0] if found[0] else None


def describeSums(found: np.ndarray) -> np.ndarray:
    """Give the features (box, 3) that follow from sums (kind, box)."""
    data, _, probability, grey, square = found
    count = np.maximum(data, 1)
    mean = grey / count
    return np.column_stack([mean, np.sqrt((square / count - mean**2).clip(0)), probability / count])


# --------------------------------------------------------------------------------------------- what is chosen


def chooseBoxes(
    grid: Grid,
    sums: np.ndarray,
    count: int,
    labelled: Sequence[Box] = (),
    learnt: dict[str, Any] | None = None,
) -> list[Choice]:
    """Choose boxes one after the other, each the most uncertain one that is unlike those before it.

    The score is the uncertainty times how unlike a box is to the nearest labelled or chosen one, times one
    half to one by how unlike it is to what was learnt. Boxes do not overlap, and hold data for the most part.

    Parameters
    ----------
    grid : Grid
        Of the volume.
    sums : (kind, z, y, x) float64
        Over all cells.
    count : int
        Boxes that are wanted, at most.
    labelled : sequence of Box
        Are labelled already.
    learnt : dict, optional
        Of the contract of the network: features of squares that it has learnt on.

    Returns
    -------
    list of Choice
        In their order; fewer than wanted where no more fit. Where boxes anywhere are too few, those at half
        and at whole sides of boxes from one another are tried as well.
    """
    candidates, most = Candidates(grid, sums), []
    for divisor in (SIDE, 2, 1):  # boxes that lie anywhere leave gaps that none fits into
        isFree = candidates.lieOn([max(side // divisor, 1) for side in grid.box])
        chosen = _chooseFrom(candidates, isFree, count, labelled, learnt or {})
        most = max(most, chosen, key=len)
        if len(most) == count:
            break
    return most


def _chooseFrom(
    candidates: Candidates, isFree: np.ndarray, count: int, labelled: Sequence[Box], learnt: dict[str, Any]
) -> list[Choice]:
    """Choose from some of the boxes."""
    isFree &= candidates.dataShare >= LEAST_DATA
    for box in labelled:
        isFree &= ~candidates.overlaps(box)
    if not isFree.any():
        return []
    spread = candidates.features[isFree].std(axis=0)
    spread = np.where(spread > LEAST_SPREAD, spread, 1.0)
    features, nearest = candidates.features / spread, np.full(len(isFree), np.inf)
    for box in labelled:
        if (place := candidates.describe(box)) is not None:
            nearest = np.minimum(nearest, _distance(features, place / spread))
    isNew = (1 + _saturate(_distanceToLearnt(features, spread, learnt))) / 2
    chosen: list[Choice] = []
    while len(chosen) < count and isFree.any():
        unlikeness = _saturate(nearest) * isNew
        score = (candidates.weight + LEAST_UNCERTAINTY) * unlikeness
        best = int(np.argmax(np.where(isFree, score, -1)))
        why = score[best], candidates.uncertainty[best], unlikeness[best]
        chosen.append(Choice(candidates.boxOf(best), *map(float, why)))
        isFree &= ~candidates.overlaps(chosen[-1].box)
        nearest = np.minimum(nearest, _distance(features, features[best]))
    return chosen


def _distance(features: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Give the distance of every box to a place, root mean square over the features."""
    return np.sqrt(np.square(features - place).mean(axis=1))


def _saturate(distance: np.ndarray) -> np.ndarray:
    """Bring distances into 0 to 1: one half at 1, 1 where nothing is near."""
    return 1 - 1 / (1 + distance)


def _distanceToLearnt(features: np.ndarray, spread: np.ndarray, learnt: dict[str, Any]) -> np.ndarray:
    """Give the distance to the nearest learnt square, by grey values alone; infinite where there is none.

    Of a square there are quantiles: the middle one stands for the mean, the quartiles for the deviation.
    """
    if learnt.get("features") != list(FEATURES) or not learnt.get("squares"):
        return np.full(len(features), np.inf)
    from scipy.spatial import KDTree  # loads slowly

    low, middle, high = (np.array(learnt["squares"])[:, FEATURES.index(f"q{part}%")] for part in (25, 50, 75))
    squares = np.column_stack([middle, (high - low) / QUARTILES]) / spread[:2]
    return KDTree(squares).query(features[:, :2])[0] / 2**0.5
