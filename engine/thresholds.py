"""Scores of a prediction at every threshold at once."""

import numpy as np

BIN_COUNT = 100  # thresholds 0.01, 0.02, ..., 0.99


class ThresholdScores:
    """Histograms of the probability of positive and of other voxels, summed over samples."""

    def __init__(self) -> None:
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
        bins = np.minimum(probability.ravel() * BIN_COUNT, BIN_COUNT - 1).astype(np.int64)
        counts = np.bincount(bins + BIN_COUNT * mask.ravel(), minlength=2 * BIN_COUNT)
        self.histograms.append(counts.reshape(2, BIN_COUNT))

    def best(self) -> tuple[float, float]:
        """Find the threshold with the highest Dice; returns both. 0.5 where nothing is positive."""
        dices = _dices(np.sum(self.histograms, axis=0))
        number = int(np.argmax(dices))
        if not dices[number] > 0:
            return 0.5, 0.0
        return number / BIN_COUNT, float(dices[number])

    @property
    def dices(self) -> list[float]:
        """Dice of every sample at the best threshold."""
        number = round(self.best()[0] * BIN_COUNT)
        return [float(_dices(histogram)[number]) for histogram in self.histograms]

    def extremes(self) -> tuple[int, int]:
        """Find the samples with the lowest and the highest Dice, among those with positive voxels if any."""
        candidates = [
            index for index, histogram in enumerate(self.histograms) if histogram[1].any()
        ] or range(len(self.histograms))
        dices = self.dices
        ordered = sorted(candidates, key=lambda index: dices[index])
        return ordered[0], ordered[-1]


def _dices(histogram: np.ndarray) -> np.ndarray:
    """Dice at the lower edge of every bin; 0 at threshold 0, which calls everything positive."""
    falsePositives, truePositives = np.cumsum(histogram[:, ::-1], axis=1)[:, ::-1]
    dices = 2 * truePositives / np.maximum(truePositives + falsePositives + histogram[1].sum(), 1)
    dices[0] = 0
    return dices
