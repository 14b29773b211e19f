"""Layers that compute the numbers of Keras's own, to rounding, faster in a training on a CPU with TensorFlow.

They own the same variables in the same order. Most of the time of Keras's step goes into two places: the
convolutions of a tensor that was up-sampled and joined to another one, and batch normalisation.
"""

import keras
import numpy as np
import tensorflow as tf

from engine.stream import upKernel

FOLD = upKernel(np.eye(3, dtype=np.float32), 0)  # 3 taps on an up-sampled axis -> 4 of a transposed one


class Convolution(keras.layers.Conv3D):
    """A convolution with zero padding of one tensor, or of a fine one beside a coarse one that is up-sampled.

    Neither is the coarse tensor up-sampled nor are both joined: the voxels of an up-sampled one are equal in
    eights, so that the convolution is a transposed one of the coarse tensor, with 8 instead of 27 products a
    channel and voxel; both results are added up.
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
        if not isinstance(inputs, list):
            return super().call(inputs)
        fine, coarse = inputs
        own, other = tf.split(self.kernel, [fine.shape[-1], coarse.shape[-1]], axis=3)
        taps = tf.einsum("ax,by,cz,xyzio->abcoi", FOLD, FOLD, FOLD, other)
        shape = tf.concat([tf.shape(fine)[:-1], [self.filters]], axis=0)
        up = tf.nn.conv3d_transpose(coarse, taps, shape, (1, 2, 2, 2, 1), "SAME")
        return self.activation(tf.nn.conv3d(fine, own, (1,) * 5, "SAME") + up + self.bias)


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
