"""Connected positive voxels of a volume that is larger than the memory: labelled slab by slab.

Ranges of slabs can be labelled apart, by other processes too, and joined in their order afterwards.
connected-components-3d labels a slab. Its own routine for stacks of slabs knows no connectivity of 18 and
joins the planes at a seam pixel by pixel in Python; here a seam is joined by comparing shifted planes.
"""

import itertools
from typing import NamedTuple

import numpy as np


class Labels(NamedTuple):
    """Which particle the components of the slabs belong to.

    Attributes
    ----------
    particles : (1 + component,) uint32
        Particle of every component, counted from 1 on across all slabs; 0 for 0 and what was dropped.
    starts : list of int
        A slab: components of the slabs before it.
    voxelCounts : (particle,) int64
        Voxels of particles 1, 2, ...
    droppedCount, droppedVoxels : int
        Particles that were too small, and their voxels.
    """

    particles: np.ndarray
    starts: list[int]
    voxelCounts: np.ndarray
    droppedCount: int
    droppedVoxels: int

    def cut(self, first: int, last: int) -> "Labels":
        """Give the components of the slabs first to last (half-open) alone, without voxels of particles."""
        ends = [*self.starts, len(self.particles) - 1][first : last + 1]
        particles = self.particles[ends[0] : ends[-1] + 1]
        return Labels(particles, [end - ends[0] for end in ends[:-1]], self.voxelCounts[:0], 0, 0)


Contact = tuple[tuple[int, int, int], np.ndarray, np.ndarray]


class Seam(NamedTuple):
    """Where the planes of a volume that were labelled apart meet.

    Attributes
    ----------
    start : int
        Components of the slabs before.
    contacts : list of (step, here, there)
        Step (x, y, 1) from a voxel before the seam to one behind it; components of these, counted across all
        slabs, for all pairs of positive voxels that it separates: (pair,) uint32.
    """

    start: int
    contacts: list[Contact]


class Slab(NamedTuple):
    """The components of one slab.

    Attributes
    ----------
    labels : (1 + z, y + 1, x + 1) uint32
        Component of every voxel, counted from 1 on in this slab, 0 = none. A plane of zeros lies before the
        slab, a row and a column of zeros behind it: a step back to a neighbour that the slab does not have
        ends on a zero.
    isPositive : the same shape, uint8
        1 where `labels` is not 0.
    positions : (voxel,) int64
        Where they are not 0, flattened; ascending.
    count : int
        Components.
    seam : Seam
        To the slab before.
    """

    labels: np.ndarray
    isPositive: np.ndarray
    positions: np.ndarray
    count: int
    seam: Seam


class Joining:
    """First pass over the slabs of a volume, or of a range of it, in order: which components belong together.

    Parameters
    ----------
    connectivity : int
        6 (voxels that share a face), 18 (or an edge) or 26 (or a corner).
    """

    def __init__(self, connectivity: int) -> None:
        self.connectivity = connectivity
        self._counts = [np.zeros(0, np.int64)]  # a slab: voxels of its components
        self._pairs = [np.zeros(0, np.uint64)]  # components of two slabs that touch, 32 bits each
        self._starts: list[int] = []
        self._number = 0  # components so far
        self._first: np.ndarray | None = None  # first plane of the first slab
        self._last: np.ndarray | None = None  # last plane of the slab before

    def add(self, positive: np.ndarray) -> Slab:
        """Add the next slab: (z, y, x) bool; gives its components."""
        labels, isPositive, positions, count = labelSlab(positive, self.connectivity)
        first, last = (_numbered(labels[plane], self._number) for plane in (1, -1))
        slab = Slab(labels, isPositive, positions, count, self._meet(first))
        self._counts.append(np.bincount(labels.ravel()[positions], minlength=count + 1)[1:])
        self._first = first if self._first is None else self._first
        self._last = last
        self._starts.append(self._number)
        self._number += count
        return slab

    def join(self, other: "Joining") -> Seam:
        """Add the slabs of the next range, which were added to another one; gives where they meet."""
        start = self._number
        seam = self._meet(_numbered(other._first, start))
        self._counts += other._counts
        self._pairs += [pairs + joinPairs(start, start) for pairs in other._pairs]
        self._first = other._first if self._first is None else self._first
        self._last = _numbered(other._last, start)
        self._starts += [start + number for number in other._starts]
        self._number += other._number
        return seam

    def _meet(self, first: np.ndarray) -> Seam:
        """Note which components of the last plane so far touch those of the next one."""
        contacts = listContacts(self._last, first) if self._number else []
        self._pairs += [
            np.unique(joinPairs(here, there))
            for step, here, there in contacts
            if isNeighbour(step, self.connectivity)
        ]
        return Seam(self._number, contacts)

    def finish(self, minimumVoxels: int = 1) -> Labels:
        """Join components to particles, numbered in the order in which their first voxels are stored."""
        from scipy import sparse  # loads slowly

        counts, pairs = np.concatenate(self._counts), np.concatenate(self._pairs)
        ends = (
            (pairs >> np.uint64(32)).astype(np.int64) - 1,
            (pairs & np.uint64(0xFFFFFFFF)).astype(np.int64) - 1,
        )
        graph = sparse.coo_array((np.ones(len(pairs), bool), tuple(ends)), shape=(len(counts),) * 2)
        _, group = sparse.csgraph.connected_components(graph, directed=False)
        _, first, group = np.unique(group, return_index=True, return_inverse=True)
        sizes = np.bincount(group, counts, len(first)).astype(np.int64)
        isKept = sizes >= minimumVoxels
        order = np.argsort(first)  # of the groups, by their first component
        order = order[isKept[order]]
        particle = np.zeros(len(first), np.uint32)
        particle[order] = np.arange(1, len(order) + 1)
        particles = np.concatenate([np.zeros(1, np.uint32), particle[group]])
        return Labels(particles, self._starts, sizes[order], int((~isKept).sum()), int(sizes[~isKept].sum()))


def labelSlab(positive: np.ndarray, connectivity: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Label the components of a slab (z, y, x); gives the first four fields of `Slab`."""
    import cc3d  # only where something is labelled

    depth, height, width = positive.shape
    padded = np.zeros((depth + 1, height + 1, width + 1), np.uint8)  # of bool, cc3d 4.1.1 fails on 1, 0, 1
    padded[1:, :-1, :-1] = positive
    options = {"connectivity": connectivity, "return_N": True, "out_dtype": np.uint32}
    labels, count = cc3d.connected_components(padded, **options)
    return labels, padded, np.flatnonzero(padded.view(bool)), count


def joinPairs(first: np.ndarray | int, second: np.ndarray | int) -> np.ndarray:
    """Write pairs of numbers below 2 ** 32 as one of 64 bits: sorted in a tenth of the time of pairs."""
    return np.asarray(first).astype(np.uint64) << np.uint64(32) | np.asarray(second).astype(np.uint64)


def splitPairs(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Split what `joinPairs` wrote: int64."""
    return (keys >> np.uint64(32)).astype(np.int64), (keys & np.uint64(0xFFFFFFFF)).astype(np.int64)


def isNeighbour(step: tuple[int, int, int], connectivity: int) -> bool:
    """Whether voxels that a step (x, y, z) of -1, 0, 1 separates are connected."""
    return sum(map(abs, step)) <= {6: 1, 18: 2, 26: 3}[connectivity]


def listContacts(last: np.ndarray, plane: np.ndarray) -> list[Contact]:
    """List the positive voxels on both sides of a seam, as in `Seam`.

    Parameters
    ----------
    last, plane : (y + 1, x + 1) uint32
        Components on both sides, counted across all slabs, as a plane of `Slab.labels` holds them.
    """
    position, contacts = np.flatnonzero(last), []
    for y, x in itertools.product((-1, 0, 1), repeat=2):
        there = plane.ravel()[position + (y * plane.shape[1] + x)]
        isThere = there > 0
        contacts.append(((x, y, 1), last.ravel()[position[isThere]], there[isThere]))
    return contacts


class Relabelling:
    """Second pass over the slabs of a volume, in the same order: label by particle.

    Parameters
    ----------
    labels : Labels
        Of the first pass.
    connectivity : int
        The same.
    """

    def __init__(self, labels: Labels, connectivity: int) -> None:
        self.connectivity, self._particles, self._starts = connectivity, labels.particles, iter(labels.starts)

    def label(self, positive: np.ndarray) -> np.ndarray:
        """Label the next slab (z, y, x) bool: uint32, 0 = no particle."""
        labels, _, positions, count = labelSlab(positive, self.connectivity)
        start, flat = next(self._starts), labels.ravel()
        lookup = self._particles[start : start + count + 1]
        flat[positions] = lookup[flat[positions]]
        return labels[1:, :-1, :-1]


def _numbered(plane: np.ndarray, start: int) -> np.ndarray:
    """Count the components of a plane on across all slabs; 0 stays."""
    return np.where(plane > 0, plane + np.uint32(start), np.uint32(0))
