"""The probability that is asked for, and the files that it follows from."""

from pathlib import Path
from typing import Any, NamedTuple

from engine.base.errors import PipelineError
from engine.base.records import digestFile
from engine.base.workers import refuseNegativeCount
from engine.prediction.backends import Backend
from engine.volumes.volume import Volume


class Request(NamedTuple):
    """The probability that is asked for, once it has been checked."""

    volume: Volume
    region: tuple[tuple[int, int], ...]  # half-open ranges along x, y, z
    normalization: str  # region or volume: whose mean and standard deviation
    modelFile: Path
    weightFile: Path  # may be the model file
    learnt: dict[str, Any]  # grey values of the training, of its contract
    otherFiles: tuple[Path, ...]  # of another scan whose moments count
    nameOutput: Path
    outputType: str
    outputEncoding: str
    engine: str  # as asked for: auto fits any
    precision: str
    memoryBudget: float  # GiB; 0: by what is free
    voxelSize: str = ""  # as asked for; empty: that of the file
    moments: str = "robust"  # or plain
    momentsOf: str = ""  # another scan or "mean,std"; empty: its own
    noData: str = "auto"  # none, or a number
    suggest: int = 0  # boxes of it that are to be labelled next

    @classmethod
    def parameters(cls) -> tuple[str, ...]:
        """Name the fields that are parameters of the script."""
        return cls._fields[cls._fields.index("nameOutput") :]

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels of the region along x, y, z."""
        return tuple(stop - start for start, stop in self.region)


def refuseContradictions(asked: Any) -> None:
    """Refuse parameters of predictData.py that exclude one another."""
    if asked.scheduler and (asked.part or asked.slurm):
        alone = "--part" if asked.part else "--slurm"
        raise PipelineError(f"{alone} and --scheduler exclude one another", remedy=f"leave out {alone}")
    if asked.mhd and asked.outputEncoding != "raw":
        rule = "an .mhd can only point to raw voxels"
        remedy = "leave out --mhd, or take --outputEncoding raw"
        raise PipelineError(rule, received=f"outputEncoding {asked.outputEncoding}", remedy=remedy)


def refuseNegative(memoryBudget: float, minimumVoxels: int, workerCount: int) -> None:
    """Refuse numbers below 0."""
    if not memoryBudget >= 0:
        raise PipelineError("memoryBudget must not be below 0 GiB", received=memoryBudget)
    if minimumVoxels < 0:
        raise PipelineError("minimumVoxels must not be negative", received=minimumVoxels)
    refuseNegativeCount(workerCount)


def digestInputs(request: Request) -> dict[Path, str]:
    """Give the digest of every file that the probability follows from."""
    return {path: digestFile(path) for path in sorted(set(nameInputs(request).values()))}


def nameInputs(request: Request) -> dict[str, Path]:
    """Name the files that the probability follows from."""
    volume, files = request.volume, request.volume.files
    named = {"nameInput": volume.path, "modelFile": request.modelFile, "weightFile": request.weightFile}
    if volume.path.is_dir():
        del named["nameInput"]
    voxels = files[1:] if len(files) > 1 and files[0] == volume.path else files
    named |= {f"data file {number}": path for number, path in enumerate(voxels, 1)}
    return named | {f"momentsOf file {number}": path for number, path in enumerate(request.otherFiles, 1)}


def describeIdentity(request: Request, backend: Backend, digests: dict[Path, str]) -> dict[str, Any]:
    """Describe everything that a probability follows from; equal descriptions mean equal voxels."""
    identity = {
        "outputType": request.outputType,
        "outputEncoding": request.outputEncoding,
        "region": [list(axis) for axis in request.region],
        "normalization": request.normalization,
        **{name: getattr(request, name) for name in ("moments", "momentsOf", "noData")},
        "engine": backend.engine,
        "precision": backend.precision,
    }
    if request.volume.inner:
        identity["inner"] = request.volume.inner  # of the file whose digest follows
    if request.voxelSize:
        frame = request.volume.frame  # the result's header tells it
        identity["voxelSize"] = " ".join([*(f"{side:g}" for side in frame.sides), frame.unit])
    if digests:
        identity |= {name: digests[path] for name, path in nameInputs(request).items()}
    return identity
