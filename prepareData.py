"""Normalise volumes and masks and cut them into sub-volumes that fit the memory of the GPU.

In:  trainingImages/ and validationImages/ (grey values, .nrrd or .nhdr), trainingMasks/ and validationMasks/;
     in sorted order image i belongs to mask i.
Out: pythonFiles/trainingDataImage.npy (sample, x, y, z, 1) float32, trainingDataMask.npy bool (True =
     precipitate or pore), the two validation twins and parameters.json.

    python3 prepareData.py
"""

import argparse
import contextlib
import hashlib
import math
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from engine.base.arrays import copyInOrder, countNonFinite, measureMoments
from engine.base.console import describeShape, relativePath, runScript, showProgress
from engine.base.errors import PipelineError
from engine.base.files import lockName
from engine.base.parameters import describeSettings, plainSettings, readParameters
from engine.base.records import digestFile, packageVersions, readJson, writeJson
from engine.preparation.samples import openArray, writeArraysAtomically
from engine.volumes.frame import requireSamePlace
from engine.volumes.nrrdFiles import openVolume
from engine.volumes.rawData import RawVolume
from functions import (
    ROTATION_AXES,
    chooseSubVolumeSide,
    cutSubVolumes,
    parseLabels,
    placeSubVolumes,
    prep_img,
    quarterTurns,
    readDataImage,
    rotateSubVolume,
    selectPositive,
)

FOLDER = Path(__file__).resolve().parent
BLOCK_VOXELS = 1 << 22  # looked at together, so that memory stays small

# ----------------------------------------------------------------------------------------------- parameters
# data
positiveLabel: str = "0"  # mask value of precipitates and pores, or several separated by commas
normalization: Literal["subVolume", "volume"] = "subVolume"  # z-score over each (published) or whole volumes
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
# ----------------------------------------------------------------------------------------------------------


class Pair(NamedTuple):
    """An image and the mask that belongs to it."""

    image: RawVolume
    mask: RawVolume


class Part(NamedTuple):
    """What one of the two sets is cut into."""

    name: str  # training or validation
    pairs: list[Pair]
    shape: tuple[int, int, int]  # of every sub-volume
    starts: list[tuple[list[int], ...]]  # of each pair along x, y and z
    sampleCount: int


def parseArguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line: one flag a constant, spelled like it."""
    return readParameters(sys.modules[__name__], argv)


def main(arguments: argparse.Namespace) -> None:
    """Check every pair, plan the sub-volumes, write them."""
    arguments.positiveLabel = parseLabels(arguments.positiveLabel)
    if not arguments.learningData.is_dir():
        raise PipelineError("no such folder", file=arguments.learningData)
    print(describeSettings(arguments))
    parts = [
        planPart(
            part,
            listPairs(getattr(arguments, f"{part}Images"), getattr(arguments, f"{part}Masks")),
            arguments,
        )
        for part in ("training", "validation")
    ]
    record = describeRun(parts, arguments)
    warnOfLeaks(*parts)
    if not arguments.force and isUpToDate(record, arguments.learningData):
        folder = relativePath(arguments.learningData)
        print(f"Nothing changed since the last run: {folder} is kept (--force repeats).")
        return
    for part in parts:
        printPart(part, arguments)
    writeParts(parts, record, arguments)
    print(
        f"Written to {relativePath(arguments.learningData)}: {', '.join(record['outputs'])}, parameters.json"
    )
    isUsual = arguments.learningData.resolve() == (FOLDER / learningData).resolve()
    flags = [] if isUsual else ["--learningData", str(relativePath(arguments.learningData))]
    print(f"Next: {shlex.join(['python3', 'trainingAndValidation.py', *flags])}")


# ---------------------------------------------------------------------------------------------------- pairs


def listPairs(imageFolder: Path, maskFolder: Path) -> list[Pair]:
    """Pair images and masks by sorted order and check what their headers say."""
    images, masks = listVolumes(imageFolder), listVolumes(maskFolder)
    if len(images) != len(masks):
        raise PipelineError(
            "every image needs one mask, in the same sorted order",
            file=maskFolder,
            expected=f"{len(images)} masks for {imageFolder.name}",
            received=len(masks),
        )
    warnOfNumbers(images, masks)
    pairs = [Pair(openVolume(image), openVolume(mask)) for image, mask in zip(images, masks, strict=True)]
    for pair in pairs:
        requireSamePlace(*pair, "take the mask that was drawn on this image, with its geometry")
    return pairs


def warnOfNumbers(images: list[Path], masks: list[Path]) -> None:
    """Warn where the numbers in the names of a pair differ.

    Also where sorted names (scan10, scan2) pair other files than their numbers (scan2, scan10) would.
    """
    byNumber = dict(zip(sorted(images, key=splitNumbers), sorted(masks, key=splitNumbers), strict=True))
    for image, mask in zip(images, masks, strict=True):
        other = byNumber[image]
        if other != mask:
            print(
                f"Warning: {image}: sorted by name it belongs to {mask.name}, by the numbers in the names to "
                f"{other.name}; number images and masks alike with leading zeros (scan02, scan10)"
            )
            return
    for image, mask in zip(images, masks, strict=True):
        numbers, others = ([*map(int, re.findall("[0-9]+", path.stem))] for path in (image, mask))
        if len(numbers) == len(others) and numbers != others:
            print(f"Warning: {image} is paired with {mask.name}; is a file missing, or one too many?")
            return


def splitNumbers(path: Path) -> tuple[list[str | int], str]:
    """Sort key of a file: its name with numbers as numbers; the name itself decides between equal ones."""
    parts = re.split("([0-9]+)", path.name)  # every second one is a number
    return [int(part) if index % 2 else part for index, part in enumerate(parts)], path.name


@contextlib.contextmanager
def explainReadErrors(path: Path) -> Iterator[None]:
    """Turn the operating system's refusal to read a file or folder into the line a user reads."""
    try:
        yield
    except OSError as error:
        remedy = "give yourself the right to read it and the folder it lies in (chmod u+rX)"
        raise PipelineError(
            f"cannot be read: {error.strerror or error}",
            file=error.filename or path,
            remedy=remedy if isinstance(error, PermissionError) else None,
        ) from error


def listFiles(folder: Path) -> list[Path]:
    """List the files of a folder in sorted order, without hidden ones."""
    with explainReadErrors(folder):
        if not folder.is_dir():
            raise PipelineError("no such folder", file=folder)
        return sorted(
            path for path in folder.iterdir() if not path.name.startswith(".") and not path.is_dir()
        )


def listVolumes(folder: Path) -> list[Path]:
    """List the NRRD files of a folder in sorted order; any other file is an error, not a file to skip."""
    files = listFiles(folder)
    volumes = [path for path in files if path.suffix.lower() in (".nrrd", ".nhdr")]
    dataFiles = {os.path.abspath(data) for path in volumes for data in openVolume(path).dataPaths}
    for path in files:
        if path not in volumes and os.path.abspath(path) not in dataFiles:
            raise PipelineError(
                "is no NRRD file (.nrrd, .nhdr)", file=path, remedy="move it out of the folder"
            )
    if not volumes:
        raise PipelineError("the folder holds no NRRD file", file=folder, remedy="put .nrrd volumes into it")
    return volumes


def planPart(name: str, pairs: list[Pair], arguments: argparse.Namespace) -> Part:
    """Choose one shape for all sub-volumes of a set and where they lie in each volume."""
    try:
        shape = tuple(
            chooseSubVolumeSide(
                [pair.image.shape[axis] for pair in pairs], getattr(arguments, f"length_subVol_{letter}")
            )
            for axis, letter in enumerate("xyz")
        )
        starts = [
            tuple(
                placeSubVolumes(
                    pair.image.shape[axis],
                    shape[axis],
                    getattr(arguments, f"nb_subVol_{letter}"),
                    arguments.cover,
                )
                for axis, letter in enumerate("xyz")
            )
            for pair in pairs
        ]
    except PipelineError as error:
        raise PipelineError(f"{name} volumes: {error}") from error
    count = sum(len(x) * len(y) * len(z) for x, y, z in starts)
    return Part(name, pairs, shape, starts, count * arguments.nb_rotation)


def printPart(part: Part, arguments: argparse.Namespace) -> None:
    """Print what belongs to what, and how much of it is used; look at every voxel once."""
    print(f"{part.name.capitalize()}: {len(part.pairs)} pairs")
    for pair, starts in zip(part.pairs, part.starts, strict=True):
        used = [coverAxis(*axis) for axis in zip(pair.image.shape, starts, part.shape, strict=True)]
        positive = inspectPair(pair, used, arguments.positiveLabel)
        print(
            f"  {pair.image.path.name}  <->  {pair.mask.path.name}  {describeShape(pair.image.shape)} "
            f"{pair.image.dtype.name}, {positive:.3%} positive, "
            f"{math.prod(axis.mean() for axis in used):.1%} of the voxels used"
        )
    print(f"  {part.sampleCount} sub-volumes of {describeShape(part.shape)} voxels")
    for axes in ROTATION_AXES[: arguments.nb_rotation - 1]:
        if quarterTurns(part.shape, axes) == 2:
            print(f"  axes {axes}: the sides differ, so the copy is turned by 180 degrees instead of 90")


def coverAxis(side: int, starts: list[int], length: int) -> np.ndarray:
    """Tell which voxels of an axis lie in at least one sub-volume: (side,) bool."""
    isCovered = np.zeros(side, bool)
    for start in starts:
        isCovered[start : start + length] = True
    return isCovered


def inspectPair(pair: Pair, used: list[np.ndarray], labels: list[int]) -> float:
    """Check every voxel of a pair; return the positive fraction of the whole mask."""
    for _ in countNonFinite(listBlocks(pair.image), pair.image.path):
        pass
    count, usedCount = countPositives(pair.mask, used, labels)
    positive = count / math.prod(pair.mask.shape)
    if positive in (0, 1):
        missing = "no positive voxel" if positive == 0 else "nothing but positive voxels"
        print(f"Warning: {pair.mask.path}: {missing} (positiveLabel {','.join(map(str, labels))})")
    elif usedCount == 0:
        print(
            f"Warning: {pair.mask.path}: all {count} positive voxels lie outside the sub-volumes; "
            "--cover, with nb_subVol_x, _y and _z 0, uses every voxel"
        )
    elif positive > 0.5:
        print(
            f"Warning: {pair.mask.path}: more than half of the voxels are positive; is positiveLabel right?"
        )
    return positive


def countPositives(mask: RawVolume, used: list[np.ndarray], labels: list[int]) -> tuple[int, int]:
    """Count the positive voxels of a mask, and those of them that lie in a sub-volume; refuse NaN."""
    isUsed, z = used[0] & used[1][:, np.newaxis], used[2]  # (y, x), (z,)
    first = count = usedCount = nanCount = 0
    for block in listBlocks(mask):
        positive = selectPositive(block, labels).T  # (z, y, x), in the order of the file
        count += np.count_nonzero(positive)
        usedCount += np.count_nonzero(positive[z[first : first + len(positive)]] & isUsed)
        nanCount += np.count_nonzero(~np.isfinite(block)) if block.dtype.kind == "f" else 0
        first += len(positive)
    if nanCount:
        rule, remedy = f"{nanCount} voxels are NaN or infinite", "replace them by a label and repeat"
        raise PipelineError(rule, file=mask.path, remedy=remedy)
    return count, usedCount


def listBlocks(volume: RawVolume) -> Iterator[np.ndarray]:
    """Read a volume as blocks of planes that are small whatever the volume is."""
    return volume.slabs(planeCount=max(1, BLOCK_VOXELS // math.prod(volume.shape[:2])))


# ---------------------------------------------------------------------------------------------- sub-volumes


def describeRun(parts: list[Part], arguments: argparse.Namespace) -> dict:
    """Describe inputs, parameters and outputs: equal descriptions mean equal results."""
    inputs, outputs = {}, {}
    for part in parts:
        for pair in part.pairs:
            for kind, volume in zip(("Images", "Masks"), pair, strict=True):
                for path in dict.fromkeys((volume.path, *volume.dataPaths)):
                    with explainReadErrors(path):
                        inputs[nameInput(part.name, kind, volume, path)] = digestFile(path)
        shape = [part.sampleCount, *part.shape, 1]
        outputs[f"{part.name}DataImage.npy"] = {"shape": shape, "dtype": "float32"}
        outputs[f"{part.name}DataMask.npy"] = {"shape": shape, "dtype": "bool"}
    parameters = {
        name: value
        for name, value in plainSettings(arguments).items()
        if name.startswith(("length_", "nb_")) or name in ("positiveLabel", "normalization", "cover")
    }
    return {"parameters": parameters, "inputs": inputs, "outputs": outputs, "versions": packageVersions()}


def nameInput(part: str, kind: str, volume: RawVolume, path: Path) -> str:
    """Name a file of a volume as parameters.json does."""
    return f"{part}{kind}/{os.path.relpath(path, volume.path.parent)}"


def warnOfLeaks(training: Part, validation: Part) -> None:
    """Warn where a validation image is a training image as well, whatever its header, encoding or type."""
    seen: dict[tuple, list[RawVolume]] = {}
    for image, _ in training.pairs:
        seen.setdefault(identifyMiddle(image), []).append(image)
    for image, _ in validation.pairs:
        for twin in seen.get(identifyMiddle(image), []):
            if digestPlanes(image, 0, image.shape[2]) == digestPlanes(twin, 0, twin.shape[2]):
                print(
                    f"Warning: {image.path}: has the same content as the training image {twin.path}; "
                    "the validation measures nothing there, take another volume"
                )


def identifyMiddle(image: RawVolume) -> tuple:
    """Give what equal volumes have in common and others hardly ever, without reading all of them."""
    middle = image.shape[2] // 2
    return image.shape, digestPlanes(image, middle, middle + 1)


def digestPlanes(image: RawVolume, first: int, last: int) -> bytes:
    """Digest grey values of whole planes along z, whatever their type in the file."""
    x, y, _ = image.shape
    digest = hashlib.sha256()
    with contextlib.closing(image.slabs(((0, x), (0, y), (first, last)))) as slabs:
        for slab in slabs:
            digest.update(slab.astype("<f4").tobytes("F"))
    return digest.digest()


def isUpToDate(record: dict, folder: Path) -> bool:
    """Whether the folder holds the result of the same inputs and parameters, whole."""
    try:
        known = readJson(folder / "parameters.json") or {}
        arrays = [openArray(folder / name) for name in record["outputs"]]
    except PipelineError:  # damaged or missing
        return False
    shapes = [{"shape": list(array.shape), "dtype": str(array.dtype)} for array in arrays]
    isSame = all(known.get(key) == record[key] for key in ("parameters", "inputs", "outputs"))
    return isSame and shapes == list(record["outputs"].values())


def writeParts(parts: list[Part], record: dict, arguments: argparse.Namespace) -> None:
    """Write all arrays under temporary names, then replace the old ones; parameters.json comes last."""
    folder = arguments.learningData
    arrays = {
        folder / name: (tuple(output["shape"]), output["dtype"]) for name, output in record["outputs"].items()
    }
    total = sum(part.sampleCount * np.prod(part.shape) for part in parts)
    with (
        lockName(folder / "parameters.json", "another process is writing into this folder"),
        writeArraysAtomically(arrays, marker=folder / "parameters.json") as targets,
        showProgress(total=total / 1e6, unit="Mvoxel", desc="Cutting") as bar,
    ):
        for part in parts:
            images, masks = (targets[folder / f"{part.name}Data{kind}.npy"] for kind in ("Image", "Mask"))
            for index, (image, mask) in enumerate(cutPart(part, arguments, bar.write)):
                images.write(index, image)
                masks.write(index, mask)
                bar.update(image.size / 1e6)
    writeJson(folder / "parameters.json", record)


def cutPart(part: Part, arguments: argparse.Namespace, warn: Callable[[str], None]):
    """Yield normalised sub-volumes and their masks, one volume in memory at a time."""
    for pair, starts in zip(part.pairs, part.starts, strict=True):
        image = readDataImage(pair.image.path.parent, [pair.image.path.name])[0]
        mask = readDataImage(pair.mask.path.parent, [pair.mask.path.name])[0]
        moments = measureMoments(image) if arguments.normalization == "volume" else None
        for place, axes in cutSubVolumes(starts, part.shape, arguments.nb_rotation):
            cut = copyInOrder(image[place])  # from the file's order to that of .npy, once
            mean, std = moments or measureMoments(cut)
            if std == 0:
                corner = ", ".join(str(axis.start) for axis in place)
                warn(f"Warning: {pair.image.path}: sub-volume at ({corner}) is constant; it becomes zeros")
            both = prep_img(cut, mean, std), selectPositive(copyInOrder(mask[place]), arguments.positiveLabel)
            yield tuple(rotateSubVolume(array, axes)[..., np.newaxis] for array in both)  # (x, y, z, 1)


if __name__ == "__main__":
    runScript(main, parseArguments)
