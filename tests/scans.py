"""Grey values as scans hold them, with what is none; their moments in plain NumPy; how they are measured."""

import types
from pathlib import Path

import numpy as np

from engine.volumes.scale import Statistics, measureVolume

SHAPE = (64, 48, 16)


def makeGreys(dtype="uint16", mean=8000.0, deviation=600.0, seed=0, shape=SHAPE):
    """White noise around a mean, (x, y, z) in the order of a file."""
    greys = np.random.default_rng(seed).normal(mean, deviation, shape)
    if np.dtype(dtype).kind in "iu":
        limits = np.iinfo(dtype)
        greys = greys.clip(limits.min, limits.max)
    return np.asarray(greys, dtype, order="F")


def addHot(image, count, value, seed=1):
    """Copy with so many voxels of another value, anywhere."""
    hot = image.copy(order="K")
    hot.T.flat[np.random.default_rng(seed).choice(image.size, count, replace=False)] = value
    return hot


def outsideOf(shape):
    """Tell where a volume lies outside of the circle that a scanner reconstructs: (x, y, z) bool."""
    x, y, _ = np.indices(shape)
    radii = ((2 * index + 1) / side - 1 for index, side in ((x, shape[0]), (y, shape[1])))
    return sum(radius**2 for radius in radii) > 1


def hide(image, isHidden, value):
    """Copy with a value that means "no data" where it is marked."""
    hidden = image.copy(order="K")
    hidden[isHidden] = value
    return hidden


def measure(image, moments="robust", noData="auto", planeCount=8, *observers):
    """Measure the grey values of an array (x, y, z) that comes so many planes at a time."""

    def read():
        planes = image.T
        return ((planes[start : start + planeCount],) for start in range(0, len(planes), planeCount))

    volume = types.SimpleNamespace(path=Path("scan.nrrd"), dtype=image.dtype)
    return measureVolume(read, volume, Statistics.parse(moments, noData), *observers)


def robustByNumpy(image, isHidden=False):
    """Mean and standard deviation without hidden voxels and those far from 98 % of the others, by sorting."""
    values = image[~np.broadcast_to(isHidden, image.shape)].astype(np.float64)
    low, high = np.quantile(values, (0.01, 0.99))
    reach = 3 * (high - low)
    kept = values[(values >= low - reach) & (values <= high + reach)]
    mean = kept.mean()
    return mean, ((kept - mean) ** 2).mean() ** 0.5, len(values) - len(kept)
