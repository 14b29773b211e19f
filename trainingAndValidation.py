"""Train the 3D U-Net on the sub-volumes that prepareData.py wrote.

In:  pythonFiles/trainingDataImage.npy, trainingDataMask.npy, where not every voxel is labelled
     trainingDataLabelled.npy, and the validation twins.
Out: modelAndWeights/: three checkpoints (best validation loss, accuracy and Dice), the final model, its
     contract (.json), the log of every epoch (metrics.log), trainingCurves.png and validationExample.png.

    python3 trainingAndValidation.py

The same command goes on where it was stopped.
"""

import argparse
import math
import sys
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from engine.base.console import runScript, say
from engine.base.parameters import describeSettings, followRecipe, pick, plainSettings, readParameters
from engine.learning.checks import checkDrawing, checkNames, checkParameters
from engine.learning.drawn import describeDrawn
from engine.learning.history import describeBest
from engine.learning.jaxProcesses import joinGroup
from engine.learning.job import (
    describeData,
    describeFinished,
    describeMachine,
    describeOrigin,
    describeResult,
    identify,
    openSharedJob,
    readOrigin,
)
from engine.learning.losses import LOSSES
from engine.learning.memory import explainMemoryErrors
from engine.learning.optimiser import Optimisation
from engine.learning.outputs import Outputs
from engine.learning.processes import findProcess
from engine.learning.record import Record, beginContract
from engine.learning.sharing import Machine, Sharing, buildTrained, makeDeterministic
from engine.learning.steps import Steps, stackPairs
from engine.learning.validation import drawExtremes, scoreFiles
from engine.network.devices import describeDevice, loadKeras
from engine.network.models import Weights, readWeights
from engine.network.plan import Layer, checkSize, sideMultiple, sizeOf
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
regions: bool = True  # z-score each patch by a random region around it, as a crop of the scan would be
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
processIndex: int | None = None  # of several machines: number of this process, from 0; SLURM tells it to srun
processCount: int | None = None  # and how many there are; every one is started with the same command
coordinator: str | None = None  # host:port where process 0 listens
saveMinutes: float = 10.0  # between two saved states of a long epoch
# ----------------------------------------------------------------------------------------------------------
PUBLISHED = {  # what --recipe published changes: from the value above, unless that was edited, to the other
    "Nepochs": (40, 200),
    "stepsPerEpoch": (50, 0),
    "patchSide": (64, 0),
    "positiveShare": (0.5, 0.0),
    "regions": (True, False),
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
    """Check, open the data, build the network, train it, choose thresholds, write the contract."""
    checkParameters(vars(arguments))
    process = findProcess(arguments.processIndex, arguments.processCount, arguments.coordinator)
    outputs, drawing = pick(Outputs, arguments), pick(Drawing, arguments)
    optimisation, machine = pick(Optimisation, arguments), pick(Machine, arguments)
    if process.isFirst:
        checkNames(outputs, arguments.weightStart)
    if machine.deterministic:
        makeDeterministic()

    plan = describeUNet(arguments.base_depth, arguments.levelCount)
    checkSize(plan)
    multiple = sideMultiple(plan)
    data = {part: openSamples(arguments.learningData, part, multiple) for part in ("training", "validation")}
    checkDrawing(data["training"], plan, drawing.patchSide, drawing.batchSize, drawing.stepsPerEpoch)
    origin = readOrigin(arguments.learningData, arguments.weightStart, plan)
    drawing = drawing._replace(voxels=origin.voxels)
    optimisation = optimisation._replace(isSparse=any(samples.labelled for samples in data.values()))
    settings = plainSettings(arguments)
    identity = identify(settings, data, arguments.weightStart)
    with (
        joinGroup(process, identity) as group,
        openSharedJob(group, outputs, identity, arguments.restart) as job,
    ):
        say(*describeOrigin(origin, arguments.learningData))
        if job.isFinished:
            say(*describeFinished(outputs))
            return
        device = group.nameDevice(describeDevice(machine.isCompiled))
        patch = drawing.sidesOf(data["training"]) if drawing.patchSide else None
        say(*describeMachine(device), *describeSettings(arguments), *describeData(data, patch))
        from engine.learning.training import Setup, Training  # loads Keras

        loadKeras().utils.set_random_seed(arguments.seed)
        sharing = Sharing(machine, arguments.batchSize, group)
        say(*sharing.describe())
        steps = numberSteps(data["training"], drawing, arguments.Nepochs, sharing.count)
        network = startNetwork(plan, origin.weights, steps, optimisation.startBias)
        build = partial(buildSpotUNet, *sizeOf(plan))
        model = buildTrained(build, network, optimisation, sharing, steps.total)
        setup = Setup(model, network, sharing, steps, data["validation"], optimisation, completeRow)
        training = Training(setup, job, device, arguments.saveMinutes * 60)
        contract = beginContract(plan, settings, job, origin, device, describeDrawn(steps))
        learn(training, plan, Record(outputs, contract, arguments.tensorBoard))
        job.state.remove()


# ---------------------------------------------------------------------------------------------- the training


def numberSteps(samples: Samples, drawing: Drawing, epochCount: int, deviceCount: int) -> Steps:
    """Give every step its number: what is drawn in it follows from epoch, step and seed alone."""

    def read(epoch: int, step: int) -> tuple[np.ndarray, np.ndarray]:
        return stackPairs(drawBatch(samples, drawing, epoch, step, deviceCount))

    count = drawing.stepsPerEpoch or math.ceil(samples.count / drawing.batchSize)
    return Steps(read, count, epochCount, drawing.batchSize, drawing.sidesOf(samples))


def startNetwork(plan: list[Layer], weights: Weights | None, steps: Steps, startBias: bool):
    """Build the network, with the weights to start from or random ones.

    Parameters
    ----------
    plan, weights : list of Layer, Weights or None
        Its layers; None: random weights.
    steps, startBias : Steps, bool
        Whether the last bias of a random one is the log-odds of a positive voxel in the first steps.

    Returns
    -------
    keras.Model
        As it is validated and saved.
    """
    network = buildSpotUNet(*sizeOf(plan))
    if weights:
        setWeights(network, plan, weights)
    elif startBias:
        share = np.clip(steps.measurePositives(), 1e-5, 0.5)
        network.get_layer("probability").bias.assign([np.log(share / (1 - share))])
    return network


def completeRow(row: dict[str, float]) -> dict[str, float]:
    """Add precision, recall, Dice and IoU of the positive class, from the counts of all voxels."""
    for prefix in ("", "val_"):
        scores = scoreCounts(*(row[prefix + name] for name in ("tp", "fp", "fn")))
        row |= {prefix + name: value for name, value in scores.items() if name != "dice"}
    return row


def learn(training, plan: list[Layer], record: Record) -> None:
    """Train to the end, keep the best epochs, choose their thresholds, write the contract."""
    setup, outputs = training.setup, record.outputs

    def load(file: Path) -> None:
        setWeights(setup.plain, plan, readWeights(file, plan))

    with explainMemoryErrors(training, sideMultiple(plan)):
        say(*training.start())
        failure = training.run(lambda: say(*record.noteEpoch(training)))
        if not training.group.isFirst:
            return
        say(*training.saveLast(load, failure))
        record.writeHistory(training.progress)
        scores = scoreFiles(setup.plain, setup.validation, outputs.models, load)
        load(outputs.weightFileDice)
        best = scores[outputs.weightFileDice.name]
        drawExtremes(setup.plain, setup.validation, best, outputs.example)
    record.writeContract(training, scores)
    say(*describeBest(training.progress), *describeResult(outputs, training.progress.seconds, *best.choose()))


if __name__ == "__main__":
    runScript(main, parseArguments, "the same command goes on where it stopped.")
