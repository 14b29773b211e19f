"""Where the voxels of an NRRD volume lie, and the header of what is cut from it."""

import numpy as np

from engine.volumes.frame import Frame, frameOfVoxels, spannedVolume
from engine.volumes.nrrdHeaders import OLD_FILE_FIELDS, OLD_VALUE_FIELDS, describeData, spaceDirections
from engine.volumes.volume import Region, Volume, completeRegion

MOST_UNEQUAL = 1e5  # sides of a voxel; beyond it directions in space fall together


def voxelSize(header: dict) -> tuple[tuple[float, ...], tuple[str, ...]] | None:
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
        return voxelSize(volume.header)
    frame = volume.frame
    return None if frame.why else (tuple(frame.sides.tolist()), (frame.unit,) * 3)


def withVoxelSize(volume: Volume, voxelSize: str) -> Volume:
    """..."""
    return volume


def resultHeader(volume: Volume, region: Region | None, dtype: np.dtype | type | str) -> dict:
    """..."""
    return cropHeader(volume.header, region, dtype)


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
    size = voxelSize(header)
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
