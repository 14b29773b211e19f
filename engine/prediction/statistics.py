"""The grey values of a prediction: read once, and what the z-score follows from."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from engine.base.errors import PipelineError
from engine.base.passes import Observer, passOver
from engine.base.squares import Squares
from engine.prediction.request import Request
from engine.volumes.formats import openVolume
from engine.volumes.greys import NoData, equals
from engine.volumes.scale import Finding, Statistics, measureVolume
from engine.volumes.volume import Region, Volume, chooseSlab, watchSlabs

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


def measureRequest(request: Request, observer: Observer | None = None) -> tuple[Finding, np.ndarray]:
    """Measure the grey values that a prediction is z-scored by.

    Parameters
    ----------
    request : Request
        Region or volume, kind of moments, no-data value, another scan whose statistics count.
    observer : Observer, optional
        Sees the region once.

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
    observers, squares = [observer] if observer else [], Squares()
    isWhole = request.shape == request.volume.shape
    if request.normalization == "volume" and not isWhole:
        if observers:
            passOver(listGreys(request, request.region), *observers)
        found = _measure(request, request.volume, None, [squares])
    else:
        found = _measure(request, request.volume, request.region, [*observers, squares])
    if request.momentsOf != OWN:
        mean, std = _readMoments(request)
        found = found._replace(scale=found.scale._replace(mean=mean, std=std))
    return found, squares.finish()


def countNoData(request: Request, found: Finding) -> int:
    """Count the voxels of the region that hold no data; the finding may be of the whole volume."""
    if not found.noDataCount or request.normalization == "region" or request.shape == request.volume.shape:
        return found.noDataCount
    blocks = listGreys(request, request.region)
    return sum(int(np.count_nonzero(equals(block, found.scale.noData))) for (block,) in blocks)


def _measure(request: Request, volume: Volume, region: Region | None, observers: list[Observer]) -> Finding:
    """Walk over a volume as often as its scale needs it."""
    asked = Statistics.parse(request.moments, request.noData)
    return measureVolume(lambda: _listBlocks(volume, region, request.memoryBudget), volume, asked, *observers)


def _listBlocks(volume: Volume, region: Region | None, memoryBudget: float) -> Iterator[tuple[np.ndarray]]:
    """Read a region as blocks (z, y, x), with a progress bar if it takes a while."""
    shape = volume.shape if region is None else tuple(stop - start for start, stop in region)
    slabs = watchSlabs(volume, region, chooseSlab(shape, memoryBudget), "Measuring")
    return ((block.T,) for block in slabs)


def _readMoments(request: Request) -> tuple[float, float]:
    """Give the moments that are asked for: two numbers, or those of another scan."""
    numbers = parseMoments(request.momentsOf)
    if numbers:
        return numbers
    other = openVolume(request.momentsOf)
    mean, std = _measure(request, other, None, []).scale[:2]
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
