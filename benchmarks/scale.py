"""How long 1, 10 and 100 TB take on 1 to 1024 workers, what limits first, and whether that is true here.

    python3 benchmarks/scale.py                  # measures this machine, predicts a volume, compares
    python3 benchmarks/scale.py --minutes 60     # with as many voxels as an hour allows
    python3 benchmarks/scale.py --rate 30 --disk 10   # the tables alone, for a worker of 30 Mvoxel/s

A prediction is a sum of stages: one process digests the scan; all measure its grey values, predict their
parts, and make the results. Every stage takes as long as its computing or as the disk that all share,
whichever is longer. The rate of a worker is that of the network alone; parts repeat planes, and that is
counted (engine/prediction/parts.py).
"""

import argparse
import functools
import hashlib
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from clusters import makeScan, predictCommand
from measure import describeMachine

from engine.network.plan import haloOf, sideMultiple
from engine.prediction.layout import Geometry, chooseLayout
from engine.prediction.parts import costOfParts, partFactor
from engine.prediction.stream import describeStream
from functions import readModel

MODELS = Path(__file__).resolve().parents[1] / "modelAndWeights"
GREY_BYTES, PROBABILITY_BYTES = 2, 4  # a voxel
SIZES = (1, 10, 100)  # TB of uint16
WORKERS = (1, 4, 16, 64, 256, 1024)
PROBE_BYTES = 1 << 31
BUDGET = 16.0  # GiB of a worker


class Machine(NamedTuple):
    """What a stage takes."""

    rate: float  # voxels a second through the network of a worker
    disk: float  # bytes a second, of all together
    digest: float  # bytes a second of the one process that digests
    look: float  # voxels a second of a worker that measures grey values
    result: float  # voxels a second of a worker that labels, measures and writes results
    start: float  # seconds until a worker computes


class Stage(NamedTuple):
    """A stage of a prediction, and how long its two limits take."""

    name: str
    computing: float  # seconds
    disk: float

    @property
    def seconds(self) -> float:
        """The longer one."""
        return max(self.computing, self.disk)

    @property
    def limit(self) -> str:
        """What the stage waits for, in words."""
        return f"{self.name} ({'disk' if self.disk > self.computing else 'computing'})"


def describeStages(
    voxels: float, factor: float, count: int, resultCount: int, machine: Machine
) -> list[Stage]:
    """List the stages of a prediction.

    Parameters
    ----------
    voxels : float
        Of the scan.
    factor : float
        How many times the work of one pass the parts are.
    count, resultCount : int
        Workers that predict, and that make the results.
    machine : Machine
    """
    grey, probability = voxels * GREY_BYTES, voxels * PROBABILITY_BYTES
    return [
        Stage("start", machine.start, 0.0),
        Stage("digest", grey / machine.digest, grey / machine.disk),
        Stage("grey values", voxels / machine.look / count, grey / machine.disk),
        Stage(
            "network", voxels * factor / machine.rate / count, (grey * factor + probability) / machine.disk
        ),
        Stage("results", voxels / machine.result / resultCount, 2 * probability / machine.disk),
    ]


@functools.cache
def chooseFactor(side: int, count: int) -> float:
    """Give the work of the best cut of a cube into parts, in passes of the network over it."""
    plan, values = readModel(MODELS / "final-uNet_model.h5", MODELS / "final-trained-weights.h5")
    geometry = Geometry((side,) * 3, sideMultiple(plan), haloOf(plan))
    cost = functools.partial(costOfParts, count)
    layout = chooseLayout(geometry, describeStream(plan, values), 2, BUDGET, 1.0, cost)
    return partFactor(geometry, layout, count)


def printTables(machine: Machine) -> None:
    """Print the time of every size on every number of workers, and what limits it."""
    print(f"\n{machine.rate / 1e6:.1f} Mvoxel/s a worker, {machine.disk / 1e9:g} GB/s of all together\n")
    print("| workers | " + " | ".join(f"{size} TB | limit" for size in SIZES) + " |")
    print("|---:|" + "---:|---|" * len(SIZES))
    for count in WORKERS:
        cells = []
        for size in SIZES:
            voxels = size * 1e12 / GREY_BYTES
            factor = chooseFactor(round(voxels ** (1 / 3)), count)
            stages = describeStages(voxels, factor, count, count, machine)
            worst = max(stages, key=lambda stage: stage.seconds)
            cells += [describeHours(sum(stage.seconds for stage in stages)), worst.limit]
        print(f"| {count} | " + " | ".join(cells) + " |")


def describeHours(seconds: float) -> str:
    """Write a time as people do."""
    hours = seconds / 3600
    return f"{hours * 60:.0f} min" if hours < 1 else f"{hours:.1f} h" if hours < 48 else f"{hours / 24:.1f} d"


# ----------------------------------------------------------------------------------------- this machine


def measureDisk(folder: Path) -> float:
    """Measure the slower of writing and reading a large file, bytes a second, past the cache."""
    path, block = folder / "probe", os.urandom(1 << 24)
    begin = time.perf_counter()
    with open(path, "wb") as file:
        for _ in range(PROBE_BYTES // len(block)):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
        written = time.perf_counter() - begin
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    begin = time.perf_counter()
    with open(path, "rb", buffering=0) as file:
        while file.read(len(block)):
            pass
    seconds = max(written, time.perf_counter() - begin)
    path.unlink()
    return PROBE_BYTES / seconds


def measureDigest() -> float:
    """Measure SHA-256 in memory, bytes a second."""
    block, digest, begin = bytes(1 << 26), hashlib.sha256(), time.perf_counter()
    for _ in range(8):
        digest.update(block)
    return 8 * len(block) / (time.perf_counter() - begin)


class Timed(NamedTuple):
    """A whole command."""

    seconds: float
    stages: dict[str, float]  # as the record of the result has them


def predict(scan: Path, *words: str) -> Timed:
    """Predict as a user does, with all results."""
    output = scan.with_name("result.nrrd")
    begin = time.perf_counter()
    subprocess.run(predictCommand(scan, output, *words), check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - begin
    stages = json.loads(output.with_suffix(".json").read_text())["seconds"]
    for path in scan.parent.glob("result*"):
        path.unlink()
    return Timed(seconds, stages)


def readRate(scan: Path) -> float:
    """Read the rate of the network from a dry run, voxels a second."""
    output = scan.with_name("result.nrrd")
    text = subprocess.run(
        predictCommand(scan, output, "--dryRun"), check=True, capture_output=True, text=True
    ).stdout
    return float(re.search(r" at ([\d.]+) Mvoxel/s", text)[1]) * 1e6


def measureMachine(folder: Path, shape: tuple[int, int, int]) -> Machine:
    """Measure what a stage takes on this machine, with a small scan."""
    scan, voxels = folder / "small.nrrd", math.prod(shape)
    makeScan(scan, shape)
    found = predict(scan)
    made = sum(found.stages.get(name, 0.0) for name in ("reading back", "particles", "picture"))
    start = sum(found.stages[name] for name in ("opening", "building the network"))
    look, result = voxels / found.stages["statistics"], voxels / made
    rate = readRate(scan)
    scan.unlink()
    return Machine(rate, measureDisk(folder), measureDigest(), look, result, start + 1.0)


def checkHere(folder: Path, machine: Machine, minutes: float, across: int) -> None:
    """Predict as many voxels as the minutes allow, and compare with what the model says."""
    perVoxel = sum(stage.seconds for stage in describeStages(1.0, 1.0, 1, 1, machine)[1:])
    wanted = minutes * 60 / perVoxel
    free = shutil.disk_usage(folder).free / (GREY_BYTES + 2 * PROBABILITY_BYTES)
    depth = int(min(wanted, free) / across**2) // 16 * 16
    scan, voxels = folder / "large.nrrd", across**2 * depth
    makeScan(scan, (across, across, depth))
    expected = describeStages(voxels, 1.0, 1, 1, machine)
    found = predict(scan)
    print(f"\nOne process, {across}x{across}x{depth} voxels ({voxels * GREY_BYTES / 1e9:.1f} GB)\n")
    names = {
        "digest": ("digests",),
        "grey values": ("statistics",),
        "network": ("prediction",),
        "results": ("reading back", "particles", "picture"),
    }
    print("| stage | model, s | measured, s | ratio |\n|---|---:|---:|---:|")
    for stage in expected[1:]:
        seconds = sum(found.stages.get(name, 0.0) for name in names[stage.name])
        print(f"| {stage.name} | {stage.seconds:.0f} | {seconds:.0f} | {seconds / stage.seconds:.2f} |")
    total = sum(stage.seconds for stage in expected)
    print(f"| all | {total:.0f} | {found.seconds:.0f} | {found.seconds / total:.2f} |")
    scan.unlink()


def main() -> None:
    """Measure, compare, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0, help="that the largest run may take")
    parser.add_argument("--rate", type=float, help="Mvoxel/s of a worker; without it that of this machine")
    parser.add_argument("--disk", type=float, help="GB/s of all together; without it that of this machine")
    parser.add_argument("--across", type=int, default=512, help="voxels across the largest run")
    parser.add_argument("--small", type=int, nargs=3, default=(384, 384, 384), help="voxels of the first run")
    arguments = parser.parse_args()
    print(describeMachine())
    folder = Path(tempfile.mkdtemp(prefix="scale-"))
    try:
        machine = measureMachine(folder, tuple(arguments.small))
        words = ("network", "disk", "digest", "grey values", "results")
        rates = (value / 1e6 for value in machine[:5])
        units = ("Mvoxel/s", "MB/s", "MB/s", "Mvoxel/s", "Mvoxel/s")
        listed = (f"{word} {rate:.1f} {unit}" for word, rate, unit in zip(words, rates, units, strict=True))
        print(f"\nMeasured: {', '.join(listed)}, start {machine.start:.1f} s")
        if arguments.minutes:
            checkHere(folder, machine, arguments.minutes, arguments.across)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    rate = arguments.rate * 1e6 if arguments.rate else machine.rate
    for disk in [arguments.disk * 1e9] if arguments.disk else [machine.disk, 10e9, 100e9]:
        printTables(machine._replace(rate=rate, disk=disk))


if __name__ == "__main__":
    sys.exit(main())
