"""Where the voxels of a volume lie in space, and whether those of another one lie there too."""

import itertools
import re
from typing import NamedTuple

import numpy as np

METRES = {"nm": 1e-9, "um": 1e-6, "µm": 1e-6, "μm": 1e-6, "microns": 1e-6, "mm": 1e-3, "cm": 1e-2, "m": 1.0}
SAME_SIZE = 0.05  # relative difference that sizes of voxels may have

MOST_APART = 0.1  # of a voxel side: what float32 makes of directions and origins stays below it
FAR = 1e9  # voxels between two volumes that have nothing in common
PATIENT = re.compile(
    "(r|l)(?:ight|eft)?-?(a|p)(?:nterior|osterior)?-?(s|i)(?:uperior|nferior)?(?:-time|t)?", re.IGNORECASE
)


class Frame(NamedTuple):
    """Where the voxels of a volume lie in space.

    Attributes
    ----------
    directions : (3, 3)
        Row i: step in space from a voxel to the next one along axis i of (x, y, z).
    origin : (3,)
        Centre of the first voxel.
    unit : str
        Of both; "voxel" where the file gives no usable size of a voxel, empty where it names no unit.
    why : str
        Why the unit is "voxel"; empty otherwise.
    space : str or None
        Name of the coordinate system of directions and origin, empty where it has none; None where only the
        sides of a voxel are known.
    hasOrigin : bool
        Whether the origin is one that the file gives in this coordinate system.
    """

    directions: np.ndarray
    origin: np.ndarray
    unit: str
    why: str = ""
    space: str | None = None
    hasOrigin: bool = False

    @property
    def sides(self) -> np.ndarray:
        """Edge lengths of a voxel along (x, y, z)."""
        return np.linalg.norm(self.directions, axis=1)

    @property
    def voxelVolume(self) -> float:
        """Volume of a voxel."""
        return spannedVolume(self.directions)

    @property
    def note(self) -> str:
        """What a reader of lengths must know; empty where the file gives size and unit."""
        if self.why:
            return f"Lengths are in voxels: {self.why}"
        return "" if self.unit else "The header names no unit: lengths are in that of its voxel size"


def frameOfVoxels(why: str) -> Frame:
    """Give the frame of a volume without units; `why` tells the reader the reason."""
    return Frame(np.eye(3), np.zeros(3), "voxel", why)


def spannedVolume(directions: np.ndarray) -> float:
    """Volume between three steps in space; the determinant of NumPy goes through logarithms, and rounds."""
    return float(abs(np.dot(directions[0], np.cross(directions[1], directions[2]))))


class Turn(NamedTuple):
    """How the voxels of one grid are found in another one that has the same voxels in another order.

    Attributes
    ----------
    axes : (int, int, int)
        For every axis of the one grid, that of the other which lies along it.
    flips : (bool, bool, bool)
        Whether that one runs the other way.
    """

    axes: tuple[int, ...] = (0, 1, 2)
    flips: tuple[bool, ...] = (False, False, False)


def turnFrame(frame: Frame, shape: tuple[int, ...], turn: Turn) -> Frame:
    """Give the frame of the same voxels in another order; `shape` is (x, y, z) before it."""
    axes = list(turn.axes)
    steps, sides = frame.directions[axes], np.array(shape)[axes]
    flips = np.array(turn.flips)
    origin = frame.origin + (flips * (sides - 1)) @ steps
    return frame._replace(directions=np.where(flips[:, np.newaxis], -steps, steps), origin=origin)


def findTurn(first: Frame, second: Frame) -> Turn:
    """Find how the axes of a second volume run along those of a first one; unturned where none tells."""
    signs, scale = _commonSigns(first.space, second.space), _scaleBetween(first, second)
    if signs is None or scale is None or not (first.hasOrigin and second.hasOrigin):
        return Turn()
    steps = second.directions * signs * scale @ np.linalg.inv(first.directions)  # in voxels of the first
    axes = np.abs(steps).argmax(axis=0)  # for each axis of the first
    along = steps[axes, range(3)]
    if sorted(axes) != [0, 1, 2] or np.abs(np.abs(along) - 1).max() > MOST_APART:
        return Turn()
    return Turn(tuple(axes.tolist()), tuple((along < 0).tolist()))


def cutFrame(frame: Frame, corner: tuple[int, ...]) -> Frame:
    """Give the frame of a part of a volume that begins at a voxel of it, or before it."""
    return frame._replace(origin=frame.origin + np.array(corner, float) @ frame.directions)


def findCorner(first: Frame, second: Frame) -> tuple[int, ...] | None:
    """Find the voxel of a first volume, or beyond it, that is nearest to the first one of a second volume.

    Returns
    -------
    tuple or None
        Whole numbers along (x, y, z); None where one of both does not say where it lies.
    """
    signs, scale = _commonSigns(first.space, second.space), _scaleBetween(first, second)
    if signs is None or scale is None or not (first.hasOrigin and second.hasOrigin):
        return None
    apart = (second.origin * signs * scale - first.origin) @ np.linalg.inv(first.directions)
    isSmall = np.isfinite(apart).all() and np.abs(apart).max() < FAR
    return tuple(np.rint(apart).astype(int).tolist()) if isSmall else None


def compareFrames(
    first: Frame, second: Frame, shape: tuple[int, int, int]
) -> tuple[str, list[float], list[float]] | None:
    """Find out whether the voxels of two volumes lie in the same places.

    Parameters
    ----------
    first, second : Frame
        Of both volumes.
    shape : (int, int, int)
        Of both, (x, y, z).

    Returns
    -------
    tuple or None
        In what they differ by more than a tenth of a voxel somewhere (half of one where only sizes are
        known), and both values, in unit and space of the first; None where they agree, or where one of them
        does not say.
    """
    scale = _scaleBetween(first, second)
    if scale is None:
        return None
    voxel, other = first.sides, second.sides * scale
    if (np.abs(voxel - other) * np.array(shape) > voxel / 2).any():
        return "size of a voxel", voxel.tolist(), other.tolist()
    signs = _commonSigns(first.space, second.space)
    if signs is None:
        return None
    steps, origins = second.directions * signs * scale, second.origin * signs * scale
    toVoxels = np.linalg.inv(first.directions)
    drift = (steps - first.directions) @ toVoxels  # from voxel to voxel, in voxels of the first
    corners = np.array([*itertools.product((0, 1), repeat=3)]) * (np.array(shape) - 1)
    if np.abs(corners @ drift).max() > MOST_APART:
        return "space directions", first.directions.tolist(), steps.tolist()
    apart = (origins - first.origin) @ toVoxels
    isKnown = first.hasOrigin and second.hasOrigin
    if isKnown and np.abs(apart + corners @ drift).max() > MOST_APART:
        return "space origin", first.origin.tolist(), origins.tolist()
    return None


def listAssumptions(first: Frame, second: Frame) -> list[tuple[bool, str, str]]:
    """List what only one of two frames tells, so that it is assumed of the other one.

    Returns
    -------
    list
        (whether it is the second that does not tell, what it does not tell, what is assumed).
    """
    if first.why or second.why:
        isOne = not (first.why and second.why)
        return [(bool(second.why), "no usable size of a voxel", "the same")] if isOne else []
    found, spaces = [], (first.space, second.space)
    if bool(first.unit) != bool(second.unit):
        found.append((not second.unit, "no unit", first.unit or second.unit))
    elif _unitRatio(second.unit, first.unit) is None:
        return [(True, f"no unit that can be compared ({second.unit}, {first.unit})", "the same place")]
    if (first.space is None) != (second.space is None):
        found.append((second.space is None, "no directions in space", "the same"))
    elif first.space is None:
        return found
    elif bool(first.space) != bool(second.space):
        found.append((not second.space, "no name of its space", first.space or second.space))
    elif _commonSigns(*spaces) is None:
        found.append(
            (True, f"no space that can be compared ({second.space}, {first.space})", "the same place")
        )
    if None not in spaces and first.hasOrigin != second.hasOrigin:
        found.append((not second.hasOrigin, "no origin in space", "the same"))
    return found


def _scaleBetween(first: Frame, second: Frame) -> float | None:
    """Length of the unit of a second frame in that of a first one; None where it is not known."""
    return None if first.why or second.why else _unitRatio(second.unit, first.unit)


def _commonSigns(first: str | None, second: str | None) -> np.ndarray | None:
    """Signs (3,) that bring coordinates of a second space into a first one; None where there are none.

    Spaces are the same by their meaning, not by their spelling; one without a name is taken to be the other.
    """
    if first is None or second is None:
        return None
    signs = [patientSigns(space) for space in (first, second)]
    if signs[0] is not None and signs[1] is not None:
        return signs[0] * signs[1]
    return np.ones(3) if first.lower() == second.lower() or not (first and second) else None


def patientSigns(space: str) -> np.ndarray | None:
    """Signs (3,) that bring a space such as right-anterior-superior or RAS into left-posterior-superior.

    None where a space is none of a patient.
    """
    match = PATIENT.fullmatch(space.strip())
    return np.array([1.0 if side.lower() in "lps" else -1.0 for side in match.groups()]) if match else None


def _unitRatio(unit: str, other: str) -> float | None:
    """Length of one unit in another one; 1 where they are the same or one is not given, None if unknown."""
    if unit in METRES and other in METRES:
        return METRES[unit] / METRES[other]
    return 1.0 if unit == other or not (unit and other) else None  # ImageJ's "pixel" beside "nm"


# ---------------------------------------------------------------------------------------- the size of a voxel


def sizeOfVoxel(frame: Frame) -> list | None:
    """Give edge lengths and unit of a voxel as JSON holds them: [x, y, z, unit]; None where unknown.

    Lengths are in nm where the unit is one of length.
    """
    if frame.why:
        return None
    factor = METRES.get(frame.unit, 0) / METRES["nm"]
    sides = frame.sides * (factor or 1)
    return [*(float(f"{side:.9g}") for side in sides), "nm" if factor else frame.unit]


def compareSizes(first: list, second: list) -> bool:
    """Whether voxels differ by more than 5 % along any axis; not where their units cannot be compared."""
    if first[3] != second[3]:
        return False
    ratios = np.array(second[:3]) / np.array(first[:3])
    return bool((np.abs(np.log(ratios)) > np.log(1 + SAME_SIZE)).any())


def describeSize(size: list) -> str:
    """Write the size of a voxel for a reader."""
    sides = [f"{side:.4g}" for side in size[:3]]
    return f"{sides[0] if len(set(sides)) == 1 else ' x '.join(sides)} {size[3]}".strip()
