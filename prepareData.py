"""Normalise volumes and masks and cut them into sub-volumes that fit the memory of the GPU.

In:  trainingImages/ and validationImages/ (grey values of any format in docs/formats.md, or a folder of TIFF
     slices a volume), trainingMasks/ and validationMasks/; in sorted order image i belongs to mask i.
Out: pythonFiles/trainingDataImage.npy (sample, x, y, z, 1) float32, trainingDataMask.npy bool (True =
     precipitate or pore), the two validation twins and parameters.json; where not every voxel is labelled
     also trainingDataLabelled.npy bool (True = labelled) or its twin.

    python3 prepareData.py
"""

import argparse
import math
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from engine.base.arrays import copyInOrder
from engine.base.console import describeShape, relativePath, runScript, say, showProgress
from engine.base.errors import PipelineError
from engine.base.parameters import describeSettings, pick, plainSettings, readParameters
from engine.base.words import joinWords, printable
from engine.base.workers import Workers, openWorkers
from engine.masks.place import describePlaces
from engine.masks.segments import resolveLabels
from engine.masks.targets import Labels, parseLabels, selectPositive
from engine.preparation.checks import findLeaks, inspectPair, requireMemory
from engine.preparation.cuts import Cut, keepLabelled, listCuts
from engine.preparation.labelled import Labelled, parseLabelled
from engine.preparation.pairs import Pair, doubtNames, listPairs, openPairs
from engine.preparation.samples import (
    Part,
    SampleWriter,
    describeOutputs,
    describeRun,
    isUpToDate,
    openParts,
)
from engine.preparation.sets import describeSets, doubtSets
from engine.volumes.names import shortName
from engine.volumes.scale import Finding, Statistics, measureKept
from functions import (
    ROTATION_AXES,
    chooseSubVolumeSide,
    cutSubVolumes,
    placeSubVolumes,
    prep_img,
    quarterTurns,
    rotateSubVolume,
)

FOLDER = Path(__file__).resolve().parent

# ----------------------------------------------------------------------------------------------- parameters
# data
positiveLabel: str = "0"  # positive mask value, or 1,2 or 1-30 or '!0' (all but 0), or names of segments
ignoreLabel: str = ""  # mask values that count nowhere, such as 255 or 3,4; empty: none
labelledSlices: str = ""  # z:10,40,70 or "z:0-190:8 x:64": all that is labelled; empty: every voxel
validationSlices: str = ""  # the same of the validation masks; empty: as labelledSlices; all: every voxel
normalization: Literal["subVolume", "volume"] = "subVolume"  # z-score over each (published) or whole volumes
moments: Literal["plain", "robust"] = "robust"  # of all voxels (published), or without hot ones
noData: str = "auto"  # grey value that means none; auto: recognised; none: all are values
trainingImages: Path = Path("trainingImages")  # folder of grey-value volumes
trainingMasks: Path = Path("trainingMasks")  # folder of their masks
validationImages: Path = Path("validationImages")  # folder of grey-value volumes
validationMasks: Path = Path("validationMasks")  # folder of their masks
rawLayout: str = ""  # of .raw files, which have no header: such as "512x512x300 uint16"; big, skipped bytes
# sub-volumes
length_subVol_x: int = 192  # voxels, a multiple of 8; 0 = the whole side
length_subVol_y: int = 192  # voxels, a multiple of 8; 0 = the whole side
length_subVol_z: int = 0  # voxels, a multiple of 8; 0 = full depth
nb_subVol_x: int = 0  # sub-volumes along x; 0 = as many as fit
nb_subVol_y: int = 0  # sub-volumes along y; 0 = as many as fit
nb_subVol_z: int = 0  # sub-volumes along z; 0 = as many as fit
cover: bool = False  # add sub-volumes at the far edges, so that no voxel is left out
nb_rotation: Literal[1, 2, 3, 4] = 1  # copies: 1 = unturned; 2, 3, 4 add a turn about (0, 1), (1, 2), (0, 2)
# results
learningData: Path = Path("pythonFiles")  # folder of the .npy files
force: bool = False  # repeat even if neither inputs nor parameters changed
# machine
workerCount: int = 0  # processes, each with one volume at a time; 0: this one alone
# ----------------------------------------------------------------------------------------------------------


class Cutting(NamedTuple):
    """How volumes are cut into sub-volumes; the published parameters."""

    length_subVol_x: int
    length_subVol_y: int
    length_subVol_z: int
    nb_subVol_x: int
    nb_subVol_y: int
    nb_subVol_z: int
    cover: bool
    nb_rotation: int

    @property
    def lengths(self) -> tuple[int, ...]:
        """Wanted sides along x, y, z."""
        return self[:3]

    @property
    def counts(self) -> tuple[int, ...]:
        """Wanted sub-volumes along x, y, z."""
        return self[3:6]


def parseArguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line: one flag a constant, spelled like it."""
    return readParameters(sys.modules[__name__], argv)


def main(arguments: argparse.Namespace) -> None:
    """Check every pair, plan the sub-volumes, normalise, cut, write."""
    labels, cutting = parseLabels(arguments.positiveLabel), pick(Cutting, arguments)
    texts = arguments.ignoreLabel, arguments.labelledSlices, arguments.validationSlices
    labelled = parseLabelled(*texts, labels)
    folder, scheme = arguments.learningData, arguments.normalization
    if not folder.is_dir():
        raise PipelineError("no such folder", file=folder)
    say(*describeSettings(arguments))
    pairs = {}
    for name in ("training", "validation"):
        folders = (getattr(arguments, name + kind) for kind in ("Images", "Masks"))
        paths = listPairs(*folders, arguments.rawLayout)
        say(*doubtNames(paths))
        pairs[name] = openPairs(paths, labels, labelled[name].ignored)
        say(*describePlaces(pairs[name]))
    parts = [planPart(name, part, cutting, labelled[name]) for name, part in pairs.items()]
    requireMemory(parts, arguments.workerCount)
    record = describeRun(parts, plainSettings(arguments) | {"positiveLabel": labels})
    say(*findLeaks(*parts))
    if not arguments.force and isUpToDate(record, folder):
        say(f"Nothing changed since the last run: {relativePath(folder)} is kept (--force repeats).")
        return
    asked = Statistics.parse(arguments.moments, arguments.noData, areOfScan=scheme == "volume")
    with openWorkers(min(arguments.workerCount, sum(map(len, pairs.values())))) as workers:
        inspect = partial(inspectPart, rotationCount=cutting.nb_rotation, labels=labels, asked=asked)
        parts, found = zip(*(inspect(part, workers) for part in parts), strict=True)
        findings = {part.name: scales for part, scales in zip(parts, found, strict=True)}
        record |= {"outputs": describeOutputs(parts), "greys": describeSets(parts, findings)}
        say(*doubtSets(record["greys"]))
        total = sum(part.sampleCount * math.prod(part.shape) for part in parts)
        bar = showProgress(total=total / 1e6, unit="Mvoxel", desc="Cutting")
        with openParts(folder, record) as writers, bar:
            for part in parts:
                scales = [found.scale for found in findings[part.name]]
                cuts = listCuts(part, scales, cutting.nb_rotation)
                watch = bar.update if workers.count == 1 else None
                cut = partial(cutPair, labels=labels, scheme=scheme, writers=writers[part.name], watch=watch)
                for done, warnings in zip(cuts, workers.map(cut, cuts), strict=True):
                    bar.update(0 if watch else done.sampleCount * math.prod(part.shape) / 1e6)
                    for warning in warnings:
                        bar.write(warning)
    say(f"Written to {relativePath(folder)}: {', '.join(record['outputs'])}, parameters.json")
    isUsual = folder.resolve() == (FOLDER / learningData).resolve()
    flags = [] if isUsual else ["--learningData", str(relativePath(folder))]
    say(f"Next: {joinWords(['python3', 'trainingAndValidation.py', *flags])}")


def planPart(name: str, pairs: list[Pair], cutting: Cutting, labelled: Labelled) -> Part:
    """Choose one shape for all sub-volumes of a set and where they lie in each volume."""
    for pair in pairs:
        labelled.requireInside(pair.image)
    sides = list(zip(*(pair.image.shape for pair in pairs), strict=True))  # along x, y, z
    try:
        shape = tuple(map(chooseSubVolumeSide, sides, cutting.lengths))
        starts = [
            tuple(
                placeSubVolumes(*axis, cutting.cover)
                for axis in zip(pair.image.shape, shape, cutting.counts, strict=True)
            )
            for pair in pairs
        ]
    except PipelineError as error:
        raise PipelineError(f"{name} volumes: {error}") from error
    count = sum(len(x) * len(y) * len(z) for x, y, z in starts)
    labelled = labelled.lookAt(pair.mask for pair in pairs)
    return Part(name, pairs, shape, starts, count * cutting.nb_rotation, labelled)


def inspectPart(
    part: Part, workers: Workers, rotationCount: int, labels: Labels, asked: Statistics
) -> tuple[Part, list[Finding]]:
    """Tell what belongs to what, and how much of it is used; look at every voxel once."""
    say(f"{part.name.capitalize()}: {len(part.pairs)} pairs")
    seen = []
    options = {"shape": part.shape, "labels": labels, "labelled": part.labelled, "asked": asked}
    items = list(zip(part.pairs, part.starts, strict=True))
    for pair, found in zip(part.pairs, workers.map(partial(inspectPair, **options), items), strict=True):
        seen.append(found)
        labelled = "" if part.labelled.isDense else f"{found.labelled:.2%} labelled, of that "
        say(
            *found.warnings,
            f"  {shortName(pair.image)}  <->  {shortName(pair.mask)}  {describeShape(pair.image.shape)} "
            f"{pair.image.dtype.name}, {labelled}{found.positive:.3%} positive, "
            f"{found.used:.1%} of the voxels used",
        )
    kept = keepLabelled(part, [found.counts for found in seen], rotationCount)
    left = part.sampleCount - kept.sampleCount
    note = f" ({left} without a labelled voxel are left out)" if left else ""
    say(f"  {kept.sampleCount} sub-volumes of {describeShape(part.shape)} voxels{note}")
    for axes in ROTATION_AXES[: rotationCount - 1]:
        if any(quarterTurns(part.shape, axes, pair.image.frame.sides) == 2 for pair in part.pairs):
            say(f"  axes {axes}: the sides differ, so the copy is turned by 180 degrees instead of 90")
    return kept, [found.found for found in seen]


def cutPair(
    cut: Cut,
    labels: Labels,
    scheme: str,
    writers: list[SampleWriter],
    watch: Callable[[float], None] | None,
) -> list[str]:
    """Write normalised sub-volumes, masks and what of them is labelled (x, y, z, 1); gives warnings."""
    warnings = []
    image, mask = (volume.read() for volume in cut.pair)
    meant = resolveLabels(labels, cut.pair.mask)
    places = cut.keep(cutSubVolumes(cut.starts, cut.shape, cut.rotationCount))
    for index, (place, axes) in enumerate(places, cut.first):
        grey = copyInOrder(image[place])  # from the file's order to that of .npy, once
        mean, std = cut.scale[:2] if scheme == "volume" else measureKept(grey, cut.scale)
        if std == 0:
            name, corner = printable(cut.pair.image.path), ", ".join(str(axis.start) for axis in place)
            warnings.append(f"Warning: {name}: sub-volume at ({corner}) is constant; it becomes zeros")
        label = copyInOrder(mask[place])
        arrays = [prep_img(cut.scale.mend(grey), mean, std), selectPositive(label, meant)]
        if not cut.labelled.isDense:
            arrays.append(cut.labelled.select(label, [axis.start for axis in place]))
            arrays[1] &= arrays[2]
        voxel = cut.pair.image.frame.sides
        for writer, array in zip(writers, arrays, strict=False):  # the last one where the set is sparse
            writer.write(index, rotateSubVolume(array, axes, voxel)[..., np.newaxis])
        if watch:
            watch(grey.size / 1e6)
    return warnings


if __name__ == "__main__":
    runScript(main, parseArguments)
