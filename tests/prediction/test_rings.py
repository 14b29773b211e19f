"""Rings against a plain list of all planes ever written."""

import networks
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.network.plan import sideMultiple
from engine.prediction.rings import ALIGNMENT, Ring, alignedZeros, makeRings, planesOf
from engine.prediction.stream import Window, describeStream, listWindows
from functions import describeUNet

PLANE = (1, 2, 1)  # rows, columns, channels


class PlainRing:
    """All planes ever written, by number; zero where none was."""

    def __init__(self, planes, lag):
        self.planes, self.lag, self.written = planes, lag, {}

    def write(self, step, block):
        for offset, plane in enumerate(block):
            self.written[step * self.planes - self.lag + offset] = plane.copy()

    def window(self, step, window):
        start = step * self.planes + window.start
        nothing = np.zeros(PLANE, np.float32)
        return np.array([self.written.get(start + offset, nothing) for offset in range(window.count)])


def compareWithPlain(ring, planes, lag, windows, first, stepCount):
    """Write planes that all differ, and read every window after every step."""
    plain, generator = PlainRing(planes, lag), np.random.default_rng(stepCount)
    for step in range(first, first + stepCount):
        block = generator.uniform(1, 2, (planes, *PLANE)).astype(np.float32)
        slot = ring.slot(step)
        assert slot.shape == block.shape
        slot[...] = block
        plain.write(step, block)
        for window in windows:
            received = ring.window(step, window)
            np.testing.assert_array_equal(received, plain.window(step, window), f"{window}, step {step}")
            assert received.flags.c_contiguous
            assert np.shares_memory(received, ring.storage)


def drawWindow(draw, planes, lag):
    """Draw a window that ends with or before the newest plane."""
    count = draw(st.integers(1, 2 * planes + 3))
    oldest = draw(st.integers(max(count - planes, 0), count + 5 * planes))
    return Window(-lag - oldest, count)


@st.composite
def rings(draw):
    planes, lag = draw(st.integers(1, 8)), draw(st.integers(0, 12))
    windows = [drawWindow(draw, planes, lag) for _ in range(draw(st.integers(1, 3)))]
    return planes, lag, windows


@settings(max_examples=300, deadline=None, derandomize=True)
@given(ring=rings(), first=st.integers(0, 20), stepCount=st.integers(1, 25))
def testWindowsAreThoseOfAPlainList(ring, first, stepCount):
    planes, lag, windows = ring
    ring = Ring(planes, lag, PLANE, np.float32, windows)
    assert ring.storage.ctypes.data % ALIGNMENT == 0
    compareWithPlain(ring, planes, lag, windows, first, stepCount)
    ring.clear()
    compareWithPlain(ring, planes, lag, windows, 0, 3)  # nothing of the first volume is left


def testLateWindowOverSeveralSlotsBefore():
    window = Window(-3, 3)
    compareWithPlain(Ring(1, 0, PLANE, np.float32, [window]), 1, 0, [window], 0, 6)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(ring=rings())
def testMemoryIsWhatTheWindowsSpanAndAFewSlots(ring):
    planes, lag, windows = ring
    span = max(-(window.start + lag) for window in windows) + planes  # from the oldest read to the newest
    slack = 2 * planes + max(max(window.count - planes, 0) for window in windows)
    held = planesOf(planes, lag, windows)
    assert span <= held <= span + slack
    assert held == len(Ring(planes, lag, PLANE, np.float32, windows).storage)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(planes=st.integers(1, 16), lag=st.integers(0, 50), past=st.integers(0, 3))
def testRingOfTheNewestPlanesAloneHasNoSlack(planes, lag, past):
    assert planesOf(planes, lag, [Window(-lag - past, planes + past)]) == planes + past


@pytest.mark.parametrize("levels", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("cells", [1, 2, 3, 4])
def testWindowsOfTheStreamAreThoseOfAPlainList(levels, cells):
    plan = describeUNet(1, levels)
    steps, slab = describeStream(plan, networks.randomWeights(plan)), cells * sideMultiple(plan)
    windows = listWindows(steps, slab)
    for step in steps[:-1]:
        planes, found = slab >> step.level, windows[step.name]
        ring = Ring(planes, step.lag, PLANE, np.float32, found)
        compareWithPlain(ring, planes, step.lag, found, 0, 40)
        span = max(-(window.start + step.lag) for window in found) + planes
        assert len(ring.storage) <= span + 2 * planes


@pytest.mark.parametrize(("dtype", "byteCount"), [(np.float32, 4), (np.uint16, 2), (np.float16, 2)])
def testRingsOfANetwork(dtype, byteCount):
    plan = describeUNet(2, 3)
    steps = describeStream(plan, networks.randomWeights(plan))
    made = makeRings(steps, 8, (12, 20), dtype)
    assert list(made) == [step.name for step in steps[:-1]]
    for step in steps[:-1]:
        ring = made[step.name]
        rows, columns = 12 >> step.level, 20 >> step.level
        assert ring.slot(0).shape == (8 >> step.level, rows, columns, step.channels)
        assert ring.storage.itemsize == (4 if step.kind == "input" else byteCount)
        assert ring.storage.ctypes.data % ALIGNMENT == 0
        assert not ring.storage.any()


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    shape=st.lists(st.integers(0, 5), min_size=1, max_size=4),
    dtype=st.sampled_from([np.uint8, np.uint16, np.float16, np.float32, np.float64]),
)
def testAlignedZeros(shape, dtype):
    zeros = alignedZeros(tuple(shape), dtype)
    assert zeros.shape == tuple(shape) and zeros.dtype == dtype
    assert zeros.ctypes.data % ALIGNMENT == 0 or not zeros.size
    assert not zeros.any() and zeros.flags.c_contiguous and zeros.flags.writeable
