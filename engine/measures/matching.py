"""Predicted particles against those of a manual mask: who overlaps whom, and how well."""

import numpy as np

from engine.measures.labelling import joinPairs, splitPairs

IOU_THRESHOLDS = tuple(number / 10 for number in range(1, 10))


class Overlaps:
    """Voxels that components of two volumes share, summed over slabs."""

    STATE = ("_keys", "_counts")

    def __init__(self) -> None:
        self._keys = [np.zeros(0, np.uint64)]
        self._counts = [np.zeros(0, np.int64)]

    def add(self, first: np.ndarray, second: np.ndarray) -> None:
        """Add voxels: the numbers of their components in both volumes, 0 = none."""
        both = (first > 0) & (second > 0)
        keys, counts = np.unique(joinPairs(first[both], second[both]), return_counts=True)
        self._keys.append(keys)
        self._counts.append(counts)

    def join(self, other: "Overlaps", first: int, second: int) -> None:
        """Add those of the next range, before which there are so many components of both volumes."""
        self._keys += [keys + joinPairs(first, second) for keys in other._keys]
        self._counts += other._counts

    def finish(self, first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
        """Sum up by particle.

        Parameters
        ----------
        first, second : (1 + component,)
            Particle of every component of the two volumes; 0 = none.

        Returns
        -------
        pairs : (pair, 2) int64
            Particles of both that overlap.
        voxels : (pair,) int64
            That they share.
        lost : int
            Voxels that components share of which one is no particle.
        """
        keys, counts = np.concatenate(self._keys), np.concatenate(self._counts)
        ends = [part[numbers] for part, numbers in zip((first, second), splitPairs(keys), strict=True)]
        isKept = (ends[0] > 0) & (ends[1] > 0)
        keys, place = np.unique(joinPairs(*ends)[isKept], return_inverse=True)
        voxels = np.bincount(place, counts[isKept], len(keys)).astype(np.int64)
        return np.stack(splitPairs(keys), axis=1), voxels, int(counts[~isKept].sum())


def matchParticles(pairs: np.ndarray, iou: np.ndarray) -> np.ndarray:
    """Choose pairs so that no particle is in two: as many as possible, and of these the best IoU in sum.

    Parameters
    ----------
    pairs : (pair, 2)
        Labels of particles that may be matched.
    iou : (pair,)
        Intersection over union.

    Returns
    -------
    np.ndarray
        Indices of the chosen pairs, ascending.

    Source: the matching of stardist (Schmidt et al., MICCAI 2018), solved group by group of particles that
    overlap at all.
    """
    from scipy import sparse  # loads slowly

    _, first = np.unique(pairs[:, 0], return_inverse=True)
    _, second = np.unique(pairs[:, 1], return_inverse=True)
    firstCount, secondCount = (int(places.max(initial=-1)) + 1 for places in (first, second))
    size = firstCount + secondCount
    graph = sparse.coo_array((np.ones(len(pairs), bool), (first, firstCount + second)), shape=(size, size))
    group = sparse.csgraph.connected_components(graph, directed=False)[1][first]
    isAlone = np.bincount(group)[group] == 1
    order = np.argsort(group, kind="stable")
    order = order[~isAlone[order]]
    chosen = [np.flatnonzero(isAlone)]
    for members in np.split(order, np.flatnonzero(np.diff(group[order])) + 1):
        if len(members):
            chosen.append(members[_assign(first[members], second[members], iou[members])])
    return np.sort(np.concatenate(chosen))


def _assign(first: np.ndarray, second: np.ndarray, iou: np.ndarray) -> np.ndarray:
    """Match the particles of one group; gives indices of pairs."""
    from scipy.optimize import linear_sum_assignment  # loads slowly, and not every prediction is scored

    _, row = np.unique(first, return_inverse=True)
    _, column = np.unique(second, return_inverse=True)
    shape = row.max() + 1, column.max() + 1
    gain, index = np.zeros(shape), np.full(shape, -1)
    gain[row, column] = 1 + iou / (2 * min(shape))  # one pair more outweighs every IoU
    index[row, column] = np.arange(len(iou))
    found = index[linear_sum_assignment(gain, maximize=True)]
    return found[found >= 0]


def scoreParticles(
    pairs: np.ndarray,
    voxels: np.ndarray,
    predicted: dict[str, np.ndarray],
    reference: dict[str, np.ndarray],
) -> dict:
    """Score predicted particles against reference particles.

    Parameters
    ----------
    pairs, voxels
        Of `Overlaps.finish`.
    predicted, reference : dict
        Tables of `describeParticles`; predicted particles without a voxel are left out, see `countLabelled`.

    Returns
    -------
    dict
        - predicted, reference: how many particles;
        - anyOverlap: precision (share of the predicted ones that touch a reference one), recall (share of the
          reference ones that are touched), F1;
        - iou: the same for pairs of one and one whose intersection over union is at least 0.1 to 0.9, with
          the mean IoU of these pairs and the quartiles of their size error (predicted / reference
          equivalent diameter - 1).

        NaN where there is nothing to divide by.
    """
    counts = int(np.count_nonzero(predicted["voxelCount"])), len(reference["label"])
    first, second = (pairs - 1).T
    union = predicted["voxelCount"][first] + reference["voxelCount"][second] - voxels
    iou = voxels / union
    touched = len(np.unique(first)), len(np.unique(second))
    scores = {
        "predicted": counts[0],
        "reference": counts[1],
        "anyOverlap": _rates(*touched, *counts),
        "iou": [],
    }
    for threshold in IOU_THRESHOLDS:
        enough = np.flatnonzero(iou >= threshold)
        chosen = enough[matchParticles(pairs[enough], iou[enough])]
        diameters = [
            table["equivalentDiameter"][part[chosen]]
            for table, part in ((predicted, first), (reference, second))
        ]
        errors = diameters[0] / diameters[1] - 1
        row = {"threshold": threshold, "matched": len(chosen)} | _rates(len(chosen), len(chosen), *counts)
        row["meanIou"] = float(iou[chosen].mean()) if len(chosen) else float("nan")
        quartiles = np.quantile(errors, (0.25, 0.5, 0.75)).tolist() if len(chosen) else [float("nan")] * 3
        scores["iou"].append(row | {"sizeErrorQuartiles": quartiles})
    return scores


def countLabelled(predicted: dict[str, np.ndarray], ignored: np.ndarray) -> dict[str, np.ndarray]:
    """Give a table of particles by those of their voxels that count.

    Parameters
    ----------
    predicted : dict
        Table of `describeParticles`.
    ignored : (particle,) int64
        Voxels that do not.

    Returns
    -------
    dict
        The same table with other voxelCount, 0 where all are ignored, and equivalentDiameter.
    """
    counts = predicted["voxelCount"] - ignored
    shares = counts / np.maximum(predicted["voxelCount"], 1)
    diameters = predicted["equivalentDiameter"] * np.cbrt(shares)
    return predicted | {"voxelCount": counts, "equivalentDiameter": diameters}


def _rates(found: int, met: int, predictedCount: int, referenceCount: int) -> dict[str, float]:
    """Precision, recall and F1 from the predicted particles that are right and the reference ones found."""
    precision = found / predictedCount if predictedCount else float("nan")
    recall = met / referenceCount if referenceCount else float("nan")
    if found and met:
        f1 = 2 * precision * recall / (precision + recall)
    else:
        f1 = 0.0 if predictedCount or referenceCount else float("nan")
    return {"precision": precision, "recall": recall, "f1": f1}


def listErrors(
    pairs: np.ndarray,
    predicted: dict[str, np.ndarray],
    reference: dict[str, np.ndarray],
    isJudged: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """List the predicted particles that touch no reference one, and the reference ones that none touches.

    Parameters
    ----------
    pairs, predicted, reference
        As of `scoreParticles`.
    isJudged : (particle,) bool, optional
        Which predicted ones may be an error; default: all.

    Returns
    -------
    dict of (row,) arrays
        kind ("false positive" or "miss"), then columns of `describeParticles`; largest first. The label of
        a miss is that of the manual mask, which is in no file: see `hideManualLabels`.
    """
    columns = ("label", "x_voxel", "y_voxel", "z_voxel", "x", "y", "z", "voxelCount", "equivalentDiameter")
    columns += ("meanProbability", "touchesBorder")
    parts = []
    for kind, table, met in (("false positive", predicted, pairs[:, 0]), ("miss", reference, pairs[:, 1])):
        rest = np.setdiff1d(table["label"], met) - 1
        if isJudged is not None and kind == "false positive":
            rest = rest[isJudged[rest]]
        parts.append({"kind": np.full(len(rest), kind)} | {name: table[name][rest] for name in columns})
    errors = {name: np.concatenate([part[name] for part in parts]) for name in ("kind", *columns)}
    order = np.argsort(-errors["voxelCount"], kind="stable")
    return {name: column[order] for name, column in errors.items()}


def hideManualLabels(errors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Write the labels of `listErrors` as text; those of misses are left empty, no file holds them."""
    return errors | {"label": np.where(errors["kind"] == "miss", "", errors["label"].astype(str))}
