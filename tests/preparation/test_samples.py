"""Sub-volumes on the disk: what may be learnt, pieces of it, and how they get there."""

import networks
import numpy as np
import pytest
from places import listNames

from engine.base.errors import PipelineError
from engine.base.records import writeJson
from engine.preparation.samples import UNLABELLED, Samples, openSamples
from engine.preparation.writing import writeArraysAtomically


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


@pytest.mark.parametrize("order", ["C", "F"])
def testUnlabelledVoxelsAreMinusOneAndNotCounted(tmp_path, order):
    generator = np.random.default_rng(5)
    masks, labelled = (generator.random((2, 8, 16, 24, 1)) < share for share in (0.3, 0.1))
    labelled[1, :, :3] = False
    images = generator.normal(size=masks.shape).astype(np.float32)
    paths = writeSamples(tmp_path, *(np.asarray(array, order=order) for array in (images, masks)))
    np.save(tmp_path / "trainingDataLabelled.npy", np.asarray(labelled, order=order))
    samples = openSamples(tmp_path, "training", 8)
    assert samples.files == (*paths, tmp_path / "trainingDataLabelled.npy")
    assert samples.labelledCount == labelled.sum()
    np.testing.assert_array_equal(samples.positives, (masks & labelled).sum(axis=(2, 3, 4)))
    np.testing.assert_array_equal(samples.labels, labelled.sum(axis=(2, 3, 4)))
    place = slice(2, 7), slice(0, 9), slice(3, 24)
    for index in range(2):
        image, truth = samples.read(index, place)
        known = labelled[index, *place, 0]
        assert truth.dtype == np.int8 and set(np.unique(truth)) == {UNLABELLED, 0, 1} and UNLABELLED == -1
        np.testing.assert_array_equal(image, images[index, *place, 0])
        np.testing.assert_array_equal(truth, np.where(known, masks[index, *place, 0].astype(int), -1))
        for find, expected in (
            (samples.labelledVoxel, labelled[index, ..., 0]),
            (samples.positiveVoxel, (masks & labelled)[index, ..., 0]),
        ):
            found = [find(index, rank) for rank in range(expected.sum())]
            np.testing.assert_array_equal(found, np.argwhere(expected))


@pytest.mark.parametrize(
    ("labelled", "text"),
    [
        (
            np.ones((2, 8, 8, 8), bool),
            r"Labelled\.npy: does not fit to the masks \(expected .*bool, received",
        ),
        (np.ones((2, 8, 8, 8, 1), np.uint8), "does not fit to the masks.*uint8"),
        (np.zeros((2, 8, 8, 8, 1), bool), r"Labelled\.npy: nothing labelled"),
        (np.array([{}], object), r"Labelled\.npy: is no readable \.npy file"),
    ],
)
def testLabelsThatDoNotFitAreRefused(tmp_path, labelled, text):
    writeSamples(tmp_path, np.zeros((2, 8, 8, 8, 1), np.float32), np.zeros((2, 8, 8, 8, 1), bool))
    np.save(tmp_path / "trainingDataLabelled.npy", labelled)
    with pytest.raises(PipelineError, match=text):
        openSamples(tmp_path, "training", 8)


@pytest.mark.parametrize("isTold", [False, True])
@pytest.mark.parametrize("isThere", [False, True])
def testLabelsAreThoseThatTheRecordTellsOf(tmp_path, isTold, isThere):
    shape = (2, 8, 8, 8, 1)
    writeSamples(tmp_path, np.zeros(shape, np.float32), np.zeros(shape, bool))
    if isThere:
        np.save(tmp_path / "trainingDataLabelled.npy", np.ones(shape, bool))
    writeJson(tmp_path / "parameters.json", {"outputs": {"trainingDataLabelled.npy": {}} if isTold else {}})
    if isTold is isThere:
        assert (openSamples(tmp_path, "training", 8).labelled is not None) is isTold
        return
    words = "no such file, and not all voxels are labelled" if isTold else "is of an earlier preparation"
    with pytest.raises(PipelineError, match=rf"trainingDataLabelled\.npy: {words}"):
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
    (tmp_path / "b.npy").write_text("old")
    arrays, outdated = {tmp_path / "a.npy": ((2, 3), "bool")}, [tmp_path / "b.npy", tmp_path / "c.npy"]
    with writeArraysAtomically(arrays, tmp_path / "marker", outdated):
        assert (tmp_path / "marker").exists() and (tmp_path / "b.npy").exists()
    assert listNames(tmp_path) == ["a.npy"]
