"""The optimiser of a training on several devices of TensorFlow."""

import importlib
from collections.abc import Sequence

import keras
from keras import ops


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


def sumOverDevices(tensors: list) -> list:
    """Add up what every device has; each of them gets the sums."""
    distribute = importlib.import_module("tensorflow").distribute
    context = distribute.get_replica_context()
    return context.all_reduce(distribute.ReduceOp.SUM, tensors) if context else tensors
