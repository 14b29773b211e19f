"""Size, shape and place of every particle, summed up slab by slab and turned into physical units."""

import itertools
from typing import NamedTuple

import numpy as np

from engine.measures.labelling import Labels, Seam, Slab, isNeighbour, joinPairs, splitPairs
from engine.volumes.frame import Frame, spannedVolume

# One of each pair of opposite steps (x, y, z) from a voxel to its 26 neighbours.
STEPS = np.array([step for step in itertools.product((-1, 0, 1), repeat=3) if step > (0, 0, 0)])
NEIGHBOURS = np.concatenate([STEPS, -STEPS])
MOMENTS = ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))  # pairs of axes


class Totals(NamedTuple):
    """What adds up over the voxels of each particle, and its extremes.

    Attributes
    ----------
    shape : (int, int, int)
        Of the volume, (x, y, z).
    voxelCounts : (particle,) int64
        Voxels.
    first, second : (3, particle), (6, particle)
        Sums of x, y, z, and of their products as listed in MOMENTS.
    low, high : (3, particle) int64
        First and last voxel along x, y, z.
    probability, leastProbability : (particle,)
        Sum and minimum.
    contact : (particle,)
        Pairs of neighbours that both belong to the particle, each weighed by its direction.
    """

    shape: tuple[int, int, int]
    voxelCounts: np.ndarray
    first: np.ndarray
    second: np.ndarray
    low: np.ndarray
    high: np.ndarray
    probability: np.ndarray
    leastProbability: np.ndarray
    contact: np.ndarray


class Sums:
    """Sum up over the components of slabs: `add` every slab in order, then `finish` by particle.

    Ranges of slabs can be summed up apart, and joined in their order: the sums are the same to the last bit.

    Parameters
    ----------
    shape : (int, int, int)
        Of the volume, (x, y, z).
    weights : (13,)
        Of pairs of neighbours in the directions of STEPS.
    connectivity : int
        Of the components.
    firstPlane : int
        Of the range that is summed up.
    """

    def __init__(
        self, shape: tuple[int, int, int], weights: np.ndarray, connectivity: int, firstPlane: int = 0
    ) -> None:
        self.shape, self.connectivity = shape, connectivity
        self._weights = {tuple(step): weight for step, weight in zip(STEPS.tolist(), weights, strict=True)}
        self._weights |= {tuple(-number for number in step): self._weights[step] for step in [*self._weights]}
        self._sums = [np.zeros((12, 0))]  # a slab: (voxels, first, second, probability, contact; component)
        self._least = [np.zeros((7, 0))]  # the same for low, -high, probability
        self._loose = [np.zeros((3, 0))]  # neighbours in two components that may be one particle, and weight
        self._z = firstPlane

    def add(self, slab: Slab, probability: np.ndarray) -> None:
        """Add the next slab and the probability (z, y, x) float32 of its voxels."""
        position, flat = slab.positions, slab.labels.ravel()
        starts = np.flatnonzero(np.diff(position, prepend=-2) != 1)  # of runs of voxels along x
        length = np.diff(starts, append=len(position))
        z, y, x = np.unravel_index(position[starts], slab.labels.shape)
        inside = ((z - 1) * probability.shape[1] + y) * probability.shape[2] + x
        seen = probability.ravel()[position + np.repeat(inside - position[starts], length)]
        contact = self._weighContacts(slab)
        self._addSeam(slab.seam)
        z, last, component = z - 1 + self._z, x + length - 1, flat[position[starts]] - np.int64(1)
        places = [(x + last) / 2, y, z]
        products = [length * places[one] * places[other] for one, other in MOMENTS]
        products[0] += length * (length * length - 1) / 12  # of the voxels of a run about its middle
        values = [length, *(length * place for place in places), *products]
        values += [np.add.reduceat(part, starts, dtype=np.float64) for part in (seen, contact)]
        sums = [np.bincount(component, part, slab.count) for part in values]
        self._sums.append(np.stack(sums, dtype=np.float64))
        least = np.full((7, slab.count), np.inf)
        values = [x, y, z, -last, -y, -z, np.minimum.reduceat(seen, starts) if len(starts) else seen]
        for extreme, part in zip(least, values, strict=True):
            np.minimum.at(extreme, component, part.astype(np.float64))
        self._least.append(least)
        self._z += len(probability)

    def join(self, other: "Sums", seam: Seam) -> None:
        """Add the sums of the next range, whose components `Joining.join` has added."""
        self._addSeam(seam)
        self._sums += other._sums
        self._least += other._least
        self._loose += [loose + [[seam.start], [seam.start], [0]] for loose in other._loose]
        self._z = other._z

    def _weighContacts(self, slab: Slab) -> np.ndarray:
        """Sum up, for every positive voxel, the weights of its neighbours before it in the same component."""
        position, isPositive, flat = slab.positions, slab.isPositive.ravel(), slab.labels.ravel()
        own, contact = flat[position], np.zeros(len(position))
        _, height, width = slab.labels.shape
        for step in STEPS.tolist():
            weight, back = self._weights[tuple(step)], abs((step[2] * height + step[1]) * width + step[0])
            if isNeighbour(step, self.connectivity):
                contact += weight * isPositive[position - back]
                continue
            other = flat[position - back]
            contact += weight * (other == own)
            isLoose = (other > 0) & (other != own)
            start = slab.seam.start
            self._addLoose(own[isLoose] + start, other[isLoose] + start, weight)
        return contact

    def _addSeam(self, seam: Seam) -> None:
        """Weigh the neighbours on both sides of a seam."""
        before = self._sums[-1][11]  # of the components of the slab before
        for step, here, there in seam.contacts:
            if isNeighbour(step, self.connectivity):
                number = here - (seam.start - len(before)) - 1
                before += self._weights[step] * np.bincount(number, minlength=len(before))
            else:
                self._addLoose(here, there, self._weights[step])

    def _addLoose(self, here: np.ndarray, there: np.ndarray, weight: float) -> None:
        """Note neighbours in two components."""
        keys, counts = np.unique(joinPairs(here, there), return_counts=True)
        self._loose.append(np.stack([*splitPairs(keys), weight * counts]))

    def finish(self, labels: Labels) -> Totals:
        """Sum up by particle."""
        particles, count = labels.particles[1:].astype(np.int64), len(labels.voxelCounts)
        sums = np.concatenate(self._sums, axis=1)
        sums = np.stack([np.bincount(particles, row, count + 1) for row in sums])[:, 1:]
        order = np.argsort(particles, kind="stable")
        order = order[np.searchsorted(particles[order], 1) :]  # without those that were dropped
        starts = np.flatnonzero(np.diff(particles[order], prepend=0))
        least = np.concatenate(self._least, axis=1)[:, order]
        least = np.minimum.reduceat(least, starts, axis=1) if count else least
        here, there, weight = np.concatenate(self._loose, axis=1)
        here, there = labels.particles[here.astype(np.int64)], labels.particles[there.astype(np.int64)]
        contact = sums[11] + np.bincount(here, weight * (here == there), count + 1)[1:]
        low, high = least[:3].astype(np.int64), -least[3:6].astype(np.int64)
        return Totals(
            self.shape, labels.voxelCounts, sums[1:4], sums[4:10], low, high, sums[10], least[6], contact
        )


def describeParticles(totals: Totals, frame: Frame) -> dict[str, np.ndarray]:
    """Turn sums into the columns of a table, a row a particle.

    Parameters
    ----------
    totals : Totals
        Of the whole volume, contacts weighed by `directionWeights` of its frame.
    frame : Frame
        Of its voxels.

    Returns
    -------
    dict of (particle,) arrays
        Lengths, areas and volumes in powers of `frame.unit`.

        - centroid, in voxels and in space;
        - equivalentDiameter: of the sphere with the same volume;
        - axis1 >= axis2 >= axis3: lengths of the axes of the ellipsoid with the same second moments, and the
          directions of the first and the third (of a needle, and across a plate; the second is their cross
          product); elongation = axis1 / axis3;
        - surfaceArea: by the formula of Crofton, crossings counted along 13 directions; the cut face of a
          particle at the border of the volume counts;
        - sphericity: surface of the sphere with the same volume over surfaceArea (small particles of a few
          voxels can exceed 1);
        - nearestNeighbour: distance to the closest other centroid.
    """
    count = np.maximum(totals.voxelCounts, 1)
    centroid = totals.first / count
    lengths, directions = _principalAxes(totals, centroid, frame)
    placed = frame.directions.T @ centroid + frame.origin[:, np.newaxis]
    volume = totals.voxelCounts * frame.voxelVolume
    area = 2 * (directionWeights(frame.directions).sum() * totals.voxelCounts - totals.contact)
    size = np.array(totals.shape)[:, np.newaxis]
    atBorder = ((totals.low == 0) | (totals.high == size - 1)).any(axis=0)
    table = {"label": np.arange(1, len(count) + 1)}
    table |= {f"{axis}_voxel": values for axis, values in zip("xyz", centroid, strict=True)}
    table |= dict(zip("xyz", placed, strict=True))
    table |= {"voxelCount": totals.voxelCounts, "volume": volume}
    table |= {"equivalentDiameter": np.cbrt(6 / np.pi * volume)}
    table |= {f"{axis}1": values for axis, values in zip("xyz", totals.low, strict=True)}
    table |= {f"{axis}2": values + 1 for axis, values in zip("xyz", totals.high, strict=True)}
    table |= {f"axis{number}": values for number, values in enumerate(lengths, 1)}
    for number, direction in zip((1, 3), directions, strict=True):
        table |= {f"axis{number}_{axis}": values for axis, values in zip("xyz", direction, strict=True)}
    table |= {"elongation": lengths[0] / lengths[2], "surfaceArea": area}
    table |= {"sphericity": np.cbrt(np.pi * (6 * volume) ** 2) / area}
    table |= {"meanProbability": totals.probability / count, "minimumProbability": totals.leastProbability}
    return table | {"nearestNeighbour": _nearest(placed), "touchesBorder": atBorder}


def _principalAxes(totals: Totals, centroid: np.ndarray, frame: Frame) -> tuple[np.ndarray, list[np.ndarray]]:
    """Lengths of the three axes, longest first; directions of the longest and the shortest, in space."""
    count = np.maximum(totals.voxelCounts, 1)
    spread = np.zeros((len(count), 3, 3))
    for number, (one, other) in enumerate(MOMENTS):
        product = totals.second[number] / count - centroid[one] * centroid[other]
        spread[:, one, other] = spread[:, other, one] = product
    spread += np.eye(3) / 12  # of a voxel itself
    values, vectors = np.linalg.eigh(frame.directions.T @ spread @ frame.directions)
    lengths = 2 * np.sqrt(5 * np.maximum(values, 0))
    directions = []
    for direction in (
        vectors[:, :, 2],
        vectors[:, :, 0],
    ):  # of the two ways, that along the largest component
        leading = np.take_along_axis(direction, np.abs(direction).argmax(axis=1)[:, np.newaxis], axis=1)
        directions.append((direction * np.where(leading < 0, -1, 1)).T)
    return lengths[:, ::-1].T, directions


def directionWeights(directions: np.ndarray) -> np.ndarray:
    """Weigh the crossings along the 13 directions of STEPS: their weighted sum is a surface area.

    A surface crosses the lines of one direction in proportion to its projection along it, which is half of
    its area on average over all directions. A direction stands for that part of the sphere which is closer to
    it than to the other ones, and its lines have a spacing of their own.

    Parameters
    ----------
    directions : (3, 3)
        Steps in space along x, y, z.

    Source: Lang and Ohser's discretisation of Crofton's formula, as in Legland et al., Image Anal. Stereol.
    26 (2007) 83, here for any lattice.
    """
    from scipy.spatial import SphericalVoronoi  # loads slowly

    steps = NEIGHBOURS @ directions
    lengths = np.linalg.norm(steps, axis=1)
    sphere = SphericalVoronoi(steps / lengths[:, np.newaxis])
    shares = sphere.calculate_areas() / (4 * np.pi)
    return 2 * (shares / lengths)[:13] * 2 * spannedVolume(directions)


def _nearest(points: np.ndarray) -> np.ndarray:
    """Distance of every point (axis, point) to the closest other one; NaN where there is none."""
    from scipy.spatial import cKDTree  # loads slowly

    if points.shape[1] < 2:
        return np.full(points.shape[1], np.nan)
    distances, _ = cKDTree(points.T).query(points.T, k=2)
    return distances[:, 1]
