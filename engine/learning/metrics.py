"""What Keras counts beside the loss while a network is trained."""

import keras
from keras import ops


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
