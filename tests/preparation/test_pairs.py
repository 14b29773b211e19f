"""Pairs of images and masks in the formats that people mix."""

import json
import shutil
import zlib

import numpy as np
import pytest
import tifffile
from sampleVolumes import writeVolume

import prepareData
from engine.base.errors import PipelineError
from engine.formats.metaWriter import writeMetaHeader
from engine.formats.opening import openVolume
from engine.preparation.pairs import doubtNames, listPairs, listVolumes

GREY = {"photometric": "minisblack"}
META = "ObjectType = Image\nNDims = 3\nDimSize = {}\nElementType = MET_USHORT\nElementSpacing = 1 1 1\n"


def makePair(seed):
    generator = np.random.default_rng(seed)
    return generator.integers(0, 60000, (16, 24, 16)).astype(np.uint16), generator.random((16, 24, 16)) < 0.9


def writeSlices(folder, array):
    folder.mkdir()
    for z in range(array.shape[2]):
        tifffile.imwrite(folder / f"s{z}.tif", array[:, :, z].T, compression="zlib" * (z % 2) or None, **GREY)


def prepare(root, writers):
    """Prepare two training pairs and a validation pair, written as `writers` say; gives what was written."""
    flags = ["--learningData", str(root / "out"), "--length_subVol_x", "8", "--length_subVol_y", "8"]
    (root / "out").mkdir(parents=True)
    for part, seeds in (("training", (1, 2)), ("validation", (3,))):
        for kind in (0, 1):
            folder = root / f"{part}{('Images', 'Masks')[kind]}"
            folder.mkdir()
            flags += [f"--{folder.name}", str(folder)]
            for seed in seeds:
                array = makePair(seed)[kind]
                writers[(seed + kind) % len(writers)](folder / f"scan{seed}", array.astype(np.uint16))
    prepareData.main(prepareData.parseArguments(flags))
    return {path.name: path.read_bytes() for path in (root / "out").glob("*.npy")}


WRITERS = [
    lambda path, array: writeVolume(path.with_suffix(".nrrd"), array, {}),
    lambda path, array: tifffile.imwrite(path.with_suffix(".tif"), array.T, **GREY),
    lambda path, array: writeSlices(path, array),
]


def testAnyFormatGivesTheSameSubVolumes(tmp_path, capsys):
    expected = prepare(tmp_path / "nrrd", WRITERS[:1])
    assert len(expected) == 4
    for name, writers in (("tiff", WRITERS[1:2]), ("slices", WRITERS[2:]), ("mixed", WRITERS)):
        assert prepare(tmp_path / name, writers) == expected
    inputs = json.loads((tmp_path / "mixed" / "out" / "parameters.json").read_text())["inputs"]
    assert len(inputs) == 6 and "scan1.nrrd  <->" in capsys.readouterr().out


def testAChangedSliceIsPreparedAnew(tmp_path, capsys):
    prepare(tmp_path / "a", WRITERS[2:])
    flags = [
        "--learningData",
        str(tmp_path / "a" / "out"),
        "--length_subVol_x",
        "8",
        "--length_subVol_y",
        "8",
    ]
    for name in ("trainingImages", "trainingMasks", "validationImages", "validationMasks"):
        flags += [f"--{name}", str(tmp_path / "a" / name)]
    prepareData.main(prepareData.parseArguments(flags))
    assert "Nothing changed" in capsys.readouterr().out
    slice3 = tmp_path / "a" / "trainingImages" / "scan1" / "s3.tif"
    tifffile.imwrite(slice3, tifffile.imread(slice3) + 1, **GREY)
    prepareData.main(prepareData.parseArguments(flags))
    assert "Nothing changed" not in capsys.readouterr().out


def testSlicesOfAVolumeNeedAFolderOfTheirOwn(tmp_path):
    writeSlices(tmp_path / "images", makePair(1)[0])
    with pytest.raises(PipelineError, match="s0.tif: is a single slice, .* into a folder of their own"):
        listVolumes(tmp_path / "images")
    shutil.rmtree(tmp_path / "images")
    (tmp_path / "images" / "empty").mkdir(parents=True)
    with pytest.raises(PipelineError, match="empty: the folder holds no TIFF slices"):
        listVolumes(tmp_path / "images")


def testFilesThatBelongToAVolumeAreNoneOfTheirOwn(tmp_path):
    array = makePair(1)[0]
    data, sides = array.tobytes("F"), " ".join(map(str, array.shape))
    for name in ("a.raw", "c.raw", "d.vol", "f.raw"):
        (tmp_path / name).write_bytes(data)
    (tmp_path / "b.zraw").write_bytes(zlib.compress(data))
    (tmp_path / "a.mhd").write_text(META.format(sides) + "ElementDataFile = a.raw\n")
    (tmp_path / "b.mhd").write_text(META.format(sides) + "CompressedData = True\nElementDataFile = b.zraw\n")
    header = f"NRRD0004\ntype: uint16\ndimension: 3\nsizes: {sides}\nendian: little\nencoding: raw\n"
    (tmp_path / "c.nhdr").write_text(f"{header}data file: c.raw\n\n")
    sides = "".join(f"NUM_{axis} = {size}\n" for axis, size in zip("XYZ", array.shape, strict=True))
    (tmp_path / "d.vol.info").write_text(sides)
    (tmp_path / "d.vol.xml").write_text("<tomodb2/>")
    (tmp_path / "f.raw.info").write_text(f"{sides}DATA_TYPE = uint16\n")
    volumes = listVolumes(tmp_path)
    assert [path.name for path in volumes] == ["a.mhd", "b.mhd", "c.nhdr", "d.vol", "f.raw"]
    for path in volumes:
        np.testing.assert_array_equal(openVolume(path).read(), array)


def testPairsOfNiftiAreOneVolume(tmp_path):
    nib = pytest.importorskip("nibabel")
    array = makePair(1)[0]
    nib.save(nib.Nifti1Pair(array, np.eye(4)), tmp_path / "a.hdr")
    assert [path.name for path in listVolumes(tmp_path)] == ["a.hdr"]


def testHeaderBesideAResultIsNoSecondVolume(tmp_path):
    writeVolume(tmp_path / "a.nrrd", makePair(1)[0], {})
    assert [path.name for path in listVolumes(tmp_path)] == ["a.nrrd"]
    writeMetaHeader(tmp_path / "a.nrrd")
    assert [path.name for path in listVolumes(tmp_path)] == ["a.mhd"]


def testRawFilesThatNothingDescribesAreRefused(tmp_path):
    writeVolume(tmp_path / "a.nrrd", makePair(1)[0], {})
    (tmp_path / "a.raw").write_bytes(bytes(100))
    with pytest.raises(PipelineError, match="a.raw: a raw file does not tell its sides and type"):
        listVolumes(tmp_path)
    (tmp_path / "a.raw").rename(tmp_path / "a.zraw")
    with pytest.raises(PipelineError, match="a.zraw: is no .*; move it out of the folder"):
        listVolumes(tmp_path)


def testAnyFormatOfItkGivesTheSameSubVolumes(tmp_path):
    sitk = pytest.importorskip("SimpleITK")

    def writerOf(ending):
        return lambda path, array: sitk.WriteImage(
            sitk.GetImageFromArray(array.T), str(path.with_suffix(ending)), ending == ".mhd"
        )

    expected = prepare(tmp_path / "nrrd", WRITERS[:1])
    writers = [writerOf(ending) for ending in (".mhd", ".nii.gz", ".mha", ".nii")]
    assert prepare(tmp_path / "itk", writers) == expected


def writeNames(folder, images, masks):
    for kind, names in (("images", images), ("masks", masks)):
        (folder / kind).mkdir()
        for name in names:
            writeVolume(folder / kind / name, np.zeros((3, 4, 5), np.uint8), {})


@pytest.mark.parametrize(
    ("images", "masks", "expected"),
    [
        ("data_1 s_box1_x0_y8_z9", "s_box1_x0_y8_z9 segm_1", "segm_1 s_box1_x0_y8_z9"),
        ("data_1 s_box1_x0_y8_z9", "s_box1_x0_y8_z9.seg segm_1", "segm_1 s_box1_x0_y8_z9.seg"),
        ("s_box1_x0_y8_z9 s_box2_x9_y8_z7", "a_1 s_box2_x9_y8_z7", "a_1 s_box2_x9_y8_z7"),
        ("b c", "a b", "a b"),  # as published
        ("data_1 data_2", "segm_1 segm_2", "segm_1 segm_2"),
    ],
)
def testSuggestedBoxesArePairedByNameTheOthersBySortedOrder(tmp_path, images, masks, expected):
    names = [[f"{name}.nrrd" for name in text.split()] for text in (images, masks, expected)]
    writeNames(tmp_path, *names[:2])
    pairs = listPairs(tmp_path / "images", tmp_path / "masks")
    assert [image.name for image, _ in pairs] == names[0]
    assert [mask.name for _, mask in pairs] == names[2]
    assert doubtNames(pairs) == []
