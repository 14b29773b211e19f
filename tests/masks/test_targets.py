"""What is looked for, and the labels that mean it."""

import time

import numpy as np
import pytest

from engine.base.errors import PipelineError
from engine.masks.targets import (
    PUBLISHED,
    chooseTargets,
    describeLabels,
    joinValues,
    parseLabels,
    selectPositive,
)

MASK = np.random.default_rng(3).integers(0, 5, (7, 5, 6))
SIGNED = np.random.default_rng(4).integers(-6, 7, (5, 7, 6))


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "float32"])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("labels", [[0], [3], [1, 2], [0, 4, 2], [9], [-1, 2], [300]])
def testPositivesAreTheVoxelsOfAnyLabel(dtype, order, labels):
    mask = np.asarray(MASK, dtype, order=order)
    before = mask.copy()
    positive = selectPositive(mask, labels)
    assert positive.dtype == bool
    np.testing.assert_array_equal(positive, np.isin(MASK, labels))
    np.testing.assert_array_equal(mask, before)


@pytest.mark.parametrize("dtype", ["int8", ">i2", "int64", "float32", "float64"])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("1-3", [1, 2, 3]),
        ("-5--1", [-5, -4, -3, -2, -1]),
        ("-1,3-5", [-1, 3, 4, 5]),
        ("-2-2", [-2, -1, 0, 1, 2]),
        ("!0", [label for label in range(-6, 7) if label]),
        ("!0,2", [label for label in range(-6, 7) if label not in (0, 2)]),
        ("!-6-0", [1, 2, 3, 4, 5, 6]),
        ("1-1000000000", [1, 2, 3, 4, 5, 6]),
    ],
)
def testRangesAndComplementsSelectWhatTheirNumbersDo(dtype, order, text, labels):
    mask = np.asarray(SIGNED, dtype, order=order)
    positive = selectPositive(mask, parseLabels(text))
    assert positive.dtype == bool
    np.testing.assert_array_equal(positive, np.isin(SIGNED, labels))


@pytest.mark.parametrize("text", ["-5--1", "!-5--1", "200-300", "!300", "-3-1000000000000"])
def testLabelsThatAnUnsignedTypeCannotHoldSelectNothingOfIt(text):
    mask = np.arange(256, dtype=np.uint8)
    positive = selectPositive(mask, text)
    expected = {"-5--1": mask < 0, "200-300": mask >= 200, "-3-1000000000000": mask >= 0}
    np.testing.assert_array_equal(positive, expected.get(text, mask >= 0))


def testRangeMeansItsWholeNumbersAndNothingThatIsNoNumberIsPositive():
    mask = np.array([0, 0.5, 1, 1.5, 2, 2.5, np.nan], np.float32)
    np.testing.assert_array_equal(selectPositive(mask, "1-2"), [0, 0, 1, 0, 1, 0, 0])
    np.testing.assert_array_equal(selectPositive(mask, "!0"), [0, 1, 1, 1, 1, 1, 0])


def testMillionsOfLabelsTakeNoLongerThanOneRange():
    mask = np.random.default_rng(1).integers(0, 1 << 30, 1 << 20)
    begin = time.perf_counter()
    np.testing.assert_array_equal(selectPositive(mask, "1-900000000"), (mask >= 1) & (mask <= 900_000_000))
    assert time.perf_counter() - begin < 1


def testPositiveIsZeroAsPublished():
    np.testing.assert_array_equal(selectPositive(MASK), MASK == 0)


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("0", [0]),
        ("1,2", [1, 2]),
        (" 3 , 4 ", [3, 4]),
        ("-1", [-1]),
        ("-1,-3", [-1, -3]),
        ([0, 2], [0, 2]),
        ((5,), [5]),
        (7, [7]),
        ("5-5", [5]),
        ("1-30", "1-30"),
        (" 1 - 30 , 40", "1-30,40"),
        ("-5--1", "-5--1"),
        ("-1,3-5", "-1,3-5"),
        ("!0", "!0"),
        ("! 0 , 255", "!0,255"),
        ("!1-3", "!1-3"),
        (" Pore ", "Pore"),
        ("pore , large  grain", "pore,large  grain"),
        ("1,Segment_2,4-5", "1,Segment_2,4-5"),
        ("! wall,3", "!wall,3"),
        ("\xe9tain", "\xe9tain"),
    ],
)
def testLabelsAreReadAsJsonHoldsThem(text, labels):
    assert parseLabels(text) == labels
    assert parseLabels(labels) == labels  # a contract is read again
    assert parseLabels(describeLabels(labels)) == labels


@pytest.mark.parametrize(
    "text", ["", "a,", "1,", "1.5", "0 1", "1;2", "!", "!!0", "1,!2", "1-", "1-2-3", "--1", "1-a", "1" * 5000]
)
def testOtherTextIsRefusedWithTheTextItself(text):
    with pytest.raises(PipelineError) as caught:
        parseLabels(text)
    line = str(caught.value)
    assert line.startswith("positiveLabel cannot be read (expected whole numbers or ranges separated by")
    assert f"received {text!r})" in line and "\n" not in line


@pytest.mark.parametrize(
    ("text", "part", "remedy"), [("5-1", "5-1", "1-5"), ("0,-1--5", "-1--5", "-5--1"), ("!3-2", "3-2", "2-3")]
)
def testRangeThatEndsBeforeItBeginsIsRefused(text, part, remedy):
    with pytest.raises(PipelineError) as caught:
        parseLabels(text)
    rule = f"the range {part} of positiveLabel ends before it begins"
    assert str(caught.value) == f"{rule} (received {text!r}); write {remedy}"


@pytest.mark.parametrize("text", ["pore", "1,pore", "!wall"])
def testNamesSelectNothingWhereTheyHaveNoMeaning(text):
    with pytest.raises(PipelineError) as caught:
        selectPositive(MASK, text)
    line = str(caught.value)
    assert line.startswith("positiveLabel cannot be read (expected whole numbers or ranges separated by")
    assert "or names" not in line and f"received {text!r}); names have a meaning in segmentations of" in line


@pytest.mark.parametrize(
    ("values", "labels"),
    [([], ()), ([3], (3,)), ([5, 1, 3], (1, 3, 5)), ([4, 2, 3, 9], "2-4,9"), ([-2, -1, 7, 8], "-2--1,7-8")],
)
def testValuesAreWrittenAsFewRanges(values, labels):
    assert joinValues(values) == labels
    np.testing.assert_array_equal(selectPositive(SIGNED, labels), np.isin(SIGNED, values))


def testNoLabelsSelectNothing():
    for order in "CF":
        positive = selectPositive(np.asarray(MASK, order=order), ())
        assert positive.dtype == bool and not positive.any() and positive.shape == MASK.shape


def testNamesOfTheUserNeedAMaskThoseOfTheTrainingDoNot():
    assert chooseTargets("pore", None)[0].labels == "pore"
    assert chooseTargets("", "pore", hasReference=False)[0].labels == "pore"
    with pytest.raises(PipelineError, match="names are those of the segments of a mask, and there is none"):
        chooseTargets("pore", None, hasReference=False)


@pytest.mark.parametrize(
    ("given", "known", "labels"),
    [
        ("", None, (0,)),
        ("", [2, 3], (2, 3)),
        ("", 2, (2,)),
        ("", 0, (0,)),
        ("1", [2, 3], (1,)),
        ("1,4", None, (1, 4)),
        ("", [], (0,)),
        ("", "!0", "!0"),
        ("1-4", "!0", "1-4"),
        ("3", "!0", (3,)),
    ],
)
def testLabelsOfTheUserBeatThoseOfTheTrainingAndThesePublishedOnes(given, known, labels):
    (target,) = chooseTargets(given, known)
    assert target == PUBLISHED._replace(labels=labels)


def testColourIsWrittenForWebPages():
    assert PUBLISHED._replace(colour=(1.0, 0.0, 0.5)).cssColour == "#ff0080"
    assert len(PUBLISHED.cssColour) == 7
