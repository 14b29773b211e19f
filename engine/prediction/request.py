"""The probability that is asked for, and the files that it follows from."""

from pathlib import Path
from typing import Any, NamedTuple

from engine.base.console import relativePath
from engine.base.errors import PipelineError
from engine.base.records import digestFile, digestFiles
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


def digestInputs(request: Request) -> dict[str, str]:
    """Give the digest of everything that the probability follows from, by the names of `nameInputs`."""
    named, folder = nameInputs(request), request.volume.path
    known = {
        paths: digestFile(*paths) if len(paths) == 1 else digestFiles(paths, folder)
        for paths in sorted(set(named.values()))
    }
    return {name: known[paths] for name, paths in named.items()}


def nameInputs(request: Request) -> dict[str, tuple[Path, ...]]:
    """Name the files that the probability follows from; those of a folder, which can be many, are one."""
    volume, files = request.volume, request.volume.files
    voxels = files[1:] if len(files) > 1 and files[0] == volume.path else files
    if volume.path.is_dir():
        named = {"nameInput": tuple(files)}
    else:
        named = {"nameInput": (volume.path,)}
        named |= {f"data file {number}": (path,) for number, path in enumerate(voxels, 1)}
    named |= {"modelFile": (request.modelFile,), "weightFile": (request.weightFile,)}
    return named | {f"momentsOf file {number}": (path,) for number, path in enumerate(request.otherFiles, 1)}


def showInputs(request: Request) -> dict[str, str]:
    """Give the paths, as a user reads them, of what `nameInputs` names."""
    shown = {name: paths[0] for name, paths in nameInputs(request).items()}
    return {
        name: str(relativePath(path)) for name, path in (shown | {"nameInput": request.volume.path}).items()
    }


def describeIdentity(request: Request, backend: Backend, digests: dict[str, str]) -> dict[str, Any]:
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
    return identity | digests
