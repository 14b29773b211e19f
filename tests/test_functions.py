"""Volumes, normalisation, sub-volumes, rotations and scores against plain NumPy."""

import nrrd
import numpy as np
import pytest

import functions
from engine.errors import PipelineError
from functions import (
    ROTATION_AXES,
    chooseSubVolumeSide,
    copyInOrder,
    cutSubVolumes,
    describeUNet,
    measureMoments,
    parseLabels,
    placeSubVolumes,
    prep_img,
    readDataImage,
    readDataMask,
    readDataToPredict,
    readLearningData,
    refuseNonFinite,
    rotateSubVolume,
    scoreVoxels,
    selectPositive,
)

TYPES = ("uint8", "int16", "uint16", "int32", "uint64", "float32", "float64", ">u2", ">f4")


def randomVolume(dtype: str, order: str = "F", shape=(7, 10, 13), seed=0) -> np.ndarray:
    """Values far from zero with a small spread: the hard case for a standard deviation."""
    values = 200 + 20 * np.random.default_rng(seed).random(shape)
    return np.asarray(values, dtype=dtype, order=order)


# ---------------------------------------------------------------------------------------------------- volumes


def testImagesAndMasksAreReadInTheGivenOrderWithOrWithoutTrailingSlash(tmp_path):
    images = [randomVolume("uint16", seed=seed) for seed in (1, 2)]
    for name, image in zip(("b.nrrd", "a.nrrd"), images, strict=True):
        nrrd.write(str(tmp_path / name), image)
    for root in (f"{tmp_path}/", str(tmp_path), tmp_path):
        read = readDataImage(root, ["b.nrrd", "a.nrrd"])
        assert read.shape == (2, 7, 10, 13) and read.dtype == np.uint16
        np.testing.assert_array_equal(read, np.stack(images))


def testImagesOfDifferentShapeAreRefusedByName(tmp_path):
    nrrd.write(str(tmp_path / "a.nrrd"), randomVolume("uint8"))
    nrrd.write(str(tmp_path / "b.nrrd"), randomVolume("uint8", shape=(7, 10, 12)))
    with pytest.raises(PipelineError, match=r"b\.nrrd: has another shape than a\.nrrd .*13.*12"):
        readDataImage(tmp_path, ["a.nrrd", "b.nrrd"])


@pytest.mark.parametrize(("labels", "positive"), [((0,), [1, 0, 0, 0]), ((1, 255), [0, 1, 0, 1])])
def testMaskIsPositiveWhereTheLabelSaysSo(tmp_path, labels, positive):
    mask = np.array([0, 1, 2, 255], np.uint8).reshape(1, 2, 2)
    nrrd.write(str(tmp_path / "mask.nrrd"), mask)
    read = readDataMask(tmp_path, ["mask.nrrd"], labels)
    assert read.dtype == bool and read.shape == (1, 1, 2, 2)
    assert read.ravel().tolist() == [bool(value) for value in positive]


def testPublishedPositiveLabelIsZero():
    assert selectPositive(np.array([0, 255])).tolist() == [True, False]


@pytest.mark.parametrize(("text", "labels"), [("0", [0]), ("1, 2", [1, 2]), ([3], [3]), ("-1", [-1])])
def testLabelsAreParsed(text, labels):
    assert parseLabels(text) == labels


@pytest.mark.parametrize("text", ["", "a", "1,", "0.5"])
def testOtherLabelsAreRefused(text):
    with pytest.raises(PipelineError, match="positiveLabel must be whole numbers"):
        parseLabels(text)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", ">u2", "float32"])
def testRegionToPredictIsZScoredOverTheRegionAlone(tmp_path, dtype):
    image = randomVolume(dtype)
    image[0] = 90  # outside the region: must not count
    nrrd.write(str(tmp_path / "image.nrrd"), image)
    read = readDataToPredict(tmp_path / "image.nrrd", 1, 6, 2, None, None, 9)
    region = image[1:6, 2:, :9].astype(np.float64)
    assert read.shape == (1, 5, 8, 9, 1) and read.dtype == np.float32
    np.testing.assert_allclose(read[0, ..., 0], (region - region.mean()) / region.std(), atol=2e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def testVoxelsThatAreNoNumbersAreCountedByFile(value):
    image = randomVolume("float32")
    refuseNonFinite(image, "scan.nrrd")
    image[1, 2, 3:6] = value
    with pytest.raises(PipelineError, match=r"scan\.nrrd: 3 voxels are NaN or infinite"):
        refuseNonFinite(image, "scan.nrrd")


# ---------------------------------------------------------------------------------------------- normalisation


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("order", ["F", "C"])
def testMomentsEqualThoseOfNumpyInFloat64(dtype, order):
    image = randomVolume(dtype, order)
    mean, std = measureMoments(image)
    assert mean == pytest.approx(image.astype(np.float64).mean(), rel=1e-12)
    assert std == pytest.approx(image.astype(np.float64).std(), rel=1e-12)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("order", ["F", "C"])
def testNormalisationIsTheZScore(dtype, order):
    image = randomVolume(dtype, order)[::2, 1:]  # a view with gaps
    exact = image.astype(np.float64)
    normalised = prep_img(image)
    assert normalised.dtype == np.float32 and normalised.flags.c_contiguous
    np.testing.assert_allclose(normalised, (exact - exact.mean()) / exact.std(), atol=2e-6)


def testNormalisationTakesTheMomentsOfALargerVolume():
    image = randomVolume("uint16")
    np.testing.assert_allclose(prep_img(image, 100, 4), (image.astype(float) - 100) / 4, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["bool", "uint16", ">u2", "float64"])
def testCopyInOrderIsTheSameVolumeInCOrder(dtype):
    image = np.asfortranarray(np.random.default_rng(0).integers(0, 2, (9, 8, 7))).astype(dtype, order="F")[
        1:, ::2
    ]
    copy = copyInOrder(image)
    assert copy.flags.c_contiguous and copy.dtype == image.dtype
    np.testing.assert_array_equal(copy, image)


def testConstantVolumeBecomesZeros():
    assert not prep_img(np.full((3, 4, 5), 7, np.uint8)).any()


def testNormalisationLeavesItsInputAlone():
    image = randomVolume("float32")
    before = image.copy()
    prep_img(image)
    np.testing.assert_array_equal(image, before)


# ------------------------------------------------------------------------------------------------ sub-volumes


@pytest.mark.parametrize(
    ("sides", "length", "chosen"),
    [
        ([1024], 192, 192),
        ([144], 192, 144),
        ([150], 192, 144),
        ([256, 100], 192, 96),
        ([25], 0, 24),
        ([128, 96], 0, 96),
        ([8], 192, 8),
    ],
)
def testSideOfSubVolumesIsTheWantedOneOrTheLargestMultipleOfEight(sides, length, chosen):
    assert chooseSubVolumeSide(sides, length) == chosen


@pytest.mark.parametrize(
    ("sides", "length", "text"),
    [([64], 20, "multiple of 8.*20"), ([64], -8, "multiple of 8"), ([7], 0, "at least 8.*7")],
)
def testSidesThatCannotBeHalvedAreRefused(sides, length, text):
    with pytest.raises(PipelineError, match=text):
        chooseSubVolumeSide(sides, length)


def testPublishedSliceGivesFiveSubVolumesASide():
    assert placeSubVolumes(1024, 192, 0) == [0, 192, 384, 576, 768]


@pytest.mark.parametrize(
    ("side", "length", "count", "cover", "starts"),
    [
        (1024, 192, 2, False, [0, 192]),
        (1024, 192, 0, True, [0, 192, 384, 576, 768, 832]),
        (960, 192, 0, True, [0, 192, 384, 576, 768]),
        (25, 24, 0, True, [0, 1]),
        (24, 24, 1, False, [0]),
    ],
)
def testSubVolumesArePlacedSideBySide(side, length, count, cover, starts):
    assert placeSubVolumes(side, length, count, cover) == starts


@pytest.mark.parametrize("count", [-1, 6])
def testMoreSubVolumesThanFitAreRefused(count):
    with pytest.raises(PipelineError, match="do not fit into 1024; at most 5 fit"):
        placeSubVolumes(1024, 192, count)


def testSubVolumesWithCoverContainEveryVoxelAndWithoutOverlapNoneTwice():
    shape, side = (24, 16, 8), (50, 33, 21)
    counts = {}
    for cover in (False, True):
        counts[cover] = np.zeros(side, int)
        starts = [placeSubVolumes(*pair, 0, cover) for pair in zip(side, shape, strict=True)]
        for place, axes in cutSubVolumes(starts, shape):
            assert axes is None
            counts[cover][place] += 1
    assert counts[True].min() == 1
    assert counts[False].max() == 1 and counts[False].sum() == 48 * 32 * 16


def testCopiesAreTurnedAboutThePublishedAxesInOrder():
    cut = list(cutSubVolumes([[0], [0, 8], [0]], (8, 8, 8), 4))
    assert [axes for _, axes in cut] == [None, *ROTATION_AXES] * 2
    assert ROTATION_AXES == ((0, 1), (1, 2), (0, 2))


@pytest.mark.parametrize("axes", ROTATION_AXES)
def testRotationOfEqualSidesIsAnExactQuarterTurn(axes):
    cube = randomVolume("float32", shape=(8, 8, 8))
    turned = rotateSubVolume(cube, axes)
    np.testing.assert_array_equal(turned, np.rot90(cube, 1, axes))
    assert not np.array_equal(turned, cube)


@pytest.mark.parametrize(("axes", "turns"), [((0, 1), 1), ((1, 2), 2), ((0, 2), 2)])
def testRotationKeepsTheShapeByTurningUnequalSidesBy180Degrees(axes, turns):
    box = randomVolume("float32", shape=(8, 8, 16))
    np.testing.assert_array_equal(rotateSubVolume(box, axes), np.rot90(box, turns, axes))
    assert rotateSubVolume(box, axes).shape == box.shape


# ---------------------------------------------------------------------------------------------- learning data


def writeLearningData(folder, **changes) -> None:
    """Two sub-volumes of 8 x 8 x 8 for training, with what `changes` replaces."""
    arrays = {
        "Image": np.zeros((2, 8, 8, 8, 1), np.float32),
        "Mask": np.zeros((2, 8, 8, 8, 1), bool),
    } | changes
    for kind, array in arrays.items():
        np.save(folder / f"trainingData{kind}.npy", array)


def testLearningDataStayOnTheDisk(tmp_path):
    writeLearningData(tmp_path)
    images, masks = readLearningData(tmp_path, "training", describeUNet())
    assert isinstance(images, np.memmap) and isinstance(masks, np.memmap)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"Mask": np.zeros((1, 8, 8, 8, 1), bool)}, "images and masks differ in shape"),
        ({"Image": np.zeros((2, 8, 8, 8, 1))}, "another type.*float64"),
        ({"Mask": np.zeros((2, 8, 8, 8, 1), np.uint8)}, "another type.*uint8"),
        ({"Image": np.array([{}], object)}, "no readable .npy file"),
        (
            {"Image": np.zeros((1, 8, 8), np.float32), "Mask": np.zeros((1, 8, 8), bool)},
            "no set of sub-volumes",
        ),
        (
            {"Image": np.zeros((1, 8, 12, 8, 1), np.float32), "Mask": np.zeros((1, 8, 12, 8, 1), bool)},
            "halves every side 3 times.*multiples of 8.*12",
        ),
    ],
)
def testLearningDataThatCannotBeLearntAreRefused(tmp_path, changes, text):
    writeLearningData(tmp_path, **changes)
    with pytest.raises(PipelineError, match=text):
        readLearningData(tmp_path, "training", describeUNet())


def testMissingLearningDataNameTheScriptThatWritesThem(tmp_path):
    with pytest.raises(PipelineError, match=r"trainingDataImage\.npy: no such file; run prepareData\.py"):
        readLearningData(tmp_path, "training", describeUNet())


@pytest.mark.parametrize("sizes", [{"base_depth": 0}, {"levelCount": 0}, {"levelCount": 9}])
def testNetworksWithoutWidthOrDepthAreRefused(sizes):
    with pytest.raises(PipelineError, match="base_depth >= 1 and 1 to 8 levels"):
        functions.buildSpotUNet(**sizes)


# ----------------------------------------------------------------------------------------------------- scores


@pytest.mark.parametrize("order", ["F", "C"])
def testScoresEqualTheirDefinitions(order):
    generator = np.random.default_rng(3)
    probability = np.asarray(generator.random((5, 6, 7)), order=order)
    reference = generator.random((5, 6, 7)) < 0.2
    scores = scoreVoxels(probability, reference, 0.4)
    positive = probability >= 0.4
    assert scores["tp"] == np.sum(positive & reference) and scores["tn"] == np.sum(~positive & ~reference)
    assert scores["precision"] == np.sum(positive & reference) / np.sum(positive)
    assert scores["recall"] == np.sum(positive & reference) / np.sum(reference)
    assert scores["dice"] == 2 * np.sum(positive & reference) / (np.sum(positive) + np.sum(reference))
    assert scores["iou"] == np.sum(positive & reference) / np.sum(positive | reference)


def testScoresWithoutAnyPositiveVoxelAreNotANumber():
    scores = scoreVoxels(np.zeros((2, 2, 2)), np.zeros((2, 2, 2), bool))
    assert np.isnan([scores[name] for name in ("precision", "recall", "dice", "iou")]).all()
    assert scores["tn"] == 8
