"""Connected positive voxels of a volume that is larger than the memory: labelled slab by slab.

connected-components-3d labels a slab. Its own routine for stacks of slabs knows no connectivity of 18 and
joins the planes at a seam pixel by pixel in Python; here a seam is joined by comparing shifted planes.
"""

from typing import NamedTuple

import cc3d
import numpy as np
from scipy import sparse

CONNECTIVITIES = (6, 18, 26)


class Labels(NamedTuple):
    """Which particle the components of every slab belong to.

    Attributes
    ----------
    lookups : list
        A slab: particle of every component of the slab, 0 first; 0 for one that was dropped.
    voxelCounts : (particle,) int64
        Voxels of particles 1, 2, ...
    droppedCount, droppedVoxels : int
        Particles that were too small, and their voxels.
    """

    lookups: list[np.ndarray]
    voxelCounts: np.ndarray
    droppedCount: int
    droppedVoxels: int


class Joining:
    """First pass over the slabs of a volume, in order: which components belong together.

    Parameters
    ----------
    connectivity : int
        6 (voxels that share a face), 18 (or an edge) or 26 (or a corner).
    """

    def __init__(self, connectivity: int) -> None:
        self.connectivity = connectivity
        self._shifts = _planeShifts(connectivity)
        self._counts: list[np.ndarray] = []  # a slab: voxels of its components
        self._pairs = [np.zeros((2, 0), np.int64)]  # components of two slabs that touch
        self._number, self._last = 0, None  # components so far, last plane of the slab before

    def add(self, positive: np.ndarray) -> None:
        """Add the next slab: (z, y, x) bool."""
        labels, count = labelSlab(positive, self.connectivity)
        self._counts.append(np.bincount(labels[positive], minlength=count + 1)[1:])
        plane = _numbered(labels[0], self._number)
        if self._last is not None:
            self._pairs += [_touching(self._last, plane, *shift) for shift in self._shifts]
        self._last = _numbered(labels[-1], self._number)
        self._number += count

    def finish(self, minimumVoxels: int = 1) -> Labels:
        """Join components to particles, numbered in the order in which their first voxels are stored."""
        counts = np.concatenate([np.zeros(0, np.int64), *self._counts])
        pairs = np.concatenate(self._pairs, axis=1) - 1
        ones = np.ones(pairs.shape[1], bool)
        graph = sparse.coo_array((ones, tuple(pairs)), shape=(len(counts),) * 2)
        _, group = sparse.csgraph.connected_components(graph, directed=False)
        _, first, group = np.unique(group, return_index=True, return_inverse=True)
        sizes = np.bincount(group, counts, len(first)).astype(np.int64)
        isKept = sizes >= minimumVoxels
        order = np.argsort(first)  # of the groups, by their first component
        order = order[isKept[order]]
        particle = np.zeros(len(first), np.uint32)
        particle[order] = np.arange(1, len(order) + 1)
        ends = np.cumsum([len(count) for count in self._counts])[:-1]
        lookups = [np.concatenate(([0], part)) for part in np.split(particle[group], ends)]
        lookups = [lookup.astype(np.uint32) for lookup in lookups]
        return Labels(lookups, sizes[order], int((~isKept).sum()), int(sizes[~isKept].sum()))


def labelSlab(positive: np.ndarray, connectivity: int) -> tuple[np.ndarray, int]:
    """Label the components of one slab (z, y, x); gives uint32 labels and their number."""
    slab = np.ascontiguousarray(positive).view(np.uint8)  # its way with bool fails on rows of 1, 0, 1 (4.1.1)
    return cc3d.connected_components(slab, connectivity=connectivity, return_N=True, out_dtype=np.uint32)


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
        self.connectivity, self._lookups = connectivity, iter(labels.lookups)

    def label(self, positive: np.ndarray) -> np.ndarray:
        """Label the next slab (z, y, x) bool: uint32, 0 = no particle."""
        return next(self._lookups)[labelSlab(positive, self.connectivity)[0]]


def _planeShifts(connectivity: int) -> list[tuple[int, int]]:
    """List the steps (y, x) between neighbours in successive planes."""
    most = {6: 0, 18: 1, 26: 2}[connectivity]
    steps = (-1, 0, 1)
    return [(y, x) for y in steps for x in steps if abs(y) + abs(x) <= most]


def _numbered(plane: np.ndarray, offset: int) -> np.ndarray:
    """Count the components of a plane on across all slabs; 0 stays."""
    return np.where(plane > 0, plane + np.int64(offset), 0)


def _touching(first: np.ndarray, second: np.ndarray, y: int, x: int) -> np.ndarray:
    """List the pairs of components that a step (y, x) from the first plane to the second one connects."""
    height, width = first.shape
    here = first[max(-y, 0) : height - max(y, 0), max(-x, 0) : width - max(x, 0)]
    there = second[max(y, 0) : height - max(-y, 0), max(x, 0) : width - max(-x, 0)]
    both = (here > 0) & (there > 0)
    keys = np.unique(here[both] << 32 | there[both])  # a tenth of the time of pairs
    return np.stack([keys >> 32, keys & 0xFFFFFFFF])
