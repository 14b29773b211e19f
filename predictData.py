"""Predict the probability of precipitate or pore for every voxel of a volume or a region of it.

In:  one grey-value volume (.nrrd, .tif, .h5, .zarr or any other of docs/formats.md) and a trained model (.h5,
     .keras or .weights.h5 of Keras 2 or 3).
Out: the probability as float32 NRRD with the geometry of the input; from it a mask, a segmentation for 3D
     Slicer, labelled particles, their table and a summary, a report for the browser, a picture; scores where
     there is a manual mask; a record (.json) of what went into it all.

    python3 predictData.py
"""

import argparse
import contextlib
import sys
from pathlib import Path
from typing import Literal

from engine.base.console import Stopwatch, relativePath, runScript, say
from engine.base.daskWorkers import DaskWorkers, Scheduler, openScheduler
from engine.base.files import lockName
from engine.base.parameters import describeSettings, plainSettings, readParameters
from engine.base.passes import passOver
from engine.formats.nrrdGeometry import withVoxelSize
from engine.formats.opening import openVolume, withLayout
from engine.network import contracts
from engine.network.plan import haloOf, sideMultiple
from engine.prediction import run as runs
from engine.prediction import slurm as slurmJobs
from engine.prediction import told
from engine.prediction.comparison import compareGreys, describeGreys
from engine.prediction.execute import Method
from engine.prediction.layout import Geometry
from engine.prediction.making import listPlanes, makePart, makeWhole
from engine.prediction.request import Request, refuseContradictions, refuseNegative
from engine.prediction.spread import checkWorkers, chooseMachine
from engine.prediction.statistics import listGreys, listOthers, measureRequest
from engine.prediction.stream import describeStream
from engine.results import kinds, suggested
from engine.results.evaluation import LABELS, Criteria, Evaluation, Page, Written, describePlace, openTargets
from engine.results.looks import Looks
from engine.results.ranges import openHands
from engine.volumes.names import shortName
from engine.volumes.volume import Volume, checkRegion
from functions import predictProbability, readModel

# ------------------------------------------------------------------------------------------------ parameters
# data
nameInput: Path = Path("test-file/test-file_data.nrrd")  # volume to segment
x1: int | None = None  # first voxel of the region of interest along x; without it 0
x2: int | None = None  # voxel after its last one; without it the end of the volume
y1: int | None = None  # the same along y
y2: int | None = None  # the same along y
z1: int | None = None  # the same along z
z2: int | None = None  # the same along z
nameReference: Path | None = None  # its manual mask; without it one called *_mask beside it; none = no scores
positiveLabel: str = ""  # labels in the reference: 1,2, 1-30, '!0' or names of segments; empty: as trained
ignoreLabel: str = ""  # its values that count in no score, such as 255; empty: as trained; none: all count
rawLayout: str = ""  # of .raw files, which have no header: such as "512x512x300 uint16"; big, skipped bytes
voxelSize: str = ""  # such as "0.65 um" or "0.65 0.65 1.3 um"; empty: as the file says
normalization: Literal["", "region", "volume"] = ""  # z-score over; empty: the volume where the training did
moments: Literal["", "plain", "robust"] = ""  # of the z-score; empty: as in the training, else robust
momentsOf: str = ""  # scan that this one was cut from, or "mean,std": the z-score is theirs
noData: str = "auto"  # grey value that means none; auto: recognised; none: all are values
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
suggest: int = 0  # boxes to label next, written as pairs of image and mask; 0: none
mhd: bool = False  # write ....mhd, with which ITK and ParaView open the voxels of the probability
outputFormat: Literal["nrrd", "tiff", "omezarr"] = "nrrd"  # of mask and labels; others: with the probability
outputType: Literal["float32", "uint8", "uint16"] = "float32"  # of the probability; or integers
outputEncoding: Literal["raw", "gzip"] = "raw"  # of the probability
# machine
engine: str = "auto"  # auto, openvino (CPU) or keras (GPU, or CPU without OpenVINO)
precision: str = "auto"  # of the network: auto, float32, bfloat16 or float16
memoryBudget: float = 0.0  # GiB that the whole process may take; 0 = half of the free memory, at most 8
dryRun: bool = False  # only say what would be done, and how long it would take
# several processes, on any machines that share the folders
part: str = ""  # such as 3/32: predict part 3 of 32 (0 to 31), nothing else; empty: what is missing
slurm: str = ""  # print a SLURM script for so many parts, or auto; nothing is predicted
scheduler: str = ""  # local = workers here, or the address of a Dask scheduler such as tls://host:8786
workerCount: int = 0  # workers to start or wait for; processes for the results; 0: by cores, GPUs and size
coresPerWorker: int = 0  # of workers that are started here; 0: equal shares
tlsCaFile: Path | None = None  # of a scheduler behind tls://: who vouches for it
tlsCertificate: Path | None = None  # the certificate of this process
tlsKey: Path | None = None  # its key
verify: bool = False  # compare whole files with those of the other processes, not samples of them
# ------------------------------------------------------------------------------------------------------------


def parseArguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line, one flag a constant; fill in the names that follow from others."""
    arguments = readParameters(sys.modules[__name__], argv)
    kinds.refuseNameless(arguments.nameInput)
    if "modelFile" in arguments.given and "weightFile" not in arguments.given:
        arguments.weightFile = None
    refuseContradictions(arguments)
    arguments.nameOutput = arguments.nameOutput or kinds.nameProbability(arguments.nameInput)
    arguments.nameReference = arguments.nameReference or kinds.findManualMask(arguments.nameInput)
    for name in ("nameInput", "nameReference"):
        setattr(arguments, name, withLayout(getattr(arguments, name), arguments.rawLayout))
    return arguments


def main(arguments: argparse.Namespace) -> None:
    """Find the workers, if there are others than this process."""
    asked = Scheduler(*(getattr(arguments, name) for name in Scheduler._fields))
    with openScheduler(asked) if asked.scheduler else contextlib.nullcontext() as workers:
        work(arguments, workers)


def work(arguments: argparse.Namespace, workers: DaskWorkers | None) -> None:
    """Check everything, predict, threshold, measure, write."""
    clock = Stopwatch()
    volume = withVoxelSize(openVolume(arguments.nameInput), arguments.voxelSize)
    plan, values = readModel(arguments.modelFile, arguments.weightFile)
    weights = arguments.weightFile or arguments.modelFile
    contract = contracts.findContract(weights)
    request = checkRequest(arguments, volume, contract, weights)
    asked = [(getattr(arguments, name), getattr(contract, name, None)) for name in LABELS]
    sought = openTargets(*asked, arguments.nameReference, volume, arguments.suggest > 0)
    reference = sought[0][1]  # the same file for all of them
    threshold, why = contracts.chooseThreshold(arguments.threshold, contract, weights)
    criteria = Criteria(threshold, arguments.connectivity, arguments.minimumVoxels)
    hasReference = reference is not None
    results = kinds.chooseResults(arguments.nameOutput, arguments.outputFormat, vars(arguments), hasReference)
    backend, sharing = chooseMachine(workers, request, arguments.part, arguments.verify)
    geometry = Geometry(request.shape[::-1], sideMultiple(plan), haloOf(plan))
    clock.lap("opening")
    lock = lockName(arguments.nameOutput, "another process is writing this result")
    with contextlib.nullcontext() if arguments.dryRun or arguments.part or arguments.slurm else lock:
        steps = describeStream(plan, values)
        if arguments.slurm:
            run = slurmJobs.planRun(arguments.slurm, arguments.part, request, backend, (steps, geometry))
        else:
            run = runs.prepareRun(request, backend, geometry, steps, arguments.dryRun, sharing)
        clock.lap("digests")
        tell = slurmJobs.Comments() if arguments.slurm else say
        machines = workers.describe() if workers else ()
        tell(*describeSettings(arguments), f"Device: {backend.device}, {backend.precision}", *machines)
        normalised = contracts.describeNormalization(contract, request.normalization, arguments.momentsOf)
        tell(*told.describeRequest(request), f"Normalisation: {normalised}")
        tell(*describePlace(volume, reference), *told.describeRun(run), f"Threshold: {threshold:g}, {why}")
        tell(*told.checkDisk(run, *kinds.measureCopies(results, arguments.outputFormat)))
        if arguments.slurm:
            say(*slurmJobs.writeScript(run, arguments, Path(__file__).resolve(), tell))
            return
        if arguments.dryRun:
            say(told.estimateDuration(runs.openNetwork(run), run))
            return
        page = Page(shortName(volume), run.madeBy, plainSettings(arguments))
        shown = results, Looks(request.shape, results, hasReference), page
        evaluations = [Evaluation(part, criteria, mask, *shown, left) for part, mask, left in sought]
        if arguments.part:
            carryOutPart(run, evaluations, clock)
        else:
            carryOut(run, evaluations, clock, workers, arguments.workerCount)


def checkRequest(
    arguments: argparse.Namespace, volume: Volume, contract: contracts.Contract | None, weights: Path
) -> Request:
    """Require that what is asked for is there, and that no result would replace it."""
    limits = (arguments.x1, arguments.x2), (arguments.y1, arguments.y2), (arguments.z1, arguments.z2)
    region = checkRegion(volume, limits)
    inputs = kinds.nameInputs(volume, arguments.modelFile)
    inputs |= {name: getattr(arguments, name) for name in ("nameReference", "modelFile", "weightFile")}
    others = listOthers(arguments.momentsOf, arguments.noData)
    inputs |= {f"momentsOf ({path.name})": path for path in others}
    kinds.refuseReplacing(arguments.nameOutput, arguments.outputFormat, inputs)
    refuseNegative(arguments.memoryBudget, arguments.minimumVoxels, arguments.workerCount)
    suggested.refuseSuggesting(arguments.suggest, region, arguments.nameOutput, volume)
    scope = contracts.chooseScope(arguments.normalization, contract, volume.shape, region)
    asked = {name: getattr(arguments, name) for name in Request.parameters()}
    asked |= {"moments": contracts.chooseMoments(arguments.moments, contract)}
    learnt = contract.learntBy(weights) if contract else {}
    return Request(volume, region, scope, arguments.modelFile, weights, learnt, others, **asked)


def carryOut(
    run: runs.Run, evaluations: list[Evaluation], clock: Stopwatch, workers: DaskWorkers | None, count: int
) -> None:
    """Predict what is not predicted yet, make the results of every target, and tell of them."""
    request, (_, criteria, _, paths, looks, page, _) = run.request, evaluations[0]
    seeing = looks.watch("grey") if looks.areWanted else None
    if run.isFinished:
        say(*describeGreys(run))
        if seeing:
            passOver(listGreys(request, request.region), seeing)
        found = measureRequest(request)[0] if request.suggest else None
        clock.lap("statistics")
    else:
        stream = runs.openNetwork(run) if run.missing() and not workers else None
        if stream and run.isLong:
            say(told.estimateDuration(stream, run))
        clock.lap("building the network")
        if workers:
            checkWorkers(run, workers)
        found, squares = measureRequest(request, seeing, run.walker(workers))
        run = run.note(compareGreys(found, squares, request)._asdict())
        say(*describeGreys(run))
        clock.lap("statistics")
        makeWhole(Method(readModel, predictProbability), run, found.scale, stream or workers)
        clock.lap("prediction")
        del stream  # the particles need its memory
        runs.recordRun(run, page.parameters, criteria.threshold, clock.seconds)
    from engine.results.judging import evaluate  # not before it is needed
    from engine.results.suggestions import suggestBoxes

    page = page._replace(greys=run.origin["greys"])
    looks.fill((page.greys or {}).get("limits", ()))
    evaluations = [part._replace(page=page) for part in evaluations]
    with openHands(workers, count, request.shape, request.memoryBudget) as hands:
        made = Written.of(run, runs.describeInputs(run))
        counts = [evaluate(made, part, hands, say, clock) for part in evaluations]
        for part in evaluations if request.suggest else ():
            say(*suggestBoxes(made, part, hands, request.suggest, found.scale))
            clock.lap("boxes to label")
    say(*kinds.describeOutdated(request.nameOutput, paths.values()))
    record = runs.recordRun(run, page.parameters, criteria.threshold, clock.seconds, counts[0])
    run.forgetSeen()
    written = request.nameOutput, *filter(Path.exists, paths.values()), record
    say(told.describeEnd(request, clock), *(f"  {relativePath(path)}" for path in written))


def carryOutPart(run: runs.Run, evaluations: list[Evaluation], clock: Stopwatch) -> None:
    """Predict one part, and measure those planes that are predicted by now."""
    lines = makePart(Method(readModel, predictProbability), run, clock)
    if not run.isFinished:
        from engine.results.judging import leaveSums  # not before it is needed

        lines += leaveSums(Written.of(run, runs.describeInputs(run)), evaluations, listPlanes(run))
    say(*lines)


if __name__ == "__main__":
    runScript(main, parseArguments, "the same command goes on where it stopped.")
