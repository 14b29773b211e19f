"""Matching of particles against stardist's, and small cases that can be counted by hand."""

import numpy as np
import pytest
from scipy import ndimage

from engine.measures.matching import (
    IOU_THRESHOLDS,
    Overlaps,
    hideManualLabels,
    listErrors,
    matchParticles,
    scoreParticles,
)


def drawBlobs(seed, shift, shape=(20, 40, 40)):
    """Draw two label volumes of blobs that overlap in part, some split and some joined."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 1.5)
    other = noise + ndimage.gaussian_filter(np.random.default_rng(seed + 1).normal(size=shape), 1.0) * shift
    return tuple(
        ndimage.label(part > np.quantile(part, 0.85))[0].astype(np.uint32) for part in (noise, other)
    )


def tableOf(labels):
    """Make a table of the columns that scores and errors use."""
    count = int(labels.max())
    numbers = np.arange(1, count + 1)
    voxels = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    table = {"label": numbers, "voxelCount": voxels, "equivalentDiameter": np.cbrt(6 / np.pi * voxels)}
    for name in ("x_voxel", "y_voxel", "z_voxel", "x", "y", "z", "meanProbability", "touchesBorder"):
        table[name] = numbers * 0.5
    return table


def score(predicted, reference, slab=7):
    """Count the overlaps slab by slab, and score."""
    overlaps = Overlaps()
    for z in range(0, len(predicted), slab):
        overlaps.add(predicted[z : z + slab], reference[z : z + slab])
    pairs, voxels, _ = overlaps.finish(*(np.arange(part.max() + 1) for part in (predicted, reference)))
    return pairs, voxels, scoreParticles(pairs, voxels, tableOf(predicted), tableOf(reference))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def testScoresEqualThoseOfStardist(seed):
    matching = pytest.importorskip("stardist.matching").matching
    predicted, reference = drawBlobs(seed, (0.1, 0.5, 1.0)[seed % 3])
    _, _, scores = score(predicted, reference)
    matched = []
    for row in scores["iou"]:
        expected = matching(reference, predicted, thresh=row["threshold"])
        assert (row["matched"], scores["predicted"], scores["reference"]) == (
            expected.tp,
            expected.n_pred,
            expected.n_true,
        )
        for name in ("precision", "recall", "f1"):
            assert row[name] == pytest.approx(getattr(expected, name)), (name, row["threshold"])
        if row["threshold"] >= 0.5:  # below, stardist also counts pairs that are no match among the ties
            mean = expected.mean_matched_score if expected.tp else np.nan
            assert row["meanIou"] == pytest.approx(mean, nan_ok=True)
        matched.append(row["matched"])
    assert matched == sorted(matched, reverse=True) and matched[0] > matched[-1]


def testOverlapsAreThoseOfTheWholeVolume():
    predicted, reference = drawBlobs(1, 0.5)
    pairs, voxels, _ = score(predicted, reference, slab=3)
    both = (predicted > 0) & (reference > 0)
    expected, counts = np.unique(np.stack([predicted[both], reference[both]], 1), axis=0, return_counts=True)
    np.testing.assert_array_equal(pairs, expected)
    np.testing.assert_array_equal(voxels, counts)


def testOneParticleOverTwoIsMatchedOnce():
    reference = np.zeros((3, 3, 10), np.uint32)
    reference[..., :4], reference[..., 5:] = 1, 2
    predicted = np.ones_like(reference)
    _, _, scores = score(predicted, reference)
    assert scores["anyOverlap"] == {"precision": 1.0, "recall": 1.0, "f1": 1.0}
    assert [row["matched"] for row in scores["iou"]] == [1, 1, 1, 1, 1, 0, 0, 0, 0]
    assert scores["iou"][0]["meanIou"] == pytest.approx(0.5)  # the larger of the two
    assert scores["iou"][0]["sizeErrorQuartiles"] == pytest.approx([2 ** (1 / 3) - 1] * 3)


def testMorePairsOutweighABetterOne():
    pairs = np.array([[1, 1], [1, 2], [2, 1]])
    assert matchParticles(pairs, np.array([0.9, 0.3, 0.3])).tolist() == [1, 2]
    assert matchParticles(pairs[:2], np.array([0.9, 0.3])).tolist() == [0]
    assert matchParticles(pairs[:0], np.zeros(0)).tolist() == []


@pytest.mark.parametrize("missing", ["predicted", "reference", "both"])
def testWithoutParticlesRatesAreUnknown(missing):
    labels = {"predicted": np.ones((2, 2, 2), np.uint32), "reference": np.ones((2, 2, 2), np.uint32)}
    for name in labels if missing == "both" else [missing]:
        labels[name][:] = 0
    _, _, scores = score(**labels)
    rates = scores["anyOverlap"]
    assert np.isnan(rates["precision"]) == (missing != "reference")
    assert np.isnan(rates["recall"]) == (missing != "predicted")
    assert [row["threshold"] for row in scores["iou"]] == list(IOU_THRESHOLDS)
    assert all(row["matched"] == 0 and np.isnan(row["meanIou"]) for row in scores["iou"])


def testFindingNothingScoresNothing():
    labels = np.zeros((3, 4, 5), np.uint32)
    labels[1, 1:3, 1:3] = 1
    for pair in ((labels, 0 * labels), (0 * labels, labels)):
        assert score(*pair)[2]["anyOverlap"]["f1"] == 0
    assert np.isnan(score(0 * labels, 0 * labels)[2]["anyOverlap"]["f1"])


def testErrorsAreTheParticlesThatTouchNothingLargestFirst():
    predicted, reference = np.zeros((3, 3, 20), np.uint32), np.zeros((3, 3, 20), np.uint32)
    predicted[0, 0, 0:2], predicted[0, 0, 4:9], predicted[2, 2, 2] = 1, 2, 3
    reference[0, 0, 1:3], reference[2, 0, 4:7] = 1, 2
    pairs, _, scores = score(predicted, reference)
    errors = listErrors(pairs, tableOf(predicted), tableOf(reference))
    rows = list(zip(errors["kind"], errors["label"], errors["voxelCount"], strict=True))
    assert rows == [("false positive", 2, 5), ("miss", 2, 3), ("false positive", 3, 1)]
    assert hideManualLabels(errors)["label"].tolist() == ["2", "", "3"]
    assert scores["anyOverlap"]["precision"] == pytest.approx(1 / 3)
    assert scores["anyOverlap"]["recall"] == pytest.approx(1 / 2)
