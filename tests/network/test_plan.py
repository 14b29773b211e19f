"""Sizes that follow from the plan, against Keras and against perturbed inputs."""

import networks
import numpy as np
import pytest

from engine.network.plan import countParameters, haloOf, sideMultiple, variableShapes, weightedLayers
from functions import buildModel, buildSpotUNet, describeUNet

SIZES = [(8, 4), (1, 1), (2, 2), (3, 3), (5, 4), (1, 6)]


def testPublishedNetworkHasThePublishedNumberOfParameters():
    plan = describeUNet()
    shapes = variableShapes(plan)
    fixed = sum(shapes[layer.name]["moving_mean"][0] for layer in plan if layer.kind == "normalisation") * 2
    assert countParameters(plan) == 366_593
    assert countParameters(plan) - fixed == 365_889
    assert (plan[-1].kernel, plan[-1].filters, plan[-1].activation) == (1, 1, "sigmoid")


def testIndependentKerasNetworkHasThePublishedNumberOfParameters():
    import keras

    model = networks.buildPublished(keras)
    assert model.count_params() == 366_593
    assert sum(int(np.prod(variable.shape)) for variable in model.trainable_variables) == 365_889


@pytest.mark.parametrize(("width", "levels"), SIZES)
def testShapesAreThoseOfKerasLayerByLayer(width, levels):
    import keras

    plan = describeUNet(width, levels)
    received = [list(variables.values()) for variables in variableShapes(plan).values()]
    for model in (networks.buildPublished(keras, width, levels), buildSpotUNet(width, levels)):
        expected = [[array.shape for array in arrays] for arrays in networks.weightList(model)]
        assert received == expected
        assert countParameters(plan) == model.count_params()
    assert [layer.name for layer in weightedLayers(plan)] == [
        layer.name for layer in model.layers if layer.weights
    ]


@pytest.mark.parametrize(("levels", "multiple"), [(1, 1), (2, 2), (3, 4), (4, 8), (5, 16)])
def testSidesMustDivideByTwoForEveryPooling(levels, multiple):
    assert sideMultiple(describeUNet(2, levels)) == multiple


def testPublishedNetworkNeedsAHaloOf48():
    assert haloOf(describeUNet()) == 48
    assert [haloOf(describeUNet(1, levels)) for levels in (1, 2, 3, 5)] == [2, 8, 24, 96]


def reachOf(levels):
    """Measure how far, in voxels, inputs before and behind one aligned cell still change it.

    All kernels are positive and every activation stays above 0, so that nothing cancels; along each axis the
    network reads equally far, so that one axis is enough.
    """
    plan = describeUNet(1, levels)
    weights = networks.randomWeights(plan, 1)
    for variables in weights.values():
        for array in variables.values():
            np.abs(array, out=array)
        if "moving_mean" in variables:
            variables["moving_mean"][:] = 0
            variables["moving_variance"][:] = 1
    model = buildModel(plan, weights)
    logit = type(model)(model.input, model.layers[-2].output)  # without the sigmoid, which saturates
    cell = sideMultiple(plan)
    length = 2 * haloOf(plan) + 5 * cell
    start = (length // cell // 2) * cell
    volume = np.ones((length, cell, cell), np.float32)

    def block(image):
        return np.asarray(logit(image[None, ..., None], training=False))[0, start : start + cell]

    reference, changing = block(volume), []
    for place in range(length):
        image = volume.copy()
        image[place] += 100
        if not np.array_equal(block(image), reference):
            changing.append(place)
    assert changing == list(range(changing[0], changing[-1] + 1))
    return start - changing[0], changing[-1] - (start + cell - 1)


@pytest.mark.parametrize(("levels", "exact"), [(1, 2), (2, 8), (3, 22)])
def testHaloIsTheMeasuredReachRoundedUpToWholeCells(levels, exact):
    plan = describeUNet(1, levels)
    cell, before_behind = sideMultiple(plan), reachOf(levels)
    assert max(before_behind) == exact
    assert haloOf(plan) == -(-max(before_behind) // cell) * cell


@pytest.mark.slow
def testHaloOfThePublishedDepthIsTheMeasuredReach():
    assert max(reachOf(4)) == 46
