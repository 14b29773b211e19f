"""Who does the tasks of a job: this process in one stream, or any process, task by task.

engine/ does not import functions.py: the steps of the method are handed in, by functions that pickle by name.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from engine.base.machine import preferInstructions
from engine.formats.opening import openVolume
from engine.prediction.backends import chooseBackend, openStream
from engine.prediction.job import Job
from engine.prediction.journal import GrowingResult, joinResult
from engine.prediction.layout import tileSection
from engine.prediction.stream import describeStream
from engine.prediction.tasks import Task
from engine.prediction.tiles import Stream
from engine.volumes.volume import Volume


class Method(NamedTuple):
    """The steps of functions.py that a task consists of."""

    readModel: Callable  # files -> plan and weights
    predictProbability: Callable  # volume, job, stream, sink, tasks


def execute(method: Method, volume: Volume, job: Job, result: GrowingResult, stream: Stream) -> None:
    """Do what is left of a job in this process: one stream for all of it."""
    method.predictProbability(volume, job, stream, result)


def executeTasks(
    method: Method, volume: Volume, job: Job, stream: Stream, device: str, tasks: list[Task]
) -> None:
    """Do what is left of some tasks of a result that several processes make."""
    with joinResult(Path(job.output), device) as result:
        method.predictProbability(volume, job, stream, result, tasks)


def runTasks(method: Method, job: Job, tasks: list[Task]) -> list[Task]:
    """Do some tasks of a result that has been begun; in any process, at any time, also twice."""
    stream, device = _openStream(method, job)
    executeTasks(method, openVolume(job.volume), job, stream, device, tasks)
    return tasks


@functools.lru_cache(1)
def _openStream(method: Method, job: Job) -> tuple[Stream, str]:
    """Build the network of a job on its back end, once for all its tasks; names the device."""
    preferInstructions(job.engine, job.precision)
    steps = describeStream(*method.readModel(job.modelFile, job.weightFile))
    backend = chooseBackend(job.engine, job.precision)
    stream = openStream(backend, steps, job.layout.slab, tileSection(job.geometry, job.layout))
    return stream, backend.device
