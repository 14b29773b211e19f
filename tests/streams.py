"""Streams through arrays: where planes come from, where they go, and the one pass that they must equal.

Arrays are (plane, row, column) = (z, y, x), as in engine/prediction/tiles.py.
"""

import functools
import threading
from dataclasses import dataclass

import networks
import numpy as np
import pytest

import engine.prediction.openvinoStream
from engine.network.plan import VARIABLES, haloOf, sideMultiple, variableShapes
from engine.prediction.layout import Geometry, Layout, tileSection
from engine.prediction.openvinoStream import OpenvinoStream
from engine.prediction.stream import describeStream
from engine.prediction.tasks import mergeTasks
from engine.prediction.tiles import predictVolume
from functions import buildModel, describeUNet

TOLERANCE = 5e-5  # largest difference of two probabilities computed in float32 in another order

# ------------------------------------------------------------------------------------------------- networks


@dataclass(frozen=True, eq=False)
class Network:
    """A network in every form that the tests need."""

    plan: list
    weights: dict
    steps: list
    model: object  # of Keras

    @property
    def cell(self):
        """Voxels that sides must be multiples of."""
        return sideMultiple(self.plan)

    def geometry(self, size):
        """Geometry of a region for this network."""
        return Geometry(tuple(size), self.cell, haloOf(self.plan))


def makeNetwork(plan, weights):
    """Derive all forms of a network."""
    return Network(plan, weights, describeStream(plan, weights), buildModel(plan, weights))


@functools.cache
def randomNetwork(width, levels, seed=0):
    """Random network whose logits have mean 0 and standard deviation 2: probabilities all over 0..1."""
    plan = describeUNet(width, levels)
    weights = networks.randomWeights(plan, seed)
    model = buildModel(plan, weights)
    features = type(model)(model.input, model.get_layer("probability").input)
    volume = networks.randomVolume(*[max(4 * sideMultiple(plan), 24)] * 3, seed=seed)
    kernel = weights["probability"]["kernel"]
    logits = np.asarray(features(volume[np.newaxis, ..., np.newaxis])) @ kernel[0, 0, 0]
    scale = 2 / logits.std()
    weights["probability"] = {"kernel": kernel * scale, "bias": np.float32([-logits.mean() * scale])}
    return makeNetwork(plan, weights)


@functools.cache
def shiftNetwork(levels, tap):
    """Network that only moves values: every convolution takes one tap (plane, row, column) of its kernel.

    Its output comes from the very edge of the network's view: one voxel of halo or one plane of lag too few
    changes everything.
    """
    plan, weights = describeUNet(1, levels), {}
    for layer, shapes in variableShapes(plan).items():
        weights[layer] = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
        if tuple(shapes) == VARIABLES["normalisation"]:
            weights[layer]["gamma"][:] = 1
            weights[layer]["moving_variance"][:] = 1 - networks.EPSILON
        elif layer == "probability":
            weights[layer]["kernel"][:] = 6
            weights[layer]["bias"][:] = -3
        else:
            *_, inputs, outputs = shapes["kernel"]  # what was up-sampled comes last
            weights[layer]["kernel"][*tap[::-1], inputs - 1, :] = 1
    return makeNetwork(plan, weights)


def patchyVolume(size, cell, seed=0):
    """Values 0..1 that differ from pooling cell to pooling cell, more than within one."""
    generator = np.random.default_rng(seed)
    values = generator.uniform(0.2, 1, [-(-side // cell) for side in size])
    for axis in range(3):
        values = np.repeat(values, cell, axis)
    values = values[tuple(map(slice, size))] * generator.uniform(0.9, 1, size)
    return values.astype(np.float32)


def onePass(network, volume):
    """Mirror at the far ends, one pass of Keras, crop: what every prediction must equal."""
    padded = np.pad(volume, [(0, -side % network.cell) for side in volume.shape], "symmetric")
    return networks.passOnce(network.model, padded.T).T[tuple(map(slice, volume.shape))]


# ----------------------------------------------------------------------------------- where planes come from


def readFrom(volume):
    """Give planes of an array as a file would."""

    def readPlanes(plane, rows, columns, slab):
        for start in range(plane, len(volume), slab):
            yield volume[start : start + slab, slice(*rows), slice(*columns)].copy()

    return readPlanes


# ------------------------------------------------------------------------------------------ where they go


class SinkError(Exception):
    """A disk that gives up."""


class ArraySink:
    """Takes probabilities into an array and counts how often each voxel comes.

    Parameters
    ----------
    size : tuple of int
        Planes, rows, columns.
    commitEvery : int
        Only every so manieth commit is noted, as a file notes them every few seconds.
    failAt : int, optional
        Number of the write that raises.
    error : Exception, optional
        What it raises.
    """

    def __init__(self, size, commitEvery=1, failAt=None, error=None):
        self.array, self.counts = np.full(size, np.nan, np.float32), np.zeros(size, int)
        self.finished, self._survives = [], self.array.copy()
        self.commitEvery, self.failAt, self.error = commitEvery, failAt, error or SinkError("disk full")
        self.writes, self.commits = [], []

    def write(self, planes, plane, row, column):
        self.writes.append((plane, row, column, planes.shape))
        if len(self.writes) - 1 == self.failAt:
            raise self.error
        place = tuple(
            slice(start, start + side) for start, side in zip((plane, row, column), planes.shape, strict=True)
        )
        assert self.array[place].shape == planes.shape
        self.array[place] = planes
        self.counts[place] += 1

    def commit(self, task):
        self.commits.append(task)
        if len(self.commits) % self.commitEvery == 0:
            self.finished, self._survives = mergeTasks(self.commits + self.finished), self.array.copy()

    def afterKill(self, failAt=None):
        """Give what another process finds after this one was killed: what was committed, and no more."""
        other = ArraySink(self.array.shape, self.commitEvery, failAt, self.error)
        other.finished, other.array[...] = self.finished, self._survives
        return other


# ----------------------------------------------------------------------------------------------- whole runs


@functools.lru_cache(64)
def openOpenvino(network, slab, section, precision="float32"):
    """Compile a stream, or take the one compiled before."""
    return OpenvinoStream(network.steps, slab, section, precision)


@functools.lru_cache(32)
def openWithLanes(lanes, network, slab, section, precision="float32"):
    """Open the stream of a processor with so many float32 numbers in a register; any can compute it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine.prediction.openvinoStream, "vectorLanes", lambda: lanes)
        return OpenvinoStream(network.steps, slab, section, precision)


def predictArray(network, volume, layout, makeStream=openOpenvino, sink=None, precision="float32"):
    """Predict an array in slabs of planes and tiles of rows and columns; gives the sink."""
    geometry = network.geometry(volume.shape)
    stream = makeStream(network, layout.slab, tileSection(geometry, layout), precision)
    sink = sink or ArraySink(volume.shape)
    predictVolume(readFrom(volume), geometry, layout, stream, sink)
    return sink


def makeLayout(slab, rowTiles=1, columnTiles=1):
    """Layout whose memory nobody asks for."""
    return Layout(slab, rowTiles, columnTiles, 0.0)


def isHanging(function, seconds=60):
    """Run a function in a thread; give whether it is still running after so long, and what it raised."""
    raised = []

    def run():
        try:
            function()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    return thread.is_alive(), raised[0] if raised else None


class DelayStream:
    """A network that changes nothing: gives the planes of `lag` planes ago, NaN where none was fed."""

    def __init__(self, slab, lag):
        self.slab, self.lag, self.planeCount, self.known = slab, lag, 0, {}

    def restart(self, planeCount):
        self.known, self.planeCount = {}, planeCount

    def feed(self, index, planes):
        assert planes.dtype == np.float32 and len(planes) == self.slab
        for number, plane in enumerate(planes, index * self.slab):
            assert number < self.planeCount or not plane.any(), "zeros are promised after the last plane"
            self.known[number] = plane.copy()
        nothing = np.full(planes.shape[1:], np.nan, np.float32)
        first = index * self.slab - self.lag
        return np.stack([self.known.get(first + offset, nothing) for offset in range(self.slab)])
