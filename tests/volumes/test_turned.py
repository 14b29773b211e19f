"""Volumes that are read with their axes turned, against NumPy."""

import itertools

import numpy as np
import pytest
from sampleVolumes import writeText

from engine.base.errors import PipelineError
from engine.formats.opening import openVolume
from engine.volumes import turned as module
from engine.volumes.frame import Turn
from engine.volumes.turned import TurnedVolume

SHAPE = (5, 4, 7)
FLIPS = list(itertools.product((False, True), repeat=3))
REGIONS = [None, ((1, 5), (0, 3), (2, 7)), ((0, 5), (0, 4), (3, 4)), ((2, 3), (1, 2), (0, 7))]
VALUES = np.random.default_rng(5).integers(0, 60000, SHAPE).astype(np.uint16)


@pytest.fixture(scope="module", params=["raw", "gzip", "tif"])
def source(request, tmp_path_factory):
    """Write a volume in a format."""
    path = tmp_path_factory.mktemp("turned") / "a.nrrd"
    if request.param == "tif":
        import tifffile

        path = path.with_suffix(".tif")
        tifffile.imwrite(path, VALUES.T, compression="zlib", photometric="minisblack")
    else:
        import gzip

        data = VALUES.astype(">u2").tobytes("F")
        lines = ["NRRD0004", "type: uint16", "dimension: 3", "sizes: 5 4 7", "endian: big"]
        lines += [f"encoding: {request.param}"]
        writeText(path, lines, gzip.compress(data) if request.param == "gzip" else data)
    return openVolume(path)


def turnPlain(array, turn):
    """Turn an array as NumPy does."""
    return np.flip(array.transpose(turn.axes), [axis for axis in range(3) if turn.flips[axis]])


def cut(array, region):
    return array[tuple(slice(*pair) for pair in region or ((None, None),) * 3)]


@pytest.mark.parametrize("planeCount", [1, 3, 16])
@pytest.mark.parametrize("flips", FLIPS, ids=str)
def testFlipsReadAsNumPyFlips(source, flips, planeCount):
    turn = Turn((0, 1, 2), flips)
    volume, whole = TurnedVolume(source, turn), turnPlain(VALUES, turn)
    assert (volume.shape, volume.dtype) == (SHAPE, source.dtype)
    assert (volume.path, volume.files, volume.header) == (source.path, source.files, {})
    for region in REGIONS:
        expected = cut(whole, region)
        np.testing.assert_array_equal(volume.read(region), expected)
        slabs = list(volume.slabs(region, planeCount))
        assert all(slab.flags.f_contiguous and slab.flags.owndata for slab in slabs)
        assert all(slab.shape[2] == planeCount for slab in slabs[:-1])
        np.testing.assert_array_equal(np.concatenate(slabs, axis=2), expected)


@pytest.mark.parametrize("axes", list(itertools.permutations(range(3))), ids=str)
@pytest.mark.parametrize("flips", FLIPS, ids=str)
def testAxesInAnotherOrderReadAsNumPyTransposes(source, axes, flips):
    turn = Turn(axes, flips)
    volume, expected = TurnedVolume(source, turn), turnPlain(VALUES, Turn(axes, flips))
    assert volume.shape == expected.shape
    np.testing.assert_array_equal(volume.read(), expected)
    np.testing.assert_array_equal(np.concatenate(list(volume.slabs(planeCount=2)), axis=2), expected)
    region = tuple((1, side - 1) for side in volume.shape)
    np.testing.assert_array_equal(volume.read(region), cut(expected, region))
    np.testing.assert_array_equal(
        np.concatenate(list(volume.slabs(region, 2)), axis=2), cut(expected, region)
    )


@pytest.mark.parametrize("flips", FLIPS, ids=str)
def testTwiceTheSameFlipsGiveTheVolumeBack(source, flips):
    turn = Turn((0, 1, 2), flips)
    np.testing.assert_array_equal(TurnedVolume(TurnedVolume(source, turn), turn).read(), VALUES)


class Watched:
    """A volume that notes how large the blocks are that are asked of it."""

    def __init__(self, source):
        self._source, self.shape, self.dtype, self.planes = source, source.shape, source.dtype, []

    def slabs(self, region, planeCount):
        self.planes.append((region[2], planeCount))
        return self._source.slabs(region, planeCount)


def testPlanesOfTheOtherEndAreReadInGroupsOfBoundedSize(source, monkeypatch):
    monkeypatch.setattr(module, "GROUP_BYTES", 5 * 4 * 2 * 3)  # three planes
    watched = Watched(source)
    slabs = list(TurnedVolume(watched, Turn(flips=(False, False, True))).slabs(planeCount=1))
    np.testing.assert_array_equal(np.concatenate(slabs, axis=2), VALUES[:, :, ::-1])
    assert watched.planes == [((4, 7), 3), ((1, 4), 3), ((0, 1), 1)]
    watched.planes.clear()
    slabs = list(TurnedVolume(watched, Turn(flips=(True, True, False))).slabs(planeCount=2))
    np.testing.assert_array_equal(np.concatenate(slabs, axis=2), VALUES[::-1, ::-1])
    assert watched.planes == [((0, 7), 2)]  # one walk from the near end


def testRegionThatLeavesTheTurnedVolumeIsRefusedAtTheCall(source):
    volume = TurnedVolume(source, Turn((2, 1, 0), (True, False, False)))
    with pytest.raises(PipelineError, match="leaves the volume"):
        volume.slabs(((0, 8), (0, 4), (0, 5)))
    with pytest.raises(PipelineError, match="is empty"):
        volume.read(((3, 3), (0, 4), (0, 5)))
    with pytest.raises(ValueError, match="planeCount"):
        volume.slabs(planeCount=0)
