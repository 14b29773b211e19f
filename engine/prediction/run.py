"""From what is asked for to what is done: how a volume is cut, and what is there of its result already."""

import functools
import json
import time
from pathlib import Path
from typing import Any, NamedTuple

from engine.base.errors import PipelineError
from engine.base.records import (
    commandLine,
    listDifferences,
    packageVersions,
    readJson,
    stampOf,
    writeJson,
)
from engine.base.sums import SumFiles
from engine.base.workers import Here, Workers
from engine.formats.growing import describeScale
from engine.formats.nrrdGeometry import resultHeader
from engine.prediction.backends import Backend, availableMemory, baseMemory, openStream
from engine.prediction.job import Job
from engine.prediction.journal import SHARED, Journal
from engine.prediction.layout import Geometry, Layout, chooseLayout, costOf, tileSection
from engine.prediction.parts import chooseCount, costOfParts, cutParts
from engine.prediction.request import Request, describeIdentity, digestInputs, nameInputs, showInputs
from engine.prediction.shared import (
    Sharing,
    Witness,
    agreeDigests,
    checkFiles,
    describeProgram,
    isShared,
    joinShared,
    sketchInputs,
)
from engine.prediction.statistics import ALONE, Walker
from engine.prediction.stream import Step
from engine.prediction.tasks import Task, leaveOut, listTasks
from engine.prediction.tiles import Stream
from engine.volumes.names import nameOf
from engine.volumes.scale import Scale

MANY_SLABS = 100  # from which on timing two of them in advance is worth it
SKETCHED = "sketched"  # identity of a shared result, without digests of whole files
ORIGIN = ("engine", "precision", "device", "devices", "predicted", "greys")


class Run(NamedTuple):
    """What is decided before the first voxel is read."""

    request: Request
    backend: Backend
    geometry: Geometry
    layout: Layout | None  # None: nothing has to be predicted
    steps: list[Step]
    record: dict[str, Any]  # what an unfinished result follows from: identity, layout, devices
    isGoingOn: bool  # with an unfinished one
    digests: dict[str, str]
    differences: list[str]  # from an earlier result under the same name, finished or not
    origin: dict[str, Any]  # what the probability was made with, now or by an earlier run
    isFinished: bool  # by an earlier run
    sharing: Sharing | None = None  # None: one process makes the result
    isFirst: bool = False  # of several that make it

    def makeJob(self, scale: Scale) -> Job:
        """Make the job that is left to do."""
        request = self.request
        files = nameOf(request.volume), request.modelFile, request.weightFile, request.nameOutput
        volume, model, weights, output = (str(path.resolve()) for path in files)
        cut = request.region, scale, self.geometry, self.layout
        return Job(volume, *cut, model, weights, self.backend.engine, self.backend.precision, output)

    def missing(self) -> list[Task]:
        """List what no earlier run has predicted."""
        finished = Journal(self.request.nameOutput).finished() if self.isGoingOn else ()
        return leaveOut(self.tasks, finished)

    @property
    def tasks(self) -> list[Task]:
        """List what this process is to do, if nobody has done anything."""
        part = self.sharing and self.sharing.part
        if part:
            return cutParts(self.geometry, self.layout, part.count)[part.index]
        return listTasks(self.geometry, self.layout)

    def groups(self) -> list[list[Task]]:
        """List what is missing, in groups for the workers of a scheduler."""
        finished = Journal(self.request.nameOutput).finished()
        parts = cutParts(self.geometry, self.layout, self.partCount)
        return [left for part in parts if (left := leaveOut(part, finished))]

    @property
    def partCount(self) -> int:
        """Parts that the result is made in."""
        if self.sharing.isSpread:
            return chooseCount(self.geometry, self.layout, self.sharing.count)
        return self.record.get(SHARED, self.sharing.count)

    @property
    def header(self) -> dict[str, Any]:
        """Header of the result: geometry of the region, and what its numbers mean."""
        request, kind = self.request, self.request.outputType
        return resultHeader(request.volume, request.region, kind) | describeScale(kind)

    @property
    def seen(self) -> SumFiles | None:
        """Give where the parts of an array leave what they have measured of the probability."""
        key = json.dumps(self.record["identity"], sort_keys=True)
        return SumFiles(Journal(self.request.nameOutput).seen, key) if self.sharing else None

    def forgetSeen(self) -> None:
        """Remove what was left there, by this job or an earlier one."""
        SumFiles(Journal(self.request.nameOutput).seen, "").remove()

    def walker(self, workers: Workers | None = None) -> Walker:
        """Give who measures the grey values: of several processes that make the result, each a share."""
        if not self.sharing:
            return ALONE
        key = json.dumps(self.record["identity"], sort_keys=True)
        part = self.sharing.part
        share = part.index / part.count if part else 0.0
        check = Witness.of(self.request, self.backend.engine).check if workers else None
        store = SumFiles(Journal(self.request.nameOutput).sums, key)
        return Walker(workers or Here(), store, share, check)

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


# -------------------------------------------------------------------------------------------- what is decided


def prepareRun(
    request: Request,
    backend: Backend,
    geometry: Geometry,
    steps: list[Step],
    isDry: bool = False,
    sharing: Sharing | None = None,
) -> Run:
    """Decide how the volume is cut, or go on as an interrupted run did; a dry one looks at no earlier one.

    Parameters
    ----------
    request : Request
    backend : Backend
    geometry : Geometry
    steps : list of Step
        Of the network.
    isDry : bool
        Nothing will be written.
    sharing : Sharing, optional
        Several processes make the result; default: this one alone.

    Raises
    ------
    PipelineError
        The memory is too small; another job has begun the result, or other processes see other files.
    """
    none = {}, False, {}, [], {}, False
    run = Run(request, backend, geometry, None, steps, *none, sharing)
    if isDry:
        return _beginRun(run, describeIdentity(request, backend, {}))
    if sharing:
        return _findFinished(run) or _joinRun(run)
    digests = digestInputs(request)
    identity, run = describeIdentity(request, backend, digests), run._replace(digests=digests)
    finished, differences = readFinished(request, identity)
    if finished:
        return _keepFinished(run, finished)
    record, unfinished = Journal(request.nameOutput).read(identity)
    return _beginRun(run._replace(differences=unfinished or differences), identity, record)


def _beginRun(run: Run, identity: dict[str, Any], record: dict[str, Any] | None = None) -> Run:
    """Go on as an unfinished result was begun, where there is one that can be gone on with."""
    layout = Layout(*record["layout"]) if record else None
    if layout and 0 < run.request.memoryBudget < layout.memory:
        taken = f"it took {layout.memory:.2f} GiB, more than memoryBudget now"
        record, layout, run = None, None, run._replace(differences=[taken])
    layout = layout or _cut(run)
    earlier = [device for device in (record or {}).get("devices", ()) if device != run.backend.device]
    devices = [*earlier, run.backend.device]
    noted = {"identity": identity, "layout": list(layout), "devices": devices}
    origin = describeOrigin(run.backend, devices)
    return run._replace(layout=layout, record=noted, isGoingOn=record is not None, origin=origin)


def _cut(run: Run) -> Layout:
    """Choose the layout with the least work, in one process or in so many parts."""
    sharing = run.sharing or Sharing()
    budget = run.request.memoryBudget or sharing.memory or availableMemory(run.backend)
    cost = functools.partial(costOfParts, sharing.count) if sharing.count else costOf
    base = sharing.base or baseMemory(run.backend)
    layout = chooseLayout(run.geometry, run.steps, run.backend.byteCount, budget, base, cost)
    if sharing.part:
        cutParts(run.geometry, layout, sharing.count)  # refuses more than there are
    return layout


def _keepFinished(run: Run, finished: dict[str, Any]) -> Run:
    """Give the run that has nothing to predict."""
    origin = {name: finished.get(name) for name in ORIGIN}
    noted = {"layout": [], "devices": origin["devices"] or []}
    noted |= {kind: finished[kind] for kind in ("identity", SKETCHED) if kind in finished}
    names, identity = nameInputs(run.request), finished["identity"]
    known = {name: identity[name] for name in names if name in identity}
    return run._replace(record=noted, origin=origin, isFinished=True, digests=run.digests or known)


def _findFinished(run: Run) -> Run | None:
    """Find out whether several processes, or one, have finished the result already."""
    request, backend = run.request, run.backend
    if isShared(request.nameOutput) or not request.nameOutput.is_file():
        return None
    identity = describeIdentity(request, backend, {}) | sketchInputs(request)
    finished, _ = readFinished(request, identity, SKETCHED)
    if finished is None:
        finished, _ = readFinished(request, describeIdentity(request, backend, digestInputs(request)))
    return _keepFinished(run, finished) if finished else None


def _joinRun(run: Run) -> Run:
    """Join a result that several processes make, or begin it."""
    request, backend, sharing = run.request, run.backend, run.sharing
    journal, identity = Journal(request.nameOutput), describeIdentity(request, backend, {})
    identity |= sketchInputs(request) | describeProgram(backend.engine)
    record, isFirst = joinShared(request, identity, lambda: _cut(run), sharing)
    layout = Layout(*record["layout"])
    if 0 < request.memoryBudget < layout.memory:
        rule = "memoryBudget is smaller than what the first part has chosen"
        expected, received = f"at least {layout.memory:.2f} GiB", f"{request.memoryBudget:g} GiB"
        raise PipelineError(rule, expected=expected, received=received)
    digests = checkFiles(request, record, sharing.isVerified)
    if not (digests or sharing.part):
        digests = agreeDigests(request, isKnown=True)
    origin = describeOrigin(backend, sorted({*journal.devices(), backend.device}))
    run = run._replace(layout=layout, record=record, isGoingOn=True, digests=digests, origin=origin)
    return run._replace(isFirst=isFirst)


def describeOrigin(backend: Backend, devices: list[str]) -> dict[str, Any]:
    """Describe what a probability is made with; `devices` are all that had a part in it."""
    predicted = {"date": time.strftime("%Y-%m-%d %H:%M"), "versions": packageVersions()}
    values = backend.engine, backend.precision, backend.device, devices, predicted, None
    return dict(zip(ORIGIN, values, strict=True))


def readFinished(
    request: Request, identity: dict[str, Any], kind: str = "identity"
) -> tuple[dict | None, list[str]]:
    """Read the record of a finished probability of the same input, model and parameters.

    Parameters
    ----------
    request : Request
    identity : dict
        Everything that it follows from.
    kind : str
        'identity', or 'sketched' where the identity holds no digests of whole files.

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
    if not (output.is_file() and isinstance(record.get(kind), dict)):
        return None, []
    free = {name for name in ("engine", "precision") if getattr(request, name) == "auto"}
    differences = listDifferences(record[kind], identity, free)
    if not differences and record.get("result") != stampOf(output):
        differences = [f"{output.name} was changed since it was written"]
    return (None, differences) if differences else (record, [])


def openNetwork(run: Run) -> Stream:
    """Build the network on its back end, for the tiles of a run."""
    return openStream(run.backend, run.steps, run.layout.slab, tileSection(run.geometry, run.layout))


# -------------------------------------------------------------------------------------------- what is noted


def describeInputs(run: Run) -> dict[str, Any]:
    """Describe what the particles follow from."""
    return {
        "region": [list(axis) for axis in run.request.region],
        "inputShape": list(run.request.volume.shape),
        "inputs": nameDigests(run),
    }


def nameDigests(run: Run) -> dict[str, str]:
    """Give digests under the names of their files, or of the folder, as records hold them."""
    shown = showInputs(run.request)
    return {shown[name]: digest for name, digest in run.digests.items()}


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
        "inputs": nameDigests(run),
        **_describeIdentities(run),
        "result": stampOf(request.nameOutput),
        "seconds": seconds,
    }
    record = request.nameOutput.with_suffix(".json")
    writeJson(record, content)
    return record


def _describeIdentities(run: Run) -> dict[str, Any]:
    """Describe what the result follows from; one that several processes made also without whole files."""
    if run.isFinished or not run.sharing:
        return {kind: run.record[kind] for kind in ("identity", SKETCHED) if kind in run.record}
    own = describeIdentity(run.request, run.backend, {})
    sketched = own | {name: run.record["identity"][name] for name in nameInputs(run.request)}
    return {"identity": describeIdentity(run.request, run.backend, run.digests), SKETCHED: sketched}
