"""What a user is told of a prediction, before and after it."""

import contextlib
import math
import shutil

import numpy as np

from engine.base.console import Stopwatch, describeDuration, describeShape
from engine.base.errors import PipelineError
from engine.formats.growing import partialName
from engine.formats.nrrdGeometry import voxelSizeOf
from engine.network.devices import SAME_TO_ROUNDING
from engine.prediction.journal import SHARED, Journal
from engine.prediction.layout import GIB, tileSection, workFactor
from engine.prediction.parts import cutParts, describeCut, measureTask
from engine.prediction.request import Request
from engine.prediction.run import Run
from engine.prediction.tasks import Task, leaveOut
from engine.prediction.tiles import Stream, timeSlab
from engine.volumes.frame import compareSizes, describeSize, sizeOfVoxel
from engine.volumes.names import shortName

MANY = 8  # parts that are named one by one


def describeRequest(request: Request) -> list[str]:
    """Tell what is read, and which part of it."""
    volume = request.volume
    size = voxelSizeOf(volume) or ((), ())
    sides = [f"{side:g} {unit}".strip() for side, unit in zip(*size, strict=True)]
    voxel = f", voxel {' x '.join(sides)}" if sides else ""
    ranges = (f"{axis} {start}:{stop}" for axis, (start, stop) in zip("xyz", request.region, strict=True))
    shape = describeShape(volume.shape)
    lines = [f"Input: {shortName(volume)} {shape} {volume.dtype.name}{voxel}", f"Region: {' '.join(ranges)}"]
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
    if run.sharing and (count := run.partCount):
        lines.append(f"Cut: {describeCut(run.geometry, layout, count)}")
    part = run.sharing and run.sharing.part
    left = run.missing()
    if part:
        done = "" if left else ", predicted already"
        lines.append(f"Part {part}: {_describeTasks(run.tasks, run.tileCount)}{done}")
    elif left != run.tasks:
        place = f"tile {left[0].tile + 1}, plane {left[0].planes[0]}" if left else "all is predicted"
        lines.append(f"Going on with an unfinished result: {place}")
    devices = [device for device in run.origin["devices"] if device != run.backend.device]
    if devices and left != run.tasks:
        lines.append(f"Predicted so far by {', '.join(devices)}: {SAME_TO_ROUNDING}")
    return lines


def _describeTasks(tasks: list[Task], tileCount: int) -> str:
    """Tell which voxels tasks are of."""
    planes = (f"planes {task.planes[0]}:{task.planes[1]}" for task in tasks)
    tiles = (f" of tile {task.tile + 1}" if tileCount > 1 else "" for task in tasks)
    return ", ".join(map("".join, zip(planes, tiles, strict=True)))


def describeParts(run: Run) -> list[str]:
    """Tell how many parts of a result are predicted, and what comes next."""
    count = run.record[SHARED]
    finished = Journal(run.request.nameOutput).finished()
    parts = cutParts(run.geometry, run.layout, count)
    left = [number for number, tasks in enumerate(parts) if leaveOut(tasks, finished)]
    done = f"{count - len(left)} of {count} parts are predicted"
    if not left:
        return [f"{done}: the same command without --part makes the results"]
    names = ", ".join(map(str, left[:MANY])) + (" ..." if len(left) > MANY else "")
    return [f"{done}; without {names} of them yet"]


def estimateDuration(stream: Stream, run: Run) -> str:
    """Tell how long the prediction would take, from one timed slab."""
    seconds = timeSlab(stream, tileSection(run.geometry, run.layout))
    height, width = tileSection(run.geometry, run.layout)
    work = sum(measureTask(run.geometry, run.layout, task) for task in run.missing())
    duration = work / (run.layout.slab * height * width) * seconds
    speed = f"{math.prod(run.geometry.size) / 1e6 / run.slabCount / seconds:.2f} Mvoxel/s"
    return f"Estimate: {describeDuration(duration)} at {speed} (one slab: {seconds:.3f} s)"


def checkDisk(run: Run, copyBytes: int, copyFormat: str) -> list[str]:
    """Tell what the results take on the disk; refuse a disk that is too full, before any work.

    Parameters
    ----------
    run : Run
        What is done.
    copyBytes : int
        Bytes a voxel of copies that are not compressed; NRRD masks and labels are, to a few hundredths.
    copyFormat : str
        Of these.
    """
    request, voxelCount = run.request, math.prod(run.geometry.size)
    byteCount = 0 if run.isFinished else voxelCount * np.dtype(request.outputType).itemsize
    scratch, copies = byteCount if request.outputEncoding == "gzip" else 0, voxelCount * copyBytes
    free = shutil.disk_usage(request.nameOutput.parent).free
    if run.isFinished and not copies:
        return []
    sizes = f"Result: {byteCount / GIB:.3f} GiB"
    sizes += ", as much for a while before it is gzip" if scratch else ""
    sizes += f", at most {copies / GIB:.3f} GiB as {copyFormat}" if copies else ""
    needed = byteCount + scratch + copies
    with contextlib.suppress(OSError, AttributeError):  # none there; Windows
        held = partialName(request.nameOutput).stat().st_blocks * 512  # goes on, or is written over
        needed -= min(held, byteCount)
    if needed > free:
        expected, received = f"{needed / GIB:.2f} GiB", f"{free / GIB:.2f} GiB"
        rule = "too little disk for the result"
        raise PipelineError(rule, file=request.nameOutput, expected=expected, received=received)
    return [f"{sizes}; {free / GIB:.1f} GiB of the disk are free"]


def describeEnd(request: Request, clock: Stopwatch) -> str:
    """Tell what was done in which time."""
    total, network = sum(clock.seconds.values()), clock.seconds.get("prediction", 0)
    voxels = f"{math.prod(request.shape) / 1e6:.1f} Mvoxel"
    done = f"{network:.1f} s of it for the network" if network else "the network had nothing to do"
    return f"Predicted {voxels} in {total:.1f} s, {done}. Written:"
