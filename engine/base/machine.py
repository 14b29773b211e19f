"""The processor, and which of its vector instructions oneDNN uses: the kernels of TensorFlow and OpenVINO."""

import contextlib
import functools
import os
import platform
import subprocess
import sys
from pathlib import Path, PurePosixPath

from engine.base.errors import PipelineError

GROUP_FILES_1 = "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"  # of version 1
GROUP_FILES_2 = "memory.max", "memory.current", "inactive_file"

CPU_INFO = Path("/proc/cpuinfo")
SETS = {"AMX": "amx_bf16", "AVX-512": "avx512dq", "AVX2": "avx2", "AVX": "avx", "SSE4.1": "sse4_1"}  # by flag
LIMITS = "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"  # what oneDNN reads; the second one is the older name
LANES = {"AMX": 16, "AVX-512": 16}  # float32 numbers in a register


def processorName() -> str:
    """Model name of the processor."""
    return _readProcessor().get("model name") or platform.processor() or platform.machine()


def coreCount() -> int:
    """Count the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def describeCores() -> str:
    """Tell how many cores this process may use."""
    count = coreCount()
    return f"{count} core{'s' if count > 1 else ''}"


def coreSets(count: int, size: int) -> list[list[int]]:
    """Share the cores that this process may use out to workers.

    Parameters
    ----------
    count : int
        Of the workers; 0: as many as there are shares of `size` cores.
    size : int
        Cores of each; 0: equal shares of all, or one where `count` is 0 too.

    Returns
    -------
    list of list of int
        Numbers of cores; workers share them where there are too few.

    Raises
    ------
    PipelineError
        A number is negative, or a share is larger than the machine.
    """
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [*range(coreCount())]
    if count < 0 or size < 0:
        raise PipelineError("workerCount and coresPerWorker must not be negative", received=min(count, size))
    if size > len(cores):
        raise PipelineError("coresPerWorker is more than there are", expected=len(cores), received=size)
    count = count or len(cores) // (size or 1)
    size = size or max(len(cores) // count, 1)
    return [[cores[(number * size + place) % len(cores)] for place in range(size)] for number in range(count)]


def visibleGpus() -> list[str]:
    """List the NVIDIA GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.replace(" ", "").split(",") if name not in ("", "-1")]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        command = ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"]
        listed = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
        return listed.stdout.split()
    return []


def instructionSet() -> str:
    """Name the newest vector instructions that oneDNN uses; empty where the system does not tell."""
    flags = _readProcessor().get("flags", "").split()
    usable = [name for name, flag in SETS.items() if flag in flags]
    names, limit = list(SETS), _limit()
    allowed = names[names.index(limit) :] if limit else names
    return next((name for name in allowed if name in usable), "")


def vectorLanes() -> int:
    """Count the float32 numbers in a register of AVX-512, or of AVX2 where there is nothing newer."""
    return LANES.get(instructionSet(), 8)


def preferInstructions(engine: str, precision: str) -> None:
    """Keep oneDNN to the instructions with which OpenVINO predicts fastest, unless the user has limited it.

    AMD's fourth generation (family 25, as the third) computes AVX-512 in two halves: nothing is multiplied
    faster than in AVX2, whose registers the 8 features of the first level fill. The stream is 1.13 times as
    fast in it (benchmarks/RESULTS.md). The half precisions need AVX-512. To be called before a back end is
    loaded: oneDNN asks once.
    """
    processor = _readProcessor()
    isHalved = (processor.get("vendor_id"), processor.get("cpu family")) == ("AuthenticAMD", "25")
    isWanted = engine in ("auto", "openvino") and precision in ("auto", "float32")
    isLimited = any(map(os.environ.get, LIMITS))
    if isHalved and isWanted and instructionSet() == "AVX-512" and not isLimited:
        os.environ[LIMITS[0]] = "AVX2"


def _limit() -> str:
    """Name the set that the user keeps oneDNN to; empty: none."""
    words = next(filter(None, map(os.environ.get, LIMITS)), "").upper().replace("AVX10", "AVX512")
    return next((name for name in SETS if name.replace("-", "").replace(".", "") in words), "")


def _readProcessor() -> dict[str, str]:
    """Read what the system tells of the first processor; empty where it does not."""
    return _readFile(CPU_INFO)


@functools.cache
def _readFile(path: Path) -> dict[str, str]:
    """Read the first block of the file that describes the processors."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    pairs = (line.partition(":") for line in text.split("\n\n")[0].splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def freeMemoryGiB() -> float:
    """Memory that a program can take now without swapping, GiB; the limit of a container counts."""
    with contextlib.suppress(OSError, StopIteration):
        with open("/proc/meminfo", encoding="ascii") as file:
            free = next(int(line.split()[1]) for line in file if line.startswith("MemAvailable")) / 2**20
        return min(free, containerMemoryGiB())
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30 / 2


def residentGiB() -> float:
    """Memory that this process has now, GiB."""
    with contextlib.suppress(OSError):
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**30
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)


def containerMemoryGiB(root: Path = Path("/")) -> float:
    """Read what the control groups of this process (container, SLURM job) still allow.

    Parameters
    ----------
    root : Path
        Of the file system.

    Returns
    -------
    float
        GiB, the least of all groups that this one lies in; infinite without a limit.
    """
    least = float("inf")
    with contextlib.suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text(errors="surrogateescape").splitlines():
            _, controllers, place = line.split(":", 2)
            if controllers and "memory" not in controllers.split(","):
                continue
            kind, names = ("memory", GROUP_FILES_1) if controllers else ("", GROUP_FILES_2)
            top, inner = root / "sys/fs/cgroup" / kind, PurePosixPath(place.strip("/"))
            for group in (inner, *inner.parents):
                least = min(least, _allowedGiB(top / group, *names))
    return least


def _allowedGiB(folder: Path, limit: str, usage: str, cache: str) -> float:
    """Read what one group still allows; what was only read from files and could be dropped counts as free."""
    with contextlib.suppress(OSError, ValueError):  # no such group; no limit: "max"
        allowed = int((folder / limit).read_text()) - int((folder / usage).read_text())
        with contextlib.suppress(OSError, ValueError, KeyError):
            lines = (folder / "memory.stat").read_text().splitlines()
            allowed += int(dict(line.split(" ", 1) for line in lines)[cache])
        return allowed / 2**30
    return float("inf")
