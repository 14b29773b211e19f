"""A prediction that the workers of a scheduler do: what they offer, must agree on and do."""

import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from engine.base.console import showProgress
from engine.base.errors import PipelineError
from engine.base.machine import preferInstructions
from engine.prediction.backends import Backend, availableMemory, baseMemory, chooseBackend
from engine.prediction.execute import Method, runTasks
from engine.prediction.job import Job
from engine.prediction.journal import Journal
from engine.prediction.layout import listTiles
from engine.prediction.request import Request
from engine.prediction.run import Run
from engine.prediction.shared import Sharing, Witness
from engine.prediction.tasks import Task

LOOK_SECONDS = 1.0  # between two looks at the journal
ONE_AT_A_TIME = threading.Lock()  # the network of a process has one state, whatever threads it has


class Spread(Protocol):
    """Workers on any machines."""

    count: int

    def everywhere(self, function: Callable[[], Any]) -> dict[str, Any]:
        """Call a function once on every worker; gives what it returns, by address."""

    def map(self, function: Callable, items: list, watch: Callable[[], None] | None = None) -> Any:
        """Call a function with every item; `watch` is called meanwhile."""


class Offer(NamedTuple):
    """What a worker predicts with."""

    host: str
    backend: Backend
    memory: float  # GiB that it may take
    base: float  # GiB that it takes before any plane is held


def _offer(engine: str, precision: str) -> Offer:
    """Tell what this process would predict with."""
    preferInstructions(engine, precision)
    backend = chooseBackend(engine, precision)
    return Offer(socket.gethostname(), backend, availableMemory(backend), baseMemory(backend))


def chooseMachine(
    workers: Spread | None, request: Request, part: str, isVerified: bool
) -> tuple[Backend, Sharing | None]:
    """Choose what predicts, and how the work is shared; None: one process does it all.

    Raises
    ------
    PipelineError
        No such engine, precision or part; workers that would take different ones.
    """
    if workers:
        return agreeBackend(workers, request.engine, request.precision, isVerified)
    preferInstructions(request.engine, request.precision)
    backend = chooseBackend(request.engine, request.precision)
    return backend, Sharing.of(part, isVerified, request.nameOutput)


def agreeBackend(workers: Spread, engine: str, precision: str, isVerified: bool) -> tuple[Backend, Sharing]:
    """Choose what all workers predict with, and how the result is shared among them.

    Raises
    ------
    PipelineError
        They would take different ones.
    """
    offers = list(workers.everywhere(partial(_offer, engine, precision)).values())
    kinds = sorted({(offer.backend.engine, offer.backend.precision) for offer in offers})
    if len(kinds) > 1:
        received = " and ".join(map(" in ".join, kinds))
        remedy = "name one with --engine and --precision, or leave out some workers"
        raise PipelineError("the workers would predict in different ways", received=received, remedy=remedy)
    onHost = Counter(offer.host for offer in offers)
    isGpu = offers[0].backend.isGpu  # each with a GPU of its own
    memory = min(offer.memory / (1 if isGpu else onHost[offer.host]) for offer in offers)
    base = max(offer.base for offer in offers)
    return offers[0].backend, Sharing(None, workers.count, isVerified, True, memory, base)


def checkWorkers(run: Run, workers: Spread) -> None:
    """Let all workers that are there look at their files, packages and program; others do before each task.

    Raises
    ------
    PipelineError
        One of them sees something else.
    """
    workers.everywhere(Witness.of(run.request, run.backend.engine).check)


def runShared(method: Method, job: Job, witness: Witness, tasks: list[Task]) -> list[Task]:
    """Do some tasks in a worker that has looked at its files; may be called twice, and at any time."""
    with ONE_AT_A_TIME:
        witness.check()
        return runTasks(method, job, tasks)


def executeByWorkers(method: Method, run: Run, job: Job, workers: Spread) -> None:
    """Let workers do what is missing of a result that has been begun, with one bar for all of them."""
    groups, witness = run.groups(), Witness.of(run.request, job.engine)
    tiles, shape = listTiles(job.geometry, job.layout), job.geometry.size
    areas = [(tile.rows[1] - tile.rows[0]) * (tile.columns[1] - tile.columns[0]) for tile in tiles]
    journal, total = Journal(Path(job.output)), shape[0] * shape[1] * shape[2] / 1e6
    with showProgress(total=round(total, 1), desc="Predicting", unit="Mvoxel", smoothing=0.05) as bar:
        bar.initial, last = _finishedVoxels(journal, areas), [0.0]
        bar.n = bar.initial

        def watch() -> None:
            if time.monotonic() - last[0] > LOOK_SECONDS:
                last[0] = time.monotonic()
                bar.update(round(_finishedVoxels(journal, areas) - bar.n, 1))

        for _ in workers.map(partial(runShared, method, job, witness), groups, watch):
            watch()
        bar.update(round(total, 1) - bar.n)


def _finishedVoxels(journal: Journal, areas: list[int]) -> float:
    """Count the voxels that are noted as finished, in millions."""
    done = journal.finished()
    return round(sum((last - first) * areas[tile] for tile, (first, last) in done) / 1e6, 1)
