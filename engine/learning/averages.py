"""The moving averages of batch normalisation, made anew for the weights of this moment."""

import math
from collections.abc import Callable

import keras
import numpy as np
from keras import ops

from engine.learning.group import ALONE, Group
from engine.network.devices import compileFunction, toNumpy


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
    faster : keras.Model
        Computes them: the model itself, or the same network of faster layers.
    group : Group
        Processes that share the batches.
    """

    def __init__(
        self,
        model: keras.Model,
        read: Callable[[int], np.ndarray],
        count: int,
        faster: keras.Model,
        group: Group = ALONE,
    ) -> None:
        self.model, self.read, self.count, self.group = model, read, count, group
        self.layers = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]

        def forward(moving: list, learnt: list, image):
            return faster.stateless_call(learnt, moving, image, training=True)[1]

        self._forward = compileFunction(forward)

    def renew(self) -> None:
        """Replace the averages in the model."""
        if not self.count:
            return
        learnt = [variable.value for variable in self.model.trainable_variables]
        moving = self.model.non_trainable_variables  # mean, variance, mean, variance, ...
        lengths, group = [math.prod(variable.shape) for variable in moving], self.group
        seen = np.zeros((self.count, sum(lengths)), np.float32)
        for number in range(group.index, self.count, group.count):
            zeros = [ops.zeros(variable.shape, variable.dtype) for variable in moving]  # used up
            image = ops.convert_to_tensor(self.read(number))
            seen[number] = np.concatenate([toNumpy(tensor) for tensor in self._forward(zeros, learnt, image)])
        middle = np.median(sum(group.gatherArrays(seen)), axis=0)
        medians = np.split(middle, np.cumsum(lengths)[:-1])
        for layer, mean, variance in zip(self.layers, medians[::2], medians[1::2], strict=True):
            share = 1 - layer.momentum  # of a batch in averages that begin at zero
            layer.moving_mean.assign(mean / share)
            layer.moving_variance.assign(variance / share)
