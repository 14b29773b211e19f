"""Segmentations as 3D Slicer saves them, written by slicerio."""

import numpy as np
import slicerio

LPS = np.diag([0.5, 0.6, 0.7])


def writeSegmentation(path, segments, directions=LPS, origin=(1.0, 2.0, 3.0), isCropped=False):
    """Write segments, {name: (x, y, z) bool} that may overlap; gives their common extent as three slices.

    Cropped, the file holds this extent alone: its origin is moved, and it says by how many voxels.
    """
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = np.transpose(directions), origin
    shape = next(iter(segments.values())).shape
    segmentation = slicerio.create_segmentation(shape, matrix)
    for name, mask in segments.items():
        slicerio.add_segment(segmentation, mask, {"id": f"ID_{name}", "name": name})
    found = np.argwhere(np.any(list(segments.values()), axis=0))
    low, high = found.min(axis=0), found.max(axis=0) + 1
    extent = tuple(map(slice, low.tolist(), high.tolist()))
    if isCropped:
        segmentation["voxels"] = segmentation["voxels"][(..., *extent)]
        segmentation["ijkToLPS"][:3, 3] += low @ np.asarray(directions)
        segmentation["referenceImageExtentOffset"] = low.tolist()
        for segment in segmentation["segments"]:
            segment["extent"] = (np.array(segment["extent"]) - np.repeat(low, 2)).tolist()
    slicerio.write_segmentation(str(path), segmentation)
    return extent


def drawSegments(shape, seed=3):
    """Draw two segments that do not overlap, a third that overlaps both, and one to be ignored.

    None of them touches the border of the volume, or is its own mirror image.
    """
    generator, place = np.random.default_rng(seed), np.indices(shape)
    inside = np.all([(axis > 1) & (axis < side - 2) for axis, side in zip(place, shape, strict=True)], axis=0)
    left = place[0] < shape[0] // 2
    noise = generator.random(shape)
    return {
        "Precipitate": inside & left & (noise < 0.3),
        "pore": inside & ~left & (noise < 0.2),
        "halo": inside & (generator.random(shape) < 0.3) & (place[1] < shape[1] // 2),
        "IGNORE": inside & (place[2] > shape[2] - 5) & (generator.random(shape) > 0.6),
    }
