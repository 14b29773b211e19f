"""The result that grows in place: its bytes, whatever the order, and full disks."""

import gzip

import nrrd
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import engine.base.files
import engine.formats.growing
from engine.base.errors import PipelineError
from engine.formats.growing import (
    GrowingVolume,
    createGrowing,
    decodeProbability,
    describeScale,
    encodeProbability,
    explainedWriting,
)

SHAPE = (5, 4, 6)
HEADER = {"space": "left-posterior-superior", "space directions": np.eye(3) * 0.5, "note": "kept"}


def makeProbability(shape=SHAPE):
    """Probabilities (z, y, x) from 0 to 1."""
    return np.linspace(0, 1, np.prod(shape), dtype=np.float32).reshape(shape[::-1])


def fill(path, planes, dtype="float32", encoding="raw"):
    createGrowing(path, SHAPE, dtype, HEADER | describeScale(dtype))
    with GrowingVolume(path) as volume:
        for z in range(0, len(planes), 2):
            volume.write(planes[z : z + 2], z, 0, 0)
        volume.finish(encoding)


@pytest.mark.parametrize("encoding", ["raw", "gzip"])
@pytest.mark.parametrize("dtype", ["float32", "uint8", "uint16"])
def testWrittenVolumeIsReadByAnotherReader(tmp_path, dtype, encoding):
    planes = makeProbability()
    fill(tmp_path / "a.nrrd", planes, dtype, encoding)
    voxels, header = nrrd.read(str(tmp_path / "a.nrrd"))
    assert voxels.dtype == dtype and header["encoding"] == encoding
    assert header["note"] == "kept" and header["space directions"][0, 0] == 0.5
    levels = 0 if dtype == "float32" else np.iinfo(dtype).max
    scale = levels or 1
    assert abs(voxels.T / np.float64(scale) - planes).max() <= (0.5 / levels if levels else 0) + 1e-7
    assert [path.name for path in tmp_path.iterdir()] == ["a.nrrd"]
    if levels:
        assert header["probability"] == f"value / {levels}"
        assert (header["old min"], header["old max"]) == (0, 1)


def testGzipOfEqualVoxelsIsTheSameFile(tmp_path):
    for name in ("a.nrrd", "b.nrrd"):
        fill(tmp_path / name, makeProbability(), "uint8", "gzip")
    assert (tmp_path / "a.nrrd").read_bytes() == (tmp_path / "b.nrrd").read_bytes()
    _, data = (tmp_path / "a.nrrd").read_bytes().split(b"\n\n", 1)
    assert len(gzip.decompress(data)) == np.prod(SHAPE)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(values=st.lists(st.floats(0, 1, width=32), min_size=1, max_size=20), dtype=st.sampled_from("BH"))
def testScaledProbabilitiesAreTheNearestSteps(values, dtype):
    planes = np.array(values, np.float32)
    steps = np.iinfo(dtype).max
    encoded = encodeProbability(planes, dtype)
    assert np.array_equal(encoded[planes == 1], np.full((planes == 1).sum(), steps))
    assert not encoded[planes == 0].any()
    assert abs(decodeProbability(encoded) - planes).max() <= 0.5 / steps + 1e-6


def testTilesLandWhereTheyBelong(tmp_path):
    planes, path = makeProbability(), tmp_path / "a.nrrd"
    createGrowing(path, SHAPE, "float32", {})
    with GrowingVolume(path) as volume, GrowingVolume(path) as other:  # of another process
        for rows in ((0, 1), (1, 4)):
            for columns in ((0, 3), (3, 5)):
                for z, writer in ((4, volume), (0, other), (2, volume)):
                    part = planes[z : z + 2, slice(*rows), slice(*columns)]
                    writer.write(part, z, rows[0], columns[0])
        volume.finish("raw")
    assert np.array_equal(nrrd.read(str(path))[0].T, planes)


def testAFullDiskLeavesNothing(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(engine.formats.growing, "reserveSpace", refuse)
    with pytest.raises(PipelineError, match="a.nrrd: the disk is full"):
        with explainedWriting(tmp_path / "a.nrrd"):
            createGrowing(tmp_path / "a.nrrd", SHAPE, "float32", HEADER)
    assert list(tmp_path.iterdir()) == []
