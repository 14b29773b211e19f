"""Scores where voxels of the reference are ignored, against plain NumPy and SciPy."""

import numpy as np
import pytest
from scipy import ndimage

from engine.measures.analysis import Judged
from engine.measures.scores import VoxelScores, dropVoxels, scoreCounts
from engine.volumes.frame import Frame

SHAPE = 14, 12, 20  # z, y, x
BALL = np.ones((3, 3, 3))


def makeVolumes(seed=0):
    """Make a probability, a truth and what is ignored of it: half of the volume and single voxels."""
    generator = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(generator.normal(size=SHAPE), 1.0)
    probability = (noise - noise.min()) / np.ptp(noise)
    other = probability + ndimage.gaussian_filter(generator.normal(size=SHAPE), 1.0) * 0.3
    isIgnored = generator.random(SHAPE) < 0.1
    isIgnored[:, :, 9:] = True
    isIgnored[:, :4, 12:16] = False
    return probability.astype(np.float32), (other > np.quantile(other, 0.85)) & ~isIgnored, isIgnored


def judge(volumes, threshold, minimumVoxels=1, slab=4, seams=()):
    """Take slabs in ranges that begin at the seams, and join them."""
    whole, frame = None, Frame(np.eye(3), np.zeros(3), "um")
    scores = VoxelScores(threshold)
    for first, last in zip((0, *seams), (*seams, SHAPE[0]), strict=True):
        part = Judged(SHAPE[::-1], threshold, 26, frame, True, True, first)
        for z in range(first, last, slab):
            block = [array[z : min(z + slab, last)] for array in volumes]
            part.add(z, *block)
            scores.add(z, *block)
        if whole is None:
            whole = part
        else:
            whole.join(part)
    return whole.finish(minimumVoxels), whole, scores.finish()


def makeThreshold(probability):
    return float(np.quantile(probability, 0.85))


@pytest.mark.parametrize("seams", [(), (4,), (4, 8)])
@pytest.mark.parametrize("seed", range(3))
def testVoxelsAreCountedWhereTheyAreLabelled(seed, seams):
    volumes = makeVolumes(seed)
    probability, truth, isIgnored = volumes
    threshold = makeThreshold(probability)
    _, judged, scores = judge(volumes, threshold, seams=seams)
    found, true = probability[~isIgnored] >= threshold, truth[~isIgnored]
    tp, fp, fn = (found & true).sum(), (found & ~true).sum(), (~found & true).sum()
    expected = {"tp": tp, "fp": fp, "fn": fn, "tn": (~found & ~true).sum()} | scoreCounts(tp, fp, fn)
    assert scores == expected and tp > 5 and fp > 5
    curves = Judged(SHAPE[::-1], threshold, 26, Frame(np.eye(3), np.zeros(3), "um"), True).curves
    curves.add(probability[~isIgnored], true)
    np.testing.assert_array_equal(judged.curves.histogram, curves.histogram)
    assert judged.curves.histogram.sum() == (~isIgnored).sum()


@pytest.mark.parametrize("seams", [(), (4,), (4, 8)])
@pytest.mark.parametrize("seed", range(3))
def testParticlesAreJudgedByTheirLabelledVoxels(seed, seams):
    volumes = makeVolumes(seed)
    probability, truth, isIgnored = volumes
    threshold = makeThreshold(probability)
    measured, _, _ = judge(volumes, threshold, seams=seams)
    labels, count = ndimage.label(probability >= threshold, BALL)
    assert len(measured.table["label"]) == count  # all of them are in the table
    numbers = range(1, count + 1)
    known = [n for n in numbers if (~isIgnored[labels == n]).any()]
    partly = [n for n in known if isIgnored[labels == n].any()]
    right = [n for n in known if truth[labels == n].any()]
    assert 0 < len(right) < len(known) < count and partly
    reference, referenceCount = ndimage.label(truth, BALL)
    scores = measured.scores
    assert (scores["predicted"], scores["reference"]) == (len(known), referenceCount)
    assert scores["anyOverlap"]["precision"] == len(right) / len(known)
    met = len(np.unique(reference[(labels > 0) & truth]))
    assert scores["anyOverlap"]["recall"] == met / referenceCount
    errors = measured.errors
    alarms = errors["label"][errors["kind"] == "false positive"]
    assert sorted(alarms) == sorted(set(known) - set(right))
    for number in alarms:
        (row,) = np.flatnonzero((errors["label"] == number) & (errors["kind"] == "false positive"))
        assert errors["voxelCount"][row] == (labels == number).sum()  # what one looks up
    pairs = {
        (n, m): ((labels == n) & (reference == m)).sum()
        / (((labels == n) & ~isIgnored) | (reference == m)).sum()
        for n in numbers
        for m in np.unique(reference[(labels == n) & truth])
    }
    enough = {pair for pair, iou in pairs.items() if iou >= 0.6}  # above 0.5 every particle has one partner
    row = next(row for row in scores["iou"] if row["threshold"] == 0.6)
    assert row["matched"] == len(enough)
    if enough:
        assert row["meanIou"] == pytest.approx(np.mean([pairs[pair] for pair in enough]))
        ratios = [((labels == n) & ~isIgnored).sum() / (reference == m).sum() for n, m in enough]
        quartiles = np.quantile(np.cbrt(ratios) - 1, (0.25, 0.5, 0.75))
        np.testing.assert_allclose(row["sizeErrorQuartiles"], quartiles, atol=1e-12)


def testDroppedParticlesTakeTheirLabelledVoxelsOutOfTheScores():
    volumes = makeVolumes(1)
    probability, truth, isIgnored = volumes
    threshold = makeThreshold(probability)
    measured, _, scores = judge(volumes, threshold, minimumVoxels=12)
    labels, count = ndimage.label(probability >= threshold, BALL)
    sizes = np.bincount(labels.ravel())
    found = (labels > 0) & (sizes[labels] >= 12)
    assert measured.labels.droppedCount > 2
    scores = dropVoxels(scores, measured.droppedCount, measured.droppedTrue)
    y, p = truth[~isIgnored], found[~isIgnored]
    counts = [(p & y).sum(), (p & ~y).sum(), (~p & y).sum(), (~p & ~y).sum()]
    assert [scores[name] for name in ("tp", "fp", "fn", "tn")] == counts
    assert measured.droppedCount < measured.labels.droppedVoxels


def testWhereNothingIsIgnoredTheScoresAreTheUsualOnes():
    probability, truth, isIgnored = makeVolumes(2)
    threshold = makeThreshold(probability)
    none = np.zeros_like(isIgnored)
    with_, without = (
        judge(volumes, threshold) for volumes in ((probability, truth, none), (probability, truth))
    )
    assert str(with_[0].scores) == str(without[0].scores) and with_[2] == without[2]
    for name, column in without[0].errors.items():
        np.testing.assert_array_equal(with_[0].errors[name], column)


def testWhereAllIsIgnoredNothingIsKnown():
    from engine.measures.analysis import describeScores

    probability, truth, isIgnored = makeVolumes(2)
    every = np.ones_like(isIgnored)
    measured, judged, counts = judge((probability, truth & ~every, every), makeThreshold(probability))
    scores = describeScores(judged, counts, measured.scores)
    assert scores["particles"]["predicted"] == 0 and len(measured.errors["label"]) == 0
    assert counts["tp"] + counts["fp"] + counts["fn"] + counts["tn"] == 0
    assert np.isnan(scores["voxels"]["accuracy"]) and scores["bestThreshold"]["threshold"] == 0.5
    assert scores["precisionRecall"]["threshold"] == []
