"""What the grey values of a volume are like: moments, quantiles, extremes and noise, in one walk."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from engine.base.arrays import Moments
from engine.base.errors import PipelineError
from engine.base.histograms import Histogram, SummedHistogram
from engine.base.squares import NOISE_FACTOR

TAIL = 0.01  # share of the voxels below the lower and above the upper quantile
NOISE_ROWS = 4  # of so many rows one is looked at
NO_DATA_SHARE = 0.001  # of the voxels
NO_DATA_RUNS = 0.5  # share of them whose neighbour along x is one as well: a region, not single voxels
NO_DATA_GAP = 0.25  # to the next grey value, in distances of the two quantiles of the others
NO_DATA_FAR = 3.0  # the same where there is no noise: air of a calculated volume is one value as well


class _Region:
    """The smallest value, or with `sign` -1 the largest, of runs of equal voxels, and the region it fills.

    Hot voxels are further out, but alone. A smaller value than before begins anew: no run seen so far had it,
    so one walk is enough (but for single voxels of it in blocks before).
    """

    STATE = ("value", "count", "runs", "rim")

    def __init__(self, dtype: np.dtype, sign: int) -> None:
        self._dtype, self._sign, self.value = dtype, sign, None
        self.count = self.runs = 0
        self.rim = SummedHistogram(dtype)  # of the values that adjoin it along x

    def add(self, planes: np.ndarray, flat: np.ndarray) -> None:
        """Take planes (z, y, x), and the values of the runs in them."""
        if flat.size:
            self._look(flat.min() if self._sign > 0 else flat.max())
        if self.value is None:
            return
        isThere = planes == self.value
        if not isThere.any():
            return
        self.count += int(np.count_nonzero(isThere))
        self.rim.add(_besides(planes, isThere))
        self.runs += int(np.count_nonzero(isThere[..., :-1] & isThere[..., 1:]))

    def join(self, other: "_Region") -> None:
        """Take in the region of the next planes, where its value is as far out."""
        if other.value is None:
            return
        self._look(other.value)
        if self.value == other.value:
            self.count, self.runs = self.count + other.count, self.runs + other.runs
            self.rim.join(other.rim)

    def _look(self, value: np.generic) -> None:
        """Begin anew with a value that is further out."""
        if self.value is None or (value < self.value if self._sign > 0 else value > self.value):
            self.value, self.count, self.runs = value, 0, 0
            self.rim = SummedHistogram(self._dtype)


class _Known:
    """The region that a declared value fills: what `_Region` knows of the one it finds."""

    STATE = ("count", "rim")

    def __init__(self, dtype: np.dtype, value: float) -> None:
        self.value, self.count, self.rim = value, 0, SummedHistogram(dtype)

    def add(self, planes: np.ndarray) -> np.ndarray:
        """Take planes (z, y, x); gives where the value is."""
        isThere = equals(planes, self.value)
        self.count += int(np.count_nonzero(isThere))
        self.rim.add(_besides(planes, isThere))
        return isThere

    def join(self, other: "_Known") -> None:
        """Take in the region of the next planes."""
        self.count += other.count
        self.rim.join(other.rim)


def _split(planes: np.ndarray, isKept: np.ndarray) -> list[np.ndarray]:
    """List the voxels of each plane that count, where there are any."""
    return [plane[kept] for plane, kept in zip(planes, isKept, strict=True) if kept.any()]


def _listFlat(planes: np.ndarray) -> np.ndarray:
    """List the voxels of planes (z, y, x) that equal both neighbours along x."""
    middle = planes[..., 1:-1]
    return middle[(planes[..., :-2] == middle) & (middle == planes[..., 2:])]


def equals(values: np.ndarray, value: float) -> np.ndarray:
    """Tell where an array has a value, which may be NaN."""
    return np.isnan(values) if np.isnan(value) else values == value


def _besides(planes: np.ndarray, isThere: np.ndarray) -> np.ndarray:
    """List the finite values of planes (z, y, x) that adjoin the marked ones along x."""
    left, right = isThere[..., :-1], isThere[..., 1:]
    isBorder = left ^ right
    values = np.where(left[isBorder], planes[..., 1:][isBorder], planes[..., :-1][isBorder])
    return values[np.isfinite(values)]


class NoData(NamedTuple):
    """Which grey value means that there is none."""

    value: float | None = None  # as declared
    isSought: bool = True  # recognise an extreme one that fills a region

    @classmethod
    def parse(cls, text: str) -> "NoData":
        """Read `auto`, `none` or a number, which may be nan; PipelineError for anything else."""
        if text in ("auto", "none"):
            return cls(None, text == "auto")
        try:
            return cls(float(text), False)
        except ValueError:
            raise PipelineError("noData must be auto, none or a number", received=repr(text)) from None


class Greys:
    """What one walk over the grey values of a volume finds out: an observer.

    Parameters
    ----------
    dtype : np.dtype
        Of the voxels.
    noData : NoData
        A declared value is left out of everything, another one looked for.
    """

    SUMS = ("moments", "histogram", "differences", "declared")
    STATE = (*SUMS, "_regions", "lowest", "highest", "count", "unusableCount")

    def __init__(self, dtype: np.dtype, noData: NoData) -> None:
        self.moments, self.histogram = Moments(), Histogram(dtype)
        self.differences = Histogram(np.dtype(np.float32))  # of neighbours along x
        self.declared = None if noData.value is None else _Known(dtype, noData.value)
        self._regions = (_Region(dtype, 1), _Region(dtype, -1)) if noData.isSought else ()
        self.lowest, self.highest = float("inf"), float("-inf")  # of the values that count
        self.count = self.unusableCount = 0

    def add(self, z: int, planes: np.ndarray) -> None:
        """Take planes (z, y, x)."""
        self.count += planes.size
        isKept = None if self.declared is None else ~self.declared.add(planes)
        values = planes if isKept is None else planes[isKept]
        if planes.dtype.kind == "f" and (bad := values.size - int(np.count_nonzero(np.isfinite(values)))):
            self.unusableCount += bad
        elif values.size:
            for plane in planes if isKept is None else _split(planes, isKept):
                self.moments.merge(plane)
            self.histogram.add(values)
            self.lowest = min(self.lowest, values.min().item())
            self.highest = max(self.highest, values.max().item())
            flat = _listFlat(planes) if self._regions else None
            for region in self._regions:
                region.add(planes, flat)
            rows = np.s_[:, ::NOISE_ROWS]
            self._addNoise(planes[rows], None if isKept is None else isKept[rows])

    def join(self, other: "Greys") -> None:
        """Take in what was found out of the next planes."""
        for name in self.SUMS:
            if (own := getattr(self, name)) is not None:
                own.join(getattr(other, name))
        for own, region in zip(self._regions, other._regions, strict=True):
            own.join(region)
        self.lowest, self.highest = min(self.lowest, other.lowest), max(self.highest, other.highest)
        self.count, self.unusableCount = (
            self.count + other.count,
            self.unusableCount + other.unusableCount,
        )

    def _addNoise(self, rows: np.ndarray, isKept: np.ndarray | None) -> None:
        """Count differences of neighbours, but for those inside of a region of one value."""
        isUsed = np.ones((*rows.shape[:-1], rows.shape[-1] - 1), bool)
        for value in (region.value for region in self._regions if region.value is not None):
            isUsed &= (rows[..., 1:] != value) | (rows[..., :-1] != value)
        if isKept is not None:
            isUsed &= isKept[..., 1:] & isKept[..., :-1]
        wide = rows.astype(np.float32 if rows.dtype.itemsize < 4 else np.float64)
        with np.errstate(invalid="ignore", over="ignore"):  # of values that are left out or refused
            self.differences.add(np.abs(np.diff(wide))[isUsed])

    @property
    def noise(self) -> float:
        """Standard deviation of white noise with these differences of neighbours."""
        if not self.differences.counts.any():
            return 0.0
        low, high = self.differences.quantile(0.5)
        return (low + high) / 2 * NOISE_FACTOR if low else 0.0  # the bin of 0 holds tiny numbers as well

    def refuse(self, fileName: str | Path) -> None:
        """Raise PipelineError naming the file where there were voxels that are NaN or infinite."""
        if self.unusableCount:
            raise PipelineError(
                f"{self.unusableCount} voxels are NaN or infinite",
                file=fileName,
                remedy="replace them by a grey value and repeat, or declare a value with --noData",
            )

    def findNoData(self) -> _Known | _Region | None:
        """Find the value that means "no data": declared, or an extreme one that fills a region."""
        if self.declared is not None:
            return self.declared if self.declared.count else None
        return next(filter(self._isNoData, self._regions), None)

    def _isNoData(self, region: _Region) -> bool:
        """Whether an extreme value fills a region and says nothing else."""
        isRegion = region.runs >= NO_DATA_RUNS * region.count
        if region.count < max(NO_DATA_SHARE * self.count, 1) or not isRegion:
            return False
        others, value = self.histogram.without(region.value, region.count), float(region.value)
        if not others.counts.any():
            return False
        (low, lowTo), (highFrom, high) = others.quantile(TAIL), others.quantile(1 - TAIL)
        isBelow = value < low
        if not (isBelow or value > high):
            return False
        firsts, lasts = others.edgesOf(np.flatnonzero(others.counts))
        between = firsts[firsts > value] if isBelow else lasts[lasts < value]
        nearest = between.min() if isBelow else between.max()
        far = max(NO_DATA_GAP * (high - low), 3 * self.noise)
        if not self.noise:
            far = NO_DATA_FAR * (highFrom - lowTo)
        return abs(nearest - value) > far > 0
