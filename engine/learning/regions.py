"""The moments that a patch is z-scored with: those of a region that a user might have cut out around it."""

import functools

import numpy as np

from engine.base.arrays import Moments, slowestFirst
from engine.preparation.samples import Place, Samples

MOST_VOXELS = 1 << 20  # that are read to estimate the moments of a region
MOST_AIR = 0.8  # share of a scan that may be air around what was prepared


def drawMoments(
    generator: np.random.Generator, samples: Samples, index: int, patch: Place
) -> tuple[float, float]:
    """Draw a region around a patch and measure its mean and standard deviation.

    The z-score of a scan depends on what is in the picture: a crop of the inside has no air, a wide one much.
    So a network has to meet each of its voxels as all of these crops would show it. In equal shares the
    region is the patch itself, a box of any size around it, the whole sub-volume, or the whole with more of
    what lies at its sides, as if the picture were wider.

    Parameters
    ----------
    generator, samples : Generator, Samples
        Source of chance; sub-volumes.
    index, patch : int, slices
        Sub-volume, and where the patch lies in it.

    Returns
    -------
    tuple of float
        Mean and standard deviation of the grey values as they are stored.

    Notes
    -----
    Where a patch is all of its sub-volume there is no region to choose. If the sub-volumes are on the scale
    of whole scans, those take its place: the box around the patch is a mixture of both.
    """
    kind = generator.integers(4)
    if kind == 0:
        return _measure(samples, index, patch)
    isAll = all(part.stop - part.start == side for part, side in zip(patch, samples.sides, strict=True))
    scan = samples.scan if isAll else None
    if kind == 1 and scan:
        return mixMoments(_measure(samples, index, patch), scan, generator.random())
    if kind == 1:
        return _measure(
            samples, index, [_grow(generator, *axis) for axis in zip(patch, samples.sides, strict=True)]
        )
    whole, *sides = _measureWhole(samples, index)
    whole = scan or whole
    if kind == 2:
        return whole
    return mixMoments(whole, sides[generator.integers(len(sides))], MOST_AIR * generator.random())


def mixMoments(first: tuple[float, float], second: tuple[float, float], share: float) -> tuple[float, float]:
    """Give mean and standard deviation of a mixture that takes this share of its voxels from the second."""
    mean = (1 - share) * first[0] + share * second[0]
    parts = ((1 - share, *first), (share, *second))
    return mean, sum(part * (std**2 + (middle - mean) ** 2) for part, middle, std in parts) ** 0.5


def _grow(generator: np.random.Generator, patch: slice, side: int) -> slice:
    """Grow a range to a length between its own and the whole axis, wherever that still holds it."""
    length = int(generator.integers(patch.stop - patch.start, side, endpoint=True))
    first, last = max(0, patch.stop - length), min(patch.start, side - length)
    start = int(generator.integers(first, last, endpoint=True))
    return slice(start, start + length)


def _listSides(sides: tuple[int, ...]) -> list[Place]:
    """List the outermost layers across x and y: what lies further out looks like them."""
    whole = [slice(0, side) for side in sides]
    return [
        [*whole[:axis], slice(start, start + 1), *whole[axis + 1 :]]
        for axis in (0, 1)
        for start in (0, sides[axis] - 1)
    ]


@functools.lru_cache(4096)
def _measureWhole(samples: Samples, index: int) -> tuple[tuple[float, float], ...]:
    """Measure a sub-volume, and its outermost layers across x and y."""
    whole = [slice(0, side) for side in samples.sides]
    return tuple(_measure(samples, index, place) for place in (whole, *_listSides(samples.sides)))


def _measure(samples: Samples, index: int, place: Place) -> tuple[float, float]:
    """Measure a region, or enough evenly spread planes of it."""
    shape = [part.stop - part.start for part in place]
    step = -(-int(np.prod(shape)) // MOST_VOXELS)
    moments = Moments()
    sparse = slice(place[0].start, place[0].stop, step), *place[1:]
    for plane in slowestFirst(samples.readImage(index, sparse)):
        moments.merge(plane)
    return moments.finish()
