"""The layers of a training on a CPU against Keras's own: values, gradients, moving averages."""

from functools import partial

import keras
import networks
import numpy as np
import pytest

import engine.learning.sharing
from functions import buildSpotUNet, describeUNet, setWeights

if keras.backend.backend() != "tensorflow":
    pytest.skip("layers of TensorFlow", allow_module_level=True)

SETS = ["", "AVX2", "AVX-512"]  # each has its own way to the same numbers
SHAPES = [
    (2, 2, (4, 6, 10)),
    (3, 3, (8, 12, 4)),
    (2, 4, (8, 16, 24)),
    (3, 1, (5, 7, 3)),
    (1, 5, (16, 16, 32)),
]


@pytest.fixture(params=SETS)
def instructions(request, monkeypatch):
    """Take the way of each kind of processor; every processor can compute all of them."""
    from engine.learning import fastLayers

    monkeypatch.setattr(fastLayers, "instructionSet", lambda: request.param)
    monkeypatch.setattr(fastLayers, "vectorLanes", lambda: 16 if request.param == "AVX-512" else 8)
    return request.param


def buildBoth(width, levels, seed=1):
    """Keras's own layers, and the faster ones, with the same random weights."""
    plan = describeUNet(width, levels)
    weights = networks.randomWeights(plan, seed)
    own, fast = (
        buildSpotUNet(width, levels),
        buildSpotUNet(width, levels, engine.learning.sharing.fasterLayers()),
    )
    for model in (own, fast):
        setWeights(model, plan, weights)
        for layer in model.layers:
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.momentum = 0.6
    return own, fast


def learn(model, images, truth):
    """Probability, gradients and moving averages of one step, without the step."""
    import tensorflow

    with tensorflow.GradientTape() as tape:
        probability = model(images, training=True)
        loss = keras.losses.BinaryCrossentropy()(truth, probability)
    gradients = tape.gradient(loss, [variable.value for variable in model.trainable_variables])
    return [np.asarray(part) for part in (probability, *gradients, *model.non_trainable_variables)]


@pytest.mark.parametrize(("width", "levels", "shape"), SHAPES)
def testTheyOwnTheSameVariablesAndPredictTheSame(width, levels, shape, instructions):
    own, fast = buildBoth(width, levels)
    assert [variable.path for variable in fast.variables] == [variable.path for variable in own.variables]
    assert fast.count_params() == own.count_params()
    assert type(fast.get_layer("down1_convolution1")) is not type(own.get_layer("down1_convolution1"))
    images = np.stack([networks.randomVolume(*shape, seed=seed) for seed in range(2)])[..., np.newaxis]
    expected = own.predict_on_batch(images)
    assert np.ptp(expected) > 0.1  # a constant would agree with anything
    np.testing.assert_allclose(fast.predict_on_batch(images), expected, rtol=0, atol=5e-6)


@pytest.mark.parametrize(("width", "levels", "shape"), SHAPES)
def testTheyLearnTheSame(width, levels, shape, instructions):
    own, fast = buildBoth(width, levels)
    images = np.stack([networks.randomVolume(*shape, seed=seed) for seed in range(2)])[..., np.newaxis]
    truth = np.random.default_rng(2).random(images.shape) < 0.2
    before = [np.asarray(variable) for variable in own.non_trainable_variables]
    expected, received = learn(own, images, truth), learn(fast, images, truth)
    largest = max(np.abs(part).max() for part in expected[1 : -len(before)])
    names = [variable.path for variable in own.trainable_variables + own.non_trainable_variables]
    for name, wanted, got in zip(["probability", *names], expected, received, strict=True):
        # the gradient of a bias before a normalisation is zero but for rounding
        scale = max(np.abs(wanted).max(), 0.01 * largest)
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-3 * scale, err_msg=name)
    moved = [np.abs(new - old).max() for new, old in zip(received[-len(before) :], before, strict=True)]
    assert min(moved) > 0.01  # the averages did follow the batch


def testTwoColumnsAtOnceWhereTheyFillARegister(instructions):
    """Also in a batch of unknown length, as `fit` gives it; on AVX2 kernels have gradients of their own."""
    import tensorflow

    _, fast = buildBoth(8, 3)

    @tensorflow.function(autograph=False)
    def step(images):
        with tensorflow.GradientTape() as tape:
            loss = tensorflow.reduce_mean(fast(images, training=True))
        return tape.gradient(loss, [variable.value for variable in fast.trainable_variables])

    graph = step.get_concrete_function(tensorflow.TensorSpec((None, 16, 16, 16, 1))).graph
    operations = [operation for operation in graph.get_operations() if operation.type.startswith("Conv3D")]
    packed = [item.type for item in operations if list(item.get_attr("strides")) == [1, 1, 1, 2, 1]]
    padded = [item for item in operations if item.type == "Conv3DBackpropFilterV2" and isValid(item)]
    gradients = 4 * (instructions == "AVX-512")  # of kernels: those with 8 features, twice on either side
    assert packed.count("Conv3DBackpropFilterV2") == gradients
    # four on the way there, five back; the first kernel's data are one channel, whose gradient nobody reads
    assert packed.count("Conv3D") == (9 if gradients else 1)
    assert len(padded) == 2 + 10 * (instructions == "AVX2")  # of two that are up-sampled; of all


def isValid(operation):
    """Whether an operation pads nothing."""
    return operation.get_attr("padding") == b"VALID"


def testNormalisationOfValuesFarFromZeroIsThatOfFloat64():
    from engine.learning.fastLayers import Normalisation

    values = np.random.default_rng(3).normal([[30.0, -4.0]], [[0.5, 2.0]], (2 * 8 * 6 * 10, 2))
    layer = Normalisation(momentum=0.0, epsilon=1e-3)
    received = np.asarray(layer(values.reshape(2, 8, 6, 10, 2).astype(np.float32), training=True))
    expected = (values - values.mean(0)) / np.sqrt(values.var(0) + 1e-3)
    np.testing.assert_allclose(received.reshape(-1, 2), expected, rtol=0, atol=2e-4)
    np.testing.assert_allclose(layer.moving_mean, values.mean(0), rtol=1e-6)
    np.testing.assert_allclose(layer.moving_variance, values.var(0), rtol=1e-4)  # of the population, as Keras


def testOnAGpuAndWithoutOneDnnKerasTrainsWithItsOwnLayers(monkeypatch):
    for name, value in (("hasGpu", True), ("usesOneDnn", False)):
        with monkeypatch.context() as change:
            change.setattr(engine.learning.sharing, name, lambda value=value: value)
            assert engine.learning.sharing.fasterLayers() == {}
    assert engine.learning.sharing.fasterLayers()


@pytest.mark.parametrize(
    ("flags", "isFaster"),
    [
        ((), True),
        (("--recipe", "published"), True),
        (("--jitCompile",), False),
        (("--precision", "mixed_bfloat16"), False),
    ],
)
def testTheTrainedNetworkConsistsOfThem(flags, isFaster):
    import trainingAndValidation
    from engine.base.parameters import pick
    from engine.learning.optimiser import Optimisation
    from engine.learning.sharing import Machine, Sharing, buildTrained

    arguments = trainingAndValidation.parseArguments(["--base_depth", "1", "--levelCount", "2", *flags])
    plain = buildSpotUNet(1, 2)
    sharing, build = Sharing(pick(Machine, arguments), 2), partial(buildSpotUNet, 1, 2)
    trained = buildTrained(build, plain, pick(Optimisation, arguments), sharing, 3)
    kinds = {type(layer).__module__ for layer in trained.layers}
    assert ("engine.learning.fastLayers" in kinds) is isFaster
    assert "engine.learning.fastLayers" not in {
        type(layer).__module__ for layer in plain.layers
    }  # it is saved
    for mine, other in zip(trained.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, other)
