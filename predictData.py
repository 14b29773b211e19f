"""Predict the probability of precipitate or pore for every voxel of a volume or a region of it.

In:  one grey-value volume (.nrrd or .nhdr) and a trained model (.h5, .keras or .weights.h5 of Keras 2 or 3).
Out: the probability as float32 NRRD with the geometry of the input; from it a mask, a segmentation for 3D
     Slicer, labelled particles, their table and a summary, a report for the browser, a picture; scores where
     there is a manual mask; a record (.json) of what went into it all.

    python3 predictData.py
"""

import argparse
import contextlib
import itertools
import math
import os
import shutil
import sys
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from engine.base.arrays import countNonFinite, mergeMoments
from engine.base.console import (
    Stopwatch,
    describeDuration,
    describeShape,
    relativePath,
    runScript,
    showProgress,
)
from engine.base.errors import PipelineError
from engine.base.files import lockName
from engine.base.machine import preferInstructions
from engine.base.parameters import describeSettings, plainSettings, readParameters
from engine.base.records import commandLine, digestFile, listDifferences, packageVersions, readJson, writeJson
from engine.network.contracts import chooseScope, chooseThreshold, describeNormalization, findContract
from engine.network.devices import SAME_TO_ROUNDING
from engine.network.plan import haloOf, sideMultiple
from engine.prediction.backends import Backend, availableMemory, baseMemory, chooseBackend, openStream
from engine.prediction.layout import Geometry, Layout, chooseLayout, tileSection, workFactor
from engine.prediction.stream import Step, describeStream
from engine.prediction.tiles import Stream, timeSlab
from engine.results.looks import MidSlices
from engine.results.pictures import drawPrediction
from engine.volumes.frame import requireSamePlace
from engine.volumes.growing import decodeProbability, describeScale, openPartial, partialName, readJournal
from engine.volumes.nrrdData import NrrdVolume
from engine.volumes.nrrdFiles import openVolume
from engine.volumes.nrrdGeometry import cropHeader, voxelSize
from engine.volumes.volume import checkRegion
from functions import (
    dropVoxels,
    parseLabels,
    predictProbability,
    readModel,
    scoreBlocks,
    selectPositive,
)

FOLDER = Path(__file__).resolve().parent
MANY_SLABS = 100  # from which on timing two of them in advance is worth it
SLAB = 16  # planes read at a time, fewer where they are large
SLAB_VOXELS = 1 << 22  # of these, fewer where memoryBudget is below 1 GiB

# ------------------------------------------------------------------------------------------------ parameters
# data
nameInput: Path = Path("test-file/test-file_data.nrrd")  # volume to segment
x1: int | None = None  # first voxel of the region of interest along x; without it 0
x2: int | None = None  # voxel after its last one; without it the end of the volume
y1: int | None = None  # the same along y
y2: int | None = None  # the same along y
z1: int | None = None  # the same along z
z2: int | None = None  # the same along z
nameReference: Path | None = None  # its manual mask; without it *_mask.nrrd beside it; none = no scores
positiveLabel: str = ""  # value or values (with commas) of the reference; empty: as in the training
normalization: Literal["", "region", "volume"] = ""  # z-score over; empty: the volume where the training did
# network
modelFile: Path = Path("modelAndWeights/final-uNet_model.h5")  # depth and width of the network
weightFile: Path = Path("modelAndWeights/final-trained-weights.h5")  # used unless --modelFile stands alone
# results
nameOutput: Path | None = None  # without it beside the input, e.g. test-file/test-file_segmented.nrrd
threshold: float | None = None  # probability from which on a voxel is positive; without it the best one known
connectivity: Literal[6, 18, 26] = 26  # of the voxels of a particle: by faces, edges or corners
minimumVoxels: int = 1  # smaller particles are left out of all results but the probability
mask: bool = True  # write ..._mask.nrrd: 0 = positive, 255 = the rest, as the masks of a training
segmentation: bool = True  # write ..._mask.seg.nrrd, which 3D Slicer opens as a segmentation
labels: bool = True  # write ..._labels.nrrd: the number of its particle for every voxel
particles: bool = True  # write ..._particles.csv and ..._summary.json
scores: bool = True  # write ..._scores.json and ..._errors.csv, where there is a reference
report: bool = True  # write ..._report.html, a page with slices, particles and curves
overview: bool = True  # write ..._overview.png, three mid-slices
outputFormat: Literal["nrrd", "tiff"] = "nrrd"  # of mask and labels; tiff: for ImageJ, with the probability
outputType: Literal["float32", "uint8", "uint16"] = "float32"  # of the probability; or integers
outputEncoding: Literal["raw", "gzip"] = "raw"  # of the probability
# machine
engine: str = "auto"  # auto, openvino (CPU) or keras (GPU, or CPU without OpenVINO)
precision: str = "auto"  # of the network: auto, float32, bfloat16 or float16
memoryBudget: float = 0.0  # GiB that the whole process may take; 0 = half of the free memory, at most 8
dryRun: bool = False  # only say what would be done, and how long it would take
# ------------------------------------------------------------------------------------------------------------


Looks = tuple[MidSlices, Any]  # of the grey values: mid-slices, and the preview of a report or None


class Request(NamedTuple):
    """What is asked for, once it has been checked."""

    volume: NrrdVolume
    region: tuple  # half-open ranges along x, y, z
    reference: NrrdVolume | None
    labels: list[int]  # positive ones of the reference
    threshold: float
    normalization: str  # region or volume: whose mean and standard deviation

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels of the region along x, y, z."""
        return tuple(stop - start for start, stop in self.region)


class Run(NamedTuple):
    """What is decided before the first voxel is read."""

    backend: Backend
    geometry: Geometry
    layout: Layout | None  # None: nothing has to be predicted
    steps: list[Step]
    journal: dict[str, Any]
    digests: dict[Path, str]
    differences: list[str]  # from an earlier result under the same name, finished or not
    origin: dict[str, Any]  # what the probability was made with, now or by an earlier run
    isFinished: bool  # by an earlier run


def parseArguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line: one flag a constant, spelled like it."""
    arguments = readParameters(sys.modules[__name__], argv)
    if "modelFile" in arguments.given and "weightFile" not in arguments.given:
        arguments.weightFile = None
    return completeArguments(arguments)


def completeArguments(arguments: argparse.Namespace) -> argparse.Namespace:
    """Fill in the names that follow from others."""
    if not arguments.nameInput.name:
        raise PipelineError("nameInput names no file", received=repr(str(arguments.nameInput)))
    stem = arguments.nameInput.stem.removesuffix("_data")
    if arguments.nameOutput is None:
        arguments.nameOutput = arguments.nameInput.with_name(f"{stem}_segmented.nrrd")
    if arguments.nameReference is None:
        beside = manualMask(arguments)
        arguments.nameReference = beside if beside.is_file() else Path("none")
    return arguments


def manualMask(arguments: argparse.Namespace) -> Path:
    """Name the manual mask that belongs to the input, whether there is one or not."""
    return arguments.nameInput.with_name(f"{arguments.nameInput.stem.removesuffix('_data')}_mask.nrrd")


def main(arguments: argparse.Namespace) -> None:
    """Check everything, predict, write, score, draw."""
    clock = Stopwatch()
    volume = openVolume(arguments.nameInput)
    limits = [(getattr(arguments, f"{axis}1"), getattr(arguments, f"{axis}2")) for axis in "xyz"]
    region = checkRegion(volume, tuple(limits))
    checkOutput(arguments, volume)
    reference = openReference(arguments, volume)
    plan, weights = readModel(arguments.modelFile, arguments.weightFile)
    contract = findContract(arguments.weightFile or arguments.modelFile)
    limit, why = chooseThreshold(arguments.threshold, contract, arguments.weightFile or arguments.modelFile)
    labels = parseLabels(arguments.positiveLabel or (contract and contract.positiveLabel) or [0])
    scope = chooseScope(arguments.normalization, contract, volume.shape, region)
    request = Request(volume, region, reference, labels, limit, scope)
    geometry = Geometry(request.shape[::-1], sideMultiple(plan), haloOf(plan))
    preferInstructions(arguments.engine, arguments.precision)
    backend = chooseBackend(arguments.engine, arguments.precision)
    clock.lap("opening")
    lock = lockName(arguments.nameOutput, "another process is writing this result")
    with contextlib.nullcontext() if arguments.dryRun else lock:
        run = prepareRun(arguments, request, backend, geometry, describeStream(plan, weights))
        clock.lap("digests")
        printStart(arguments, request, contract, run)
        print(f"Threshold: {limit:g}, {why}")
        checkDisk(arguments, run)
        work(arguments, request, run, clock)


def work(arguments: argparse.Namespace, request: Request, run: Run, clock: Stopwatch) -> None:
    """Predict what is not predicted yet, and go on to the results."""
    if run.isFinished:
        looks = openLooks(arguments, request)
        if arguments.report or arguments.overview:
            deque(listPlanes(arguments, request, looks), 0)
        clock.lap("statistics")
    else:
        section = tileSection(run.geometry, run.layout)
        stream = openStream(run.backend, run.steps, run.layout.slab, section)
        if arguments.dryRun or countSlabs(run) >= MANY_SLABS:
            printEstimate(stream, run)
        if arguments.dryRun:
            return
        clock.lap("building the network")
        looks = predictRegion(arguments, request, run, stream, clock)
        del stream
        noteRun(arguments, request, run, clock)
    written, counts = goOn(arguments, request, run, looks, clock)
    warnOutdated(arguments, written)
    record = noteRun(arguments, request, run, clock, counts)
    total, network = sum(clock.seconds.values()), clock.seconds.get("prediction", 0)
    voxels = f"{math.prod(request.shape) / 1e6:.1f} Mvoxel"
    done = f"{network:.1f} s of it for the network" if network else "the network had nothing to do"
    print(f"Predicted {voxels} in {total:.1f} s, {done}. Written:")
    for path in (arguments.nameOutput, *written, record):
        print(f"  {relativePath(path)}")


def predictRegion(
    arguments: argparse.Namespace, request: Request, run: Run, stream: Stream, clock: Stopwatch
) -> Looks:
    """Measure the region and predict it into the result; gives mid-slices and preview of its grey values."""
    looks, volume = openLooks(arguments, request), request.volume
    planes = listPlanes(arguments, request, looks)
    if request.normalization == "volume" and request.shape != volume.shape:
        if arguments.report or arguments.overview:
            deque(planes, 0)
        whole = tuple((0, side) for side in volume.shape)
        planes = listPlanes(arguments, request._replace(region=whole), ())
    moments = mergeMoments(countNonFinite(planes, volume.path))
    if moments[1] == 0:
        scope = request.normalization
        print(f"Warning: all voxels of the {scope} have the same grey value; it becomes zeros")
    clock.lap("statistics")
    header = cropHeader(volume.header, request.region, np.dtype(arguments.outputType))
    header |= describeScale(arguments.outputType)
    target = arguments.nameOutput, request.shape, arguments.outputType, header, run.journal
    with openPartial(*target, arguments.outputEncoding) as sink:
        predictProbability(volume, request.region, moments, run.geometry, run.layout, stream, sink)
    clock.lap("prediction")
    return looks


def goOn(
    arguments: argparse.Namespace, request: Request, run: Run, looks: Looks, clock: Stopwatch
) -> tuple[list[Path], dict | None]:
    """Go on from the probability to the results; gives their files and the voxel scores."""
    (grey, preview), limit, hasReference = looks, request.threshold, request.reference is not None
    paths = chooseResults(arguments, hasReference)
    if not (paths or hasReference):
        return [], None
    from engine.measures.analysis import Judged
    from engine.results import outcome  # loads SciPy
    from engine.volumes.nrrdGeometry import readFrame

    clock.lap("opening")
    tables = paths.keys() - {"overview"}  # the overview needs no particles
    isMeasured = bool(tables) or (hasReference and arguments.minimumVoxels > 1)
    header = cropHeader(request.volume.header, request.region, np.uint8)
    frame = readFrame(header)
    judged = Judged(request.shape, limit, arguments.connectivity, frame, hasReference, isMeasured)
    previews = openPreviews(request.shape, hasReference, preview)
    pairs = outcome.watchPairs(listPairs(arguments, request), judged, previews)
    counts = scoreBlocks(pairs, limit) if hasReference else None
    deque(pairs, 0)  # to their end, where nobody has looked at them
    clock.lap("reading back")
    if counts:
        warnOfLabels(counts, arguments, request)
    if isMeasured:
        measured = judged.finish(arguments.minimumVoxels)
        if counts:
            counts = dropVoxels(counts, measured.labels.droppedVoxels, measured.droppedTrue)
    if counts:
        printScores(counts, arguments, limit)
    if tables:
        header |= describeChoice(arguments, limit)
        blocks = (probability for probability, _ in listPairs(arguments, request._replace(reference=None)))
        outcome.writeVolumes(blocks, judged, measured, header, paths, previews)
        settings = describeChoice(arguments, limit) | describeInputs(request, run, bool(counts))
        results = outcome.writeTables(judged, measured, counts, paths, settings)
        if "report" in paths:
            device = f"{run.origin['device']}, {run.origin['precision']}"
            described = outcome.describePage(arguments, judged, device, settings)
            outcome.writePage(paths["report"], judged, measured, results, previews, described)
    clock.lap("particles")
    if "overview" in paths:
        size = voxelSize(request.volume.header)
        drawPrediction(grey, judged.slices, judged.referenceSlices, paths["overview"], size)
    clock.lap("picture")
    return list(paths.values()), counts


def warnOutdated(arguments: argparse.Namespace, written: list[Path]) -> None:
    """Name results of an earlier run that this one left as they are."""
    stem, endings = arguments.nameOutput.stem, [*RESULT_ENDINGS.values(), *TIFF_ENDINGS.values()]
    paths = (arguments.nameOutput.with_name(stem + ending) for ending in endings)
    outdated = {path.name for path in paths if path.exists()}
    outdated -= {path.name for path in written}
    if outdated:
        print(f"Of an earlier run, not of this one: {', '.join(sorted(outdated))}")


def describeChoice(arguments: argparse.Namespace, limit: float) -> dict[str, Any]:
    """Describe what decides which voxels are a particle."""
    return {
        "threshold": limit,
        "connectivity": arguments.connectivity,
        "minimumVoxels": arguments.minimumVoxels,
    }


def describeInputs(request: Request, run: Run, isScored: bool) -> dict[str, Any]:
    """Describe what the particles follow from, and what they are scored against."""
    described = {
        "region": [list(axis) for axis in request.region],
        "inputShape": list(request.volume.shape),
        "inputs": {str(relativePath(path)): digest for path, digest in run.digests.items()},
    }
    if isScored:
        paths = {request.reference.path, *request.reference.dataPaths}
        described["reference"] = {str(relativePath(path)): digestFile(path) for path in sorted(paths)}
        described["positiveLabel"] = request.labels
    return described | {"versions": packageVersions()}


def openLooks(arguments: argparse.Namespace, request: Request) -> Looks:
    """Prepare what is kept of the grey values: mid-slices and, for a report, a preview."""
    if not arguments.report:
        return MidSlices(request.shape), None
    from engine.results.looks import Preview, chooseFactor

    return MidSlices(request.shape), Preview(request.shape, chooseFactor(request.shape))


def checkOutput(arguments: argparse.Namespace, volume: NrrdVolume) -> None:
    """Refuse a result that could not be written, or that would replace an input, before any work."""
    folder = arguments.nameOutput.parent
    if not folder.is_dir():
        raise PipelineError("no such folder", file=folder, remedy="create it or choose another --nameOutput")
    if not os.access(folder, os.W_OK):
        remedy = "choose another --nameOutput"
        raise PipelineError("nothing can be written into this folder", file=folder, remedy=remedy)
    if arguments.nameOutput.suffix.lower() != ".nrrd":
        raise PipelineError("nameOutput must end with .nrrd", file=arguments.nameOutput)
    if arguments.nameOutput.is_dir():
        raise PipelineError("nameOutput is a folder", file=arguments.nameOutput)
    inputs = {name: getattr(arguments, name) for name in ("nameReference", "modelFile", "weightFile")}
    inputs |= {"nameInput": volume.path}
    inputs |= {f"the data file {path.name} of nameInput": path for path in volume.dataPaths}
    inputs |= {"the contract of modelFile": arguments.modelFile.with_suffix(".json")}
    inputs |= {"the manual mask of nameInput": manualMask(arguments)}  # even where there is none yet
    outputs = [arguments.nameOutput.with_suffix(".json"), *nameResults(arguments).values()]
    for written, (name, path) in itertools.product((arguments.nameOutput, *outputs), inputs.items()):
        if path and path.resolve() == written.resolve():
            raise PipelineError(f"nameOutput would replace {name}", file=written)
    if not arguments.memoryBudget >= 0:
        raise PipelineError("memoryBudget must not be below 0 GiB", received=arguments.memoryBudget)
    if arguments.outputFormat == "tiff":
        from engine.volumes.tiff import requireTifffile

        requireTifffile()
    if arguments.minimumVoxels < 0:
        raise PipelineError("minimumVoxels must not be negative", received=arguments.minimumVoxels)


def openReference(arguments: argparse.Namespace, volume: NrrdVolume) -> NrrdVolume | None:
    """Open the manual mask of the input, if there is one."""
    if str(arguments.nameReference) == "none":
        return None
    reference = openVolume(arguments.nameReference)
    remedy = "give it the geometry of its volume, or predict without it (--nameReference none)"
    requireSamePlace(volume, reference, remedy)
    return reference


def prepareRun(
    arguments: argparse.Namespace, request: Request, backend: Backend, geometry: Geometry, steps: list[Step]
) -> Run:
    """Decide how the volume is cut, or go on as an interrupted run did."""
    names = ("outputType", "outputEncoding")
    identity = {name: getattr(arguments, name) for name in names} | {
        "region": [list(axis) for axis in request.region],
        "normalization": request.normalization,
        "engine": backend.engine,
        "precision": backend.precision,
    }
    journal, differences, digests, finished, layout = None, [], {}, None, None
    if not arguments.dryRun:
        weightFile = arguments.weightFile or arguments.modelFile
        inputs = {
            "nameInput": request.volume.path,
            "modelFile": arguments.modelFile,
            "weightFile": weightFile,
        }
        inputs |= {f"data file {number}": path for number, path in enumerate(request.volume.dataPaths, 1)}
        digests = {path: digestFile(path) for path in sorted(set(inputs.values()))}
        identity |= {name: digests[path] for name, path in inputs.items()}
        finished, differences = readFinished(arguments, identity)
        if not finished:
            journal, unfinished = readJournal(arguments.nameOutput, identity)
            differences = unfinished or differences
    if journal:
        layout = Layout(*journal["layout"])
        if 0 < arguments.memoryBudget < layout.memory:
            journal, differences = None, [f"it took {layout.memory:.2f} GiB, more than memoryBudget now"]
    if not (journal or finished):
        budget = arguments.memoryBudget or availableMemory(backend)
        layout = chooseLayout(geometry, steps, backend.byteCount, budget, baseMemory(backend))
    if not journal:
        journal = {"identity": identity, "layout": list(layout or ()), "progress": {}}
    earlier = [device for device in journal.get("devices", ()) if device != backend.device]
    journal["devices"] = [*earlier, backend.device]
    origin = describeOrigin(backend, journal["devices"])
    if finished:
        origin = {name: finished.get(name) for name in ORIGIN}
    isFinished = finished is not None
    if finished:
        journal["identity"] = finished["identity"]
    return Run(backend, geometry, layout, steps, journal, digests, differences, origin, isFinished)


ORIGIN = ("engine", "precision", "device", "devices", "predicted")


def describeOrigin(backend: Backend, devices: list[str]) -> dict[str, Any]:
    """Describe what a probability is made with; `devices` are all that had a part in it."""
    predicted = {"date": time.strftime("%Y-%m-%d %H:%M"), "versions": packageVersions()}
    values = backend.engine, backend.precision, backend.device, devices, predicted
    return dict(zip(ORIGIN, values, strict=True))


def readFinished(arguments: argparse.Namespace, identity: dict[str, Any]) -> tuple[dict | None, list[str]]:
    """Read the record of a finished probability of the same input, model and parameters.

    Returns
    -------
    record : dict or None
        None where it has to be computed.
    differences : list of str
        What is not as in a finished one.
    """
    try:
        record = readJson(arguments.nameOutput.with_suffix(".json")) or {}
    except PipelineError:
        return None, []
    if not (arguments.nameOutput.is_file() and isinstance(record.get("identity"), dict)):
        return None, []
    free = {name for name in ("engine", "precision") if getattr(arguments, name) == "auto"}
    kept, wanted = (
        {name: value for name, value in part.items() if name not in free}
        for part in (record["identity"], identity)
    )
    differences = listDifferences(kept, wanted)
    if not differences and record.get("result") != stampOf(arguments.nameOutput):
        differences = [f"{arguments.nameOutput.name} was changed since it was written"]
    return (None, differences) if differences else (record, [])


def listPlanes(arguments: argparse.Namespace, request: Request, looks: Looks) -> Iterator[np.ndarray]:
    """List the planes of the region, and have those look at them that want to."""
    slab, z = slabOf(request.shape, arguments.memoryBudget), 0
    for block in watch(request.volume, request.region, slab, "Measuring"):  # (x, y, z)
        for look in filter(None, looks):
            look.add(z, block.T)
        yield from block.T
        z += block.shape[2]


def watch(volume: NrrdVolume, region: tuple | None, slab: int, words: str) -> Iterator[np.ndarray]:
    """Read a region slab by slab, with a progress bar if it takes a while."""
    depth = region[2][1] - region[2][0] if region else volume.shape[2]
    bar = {"desc": words, "total": math.ceil(depth / slab), "unit": "slab", "leave": False, "delay": 2}
    return showProgress(volume.slabs(region, slab), **bar)


def slabOf(shape: tuple[int, ...], memoryBudget: float) -> int:
    """Choose how many planes of a volume (x, y, z) are read at a time, so that memory stays small."""
    voxels = SLAB_VOXELS * min(memoryBudget or 1, 1)
    return min(SLAB, max(1, int(voxels / (shape[0] * shape[1]))))


def listPairs(
    arguments: argparse.Namespace, request: Request
) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """Read the written probability and, with a reference, where that is positive: (z, y, x)."""
    result, reference = openVolume(arguments.nameOutput), request.reference
    slab = slabOf(request.shape, arguments.memoryBudget)
    blocks = watch(result, None, slab, "Measuring particles")
    if not reference:
        yield from ((decodeProbability(block.T), None) for block in blocks)
        return
    for block, mask in zip(blocks, reference.slabs(request.region, slab), strict=True):  # both to their ends
        yield decodeProbability(block.T), selectPositive(mask.T, request.labels)


def openPreviews(shape: tuple[int, int, int], hasReference: bool, grey: Any) -> dict[str, Any]:
    """Prepare the small volumes of the report; none without that of the grey values."""
    from engine.results.looks import Preview

    if grey is None:
        return {}
    names = ("probability", "mask", "manual") if hasReference else ("probability", "mask")
    return {"grey": grey} | {name: Preview(shape, grey.factor) for name in names}


RESULT_ENDINGS = {
    "mask": "_mask.nrrd",
    "segmentation": "_mask.seg.nrrd",
    "labels": "_labels.nrrd",
    "particles": "_particles.csv",
    "summary": "_summary.json",
    "scores": "_scores.json",
    "errors": "_errors.csv",
    "report": "_report.html",
    "overview": "_overview.png",
}
SWITCHES = {"summary": "particles", "errors": "scores"}  # the other ones have a switch of their own
TIFF_BYTES = {"mask": 1, "labels": 4, "probability": 4}  # a voxel, at most
TIFF_ENDINGS = {"mask": "_mask.tif", "labels": "_labels.tif", "probability": "_probability.tif"}


def nameResults(arguments: argparse.Namespace) -> dict[str, Path]:
    """Name the files of the results."""
    result = arguments.nameOutput
    endings = RESULT_ENDINGS | (TIFF_ENDINGS if arguments.outputFormat == "tiff" else {})
    return {kind: result.with_name(result.stem + ending) for kind, ending in endings.items()}


def chooseResults(arguments: argparse.Namespace, hasReference: bool) -> dict[str, Path]:
    """Choose the files that are switched on and can be made."""
    switches = {kind: SWITCHES.get(kind, kind) for kind in nameResults(arguments)}
    wanted = {kind for kind, switch in switches.items() if getattr(arguments, switch, True)}
    if not hasReference:
        wanted -= {"scores", "errors"}
    return {kind: path for kind, path in nameResults(arguments).items() if kind in wanted}


def printStart(arguments: argparse.Namespace, request: Request, contract: dict | None, run: Run) -> None:
    """Print parameters, device, what is read, how it is normalised and how it is cut."""
    print(describeSettings(arguments))
    print(f"Device: {run.backend.device}, {run.backend.precision}")
    volume, shape, size = request.volume, request.shape, voxelSize(request.volume.header)
    sides = [] if size is None else [f"{side:g} {unit}".strip() for side, unit in zip(*size, strict=True)]
    voxel = f", voxel {' x '.join(sides)}" if sides else ""
    print(f"Input: {volume.path.name} {describeShape(volume.shape)} {volume.dtype.name}{voxel}")
    ranges = (f"{axis} {start}:{stop}" for axis, (start, stop) in zip("xyz", request.region, strict=True))
    print(f"Region: {' '.join(ranges)}")
    print(f"Normalisation: {describeNormalization(contract, request.normalization)}")
    if min(shape) < run.geometry.cell:
        thin = f"{describeShape(shape)} voxels are fewer than {run.geometry.cell} along a side"
        print(f"Warning: {thin}; the missing ones are mirrored (is this really a volume?)")
    if run.isFinished:
        print(f"Probability: {arguments.nameOutput.name} is finished; delete it to have it computed again")
        return
    tiles, work = run.layout.rowTiles * run.layout.columnTiles, workFactor(run.geometry, run.layout)
    cut = f"{tiles} tiles ({work:.2f} times the work)" if tiles > 1 else "one tile"
    print(f"Stream: {run.layout.slab} planes at a time, {cut}, {run.layout.memory:.2f} GiB of memory")
    if run.differences:
        print(f"An earlier result is begun anew: {'; '.join(run.differences)}")
    progress = run.journal["progress"]
    if progress:
        print(f"Going on with an unfinished result: tile {progress['tile'] + 1}, plane {progress['planes']}")
        if len(run.journal["devices"]) > 1:
            print(f"Predicted so far by {', '.join(run.journal['devices'][:-1])}: {SAME_TO_ROUNDING}")


def checkDisk(arguments: argparse.Namespace, run: Run) -> None:
    """Print what the results take on the disk; refuse a disk that is too full, before any work.

    NRRD masks and labels are compressed to a few hundredths of the probability: they are not counted.
    """
    voxelCount = math.prod(run.geometry.size)
    byteCount = 0 if run.isFinished else voxelCount * np.dtype(arguments.outputType).itemsize
    scratch = byteCount if arguments.outputEncoding == "gzip" else 0
    kinds = chooseResults(arguments, False) if arguments.outputFormat == "tiff" else ()
    copies = voxelCount * sum(TIFF_BYTES.get(kind, 0) for kind in kinds)
    free = shutil.disk_usage(arguments.nameOutput.parent).free
    if run.isFinished and not copies:
        return
    sizes = f"Result: {byteCount / 2**30:.3f} GiB"
    sizes += ", as much for a while before it is gzip" if scratch else ""
    sizes += f", at most {copies / 2**30:.3f} GiB as TIFF" if copies else ""
    print(f"{sizes}; {free / 2**30:.1f} GiB of the disk are free")
    needed = byteCount + scratch + copies
    with contextlib.suppress(OSError, AttributeError):  # none there; Windows
        held = partialName(arguments.nameOutput).stat().st_blocks * 512  # goes on, or is written over
        needed -= min(held, byteCount)
    if needed > free:
        raise PipelineError(
            "too little disk for the result",
            file=arguments.nameOutput,
            expected=f"{needed / 2**30:.2f} GiB",
            received=f"{free / 2**30:.2f} GiB",
        )


def countSlabs(run: Run) -> float:
    """Slabs of all tiles."""
    return run.layout.rowTiles * run.layout.columnTiles * run.geometry.shape[0] / run.layout.slab


def printEstimate(stream: Stream, run: Run) -> None:
    """Print how long the prediction would take, from one timed slab."""
    section = tileSection(run.geometry, run.layout)
    seconds = timeSlab(stream, section)
    duration, progress = countSlabs(run) * seconds, run.journal["progress"]
    speed = f"{math.prod(run.geometry.size) / 1e6 / duration:.2f} Mvoxel/s"
    tiles = run.layout.rowTiles * run.layout.columnTiles
    done = (progress["tile"] + progress["planes"] / run.geometry.size[0]) / tiles if progress else 0
    print(f"Estimate: {describeDuration(duration * (1 - done))} at {speed} (one slab: {seconds:.3f} s)")


def printScores(scores: dict, arguments: argparse.Namespace, limit: float) -> None:
    """Print the voxel scores in one line."""
    names = ("precision", "recall", "dice", "iou")
    line = "  ".join(f"{name} {scores[name]:.4f}" for name in names)
    print(f"Scores against {arguments.nameReference.name} at threshold {limit:g}: {line}")


def warnOfLabels(counts: dict, arguments: argparse.Namespace, request: Request) -> None:
    """Warn of a manual mask whose labels are probably meant the other way round."""
    share = (counts["tp"] + counts["fn"]) / math.prod(request.shape)
    if share == 0 or share > 0.5:
        amount = f"{share:.0%} of the voxels are" if share else "no voxel of the region is"
        labels = ",".join(map(str, request.labels))
        rule = f"{amount} positive in {arguments.nameReference.name} (label {labels})"
        print(f"Warning: {rule}; the scores mean nothing if --positiveLabel is another one")


def noteRun(
    arguments: argparse.Namespace, request: Request, run: Run, clock: Stopwatch, scores: dict | None = None
) -> Path:
    """Write the record of what went into the result; gives its path."""
    record = arguments.nameOutput.with_suffix(".json")
    content = {
        "command": commandLine(),
        "parameters": plainSettings(arguments),
        "region": [list(axis) for axis in request.region],
        "normalization": request.normalization,
        **run.origin,
        "threshold": request.threshold,
        "scores": scores,
        "versions": packageVersions(),
        "inputs": {str(relativePath(path)): digest for path, digest in run.digests.items()},
        "identity": run.journal["identity"],
        "result": stampOf(arguments.nameOutput),
        "seconds": clock.seconds,
    }
    writeJson(record, content)
    return record


def stampOf(path: Path) -> list[int]:
    """Tell a file from a later one of the same name: bytes and time of the last change."""
    state = path.stat()
    return [state.st_size, state.st_mtime_ns]


if __name__ == "__main__":
    runScript(main, parseArguments, "the same command goes on where it stopped.")
