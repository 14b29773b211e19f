"""Connected positive voxels of a volume that is larger than the memory: labelled slab by slab.

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


Contact = tuple[tuple[int, int, int], np.ndarray, np.ndarray]


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
    start : int
        Components of the slabs before.
    contacts : list of (step, here, there)
        Step (x, y, 1) from a voxel before the slab to one in it; components of these, counted across all
        slabs, for all pairs of positive voxels that it separates: (pair,) int64.
    """

    labels: np.ndarray
    isPositive: np.ndarray
    positions: np.ndarray
    count: int
    start: int
    contacts: list[Contact]


class Joining:
    """First pass over the slabs of a volume, in order: which components belong together.

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
        self._number, self._last = 0, None  # components so far, last plane of the slab before

    def add(self, positive: np.ndarray) -> Slab:
        """Add the next slab: (z, y, x) bool; gives its components."""
        labels, isPositive, positions, count = labelSlab(positive, self.connectivity)
        first, last = (_numbered(labels[plane], self._number) for plane in (1, -1))
        contacts = listContacts(self._last, first) if self._number else []
        slab = Slab(labels, isPositive, positions, count, self._number, contacts)
        self._counts.append(np.bincount(labels.ravel()[positions], minlength=count + 1)[1:])
        self._pairs += [
            np.unique(joinPairs(here, there))
            for step, here, there in contacts
            if isNeighbour(step, self.connectivity)
        ]
        self._last = last
        self._starts.append(self._number)
        self._number += count
        return slab

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


def joinPairs(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Write pairs of numbers below 2 ** 32 as one of 64 bits: sorted in a tenth of the time of pairs."""
    return first.astype(np.uint64) << np.uint64(32) | second.astype(np.uint64)


def splitPairs(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Split what `joinPairs` wrote: int64."""
    return (keys >> np.uint64(32)).astype(np.int64), (keys & np.uint64(0xFFFFFFFF)).astype(np.int64)


def isNeighbour(step: tuple[int, int, int], connectivity: int) -> bool:
    """Whether voxels that a step (x, y, z) of -1, 0, 1 separates are connected."""
    return sum(map(abs, step)) <= {6: 1, 18: 2, 26: 3}[connectivity]


def listContacts(last: np.ndarray, plane: np.ndarray) -> list[Contact]:
    """List the positive voxels on both sides of a seam, as in `Slab`.

    Parameters
    ----------
    last, plane : (y + 1, x + 1) int64
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
    return np.where(plane > 0, plane + np.int64(start), 0)
