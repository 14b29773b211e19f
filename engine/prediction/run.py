"""From what is asked for to what is done: how a volume is cut, and what is there of its result already."""

import contextlib
import math
import shutil
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from engine.base.console import Stopwatch, describeDuration, describeShape, relativePath
from engine.base.errors import PipelineError
from engine.base.records import (
    commandLine,
    digestFile,
    listDifferences,
    packageVersions,
    readJson,
    stampOf,
    writeJson,
)
from engine.network.devices import SAME_TO_ROUNDING
from engine.prediction.backends import Backend, availableMemory, baseMemory, openStream
from engine.prediction.job import Job
from engine.prediction.journal import Journal
from engine.prediction.layout import GIB, Geometry, Layout, chooseLayout, tileSection, workFactor
from engine.prediction.stream import Step
from engine.prediction.tasks import Task, leaveOut, listTasks
from engine.prediction.tiles import Stream, timeSlab
from engine.volumes.frame import compareSizes, describeSize, sizeOfVoxel
from engine.volumes.growing import partialName
from engine.volumes.nrrdGeometry import voxelSizeOf
from engine.volumes.scale import Scale
from engine.volumes.volume import Volume

MANY_SLABS = 100  # from which on timing two of them in advance is worth it
ORIGIN = ("engine", "precision", "device", "devices", "predicted", "greys")


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

    @classmethod
    def parameters(cls) -> tuple[str, ...]:
        """Name the fields that are parameters of the script."""
        return cls._fields[cls._fields.index("nameOutput") :]

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels of the region along x, y, z."""
        return tuple(stop - start for start, stop in self.region)


class Run(NamedTuple):
    """What is decided before the first voxel is read."""

    request: Request
    backend: Backend
    geometry: Geometry
    layout: Layout | None  # None: nothing has to be predicted
    steps: list[Step]
    record: dict[str, Any]  # what an unfinished result follows from: identity, layout, devices
    isGoingOn: bool  # with an unfinished one
    digests: dict[Path, str]
    differences: list[str]  # from an earlier result under the same name, finished or not
    origin: dict[str, Any]  # what the probability was made with, now or by an earlier run
    isFinished: bool  # by an earlier run

    def makeJob(self, scale: Scale) -> Job:
        """Make the job that is left to do."""
        request = self.request
        files = request.volume.path, request.modelFile, request.weightFile, request.nameOutput
        volume, model, weights, output = (str(path.resolve()) for path in files)
        cut = request.region, scale, self.geometry, self.layout
        return Job(volume, *cut, model, weights, self.backend.engine, self.backend.precision, output)

    def missing(self) -> list[Task]:
        """List what no earlier run has predicted."""
        finished = Journal(self.request.nameOutput).finished() if self.isGoingOn else ()
        return leaveOut(listTasks(self.geometry, self.layout), finished)

    def note(self, greys: dict[str, Any]) -> "Run":
        """Give the same run with what is known of the grey values."""
        return self._replace(origin=self.origin | {"greys": greys})

    @property
    def madeBy(self) -> str:
        """Device and precision of the probability, in words."""
        return f"{self.origin['device']}, {self.origin['precision']}"

    @property
    def tileCount(self) -> int:
        """Tiles across a plane."""
        return self.layout.rowTiles * self.layout.columnTiles

    @property
    def slabCount(self) -> float:
        """Slabs of all tiles."""
        return self.tileCount * self.geometry.shape[0] / self.layout.slab

    @property
    def isLong(self) -> bool:
        """Whether a user wants to know in advance how long it takes."""
        return self.slabCount >= MANY_SLABS


def refuseNegative(memoryBudget: float, minimumVoxels: int) -> None:
    """Refuse numbers below 0."""
    if not memoryBudget >= 0:
        raise PipelineError("memoryBudget must not be below 0 GiB", received=memoryBudget)
    if minimumVoxels < 0:
        raise PipelineError("minimumVoxels must not be negative", received=minimumVoxels)


# -------------------------------------------------------------------------------------------- what is decided


def prepareRun(
    request: Request, backend: Backend, geometry: Geometry, steps: list[Step], isDry: bool = False
) -> Run:
    """Decide how the volume is cut, or go on as an interrupted run did; a dry one looks at no earlier one."""
    digests = {} if isDry else digestInputs(request)
    identity = describeIdentity(request, backend, digests)
    finished, record, differences = None, None, []
    if not isDry:
        finished, differences = readFinished(request, identity)
        if not finished:
            record, unfinished = Journal(request.nameOutput).read(identity)
            differences = unfinished or differences
    layout = Layout(*record["layout"]) if record else None
    if layout and 0 < request.memoryBudget < layout.memory:
        differences = [f"it took {layout.memory:.2f} GiB, more than memoryBudget now"]
        record = layout = None
    if not (layout or finished):
        budget = request.memoryBudget or availableMemory(backend)
        layout = chooseLayout(geometry, steps, backend.byteCount, budget, baseMemory(backend))
    earlier = [device for device in (record or {}).get("devices", ()) if device != backend.device]
    devices = [*earlier, backend.device]
    origin = {name: finished.get(name) for name in ORIGIN} if finished else describeOrigin(backend, devices)
    identity = finished["identity"] if finished else identity
    noted = {"identity": identity, "layout": list(layout or ()), "devices": devices}
    isGoingOn, isFinished = record is not None, finished is not None
    decided = backend, geometry, layout, steps
    return Run(request, *decided, noted, isGoingOn, digests, differences, origin, isFinished)


def digestInputs(request: Request) -> dict[Path, str]:
    """Give the digest of every file that the probability follows from."""
    return {path: digestFile(path) for path in sorted(set(_namedInputs(request).values()))}


def _namedInputs(request: Request) -> dict[str, Path]:
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
    if request.voxelSize:
        frame = request.volume.frame  # the result's header tells it
        identity["voxelSize"] = " ".join([*(f"{side:g}" for side in frame.sides), frame.unit])
    if digests:
        identity |= {name: digests[path] for name, path in _namedInputs(request).items()}
    return identity


def describeOrigin(backend: Backend, devices: list[str]) -> dict[str, Any]:
    """Describe what a probability is made with; `devices` are all that had a part in it."""
    predicted = {"date": time.strftime("%Y-%m-%d %H:%M"), "versions": packageVersions()}
    values = backend.engine, backend.precision, backend.device, devices, predicted, None
    return dict(zip(ORIGIN, values, strict=True))


def readFinished(request: Request, identity: dict[str, Any]) -> tuple[dict | None, list[str]]:
    """Read the record of a finished probability of the same input, model and parameters.

    Returns
    -------
    record : dict or None
        None where it has to be computed.
    differences : list of str
        What is not as in a finished one.
    """
    output = request.nameOutput
    try:
        record = readJson(output.with_suffix(".json")) or {}
    except PipelineError:
        return None, []
    if not (output.is_file() and isinstance(record.get("identity"), dict)):
        return None, []
    free = {name for name in ("engine", "precision") if getattr(request, name) == "auto"}
    differences = listDifferences(record["identity"], identity, free)
    if not differences and record.get("result") != stampOf(output):
        differences = [f"{output.name} was changed since it was written"]
    return (None, differences) if differences else (record, [])


# -------------------------------------------------------------------------------------------- what is said


def describeRequest(request: Request) -> list[str]:
    """Tell what is read, and which part of it."""
    volume = request.volume
    size = voxelSizeOf(volume) or ((), ())
    sides = [f"{side:g} {unit}".strip() for side, unit in zip(*size, strict=True)]
    voxel = f", voxel {' x '.join(sides)}" if sides else ""
    ranges = (f"{axis} {start}:{stop}" for axis, (start, stop) in zip("xyz", request.region, strict=True))
    shape = describeShape(volume.shape)
    lines = [f"Input: {volume.path.name} {shape} {volume.dtype.name}{voxel}", f"Region: {' '.join(ranges)}"]
    return [*lines, *_doubtVoxelSize(sizeOfVoxel(volume.frame), request.learnt.get("voxelSizes", []))]


def _doubtVoxelSize(size: list | None, learnt: list[list]) -> list[str]:
    """Tell where the voxels of a scan have another size than all of the training."""
    if not (size and learnt) or not all(compareSizes(known, size) for known in learnt):
        return []
    ratios = np.array(learnt[0][:3]) / np.array(size[:3])
    ratio = ratios[np.abs(np.log(ratios)).argmax()]  # along the axis where they differ most
    look = f"{ratio:.3g} times as large" if ratio > 1 else f"{1 / ratio:.3g} times as small"
    sizes = f"a voxel of the scan is {describeSize(size)}, of the training {describeSize(learnt[0])}"
    remedy = "resample the scan, or train with scans of this size"
    return [f"Note: {sizes}: particles look {look} to the network, in voxels; {remedy}"]


def describeRun(run: Run) -> list[str]:
    """Tell how the volume is cut, and what is there of it already."""
    request, layout = run.request, run.layout
    lines = []
    if min(request.shape) < run.geometry.cell:
        thin = f"{describeShape(request.shape)} voxels are fewer than {run.geometry.cell} along a side"
        lines.append(f"Warning: {thin}; the missing ones are mirrored (is this really a volume?)")
    if run.isFinished:
        name = request.nameOutput.name
        return [*lines, f"Probability: {name} is finished; delete it to have it computed again"]
    work = workFactor(run.geometry, layout)
    cut = f"{run.tileCount} tiles ({work:.2f} times the work)" if run.tileCount > 1 else "one tile"
    lines.append(f"Stream: {layout.slab} planes at a time, {cut}, {layout.memory:.2f} GiB of memory")
    if run.differences:
        lines.append(f"An earlier result is begun anew: {'; '.join(run.differences)}")
    left = run.missing()
    if left != listTasks(run.geometry, layout):
        place = f"tile {left[0].tile + 1}, plane {left[0].planes[0]}" if left else "all is predicted"
        lines.append(f"Going on with an unfinished result: {place}")
        if len(run.record["devices"]) > 1:
            devices = ", ".join(run.record["devices"][:-1])
            lines.append(f"Predicted so far by {devices}: {SAME_TO_ROUNDING}")
    return lines


def openNetwork(run: Run) -> Stream:
    """Build the network on its back end, for the tiles of a run."""
    return openStream(run.backend, run.steps, run.layout.slab, tileSection(run.geometry, run.layout))


def estimateDuration(stream: Stream, run: Run) -> str:
    """Tell how long the prediction would take, from one timed slab."""
    seconds = timeSlab(stream, tileSection(run.geometry, run.layout))
    duration, depth = run.slabCount * seconds, run.geometry.size[0]
    left = sum(last - first for _, (first, last) in run.missing()) / (run.tileCount * depth)
    speed = f"{math.prod(run.geometry.size) / 1e6 / duration:.2f} Mvoxel/s"
    return f"Estimate: {describeDuration(duration * left)} at {speed} (one slab: {seconds:.3f} s)"


def checkDisk(run: Run, copyBytes: int) -> list[str]:
    """Tell what the results take on the disk; refuse a disk that is too full, before any work.

    Parameters
    ----------
    run : Run
        What is done.
    copyBytes : int
        Bytes a voxel of copies that are not compressed; NRRD masks and labels are, to a few hundredths.
    """
    request, voxelCount = run.request, math.prod(run.geometry.size)
    byteCount = 0 if run.isFinished else voxelCount * np.dtype(request.outputType).itemsize
    scratch, copies = byteCount if request.outputEncoding == "gzip" else 0, voxelCount * copyBytes
    free = shutil.disk_usage(request.nameOutput.parent).free
    if run.isFinished and not copies:
        return []
    sizes = f"Result: {byteCount / GIB:.3f} GiB"
    sizes += ", as much for a while before it is gzip" if scratch else ""
    sizes += f", at most {copies / GIB:.3f} GiB as TIFF" if copies else ""
    needed = byteCount + scratch + copies
    with contextlib.suppress(OSError, AttributeError):  # none there; Windows
        held = partialName(request.nameOutput).stat().st_blocks * 512  # goes on, or is written over
        needed -= min(held, byteCount)
    if needed > free:
        expected, received = f"{needed / GIB:.2f} GiB", f"{free / GIB:.2f} GiB"
        rule = "too little disk for the result"
        raise PipelineError(rule, file=request.nameOutput, expected=expected, received=received)
    return [f"{sizes}; {free / GIB:.1f} GiB of the disk are free"]


# -------------------------------------------------------------------------------------------- what is noted


def describeInputs(run: Run) -> dict[str, Any]:
    """Describe what the particles follow from."""
    return {
        "region": [list(axis) for axis in run.request.region],
        "inputShape": list(run.request.volume.shape),
        "inputs": nameDigests(run.digests),
    }


def nameDigests(digests: dict[Path, str]) -> dict[str, str]:
    """Give digests under the names of their files, as records hold them."""
    return {str(relativePath(path)): digest for path, digest in digests.items()}


def recordRun(
    run: Run,
    settings: dict[str, Any],
    threshold: float,
    seconds: dict[str, float],
    scores: dict | None = None,
) -> Path:
    """Write the record of what went into the result; gives its path."""
    request = run.request
    content = {
        "command": commandLine(),
        "parameters": settings,
        "region": [list(axis) for axis in request.region],
        "normalization": request.normalization,
        **run.origin,
        "threshold": threshold,
        "scores": scores,
        "versions": packageVersions(),
        "inputs": nameDigests(run.digests),
        "identity": run.record["identity"],
        "result": stampOf(request.nameOutput),
        "seconds": seconds,
    }
    record = request.nameOutput.with_suffix(".json")
    writeJson(record, content)
    return record


def describeEnd(request: Request, clock: Stopwatch) -> str:
    """Tell what was done in which time."""
    total, network = sum(clock.seconds.values()), clock.seconds.get("prediction", 0)
    voxels = f"{math.prod(request.shape) / 1e6:.1f} Mvoxel"
    done = f"{network:.1f} s of it for the network" if network else "the network had nothing to do"
    return f"Predicted {voxels} in {total:.1f} s, {done}. Written:"
