"""Volumes, normalisation, sub-volumes, rotations and scores against plain NumPy."""

import nrrd
import numpy as np
import pytest
from sampleVolumes import TYPES, randomVolume

import functions
from engine.base.errors import PipelineError
from functions import (
    ROTATION_AXES,
    Drawing,
    chooseSubVolumeSide,
    cutSubVolumes,
    drawBatch,
    parseLabels,
    placePatch,
    placeSubVolumes,
    prep_img,
    quarterTurns,
    readDataImage,
    readDataMask,
    readDataToPredict,
    rotateSubVolume,
    scoreVoxels,
    selectPositive,
    spread,
    turnPatch,
    varyGrey,
)

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


@pytest.mark.parametrize("text", ["", "a,", "1,", "0.5"])
def testOtherLabelsAreRefused(text):
    with pytest.raises(PipelineError, match="positiveLabel cannot be read"):
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


# ---------------------------------------------------------------------------------------------- normalisation


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


@pytest.mark.parametrize(
    ("voxel", "turns"),
    [
        ((4, 4, 50), (1, 2, 2)),
        ((50, 4, 4), (2, 1, 2)),
        ((4, 50, 4), (2, 2, 1)),
        ((0.65, 0.65, 0.68), (1, 1, 1)),
        ((0.65, 0.65, 0.69), (1, 2, 2)),
        ((1, 1.04, 1.08), (1, 1, 2)),
    ],
)
def testThickSlicesAreTurnedBy180DegreesRatherThanLaidOnTheirSide(voxel, turns):
    cube = randomVolume("float32", shape=(8, 8, 8))
    for axes, count in zip(ROTATION_AXES, turns, strict=True):
        assert quarterTurns(cube.shape, axes, voxel) == count
        np.testing.assert_array_equal(rotateSubVolume(cube, axes, voxel), np.rot90(cube, count, axes))


# ------------------------------------------------------------------------------------------------- patches


class FakeSamples:
    """Sub-volumes in memory."""

    labels = None  # all are labelled

    def __init__(self, masks):
        self.masks, self.count, self.sides = masks, len(masks), masks.shape[1:]
        self.positives = masks.sum(axis=(2, 3))

    def positiveVoxel(self, index, rank):
        return np.argwhere(self.masks[index])[rank]

    def read(self, index, place):
        grey = np.arange(self.masks[index].size, dtype=np.float32).reshape(self.sides) + index / 4
        return grey[place].copy(), self.masks[index][place].copy()


@pytest.fixture
def samples():
    masks = np.zeros((4, 16, 24, 32), bool)
    masks[1, 3, 20, 30] = masks[1, 12, 8, 9] = masks[3, 0, 0, 0] = True
    return FakeSamples(masks)


DRAWING = Drawing(5, 2, 0, 0, 0.0, False, 0.0, 0.0, 0.0)


def testPatchesAroundPositiveVoxelsContainThemNearTheMiddle(samples):
    generator = np.random.default_rng(0)
    seen, middles = set(), []
    for _ in range(300):
        index, place = placePatch(generator, samples, (8, 8, 8), True)
        assert [piece.stop - piece.start for piece in place] == [8, 8, 8]
        inside = np.argwhere(samples.masks[index][place]).tolist()
        assert inside
        seen.add(index)
        if index == 1 and len(inside) == 1 and inside[0][0] + place[0].start == 12:
            middles.append(inside[0][1:])  # along y and z it is far from the edge
    assert seen == {1, 3}
    middles = np.array(middles)
    assert middles.min() == 2 and middles.max() == 5  # the middle half of 8 voxels
    assert all(len(set(column)) == 4 for column in middles.T)


def testEveryPositiveVoxelIsEquallyLikely(samples):
    generator = np.random.default_rng(1)
    counts = np.bincount(
        [placePatch(generator, samples, (8, 8, 8), True)[0] for _ in range(900)], minlength=4
    )
    assert abs(counts[1] - 600) < 60 and abs(counts[3] - 300) < 60


def testOtherPatchesLieAnywhere(samples):
    generator = np.random.default_rng(2)
    places = [placePatch(generator, samples, (8, 16, 32), False) for _ in range(400)]
    assert {index for index, _ in places} == {0, 1, 2, 3}
    starts = np.array([[piece.start for piece in place] for _, place in places])
    assert starts.min(axis=0).tolist() == [0, 0, 0] and starts.max(axis=0).tolist() == [8, 8, 0]
    empty = FakeSamples(np.zeros((2, 8, 8, 8), bool))
    assert placePatch(generator, empty, (8, 8, 8), True)[1] == (slice(0, 8),) * 3
    assert placePatch(generator, samples, (8, 8, 8), True, 0)[0] == 0  # a sub-volume without positive voxels


def testTurnsAreAllTheSymmetriesThatKeepTheShapeAndMoveBothAlike():
    generator = np.random.default_rng(3)
    for shape, count in (((4, 4, 4), 48), ((4, 4, 6), 16), ((2, 4, 6), 8)):
        image = np.arange(np.prod(shape)).reshape(shape)
        seen = set()
        for _ in range(1000):
            turned, mask = turnPatch(generator, image, image % 3 == 0)
            assert turned.shape == shape
            np.testing.assert_array_equal(mask, turned % 3 == 0)
            seen.add(turned.tobytes())
        assert len(seen) == count


@pytest.mark.parametrize(
    ("voxels", "count"),
    [
        ([(4.0, 4.0, 50.0)], 16),
        ([(50.0, 4.0, 4.0)], 16),
        ([(1.0, 2.0, 4.0)], 8),
        ([(0.65, 0.65, 0.68)], 48),
        ([(0.65, 0.65, 0.69)], 16),
        ([(1.0, 1.04, 1.08)], 24),
        ([(1.0, 1.0, 1.0), (4.0, 4.0, 50.0)], 16),
        ([(1.0, 1.0, 3.0), (3.0, 1.0, 1.0)], 8),
        ([], 48),
    ],
)
def testTurnsExchangeNoAxesAlongWhichVoxelsDiffer(voxels, count):
    image, seen = np.arange(64).reshape(4, 4, 4), set()
    for seed in range(1000):
        (turned,) = turnPatch(np.random.default_rng(seed), image, voxels=voxels)
        steps = np.abs([turned[1, 0, 0], turned[0, 1, 0], turned[0, 0, 1]] - turned[0, 0, 0])
        for voxel in voxels:  # the step along an axis of the array tells which one of the image it was
            old = [voxel[{16: 0, 4: 1, 1: 2}[step]] for step in steps.tolist()]
            assert np.allclose(old, voxel, rtol=0.05)
        seen.add(turned.tobytes())
    assert len(seen) == count


def testBatchesAreTurnedAsTheVoxelsOfTheirVolumesAllow():
    samples = FakeSamples(np.zeros((2, 8, 8, 8), bool))
    thick = DRAWING._replace(turns=True, batchSize=2, stepsPerEpoch=40, voxels=((4.0, 4.0, 50.0),))

    def stepsAlongZ(drawing):
        batches = [drawBatch(samples, drawing, 0, step) for step in range(40)]
        return {abs(float(image[0, 0, 1] - image[0, 0, 0])) for batch in batches for image, _ in batch}

    assert stepsAlongZ(thick) == {1}
    assert stepsAlongZ(thick._replace(voxels=((1.0, 1.0, 1.0),))) == {1, 8, 64}


def testGreyValuesVaryAsAsked():
    generator = np.random.default_rng(4)
    image = np.zeros((8, 8, 8), np.float32)
    assert varyGrey(generator, image, 0, 0, 0) is image
    image[0] = 1
    varied = [varyGrey(generator, image, 0.2, 0.1, 0.0) for _ in range(2000)]
    offsets = [float(array[1, 0, 0]) for array in varied]
    factors = np.log([float(array[0, 0, 0] - array[1, 0, 0]) for array in varied])
    assert abs(np.std(offsets) - 0.1) < 0.01 and abs(np.mean(offsets)) < 0.01
    assert abs(np.std(factors) - 0.2) < 0.02 and abs(np.mean(factors)) < 0.02
    noises = [varyGrey(generator, image, 0, 0, 0.5)[1:] for _ in range(200)]
    deviations = [noise.std() for noise in noises]
    assert 0.4 < max(deviations) < 0.56 and min(deviations) < 0.05
    assert max(abs(noise.mean()) for noise in noises) < 0.1
    assert varied[0].dtype == np.float32 and image[0, 0, 0] == 1


def testAnEpochOfSubVolumesTakesEachOnceInANewOrder(samples):
    orders = []
    for epoch in range(6):
        pairs = [pair for step in range(2) for pair in drawBatch(samples, DRAWING, epoch, step)]
        orders.append([round(float(image[0, 0, 0] * 4)) for image, _ in pairs])
        for number, (_, mask) in zip(orders[-1], pairs, strict=True):
            np.testing.assert_array_equal(mask, samples.masks[number])
    assert all(sorted(order) == [0, 1, 2, 3] for order in orders)
    assert len({tuple(order) for order in orders}) > 2
    drawing = DRAWING._replace(batchSize=3)
    assert [len(drawBatch(samples, drawing, 0, step)) for step in (0, 1)] == [3, 1]


def testASmallerLastBatchIsFilledUpForSeveralDevices(samples):
    samples = FakeSamples(np.zeros((5, 8, 8, 8), bool))
    drawing = DRAWING._replace(batchSize=4)

    def numbers(step, deviceCount):
        pairs = drawBatch(samples, drawing, 0, step, deviceCount)
        return [round(float(image[0, 0, 0] * 4)) for image, _ in pairs]

    assert numbers(0, 2) == numbers(0, 1) and len(numbers(1, 1)) == 1
    assert numbers(1, 2) == numbers(1, 1) + numbers(0, 1)[:1]
    assert numbers(1, 4) == numbers(1, 1) + numbers(0, 1)[:3]


def testAStepFollowsFromSeedEpochAndStepAlone(samples):
    drawing = DRAWING._replace(stepsPerEpoch=9, patchSide=8, positiveShare=0.5, turns=True, greyNoise=0.1)

    def draw(drawing, *numbers):
        return b"".join(array.tobytes() for pair in drawBatch(samples, drawing, *numbers) for array in pair)

    first = draw(drawing, 2, 7)
    np.random.seed(0)  # noqa: NPY002
    assert draw(drawing, 2, 7) == first
    others = [draw(drawing, 2, 6), draw(drawing, 1, 7), draw(drawing._replace(seed=6), 2, 7)]
    assert first not in others


@pytest.mark.parametrize(("share", "count"), [(0.5, 2), (0.5, 3), (0.0, 4), (1.0, 4), (0.3, 10), (0.25, 1)])
def testPositiveShareIsKeptAsWellAsWholeNumbersAllow(share, count):
    generator = np.random.default_rng(0)
    chosen = np.array([spread(share, count, generator) for _ in range(2000)])
    assert set(chosen.sum(axis=1)) <= {int(np.floor(share * count)), int(np.ceil(share * count))}
    assert np.abs(chosen.mean(axis=0) - share).max() < 0.05


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
