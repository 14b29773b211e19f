"""Scores of a prediction at every threshold at once."""

import numpy as np

from engine.measures.sureness import dice

BIN_COUNT = 100  # thresholds 0.01, 0.02, ..., 0.99
AS_GOOD = 0.01  # of Dice, below the best one
CALIBRATION_COUNT = 10  # bins of a probability of 0.1
CURVE_POINTS = 1000  # at most, of a curve that is written down
DROPPED_BITS = 15  # of 23: 256 bins from one power of 2 to the next
LEAST_BITS = int(np.float32(2**-24).view(np.uint32))  # closer than this to 0 or 1 is one bin
HALF_BITS = int(np.float32(0.5).view(np.uint32))
HALF_COUNT = (HALF_BITS - LEAST_BITS >> DROPPED_BITS) + 2  # bins on either side of 0.5
RAW_COUNT = (int(np.float32(1).view(np.uint32)) >> DROPPED_BITS) + 1
CHUNK = 1 << 18  # values that stay in the cache


class ThresholdScores:
    """Histograms of the probability of positive and of other voxels, summed over samples."""

    def __init__(self) -> None:
        self.histograms: list[np.ndarray] = []  # a sample: (mask 0 or 1, bin)
        self._sums: list[np.ndarray] = []  # of the probabilities in a bin

    def add(self, probability: np.ndarray, mask: np.ndarray) -> None:
        """Count the voxels of one sample.

        Parameters
        ----------
        probability : array
            0 to 1, any shape.
        mask : array
            bool, the same shape.
        """
        bins = np.minimum(probability.ravel() * BIN_COUNT, BIN_COUNT - 1).astype(np.int64)
        counts = np.bincount(bins + BIN_COUNT * mask.ravel(), minlength=2 * BIN_COUNT)
        self.histograms.append(counts.reshape(2, BIN_COUNT))
        self._sums.append(np.bincount(bins, probability.ravel(), minlength=BIN_COUNT))

    def choose(self) -> tuple[float, float]:
        """Choose the threshold for other volumes; returns it and its Dice. 0.5 where nothing is positive.

        It is the middle of those around the best one that are as good to `AS_GOOD`: which of them is best is
        chance, the more so the fewer voxels are labelled.
        """
        dices = _dices(np.sum(self.histograms, axis=0))
        best = int(np.argmax(dices))
        if not dices[best] > 0:
            return 0.5, 0.0
        worse = np.flatnonzero(dices < dices[best] - AS_GOOD)  # 0 always is
        first, last = worse[worse < best].max() + 1, worse[worse > best].min(initial=BIN_COUNT) - 1
        number = int(first + last) // 2
        return number / BIN_COUNT, float(dices[number])

    @property
    def dices(self) -> list[float]:
        """Dice of every sample at the threshold that is chosen."""
        number = round(self.choose()[0] * BIN_COUNT)
        return [float(_dices(histogram)[number]) for histogram in self.histograms]

    @property
    def sureness(self) -> list[tuple[float, float]]:
        """Sureness and Dice, at the chosen threshold, of every sample in which something is positive."""
        number = max(round(self.choose()[0] * BIN_COUNT), 1)
        parts = zip(self.histograms, self._sums, self.dices, strict=True)
        known = (
            (counts[:, number:].sum(), sums[number:].sum(), sums[1:].sum(), d) for counts, sums, d in parts
        )
        return [(round(float(dice(*sums)), 5), round(score, 5)) for *sums, score in known if sums[0]]

    def extremes(self) -> tuple[int, int]:
        """Find the samples with the lowest and the highest Dice, among those with positive voxels if any."""
        candidates = [
            index for index, histogram in enumerate(self.histograms) if histogram[1].any()
        ] or range(len(self.histograms))
        dices = self.dices
        ordered = sorted(candidates, key=lambda index: dices[index])
        return ordered[0], ordered[-1]


class VoxelCurves:
    """Scores of voxels at all thresholds, summed over slabs: `add` each of them.

    Networks are sure of most voxels, so the thresholds lie close together near 0 and 1: 256 of them between
    one power of 2 and the next, of the probability and of its complement.
    """

    STATE = ("histogram",)

    def __init__(self) -> None:
        self.histogram = np.zeros((2, 2 * HALF_COUNT), np.int64)  # (truth, bin)

    def add(self, probability: np.ndarray, truth: np.ndarray) -> None:
        """Count voxels: float32 in 0..1, and bool of the same shape."""
        positives = _count(probability[truth])
        self.histogram[1] += positives
        self.histogram[0] += _count(probability.ravel()) - positives

    def join(self, other: "VoxelCurves") -> None:
        """Add the voxels of other slabs."""
        self.histogram += other.histogram

    def best(self) -> tuple[float, float]:
        """Find the threshold with the highest Dice; returns both. 0.5 where nothing is positive."""
        dices = _dices(self.histogram)
        number = int(np.argmax(dices))
        return (float(_lowerEdges()[number]), float(dices[number])) if dices[number] > 0 else (0.5, 0.0)

    def precisionRecall(self) -> dict[str, np.ndarray | float]:
        """Compute the curve of precision and recall over the thresholds, and the area under it.

        Returns
        -------
        dict
            threshold, precision, recall: arrays, thresholds descending, at most CURVE_POINTS of them; NaN
            where there is nothing to divide by. averagePrecision: sum of precision times gain in recall over
            all thresholds, as scikit-learn defines it.
        """
        others, positives = self.histogram[:, ::-1].cumsum(axis=1)
        with np.errstate(invalid="ignore"):
            precision, recall = positives / (positives + others), positives / positives[-1]
        area = float((np.nan_to_num(precision) * np.diff(recall, prepend=0.0)).sum())
        counted = np.flatnonzero(self.histogram[:, ::-1].any(axis=0))
        chosen = counted[
            np.unique(np.linspace(0, max(len(counted) - 1, 0), CURVE_POINTS).astype(int))[: len(counted)]
        ]
        curve = {"threshold": _lowerEdges()[::-1], "precision": precision, "recall": recall}
        return {name: values[chosen] for name, values in curve.items()} | {"averagePrecision": area}

    def calibration(self) -> dict[str, np.ndarray | float]:
        """Compare probability with the share of positive voxels that have it.

        Returns
        -------
        dict
            probability (mean, to 0.001), share and voxels: arrays, a bin of 0.1 each; NaN where a bin is
            empty. error: mean absolute difference of the first two, weighed by voxels (expected calibration
            error).
        """
        edges = np.append(_lowerEdges(), np.float32(1)).astype(np.float64)
        tenth = np.minimum(edges[:-1] * CALIBRATION_COUNT, CALIBRATION_COUNT - 1).astype(np.int64)
        counted = self.histogram.sum(axis=0)
        centres = (edges[:-1] + edges[1:]) / 2 * counted
        sums = (np.bincount(tenth, part, CALIBRATION_COUNT) for part in (counted, self.histogram[1], centres))
        voxels, positives, probabilities = sums
        with np.errstate(invalid="ignore"):
            probability, share = probabilities / voxels, positives / voxels
        error = np.nansum(np.abs(probability - share) * voxels) / max(voxels.sum(), 1)
        counts = voxels.astype(np.int64)
        return {"probability": probability, "share": share, "voxels": counts, "error": float(error)}


def _count(probability: np.ndarray) -> np.ndarray:
    """Count values by the leading bits of the probability or, from 0.5 on, of 1 minus it."""
    bits, first = np.zeros(RAW_COUNT, np.int64), LEAST_BITS >> DROPPED_BITS
    for start in range(0, len(probability), CHUNK):
        chunk = probability[start : start + CHUNK]
        bits += np.bincount(chunk.view(np.uint32) >> DROPPED_BITS, minlength=RAW_COUNT)
    upper = 1 - probability[probability >= 0.5]  # few
    halves = [bits, np.bincount(upper.view(np.uint32) >> DROPPED_BITS, minlength=RAW_COUNT)]
    halves[0][HALF_BITS >> DROPPED_BITS :] = 0  # the upper ones
    folded = [np.append(half[:first].sum(), half[first : first + HALF_COUNT - 1]) for half in halves]
    return np.concatenate([folded[0], folded[1][::-1]])


def _lowerEdges() -> np.ndarray:
    """Smallest probability of every bin, float32."""
    numbers = np.arange(HALF_COUNT, dtype=np.uint32)
    bits = (np.maximum(numbers, 1) - 1 << DROPPED_BITS) + np.uint32(LEAST_BITS)
    lower = bits.view(np.float32) * (numbers > 0)
    ends = lower[:0:-1].astype(np.float64)  # a bin of the upper half holds those of 1 - p < end
    upper = (1 - ends).astype(np.float32)
    upper = np.where(1 - upper.astype(np.float64) < ends, upper, np.nextafter(upper, np.float32(2)))
    return np.concatenate([lower, [np.float32(0.5)], upper])


def _dices(histogram: np.ndarray) -> np.ndarray:
    """Dice at the lower edge of every bin; 0 at threshold 0, which calls everything positive."""
    falsePositives, truePositives = np.cumsum(histogram[:, ::-1], axis=1)[:, ::-1]
    dices = 2 * truePositives / np.maximum(truePositives + falsePositives + histogram[1].sum(), 1)
    dices[0] = 0
    return dices
