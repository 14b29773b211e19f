"""Loss and metrics over the labelled voxels alone: a truth of `UNLABELLED` is none.

Such a voxel is 0 in truth and probability, and left out of every mean. A loss of voxels is their mean over
all samples of a batch, or of an epoch; one of overlaps is taken sample by sample, of those with a labelled
voxel.
"""

import importlib
from collections.abc import Sequence

import keras
from keras import ops

from engine.learning.sharedAdam import sumOverDevices
from engine.network.devices import backendName


def overLabelled(loss, metrics: Sequence) -> tuple[keras.losses.Loss, list[keras.metrics.Metric]]:
    """Give loss and metrics of Keras that count labelled voxels only.

    The loss of an epoch is a metric too, called "loss" as that of Keras, in place of which it is reported:
    Keras would weigh every step and every sample alike, however little of it is labelled.
    """
    parts = getattr(loss, "parts", [loss])
    return LabelledLoss(parts), [*map(LabelledMetric, metrics), EpochLoss(parts)]


class LabelledLoss(keras.losses.Loss):
    """Sum of losses over the labelled voxels of a batch; 0 where there is none.

    Parameters
    ----------
    parts : sequence of keras.losses.Loss
        That give a loss for every voxel or every sample.
    """

    def __init__(self, parts: Sequence) -> None:
        super().__init__(name="labelled_loss")
        self.parts = parts

    def call(self, y_true, y_pred):
        """Compute the loss of the batch; on one of several devices, its share of that times their number."""
        totals, counts = sumParts(self.parts, y_true, y_pred)
        deviceCount = _countDevices()
        if deviceCount > 1:
            (counts,) = sumOverDevices([counts])
        return ops.reshape(deviceCount * ops.sum(totals / ops.maximum(counts, 1.0)), (1,))


class EpochLoss(keras.metrics.Metric):
    """The loss over all labelled voxels since the last reset."""

    def __init__(self, parts: Sequence) -> None:
        super().__init__(name="loss")
        self.parts = parts
        self.totals = self.add_variable((len(parts),), "zeros", name="totals")
        self.counts = self.add_variable((len(parts),), "zeros", name="counts")

    def update_state(self, y_true, y_pred, sample_weight=None) -> None:
        """Add up the losses of a batch."""
        totals, counts = sumParts(self.parts, y_true, y_pred)
        self.totals.assign_add(totals)
        self.counts.assign_add(counts)

    def result(self):
        """Compute the loss; 0 where nothing is labelled."""
        return ops.sum(ops.divide_no_nan(self.totals, self.counts))


class LabelledMetric(keras.metrics.Metric):
    """A metric of Keras that is shown labelled voxels only."""

    def __init__(self, metric) -> None:
        super().__init__(name=metric.name)
        self.metric = metric

    def update_state(self, y_true, y_pred, sample_weight=None) -> None:
        """Show it a batch."""
        truth, probability, weight = splitTruth(y_true, y_pred)
        self.metric.update_state(truth, probability, weight)

    def result(self):
        """Give its result."""
        return self.metric.result()


def sumParts(parts: Sequence, y_true, y_pred):
    """Sum up losses over what is labelled of a batch.

    Parameters
    ----------
    parts : sequence of keras.losses.Loss
        That give a loss for every voxel or every sample.
    y_true, y_pred : tensor
        (sample, x, y, z, 1): 1, 0 or `UNLABELLED`; probability.

    Returns
    -------
    tuple of tensors
        (part,): sums of the losses, and of how many voxels or samples.
    """
    truth, probability, weight = splitTruth(y_true, y_pred)
    totals, counts = [], []
    for part in parts:
        losses = part.call(truth, probability)
        axes = list(range(len(losses.shape), len(weight.shape)))
        weights = ops.max(weight, axis=axes) if axes else weight  # whether anything is labelled there
        totals.append(ops.sum(losses * weights))
        counts.append(ops.sum(weights))
    return ops.stack(totals), ops.stack(counts)


def splitTruth(y_true, y_pred):
    """Give truth and probability, 0 where nothing is labelled, and the weight 1 or 0 of every voxel."""
    y_true, y_pred = (ops.convert_to_tensor(tensor, "float32") for tensor in (y_true, y_pred))
    isLabelled = y_true >= 0
    weight = ops.cast(isLabelled, "float32")
    return ops.maximum(y_true, 0.0), ops.where(isLabelled, y_pred, ops.zeros_like(y_pred)), weight


def _countDevices() -> int:
    """Count the devices of TensorFlow that share a step; others add up over all of theirs by themselves."""
    if backendName() != "tensorflow":
        return 1
    return importlib.import_module("tensorflow").distribute.get_strategy().num_replicas_in_sync
