"""Which voxels of a mask prepareData.py takes for positive, and where it looks for them."""

import json
import re
from pathlib import Path

import nrrd
import numpy as np
import pytest
import SimpleITK
import tifffile
from projects import callMain, refusal
from segmentations import drawSegments, writeSegmentation

import prepareData
from engine.formats.opening import isVolumeName

SHAPE = (24, 16, 8)
PLACE = {
    "space": "left-posterior-superior",
    "space directions": np.diag([0.5, 0.6, 0.7]),
    "space origin": np.array([1.0, 2.0, 3.0]),
    "space units": ["um"] * 3,
}
LABELS = np.random.default_rng(1).integers(0, 4, SHAPE) * (np.random.default_rng(2).random(SHAPE) < 0.1)
POSITIVE = LABELS == 1


@pytest.fixture
def data(tmp_path):
    """Give folders with a training and a validation image, both with a geometry, and plain masks."""
    for part, seed in (("training", 1), ("validation", 2)):
        for kind in ("Images", "Masks"):
            (tmp_path / f"{part}{kind}").mkdir()
        image = np.random.default_rng(seed).integers(900, 1100, SHAPE).astype(np.uint16)
        nrrd.write(str(tmp_path / f"{part}Images" / "scan.nrrd"), image, PLACE)
        writeMask(tmp_path, np.where(POSITIVE, 0, 255), part=part)
    (tmp_path / "pythonFiles").mkdir()
    return tmp_path


def writeMask(folder, mask, part="training", dtype=np.uint8, **fields):
    nrrd.write(str(folder / f"{part}Masks" / "mask.nrrd"), mask.astype(dtype), PLACE | fields)


def flagsOf(folder, *flags):
    paths = [
        f"--{part}{kind}={folder / f'{part}{kind}'}"
        for part in ("training", "validation")
        for kind in ("Images", "Masks")
    ]
    cut = ["--length_subVol_x=24", "--length_subVol_y=16", "--length_subVol_z=8"]
    return [*paths, f"--learningData={folder / 'pythonFiles'}", *cut, *flags]


def prepare(capfd, folder, *flags):
    """Give what is told, and where the training mask is positive."""
    capfd.readouterr()
    callMain(prepareData, flagsOf(folder, *flags))
    return capfd.readouterr().out, np.load(folder / "pythonFiles" / "trainingDataMask.npy")[0, ..., 0]


def recorded(folder):
    return json.loads((folder / "pythonFiles" / "parameters.json").read_text())["parameters"]


# -------------------------------------------------- values


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def testInterpolatedMaskIsWarnedOfWithCountAndShare(data, capfd, dtype):
    hard = SimpleITK.GetImageFromArray(np.where(POSITIVE, 0, 255).astype(np.float32))
    soft = SimpleITK.GetArrayFromImage(SimpleITK.RecursiveGaussian(hard, 0.8))
    soft = (np.rint(soft) if dtype == np.uint8 else soft).clip(0, 255).astype(dtype)
    soft[POSITIVE], soft[:12] = 0, np.where(POSITIVE, 0, 255)[:12]
    writeMask(data, soft, dtype=dtype)
    count = int(((soft != 0) & (soft != 255)).sum())
    text, mask = prepare(capfd, data)
    (line,) = re.findall("^Warning: .*$", text, re.MULTILINE)
    path = data / "trainingMasks" / "mask.nrrd"
    assert line.startswith(
        f"Warning: {path}: {count} voxels ({count / soft.size:.2%}) hold neither a positive"
    )
    assert "interpolated mask" in line and "nearest neighbour" in line and count > 100
    np.testing.assert_array_equal(mask, soft == 0)


@pytest.mark.parametrize(
    ("flag", "positive", "record"),
    [
        ("!0", LABELS != 0, "!0"),
        ("1-3", LABELS != 0, "1-3"),
        ("1,2,3", LABELS != 0, [1, 2, 3]),
        ("!0,2", (LABELS != 0) & (LABELS != 2), "!0,2"),
    ],
)
def testInstancesArePositiveByRangeListAndComplementWithoutWarning(data, capfd, flag, positive, record):
    for part in ("training", "validation"):
        writeMask(data, LABELS, part)
    text, mask = prepare(capfd, data, "--positiveLabel", flag)
    np.testing.assert_array_equal(mask, positive)
    assert "Warning" not in text and f"positiveLabel={flag}" in text
    assert recorded(data)["positiveLabel"] == record
    assert "Nothing changed" in prepare(capfd, data, f"--positiveLabel={flag}")[0]


def testLabelsThatAreNotListedAreWarnedOf(data, capfd):
    writeMask(data, LABELS)
    text, mask = prepare(capfd, data, "--positiveLabel", "1-2")
    others = int((LABELS == 3).sum())
    assert (
        f"{others} voxels ({others / LABELS.size:.2%}) hold neither a positive label (1-2) nor 0, such as 3"
        in text
    )
    np.testing.assert_array_equal(mask, (LABELS == 1) | (LABELS == 2))


def testNegativeLabelsAreGivenWithAndWithoutAnEqualsSign(data, capfd):
    writeMask(data, LABELS - 3, dtype=np.int16)
    for flags in (["--positiveLabel", "-3--2"], ["--positiveLabel=-3--2"]):
        _, mask = prepare(capfd, data, "--force", *flags)
        np.testing.assert_array_equal(mask, LABELS <= 1)


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("5-1", "the range 5-1 of positiveLabel ends before it begins"),
        ("!", "cannot be read"),
        ("", "cannot be read"),
    ],
)
def testNonsenseIsRefusedInOneLine(data, capfd, flag, words):
    assert repr(flag) in refusal(capfd, prepareData, flagsOf(data, f"--positiveLabel={flag}"), words)


# -------------------------------------------------- places


@pytest.mark.parametrize("encoding", ["raw", "gzip"])
@pytest.mark.parametrize("scheme", ["subVolume", "volume"])
def testMaskInAnotherSpaceIsCutWhereItLies(data, capfd, encoding, scheme):
    _, expected = prepare(capfd, data)
    assert "turnedMasks" not in recorded(data)
    far = np.array([1, 2, 3]) + np.array([23 * 0.5, 15 * 0.6, 7 * 0.7])
    fields = {"space": "right-anterior-superior", "space directions": np.diag([0.5, 0.6, -0.7])}
    fields |= {"space origin": far * [-1, -1, 1], "encoding": encoding}
    writeMask(data, np.where(POSITIVE, 0, 255)[::-1, ::-1, ::-1], **fields)
    text, mask = prepare(capfd, data, "--normalization", scheme)
    assert text.count("Mask mask.nrrd runs the other way along x, y, z: turned into place\n") == 1
    np.testing.assert_array_equal(mask, expected)
    assert recorded(data)["turnedMasks"] == ["trainingMasks/mask.nrrd"]
    assert "Nothing changed" in prepare(capfd, data, "--normalization", scheme)[0]


def testMaskWithItsAxesInAnotherOrderIsCutWhereItLies(data, capfd):
    steps = PLACE["space directions"][[2, 0, 1]]
    writeMask(data, np.where(POSITIVE, 0, 255).transpose(2, 0, 1), **{"space directions": steps})
    text, mask = prepare(capfd, data)
    assert "Mask mask.nrrd has its axes in another order (y, z, x): turned into place" in text
    np.testing.assert_array_equal(mask, POSITIVE)


def testMaskOfAnotherPlaceIsStillRefused(data, capfd):
    writeMask(data, np.where(POSITIVE, 0, 255), **{"space": "RAS"})
    line = refusal(
        capfd, prepareData, flagsOf(data), "mask and image scan.nrrd differ in the space directions"
    )
    assert "[-0.5, " in line and "take the mask that was drawn on this image" in line


def testWhatAMaskDoesNotTellIsAssumedAloud(data, capfd):
    text, _ = prepare(capfd, data)
    assert "taken to be" not in text
    for part in ("training", "validation"):
        path = data / f"{part}Masks" / "mask.nrrd"
        nrrd.write(str(path), np.where(POSITIVE, 0, 255).astype(np.uint8))
    text, mask = prepare(capfd, data)
    line = "Mask mask.nrrd gives no usable size of a voxel, unlike its image: taken to be the same"
    assert text.count(line) == 2  # once for each set
    np.testing.assert_array_equal(mask, POSITIVE)


# -------------------------------------------------- a fourth axis


@pytest.mark.parametrize("encoding", ["raw", "gzip"])
def testImageAndMaskWithOneChannelAreCutAsVolumes(data, capfd, encoding):
    _, expected = prepare(capfd, data)
    before = np.load(data / "pythonFiles" / "trainingDataImage.npy")
    for kind, name in (("Images", "scan"), ("Masks", "mask")):
        path = str(data / f"training{kind}" / f"{name}.nrrd")
        array, header = nrrd.read(path)
        directions = np.vstack([np.full((1, 3), np.nan), header["space directions"]])
        fields = {"kinds": ["list", *["domain"] * 3], "space directions": directions, "encoding": encoding}
        kept = {field: header[field] for field in ("space", "space origin", "space units")}
        nrrd.write(path, array[np.newaxis], kept | fields)
    text, mask = prepare(capfd, data)
    assert "Nothing changed" not in text and "taken to be" not in text
    np.testing.assert_array_equal(mask, expected)
    np.testing.assert_array_equal(np.load(data / "pythonFiles" / "trainingDataImage.npy"), before)


# -------------------------------------------------- segments

DRAWN = drawSegments(SHAPE)
APART = {name: DRAWN[name] for name in ("Precipitate", "pore")}


def writeSegments(folder, segments=DRAWN, isCropped=True, name="mask"):
    """Write segmentations in place of both masks."""
    for part in ("training", "validation"):
        for path in (folder / f"{part}Masks").iterdir():
            path.unlink()
        path = folder / f"{part}Masks" / f"{name}.seg.nrrd"
        writeSegmentation(path, segments, PLACE["space directions"], PLACE["space origin"], isCropped)


@pytest.mark.parametrize("isCropped", [True, False])
@pytest.mark.parametrize(
    ("segments", "flag", "names"),
    [
        (APART, "pore", ["pore"]),
        (APART, "PORE,precipitate", ["pore", "Precipitate"]),
        (APART, "2", ["pore"]),
        (APART, "!0", ["pore", "Precipitate"]),
        (DRAWN, "halo", ["halo"]),
        (DRAWN, "halo,pore", ["halo", "pore"]),
    ],
)
def testSegmentsAreCutWhereTheyWereDrawn(data, capfd, segments, flag, names, isCropped):
    writeSegments(data, segments, isCropped)
    text, mask = prepare(capfd, data, "--positiveLabel", flag)
    expected = np.any([segments[name] for name in names], axis=0)
    labelled = ~segments.get("IGNORE", np.zeros(SHAPE, bool))
    expected &= labelled
    np.testing.assert_array_equal(mask, expected)
    assert f"{expected.sum() / labelled.sum():.3%} positive" in text and "Warning" not in text
    told = data / "pythonFiles" / "trainingDataLabelled.npy"
    assert told.exists() is (not labelled.all())
    if told.exists():
        assert f"{labelled.mean():.2%} labelled, of that" in text
        np.testing.assert_array_equal(np.load(told)[0, ..., 0], labelled)
    assert text.count("Mask mask.seg.nrrd covers x ") == 2 * isCropped
    assert ("placedMasks" in recorded(data)) == isCropped
    assert recorded(data)["positiveLabel"] == ([2] if flag == "2" else flag)
    assert "Nothing changed" in prepare(capfd, data, "--positiveLabel", flag)[0]


def testSubVolumesOfACroppedSegmentationHoldItsVoxels(data, capfd):
    writeSegments(data)
    sides = ["--length_subVol_x=8", "--length_subVol_y=8", "--length_subVol_z=8"]
    for workers in ("0", "2"):
        callMain(
            prepareData, flagsOf(data, *sides, "--positiveLabel=halo", "--force", "--workerCount", workers)
        )
        samples = np.load(data / "pythonFiles" / "trainingDataMask.npy")[..., 0]
        positive = DRAWN["halo"] & ~DRAWN["IGNORE"]
        blocks = [positive[x : x + 8, y : y + 8] for x in (0, 8, 16) for y in (0, 8)]
        assert [int(part.sum()) for part in samples] == [int(part.sum()) for part in blocks]
        assert {part.tobytes() for part in samples} == {np.ascontiguousarray(b).tobytes() for b in blocks}


def testPlainMasksAndSegmentationsMix(data, capfd):
    """A number means the same in a plain mask and in a segmentation."""
    writeSegments(data, APART)
    (data / "trainingMasks" / "mask.seg.nrrd").unlink()
    writeMask(data, LABELS)
    _, mask = prepare(capfd, data, "--positiveLabel", "2")
    np.testing.assert_array_equal(mask, LABELS == 2)
    validation = np.load(data / "pythonFiles" / "validationDataMask.npy")[0, ..., 0]
    np.testing.assert_array_equal(validation, APART["pore"])
    line = refusal(capfd, prepareData, flagsOf(data, "--positiveLabel=pore"), "positiveLabel cannot be read")
    assert f"{data / 'trainingMasks' / 'mask.nrrd'}: " in line and "has no named segments" in line


def testAValueThatNoSegmentHasIsWarnedOfAndOtherSegmentsAreNot(data, capfd):
    writeSegments(data, APART)
    assert "hold neither" not in prepare(capfd, data, "--positiveLabel", "pore")[0]
    path = data / "trainingMasks" / "mask.seg.nrrd"
    voxels, header = nrrd.read(str(path))
    background = np.argwhere(voxels == 0)[:5]
    voxels[tuple(background.T)] = 9
    nrrd.write(str(path), voxels, header)
    text, _ = prepare(capfd, data, "--positiveLabel", "pore")
    assert re.search(r"Warning: .*mask.seg.nrrd: 5 voxels \(0.16%\) hold neither .* such as 9, ", text)


def testNothingLabelledIsAWarning(data, capfd):
    writeSegments(data, {**APART, "scratch": np.zeros(SHAPE, bool)})
    text, mask = prepare(capfd, data, "--positiveLabel", "scratch")
    assert not mask.any()
    assert text.count("mask.seg.nrrd: no positive voxel (positiveLabel scratch)") == 2


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("pores", "no segment has this name (expected Precipitate = 1, pore = 2, received 'pores')"),
        ("0", "positiveLabel is that of no segment (expected Precipitate = 1, pore = 2, received 0)"),
        ("", "positiveLabel cannot be read"),
        ("pore,", "positiveLabel cannot be read"),
    ],
)
def testLabelsThatMeanNoSegmentAreRefusedBeforeAnyWork(data, capfd, flag, words):
    writeSegments(data, APART)
    refusal(capfd, prepareData, flagsOf(data, f"--positiveLabel={flag}"), words)
    assert list((data / "pythonFiles").iterdir()) == []


def testSegmentationCroppedBetweenTheVoxelsIsRefused(data, capfd):
    writeSegments(data)
    path = data / "trainingMasks" / "mask.seg.nrrd"
    voxels, header = nrrd.read(str(path))
    header["space origin"] = header["space origin"] + [0, 0.3, 0]
    nrrd.write(str(path), voxels, header)
    line = refusal(capfd, prepareData, flagsOf(data, "--positiveLabel=pore"), "differ in the space origin")
    assert "take the mask that was drawn on this image" in line


# -------------------------------------------------- as other tools save them


def testLabelsOfNapariLieOnTheirImage(data, capfd):
    """A stack of 32 bits without geometry, written by the function behind File > Save Selected Layers."""
    write = pytest.importorskip("napari_builtins.io._write").napari_write_labels
    for part in ("training", "validation"):
        (data / f"{part}Masks" / "mask.nrrd").unlink()
        path = data / f"{part}Masks" / "mask.tif"
        assert write(str(path), LABELS.T.astype(np.uint8), {"name": "mask"}) == str(path)
    assert tifffile.imread(path).dtype == np.uint32
    text, mask = prepare(capfd, data, "--positiveLabel", "1")
    np.testing.assert_array_equal(mask, LABELS == 1)
    line = "Mask mask.tif gives no usable size of a voxel, unlike its image: taken to be the same"
    assert text.count(line) == 2
    line = refusal(
        capfd, prepareData, flagsOf(data, "--positiveLabel=pore"), "mask.tif: positiveLabel cannot"
    )
    assert "give numbers" in line


@pytest.mark.parametrize("ending", [".nrrd", ".nii.gz"])
def testLabelsOfItkSnapLieOnTheirImage(data, capfd, ending):
    """Written by ITK as ITK-SNAP does: unsigned short; LPS, so nothing is turned."""
    if not isVolumeName(Path(f"mask{ending}")):
        pytest.skip("this format is not known yet")
    for part in ("training", "validation"):
        (data / f"{part}Masks" / "mask.nrrd").unlink()
        picture = SimpleITK.GetImageFromArray(LABELS.T.astype(np.uint16))
        picture.CopyInformation(SimpleITK.ReadImage(str(data / f"{part}Images" / "scan.nrrd")))
        SimpleITK.WriteImage(picture, str(data / f"{part}Masks" / f"mask{ending}"), True)
    text, mask = prepare(capfd, data, "--positiveLabel", "1")
    np.testing.assert_array_equal(mask, LABELS == 1)
    assert "turned into place" not in text and "covers" not in text
