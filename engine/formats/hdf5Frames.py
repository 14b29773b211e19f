"""The size of a voxel of an HDF5 dataset, as those programs write it that do."""

import re
from pathlib import PurePosixPath
from typing import Any

import h5py
import numpy as np

from engine.formats.hdf5Links import findHard
from engine.volumes.frame import METRES, Frame, frameOfVoxels

NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
NABU = "configuration/processing_options/reconstruction"
NABU_NAMES = ("voxel_size_cm", "pixel_size_cm")  # since 2023.1, and before
UNKNOWN = "the HDF5 file gives no size of a voxel; --voxelSize does"
UNITS = {
    "um": "microns?|micromet(?:er|re)s?|um",
    "nm": "nanomet(?:er|re)s?|nm",
    "m": "met(?:er|re)s?|m",
}
UNITS |= {"mm": "millimet(?:er|re)s?|mm", "cm": "centimet(?:er|re)s?|cm"}
EVEN = 1e-3  # of a step, by which steps between coordinates may differ
MOST_PLACES = 1 << 20  # along an axis; longer lists of coordinates are none


def readFrame(dataset: h5py.Dataset, axes: tuple[int, int, int]) -> Frame:
    """Find the size of a voxel.

    Parameters
    ----------
    dataset : h5py.Dataset
        Of an open file.
    axes : (int, int, int)
        Its axes that are z, y, x in the frame.

    Returns
    -------
    Frame
        By the configuration of nabu or tomoscan, the attribute element_size_um of Fiji, the geometry of ITK
        or the coordinates of NXdata; else one in voxels.
    """
    if frame := _readItk(dataset):
        return frame
    found = _readNabu(dataset) or _readFiji(dataset, axes) or _readCoordinates(dataset, axes)
    if not found:
        return frameOfVoxels(UNKNOWN)
    sides, unit = found
    lengths = np.array(sides[::-1])
    if not (np.isfinite(lengths).all() and (lengths > 0).all()):
        return frameOfVoxels(f"the HDF5 file gives a voxel the size {tuple(sides[::-1])}")
    return Frame(np.diag(lengths), np.zeros(3), unit)


def _numbersOf(value: Any) -> list[float]:
    """Read the numbers of an array or a text such as [0.0001 0.0001 0.0001], as they are written."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, str):
        return [float(number) for number in re.findall(NUMBER, value)]
    array = np.ravel(value)
    if array.dtype.kind in "iuf":
        return [float(str(number)) for number in array]  # 0.65 in float32 is 0.65
    return [number for part in array.tolist() if isinstance(part, bytes | str) for number in _numbersOf(part)]


def _three(numbers: list[float]) -> list[float] | None:
    """Give the sides along z, y, x of one or three numbers; None for any other count."""
    return {1: numbers * 3, 3: numbers}.get(len(numbers))


def _readNabu(dataset: h5py.Dataset) -> tuple[list[float], str] | None:
    """Read the configuration that nabu and tomoscan write beside results: along z, y, x in centimetres."""
    for folder in PurePosixPath(dataset.name).parents:
        options = findHard(dataset.file, f"{folder}/{NABU}")
        if not isinstance(options, h5py.Group):
            continue
        for name in NABU_NAMES:
            item = findHard(options, name)
            sides = _three(_numbersOf(item[()])) if isinstance(item, h5py.Dataset) and item.size else None
            if sides:
                return [float(f"{side * 1e4:.12g}") for side in sides], "um"
    return None


def _readFiji(dataset: h5py.Dataset, axes: tuple[int, int, int]) -> tuple[list[float], str] | None:
    """Read the attribute of the HDF5 plugins of Fiji: along the axes of the dataset, in micrometres."""
    numbers = _numbersOf(dataset.attrs.get("element_size_um", ()))
    if len(numbers) == dataset.ndim:
        numbers = [numbers[axis] for axis in axes]
    sides = _three(numbers)
    return (sides, "um") if sides else None


def _readCoordinates(dataset: h5py.Dataset, axes: tuple[int, int, int]) -> tuple[list[float], str] | None:
    """Read the even steps between the coordinates that NXdata names for every axis."""
    group = dataset.parent
    names = np.ravel(group.attrs.get("axes", ())).tolist()
    if len(names) != dataset.ndim:
        return None
    sides, unit = [], ""
    for axis in axes:
        name = names[axis].decode("utf-8", "replace") if isinstance(names[axis], bytes) else str(names[axis])
        step = _stepOf(findHard(group, name), dataset.shape[axis])
        if step is None:
            return None
        sides, unit = [*sides, step], step[1]
    return [float(f"{side * METRES[own] / METRES[unit]:.12g}") for side, own in sides], unit


def _stepOf(item: Any, count: int) -> tuple[float, str] | None:
    """Give the step of a list of coordinates and its unit; None where it is uneven or without a unit."""
    if not isinstance(item, h5py.Dataset) or item.shape != (count,) or not 1 < count < MOST_PLACES:
        return None
    words = item.attrs.get("units", "")
    words = words.decode("utf-8", "replace") if isinstance(words, bytes) else str(words)
    unit = _unitOf(words)
    if not unit or item.dtype.kind not in "iuf":
        return None
    places = item[()].astype(float)
    step = (places[-1] - places[0]) / (count - 1)
    isEven = step != 0 and np.abs(np.diff(places) - step).max() <= EVEN * abs(step)
    return (abs(step), unit) if isEven else None


def _unitOf(words: str) -> str:
    """Give the name of METRES for a unit as it is spelled; empty for none of them."""
    words = words.strip()
    if words in METRES:
        return "um" if METRES[words] == METRES["um"] else words
    return next((unit for unit, pattern in UNITS.items() if re.fullmatch(pattern, words, re.IGNORECASE)), "")


def _readItk(dataset: h5py.Dataset) -> Frame | None:
    """Read the geometry that ITK writes beside its voxels: along x, y, z, without a unit."""
    group = dataset.parent
    if PurePosixPath(dataset.name).name != "VoxelData":
        return None
    items = [findHard(group, name) for name in ("Spacing", "Origin", "Directions")]
    if not all(isinstance(item, h5py.Dataset) for item in items):
        return None
    spacing, origin, directions = (np.array(item[()], float) for item in items)
    if spacing.shape != (3,) or origin.shape != (3,) or directions.shape != (3, 3) or not (spacing > 0).all():
        return None
    steps = directions * spacing[:, np.newaxis]
    return Frame(steps, origin, "", "", "left-posterior-superior", True)
