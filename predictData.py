"""Predict the probability of precipitate or pore for every voxel of a volume or a region of it.

In:  one grey-value volume (.nrrd or .nhdr) and a trained model (.h5, .keras or .weights.h5 of Keras 2 or 3).
Out: the probability as float32 NRRD with the geometry of the input, a picture (.png) and a record (.json)
     beside it; scores where there is a manual mask.

    python3 predictData.py
"""

import argparse
import itertools
import time
from pathlib import Path

import numpy as np

from engine.console import (
    ScriptParser,
    commandLine,
    describeShape,
    freeMemoryGiB,
    packageVersions,
    plainSettings,
    printSettings,
    relativePath,
    runScript,
)
from engine.contracts import describeNormalization, findContract
from engine.devices import describeDevice
from engine.errors import PipelineError
from engine.figures import drawPrediction
from engine.files import digestFile, writeJson
from engine.nrrdFiles import (
    NrrdVolume,
    checkRegion,
    createVolume,
    cropHeader,
    openVolume,
    voxelSize,
)
from engine.plan import sideMultiple
from functions import (
    parseLabels,
    predictProbability,
    readDataToPredict,
    readModel,
    scoreVoxels,
    selectPositive,
)

FOLDER = Path(__file__).resolve().parent
THRESHOLD = 0.5  # probability from which on a voxel counts as positive in the scores

# ------------------------------------------------------------------------------------------------ parameters
nameInput = "test-file/test-file_data.nrrd"  # volume to segment
nameOutput = ""  # empty: beside the input, e.g. test-file/test-file_segmented.nrrd
nameReference = ""  # manual mask of the whole input; empty: *_mask.nrrd beside it, if there; none = no scores
positiveLabel = ""  # value or values (with commas) of the reference; empty: as in the training
modelFile = "modelAndWeights/final-uNet_model.h5"  # depth and width of the network
weightFile = "modelAndWeights/final-trained-weights.h5"  # used unless --modelFile stands alone
x1 = None  # first voxel of the region of interest along x; None = 0
x2 = None  # voxel after its last one; None = the end of the volume
y1 = None  # the same along y
y2 = None  # the same along y
z1 = None  # the same along z
z2 = None  # the same along z
memoryBudget = 0.0  # GiB that the network may take; 0 = half of the free memory, at most 8
# ------------------------------------------------------------------------------------------------------------


def parseArguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line: one flag a constant, spelled like it."""
    parser = ScriptParser(__file__, __doc__)
    parser.addFlag("nameInput", type=Path, default=FOLDER / nameInput)
    parser.addFlag("nameOutput", type=Path, default=nameOutput or None)
    parser.addFlag("nameReference", type=Path, default=nameReference or None)
    parser.addFlag("positiveLabel", default=positiveLabel)
    parser.addFlag("modelFile", type=Path)
    parser.addFlag("weightFile", type=Path)
    parser.addFlag("x1", type=int, default=x1)
    parser.addFlag("x2", type=int, default=x2)
    parser.addFlag("y1", type=int, default=y1)
    parser.addFlag("y2", type=int, default=y2)
    parser.addFlag("z1", type=int, default=z1)
    parser.addFlag("z2", type=int, default=z2)
    parser.addFlag("memoryBudget", type=float, default=memoryBudget)
    return completeArguments(parser.parse_args(argv))


def completeArguments(arguments: argparse.Namespace) -> argparse.Namespace:
    """Fill in the names that follow from others."""
    if arguments.modelFile is None:
        arguments.modelFile = FOLDER / modelFile
        arguments.weightFile = arguments.weightFile or FOLDER / weightFile
    stem = arguments.nameInput.stem.removesuffix("_data")
    if arguments.nameOutput is None:
        arguments.nameOutput = arguments.nameInput.with_name(f"{stem}_segmented.nrrd")
    if arguments.nameReference is None:
        beside = arguments.nameInput.with_name(f"{stem}_mask.nrrd")
        arguments.nameReference = beside if beside.is_file() else Path("none")
    if not arguments.memoryBudget:
        arguments.memoryBudget = round(min(freeMemoryGiB() / 2, 8), 2)
    return arguments


def main(arguments: argparse.Namespace) -> None:
    """Check everything, predict, write, score, draw."""
    begin = time.time()
    volume = openVolume(arguments.nameInput)
    limits = [(getattr(arguments, f"{axis}1"), getattr(arguments, f"{axis}2")) for axis in "xyz"]
    region = checkRegion(volume, tuple(limits))
    checkOutput(arguments, volume)
    reference = openReference(arguments, volume)
    plan, weights = readModel(arguments.modelFile, arguments.weightFile)
    contract = findContract(arguments.weightFile or arguments.modelFile)
    labels = parseLabels(arguments.positiveLabel or (contract or {}).get("positiveLabel") or [0])
    printStart(arguments, volume, region, contract)

    image = readDataToPredict(arguments.nameInput, *itertools.chain(*region))[0, ..., 0]  # (x, y, z)
    if not image.any():
        print("Warning: all voxels of the region have the same grey value; it becomes zeros")
    if min(image.shape) < sideMultiple(plan):
        thin = f"{describeShape(image.shape)} voxels are fewer than {sideMultiple(plan)} along a side"
        print(f"Warning: {thin}; the missing ones are mirrored (is this really a volume?)")
    header = cropHeader(volume.header, region, np.dtype(np.float32))
    with createVolume(arguments.nameOutput, image.shape, np.float32, header) as probability:
        predictProbability(image, plan, weights, probability, arguments.memoryBudget)

    probability = openVolume(arguments.nameOutput).read()
    mask = scores = None
    if reference is not None:
        mask = selectPositive(reference.read(region), labels)
        scores = scoreVoxels(probability, mask, THRESHOLD)
        printScores(scores, arguments)
    picture, record = (arguments.nameOutput.with_suffix(suffix) for suffix in (".png", ".json"))
    drawPrediction(image, probability, mask, picture, voxelSize(volume.header))
    writeJson(record, describeRun(arguments, volume, region, scores))
    print(f"Predicted {image.size / 1e6:.1f} Mvoxel in {time.time() - begin:.1f} s. Written:")
    for path in (arguments.nameOutput, picture, record):
        print(f"  {relativePath(path)}")


def checkOutput(arguments: argparse.Namespace, volume: NrrdVolume) -> None:
    """Refuse a result that could not be written, or that would replace an input, before any work."""
    folder = arguments.nameOutput.parent
    if not folder.is_dir():
        raise PipelineError("no such folder", file=folder, remedy="create it or choose another --nameOutput")
    if arguments.nameOutput.suffix.lower() != ".nrrd":
        raise PipelineError("nameOutput must end with .nrrd", file=arguments.nameOutput)
    inputs = {name: getattr(arguments, name) for name in ("nameReference", "modelFile", "weightFile")}
    inputs |= {"nameInput": volume.path, "the data file of nameInput": volume.dataPath}
    inputs |= {"the contract of modelFile": arguments.modelFile.with_suffix(".json")}
    outputs = [arguments.nameOutput.with_suffix(suffix) for suffix in (".png", ".json")]
    for written, (name, path) in itertools.product((arguments.nameOutput, *outputs), inputs.items()):
        if path and path.exists() and path.resolve() == written.resolve():
            raise PipelineError(f"nameOutput would replace {name}", file=written)
    if not arguments.memoryBudget > 0:
        raise PipelineError("memoryBudget must be above 0 GiB", received=arguments.memoryBudget)


def openReference(arguments: argparse.Namespace, volume: NrrdVolume) -> NrrdVolume | None:
    """Open the manual mask of the input, if there is one."""
    if str(arguments.nameReference) == "none":
        return None
    reference = openVolume(arguments.nameReference)
    if reference.shape != volume.shape:
        raise PipelineError(
            f"the reference and {volume.path.name} differ in shape",
            file=reference.path,
            expected=volume.shape,
            received=reference.shape,
        )
    return reference


def printStart(
    arguments: argparse.Namespace, volume: NrrdVolume, region: tuple, contract: dict | None
) -> None:
    """Print parameters, device, what is read and how it is normalised."""
    printSettings(arguments)
    print(f"Device: {describeDevice()}")
    size = voxelSize(volume.header)
    sides = [] if size is None else [f"{side:g} {unit}".strip() for side, unit in zip(*size, strict=True)]
    voxel = f", voxel {' x '.join(sides)}" if sides else ""
    shape = tuple(stop - start for start, stop in region)
    print(f"Input: {volume.path.name} {describeShape(volume.shape)} {volume.dtype.name}{voxel}")
    print(
        f"Region: {' '.join(f'{a} {start}:{stop}' for a, (start, stop) in zip('xyz', region, strict=True))}"
    )
    print(f"Normalisation: {describeNormalization(contract, shape == volume.shape)}")


def printScores(scores: dict, arguments: argparse.Namespace) -> None:
    """Print the voxel scores in one line."""
    names = ("precision", "recall", "dice", "iou")
    line = "  ".join(f"{name} {scores[name]:.4f}" for name in names)
    print(f"Scores against {arguments.nameReference.name} at threshold {THRESHOLD}: {line}")


def describeRun(
    arguments: argparse.Namespace, volume: NrrdVolume, region: tuple, scores: dict | None
) -> dict:
    """Describe what went into the result."""
    inputs = {volume.path, volume.dataPath, arguments.modelFile, arguments.weightFile or arguments.modelFile}
    return {
        "command": commandLine(),
        "parameters": plainSettings(arguments),
        "region": [list(axis) for axis in region],
        "scores": scores,
        "versions": packageVersions(),
        "inputs": {str(relativePath(path)): digestFile(path) for path in sorted(inputs)},
    }


if __name__ == "__main__":
    runScript(main, parseArguments)
