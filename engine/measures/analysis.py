"""A written probability in one pass: join and measure its particles, score it, look at it."""

from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from engine.measures.labelling import Joining, Labels, Slab
from engine.measures.matching import Overlaps, countLabelled, listErrors, scoreParticles
from engine.measures.particles import Sums, describeParticles, directionWeights
from engine.measures.thresholds import VoxelCurves
from engine.volumes.frame import Frame


class Measured(NamedTuple):
    """The particles of a result, and those of the reference."""

    labels: Labels  # of the result
    table: dict[str, np.ndarray]
    truth: dict[str, np.ndarray] | None
    scores: dict | None  # of the particles
    errors: dict[str, np.ndarray] | None
    droppedTrue: int  # voxels of particles that were too small, but positive in the reference
    droppedCount: int = 0  # voxels of particles that were too small, without those that count nowhere


class Judged:
    """What is known of a result after one pass over its slabs, in order.

    Ranges of planes can be looked at apart, by other processes too, and joined in their order.

    Parameters
    ----------
    shape : (int, int, int)
        Of the result, (x, y, z).
    threshold : float
        Probability from which on a voxel is positive.
    connectivity : int
        6, 18 or 26.
    frame : Frame
        Of the result's voxels.
    hasReference : bool
        Whether slabs come with a truth.
    isMeasured : bool
        Whether particles are looked for.
    firstPlane : int
        Of the range that is looked at.

    Attributes
    ----------
    curves : VoxelCurves
        Of the voxels, where there is a reference.
    """

    STATE = ("curves", "_joinings", "_sums", "_overlaps", "_ignored")

    def __init__(
        self,
        shape: tuple[int, int, int],
        threshold: float,
        connectivity: int,
        frame: Frame,
        hasReference: bool,
        isMeasured: bool = True,
        firstPlane: int = 0,
    ) -> None:
        self.shape, self.threshold, self.connectivity, self.frame = shape, threshold, connectivity, frame
        self.curves, self.hasReference = VoxelCurves(), hasReference
        volumeCount = (1 + hasReference) * isMeasured  # the result, and the reference
        weights = directionWeights(frame.directions) if isMeasured else None
        self._joinings = [Joining(connectivity) for _ in range(volumeCount)]
        self._sums = [Sums(shape, weights, connectivity, firstPlane) for _ in range(volumeCount)]
        self._overlaps = Overlaps()
        self._ignored = [np.zeros(0, np.int64)]  # a slab: voxels of its components that count nowhere

    def add(
        self,
        z: int,
        probability: np.ndarray,
        truth: np.ndarray | None,
        isIgnored: np.ndarray | None = None,
    ) -> None:
        """Take the slab (z, y, x) that begins at plane `z`.

        Parameters
        ----------
        probability : array
            float32.
        truth : array or None
            Reference, bool; False where it is ignored.
        isIgnored : array, optional
            Voxels that count in no score, bool.
        """
        positives = (probability >= self.threshold, truth)
        volumes = zip(self._joinings, self._sums, positives, strict=False)
        with ThreadPoolExecutor(2) as threads:
            slabs = [threads.submit(sumUp, *volume, probability) for volume in volumes]
            if isIgnored is not None:
                self.curves.add(probability[~isIgnored], truth[~isIgnored])
            elif self.hasReference:
                self.curves.add(probability, truth)
            slabs = [slab.result() for slab in slabs]
        if len(slabs) == 2:
            self._overlaps.add(*numberBoth(*slabs))
            if isIgnored is not None:
                self._ignored.append(countComponents(slabs[0], isIgnored))

    def join(self, other: "Judged") -> None:
        """Add the next range of planes."""
        seams = [one.join(next) for one, next in zip(self._joinings, other._joinings, strict=True)]
        for one, next, seam in zip(self._sums, other._sums, seams, strict=True):
            one.join(next, seam)
        self.curves.join(other.curves)
        self._ignored += other._ignored
        if len(seams) == 2:
            self._overlaps.join(other._overlaps, *(seam.start for seam in seams))

    def finish(self, minimumVoxels: int) -> Measured:
        """Give particles their numbers and measure them; predicted ones must be large enough."""
        least = (minimumVoxels, 1)[: len(self._joinings)]
        labels = [part.finish(count) for part, count in zip(self._joinings, least, strict=True)]
        totals = [sums.finish(part) for sums, part in zip(self._sums, labels, strict=True)]
        table, *truths = (describeParticles(part, self.frame) for part in totals)
        if not truths:
            return Measured(labels[0], table, None, None, None, 0)
        shared, voxels, lost = self._overlaps.finish(*(part.particles for part in labels))
        judged, dropped = table, labels[0].droppedVoxels
        ignored = np.concatenate(self._ignored)
        if ignored.any():
            sums = np.bincount(labels[0].particles[1:], ignored, len(table["label"]) + 1).astype(np.int64)
            judged, dropped = countLabelled(table, sums[1:]), dropped - int(sums[0])
        scores = scoreParticles(shared, voxels, judged, truths[0])
        errors = listErrors(shared, table, truths[0], judged["voxelCount"] > 0)
        return Measured(labels[0], table, truths[0], scores, errors, lost, dropped)


def sumUp(joining: Joining, sums: Sums, positive: np.ndarray, probability: np.ndarray) -> Slab:
    """Take the next slab of one volume; gives its components."""
    slab = joining.add(positive)
    sums.add(slab, probability)
    return slab


def numberBoth(first: Slab, second: Slab) -> tuple[np.ndarray, np.ndarray]:
    """Give the components, counted across all slabs, of the voxels that are positive in both volumes."""
    labels = first.labels.ravel()[second.positions], second.labels.ravel()[second.positions]
    isShared = labels[0] > 0
    slabs = first, second
    return tuple(part[isShared] + slab.seam.start for part, slab in zip(labels, slabs, strict=True))


def countComponents(slab: Slab, isChosen: np.ndarray) -> np.ndarray:
    """Count the chosen voxels (z, y, x) of every component of a slab: (component,) int64."""
    labels = slab.labels[1:, :-1, :-1][isChosen]
    return np.bincount(labels, minlength=slab.count + 1)[1:]


def describeScores(judged: Judged, counts: dict, particleScores: dict) -> dict:
    """Collect the scores of voxels and particles as JSON holds them."""
    curve, calibration = judged.curves.precisionRecall(), judged.curves.calibration()
    threshold, dice = judged.curves.best()
    size = sum(counts[name] for name in ("tp", "tn", "fp", "fn"))
    return {
        "voxels": counts | {"accuracy": (counts["tp"] + counts["tn"]) / size if size else float("nan")},
        "bestThreshold": {"threshold": threshold, "dice": dice},
        "precisionRecall": {name: np.asarray(values).tolist() for name, values in curve.items()},
        "calibration": {name: np.asarray(values).tolist() for name, values in calibration.items()},
        "particles": particleScores,
    }
