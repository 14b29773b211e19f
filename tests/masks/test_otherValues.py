"""Values of a mask that mean neither what is looked for nor the rest."""

import numpy as np
import pytest

from engine.masks.otherValues import MOST_VALUES, OtherValues
from engine.masks.targets import parseLabels, selectPositive


def look(mask, text="0", depth=1):
    """Show a mask block by block."""
    others = OtherValues(parseLabels(text))
    for z in range(0, len(mask), depth):
        block = mask[z : z + depth]
        others.add(block, selectPositive(block, parseLabels(text)))
    return others


def maskOf(values, dtype="uint8", seed=0):
    """Scatter values over a mask (8, 9, 10): {value: count}, the rest 255."""
    mask = np.full(720, 255, dtype)
    mask[: sum(values.values())] = np.repeat([*values], [*values.values()])
    return np.random.default_rng(seed).permutation(mask).reshape(8, 9, 10)


@pytest.mark.parametrize("dtype", ["uint8", "int16", ">u2", "uint32", "float32"])
@pytest.mark.parametrize("depth", [1, 3, 8])
def testValuesInBetweenAreCounted(dtype, depth):
    others = look(maskOf({0: 100, 64: 30, 128: 5, 191: 1}, dtype), "0", depth)
    assert (others.count, others.usual) == (36, 255)
    line = others.describe()
    assert line.startswith(
        "36 voxels (5.00%) hold neither a positive label (0) nor 255, such as 64, 128, 191,"
    )
    assert "interpolated mask" in line and "nearest neighbour" in line and "--positiveLabel" in line


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({0: 50}, "0"),
        ({}, "255"),
        ({}, "0"),
        ({0: 720}, "0"),
        ({1: 20, 2: 30}, "1-2"),
        ({-1: 20, 3: 30}, "-1,3-5"),
        ({0: 500} | dict.fromkeys(range(1, 31), 7), "!0"),
        ({0: 400, 7: 9}, "!0,255"),
    ],
)
@pytest.mark.parametrize("dtype", ["int16", "float32"])
def testPlainMasksHaveNone(values, text, dtype):
    others = look(maskOf(values, dtype), text)
    assert (others.count, others.describe()) == (0, "")


def testInstancesOfWhichSomeAreNotListedAreCounted():
    others = look(maskOf({0: 500, 1: 20, 2: 30, 3: 170}), "1,2")
    assert (others.usual, others.count) == (0, 170)


def testTheMostFrequentOfTheRestIsKnownOnlyAtTheEnd():
    mask = np.full((6, 5, 4), 255, np.uint8)
    mask[0], mask[1, 0] = 7, 0
    for turned in (mask, mask[::-1]):
        others = look(turned)
        assert (others.usual, others.count) == (255, 20)


def testFractionsAreToldWhereAllLabelsButSomeArePositive():
    others = look(maskOf({0: 600, 0.25: 9, 3: 11}, "float32"), "!0")
    assert others.count == 9
    assert others.describe().startswith(
        "9 voxels (1.25%) hold no whole number, such as 0.25: an interpolated"
    )


def testManyDifferentFractionsStaySmallInMemoryAndAreAllCounted():
    mask = np.random.default_rng(2).random((20, 40, 50)).astype(np.float32) + 1
    mask[:, :10], mask[:, 10:20] = 0, 255
    others = look(mask, "0", 4)
    assert others.usual == 255 and others.count == 20 * 20 * 50
    assert len(others._counts) <= MOST_VALUES
