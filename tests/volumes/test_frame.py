"""Volumes that lie in the same place, and volumes that do not."""

import itertools

import numpy as np
import pytest

from engine.formats.nrrdGeometry import readFrame
from engine.volumes.frame import Turn, compareFrames, findTurn, listAssumptions, turnFrame

SHAPE = (100, 80, 60)

OBLIQUE = np.array([[0.0, 0.5, 0.0], [-0.3, 0.0, 0.4], [0.4, 0.0, 0.3]])
PLACED = {"space": "left-posterior-superior", "space directions": OBLIQUE, "space units": ["um"] * 3}
PLACED["space origin"] = np.array([10.0, -20.0, 30.0])
RAS = {"space": "right-anterior-superior", "space directions": OBLIQUE * [-1, -1, 1]}
RAS["space origin"] = np.array([-10.0, 20.0, 30.0])
WITH_TIME = {"space": "left-posterior-superior-time", "space directions": np.c_[OBLIQUE, np.zeros(3)]}
WITH_TIME |= {"space origin": np.array([10.0, -20.0, 30.0, 7.0]), "space units": ["um", "um", "um", "s"]}


def compare(first: dict, second: dict, shape):
    """Compare the places that two headers tell."""
    return compareFrames(readFrame(first), readFrame(second), shape)


@pytest.mark.parametrize(
    "other",
    [
        PLACED,
        {},
        {"spacings": (np.nan, 1.0, 1.0)},
        {"spacings": (0.5, 0.5, 0.5), "units": ["um"] * 3},
        {"spacings": (500.0, 500.0, 500.0), "units": ["nm"] * 3},
        {"spacings": (0.5, 0.5, 0.5)},
        PLACED | {"space directions": OBLIQUE * 1000, "space units": ["nm"] * 3, "space origin": None},
        PLACED | {"space directions": OBLIQUE + 1e-6},
        PLACED | {"space origin": np.array([10.04, -20.0, 30.0])},
        PLACED | {"space": "LPS"},
        PLACED | {"space": "Left-Posterior-Superior"},
        PLACED | {"space": None, "space dimension": 3},
        PLACED | RAS,
        PLACED | RAS | {"space": "ras"},
        PLACED
        | {"space": "LAS", "space directions": OBLIQUE * [1, -1, 1], "space origin": [10.0, 20.0, 30.0]},
        PLACED | WITH_TIME,
        PLACED | WITH_TIME | {"space": "LPST"},
        PLACED | {"space": "scanner-xyz", "space directions": OBLIQUE[[0, 2, 1]]},  # not comparable
        {name: np.float32(value) if "s " in name else value for name, value in PLACED.items()},
        PLACED | {"space directions": [*OBLIQUE[:2].tolist(), None]},
    ],
)
def testSamePlaceIsNoDifference(other):
    other = {name: value for name, value in other.items() if value is not None}
    assert compare(PLACED, other, SHAPE) is None
    assert compare(other, PLACED, SHAPE) is None


@pytest.mark.parametrize(
    ("other", "what", "received"),
    [
        ({"spacings": (0.5, 0.5, 1.0)}, "size of a voxel", [0.5, 0.5, 1.0]),
        ({"spacings": (1.0, 1.0, 1.0), "units": ["mm"] * 3}, "size of a voxel", [1000.0] * 3),
        (PLACED | {"space directions": -OBLIQUE}, "space directions", (-OBLIQUE).tolist()),
        (PLACED | {"space directions": OBLIQUE[[0, 2, 1]]}, "space directions", OBLIQUE[[0, 2, 1]].tolist()),
        (PLACED | {"space origin": np.array([10.0, -20.0, 30.5])}, "space origin", [10.0, -20.0, 30.5]),
        (PLACED | {"space origin": np.array([10.2, -20.0, 30.0])}, "space origin", [10.2, -20.0, 30.0]),
        (PLACED | {"space": "RAS"}, "space directions", (OBLIQUE * [-1, -1, 1]).tolist()),
        (PLACED | RAS | {"space origin": np.array([10.0, -20.0, 30.0])}, "space origin", [-10.0, 20.0, 30.0]),
        (PLACED | {"space directions": OBLIQUE + 1e-3}, "space directions", (OBLIQUE + 1e-3).tolist()),
    ],
)
def testDifferenceIsNamedWithBothValues(other, what, received):
    named, first, second = compare(PLACED, other, SHAPE)
    assert named == what and np.allclose(second, received)
    assert first == [0.5] * 3 or np.allclose(first, PLACED[what])


def testZeroSpacingIsNotCompared():
    assert compare({"spacings": (0.0, 1.0, 1.0)}, {"spacings": (1.0, 1.0, 1.0)}, SHAPE) is None


def testUnitsThatCannotBeComparedTellNothing():
    nanometres = {"spacings": (50.0,) * 3, "units": ["nm"] * 3}
    pixels, microns = (
        {"spacings": (side,) * 3, "units": [unit] * 3} for side, unit in ((1.0, "pixel"), (0.05, "microns"))
    )
    assert compare(nanometres, pixels, SHAPE) is None  # ImageJ without a calibration
    assert compare(nanometres, microns, SHAPE) is None
    assert compare(pixels, pixels | {"spacings": (2.0,) * 3}, SHAPE) is not None
    assert compare(nanometres, microns | {"spacings": (0.06,) * 3}, SHAPE)[0] == "size of a voxel"


# -------------------------------------------------- the same voxels in another order

TURNS = [
    Turn(axes, flips)
    for axes in itertools.permutations(range(3))
    for flips in itertools.product((False, True), repeat=3)
]


def centres(frame, shape):
    """Centres of all voxels, (x, y, z, 3)."""
    return np.moveaxis(np.indices(shape), 0, -1) @ frame.directions + frame.origin


@pytest.mark.parametrize("turn", TURNS, ids=str)
def testTurnedFramePutsEveryVoxelWhereItWasAndIsFoundAgain(turn):
    frame, shape = readFrame(PLACED), (4, 3, 5)
    turned, sides = turnFrame(frame, shape, turn), tuple(shape[axis] for axis in turn.axes)
    flips = tuple(slice(None, None, -1 if isFlipped else 1) for isFlipped in turn.flips)
    before = np.transpose(centres(frame, shape), (*turn.axes, 3))[flips]
    np.testing.assert_allclose(centres(turned, sides), before, atol=1e-12)
    assert findTurn(turned, frame) == turn
    assert compareFrames(turned, turnFrame(frame, shape, findTurn(turned, frame)), sides) is None
    inRas = turned._replace(
        space="RAS", directions=turned.directions * [-1, -1, 1], origin=turned.origin * [-1, -1, 1]
    )
    assert findTurn(inRas, frame) == turn


@pytest.mark.parametrize(
    "other",
    [
        {},
        {"spacings": (0.5, 0.5, 0.5), "units": ["um"] * 3},
        PLACED | {"space": "scanner-xyz", "space directions": -OBLIQUE},
        PLACED | {"space origin": None, "space directions": -OBLIQUE},
        PLACED | {"space directions": -OBLIQUE * 1.5},
        PLACED | {"space directions": np.diag([0.5, 0.5, 0.5])},  # between the axes of the other
    ],
)
def testNoTurnIsFoundWhereTheFilesDoNotTellOne(other):
    other = {name: value for name, value in other.items() if value is not None}
    assert findTurn(readFrame(PLACED), readFrame(other)) == Turn()


def testRoundedDirectionsStillShowTheirTurn():
    rounded = PLACED | {"space directions": np.float32(-OBLIQUE).astype(float)}
    assert findTurn(readFrame(PLACED), readFrame(rounded)).flips == (True, True, True)


NOT_COMPARABLE = "no unit that can be compared"


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (PLACED, []),
        (PLACED | RAS, []),
        ({}, [(True, "no usable size of a voxel", "the same")]),
        (PLACED | {"space units": None}, [(True, "no unit", "um")]),
        (PLACED | {"space": None, "space dimension": 3}, [(True, "no name of its space", PLACED["space"])]),
        (PLACED | {"space origin": None}, [(True, "no origin in space", "the same")]),
        ({"spacings": (0.5, 0.5, 0.5), "units": ["um"] * 3}, [(True, "no directions in space", "the same")]),
        (
            PLACED | {"space units": ["pixel"] * 3},
            [(True, f"{NOT_COMPARABLE} (pixel, um)", "the same place")],
        ),
    ],
)
def testWhatOnlyOneFrameTellsIsAnAssumption(other, expected):
    other = {name: value for name, value in other.items() if value is not None}
    frames = readFrame(PLACED), readFrame(other)
    assert listAssumptions(*frames) == expected
    if "compared" not in str(expected):
        assert listAssumptions(*frames[::-1]) == [(False, *words) for _, *words in expected]


def testFramesThatBothTellNothingNeedNoAssumption():
    assert listAssumptions(readFrame({}), readFrame({"spacings": (0.0, 1.0, 1.0)})) == []
    plain = {"spacings": (1.0, 1.0, 1.0)}
    assert listAssumptions(readFrame(plain), readFrame(plain)) == []
