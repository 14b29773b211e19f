"""Two devices that share every batch learn what one of them would."""

import csv
import os
import subprocess
import sys

import numpy as np
import pytest
from places import ROOT

TRAIN = """
import sys
import numpy as np
if BACKEND == "tensorflow":
    import tensorflow as tf
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
import engine.learning.training
import trainingAndValidation as script

learn = engine.learning.training.Training._learn

def learnAndCompare(training, callbacks):
    row = learn(training, callbacks)
    for layer in training.setup.model.layers:
        for name in ("moving_mean", "moving_variance"):
            replicas = getattr(getattr(layer, name, None), "value", None)
            values = [np.asarray(value) for value in getattr(replicas, "values", ())]
            if values:
                print("REPLICAS", len(values), all(np.array_equal(values[0], value) for value in values))
    return row

engine.learning.training.Training._learn = learnAndCompare
count, left = engine.learning.training._Watch.on_train_batch_end, [STOP]

def countOrStop(watch, batch, logs=None):
    left[0] -= 1
    watch.training.signal = 15 if left[0] == 0 else 0
    count(watch, batch, logs)

engine.learning.training._Watch.on_train_batch_end = countOrStop
script.main(script.parseArguments(sys.argv[1:]))
"""


def writeSet(folder, count):
    """Write sub-volumes with a dark block each."""
    generator = np.random.default_rng(2)
    for part in ("training", "validation"):
        masks = np.zeros((count, 8, 8, 8, 1), bool)
        masks[:, 2:6, 1:5, 3:6] = True
        images = generator.normal(size=masks.shape) - 2 * masks
        np.save(folder / f"{part}DataImage.npy", images.astype(np.float32))
        np.save(folder / f"{part}DataMask.npy", masks)


def train(folder, backend, deviceCount, *flags, stop=0, target="out"):
    """Train; gives the log as {column: values} and what was printed. `stop`: the step after which it ends."""
    target = folder / f"{target}{deviceCount}"
    target.mkdir(exist_ok=True)
    files = {"metricsFile": "metrics.log", "weightFile": "loss.h5", "weightFileTrain": "accuracy.h5"}
    files |= {"weightFileDice": "dice.h5", "modelFile": "net.h5"}
    command = [
        sys.executable,
        "-c",
        f"BACKEND, STOP = {backend!r}, {stop}\n{TRAIN}",
        "--learningData",
        folder,
    ]
    command += [word for name, file in files.items() for word in (f"--{name}", target / file)]
    command += ["--deviceCount", deviceCount, "--base_depth", 2, "--levelCount", 2, "--Nepochs", 3]
    environment = {"KERAS_BACKEND": backend, "XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    run = subprocess.run(
        list(map(str, [*command, "--batchSize", 4, *flags])),
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.returncode == 0) is (stop == 0), run.stdout + run.stderr
    if stop:
        assert "StoppedBySignal" in run.stderr
        return None
    with open(target / "metrics.log", newline="") as file:
        rows = list(csv.DictReader(file, delimiter=" "))
    return {name: np.array([float(row[name]) for row in rows]) for name in rows[0]}, run.stdout


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def testTwoDevicesLearnWhatOneDoes(tmp_path, backend):
    pytest.importorskip(backend)
    writeSet(tmp_path, 6)  # two batches, of four and of two
    flags = ("--recipe", "published", "--momentum", "0.5", "--clipNorm", "0.02")
    one, _ = train(tmp_path, backend, 1, *flags)
    two, text = train(tmp_path, backend, 2, *flags)
    for name in one:
        np.testing.assert_allclose(two[name], one[name], rtol=1e-4, atol=1e-4, err_msg=name)
    assert one["loss"][2] < 0.999 * one["loss"][0]
    if backend == "tensorflow":
        found = [line for line in text.splitlines() if line.startswith("REPLICAS")]
        assert len(found) == 3 * 2 * 6 and set(found) == {"REPLICAS 2 True"}


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def testAnUnevenLastBatchIsFilledUp(tmp_path, backend):
    pytest.importorskip(backend)
    writeSet(tmp_path, 5)
    log, _ = train(tmp_path, backend, 2, "--recipe", "published")
    assert np.isfinite(log["loss"]).all()
    assert (log["tp"] + log["fn"] == 6 * 48).all()  # voxels of five sub-volumes and of one again
    assert (log["val_tp"] + log["val_fn"] == 5 * 48).all()


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def testTwoDevicesGoOnWhereTheyWereStopped(tmp_path, backend):
    pytest.importorskip(backend)
    writeSet(tmp_path, 6)
    flags = ("--stepsPerEpoch", "2", "--patchSide", "8")
    whole, _ = train(tmp_path, backend, 2, *flags)
    train(tmp_path, backend, 2, *flags, stop=3, target="stopped")
    log, text = train(tmp_path, backend, 2, *flags, target="stopped")
    assert "Going on after epoch 1, step 1" in text
    for name in whole:
        np.testing.assert_allclose(log[name], whole[name], rtol=1e-5, atol=1e-6, err_msg=name)
