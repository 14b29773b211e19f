"""What Keras needs for a training besides the network: batches, losses, metrics, averages, model files.

Imported only when a network is trained.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import h5py
import keras
import numpy as np
from keras import ops

from engine.devices import compileFunction, hasGpu, sumOverDevices, usesOneDnn
from engine.errors import PipelineError
from engine.files import writeAtomically
from engine.samples import Samples

VOXEL_AXES = (1, 2, 3, 4)
READER = ThreadPoolExecutor(1)  # one for all batches: training and validation take turns
Batch = tuple[np.ndarray, ...]


class Batches(keras.utils.PyDataset):
    """Numbered batches; the next one is read while a step is computed.

    Parameters
    ----------
    read : callable
        Number of a batch -> arrays for Keras.
    numbers : range
        Which ones.
    """

    def __init__(self, read: Callable[[int], Batch], numbers: range) -> None:
        super().__init__()
        self.read, self.numbers = read, numbers
        self.error: PipelineError | None = None  # back ends wrap it into one of their own
        self._ahead: dict[int, Future] = {}

    def __len__(self) -> int:
        """Count the batches."""
        return len(self.numbers)

    def __getitem__(self, index: int) -> Batch:
        """Read one batch, and have the next one read."""
        for wanted in (index, index + 1):
            if wanted < len(self) and wanted not in self._ahead:
                self._ahead[wanted] = READER.submit(self.read, self.numbers[wanted])
        try:
            return self._ahead.pop(index).result()
        except PipelineError as error:
            self.error = error
            raise


def readInOrder(samples: Samples) -> Batches:
    """Read whole samples in the order of the file, one at a time: they take the most memory of all."""
    return Batches(lambda index: stackPairs([samples.read(index)]), range(samples.count))


def stackPairs(pairs: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Make a batch of images and masks (x, y, z): (sample, x, y, z, 1) float32 both."""
    stacks = map(np.stack, zip(*pairs, strict=True))  # cast afterwards, five times as fast
    return tuple(stack.astype(np.float32, copy=False)[..., np.newaxis] for stack in stacks)


def fasterLayers() -> dict[str, Callable]:
    """Makers of layers, by kind, that train faster here than Keras's own; empty where none are known."""
    if keras.backend.backend() != "tensorflow" or hasGpu() or not usesOneDnn():
        return {}
    from engine.fastLayers import MAKERS  # loads TensorFlow

    return MAKERS


# --------------------------------------------------------------------------------------- losses and metrics


def makeLoss(name: str) -> keras.losses.Loss:
    """Make a loss by its name; overlaps are counted in every sample by itself."""
    if name == "bce+dice":
        return SumOfLosses([makeLoss("bce"), makeLoss("dice")])
    return {
        "bce": keras.losses.BinaryCrossentropy,
        "dice": lambda: keras.losses.Dice(axis=VOXEL_AXES),
        "focal": keras.losses.BinaryFocalCrossentropy,
        "tversky": lambda: keras.losses.Tversky(alpha=0.7, beta=0.3, axis=VOXEL_AXES),  # alpha: of misses
    }[name]()


class SumOfLosses(keras.losses.Loss):
    """Sum of losses, sample by sample."""

    def __init__(self, losses: list[keras.losses.Loss]) -> None:
        super().__init__()
        self.losses = losses

    def call(self, y_true, y_pred):
        """Compute the loss of every sample."""
        parts = (loss.call(y_true, y_pred) for loss in self.losses)
        return sum(ops.mean(ops.reshape(part, (ops.shape(part)[0], -1)), axis=1) for part in parts)


class SharedAdam(keras.optimizers.Adam):
    """Adam on several devices of TensorFlow, clipped as on one.

    Keras clips the gradient of every device before it adds them up; here they are added up, clipped, and
    handed on in equal parts that add up to the clipped one.

    Parameters
    ----------
    rate : float or schedule
        Learning rate.
    clipNorm : float
        Largest norm of the gradient.
    deviceCount : int
        Devices.
    """

    def __init__(self, rate, clipNorm: float, deviceCount: int) -> None:
        super().__init__(rate)
        self.clipNorm, self.deviceCount = clipNorm, deviceCount

    def apply(self, grads: Sequence, trainable_variables: Sequence | None = None):
        """Update the variables."""
        whole = sumOverDevices(list(grads))
        norm = ops.sqrt(sum(ops.sum(ops.square(gradient)) for gradient in whole))
        share = ops.minimum(1.0, self.clipNorm / ops.maximum(norm, 1e-30)) / self.deviceCount
        return super().apply([gradient * share for gradient in whole], trainable_variables)


class PositiveDice(keras.metrics.Metric):
    """Dice of the positive class at threshold 0.5, over all batches since the last reset."""

    def __init__(self, name: str = "dice") -> None:
        super().__init__(name=name)
        self.both = self.add_variable((), "zeros", name="both")
        self.either = self.add_variable((), "zeros", name="either")

    def update_state(self, y_true, y_pred, sample_weight=None) -> None:
        """Count the voxels of a batch."""
        positive = ops.cast(y_pred > 0.5, "float32")
        truth = ops.cast(y_true, "float32")
        self.both.assign_add(ops.sum(positive * truth))
        self.either.assign_add(ops.sum(positive + truth))

    def result(self):
        """Compute Dice; 0 where nothing is positive."""
        return ops.divide_no_nan(2 * self.both, self.either)


def makeMetrics() -> list[keras.metrics.Metric]:
    """Make the published metrics, and Dice of the positive class."""
    return [
        keras.metrics.BinaryAccuracy(),
        keras.metrics.TruePositives(name="tp"),
        keras.metrics.TrueNegatives(name="tn"),
        keras.metrics.FalsePositives(name="fp"),
        keras.metrics.FalseNegatives(name="fn"),
        PositiveDice(),
    ]


class EpochBar(keras.callbacks.Callback):
    """Keras's own progress bar, with what a user looks at: loss, Dice and remaining time."""

    def __init__(self, epochCount: int) -> None:
        super().__init__()
        self.epochCount = epochCount

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Begin a line."""
        print(f"Epoch {epoch + 1}/{self.epochCount}")
        self.bar = keras.utils.Progbar(self.params["steps"], stateful_metrics=("loss", "dice"))

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        """Draw it."""
        self.bar.update(batch + 1, [(name, float(logs[name])) for name in ("loss", "dice")])


# ------------------------------------------------------------------------------------------- moving averages


class Averages:
    """The moving averages of batch normalisation, made anew for the weights of this moment.

    While a network learns they lag behind its weights: hundreds of steps with the published momentum of 0.99.
    Here mean and variance of every layer are the medians of those of some batches of training data, which a
    few unusual batches do not move.

    Parameters
    ----------
    model : keras.Model
    read : callable
        Number of a batch -> images (sample, x, y, z, 1).
    count : int
        Batches; 0 leaves the averages as the training made them.
    twin : keras.Model
        The same network of other layers, which computes them; may be the model itself.
    """

    def __init__(
        self, model: keras.Model, read: Callable[[int], np.ndarray], count: int, twin: keras.Model
    ) -> None:
        self.model, self.read, self.count = model, read, count
        self.layers = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]

        def forward(moving: list, learnt: list, image):
            return twin.stateless_call(learnt, moving, image, training=True)[1]

        self._forward = compileFunction(forward)

    def renew(self) -> None:
        """Replace the averages in the model."""
        if not self.count:
            return
        learnt = [variable.value for variable in self.model.trainable_variables]
        moving = self.model.non_trainable_variables  # mean, variance, mean, variance, ...
        seen = []
        for number in range(self.count):
            zeros = [ops.zeros(variable.shape, variable.dtype) for variable in moving]  # used up
            image = ops.convert_to_tensor(self.read(number))
            seen.append([toNumpy(tensor) for tensor in self._forward(zeros, learnt, image)])
        medians = [np.median(values, axis=0) for values in zip(*seen, strict=True)]
        for layer, mean, variance in zip(self.layers, medians[::2], medians[1::2], strict=True):
            share = 1 - layer.momentum  # of a batch in averages that begin at zero
            layer.moving_mean.assign(mean / share)
            layer.moving_variance.assign(variance / share)


# ------------------------------------------------------------------------------------------- files and states


def captureState(model: keras.Model) -> dict[str, np.ndarray]:
    """Copy weights, optimiser and running metrics of a model in training."""
    if keras.backend.backend() == "jax":
        model.jax_state_sync()
    return {name: toNumpy(variable) for name, variable in _variables(model)}


def toNumpy(tensor) -> np.ndarray:
    """Copy a tensor, a variable, or a variable that several devices hold."""
    value = getattr(tensor, "value", tensor)
    return np.array(value.read_value() if hasattr(value, "read_value") else value)


def restoreState(model: keras.Model, arrays: dict[str, np.ndarray], group: str) -> None:
    """Set what `captureState` copied, of one group of variables."""
    for name, variable in _variables(model):
        if name.startswith(group):
            variable.assign(arrays[name])


def _variables(model: keras.Model) -> Iterator[tuple[str, keras.Variable]]:
    """Name every variable of a training."""
    groups = {
        "weights": model.variables,
        "optimiser": model.optimizer.variables,
        "metrics": model.metrics_variables,
    }
    for group, variables in groups.items():
        for number, variable in enumerate(variables):
            yield f"{group}/{number}", variable


class _FileInMemory(h5py.File):
    """HDF5 file that needs no disk; Keras asks for the text of a path that ends in .h5."""

    def __init__(self) -> None:
        super().__init__("model.h5", "w", driver="core", backing_store=False)

    def __str__(self) -> str:
        """Return a name that Keras takes for the older format."""
        return "model.h5"


def modelContent(model: keras.Model) -> bytes:
    """Architecture and weights as the content of an .h5 file.

    HDF5 itself never writes to the disk: where that is full it cannot close its file, and the process crashes
    (segmentation fault) as soon as it closes the next one.
    """
    with _FileInMemory() as file:
        model.save(file, include_optimizer=False)
        file.flush()
        return file.id.get_file_image()


def saveModel(model: keras.Model, path: Path) -> None:
    """Save architecture and weights as .h5, atomically."""
    content = modelContent(model)
    with writeAtomically(path) as temporary:
        temporary.write_bytes(content)
