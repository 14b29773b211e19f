"""The back end of Keras and the device it runs on."""

import contextlib
import importlib
import itertools
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import numpy as np

from engine.base.drawing import withMatplotlib
from engine.base.errors import PipelineError
from engine.base.machine import describeCores, instructionSet, processorName

GPU_DRIVERS = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")  # NVIDIA, NVIDIA under Windows, AMD
LIBRARIES = ("CUDA", "CUDA", "ROCm")  # of the drivers
CUDA_PACKAGES = {"tensorflow": "tensorflow[and-cuda]", "jax": "jax[cuda12]"}
SAME_TO_ROUNDING = "the numbers go on the same to rounding, not to the last bit"  # on another device
ONEDNN = "TF_ENABLE_ONEDNN_OPTS"  # TensorFlow by itself uses oneDNN on the newest processors only


def loadKeras():
    """Import Keras with a quiet back end; takes seconds, so nothing imports it before a network is needed.

    Raises
    ------
    PipelineError
        The back end, of KERAS_BACKEND or Keras's own settings, is not installed or unknown here; or the
        settings hold a value that Keras does not know.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault(ONEDNN, "1")  # on AVX2 a training step takes a ninth of the time
    try:
        with withMatplotlib(), silenced(sys.stderr):
            import keras
    except ImportError as error:
        backend = os.environ.get("KERAS_BACKEND", "tensorflow")
        raise PipelineError(
            f"Keras or its back end {backend} cannot be imported ({error})",
            remedy=f"pip install keras {backend}",
        ) from error
    except (ValueError, TypeError, AttributeError) as error:  # of the values in Keras's own file
        rule, remedy = f"Keras refuses its settings ({error})", "correct KERAS_BACKEND or remove this file"
        raise PipelineError(rule, file=_settingsFile(), remedy=remedy) from error
    if keras.backend.backend() not in CUDA_PACKAGES:
        expected, received = " or ".join(CUDA_PACKAGES), keras.backend.backend()
        raise PipelineError("another KERAS_BACKEND is needed", expected=expected, received=received)
    keras.config.set_image_data_format("channels_last")  # whatever ~/.keras/keras.json says
    keras.config.set_floatx("float32")
    import absl.logging

    absl.logging.set_verbosity(absl.logging.ERROR)  # Keras warns at every .h5; the published format stays
    return keras


def _settingsFile() -> Path:
    """Name the file from which Keras reads its settings."""
    return Path(os.environ.get("KERAS_HOME") or os.path.expanduser("~/.keras")) / "keras.json"


def backendName() -> str:
    """Name the back end that Keras computes with: tensorflow or jax."""
    return loadKeras().backend.backend()


@contextlib.contextmanager
def silenced(stream: TextIO) -> Iterator[None]:
    """Drop what a library writes straight to file descriptor 1 or 2 in this block (start-up notes)."""
    number = 2 if stream is sys.stderr else 1
    stream.flush()
    saved = os.dup(number)
    try:
        with open(os.devnull, "wb") as nothing:
            os.dup2(nothing.fileno(), number)
        yield
    finally:
        os.dup2(saved, number)
        os.close(saved)


def describeDevice(isCompiled: bool | None = False) -> str:
    """Name the device that Keras computes on, and what computes there.

    Parameters
    ----------
    isCompiled : bool, optional
        XLA compiles what TensorFlow computes; JAX always has it. None: as Keras's `fit` sees fit, on one GPU.

    Returns
    -------
    str
        GPU with its memory, or CPU with its cores; back end, and the library whose operations it uses.
    """
    backend = backendName()
    names = listGpus(backend)
    isCompiled = backend == "jax" or (len(names) == 1 if isCompiled is None else isCompiled)
    if names:
        memory = _gpuMemory()
        device = f"GPU {', '.join(names)}{f' ({memory})' if memory else ''}"
        known = (name for file, name in zip(GPU_DRIVERS, LIBRARIES, strict=True) if os.path.exists(file))
        libraries = " and ".join([*itertools.islice(known, 1), *(["XLA"] if isCompiled else [])])
        return f"{device}, {backend}{f' with {libraries}' if libraries else ''}"
    device = f"CPU ({processorName()}, {describeCores()}), {backend}"
    if isCompiled:
        return f"{device} with XLA"
    return f"{device} {f'with {describeOneDnn()}' if usesOneDnn() else 'without oneDNN'}"


def describeOneDnn() -> str:
    """Name oneDNN and the vector instructions that it uses."""
    return f"oneDNN ({instructionSet()})" if instructionSet() else "oneDNN"


def usesOneDnn() -> bool:
    """Whether TensorFlow computes with oneDNN; it decides when it is imported."""
    loadKeras()
    try:
        return importlib.import_module("tensorflow.python.util._pywrap_util_port").IsMklEnabled()
    except (ImportError, AttributeError):  # TensorFlow promises nothing of it
        return os.environ.get(ONEDNN) == "1"


def cudaHint() -> str:
    """Tell how the back end in use would find an NVIDIA card."""
    package = CUDA_PACKAGES[backendName()]
    return f'No GPU in use; for an NVIDIA card: pip install "{package}"'


def hasGpu() -> bool:
    """Whether Keras would compute on a GPU; where no driver is loaded, Keras is not loaded to find out."""
    return any(os.path.exists(path) for path in GPU_DRIVERS) and bool(listGpus(backendName()))


def listGpus(backend: str) -> list[str]:
    """Names of the GPUs of this process that the back end sees."""
    if backend == "tensorflow":
        tensorflow = importlib.import_module("tensorflow")
        gpus = tensorflow.config.list_physical_devices("GPU")
        return [
            tensorflow.config.experimental.get_device_details(gpu).get("device_name", gpu.name)
            for gpu in gpus
        ]
    devices = importlib.import_module("jax").local_devices()
    return [device.device_kind for device in devices if device.platform != "cpu"]


def _gpuMemory() -> str:
    """Total memory of the NVIDIA cards in use, as their driver tells it; empty where it cannot be asked."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        return ", ".join(_askDriver("memory.total", "csv,noheader"))
    return ""


def freeGpuGiB() -> float:
    """Free memory of the first NVIDIA card in use, as its driver tells it; 8 GiB where it cannot be asked."""
    with contextlib.suppress(OSError, subprocess.SubprocessError, ValueError, IndexError):
        return float(_askDriver("memory.free", "csv,noheader,nounits")[0]) / 1024
    return 8.0


def _askDriver(what: str, form: str) -> list[str]:
    """Ask the driver of the NVIDIA cards; a line for each card that this process may use."""
    visible = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")]
    lines = []
    for name in visible:
        query = ["nvidia-smi", f"--query-gpu={what}", f"--format={form}", *([f"--id={name}"] if name else [])]
        answer = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
        lines += [line.strip() for line in answer.stdout.splitlines() if line.strip()]
    return lines


def compileFunction(function):
    """Compile a pure function of tensors for the back end; the memory of its first argument is used again."""
    if backendName() == "jax":
        return importlib.import_module("jax").jit(function, donate_argnums=0)
    return importlib.import_module("tensorflow").function(function, autograph=False)


def toNumpy(tensor) -> np.ndarray:
    """Copy a tensor, a variable, or a variable that several devices hold."""
    value = getattr(tensor, "value", tensor)
    return np.array(value.read_value() if hasattr(value, "read_value") else value)
