"""Voxels without data have probability 0, and nothing else changes."""

import random

import nrrd
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scans import hide, makeGreys, outsideOf
from streams import ArraySink, openOpenvino, randomNetwork

from engine.formats.opening import openVolume
from engine.prediction.job import Job
from engine.prediction.layout import Layout, tileSection
from engine.prediction.noData import NoDataSink
from engine.prediction.tasks import listTasks
from engine.volumes.scale import Scale
from functions import predictProbability

SHAPE = (48, 40, 56)
REGION = ((8, 41), (3, 40), (11, 54))
SIZE = tuple(stop - start for start, stop in REGION[::-1])
OUTSIDE = outsideOf(SHAPE)
VALUES = {"lowest float": -3.4028234663852886e38, "NaN": np.nan, "infinite": np.inf, "number": 8000.0}
LAYOUTS = {"one tile": Layout(8, 1, 1, 0.0), "tiles": Layout(4, 2, 3, 0.0)}


@pytest.fixture(scope="module")
def network():
    return randomNetwork(2, 2)


def hidden(value):
    """Grey values with a region that holds none, and a single voxel of the same value."""
    image = hide(makeGreys("float32", shape=SHAPE), OUTSIDE, value)
    image[30, 20, 30] = value
    return image


def predict(network, path, layout, scale, tasks=None, sink=None):
    """Predict a region into an array (z, y, x)."""
    geometry, sink = network.geometry(SIZE), sink or ArraySink(SIZE)
    job = Job(str(path), REGION, scale, geometry, layout)
    stream = openOpenvino(network, layout.slab, tileSection(geometry, layout))
    for part in tasks or [None]:
        predictProbability(openVolume(path), job, stream, sink, part and [part])
    return sink


@pytest.mark.parametrize("encoding", ["raw", "gzip"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", VALUES)
def testProbabilitiesAreZeroWithoutDataAndElsewhereAsBefore(network, tmp_path, kind, layout, encoding):
    image, value = hidden(VALUES[kind]), VALUES[kind]
    scale = Scale(8000.0, 600.0, None, None, value, 8100.0)
    nrrd.write(str(tmp_path / "scan.nrrd"), image, {"encoding": encoding})
    nrrd.write(str(tmp_path / "mended.nrrd"), scale.mend(image), {"encoding": encoding})
    expected = predict(network, tmp_path / "mended.nrrd", LAYOUTS[layout], Scale(8000.0, 600.0)).array
    sink = predict(network, tmp_path / "scan.nrrd", LAYOUTS[layout], scale)
    isNone = ~np.isfinite(image) if not np.isfinite(value) else image == np.float32(value)
    isNone = isNone[tuple(slice(*axis) for axis in REGION)].T
    assert (sink.counts == 1).all() and isNone[19, 17, 22] and 0.01 < isNone.mean() < 0.9
    assert (sink.array[isNone] == 0).all()
    np.testing.assert_array_equal(sink.array[~isNone], expected[~isNone])
    assert expected[isNone].min() > 0 and expected.std() > 0.05


def testTasksInAnyOrderGiveTheSame(network, tmp_path):
    scale = Scale(8000.0, 600.0, None, None, np.nan, 8100.0)
    nrrd.write(str(tmp_path / "scan.nrrd"), hidden(np.nan))
    layout = LAYOUTS["tiles"]
    expected = predict(network, tmp_path / "scan.nrrd", layout, scale).array
    tasks = listTasks(network.geometry(SIZE), layout, 10)
    for seed in range(2):
        random.Random(seed).shuffle(tasks)
        assert tasks != sorted(tasks)
        sink = predict(network, tmp_path / "scan.nrrd", layout, scale, tasks)
        np.testing.assert_array_equal(sink.array, expected)
        assert (sink.array == 0).any() and not np.isnan(sink.array).any()


def testWhatIsFinishedIsNotWrittenAgain(network, tmp_path):
    scale = Scale(8000.0, 600.0, None, None, np.nan, 8100.0)
    nrrd.write(str(tmp_path / "scan.nrrd"), hidden(np.nan))
    layout, half = LAYOUTS["tiles"], listTasks(network.geometry(SIZE), LAYOUTS["tiles"])[:3]
    first = predict(network, tmp_path / "scan.nrrd", layout, scale, half)
    second = predict(network, tmp_path / "scan.nrrd", layout, scale, sink=first.afterKill())
    whole = predict(network, tmp_path / "scan.nrrd", layout, scale).array
    np.testing.assert_array_equal(second.array, whole)
    assert second.counts.sum() == whole.size - first.counts.sum()


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    """Open a small volume of whole numbers, a third of which is 65535."""
    image = np.random.default_rng(6).integers(1, 100, (11, 9, 13)).astype(np.uint16)
    image[np.random.default_rng(7).random(image.shape) < 0.3] = 65535
    path = tmp_path_factory.mktemp("scan") / "scan.nrrd"
    nrrd.write(str(path), image)
    return openVolume(path), image


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6))
def testBlocksMayComeFromAnywhereInAnyOrder(scan, seed):
    volume, image = scan
    generator, region = np.random.default_rng(seed), ((2, 11), (1, 8), (3, 13))
    part = image[tuple(slice(*axis) for axis in region)].T
    sink = ArraySink(part.shape)
    other = NoDataSink(sink, volume, region, 65535.0)
    probability = generator.uniform(0.1, 1, part.shape).astype(np.float32)
    row, column, depth = generator.integers(0, 5), generator.integers(0, 6), generator.integers(1, 4)
    place = np.s_[row : row + 2, column : column + 3]
    starts = list(range(0, len(part), depth))
    for plane in starts if seed % 2 else generator.permutation(starts).tolist():
        other.write(probability[plane : plane + depth][:, *place], plane, int(row), int(column))
    expected = np.where(part == 65535, 0, probability)[:, *place]
    np.testing.assert_array_equal(sink.array[:, *place], expected)
    assert sink.array.dtype == np.float32 and sink.counts.sum() == expected.size
