"""The processor, and which of its vector instructions oneDNN uses: the kernels of TensorFlow and OpenVINO."""

import functools
import os
import platform
from pathlib import Path

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
