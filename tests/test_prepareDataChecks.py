"""What prepareData.py refuses and what it warns of, before a training learns from it."""

import functools
import os
import re
from pathlib import Path

import nrrd
import numpy as np
import pytest

import prepareData
from engine.base.console import runScript
from engine.base.files import lockName
from engine.base.passes import passOver
from engine.formats.opening import openVolume
from engine.preparation import checks, samples

SHAPE = (24, 16, 16)
VOXEL = {"spacings": [0.65, 0.65, 1.3], "units": ["um", "um", "um"]}
FOLDERS = ("trainingImages", "trainingMasks", "validationImages", "validationMasks")


def makeImage(seed, shape=SHAPE):
    return np.random.default_rng(seed).integers(900, 1100, shape).astype(np.uint16)


def makeMask(positives=((4, 4, 4),), shape=SHAPE):
    """Mask that is 0 at some voxels and 255 elsewhere."""
    mask = np.full(shape, 255, np.uint8)
    for place in positives:
        mask[place] = 0
    return mask


def write(path, array, **fields):
    """Write a volume; its order in the file is that of its axes."""
    path.parent.mkdir(exist_ok=True)
    nrrd.write(str(path), array, {"encoding": "raw"} | fields)


@pytest.fixture
def data(tmp_path):
    """Folders of a project with one training and one validation pair."""
    for part, seed in (("training", 1), ("validation", 2)):
        write(tmp_path / f"{part}Images" / f"{part}.nrrd", makeImage(seed))
        write(tmp_path / f"{part}Masks" / f"{part}.nrrd", makeMask())
    (tmp_path / "pythonFiles").mkdir()
    return tmp_path


def prepare(folder, *flags):
    """Run the script's main in this process as its __main__ block does."""
    paths = [f"--{name}={folder / name}" for name in FOLDERS]
    words = [*paths, f"--learningData={folder / 'pythonFiles'}", *map(str, flags)]
    runScript(prepareData.main, functools.partial(prepareData.parseArguments, words))


def refusal(capfd, folder, *flags):
    """Require exit code 2 and one line on stderr, and that nothing was written; return the line."""
    capfd.readouterr()
    with pytest.raises(SystemExit) as caught:
        prepare(folder, *flags)
    text = capfd.readouterr().err
    assert caught.value.code == 2 and re.fullmatch(r"\rError: [^\n]+\n", text), text
    assert os.listdir(folder / "pythonFiles") == []
    return text


def warnings(capfd, folder, *flags):
    """Lines that begin with Warning: of a run that ends well."""
    capfd.readouterr()
    prepare(folder, *flags)
    return re.findall("^Warning: .*$", capfd.readouterr().out, re.MULTILINE)


def testGoodDataGivesNoWarning(data, capfd):
    assert warnings(capfd, data) == []


# -------------------------------------------------- geometry


def testMaskWithOtherVoxelsThanItsImageIsRefused(data, capfd):
    write(data / "trainingImages" / "training.nrrd", makeImage(1), **VOXEL)
    write(data / "trainingMasks" / "training.nrrd", makeMask(), **VOXEL | {"spacings": [0.5, 0.5, 2.0]})
    text = refusal(capfd, data)
    assert f"{data / 'trainingMasks' / 'training.nrrd'}: mask and image training.nrrd differ in the " in text
    assert "size of a voxel (expected [0.65, 0.65, 1.3], received [0.5, 0.5, 2.0]); take the mask" in text


def testMaskElsewhereThanItsImageIsRefused(data, capfd):
    place = {"space dimension": 3, "space directions": np.eye(3), "space origin": [0.0, 0.0, 0.0]}
    write(data / "validationImages" / "validation.nrrd", makeImage(2), **place)
    write(data / "validationMasks" / "validation.nrrd", makeMask(), **place | {"space origin": [3.0, 0, 0]})
    text = refusal(capfd, data)
    assert "differ in the space origin (expected [0.0, 0.0, 0.0], received [3.0, 0.0, 0.0])" in text


@pytest.mark.parametrize("fields", [{}, {"spacings": [650.0, 650.0, 1300.0], "units": ["nm"] * 3}])
def testMaskWithoutGeometryOrInAnotherUnitIsAccepted(fields, data, capfd):
    write(data / "trainingImages" / "training.nrrd", makeImage(1), **VOXEL)
    write(data / "trainingMasks" / "training.nrrd", makeMask(), **fields)
    assert warnings(capfd, data) == []


# -------------------------------------------------- pairing


def namePairs(data, images, masks):
    """Replace the training pairs by others with these names, in pairs."""
    for seed, (image, mask) in enumerate(zip(images, masks, strict=True), start=10):
        write(data / "trainingImages" / image, makeImage(seed))
        write(data / "trainingMasks" / mask, makeMask())
    for kind in ("Images", "Masks"):
        (data / f"training{kind}" / "training.nrrd").unlink()


def testNamesWhoseNumbersPairOtherwiseGiveOneWarning(data, capfd):
    namePairs(
        data, ("scan2.nrrd", "scan3.nrrd", "scan10.nrrd"), ("scan02.nrrd", "scan03.nrrd", "scan10.nrrd")
    )
    (line,) = warnings(capfd, data)
    assert f"{data / 'trainingImages' / 'scan10.nrrd'}: sorted by name it belongs to scan02.nrrd" in line
    assert "by the numbers in the names to scan10.nrrd" in line and "leading zeros" in line


@pytest.mark.parametrize(
    ("images", "masks", "pair"),
    [
        (("data_01", "data_02", "data_04"), ("segm_01", "segm_02", "segm_03"), ("data_04", "segm_03")),
        (("data_01", "data_02"), ("segm_1", "segm_2_of_2"), None),
        (("a", "b"), ("1", "2"), None),
    ],
)
def testPairsOfOtherNumbersAreWarnedOf(data, images, masks, pair, capfd):
    namePairs(data, *([f"{name}.nrrd" for name in names] for names in (images, masks)))
    found = warnings(capfd, data)
    assert len(found) == (pair is not None)
    if pair:
        assert f"{pair[0]}.nrrd is paired with {pair[1]}.nrrd; is a file missing" in found[0]


def testOneProcessWritesTheSubVolumes(data, capfd):
    with lockName(data / "pythonFiles" / "parameters.json", ""):
        with pytest.raises(SystemExit):
            prepare(data)
    assert "parameters.json: another process is writing into this folder" in capfd.readouterr().err


def testDamagedArraysAreMadeAnew(data, capfd):
    prepare(data)
    (data / "pythonFiles" / "trainingDataMask.npy").write_bytes(b"")
    prepare(data)
    assert np.load(data / "pythonFiles" / "trainingDataMask.npy").any()
    assert "Nothing changed" not in capfd.readouterr().out
    (data / "pythonFiles" / "parameters.json").write_text("{")
    prepare(data)
    header = bytearray((data / "pythonFiles" / "trainingDataMask.npy").read_bytes())
    header[header.index(b",")] = ord("(")  # NumPy parses it as Python does
    (data / "pythonFiles" / "trainingDataMask.npy").write_bytes(header)
    prepare(data)
    assert np.load(data / "pythonFiles" / "trainingDataMask.npy").any()
    assert "Nothing changed" not in capfd.readouterr().out
    prepare(data)
    assert "Nothing changed" in capfd.readouterr().out


def testEditedConstantsAreCheckedLikeFlags(data, monkeypatch, capfd):
    monkeypatch.setattr(prepareData, "nb_rotation", 5)
    with pytest.raises(SystemExit) as caught:
        prepare(data)
    assert caught.value.code == 2
    assert "Error: nb_rotation is 5, not one of 1, 2, 3, 4" in capfd.readouterr().err
    monkeypatch.setattr(prepareData, "nb_rotation", 1)
    monkeypatch.setattr(prepareData, "positiveLabel", 0)  # a number instead of "0"
    prepare(data)


def testWarningOfNumbersComesBeforeTheRefusalThatFollowsFromIt(data, capfd):
    namePairs(data, ("scan2.nrrd", "scan10.nrrd"), ("scan02.nrrd", "scan10.nrrd"))
    for kind, array in (("Images", makeImage(3, (16, 16, 8))), ("Masks", makeMask(shape=(16, 16, 8)))):
        write(data / f"training{kind}" / "scan10.nrrd", array)
    with pytest.raises(SystemExit):
        prepare(data)
    out, err = capfd.readouterr()
    assert "Warning: " in out and "differ in the shape" in err


@pytest.mark.parametrize(
    ("images", "masks"),
    [
        (("scan2.nrrd", "scan10.nrrd"), ("mask2.nrrd", "mask10.nrrd")),
        (("scan02.nrrd", "scan10.nrrd"), ("mask02.nrrd", "mask10.nrrd")),
        (("0.65um_a.nrrd", "0.7um_a.nrrd"), ("0.65um_a.nrrd", "0.7um_a.nrrd")),
        (("1.nrrd", "01.nrrd", "x.nrrd"), ("1.nrrd", "01.nrrd", "x.nrrd")),
    ],
)
def testNamesThatPairAlikeBothWaysGiveNoWarning(images, masks, data, capfd):
    namePairs(data, images, masks)
    assert warnings(capfd, data) == []


# -------------------------------------------------- leakage


def testImageInBothSetsIsNamedWithItsTwin(data, capfd):
    image = data / "trainingImages" / "training.nrrd"
    copy = data / "validationImages" / "validation.nrrd"
    copy.write_bytes(image.read_bytes())
    (line,) = warnings(capfd, data)
    assert f"{copy}: has the same content as the training image {image}; the validation measures" in line
    assert warnings(capfd, data) == [line]  # again, although nothing changed


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (np.uint16, {"encoding": "gzip"}),
        (np.uint16, {"spacings": [2.0, 2.0, 2.0]}),
        (np.float64, {}),
        (">u2", {"endian": "big"}),
    ],
)
def testImageSavedAnotherWayIsTheSameImage(kind, fields, data, capfd):
    write(data / "validationImages" / "validation.nrrd", makeImage(1).astype(kind), **fields)
    (line,) = warnings(capfd, data)
    assert "validation.nrrd: has the same content as the training image" in line


@pytest.mark.parametrize("planes", [(0, -1), (8,)])
def testEmptyPlanesAreNoLeak(planes, data, capfd):
    for part, seed in (("training", 1), ("validation", 2)):
        image = makeImage(seed)
        image[:, :, planes] = 0
        write(data / f"{part}Images" / f"{part}.nrrd", image)
    assert warnings(capfd, data) == []


@pytest.mark.parametrize("isSame", [True, False])
def testDetachedDataCountAndNotTheirHeader(isSame, data, capfd):
    header = "NRRD0004\ntype: uint16\ndimension: 3\nsizes: 24 16 16\nendian: little\nencoding: raw\n"
    for part, seed in (("training", 1), ("validation", 1 if isSame else 2)):
        folder = data / f"{part}Images"
        (folder / f"{part}.nrrd").unlink()
        (folder / "scan.nhdr").write_text(f"{header}data file: scan.raw\n")
        makeImage(seed).T.tofile(folder / "scan.raw")
    assert len(warnings(capfd, data)) == isSame


def testEqualMasksAreNoLeak(data, capfd):
    names = [data / f"{part}Masks" / f"{part}.nrrd" for part in ("training", "validation")]
    assert names[0].read_bytes() == names[1].read_bytes()
    assert warnings(capfd, data) == []


# -------------------------------------------------- bad voxels


@pytest.mark.parametrize("blockVoxels", [1, 24 * 16 * 3, 1 << 22])
def testNaNInAMaskIsRefusedWithFileAndCount(blockVoxels, data, capfd, monkeypatch):
    monkeypatch.setattr(checks, "BLOCK_VOXELS", blockVoxels)
    mask = makeMask().astype(np.float32)
    mask[0, 0, 0], mask[5, 6, 7], mask[-1, -1, -1] = np.nan, np.inf, np.nan
    write(data / "validationMasks" / "validation.nrrd", mask)
    text = refusal(capfd, data)
    assert f"{data / 'validationMasks' / 'validation.nrrd'}: 3 voxels are NaN or infinite" in text


def testFloatMaskOfLabelsIsAccepted(data, capfd):
    write(data / "trainingMasks" / "training.nrrd", makeMask().astype(np.float32))
    assert warnings(capfd, data) == []
    assert np.load(data / "pythonFiles" / "trainingDataMask.npy").sum() == 1


# -------------------------------------------------- rights


@pytest.mark.parametrize("name", FOLDERS)
def testFolderWithoutReadRightIsRefusedInOneLine(name, data, capfd, monkeypatch):
    listFolder = Path.iterdir

    def listOrRefuse(folder):
        if folder.name == name:
            raise PermissionError(13, "Permission denied", str(folder))
        return listFolder(folder)

    monkeypatch.setattr(Path, "iterdir", listOrRefuse)
    text = refusal(capfd, data)
    assert f"{data / name}: cannot be read: Permission denied; give yourself the right" in text


def testFileWithoutReadRightIsRefusedInOneLine(data, capfd, monkeypatch):
    digest = samples.digestFile

    def digestOrRefuse(path):
        if path.parent.name == "trainingMasks":
            raise PermissionError(13, "Permission denied", str(path))
        return digest(path)

    monkeypatch.setattr(samples, "digestFile", digestOrRefuse)
    text = refusal(capfd, data)
    assert f"{data / 'trainingMasks' / 'training.nrrd'}: cannot be read: Permission denied; give" in text


# -------------------------------------------------- used part


def testPositivesInTheDiscardedEdgeAloneGiveAWarning(data, capfd):
    write(data / "trainingMasks" / "training.nrrd", makeMask([(20, 3, 3), (21, 3, 3)]))
    (line,) = warnings(capfd, data, "--length_subVol_x", 16)
    mask = data / "trainingMasks" / "training.nrrd"
    assert f"{mask}: all 2 positive voxels lie outside the sub-volumes; --cover" in line
    assert not np.load(data / "pythonFiles" / "trainingDataMask.npy").any()


@pytest.mark.parametrize("flags", [("--cover",), ("--length_subVol_x", 24)])
def testCoveredEdgeGivesNoWarning(flags, data, capfd):
    write(data / "trainingMasks" / "training.nrrd", makeMask([(20, 3, 3)]))
    assert warnings(capfd, data, "--length_subVol_x", 16, *flags) == []
    assert np.load(data / "pythonFiles" / "trainingDataMask.npy").any()


def testPrintedSharesAreThoseOfTheWholeVolume(data, capfd):
    write(data / "trainingMasks" / "training.nrrd", makeMask([(20, 3, 3), (2, 3, 3)]))
    prepare(data, "--length_subVol_x", 16)
    line = next(line for line in capfd.readouterr().out.splitlines() if "training.nrrd  <->" in line)
    assert f"{2 / np.prod(SHAPE):.3%} positive, {2 / 3:.1%} of the voxels used" in line


@pytest.mark.parametrize("blockVoxels", [1, 24 * 16 * 3, 1 << 22])
@pytest.mark.parametrize("encoding", ["raw", "gzip"])
def testPositivesAreCountedAsPlainNumPyDoes(encoding, blockVoxels, tmp_path, monkeypatch):
    monkeypatch.setattr(checks, "BLOCK_VOXELS", blockVoxels)
    mask = np.random.default_rng(7).integers(0, 4, (11, 10, 17)).astype(np.uint8)
    write(tmp_path / "mask.nrrd", mask, encoding=encoding)
    used = [checks.coverAxis(*axis) for axis in ((11, [0, 3], 8), (10, [2], 8), (17, [0, 8], 8))]
    positives = checks.Positives(used, [0, 3])
    passOver(checks.listBlocks(openVolume(tmp_path / "mask.nrrd")), positives)
    counts = positives.count, positives.usedCount
    positive = np.isin(mask, (0, 3))
    assert counts == (positive.sum(), positive[:11, 2:, :16].sum())


def testGapBetweenSubVolumesIsNotCovered():
    expected = [True] * 8 + [False] * 4 + [True] * 8
    assert checks.coverAxis(20, [0, 12], 8).tolist() == expected
