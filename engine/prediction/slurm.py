"""A prediction as jobs of SLURM: a script that submits the parts of a result as an array, then the results.

Every job gets what it needs from the plan: memory from the layout, time from one timed slab, a GPU where the
back end computes on one. A job that comes near its time limit is told so by SIGUSR1, ends python cleanly
and is queued again. SIGTERM is left to `scancel` and to a preemption, after which nothing shall come back.
"""

import math
import os
import sys
from pathlib import Path
from typing import Any, NamedTuple

from engine.base.console import describeDuration
from engine.base.errors import PipelineError
from engine.base.machine import LIMITS, coreCount
from engine.base.parameters import NOTHING, Settings
from engine.base.records import readJson
from engine.base.words import joinWords
from engine.prediction.backends import Backend, availableMemory
from engine.prediction.journal import SHARED, Journal
from engine.prediction.layout import GIB, Layout, tileSection
from engine.prediction.parts import chooseCount, cutParts, measureTask
from engine.prediction.request import Request
from engine.prediction.run import Run, openNetwork, prepareRun
from engine.prediction.shared import Sharing
from engine.prediction.stream import Step
from engine.prediction.tiles import timeSlab

AUTO = "auto"
SAFETY = 2.0  # times what is expected: other nodes, other jobs beside it
LEAST_MINUTES = 10  # SLURM warns up to two minutes before the limit
START_SECONDS = 120  # libraries from a shared disk, compilation
WARNING_SECONDS = 60  # before the limit; SLURM may be another 60 early
MOST_RESTARTS = 20  # of a job, by time limits and nodes that die
READING = 100e6  # bytes a second of a shared disk that others use as well
RESULTS = 6e6  # voxels a second through labels, table and report: a quarter of benchmarks/results.py
PACKING = 2e7  # bytes a second through gzip
MARGIN, SPARE = 1.25, 0.5  # of the memory: times, and GiB more
RESULTS_GIB = 1.5  # with libraries; planes come in small slabs
RESULTS_BYTES = 0.04  # a voxel: one particle in 10,000 voxels, 400 bytes each
GPU_HOST_GIB, GPU_HOST_CORES = 8.0, 4  # beside a GPU: libraries, planes on their way; reading and writing
INHERITED = ("KERAS_BACKEND", *LIMITS)  # of the environment: what the bytes depend on
OWN = {"slurm", "part", "dryRun", "nameInput", "nameOutput", "engine", "precision", "memoryBudget"}

LISTENING = (
    "isNearLimit=",
    "# the time limit is near: python ends cleanly, with 143",
    "trap 'isNearLimit=1; kill -TERM \"$worker\"' USR1",
    "# scancel, preemption: SLURM tells python as well",
    "trap : TERM",
)
WAITING = (
    "worker=$!",
    "# a signal ends a wait, not the work",
    'while kill -0 "$worker" 2>/dev/null; do wait "$worker"; done',
    'wait "$worker"',
    "code=$?",
    f'if [ "$isNearLimit" ] && [ $code = 143 ] && [ $((SLURM_RESTART_COUNT)) -lt {MOST_RESTARTS} ]; then',
)


class Needs(NamedTuple):
    """What a job asks SLURM for."""

    minutes: int
    memory: int  # MiB
    coreCount: int
    hasGpu: bool

    def options(self) -> list[str]:
        """Give the options of sbatch that say so."""
        time = f"--time={self.minutes // 60:02}:{self.minutes % 60:02}:00"
        gpu = ["--gres=gpu:1"] if self.hasGpu else []
        return [*gpu, f"--cpus-per-task={self.coreCount}", f"--mem={self.memory}M", time]


class Comments(list[str]):
    """Lines that are kept for the script instead of being printed; called as `say` is."""

    def __call__(self, *lines: str) -> None:
        """Keep some lines."""
        self.extend(lines)


# ------------------------------------------------------------------------------------------- what is decided


def parseCount(text: str) -> int:
    """Read the number of parts that is asked for; 0: auto.

    Raises
    ------
    PipelineError
        It is neither a number from 1 on nor auto.
    """
    if text == AUTO:
        return 0
    if not (text.isascii() and text.isdecimal() and int(text)):
        raise PipelineError("slurm must be a number of parts, like 32, or auto", received=repr(text))
    return int(text)


def planRun(wish: str, part: str, request: Request, backend: Backend, network: tuple[list[Step], Any]) -> Run:
    """Decide how a result is cut into parts; nothing is written.

    Parameters
    ----------
    wish : str
        Number of parts, or auto: as many as keep the extra work at a tenth.
    part : str
        Part that is asked for as well, which cannot be.
    request : Request
    backend : Backend
    network : tuple
        Steps of the stream, and `Geometry`.

    Raises
    ------
    PipelineError
        No such number; more parts than tasks; the result was begun in another number of parts.
    """
    steps, geometry = network
    count = parseCount(wish)
    if part:
        raise PipelineError("either --slurm or --part: the script gives every job its part", received=part)
    record = readJson(Journal(request.nameOutput).record) or {}
    begun = record.get(SHARED, 0)
    if begun and count not in (0, begun):
        rule, remedy = "the result was begun in another number of parts", f"--slurm {begun} goes on with it"
        raise PipelineError(rule, file=request.nameOutput, expected=begun, received=count, remedy=remedy)
    if not (count or begun):
        alone = prepareRun(request, backend, geometry, steps, True)
        count = chooseCount(geometry, alone.layout)
    run = prepareRun(request, backend, geometry, steps, True, Sharing(count=count or begun))
    return run._replace(layout=Layout(*record["layout"])) if begun else run


def longestPart(run: Run) -> float:
    """Count the slabs of the longest part."""
    geometry, layout = run.geometry, run.layout
    parts = cutParts(geometry, layout, run.sharing.count)
    work = max(sum(measureTask(geometry, layout, task) for task in part) for part in parts)
    return work / (layout.slab * math.prod(tileSection(geometry, layout)))


def estimateParts(run: Run, slabSeconds: float) -> Needs:
    """Tell what the longest part needs, from the seconds that one slab takes."""
    volume = run.request.volume
    reading = 2 * math.prod(volume.shape) * volume.dtype.itemsize / READING  # digest and statistics
    seconds = START_SECONDS + reading + SAFETY * longestPart(run) * slabSeconds
    memory = GPU_HOST_GIB if run.backend.isGpu else MARGIN * run.layout.memory + SPARE
    cores = min(GPU_HOST_CORES, coreCount()) if run.backend.isGpu else coreCount()
    return Needs(_minutesOf(seconds), _mebibytes(memory), cores, run.backend.isGpu)


def estimateResults(run: Run, parts: Needs) -> Needs:
    """Tell what the results need: time and memory by the voxels; as much memory as a part that is missing."""
    volume, voxelCount = run.request.volume, math.prod(run.request.shape)
    seconds = START_SECONDS + voxelCount / RESULTS
    seconds += 2 * math.prod(volume.shape) * volume.dtype.itemsize / READING
    if run.request.outputEncoding == "gzip":
        seconds += 4 * voxelCount / PACKING
    memory = _mebibytes(RESULTS_GIB + RESULTS_BYTES * voxelCount / GIB)
    needsGpu = parts.hasGpu and run.backend.precision == "float16"  # which Keras has on GPUs alone
    return Needs(_minutesOf(seconds), max(memory, parts.memory), parts.coreCount, needsGpu)


def _minutesOf(seconds: float) -> int:
    """Give a time limit in whole minutes, the warning included."""
    return max(LEAST_MINUTES, math.ceil((seconds + 2 * WARNING_SECONDS) / 60))


def _mebibytes(gibibytes: float) -> int:
    """Give whole MiB."""
    return math.ceil(gibibytes * 1024)


# -------------------------------------------------------------------------------------------- what is printed


def writeScript(run: Run, settings: Settings, script: Path, said: Comments) -> list[str]:
    """Write the script that submits all jobs of a prediction.

    Parameters
    ----------
    run : Run
        From `planRun`; its network is built here, and one slab is timed.
    settings : Settings
        The user's parameters.
    script : Path
        predictData.py.
    said : Comments
        What there is to say of the run; it stands at the beginning.

    Returns
    -------
    list of str
        Lines of Bash. Options of its call go to both calls of sbatch.

    Raises
    ------
    PipelineError
        A name cannot be given to SLURM.
    """
    seconds = timeSlab(openNetwork(run), tileSection(run.geometry, run.layout))
    parts = estimateParts(run, seconds)
    results = estimateResults(run, parts)
    expected = longestPart(run) * seconds
    estimate = f"Estimate: {describeDuration(expected)} for the longest part here (a slab: {seconds:.3f} s)"
    command, count = writeCommand(run, settings, script), run.sharing.count
    index, job = "$SLURM_ARRAY_TASK_ID", "${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}"
    array = [f"--array=0-{count - 1}", *parts.options()]
    scripts = [
        _writeJob(array, f'{command} --part "{index}/{count}"', job, script.parent),
        _writeJob(results.options(), command, "$SLURM_JOB_ID", script.parent),
    ]
    return _writeSubmission(run, count, [*said, estimate], scripts)


def _writeSubmission(run: Run, count: int, said: list[str], scripts: list[list[str]]) -> list[str]:
    """Write what calls sbatch twice."""
    output = run.request.nameOutput
    parts, results = (f'sbatch --parsable {_nameJob(output, kind)} "$@"' for kind in ("part-%a", "results"))
    after = '"--dependency=afterok:${array%%;*}" --kill-on-invalid-dep=yes'
    return [
        "#!/bin/bash",
        f"# {count} parts of {output.name}, and the results when all are predicted. Saved as job.sh:",
        "#     bash job.sh                                    to be repeated at any time: it goes on",
        "#     bash job.sh --partition=NAME --account=NAME    with options of sbatch, for both jobs",
        "# All nodes must have the same kind of processor, or of GPU: docs/clusters.md.",
        *(f"# {line}" for line in said),
        *("set -e", ""),
        *("submitParts() {", f"    {parts} <<'END'", *scripts[0], "END", "}", ""),
        *("submitResults() {", f"    {results} {after} <<'END'", *scripts[1], "END", "}", ""),
        'array=$(submitParts "$@")',
        f'echo "{count} parts: job ${{array%%;*}}"',
        'results=$(submitResults "$@")',
        'echo "results: job ${results%%;*}, when all parts are predicted"',
    ]


def _writeJob(options: list[str], command: str, job: str, folder: Path) -> list[str]:
    """Write what a node runs: python, told of the time limit, and queued again after it."""
    chosen = [f"export {name}={joinWords([os.environ[name]])}" for name in INHERITED if name in os.environ]
    common = ["--requeue", f"--signal=B:USR1@{WARNING_SECONDS}", "--open-mode=append"]
    return [
        "#!/bin/bash",
        *(f"#SBATCH {option}" for option in (*options, *common)),
        f"cd {joinWords([os.fspath(folder)])} || exit",
        *(*chosen, *LISTENING),
        f"{command} &",
        *WAITING,
        f'    scontrol requeue "{job}"',
        *("fi", "exit $code"),
    ]


def _nameJob(output: Path, kind: str) -> str:
    """Name a job, and the file beside the result that gets what it says; %a is the number of the part."""
    stem = os.path.abspath(output.with_suffix(""))
    if "\\" in stem or not stem.isprintable():
        rule, remedy = "SLURM cannot write beside a result of this name", "choose another --nameOutput"
        raise PipelineError(rule, file=output, remedy=remedy)
    log = f"{stem.replace('%', '%%')}_{kind}.log"
    return joinWords([f"--job-name={output.stem}", f"--output={log}"])


def writeCommand(run: Run, settings: Settings, script: Path) -> str:
    """Write the user's command with absolute paths, and with all that is to be the same on every node."""
    request, backend = run.request, run.backend
    budget = max(request.memoryBudget or availableMemory(backend), run.layout.memory)
    fixed = {
        "nameInput": settings.nameInput,
        "nameOutput": request.nameOutput,
        "engine": backend.engine,
        "precision": backend.precision,
        "memoryBudget": f"{math.ceil(budget * 100) / 100:g}",
    }
    words = [sys.executable, os.path.abspath(script)]
    given = {name: value for name, value in settings.given.items() if name not in OWN}
    if request.otherFiles and "momentsOf" in given:
        given["momentsOf"] = Path(given["momentsOf"])
    for name, value in (fixed | given).items():
        words += _writeFlag(name, value)
    return joinWords(words)


def _writeFlag(name: str, value: object) -> list[str]:
    """Write a parameter as words of a command."""
    if isinstance(value, bool):
        return [f"--{name}" if value else f"--no-{name}"]
    isFile = isinstance(value, Path) and str(value) not in ("", ".", NOTHING)
    text = os.path.abspath(value) if isFile else str(value)
    return [f"--{name}={text}"] if text.startswith("-") else [f"--{name}", text]
