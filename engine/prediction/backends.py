"""Which back end predicts, in which precision: OpenVINO on a CPU, Keras on a GPU."""

import importlib.util
import logging
from typing import NamedTuple

from engine.base.errors import PipelineError
from engine.base.machine import describeCores, freeMemoryGiB, instructionSet, processorName, residentGiB
from engine.network.devices import describeDevice, describeOneDnn, freeGpuGiB, hasGpu
from engine.prediction.openvinoStream import HINT
from engine.prediction.stream import Step
from engine.prediction.tiles import Stream

LOGGER = logging.getLogger(__name__)
GPU_SHARE = 0.7  # of its free memory, and of that only what the layout needs
ENGINES = ("auto", "keras", "openvino")
PRECISIONS = ("auto", "float32", "bfloat16", "float16")
GPU_CONTEXT = 1.0  # GiB
LIBRARIES = {
    "openvino": 0.14,
    "keras": 0.66,
}  # GiB that loading and compiling takes (benchmarks/prediction.py)


class Backend(NamedTuple):
    """What predicts."""

    engine: str  # openvino or keras
    precision: str  # float32, bfloat16 or float16
    device: str  # in words
    isGpu: bool

    @property
    def byteCount(self) -> int:
        """Bytes that a stored number takes; Keras makes every state anew at each step."""
        return (4 if self.precision == "float32" else 2) * (2 if self.engine == "keras" else 1)


def chooseBackend(engine: str, precision: str) -> Backend:
    """Choose what predicts fastest here.

    Parameters
    ----------
    engine : str
        'auto': Keras where its back end sees a GPU, else OpenVINO.
    precision : str
        'auto': bfloat16 on a GPU or where the processor multiplies matrices in it (AMX), else float32.
        AVX512-BF16 alone is no reason: with it bfloat16 is slower on Intel; on AMD it is 1.75 times as fast,
        but no longer exact (benchmarks/RESULTS.md).

    Raises
    ------
    PipelineError
        An unknown name.
    """
    for name, value, known in (("engine", engine, ENGINES), ("precision", precision, PRECISIONS)):
        if value not in known:
            raise PipelineError(f"no such {name}", expected=" or ".join(known), received=value)
    isInstalled = importlib.util.find_spec("openvino") is not None
    try:
        isGpu = engine != "openvino" and hasGpu()
    except PipelineError as error:
        if engine == "keras" or not isInstalled:
            raise
        LOGGER.warning("a GPU is not used: %s", error)
        isGpu = False
    if engine == "auto":
        engine = "keras" if isGpu or not isInstalled else "openvino"
        if not isGpu and not isInstalled:
            LOGGER.warning("OpenVINO is not installed; Keras takes several times as long (%s)", HINT)
    if precision == "auto":
        precision = "bfloat16" if isGpu or (engine == "openvino" and instructionSet() == "AMX") else "float32"
    if (engine, precision, isGpu) == ("keras", "float16", False):
        raise PipelineError("Keras has no float16 on a CPU", expected="float32 or bfloat16")
    if engine == "keras":
        return Backend(engine, precision, describeDevice(), isGpu)
    device = f"CPU ({processorName()}, {describeCores()}), {engine} with {describeOneDnn()}"
    return Backend(engine, precision, device, isGpu)


def openStream(backend: Backend, steps: list[Step], slab: int, section: tuple[int, int]) -> Stream:
    """Build the network on a back end, for slabs of one shape.

    Raises
    ------
    PipelineError
        The back end is not installed.
    """
    if backend.engine == "keras":
        from engine.prediction.kerasStream import KerasStream as StreamOfBackend
    else:
        from engine.prediction.openvinoStream import OpenvinoStream as StreamOfBackend
    return StreamOfBackend(steps, slab, section, backend.precision)


def baseMemory(backend: Backend) -> float:
    """GiB that are taken before any plane is held, with the libraries of the back end."""
    return GPU_CONTEXT if backend.isGpu else residentGiB() + LIBRARIES[backend.engine]


def availableMemory(backend: Backend) -> float:
    """GiB that a prediction may take by default: half of what is free, at most 8; most of a GPU."""
    return GPU_SHARE * freeGpuGiB() if backend.isGpu else round(min(freeMemoryGiB() / 2, 8), 2)
