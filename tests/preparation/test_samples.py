"""Sub-volumes on the disk: what may be learnt, pieces of it, and how they get there."""

import networks
import numpy as np
import pytest
from places import listNames

from engine.base.errors import PipelineError
from engine.preparation.samples import Samples, openSamples, writeArraysAtomically


def writeSamples(folder, images, masks, part="training"):
    """Write what prepareData.py would."""
    np.save(folder / f"{part}DataImage.npy", images)
    np.save(folder / f"{part}DataMask.npy", masks)
    return folder / f"{part}DataImage.npy", folder / f"{part}DataMask.npy"


@pytest.fixture(params=["C", "F"])
def samples(tmp_path, request):
    """Three sub-volumes in either order of an .npy file, the second one without a positive voxel."""
    generator = np.random.default_rng(4)
    images = generator.normal(size=(3, 8, 16, 24, 1)).astype(np.float32)
    masks = generator.random((3, 8, 16, 24, 1)) < 0.05
    masks[1] = False
    masks[2, :3] = False
    arrays = (np.asarray(array, order=request.param) for array in (images, masks))
    return Samples(*writeSamples(tmp_path, *arrays))


def testPiecesAreThoseOfTheFile(samples):
    images, masks = np.load(samples.images), np.load(samples.masks)
    place = slice(1, 5), slice(3, 11), slice(0, 24)
    for index in range(3):
        image, mask = samples.read(index, place)
        np.testing.assert_array_equal(image, images[index, *place, 0])
        np.testing.assert_array_equal(mask, masks[index, *place, 0])
        assert (image.dtype, mask.dtype) == (np.float32, bool)
        image += 1  # a copy
    np.testing.assert_array_equal(np.load(samples.images), images)


def testEveryPositiveVoxelIsFoundOnceByItsRank(samples):
    masks = np.load(samples.masks)[..., 0]
    np.testing.assert_array_equal(samples.positives, masks.sum(axis=(2, 3)))
    for index in (0, 2):
        found = [samples.positiveVoxel(index, rank) for rank in range(samples.positives[index].sum())]
        np.testing.assert_array_equal(found, np.argwhere(masks[index]))


@pytest.mark.skipif(not networks.HAS_SMAPS, reason="the operating system does not tell what is mapped")
def testFilesAreNotMappedBetweenReads(samples):
    piece = samples.read(0)
    assert not networks.isMapped(samples.images) and not networks.isMapped(samples.masks)
    assert piece[0].base is None or not isinstance(piece[0].base, np.memmap)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"masks": np.zeros((1, 8, 8, 8, 1), bool)}, "images and masks differ in shape"),
        ({"images": np.zeros((2, 8, 8, 8, 1))}, "another type.*float64"),
        ({"masks": np.zeros((2, 8, 8, 8, 1), np.uint8)}, "another type.*uint8"),
        ({"images": np.array([{}], object)}, "no readable .npy file"),
        (
            {"images": np.zeros((1, 8, 8), np.float32), "masks": np.zeros((1, 8, 8), bool)},
            "no set of sub-volumes",
        ),
        (
            {"images": np.zeros((1, 8, 12, 8, 1), np.float32), "masks": np.zeros((1, 8, 12, 8, 1), bool)},
            "halves every side 3 times.*multiples of 8.*12",
        ),
    ],
)
def testSamplesThatCannotBeLearntAreRefused(tmp_path, changes, text):
    arrays = {"images": np.zeros((2, 8, 8, 8, 1), np.float32), "masks": np.zeros((2, 8, 8, 8, 1), bool)}
    writeSamples(tmp_path, **arrays | changes)
    with pytest.raises(PipelineError, match=text):
        openSamples(tmp_path, "training", 8)


def testMissingSamplesNameTheScriptThatWritesThem(tmp_path):
    with pytest.raises(PipelineError, match=r"trainingDataImage\.npy: no such file; run prepareData\.py"):
        openSamples(tmp_path, "training", 8)


def testArraysAreFilledSampleBySample(tmp_path):
    samples = np.random.default_rng(0).random((3, 4, 5, 6, 1)).astype(np.float32)
    arrays = {tmp_path / "a.npy": (samples.shape, "float32"), tmp_path / "b.npy": (samples.shape, "bool")}
    with writeArraysAtomically(arrays, tmp_path / "marker") as writers:
        for index, sample in enumerate(samples):
            writers[tmp_path / "a.npy"].write(index, sample)
            writers[tmp_path / "b.npy"].write(index, sample > 0.5)
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), samples)
    np.testing.assert_array_equal(np.load(tmp_path / "b.npy"), samples > 0.5)
    assert listNames(tmp_path) == ["a.npy", "b.npy"]


def testInterruptedArraysKeepTheOldSetWithItsMarker(tmp_path):
    for name in ("a.npy", "b.npy", "marker"):
        (tmp_path / name).write_text("old")
    arrays = {tmp_path / name: ((2, 3), "bool") for name in ("a.npy", "b.npy")}
    with pytest.raises(KeyboardInterrupt), writeArraysAtomically(arrays, tmp_path / "marker"):
        raise KeyboardInterrupt
    assert [(tmp_path / name).read_text() for name in listNames(tmp_path)] == ["old"] * 3


def testNewArraysTakeTheMarkerOfTheOldSetAway(tmp_path):
    (tmp_path / "marker").write_text("old")
    with writeArraysAtomically({tmp_path / "a.npy": ((2, 3), "bool")}, tmp_path / "marker"):
        assert (tmp_path / "marker").exists()
    assert listNames(tmp_path) == ["a.npy"]
