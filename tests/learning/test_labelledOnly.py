"""Loss and metrics over labelled voxels against plain NumPy."""

import numpy as np
import pytest
from batches import makeBatch, plainLosses

NAMES = ("bce", "dice", "bce+dice", "focal", "tversky")


def makeSparse(seed=0):
    """Make a truth of 1, 0 and -1, of which every sample has another share, and probabilities."""
    masks, found = makeBatch(seed)
    isLabelled = np.random.default_rng(seed + 9).random(masks.shape) < np.reshape(
        [0.1, 0.5, 0.9], (3, 1, 1, 1, 1)
    )
    return np.where(isLabelled, masks, -1).astype(np.float32), found


def meanLoss(name, truth, found):
    """Loss of labelled voxels: of voxels over all of them, of overlaps over the samples that have some."""
    pairs = [(y[y >= 0].astype(float), p[y >= 0].astype(float)) for y, p in zip(truth, found, strict=True)]
    pairs = [pair for pair in pairs if len(pair[0])]
    total = 0.0
    for part in name.split("+"):
        if part in ("bce", "focal"):
            total += plainLosses(*map(np.concatenate, zip(*pairs, strict=True)))[part]
        else:
            total += np.mean([plainLosses(y, p)[part] for y, p in pairs])
    return total


def make(name):
    from engine.learning.labelledOnly import overLabelled
    from engine.learning.losses import makeLoss
    from engine.learning.metrics import makeMetrics

    loss, metrics = overLabelled(makeLoss(name), makeMetrics())
    return loss, {metric.name: metric for metric in metrics}


@pytest.mark.parametrize("name", NAMES)
def testLossIsThatOfTheLabelledVoxelsAlone(name):
    truth, found = makeSparse()
    loss, metrics = make(name)
    assert float(loss(truth, found)) == pytest.approx(meanLoss(name, truth, found), rel=1e-4)
    other = np.where(truth < 0, 0.999, found).astype(np.float32)
    assert float(loss(truth, other)) == float(loss(truth, found))
    second, guess = makeSparse(1)
    second[2] = -1  # a sample without any
    metrics["loss"].update_state(truth, found)
    metrics["loss"].update_state(second, guess)
    both = np.concatenate([truth, second]), np.concatenate([found, guess])
    assert float(metrics["loss"].result()) == pytest.approx(meanLoss(name, *both), rel=1e-4)


@pytest.mark.parametrize("name", NAMES)
def testWhereAllIsLabelledItIsTheUsualLoss(name):
    from engine.learning.losses import makeLoss

    masks, found = makeBatch()
    loss, metrics = make(name)
    usual = float(makeLoss(name)(masks, found))
    assert float(loss(masks, found)) == pytest.approx(usual, rel=1e-6)
    metrics["loss"].update_state(masks, found)
    assert float(metrics["loss"].result()) == pytest.approx(usual, rel=1e-6)


@pytest.mark.parametrize("name", NAMES)
def testNothingLabelledIsNoLossAndNoGradient(keras, name):
    from engine.network.devices import backendName

    truth, found = makeSparse()
    loss, metrics = make(name)
    empty = np.full_like(truth, -1)
    assert float(loss(empty, found)) == 0
    for metric in metrics.values():
        metric.update_state(empty, found)
        assert float(metric.result()) == 0
    if backendName() != "tensorflow":
        return
    import tensorflow as tf

    for mask, isLearnt in ((empty, False), (truth, True)):
        with tf.GradientTape() as tape:
            probability = tf.Variable(found)
            value = loss(mask, probability)
        gradient = tape.gradient(value, probability).numpy()
        assert np.isfinite(gradient).all() and not gradient[mask < 0].any()
        assert gradient[mask >= 0].any() == isLearnt


def testMetricsCountLabelledVoxels():
    _, metrics = make("bce")
    truths, founds = zip(makeSparse(0), makeSparse(1), strict=True)
    for truth, found in zip(truths, founds, strict=True):
        for metric in metrics.values():
            metric.update_state(truth, found)
    truth, found = np.concatenate(truths), np.concatenate(founds)
    y, p = truth[truth >= 0] > 0, found[truth >= 0] > 0.5
    counts = {"tp": (y & p).sum(), "tn": (~y & ~p).sum(), "fp": (~y & p).sum(), "fn": (y & ~p).sum()}
    for name, count in counts.items():
        assert count and float(metrics[name].result()) == count
    assert float(metrics["binary_accuracy"].result()) == pytest.approx((y == p).mean(), rel=1e-5)
    dice = 2 * (y & p).sum() / (y.sum() + p.sum())
    assert float(metrics["dice"].result()) == pytest.approx(dice, rel=1e-6)
    for metric in metrics.values():
        metric.reset_state()
        assert float(metric.result()) == 0


def testAlsoALossThatIsNewIsTakenOverLabelledVoxels(monkeypatch):
    from engine.learning.losses import LOSSES, sumOfLosses

    monkeypatch.setitem(LOSSES, "absolute", lambda keras: keras.losses.MeanAbsoluteError())
    monkeypatch.setitem(LOSSES, "both", lambda keras: sumOfLosses(keras, "absolute", "dice"))
    truth, found = makeSparse()
    loss, _ = make("both")
    error = np.abs(truth - found)[truth >= 0].mean()
    assert float(loss(truth, found)) == pytest.approx(error + meanLoss("dice", truth, found), rel=1e-4)
