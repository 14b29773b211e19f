"""What makes a network learn: optimiser, loss and metrics, set on its Keras model."""

from typing import NamedTuple

from engine.learning.losses import makeLoss
from engine.network.devices import backendName, loadKeras

FINAL_SHARE = 0.01  # of the learning rate, at the end of the cosine


class Optimisation(NamedTuple):
    """How the network learns; the constants of trainingAndValidation.py."""

    learningRate: float
    loss: str  # a key of LOSSES
    startBias: bool
    schedule: str  # constant or cosine
    clipNorm: float  # 0: any
    momentum: float
    averageBatches: int  # 0: never
    isSparse: bool = False  # whether only some voxels are labelled; the data tell


def compileModel(
    model, optimisation: Optimisation, stepCount: int, jitCompile: bool | None = None, deviceCount: int = 1
) -> None:
    """Set optimiser, loss and metrics of a Keras model, for a training of so many steps."""
    from engine.learning.metrics import makeMetrics  # loads Keras

    keras = loadKeras()
    isShared = deviceCount > 1 and backendName() == "tensorflow"
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = optimisation.momentum
            layer.synchronized = isShared
    loss, metrics = makeLoss(optimisation.loss), makeMetrics()
    if optimisation.isSparse:
        from engine.learning.labelledOnly import overLabelled  # loads Keras

        loss, metrics = overLabelled(loss, metrics)
    model.compile(
        optimizer=makeOptimiser(optimisation, stepCount, deviceCount if isShared else 1),
        loss=loss,
        metrics=metrics,
        jit_compile="auto" if jitCompile is None else jitCompile,
    )


def makeOptimiser(optimisation: Optimisation, stepCount: int, deviceCount: int = 1):
    """Make Adam of Keras; on several devices of TensorFlow one that clips as on one."""
    keras = loadKeras()
    rate, clipNorm = optimisation.learningRate, optimisation.clipNorm
    if optimisation.schedule == "cosine":
        rate = keras.optimizers.schedules.CosineDecay(rate, stepCount, alpha=FINAL_SHARE)
    if clipNorm and deviceCount > 1:
        from engine.learning.sharedAdam import SharedAdam  # loads Keras

        return SharedAdam(rate, clipNorm, deviceCount)
    return keras.optimizers.Adam(rate, global_clipnorm=clipNorm or None)
