"""Volumes that lie in the same place, and volumes that do not."""

import numpy as np
import pytest

from engine.volumes.frame import compareFrames
from engine.volumes.nrrdGeometry import readFrame

SHAPE = (100, 80, 60)

OBLIQUE = np.array([[0.0, 0.5, 0.0], [-0.3, 0.0, 0.4], [0.4, 0.0, 0.3]])
PLACED = {"space": "left-posterior-superior", "space directions": OBLIQUE, "space units": ["um"] * 3}
PLACED["space origin"] = np.array([10.0, -20.0, 30.0])


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
        PLACED | {"space origin": np.array([10.2, -20.0, 30.0])},
        {"space": "right-anterior-superior", "space directions": -OBLIQUE, "space units": ["um"] * 3},
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
