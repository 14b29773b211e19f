"""Scores of a prediction at every threshold at once."""

import numpy as np

BIN_COUNT = 100  # thresholds 0.01, 0.02, ..., 0.99
FINE_COUNT = 1000  # for curves
CALIBRATION_COUNT = 10


class ThresholdScores:
    """Histograms of the probability of positive and of other voxels, summed over samples.

    Parameters
    ----------
    binCount : int
        Thresholds are 1 / binCount apart.
    """

    def __init__(self, binCount: int = BIN_COUNT) -> None:
        self.binCount = binCount
        self.histograms: list[np.ndarray] = []  # a sample: (mask 0 or 1, bin)

    def add(self, probability: np.ndarray, mask: np.ndarray) -> None:
        """Count the voxels of one sample.

        Parameters
        ----------
        probability : array
            0 to 1, any shape.
        mask : array
            bool, the same shape.
        """
        bins = np.minimum(probability.ravel() * self.binCount, self.binCount - 1).astype(np.int64)
        counts = np.bincount(bins + self.binCount * mask.ravel(), minlength=2 * self.binCount)
        self.histograms.append(counts.reshape(2, self.binCount))

    def best(self) -> tuple[float, float]:
        """Find the threshold with the highest Dice; returns both. 0.5 where nothing is positive."""
        dices = _dices(np.sum(self.histograms, axis=0))
        number = int(np.argmax(dices))
        if not dices[number] > 0:
            return 0.5, 0.0
        return number / self.binCount, float(dices[number])

    @property
    def dices(self) -> list[float]:
        """Dice of every sample at the best threshold."""
        number = round(self.best()[0] * self.binCount)
        return [float(_dices(histogram)[number]) for histogram in self.histograms]

    def extremes(self) -> tuple[int, int]:
        """Find the samples with the lowest and the highest Dice, among those with positive voxels if any."""
        candidates = [
            index for index, histogram in enumerate(self.histograms) if histogram[1].any()
        ] or range(len(self.histograms))
        dices = self.dices
        ordered = sorted(candidates, key=lambda index: dices[index])
        return ordered[0], ordered[-1]

    def precisionRecall(self) -> dict[str, np.ndarray | float]:
        """Compute the curve of precision and recall over the thresholds, and the area under it.

        Returns
        -------
        dict
            threshold, precision, recall: arrays, thresholds descending; precision is NaN where nothing is
            predicted. averagePrecision: sum of precision times gain in recall (as scikit-learn defines it,
            for probabilities rounded down to the thresholds).
        """
        others, positives = np.sum(self.histograms, axis=0)[:, ::-1].cumsum(axis=1)
        with np.errstate(invalid="ignore"):
            precision, recall = positives / (positives + others), positives / positives[-1]
        gains = np.diff(recall, prepend=0.0)
        return {
            "threshold": np.arange(self.binCount)[::-1] / self.binCount,
            "precision": precision,
            "recall": recall,
            "averagePrecision": float((np.nan_to_num(precision) * gains).sum()),
        }

    def calibration(self) -> dict[str, np.ndarray | float]:
        """Compare probability with the share of positive voxels that have it.

        Returns
        -------
        dict
            probability (mean), share and voxels: arrays, a bin of 0.1 each; NaN where a bin is empty. error:
            mean absolute difference of the first two, weighed by voxels (expected calibration error).
        """
        histogram = np.sum(self.histograms, axis=0)
        centres = (np.arange(self.binCount) + 0.5) / self.binCount
        voxels, positives = histogram.sum(axis=0), histogram[1]
        parts = (voxels, positives, voxels * centres)
        sums = [part.reshape(CALIBRATION_COUNT, -1).sum(axis=1) for part in parts]
        with np.errstate(invalid="ignore"):
            probability, share = sums[2] / sums[0], sums[1] / sums[0]
        error = np.nansum(np.abs(probability - share) * sums[0]) / max(sums[0].sum(), 1)
        return {"probability": probability, "share": share, "voxels": sums[0], "error": float(error)}


def _dices(histogram: np.ndarray) -> np.ndarray:
    """Dice at the lower edge of every bin; 0 at threshold 0, which calls everything positive."""
    falsePositives, truePositives = np.cumsum(histogram[:, ::-1], axis=1)[:, ::-1]
    dices = 2 * truePositives / np.maximum(truePositives + falsePositives + histogram[1].sum(), 1)
    dices[0] = 0
    return dices
