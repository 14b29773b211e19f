"""Speed and memory of the prediction against one pass of its peers, MONAI's sliding window and halo blocks.

    pip install -r benchmarks/requirements.txt -r benchmarks/requirements-peers.txt
    python3 benchmarks/prediction.py

Table 1 times the network alone, volume and probability in memory. Every side runs in a process of its own, so
that its peak memory is its own; the process warms up and times one prediction, and the sides take turns.
Table 2 times predictData.py from file to file; "net" is what the command notes in the record of its result
for all that grows with the volume (digests, statistics, prediction with reading and writing), "start-up" is
the rest of the seconds of the process; masks, particles and report are switched off, they have a benchmark of
their own, results.py. Table 3 makes the volume deeper, table 4 wider and the memory smaller. Where Keras sees
a GPU, a table for it follows. The volume is synthetic: a noisy cylinder along z with dark spheres in it.
"""

import argparse
import importlib.metadata
import importlib.util
import itertools
import json
import math
import re
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import measure
import peers

from engine.base.console import describeShape
from engine.base.machine import instructionSet
from engine.prediction.backends import chooseBackend
from engine.prediction.stream import describeStream

PRECISIONS = ("float32", "bfloat16", "float16")
HINT = "pip install -r benchmarks/requirements-peers.txt"
WINDOWS = (96, 128)  # sides of MONAI's windows
PRODUCTS = {"float32": ("numpy", "openvino"), "bfloat16": ("openvino", "torch"), "float16": ("openvino",)}
PRODUCT_SIDE = 4096
LARGE_BUDGET, BUDGETS = 4.9, (1, 2, 4)  # GiB, of table 4
RESULTS = ("mask", "segmentation", "labels", "particles", "scores", "report", "overview")  # switched off
WORK = ("digests", "statistics", "prediction")  # parts of a command that grow with the volume
DISK_BYTES = {"1": 24, "2": 9, "3": 7, "4": 7, "gpu": 9}  # a voxel of what `listShapes` gives


class Outcome(NamedTuple):
    """One finished process."""

    seconds: float  # of the prediction alone where the process tells them, else of the whole command
    peakGiB: float
    log: str
    answer: dict


# ---------------------------------------------------------------------------------------------- processes


def runTask(folder: Path, task: str, onGpu: bool = False, **options) -> Outcome:
    """Run a task in a process of its own, on the CPU unless told otherwise."""
    call = json.dumps({"task": task, "onGpu": onGpu, "options": options})
    outcome = runCommand(folder, [sys.executable, peers.__file__, call])
    answer = json.loads([line for line in outcome.log.splitlines() if line.startswith("{")][-1])
    return outcome._replace(answer=answer, seconds=answer.get("seconds", outcome.seconds))


def runCommand(folder: Path, command: list[str]) -> Outcome:
    """Run a command and keep what it printed."""
    run = measure.runCommand(command, folder)
    return Outcome(run.seconds, run.peakGiB, (folder / "benchmark.log").read_text(), {})


def runInTurn(sides: dict[str, Callable[[], Outcome]], repeats: int) -> dict[str, list[Outcome]]:
    """Run all sides in turn, several times, so that a drift of the machine hits all."""
    outcomes = {name: [] for name in sides}
    for _ in range(repeats):
        for name, side in sides.items():
            outcomes[name].append(side())
            print(f"{name}: {outcomes[name][-1].seconds:.2f} s", file=sys.stderr)
    return outcomes


def predictCommand(path: Path, *flags: str, engine: str = "openvino") -> list[str]:
    """Command that predicts a file."""
    names = ["--nameInput", str(path), "--nameOutput", str(path.with_name("result.nrrd"))]
    script = [sys.executable, str(measure.ROOT / "predictData.py")]
    only = [f"--no-{result}" for result in RESULTS]
    return [*script, *names, "--nameReference", "none", "--engine", engine, *only, *flags]


def predictAnew(folder: Path, command: list[str]) -> Outcome:
    """Run a prediction; a finished one would only be read again."""
    (folder / "result.nrrd").unlink(missing_ok=True)
    return runCommand(folder, command)


def predictFile(path: Path, *flags: str, engine: str = "openvino") -> Outcome:
    """Predict a file by the whole command; the answer is what it noted: seconds of its parts."""
    outcome = predictAnew(path.parent, predictCommand(path, *flags, engine=engine))
    return outcome._replace(answer=json.loads(path.with_name("result.json").read_text())["seconds"])


def timeFiles(paths: dict[str, Path], repeats: int, engine: str = "openvino") -> dict[str, list[Outcome]]:
    """Predict files in turn."""
    sides = {name: partial(predictFile, path, engine=engine) for name, path in paths.items()}
    runInTurn(sides, 1)  # to warm up
    return runInTurn(sides, repeats)


def netSeconds(runs: list[Outcome]) -> float:
    """Seconds without start-up."""
    return statistics.median(sum(run.answer[part] for part in WORK) for run in runs)


# -------------------------------------------------------------------------------------- table 1: the network


def listSides(folder: Path) -> dict[str, partial]:
    """List what is compared, the reference first."""
    volume, planes = str(folder / "volume.npy"), str(folder / "planes.npy")
    sides = {"Keras, one pass, float32": partial(runTask, folder, "predictByKeras", volume=volume)}
    sides |= _listOnePass(folder, volume)
    sides |= _listMonai(folder, volume)
    blocks = partial(runTask, folder, "predictByHaloBlocks", volume=volume)
    sides["halo blocks (first version), float32"] = blocks
    automatic = chooseBackend("openvino", "auto").precision
    for precision in listPrecisions():
        options = {"volume": planes, "engine": "openvino", "precision": precision}
        mark = " (auto)" if precision == automatic else ""
        sides[f"stream, {precision}{mark}"] = partial(runTask, folder, "predictByStream", **options)
    return sides


def listPrecisions() -> tuple[str, ...]:
    """List what this processor computes in; without AVX-512 the half precisions take minutes."""
    return PRECISIONS if instructionSet() in ("AMX", "AVX-512") else PRECISIONS[:1]


def _listOnePass(folder: Path, volume: str) -> dict[str, partial]:
    """List one pass of PyTorch and of OpenVINO; none where PyTorch is not installed."""
    if not importlib.util.find_spec("torch"):
        print(f"Left out: PyTorch and OpenVINO in one pass, as torch is not installed ({HINT})\n")
        return {}
    runTask(folder, "checkTorchNetwork")
    sides = {
        f"PyTorch, one pass, float32, channels {'last' if isLast else 'first'}": partial(
            runTask, folder, "predictByTorch", volume=volume, channelsLast=isLast
        )
        for isLast in (False, True)
    }
    sides["OpenVINO, one pass, float32"] = partial(runTask, folder, "predictByOpenvino", volume=volume)
    return sides


def _listMonai(folder: Path, volume: str) -> dict[str, partial]:
    """List MONAI's sides, each with its faster settings; none where it is not installed."""
    if not all(map(importlib.util.find_spec, ("torch", "monai"))):
        print(f"Left out: MONAI, as it or torch is not installed ({HINT})\n")
        return {}
    sides = {}
    for precision, window in itertools.product(listPrecisions()[:2], WINDOWS):
        options = {"precision": precision, "window": window}
        options |= runTask(folder, "chooseMonaiSettings", **options).answer
        name = f"MONAI, {precision}, windows of {window}^3, {options['batch']} at a time"
        name += ", channels last" if options["channelsLast"] else ""
        sides[name] = partial(runTask, folder, "predictByMonai", volume=volume, **options)
    return sides


def listProducts(folder: Path) -> dict[str, partial]:
    """List the matrix products that tell what the machine could do."""
    return {
        f"product {precision} {library}": partial(
            runTask, folder, "multiplyMatrices", library=library, precision=precision, side=PRODUCT_SIDE
        )
        for precision, libraries in PRODUCTS.items()
        for library in libraries
        if precision in listPrecisions()
        if importlib.util.find_spec(library)
    }


def warmUp(sides: dict[str, partial], folder: Path) -> tuple[dict[str, list[Outcome]], dict[str, dict]]:
    """Run every side once: {side: outcomes}, {side: differences from the first one}."""
    first, differences = {}, {}
    reference, result = (str(folder / name) for name in ("reference.npy", "result.npy"))
    for name, side in sides.items():
        target = result if first else reference
        try:
            first |= runInTurn({name: partial(side, result=target)}, 1)
        except RuntimeError as error:
            if not first:
                raise
            print(f"Left out: {name}, as it fails ({str(error).splitlines()[-1]})\n")
            continue
        differences[name] = runTask(folder, "compareResults", reference=reference, result=target).answer
    return first, differences


def printNetwork(arguments: argparse.Namespace, folder: Path, rates: dict[str, float]) -> None:
    """Print the table of the network; of MONAI's settings only the fastest one is timed again."""
    runTask(folder, "makeArrays", target=str(folder), shape=arguments.shape)
    sides, products = listSides(folder), listProducts(folder)
    first, differences = warmUp(sides, folder)
    monai = [name for name in first if name.startswith("MONAI")]
    slower = sorted(monai, key=lambda name: first[name][0].seconds)[1:]
    again = {name: sides[name] for name in first if name not in slower}
    outcomes = first | runInTurn(again | products, arguments.repeats)
    voxels, rows = math.prod(arguments.shape) / 1e6, []
    base = measure.median(outcomes[next(iter(first))], "seconds")
    for name, difference in differences.items():
        seconds, peak = (measure.median(outcomes[name], field) for field in ("seconds", "peakGiB"))
        mark = " (timed once)" if name in slower else ""
        row = [f"{name}{mark}", f"{voxels / seconds:.2f}", f"{seconds:.2f}", f"{peak:.2f}"]
        row += [f"{base / seconds:.2f}", f"{difference['largest']:.1e}", f"{difference['mean']:.1e}"]
        rows.append([*row, f"{100 * difference['agreement']:.4f} %"])
        if name.startswith("stream"):
            rates[name.split()[1]] = voxels / seconds
    head = "side | Mvoxel/s | seconds | peak GiB | speed ratio | largest difference | mean | equal masks"
    printTable(f"Network, {describeShape(arguments.shape)} voxels, memory to memory", head, rows)
    printLimit({key: outcomes[key] for key in products}, rates)


def printLimit(products: dict[str, list[Outcome]], rates: dict[str, float]) -> None:
    """Print what the rate of large matrix products would allow, and the share of it that is reached."""
    plan, weights = peers.readNetwork()
    counts = peers.countPublished(plan), peers.countStream(describeStream(plan, weights))
    best = {}
    for name, runs in products.items():
        _, precision, library = name.split()
        rate = statistics.median(run.answer["rate"] for run in runs)
        best[precision] = max(best.get(precision, (0.0, "")), (rate, library))
    rows = []
    for precision, (rate, library) in best.items():
        reached, limits = rates.get(precision, math.nan), [rate / count / 1e6 for count in counts]
        row = [precision, f"{rate / 1e9:.0f} ({library})", *(f"{limit:.2f}" for limit in limits)]
        rows.append([*row, f"{reached:.2f}", *(f"{100 * reached / limit:.0f} %" for limit in limits)])
    limits = " | ".join(f"limit at {count:.0f} a voxel" for count in counts)
    head = (
        f"precision | 1e9 multiply-adds/s | {limits} | stream, Mvoxel/s | share of the first | of the second"
    )
    printTable(f"Limit by matrix products of {PRODUCT_SIDE}^3, Mvoxel/s", head, rows)


# --------------------------------------------------------------------------------- tables 2 to 4: the command


def makeFile(folder: Path, shape: list[int], encoding: str = "raw") -> Path:
    """Write a volume."""
    path = folder / f"{describeShape(shape)}-{encoding}.nrrd"
    runTask(folder, "makeNrrd", path=str(path), shape=shape, encoding=encoding)
    return path


def printCommand(arguments: argparse.Namespace, folder: Path, rates: dict[str, float]) -> None:
    """Print the table of whole commands."""
    precision, rows = chooseBackend("openvino", "auto").precision, []
    paths = {encoding: makeFile(folder, arguments.shape, encoding) for encoding in ("raw", "gzip")}
    for encoding, runs in timeFiles(paths, arguments.repeats).items():
        seconds, net = measure.median(runs, "seconds"), netSeconds(runs)
        speed = math.prod(arguments.shape) / 1e6 / net
        share = f"{100 * speed / rates[precision]:.0f} %" if precision in rates else "-"
        row = [f"uint16, {encoding}", precision, f"{seconds:.2f}", f"{seconds - net:.2f}"]
        row += [f"{net:.2f}", f"{speed:.2f}", share]
        rows.append([*row, f"{measure.median(runs, 'peakGiB'):.2f}"])
    head = "input | precision | seconds | start-up | net | Mvoxel/s net | share of the network | peak GiB"
    printTable(f"Whole command, {describeShape(arguments.shape)} voxels, file to file", head, rows)


def printDepth(arguments: argparse.Namespace, folder: Path, rates: dict[str, float]) -> None:
    """Print the table of deeper and deeper volumes."""
    shapes = {describeShape(shape): shape for shape in listShapes("3", arguments)}
    rows, base = [], None
    paths = {name: makeFile(folder, shape) for name, shape in shapes.items()}
    for name, runs in timeFiles(paths, arguments.repeats).items():
        net = netSeconds(runs)
        speed = math.prod(shapes[name]) / 1e6 / net
        base = base or speed
        row = [name, f"{net:.2f}", f"{speed:.2f}", f"{base / speed:.3f}"]
        rows.append([*row, f"{measure.median(runs, 'peakGiB'):.2f}"])
    head = "volume | seconds net | Mvoxel/s net | time per voxel, relative | peak GiB"
    printTable("Depth, file to file", head, rows)


def printSection(arguments: argparse.Namespace, folder: Path, rates: dict[str, float]) -> None:
    """Print the table of large cross-sections and small budgets."""
    large, small = listShapes("4", arguments)
    cases = [(large, LARGE_BUDGET), *((small, budget) for budget in BUDGETS)]
    sides, rows = {}, []
    paths = {describeShape(shape): makeFile(folder, shape) for shape in (large, small)}
    for shape, budget in cases:
        name = f"{describeShape(shape)} in {budget:g} GiB"
        command = predictCommand(paths[describeShape(shape)], "--memoryBudget", str(budget))
        sides[name] = partial(predictAnew, folder, command)
    runInTurn(sides, 1)  # to warm up
    outcomes = runInTurn(sides, arguments.repeats)
    for (shape, budget), runs in zip(cases, outcomes.values(), strict=True):
        seconds, peak = (measure.median(runs, field) for field in ("seconds", "peakGiB"))
        slab, tiles, planned = readLayout(runs[-1].log)
        row = [describeShape(shape), f"{budget:g}", f"{planned:.2f}", f"{peak:.2f}", f"{peak / budget:.2f}"]
        row += [f"{tiles}", f"{slab}", f"{seconds:.1f}", f"{math.prod(shape) / 1e6 / seconds:.2f}"]
        rows.append(row)
    head = "volume | budget GiB | planned | peak GiB | peak / budget | tiles | slab | seconds | Mvoxel/s"
    printTable("Large cross-sections and small budgets, whole commands", head, rows)


def readLayout(log: str) -> tuple[int, int, float]:
    """Read from what predictData.py printed: planes at a time, tiles, GiB it expects to take."""
    words = r"Stream: (\d+) planes at a time, (?:one tile|(\d+) tiles.*), ([\d.]+) GiB"
    slab, tiles, memory = re.search(words, log).groups()
    return int(slab), int(tiles or 1), float(memory)


def printGpu(arguments: argparse.Namespace, folder: Path, rates: dict[str, float]) -> None:
    """Print the table of the GPU, from memory to memory and from file to file."""
    device = runTask(folder, "findGpu", onGpu=True).answer["gpu"]
    arrays, shape = listShapes("gpu", arguments)
    runTask(folder, "makeArrays", target=str(folder), shape=arrays)
    options = {"volume": str(folder / "planes.npy"), "engine": "keras", "onGpu": True}
    sides = {
        f"{describeShape(arrays)}, {precision}, memory to memory": partial(
            runTask, folder, "predictByStream", precision=precision, **options
        )
        for precision in ("bfloat16", "float32")
    }
    timed = runInTurn(sides, arguments.repeats)
    paths = {f"{describeShape(shape)}, file to file, net": makeFile(folder, shape)}
    timed |= timeFiles(paths, arguments.repeats, "keras")
    rows = []
    for (name, runs), size in zip(timed.items(), (arrays, arrays, shape), strict=True):
        net = netSeconds(runs) if runs[0].answer.keys() >= set(WORK) else measure.median(runs, "seconds")
        row = [name, f"{net:.2f}", f"{math.prod(size) / 1e6 / net:.1f}"]
        rows.append([*row, f"{measure.median(runs, 'peakGiB'):.2f}"])
    printTable(f"GPU: {device}", "volume | seconds | Mvoxel/s | peak GiB of the host", rows)


# -------------------------------------------------------------------------------------------------- the run


TABLES = {"1": printNetwork, "2": printCommand, "3": printDepth, "4": printSection, "gpu": printGpu}


def listShapes(table: str, arguments: argparse.Namespace) -> list[list[int]]:
    """Volumes (x, y, z) that a table takes."""
    return {
        "1": [arguments.shape],
        "2": [arguments.shape],
        "3": [[*arguments.shape[:2], depth] for depth in arguments.depths],
        "4": [arguments.largeShape, arguments.budgetShape],
        "gpu": [arguments.gpuArrayShape, arguments.gpuShape],
    }[table]


def chooseTables(arguments: argparse.Namespace) -> list[str]:
    """List the tables that are wanted, that of the GPU only where there is one; SystemExit on a full disk."""
    tables = arguments.tables.split(",")
    if not set(tables) <= set(TABLES):
        raise SystemExit(f"--tables takes some of {','.join(TABLES)}")
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        if "gpu" in tables and not runTask(Path(folder), "findGpu", onGpu=True).answer["gpu"]:
            tables.remove("gpu")
    free = shutil.disk_usage(arguments.folder).free
    for table in tables:
        needed = DISK_BYTES[table] * sum(map(math.prod, listShapes(table, arguments)))
        if needed > free:
            sizes = f"{needed / 2**30:.1f} GiB of disk, {free / 2**30:.1f} are free"
            raise SystemExit(f"table {table} needs {sizes}: choose another --folder")
    return tables


def printTable(title: str, head: str, rows: list[list[str]]) -> None:
    """Print a table as Markdown."""
    print(f"### {title}\n\n| {head} |")
    print("|---" * (head.count("|") + 1) + "|")
    for row in rows:
        print(f"| {' | '.join(row)} |")
    print(flush=True)


def describeMachine() -> str:
    """Name the machine, what its processor can do in bfloat16, and the versions of the peers."""
    cpu = Path("/proc/cpuinfo")
    flags = cpu.read_text(encoding="ascii", errors="replace").split() if cpu.exists() else []
    units = [f"{flag} {'yes' if flag in flags else 'no'}" for flag in ("amx_bf16", "avx512_bf16")]
    names = [name for name in ("torch", "monai") if importlib.util.find_spec(name)]
    versions = [f"{name} {importlib.metadata.version(name)}" for name in names]
    return ", ".join([measure.describeMachine(), *versions]) + f"; {', '.join(units)}"


def parseArguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--tables", default="1,2,3,4,gpu", help="which ones, with commas")
    parser.add_argument("--repeats", type=int, default=5)
    measure.addInstructions(parser)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="of temporary files")
    shapes = {"shape": (256, 256, 512), "largeShape": (1024, 1024, 256), "budgetShape": (512, 512, 256)}
    shapes |= {"gpuArrayShape": (512, 512, 512), "gpuShape": (1024, 1024, 1024)}
    for name, shape in shapes.items():
        parser.add_argument(f"--{name}", type=int, nargs=3, default=list(shape), metavar=tuple("xyz"))
    parser.add_argument("--depths", type=int, nargs="+", default=[256, 512, 1024, 2048], help="of table 3")
    return parser.parse_args(argv)


def main(arguments: argparse.Namespace) -> None:
    """Measure and print table by table."""
    measure.limitInstructions(arguments.instructions)
    tables = chooseTables(arguments)
    print(f"{describeMachine()}; median of {arguments.repeats} after a warm-up\n", flush=True)
    rates: dict[str, float] = {}  # Mvoxel/s of the stream, by precision
    for table in tables:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            TABLES[table](arguments, Path(folder), rates)


if __name__ == "__main__":
    main(parseArguments())
