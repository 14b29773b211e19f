"""From the particles of a probability to all that follows: labels, tables, page, and what is said."""

import functools
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from engine.base.console import describeShape, relativePath
from engine.base.deflated import Piece
from engine.base.files import openScratch
from engine.base.passes import passOver
from engine.base.records import digestFile, digestFiles, packageVersions, writeJson
from engine.base.threads import writeBehind
from engine.base.workers import Here, Workers
from engine.masks.otherValues import OtherValues
from engine.masks.targets import Target, describeLabels, parseLabels
from engine.measures.analysis import Judged, Measured, describeScores
from engine.measures.labelling import Labels, Relabelling
from engine.measures.matching import hideManualLabels
from engine.results.evaluation import Criteria, Evaluation, Page
from engine.results.files import Parts, Subject, Writer, openFiles, summarise, writeTable
from engine.results.kinds import BY_KIND
from engine.results.looks import Looks
from engine.results.ranges import Blocks, Range, Source, walk
from engine.results.reading import listPairs
from engine.results.report import describeContent, packVolumes, writeReport
from engine.volumes.names import shortName
from engine.volumes.volume import Volume


class Findings(NamedTuple):
    """What is known of the particles of a probability."""

    judged: Judged
    measured: Measured | None  # where particles are looked for
    counts: dict[str, float] | None  # scores of the voxels, where there is a reference


# -------------------------------------------------------------------------------------------- the second pass


class Labelling(NamedTuple):
    """How the planes are labelled again, as plain data."""

    criteria: Criteria
    kinds: tuple[str, ...]  # that are compressed
    looks: Looks  # empty: what is to be shown
    scratch: Path  # folder for pieces that are too large for the memory


class _Relabelled:
    """Second pass: label every slab by particle, for the files and the report."""

    def __init__(self, criteria: Criteria, labels: Labels, write: Writer, looks: Looks) -> None:
        self._threshold, self._write, self._look = criteria.threshold, write, looks.watch("mask")
        self._again = Relabelling(labels, criteria.connectivity)

    def add(self, z: int, probability: np.ndarray, _: None) -> None:
        """Take the slab that begins at plane `z`."""
        labels = self._again.label(probability >= self._threshold)
        self._write(labels, probability)
        self._look.add(z, labels > 0)


def labelRange(
    labelling: Labelling, place: Range, blocks: Blocks, writeRest: Writer | None = None
) -> tuple[dict[str, Piece], Looks]:
    """Label one range, in any process; gives the pieces of the compressed files, and what is shown.

    `writeRest` takes what is not compressed, where this process has begun the files.
    """
    looks = labelling.looks.part(place.first, place.last, "mask")
    parts = Parts(labelling.kinds, labelling.scratch / str(place.first))
    with writeBehind(parts.add if writeRest is None else parts.addAnd(writeRest)) as write:
        observer = _Relabelled(labelling.criteria, place.labels, write, looks)
        passOver(listPairs(blocks), observer, first=place.first)
    return parts.finish(), looks


def writeVolumes(
    source: Source,
    ranges: list[Range],
    findings: Findings,
    subject: Subject,
    evaluation: Evaluation,
    workers: Workers,
) -> None:
    """Write the results that have a value for every voxel, where there are any, or the report needs the mask.

    Parameters
    ----------
    source : Source
        The probability, without a reference.
    ranges : list of Range
        Of the first pass.
    findings : Findings
        Of the first pass.
    subject : Subject
        What the files are of.
    evaluation : Evaluation
        With the files; its looks are shown the mask.
    workers : Workers
        Who does it; what is no NRRD is written by this process.
    """
    paths, looks, labels = evaluation.paths, evaluation.looks, findings.measured.labels
    if not (looks.previews or any(BY_KIND[kind].voxels for kind in paths)):
        return
    places = [place._replace(labels=labels.cut(place.firstSlab, place.lastSlab)) for place in ranges]
    count, empty = len(labels.voxelCounts), looks.part(0, subject.shape[2], "mask")
    with openFiles(paths, subject, count) as files, openScratch(source.result) as scratch:
        labelling = Labelling(evaluation.criteria, (*files.members,), empty, scratch)
        function = functools.partial(labelRange, labelling)
        if files.writers:
            function, workers = functools.partial(function, writeRest=files.write), Here()
        for pieces, part in walk(function, source, places, workers, "Writing particles"):
            files.append(pieces)
            looks.join(part)


# -------------------------------------------------------------------------------------------- tables and page


def writeTables(
    findings: Findings, subject: Subject, evaluation: Evaluation, settings: dict[str, Any]
) -> list[str]:
    """Write summary, table of particles, scores, errors and report; gives what to tell of the particles.

    Parameters
    ----------
    findings, subject
        What was found, and in what.
    evaluation : Evaluation
        With the files, and previews of all volumes for the report.
    settings : dict
        What the particles follow from.
    """
    judged, measured, counts = findings
    paths, unit = evaluation.paths, subject.frame.unit
    noDataCount = (evaluation.page.greys or {}).get("noDataCount", 0)
    summary = summarise(measured.table, measured.labels, subject.frame, subject.shape, noDataCount)
    scores = describeScores(judged, counts, measured.scores) if counts else None
    if "particles" in paths:
        writeTable(measured.table, unit, paths["particles"])
        writeJson(paths["summary"], summary | {"settings": settings})
    if "scores" in paths:
        writeJson(paths["scores"], scores | {"settings": settings})
        writeTable(hideManualLabels(measured.errors), unit, paths["errors"])
    if "report" in paths:
        page = describePage(evaluation.page, judged, subject, settings)
        particles = measured.table, measured.truth, measured.errors
        content = describeContent(subject.shape, subject.frame, *particles, summary, scores, page["part"])
        writeReport(paths["report"], content | page, packVolumes(evaluation.looks.previews))
    told = scores if "scores" in paths else None
    return describeParticles(summary, told, subject.frame.note, settings)


def describeReference(
    reference: Volume | None, target: Target, ignored: Sequence[int] | str = ()
) -> dict[str, Any]:
    """Describe what a result is scored against, and the program that does it."""
    described: dict[str, Any] = {}
    if reference:
        described["reference"] = _digestReference(reference)
        described["positiveLabel"] = parseLabels(target.labels)
        described |= {"ignoreLabel": ignored} if ignored else {}
    return described | {"versions": packageVersions()}


def _digestReference(reference: Volume) -> dict[str, str]:
    """Give the digests of a mask by its files, or by its folder."""
    path, files = reference.path, tuple(dict.fromkeys(reference.files))
    if path.is_dir():
        return {str(relativePath(path)): digestFiles(files, path)}
    return {str(relativePath(file)): digestFile(file) for file in sorted(files)}


def describePage(page: Page, judged: Judged, subject: Subject, settings: dict[str, Any]) -> dict[str, Any]:
    """Write title, facts and parameters of the report."""
    frame, region = subject.frame, describeRegion(settings)
    sides = " x ".join(f"{side:.4g}" for side in frame.sides)
    facts = [f"{describeShape(subject.shape)} voxels"] + ([region] if region else [])
    facts += ["lengths in voxels" if frame.why else f"voxel {sides} {frame.unit or '(unit not given)'}"]
    facts += [f"threshold {judged.threshold:g}", f"connectivity {judged.connectivity}"]
    facts += [page.device, time.strftime("%Y-%m-%d %H:%M")]
    greys = page.greys or {}
    doubts = [text for text in (*greys.get("remarks", ()), greys.get("warning")) if text]
    return {
        "title": f"{page.name}: {subject.target.name}",
        "facts": facts,
        "notes": [f"{note}." for note in (frame.note, *doubts) if note],
        "greys": greys if doubts else None,
        "part": "region" if region else "whole volume",
        "threshold": judged.threshold,
        "colour": subject.target.cssColour,
        "parameters": {"parameters": page.parameters, "settings": settings},
    }


def describeRegion(settings: dict[str, Any]) -> str:
    """Name the region and the volume that it is of; empty where it is all of it, or where none is told."""
    region, shape = settings.get("region"), settings.get("inputShape")
    if not region or all(tuple(part) == (0, side) for part, side in zip(region, shape, strict=True)):
        return ""
    ranges = " ".join(f"{axis} {start}:{stop}" for axis, (start, stop) in zip("xyz", region, strict=True))
    return f"region {ranges} (half-open) of {describeShape(shape)} voxels"


# ----------------------------------------------------------------------------------------------- what is said


def describeCounts(counts: dict[str, float], reference: Volume, threshold: float) -> str:
    """Tell the scores of the voxels in one line."""
    line = "  ".join(f"{name} {counts[name]:.4f}" for name in ("precision", "recall", "dice", "iou"))
    return f"Scores against {shortName(reference)} at threshold {threshold:g}: {line}"


def describeLabelled(counts: dict[str, float], reference: Volume, shape: tuple[int, int, int]) -> list[str]:
    """Tell which share of the voxels the scores are of."""
    share = sum(counts[name] for name in ("tp", "fp", "fn", "tn")) / math.prod(shape)
    return [f"Labelled in {reference.path.name}: {share:.2%} of the voxels; the others count in no score"]


def listDoubts(
    counts: dict[str, float], reference: Volume, target: Target, others: OtherValues | None = None
) -> list[str]:
    """Warn of a manual mask whose labels are probably meant the other way round, or that was interpolated."""
    size = sum(counts[name] for name in ("tp", "fp", "fn", "tn"))
    share, doubts = (counts["tp"] + counts["fn"]) / max(size, 1), []
    if not 0 < share <= 0.5:
        amount = f"{share:.0%} of the voxels are" if share else "no voxel of the region is"
        rule = f"{amount} positive in {shortName(reference)} (label {describeLabels(target.labels)})"
        doubts.append(f"Warning: {rule}; the scores mean nothing if --positiveLabel is another one")
    if others and (doubt := others.describe()):
        doubts.append(f"Warning: {shortName(reference)}: {doubt}")
    return doubts


def describeParticles(summary: dict, scores: dict | None, note: str, settings: dict[str, Any]) -> list[str]:
    """Tell of the particles in a few lines; `scores` only where they are among the results."""
    whole, part = summary["all"], "region" if describeRegion(settings) else "volume"
    line = f"Particles: {whole['particles']}, {whole['volumeFraction']:.3%} of the {part}"
    if whole["particles"]:
        low, middle, high = whole["diameterQuartiles"]
        size = f"{middle:.4g} {summary['unit']}".strip()
        line += f", median diameter {size} (quartiles {low:.4g} and {high:.4g})"
    lines = [line]
    if summary["droppedParticles"]:
        lines.append(f"Left out: {summary['droppedParticles']} particles, {summary['droppedVoxels']} voxels")
    lines += [note] if note else []
    if scores:
        rates, manual = scores["particles"]["anyOverlap"], scores["particles"]["reference"]
        words = "  ".join(f"{name} {rates[name]:.3f}" for name in ("precision", "recall", "f1"))
        lines.append(f"Particles that touch one of the {manual} of the reference, and are touched: {words}")
    return lines
