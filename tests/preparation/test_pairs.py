"""Pairs of images and masks in the formats that people mix."""

import json
import shutil

import numpy as np
import pytest
import tifffile
from sampleVolumes import writeVolume

import prepareData
from engine.base.errors import PipelineError
from engine.preparation.pairs import doubtNames, listPairs, listVolumes

GREY = {"photometric": "minisblack"}


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
