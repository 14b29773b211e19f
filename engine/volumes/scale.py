"""The scale of the grey values: what is left in mean and standard deviation, and what replaces the rest.

Moments are plain (published) or robust. Robust ones are the same bits as plain ones where no voxel lies
beyond the fences: the quantiles at 1 % and 99 %, and three times their distance beyond them. What lies
further out are hot voxels and zingers. A value that means "no data" is left out of both.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from engine.base.arrays import Moments, measureMoments, slowestFirst
from engine.base.errors import PipelineError
from engine.base.histograms import FineHistogram, Histogram
from engine.base.passes import Observer, passOver
from engine.base.ranges import Maker
from engine.volumes.greys import TAIL, Greys, NoData, equals
from engine.volumes.volume import Volume

PHASE_RUNS = 0.6  # share of the voxels beyond them whose neighbour is one as well: particles, not hot voxels
REACH = 3.0  # fences lie so many distances of the two quantiles beyond them
LARGEST_VALUE = 1e30  # of a grey value, and of one over their deviation
STEPS = 64  # of float64 that a standard deviation must have
MOMENTS_FIELD = "pipeline_moments"  # of a header: mean and deviation of the scan that a volume was cut from
COARSE = 64  # bins between the quantiles below which they are looked at again


class Statistics(NamedTuple):
    """What is asked of mean and standard deviation."""

    isRobust: bool = True
    noData: NoData = NoData()
    areOfScan: bool = False  # take those of the scan that a volume was cut from, where its header tells them

    @classmethod
    def parse(cls, moments: str, noData: str, areOfScan: bool = False) -> "Statistics":
        """Take the parameters."""
        return cls(moments == "robust", NoData.parse(noData), areOfScan)


class Scale(NamedTuple):
    """What the z-score of a volume is made with, as plain data; None: nothing is replaced."""

    mean: float
    std: float
    fences: tuple[float, float] | None = None  # grey values beyond them become the ends
    ends: tuple[float, float] | None = None
    noData: float | None = None  # this value becomes the fill
    fill: float | None = None

    @classmethod
    def of(cls, fields: list) -> "Scale":
        """Make it from what JSON holds of it."""
        return cls(*(tuple(field) if isinstance(field, list) else field for field in fields))

    def mend(self, block: np.ndarray) -> np.ndarray:
        """Replace what is no grey value; gives the block itself where there is no such voxel."""
        if self.noData is not None:
            block = _replace(block, equals(block, self.noData), self.fill)
        if self.fences is not None:
            for end, isBeyond in zip(self.ends, self._beyond(block), strict=True):
                block = _replace(block, isBeyond, end)
        return block

    def keep(self, plane: np.ndarray) -> np.ndarray:
        """Give the voxels of a plane that are left in the statistics, as a list."""
        isLeft = np.zeros(plane.shape, bool)
        if self.noData is not None:
            isLeft |= equals(plane, self.noData)
        if self.fences is not None:
            isLeft |= np.logical_or(*self._beyond(plane))
        return plane[~isLeft]

    def countRuns(self, plane: np.ndarray) -> int:
        """Count the voxels beyond the fences whose neighbour along x is one as well."""
        if self.fences is None:
            return 0
        isBeyond = np.logical_or(*self._beyond(plane))
        if self.noData is not None:
            isBeyond &= ~equals(plane, self.noData)
        return int(np.count_nonzero(isBeyond[:, 1:] & isBeyond[:, :-1]))

    def _beyond(self, block: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Tell which voxels lie below and above the fences."""
        return block < self.fences[0], block > self.fences[1]


def _replace(block: np.ndarray, isThere: np.ndarray, value: float) -> np.ndarray:
    """Put a value, in the type of the block, where it is marked; order in memory stays."""
    if not isThere.any():
        return block
    block = block.copy(order="K")
    block[isThere] = value
    return block


class _Kept:
    """Hands on what a scale leaves in: an observer.

    Parameters
    ----------
    scale : Scale
    kind : callable
        Makes what the voxels are handed to, `into`: something with `take`.
    arguments : sequence
        Of the callable.
    """

    STATE = ("into", "count", "noDataCount", "runs")

    def __init__(self, scale: Scale, kind: Callable, *arguments: float) -> None:
        self._scale, self.into, self.count, self.noDataCount, self.runs = scale, kind(*arguments), 0, 0, 0

    def add(self, z: int, planes: np.ndarray) -> None:
        """Take planes (z, y, x)."""
        if self._scale.noData is not None:
            self.noDataCount += int(np.count_nonzero(equals(planes, self._scale.noData)))
        for plane in planes:
            self.runs += self._scale.countRuns(plane)
            if (values := self._scale.keep(plane)).size:
                self.into.take(values)
                self.count += values.size

    def join(self, other: "_Kept") -> None:
        """Take in what was left in of the next planes."""
        self.into.join(other.into)
        self.count, self.runs = self.count + other.count, self.runs + other.runs
        self.noDataCount += other.noDataCount


def measureKept(image: np.ndarray, scale: Scale) -> tuple[float, float]:
    """Measure mean and standard deviation of what a scale leaves in; 0 and 0 where that is nothing."""
    if scale.noData is None and scale.fences is None:
        return measureMoments(image)
    kept = _Kept(scale, Moments)
    kept.add(0, slowestFirst(image))
    return kept.into.finish()


class Finding(NamedTuple):
    """The scale of a volume, and what its grey values are like."""

    scale: Scale
    extent: tuple[float, float]  # smallest and largest value of all that count
    histogram: Histogram | FineHistogram  # of the voxels that are left in
    noise: float  # standard deviation, grey values
    count: int  # voxels
    noDataCount: int
    beyondCount: int  # beyond the fences
    phaseCount: int = 0  # the same, but in groups: not hot voxels, and left in
    missed: float | None = None  # a declared no-data value that no voxel holds
    isOfScan: bool = False  # mean and deviation are those of the scan that the volume was cut from


Walk = Callable[[Maker], Any]  # shows the whole volume to an observer that is made anew, and gives it


def measureVolume(
    read: Callable[[], Iterable[tuple]], volume: Volume, asked: Statistics, *observers: Observer
) -> Finding:
    """Measure the grey values of a volume, or of a region of it, in one process.

    Parameters
    ----------
    read : callable
        Gives the blocks, planes (z, y, x); called once, or up to three times where something is left out.
    volume : Volume
        For its type and name.
    asked : Statistics
        What is left out.
    observers
        See the first walk.

    Raises
    ------
    PipelineError
        Voxels that are not finite, or grey values that single precision cannot hold.
    """
    left = list(observers)

    def walk(maker: Maker) -> Any:
        observer = maker()
        passOver(read(), observer, *left)
        left.clear()
        return observer

    return measureBy(walk, volume, asked)


def measureBy(walk: Walk, volume: Volume, asked: Statistics) -> Finding:
    """Measure the grey values of a volume that is walked over by other means; as `measureVolume`."""
    greys = walk(Maker(Greys, (volume.dtype, asked.noData)))
    greys.refuse(volume.path)
    found = measureScale(greys, walk, asked.isRobust)
    requireUsable(found, volume)
    moments = readMoments(volume) if asked.areOfScan else None
    if moments:
        found = found._replace(scale=Scale(*moments, *found.scale[2:]), isOfScan=True)
    return found


def readMoments(volume: Volume) -> tuple[float, float] | None:
    """Read mean and deviation of the scan that a volume was cut from; None where its header tells none.

    Raises
    ------
    PipelineError
        The header has something else there.
    """
    text = volume.header.get(MOMENTS_FIELD)
    if text is None:
        return None
    try:
        mean, std = map(float, str(text).split())
    except ValueError:
        mean = std = np.nan
    if not (np.isfinite(mean) and np.isfinite(std) and std > 0):
        expected, remedy = "a mean and a standard deviation above 0", "delete this line of the header"
        rule = f"{MOMENTS_FIELD} cannot be read"
        raise PipelineError(rule, file=volume.path, expected=expected, received=repr(text), remedy=remedy)
    return mean, std


def measureScale(greys: Greys, walk: Walk, isRobust: bool) -> Finding:
    """Choose the scale of a volume from what a first walk found; with further ones only where needed.

    Parameters
    ----------
    greys : Greys
        What the first walk found.
    walk : callable
        Shows the whole volume to an observer once more.
    isRobust : bool
        Leave out what lies beyond the fences.
    """
    noData, histogram, scale = greys.findNoData(), greys.histogram, Scale(*greys.moments.finish())
    if noData is not None:
        if noData is not greys.declared:
            histogram = histogram.without(noData.value)  # single voxels may have come before its runs
        scale = scale._replace(noData=float(noData.value))
    extent = _extentOf(greys, noData, histogram)
    if isRobust and histogram.counts.any():
        histogram, ends = _chooseEnds(histogram, scale, walk)
        scale = scale._replace(fences=_fences(*ends), ends=ends) if ends else scale
    noDataCount = noData.count if noData else 0
    missed = greys.declared.value if greys.declared and not greys.declared.count else None
    found = Finding(scale, extent, histogram, greys.noise, greys.count, noDataCount, 0, missed=missed)
    if scale.fences is None and (noData is None or noData is greys.declared):
        return _fillIn(found, noData)
    kept = walk(Maker(_Kept, (scale, Moments)))
    found = found._replace(noDataCount=kept.noDataCount)
    beyondCount = greys.count - kept.noDataCount - kept.count
    if beyondCount and kept.runs >= PHASE_RUNS * beyondCount:
        return measureScale(greys, walk, False)._replace(phaseCount=beyondCount)
    if beyondCount or noData:  # else the moments of the first walk are those of all voxels
        scale = Scale(*kept.into.finish(), *scale[2:])
    if not beyondCount:
        scale = scale._replace(fences=None, ends=None)
    return _fillIn(found._replace(scale=scale, beyondCount=beyondCount), noData)


def _fillIn(found: Finding, noData: object) -> Finding:
    """Choose what replaces a no-data value: the median of what adjoins it along x, else of all the others."""
    if noData is None:
        return found
    mean, std = found.scale[:2]
    if not found.histogram.counts.any():
        return found._replace(scale=found.scale._replace(fill=mean))
    fill = noData.rim.middle if noData.rim.counts.any() else sum(found.histogram.quantile(0.5)) / 2
    if not noData.rim.counts.any():  # no median is further from the mean, but the middle of a wide bin may be
        fill = min(max(fill, mean - std), mean + std)
    return found._replace(scale=found.scale._replace(fill=fill))


def _extentOf(greys: Greys, noData: object, histogram: Histogram) -> tuple[float, float]:
    """Give the smallest and the largest value that count, to the width of a bin beside a no-data value."""
    if not histogram.counts.any():
        return 0.0, 0.0
    if noData is None or noData is greys.declared:
        return greys.lowest, greys.highest
    isLowest, isHighest = greys.lowest == noData.value, greys.highest == noData.value
    return (
        histogram.lowest if isLowest else greys.lowest,
        histogram.highest if isHighest else greys.highest,
    )


def _chooseEnds(
    histogram: Histogram, scale: Scale, walk: Walk
) -> tuple[Histogram | FineHistogram, tuple[float, float] | None]:
    """Measure the two quantiles as exactly as the fences need them; None where all lies within the fences."""
    (low, lowTo), (highFrom, high) = histogram.quantile(TAIL), histogram.quantile(1 - TAIL)
    first, last = _fences(lowTo, highFrom)
    if first <= histogram.lowest and histogram.highest <= last:
        return histogram, None
    if low < high and highFrom - lowTo < COARSE * max(lowTo - low, high - highFrom):
        histogram = walk(Maker(_Kept, (scale, FineHistogram, low, high))).into
        lowTo, highFrom = histogram.quantile(TAIL)[0], histogram.quantile(1 - TAIL)[0]
    return histogram, ((lowTo, highFrom) if lowTo < highFrom else None)


def _fences(low: float, high: float) -> tuple[float, float]:
    """Give the grey values beyond which a voxel is left out."""
    return low - REACH * (high - low), high + REACH * (high - low)


def describeFinding(found: Finding, what: str) -> list[str]:
    """Tell what is left out of the statistics of a `what`, and warn of a constant one."""
    scale, lines = found.scale, []
    if found.noDataCount:
        hold = f"No data: {_share(found.noDataCount, found)} hold {scale.noData:g}"
        remedy = "--noData none makes them grey values"
        lines.append(f"{hold}: left out of mean and deviation, taken for matrix ({remedy})")
    if found.beyondCount:
        beyond = "lie beyond {:.4g} to {:.4g}, hot voxels or zingers?".format(*scale.fences)
        seen = "the network sees {:.4g} or {:.4g} there".format(*scale.ends)
        outside = f"Warning: {_share(found.beyondCount, found)} {beyond}"
        remedy = "--moments plain keeps them"
        lines.append(f"{outside} Mean and deviation are without them, {seen} ({remedy})")
    if found.phaseCount:
        groups = f"{_share(found.phaseCount, found)} lie far beyond the others, in groups"
        lines.append(f"Note: {groups}: taken for a phase, not for hot voxels")
    if found.missed is not None:
        lines.append(f"Warning: no voxel holds {found.missed:g}, which was declared as the no-data value")
    if found.isOfScan:
        moments = f"mean {scale.mean:.6g} and deviation {scale.std:.6g}"
        lines.append(
            f"Note: z-scored with the {moments} of the scan that it was cut from, as its header tells"
        )
    if scale.std == 0:
        lines.append(f"Warning: all voxels of the {what} have the same grey value; it becomes zeros")
    return lines


def _share(count: int, found: Finding) -> str:
    """Tell a number of voxels, and how many of all these are."""
    return f"{count} voxels ({count / found.count:.3%})"


def requireUsable(found: Finding, volume: Volume) -> None:
    """Refuse grey values that differ by more, or less, than single precision can tell.

    Raises
    ------
    PipelineError
        Numbers beyond 1e30 or deviations below 1e-30 that are no constant, or a large offset that hides them.
    """
    mean, std = found.scale[:2]
    low, high = found.scale.fences or found.extent
    spread, rule = std or high - low, None  # squares of tiny numbers are 0
    if not (np.isfinite(std) and max(abs(low), abs(high)) <= LARGEST_VALUE):
        rule = f"grey values of {low:.3g} to {high:.3g} are too large for a z-score in single precision"
    elif 0 < spread < 1 / LARGEST_VALUE:
        rule = f"grey values that differ by {high - low:.3g} are too close for a z-score in single precision"
    elif low < high and std < STEPS * np.spacing(float(max(abs(low), abs(high)))) and not found.noDataCount:
        rule = f"the offset of {mean:.3g} hides grey values that differ by {high - low:.3g}"
    if rule:
        remedy = "multiply them by a constant, or subtract one, before they are saved"
        raise PipelineError(rule, file=volume.path, remedy=remedy)
