"""A written probability in two passes: join, score and look at it; then label and measure its particles."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from engine.figures import MidSlices
from engine.labelling import Joining, Labels, Relabelling
from engine.matching import Overlaps, listErrors, scoreParticles
from engine.particles import Frame, Sums, describeParticles
from engine.thresholds import VoxelCurves

Pairs = Iterable[tuple[np.ndarray, np.ndarray | None]]  # probability and, where there is a reference, truth


class Judged:
    """What is known after the first pass: `add` every slab in order.

    Parameters
    ----------
    shape : (int, int, int)
        Of the result, (x, y, z).
    threshold : float
        Probability from which on a voxel is positive.
    connectivity : int
        6, 18 or 26.
    hasReference : bool
        Whether slabs come with a truth.
    isJoined : bool
        Whether particles are looked for.

    Attributes
    ----------
    slices, referenceSlices : MidSlices
        Of probability and truth; the second is None without a reference.
    joinings : list of Joining
        Of the predicted particles and, if any, of the reference's.
    curves : VoxelCurves
        Of the voxels.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        threshold: float,
        connectivity: int,
        hasReference: bool,
        isJoined: bool = True,
    ) -> None:
        self.shape, self.threshold, self.connectivity = shape, threshold, connectivity
        self.slices, self.referenceSlices = MidSlices(shape), MidSlices(shape) if hasReference else None
        self.joinings = [Joining(connectivity) for _ in range(1 + hasReference)] if isJoined else []
        self.curves = VoxelCurves()
        self._z = 0

    def add(self, probability: np.ndarray, truth: np.ndarray | None) -> None:
        """Take the next slab (z, y, x): float32, and bool or None."""
        self.slices.add(self._z, probability)
        positives = (probability >= self.threshold, truth)
        for joining, positive in zip(self.joinings, positives, strict=False):
            joining.add(positive)
        if truth is not None:
            self.referenceSlices.add(self._z, truth)
            self.curves.add(probability, truth)
        self._z += len(probability)

    def finish(self, minimumVoxels: int) -> list[Labels]:
        """Give particles their numbers: predicted ones (large enough) and, if any, the reference's."""
        return [joining.finish((minimumVoxels, 1)[number]) for number, joining in enumerate(self.joinings)]


class Measured(NamedTuple):
    """The particles of a result, and those of the reference."""

    table: dict[str, np.ndarray]
    truth: dict[str, np.ndarray] | None
    scores: dict | None  # of the particles
    errors: dict[str, np.ndarray] | None


def measure(
    pairs: Pairs, judged: Judged, found: list[Labels], frame: Frame, take: Callable[..., None]
) -> Measured:
    """Label the particles of the result and of the reference, hand on the first, measure both.

    Parameters
    ----------
    pairs : iterable
        The same slabs as in the first pass.
    judged : Judged
        Of the first pass.
    found : list of Labels
        Of `Judged.finish`.
    frame : Frame
        Of the result's voxels.
    take : callable
        Takes the first plane of a slab, its labels (z, y, x) uint32, probability and truth.
    """
    again = [Relabelling(labels, judged.connectivity) for labels in found]
    sums = [Sums(len(labels.voxelCounts), judged.shape[::-1]) for labels in found]
    overlaps, z = Overlaps(), 0
    for probability, truth in pairs:
        positives = [probability >= judged.threshold] + ([] if truth is None else [truth])
        planes = [part.label(positive) for part, positive in zip(again, positives, strict=True)]
        take(z, planes[0], probability, truth)
        z += len(probability)
        for part, labels in zip(sums, planes, strict=True):
            part.add(labels, probability)
        if truth is not None:
            overlaps.add(*planes)
    for part in sums:
        part.finish()
    table, *truths = (describeParticles(part, frame) for part in sums)
    if not truths:
        return Measured(table, None, None, None)
    shared, voxels = overlaps.finish()
    scores = scoreParticles(shared, voxels, table, truths[0])
    return Measured(table, truths[0], scores, listErrors(shared, table, truths[0]))


def describeScores(judged: Judged, counts: dict, particleScores: dict) -> dict:
    """Collect the scores of voxels and particles as JSON holds them."""
    curve, calibration = judged.curves.precisionRecall(), judged.curves.calibration()
    threshold, dice = judged.curves.best()
    size = sum(counts[name] for name in ("tp", "tn", "fp", "fn"))
    return {
        "voxels": counts | {"accuracy": (counts["tp"] + counts["tn"]) / size},
        "bestThreshold": {"threshold": threshold, "dice": dice},
        "precisionRecall": {name: np.asarray(values).tolist() for name, values in curve.items()},
        "calibration": {name: np.asarray(values).tolist() for name, values in calibration.items()},
        "particles": particleScores,
    }
