"""Numbered batches for Keras, read while a step is computed."""

import importlib.util
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import keras

from engine.base.errors import PipelineError
from engine.learning.steps import Batch, stackPairs
from engine.network.devices import backendName
from engine.preparation.samples import Samples

READER = ThreadPoolExecutor(1)  # one for all batches: training and validation take turns


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


def readInOrder(samples: Samples, first: int = 0, step: int = 1) -> Batches:
    """Read whole samples in the order of the file, one at a time: they take the most memory of all."""
    return Batches(lambda index: stackPairs([samples.read(index)]), range(first, samples.count, step))


def asDataset(batches):
    """Make batches what `fit` and `evaluate` read without losing time.

    Keras has TensorFlow tune how they are read, and the end of an epoch then waits for the sleeping tuner,
    with idle cores: 9 of 20 s at worst (benchmarks/RESULTS.md, epochs of 50 steps).

    Parameters
    ----------
    batches : keras.utils.PyDataset
        Its batches are tuples of arrays that differ in the length of their first axis at most.

    Returns
    -------
    tensorflow.data.Dataset or keras.utils.PyDataset
        The batches themselves where another back end computes.
    """
    if backendName() != "tensorflow":
        return batches
    tensorflow = importlib.import_module("tensorflow")
    first = [batches[0]]  # tells types and shapes, and need not be read again
    kinds = [(array.dtype, (None, *array.shape[1:])) for array in first[0]]

    def read(index: int) -> tuple:
        return first.pop() if first and not index else batches[index]

    def readTensors(index) -> tuple:
        tensors = tensorflow.numpy_function(read, [index], [dtype for dtype, _ in kinds])
        return tuple(
            tensorflow.ensure_shape(tensor, shape) for tensor, (_, shape) in zip(tensors, kinds, strict=True)
        )

    options = tensorflow.data.Options()
    options.autotune.enabled = False
    # from_generator would have the C library give all freed memory back at once, to be faulted in again
    plain = tensorflow.autograph.experimental.do_not_convert(readTensors)  # need not be rewritten as a graph
    dataset = tensorflow.data.Dataset.range(len(batches)).map(plain).prefetch(1)
    return dataset.with_options(options)
