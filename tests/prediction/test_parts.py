"""Parts of a prediction: every voxel is of one, all are equally long, and the cut has the least work."""

import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.base.errors import PipelineError
from engine.prediction.layout import Geometry, Layout, chooseLayout, listTiles, tileSection
from engine.prediction.parts import (
    Part,
    chooseCount,
    costOfParts,
    cutParts,
    describeCut,
    measureTask,
    mostParts,
    partFactor,
)
from engine.prediction.tasks import Task, mergeTasks

CUBE = Geometry((2048, 2048, 2048), 16, 92)
ONE_TILE = Layout(16, 1, 1, 0.0)


@st.composite
def cuts(draw):
    cell = draw(st.sampled_from([1, 2, 8, 16]))
    sides = tuple(draw(st.integers(1, 300)) for _ in range(3))
    geometry = Geometry(sides, cell, cell * draw(st.integers(1, 6)))
    tiles = [draw(st.integers(1, max(side // cell, 1))) for side in geometry.shape[1:]]
    layout = Layout(draw(st.sampled_from([8, 16])), *tiles, 0.0)
    return geometry, layout, draw(st.integers(1, mostParts(geometry, layout)))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(cut=cuts())
def testEveryVoxelIsOfOnePart(cut):
    geometry, layout, count = cut
    parts = cutParts(geometry, layout, count)
    assert len(parts) == count and all(parts)
    depth, tasks = geometry.size[0], [task for part in parts for task in part]
    assert sum(last - first for _, (first, last) in tasks) == depth * len(listTiles(geometry, layout))
    assert mergeTasks(tasks) == [Task(tile, (0, depth)) for tile in range(len(listTiles(geometry, layout)))]
    assert all(0 <= first < last <= depth and first % geometry.cell == 0 for _, (first, last) in tasks)
    cells = [sum(-(-(last - first) // geometry.cell) for _, (first, last) in part) for part in parts]
    assert max(cells) - min(cells) <= 1


@pytest.mark.parametrize("text", ["32/32", "-1/4", "3/0", "4/3"])
def testPartsThatAreNotThereAreRefused(text):
    with pytest.raises(PipelineError, match="there is no such part"):
        Part.parse(text)


@pytest.mark.parametrize("text", ["3", "a/b", "1/", "/2", "1/2/3", "1.5/3", "1/-2"])
def testWordsThatAreNoPartAreRefused(text):
    with pytest.raises(PipelineError, match="part must be like 3/32"):
        Part.parse(text)


def testAPartIsReadAndWritten():
    assert Part.parse("3/32") == (3, 32) and str(Part(3, 32)) == "3/32"
    assert Part.parse("") is None


def testMorePartsThanTasksAreRefused():
    geometry = Geometry((40, 32, 32), 16, 92)
    assert mostParts(geometry, ONE_TILE) == 3
    with pytest.raises(PipelineError, match="more parts than tasks .*at most 3.*4"):
        cutParts(geometry, ONE_TILE, 4)


@pytest.mark.parametrize(("planes", "expected"), [((0, 2048), 2144), ((0, 64), 160), ((1024, 1088), 272)])
def testTheWorkOfATaskHasItsLeads(planes, expected):
    work = measureTask(CUBE, ONE_TILE, Task(0, planes))
    height, width = tileSection(CUBE, ONE_TILE)
    assert work == expected * height * width


def chooseFor(count, geometry=CUBE):
    """Choose the cut where memory does not matter."""
    return chooseLayout(geometry, [], 4, 1e9, 0.0, functools.partial(costOfParts, count))


@pytest.mark.parametrize("count", [2, 8, 32, 64])
def testTheCutWithTheLeastWorkIsChosen(count):
    chosen = partFactor(CUBE, chooseFor(count), count)
    others = [
        partFactor(CUBE, Layout(16, rows, columns, 0.0), count)
        for rows, columns in [(1, 1), (2, 1), (2, 2), (4, 2), (4, 4), (8, 4)]
    ]
    assert chosen <= min(others) * 1.03


def testWithoutAWishTheExtraWorkIsAtMostATenth():
    count = chooseCount(CUBE, ONE_TILE)
    alone = partFactor(CUBE, ONE_TILE, 1)
    assert partFactor(CUBE, ONE_TILE, count) <= 1.1 * alone < partFactor(CUBE, ONE_TILE, count + 1)
    assert chooseCount(CUBE, ONE_TILE, atLeast=7) == 7
    small = Geometry((20, 32, 32), 16, 92)
    assert chooseCount(small, ONE_TILE, atLeast=7) == 2  # not more than there are


def testTheLineSaysWhatACutCosts():
    text = describeCut(CUBE, ONE_TILE, 32)
    factor = partFactor(CUBE, ONE_TILE, 32)
    assert text == f"32 parts of at most 64 planes of one tile: {factor:.2f} times the work of one pass"
    assert np.isclose(factor, 272 / 64, atol=0.01)
