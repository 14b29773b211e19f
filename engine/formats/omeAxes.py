"""Axes of OME-Zarr: which axis of an array is x, y or z, and where its voxels lie in space."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from engine.base.errors import PipelineError
from engine.formats.nrrdGeometry import MOST_UNEQUAL
from engine.formats.zarrNodes import Found
from engine.volumes.frame import METRES, Frame, frameOfVoxels

UNKNOWN = "the Zarr metadata give no size of a voxel; --voxelSize does"
OLD_AXES = ("t", "c", "z", "y", "x")  # of OME-Zarr 0.1 and 0.2, which do not name them
KINDS = {"t": "time", "c": "channel"}
SEVERAL = {"time": "points in time", "channel": "channels"}
PREFIXES = ("yocto", "zepto", "atto", "femto", "pico", "nano", "micro", "milli")
LENGTHS = {f"{prefix}meter": 10.0 ** (3 * step - 24) for step, prefix in enumerate(PREFIXES)}
LENGTHS |= {"centimeter": 1e-2, "decimeter": 0.1, "meter": 1.0, "hectometer": 1e2, "kilometer": 1e3}
LENGTHS |= {"megameter": 1e6, "gigameter": 1e9, "terameter": 1e12, "petameter": 1e15, "exameter": 1e18}
LENGTHS |= {"zettameter": 1e21, "yottameter": 1e24, "angstrom": 1e-10, "inch": 0.0254, "foot": 0.3048}
LENGTHS |= {"yard": 0.9144, "mile": 1609.344, "parsec": 3.0856775814913673e16}
LENGTHS |= METRES | {"micron": 1e-6, "Å": 1e-10}
NAMES = ("m", "cm", "mm", "um", "nm")  # of METRES, the longest first
LARGEST = 1e30  # number of a transformation that can be meant
VOXELS = ("pixel", "voxel", "px", "index")  # units of writers that know none


class Axis(NamedTuple):
    """An axis of an array: its name, what it is (space, time, channel or another word) and its unit."""

    name: str
    kind: str
    unit: str


def readAxes(found: Found) -> tuple[Axis, ...]:
    """Read the axes of an array, one for each of its own.

    They are those of its multiscales, else the names that the array gives its dimensions where x, y and z
    are among them; else the last three are z, y and x.

    Raises
    ------
    PipelineError
        There are fewer axes, or more, than the array has, or they are written as no version so far does.
    """
    count, given = len(found.array.shape), found.multiscale.get("axes")
    if given is None and "coordinateSystems" in found.multiscale:
        rule = "its multiscales describe the axes in a way that cannot be read"
        remedy = "save it as OME-Zarr 0.5 or 0.4"
        raise PipelineError(rule, file=found.array.folder, expected="OME-Zarr up to 0.5", remedy=remedy)
    if isinstance(given, list):
        axes = tuple(map(_readAxis, given))
    elif found.multiscale and count == len(OLD_AXES):
        axes = tuple(map(_readAxis, OLD_AXES))
    else:
        axes = _namedAxes(found, count)
    if len(axes) != count:
        rule = "its multiscales name other axes than the array has"
        expected, received = f"{count} axes", " ".join(axis.name for axis in axes)
        raise PipelineError(rule, file=found.array.folder, expected=expected, received=received)
    return axes


def _readAxis(given: object) -> Axis:
    """Read an axis of multiscales; up to 0.3 it is a name."""
    content = given if isinstance(given, dict) else {"name": given}
    name, kind, unit = (str(content.get(word) or "") for word in ("name", "type", "unit"))
    return Axis(name, kind or KINDS.get(name.lower(), "space"), unit)


def _namedAxes(found: Found, count: int) -> tuple[Axis, ...]:
    """Give the axes of an array without multiscales."""
    array = found.array
    names = array.content.get("dimension_names") or array.attributes.get("_ARRAY_DIMENSIONS")
    if isinstance(names, list) and len(names) == count:
        axes = tuple(_readAxis(name) for name in names)
        letters = [axis.name.lower() for axis in axes]
        if all(letters.count(letter) == 1 for letter in "xyz"):
            return tuple(axis if axis.name.lower() in "xyz" else axis._replace(kind="") for axis in axes)
    others = tuple(Axis(str(number), "", "") for number in range(count - 3))
    return (*others, *(Axis(name, "space", "") for name in "zyx"[-count:]))


def orderAxes(found: Found, axes: tuple[Axis, ...]) -> tuple[int, int, int]:
    """Find z, y and x among the axes of an array; any other one must have a single entry.

    Raises
    ------
    PipelineError
        There is no third axis in space, or the array has several channels, points in time or the like.
    """
    places = {}
    for number, axis in enumerate(axes):
        letter = axis.name.lower()
        if axis.kind == "space" and letter in ("z", "y", "x"):
            if letter in places:
                rule = f"its multiscales name two axes {letter}"
                raise PipelineError(rule, file=found.array.folder, expected="axes z, y and x")
            places[letter] = number
    left = [
        number for number, axis in enumerate(axes) if axis.kind == "space" and number not in places.values()
    ]
    for letter, number in zip([letter for letter in "zyx" if letter not in places], left, strict=False):
        places[letter] = number  # another name, such as depth
    for number, axis in enumerate(axes):
        count = found.array.shape[number]
        if number not in places.values() and count != 1:
            what = SEVERAL.get(axis.kind, f"entries along axis {axis.name}")
            remedy = "save one of them as a volume of its own"
            rule = f"has several {what}"
            raise PipelineError(rule, file=found.array.folder, expected="one", received=count, remedy=remedy)
    if len(places) < 3:
        received = " ".join(axis.name for axis in axes) or "none"
        raise PipelineError(
            "is no volume", file=found.array.folder, expected="axes z, y and x", received=received
        )
    return places["z"], places["y"], places["x"]


# ------------------------------------------------------------------------------------------ place and size


def readFrame(found: Found, axes: tuple[Axis, ...], order: tuple[int, int, int]) -> Frame:
    """Find where the voxels of an array lie; in voxels where its multiscales do not tell it.

    Their own transformations act on what those of the level give. Coordinates of OME-Zarr have no name, and
    are those of the centres of voxels; an axis of a negative scale runs the other way.

    Parameters
    ----------
    found : Found
        The array.
    axes : tuple of Axis
        Of the array, in its order.
    order : (int, int, int)
        Which of them are z, y and x.
    """
    key, steps = "coordinateTransformations", []
    for holder in (found.dataset, found.multiscale):
        given = holder.get(key)
        steps += given if isinstance(given, list) else []
    scale, shift = np.ones(len(axes)), np.zeros(len(axes))
    hasScale = hasShift = False
    for step in steps:
        kind, values = _readStep(step, len(axes))
        if values is None:
            return frameOfVoxels(
                f"the Zarr metadata place its voxels by {kind}; --voxelSize gives their size"
            )
        if kind == "translation":
            shift, hasShift = shift + values, True
        elif kind == "scale":
            scale, shift, hasScale = scale * values, shift * values, True
    across = list(order[::-1])
    scale, shift, units = scale[across], shift[across], [axes[number].unit for number in across]
    if not hasScale or (not hasShift and not any(units) and (np.abs(scale) == 1).all()):
        return frameOfVoxels(UNKNOWN)
    sides = np.abs(scale)
    if not 0 < np.prod(sides) < np.inf or sides.max() > MOST_UNEQUAL * sides.min():
        return frameOfVoxels(f"the Zarr metadata give a voxel the size {tuple(scale.tolist())}")
    factors, unit = _commonUnit(units)
    if factors is None:
        return frameOfVoxels(unit)
    return Frame(np.diag(scale * factors), shift * factors, unit, space="", hasOrigin=hasShift)


def _readStep(step: object, count: int) -> tuple[str, np.ndarray | None]:
    """Read a transformation: its name and a number for each axis; None where it cannot be read."""
    kind = step.get("type") if isinstance(step, dict) else None
    if kind == "identity":
        return kind, np.ones(count)
    values = step.get(kind) if kind in ("scale", "translation") else None
    isRight = isinstance(values, list) and len(values) == count
    if not isRight or not all(isinstance(value, int | float) and abs(value) < LARGEST for value in values):
        return f"a transformation ({kind}) that cannot be read", None
    return kind, np.array(values, float)


def _commonUnit(units: Iterable[str]) -> tuple[np.ndarray | None, str]:
    """Give factors (3,) and the unit they lead to, that of x; None and the reason where there is none."""
    found = [_readUnit(unit) for unit in units]
    if len({unit for _, unit in found}) == 1:
        if found[0][1] in VOXELS:
            return None, UNKNOWN
        return np.array([factor for factor, _ in found]), found[0][1]
    if all(unit in METRES for _, unit in found):
        unit = found[0][1]
        ratios = [factor * METRES[other] / METRES[unit] for factor, other in found]
        return np.array([float(f"{ratio:.12g}") for ratio in ratios]), unit
    return None, f"the axes have different units: {', '.join(repr(unit) for unit in units)}"


def _readUnit(name: str) -> tuple[float, str]:
    """Give the factor that leads from a unit of OME-Zarr to one of this project, and its name."""
    plain = name.strip()
    if plain not in LENGTHS and len(plain) > 2:  # Mm is no mm
        plain = plain.lower().replace("metre", "meter").removesuffix("s")
    metres = LENGTHS.get(plain)
    if metres is None:
        return 1.0, plain if plain in VOXELS else name.strip()
    unit = next((unit for unit in NAMES if METRES[unit] <= metres * (1 + 1e-9)), NAMES[-1])
    return float(f"{metres / METRES[unit]:.12g}"), unit
