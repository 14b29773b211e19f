"""Which training this is: what it follows from, whether it is finished, begun, or would replace another."""

import contextlib
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from engine.base.console import describeShape, relativePath
from engine.base.errors import PipelineError
from engine.base.files import lockName
from engine.base.records import digestFile, packageVersions, readJson, refuseAnother
from engine.base.words import joinWords
from engine.learning.group import Group
from engine.learning.outputs import Outputs
from engine.learning.trainingState import Saved, TrainingState, UnwrittenState, packState, unpackState
from engine.network.contracts import findContent, findContract, readContract
from engine.network.devices import ONEDNN, backendName, cudaHint
from engine.network.models import Weights, readWeights
from engine.network.plan import Layer
from engine.preparation.samples import Samples

FREE = {  # parameters that no number follows from; of weightStart and the data there are digests
    *("saveMinutes", "restart", "tensorBoard", "learningData", "weightStart"),
    *("processIndex", "processCount", "coordinator"),
    *Outputs._fields,
}


class Origin(NamedTuple):
    """What a training starts from."""

    prepared: dict[str, Any] | None  # parameters.json of the data; None: there is none
    weights: Weights | None  # None: random ones
    startedFrom: dict[str, Any] | None  # what is known of these weights

    @property
    def voxels(self) -> tuple[tuple[float, ...], ...]:
        """Edge lengths of the voxels of the training volumes that tell them."""
        volumes = (self.prepared or {}).get("greys", {}).get("training", {}).values()
        return tuple(tuple(volume["voxelSize"][:3]) for volume in volumes if volume.get("voxelSize"))


class Job(NamedTuple):
    """A training and how far it has come."""

    outputs: Outputs
    identity: dict[str, Any]  # all that it follows from
    state: TrainingState | UnwrittenState
    saved: Saved | None  # from which it goes on
    isFinished: bool


# ------------------------------------------------------------------------------------------- before it begins


def readOrigin(learningData: Path, weightStart: Path | None, plan: list[Layer]) -> Origin:
    """Read how the data were made, and the weights to start from with what is known of their training."""
    prepared = readJson(learningData / "parameters.json")
    if not weightStart:
        return Origin(prepared, None, None)
    weights = readWeights(weightStart, plan)
    known = {
        "file": weightStart.name,
        "sha256": digestFile(weightStart),
        "contract": findContent(weightStart),
    }
    return Origin(prepared, weights, known)


def identify(
    parameters: dict[str, Any], data: dict[str, Samples], weightStart: Path | None
) -> dict[str, Any]:
    """Describe what a training follows from: parameters, data, back end."""
    identity = {name: value for name, value in parameters.items() if name not in FREE}
    files = [file for samples in data.values() for file in samples.files]
    identity |= {file.name: digestFile(file) for file in files}
    if weightStart:
        identity["weightStart"] = digestFile(weightStart)
    return identity | {"back end": backendName()}


@contextlib.contextmanager
def openJob(outputs: Outputs, identity: dict[str, Any], isRestart: bool) -> Iterator[Job]:
    """Lock the names of a training in this block, and find out how far it has come.

    Parameters
    ----------
    outputs : Outputs
        Its files.
    identity : dict
        All that it follows from.
    isRestart : bool
        Forget an unfinished or finished training and begin anew.

    Raises
    ------
    PipelineError
        Another process is at it, or its files are those of another training.
    """
    state = TrainingState(outputs.modelFile, isRestart)
    with contextlib.ExitStack() as locks:
        for file in outputs:
            locks.enter_context(lockName(file, "another process is training this model"))
        saved = state.load()
        if not isRestart and isFinished(outputs, identity):
            if saved and saved[0]["identity"] == identity:
                state.remove()  # what a kill in the last moment left
            yield Job(outputs, identity, state, None, True)
            return
        if saved and isRestart and saved[0]["identity"] != identity:
            saved = None
        elif saved:
            remedy = "repeat its command to go on, or --restart to begin anew"
            refuseAnother(saved[0]["identity"], identity, "an unfinished training", remedy)
        if not isRestart:
            refuseReplacement(outputs, identity, isResumed=bool(saved))
        yield Job(outputs, identity, state, saved, False)


@contextlib.contextmanager
def openSharedJob(group: Group, outputs: Outputs, identity: dict[str, Any], isRestart: bool) -> Iterator[Job]:
    """Open the job in the first process of a group, which tells the others how far it has come.

    These read and write none of its files. Parameters and errors as of `openJob`.
    """
    if not group.isFirst:
        isFinished, isBegun = group.gather(None)[0]
        content = group.exchange(b"")[0]
        saved = unpackState(content) if isBegun else None
        yield Job(outputs, identity, UnwrittenState(), saved, isFinished)
        return
    with openJob(outputs, identity, isRestart) as job:
        group.gather([job.isFinished, bool(job.saved)])
        if group.count > 1:
            group.exchange(packState(*job.saved) if job.saved else b"")
        yield job


def isFinished(outputs: Outputs, identity: dict[str, Any]) -> bool:
    """Whether this very training has been finished and its files are as it wrote them."""
    contract = readContract(outputs.contract)
    isSame = contract is not None and contract.identity == identity
    return isSame and all(map(contract.knows, outputs.models))


def refuseReplacement(outputs: Outputs, identity: dict[str, Any], isResumed: bool) -> None:
    """Refuse to write over the models of another training, also where only some of them are there."""
    contracts = [(outputs.modelFile, readContract(outputs.contract))]
    contracts += [(file, findContract(file)) for file in outputs.models if file.is_file()]
    for file, contract in contracts:
        if not (contract and contract.identity):
            continue
        what, names = relativePath(file), ", ".join(f"--{name}" for name in Outputs._fields)
        kind = "a finished" if contract.thresholds else "an unfinished"
        remedy = f"--restart replaces its files; other names keep them ({names}), another folder the pictures"
        refuseAnother(contract.identity, identity, f"{what} is of {kind} training that", remedy)
        if isResumed or not contract.thresholds:
            continue
        broken = [file.name for file in outputs.models if not contract.knows(file)]
        rule = f"{what} is of this training, finished, but missing or changed: {', '.join(broken)}"
        raise PipelineError(rule, remedy="put the file back, or repeat the training with --restart")


# ---------------------------------------------------------------------------------------- what a user reads


def describeOrigin(origin: Origin, learningData: Path) -> list[str]:
    """Warn where nothing tells how the data were made."""
    if origin.prepared is not None:
        return []
    rule = f"no parameters.json in {relativePath(learningData)}"
    return [f"Warning: {rule}; predictData.py will not know how the data were normalised"]


def describeMachine(device: str) -> list[str]:
    """Tell in lines what a training is computed with."""
    lines = [f"Device: {device}"]
    if device.startswith("CPU"):
        lines.append(cudaHint())
    if device.endswith("without oneDNN") and sys.platform != "darwin":  # there TensorFlow has none
        lines.append(f"Warning: without oneDNN a step takes several times as long; {ONEDNN}=1 turns it on")
    versions = "  ".join(f"{name} {version}" for name, version in packageVersions().items())
    return [*lines, f"Versions: {versions}"]


def describeData(data: dict[str, Samples], patch: tuple[int, ...] | None) -> list[str]:
    """Tell in lines what there is to learn from, and the sides of the patches if there are any."""
    lines = []
    for part, samples in data.items():
        positiveCount, size = int(samples.positives.sum()), samples.labelledCount
        share = size / (samples.count * math.prod(samples.sides))
        labelled = "" if samples.labels is None else f"{share:.2%} of them labelled, of these "
        lines.append(
            f"{part.capitalize()}: {samples.count} sub-volumes of {describeShape(samples.sides)} voxels, "
            f"{labelled}{positiveCount} positive voxels ({positiveCount / size:.3%})"
        )
        if part == "training" and patch:
            lines.append(f"Patches: {describeShape(patch)} voxels")
        if not positiveCount:
            lines.append(
                f"Warning: no positive voxel in the {part} masks; is positiveLabel of prepareData.py right?"
            )
    return lines


def describeFinished(outputs: Outputs) -> list[str]:
    """Tell in lines that nothing is left to do, and what comes next."""
    name = relativePath(outputs.modelFile)
    return [f"This training is finished: {name}; --restart repeats it", *describeNext(outputs)]


def describeResult(outputs: Outputs, seconds: float, threshold: float, dice: float) -> list[str]:
    """Tell in lines of the threshold of the model with the best Dice, and which files there are."""
    others = (outputs.contract, outputs.metricsFile, outputs.curves, outputs.example)
    return [
        f"Best threshold of {outputs.weightFileDice.name}: {threshold:g} (validation Dice {dice:.3f})",
        f"Trained for {seconds / 60:.1f} min. Written to {relativePath(outputs.modelFile.parent)}:",
        *(f"  {file.name}" for file in outputs.models),
        "".join(f"  {file.name}" for file in others if file.exists()),  # a picture can be missing
        *describeNext(outputs),
    ]


def describeNext(outputs: Outputs) -> list[str]:
    """Give the command that comes next."""
    files = {"--modelFile": outputs.modelFile, "--weightFile": outputs.weightFileDice}
    words = [word for flag, file in files.items() for word in (flag, str(relativePath(file)))]
    return [
        "The next command predicts test-file; with --nameInput another volume.",
        f"Next: {joinWords(['python3', 'predictData.py', *words])}",
    ]
