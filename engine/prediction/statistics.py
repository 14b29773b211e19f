"""The grey values of a prediction: read once, and what the z-score follows from."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from engine.base.errors import PipelineError
from engine.base.passes import Observer, passOver
from engine.base.ranges import Maker, cutRanges, walkRanges
from engine.base.squares import Squares
from engine.base.sums import SumFiles
from engine.base.workers import Here, Workers
from engine.formats.opening import openVolume
from engine.formats.rawData import isSequential
from engine.prediction.request import Request
from engine.volumes.greys import NoData, equals
from engine.volumes.names import nameOf
from engine.volumes.scale import Finding, Statistics, measureBy
from engine.volumes.volume import Region, Volume, checkRegion, chooseSlab, watchSlabs

OWN = ""  # of --momentsOf: the scan itself


def listOthers(momentsOf: str, noData: str) -> tuple[Path, ...]:
    """List the files of another scan whose moments are asked for.

    Raises
    ------
    PipelineError
        It is neither a scan nor two numbers; the no-data value is none.
    """
    NoData.parse(noData)
    return () if momentsOf == OWN or parseMoments(momentsOf) else openVolume(momentsOf).files


def listGreys(request: Request, region: Region | None) -> Iterator[tuple[np.ndarray]]:
    """Read grey values of a region, or of the whole volume, as blocks (z, y, x)."""
    return _listBlocks(request.volume, region, request.memoryBudget)


class Planes:
    """Planes of a region of a volume, for whoever looks at them; it pickles by the name of the file."""

    def __init__(
        self, volume: Volume, region: Region | None, slab: int, role: str, check: Callable[[], None] | None
    ) -> None:
        self._volume: Volume | None = volume
        self._check = check
        self._path, self._slab = nameOf(volume), slab
        self._region = checkRegion(volume, region)
        self.label = f"{role} {self._region} by {slab}"

    def __getstate__(self) -> dict:
        """Leave out the volume."""
        return self.__dict__ | {"_volume": None}

    def blocks(self, first: int, last: int) -> Iterator[tuple[np.ndarray]]:
        """Read planes of the region as blocks (z, y, x), with a progress bar if it takes a while."""
        if self._volume is None:  # in another process
            if self._check:
                self._check()
            self._volume = openVolume(self._path)
        x, y, (begin, _) = self._region
        slabs = watchSlabs(self._volume, (x, y, (begin + first, begin + last)), self._slab, "Measuring")
        return ((block.T,) for block in slabs)


class Walker(NamedTuple):
    """Who walks over a volume: this process, or several that share what they find."""

    workers: Workers = Here()
    store: SumFiles | None = None
    share: float = 0.0  # of the volume before the range that is looked at first
    check: Callable[[], None] | None = None  # what another process does first: it refuses to see other files


ALONE = Walker()


def measureRequest(
    request: Request, observer: Observer | None = None, by: Walker = ALONE
) -> tuple[Finding, np.ndarray]:
    """Measure the grey values that a prediction is z-scored by: the same bits, whoever does it.

    Parameters
    ----------
    request : Request
        Region or volume, kind of moments, no-data value, another scan whose statistics count.
    observer : Observer, optional
        Sees the region once.
    by : Walker
        Who walks.

    Returns
    -------
    Finding
        Of the region or the volume; its scale has the moments of the other scan where one is named.
    (square, feature) float64
        Features of squares of it, grey values.

    Raises
    ------
    PipelineError
        Voxels that are not finite, numbers that float32 cannot hold, another scan that is none.
    """
    isWhole = request.shape == request.volume.shape
    isOwn = by.store is None and by.workers.count == 1 and (request.normalization != "volume" or isWhole)
    if observer and not isOwn:
        passOver(listGreys(request, request.region), observer)
    region = None if request.normalization == "volume" else request.region
    found, squares = _measure(request, request.volume, region, by, observer if isOwn else None)
    if request.momentsOf != OWN:
        mean, std = _readMoments(request, by)
        found = found._replace(scale=found.scale._replace(mean=mean, std=std))
    return found, squares.finish()


def countNoData(request: Request, found: Finding) -> int:
    """Count the voxels of the region that hold no data; the finding may be of the whole volume."""
    if not found.noDataCount or request.normalization == "region" or request.shape == request.volume.shape:
        return found.noDataCount
    blocks = listGreys(request, request.region)
    return sum(int(np.count_nonzero(equals(block, found.scale.noData))) for (block,) in blocks)


def _measure(
    request: Request, volume: Volume, region: Region | None, by: Walker, observer: Observer | None = None
) -> tuple[Finding, Squares]:
    """Walk over a volume as often as its scale needs it; the observers see the first walk."""
    shape = tuple(stop - start for start, stop in checkRegion(volume, region))
    slab = chooseSlab(shape, request.memoryBudget)
    ranges = [(0, shape[2])] if isSequential(volume) else cutRanges(shape, slab)
    role = "nameInput" if volume is request.volume else "momentsOf"
    planes, begin, squares = Planes(volume, region, slab, role, by.check), int(by.share * len(ranges)), []

    def walk(maker: Maker) -> Any:
        if squares:
            return walkRanges(planes, ranges, [maker], by.workers, by.store, begin)[0]
        seeing = [observer] if observer else []
        both = [maker, Maker(Squares)]
        found, seen = walkRanges(planes, ranges, both, by.workers, by.store, begin, seeing)
        squares.append(seen)
        return found

    asked = Statistics.parse(request.moments, request.noData)
    return measureBy(walk, volume, asked), squares[0]


def _listBlocks(volume: Volume, region: Region | None, memoryBudget: float) -> Iterator[tuple[np.ndarray]]:
    """Read a region as blocks (z, y, x), with a progress bar if it takes a while."""
    shape = volume.shape if region is None else tuple(stop - start for start, stop in region)
    slabs = watchSlabs(volume, region, chooseSlab(shape, memoryBudget), "Measuring")
    return ((block.T,) for block in slabs)


def _readMoments(request: Request, by: Walker) -> tuple[float, float]:
    """Give the moments that are asked for: two numbers, or those of another scan."""
    numbers = parseMoments(request.momentsOf)
    if numbers:
        return numbers
    other = openVolume(request.momentsOf)
    found, _ = _measure(request, other, None, by)
    mean, std = found.scale[:2]
    if std == 0:
        raise PipelineError("momentsOf names a scan whose voxels all have the same value", file=other.path)
    return mean, std


def parseMoments(text: str) -> tuple[float, float] | None:
    """Read `mean,std`; None where the text is a name.

    Raises
    ------
    PipelineError
        The deviation is not above 0.
    """
    try:
        mean, std = map(float, text.split(","))
    except ValueError:
        return None
    if not (np.isfinite(mean) and np.isfinite(std) and std > 0):
        raise PipelineError("momentsOf needs a mean and a standard deviation above 0", received=text)
    return mean, std
