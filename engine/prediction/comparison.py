"""How far the grey values of a scan are from what the network has learnt on."""

from typing import NamedTuple

import numpy as np

from engine.base.squares import EDGES, FEATURES
from engine.prediction.request import Request
from engine.prediction.run import Run
from engine.prediction.statistics import countNoData
from engine.volumes.scale import Finding, Scale, describeFinding

NEAR = 1.0  # standard deviations: a square is known where all its features are as near to a learnt one
MOST_UNLIKE = 0.25  # share of the squares from which on a scan is one that the network has not learnt
CHUNK = 1 << 20  # pairs of squares compared at a time


class Comparison(NamedTuple):
    """A scan beside what was learnt on, as JSON holds it."""

    unlikeShare: float | None  # of the squares of the scan; None: nothing to compare
    warning: str  # empty: none
    remarks: list[str]  # on voxels that are left out
    noDataCount: int  # voxels of the region
    limits: list[float]  # smallest and largest grey value, and the fill; empty: there are no other ones
    edges: list[float]  # of the bins of both histograms
    scan: list[float]  # share of the voxels in a bin
    training: list[float]

    def describe(self) -> list[str]:
        """Tell what is left out, and the comparison in one line."""
        if self.unlikeShare is None and self.training:
            return [
                *self.remarks,
                "Grey values: not compared, no part of the scan is free of no-data voxels",
            ]
        if self.unlikeShare is None:
            return [*self.remarks, "Grey values: nothing tells which ones the network has learnt on"]
        known = f"{1 - self.unlikeShare:.0%} of the scan looks like what the network has learnt on"
        return [*self.remarks, f"Warning: {self.warning}" if self.warning else f"Grey values: {known}"]


def compareGreys(found: Finding, squares: np.ndarray, request: Request) -> Comparison:
    """Compare a scan with what a network has learnt on.

    Parameters
    ----------
    found : Finding
        The scale of the scan, and the histogram of its grey values.
    squares : (square, feature) float64
        Of the scan, grey values; see `engine.base.squares`.
    request : Request
        With what the contract tells of the training: features, squares, histogram; empty where it does not.
    """
    scale, learnt, remarks = found.scale, request.learnt, describeFinding(found, request.normalization)
    limits = [] if scale.noData is None else [*found.extent, scale.fill]
    left = remarks, countNoData(request, found), limits
    if learnt.get("features") != list(FEATURES) or scale.std == 0:
        return Comparison(None, "", *left, [], [], [])
    scored = _scoreSquares(squares, scale)
    bins = EDGES.tolist(), _shareBins(found), learnt.get("histogram", [])
    if not len(scored):  # voxels without data in all squares
        return Comparison(None, "", *left, *bins)
    distances = _nearest(scored, np.array(learnt["squares"]))
    isUnlike = distances > NEAR
    share = float(isUnlike.mean())
    isNew = share > MOST_UNLIKE
    warning = _describeUnlike(scored[isUnlike], np.array(learnt["squares"]), share) if isNew else ""
    return Comparison(share, warning, *left, *bins)


def describeGreys(run: Run) -> list[str]:
    """Tell what a run, this one or the one that it takes its probability from, knows of the grey values."""
    known = run.origin["greys"]
    isOurs = isinstance(known, dict) and known.keys() == set(Comparison._fields)  # not of another version
    return Comparison(**known).describe() if isOurs else []


def _scoreSquares(squares: np.ndarray, scale: Scale) -> np.ndarray:
    """Z-score the features of squares; those that hold no data are left out."""
    if scale.noData is not None:
        squares = squares[np.isfinite(squares).all(axis=1) & (squares[:, :-1] != scale.noData).all(axis=1)]
    quantiles, noise = squares[:, :-1], squares[:, -1:]
    return np.hstack([(quantiles - scale.mean) / scale.std, noise / scale.std])


def _nearest(squares: np.ndarray, learnt: np.ndarray) -> np.ndarray:
    """Give the distance of every square to the nearest learnt one: the largest difference of any feature."""
    parts = np.array_split(squares, -(-len(squares) * len(learnt) // CHUNK))
    return np.concatenate([np.abs(part[:, np.newaxis] - learnt).max(axis=2).min(axis=1) for part in parts])


def _describeUnlike(unlike: np.ndarray, learnt: np.ndarray, share: float) -> str:
    """Say what is unlike the training, and what helps."""
    low, high = np.quantile(learnt, (0.01, 0.99), axis=0)
    middle = np.median(unlike, axis=0)
    names = ["darkest", "darker", "middle", "brighter", "brightest"]
    words = [f"{name} grey values of {value:.2f}" for name, value in zip(names, middle[:-1], strict=True)]
    words.append(f"noise of {middle[-1]:.2f}")
    beyond = np.maximum(low - middle, middle - high)
    worst = int(np.argmax(beyond))
    what = f"{share:.0%} of the scan is unlike what the network has learnt on"
    example = f"there {words[worst]} (z-scored; learnt {low[worst]:.2f} to {high[worst]:.2f})"
    remedy = "take the scan that this one was cut from (--momentsOf), or train with scans like this one"
    return f"{what}: {example}; the result may be wrong: {remedy}"


def _shareBins(found: Finding) -> list[float]:
    """Give the share of the voxels of a scan in every bin of `EDGES`, z-scored."""
    counts, scale = found.histogram.counts, found.scale
    isThere = np.flatnonzero(counts)
    lows, highs = found.histogram.edgesOf(isThere)
    half = 0.5 * (lows == highs)  # a bin of one whole number reaches half-way to the next
    places = np.column_stack([lows - half, highs + half]).ravel()
    ends = np.cumsum(counts[isThere]) / counts.sum()
    shares = np.column_stack([np.append(0, ends[:-1]), ends]).ravel()
    return np.diff(np.interp(EDGES * scale.std + scale.mean, places, shares)).round(6).tolist()
