"""Scores of a prediction against a manual mask, voxel by voxel."""

import numpy as np


class VoxelScores:
    """Scores of a prediction that comes block by block: `add` each, then `finish`."""

    STATE = ("_tp", "_found", "_true", "_size")

    def __init__(self, threshold: float) -> None:
        self.threshold, self._tp, self._found, self._true, self._size = threshold, 0, 0, 0, 0

    def add(
        self, z: int, probability: np.ndarray, reference: np.ndarray, isIgnored: np.ndarray | None = None
    ) -> None:
        """Count the voxels of a block; bool reference, and which voxels count nowhere."""
        positive = probability >= self.threshold
        if isIgnored is not None:
            positive &= ~isIgnored
            self._size -= int(np.count_nonzero(isIgnored))
        self._tp += int(np.count_nonzero(positive & reference))
        self._found += int(np.count_nonzero(positive))
        self._true += int(np.count_nonzero(reference))
        self._size += reference.size

    def join(self, other: "VoxelScores") -> None:
        """Add the voxels of other blocks."""
        self._tp += other._tp
        self._found += other._found
        self._true += other._true
        self._size += other._size

    def finish(self) -> dict[str, float]:
        """Give the scores as `scoreVoxels` does."""
        tp, fp, fn = self._tp, self._found - self._tp, self._true - self._tp
        return {"tp": tp, "fp": fp, "fn": fn, "tn": self._size - tp - fp - fn} | scoreCounts(tp, fp, fn)


def dropVoxels(scores: dict[str, float], lost: int, lostTrue: int) -> dict[str, float]:
    """Score a prediction again without some of its positive voxels, of which `lostTrue` were right."""
    tp, fp, fn = scores["tp"] - lostTrue, scores["fp"] - lost + lostTrue, scores["fn"] + lostTrue
    return {"tp": tp, "fp": fp, "fn": fn, "tn": scores["tn"] + lost - lostTrue} | scoreCounts(tp, fp, fn)


def scoreCounts(tp: float, fp: float, fn: float) -> dict[str, float]:
    """Compute precision, recall, Dice and IoU from counts; NaN where nothing is positive."""

    def share(part: float, whole: float) -> float:
        return part / whole if whole else float("nan")

    return {
        "precision": share(tp, tp + fp),
        "recall": share(tp, tp + fn),
        "dice": share(2 * tp, 2 * tp + fp + fn),
        "iou": share(tp, tp + fp + fn),
    }
