"""How a volume is cut: tiles against every single voxel, the choice against all others."""

import itertools
import math
import re

import networks
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from engine.base.errors import PipelineError
from engine.network.plan import haloOf, sideMultiple
from engine.prediction.layout import (
    GIB,
    SLABS,
    Geometry,
    Layout,
    _countChoices,
    chooseLayout,
    countTiles,
    listTiles,
    measureStream,
    tileSection,
    workFactor,
)
from engine.prediction.rings import makeRings
from engine.prediction.stream import describeStream
from functions import describeUNet

NUMBER_TYPES = {4: np.float32, 2: np.uint16}


def describe(width=8, levels=4):
    plan = describeUNet(width, levels)
    return describeStream(plan, networks.randomWeights(plan)), sideMultiple(plan), haloOf(plan)


PUBLISHED, CELL, HALO = describe()

sides = st.integers(1, 200)
cells = st.sampled_from([1, 2, 4, 8, 16])


@st.composite
def layouts(draw):
    cell = draw(cells)
    geometry = Geometry((draw(sides), draw(sides), draw(sides)), cell, cell * draw(st.integers(1, 6)))
    counts = [draw(st.integers(1, side // cell)) for side in geometry.shape[1:]]
    return geometry, Layout(8, *counts, 0.0)


# --------------------------------------------------------------------------------------------------- tiles


@settings(max_examples=200, deadline=None, derandomize=True)
@given(cut=layouts())
def testTilesCoverEveryVoxelOnce(cut):
    geometry, layout = cut
    counts = np.zeros(geometry.shape[1:], int)
    for tile in listTiles(geometry, layout):
        counts[slice(*tile.rows), slice(*tile.columns)] += 1
    assert counts.min() == counts.max() == 1
    assert countTiles(geometry, layout) == len(listTiles(geometry, layout))
    assert countTiles(geometry, layout) <= layout.rowTiles * layout.columnTiles


@settings(max_examples=200, deadline=None, derandomize=True)
@given(cut=layouts())
def testTilesLieInsideAlignedAndEquallyLarge(cut):
    geometry, layout = cut
    limits, section = geometry.shape[1:], tileSection(geometry, layout)
    for tile in listTiles(geometry, layout):
        for (start, stop), limit, length in zip(
            (tile.outerRows, tile.outerColumns), limits, section, strict=True
        ):
            assert 0 <= start < stop <= limit
            assert stop - start == length
            assert start % geometry.cell == length % geometry.cell == 0  # poolings as in one pass


@settings(max_examples=200, deadline=None, derandomize=True)
@given(cut=layouts())
def testHaloWhereverAnEdgeIsArtificial(cut):
    geometry, layout = cut
    _, *limits = geometry.shape
    for tile in listTiles(geometry, layout):
        for outer, kept, limit in zip(
            (tile.outerRows, tile.outerColumns), (tile.rows, tile.columns), limits, strict=True
        ):
            assert outer[0] == 0 or kept[0] - outer[0] >= geometry.halo
            assert outer[1] == limit or outer[1] - kept[1] >= geometry.halo
            assert outer[0] <= kept[0] < kept[1] <= outer[1]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(cut=layouts())
def testWorkFactorCountsVoxels(cut):
    geometry, layout = cut
    voxels = sum(
        (tile.outerRows[1] - tile.outerRows[0]) * (tile.outerColumns[1] - tile.outerColumns[0])
        for tile in listTiles(geometry, layout)
    )
    assert workFactor(geometry, layout) == pytest.approx(voxels / math.prod(geometry.shape[1:]))
    assert workFactor(geometry, layout) >= 1


@settings(max_examples=100, deadline=None, derandomize=True)
@given(size=st.tuples(sides, sides, sides), cell=cells)
def testShapeFillsTheLastCells(size, cell):
    for side, extended in zip(size, Geometry(size, cell, cell).shape, strict=True):
        assert extended % cell == 0 and 0 <= extended - side < cell


def testOneTileIsTheWholeRegion():
    (tile,) = listTiles(Geometry((5, 37, 1), 8, 48), Layout(8, 1, 1, 0.0))
    assert tile.outerRows == tile.rows == (0, 40)
    assert tile.outerColumns == tile.columns == (0, 8)


# -------------------------------------------------------------------------------------------------- memory


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    slabs=st.integers(1, 8),
    rows=st.integers(1, 40),
    columns=st.integers(1, 40),
    more=st.sampled_from(["slab", "rows", "columns", "bytes"]),
)
def testMemoryGrowsWithEverything(slabs, rows, columns, more):
    before = measureStream(PUBLISHED, slabs * 8, (rows * 8, columns * 8), 2)
    slabs, rows, columns = slabs + (more == "slab"), rows + (more == "rows"), columns + (more == "columns")
    after = measureStream(PUBLISHED, slabs * 8, (rows * 8, columns * 8), 4 if more == "bytes" else 2)
    assert after > before


@pytest.mark.parametrize("levels", [1, 2, 4])
@pytest.mark.parametrize("byteCount", [2, 4])
@pytest.mark.parametrize("slabs", [1, 2, 4])
def testMemoryCoversTheRingsAndTheSlabsOnTheirWay(levels, byteCount, slabs):
    steps, cell, _ = describe(4, levels)
    slab, section = slabs * max(cell, 8), (3 * cell, 5 * cell)
    rings = makeRings(steps, slab, section, NUMBER_TYPES[byteCount])
    held = sum(ring.storage.nbytes for ring in rings.values())
    way = 4 * slab * math.prod(section) * 4  # one read, one fed, one predicted, one written at the least
    estimate = measureStream(steps, slab, section, byteCount)
    assert held + way < estimate < 3 * (held + way)


# ---------------------------------------------------------------------------------------------- the choice


def listAllLayouts(geometry, slab):
    """Every number of tiles along both axes."""
    counts = itertools.product(*(range(1, side // geometry.cell + 1) for side in geometry.shape[1:]))
    return [Layout(slab, *pair, 0.0) for pair in counts]


def memoryOf(geometry, layout, steps=PUBLISHED, byteCount=4):
    return measureStream(steps, layout.slab, tileSection(geometry, layout), byteCount) / GIB


def leastNamed(geometry, steps, byteCount, base):
    with pytest.raises(PipelineError, match="memoryBudget of 0.001 GiB is too small") as caught:
        chooseLayout(geometry, steps, byteCount, 0.001, base)
    return float(re.search(r"at least ([\d.]+) GiB is needed", str(caught.value))[1])


@st.composite
def regions(draw, levels):
    """Regions of up to 150 cells across, not all of them full."""
    cell = 2 ** (levels - 1)
    planes, rows, columns = draw(st.integers(1, 600)), *draw(st.tuples(*[st.integers(1, 150)] * 2))
    lost = draw(st.tuples(*[st.integers(0, cell - 1)] * 2))
    return planes, rows * cell - lost[0], columns * cell - lost[1]


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    case=st.integers(1, 5).flatmap(lambda levels: st.tuples(st.just(levels), regions(levels))),
    share=st.floats(1, 30),
    byteCount=st.sampled_from([2, 4]),
    base=st.floats(0.1, 2),
)
@example(case=(4, (1, 200, 199)), share=1.1, byteCount=2, base=0.3)
def testTheLeastBudgetThatTheErrorNamesWorksAndNoneIsExceeded(case, share, byteCount, base):
    levels, size = case
    steps, cell, halo = describe(4, levels)
    geometry = Geometry(size, cell, halo)
    least = leastNamed(geometry, steps, byteCount, base)
    for budget in (least, least * share):
        layout = chooseLayout(geometry, steps, byteCount, budget, base)
        assert layout.memory <= budget
        assert layout.memory == pytest.approx(base + memoryOf(geometry, layout, steps, byteCount))
        assert layout.slab % cell == 0
        assert 1 <= layout.rowTiles <= geometry.shape[1] // cell
        assert 1 <= layout.columnTiles <= geometry.shape[2] // cell
    with pytest.raises(PipelineError):
        chooseLayout(geometry, steps, byteCount, least - 0.011, base)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    size=regions(4),
    budgets=st.tuples(st.floats(1, 20), st.floats(1, 20)),
)
def testAMoreGenerousBudgetNeverCostsMoreWork(size, budgets):
    geometry = Geometry(size, CELL, HALO)
    least = leastNamed(geometry, PUBLISHED, 4, 0.2)
    small, large = (chooseLayout(geometry, PUBLISHED, 4, least * budget, 0.2) for budget in sorted(budgets))
    # a slab of 8 planes is up to 7 % slower: that much more work may be done in thicker ones
    assert workFactor(geometry, large) <= workFactor(geometry, small) * 1.08 * (1 + 32 / size[0])


@pytest.mark.parametrize("size", [(512, 256, 256), (1, 199, 340), (2000, 200, 200), (256, 512, 128)])
def testEverythingThatFitsIsOneTile(size):
    geometry = Geometry(size, CELL, HALO)
    for budget in (1e3, math.inf):
        layout = chooseLayout(geometry, PUBLISHED, 4, budget, 0.5)
        assert (layout.rowTiles, layout.columnTiles) == (1, 1)
    whole = 0.5 + min(memoryOf(geometry, Layout(slab, 1, 1, 0.0)) for slab in SLABS)
    layout = chooseLayout(geometry, PUBLISHED, 4, whole, 0.5)
    assert (layout.rowTiles, layout.columnTiles) == (1, 1)
    layout = chooseLayout(geometry, PUBLISHED, 4, whole - 0.01, 0.5)
    assert layout.rowTiles * layout.columnTiles > 1


@pytest.mark.parametrize("size", [(300, 250, 250), (40, 400, 200), (512, 256, 131), (9, 300, 300)])
@pytest.mark.parametrize("share", [1.0, 1.1, 1.3, 2.0, 4.0])
def testWorkIsTheLeastPossible(size, share):
    """Against every number of tiles; a thicker slab, which is faster, may do a little more."""
    geometry = Geometry(size, CELL, HALO)
    budget = leastNamed(geometry, PUBLISHED, 4, 0.0) * share
    fitting = [layout for layout in listAllLayouts(geometry, 8) if memoryOf(geometry, layout) <= budget]
    least = min(workFactor(geometry, layout) for layout in fitting)
    chosen = chooseLayout(geometry, PUBLISHED, 4, budget, 0.0)
    assert workFactor(geometry, chosen) <= least * (1 if chosen.slab == 8 else 1.07) * (1 + 1e-9)


def testSlabsFitThinVolumesAndLargeCells():
    for cell, levels in ((1, 1), (2, 2), (4, 3), (8, 4), (16, 5), (64, 7)):
        steps, found, halo = describe(1, levels)
        assert found == cell
        for planes in (1, cell, 3 * cell + 1, 400):
            layout = chooseLayout(Geometry((planes, 8, 8), cell, halo), steps, 4, 50, 0)
            assert layout.slab % cell == 0
            assert layout.slab <= max(planes, 8, cell)
    thick = chooseLayout(Geometry((400, 64, 64), CELL, HALO), PUBLISHED, 4, 50, 0)
    assert thick.slab in (16, 32)


def testFewNumbersOfTilesAreTriedForALargeSection():
    assert len(_countChoices(4096, 8)) < 50  # minutes went by once, when every number of tiles was tried
    assert _countChoices(40, 8) == [1, 2, 3, 5]
