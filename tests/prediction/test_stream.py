"""The stream against the network's own layers: lags, folding, kernels of up-sampled tensors, windows."""

import networks
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import correlate

from engine.network.plan import Layer, sideMultiple, upKernel
from engine.prediction.stream import describeStream, listWindows, windowsOf
from functions import describeUNet

LAGS = {  # skips wait for even planes: the last tensor of a level lags 2, 4, 4, ...
    1: [0, 1, 2],
    2: [0, 1, 2, 1, 2, 3, 7, 8],
    3: [0, 1, 2, 1, 2, 4, 2, 3, 4, 9, 10, 21, 22],
    4: [0, 1, 2, 1, 2, 4, 2, 3, 4, 2, 3, 4, 9, 10, 21, 22, 45, 46],
    5: [0, 1, 2, 1, 2, 4, 2, 3, 4, 2, 3, 4, 2, 3, 4, 9, 10, 21, 22, 45, 46, 93, 94],
}


def describe(width, levels, seed=0):
    plan = describeUNet(width, levels)
    return plan, describeStream(plan, networks.randomWeights(plan, seed))


# ---------------------------------------------------------------------------------------------- the steps


@pytest.mark.parametrize("levels", LAGS)
def testLagsAreThoseOfTheDesign(levels):
    _, steps = describe(2, levels)
    assert [step.lag for step in steps] == LAGS[levels]


def testPublishedNetworkLags46Planes():
    _, steps = describe(8, 4)
    assert steps[-1].lag == 46
    skips = [steps[index].lag for index in (2, 5, 8)]
    assert skips == [2, 4, 4]
    assert [step.level for step in steps] == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3 + [2] * 2 + [1] * 2 + [
        0
    ] * 2


@pytest.mark.parametrize("levels", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("width", [1, 3])
def testStepsAreTheTensorsOfTheNetworkInOrder(width, levels):
    _, steps = describe(width, levels)
    down = sum([["input" if not level else "pool", *["convolution"] * 2] for level in range(levels)], [])
    assert [step.kind for step in steps] == down + ["merge", "convolution"] * (levels - 1)
    widths = sum([[width << max(level - 1, 0)] + [width << level] * 2 for level in range(levels)], [])
    widths[0] = 1
    widths += [width << level for level in reversed(range(levels - 1)) for _ in range(2)]
    assert [step.channels for step in steps] == widths
    known = []
    for step in steps:
        assert all(name in known for name in step.inputs)
        known.append(step.name)
    assert len(set(known)) == len(known)
    assert [step.head is not None for step in steps] == [False] * (len(steps) - 1) + [True]


@pytest.mark.parametrize(
    ("width", "levels", "shape"), [(3, 1, (5, 3, 7)), (2, 2, (6, 10, 8)), (2, 4, (8, 16, 24))]
)
def testStepsOverTheWholeVolumeEqualTheNetwork(width, levels, shape):
    plan = describeUNet(width, levels)
    weights = networks.randomWeights(plan, levels)
    volume = networks.randomVolume(*shape, seed=1)  # (x, y, z)
    expected = networks.forwardByNumpy(volume, [list(layer.values()) for layer in weights.values()], levels)
    assert np.ptp(expected) > 0.2
    received = computeSteps(describeStream(plan, weights), volume.T)
    np.testing.assert_allclose(received.T, expected, rtol=0, atol=1e-5)


def computeSteps(steps, volume):
    """Compute steps for whole arrays (plane, row, column), in float64, up-sampled tensors and all."""
    known = {}
    for step in steps:
        tensors = [known[name] for name in step.inputs]
        if step.kind == "input":
            made = volume[np.newaxis].astype(np.float64)
        elif step.kind == "pool":
            count, *shape = tensors[0].shape
            made = tensors[0].reshape(count, *(n for side in shape for n in (side // 2, 2))).max((2, 4, 6))
        else:
            for axis in (1, 2, 3) if step.kind == "merge" else ():
                tensors[1] = np.repeat(tensors[1], 2, axis)
            made = networks.convolve(np.concatenate(tensors), np.concatenate(step.kernels, 3), step.bias)
            made = np.maximum(made, 0)
        known[step.name] = made
    kernel, bias = steps[-1].head
    logits = np.tensordot(kernel.astype(np.float64), made, (0, 0)) + bias[:, None, None, None]
    return 1 / (1 + np.exp(-logits[0]))


# ------------------------------------------------------------------------------------ batch normalisation


@settings(max_examples=30, deadline=None, derandomize=True)
@given(seed=st.integers(0, 1000), inputs=st.integers(1, 4), outputs=st.integers(1, 4), tiny=st.booleans())
def testFoldedNormalisationEqualsTheTwoLayers(seed, inputs, outputs, tiny):
    generator = np.random.default_rng(seed)
    plan = [
        Layer("image", "input"),
        Layer("first", "convolution", ("image",), filters=inputs, kernel=3),
        Layer("second", "convolution", ("first",), filters=outputs, kernel=3),
        Layer("normalisation", "normalisation", ("second",)),
    ]
    weights = {
        "first": {"kernel": drawArray(generator, 3, 3, 3, 1, inputs), "bias": drawArray(generator, inputs)},
        "second": {
            "kernel": drawArray(generator, 3, 3, 3, inputs, outputs),
            "bias": drawArray(generator, outputs),
        },
        "normalisation": {name: drawArray(generator, outputs) for name in ("gamma", "beta", "moving_mean")},
    }
    variance = generator.uniform(0, 1e-4 if tiny else 3, outputs).astype(np.float32)  # epsilon matters
    weights["normalisation"]["moving_variance"] = variance
    step = describeStream(plan, weights)[-1]
    channels = generator.standard_normal((inputs, 4, 3, 5))  # (channel, x, y, z)
    exact = networks.convolve(channels, weights["second"]["kernel"], weights["second"]["bias"])
    gamma, beta, mean, variance = (
        np.float64(weights["normalisation"][name])[:, None, None, None]
        for name in ("gamma", "beta", "moving_mean", "moving_variance")
    )
    exact = (exact - mean) / np.sqrt(variance + networks.EPSILON) * gamma + beta
    folded = networks.convolve(channels.transpose(0, 3, 2, 1), step.kernels[0], step.bias)
    np.testing.assert_allclose(folded.transpose(0, 3, 2, 1), exact, rtol=0, atol=2e-6 * np.abs(exact).max())
    assert step.kernels[0].dtype == step.bias.dtype == np.float32


def drawArray(generator, *shape):
    return generator.standard_normal(shape).astype(np.float32)


# ------------------------------------------------------------------------------ up-sampled convolutions


@settings(max_examples=50, deadline=None, derandomize=True)
@given(
    coarse=st.lists(st.integers(-9, 9), min_size=1, max_size=12), taps=st.tuples(*[st.integers(-9, 9)] * 3)
)
def testUpKernelGivesTheConvolutionOfARepeatedRow(coarse, taps):
    fine = np.pad(np.repeat(coarse, 2), 1)
    expected = [sum(tap * fine[place + k] for k, tap in enumerate(taps)) for place in range(2 * len(coarse))]
    transposed = np.zeros(2 * len(coarse) + 2, int)
    for place, value in enumerate(coarse):
        transposed[2 * place : 2 * place + 4] += value * upKernel(np.array(taps), 0)
    np.testing.assert_array_equal(transposed[1:-1], expected)


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 2, 4), (1, 5, 2)])
def testUpKernelGivesTheConvolutionOfARepeatedVolume(shape):
    generator = np.random.default_rng(3)
    coarse, kernel = generator.standard_normal(shape), generator.standard_normal((3, 3, 3))
    fine = coarse
    for axis in range(3):
        fine = np.repeat(fine, 2, axis)
    taps = upKernel(upKernel(upKernel(kernel, 1), 0), 2)
    assert taps.shape == (4, 4, 4)
    transposed = np.zeros([2 * side + 2 for side in shape])
    for place, value in np.ndenumerate(coarse):
        transposed[tuple(slice(2 * index, 2 * index + 4) for index in place)] += value * taps
    np.testing.assert_allclose(
        transposed[1:-1, 1:-1, 1:-1], correlate(fine, kernel, mode="constant"), atol=1e-12
    )


def testUpKernelLeavesTheOtherAxesAlone():
    kernel = np.arange(3 * 3 * 3 * 2 * 5.0).reshape(3, 3, 3, 2, 5)
    first, middle, last = kernel[:, 0], kernel[:, 1], kernel[:, 2]
    received = upKernel(kernel, 1)
    assert received.shape == (3, 4, 3, 2, 5)
    for tap, expected in enumerate([last, middle + last, first + middle, first]):
        np.testing.assert_array_equal(received[:, tap], expected)


# -------------------------------------------------------------------------------------------- windows


def neededPlanes(step, plane):
    """Planes that one plane of a step is computed from, for each of its inputs."""
    around = {plane - 1, plane, plane + 1}
    if step.kind == "pool":
        return [{2 * plane, 2 * plane + 1}]
    return [around] if step.kind == "convolution" else [around, {fine // 2 for fine in around}]


@pytest.mark.parametrize("levels", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("cells", [1, 2, 3, 5])
def testWindowsHoldExactlyThePlanesThatAreNeededAndThere(levels, cells):
    plan, steps = describe(1, levels)
    slab = cells * sideMultiple(plan)
    byName = {step.name: step for step in steps}
    for step in steps[1:]:
        planes = slab >> step.level
        windows = windowsOf(step, slab)
        assert len(windows) == len(step.inputs)
        for number in (0, 1, 7):
            made = range(number * planes - step.lag, (number + 1) * planes - step.lag)
            needed = [set().union(*sets) for sets in zip(*(neededPlanes(step, p) for p in made), strict=True)]
            for name, planesNeeded, window in zip(step.inputs, needed, windows, strict=True):
                source = byName[name]
                sourcePlanes = slab >> source.level
                start = number * sourcePlanes + window.start
                assert set(range(start, start + window.count)) == planesNeeded
                newest = (number + 1) * sourcePlanes - source.lag - 1  # made in this step, before this one
                assert max(planesNeeded) <= newest


@pytest.mark.parametrize("levels", [1, 2, 3, 4])
def testOutputNeverNeedsAPlaneThatHasNotCome(levels):
    """The dependencies of a plane of the output, followed through the layers themselves."""
    plan, steps = describe(1, levels)
    cell, lag = sideMultiple(plan), steps[-1].lag
    furthest = {plane: lastPlane(plan, plane) for plane in range(-cell, 3 * cell)}
    for slab in (cell, 2 * cell, 3 * cell):
        for plane, needed in furthest.items():
            step = (plane + lag) // slab
            assert needed < (step + 1) * slab


def lastPlane(plan, plane):
    """Last plane of the input that a plane of the output depends on."""
    needed = {plan[-1].name: {plane}}
    for layer in reversed(plan):
        planes = needed[layer.name]
        if layer.kind == "convolution" and layer.kernel == 3:
            planes = {plane + offset for plane in planes for offset in (-1, 0, 1)}
        elif layer.kind == "upSample":
            planes = {plane // 2 for plane in planes}
        elif layer.kind == "pool":
            planes = {2 * plane + offset for plane in planes for offset in (0, 1)}
        for name in layer.inputs:
            needed[name] = needed.get(name, set()) | planes
    return max(needed[plan[0].name])


def testEveryReaderOfATensorHasItsWindow():
    _, steps = describe(2, 3)
    windows = listWindows(steps, 8)
    readers = {step.name: sum(step.name in other.inputs for other in steps) for step in steps}
    assert {name: len(found) for name, found in windows.items()} == readers
    assert windows[steps[-1].name] == []
    for step in steps[1:]:
        for name, window in zip(step.inputs, windowsOf(step, 8), strict=True):
            assert window in windows[name]


@pytest.mark.parametrize(("lanes", "packed"), [(8, 0), (16, 4)])
def testOpenvinoComputesTwoColumnsWhereTheyFillARegister(monkeypatch, lanes, packed):
    """Of the published network the four convolutions of the finest level."""
    import engine.prediction.openvinoStream

    monkeypatch.setattr(engine.prediction.openvinoStream, "vectorLanes", lambda: lanes)
    plan = describeUNet()
    steps = describeStream(plan, networks.randomWeights(plan))
    operations = engine.prediction.openvinoStream._Operations(
        engine.prediction.openvinoStream.loadOpenvino(), "float32"
    )
    strides = []
    for step in steps:
        if step.kernels:
            parameters, results = operations._build(step, 16 >> step.level, (16, 16), False)
            model = operations.ov.Model([operations.opset.result(node) for node in results], parameters, "")
            kinds = [node for node in model.get_ops() if node.get_type_name() == "Convolution"]
            strides += [tuple(node.get_attributes()["strides"]) for node in kinds]
    assert strides.count((1, 1, 2)) == packed
