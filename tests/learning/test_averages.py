"""Moving averages that are the medians of batches."""

import numpy as np
import pytest
from networks import smallModel

from functions import buildSpotUNet


@pytest.mark.parametrize(("momentum", "isFaster"), [(0.99, False), (0.5, False), (0.9, True)])
def testRenewedAveragesAreTheMediansOfTheBatches(momentum, isFaster):
    """With them a network in inference gives what it gives in training on the same single batch."""
    import keras

    from engine.learning.averages import Averages
    from engine.learning.sharing import fasterLayers

    model = twin = smallModel(3)
    if isFaster:
        twin = buildSpotUNet(1, 2, fasterLayers())
    for layer in (*model.layers, *twin.layers):
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = momentum
    images = np.random.default_rng(1).normal(size=(3, 2, 8, 8, 8, 1)).astype(np.float32)
    before = [layer.get_weights() for layer in model.layers]
    Averages(model, lambda number: images[number], 0, twin).renew()
    assert all(
        np.array_equal(old, new)
        for weights, layer in zip(before, model.layers, strict=True)
        for old, new in zip(weights, layer.get_weights(), strict=True)
    )
    Averages(model, lambda number: images[number], 1, twin).renew()
    expected = np.asarray(model(images[0], training=True))  # which moves the averages
    Averages(model, lambda number: images[number], 1, twin).renew()
    np.testing.assert_allclose(np.asarray(model(images[0], training=False)), expected, atol=2e-5)

    Averages(model, lambda number: images[number], 3, twin).renew()
    first = next(layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization))
    convolved = np.asarray(model.layers[1](images.reshape(-1, 8, 8, 8, 1))).reshape(3, -1, 1)
    np.testing.assert_allclose(first.moving_mean, np.median(convolved.mean(axis=1), axis=0), atol=1e-5)
    np.testing.assert_allclose(first.moving_variance, np.median(convolved.var(axis=1), axis=0), rtol=1e-4)
