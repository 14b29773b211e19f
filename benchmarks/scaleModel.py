"""How long a large prediction takes: its stages, what limits each of them, and the cut of a cube into parts.

Nothing is measured here. The stages follow one another; inside of a stage reading, computing and writing
overlap, so it takes as long as its computing or as the disk that all processes share, whichever is longer.
"""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

from measure import ROOT

from engine.base.console import describeDuration
from engine.base.ranges import cutRanges
from engine.network.plan import haloOf, sideMultiple
from engine.prediction.layout import Geometry, Layout, chooseLayout
from engine.prediction.parts import costOfParts, mostParts, partFactor
from engine.prediction.stream import Step, describeStream
from functions import readModel

GREY_BYTES, PROBABILITY_BYTES = 2, 4  # a voxel: uint16, float32
TB, GB, MEGA = 1e12, 1e9, 1e6
WALKS = 2  # over the grey values: the second one where some lie far from the rest
JOINS = 2  # of the ranges: by every worker at once, and before the results
READINGS = 2  # of the probability: to measure particles, then to write them
RANGE_SLAB = 16  # planes that ranges of the grey values are whole multiples of
BASE_MEMORY = 1.0  # GiB that a worker takes before any plane
BYTE_COUNT = 4  # of a stored number: float32 on a CPU, or bfloat16 in Keras, which makes every state anew
DAYS_FROM = 48 * 3600  # seconds


class Machine(NamedTuple):
    """What a stage takes; the rates of the disk are those of all processes together."""

    network: float  # voxels a second that pass through the network of a worker
    look: float  # voxels a second whose grey values a worker measures, all its walks together
    digest: float  # bytes a second of the one process that digests the scan
    results: float  # voxels a second of a process that labels, measures and writes
    start: float  # seconds until a worker computes: libraries, models, building the network
    merge: float  # seconds that it takes to join what is known of one range of the grey values
    finish: float  # seconds of the results whatever the volume: libraries, pictures, report
    read: float  # bytes a second
    write: float
    resultBytes: float = 0.1  # a voxel: masks and labels are compressed


class Job(NamedTuple):
    """What is predicted, and by how many."""

    voxels: float
    factor: float = 1.0  # work of the parts in passes of the network over the volume
    ranges: int = 1  # that its grey values are measured in
    workers: int = 1
    resultProcesses: int = 1  # that make the results

    def share(self, processes: int) -> float:
        """Give the share of the busiest process in what is done in ranges."""
        return math.ceil(self.ranges / processes) / self.ranges


class Stage(NamedTuple):
    """A stage and its limits, in seconds."""

    name: str
    computing: float
    reading: float = 0.0
    writing: float = 0.0

    @property
    def seconds(self) -> float:
        """How long it takes."""
        return max(self.computing, self.reading + self.writing)

    @property
    def limit(self) -> str:
        """Name what it waits for: itself where it computes, else what the disk does for it."""
        if self.computing >= self.reading + self.writing:
            return self.name
        return f"{self.name}: {'reading' if self.reading >= self.writing else 'writing'}"


def listStages(job: Job, machine: Machine) -> list[Stage]:
    """List the stages of a prediction, one after the other.

    More workers than ranges begin the same ranges at once, and read them as often. The scan is digested by
    one process, after its part.
    """
    grey, probability = job.voxels * GREY_BYTES, job.voxels * PROBABILITY_BYTES
    again = max(job.workers / job.ranges, 1.0)
    joins = JOINS if job.workers > 1 else 0
    return [
        Stage("start", machine.start),
        Stage(
            "grey values",
            job.voxels * job.share(job.workers) / machine.look,
            WALKS * grey * again / machine.read,
        ),
        Stage(
            "network",
            job.voxels * job.factor / (job.workers * machine.network),
            grey * job.factor / machine.read,
            probability / machine.write,
        ),
        Stage("digest", grey / machine.digest, grey / machine.read),
        Stage("merge", joins * job.ranges * machine.merge),
        Stage(
            "results",
            job.voxels * job.share(job.resultProcesses) / machine.results,
            READINGS * probability / machine.read,
            job.voxels * machine.resultBytes / machine.write,
        ),
        Stage("finish", machine.finish),
    ]


def totalSeconds(stages: Sequence[Stage]) -> float:
    """Sum up stages."""
    return sum(stage.seconds for stage in stages)


def firstLimit(stages: Sequence[Stage]) -> str:
    """Name what the longest stage waits for."""
    return max(stages, key=lambda stage: stage.seconds).limit


# -------------------------------------------------------------------------------------------------- the cut


@functools.cache
def readSteps() -> tuple[list[Step], int, int]:
    """Read the network that comes with the project: steps, cell, halo."""
    models = ROOT / "modelAndWeights"
    plan, values = readModel(models / "final-uNet_model.h5", models / "final-trained-weights.h5")
    return describeStream(plan, values), sideMultiple(plan), haloOf(plan)


@functools.cache
def chooseCut(side: int, count: int, memory: float) -> tuple[Geometry, Layout]:
    """Choose the cut of a cube into parts with the least work, for workers of so much memory (GiB)."""
    steps, cell, halo = readSteps()
    geometry, cost = Geometry((side,) * 3, cell, halo), functools.partial(costOfParts, count)
    return geometry, chooseLayout(geometry, steps, BYTE_COUNT, memory, BASE_MEMORY, cost)


def planCube(voxels: float, count: int, memory: float, resultProcesses: int = 0) -> Job | None:
    """Plan the prediction of a cube.

    Parameters
    ----------
    voxels : float
        Of the cube, about.
    count : int
        Workers, and parts.
    memory : float
        GiB of a worker.
    resultProcesses : int
        0: as many as workers.

    Returns
    -------
    Job or None
        None: it cannot be cut into so many parts.
    """
    side = round(voxels ** (1 / 3))
    geometry, layout = chooseCut(side, count, memory)
    if count > mostParts(geometry, layout):
        return None
    ranges = len(cutRanges((side,) * 3, RANGE_SLAB))
    factor = partFactor(geometry, layout, count)
    return Job(side**3, factor, ranges, count, resultProcesses or count)


# ---------------------------------------------------------------------------------------------- the tables


def describeTime(seconds: float) -> str:
    """Write a time as people do, in days where it is long."""
    return describeDuration(seconds) if seconds < DAYS_FROM else f"{seconds / 86400:.1f} d"


def tabulate(
    machine: Machine,
    sizes: Sequence[float],
    disks: Sequence[float],
    counts: Sequence[int],
    memory: float,
    resultProcesses: int = 0,
) -> list[list[str]]:
    """List rows of times and first limits: a row a size (TB) and disk (GB/s), a column a worker count."""
    rows = []
    for size in sizes:
        jobs = [planCube(size * TB / GREY_BYTES, count, memory, resultProcesses) for count in counts]
        for disk in disks:
            machine = machine._replace(read=disk * GB, write=disk * GB)
            plans = [listStages(job, machine) if job else None for job in jobs]
            cells = [
                f"{describeTime(totalSeconds(plan))}, {firstLimit(plan)}" if plan else "too many parts"
                for plan in plans
            ]
            rows.append([f"{size:g}", f"{disk:g}", *cells])
    return rows


def tabulateFactors(sizes: Sequence[float], counts: Sequence[int], memory: float) -> list[list[str]]:
    """List rows of the work of the parts, in passes of the network over the volume."""
    rows = []
    for size in sizes:
        jobs = [planCube(size * TB / GREY_BYTES, count, memory) for count in counts]
        side = round((size * TB / GREY_BYTES) ** (1 / 3))
        rows.append([f"{size:g} ({side}^3)", *(f"{job.factor:.2f}" if job else "" for job in jobs)])
    return rows


def tabulateSerial(machine: Machine, sizes: Sequence[float], disk: float) -> list[list[str]]:
    """List rows of what one process does alone, on a disk of so many GB/s."""
    machine, rows = machine._replace(read=disk * GB, write=disk * GB), []
    for size in sizes:
        voxels = size * TB / GREY_BYTES
        ranges = len(cutRanges((round(voxels ** (1 / 3)),) * 3, RANGE_SLAB))
        job = Job(voxels, ranges=ranges, workers=2)  # one alone joins nothing
        stages = {stage.name: stage.seconds for stage in listStages(job, machine)}
        names = ("digest", "merge", "results")
        rows.append([f"{size:g}", *(describeTime(stages[name]) for name in names)])
    return rows
