"""What computes a training: devices that share every batch, and the network that is faster on them."""

import contextlib
import importlib.util
import os
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from engine.base.errors import PipelineError
from engine.learning.group import ALONE, Group
from engine.learning.optimiser import Optimisation, compileModel
from engine.learning.steps import Batch
from engine.network.devices import backendName, hasGpu, listGpus, loadKeras, usesOneDnn


class Machine(NamedTuple):
    """What a training is computed with; the constants of trainingAndValidation.py."""

    precision: str = "float32"
    jitCompile: bool | None = None  # None: as Keras sees fit
    deterministic: bool = False
    deviceCount: int = 0  # 0: as many GPUs as can share the batch equally, or one CPU

    @property
    def isCompiled(self) -> bool | None:
        """Whether XLA compiles a step; None: as Keras sees fit, which never does it deterministically."""
        return False if self.jitCompile is None and self.deterministic else self.jitCompile


class Sharing:
    """Devices that share every batch of a training; each of them takes an equal part.

    Parameters
    ----------
    machine : Machine
        How many, and what they compute in.
    batchSize : int
        Samples of a step.
    group : Group
        Processes whose devices share it; every one brings as many.

    Raises
    ------
    PipelineError
        There are fewer devices, they cannot share the batch equally, or not in float16.
    """

    def __init__(self, machine: Machine, batchSize: int, group: Group = ALONE) -> None:
        self._keras = loadKeras()
        self.machine, self.batchSize, self.group = machine, batchSize, group
        backend = backendName()
        devices = _listDevices(backend)
        self.gpuCount = len(devices) if listGpus(backend) else 0
        ownCount = self._chooseCount(len(devices))
        self.devices = [name for names in group.gather(devices[:ownCount]) for name in names]
        if machine.precision == "mixed_float16" and backend == "tensorflow":
            self._refuseHalves()
        self._strategy = self._distribution = None
        if self.count > 1 and backend == "tensorflow":
            tensorflow = importlib.import_module("tensorflow")
            self._strategy = tensorflow.distribute.MirroredStrategy(self.devices)
        elif self.count > 1:
            kinds = {"devices": self.devices, "auto_shard_dataset": False}
            self._distribution = self._keras.distribution.DataParallel(**kinds)

    def _chooseCount(self, available: int) -> int:
        """Choose how many of the devices of this process share a batch."""
        if self.group.count > 1:
            return self._chooseAll(available)
        most = range(self.gpuCount or 1, 0, -1)
        equal = next(count for count in most if self.batchSize % count == 0)
        deviceCount = self.machine.deviceCount or equal
        if available < deviceCount:
            raise PipelineError("fewer devices", expected=deviceCount, received=available)
        if self.batchSize % deviceCount:
            rule = f"{deviceCount} devices share a batch equally"
            expected = f"batchSize a multiple of {deviceCount}"
            raise PipelineError(rule, expected=expected, received=self.batchSize)
        return deviceCount

    def _chooseAll(self, available: int) -> int:
        """Choose the same number of devices in every process: all GPUs, or one CPU."""
        wanted = self.machine.deviceCount or self.gpuCount or 1
        counts = self.group.gather([wanted, available])
        if any(available < wanted for wanted, available in counts):
            fewest = min(available for _, available in counts)
            raise PipelineError("fewer devices in a process", expected=wanted, received=fewest)
        if len({wanted for wanted, _ in counts}) > 1:
            rule, found = "processes with unequal numbers of GPUs", ", ".join(str(one) for one, _ in counts)
            raise PipelineError(rule, received=found, remedy="--deviceCount says how many each one uses")
        total = wanted * self.group.count
        if self.batchSize % total:
            rule = f"{total} devices, {wanted} in each of {self.group.count} processes, share a batch equally"
            remedy = f"--batchSize {-(-self.batchSize // total) * total}, or fewer processes"
            expected = f"batchSize a multiple of {total}"
            raise PipelineError(rule, expected=expected, received=self.batchSize, remedy=remedy)
        return wanted

    def _refuseHalves(self) -> None:
        """Refuse float16 where TensorFlow cannot compute it."""
        if not self.gpuCount:
            raise PipelineError("TensorFlow has no float16 on a CPU", remedy="--precision mixed_bfloat16")
        if self.count > 1:
            rule = "TensorFlow scales the loss of float16 on every device by itself"
            raise PipelineError(rule, remedy="--precision mixed_bfloat16, or --deviceCount 1")

    @property
    def count(self) -> int:
        """Number of devices."""
        return len(self.devices)

    @property
    def isAlike(self) -> bool:
        """Whether a network that is trained so computes the numbers of the published one, to rounding."""
        return self.count == 1 and self.machine.precision == "float32"

    def describe(self) -> list[str]:
        """Tell in lines what shares a batch, and what stays idle."""
        lines = []
        if self.count > 1:
            several = f" of {self.group.count} processes" if self.group.count > 1 else ""
            lines.append(f"Every batch is shared by {self.count} devices{several}")
        if self.group.count == 1 and not self.machine.deviceCount and self.count < self.gpuCount:
            idle = f"{self.gpuCount - self.count} of {self.gpuCount} GPUs stay idle"
            lines.append(f"{idle}: they share a batch equally (--batchSize {self.gpuCount} uses all)")
        return lines

    def partOf(self, batch: Batch) -> Batch:
        """Give what this process learns of a batch: the samples that its devices take."""
        parts = (np.split(array, self.group.count)[self.group.index] for array in batch)
        return tuple(parts)

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
    own = importlib.import_module("jax").local_devices()
    return [f"{device.platform}:{device.id}" for device in own]  # as keras.distribution.list_devices has them


def makeDeterministic() -> None:
    """Make results repeat to the last bit on a GPU too; before anything else is asked of a back end."""
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_deterministic_ops=true".strip()
    if backendName() == "tensorflow":
        importlib.import_module("tensorflow").config.experimental.enable_op_determinism()


# ------------------------------------------------------------------------------------ the network on them


def buildTrained(build: Callable, plain, optimisation: Optimisation, sharing: Sharing, stepCount: int):
    """Compile the network, and give the one that is trained: the same, or another one with its weights.

    Another one has another precision, is on several devices, or consists of layers that are faster here.

    Parameters
    ----------
    build : callable
        Builds the network again; takes `makers` of other layers, by kind.
    plain : keras.Model
        The network as it is validated and saved.
    optimisation, sharing : Optimisation, Sharing
        How it learns, and on what.
    stepCount : int
        Steps of the whole training.
    """
    machine, makers = sharing.machine, {}
    compileModel(plain, optimisation, stepCount, machine.jitCompile)
    if sharing.isAlike:
        makers = {} if machine.jitCompile else fasterLayers()
        if not makers:
            return plain
    keras = loadKeras()
    keras.config.set_dtype_policy(machine.precision)
    with sharing.scope():
        model = build(makers=makers)
        model.set_weights(plain.get_weights())
        compileModel(model, optimisation, stepCount, machine.jitCompile, sharing.count)
    keras.config.set_dtype_policy("float32")
    return model


def fasterLayers() -> dict[str, Callable]:
    """Makers of layers, by kind, that train faster here than Keras's own; empty where none are known."""
    if backendName() != "tensorflow" or hasGpu() or not usesOneDnn():
        return {}
    from engine.learning.fastLayers import MAKERS  # loads TensorFlow

    return MAKERS
