"""Whether the voxels of two volumes lie in the same places."""

import numpy as np

from engine.errors import PipelineError
from engine.nrrdData import NrrdVolume
from engine.nrrdHeaders import spaceDirections, voxelSize

METRES = {"nm": 1e-9, "um": 1e-6, "µm": 1e-6, "μm": 1e-6, "microns": 1e-6, "mm": 1e-3, "cm": 1e-2, "m": 1.0}


def requireSamePlace(image: NrrdVolume, mask: NrrdVolume, remedy: str) -> None:
    """Refuse a mask whose shape or, as far as both headers say, place is another one than its image's."""
    if image.shape != mask.shape:
        difference = "shape", image.shape, mask.shape
    else:
        difference = compareGeometry(image.header, mask.header, image.shape)
    if difference:
        what, expected, received = difference
        rule = f"mask and image {image.path.name} differ in the {what}"
        raise PipelineError(rule, file=mask.path, expected=expected, received=received, remedy=remedy)


def compareGeometry(
    first: dict, second: dict, shape: tuple[int, int, int]
) -> tuple[str, list[float], list[float]] | None:
    """Find out whether the voxels of two volumes lie in the same places.

    Parameters
    ----------
    first, second : dict
        Headers of both volumes.
    shape : (int, int, int)
        Of both, (x, y, z).

    Returns
    -------
    tuple or None
        In what they differ by more than half a voxel somewhere, and both values, in the unit of the first;
        None where they agree, or where one of them does not say.
    """
    sizes = voxelSize(first), voxelSize(second)
    if None in sizes or min(sizes[0][0]) <= 0:
        return None
    scale = _unitRatio(sizes[1][1], sizes[0][1])
    if scale is None:
        return None
    voxel, sides = np.array(sizes[0][0]), np.array(shape)
    other = np.array(sizes[1][0]) * scale
    if (np.abs(voxel - other) * sides > voxel / 2).any():
        return "size of a voxel", voxel.tolist(), other.tolist()
    steps = spaceDirections(first), spaceDirections(second)
    if first.get("space") != second.get("space") or any(
        part is None or part.shape != (3, 3) or np.isnan(part).any() for part in steps
    ):
        return None  # the same place can be written in many ways
    difference = np.linalg.norm(steps[0] - steps[1] * scale, axis=1)
    if (difference * sides > voxel / 2).any():
        return "space directions", steps[0].tolist(), (steps[1] * scale).tolist()
    origins = [np.asarray(part.get("space origin", np.nan), float) for part in (first, second)]
    origins[1] = origins[1] * scale
    if np.linalg.norm(origins[0] - origins[1]) > voxel.min() / 2:  # False where one is not given
        return "space origin", origins[0].tolist(), origins[1].tolist()
    return None


def _unitRatio(unit: tuple[str, ...], other: tuple[str, ...]) -> float | None:
    """Length of one unit in another one; 1 where they are the same or one is not given, None if unknown."""
    lengths = [METRES.get(part[0]) if len(set(part)) == 1 else None for part in (unit, other)]
    if None not in lengths:
        return lengths[0] / lengths[1]
    return 1.0 if unit == other or "" in (*unit, *other) else None  # for example ImageJ's "pixel" beside "nm"
