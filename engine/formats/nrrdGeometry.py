"""Where the voxels of an NRRD volume lie, and the header of what is cut from it."""

import dataclasses
import logging

import numpy as np

from engine.base.errors import PipelineError
from engine.formats.nrrdHeaders import OLD_FILE_FIELDS, OLD_VALUE_FIELDS, describeData, spaceDirections
from engine.volumes.frame import METRES, Frame, frameOfVoxels, spannedVolume
from engine.volumes.volume import Region, Volume, completeRegion

LOGGER = logging.getLogger(__name__)
PLACE_FIELDS = ("spacings", "space directions", "space origin", "units", "space units")
PLACE_FIELDS += ("axis mins", "axis maxs")  # what a header says of the size and place of a voxel
MOST_UNEQUAL = 1e5  # sides of a voxel; beyond it directions in space fall together


def readVoxelSize(header: dict) -> tuple[tuple[float, ...], tuple[str, ...]] | None:
    """Edge lengths of a voxel along (x, y, z) and their units ('' if not given); None if one is unknown."""
    sizes = np.array(header.get("spacings", (np.nan,) * 3), dtype=np.float64)
    directions = spaceDirections(header)
    if directions is not None:
        lengths = np.linalg.norm(directions, axis=1)
        sizes = np.where(np.isnan(lengths), sizes, lengths)
    if not np.isfinite(sizes).all():
        return None
    units = [*header.get("space units", header.get("units", ())), "", "", ""]
    return tuple(sizes.tolist()), tuple(units[:3])


def voxelSizeOf(volume: Volume) -> tuple[tuple[float, ...], tuple[str, ...]] | None:
    """Edge lengths of a voxel and their units as the file gives them, whatever can be made of them."""
    if volume.header:
        return readVoxelSize(volume.header)
    frame = volume.frame
    return None if frame.why else (tuple(frame.sides.tolist()), (frame.unit,) * 3)


def withVoxelSize(volume: Volume, voxelSize: str) -> Volume:
    """Give a volume another size of its voxels.

    Parameters
    ----------
    volume : Volume
        Of any format.
    voxelSize : str
        "0.65 um", or along x, y and z: "0.65 0.65 1.3 um"; empty: the volume stays as it is.

    Raises
    ------
    PipelineError
        It is no such text.
    """
    if not voxelSize:
        return volume
    sides, unit = _parseVoxelSize(voxelSize)
    before = volume.frame
    known = before.sides * METRES[before.unit] / METRES[unit] if before.unit in METRES else sides
    if not np.allclose(known, sides, rtol=0.01, atol=0):
        words = f"the file gives a voxel the sides {known.tolist()} {unit}, voxelSize {sides.tolist()}"
        LOGGER.warning("%s: %s", volume.path, words)
    turned = np.eye(3) if before.why else before.directions / before.sides[:, np.newaxis]
    scale = METRES[before.unit] / METRES[unit] if before.unit in METRES else 1.0
    origin = before.origin * (scale if not before.why else 0.0)
    frame = Frame(turned * sides[:, np.newaxis], origin, unit, "", before.space, before.hasOrigin)
    header = volume.header and _placeHeader(volume.header, frame)
    return dataclasses.replace(volume, header=header, place=frame)


def _parseVoxelSize(text: str) -> tuple[np.ndarray, str]:
    """Read sides (3,) and unit of a voxel; micrometres in ASCII, because pynrrd reads "µm" as "m"."""
    *words, unit = text.split() or [""]
    try:
        sides = np.array([float(word) for word in words])
    except ValueError:
        sides = np.zeros(0)
    if unit not in METRES or len(sides) not in (1, 3) or not (np.isfinite(sides) & (sides > 0)).all():
        expected = f"'0.65 um' or '0.65 0.65 1.3 um', in {', '.join(METRES)}"
        raise PipelineError("voxelSize cannot be read", expected=expected, received=repr(text))
    return np.resize(sides, 3), unit if unit.isascii() else "um"


def _placeHeader(header: dict, frame: Frame) -> dict:
    """Put a frame into a header, in place of what it says of the size of a voxel."""
    kept = {name: value for name, value in header.items() if name not in PLACE_FIELDS}
    return kept | _describeFrame(frame)


def _describeFrame(frame: Frame) -> dict:
    """Write a frame as fields of NRRD; nothing where lengths are in voxels."""
    if frame.why:
        return {}
    if frame.space is None:
        return {"spacings": frame.sides} | ({"units": [frame.unit] * 3} if frame.unit else {})
    fields = {"space": frame.space} if frame.space else {"space dimension": 3}
    fields |= {"space directions": frame.directions, "space units": [frame.unit] * 3}
    return fields | ({"space origin": frame.origin} if frame.hasOrigin else {})


def resultHeader(volume: Volume, region: Region | None, dtype: np.dtype | type | str) -> dict:
    """Make the header of a result that covers a region of a volume of any format; see `cropHeader`."""
    header = volume.header or {"sizes": np.array(volume.shape)} | _describeFrame(volume.frame)
    return cropHeader(header, region, dtype)


def cropHeader(header: dict, region: Region | None, dtype: np.dtype | type | str) -> dict:
    """Make the header of a result that covers a region of a volume.

    Parameters
    ----------
    header : dict
        Header of the volume.
    region : three (start, stop) pairs or None
        Half-open ranges along x, y, z, as `checkRegion` returns them; None for all of it.
    dtype : dtype
        Type of the result's voxels.

    Returns
    -------
    dict
        Place in space moved to the region's first voxel; directions, units, kinds, labels, measurement frame
        and key/values unchanged; what describes the old file or its grey values left out. `pipeline_region`
        names a region smaller than the volume.

    Raises
    ------
    PipelineError
        NRRD has no such voxel type.
    """
    ranges = completeRegion(header["sizes"], region)
    result = {name: value for name, value in header.items() if name not in OLD_FILE_FIELDS | OLD_VALUE_FIELDS}
    directions = spaceDirections(header)
    placed = np.zeros(3, bool) if directions is None else ~np.isnan(directions).all(axis=1)
    if directions is not None:
        _shiftOrigin(result, directions, ranges)
    _shiftAxisLimits(result, placed, ranges)
    if ranges != completeRegion(header["sizes"], None):
        result["pipeline_region"] = " ".join(f"{start}:{stop}" for start, stop in ranges)
    return describeData(result, [stop - start for start, stop in ranges], dtype)


def _shiftOrigin(header: dict, directions: np.ndarray, ranges: tuple[tuple[int, int], ...]) -> None:
    """Move the origin by start x direction of each axis; without one, count from zero if it moves at all."""
    starts = np.array([start for start, _ in ranges], dtype=np.float64)
    if starts.any():
        origin = header.get("space origin", np.zeros(directions.shape[1]))
        header["space origin"] = np.asarray(origin) + starts @ np.nan_to_num(directions)


def _shiftAxisLimits(header: dict, placed: np.ndarray, ranges: tuple[tuple[int, int], ...]) -> None:
    """Move axis mins and maxs of the axes that have no direction in space."""
    starts = np.array([start for start, _ in ranges], dtype=np.float64)
    cut = header["sizes"] - np.array([stop for _, stop in ranges], dtype=np.float64)
    steps = _axisSteps(header)
    if "axis mins" not in header and ((starts > 0) & ~placed & np.isfinite(steps)).any():
        header["axis mins"] = np.where(placed, np.nan, 0.0)
    for name, change in (("axis mins", starts * steps), ("axis maxs", -cut * steps)):
        if name in header:
            moved = ~placed & (np.nan_to_num(change, nan=1.0) != 0)
            header[name] = np.asarray(header[name]) + np.where(moved, change, 0.0)


def _axisSteps(header: dict) -> np.ndarray:
    """Distance between voxels along each axis by spacings, else by axis mins and maxs; NaN if unknown."""
    unknown = np.full(3, np.nan)
    node = np.array([kind == "node" for kind in header.get("centerings", ("cell",) * 3)])
    count = np.maximum(header["sizes"] - node, 1)
    byLimits = (
        np.asarray(header.get("axis maxs", unknown)) - np.asarray(header.get("axis mins", unknown))
    ) / count
    spacings = np.asarray(header.get("spacings", unknown), dtype=np.float64)
    return np.where(np.isnan(spacings), byLimits, spacings)


def readFrame(header: dict) -> Frame:
    """Find the place in space of a volume's voxels; in voxels where its header does not tell it.

    Parameters
    ----------
    header : dict
        Of an NRRD file, as `openVolume` reads it.
    """
    size = readVoxelSize(header)
    if size is None:
        return frameOfVoxels("the header gives no size of a voxel")
    sides = np.array(size[0])
    if not (sides > 0).all() or not 0 < np.prod(sides) < np.inf or sides.max() > MOST_UNEQUAL * sides.min():
        return frameOfVoxels(f"the header gives a voxel the size {size[0]}")
    units = set(size[1])
    if len(units) > 1:
        return frameOfVoxels(f"the axes have different units: {', '.join(map(repr, size[1]))}")
    unit = units.pop()
    directions, origin = spaceDirections(header), header.get("space origin")
    if directions is not None and directions.shape == (3, 4) and not directions[:, 3].any():
        directions, origin = (
            directions[:, :3],
            origin if origin is None else origin[:3],
        )  # of a space with time
    if directions is None or directions.shape != (3, 3) or np.isnan(directions).any():
        return Frame(np.diag(sides), _axisOrigin(header, sides), unit)
    if spannedVolume(directions) * MOST_UNEQUAL < np.prod(sides):
        return frameOfVoxels("the space directions of the header lie in a plane")
    hasOrigin = origin is not None and np.isfinite(origin).all()
    place = np.asarray(origin, float) if hasOrigin else np.zeros(3)
    return Frame(directions, place, unit, space=header.get("space", ""), hasOrigin=hasOrigin)


def _axisOrigin(header: dict, sides: np.ndarray) -> np.ndarray:
    """Centre of the first voxel of axes without direction: their minimum is its border or its centre."""
    least = np.nan_to_num(np.asarray(header.get("axis mins", np.zeros(3)), float))
    isCell = [part == "cell" for part in header.get("centerings", ("",) * 3)]
    return least + np.where(isCell, sides / 2, 0) * ("axis mins" in header)
