"""Counts of grey values that come block by block, and the quantiles that follow from them."""

import copy
from collections.abc import Iterator

import numpy as np

PIECE = 1 << 18  # values counted at a time
FINE_BINS = 1 << 16
LARGEST = float(np.finfo(np.float32).max)


def _pieces(values: np.ndarray) -> Iterator[np.ndarray]:
    """List values in pieces that stay in the cache: keys take several times their memory."""
    flat = values.ravel("K")
    return (flat[start : start + PIECE] for start in range(0, len(flat), PIECE))


class Histogram:
    """Counts of grey values: each value of 8 or 16 bits by itself, others to 0.8 % of their size.

    Parameters
    ----------
    dtype : np.dtype
        Of the voxels.
    """

    STATE = ("counts",)

    def __init__(self, dtype: np.dtype) -> None:
        self.isExact = dtype.kind in "iu" and dtype.itemsize <= 2
        self._lowest = int(np.iinfo(dtype).min) if self.isExact else 0
        self.counts = np.zeros(1 << (8 * dtype.itemsize if self.isExact else 16), np.int64)

    def add(self, values: np.ndarray) -> None:
        """Count values; of any shape."""
        for piece in _pieces(values):
            self.counts += np.bincount(self._keysOf(piece), minlength=len(self.counts))

    def join(self, other: "Histogram") -> None:
        """Count what another one has counted as well."""
        self.counts += other.counts

    def without(self, value: float, count: int | None = None) -> "Histogram":
        """Give the same but for so many voxels of one value, or for all of its bin."""
        other, key = copy.copy(self), int(self._keysOf(np.array([value]))[0])
        other.counts = self.counts.copy()
        other.counts[key] -= self.counts[key] if count is None else count
        return other

    @property
    def lowest(self) -> float:
        """Lower bound of the smallest value."""
        return float(self.edgesOf(int(np.argmax(self.counts > 0)))[0])

    @property
    def highest(self) -> float:
        """Upper bound of the largest value."""
        return float(self.edgesOf(len(self.counts) - 1 - int(np.argmax(self.counts[::-1] > 0)))[1])

    def _keysOf(self, values: np.ndarray) -> np.ndarray:
        """Give the bins of values as numbers, in the order of the values."""
        if self.isExact:
            return np.subtract(values, self._lowest, dtype=np.int32, casting="unsafe")
        if values.dtype.kind != "f" or values.dtype.itemsize > 4:
            values = np.clip(values.astype(np.float64), -LARGEST, LARGEST)
        bits = np.ascontiguousarray(values, np.float32).view(np.int32)
        return ((bits >> 16) ^ ((bits >> 31) & 0x7FFF)) + 0x8000  # negative floats count backwards

    def edgesOf(self, key: int | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Give the smallest and the largest value of a bin."""
        key = np.asarray(key)
        if self.isExact:
            return (key + self._lowest).astype(float), (key + self._lowest).astype(float)
        high = key.astype(np.int64) - 0x8000
        first = (high ^ ((high >> 63) & 0x7FFF)) << 16
        near, far = first, first | 0xFFFF
        near, far = (bits.astype(np.int32).view(np.float32).astype(float) for bits in (near, far))
        return np.minimum(near, far), np.maximum(near, far)

    def quantile(self, share: float) -> tuple[float, float]:
        """Give the bounds between which a quantile lies."""
        return _quantile(self, share)


class SummedHistogram(Histogram):
    """Counts and sums of grey values: tells the median of values that all lie in one bin."""

    STATE = ("counts", "sums")

    def __init__(self, dtype: np.dtype) -> None:
        super().__init__(dtype)
        self.sums = np.zeros(len(self.counts))

    def add(self, values: np.ndarray) -> None:
        """Count values; of any shape."""
        super().add(values)
        keys, numbers = self._keysOf(values).ravel("K"), values.ravel("K").astype(np.float64)
        self.sums += np.bincount(keys, numbers, minlength=len(self.counts))

    def join(self, other: "SummedHistogram") -> None:
        """Count and add what another one has as well."""
        super().join(other)
        self.sums += other.sums

    @property
    def middle(self) -> float:
        """Mean of the values in the bin of the median."""
        key = int(np.searchsorted(np.cumsum(self.counts), 0.5 * (self.counts.sum() - 1), "right"))
        return float(self.sums[key] / self.counts[key])


def _quantile(histogram: "Histogram | FineHistogram", share: float) -> tuple[float, float]:
    """Give the edges of the bin of a quantile."""
    ends = np.cumsum(histogram.counts)
    low, high = histogram.edgesOf(np.searchsorted(ends, share * (ends[-1] - 1), "right"))
    return float(low), float(high)


class FineHistogram:
    """Counts of equally wide bins between two values; what lies outside goes into the outermost ones."""

    STATE = ("counts",)

    def __init__(self, low: float, high: float) -> None:
        self.low, self.width, self.counts = low, (high - low) / FINE_BINS, np.zeros(FINE_BINS, np.int64)

    def add(self, values: np.ndarray) -> None:
        """Count values; of any shape."""
        for piece in _pieces(values):
            places = (piece.astype(np.float64) - self.low) / self.width
            keys = np.clip(places, 0, FINE_BINS - 1).astype(np.int64)
            self.counts += np.bincount(keys, minlength=FINE_BINS)

    take = add  # as moments call it

    def join(self, other: "FineHistogram") -> None:
        """Count what another one has counted as well."""
        self.counts += other.counts

    def edgesOf(self, key: int | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Give the smallest and the largest value of a bin."""
        return self.low + self.width * np.asarray(key), self.low + self.width * (np.asarray(key) + 1)

    def quantile(self, share: float) -> tuple[float, float]:
        """Give the bounds between which a quantile lies."""
        return _quantile(self, share)
