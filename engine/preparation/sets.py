"""What the volumes of a set have in common: grey values, and the size of a voxel."""

from typing import Any

import numpy as np

from engine.preparation.samples import Part
from engine.volumes.frame import compareSizes, describeSize, sizeOfVoxel
from engine.volumes.scale import MOMENTS_FIELD, Finding

SHARES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)  # of the voxels that lie below the quantiles
FAR = 1.0  # standard deviations by which a quantile of one volume may lie off those of the others


def describeSets(parts: list[Part], findings: dict[str, list[Finding]]) -> dict[str, dict[str, dict]]:
    """Describe grey values and size of a voxel of every volume, as JSON holds it.

    Returns
    -------
    dict
        {part: {name: quantiles and noise of the z-scored volume, what was left out, size of a voxel}}.
    """
    return {
        part.name: {
            pair.image.path.name: _describeGreys(found)
            | {"voxelSize": sizeOfVoxel(pair.image.frame)}
            | ({"isCut": True} if MOMENTS_FIELD in getattr(pair.image, "header", ()) else {})
            for pair, found in zip(part.pairs, findings[part.name], strict=True)
        }
        for part in parts
    }


def _describeGreys(found: Finding) -> dict[str, Any]:
    """Describe the z-scored grey values of a volume."""
    scale = found.scale
    std = scale.std or 1.0
    bounds = [found.histogram.quantile(share) for share in SHARES] if scale.std else []
    isFine = all(high - low < std for low, high in bounds)  # else a large offset hides them in wide bins
    return {
        "mean": scale.mean,
        "std": scale.std,
        "quantiles": [round((sum(pair) / 2 - scale.mean) / std, 4) for pair in bounds if isFine],
        "noise": round(found.noise / std, 4),
        "noDataShare": found.noDataCount / found.count,
        "beyondCount": found.beyondCount,
    }


def doubtSets(sets: dict[str, dict[str, dict]]) -> list[str]:
    """Warn of volumes that differ from the others: grey values, size of a voxel."""
    volumes = [
        (f"{part}Images/{name}", known) for part, part_ in sets.items() for name, known in part_.items()
    ]
    return [*_doubtGreys(volumes), *_doubtSizes(volumes)]


def _doubtGreys(volumes: list[tuple[str, dict]]) -> list[str]:
    """Name the volumes whose quantiles lie off the middle ones of all; known cuts of a scan may."""
    known = [
        (name, np.array(greys["quantiles"]))
        for name, greys in volumes
        if greys["quantiles"] and not greys.get("isCut")
    ]
    if len(known) < 2:
        return []
    middle = np.median([quantiles for _, quantiles in known], axis=0)
    lines = []
    for name, quantiles in known:
        index = int(np.argmax(np.abs(quantiles - middle)))
        if abs(quantiles[index] - middle[index]) > FAR:
            share = f"{SHARES[index]:.0%} of its z-scored grey values lie below {quantiles[index]:.2f}"
            cause = "another crop, more air, or another kind of scan?"
            others = f"of the others below {middle[index]:.2f}"
            lines.append(f"Warning: {name} is unlike the other volumes: {share}, {others}; {cause}")
    return lines


def _doubtSizes(volumes: list[tuple[str, dict]]) -> list[str]:
    """Name the first volume whose voxels have another size than those of the first one that tells it."""
    known = [(name, greys["voxelSize"]) for name, greys in volumes if greys["voxelSize"]]
    for name, size in known[1:]:
        if compareSizes(known[0][1], size):
            first, other = describeSize(known[0][1]), describeSize(size)
            several = f"{known[0][0]} {first}, {name} {other}"
            remedy = "the network sees voxels, not lengths: resample the volumes to one size"
            return [f"Warning: voxels of several sizes in one set: {several}; {remedy}"]
    return []
