"""How long 1, 10 and 100 TB take on 1 to 1024 workers, what limits first, and whether that is true here.

    python3 benchmarks/scale.py                         # an hour: measures, predicts a scan twice, compares
    python3 benchmarks/scale.py --minutes 8 --across 512
    python3 benchmarks/scale.py --minutes 0 --rate 300 --disk 50   # Mvoxel/s of a worker, GB/s of the disk

Rates of this machine come from two scans of the same section and different depths: what grows with the depth
is a rate, what does not is an overhead. The network is timed slab by slab on the layout of the scan.
The check predicts a scan as large as the minutes allow, by one process and by parts at the same time, each
on its share of the cores, as a user would, and compares with the model (scaleModel.py). Rates of GPUs are
given by hand (--rate): the default ones are assumptions, and nothing else of a GPU is known to the model.
"""

import argparse
import functools
import json
import math
import os
import shutil
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import measure
import scaleModel
from clusters import digestOf, makeScan, predictCommand
from scaleModel import GB, GREY_BYTES, MEGA, PROBABILITY_BYTES, RANGE_SLAB, Job, Machine, Stage

from engine.base.console import describeShape
from engine.base.machine import coreSets, preferInstructions
from engine.base.ranges import cutRanges
from engine.base.records import digestFile
from engine.prediction.backends import baseMemory, chooseBackend, openStream
from engine.prediction.layout import Geometry, chooseLayout, costOf, tileSection
from engine.prediction.parts import costOfParts, partFactor
from engine.prediction.tiles import timeSlab

SLAB_COUNT = 7  # timed slabs
BLOCK_BYTES = 1 << 24
TINY = (96, 96, 64)
SPARE = 0.9  # of the minutes: machines are not always equally fast
FREE = {"start": 0.0, "finish": 0.0, "merge": 0.0}  # what does not grow with the volume
LAPS = {  # of the record of a result, by stages of the model
    "grey values": ("statistics",),
    "network": ("prediction",),
    "digest": ("digests",),
    "results": ("reading back", "particles", "picture"),
}
CPU_MEMORY, GPU_MEMORY = 8.0, 56.0  # GiB of a worker: what predictData.py takes at most; 0.7 of 80
ASSUMED_RATES = (100.0, 1000.0)  # Mvoxel/s of a GPU: no GPU has been measured in this project


class Timed(NamedTuple):
    """A finished command that made results."""

    seconds: float
    laps: dict[str, float]  # of its record
    digest: str  # of the probability
    resultBytes: int  # of all other results

    def stage(self, name: str) -> float:
        """Seconds of a stage of the model."""
        return sum(self.laps.get(lap, 0.0) for lap in LAPS[name])


# ----------------------------------------------------------------------------------------------- commands


def predict(folder: Path, scan: Path, memory: float) -> Timed:
    """Predict a scan, or make the results of its parts; nothing of it is kept."""
    output = folder / "result.nrrd"
    run = measure.runCommand(predictCommand(scan, output, "--memoryBudget", memory), folder)
    made = list(folder.glob("result*"))
    resultBytes = sum(path.stat().st_size for path in made if path != output)
    laps = json.loads(output.with_suffix(".json").read_text())["seconds"]
    timed = Timed(run.seconds, laps, digestOf(output), resultBytes)
    for path in made:
        path.unlink()
    return timed


def runTogether(commands: list[list[str]], folder: Path) -> list[str]:
    """Run commands at the same time, each on its share of the cores; gives what they printed."""
    places, cores = [folder / f"{number}" for number in range(len(commands))], coreSets(len(commands), 0)
    for place in places:
        place.mkdir(exist_ok=True)
    if shutil.which("taskset"):
        pins = [["taskset", "-c", ",".join(map(str, own))] for own in cores]
        commands = [[*pin, *command] for pin, command in zip(pins, commands, strict=True)]
    with ThreadPoolExecutor(len(commands)) as pool:
        list(pool.map(measure.runCommand, commands, places))
    return [(place / "benchmark.log").read_text() for place in places]


def predictParts(folder: Path, scan: Path, memory: float, count: int) -> tuple[float, Timed]:
    """Predict a scan in parts at the same time, then make the results; seconds of the parts, and the rest."""
    words = "--memoryBudget", memory, "--part"
    output = folder / "result.nrrd"
    commands = [predictCommand(scan, output, *words, f"{number}/{count}") for number in range(count)]
    begin = time.perf_counter()
    runTogether(commands, folder)
    return time.perf_counter() - begin, predict(folder, scan, memory)


# ------------------------------------------------------------------------------------------- this machine


def timeNetwork(shape: tuple[int, int, int], memory: float, count: int) -> dict[str, float]:
    """Time slabs of the layout that a scan gets in so many parts (0: one process), in this process."""
    preferInstructions("auto", "auto")
    backend = chooseBackend("auto", "auto")
    steps, cell, halo = scaleModel.readSteps()
    geometry = Geometry(shape[::-1], cell, halo)
    cost = functools.partial(costOfParts, count) if count else costOf
    layout = chooseLayout(geometry, steps, backend.byteCount, memory, baseMemory(backend), cost)
    section = tileSection(geometry, layout)
    stream = openStream(backend, steps, layout.slab, section)
    seconds = statistics.median(timeSlab(stream, section) for _ in range(SLAB_COUNT))
    factor = partFactor(geometry, layout, max(count, 1))
    return {"rate": layout.slab * math.prod(section) / seconds, "factor": factor}


def measureNetwork(folder: Path, shape: tuple[int, int, int], memory: float, count: int) -> dict[str, float]:
    """Time the network in processes at the same time; the mean rate of a worker, and the work of all."""
    words = ["--timed", *map(str, (*shape, memory, count))]
    texts = runTogether([[sys.executable, __file__, *words]] * max(count, 1), folder)
    answers = [json.loads(text.splitlines()[-1]) for text in texts]
    return {name: statistics.mean(answer[name] for answer in answers) for name in answers[0]}


def measureDisk(folder: Path, byteCount: int) -> dict[str, float]:
    """Write, read and digest a file, bytes a second; written means on the disk, read means from it."""
    path, block = folder / "probe", os.urandom(BLOCK_BYTES)
    blockCount = max(byteCount // BLOCK_BYTES, 1)
    begin = time.perf_counter()
    with open(path, "wb", buffering=0) as file:
        for _ in range(blockCount):
            file.write(block)
        os.fsync(file.fileno())
        written = time.perf_counter() - begin
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    begin = time.perf_counter()
    with open(path, "rb", buffering=0) as file:
        while file.read(BLOCK_BYTES):
            pass
    read, begin = time.perf_counter() - begin, time.perf_counter()
    digestFile(path)  # from the cache, where it fits
    seconds = {"read": read, "write": written, "digest": time.perf_counter() - begin}
    path.unlink()
    return {name: blockCount * BLOCK_BYTES / spent for name, spent in seconds.items()}


def fitLine(small: float, large: float, first: float, second: float) -> tuple[float, float]:
    """Give (rate, overhead) of what took so long for a small and a large amount."""
    if second <= first:  # noise: nothing is left but the large one
        return large / max(second, 1e-3), 0.0
    rate = (large - small) / (second - first)
    return rate, max(second - large / rate, 0.0)


def measureMerge(folder: Path) -> float:
    """Measure how long it takes to join what is known of a range: in the command after two parts."""
    scan = folder / "tiny.nrrd"
    makeScan(scan, TINY)
    _, timed = predictParts(folder, scan, CPU_MEMORY, 2)
    scan.unlink()
    return timed.stage("grey values") / len(cutRanges(TINY, RANGE_SLAB))


def measureMachine(folder: Path, across: int, depths: list[int], memory: float, probe: int) -> Machine:
    """Measure what the stages take here, with two scans of one section."""
    scan, runs, voxels = folder / "scan.nrrd", [], [across**2 * depth for depth in depths]
    for depth in depths:
        makeScan(scan, (across, across, depth))
        runs.append(predict(folder, scan, memory))
    scan.unlink()
    fits = {name: fitLine(*voxels, *(run.stage(name) for run in runs)) for name in LAPS}
    last = runs[-1]
    network = measureNetwork(folder, (across, across, depths[-1]), memory, 0)
    return Machine(
        network=network["rate"],
        look=fits["grey values"][0],
        results=fits["results"][0],
        start=last.seconds - sum(map(last.stage, LAPS)),
        merge=measureMerge(folder),
        finish=fits["results"][1],
        **measureDisk(folder, probe),
        resultBytes=last.resultBytes / voxels[-1],
    )


# ---------------------------------------------------------------------------------------------- the check


def chooseDepth(minutes: float, across: int, machine: Machine, free: float) -> int:
    """Choose how deep a scan may be that one process and then parts predict in the minutes given."""
    one = Job(1.0, 1.2)  # two workers with half of the cores each take about as long, and repeat planes
    perVoxel = 2 * sum(stage.seconds for stage in scaleModel.listStages(one, machine._replace(**FREE)))
    seconds = minutes * 60 * SPARE - 3 * (machine.start + machine.finish)
    fitting = free * SPARE / (GREY_BYTES + PROBABILITY_BYTES + 2 * machine.resultBytes)
    return max(int(min(seconds / perVoxel, fitting) / across**2) // RANGE_SLAB, 2) * RANGE_SLAB


def compareStages(
    name: str, expected: list[Stage], measured: dict[str, float], total: float
) -> list[list[str]]:
    """List rows of a run: stages of the model beside what they took, where the command tells, and the sum."""
    model = {stage.name: stage.seconds for stage in expected}
    model["results"] += model["finish"]  # one lap of the command
    pairs = {stage: (model[stage], measured[stage]) for stage in measured}
    pairs["all"] = scaleModel.totalSeconds(expected), total
    return [
        [name, stage, f"{wanted:.1f}", f"{found:.1f}", f"{found / wanted:.2f}" if wanted > 1 else ""]
        for stage, (wanted, found) in pairs.items()
    ]


def check(folder: Path, shape: tuple[int, int, int], machine: Machine, memory: float, count: int) -> None:
    """Predict a scan by one process and by parts, and print what the model says beside what it took."""
    scan, voxels, ranges = folder / "scan.nrrd", math.prod(shape), len(cutRanges(shape, RANGE_SLAB))
    makeScan(scan, shape)
    alone, shared = (measureNetwork(folder, shape, memory, parts) for parts in (0, count))
    one = Job(voxels, alone["factor"], ranges)
    many = Job(voxels, shared["factor"], ranges, count)
    expected = scaleModel.listStages(one, machine._replace(network=alone["rate"]))
    timed = predict(folder, scan, memory)
    rows = compareStages("one process", expected, {name: timed.stage(name) for name in LAPS}, timed.seconds)
    expected = scaleModel.listStages(many, machine._replace(network=shared["rate"]))
    expected.append(Stage("second start", machine.start))
    seconds, rest = predictParts(folder, scan, memory, count)
    name, known = f"{count} parts", {"merge": rest.stage("grey values"), "results": rest.stage("results")}
    rows += compareStages(name, expected, known, seconds + rest.seconds)
    rates = (
        f"network {alone['rate'] / MEGA:.2f} Mvoxel/s in one process, {shared['rate'] / MEGA:.2f} a worker"
    )
    work = f"work of {count} parts {shared['factor']:.2f} times the volume, of one {alone['factor']:.2f}"
    same = "equal" if timed.digest == rest.digest else "NOT EQUAL"
    size = f"{describeShape(shape)} voxels, {voxels * GREY_BYTES / GB:.2f} GB"
    printTable(f"Model and measurement, {size}", "run | stage | model, s | measured, s | ratio", rows)
    print(f"Timed before the runs: {rates}; {work}. Probabilities of both runs: {same}.\n", flush=True)
    scan.unlink()


# ----------------------------------------------------------------------------------------------- the tables


def printTable(title: str, head: str, rows: list[list[str]]) -> None:
    """Print a table as Markdown."""
    print(f"### {title}\n\n| {head} |\n{'|---' * (head.count('|') + 1)}|")
    print("\n".join(f"| {' | '.join(row)} |" for row in rows), end="\n\n", flush=True)


def printMachine(machine: Machine) -> None:
    """Print what was measured here."""
    voxelRates = {
        "network, a worker": machine.network,
        "grey values": machine.look,
        "results": machine.results,
    }
    byteRates = {"SHA-256 of the scan": machine.digest, "reading": machine.read, "writing": machine.write}
    seconds = {"start of a worker": machine.start, "results, whatever the volume": machine.finish}
    rows = [[name, f"{rate / MEGA:.1f} Mvoxel/s"] for name, rate in voxelRates.items()]
    rows += [[name, f"{rate / MEGA:.0f} MB/s"] for name, rate in byteRates.items()]
    rows += [[name, f"{value:.1f} s"] for name, value in seconds.items()]
    rows.append(["joining a range of the grey values", f"{machine.merge * 1000:.0f} ms"])
    printTable("This machine", "what | measured", rows)


def printPlans(machine: Machine, arguments: argparse.Namespace) -> None:
    """Print the tables of all rates."""
    rates = [
        (rate, GPU_MEMORY, "given" if arguments.rate else "assumed")
        for rate in arguments.rate or ASSUMED_RATES
    ]
    if not arguments.rate:
        rates.insert(0, (machine.network / MEGA, CPU_MEMORY, "measured here"))
    by = f"{arguments.resultProcesses} processes" if arguments.resultProcesses else "all workers"
    counts, sizes = arguments.workers, arguments.sizes
    names = " | ".join(f"{count} worker{'s' if count > 1 else ''}" for count in counts)
    for rate, memory, why in rates:
        head = f"TB | GB/s of all | {names}"
        own = machine._replace(network=rate * MEGA)
        rows = scaleModel.tabulate(own, sizes, arguments.disk, counts, memory, arguments.resultProcesses)
        title = f"{rate:.4g} Mvoxel/s a worker ({why}), {memory:g} GiB each, results by {by}"
        printTable(title, head, rows)
    head = f"TB (cube) | {names}"
    rows = scaleModel.tabulateFactors(sizes, counts, GPU_MEMORY)
    printTable(f"Work of the parts, in passes over the volume, {GPU_MEMORY:g} GiB a worker", head, rows)
    rows = scaleModel.tabulateSerial(machine, sizes, max(arguments.disk))
    printTable("What one process takes", "TB | digest | joining | results, if one makes them", rows)


def parseArguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("--minutes", type=float, default=60.0, help="of the check; 0: none")
    add("--rate", type=float, nargs="+", help="Mvoxel/s of a worker; default: measured here, and two assumed")
    add("--disk", type=float, nargs="+", default=[1.0, 10.0, 100.0], help="GB/s of all processes together")
    add("--sizes", type=float, nargs="+", default=[1.0, 10.0, 100.0], help="TB of uint16 voxels")
    add("--workers", type=int, nargs="+", default=[1, 4, 16, 64, 256, 1024])
    add("--resultProcesses", type=int, default=0, help="that make the results; 0: all workers")
    add("--across", type=int, default=1024, help="voxels along x and y of what is predicted here")
    add("--depths", type=int, nargs=2, default=[64, 192], help="of the two scans that rates come from")
    add("--parts", type=int, default=2, help="processes of the check")
    add("--memoryBudget", type=float, default=3.0, help="GiB of a process of the check")
    add("--probe", type=float, default=4.0, help="GB of the file that times the disk")
    add("--folder", type=Path, help="of the scans; default: a temporary one")
    add("--timed", nargs=5, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main(arguments: argparse.Namespace) -> None:
    """Measure, check, print; or time the network for another process."""
    if arguments.timed:
        *shape, memory, count = arguments.timed
        print(json.dumps(timeNetwork(tuple(map(int, shape)), float(memory), int(count))))
        return
    across, memory = arguments.across, arguments.memoryBudget
    preferInstructions("auto", "auto")
    backend = chooseBackend("auto", "auto")
    print(f"{measure.describeMachine()}; {backend.engine}, {backend.precision}\n", flush=True)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        machine = measureMachine(folder, across, arguments.depths, memory, round(arguments.probe * GB))
        printMachine(machine)
        if arguments.minutes:
            depth = chooseDepth(arguments.minutes, across, machine, shutil.disk_usage(folder).free)
            check(folder, (across, across, depth), machine, memory, arguments.parts)
    printPlans(machine, arguments)


if __name__ == "__main__":
    main(parseArguments())
