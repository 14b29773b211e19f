"""Losses by name: a new one is an entry here; command line and training follow.

Nothing is loaded before a loss is made: the names are the choices of `--loss`.
"""

from collections.abc import Callable

from engine.network.devices import loadKeras

# Where not all voxels are labelled, those that are not are 0 in mask and probability, and left out of a mean:
# overlaps have to be sums over voxels (engine/learning/labelledOnly.py).
VOXEL_AXES = (1, 2, 3, 4)  # of a batch: overlaps are counted in every sample by itself
LOSSES: dict[str, Callable] = {  # name: what makes it of the module Keras
    "bce": lambda keras: keras.losses.BinaryCrossentropy(),
    "dice": lambda keras: keras.losses.Dice(axis=VOXEL_AXES),
    "bce+dice": lambda keras: sumOfLosses(keras, "bce", "dice"),
    "focal": lambda keras: keras.losses.BinaryFocalCrossentropy(),
    "tversky": lambda keras: keras.losses.Tversky(alpha=0.7, beta=0.3, axis=VOXEL_AXES),  # alpha: of misses
}


def makeLoss(name: str):
    """Make a loss of Keras by its name, a key of LOSSES."""
    return LOSSES[name](loadKeras())


def sumOfLosses(keras, *names: str):
    """Make the sum of losses, sample by sample: voxels are averaged first where a loss gives one for each."""
    losses = [LOSSES[name](keras) for name in names]

    class SumOfLosses(keras.losses.Loss):
        """Sum of losses."""

        parts = losses

        def call(self, y_true, y_pred):
            """Compute the loss of every sample."""
            ops = keras.ops
            parts = (loss.call(y_true, y_pred) for loss in losses)
            return sum(ops.mean(ops.reshape(part, (ops.shape(part)[0], -1)), axis=1) for part in parts)

    return SumOfLosses()
