"""Size, shape and place of every particle, summed up slab by slab and turned into physical units."""

import itertools
from typing import NamedTuple

import numpy as np
from scipy.spatial import SphericalVoronoi, cKDTree

from engine.nrrdHeaders import spaceDirections, voxelSize

# One of each pair of opposite steps (x, y, z) from a voxel to its 26 neighbours.
STEPS = np.array([step for step in itertools.product((-1, 0, 1), repeat=3) if step > (0, 0, 0)])
NEIGHBOURS = np.concatenate([STEPS, -STEPS])
MOMENTS = ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))  # pairs of axes


class Frame(NamedTuple):
    """Where the voxels of a volume lie in space.

    Attributes
    ----------
    directions : (3, 3)
        Row i: step in space from a voxel to the next one along axis i of (x, y, z).
    origin : (3,)
        Centre of the first voxel.
    unit : str
        Of both; "voxel" where the header gives none.
    why : str
        Why the unit is "voxel"; empty otherwise.
    """

    directions: np.ndarray
    origin: np.ndarray
    unit: str
    why: str = ""

    @property
    def voxelVolume(self) -> float:
        """Volume of a voxel."""
        return float(abs(np.linalg.det(self.directions)))


def readFrame(header: dict) -> Frame:
    """Find the place in space of a volume's voxels; in voxels where its header does not tell it.

    Parameters
    ----------
    header : dict
        Of an NRRD file, as `openVolume` reads it.
    """
    size = voxelSize(header)
    if size is None:
        return _voxelFrame("the header gives no size of a voxel")
    if not (np.array(size[0]) > 0).all():
        return _voxelFrame(f"the header gives a voxel the size {size[0]}")
    units = set(size[1])
    if len(units) > 1:
        return _voxelFrame(f"the axes have different units: {', '.join(map(repr, size[1]))}")
    unit = units.pop() or "unit"
    directions, origin = spaceDirections(header), header.get("space origin")
    if directions is None or directions.shape != (3, 3) or np.isnan(directions).any():
        return Frame(np.diag(size[0]), np.zeros(3), unit)
    if abs(np.linalg.det(directions)) < 1e-9 * np.prod(size[0]):
        return _voxelFrame("the space directions of the header lie in a plane")
    hasOrigin = origin is not None and np.isfinite(origin).all()
    return Frame(directions, np.asarray(origin, float) if hasOrigin else np.zeros(3), unit)


def _voxelFrame(why: str) -> Frame:
    """Frame of a volume without units."""
    return Frame(np.eye(3), np.zeros(3), "voxel", why)


class Sums:
    """What adds up over the voxels of each particle: `add` every slab in order, then `finish`.

    Parameters
    ----------
    count : int
        Particles, labelled 1 to `count`.
    shape : (int, int, int)
        Of the volume, (z, y, x).
    """

    def __init__(self, count: int, shape: tuple[int, int, int]) -> None:
        self.shape = shape
        self.voxelCounts = np.zeros(count, np.int64)
        self.first = np.zeros((3, count))  # sums of x, y, z
        self.second = np.zeros((6, count))  # sums of the products of MOMENTS
        self.low = np.full((3, count), np.iinfo(np.int64).max)  # bounding box, x, y, z
        self.high = np.full((3, count), -1)
        self.probability = np.zeros(count)
        self.leastProbability = np.full(count, np.inf)
        self.crossings = np.zeros((13, count))  # along lines in the directions of STEPS
        self._z = 0
        self._before = self._outside = np.zeros((1, *shape[1:]), np.uint32)
        self._held: tuple[np.ndarray, np.ndarray] | None = None  # the slab that waits for the plane behind it

    def add(self, labels: np.ndarray, probability: np.ndarray) -> None:
        """Add the next planes.

        Parameters
        ----------
        labels : (z, y, x) uint32
            Particle of every voxel, 0 = none.
        probability : (z, y, x) float32
            Of every voxel.
        """
        if self._held:
            self._addHeld(labels[:1])
            self._before = self._held[0][-1:]
        self._held = labels, probability

    def finish(self) -> None:
        """Add what waits: there is nothing behind it."""
        if self._held:
            self._addHeld(self._outside)
        self._held = None

    def _addHeld(self, behind: np.ndarray) -> None:
        """Add the slab that waits, between the plane before it and the one behind it."""
        labels, probability = self._held
        self._addBetween(np.concatenate([self._before, labels, behind]), probability)

    def _addBetween(self, labels: np.ndarray, probability: np.ndarray) -> None:
        """Add planes; labels have one plane more at either end."""
        padded = np.pad(labels, ((0, 0), (1, 1), (1, 1)))
        padded[0], behind = 0, padded[-1].copy()  # only voxels of the planes themselves are looked for
        before, padded[-1] = labels[0], 0
        flat, (height, width) = padded.ravel(), padded.shape[1:]
        position = np.flatnonzero(flat)
        padded[0, 1:-1, 1:-1], padded[-1] = before, behind
        values = flat[position]
        z, rest = np.divmod(position, height * width)
        y, x = np.divmod(rest, width)
        z, y, x = z - 1, y - 1, x - 1
        isPresent = np.zeros(len(self.voxelCounts) + 1, bool)
        isPresent[values] = True
        present = np.flatnonzero(isPresent)
        number = np.zeros(len(isPresent), np.int64)
        number[present] = np.arange(len(present))
        local, particles, count = number[values], present - 1, len(present)

        def total(weights: np.ndarray | None = None) -> np.ndarray:
            return np.bincount(local, weights, count)

        self.voxelCounts[particles] += total()
        places = [axis.astype(np.float64) for axis in (x, y, z + self._z)]
        for axis, place in enumerate(places):
            self.first[axis, particles] += total(place)
            for kind, end in (("low", np.minimum), ("high", np.maximum)):
                extreme = getattr(self, kind)[axis]
                reduced = extreme[particles]
                end.at(reduced, local, place.astype(np.int64))
                extreme[particles] = reduced
        for number, (one, other) in enumerate(MOMENTS):
            self.second[number, particles] += total(places[one] * places[other])
        seen = probability[z, y, x]
        self.probability[particles] += total(seen)
        least = self.leastProbability[particles]
        np.minimum.at(least, local, seen)
        self.leastProbability[particles] = least
        for number, (stepX, stepY, stepZ) in enumerate(NEIGHBOURS):
            isOther = flat[position + (stepZ * height + stepY) * width + stepX] != values
            self.crossings[number % 13, particles] += total(isOther)
        self._z += len(probability)


def describeParticles(sums: Sums, frame: Frame) -> dict[str, np.ndarray]:
    """Turn sums into the columns of a table, a row a particle.

    Parameters
    ----------
    sums : Sums
        Over the whole volume.
    frame : Frame
        Of its voxels.

    Returns
    -------
    dict of (particle,) arrays
        Lengths, areas and volumes in powers of `frame.unit`.

        - centroid, in voxels and in space;
        - equivalentDiameter: of the sphere with the same volume;
        - axis1 >= axis2 >= axis3: lengths of the axes of the ellipsoid with the same second moments, and the
          direction of the first; elongation = axis1 / axis3;
        - surfaceArea: by the formula of Crofton, crossings counted along 13 directions; the cut face of a
          particle at the border of the volume counts;
        - sphericity: surface of the sphere with the same volume over surfaceArea (small particles of a few
          voxels can exceed 1);
        - nearestNeighbour: distance to the closest other centroid.
    """
    count = np.maximum(sums.voxelCounts, 1)
    centroid = sums.first / count
    lengths, direction = _principalAxes(sums, centroid, frame)
    placed = frame.directions.T @ centroid + frame.origin[:, np.newaxis]
    volume = sums.voxelCounts * frame.voxelVolume
    area = directionWeights(frame.directions) @ sums.crossings
    size = np.array(sums.shape[::-1])[:, np.newaxis]
    atBorder = ((sums.low == 0) | (sums.high == size - 1)).any(axis=0)
    table = {"label": np.arange(1, len(count) + 1)}
    table |= {f"{axis}_voxel": values for axis, values in zip("xyz", centroid, strict=True)}
    table |= dict(zip("xyz", placed, strict=True))
    table |= {"voxelCount": sums.voxelCounts, "volume": volume}
    table |= {"equivalentDiameter": np.cbrt(6 / np.pi * volume)}
    table |= {f"{axis}1": values for axis, values in zip("xyz", sums.low, strict=True)}
    table |= {f"{axis}2": values + 1 for axis, values in zip("xyz", sums.high, strict=True)}
    table |= {f"axis{number}": values for number, values in enumerate(lengths, 1)}
    table |= {f"axis1_{axis}": values for axis, values in zip("xyz", direction, strict=True)}
    table |= {"elongation": lengths[0] / lengths[2], "surfaceArea": area}
    table |= {"sphericity": np.cbrt(np.pi * (6 * volume) ** 2) / area}
    table |= {"meanProbability": sums.probability / count, "minimumProbability": sums.leastProbability}
    return table | {"nearestNeighbour": _nearest(placed), "touchesBorder": atBorder}


def _principalAxes(sums: Sums, centroid: np.ndarray, frame: Frame) -> tuple[np.ndarray, np.ndarray]:
    """Lengths of the three axes, longest first, and the direction of the longest, in space."""
    count = np.maximum(sums.voxelCounts, 1)
    spread = np.zeros((len(count), 3, 3))
    for number, (one, other) in enumerate(MOMENTS):
        product = sums.second[number] / count - centroid[one] * centroid[other]
        spread[:, one, other] = spread[:, other, one] = product
    spread += np.eye(3) / 12  # of a voxel itself
    values, vectors = np.linalg.eigh(frame.directions.T @ spread @ frame.directions)
    lengths = 2 * np.sqrt(5 * np.maximum(values, 0))
    direction = vectors[:, :, 2]
    leading = np.take_along_axis(direction, np.abs(direction).argmax(axis=1)[:, np.newaxis], axis=1)
    return lengths[:, ::-1].T, (direction * np.where(leading < 0, -1, 1)).T


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
    steps = NEIGHBOURS @ directions
    lengths = np.linalg.norm(steps, axis=1)
    sphere = SphericalVoronoi(steps / lengths[:, np.newaxis])
    shares = sphere.calculate_areas() / (4 * np.pi)
    return 2 * (shares / lengths)[:13] * 2 * abs(np.linalg.det(directions))


def _nearest(points: np.ndarray) -> np.ndarray:
    """Distance of every point (axis, point) to the closest other one; NaN where there is none."""
    if points.shape[1] < 2:
        return np.full(points.shape[1], np.nan)
    distances, _ = cKDTree(points.T).query(points.T, k=2)
    return distances[:, 1]
