"""Normalise volumes and masks and cut them into sub-volumes that fit the memory of the GPU.

In:  trainingImages/ and validationImages/ (grey values: .nrrd, .nhdr, .tif, .tiff, or a folder of TIFF slices
     a volume), trainingMasks/ and validationMasks/; in sorted order image i belongs to mask i.
Out: pythonFiles/trainingDataImage.npy (sample, x, y, z, 1) float32, trainingDataMask.npy bool (True =
     precipitate or pore), the two validation twins and parameters.json.

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
from engine.preparation.checks import coverAxis, findLeaks, inspectPair, requireMemory
from engine.preparation.pairs import Pair, doubtNames, listPairs, openPairs
from engine.preparation.samples import Part, SampleWriter, describeRun, isUpToDate, openParts
from engine.preparation.sets import describeSets, doubtSets
from engine.volumes.names import shortName
from engine.volumes.place import describePlaces
from engine.volumes.scale import Finding, Scale, Statistics, measureKept
from engine.volumes.targets import Labels, parseLabels, selectPositive
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
positiveLabel: str = "0"  # mask value of precipitates and pores, or 1,2 or 1-30 or '!0' (all but 0)
normalization: Literal["subVolume", "volume"] = "subVolume"  # z-score over each (published) or whole volumes
moments: Literal["plain", "robust"] = "robust"  # of all voxels (published), or without hot ones
noData: str = "auto"  # grey value that means none; auto: recognised; none: all are values
trainingImages: Path = Path("trainingImages")  # folder of grey-value volumes
trainingMasks: Path = Path("trainingMasks")  # folder of their masks
validationImages: Path = Path("validationImages")  # folder of grey-value volumes
validationMasks: Path = Path("validationMasks")  # folder of their masks
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
    folder, scheme = arguments.learningData, arguments.normalization
    if not folder.is_dir():
        raise PipelineError("no such folder", file=folder)
    say(*describeSettings(arguments))
    folders = {
        "training": (arguments.trainingImages, arguments.trainingMasks),
        "validation": (arguments.validationImages, arguments.validationMasks),
    }
    pairs = {}
    for name, images in folders.items():
        paths = listPairs(*images)
        say(*doubtNames(paths))
        pairs[name] = openPairs(paths)
        say(*describePlaces(pairs[name]))
    parts = [planPart(name, part, cutting) for name, part in pairs.items()]
    requireMemory(parts, arguments.workerCount)
    record = describeRun(parts, plainSettings(arguments) | {"positiveLabel": labels})
    say(*findLeaks(*pairs.values()))
    if not arguments.force and isUpToDate(record, folder):
        say(f"Nothing changed since the last run: {relativePath(folder)} is kept (--force repeats).")
        return
    asked = Statistics.parse(arguments.moments, arguments.noData, areOfScan=scheme == "volume")
    with openWorkers(min(arguments.workerCount, sum(map(len, pairs.values())))) as workers:
        inspect = partial(inspectPart, rotationCount=cutting.nb_rotation, labels=labels, asked=asked)
        findings = {part.name: inspect(part, workers) for part in parts}
        record["greys"] = describeSets(parts, findings)
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


def planPart(name: str, pairs: list[Pair], cutting: Cutting) -> Part:
    """Choose one shape for all sub-volumes of a set and where they lie in each volume."""
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
    return Part(name, pairs, shape, starts, count * cutting.nb_rotation)


def inspectPart(
    part: Part, workers: Workers, rotationCount: int, labels: Labels, asked: Statistics
) -> list[Finding]:
    """Tell what belongs to what, and how much of it is used; look at every voxel once."""
    say(f"{part.name.capitalize()}: {len(part.pairs)} pairs")
    findings = []
    covered = [
        [coverAxis(*axis) for axis in zip(pair.image.shape, starts, part.shape, strict=True)]
        for pair, starts in zip(part.pairs, part.starts, strict=True)
    ]
    items = list(zip(part.pairs, covered, strict=True))
    inspected = workers.map(partial(inspectPair, labels=labels, asked=asked), items)
    for (pair, used), (positive, found, lines) in zip(items, inspected, strict=True):
        findings.append(found)
        say(
            *lines,
            f"  {shortName(pair.image)}  <->  {shortName(pair.mask)}  {describeShape(pair.image.shape)} "
            f"{pair.image.dtype.name}, {positive:.3%} positive, "
            f"{math.prod(axis.mean() for axis in used):.1%} of the voxels used",
        )
    say(f"  {part.sampleCount} sub-volumes of {describeShape(part.shape)} voxels")
    for axes in ROTATION_AXES[: rotationCount - 1]:
        if any(quarterTurns(part.shape, axes, pair.image.frame.sides) == 2 for pair in part.pairs):
            say(f"  axes {axes}: the sides differ, so the copy is turned by 180 degrees instead of 90")
    return findings


class Cut(NamedTuple):
    """The sub-volumes of one volume."""

    pair: Pair
    scale: Scale
    starts: tuple[list[int], ...]  # along x, y and z
    shape: tuple[int, int, int]
    rotationCount: int
    first: int  # number of its first sample in the set

    @property
    def sampleCount(self) -> int:
        """Samples, with turned copies."""
        return math.prod(map(len, self.starts)) * self.rotationCount


def listCuts(part: Part, scales: list[Scale], rotationCount: int) -> list[Cut]:
    """List what is cut from every volume of a set, and where it goes."""
    cuts, first = [], 0
    for pair, starts, scale in zip(part.pairs, part.starts, scales, strict=True):
        cuts.append(Cut(pair, scale, starts, part.shape, rotationCount, first))
        first += cuts[-1].sampleCount
    return cuts


def cutPair(
    cut: Cut,
    labels: Labels,
    scheme: str,
    writers: tuple[SampleWriter, SampleWriter],
    watch: Callable[[float], None] | None,
) -> list[str]:
    """Write normalised sub-volumes and their masks (x, y, z, 1) of a volume; gives warnings."""
    warnings = []
    image, mask = (volume.read() for volume in cut.pair)
    places = cutSubVolumes(cut.starts, cut.shape, cut.rotationCount)
    for index, (place, axes) in enumerate(places, cut.first):
        grey = copyInOrder(image[place])  # from the file's order to that of .npy, once
        mean, std = cut.scale[:2] if scheme == "volume" else measureKept(grey, cut.scale)
        if std == 0:
            name, corner = printable(cut.pair.image.path), ", ".join(str(axis.start) for axis in place)
            warnings.append(f"Warning: {name}: sub-volume at ({corner}) is constant; it becomes zeros")
        both = prep_img(cut.scale.mend(grey), mean, std), selectPositive(copyInOrder(mask[place]), labels)
        voxel = cut.pair.image.frame.sides
        for writer, array in zip(writers, both, strict=True):
            writer.write(index, rotateSubVolume(array, axes, voxel)[..., np.newaxis])
        if watch:
            watch(grey.size / 1e6)
    return warnings


if __name__ == "__main__":
    runScript(main, parseArguments)
