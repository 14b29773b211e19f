"""Where the voxels of a volume lie in space, and whether those of another one lie there too."""

from typing import NamedTuple

import numpy as np

METRES = {"nm": 1e-9, "um": 1e-6, "µm": 1e-6, "μm": 1e-6, "microns": 1e-6, "mm": 1e-3, "cm": 1e-2, "m": 1.0}
SAME_SIZE = 0.05  # relative difference that sizes of voxels may have


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
        In what they differ by more than half a voxel somewhere, and both values, in the unit of the first;
        None where they agree, or where one of them does not say.
    """
    scale = None if first.why or second.why else _unitRatio(second.unit, first.unit)
    if scale is None:
        return None
    voxel, other, sides = first.sides, second.sides * scale, np.array(shape)
    if (np.abs(voxel - other) * sides > voxel / 2).any():
        return "size of a voxel", voxel.tolist(), other.tolist()
    if first.space is None or first.space != second.space:
        return None  # the same place can be written in many ways
    steps = first.directions, second.directions * scale
    if (np.linalg.norm(steps[0] - steps[1], axis=1) * sides > voxel / 2).any():
        return "space directions", steps[0].tolist(), steps[1].tolist()
    origins = first.origin, second.origin * scale
    isKnown = first.hasOrigin and second.hasOrigin
    if isKnown and np.linalg.norm(origins[0] - origins[1]) > voxel.min() / 2:
        return "space origin", origins[0].tolist(), origins[1].tolist()
    return None


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
