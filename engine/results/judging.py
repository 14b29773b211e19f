"""What is made of a written probability for one target: read, measured, scored, told and written."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from engine.base.console import Stopwatch
from engine.base.workers import Workers
from engine.measures.scores import dropVoxels
from engine.results import outcome
from engine.results.evaluation import Evaluation
from engine.results.kinds import needParticles
from engine.results.pictures import drawPrediction
from engine.results.ranges import Source
from engine.results.reading import SHOWN, Question, readAll
from engine.volumes.nrrdGeometry import readFrame, resultHeader, voxelSizeOf
from engine.volumes.volume import Region, Volume


class Written(NamedTuple):
    """A probability on the disk, and what it is of."""

    path: Path
    volume: Volume  # grey values
    region: Region  # of the volume
    learnt: dict[str, Any]  # of the contract of the model
    memoryBudget: float  # GiB; 0: by what is free

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels along (x, y, z)."""
        return tuple(stop - start for start, stop in self.region)


def evaluate(
    written: Written,
    evaluation: Evaluation,
    settings: dict[str, Any],
    workers: Workers,
    tell: Callable[..., None],
    clock: Stopwatch,
) -> dict[str, float] | None:
    """Threshold a probability, measure and score it, write its results.

    Parameters
    ----------
    written : Written
        The probability.
    evaluation : Evaluation
        What is looked for, and the files that are wanted.
    settings : dict
        What the probability follows from.
    workers : Workers
        Who looks at the voxels.
    tell : callable
        Is given lines for the user, each as soon as it is known.
    clock : Stopwatch
        Notes how long the parts take.

    Returns
    -------
    dict or None
        The scores of the voxels, where there is a reference.
    """
    target, criteria, reference, paths, looks, page = evaluation
    header = resultHeader(written.volume, written.region, np.uint8)
    frame = readFrame(header)._replace(why=written.volume.frame.why)
    hasParticles, hasReference = needParticles(paths), reference is not None
    isMeasured = hasParticles or (hasReference and criteria.minimumVoxels > 1)
    source = Source.of(written.path, written.region, reference, written.memoryBudget)
    asked = criteria, frame, target.labels, written.learnt, hasReference, isMeasured
    question = Question(written.shape, *asked, looks.part(0, written.shape[2], *SHOWN))
    judged, sureness, scores, others, _ = readAll(question, source, source.ranges(), looks, workers)
    clock.lap("reading back")
    tell(*(told := sureness.describe()))
    evaluation = evaluation._replace(page=page.note(told))
    counts = scores.finish() if scores else None
    measured = judged.finish(criteria.minimumVoxels) if isMeasured else None
    if counts:
        tell(*outcome.listDoubts(counts, reference, target, others))
        if isMeasured:
            counts = dropVoxels(counts, measured.labels.droppedVoxels, measured.droppedTrue)
        tell(outcome.describeCounts(counts, reference, criteria.threshold))
    if hasParticles:
        findings = outcome.Findings(judged, measured, counts)
        subject = outcome.Subject(written.shape, frame, header | criteria._asdict(), target)
        alone = Source.of(written.path, written.region, None, written.memoryBudget)
        outcome.writeVolumes(alone, source.ranges(), findings, subject, evaluation, workers)
        settings = criteria._asdict() | settings | outcome.describeReference(reference, target)
        tell(*outcome.writeTables(findings, subject, evaluation, settings))
    clock.lap("particles")
    if "overview" in paths:
        grey, probability, manual = map(looks.slices.get, ("grey", "probability", "manual"))
        drawPrediction(grey, probability, manual, paths["overview"], voxelSizeOf(written.volume))
    clock.lap("picture")
    return counts
