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
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from engine.base.arrays import copyInOrder
from engine.base.console import describeShape, relativePath, runScript, say, showProgress
from engine.base.errors import PipelineError
from engine.base.parameters import describeSettings, pick, plainSettings, readParameters
from engine.base.words import joinWords, printable
from engine.base.workers import callEach, openWorkers
from engine.preparation.checks import coverPair, findLeaks, inspectPair, requireMemory
from engine.preparation.pairs import Pair, doubtNames, listPairs, openPairs
from engine.preparation.samples import Part, Piece, SampleWriter, describeRun, isUpToDate, openParts
from engine.preparation.sets import describeSets, doubtSets
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
workerCount: int = 0  # processes that share the volumes; 0 or 1: this one does them all
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
    pairs = {name: openSet(*images) for name, images in folders.items()}
    parts = [planPart(name, part, cutting) for name, part in pairs.items()]
    requireMemory(parts, arguments.workerCount)
    with openWorkers(arguments.workerCount) as workers:
        record = describeRun(parts, plainSettings(arguments) | {"positiveLabel": labels}, workers)
        say(*findLeaks(*pairs.values()))
        if not arguments.force and isUpToDate(record, folder):
            say(f"Nothing changed since the last run: {relativePath(folder)} is kept (--force repeats).")
            return
        asked = Statistics.parse(arguments.moments, arguments.noData)
        pieces = [piece for part in parts for piece in part.pieces]
        looks = workers.map(partial(inspectPair, labels=labels, asked=asked), pieces)
        findings = {part.name: describePart(part, looks) for part in parts}
        record["greys"] = describeSets(parts, findings)
        say(*doubtSets(record["greys"]))
        total = sum(part.sampleCount * math.prod(part.shape) for part in parts)
        bar = showProgress(total=total / 1e6, unit="Mvoxel", desc="Cutting")
        with openParts(folder, record) as writers, bar:
            orders = [order for part in parts for order in listOrders(part, findings, writers)]
            for voxelCount, doubts in callEach(
                workers, partial(cutPair, labels=labels, scheme=scheme), orders
            ):
                for doubt in doubts:
                    bar.write(doubt)
                bar.update(voxelCount / 1e6)
    say(f"Written to {relativePath(folder)}: {', '.join(record['outputs'])}, parameters.json")
    isUsual = folder.resolve() == (FOLDER / learningData).resolve()
    flags = [] if isUsual else ["--learningData", str(relativePath(folder))]
    say(f"Next: {joinWords(['python3', 'trainingAndValidation.py', *flags])}")


def openSet(images: Path, masks: Path) -> list[Pair]:
    """Open the pairs of a set, and tell what is doubtful about them."""
    paths = listPairs(images, masks)
    say(*doubtNames(paths))
    pairs = openPairs(paths)
    say(*describePlaces(pairs))
    return pairs


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
    return Part(name, pairs, shape, starts, cutting.nb_rotation)


def describePart(part: Part, looks: Iterator[tuple[float, Finding, list[str]]]) -> list[Finding]:
    """Tell what belongs to what, and how much of it is used, as the pairs of a set are looked at."""
    say(f"{part.name.capitalize()}: {len(part.pairs)} pairs")
    findings = []
    for piece in part.pieces:
        pair, (positive, found, lines) = piece.pair, next(looks)
        findings.append(found)
        say(
            *lines,
            f"  {pair.image.path.name}  <->  {pair.mask.path.name}  {describeShape(pair.image.shape)} "
            f"{pair.image.dtype.name}, {positive:.3%} positive, "
            f"{math.prod(axis.mean() for axis in coverPair(piece)):.1%} of the voxels used",
        )
    say(f"  {part.sampleCount} sub-volumes of {describeShape(part.shape)} voxels")
    for axes in ROTATION_AXES[: part.rotationCount - 1]:
        if any(quarterTurns(part.shape, axes, pair.image.frame.sides) == 2 for pair in part.pairs):
            say(f"  axes {axes}: the sides differ, so the copy is turned by 180 degrees instead of 90")
    return findings


class Order(NamedTuple):
    """What is cut at a time, by this process or another one."""

    piece: Piece
    scale: Scale
    images: SampleWriter
    masks: SampleWriter


def listOrders(
    part: Part, findings: dict[str, list[Finding]], writers: dict[str, tuple[SampleWriter, SampleWriter]]
) -> list[Order]:
    """List what is to be cut of a set, pair by pair."""
    pairs = zip(part.pieces, findings[part.name], strict=True)
    return [Order(piece, found.scale, *writers[part.name]) for piece, found in pairs]


def cutPair(order: Order, labels: Labels, scheme: str) -> Iterator[tuple[int, list[str]]]:
    """Write normalised sub-volumes and their masks (x, y, z, 1); yields the voxels and the doubts of each."""
    piece, scale, images, masks = order
    image, mask = (volume.read() for volume in piece.pair)
    places = cutSubVolumes(piece.starts, piece.shape, piece.rotationCount)
    for index, (place, axes) in enumerate(places, piece.first):
        doubts, cut = [], copyInOrder(image[place])  # from the file's order to that of .npy, once
        mean, std = scale[:2] if scheme == "volume" else measureKept(cut, scale)
        if std == 0:
            name, corner = printable(piece.pair.image.path), ", ".join(str(axis.start) for axis in place)
            doubts.append(f"Warning: {name}: sub-volume at ({corner}) is constant; it becomes zeros")
        both = prep_img(scale.mend(cut), mean, std), selectPositive(copyInOrder(mask[place]), labels)
        voxel = piece.pair.image.frame.sides
        for writer, array in zip((images, masks), both, strict=True):
            writer.write(index, rotateSubVolume(array, axes, voxel)[..., np.newaxis])
        yield cut.size, doubts


if __name__ == "__main__":
    runScript(main, parseArguments)
