"""What a training writes beside its models: contract, log and curves."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from engine.base.records import commandLine, digestFile, packageVersions
from engine.learning.history import describeEpoch, drawTrainingCurves, listWarnings, writeLog, writeScalars
from engine.learning.job import Job, Origin
from engine.learning.outputs import Outputs
from engine.learning.progress import Progress
from engine.measures.thresholds import ThresholdScores
from engine.network.contracts import Contract
from engine.network.plan import Layer, countParameters, sizeOf

if TYPE_CHECKING:  # it loads Keras
    from engine.learning.training import Training

SCORES = ("loss", "binary_accuracy", "tp", "fp", "fn", "precision", "recall", "dice", "iou")


class Record(NamedTuple):
    """What a training writes beside its models, after every epoch and at the end."""

    outputs: Outputs
    contract: Contract  # with what is known from the beginning
    tensorBoard: Path | None  # folder of event files

    def noteEpoch(self, training: "Training") -> list[str]:
        """Write what is known after an epoch; gives the lines that tell of it."""
        progress = training.progress
        self.writeContract(training)
        self.writeHistory(progress)
        if self.tensorBoard:
            writeScalars(self.tensorBoard, progress.epoch, progress.history[-1])
        warnings = [f"Warning: {warning}" for warning in listWarnings(progress.history)]
        return [describeEpoch(progress, training.setup.steps.epochCount), *warnings]

    def writeHistory(self, progress: Progress) -> None:
        """Write log and curves."""
        writeLog(progress.history, self.outputs.metricsFile)
        drawTrainingCurves(progress.history, progress.best, self.outputs.curves)

    def writeContract(self, training: "Training", scores: dict[str, ThresholdScores] | None = None) -> None:
        """Write what a prediction has to know of the models.

        Parameters
        ----------
        training : Training
            How far it has come.
        scores : dict, optional
            {file: scores of the validation data}; default: it is not finished.
        """
        scores, progress = scores or {}, training.progress
        thresholds = {name: part.choose() for name, part in scores.items()}
        models = self.outputs.models if thresholds else self.outputs.models[:-1]  # the last is yet to come
        course = {"devices": training.devices, "seconds": progress.seconds}
        self.contract._replace(
            thresholds={name: threshold for name, (threshold, _) in thresholds.items()},
            diceAtThreshold={name: dice for name, (_, dice) in thresholds.items()},
            sureness={name: part.sureness for name, part in scores.items()},
            bestValidation={
                metric: {"epoch": epoch + 1}
                | {name: progress.history[epoch][f"val_{name}"] for name in SCORES}
                for metric, epoch in progress.best.items()
            },
            training=self.contract.training | course | {"epochSeconds": progress.epochSeconds},
            files={file.name: digestFile(file) for file in models if file.is_file()},
        ).write(self.outputs.contract)


def beginContract(
    plan: list[Layer], settings: dict[str, Any], job: Job, origin: Origin, device: str, greys: dict
) -> Contract:
    """Write down what is known of a training before its first step."""
    width, levelCount = sizeOf(plan)
    prepared = origin.prepared or {}
    preparation = prepared.get("parameters", {})
    return Contract(
        architecture={
            "base_depth": width,
            "levelCount": levelCount,
            "parameterCount": countParameters(plan),
        },
        normalization=preparation.get("normalization"),
        moments=preparation.get("moments"),
        positiveLabel=preparation.get("positiveLabel"),
        training={
            "command": commandLine(),
            "parameters": settings,
            "identity": job.identity,
            "device": device,
            "devices": [device],
            "seconds": 0.0,
            "epochSeconds": [],
            "versions": packageVersions(),
            "startedFrom": origin.startedFrom,
        },
        greys=greys,
        data=prepared,
    )
