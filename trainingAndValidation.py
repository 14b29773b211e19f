"""Train the 3D U-Net on the sub-volumes that prepareData.py wrote.

In:  pythonFiles/trainingDataImage.npy, trainingDataMask.npy and the two validation twins.
Out: modelAndWeights/: three checkpoints (best validation loss, accuracy and Dice), the final model, its
     contract (.json), the log of every epoch (metrics.log), trainingCurves.png and validationExample.png.

    python3 trainingAndValidation.py

The same command goes on where it was stopped.
"""

import argparse
import contextlib
import importlib.util
import math
import os
import shlex
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from engine.base.console import describeDuration, describeShape, relativePath, runScript
from engine.base.errors import PipelineError
from engine.base.files import lockName
from engine.base.parameters import describeSettings, followRecipe, plainSettings, readParameters
from engine.base.records import commandLine, digestFile, packageVersions, readJson, refuseAnother, writeJson
from engine.learning.history import drawTrainingCurves, listWarnings, writeLog, writeScalars
from engine.learning.losses import LOSSES
from engine.learning.sharing import Sharing, isOutOfMemory, makeDeterministic
from engine.learning.trainingState import TrainingState
from engine.learning.validation import drawExtremes, scoreSamples
from engine.network.contracts import findContract
from engine.network.devices import ONEDNN, SAME_TO_ROUNDING, cudaHint, describeDevice, loadKeras
from engine.network.models import readWeights
from engine.network.plan import checkSize, countParameters, sideMultiple
from engine.preparation.samples import Samples, openSamples
from functions import Drawing, buildSpotUNet, describeUNet, drawBatch, scoreCounts, setWeights

FOLDER = Path(__file__).resolve().parent

# ----------------------------------------------------------------------------------------------- parameters
# learning
recipe: Literal["robust", "published"] = "robust"  # for little data; or as published: what PUBLISHED changes
Nepochs: int = 40  # passes over the training data or, with stepsPerEpoch, rounds of so many steps
learningRate: float = 0.005  # of Adam, > 0
batchSize: int = 2  # sub-volumes or patches per step, >= 1
seed: int = 1  # of the first weights and of everything drawn
weightStart: Path | None = None  # model or weight file to start from; none: random weights
restart: bool = False  # forget an unfinished or finished training and begin anew
# data
learningData: Path = Path("pythonFiles")  # folder with the .npy files
stepsPerEpoch: int = 50  # steps of an epoch; 0 = every sub-volume once
patchSide: int = 64  # voxels, a multiple of 8; side of the patches drawn from sub-volumes; 0 = whole ones
positiveShare: float = 0.5  # 0 to 1, of the patches that lie around a positive voxel
turns: bool = True  # right-angle turns and reflections
greyScale: float = 0.1  # standard deviation of the logarithm of a factor on the z-scored grey values
greyOffset: float = 0.1  # standard deviation of what is added to them
greyNoise: float = 0.2  # largest standard deviation of added white noise
# network
base_depth: int = 8  # features of the first level, >= 1
levelCount: int = 4  # levels of the network, 1 to 8
loss: Literal[*LOSSES] = "bce+dice"  # what is made small
startBias: bool = True  # start the last bias at the log-odds of a positive voxel
schedule: Literal["constant", "cosine"] = "cosine"  # or the rate falls to a hundredth along half a cosine
clipNorm: float = 1.0  # largest norm of a step's gradient; 0 = any
momentum: float = 0.9  # 0 to 1, of the moving averages of batch normalisation
averageBatches: int = 16  # batches from which they are made anew before a validation; 0 = never
# results
weightFile: Path = Path("modelAndWeights/current-best_modelWeight_val-loss.h5")  # smallest validation loss
weightFileTrain: Path = Path("modelAndWeights/current-best_modelWeight_val-accuracy.h5")  # highest accuracy
weightFileDice: Path = Path("modelAndWeights/current-best_modelWeight_val-dice.h5")  # highest Dice
modelFile: Path = Path("modelAndWeights/current-uNet_model.h5")  # after the last epoch
metricsFile: Path = Path("modelAndWeights/metrics.log")  # a row an epoch, separated by spaces
tensorBoard: Path | None = None  # folder of event files for TensorBoard; none: no such files
# machine
precision: Literal["float32", "mixed_bfloat16", "mixed_float16"] = "float32"  # of the training
jitCompile: bool | None = None  # compile with XLA; without the flag as Keras sees fit
deterministic: bool = False  # the same result to the last bit on a GPU too; slower there
deviceCount: int = 0  # GPUs that share every batch; 0 = as many of the visible ones as can share it equally
saveMinutes: float = 10.0  # between two saved states of a long epoch
# ----------------------------------------------------------------------------------------------------------
PUBLISHED = {  # what --recipe published changes: from the value above, unless that was edited, to the other
    "Nepochs": (40, 200),
    "stepsPerEpoch": (50, 0),
    "patchSide": (64, 0),
    "positiveShare": (0.5, 0.0),
    "turns": (True, False),
    "greyScale": (0.1, 0.0),
    "greyOffset": (0.1, 0.0),
    "greyNoise": (0.2, 0.0),
    "loss": ("bce+dice", "bce"),
    "startBias": (True, False),
    "schedule": ("cosine", "constant"),
    "clipNorm": (1.0, 0.0),
    "momentum": (0.9, 0.99),
    "averageBatches": (16, 0),
}


def parseArguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line: one flag a constant, spelled like it."""
    arguments = readParameters(sys.modules[__name__], argv)
    return followRecipe(arguments, PUBLISHED) if arguments.recipe == "published" else arguments


def main(arguments: argparse.Namespace) -> None:
    """Load the data, build the network, train it, keep the best, write the contract."""
    checkParameters(arguments)
    if arguments.deterministic:
        makeDeterministic()
    plan = describeUNet(arguments.base_depth, arguments.levelCount)
    checkSize(plan)
    data = {part: openSamples(arguments.learningData, part, plan) for part in ("training", "validation")}
    checkPatches(arguments, plan, data)
    origin = readOrigin(arguments, plan)
    identity = identify(arguments)
    state = TrainingState(arguments.modelFile, arguments.restart)
    with contextlib.ExitStack() as locks:
        for file in outputFiles(arguments):
            locks.enter_context(lockName(file, "another process is training this model"))
        saved = state.load()
        if not arguments.restart and isFinished(arguments, identity):
            if saved and saved[0]["identity"] == identity:
                state.remove()  # what a kill in the last moment left
            return
        if saved and arguments.restart and saved[0]["identity"] != identity:
            saved = None
        elif saved:
            remedy = "repeat its command to go on, or --restart to begin anew"
            refuseAnother(saved[0]["identity"], identity, "an unfinished training", remedy)
        if not arguments.restart:
            refuseReplacement(arguments, identity, isResumed=bool(saved))
        train(arguments, plan, data, origin, identity, state, saved)


def train(
    arguments: argparse.Namespace,
    plan: list,
    data: dict[str, Samples],
    origin: dict,
    identity: dict,
    state: TrainingState,
    saved: tuple | None,
) -> None:
    """Train from the beginning, or from a saved state on."""
    device = printStart(arguments, data)

    from engine.learning.training import (
        EpochBar,  # loads Keras
        Training,
    )

    parts = assemble(arguments, plan, data, origin["weights"])
    training = Training(parts, state, identity, device, arguments.saveMinutes * 60)
    origin |= {"device": device, "versions": packageVersions()}
    note = partial(writeContract, arguments, plan, origin, training)
    with namedMemoryErrors(arguments, plan, data, training):
        if saved:
            training.resume(*saved)
            print(
                f"Going on after epoch {training.progress.epoch}, step {training.progress.step}", flush=True
            )
            if training.devices[:-1]:
                print(f"Trained so far on {', '.join(training.devices[:-1])}: {SAME_TO_ROUNDING}", flush=True)
        else:
            state.remove()
        bar = [EpochBar(arguments.Nepochs)] if sys.stdout.isatty() else []
        failure = training.run(partial(reportEpoch, arguments, note), bar)
        thresholds = finish(arguments, plan, data, training, failure)
    note(thresholds)
    printEnd(arguments, training, thresholds)
    state.remove()


@contextlib.contextmanager
def namedMemoryErrors(
    arguments: argparse.Namespace, plan: list, data: dict[str, Samples], training
) -> Iterator[None]:
    """Say what to try where a device runs out of memory."""
    try:
        yield
    except Exception as error:
        if not isOutOfMemory(error):
            raise
        sides, shares = patchOf(arguments, data["training"]), training.parts.sharing.count
        what, remedy = f"{arguments.batchSize} x {describeShape(sides)} voxels a step", "smaller sub-volumes"
        multiple = sideMultiple(plan)
        if training.isValidating:
            what = f"a validation sub-volume of {describeShape(data['validation'].sides)} voxels"
        elif arguments.batchSize >= 2 * shares:
            remedy = f"--batchSize {arguments.batchSize // 2 // shares * shares}, or {remedy}"
        elif max(sides) >= 2 * multiple:
            remedy = f"--patchSide {max(sides) // 2 // multiple * multiple}, or {remedy}"
        raise PipelineError(
            f"the device has too little memory for {what}", remedy=f"try {remedy} by prepareData.py"
        ) from error


# ------------------------------------------------------------------------------------------------- checks


def checkParameters(arguments: argparse.Namespace) -> None:
    """Refuse values that cannot work, before anything is loaded."""
    for name, value in vars(arguments).items():
        if isinstance(value, float) and not math.isfinite(value):
            raise PipelineError(f"{name} must be a finite number", received=value)
    for name in ("learningRate", "Nepochs", "batchSize"):
        if not getattr(arguments, name) > 0:
            raise PipelineError(f"{name} must be above 0", received=getattr(arguments, name))
    counts = ("seed", "deviceCount", "stepsPerEpoch", "patchSide", "averageBatches")
    for name in (*counts, "greyScale", "greyOffset", "greyNoise", "clipNorm", "saveMinutes"):
        if not getattr(arguments, name) >= 0:
            raise PipelineError(f"{name} must not be negative", received=getattr(arguments, name))
    if not 0 <= arguments.positiveShare <= 1:
        raise PipelineError("positiveShare must lie in 0 to 1", received=arguments.positiveShare)
    if not 0 <= arguments.momentum < 1:
        raise PipelineError("momentum must lie in 0 to 1, 1 excluded", received=arguments.momentum)
    if arguments.seed >= 2**32:
        raise PipelineError("seed must be below 2 ** 32", received=arguments.seed)
    if arguments.tensorBoard and not importlib.util.find_spec("tensorflow"):
        raise PipelineError("--tensorBoard needs TensorFlow", remedy="pip install tensorflow")
    if arguments.tensorBoard and arguments.tensorBoard.exists() and not arguments.tensorBoard.is_dir():
        raise PipelineError("tensorBoard is no folder", file=arguments.tensorBoard)
    checkNames(arguments)


EXAMPLE = "validationExample.png"
MODELS = ("weightFile", "weightFileTrain", "weightFileDice", "modelFile")


def outputFiles(arguments: argparse.Namespace) -> list[Path]:
    """List the files that are named on the command line: models and log."""
    return [getattr(arguments, name) for name in (*MODELS, "metricsFile")]


def checkNames(arguments: argparse.Namespace) -> None:
    """Refuse names under which nothing can be written, or two things would be."""
    *models, log = files = outputFiles(arguments)
    for file in files:
        if not file.parent.is_dir():
            raise PipelineError("no such folder", file=file.parent)
        if not os.access(file.parent, os.W_OK):
            raise PipelineError("nothing can be written into this folder", file=file.parent)
        if file.is_dir():
            raise PipelineError("is a folder, no name of a file", file=file)
    for file in models:
        if file.suffix != ".h5":
            raise PipelineError("the name of a model must end with .h5", file=file)
    if len({file.name for file in files}) < len(files):
        rule = f"{', '.join(MODELS)} and metricsFile need different names"
        raise PipelineError(rule, received=", ".join(file.name for file in files))
    if log.name in (contractFile(arguments).name, curvesFile(arguments).name, EXAMPLE):
        raise PipelineError("this is the name of another result of the training", file=log)
    if arguments.weightStart and arguments.weightStart.resolve() in {file.resolve() for file in models}:
        rule = "this training would replace the weights that it starts from"
        raise PipelineError(rule, file=arguments.weightStart, remedy="copy them to another name")
    folders = {file.parent.resolve(): str(relativePath(file.parent)) for file in models}
    if len(folders) > 1:  # the contract beside the model tells of all of them
        received = ", ".join(folders.values())
        raise PipelineError(f"{', '.join(MODELS)} need one folder", received=received)


def checkPatches(arguments: argparse.Namespace, plan: list, data: dict[str, Samples]) -> None:
    """Refuse patches that cannot be halved, batches larger than the set, and a set without positives."""
    samples, multiple = data["training"], sideMultiple(plan)
    if arguments.patchSide % multiple:
        rule = f"this network halves every side {multiple.bit_length() - 1} times"
        raise PipelineError(
            rule, expected=f"patchSide a multiple of {multiple}", received=arguments.patchSide
        )
    if not arguments.stepsPerEpoch and arguments.batchSize > samples.count:
        raise PipelineError(
            "batchSize is larger than the training set", expected=f"at most {samples.count}",
            received=arguments.batchSize,
        )  # fmt: skip
    if not samples.positives.any():
        raise PipelineError(
            "no positive voxel in the training masks",
            file=samples.masks,
            remedy="is positiveLabel of prepareData.py right?",
        )


def identify(arguments: argparse.Namespace) -> dict:
    """Describe what a training depends on: parameters, data, back end."""
    notes = ("saveMinutes", "restart", "tensorBoard", "learningData", "weightStart", "metricsFile", *MODELS)
    parameters = {name: value for name, value in plainSettings(arguments).items() if name not in notes}
    files = [arguments.learningData / f"{part}Data{kind}.npy" for part, kind in PARTS]
    digests = {file.name: digestFile(file) for file in files}
    if arguments.weightStart:
        digests["weightStart"] = digestFile(arguments.weightStart)
    return parameters | digests | {"back end": loadKeras().backend.backend()}


PARTS = [(part, kind) for part in ("training", "validation") for kind in ("Image", "Mask")]


def isFinished(arguments: argparse.Namespace, identity: dict) -> bool:
    """Whether this very training has been finished and its files are as it wrote them; says so."""
    contract = readJson(contractFile(arguments))
    if identityOf(contract) != identity:
        return False
    if not all(isFileOf(contract, getattr(arguments, name)) for name in MODELS):
        return False
    print(f"This training is finished: {relativePath(arguments.modelFile)}; --restart repeats it")
    printNext(arguments)
    return True


def identityOf(contract: dict | None) -> dict | None:
    """Read what the training depended on that wrote a contract; None where none of ours did."""
    training = (contract or {}).get("training")
    identity = training.get("identity") if isinstance(training, dict) else None
    return identity if isinstance(identity, dict) else None


def contractFile(arguments: argparse.Namespace) -> Path:
    """Name what a prediction has to know of the models."""
    return arguments.modelFile.with_suffix(".json")


def refuseReplacement(arguments: argparse.Namespace, identity: dict, isResumed: bool) -> None:
    """Refuse to write over the models of another training, also where only some of them are there."""
    files = [getattr(arguments, name) for name in MODELS]
    contracts = [(arguments.modelFile, readJson(contractFile(arguments)))]
    contracts += [(file, findContract(file)) for file in files if file.is_file()]
    for file, contract in contracts:
        other = identityOf(contract)
        if not other:
            continue
        what, names = relativePath(file), ", ".join(f"--{name}" for name in (*MODELS, "metricsFile"))
        kind = "a finished" if contract.get("thresholds") else "an unfinished"
        remedy = f"--restart replaces its files; other names keep them ({names}), another folder the pictures"
        refuseAnother(other, identity, f"{what} is of {kind} training that", remedy)
        if isResumed or not contract.get("thresholds"):
            continue
        broken = [file.name for file in files if not isFileOf(contract, file)]
        rule = f"{what} is of this training, finished, but missing or changed: {', '.join(broken)}"
        raise PipelineError(rule, remedy="put the file back, or repeat the training with --restart")


def isFileOf(contract: dict, file: Path) -> bool:
    """Whether a file is as a training wrote it."""
    return file.is_file() and digestFile(file) == contract["files"].get(file.name)


def readOrigin(arguments: argparse.Namespace, plan: list) -> dict[str, Any]:
    """Read how the data were made and, with --weightStart, weights and what is known of their training."""
    prepared = readJson(arguments.learningData / "parameters.json")
    if prepared is None:
        rule = f"no parameters.json in {relativePath(arguments.learningData)}"
        print(f"Warning: {rule}; predictData.py will not know how the data were normalised")
    origin, path = {"data": prepared or {}, "weights": None, "startedFrom": None}, arguments.weightStart
    if path:
        origin["weights"] = readWeights(path, plan)
        origin["startedFrom"] = {
            "file": path.name,
            "sha256": digestFile(path),
            "contract": findContract(path),
        }
    return origin


# ---------------------------------------------------------------------------------------------- the training


def assemble(arguments: argparse.Namespace, plan: list, data: dict[str, Samples], weights: dict | None):
    """Build and compile the network and whatever its training needs."""
    from engine.learning.averages import Averages
    from engine.learning.batches import Batch, readInOrder, stackPairs
    from engine.learning.training import Checkpoint, Parts

    loadKeras().utils.set_random_seed(arguments.seed)
    sharing = shareBatches(arguments)
    stepCount = arguments.stepsPerEpoch or math.ceil(data["training"].count / arguments.batchSize)
    drawing = Drawing(*(getattr(arguments, name) for name in Drawing._fields))

    def read(epoch: int, step: int) -> Batch:
        return stackPairs(drawBatch(data["training"], drawing, epoch, step, sharing.count))

    def readExtra(number: int) -> np.ndarray:
        return read(arguments.Nepochs + number // stepCount, number % stepCount)[0]

    plain = buildSpotUNet(arguments.base_depth, arguments.levelCount)
    if weights:
        setWeights(plain, plan, weights)
    elif arguments.startBias:
        startAtLogOdds(plain, np.mean([read(0, step)[1].mean() for step in range(min(stepCount, 8))]))
    model = buildTrained(arguments, plain, sharing, stepCount)
    checkpoints = [
        Checkpoint(arguments.weightFile, "val_loss", False),
        Checkpoint(arguments.weightFileTrain, "val_binary_accuracy", True),
        Checkpoint(arguments.weightFileDice, "val_dice", True),
    ]
    validation = readInOrder(data["validation"])
    twin = model if isAlike(arguments, sharing) else plain
    averages = Averages(plain, readExtra, arguments.averageBatches, twin)
    counts = stepCount, arguments.Nepochs
    return Parts(model, plain, sharing, read, *counts, validation, averages, checkpoints, completeRow)


def startAtLogOdds(model, share: float) -> None:
    """Start the last bias at the log-odds of a positive voxel, of which there is such a share."""
    share = np.clip(share, 1e-5, 0.5)
    model.get_layer("probability").bias.assign([np.log(share / (1 - share))])


def isAlike(arguments: argparse.Namespace, sharing: Sharing) -> bool:
    """Whether the network that is trained computes the numbers of the one that is saved, to rounding."""
    return sharing.count == 1 and arguments.precision == "float32"


def shareBatches(arguments: argparse.Namespace) -> Sharing:
    """Choose the devices that share every batch."""
    sharing = Sharing(arguments.deviceCount, arguments.batchSize)
    isHalf = arguments.precision == "mixed_float16" and loadKeras().backend.backend() == "tensorflow"
    if isHalf and not sharing.gpuCount:
        raise PipelineError("TensorFlow has no float16 on a CPU", remedy="--precision mixed_bfloat16")
    if sharing.count > 1:
        print(f"Every batch is shared by {sharing.count} devices")
    if not arguments.deviceCount and sharing.count < sharing.gpuCount:
        idle = f"{sharing.gpuCount - sharing.count} of {sharing.gpuCount} GPUs stay idle"
        print(f"{idle}: they share a batch equally (--batchSize {sharing.gpuCount} uses all)")
    if isHalf and sharing.count > 1:
        rule = "TensorFlow scales the loss of float16 on every device by itself"
        raise PipelineError(rule, remedy="--precision mixed_bfloat16, or --deviceCount 1")
    return sharing


def buildTrained(arguments: argparse.Namespace, plain, sharing: Sharing, stepCount: int):
    """Compile the network, and give the one that is trained: the same, or a twin.

    A twin has another precision, is on several devices, or consists of layers that are faster here.
    """
    from engine.learning.sharing import fasterLayers

    compileModel(plain, arguments, stepCount)
    makers = {}
    if isAlike(arguments, sharing):
        makers = {} if arguments.jitCompile else fasterLayers()
        if not makers:
            return plain
    keras = loadKeras()
    keras.config.set_dtype_policy(arguments.precision)
    with sharing.scope():
        model = buildSpotUNet(arguments.base_depth, arguments.levelCount, makers)
        model.set_weights(plain.get_weights())
        compileModel(model, arguments, stepCount, sharing.count)
    keras.config.set_dtype_policy("float32")
    return model


def compileModel(model, arguments: argparse.Namespace, stepCount: int, deviceCount: int = 1) -> None:
    """Set optimiser, loss and metrics."""
    import keras

    from engine.learning.losses import makeLoss
    from engine.learning.metrics import makeMetrics
    from engine.learning.optimiser import SharedAdam

    isShared = deviceCount > 1 and keras.backend.backend() == "tensorflow"
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = arguments.momentum
            layer.synchronized = isShared
    rate = arguments.learningRate
    if arguments.schedule == "cosine":
        rate = keras.optimizers.schedules.CosineDecay(rate, stepCount * arguments.Nepochs, alpha=0.01)
    optimiser = keras.optimizers.Adam(rate, global_clipnorm=arguments.clipNorm or None)
    if isShared and arguments.clipNorm:
        optimiser = SharedAdam(rate, arguments.clipNorm, deviceCount)
    model.compile(
        optimizer=optimiser,
        loss=makeLoss(arguments.loss),
        metrics=makeMetrics(),
        jit_compile="auto" if arguments.jitCompile is None else arguments.jitCompile,
    )


def completeRow(row: dict[str, float]) -> dict[str, float]:
    """Add precision, recall, Dice and IoU of the positive class, from the counts of all voxels."""
    for prefix in ("", "val_"):
        scores = scoreCounts(*(row[prefix + name] for name in ("tp", "fp", "fn")))
        row |= {prefix + name: value for name, value in scores.items() if name != "dice"}
    return row


# ------------------------------------------------------------------------------------------------ the console


def printStart(arguments: argparse.Namespace, data: dict[str, Samples]) -> str:
    """Print device, versions, parameters and what there is to learn from; gives the device."""
    isCompiled = arguments.jitCompile
    device = describeDevice(False if isCompiled is None and arguments.deterministic else isCompiled)
    print(f"Device: {device}")
    if device.startswith("CPU"):
        print(cudaHint())
    if device.endswith("without oneDNN") and sys.platform != "darwin":  # there TensorFlow has none
        print(f"Warning: without oneDNN a step takes several times as long; {ONEDNN}=1 turns it on")
    print("Versions: " + "  ".join(f"{name} {version}" for name, version in packageVersions().items()))
    print(describeSettings(arguments))
    for part, samples in data.items():
        positiveCount, size = int(samples.positives.sum()), samples.count * math.prod(samples.sides)
        print(
            f"{part.capitalize()}: {samples.count} sub-volumes of {describeShape(samples.sides)} voxels, "
            f"{positiveCount} positive voxels ({positiveCount / size:.3%})"
        )
        if part == "training" and arguments.patchSide:
            print(f"Patches: {describeShape(patchOf(arguments, samples))} voxels")
        if not positiveCount:
            print(
                f"Warning: no positive voxel in the {part} masks; is positiveLabel of prepareData.py right?"
            )
    return device


def patchOf(arguments: argparse.Namespace, samples: Samples) -> tuple[int, ...]:
    """Sides of what is drawn from the sub-volumes."""
    return tuple(min(arguments.patchSide or side, side) for side in samples.sides)


def reportEpoch(arguments: argparse.Namespace, note: Callable, training, row: dict[str, float]) -> None:
    """Write contract, log and curves, print a line, warn of what looks wrong."""
    progress = training.progress
    note({})
    writeLog(progress.history, arguments.metricsFile)
    drawTrainingCurves(progress.history, progress.best, curvesFile(arguments))
    if arguments.tensorBoard:
        writeScalars(arguments.tensorBoard, progress.epoch, row)
    left = progress.seconds / progress.epoch * (arguments.Nepochs - progress.epoch)
    scores = "  ".join(f"{name} {row[f'val_{name}']:.4f}" for name in ("loss", "dice", "precision", "recall"))
    mark = "  (best Dice)" if progress.best.get("val_dice") == progress.epoch - 1 else ""
    print(
        f"Epoch {progress.epoch}/{arguments.Nepochs}: loss {row['loss']:.4f}  dice {row['dice']:.4f}  "
        f"validation: {scores}{mark}  {describeDuration(left)} left",
        flush=True,
    )
    for warning in listWarnings(progress.history):
        print(f"Warning: {warning}", flush=True)


def curvesFile(arguments: argparse.Namespace) -> Path:
    """Name the picture of the curves."""
    return arguments.modelFile.parent / "trainingCurves.png"


# ------------------------------------------------------------------------------------------------ the results


def finish(
    arguments: argparse.Namespace, plan: list, data: dict[str, Samples], training, failure: str
) -> dict[str, tuple[float, float]]:
    """Save the last model and choose the threshold of every file; gives {file: (threshold, Dice)}."""
    from engine.network.modelWriter import saveModel

    progress, model = training.progress, training.parts.plain
    if not progress.best:
        training.state.remove()
        raise PipelineError(
            "loss, validation loss or weights were never finite numbers; no checkpoint was written",
            remedy="try a smaller --learningRate",
        )
    writeLog(progress.history, arguments.metricsFile)
    drawTrainingCurves(progress.history, progress.best, curvesFile(arguments))
    if failure:
        setWeights(model, plan, readWeights(arguments.weightFile, plan))
        print(f"Warning: {failure}: the training ends; {arguments.modelFile.name} holds its best epoch")
    saveModel(model, arguments.modelFile)
    found, thresholds = {}, {}
    for name in MODELS:
        file = getattr(arguments, name)
        digest = digestFile(file)
        if digest not in found:
            setWeights(model, plan, readWeights(file, plan))
            found[digest] = scoreSamples(model, data["validation"])
        thresholds[file.name] = found[digest].best()
    setWeights(model, plan, readWeights(arguments.weightFileDice, plan))
    scores, example = found[digestFile(arguments.weightFileDice)], arguments.modelFile.parent / EXAMPLE
    drawExtremes(model, data["validation"], scores, example)
    return thresholds


def writeContract(
    arguments: argparse.Namespace, plan: list, origin: dict, training, thresholds: dict
) -> None:
    """Write beside the model what a prediction has to know of it; without thresholds: so far."""
    progress, prepared = training.progress, origin["data"]
    names = MODELS if thresholds else MODELS[:-1]  # the last model is written at the end
    files = [file for file in (getattr(arguments, name) for name in names) if file.is_file()]
    names = ("loss", "binary_accuracy", "tp", "fp", "fn", "precision", "recall", "dice", "iou")
    contract = {
        "architecture": {
            "base_depth": arguments.base_depth,
            "levelCount": arguments.levelCount,
            "parameterCount": countParameters(plan),
        },
        "normalization": prepared.get("parameters", {}).get("normalization"),
        "positiveLabel": prepared.get("parameters", {}).get("positiveLabel"),
        "thresholds": {name: threshold for name, (threshold, _) in thresholds.items()},
        "diceAtThreshold": {name: dice for name, (_, dice) in thresholds.items()},
        "bestValidation": {
            metric: {"epoch": epoch + 1} | {name: progress.history[epoch][f"val_{name}"] for name in names}
            for metric, epoch in progress.best.items()
        },
        "training": {
            "command": commandLine(),
            "parameters": plainSettings(arguments),
            "identity": training.identity,
            "device": origin["device"],
            "devices": training.devices,
            "seconds": progress.seconds,
            "epochSeconds": progress.epochSeconds,
            "versions": origin["versions"],
            "startedFrom": origin["startedFrom"],
        },
        "data": prepared,
        "files": {file.name: digestFile(file) for file in files},
    }
    writeJson(contractFile(arguments), contract)


def printEnd(arguments: argparse.Namespace, training, thresholds: dict) -> None:
    """Print the best epochs, the files and the command that comes next."""
    progress = training.progress
    for metric, epoch in progress.best.items():
        row = progress.history[epoch]
        print(
            f"Best {metric}: epoch {epoch + 1}, loss {row['val_loss']:.4f}, "
            f"accuracy {row['val_binary_accuracy']:.4f}, validation Dice {row['val_dice']:.3f}"
        )
    threshold, dice = thresholds[arguments.weightFileDice.name]
    print(f"Best threshold of {arguments.weightFileDice.name}: {threshold:g} (validation Dice {dice:.3f})")
    folder = relativePath(arguments.modelFile.parent)
    print(f"Trained for {progress.seconds / 60:.1f} min. Written to {folder}:")
    for name in MODELS:
        print(f"  {getattr(arguments, name).name}")
    print(f"  {contractFile(arguments).name}  {arguments.metricsFile.name}  trainingCurves.png  {EXAMPLE}")
    printNext(arguments)


def printNext(arguments: argparse.Namespace) -> None:
    """Print the command that comes next."""
    words = ["--modelFile", arguments.modelFile, "--weightFile", arguments.weightFileDice]
    words = (str(relativePath(word)) if isinstance(word, Path) else word for word in words)
    print("The next command predicts test-file; with --nameInput another volume.")
    print(f"Next: {shlex.join(['python3', 'predictData.py', *words])}")


if __name__ == "__main__":
    runScript(main, parseArguments, "the same command goes on where it stopped.")
