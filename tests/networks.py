"""The published network built anew for the tests, random weights, and a plain NumPy forward pass."""

from pathlib import Path

import numpy as np
from scipy.ndimage import correlate

from engine.network.plan import VARIABLES, variableShapes
from functions import buildSpotUNet, describeUNet, setWeights

EPSILON = 1e-3  # of batch normalisation, Keras default


# ------------------------------------------------------------------------------------- built by hand in Keras


def buildPublished(keras, width=8, levels=4, relu="ReLU", **changes):
    """Build the network as its authors did, in keras or tf_keras; layers get automatic names.

    `changes` make it another network: epsilon, training, filters (of the last convolution of level 2),
    dropout, swapSkip, stride, side (of the kernels), lateSigmoid, sharedRelu, useBias, activation, outputs.
    """
    layers, shared = keras.layers, []

    def activate(x):
        if changes.get("sharedRelu"):
            shared[:] = shared or [layers.ReLU()]
            return shared[0](x)
        return layers.Activation("relu")(x) if relu == "Activation" else getattr(layers, relu)()(x)

    def addBlock(x, filters, last=None):
        for count in (filters, last or filters):
            x = layers.Conv3D(
                count, changes.get("side", 3), padding="same", use_bias=changes.get("useBias", True)
            )(x)
            x = layers.BatchNormalization(epsilon=changes.get("epsilon", EPSILON))(
                x, training=changes.get("training")
            )
            x = activate(x)
        return x

    first = x = keras.Input((None, None, None, 1))
    skips = []
    for level in range(levels):
        if level:
            x = layers.MaxPooling3D(*((2, 1, "same") if changes.get("stride") else (2,)))(x)
        x = addBlock(x, width * 2**level, changes.get("filters") if level == 1 else None)
        skips.append(x)
    if changes.get("dropout"):
        x = layers.Dropout(0.5)(x)
    for level in reversed(range(levels - 1)):
        up = x if changes.get("stride") else layers.UpSampling3D(2)(x)
        pair = [skips[level], up]
        x = layers.Concatenate()(pair[::-1] if changes.get("swapSkip") else pair)
        x = addBlock(x, width * 2**level)
    last = x
    if changes.get("lateSigmoid"):
        x = layers.Activation("sigmoid")(layers.Conv3D(1, 1)(x))
    else:
        x = layers.Conv3D(1, 1, activation=changes.get("activation", "sigmoid"))(x)
    return keras.Model(first, [x, last] if changes.get("outputs") else x)


def randomise(model, seed=0):
    """Give every variable of a Keras model random values, moving statistics included; return the model."""
    for layer in model.layers:
        shapes = [tuple(array.shape) for array in layer.get_weights()]
        if shapes:
            generator = np.random.default_rng((seed, len(shapes), *shapes[0], model.layers.index(layer)))
            names = VARIABLES["normalisation" if len(shapes) == 4 else "convolution"]
            layer.set_weights([randomArray(generator, *pair) for pair in zip(names, shapes, strict=False)])
    return model


def randomArray(generator, name, shape):
    """Draw values that keep activations near 1 and spread the output over 0..1."""
    if name == "kernel":
        gain = 16 if shape[0] == 1 else 2
        return generator.normal(0, (gain / np.prod(shape[:-1])) ** 0.5, shape).astype(np.float32)
    if name in ("gamma", "moving_variance"):
        return generator.uniform(0.5, 1.5, shape).astype(np.float32)
    return generator.normal(0.5 if name == "beta" else 0, 0.3, shape).astype(np.float32)


def randomWeights(plan, seed=0):
    """Random weights of a plan, as {layer: {variable: array}}; no Keras needed."""
    generator = np.random.default_rng(seed)
    return {
        layer: {name: randomArray(generator, name, shape) for name, shape in shapes.items()}
        for layer, shapes in variableShapes(plan).items()
    }


def randomVolume(*shape, seed=0):
    """Volume of mean 0 and standard deviation 1, float32."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def passOnce(model, volume):
    """One pass of a Keras model over (x, y, z), without tracing a graph."""
    return np.asarray(model(volume[np.newaxis, ..., np.newaxis], training=False))[0, ..., 0]


# ------------------------------------------------------------------------------------------- in plain NumPy


def forwardByNumpy(volume, weights, levels):
    """Compute the network in float64, one channel and one kernel after the other.

    `weights` is a list of layers in data-flow order: (kernel, bias) and (gamma, beta, mean, variance).
    """
    queue = iter(weights)

    def addBlock(channels):
        for _ in range(2):
            channels = convolve(channels, *next(queue))
            gamma, beta, mean, variance = (array[:, None, None, None] for array in next(queue))
            channels = (channels - mean) / np.sqrt(variance + EPSILON) * gamma + beta
            channels = np.where(channels > 0, channels, 0)
        return channels

    channels, skips = volume[np.newaxis].astype(np.float64), []  # (channel, x, y, z)
    for level in range(levels):
        if level:
            count, *shape = channels.shape
            cells = channels.reshape(count, *(n for side in shape for n in (side // 2, 2)))
            channels = cells.max(axis=(2, 4, 6))
        channels = addBlock(channels)
        skips.append(channels)
    for level in reversed(range(levels - 1)):
        for axis in (1, 2, 3):
            channels = np.repeat(channels, 2, axis)
        channels = addBlock(np.concatenate([skips[level], channels]))
    logits = convolve(channels, *next(queue))[0]
    assert next(queue, None) is None
    return 1 / (1 + np.exp(-logits))


def convolve(channels, kernel, bias):
    """Convolve with zeros outside, as machine learning defines it: a correlation."""
    result = np.empty((kernel.shape[-1], *channels.shape[1:]))
    for target in range(kernel.shape[-1]):
        result[target] = bias[target]
        for source, channel in enumerate(channels):
            result[target] += correlate(channel, np.float64(kernel[..., source, target]), mode="constant")
    return result


def weightList(model):
    """Weights of a Keras model's layers in data-flow order."""
    return [layer.get_weights() for layer in model.layers if layer.get_weights()]


HAS_SMAPS = Path("/proc/self/maps").exists()


def isMapped(path) -> bool:
    """Whether this process maps a file."""
    return str(path) in Path("/proc/self/maps").read_text()


def smallModel(seed):
    """Network of 1 feature and 2 levels with random weights."""
    plan = describeUNet(1, 2)
    model = buildSpotUNet(1, 2)
    setWeights(model, plan, randomWeights(plan, seed))
    return model
