"""Labelled voxels against plain loops: slices, values that count nowhere, what cannot be read."""

import itertools

import numpy as np
import pytest

from engine.base.errors import PipelineError
from engine.masks.ignored import parseIgnored
from engine.preparation.checks import Tally
from engine.preparation.labelled import Labelled, parseLabelled, parseSlices

SHAPE = (5, 7, 11)
MASK = np.random.default_rng(0).choice([0, 3, 4, 255], SHAPE).astype(np.uint8)


@pytest.mark.parametrize(
    ("text", "slices"),
    [
        ("z:10", {"z": [10]}),
        ("z:0,4,10", {"z": [0, 4, 10]}),
        ("z:2-5", {"z": [2, 3, 4, 5]}),
        ("z:1-10:3", {"z": [1, 4, 7, 10]}),
        ("z: 1 - 10 : 4 , 2", {"z": [1, 5, 9, 2]}),
        ("z:4 x:2 y:6", {"x": [2], "y": [6], "z": [4]}),
        ("y:1;z:9 ; x:0", {"x": [0], "y": [1], "z": [9]}),
        ("z:1 z:3", {"z": [1, 3]}),
    ],
)
@pytest.mark.parametrize("order", ["C", "F"])
def testSlicesAreTheUnionOfTheirPlanes(text, slices, order):
    labelled = Labelled(slices=parseSlices(text, "labelledSlices"))
    expected = np.zeros(SHAPE, bool)
    for x, y, z in itertools.product(*map(range, SHAPE)):
        place = {"x": x, "y": y, "z": z}
        expected[x, y, z] = any(place[axis] in numbers for axis, numbers in slices.items())
    assert expected.any() and not expected.all() and not labelled.isDense
    np.testing.assert_array_equal(labelled.select(np.asarray(MASK, order=order)), expected)
    piece = slice(1, 5), slice(2, 7), slice(4, 11)
    np.testing.assert_array_equal(labelled.select(MASK[piece], (1, 2, 4)), expected[piece])


@pytest.mark.parametrize("text", ["", "all", " ; "])
def testNothingAndAllMeanEverySlice(text):
    assert parseSlices(text, "labelledSlices") == ()
    assert Labelled(slices=()).isDense and Labelled(slices=()).select(MASK).all()


@pytest.mark.parametrize("kind", [np.uint8, np.float32])
@pytest.mark.parametrize(
    ("text", "values"), [("255", [255]), ("3,4", [3, 4]), ("3-4", [3, 4]), ("!0,3", [4, 255])]
)
def testIgnoredValuesCountNowhere(kind, text, values):
    labelled = parseLabelled(text, "z:2,3", "", [0])["training"]
    expected = np.zeros(SHAPE, bool)
    expected[:, :, 2:4] = True
    expected &= ~np.isin(MASK, values)
    np.testing.assert_array_equal(labelled.select(MASK.astype(kind)), expected)
    assert 0 < expected.sum() < 5 * 7 * 2


def testValidationFollowsTheTrainingUnlessItIsTold():
    def slicesOf(*texts):
        both = parseLabelled("", *texts, [0])
        return both["training"].slices, both["validation"].slices

    ten, five = parseSlices("z:10", "a"), parseSlices("x:5", "a")
    assert slicesOf("z:10", "") == (ten, ten)
    assert slicesOf("z:10", "x:5") == (ten, five)
    assert slicesOf("z:10", "all") == (ten, ())
    assert slicesOf("", "x:5") == ((), five)
    assert (
        parseIgnored(255) == [255] and parseIgnored(" ") == parseIgnored("none") == ()
    )  # an edited constant may be a number


@pytest.mark.parametrize(
    "text", ["10", "z", "z:", "z:a", "z:-1", "q:3", "z:1,,2", "z:1-", "z:3:2", "z:1.5", "z=4", "z:1-2-3"]
)
def testSlicesThatCannotBeReadAreRefusedWithAnExample(text):
    with pytest.raises(
        PipelineError, match=r"^labelledSlices cannot be read \(expected .*z:10,40,70.*\)$"
    ) as error:
        parseSlices(text, "labelledSlices")
    assert repr(text) in str(error.value)


@pytest.mark.parametrize("text", ["z:5-3", "z:0-9:0"])
def testEmptyRangesAreRefused(text):
    with pytest.raises(PipelineError, match=f"^the range {text[2:]} of validationSlices is empty"):
        parseSlices(text, "validationSlices")


def testLabelsCannotBePositiveAndIgnored():
    with pytest.raises(PipelineError, match="^3 is in ignoreLabel and in positiveLabel"):
        parseLabelled("255,3", "", "", [0, 3])
    with pytest.raises(PipelineError, match="^ignoreLabel cannot be read .*'2x'"):
        parseLabelled("2x", "", "", [0])


@pytest.mark.parametrize("depth", [1, 3, 11])
def testSubVolumesAreTalliedAsPlainSumsDo(depth):
    labelled = parseLabelled("255", "z:3-4,9 y:6", "", [0])["training"]
    isLabelled = labelled.select(MASK)
    starts, shape = ([0, 1], [0, 3], [0, 4, 7]), (4, 4, 4)
    tally = Tally(starts, shape, labelled)
    for z in range(0, SHAPE[2], depth):
        tally.add(z, MASK[:, :, z : z + depth].T)
    for place in np.ndindex(tally.counts.shape):
        x, y, z = (axis[number] for axis, number in zip(starts, place, strict=True))
        assert tally.counts[place] == isLabelled[x : x + 4, y : y + 4, z : z + 4].sum()
    assert len(np.unique(tally.counts)) > 4
    assert (Tally(starts, shape, Labelled()).counts == 64).all()
