"""What is refused before a training begins: values, names and data that cannot work."""

import importlib.util
import math
import os
from pathlib import Path
from typing import Any

from engine.base.console import relativePath
from engine.base.errors import PipelineError
from engine.base.files import refuseLongNames
from engine.learning.outputs import Outputs
from engine.learning.trainingState import TrainingState
from engine.network.plan import Layer, sideMultiple
from engine.preparation.samples import Samples

ABOVE_0 = ("learningRate", "Nepochs", "batchSize")
NOT_BELOW_0 = (
    *("seed", "deviceCount", "stepsPerEpoch", "patchSide", "averageBatches"),
    *("greyScale", "greyOffset", "greyNoise", "clipNorm", "saveMinutes"),
)


def checkParameters(values: dict[str, Any]) -> None:
    """Refuse values that cannot work, before anything is loaded.

    Parameters
    ----------
    values : dict
        Of all parameters, by name.
    """
    for name, value in values.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise PipelineError(f"{name} must be a finite number", received=value)
    for name in ABOVE_0:
        if not values[name] > 0:
            raise PipelineError(f"{name} must be above 0", received=values[name])
    for name in NOT_BELOW_0:
        if not values[name] >= 0:
            raise PipelineError(f"{name} must not be negative", received=values[name])
    if not 0 <= values["positiveShare"] <= 1:
        raise PipelineError("positiveShare must lie in 0 to 1", received=values["positiveShare"])
    if not 0 <= values["momentum"] < 1:
        raise PipelineError("momentum must lie in 0 to 1, 1 excluded", received=values["momentum"])
    if values["seed"] >= 2**32:
        raise PipelineError("seed must be below 2 ** 32", received=values["seed"])
    if values["tensorBoard"]:
        _checkTensorBoard(values["tensorBoard"])


def _checkTensorBoard(folder: Path) -> None:
    """Refuse event files that nothing can write, and a folder that is none."""
    if not importlib.util.find_spec("tensorflow"):
        raise PipelineError("--tensorBoard needs TensorFlow", remedy="pip install tensorflow")
    if folder.exists() and not folder.is_dir():
        raise PipelineError("tensorBoard is no folder", file=folder)


def checkNames(outputs: Outputs, weightStart: Path | None) -> None:
    """Refuse names under which nothing can be written, or two things would be."""
    written = (*outputs, outputs.contract, outputs.curves, outputs.example)
    shorter = f"choose shorter names ({', '.join(f'--{name}' for name in Outputs._fields)})"
    refuseLongNames((*written, *TrainingState(outputs.modelFile).paths), shorter)
    for file in outputs:
        if not file.parent.is_dir():
            raise PipelineError("no such folder", file=file.parent)
        if not os.access(file.parent, os.W_OK):
            raise PipelineError("nothing can be written into this folder", file=file.parent)
        if file.is_dir():
            raise PipelineError("is a folder, no name of a file", file=file)
    for file in outputs.models:
        if file.suffix != ".h5":
            raise PipelineError("the name of a model must end with .h5", file=file)
    *models, log = Outputs._fields
    if len({file.name for file in outputs}) < len(outputs):
        rule = f"{', '.join(models)} and {log} need different names"
        raise PipelineError(rule, received=", ".join(file.name for file in outputs))
    if outputs.metricsFile.name in (outputs.contract.name, outputs.curves.name, outputs.example.name):
        raise PipelineError("this is the name of another result of the training", file=outputs.metricsFile)
    if weightStart and weightStart.resolve() in {file.resolve() for file in outputs.models}:
        rule = "this training would replace the weights that it starts from"
        raise PipelineError(rule, file=weightStart, remedy="copy them to another name")
    folders = {file.parent.resolve(): str(relativePath(file.parent)) for file in outputs.models}
    if len(folders) > 1:  # the contract beside the model tells of all of them
        raise PipelineError(f"{', '.join(models)} need one folder", received=", ".join(folders.values()))


def checkDrawing(
    samples: Samples, plan: list[Layer], patchSide: int, batchSize: int, stepsPerEpoch: int
) -> None:
    """Refuse patches that cannot be halved, batches larger than the set, and a set without positives."""
    multiple = sideMultiple(plan)
    if patchSide % multiple:
        rule = f"this network halves every side {multiple.bit_length() - 1} times"
        raise PipelineError(rule, expected=f"patchSide a multiple of {multiple}", received=patchSide)
    if not stepsPerEpoch and batchSize > samples.count:
        rule, expected = "batchSize is larger than the training set", f"at most {samples.count}"
        raise PipelineError(rule, expected=expected, received=batchSize)
    if not samples.positives.any():
        remedy = "is positiveLabel of prepareData.py right?"
        raise PipelineError("no positive voxel in the training masks", file=samples.masks, remedy=remedy)
