"""What benchmarks share: whole commands timed in turn, and the line that names the machine."""

import argparse
import datetime
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from engine.base.machine import instructionSet, processorName  # noqa: E402
from engine.base.records import packageVersions  # noqa: E402

INSTRUCTIONS = {  # what keeps oneDNN, PyTorch and the BLAS of NumPy to older ones
    "AVX2": {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "OPENBLAS_CORETYPE": "Haswell"}
}


class Run(NamedTuple):
    """One finished command."""

    seconds: float
    peakGiB: float  # largest resident size of the process


def runCommand(command: Sequence[str], folder: Path) -> Run:
    """Run a command to its end, quietly, and let the operating system account for it."""
    begin = time.perf_counter()
    with open(folder / "benchmark.log", "wb") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - begin
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{command} failed:\n{(folder / 'benchmark.log').read_text()}")
    return Run(seconds, usage.ru_maxrss / 2**20)


def runInTurn(commands: dict[str, Sequence[str]], folder: Path, repeats: int) -> dict[str, list[Run]]:
    """Run every command once to warm up, then all in turn, so that a drift of the machine hits all."""
    for command in commands.values():
        runCommand(command, folder)
    runs = {name: [] for name in commands}
    for _ in range(repeats):
        for name, command in commands.items():
            runs[name].append(runCommand(command, folder))
    return runs


def median(runs: Sequence[Run], field: str) -> float:
    """Middle value of one field."""
    return statistics.median(getattr(run, field) for run in runs)


def describeMachine() -> str:
    """Name processor, instructions, cores, date and versions, the line that stands above every table."""
    versions = ", ".join(f"{name} {version}" for name, version in packageVersions().items())
    limits = [f"{name}={os.environ[name]}" for name in INSTRUCTIONS["AVX2"] if name in os.environ]
    limit = f" ({' '.join(limits)})" if limits else ""
    processor = f"{processorName()}, {os.cpu_count()} cores, {instructionSet() or 'unknown'}{limit}"
    return f"{datetime.date.today()}, {processor}; {versions}"


def addInstructions(parser: argparse.ArgumentParser) -> None:
    """Add the flag that limits all sides to older instructions."""
    words = "keep all sides to these, as a processor that has no newer ones"
    parser.add_argument("--instructions", choices=tuple(INSTRUCTIONS), help=words)


def limitInstructions(name: str | None) -> None:
    """Limit this process and those that it starts."""
    os.environ.update(INSTRUCTIONS[name] if name else {})
