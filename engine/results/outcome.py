"""From a written probability to all that follows from it: two passes over it, then the files."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from engine.base.console import describeShape
from engine.base.parameters import plainSettings
from engine.base.records import writeJson
from engine.base.threads import readAhead
from engine.measures.analysis import Judged, Measured, describeScores
from engine.measures.labelling import Relabelling
from engine.measures.matching import hideManualLabels
from engine.results.files import openVolumes, summarise, writeTable
from engine.results.looks import Preview
from engine.results.report import describeContent, packVolumes, writeReport

Pairs = Iterator[tuple[np.ndarray, np.ndarray | None]]
VOLUMES = {"mask", "segmentation", "labels", "probability"}  # files with a value for every voxel


def watchPairs(pairs: Pairs, judged: Judged, previews: dict[str, Preview]) -> Pairs:
    """First pass: pass slabs on, judged and shown to the previews.

    Parameters
    ----------
    pairs : iterator
        Probability (z, y, x) and, with a reference, where that is positive.
    judged : Judged
        Is given all of them.
    previews : dict
        {"probability", "manual": Preview}, those that are wanted.
    """
    z = 0
    for probability, truth in readAhead(pairs):
        judged.add(probability, truth)
        for name, planes in (("probability", probability), ("manual", truth)):
            if name in previews:
                previews[name].add(z, planes)
        z += len(probability)
        yield probability, truth


def writeVolumes(
    blocks: Iterator[np.ndarray],
    judged: Judged,
    measured: Measured,
    header: dict,
    paths: dict[str, Path],
    previews: dict[str, Preview],
) -> None:
    """Second pass over the probability, where a file or a preview needs it: label it by particle."""
    if not (VOLUMES & paths.keys() or "mask" in previews):
        return
    again, count, z = Relabelling(measured.labels, judged.connectivity), len(measured.labels.voxelCounts), 0
    with openVolumes(paths, judged.shape, header, judged.frame, count) as write:
        for probability in readAhead(blocks):
            labels = again.label(probability >= judged.threshold)
            write(labels, probability)
            if "mask" in previews:
                previews["mask"].add(z, labels > 0)
            z += len(labels)


def writeTables(
    judged: Judged, measured: Measured, counts: dict | None, paths: dict[str, Path], settings: dict
) -> tuple[dict, dict | None]:
    """Write and print summary, table of particles, scores and errors; gives summary and scores."""
    unit = judged.frame.unit
    summary = summarise(measured.table, measured.labels, judged.frame, judged.shape)
    printSummary(summary, judged.frame.note, settings)
    scores = describeScores(judged, counts, measured.scores) if counts else None
    if "particles" in paths:
        writeTable(measured.table, unit, paths["particles"])
        writeJson(paths["summary"], summary | {"settings": settings})
    if "scores" in paths:
        writeJson(paths["scores"], scores | {"settings": settings})
        writeTable(hideManualLabels(measured.errors), unit, paths["errors"])
        printParticleScores(measured.scores)
    return summary, scores


def writePage(
    path: Path,
    judged: Judged,
    measured: Measured,
    results: tuple[dict, dict | None],
    previews: dict[str, Preview],
    described: dict[str, Any],
) -> None:
    """Write the report.

    Parameters
    ----------
    path : Path
        The HTML file.
    judged, measured
        Of the passes.
    results : tuple
        Of `writeTables`.
    previews : dict
        {"grey", "probability", "mask", "manual": Preview}.
    described : dict
        Of `describePage`.
    """
    particles = measured.table, measured.truth, measured.errors
    content = describeContent(judged.shape, judged.frame, *particles, *results, described["part"])
    writeReport(path, content | described, packVolumes(previews))


def describePage(arguments: Any, judged: Judged, device: str, settings: dict) -> dict[str, Any]:
    """Write title, facts and parameters of the report."""
    frame, region = judged.frame, describeRegion(settings)
    sides = " x ".join(f"{side:.4g}" for side in np.linalg.norm(frame.directions, axis=1))
    facts = [f"{describeShape(judged.shape)} voxels"] + ([region] if region else [])
    facts += ["lengths in voxels" if frame.why else f"voxel {sides} {frame.unit or '(unit not given)'}"]
    facts += [f"threshold {judged.threshold:g}", f"connectivity {judged.connectivity}"]
    facts += [device, time.strftime("%Y-%m-%d %H:%M")]
    return {
        "title": f"{arguments.nameInput.name}: precipitates and pores",
        "facts": facts,
        "notes": [f"{frame.note}."] if frame.note else [],
        "part": "region" if region else "whole volume",
        "threshold": judged.threshold,
        "parameters": {"parameters": plainSettings(arguments), "settings": settings},
    }


def describeRegion(settings: dict) -> str:
    """Name the region and the volume that it is of; empty where it is all of it, or where none is told."""
    region, shape = settings.get("region"), settings.get("inputShape")
    if not region or all(tuple(part) == (0, side) for part, side in zip(region, shape, strict=True)):
        return ""
    ranges = " ".join(f"{axis} {start}:{stop}" for axis, (start, stop) in zip("xyz", region, strict=True))
    return f"region {ranges} (half-open) of {describeShape(shape)} voxels"


def printParticleScores(scores: dict) -> None:
    """Print how many particles were found."""
    rates = scores["anyOverlap"]
    words = "  ".join(f"{name} {rates[name]:.3f}" for name in ("precision", "recall", "f1"))
    print(f"Particles that touch one of the {scores['reference']} of the reference, and are touched: {words}")


def printSummary(summary: dict, note: str, settings: dict) -> None:
    """Print the particles in a line or two."""
    whole, part = summary["all"], "region" if describeRegion(settings) else "volume"
    line = f"Particles: {whole['particles']}, {whole['volumeFraction']:.3%} of the {part}"
    if whole["particles"]:
        low, middle, high = whole["diameterQuartiles"]
        size = f"{middle:.4g} {summary['unit']}".strip()
        line += f", median diameter {size} (quartiles {low:.4g} and {high:.4g})"
    print(line)
    if summary["droppedParticles"]:
        print(f"Left out: {summary['droppedParticles']} particles, {summary['droppedVoxels']} voxels")
    if note:
        print(note)
