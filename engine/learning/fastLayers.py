"""Layers that compute the numbers of Keras's own, to rounding, faster in a training on a CPU with TensorFlow.

They own the same variables in the same order. Most of the time of Keras's step goes into the gradients of the
kernels, the convolutions of a tensor that was up-sampled and joined to another one, and batch normalisation.
Which kernels oneDNN has for a convolution depends on the processor; what is chosen here, and the time it
takes, is in benchmarks/RESULTS.md (routes of a convolution).
"""

import keras
import tensorflow as tf

from engine.base.machine import instructionSet, vectorLanes

LEAST_PACKED = 8  # columns; fewer are not worth it
PADDING = (0, 0), (1, 1), (1, 1), (1, 1), (0, 0)  # a voxel on every side


class Convolution(keras.layers.Conv3D):
    """A convolution with zero padding of one tensor, or of a fine one beside a coarse one that is up-sampled.

    Neither is the coarse tensor up-sampled nor are both joined: both results are added up.
    """

    def __init__(self, *arguments, **options) -> None:
        super().__init__(*arguments, **options)
        self.input_spec = None  # Keras's asks for one tensor

    def build(self, input_shape) -> None:
        """Make the kernel; of two tensors, that of the joined ones."""
        if isinstance(input_shape, list):
            fine, coarse = input_shape
            input_shape = (*fine[:-1], fine[-1] + coarse[-1])
        super().build(input_shape)
        self.input_spec = None

    def compute_output_shape(self, input_shape) -> tuple:
        """Sides of the fine tensor, with the features of this layer."""
        fine = input_shape[0] if isinstance(input_shape, list) else input_shape
        return (*fine[:-1], self.filters)

    def call(self, inputs):
        """Convolve (sample, x, y, z, channel), or [fine, coarse]."""
        if self.kernel_size[0] == 1:
            return super().call(inputs)
        fine, *coarse = inputs if isinstance(inputs, list) else [inputs]
        kernels = tf.split(self.kernel, [tensor.shape[-1] for tensor in (fine, *coarse)], axis=3)
        result = convolve(fine, kernels[0], tf.convert_to_tensor(self.bias))
        for tensor, kernel in zip(coarse, kernels[1:], strict=True):
            result += convolveUpSampled(tensor, kernel)
        return self.activation(result)


@tf.custom_gradient
def convolve(tensor, kernel, bias):
    """Convolve (sample, x, y, z, channel) with (3, 3, 3, in, out), zeros outside.

    The bias has no gradient: the normalisation that follows takes away whatever is added to all voxels. What
    Keras computes there is rounding, and Adam makes steps of the usual length of it.
    """

    def gradient(upstream):
        data = _convolve(upstream, _flip(kernel))
        return data, _kernelGradient(tensor, upstream), tf.zeros_like(bias)

    return _convolve(tensor, kernel, bias), gradient


def convolveUpSampled(tensor, kernel):
    """Convolve what up-sampling by 2 would make of (sample, x, y, z, channel), from the tensor itself.

    To up-sample is to put zeros between the numbers and to add up neighbours. The convolution may come in
    between; of numbers with zeros between them it is a transposed one, with 27 instead of 216 products for 8
    voxels, and so are its gradients.
    """
    sides = 2 * tf.shape(tensor)[1:4]
    shape = tf.concat([tf.shape(tensor)[:1], sides + 1, kernel.shape[4:]], axis=0)
    stuffed = tf.nn.conv3d_transpose(tensor, 8 * _flip(kernel), shape, (1, 2, 2, 2, 1), "VALID")
    return _meanOfNeighbours(stuffed)  # 8 times the mean is the sum


@tf.custom_gradient
def _meanOfNeighbours(tensor):
    """Mean of 2x2x2 voxels from every one on; every side gets shorter by one."""

    def gradient(upstream):  # TensorFlow's own takes three times as long
        return tf.nn.avg_pool3d(tf.pad(upstream, PADDING), 2, 1, "VALID")

    return tf.nn.avg_pool3d(tensor, 2, 1, "VALID"), gradient


def _flip(kernel):
    """Kernel of the way back: (3, 3, 3, out, in), every axis reversed."""
    return tf.transpose(tf.reverse(kernel, (0, 1, 2)), (0, 1, 2, 4, 3))


def _convolve(tensor, kernel, bias=None):
    """Convolve; where few features leave a vector register half empty, two columns at once fill it."""
    pack = 2 if _isPacked(tensor, kernel.shape[4]) else 1
    if pack == 2:
        both = [tf.pad(kernel, ((0, 0), (0, 0), (column, 1 - column), (0, 0), (0, 0))) for column in (0, 1)]
        kernel = tf.concat(both, axis=4)
    result = tf.nn.conv3d(tensor, kernel, (1, 1, 1, pack, 1), "SAME")
    if bias is not None:
        result = tf.nn.bias_add(result, tf.tile(bias, (pack,)))
    if pack == 1:
        return result
    return tf.reshape(result, tf.concat([tf.shape(tensor)[:4], [kernel.shape[4] // pack]], axis=0))


def _kernelGradient(tensor, upstream):
    """Gradient of the kernel: (3, 3, 3, in, out)."""
    inCount, outCount = tensor.shape[-1], upstream.shape[-1]
    if instructionSet() == "AVX2":  # oneDNN's own kernel knows no padding there, and matrix products are slow
        return _correlate(tf.pad(tensor, PADDING), upstream, (3, 3, 3, inCount, outCount), 1, "VALID")
    if not _isPacked(tensor, outCount):
        return _correlate(tensor, upstream, (3, 3, 3, inCount, outCount), 1, "SAME")
    shape = tf.shape(upstream)
    pairs = tf.reshape(upstream, (shape[0], shape[1], shape[2], shape[3] // 2, 2 * outCount))
    both = _correlate(tensor, pairs, (3, 3, 4, inCount, 2 * outCount), 2, "SAME")
    return both[:, :, :3, :, :outCount] + both[:, :, 1:, :, outCount:]


def _correlate(tensor, upstream, shape: tuple[int, ...], stride: int, padding: str):
    """Gradient of a kernel of some shape by TensorFlow's operation; the stride is that of columns."""
    strides = [1, 1, 1, stride, 1]
    return tf.raw_ops.Conv3DBackpropFilterV2(
        input=tensor, filter_sizes=shape, out_backprop=upstream, strides=strides, padding=padding
    )


def _isPacked(tensor, features: int) -> bool:
    """Whether two columns fit into a vector register with the features of both."""
    columns = tensor.shape[3] or 0  # None: not known yet
    return 2 * features <= vectorLanes() and columns % 2 == 0 and columns >= LEAST_PACKED


class Normalisation(keras.layers.BatchNormalization):
    """Batch normalisation; in a training by TensorFlow's operation for pictures, all of it in one piece."""

    def call(self, inputs, training: bool | None = None, mask=None):
        """Normalise (sample, x, y, z, channel) and, in a training, move the averages."""
        if not training:
            return super().call(inputs, training=training, mask=mask)
        shape = tf.shape(inputs)
        pictures = tf.reshape(inputs, (shape[0] * shape[1], shape[2], shape[3], inputs.shape[-1]))
        parts = tf.convert_to_tensor(self.gamma), tf.convert_to_tensor(self.beta)
        result, mean, variance = tf.compat.v1.nn.fused_batch_norm(pictures, *parts, epsilon=self.epsilon)
        count = tf.cast(tf.reduce_prod(tf.shape(inputs, tf.int64)[:-1]), tf.float32)
        for average, value in (
            (self.moving_mean, mean),
            (self.moving_variance, variance * (count - 1) / count),  # it gives that of a sample
        ):
            average.assign(average * self.momentum + value * (1 - self.momentum))
        return tf.reshape(result, shape)


MAKERS = {  # of the layers of a plan, by kind
    "convolution": lambda layer: Convolution(
        layer.filters, layer.kernel, padding="same", activation=layer.activation, name=layer.name
    ),
    "normalisation": lambda layer: Normalisation(name=layer.name),
    "upSample": lambda layer: lambda coarse: coarse,  # the convolution does it
    "concatenate": lambda layer: list,
}
