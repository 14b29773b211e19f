"""What is looked for, and the labels that mean it."""

import numpy as np
import pytest

from engine.base.errors import PipelineError
from engine.volumes.targets import PUBLISHED, chooseTargets, parseLabels, selectPositive

MASK = np.random.default_rng(3).integers(0, 5, (7, 5, 6))


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "float32"])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("labels", [[0], [3], [1, 2], [0, 4, 2], [9]])
def testPositivesAreTheVoxelsOfAnyLabel(dtype, order, labels):
    mask = np.asarray(MASK, dtype, order=order)
    before = mask.copy()
    positive = selectPositive(mask, labels)
    assert positive.dtype == bool
    np.testing.assert_array_equal(positive, np.isin(MASK, labels))
    np.testing.assert_array_equal(mask, before)


def testPositiveIsZeroAsPublished():
    np.testing.assert_array_equal(selectPositive(MASK), MASK == 0)


@pytest.mark.parametrize(
    ("text", "labels"),
    [("0", [0]), ("1,2", [1, 2]), (" 3 , 4 ", [3, 4]), ("-1", [-1]), ([0, 2], [0, 2]), ((5,), [5]), (7, [7])],
)
def testLabelsAreRead(text, labels):
    assert parseLabels(text) == labels


@pytest.mark.parametrize("text", ["", "a", "1,", "1.5", "0 1", "1;2"])
def testOtherTextIsRefusedWithTheTextItself(text):
    with pytest.raises(PipelineError) as caught:
        parseLabels(text)
    words = "positiveLabel must be whole numbers separated by commas (received "
    assert str(caught.value).startswith(words) and repr(text) in str(caught.value)


@pytest.mark.parametrize(
    ("given", "known", "labels"),
    [("", None, (0,)), ("", [2, 3], (2, 3)), ("1", [2, 3], (1,)), ("1,4", None, (1, 4)), ("", [], (0,))],
)
def testLabelsOfTheUserBeatThoseOfTheTrainingAndThesePublishedOnes(given, known, labels):
    (target,) = chooseTargets(given, known)
    assert target == PUBLISHED._replace(labels=labels)


def testColourIsWrittenForWebPages():
    assert PUBLISHED._replace(colour=(1.0, 0.0, 0.5)).cssColour == "#ff0080"
    assert len(PUBLISHED.cssColour) == 7
