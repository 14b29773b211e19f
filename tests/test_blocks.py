"""Prediction in blocks against one pass over everything."""

import itertools
import re

import networks
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import blocks
from engine.blocks import chooseSplit, predictInBlocks
from engine.errors import PipelineError
from engine.plan import haloOf, sideMultiple
from functions import buildModel, describeUNet, predictProbability

PLAN = describeUNet(2, 2)  # cells of 2 voxels, halo of 8
WEIGHTS = networks.randomWeights(PLAN, 3)
GIB_PER_VOXEL = blocks.GIB_PER_MVOXEL * 2 / blocks.PUBLISHED_DEPTH / 1e6  # of this narrow network


@pytest.fixture(scope="module")
def model():
    return buildModel(PLAN, WEIGHTS)


def onePass(model, image, plan=PLAN):
    """Mirror at the far ends, one pass, crop: what every prediction must equal."""
    multiple = sideMultiple(plan)
    padded = np.pad(image, [(0, -side % multiple) for side in image.shape], mode="symmetric")
    result = networks.passOnce(model, padded)
    return result[tuple(slice(side) for side in image.shape)]


def budgetFor(*shape):
    """GiB that just suffice for one block of this shape."""
    return np.prod(shape, dtype=float) * GIB_PER_VOXEL * (1 + 1e-9)


def countPasses(predict):
    """Wrap a pass so that the shapes of its blocks are listed."""

    def wrapped(batch):
        wrapped.shapes.append(batch.shape[1:4])
        return predict(batch)

    wrapped.shapes = []
    return wrapped


# -------------------------------------------------------------------------------------- equal to one pass


@pytest.mark.parametrize(
    ("shape", "levels", "budget"),
    [
        ((24, 24, 24), 2, (18, 18, 18)),
        ((40, 22, 30), 2, (20, 18, 22)),
        ((33, 21, 47), 2, (20, 20, 24)),  # no side is a multiple of 2
        ((64, 9, 5), 2, (24, 10, 6)),
        ((1, 37, 30), 2, (2, 20, 24)),  # one plane
        ((30, 37, 1), 2, (18, 20, 2)),
        ((7, 3, 1), 2, (8, 4, 2)),  # smaller than the halo
        ((61, 7, 50), 3, (52, 8, 52)),
        ((123, 5, 3), 4, (104, 8, 8)),
    ],
)
def testPredictionInBlocksEqualsOnePass(monkeypatch, shape, levels, budget):
    plan = describeUNet(2, levels)
    weights = networks.randomWeights(plan, levels)
    image = networks.randomVolume(*shape, seed=5)
    expected = onePass(buildModel(plan, weights), image, plan)
    passes = []
    runPass = blocks._runPass
    monkeypatch.setattr(
        blocks, "_runPass", lambda predict, block: passes.append(block.shape) or runPass(predict, block)
    )
    probability = np.full(shape, np.nan, np.float32)
    predictProbability(image, plan, weights, probability, budgetFor(*budget))
    np.testing.assert_allclose(probability, expected, rtol=0, atol=5e-5)
    assert np.ptp(expected) > 0.05
    isCut = any(side > allowed for side, allowed in zip(shape, budget, strict=True))
    assert (len(passes) > 1) == isCut
    assert max(map(np.prod, passes)) <= np.prod(budget)


sides = st.integers(1, 27)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(shape=st.tuples(sides, sides, sides), share=st.floats(0.3, 1.0))
def testAnyShapeAndBudgetEqualsOnePass(model, shape, share):
    image = networks.randomVolume(*shape, seed=sum(shape))
    padded = [side + side % 2 for side in shape]
    least = np.prod([min(side, 18) for side in padded])
    budget = budgetFor(max(least, share * np.prod(padded)))
    probability = np.full(shape, np.nan, np.float32)
    mirrored = np.pad(image, [(0, side % 2) for side in shape], mode="symmetric")
    predictInBlocks(model, mirrored, PLAN, probability, budget)
    np.testing.assert_allclose(probability, onePass(model, image), rtol=0, atol=5e-5)


def testOrderOfTheMemoryDoesNotMatter(model):
    image = networks.randomVolume(24, 26, 28)
    expected = onePass(model, image)
    for layout in (np.asfortranarray(image), np.repeat(image, 2, 1)[:, ::2], image[::-1].copy()[::-1]):
        probability = np.empty(image.shape, np.float32, order="F")
        predictInBlocks(model, layout, PLAN, probability, budgetFor(18, 20, 22))
        np.testing.assert_allclose(probability, expected, rtol=0, atol=5e-5)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    cells=st.tuples(*[st.integers(1, 40)] * 3),
    crop=st.tuples(*[st.integers(0, 3)] * 3),
    levels=st.integers(1, 3),
    share=st.floats(0.01, 1.1),
)
def testEveryVoxelIsWrittenOnceByABlockWithEnoughContext(cells, crop, levels, share):
    plan = describeUNet(1, levels)
    cell, halo = sideMultiple(plan), haloOf(plan)
    shape = [count * cell for count in cells]
    kept = [side - min(lost, cell - 1) for side, lost in zip(shape, crop, strict=True)]
    places = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)  # exact in float32
    assert places.size < 1 << 24
    least = np.prod([min(side, cell + 2 * halo) for side in shape])
    budget = max(least, share * places.size) * (1 + 1e-9) / 1e6 * blocks.GIB_PER_MVOXEL / 8
    written = np.zeros(kept, np.uint8)
    target = RecordingArray(kept, written)
    largest = 0

    def predict(batch):
        nonlocal largest
        block = batch[0, ..., 0]
        largest = max(largest, block.size)
        result = np.full(batch.shape, -1, np.float32)  # where the context is cut off inside the volume
        starts = np.unravel_index(int(block[0, 0, 0]), shape)
        inner = tuple(
            slice(halo if start else 0, None if start + length == side else length - halo)
            for start, length, side in zip(starts, block.shape, shape, strict=True)
        )
        assert all(
            start % cell == 0 and side % cell == 0 for start, side in zip(starts, block.shape, strict=True)
        )
        result[0, ..., 0][inner] = block[inner]
        return result

    predictInBlocks(predict, places, plan, target, budget)
    assert written.min() == written.max() == 1
    np.testing.assert_array_equal(np.asarray(target), places[tuple(slice(side) for side in kept)])
    assert largest <= max(least, share * places.size) * (1 + 1e-6)


class RecordingArray(np.ndarray):
    """An array that counts how often each voxel is asked for."""

    def __new__(cls, shape, counts):
        array = np.full(shape, np.nan, np.float32).view(cls)
        array.counts = counts
        return array

    def __getitem__(self, key):  # noqa: D105
        if getattr(self, "counts", None) is not None:
            self.counts[key] += 1
        return np.asarray(self)[key]


# ------------------------------------------------------------------------------------------------- budgets


def testEverythingThatFitsIsOnePass():
    assert chooseSplit((512, 512, 512), describeUNet(), 1000) == [1, 1, 1]
    assert chooseSplit((512, 512, 512), describeUNet(), float("inf")) == [1, 1, 1]
    assert chooseSplit((256, 256, 256), describeUNet(), 0.33 * 16.8) == [1, 1, 1]
    assert chooseSplit((256, 256, 256), describeUNet(), 0.33 * 16.7) != [1, 1, 1]


@pytest.mark.parametrize("shape", [(512, 512, 512), (1024, 1024, 128), (96, 96, 2000)])
@pytest.mark.parametrize("budget", [2, 6, 20])
def testWorkIsCloseToTheLeastPossible(shape, budget):
    """Every combination of cuts up to 24 an axis; the greedy search may cost a quarter more."""
    plan = describeUNet()

    def measure(counts):
        work, largest = 1, 1
        for side, count in zip(shape, counts, strict=True):
            length = -(-side // 8 // count) * 8
            spans = [min(x + length + 48, side) - max(x - 48, 0) for x in range(0, side, length)]
            work, largest = work * sum(spans), largest * max(spans)
        return work, largest * 0.33e-6

    options = [measure(counts) for counts in itertools.product(range(1, 25), repeat=3)]
    least = min(work for work, memory in options if memory <= budget)
    work, memory = measure(chooseSplit(shape, plan, budget))
    assert memory <= budget
    assert work <= 1.25 * least


@pytest.mark.parametrize("budget", [0, -1, 1e-9, float("nan")])
@pytest.mark.parametrize("shape", [(512, 512, 512), (8, 1024, 40), (104, 104, 104)])
def testTooSmallABudgetNamesTheLeastThatWorks(shape, budget):
    for plan in (describeUNet(), describeUNet(32, 4), describeUNet(64, 2)):
        with pytest.raises(PipelineError, match="memoryBudget of .* GiB is too small") as caught:
            chooseSplit(shape, plan, budget)
        least = float(re.search(r"at least ([\d.]+) GiB is needed", str(caught.value))[1])
        counts = chooseSplit(shape, plan, least)
        assert all(
            1 <= count <= side // sideMultiple(plan) for count, side in zip(counts, shape, strict=True)
        )
        if least > 0.1:
            with pytest.raises(PipelineError):
                chooseSplit(shape, plan, least - 0.1)


def testNothingIsPredictedWhereTheBudgetIsTooSmall():
    image, probability = np.zeros((64, 64, 64), np.float32), np.full((64, 64, 64), 7, np.float32)
    with pytest.raises(PipelineError, match="at least 0.1 GiB is needed"):
        predictInBlocks(pytest.fail, image, PLAN, probability, 1e-6)
    assert (probability == 7).all()


class ResourceExhaustedError(Exception):
    """Name of TensorFlow's error."""


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        np._core._exceptions._ArrayMemoryError((1 << 50,), np.dtype("f4")),
        ResourceExhaustedError("OOM when allocating tensor"),
        RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 8 bytes"),
        RuntimeError("CUDA out of memory."),
    ],
)
def testBackEndWithoutMemoryIsTheUsersToCorrect(error):
    def predict(batch):
        raise error

    image = np.zeros((24, 26, 28), np.float32)
    with pytest.raises(
        PipelineError, match="out of memory in a block of 24x26x28 voxels; try a smaller"
    ) as caught:
        predictInBlocks(predict, image, PLAN, image.copy(), 1)
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("error", [ValueError("shapes differ"), KeyboardInterrupt()])
def testOtherErrorsKeepTheirKind(error):
    def predict(batch):
        raise error

    image = np.zeros((8, 8, 8), np.float32)
    with pytest.raises(type(error)) as caught:
        predictInBlocks(predict, image, PLAN, image.copy(), 1)
    assert caught.value is error
