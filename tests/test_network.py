"""The whole network against a plain NumPy implementation."""

import networks
import numpy as np
import pytest

from functions import buildModel, buildSpotUNet, describeUNet, setWeights


@pytest.mark.parametrize(
    ("width", "levels", "shape"),
    [(2, 2, (6, 10, 8)), (3, 3, (8, 12, 4)), (2, 4, (8, 16, 24)), (3, 1, (5, 7, 3)), (1, 5, (16, 16, 32))],
)
def testForwardPassEqualsPlainNumpy(width, levels, shape):
    plan = describeUNet(width, levels)
    weights = networks.randomWeights(plan, seed=levels)
    volume = networks.randomVolume(*shape, seed=width)
    expected = networks.forwardByNumpy(volume, [list(layer.values()) for layer in weights.values()], levels)
    received = networks.passOnce(buildModel(plan, weights), volume)
    assert np.ptp(expected) > 0.2  # a constant would agree with anything
    np.testing.assert_allclose(received, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("levels", [2, 3])
def testPredictOnABatchEqualsOnePassEach(levels):
    plan = describeUNet(2, levels)
    weights = networks.randomWeights(plan)
    volumes = np.stack([networks.randomVolume(8, 4, 12, seed=seed) for seed in range(3)])
    received = buildModel(plan, weights).predict_on_batch(volumes[..., np.newaxis])[..., 0]
    for volume, result in zip(volumes, received, strict=True):
        expected = networks.forwardByNumpy(
            volume, [list(layer.values()) for layer in weights.values()], levels
        )
        np.testing.assert_allclose(result, expected, rtol=0, atol=1e-5)


def testReferenceItselfEqualsAnIndependentKerasNetwork():
    import keras

    model = networks.randomise(networks.buildPublished(keras, 2, 3, "Activation"))
    volume = networks.randomVolume(8, 12, 4)
    expected = networks.forwardByNumpy(volume, networks.weightList(model), 3)
    np.testing.assert_allclose(networks.passOnce(model, volume), expected, rtol=0, atol=1e-5)


def testSidesThatCannotBeHalvedFailInKeras():
    model = buildSpotUNet(1, 3)
    with pytest.raises(Exception, match="(?i)shape|dimension"):
        networks.passOnce(model, networks.randomVolume(8, 8, 6))


def testWeightsOfAnotherWidthAreNotSet():
    plan = describeUNet(3, 2)
    with pytest.raises(ValueError, match="shape"):
        setWeights(buildSpotUNet(2, 2), plan, networks.randomWeights(plan))
