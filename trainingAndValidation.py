"""Train the 3D U-Net on the sub-volumes that prepareData.py wrote.

In:  pythonFiles/trainingDataImage.npy, trainingDataMask.npy and the two validation twins.
Out: modelAndWeights/: two checkpoints (best validation loss, best validation accuracy), the final model, its
     contract (.json), the log of every epoch (metrics.log) and trainingCurves.png.

    python3 trainingAndValidation.py
"""

import argparse
import operator
import shlex
import sys
import time
from pathlib import Path

import numpy as np

from engine.console import (
    ScriptParser,
    commandLine,
    describeShape,
    packageVersions,
    plainSettings,
    printSettings,
    relativePath,
    runScript,
)
from engine.contracts import findContract
from engine.devices import CUDA_HINT, describeDevice, loadKeras
from engine.errors import PipelineError
from engine.figures import drawTrainingCurves
from engine.files import digestFile, readJson, writeJson
from engine.models import readWeights
from engine.plan import countParameters
from functions import buildSpotUNet, describeUNet, readLearningData, scoreCounts, setWeights

FOLDER = Path(__file__).resolve().parent

# ----------------------------------------------------------------------------------------------- parameters
learningRate = 0.005  # of Adam, > 0
Nepochs = 200  # passes over the training data, >= 1
batchSize = 2  # sub-volumes per step, >= 1
base_depth = 8  # features of the first level, >= 1
levelCount = 4  # levels of the network, 1 to 8
seed = 1  # of the first weights and of the order of the sub-volumes
weightStart = ""  # model or weight file to start from; empty: random weights
learningData = "pythonFiles"  # folder with the .npy files
metricsFile = "modelAndWeights/metrics.log"  # a row an epoch, separated by spaces
weightFile = "modelAndWeights/current-best_modelWeight_val-loss.h5"  # smallest validation loss
weightFileTrain = "modelAndWeights/current-best_modelWeight_val-accuracy.h5"  # highest accuracy
modelFile = "modelAndWeights/current-uNet_model.h5"  # after the last epoch
# ----------------------------------------------------------------------------------------------------------


def parseArguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line: one flag a constant, spelled like it."""
    parser = ScriptParser(__file__, __doc__)
    parser.addFlag("learningRate", type=float, default=learningRate)
    parser.addFlag("Nepochs", type=int, default=Nepochs)
    parser.addFlag("batchSize", type=int, default=batchSize)
    parser.addFlag("base_depth", type=int, default=base_depth)
    parser.addFlag("levelCount", type=int, default=levelCount)
    parser.addFlag("seed", type=int, default=seed)
    parser.addFlag("weightStart", type=Path, default=weightStart or None)
    parser.addFlag("learningData", type=Path, default=FOLDER / learningData)
    parser.addFlag("metricsFile", type=Path, default=FOLDER / metricsFile)
    parser.addFlag("weightFile", type=Path, default=FOLDER / weightFile)
    parser.addFlag("weightFileTrain", type=Path, default=FOLDER / weightFileTrain)
    parser.addFlag("modelFile", type=Path, default=FOLDER / modelFile)
    return parser.parse_args(argv)


def main(arguments: argparse.Namespace) -> None:
    """Load the data, build the network, train it, keep the best, write the contract."""
    checkParameters(arguments)
    plan = describeUNet(arguments.base_depth, arguments.levelCount)
    data = {part: readLearningData(arguments.learningData, part, plan) for part in ("training", "validation")}
    prepared = readJson(arguments.learningData / "parameters.json") or {}
    start = readStart(arguments, plan)
    printStart(arguments, data)

    import engine.learning  # loads Keras

    keras = loadKeras()
    keras.utils.set_random_seed(arguments.seed)
    model = buildSpotUNet(arguments.base_depth, arguments.levelCount)
    if start:
        setWeights(model, plan, start["weights"])
    compileModel(model, arguments.learningRate)
    best = {
        "val_loss": engine.learning.BestModel(arguments.weightFile, "val_loss", operator.lt),
        "val_binary_accuracy": engine.learning.BestModel(
            arguments.weightFileTrain, "val_binary_accuracy", operator.gt
        ),
    }
    begin = time.time()
    history = model.fit(
        engine.learning.SubVolumes(*data["training"], arguments.batchSize, arguments.seed),
        validation_data=engine.learning.SubVolumes(*data["validation"], arguments.batchSize),
        epochs=arguments.Nepochs,
        callbacks=[*best.values(), keras.callbacks.CSVLogger(arguments.metricsFile, separator=" ")],
        verbose=1 if sys.stdout.isatty() else 2,
        shuffle=False,  # SubVolumes shuffles by (seed, epoch)
    ).history
    refuseFailedTraining(best)
    engine.learning.saveModel(model, arguments.modelFile)
    scores = {metric: summariseEpoch(history, checkpoint) for metric, checkpoint in best.items()}
    writeContract(arguments, plan, prepared, start, scores, time.time() - begin)
    drawTrainingCurves(history, arguments.modelFile.parent / "trainingCurves.png")
    printEnd(arguments, scores, time.time() - begin, isFiniteModel(model))


def checkParameters(arguments: argparse.Namespace) -> None:
    """Refuse values that cannot work, before anything is loaded."""
    for name in ("learningRate", "Nepochs", "batchSize"):
        if not getattr(arguments, name) > 0:
            raise PipelineError(f"{name} must be above 0", received=getattr(arguments, name))
    if arguments.seed < 0:
        raise PipelineError("seed must not be negative", received=arguments.seed)
    models = (arguments.weightFile, arguments.weightFileTrain, arguments.modelFile)
    for file in (*models, arguments.metricsFile):
        if not file.parent.is_dir():
            raise PipelineError("no such folder", file=file.parent)
    for file in models:
        if file.suffix != ".h5":
            raise PipelineError("the name of a model must end with .h5", file=file)
    if len({file.name for file in models}) < len(models):
        rule = "weightFile, weightFileTrain and modelFile need different names"
        raise PipelineError(rule, received=", ".join(file.name for file in models))


def readStart(arguments: argparse.Namespace, plan: list) -> dict:
    """Read the weights to start from and what is known of their training; empty without --weightStart."""
    if not arguments.weightStart:
        return {}
    path = arguments.weightStart
    return {
        "weights": readWeights(path, plan),
        "record": {"file": path.name, "sha256": digestFile(path), "contract": findContract(path)},
    }


def compileModel(model, learningRate: float) -> None:
    """Set the published optimiser, loss and metrics."""
    keras = loadKeras()
    model.compile(
        optimizer=keras.optimizers.Adam(learningRate),
        loss=keras.losses.BinaryCrossentropy(),
        metrics=[
            keras.metrics.BinaryAccuracy(),
            keras.metrics.TruePositives(name="tp"),
            keras.metrics.TrueNegatives(name="tn"),
            keras.metrics.FalsePositives(name="fp"),
            keras.metrics.FalseNegatives(name="fn"),
        ],
    )


def printStart(arguments: argparse.Namespace, data: dict) -> None:
    """Print device, versions, parameters and what there is to learn from."""
    device = describeDevice()
    print(f"Device: {device}")
    if device.startswith("CPU"):
        print(CUDA_HINT)
    print("Versions: " + "  ".join(f"{name} {version}" for name, version in packageVersions().items()))
    printSettings(arguments)
    for part, (images, masks) in data.items():
        positiveCount = sum(int(np.count_nonzero(mask)) for mask in masks)
        print(
            f"{part.capitalize()}: {len(images)} sub-volumes of {describeShape(images.shape[1:4])} voxels, "
            f"{positiveCount} positive voxels ({positiveCount / masks.size:.3%})"
        )
        if not positiveCount:
            print(
                f"Warning: no positive voxel in the {part} masks; is positiveLabel of prepareData.py right?"
            )


def refuseFailedTraining(best: dict) -> None:
    """Stop where no epoch gave a finite validation loss: there is nothing worth keeping."""
    if best["val_loss"].epoch is None:
        raise PipelineError(
            "the validation loss was never a finite number; no checkpoint was written",
            remedy="try a smaller --learningRate",
        )


def summariseEpoch(history: dict, checkpoint) -> dict:
    """Collect the validation scores of the epoch that a checkpoint keeps."""
    values = {name: float(history[f"val_{name}"][checkpoint.epoch]) for name in ("loss", "binary_accuracy")}
    counts = [history[f"val_{name}"][checkpoint.epoch] for name in ("tp", "fp", "fn")]
    return {"epoch": checkpoint.epoch + 1} | values | scoreCounts(*counts)


def writeContract(arguments, plan, prepared: dict, start: dict, scores: dict, seconds: float) -> None:
    """Write beside the model what a prediction has to know of it."""
    files = (arguments.modelFile, arguments.weightFile, arguments.weightFileTrain)
    contract = {
        "architecture": {
            "base_depth": arguments.base_depth,
            "levelCount": arguments.levelCount,
            "parameterCount": countParameters(plan),
        },
        "normalization": prepared.get("parameters", {}).get("normalization"),
        "positiveLabel": prepared.get("parameters", {}).get("positiveLabel"),
        "bestValidation": scores,
        "training": {
            "command": commandLine(),
            "parameters": plainSettings(arguments),
            "device": describeDevice(),
            "seconds": round(seconds, 1),
            "versions": packageVersions(),
            "startedFrom": start.get("record"),
        },
        "data": prepared,
        "files": {file.name: digestFile(file) for file in files},
    }
    writeJson(arguments.modelFile.with_suffix(".json"), contract)


def isFiniteModel(model) -> bool:
    """Whether all weights are finite numbers."""
    return all(np.isfinite(weight).all() for weight in model.get_weights())


def printEnd(arguments: argparse.Namespace, scores: dict, seconds: float, isFinite: bool) -> None:
    """Print the best epochs, the files and the command that comes next."""
    if not isFinite:
        print(
            f"Warning: {arguments.modelFile.name} holds NaN: the training diverged after its best epoch; "
            f"{arguments.weightFile.name} is good, a smaller --learningRate may give a better one"
        )
    for metric, score in scores.items():
        print(
            f"Best {metric}: epoch {score['epoch']}, loss {score['loss']:.4f}, "
            f"accuracy {score['binary_accuracy']:.4f}, validation Dice {score['dice']:.3f}"
        )
    print(f"Trained for {seconds / 60:.1f} min. Written to {relativePath(arguments.modelFile.parent)}:")
    for file in (arguments.weightFile, arguments.weightFileTrain, arguments.modelFile):
        print(f"  {file.name}")
    print(f"  {arguments.modelFile.stem}.json  {arguments.metricsFile.name}  trainingCurves.png")
    flags = ["--modelFile", arguments.modelFile, "--weightFile", arguments.weightFile]
    command = ["python3", "predictData.py", *(flags if isFinite else ["--modelFile", arguments.weightFile])]
    words = (str(relativePath(word)) if isinstance(word, Path) else word for word in command)
    print(f"Next: {shlex.join(words)}")


if __name__ == "__main__":
    runScript(main, parseArguments)
