"""Volumes in chunks against the array they are of: values, what is decoded how often, what is held."""

import pickle
import tracemalloc
from functools import partial

import numpy as np
import pytest

from engine.base.errors import PipelineError
from engine.formats import chunked
from engine.formats.chunked import ChunkedVolume

PLANES = np.random.default_rng(3).integers(0, 1000, (23, 6, 8)).astype("u2")  # (z, y, x)
SHAPE = PLANES.shape[::-1]


def cut(array, ranges):
    (left, right), (top, bottom), (first, last) = ranges
    return array[first:last, top:bottom, left:right]


def makeVolume(depth=4, array=PLANES, readBlock=None):
    readBlock = readBlock or partial(cut, array)
    return ChunkedVolume(None, (), array.shape[::-1], array.dtype.newbyteorder("="), None, depth, readBlock)


def noteRanges(depth, region, planeCount, shape=SHAPE):
    """Walk over a region and note which planes are decoded together."""
    read = []

    def readBlock(ranges):
        read.append(ranges[2])
        return cut(PLANES, ranges)

    for _ in makeVolume(depth, readBlock=readBlock).slabs(region, planeCount):
        pass
    return read


@pytest.mark.parametrize("group", [1, 500, 1 << 25])
@pytest.mark.parametrize("layer", [1, 300, 1 << 28])
@pytest.mark.parametrize("depth", [1, 4, 7, 23, 64])
def testSlabsAreThePartsOfTheArray(monkeypatch, depth, layer, group):
    monkeypatch.setattr(chunked, "LAYER_BYTES", layer)
    monkeypatch.setattr(chunked, "GROUP_BYTES", group)
    volume = makeVolume(depth)
    np.testing.assert_array_equal(volume.read(), PLANES.T)
    region = (1, 7), (None, 5), (3, 22)
    expected = PLANES.T[1:7, :5, 3:22]
    np.testing.assert_array_equal(volume.read(region), expected)
    for count in (1, 3, 4, 16, 99):
        blocks = list(volume.slabs(region, count))
        assert all(block.flags.f_contiguous and block.flags.owndata for block in blocks)
        assert [block.shape[2] for block in blocks[:-1]] == [count] * (len(blocks) - 1)
        np.testing.assert_array_equal(np.concatenate(blocks, axis=2), expected)


@pytest.mark.parametrize("kind", [">u2", ">f4", "?", "f2"])
def testVoxelsGetTheTypeOfTheVolume(kind):
    array = (PLANES % 2).astype(kind)
    native = {"?": "u1", "f2": "f4"}.get(kind, np.dtype(kind).newbyteorder("="))
    volume = ChunkedVolume(None, (), SHAPE, np.dtype(native), None, 4, partial(cut, array))
    (block,) = volume.slabs(planeCount=23)
    assert block.dtype == native and block.dtype.isnative
    np.testing.assert_array_equal(block, array.T.astype(native))


def testChunksAreDecodedOnceWhateverTheSlabs(monkeypatch):
    monkeypatch.setattr(chunked, "GROUP_BYTES", 1)
    layers = [(0, 4), (4, 8), (8, 12), (12, 16), (16, 20), (20, 23)]
    for count in (1, 3, 4, 5, 16, 23):
        assert noteRanges(4, None, count) == layers
    assert noteRanges(4, ((0, 8), (0, 6), (6, 13)), 2) == [(6, 8), (8, 12), (12, 13)]


def testThinLayersAreReadTogether(monkeypatch):
    planeBytes = 8 * 6 * 2
    monkeypatch.setattr(chunked, "GROUP_BYTES", 10 * planeBytes)
    assert noteRanges(1, None, 2) == [(0, 10), (10, 20), (20, 23)]
    assert noteRanges(4, None, 2) == [(0, 8), (8, 16), (16, 23)]


def testLayersThatAreTooThickAreCutIntoEqualPartsAtTheirSeams(monkeypatch):
    planeBytes = 8 * 6 * 2
    monkeypatch.setattr(chunked, "GROUP_BYTES", 1)
    monkeypatch.setattr(chunked, "LAYER_BYTES", 8 * planeBytes)
    assert noteRanges(10, None, 23) == [(0, 5), (5, 10), (10, 15), (15, 20), (20, 23)]
    monkeypatch.setattr(chunked, "LAYER_BYTES", 1)
    assert noteRanges(10, None, 23) == [(z, z + 1) for z in range(23)]


@pytest.mark.parametrize("depth", [1, 8, 64])
def testMemoryHoldsABlockAndALayer(monkeypatch, depth):
    side, count, layer = 256, 64, 8  # planes of 64 KiB
    monkeypatch.setattr(chunked, "LAYER_BYTES", layer * side**2)
    monkeypatch.setattr(chunked, "GROUP_BYTES", layer * side**2)

    def readBlock(ranges):
        return np.ones([stop - start for start, stop in reversed(ranges)], "u1")

    volume = ChunkedVolume(None, (), (side, side, count), np.dtype("u1"), None, depth, readBlock)
    tracemalloc.start()
    for block in volume.slabs(planeCount=16):
        del block
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (16 + layer) * side**2 <= peak < (16 + layer + 2) * side**2


def testNothingIsReadBeforeTheFirstSlabAndNoMoreThanItNeeds(monkeypatch):
    monkeypatch.setattr(chunked, "GROUP_BYTES", 1)
    read = []

    def readBlock(ranges):
        read.append(ranges[2])
        return cut(PLANES, ranges)

    slabs = makeVolume(4, readBlock=readBlock).slabs(None, 2)
    assert read == []
    next(slabs)
    assert read == [(0, 4)]


def testARegionOutsideOrNoPlanesAreRefusedAtTheCall():
    volume = makeVolume()
    with pytest.raises(PipelineError, match="leaves the volume"):
        volume.slabs(((0, 9), (0, 6), (0, 23)))
    with pytest.raises(ValueError, match="planeCount must be 1 or more, not 0"):
        volume.slabs(None, 0)


def testTooLittleMemoryIsOneLine():
    def readBlock(ranges):
        raise MemoryError

    volume = ChunkedVolume("a.h5", (), SHAPE, np.dtype("u2"), None, 4, readBlock)
    with pytest.raises(PipelineError, match="a.h5: does not fit in memory; choose a smaller region"):
        volume.read()


def testAVolumeTravelsToOtherProcesses():
    volume = pickle.loads(pickle.dumps(makeVolume()))
    np.testing.assert_array_equal(volume.read(), PLANES.T)
