"""Volumes, and NRRD files of them: written with the header of the engine, or line by line."""

import pickle

import numpy as np
import pytest

from engine.base.errors import PipelineError
from engine.formats.nrrdHeaders import describeData, formatHeader
from engine.formats.opening import openVolume

SHAPE = (5, 4, 3)
OBLIQUE = np.array(
    [[0.8, 0.6, 0.0], [-1.2, 1.6, 0.0], [0.0, 0.0, -0.5]]
)  # second and third axis point backwards
DATA = bytes(range(60))
EXPECTED = np.arange(60, dtype=np.uint8).reshape(SHAPE, order="F")
TYPES = ("uint8", "int16", "uint16", "int32", "uint64", "float32", "float64", ">u2", ">f4")


def writeVolume(path, array, header):
    """Write an array (x, y, z) as raw NRRD with the header that the engine gives its results."""
    text = formatHeader(describeData(header, array.shape, array.dtype))
    path.write_bytes(text + array.astype(np.dtype(array.dtype).newbyteorder("<")).tobytes("F"))


def sampleArray(dtype, shape=SHAPE):
    """Deterministic values that use every byte of the type."""
    values = np.random.default_rng(7).integers(0, 256, np.prod(shape) * np.dtype(dtype).itemsize, np.uint8)
    array = values.view(dtype).reshape(shape, order="F")
    return np.nan_to_num(array, nan=1.5, posinf=2.5, neginf=-2.5).astype(dtype)


def writeText(path, lines, data=b"", ending=b"\n"):
    """Write a file by hand: header lines, empty line, data."""
    text = [line.encode() if isinstance(line, str) else line for line in lines]
    path.write_bytes(ending.join([*text, b"", b""]) + data)
    return path


def headerLines(**changes):
    """Lines of a good header of 60 bytes of data; underscores stand for spaces, None drops a line."""
    fields = {"type": "uint8", "dimension": "3", "sizes": "5 4 3", "encoding": "raw"}
    fields |= {name.replace("_", " "): value for name, value in changes.items()}
    return ["NRRD0005", *(f"{name}: {value}" for name, value in fields.items() if value is not None)]


def refusal(path, region=None):
    """Text of the error that a file gets, when opened or when read."""
    with pytest.raises(PipelineError) as caught:
        openVolume(path).read(region)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def refuse(path):
    """Text of the error that a file gets before a voxel is read."""
    with pytest.raises(PipelineError) as caught:
        openVolume(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def checkVolume(volume, expected):
    """Compare a volume with its voxels (x, y, z): whole, in part, slab by slab, in another process."""
    native = [part.dtype.newbyteorder("=") for part in (volume, expected)]
    assert volume.shape == expected.shape and native[0] == native[1]
    x, y, z = expected.shape
    region = (1, x - 1), (0, y - 1), (1, z)
    part = expected[1 : x - 1, : y - 1, 1:]
    for opened in (volume, pickle.loads(pickle.dumps(volume))):
        np.testing.assert_array_equal(opened.read(), expected)
        np.testing.assert_array_equal(opened.read(region), part)
        for count in (1, 2, 5, 99):
            blocks = list(opened.slabs(region, count))
            assert all(block.flags.f_contiguous and block.dtype == volume.dtype for block in blocks)
            np.testing.assert_array_equal(np.concatenate(blocks, axis=2), part)
    with pytest.raises(PipelineError, match="leaves the volume"):
        volume.slabs(((0, x + 1), (0, 1), (0, 1)))


def randomVolume(dtype: str, order: str = "F", shape=(7, 10, 13), seed=0) -> np.ndarray:
    """Values far from zero with a small spread: the hard case for a standard deviation."""
    values = 200 + 20 * np.random.default_rng(seed).random(shape)
    return np.asarray(values, dtype=dtype, order=order)
