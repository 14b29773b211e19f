"""A new loss is one entry in engine/learning/losses.py."""

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import functions
from engine.learning.losses import LOSSES, makeLoss
from engine.preparation.samples import Samples

ROOT = Path(__file__).resolve().parents[2]
FILES = {
    "metricsFile": "metrics.log",
    "weightFile": "loss.h5",
    "weightFileTrain": "accuracy.h5",
    "weightFileDice": "dice.h5",
    "modelFile": "net.h5",
}
TRAIN = """
import sys
from engine.learning.losses import LOSSES

LOSSES["absolute"] = lambda keras: keras.losses.MeanAbsoluteError()
import trainingAndValidation as script

script.main(script.parseArguments(sys.argv[1:]))
"""


def writeSet(folder):
    """Write a training and two validation sub-volumes with a dark block each."""
    generator = np.random.default_rng(5)
    for part, count in (("training", 1), ("validation", 2)):
        masks = np.zeros((count, 16, 16, 16, 1), bool)
        masks[:, 3:9, 4:12, 5:11] = True
        images = generator.normal(size=masks.shape) - 2 * masks
        np.save(folder / f"{part}DataImage.npy", images.astype(np.float32))
        np.save(folder / f"{part}DataMask.npy", masks)


def meanError(folder):
    """Mean distance of the prediction from the mask, of the model that was written, sample by sample."""
    plan, weights = functions.readModel(folder / "net.h5")
    model = functions.buildModel(plan, weights)
    samples = Samples(folder / "validationDataImage.npy", folder / "validationDataMask.npy")
    errors = []
    for index in range(samples.count):
        image, mask = samples.read(index)
        probability = np.asarray(model(image[np.newaxis, ..., np.newaxis]), np.float64)[0, ..., 0]
        errors.append(np.abs(mask - probability).mean())
    return np.mean(errors)


def testAnEntryIsAFlagAndIsTrainedWith(tmp_path):
    writeSet(tmp_path)
    flags = [word for name, file in FILES.items() for word in (f"--{name}", tmp_path / file)]
    flags += ["--learningData", tmp_path, "--base_depth", 2, "--levelCount", 2, "--patchSide", 8]
    flags += ["--Nepochs", 1, "--stepsPerEpoch", 2, "--batchSize", 1, "--loss", "absolute"]
    command = [sys.executable, "-c", TRAIN, *map(str, flags)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert "loss=absolute" in run.stdout
    with open(tmp_path / "metrics.log", newline="") as file:
        (row,) = csv.DictReader(file, delimiter=" ")
    assert float(row["val_loss"]) == pytest.approx(meanError(tmp_path), rel=1e-4)
    assert 0 < float(row["loss"]) < 1


def testAnEntryMayBeASumOfOthers(monkeypatch):
    from engine.learning.losses import sumOfLosses

    monkeypatch.setitem(LOSSES, "absolute", lambda keras: keras.losses.MeanAbsoluteError())
    monkeypatch.setitem(LOSSES, "absolute+dice", lambda keras: sumOfLosses(keras, "absolute", "dice"))
    generator = np.random.default_rng(6)
    masks = (generator.random((3, 4, 6, 8, 1)) < 0.3).astype(np.float32)
    found = generator.uniform(0.02, 0.98, masks.shape).astype(np.float32)
    axes = (1, 2, 3, 4)
    dice = 1 - 2 * (masks * found).sum(axes) / (masks + found).sum(axes)
    expected = np.mean(np.abs(masks - found).mean(axes) + dice)
    assert float(makeLoss("absolute+dice")(masks, found)) == pytest.approx(expected, rel=1e-4)


def testAnUnknownNameIsRefusedWithTheKnownOnes(capsys):
    import trainingAndValidation

    with pytest.raises(SystemExit) as stop:
        trainingAndValidation.parseArguments(["--loss", "hinge"])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert "hinge" in error and all(name in error for name in LOSSES)
