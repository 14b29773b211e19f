"""trainingAndValidation.py with labels of some voxels: what is not labelled changes nothing."""

import csv
import json
import os
import subprocess
import sys

import h5py
import numpy as np
import pytest
from places import ROOT
from projects import callMain, refusal

import functions
import trainingAndValidation
from engine.learning.steps import Steps
from engine.learning.validation import scoreSamples
from engine.preparation.samples import openSamples

FILES = {
    "metricsFile": "metrics.log",
    "weightFile": "loss.h5",
    "weightFileTrain": "accuracy.h5",
    "weightFileDice": "dice.h5",
    "modelFile": "net.h5",
}
SIDE, COUNTS = 16, {"training": 2, "validation": 3}
SIZES = {"base_depth": 2, "levelCount": 2, "Nepochs": 2, "stepsPerEpoch": 3, "patchSide": 8, "batchSize": 2}


def chooseSlices(part):
    """Choose two planes of every sub-volume; the last one of the validation has only a few voxels."""
    isLabelled = np.zeros((COUNTS[part], SIDE, SIDE, SIDE, 1), bool)
    for index, one in enumerate(isLabelled):
        one[:, :, 4 + index] = one[:, 11] = True
    if part == "validation":
        isLabelled[2] = False
        isLabelled[2, 3:9, 5:9, 6] = True
    return isLabelled


def writeSet(folder, junk=None, labelled=chooseSlices):
    """Write sub-volumes of a dark block in noise.

    Parameters
    ----------
    junk : int, optional
        What the masks hold where they are not labelled is random, with this seed; default: the truth.
    labelled : callable, optional
        Part -> which voxels are labelled; None: there is no such array.
    """
    folder.mkdir(exist_ok=True)
    generator = np.random.default_rng(5)
    for part, count in COUNTS.items():
        masks = np.zeros((count, SIDE, SIDE, SIDE, 1), bool)
        masks[:, 3:9, 4:13, 3:12] = True
        images = generator.normal(size=masks.shape) - 2 * masks
        np.save(folder / f"{part}DataImage.npy", images.astype(np.float32))
        if labelled:
            isLabelled = labelled(part)
            np.save(folder / f"{part}DataLabelled.npy", isLabelled)
            if junk is not None:
                noise = np.random.default_rng(junk).random(masks.shape) < 0.5
                masks = np.where(isLabelled, masks, noise)
        np.save(folder / f"{part}DataMask.npy", masks)
    return folder


def flagsOf(data, folder, *flags):
    folder.mkdir(exist_ok=True)
    words = ["--learningData", data]
    words += [word for name, file in FILES.items() for word in (f"--{name}", folder / file)]
    words += [word for name, value in SIZES.items() for word in (f"--{name}", value)]
    return list(map(str, [*words, *flags]))


def train(data, folder, *flags):
    """Train in this process; gives the log as {column: values}."""
    callMain(trainingAndValidation, flagsOf(data, folder, *flags))
    return readLog(folder)


def readLog(folder):
    with open(folder / "metrics.log", newline="") as file:
        rows = list(csv.DictReader(file, delimiter=" "))
    return {name: np.array([float(row[name]) for row in rows]) for name in rows[0]}


def readWeights(file):
    """All arrays of a model file, by name."""
    arrays = {}
    with h5py.File(file) as opened:
        opened.visititems(
            lambda name, item: arrays.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None
        )
    return arrays


def predictAll(folder, samples, file="net.h5"):
    """Probability of the voxels of all samples by a written model: (sample, x, y, z) float64."""
    plan, weights = functions.readModel(folder / file)
    model = functions.buildModel(plan, weights)
    images = [samples.read(index)[0] for index in range(samples.count)]
    return [np.asarray(model(image[np.newaxis, ..., np.newaxis]), np.float64)[0, ..., 0] for image in images]


def plainLoss(truths, founds):
    """Cross-entropy over all labelled voxels, and 1 - Dice, sample by sample."""
    known = [(y[y >= 0].astype(float), p[y >= 0]) for y, p in zip(truths, founds, strict=True)]
    y, p = map(np.concatenate, zip(*known, strict=True))
    entropy = -np.mean(y * np.log(p) + (1 - y) * np.log(1 - p))
    return entropy + np.mean([1 - 2 * (y * p).sum() / (y + p).sum() for y, p in known])


def testWhatIsNotLabelledChangesNothing(tmp_path):
    runs = []
    for name, junk in (("one", 1), ("two", 2)):
        data = writeSet(tmp_path / f"data {name}", junk)
        runs.append(train(data, tmp_path / name))
    first, second = (np.load(tmp_path / f"data {name}" / "trainingDataMask.npy") for name in ("one", "two"))
    assert (first != second).mean() > 0.2
    assert (tmp_path / "one" / "metrics.log").read_bytes() == (tmp_path / "two" / "metrics.log").read_bytes()
    assert np.isfinite(list(runs[0].values())).all()
    for file in ("net.h5", "dice.h5", "loss.h5"):
        one, two = (readWeights(tmp_path / name / file) for name in ("one", "two"))
        assert one.keys() == two.keys() and len(one) > 10
        for key in one:
            np.testing.assert_array_equal(one[key], two[key])
    contracts = [json.loads((tmp_path / name / "net.json").read_text()) for name in ("one", "two")]
    for entry in ("thresholds", "diceAtThreshold", "sureness", "bestValidation", "greys"):
        assert contracts[0][entry] == contracts[1][entry]


def testScoresOfTheValidationAreThoseOfTheLabelledVoxels(tmp_path, capfd):
    data = writeSet(tmp_path / "data", 1)
    log = train(data, tmp_path / "out")
    samples = openSamples(data, "validation", 2)
    share = chooseSlices("validation").mean()
    assert f"Validation: 3 sub-volumes of 16x16x16 voxels, {share:.2%} of them labelled, of these" in (
        capfd.readouterr().out
    )
    truths = [samples.read(index)[1] for index in range(3)]
    founds = predictAll(tmp_path / "out", samples)
    y = np.concatenate([truth[truth >= 0] for truth in truths]) > 0
    p = np.concatenate([found[truth >= 0] for truth, found in zip(truths, founds, strict=True)])
    assert len(y) == chooseSlices("validation").sum()
    assert log["val_loss"][-1] == pytest.approx(plainLoss(truths, founds), rel=1e-4)
    positive = p > 0.5
    counts = [(y & positive).sum(), (~y & positive).sum(), (y & ~positive).sum(), (~y & ~positive).sum()]
    assert [log[f"val_{name}"][-1] for name in ("tp", "fp", "fn", "tn")] == counts
    assert log["val_binary_accuracy"][-1] == pytest.approx((y == positive).mean(), rel=1e-5)
    tp, fp, fn, _ = counts
    assert log["val_dice"][-1] == pytest.approx(2 * tp / (2 * tp + fp + fn), rel=1e-5)
    assert log["val_recall"][-1] == pytest.approx(tp / (tp + fn), rel=1e-5)
    p = np.concatenate(
        [
            found[truth >= 0]
            for truth, found in zip(truths, predictAll(tmp_path / "out", samples, "dice.h5"), strict=True)
        ]
    )
    dices = [2 * (y & (p >= t / 100)).sum() / (y.sum() + (p >= t / 100).sum()) for t in range(1, 100)]
    contract = json.loads((tmp_path / "out" / "net.json").read_text())
    assert contract["thresholds"]["dice.h5"] == pytest.approx((1 + int(np.argmax(dices))) / 100)
    assert contract["diceAtThreshold"]["dice.h5"] == pytest.approx(max(dices), rel=1e-5)


def testLossOfTheTrainingIsThatOfTheLabelledVoxels(tmp_path, keras):
    data = writeSet(tmp_path / "data", 1)
    start = tmp_path / "start.h5"
    keras.utils.set_random_seed(4)
    model = functions.buildSpotUNet(2, 2)
    model.save(start, include_optimizer=False)
    flags = ("--recipe", "published", "--loss", "bce+dice", "--weightStart", start, "--Nepochs", 1)
    log = train(data, tmp_path / "out", *flags, "--stepsPerEpoch", 0, "--patchSide", 0)
    samples = openSamples(data, "training", 2)
    images, truths = zip(*(samples.read(index) for index in range(2)), strict=True)
    founds = np.asarray(model(np.stack(images)[..., np.newaxis], training=True), np.float64)[..., 0]
    assert log["loss"][0] == pytest.approx(plainLoss(truths, founds), rel=1e-4)
    assert log["tp"][0] + log["fp"][0] + log["fn"][0] + log["tn"][0] == chooseSlices("training").sum()


def testWhereAllIsLabelledItIsTheUsualTraining(tmp_path):
    every = writeSet(tmp_path / "every", labelled=lambda part: np.ones_like(chooseSlices(part)))
    dense = writeSet(tmp_path / "dense", labelled=None)
    flags = ("--recipe", "published", "--loss", "bce+dice", "--learningRate", "0.001")
    flags = (*flags, "--stepsPerEpoch", 0, "--patchSide", 0)  # patches would be drawn otherwise
    logs = [train(data, tmp_path / name, *flags) for data, name in ((every, "one"), (dense, "two"))]
    assert list(logs[0]) == list(logs[1])
    for name in logs[0]:
        np.testing.assert_allclose(logs[0][name], logs[1][name], rtol=1e-4, atol=1e-5, err_msg=name)
    one, two = (readWeights(tmp_path / name / "net.h5") for name in ("one", "two"))
    for key in one:
        if one[key].dtype.kind == "f":
            np.testing.assert_allclose(one[key], two[key], rtol=1e-3, atol=1e-4, err_msg=key)


def testABatchWithoutALabelledVoxelDoesNoHarm(tmp_path):
    def chooseOne(part):
        isLabelled = chooseSlices(part)
        isLabelled[0] = False
        return isLabelled

    data = writeSet(tmp_path / "data", 1, chooseOne)
    flags = ("--recipe", "published", "--stepsPerEpoch", 0, "--patchSide", 0, "--batchSize", 1)
    log = train(data, tmp_path / "out", *flags)
    assert np.isfinite(list(log.values())).all()
    assert log["tp"][0] + log["fp"][0] + log["fn"][0] + log["tn"][0] == chooseOne("training").sum()
    samples = openSamples(data, "validation", 2)
    truths, founds = [samples.read(index)[1] for index in (1, 2)], predictAll(tmp_path / "out", samples)
    known = [(y[y >= 0].astype(float), p[y >= 0]) for y, p in zip(truths, founds[1:], strict=True)]
    y, p = map(np.concatenate, zip(*known, strict=True))
    entropy = -np.mean(y * np.log(p) + (1 - y) * np.log(1 - p))
    assert log["val_loss"][-1] == pytest.approx(entropy, rel=1e-4)


def testAnInterruptedTrainingGoesOnWithTheSameBits(tmp_path, monkeypatch):
    import engine.learning.training as module

    data = writeSet(tmp_path / "data", 1)
    train(data, tmp_path / "whole")
    count, left = module._Watch.on_train_batch_end, [4]

    def countOrStop(watch, batch, logs=None):
        left[0] -= 1
        if left[0] == 0:
            watch.training.signal = 15
        count(watch, batch, logs)

    monkeypatch.setattr(module._Watch, "on_train_batch_end", countOrStop)
    with pytest.raises(SystemExit) as stop:
        train(data, tmp_path / "stopped")
    assert stop.value.code == 143
    train(data, tmp_path / "stopped")
    logs = [(tmp_path / name / "metrics.log").read_bytes() for name in ("whole", "stopped")]
    assert logs[0] == logs[1]


def testOtherLabelsAreAnotherTraining(tmp_path, capfd):
    data = writeSet(tmp_path / "data", 1)
    train(data, tmp_path / "out", "--Nepochs", 1)
    isLabelled = np.load(data / "trainingDataLabelled.npy")
    isLabelled[0, 0] = True
    np.save(data / "trainingDataLabelled.npy", isLabelled)
    flags = flagsOf(data, tmp_path / "out", "--Nepochs", 1)
    line = refusal(capfd, trainingAndValidation, flags, "differs in trainingDataLabelled.npy")
    assert "trainingDataMask.npy" not in line
    (data / "trainingDataLabelled.npy").unlink()
    refusal(capfd, trainingAndValidation, flags, "differs in trainingDataLabelled.npy")


# ---------------------------------------------------------------------------------------------- what is drawn


def drawing(**changes):
    values = dict.fromkeys(functions.Drawing._fields, 0) | {"seed": 3, "batchSize": 2, "positiveShare": 0.5}
    return functions.Drawing(**values | {"voxels": (functions.CUBE,)} | changes)


@pytest.mark.parametrize("stepsPerEpoch", [0, 5])
def testPatchesLieWhereLabelsAre(tmp_path, stepsPerEpoch):
    def chooseFew(part):
        isLabelled = np.zeros_like(chooseSlices(part))
        isLabelled[1, 2, 3, 4] = isLabelled[1, 4, 5, 6] = isLabelled[0, 15, 15, 15] = True
        return isLabelled

    samples = openSamples(writeSet(tmp_path / "data", 1, chooseFew), "training", 2)
    patches = drawing(patchSide=8, stepsPerEpoch=stepsPerEpoch, turns=True)
    seen = np.zeros(3, int)
    for step in range(60):
        for number, (_, truth) in enumerate(functions.drawBatch(samples, patches, step, 0)):
            assert truth.shape == (8, 8, 8) and (truth >= 0).any()
            seen[(truth > 0).sum()] += 1
            assert number < 2
    assert seen[0] > 10 and seen[1] > 10  # around (4, 5, 6), and around any


def testEveryLabelledVoxelIsEquallyLikely(tmp_path):
    def chooseRow(part):
        isLabelled = np.zeros_like(chooseSlices(part))
        isLabelled[0, 2, 2, 2], isLabelled[1, 12, :, 12] = True, True
        return isLabelled

    samples = openSamples(writeSet(tmp_path / "data", 1, chooseRow), "training", 2)
    generator = np.random.default_rng(0)
    places = [functions.placePatch(generator, samples, (4, 4, 4), False) for _ in range(1700)]
    first = sum(index == 0 for index, _ in places)
    assert abs(first - 100) < 35
    assert all(place[0].start in (10, 11) for index, place in places if index == 1)  # in the middle half
    starts = [place[1].start for index, place in places if index == 1]
    assert (np.bincount(starts) > 60).all()


def testTheShareOfPositivesIsThatOfTheLabelledVoxels():
    masks = np.array([[1, 0, -1, -1], [1, -1, -1, 0]], np.float32)
    steps = Steps(lambda epoch, step: (None, masks[step]), 2, 1, 1, (8, 8, 8))
    assert steps.measurePositives() == 0.5
    masks[1] = [1, -1, -1, 1]
    assert steps.measurePositives() == 0.75


def testThresholdsAreChosenOnLabelledVoxels(tmp_path):
    data = writeSet(tmp_path / "data", 1)
    samples = openSamples(data, "validation", 2)

    class Model:
        """Gives a probability that is right where voxels are labelled, and wrong elsewhere."""

        def predict_on_batch(self, batch):
            index = next(i for i in range(3) if np.array_equal(samples.read(i)[0], batch[0, ..., 0]))
            truth = samples.read(index)[1]
            return np.select([truth < 0, truth > 0], [0.9, 0.405], 0.1).astype(np.float32)[None, ..., None]

    scores = scoreSamples(Model(), samples)
    assert scores.choose() == (0.25, 1.0)
    assert scores.dices == [1.0] * 3
    total = sum(histogram.sum() for histogram in scores.histograms)
    assert total == chooseSlices("validation").sum()


# ------------------------------------------------------------------------------------------ JAX, more devices


def trainElsewhere(data, folder, backend, deviceCount, *flags):
    """Train in a process of its own."""
    folder.mkdir(exist_ok=True)
    split = (
        "import tensorflow as tf\n"
        "cpu = tf.config.list_physical_devices('CPU')[0]\n"
        f"parts = [tf.config.LogicalDeviceConfiguration()] * {deviceCount}\n"
        "tf.config.set_logical_device_configuration(cpu, parts)\n"
    )
    code = (split if backend == "tensorflow" else "") + (
        "import sys, trainingAndValidation as script\nscript.main(script.parseArguments(sys.argv[1:]))"
    )
    words = flagsOf(data, folder, "--deviceCount", deviceCount, *flags)
    environment = {"KERAS_BACKEND": backend, "XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    environment |= {"CUDA_VISIBLE_DEVICES": "-1"}
    run = subprocess.run(
        [sys.executable, "-c", code, *words],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return readLog(folder)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def testTwoDevicesWithUnequalLabelsLearnWhatOneDoes(tmp_path, backend):
    pytest.importorskip(backend)
    data = writeSet(tmp_path / "data", 1, chooseUnequal)
    flags = ("--recipe", "published", "--loss", "bce+dice", "--stepsPerEpoch", 0, "--patchSide", 0)
    flags = (*flags, "--clipNorm", "0.05", "--momentum", "0.5")
    one = trainElsewhere(data, tmp_path / "one", backend, 1, *flags)
    two = trainElsewhere(data, tmp_path / "two", backend, 2, *flags)
    for name in one:
        np.testing.assert_allclose(two[name], one[name], rtol=1e-4, atol=1e-4, err_msg=name)
    assert one["loss"][1] < 0.999 * one["loss"][0]


def chooseUnequal(part):
    """Label much of one sample and little of the other."""
    isLabelled = chooseSlices(part)
    isLabelled[0, :, :, :10] = True
    return isLabelled


@pytest.mark.slow
def testJaxLearnsWhatTensorFlowDoes(tmp_path, keras):
    pytest.importorskip("jax")
    functions.buildSpotUNet(2, 2).save(tmp_path / "start.h5", include_optimizer=False)
    flags = ("--recipe", "published", "--loss", "bce+dice", "--learningRate", "0.0001")
    flags = (*flags, "--stepsPerEpoch", 0, "--patchSide", 0, "--weightStart", tmp_path / "start.h5")
    logs = []
    for junk, backend in ((1, "tensorflow"), (1, "jax"), (2, "jax")):
        data = writeSet(tmp_path / f"data{junk}", junk)
        logs.append(trainElsewhere(data, tmp_path / f"{backend}{junk}", backend, 1, *flags))
    for name in logs[1]:
        np.testing.assert_array_equal(logs[1][name], logs[2][name])
        np.testing.assert_allclose(logs[0][name], logs[1][name], rtol=1e-3, atol=1, err_msg=name)  # of counts
    for name in ("loss", "val_loss"):
        np.testing.assert_allclose(logs[0][name], logs[1][name], rtol=1e-4, err_msg=name)
    counts = [sum(log[name][0] for name in ("tp", "fp", "fn", "tn")) for log in logs]
    assert counts == [chooseSlices("training").sum()] * 3
