"""What masks of boxes hold: a training with the same labels selects what is positive, and counts all."""

import numpy as np
import pytest

from engine.base.errors import PipelineError
from engine.formats.nrrdWriter import openPlanes
from engine.formats.opening import openVolume
from engine.masks.ignored import parseIgnored
from engine.masks.place import openOnto
from engine.masks.segments import ignoredLabels, resolveLabels
from engine.masks.targets import PUBLISHED, parseLabels, selectPositive
from engine.results.fillings import chooseFilling

SHAPE = (3, 4, 5)


def fill(labels, ignoreLabel=""):
    target = PUBLISHED._replace(labels=parseLabels(labels), ignoreLabel=parseIgnored(ignoreLabel))
    return chooseFilling(target)


# ------------------------------------------------------------------------------------------------- two values


@pytest.mark.parametrize(
    ("label", "ignored", "values"),
    [
        ("0", "", (0, 255, "uint8")),
        ("1", "", (1, 0, "uint8")),
        ("2,1", "", (1, 0, "uint8")),
        ("1-30", "", (1, 0, "uint8")),
        ("!0", "", (1, 0, "uint8")),
        ("!0,255", "", (1, 0, "uint8")),
        ("!1", "", (0, 1, "uint8")),
        ("!0-300", "", (301, 0, "uint16")),
        ("0,255", "", (0, 1, "uint8")),
        ("0-255", "", (0, 256, "uint16")),
        ("300-305", "", (300, 0, "uint16")),
        ("-5--2", "", (-5, 0, "int16")),
        ("-7", "", (-7, 0, "int16")),
        ("0", "255", (0, 1, "uint8")),
        ("1", "0", (1, 255, "uint8")),
        ("1-3", "1-2,0,255", (3, 4, "uint8")),
        ("7", "!7,9", (7, 9, "uint8")),
    ],
)
def testValuesOfAMaskAreThoseOfItsLabels(label, ignored, values):
    filling = fill(label, ignored)
    assert (filling.inside, filling.outside, filling.dtype.name) == values
    assert not filling.isSegmentation and filling.describe(SHAPE, PUBLISHED.colour) == {}
    mask = np.array([filling.inside, filling.outside], filling.dtype)
    np.testing.assert_array_equal(selectPositive(mask, parseLabels(label)), [True, False])
    assert not selectPositive(mask, parseIgnored(ignored)).any()


# --------------------------------------------------------------------------------------------------- segments


@pytest.mark.parametrize(
    ("label", "ignored", "segments"),
    [
        ("pore", "", {"pore": 1}),
        ("precipitate,pore", "", {"precipitate": 1, "pore": 2}),
        ("Pore,crack in it,pore", "PORES", {"Pore": 1, "crack in it": 2, "PORES": 3}),
        ("pore,3", "dirt", {"pore": 1, "dirt": 2}),
        ("1,pore", "dirt,3", {"pore": 2, "dirt": 4}),
        ("1-300,pore", "", {"pore": 301}),
        ("dirt,pore", "dirt", {"pore": 1, "dirt": 2}),
        ("pore", "!pore", {"pore": 1}),
        ("!matrix", "", {"not matrix": 1, "matrix": 2}),
        ("!matrix,Wall,1", "dirt", {"not matrix or Wall": 2, "matrix": 3, "Wall": 4, "dirt": 5}),
        ("!not a", "", {"not not a": 1, "not a": 2}),
        ("!ignore", "", {"not ignore": 1, "ignore": 2}),
        ("2-9", "dirt", {"precipitates and pores": 2, "dirt": 1}),
        ("!0,1", "dirt", {"precipitates and pores": 2, "dirt": 3}),
    ],
)
def testATrainingWithNamesReadsWhatIsPositive(tmp_path, label, ignored, segments):
    filling = fill(label, ignored)
    assert {segment.name: segment.value for segment in filling.segments} == segments
    assert filling.isSegmentation and filling.outside == 0
    positive = np.indices(SHAPE).sum(axis=0) % 3 == 0
    header = {"spacings": np.ones(3)}
    image = tmp_path / "image.nrrd"
    with openPlanes(image, SHAPE, "uint8", header, "raw") as write:
        write(np.zeros(SHAPE[::-1], np.uint8))
    path = tmp_path / "image.seg.nrrd"
    fields = filling.describe(SHAPE, PUBLISHED.colour)
    with openPlanes(path, SHAPE, filling.dtype.str, header | fields, "gzip") as write:
        write(np.where(positive, filling.inside, filling.outside).T)
    labels, left = parseLabels(label), parseIgnored(ignored)
    mask = openOnto(path, openVolume(image), labels, "", left)
    voxels = mask.read()
    np.testing.assert_array_equal(selectPositive(voxels, resolveLabels(labels, mask)), positive)
    assert not selectPositive(voxels, ignoredLabels(mask, left)).any()


@pytest.mark.parametrize(
    ("label", "ignored", "words"),
    [
        ("ignore", "", "no segment is positive and counts (received positiveLabel ignore, ignoreLabel none)"),
        ("pore", "Pore", "no segment is positive and counts (received positiveLabel pore, ignoreLabel Pore)"),
        ("0", "dirt", "no segment is positive and counts"),
        ("!matrix", "!matrix", "no segment is positive and counts"),
        ("1-3", "0-300", "no value is positive and counts"),
        ("1", "!1", "every value is positive or ignored"),
    ],
)
def testLabelsThatLeaveNothingAreRefused(label, ignored, words):
    with pytest.raises(PipelineError) as caught:
        fill(label, ignored)
    text = str(caught.value)
    assert words in text and "leave out --suggest" in text and "\n" not in text
