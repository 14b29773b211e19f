"""What is made of a written probability for one target: read, measured, scored, told and written."""

from collections.abc import Callable, Sequence

import numpy as np

from engine.base.console import Stopwatch
from engine.base.workers import Workers
from engine.formats.growing import partialName
from engine.formats.metaWriter import writeMetaHeader
from engine.formats.nrrdGeometry import readFrame, resultHeader, voxelSizeOf
from engine.masks.segments import namedLabels, resolveLabels
from engine.masks.targets import Labels, Target
from engine.measures.scores import dropVoxels
from engine.results import outcome
from engine.results.evaluation import Evaluation, Written
from engine.results.kinds import needParticles
from engine.results.pictures import drawPrediction
from engine.results.ranges import Source
from engine.results.reading import SHOWN, Question, Reading, leaveRanges, readAll
from engine.volumes.frame import Frame
from engine.volumes.volume import Volume


def evaluate(
    written: Written,
    evaluation: Evaluation,
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
    target, criteria, reference, paths, looks, page, ignored = evaluation
    if not (paths or reference):
        return None
    clock.lap("opening")
    header = resultHeader(written.volume, written.region, np.uint8)
    frame = readFrame(header)._replace(why=written.volume.frame.why)
    source = Source.of(written.path, written.region, reference, written.memoryBudget)
    places, question = source.ranges(), _ask(written, evaluation, frame)
    reading = readAll(question, source, places, looks, workers, written.store)
    clock.lap("reading back")
    tell(*(told := reading.sureness.describe()))
    findings, lines = _judge(reading, question, evaluation)
    tell(*lines)
    if needParticles(paths):
        subject = outcome.Subject(written.shape, frame, header | criteria._asdict(), target)
        alone = source._replace(reference=None)
        outcome.writeVolumes(alone, places, findings, subject, evaluation, workers)
        settings = (
            criteria._asdict() | written.settings | outcome.describeReference(reference, target, ignored)
        )
        noted = evaluation._replace(page=page.note(told))
        tell(*outcome.writeTables(findings, subject, noted, settings))
    clock.lap("particles")
    if "overview" in paths:
        grey, probability, manual = map(looks.slices.get, ("grey", *SHOWN))
        drawPrediction(grey, probability, manual, paths["overview"], voxelSizeOf(written.volume))
    if "mhd" in paths:
        writeMetaHeader(written.path)
    clock.lap("picture")
    return findings.counts


def leaveSums(
    written: Written, evaluations: Sequence[Evaluation], planes: Sequence[tuple[int, int]]
) -> list[str]:
    """Look at the planes of an unfinished probability that are predicted, for who makes the results.

    Parameters
    ----------
    written : Written
        The probability, unfinished, with a store.
    evaluations : sequence of Evaluation
        All targets.
    planes : sequence of (first, last)
        That are predicted, half-open.

    Returns
    -------
    list of str
        What to tell: nothing where no results are wanted.
    """
    lines = []
    for evaluation in evaluations:
        if not (evaluation.paths or evaluation.reference):
            continue
        frame = readFrame(resultHeader(written.volume, written.region, np.uint8))
        frame = frame._replace(why=written.volume.frame.why)
        source = Source.of(
            partialName(written.path), written.region, evaluation.reference, written.memoryBudget
        )
        places, question = source.ranges(), _ask(written, evaluation, frame)
        known = leaveRanges(question, source, places, written.store, planes)
        lines.append(f"{known} of {len(places)} ranges of planes are measured")
    return lines


def _ask(written: Written, evaluation: Evaluation, frame: Frame) -> Question:
    """Say what is looked for, as any process understands it."""
    target, criteria, reference, paths, looks, *_ = evaluation
    hasReference = reference is not None
    isMeasured = needParticles(paths) or (hasReference and criteria.minimumVoxels > 1)
    labels, named = ((), ()) if reference is None else _readLabels(reference, target)
    asked = criteria, frame, labels, written.learnt, hasReference, isMeasured
    shown = looks.part(0, written.shape[2], *SHOWN)
    return Question(written.shape, *asked, shown, named, evaluation.ignored if hasReference else ())


def _readLabels(reference: Volume, target: Target) -> tuple[Labels, Labels]:
    """Give the numbers of a mask that are positive, and those that have a name."""
    return resolveLabels(target.labels, reference), namedLabels(reference)


def _judge(
    reading: Reading, question: Question, evaluation: Evaluation
) -> tuple[outcome.Findings, list[str]]:
    """Measure and score what was seen; gives what to tell of the scores too."""
    target, criteria, reference, *_ = evaluation
    measured = reading.judged.finish(criteria.minimumVoxels) if question.isMeasured else None
    if not question.hasReference:
        return outcome.Findings(reading.judged, measured, None), []
    counts = reading.scores.finish()
    lines = outcome.describeLabelled(counts, reference, question.shape) if question.ignored else []
    lines += outcome.listDoubts(counts, reference, target, reading.others)
    if measured:
        counts = dropVoxels(counts, measured.droppedCount, measured.droppedTrue)
    lines.append(outcome.describeCounts(counts, reference, criteria.threshold))
    return outcome.Findings(reading.judged, measured, counts), lines
