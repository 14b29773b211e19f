"""prepareData.py with labels of a few slices and with values that count nowhere."""

import json
import re

import numpy as np
import pytest
from places import listNames
from projects import callMain, refusal, writeNrrd

import prepareData

SHAPE, SIDES = (24, 16, 40), (8, 16, 16)
ARRAYS = [f"{part}Data{kind}.npy" for part in ("training", "validation") for kind in ("Image", "Mask")]
LABELLED = ["trainingDataLabelled.npy", "validationDataLabelled.npy"]


def makeMask(seed):
    """Mask of 0 (few), 7 and 255; its planes differ."""
    return np.random.default_rng(seed).choice([0, 7, 255], SHAPE, p=[0.1, 0.2, 0.7]).astype(np.uint8)


MASKS = {"training": makeMask(1), "validation": makeMask(2)}


@pytest.fixture
def data(tmp_path):
    """Folders of a project with a training and a validation pair."""
    for part, seed in (("training", 3), ("validation", 4)):
        image = np.random.default_rng(seed).integers(900, 1100, SHAPE).astype(np.uint16)
        writeNrrd(tmp_path / f"{part}Images" / f"{part}.nrrd", image)
        writeNrrd(tmp_path / f"{part}Masks" / f"{part}.nrrd", MASKS[part])
    (tmp_path / "pythonFiles").mkdir()
    return tmp_path


def flagsOf(folder, *flags):
    paths = [
        f"--{part}{kind}={folder / f'{part}{kind}'}"
        for part in ("training", "validation")
        for kind in ("Images", "Masks")
    ]
    cut = [f"--length_subVol_{axis}={side}" for axis, side in zip("xyz", SIDES, strict=True)]
    usual = [] if any("positiveLabel" in flag for flag in flags) else ["--positiveLabel=0,7"]
    return [*paths, f"--learningData={folder / 'pythonFiles'}", *cut, *usual, *flags]


def prepare(capfd, folder, *flags):
    capfd.readouterr()
    callMain(prepareData, flagsOf(folder, *flags))
    return capfd.readouterr().out


def cut(array):
    """Cut by plain loops: x before y before z."""
    parts = [
        array[x : x + 8, y : y + 16, z : z + 16]
        for x in range(0, 24, 8)
        for y in range(0, 16, 16)
        for z in range(0, 32, 16)  # planes 32 to 39 are in no sub-volume
    ]
    return np.stack(parts)[..., np.newaxis]


def load(folder, name):
    return np.load(folder / "pythonFiles" / name)


def readParameters(folder):
    return json.loads((folder / "pythonFiles" / "parameters.json").read_text())


def testArraysAreThoseOfPlainNumPy(data, capfd):
    text = prepare(
        capfd, data, "--labelledSlices", "z:3,20-30:5 x:5", "--ignoreLabel", "255", "--positiveLabel=0"
    )
    for part, mask in MASKS.items():
        chosen = np.zeros(SHAPE, bool)
        chosen[:, :, [3, 20, 25, 30]] = chosen[5] = True
        chosen &= mask != 255
        np.testing.assert_array_equal(load(data, f"{part}DataLabelled.npy"), cut(chosen))
        np.testing.assert_array_equal(load(data, f"{part}DataMask.npy"), cut(chosen & (mask == 0)))
        positive = (chosen & (mask == 0)).sum() / chosen.sum()
        line = f"{part}.nrrd  24x16x40 uint16, {chosen.mean():.2%} labelled, of that {positive:.3%} positive"
        assert line in text and 0.2 < positive < 0.5
    assert "Warning" not in text  # 7 is named nowhere, but neither 255 nor the rest of the volume counts


def testImagesAreThoseOfTheSameDataWithoutSlices(data, capfd):
    prepare(capfd, data)
    dense = [(data / "pythonFiles" / name).read_bytes() for name in ARRAYS]
    prepare(capfd, data, "--labelledSlices", "x:2,10,18")  # one in every sub-volume
    for name, content in zip(ARRAYS, dense, strict=True):
        assert ((data / "pythonFiles" / name).read_bytes() == content) is name.endswith("Image.npy")


def testSubVolumesWithoutALabelAreLeftOut(data, capfd):
    text = prepare(capfd, data, "--labelledSlices", "x:9", "--validationSlices", "z:17,18", "--nb_rotation=2")
    assert text.count("4 without a labelled voxel are left out)") == 0
    assert "4 sub-volumes of 8x16x16 voxels (8 without a labelled voxel are left out)" in text
    assert "6 sub-volumes of 8x16x16 voxels (6 without a labelled voxel are left out)" in text
    isLabelled = load(data, "trainingDataLabelled.npy")
    assert isLabelled.shape == (4, 8, 16, 16, 1)
    np.testing.assert_array_equal(isLabelled[::2], cut(np.indices(SHAPE)[0] == 9)[2:4])
    np.testing.assert_array_equal(isLabelled[1::2], isLabelled[::2, ::-1, ::-1])  # turned by 180 degrees
    masks = cut(np.isin(MASKS["training"], (0, 7)) & (np.indices(SHAPE)[0] == 9))[2:4]
    np.testing.assert_array_equal(load(data, "trainingDataMask.npy")[1::2], masks[:, ::-1, ::-1])
    np.testing.assert_array_equal(
        load(data, "validationDataLabelled.npy")[::2], cut(np.isin(np.indices(SHAPE)[2], (17, 18)))[1::2]
    )
    outputs = readParameters(data)["outputs"]
    shapes = {name: list(load(data, name).shape) for name in (*ARRAYS, *LABELLED)}
    assert {name: output["shape"] for name, output in outputs.items()} == shapes
    assert outputs["trainingDataLabelled.npy"]["dtype"] == "bool"


def testSubVolumesThatAreWhollyLabelledNeedNoThirdArray(data, capfd):
    prepare(capfd, data, "--labelledSlices", "x:8-15", "--validationSlices", "all")
    assert listNames(data / "pythonFiles") == sorted([*ARRAYS, "parameters.json"])
    np.testing.assert_array_equal(
        load(data, "trainingDataMask.npy"), cut(np.isin(MASKS["training"], (0, 7)))[2:4]
    )
    assert len(load(data, "validationDataMask.npy")) == 6


def testOnlyTheSetWithIgnoredVoxelsHasAThirdArray(data, capfd):
    writeNrrd(
        data / "trainingMasks" / "training.nrrd", np.where(MASKS["training"] == 7, 255, MASKS["training"])
    )
    prepare(capfd, data, "--ignoreLabel", "7", "--positiveLabel=0")
    assert listNames(data / "pythonFiles") == sorted([*ARRAYS, LABELLED[1], "parameters.json"])


def testWithoutIgnoredVoxelsTheFilesAreThePublishedOnes(data, capfd):
    prepare(capfd, data)
    before = {name: (data / "pythonFiles" / name).read_bytes() for name in ARRAYS}
    record = readParameters(data)
    assert not {"ignoreLabel", "labelledSlices", "validationSlices"} & set(record["parameters"])
    prepare(capfd, data, "--ignoreLabel", "9")  # no voxel holds it
    assert {name: (data / "pythonFiles" / name).read_bytes() for name in ARRAYS} == before
    assert readParameters(data)["outputs"] == record["outputs"]
    assert readParameters(data)["parameters"] == record["parameters"] | {"ignoreLabel": "9"}


def testAThirdArrayOfAnEarlierRunGoes(data, capfd):
    prepare(capfd, data, "--labelledSlices", "z:5")
    assert listNames(data / "pythonFiles") == sorted([*ARRAYS, *LABELLED, "parameters.json"])
    prepare(capfd, data, "--labelledSlices", "z:5", "--validationSlices", "all")
    assert listNames(data / "pythonFiles") == sorted([*ARRAYS, LABELLED[0], "parameters.json"])
    prepare(capfd, data)
    assert listNames(data / "pythonFiles") == sorted([*ARRAYS, "parameters.json"])
    np.save(data / "pythonFiles" / LABELLED[0], np.ones(3, bool))
    assert "Nothing changed" not in prepare(capfd, data)
    assert listNames(data / "pythonFiles") == sorted([*ARRAYS, "parameters.json"])
    assert "Nothing changed" in prepare(capfd, data)


def testWhatIsLabelledIsNoticed(data, capfd):
    flags = ("--labelledSlices", "z:5,20")
    prepare(capfd, data, *flags)
    assert "Nothing changed" in prepare(capfd, data, *flags)
    assert "Nothing changed" not in prepare(capfd, data, "--labelledSlices", "z:5,21")
    assert "Nothing changed" not in prepare(capfd, data, "--labelledSlices", "z:5,21", "--ignoreLabel", "255")
    (data / "pythonFiles" / LABELLED[0]).unlink()
    assert "Nothing changed" not in prepare(capfd, data, "--labelledSlices", "z:5,21", "--ignoreLabel", "255")
    assert load(data, LABELLED[0]).any()


def testWorkersWriteTheSameBytes(data, capfd):
    flags = ("--labelledSlices", "x:9 z:3", "--ignoreLabel", "7", "--positiveLabel=0", "--force")
    prepare(capfd, data, *flags)
    alone = [(data / "pythonFiles" / name).read_bytes() for name in (*ARRAYS, *LABELLED)]
    prepare(capfd, data, *flags, "--workerCount=2")
    assert [(data / "pythonFiles" / name).read_bytes() for name in (*ARRAYS, *LABELLED)] == alone


# ------------------------------------------------------------------------------------------------ checks


def testChecksCountLabelledVoxelsOnly(data, capfd):
    mask = np.full(SHAPE, 255, np.uint8)
    mask[:, :, 5] = 0  # outside of the labelled slices
    mask[4, 4, 10] = 7
    writeNrrd(data / "trainingMasks" / "training.nrrd", mask)
    text = prepare(capfd, data, "--labelledSlices", "z:10", "--positiveLabel=0")
    (line,) = re.findall(r"Warning: .*no positive voxel.*", text)
    assert str(data / "trainingMasks" / "training.nrrd") in line
    mask[:, :, 10] = 0
    writeNrrd(data / "trainingMasks" / "training.nrrd", mask)
    assert "nothing but positive voxels" in prepare(
        capfd, data, "--labelledSlices", "z:10", "--positiveLabel=0"
    )


def testValuesOutsideOfTheLabelsAreNotWarnedOf(data, capfd):
    text = prepare(capfd, data, "--positiveLabel=0")
    assert text.count("hold neither a positive label (0) nor 255, such as 7") == 2
    mask = np.where(MASKS["training"] == 7, 255, MASKS["training"])
    mask[:, :, 30] = MASKS["training"][:, :, 30]
    writeNrrd(data / "trainingMasks" / "training.nrrd", mask)
    count = int((mask[:, :, 30] == 7).sum())
    text = prepare(capfd, data, "--positiveLabel=0", "--labelledSlices", "z:29,30", "--validationSlices=x:0")
    share = count / (2 * 24 * 16)
    assert f"training.nrrd: {count} voxels ({share:.2%}) hold neither a positive label" in text


def testAVolumeWithoutLabelsIsWarnedOfWhereAnotherHasSome(data, capfd):
    for kind, array in (
        ("Images", np.arange(np.prod(SHAPE)).reshape(SHAPE).astype(np.uint16)),
        ("Masks", None),
    ):
        empty = np.full(SHAPE, 9, np.uint8)
        writeNrrd(data / f"training{kind}" / "training_2.nrrd", empty if array is None else array)
    text = prepare(capfd, data, "--ignoreLabel", "9")
    assert (
        f"Warning: {data / 'trainingMasks' / 'training_2.nrrd'}: nothing labelled, so none of it is used"
        in text
    )
    np.testing.assert_array_equal(load(data, "trainingDataMask.npy"), cut(np.isin(MASKS["training"], (0, 7))))


@pytest.mark.parametrize(
    ("slices", "words"),
    [
        ("z:10", "no voxel is labelled in both, but slices of one volume are alike"),
        ("z:4", "the validation measures nothing there"),
        ("x:3", "the validation measures nothing there"),  # it crosses plane 4
        ("all", "the validation measures nothing there"),
    ],
)
def testTheSameImageIsALeakWhereVoxelsAreLabelledInBothSets(data, capfd, slices, words):
    (data / "validationImages" / "validation.nrrd").unlink()
    image = data / "validationImages" / "copy.nrrd"
    image.write_bytes((data / "trainingImages" / "training.nrrd").read_bytes())
    text = prepare(capfd, data, "--labelledSlices", "z:4", "--validationSlices", slices)
    (line,) = re.findall("Warning: .*copy.nrrd.*", text)
    assert words in line


# ---------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (
            ["--labelledSlices=z:10,40"],
            ("trainingImages", "lies outside of the volume", "z:0 to z:39", "z:40"),
        ),
        (["--labelledSlices=x:24"], ("outside of the volume (expected x:0 to x:23, received x:24)",)),
        (["--validationSlices=y:3-16"], ("validationImages", "expected y:0 to y:15, received y:16")),
        (["--labelledSlices=5"], ("labelledSlices cannot be read", "'5'")),
        (["--validationSlices=z:one"], ("validationSlices cannot be read", "'z:one'")),
        (["--labelledSlices=z:9-3"], ("the range 9-3 of labelledSlices is empty",)),
        (["--ignoreLabel=x"], ("ignoreLabel cannot be read", "'x'")),
        (["--ignoreLabel=7"], ("7 is in ignoreLabel and in positiveLabel",)),
        (["--ignoreLabel=!300", "--positiveLabel=0"], ("trainingMasks", "nothing labelled")),
        (["--labelledSlices=z:35"], ("trainingMasks", "nothing labelled", "--cover")),
        (["--labelledSlices=z:3", "--validationSlices=z:39"], ("validationMasks", "nothing labelled")),
    ],
)
def testRefusalsAreOneLineAndWriteNothing(data, capfd, flags, words):
    refusal(capfd, prepareData, flagsOf(data, *flags), words)
    assert listNames(data / "pythonFiles") == []
