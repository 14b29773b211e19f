"""What is kept of volumes that come plane by plane, to be shown later: mid-slices and small copies.

Ranges of planes can be kept apart, by other processes too: `part` of a range, filled, goes back by `join`.
"""

import copy
import functools
import itertools
from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np

SHOWN_VOXELS = 750  # along a side of a slice, more than it has pixels; memory does not grow with the volume

VOXEL_LIMIT = 6_000_000  # of a volume in the report: four of them stay under 20 MB in total


def chooseFactor(shape: tuple[int, int, int]) -> int:
    """Choose by how much a volume is thinned out along every axis to fit into the report."""
    factor = 1
    while np.prod([-(-side // factor) for side in shape]) > VOXEL_LIMIT:
        factor += 1
    return factor


class Kept(NamedTuple):
    """Which grey values are shown; others mean that there is none, which would take all shades."""

    low: float = 0.0
    high: float = 0.0
    fill: float | None = None  # what is shown instead of the others; None: all are shown

    def replace(self, values: np.ndarray) -> np.ndarray:
        """Put the fill in place of what lies outside; also where it is mixed with its neighbours."""
        if self.fill is None:
            return values
        return np.where((values >= self.low) & (values <= self.high), values, values.dtype.type(self.fill))


class Preview:
    """A volume that comes plane by plane, averaged over blocks of `factor` voxels a side.

    Parameters
    ----------
    shape : (int, int, int)
        Voxels along (x, y, z).
    factor : int
        Side of a block.
    """

    STATE = ("_sums",)

    def __init__(self, shape: tuple[int, int, int], factor: int) -> None:
        self._shape, self.factor = shape, factor
        self._starts = [np.arange(0, side, factor) for side in reversed(shape)]  # z, y, x
        self._sizes = [
            np.diff(starts, append=side) for starts, side in zip(self._starts, reversed(shape), strict=True)
        ]
        self._layers = 0, len(self._starts[0])  # of blocks that are summed up
        self.kept = Kept()

    @functools.cached_property
    def _sums(self) -> np.ndarray:
        """Sums (z, y, x) over the blocks of these layers."""
        first, last = self._layers
        return np.zeros([last - first, *map(len, self._starts[1:])], np.float32)

    def part(self, first: int, last: int) -> "Preview":
        """Give an empty one for the planes first to last (half-open) alone."""
        part = Preview(self._shape, self.factor)
        part._layers = first // self.factor, -(-last // self.factor)
        return part

    def join(self, part: "Preview") -> None:
        """Add the planes of a part."""
        self._sums[slice(*part._layers)] += part._sums

    def add(self, z: int, planes: np.ndarray) -> None:
        """Take planes (z, y, x) that begin at plane `z`."""
        end = z + len(planes)
        ends = [z, *range((z // self.factor + 1) * self.factor, end, self.factor), end]
        with np.errstate(over="ignore", invalid="ignore"):  # such values are refused afterwards, or filled
            for first, last in itertools.pairwise(ends):
                layer = np.add.reduce(planes[first - z : last - z], axis=0, dtype=np.float32)
                if self.factor > 1:  # after the planes: half the time at a factor of 3
                    rows = np.add.reduceat(layer, self._starts[1], axis=0)
                    layer = np.add.reduceat(rows, self._starts[2], axis=1)
                self._sums[first // self.factor - self._layers[0]] += layer

    def finish(self) -> np.ndarray:
        """Give the averages (z, y, x) float32."""
        z, y, x = (sizes.astype(np.float32) for sizes in self._sizes)
        return self.kept.replace(self._sums / (z[:, np.newaxis, np.newaxis] * y[:, np.newaxis] * x))


class MidSlices:
    """The three orthogonal mid-slices of a volume that comes plane by plane.

    Parameters
    ----------
    shape : tuple of int
        Voxels along (x, y, z).
    """

    STATE = ("slices",)

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self.shape = tuple(shape)
        self.slices: list[np.ndarray | None] = [None, None, None]
        self._planes = 0, self.shape[2]  # that are kept
        self.kept = Kept()

    def part(self, first: int, last: int) -> "MidSlices":
        """Give an empty one for the planes first to last (half-open) alone."""
        part = MidSlices(self.shape)
        part._planes = first, last
        return part

    def join(self, part: "MidSlices") -> None:
        """Add the planes of a part."""
        for axis in (0, 1):
            self._put(axis, part._planes[0], part.slices[axis])
        if part.slices[2] is not None:
            self.slices[2] = part.slices[2]

    def add(self, z: int, planes: np.ndarray) -> None:
        """Take planes (z, y, x) that begin at plane `z`."""
        x, y, middle = (side // 2 for side in self.shape)
        for axis, part in ((0, planes[:, :, x].T), (1, planes[:, y].T)):
            self._put(axis, z, part)
        if z <= middle < z + len(planes):
            self.slices[2] = planes[middle - z].T.astype(planes.dtype.newbyteorder("="))

    def _put(self, axis: int, z: int, part: np.ndarray | None) -> None:
        """Put columns (side, z) of the slice across x or y in their place."""
        if part is None:
            return
        first, last = self._planes
        if self.slices[axis] is None:
            self.slices[axis] = np.zeros((len(part), last - first), part.dtype.newbyteorder("="))
        self.slices[axis][:, z - first : z - first + part.shape[1]] = part

    def slice(self, axis: int) -> np.ndarray:
        """Mid-slice across an axis, (vertical, horizontal); thinned out where no screen could show it."""
        part = self.slices[axis].T
        return self.kept.replace(part[tuple(slice(None, None, thinning(side)) for side in part.shape)])


def thinning(count: int) -> int:
    """Choose which voxels of a side are drawn: every n-th."""
    return -(-count // SHOWN_VOXELS)


class Looks:
    """What is shown of grey values, probability and masks.

    Parameters
    ----------
    shape : (int, int, int)
        Voxels along (x, y, z).
    results : collection of str
        Kinds that are wanted: the overview needs mid-slices, the report previews.
    hasReference : bool
        Whether there is a manual mask.

    Attributes
    ----------
    slices, previews : dict
        {"grey", "probability", "mask", "manual": MidSlices, Preview}, those that are needed.
    """

    STATE = ("slices", "previews")

    def __init__(self, shape: tuple[int, int, int], results: Collection[str], hasReference: bool) -> None:
        names, manual = ("grey", "probability"), ("manual",) * hasReference
        self.slices = {name: MidSlices(shape) for name in (*names, *manual) if "overview" in results}
        self.previews: dict[str, Preview] = {}
        if "report" in results:
            factor = chooseFactor(shape)
            self.previews = {name: Preview(shape, factor) for name in (*names, "mask", *manual)}

    def watch(self, *names: str) -> "_Watch":
        """Give what looks at blocks of these volumes, in this order."""
        return _Watch(self, names)

    def part(self, first: int, last: int, *names: str) -> "Looks":
        """Give what, empty so far, keeps the planes first to last (half-open) of these volumes alone."""
        part = copy.copy(self)
        part.slices = {name: self.slices[name].part(first, last) for name in names if name in self.slices}
        part.previews = {
            name: self.previews[name].part(first, last) for name in names if name in self.previews
        }
        return part

    def join(self, part: "Looks") -> None:
        """Add the planes of a part."""
        for kept, parts in ((self.slices, part.slices), (self.previews, part.previews)):
            for name, planes in parts.items():
                kept[name].join(planes)

    def fill(self, limits: Sequence[float]) -> None:
        """Show grey values outside of (smallest, largest, fill) as the fill; empty: show them all."""
        for kept in (self.slices.get("grey"), self.previews.get("grey")):
            if kept is not None:
                kept.kept = Kept(*limits)

    @property
    def areWanted(self) -> bool:
        """Whether anything is shown."""
        return bool(self.slices or self.previews)


class _Watch(NamedTuple):
    """Hands every array of a block to what is kept of its volume."""

    looks: Looks
    names: tuple[str, ...]

    def add(self, z: int, *block: np.ndarray | None) -> None:
        """Take arrays (z, y, x) that begin at plane `z`."""
        for name, planes in zip(self.names, block, strict=True):
            for kept in (self.looks.slices.get(name), self.looks.previews.get(name)):
                if kept is not None and planes is not None:
                    kept.add(z, planes)
