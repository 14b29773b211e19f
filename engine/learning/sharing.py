"""Devices that share every batch of a training, and what they need of a back end."""

import contextlib
import importlib.util
import os
from collections.abc import Callable, Iterator

from engine.base.errors import PipelineError
from engine.network.devices import _listGpus, hasGpu, loadKeras, usesOneDnn


class Sharing:
    """Devices that share every batch of a training; each of them takes an equal part.

    Parameters
    ----------
    deviceCount : int
        0 = as many GPUs as can share the batch equally, or one CPU.
    batchSize : int
        Samples of a step.

    Raises
    ------
    PipelineError
        There are fewer devices, or they cannot share the batch equally.
    """

    def __init__(self, deviceCount: int, batchSize: int) -> None:
        self._keras = loadKeras()
        backend = self._keras.backend.backend()
        devices = _listDevices(backend)
        isGpu = bool(_listGpus(backend))
        most = range(len(devices) if isGpu else 1, 0, -1)
        deviceCount = deviceCount or next(count for count in most if batchSize % count == 0)
        if len(devices) < deviceCount:
            raise PipelineError("fewer devices", expected=deviceCount, received=len(devices))
        if batchSize % deviceCount:
            rule = f"{deviceCount} devices share a batch equally"
            expected = f"batchSize a multiple of {deviceCount}"
            raise PipelineError(rule, expected=expected, received=batchSize)
        self.devices, self.gpuCount = devices[:deviceCount], len(devices) if isGpu else 0
        self._strategy = self._distribution = None
        if len(self.devices) > 1 and backend == "tensorflow":
            tensorflow = importlib.import_module("tensorflow")
            self._strategy = tensorflow.distribute.MirroredStrategy(self.devices)
        elif len(self.devices) > 1:
            self._distribution = self._keras.distribution.DataParallel(devices=self.devices)

    @property
    def count(self) -> int:
        """Number of devices."""
        return len(self.devices)

    @contextlib.contextmanager
    def scope(self) -> Iterator[None]:
        """Build, compile and fit a network on all devices in this block."""
        if self._strategy:
            with self._strategy.scope():
                yield
            return
        before = self._keras.distribution.distribution()
        if self._distribution:
            self._keras.distribution.set_distribution(self._distribution)
        try:
            yield
        finally:
            if self._distribution:
                self._keras.distribution.set_distribution(before)


def _listDevices(backend: str) -> list[str]:
    """Names of the devices of the best kind, as the back end wants them."""
    if backend == "tensorflow":
        tensorflow = importlib.import_module("tensorflow")
        kinds = (tensorflow.config.list_logical_devices(kind) for kind in ("GPU", "CPU"))
        return [device.name for device in next(filter(None, kinds))]
    return loadKeras().distribution.list_devices()


def makeDeterministic() -> None:
    """Make results repeat to the last bit on a GPU too; before anything else is asked of a back end."""
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_deterministic_ops=true".strip()
    if loadKeras().backend.backend() == "tensorflow":
        importlib.import_module("tensorflow").config.experimental.enable_op_determinism()


def sumOverDevices(tensors: list) -> list:
    """Add up what every device of TensorFlow has; each of them gets the sums."""
    distribute = importlib.import_module("tensorflow").distribute
    context = distribute.get_replica_context()
    return context.all_reduce(distribute.ReduceOp.SUM, tensors) if context else tensors


def isOutOfMemory(error: Exception) -> bool:
    """Whether a back end ran out of memory."""
    return type(error).__name__ == "ResourceExhaustedError" or "RESOURCE_EXHAUSTED" in str(error)


def fasterLayers() -> dict[str, Callable]:
    """Makers of layers, by kind, that train faster here than Keras's own; empty where none are known."""
    if loadKeras().backend.backend() != "tensorflow" or hasGpu() or not usesOneDnn():
        return {}
    from engine.learning.fastLayers import MAKERS  # loads TensorFlow

    return MAKERS
