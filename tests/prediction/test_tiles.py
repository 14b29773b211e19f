"""Streaming prediction against one pass of Keras over everything.

Arrays are (plane, row, column) = (z, y, x), as in engine/prediction/tiles.py.
"""

import functools
import itertools
import os
import subprocess
import sys
import threading

import networks
import nrrd
import numpy as np
import pytest
import streams
from hypothesis import example, given, settings
from hypothesis import strategies as st
from places import ROOT
from streams import TOLERANCE, ArraySink, DelayStream, SinkError, makeLayout

from engine.base.arrays import measureMoments
from engine.formats.nrrdFiles import openVolume
from engine.prediction.job import Job
from engine.prediction.kerasStream import KerasStream
from engine.prediction.layout import Geometry, listTiles, tileSection
from engine.prediction.tasks import Task, listTasks
from engine.prediction.tiles import predictVolume, timeSlab
from engine.volumes.scale import Scale
from functions import predictProbability, prep_img, readModel, scoreVoxels, selectPositive


@functools.lru_cache(32)
def openKeras(network, slab, section, precision="float32"):
    return KerasStream(network.steps, slab, section, precision)


AHEAD = 4  # slabs in hand besides the one being read: one being computed, three to be written
BACKENDS = {"openvino": streams.openOpenvino, "keras": openKeras}


def compareWithOnePass(network, volume, layout, makeStream=streams.openOpenvino, spread=None):
    """Predict in slabs and tiles; every voxel must come once and be that of one pass."""
    expected = streams.onePass(network, volume)
    sink = streams.predictArray(network, volume, layout, makeStream)
    np.testing.assert_allclose(sink.array, expected, rtol=0, atol=TOLERANCE)
    assert sink.counts.min() == sink.counts.max() == 1
    if spread:
        assert np.ptp(expected) > spread  # a constant would agree with anything


# --------------------------------------------------------------------------------------- equal to one pass

CASES = [  # width, levels, (planes, rows, columns), slab, tiles of rows and columns
    (2, 1, (7, 5, 9), 1, 1, 1),
    (3, 1, (20, 11, 10), 8, 2, 3),
    (2, 2, (21, 13, 9), 2, 1, 1),
    (3, 2, (40, 31, 37), 8, 3, 2),
    (2, 3, (39, 27, 21), 4, 1, 1),
    (3, 3, (17, 66, 9), 12, 2, 1),
    (2, 4, (101, 17, 23), 8, 1, 1),
    (3, 4, (30, 8, 130), 16, 1, 2),
    (2, 5, (33, 35, 30), 16, 1, 1),
    (3, 5, (210, 17, 16), 32, 1, 1),
    (8, 4, (70, 21, 40), 16, 1, 1),  # published width: with 16 lanes two columns at a time in level 0
    (8, 3, (19, 9, 84), 8, 1, 3),
    (16, 3, (25, 14, 19), 8, 1, 1),  # one column at a time everywhere
]


@pytest.mark.parametrize("lanes", [8, 16])  # AVX2, AVX-512
@pytest.mark.parametrize(("width", "levels", "size", "slab", "rowTiles", "columnTiles"), CASES)
def testOpenvinoStreamEqualsOnePass(width, levels, size, slab, rowTiles, columnTiles, lanes):
    network = streams.randomNetwork(width, levels)
    volume = networks.randomVolume(*size, seed=levels)
    makeStream = functools.partial(streams.openWithLanes, lanes)
    compareWithOnePass(network, volume, makeLayout(slab, rowTiles, columnTiles), makeStream, spread=0.7)


@pytest.mark.parametrize(("width", "levels", "size", "slab", "rowTiles", "columnTiles"), CASES[1::3])
def testKerasStreamEqualsOnePass(width, levels, size, slab, rowTiles, columnTiles):
    network = streams.randomNetwork(width, levels)
    volume = networks.randomVolume(*size, seed=levels)
    compareWithOnePass(network, volume, makeLayout(slab, rowTiles, columnTiles), openKeras, spread=0.7)


sides = st.integers(1, 27)


@settings(max_examples=18, deadline=None, derandomize=True)
@given(
    width=st.sampled_from([2, 3, 8]),
    levels=st.integers(1, 3),
    size=st.tuples(st.integers(1, 40), sides, sides),
    cells=st.integers(1, 5),
    tiles=st.tuples(st.integers(1, 3), st.integers(1, 3)),
)
@example(width=2, levels=3, size=(1, 1, 1), cells=2, tiles=(1, 1))
@example(width=3, levels=2, size=(1, 27, 25), cells=1, tiles=(3, 2))
@example(width=2, levels=3, size=(5, 9, 25), cells=1, tiles=(2, 2))
@example(width=2, levels=2, size=(16, 3, 5), cells=4, tiles=(1, 1))  # whole slabs and cells
def testAnyShapeSlabAndTilesEqualOnePass(width, levels, size, cells, tiles):
    network = streams.randomNetwork(width, levels)
    layout = makeLayout(cells * network.cell, *tiles)
    volume = networks.randomVolume(*size, seed=sum(size))
    compareWithOnePass(network, volume, layout)


@pytest.mark.parametrize(("levels", "size"), [(1, (8, 5, 2)), (2, (8, 6, 2)), (2, (8, 21, 1))])
def testTwoColumnsEqualOnePass(levels, size):
    """OpenVINO 2026.4 computes a kernel of 3x3x4 with stride 2 on them wrongly."""
    network = streams.randomNetwork(2, levels)
    compareWithOnePass(network, networks.randomVolume(*size), makeLayout(8))


@settings(max_examples=6, deadline=None, derandomize=True)
@given(
    levels=st.integers(1, 3),
    size=st.tuples(st.integers(1, 40), sides, sides),
    cells=st.integers(1, 5),
    tiles=st.tuples(st.integers(1, 3), st.integers(1, 3)),
)
@example(levels=3, size=(1, 1, 1), cells=2, tiles=(1, 1))
@example(levels=2, size=(1, 27, 2), cells=2, tiles=(1, 1))
def testKerasStreamEqualsOnePassForAnyShapeSlabAndTiles(levels, size, cells, tiles):
    network = streams.randomNetwork(2, levels)
    volume = networks.randomVolume(*size, seed=sum(size))
    compareWithOnePass(network, volume, makeLayout(cells * network.cell, *tiles), openKeras)


@pytest.mark.parametrize(
    ("levels", "axis", "side"),
    [*itertools.product([1, 2, 3, 4], [0, 1, 2], [0, 2]), (5, 0, 2), (5, 1, 0), (5, 2, 2)],
)
def testEdgeOfTheViewIsSeen(levels, axis, side):
    """A network whose output comes from the voxels furthest away that it can see, cut where that shows."""
    tap = [1, 1, 1]
    tap[axis] = side
    network = streams.shiftNetwork(levels, tuple(tap))
    cell, halo = network.cell, network.geometry((1, 1, 1)).halo
    size, layout = [2 * cell, 2 * cell, max(2 * cell, 8)], [cell, 1, 1]
    size[axis] = 2 * halo + 3 * cell - cell // 2
    if axis:
        layout[axis] = size[axis] // cell  # tiles of one cell
    volume = streams.patchyVolume(size, cell)
    compareWithOnePass(network, volume, makeLayout(*layout), spread=0.5)


def testBackEndsAgreeOnEveryPlaneThatTheyGive():
    network = streams.randomNetwork(3, 3)
    volume = networks.randomVolume(24, 12, 16)
    section, taken = (12, 16), []
    for makeStream in BACKENDS.values():
        stream = makeStream(network, 8, section)
        stream.restart(24)
        blocks = [volume[:8], volume[8:16], volume[16:]] + [np.zeros((8, *section), np.float32)] * 2
        taken.append([np.array(stream.feed(index, block)) for index, block in enumerate(blocks)])
    for first, second in zip(*taken, strict=True):
        assert first.shape == second.shape == (8, *section)
        assert first.dtype == second.dtype == np.float32
    given = [np.concatenate(planes)[stream.lag : stream.lag + 16] for planes in taken]
    np.testing.assert_allclose(*given, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("makeStream", BACKENDS.values(), ids=BACKENDS)
def testStreamForgetsTheVolumeBefore(makeStream):
    network, layout = streams.randomNetwork(2, 3), makeLayout(4)
    volume = networks.randomVolume(23, 12, 16)
    first = streams.predictArray(network, volume, layout, makeStream)
    streams.predictArray(network, 100 + networks.randomVolume(40, 12, 16, seed=1), layout, makeStream)
    again = streams.predictArray(network, volume, layout, makeStream)
    np.testing.assert_array_equal(again.array, first.array)
    assert timeSlab(makeStream(network, 4, (12, 16)), (12, 16)) > 0
    again = streams.predictArray(network, volume, layout, makeStream)
    np.testing.assert_array_equal(again.array, first.array)


def testPlanesGivenAreNotOverwrittenByTheNextOnes():
    network = streams.randomNetwork(2, 2)
    stream = streams.openOpenvino(network, 4, (8, 8))
    stream.restart(400)
    volume = networks.randomVolume(20, 8, 8)
    given = [stream.feed(index, volume[4 * index : 4 * index + 4]) for index in range(5)]
    copies = [planes.copy() for planes in given]
    stream.feed(5, volume[:4])
    np.testing.assert_array_equal(given, copies)


@pytest.mark.slow
def testKerasStreamEqualsOnePassOnJax():
    code = (
        "import keras, networks, streams, test_tiles as t\n"
        "assert keras.backend.backend() == 'jax'\n"
        "for width, levels, size, slab, rowTiles, columnTiles in t.CASES[1::3]:\n"
        "    volume = networks.randomVolume(*size)\n"
        "    layout = streams.makeLayout(slab, rowTiles, columnTiles)\n"
        "    t.compareWithOnePass(streams.randomNetwork(width, levels), volume, layout, t.openKeras, 0.7)\n"
        "t.checkResume(t.openKeras, (2, 2, (13, 21, 18), 4, (2, 1)), 5, 2)\n"
        "print('equal')\n"
    )
    folders = [ROOT, ROOT / "tests", ROOT / "tests" / "prediction", os.environ.get("PYTHONPATH", "")]
    paths = os.pathsep.join(map(str, folders))
    environment = os.environ | {"KERAS_BACKEND": "jax", "PYTHONPATH": paths}
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.split()[-1] == "equal"


# ---------------------------------------------------------------------------------------- from a real file


@pytest.mark.parametrize("encoding", ["raw", "gzip"])
@pytest.mark.parametrize("dtype", ["<u2", ">u2", ">f4", "|u1"])
@pytest.mark.parametrize("tiles", [(1, 1), (2, 2)])
def testRegionOfAFileEqualsOnePassOverIt(tmp_path, encoding, dtype, tiles):
    network = streams.randomNetwork(2, 2)
    grey = np.random.default_rng(7).integers(0, 250, (34, 33, 29)).astype(dtype)  # (x, y, z)
    nrrd.write(str(tmp_path / "volume.nrrd"), grey, {"encoding": encoding})
    region = (3, 30), (5, 28), (2, 23)
    part = grey[3:30, 5:28, 2:23]
    expected = streams.onePass(network, prep_img(part).T)
    geometry = network.geometry(expected.shape)
    layout = makeLayout(4, *tiles)
    stream = streams.openOpenvino(network, 4, tileSection(geometry, layout))
    sink, volume = ArraySink(expected.shape), openVolume(tmp_path / "volume.nrrd")
    predictProbability(volume, Job("", region, Scale(*measureMoments(part)), geometry, layout), stream, sink)
    np.testing.assert_allclose(sink.array, expected, rtol=0, atol=TOLERANCE)
    assert np.ptp(expected) > 0.7
    assert sink.counts.min() == sink.counts.max() == 1


# -------------------------------------------------------------------------------------- the shipped network


@pytest.fixture(scope="module")
def shipped():
    """Network and normalised test volume (z, y, x) of the repository."""
    files = [ROOT / "modelAndWeights" / f"final-{name}.h5" for name in ("uNet_model", "trained-weights")]
    network = streams.makeNetwork(*readModel(*files))
    return network, prep_img(openVolume(ROOT / "test-file" / "test-file_data.nrrd").read()).T


@pytest.mark.parametrize(
    ("makeStream", "precision"),
    [(streams.openOpenvino, "bfloat16"), (streams.openOpenvino, "float16"), (openKeras, "bfloat16")],
    ids=["openvino-bfloat16", "openvino-float16", "keras-bfloat16"],
)
def testHalfPrecisionIsCloseOnACropOfTheTestVolume(shipped, makeStream, precision):
    network, volume = shipped
    crop = volume[20:68, 40:104, 40:104]
    expected = streams.onePass(network, crop)
    received = streams.predictArray(network, crop, makeLayout(16), makeStream, precision=precision).array
    assert (expected > 0.9).mean() > 0.005 and (expected < 0.1).mean() > 0.5
    difference = np.abs(received - expected)
    assert 0 < difference.mean() <= 1e-3
    assert difference.max() < 0.25


@pytest.mark.slow
@pytest.mark.parametrize("tiles", [(1, 1), (2, 1)])
def testFloat32EqualsOnePassOnTheTestVolume(shipped, tiles):
    network, volume = shipped
    compareWithOnePass(network, volume, makeLayout(16, *tiles), spread=0.99)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def testHalfPrecisionMovesNoScoreOnTheTestVolume(shipped, precision):
    network, volume = shipped
    reference = selectPositive(openVolume(ROOT / "test-file" / "test-file_mask.nrrd").read()).T
    expected = streams.onePass(network, volume)
    received = streams.predictArray(network, volume, makeLayout(16), precision=precision).array
    assert np.abs(received - expected).mean() <= 1e-3
    assert ((received >= 0.5) == (expected >= 0.5)).mean() >= 0.9999
    dice = [scoreVoxels(probability, reference)["dice"] for probability in (received, expected)]
    assert dice[1] > 0.8
    assert abs(dice[0] - dice[1]) < 0.001


# --------------------------------------------------------------------------------------------------- resume


@functools.cache
def uninterrupted(makeStream, case):
    """Sink of a whole run."""
    width, levels, size, slab, tiles = case
    network = streams.randomNetwork(width, levels)
    return streams.predictArray(network, networks.randomVolume(*size), makeLayout(slab, *tiles), makeStream)


def checkResume(makeStream, case, place, commitEvery):
    """Stop at a write, go on from what was committed; the result must have the same bits."""
    width, levels, size, slab, tiles = case
    network, layout = streams.randomNetwork(width, levels), makeLayout(slab, *tiles)
    volume, whole = networks.randomVolume(*size), uninterrupted(makeStream, case)
    sink = ArraySink(size, commitEvery, failAt=place % len(whole.writes))
    with pytest.raises(SinkError):
        streams.predictArray(network, volume, layout, makeStream, sink)
    sink = sink.afterKill()
    committed = np.isfinite(sink.array)
    streams.predictArray(network, volume, layout, makeStream, sink)
    np.testing.assert_array_equal(sink.array, whole.array)
    assert sink.counts.max() == 1
    assert not sink.counts[committed].any()  # nothing is predicted again


ONE_TILE = 2, 2, (41, 13, 9), 2, (1, 1)
TILES = 2, 2, (29, 25, 22), 4, (3, 2)
DEEP = 2, 3, (99, 9, 13), 12, (1, 1)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    case=st.sampled_from([ONE_TILE, TILES, DEEP]),
    place=st.integers(0, 10_000),
    commitEvery=st.integers(1, 4),
)
@example(case=ONE_TILE, place=0, commitEvery=1)
@example(case=TILES, place=0, commitEvery=1)
@example(case=ONE_TILE, place=-1, commitEvery=1)
@example(case=TILES, place=-1, commitEvery=3)
def testInterruptedRunGoesOnToTheSameBits(case, place, commitEvery):
    checkResume(streams.openOpenvino, case, place, commitEvery)


@pytest.mark.parametrize("place", [0, 3, -1])
def testInterruptedRunOfKerasGoesOnToTheSameBits(place):
    checkResume(openKeras, TILES, place, 1)


def testRunInterruptedOverAndOverArrives():
    whole = uninterrupted(streams.openOpenvino, TILES)
    width, levels, size, slab, tiles = TILES
    network, layout = streams.randomNetwork(width, levels), makeLayout(slab, *tiles)
    sink = ArraySink(size, failAt=2)
    for _ in whole.writes:
        try:
            streams.predictArray(network, networks.randomVolume(*size), layout, sink=sink)
            break
        except SinkError:
            sink = sink.afterKill(failAt=2)
    np.testing.assert_array_equal(sink.array, whole.array)
    assert sink.finished == [Task(tile, (0, 29)) for tile in range(6)]


@pytest.mark.parametrize(("place", "first"), [(3, 0), (5, 16), (9, 48), (19, 128)])
def testResumedRunReadsOnlyWhatItsFirstPlanesDependOn(place, first):
    geometry, layout = Geometry((160, 4, 4), 4, 20), makeLayout(8)
    volume, stream = networks.randomVolume(160, 4, 4), DelayStream(8, 0)
    sink = ArraySink(volume.shape, failAt=place)
    with pytest.raises(SinkError):
        predictVolume(streams.readFrom(volume), geometry, layout, stream, sink)
    asked = []

    def readPlanes(plane, *others):
        asked.append(plane)
        return streams.readFrom(volume)(plane, *others)

    predictVolume(readPlanes, geometry, layout, stream, sink.afterKill())
    assert sink.finished == ([Task(0, (0, 8 * place))] if place else [])
    assert asked == [first]  # whole slabs, 20 planes of halo and a cell of 4 before


def testRunThatIsDoneDoesNothing():
    geometry, layout = Geometry((9, 8, 24), 2, 4), makeLayout(4, 1, 3)
    sink = ArraySink(geometry.size)
    sink.finished = listTasks(geometry, layout)
    predictVolume(lambda *_: pytest.fail("read"), geometry, layout, DelayStream(4, 4), sink)
    assert not sink.writes


# ----------------------------------------------------------------------------- reading, computing, writing


@st.composite
def delays(draw):
    """Draw a network that only delays, and a region cut for it."""
    cell = draw(st.sampled_from([1, 2, 4, 8]))
    size = tuple(draw(st.integers(1, most)) for most in (60, 40, 40))
    geometry = Geometry(size, cell, cell * draw(st.integers(1, 3)))
    counts = [draw(st.integers(1, min(side // cell, 4))) for side in geometry.shape[1:]]
    slab = cell * draw(st.integers(1, 4))
    lag = draw(st.integers(0, 50))
    return geometry, makeLayout(slab, *counts), DelayStream(slab, lag)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(delay=delays(), place=st.none() | st.integers(0, 40), commitEvery=st.integers(1, 3))
def testEveryVoxelComesOnceToItsPlace(delay, place, commitEvery):
    geometry, layout, stream = delay
    volume = networks.randomVolume(*geometry.size)
    sink = ArraySink(geometry.size, commitEvery, failAt=place)
    try:
        predictVolume(streams.readFrom(volume), geometry, layout, stream, sink)
        assert place is None or place >= len(sink.writes)
    except SinkError:
        assert place == len(sink.writes) - 1
        sink = sink.afterKill()
        committed = np.isfinite(sink.array)
        predictVolume(streams.readFrom(volume), geometry, layout, stream, sink)
        assert not sink.counts[committed].any()
    np.testing.assert_array_equal(sink.array, volume)
    assert sink.counts.max() == 1


@settings(max_examples=100, deadline=None, derandomize=True)
@given(delay=delays())
def testStreamIsFedEverySlabInOrderMirroredAtTheFarEnds(delay):
    geometry, layout, stream = delay
    volume = networks.randomVolume(*geometry.size)
    padding = [(0, -side % geometry.cell) for side in volume.shape]
    mirrored = np.pad(volume, padding, "symmetric")
    tiles, fed = iter(listTiles(geometry, layout)), []
    restart, feed = stream.restart, stream.feed

    def restartAndCheck(planeCount):
        assert planeCount == geometry.shape[0]
        stream.tile = next(tiles)
        fed.append(0)
        restart(planeCount)

    def feedAndCheck(index, planes):
        assert index == fed[-1]
        fed[-1] += 1
        slab = slice(index * layout.slab, (index + 1) * layout.slab)
        expected = mirrored[slab, slice(*stream.tile.outerRows), slice(*stream.tile.outerColumns)]
        np.testing.assert_array_equal(planes[: len(expected)], expected)
        assert not planes[len(expected) :].any()
        return feed(index, planes)

    stream.restart, stream.feed = restartAndCheck, feedAndCheck
    predictVolume(streams.readFrom(volume), geometry, layout, stream, ArraySink(geometry.size))
    assert next(tiles, None) is None
    assert set(fed) == {-(-(geometry.size[0] + stream.lag) // layout.slab)}


@settings(max_examples=50, deadline=None, derandomize=True)
@given(delay=delays())
def testBlocksAreAskedForInOrderAndLittleAheadOfTheWriting(delay):
    geometry, layout, stream = delay
    volume = networks.randomVolume(*geometry.size)
    sink, asked = ArraySink(geometry.size), []

    def readPlanes(plane, rows, columns, slab):
        assert (plane, slab) == (0, layout.slab)
        tile = len(asked)
        asked.append((rows, columns))
        blocks = streams.readFrom(volume)(plane, rows, columns, slab)
        for number, block in enumerate(blocks):
            written = [planes for index, planes in map(placeOf, list(sink.commits)) if index == tile]
            known = max(written, default=0)
            fed = (number + 1) * slab
            assert fed - known <= (AHEAD + 1) * slab + stream.lag
            yield block

    predictVolume(readPlanes, geometry, layout, stream, sink)
    tiles = listTiles(geometry, layout)
    _, height, width = geometry.size
    inside = [
        (
            (tile.outerRows[0], min(tile.outerRows[1], height)),
            (tile.outerColumns[0], min(tile.outerColumns[1], width)),
        )
        for tile in tiles
    ]
    assert asked == inside
    order = [placeOf(commit) for commit in sink.commits]
    assert order == sorted(order)


def testReadingWaitsForAWriterThatIsStuck():
    volume, asked, released = networks.randomVolume(160, 4, 4), [], threading.Event()
    sink = ArraySink(volume.shape)
    write = sink.write

    def readPlanes(*request):
        for block in streams.readFrom(volume)(*request):
            asked.append(len(block))
            yield block

    def writeLate(*arguments):
        released.wait(20)
        write(*arguments)

    sink.write = writeLate
    geometry, layout = Geometry(volume.shape, 4, 4), makeLayout(8)
    work = threading.Thread(
        target=predictVolume, args=(readPlanes, geometry, layout, DelayStream(8, 0), sink), daemon=True
    )
    work.start()
    work.join(0.7)
    held = len(asked)
    released.set()
    work.join(20)
    assert held <= AHEAD + 1
    np.testing.assert_array_equal(sink.array, volume)


def placeOf(task):
    return task.tile, task.planes[1]


def testNextSlabIsReadAndTheLastOneWrittenWhileOneIsComputed():
    """Each of the three waits until the other two are at work: one after another they would wait for ever."""
    geometry, layout = Geometry((80, 4, 4), 4, 4), makeLayout(8)
    meeting = threading.Barrier(3, timeout=20)
    volume, sink, stream = networks.randomVolume(80, 4, 4), ArraySink((80, 4, 4)), DelayStream(8, 0)
    feed, write = stream.feed, sink.write

    def readPlanes(*request):
        for number, block in enumerate(streams.readFrom(volume)(*request)):
            if number == 5:
                meeting.wait()
            yield block

    def feedTogether(index, planes):
        if index == 4:
            meeting.wait()
        return feed(index, planes)

    def writeTogether(planes, plane, row, column):
        if plane == 24:
            meeting.wait()
        write(planes, plane, row, column)

    stream.feed, sink.write = feedTogether, writeTogether
    predictVolume(readPlanes, geometry, layout, stream, sink)
    np.testing.assert_array_equal(sink.array, volume)


# --------------------------------------------------------------------------------------------------- errors

BLOCKS = 5
REGION = Geometry((8 * BLOCKS, 8, 24), 2, 4)


def runThatFails(raised, where, block, tiles, lag):
    """Run with an error at one block (the last number: after the last block) of one of the three parts."""
    volume = networks.randomVolume(*REGION.size)
    sink = ArraySink(REGION.size, failAt=block if where == "write" else None, error=raised)
    stream = DelayStream(8, lag)
    feed, count = stream.feed, itertools.count()

    def readPlanes(*request):
        for number, planes in enumerate(streams.readFrom(volume)(*request)):
            if where == "read" and number == block:
                raise raised
            yield planes
        if where == "read" and block == BLOCKS:
            raise raised

    def feedAndFail(index, planes):
        if where == "feed" and next(count) == block:
            raise raised
        return feed(index, planes)

    def commitAndFail(task, commit=sink.commit):
        if where == "commit" and len(sink.commits) == block:
            raise raised
        commit(task)

    stream.feed, sink.commit = feedAndFail, commitAndFail
    threads = set(threading.enumerate())
    isHanging, error = streams.isHanging(
        lambda: predictVolume(readPlanes, REGION, makeLayout(8, 1, tiles), stream, sink)
    )
    assert not isHanging
    assert set(threading.enumerate()) <= threads
    return error, sink


@pytest.mark.parametrize("where", ["read", "feed", "write", "commit"])
@pytest.mark.parametrize("block", [0, 1, 2, BLOCKS - 1])
@pytest.mark.parametrize("tiles", [1, 3])
@pytest.mark.parametrize("kind", [SinkError, OSError, KeyboardInterrupt])
def testErrorsComeThroughUnchanged(where, block, tiles, kind):
    raised = kind("at this place")
    error, sink = runThatFails(raised, where, block, tiles, lag=10)
    assert error is raised
    if where == "write":
        assert len(sink.writes) == block + 1  # none after the one that failed
        assert len(sink.commits) == block


@pytest.mark.parametrize("lag", [0, 3, 50])
@pytest.mark.parametrize("tiles", [1, 3])
def testErrorAfterTheLastBlockIsNotMissed(lag, tiles):
    raised = SinkError("checksum")
    error, _ = runThatFails(raised, "read", BLOCKS, tiles, lag)
    assert error is raised


@pytest.mark.parametrize("block", [0, 7])
def testErrorOfTheLastWriteIsNotMissed(block):
    volume = networks.randomVolume(8 * (block + 1), 8, 8)
    sink = ArraySink(volume.shape, failAt=block)
    with pytest.raises(SinkError):
        predictVolume(
            streams.readFrom(volume), Geometry(volume.shape, 2, 4), makeLayout(8), DelayStream(8, 0), sink
        )
