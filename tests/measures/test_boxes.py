"""Boxes that teach most, against plain loops over all voxels; where they lie, and what memory they take."""

import itertools
import math

import numpy as np
import pytest

from engine.base.squares import FEATURES
from engine.measures.boxes import (
    MOST_CELLS,
    SIDE,
    SUMS,
    Candidates,
    Cells,
    Grid,
    chooseBoxes,
    measureUncertainty,
)
from engine.volumes.scale import Scale

SHAPE = (210, 150, 90)  # x, y, z
SCALE = Scale(1000.0, 50.0)


def makeScan(seed=0, shape=SHAPE):
    """White noise around the mean, and probabilities near 0: (x, y, z)."""
    generator = np.random.default_rng(seed)
    grey = generator.normal(1000, 50, shape).astype(np.float32)
    return grey, generator.uniform(0, 0.001, shape).astype(np.float32)


def addSpot(array, centre, value, radius=6):
    place = np.indices(array.shape)
    array[sum((one - at) ** 2 for one, at in zip(place, centre, strict=True)) < radius**2] = value


def sumCells(grey, probability, threshold=0.5, scale=SCALE, slab=7, cuts=()):
    """Sum slab by slab, in ranges that are joined."""
    grid = Grid.of(grey.shape)
    ends = [0, *cuts, grey.shape[2]]
    whole = Cells(grid, threshold, scale, 0, grey.shape[2])
    for first, last in itertools.pairwise(ends):
        cells = Cells(grid, threshold, scale, first, last)
        for z in range(first, last, slab):
            planes = slice(z, min(z + slab, last))
            cells.add(z, probability[:, :, planes].T, grey[:, :, planes].T)
        whole.join(cells)
    return grid, whole.sums


def cut(array, box):
    return array[tuple(slice(*part) for part in box)]


def holds(box, place):
    return all(first <= at < last for (first, last), at in zip(box, place, strict=True))


def overlap(one, other):
    return all(a < d and c < b for (a, b), (c, d) in zip(one, other, strict=True))


# ------------------------------------------------------------------------------------------------------ cells


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.9])
def testUncertaintyIsOneAtTheThresholdAndZeroAtTheEnds(threshold):
    values = np.array([0, threshold / 2, threshold, (1 + threshold) / 2, 1])
    np.testing.assert_allclose(measureUncertainty(values, threshold), [0, 0.5, 1, 0.5, 0], atol=1e-12)


@pytest.mark.parametrize("threshold", [0.0, 1.0])
def testUncertaintyIsANumberAtTheEndsToo(threshold):
    found = measureUncertainty(np.linspace(0, 1, 11, dtype=np.float32), threshold)
    assert np.isfinite(found).all() and found.min() >= 0 and found.max() <= 1


@pytest.mark.parametrize("cuts", [(), (32,), (16, 40, 72)])
def testSumsAreThoseOfAllVoxelsOfACell(cuts):
    grey, probability = makeScan(1, (37, 26, 90))
    probability[5:20, 3:9, 30:60] = 0.4
    grey[30:, 20:, 70:] = -7  # no data
    scale = SCALE._replace(noData=-7.0, fill=1000.0)
    grid, sums = sumCells(grey, probability, 0.3, scale, cuts=cuts)
    assert grid.cell == (8, 8, 8) and sums.shape == (5, 12, 4, 5)
    isData, scored = grey != -7, (grey.astype(np.float64) - 1000) / 50
    values = isData, measureUncertainty(probability, 0.3), probability, scored, scored**2
    for x, y, z in ((0, 0, 0), (2, 1, 5), (4, 3, 11), (3, 2, 8)):
        place = np.s_[8 * x : 8 * x + 8, 8 * y : 8 * y + 8, 8 * z : 8 * z + 8]
        expected = [np.sum(value[place] * isData[place], dtype=np.float64) for value in values]
        np.testing.assert_allclose(sums[:, z, y, x], expected, rtol=1e-5, atol=1e-9)


def testRangesGiveTheSameBits():
    grey, probability = makeScan(2, (40, 32, 90))
    _, whole = sumCells(grey, probability, slab=8)
    _, parts = sumCells(grey, probability, slab=8, cuts=(16, 56))
    np.testing.assert_array_equal(whole, parts)


def testHotVoxelsCountAsTheEndsOfTheOthers():
    grey, probability = makeScan(3, (16, 16, 16))
    grey[3, 4, 5] = 1e6
    _, sums = sumCells(grey, probability, scale=SCALE._replace(fences=(0.0, 2000.0), ends=(900.0, 1100.0)))
    assert sums[SUMS.index("square")].max() < 8**3 * 2


@pytest.mark.parametrize(
    "shape", [(512,) * 3, (1000, 1100, 1200), (2048,) * 3, (8192,) * 3, (60000, 4000, 24), (20, 30, 4000)]
)
def testCellsAreFewWhateverTheVolume(shape):
    grid = Grid.of(shape)
    isCoarsest = all(box % (2 * cell) for box, cell in zip(grid.box, grid.cell, strict=True))
    assert math.prod(grid.counts) <= MOST_CELLS or isCoarsest
    assert math.prod(grid.counts) <= 8 * MOST_CELLS
    for side, box, cell in zip(shape, grid.box, grid.cell, strict=True):
        assert box == min(64, side // 8 * 8) and box % cell == 0 and cell % 8 == 0


# ------------------------------------------------------------------------------------------------------ boxes


def testSumsOverBoxesAreThoseOfTheirVoxels():
    grey, probability = makeScan(4, (90, 75, 70))
    probability[20:60, 30:70, 10:50] = 0.3
    grid, sums = sumCells(grey, probability)
    candidates = Candidates(grid, sums)
    assert len(candidates.weight) == 4 * 2 * 1  # first voxels 0 to 24, 0 to 8, 0
    for number in range(8):
        box = candidates.boxOf(number)
        values = cut((grey.astype(np.float64) - 1000) / 50, box)
        expected = [values.mean(), values.std(), cut(probability, box).mean()]
        np.testing.assert_allclose(candidates.features[number], expected, rtol=1e-4)
        uncertainty = cut(measureUncertainty(probability, 0.5), box)
        assert candidates.uncertainty[number] == pytest.approx(uncertainty.mean(), rel=1e-5)
        middle = uncertainty[16:48, 16:48, 16:48].sum()
        weight = (uncertainty.sum() + middle) / uncertainty.size
        assert candidates.weight[number] == pytest.approx(weight, rel=1e-5)
        assert candidates.dataShare[number] == 1
    np.testing.assert_allclose(candidates.describe(candidates.boxOf(3)), candidates.features[3], rtol=1e-9)
    assert candidates.describe(((200, 264), (0, 64), (0, 64))) is None


def testOverlapIsOfVoxels():
    grid, sums = sumCells(*makeScan(5, (90, 75, 70)))
    candidates = Candidates(grid, sums)
    for given in (((64, 90), (0, 75), (0, 70)), ((80, 88), (72, 75), (69, 70)), ((0, 8), (0, 8), (0, 8))):
        expected = [overlap(candidates.boxOf(number), given) for number in range(8)]
        np.testing.assert_array_equal(candidates.overlaps(given), expected)


def testUncertainSpotsAreChosenBeforeOneThatIsLikeThem():
    grey, probability = makeScan()
    spots = {"first": (40, 40, 45), "twin": (100, 105, 40), "other": (170, 50, 45)}
    addSpot(probability, spots["first"], 0.5, 12)
    addSpot(probability, spots["twin"], 0.5, 11.8)
    addSpot(probability, spots["other"], 0.5, 9)
    addSpot(grey, spots["other"], 400, 14)  # another kind of place
    grid, sums = sumCells(grey, probability)
    chosen = chooseBoxes(grid, sums, 2)
    assert holds(chosen[0].box, spots["first"]) and holds(chosen[1].box, spots["other"])
    assert chosen[0].unlikeness == 1 and 0 < chosen[1].unlikeness < 1
    assert chosen[0].uncertainty > chosen[1].uncertainty > 0 and chosen[0].score > chosen[1].score
    again = chooseBoxes(grid, sums, 2)
    assert again == chosen
    labelled = chooseBoxes(grid, sums, 1, [chosen[0].box])
    assert labelled[0].box == chosen[1].box
    for (first, last), side in zip(chosen[0].box, SHAPE, strict=True):
        assert 0 <= first < last <= side and last - first == SIDE
    for (first, last), at in zip(chosen[0].box, spots["first"], strict=True):
        assert first + 8 <= at < last - 8  # not in a corner


def testWhatTheTrainingHasSeenCountsLess():
    grey, probability = makeScan(6, (140, 70, 70))
    grey[70:] += 200
    for x in (32, 106):
        addSpot(probability, (x, 32, 32), 0.5)
    grid, sums = sumCells(grey, probability)
    learnt = {"features": list(FEATURES)}
    noise = np.array([-1.645, -0.674, 0, 0.674, 1.645, 1.0])
    for shift, place in ((0.0, 106), (4.0, 32)):  # deviations
        squares = [(noise + np.array([shift] * 5 + [0])).tolist()]
        (chosen,) = chooseBoxes(grid, sums, 1, learnt=learnt | {"squares": squares})
        assert holds(chosen.box, (place, 32, 32))
    (chosen,) = chooseBoxes(grid, sums, 1, learnt={"features": ["others"], "squares": squares})
    assert chosen.unlikeness == 1


def testBoxesDoNotOverlapAndAreAsManyAsFit():
    grey, probability = makeScan(7)
    grid, sums = sumCells(grey, probability)
    labelled = [((3, 67), (5, 69), (1, 65))]
    chosen = chooseBoxes(grid, sums, 100, labelled)
    boxes = [choice.box for choice in chosen] + labelled
    assert not any(overlap(*pair) for pair in itertools.combinations(boxes, 2))
    candidates = Candidates(grid, sums)
    isFree = ~np.any([candidates.overlaps(box) for box in boxes], axis=0)
    assert len(chosen) >= 2 and not isFree.any()
    assert chooseBoxes(grid, sums, 0) == []
    everywhere = chooseBoxes(grid, sums, 100)
    assert len(everywhere) == 3 * 2 * 1  # all that fill the volume
    assert [len(chooseBoxes(grid, sums, count)) for count in (1, 2, 5, 6)] == [1, 2, 5, 6]


def testBoxesHoldDataForTheMostPart():
    grey, probability = makeScan(8, (200, 70, 70))
    grey[:100] = np.nan
    probability[:100] = 0  # as predicted there
    addSpot(probability, (110, 32, 32), 0.5)
    grid, sums = sumCells(grey, probability, scale=SCALE._replace(noData=float("nan"), fill=1000.0))
    assert np.isfinite(sums).all()
    chosen = chooseBoxes(grid, sums, 5)
    assert chosen and all(np.isfinite(cut(grey, choice.box)).mean() >= 0.5 for choice in chosen)
    assert holds(chosen[0].box, (110, 32, 32))
    empty = sums * 0
    assert chooseBoxes(grid, empty, 5) == []


def testABoxIsAsThinAsItsVolume():
    grid, sums = sumCells(*makeScan(9, (300, 70, 29)))
    chosen = chooseBoxes(grid, sums, 9)
    sides = {tuple(last - first for first, last in choice.box) for choice in chosen}
    assert sides == {(64, 64, 24)} and len(chosen) >= 3
