"""Folders of slices: the order of their names, gaps, doubles and what else lies there."""

import numpy as np
import pytest
import tifffile

from engine.base.errors import PipelineError
from engine.formats.opening import openVolume
from engine.formats.sliceNames import listSlices

GREY = {"photometric": "minisblack"}


def writeFolder(folder, names, shape=(5, 4)):
    """Write a slice a name, each with the number of its place in the list in every voxel."""
    folder.mkdir()
    for number, name in enumerate(names):
        tifffile.imwrite(folder / name, np.full(shape, number, "uint8"), **GREY)
    return folder


def refuse(folder) -> str:
    with pytest.raises(PipelineError) as caught:
        openVolume(folder)
    return str(caught.value)


GOOD = {
    "numbers as numbers": ["s8.tif", "s9.tif", "s10.tif", "s11.tif"],
    "leading zeros": ["s_0098.tif", "s_0099.tif", "s_0100.tif"],
    "a constant number before": ["scan01_0001.tif", "scan01_0002.tif", "scan01_0003.tif"],
    "a constant number behind": ["0_of_3.tif", "1_of_3.tif", "2_of_3.tif"],
    "its place in um": [
        "s_0_z=0.0000um.tif",
        "s_1_z=0.0062um.tif",
        "s_2_z=0.0125um.tif",
        "s_3_z=0.0187um.tif",
    ],
    "parts that go on": ["a1_0001.tif", "a1_0002.tif", "a2_0003.tif", "a2_0004.tif"],
    "both endings": ["s1.tif", "s2.tiff", "s3.TIF"],
    "no numbers": ["bottom.tif", "middle.tif", "top.tif"],
    "one": ["s17.tif"],
    "two": ["s1.tif", "s6.tif"],
    "every second one": ["s_01.tif", "s_03.tif", "s_05.tif"],
    "dots": ["rec.0000.tif", "rec.0001.tif", "rec.0002.tif"],
}


@pytest.mark.parametrize("case", GOOD)
def testSlicesAreReadInTheOrderOfTheirNumbers(tmp_path, case):
    volume = openVolume(writeFolder(tmp_path / "scan", GOOD[case]))
    assert [path.name for path in volume.files] == GOOD[case]
    assert volume.read()[0, 0].tolist() == list(range(len(GOOD[case])))


@pytest.mark.parametrize(
    ("names", "step"),
    [(["s1.tif", "s2.tif"], 1), (["s0.tif", "s4.tif", "s8.tif"], 4), (["a.tif", "b.tif"], 1)],
)
def testStepOfTheNumbersIsKnown(tmp_path, names, step):
    assert listSlices(writeFolder(tmp_path / "scan", names)).step == step


def explainGap(missing, last, following, words="a slice is missing"):
    remedy = "add what is missing, or number the slices anew if the gap is meant"
    rule = "the numbers of its slices have a gap"
    return f"{rule}: {words} (expected {missing} after {last}, received {following}); {remedy}"


SAME = "are the same slice by their names; take one of them out of the folder"
SEVERAL = "(expected one that counts them); put the slices of each volume into a folder of their own"
BAD = {
    "gap": (
        ["slice_001.tif", "slice_002.tif", "slice_004.tif"],
        explainGap("slice_003.tif", "slice_002.tif", "slice_004.tif"),
    ),
    "gap at ten": (["s8.tif", "s9.tif", "s11.tif"], explainGap("s10.tif", "s9.tif", "s11.tif")),
    "two gaps": (
        ["s1.tif", "s2.tif", "s5.tif", "s6.tif", "s8.tif"],
        explainGap("s3.tif", "s2.tif", "s5.tif", "3 slices are missing"),
    ),
    "gap in every second one": (
        ["s_01.tif", "s_03.tif", "s_05.tif", "s_09.tif"],
        explainGap("s_07.tif", "s_05.tif", "s_09.tif"),
    ),
    "gap beside another number": (
        ["scan01_0001.tiff", "scan01_0002.tiff", "scan01_0004.tiff"],
        explainGap("scan01_0003.tiff", "scan01_0002.tiff", "scan01_0004.tiff"),
    ),
    "gap beside its place": (
        ["s_0_z=0.0000um.tif", "s_1_z=0.0062um.tif", "s_3_z=0.0187um.tif", "s_4_z=0.0250um.tif"],
        explainGap("s_2_z=0.0062um.tif", "s_1_z=0.0062um.tif", "s_3_z=0.0187um.tif"),
    ),
    "the same number": (
        ["slice_001.tif", "slice_1.tif", "slice_2.tif"],
        f"slice_001.tif and slice_1.tif {SAME}",
    ),
    "the same name": (["s_0001.tif", "s_0001.tiff", "s_0002.tif"], f"s_0001.tif and s_0001.tiff {SAME}"),
    "two scans": (
        ["scan1_1.tif", "scan1_2.tif", "scan2_1.tif", "scan2_2.tif"],
        f"more than one number varies in the names of the slices, from scan1_1.tif to scan2_2.tif {SEVERAL}",
    ),
    "numbers that contradict": (
        ["t1_9.tif", "t2_5.tif", "t4_7.tif"],
        explainGap("t3_5.tif", "t2_5.tif", "t4_7.tif"),
    ),
}


@pytest.mark.parametrize("case", BAD)
def testNumbersThatDoNotCountAreRefused(tmp_path, case):
    names, words = BAD[case]
    folder = writeFolder(tmp_path / "scan", names)
    assert refuse(folder) == f"{folder}: {words}"


@pytest.mark.parametrize(
    "odd", ["preview.tif", "a_log.tif", "slice.tif", "slice_1_max.tif", "s_1.tif", "0.tif"]
)
@pytest.mark.parametrize("shape", [(5, 4), (2, 2)])
def testAFileThatIsNamedUnlikeTheSlicesIsNamed(tmp_path, odd, shape):
    folder = writeFolder(tmp_path / "scan", ["slice_1.tif", "slice_2.tif", "slice_3.tif"])
    tifffile.imwrite(folder / odd, np.zeros(shape, "uint8"), **GREY)
    remedy = "take it out of the folder, or give all slices one name and a number"
    words = f"is named unlike the slices of scan, such as slice_1.tif; {remedy}"
    assert refuse(folder) == f"{folder / odd}: {words}"


def testAPreviewThatIsNumberedIsToldByItsShape(tmp_path):
    folder = writeFolder(tmp_path / "scan", ["slice_1.tif", "slice_2.tif"])
    tifffile.imwrite(folder / "slice_3.tif", np.zeros((2, 2), "uint8"), **GREY)
    words = "differs from slice_1.tif, the first slice (expected 4 x 5 uint8, received 2 x 2 uint8)"
    assert refuse(folder) == f"{folder / 'slice_3.tif'}: {words}"


def testOtherFilesAndHiddenOnesAreLeftAlone(tmp_path):
    folder = writeFolder(tmp_path / "scan", ["slice_1.tif", "slice_2.tif"])
    for name in ("rec.log", "slice_9.txt", "._slice_7.tif", "preview.png", "slices"):
        (folder / name).write_text("words")
    assert [path.name for path in listSlices(folder).files] == ["slice_1.tif", "slice_2.tif"]


@pytest.mark.parametrize(
    "name", ["s\u00e4ge (1).tif", "a'b\"1.tif", "x\n1.tif", "9" * 200 + ".tif", "\udce41.tif"]
)
def testNamesMayBeAnything(tmp_path, name):
    assert openVolume(writeFolder(tmp_path / "scan", [name])).shape == (4, 5, 1)
