"""trainingAndValidation.py: what it refuses, trainings that diverge, full disks."""

import json
import os
import pickle
import subprocess

import nrrd
import numpy as np
import pytest
from projects import (
    assertPicture,
    callMain,
    makeVolume,
    nextCommand,
    partialFiles,
    readLog,
    refusal,
    smallDisk,
    snapshot,
    trainFlags,
    writeNrrd,
)

import predictData
import trainingAndValidation
from engine.base.squares import EDGES, FEATURES, describeSquares
from engine.network.contracts import Contract, chooseMoments, findContract, readContract


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):  # noqa: D105
        return os.mkdir, (str(self.path),)


def badArrays():
    """Name what pythonFiles/ may be like that cannot be learnt, and what it is told."""

    def change(name, function):
        return lambda folder: np.save(folder / name, function(np.load(folder / name)))

    image, mask = "trainingDataImage.npy", "validationDataMask.npy"
    pair = (image, "trainingDataMask.npy")
    return {
        "missing": (
            lambda f: (f / image).unlink(),
            (),
            (image, "no such file", "run prepareData.py first"),
        ),
        "truncated": (
            lambda f: (f / image).write_bytes((f / image).read_bytes()[:-7]),
            (),
            (image, "is no readable .npy file"),
        ),
        "cut in its header": (
            lambda f: (f / image).write_bytes((f / image).read_bytes()[:50]),
            (),
            (image, "is no readable .npy file"),
        ),
        "damaged in its header": (
            lambda f: (f / image).write_bytes((f / image).read_bytes().replace(b",", b"(", 1)),
            (),
            (image, "is no readable .npy file"),
        ),
        "empty": (lambda f: (f / image).write_bytes(b""), (), (image, "is no readable .npy file")),
        "objects": (
            lambda f: np.save(f / image, np.array([Trap(f / "trap")], object), allow_pickle=True),
            (),
            (image, "is no readable .npy file"),
        ),
        "pickle": (
            lambda f: (f / image).write_bytes(pickle.dumps(Trap(f / "trap"))),
            (),
            (image, "is no readable .npy file"),
        ),
        "float64": (
            change(image, lambda array: array.astype(np.float64)),
            (),
            (image, "expected float32 and bool", "received float64 and bool"),
        ),
        "mask of bytes": (
            change(mask, lambda array: array.astype(np.uint8)),
            (),
            ("validationData", "received float32 and uint8"),
        ),
        "shapes differ": (change(image, lambda array: array[1:]), (), (image, "differ in shape")),
        "no channel": (
            lambda f: [change(name, lambda array: array[..., 0])(f) for name in pair],
            (),
            (image, "is no set of sub-volumes", "expected (sample, x, y, z, 1)"),
        ),
        "sides that cannot be halved": (
            lambda f: [change(name, lambda array: array[:, :, :6])(f) for name in pair],
            ("--levelCount", "3"),
            (image, "halves every side 2 times", "expected multiples of 4", "received (8, 6, 16)"),
        ),
        "batchSize 0": (lambda f: None, ("--batchSize", "0"), ("batchSize must be above 0", "received 0")),
        "Nepochs 0": (lambda f: None, ("--Nepochs", "0"), "Nepochs must be above 0"),
        "negative learningRate": (lambda f: None, ("--learningRate", "-1"), "learningRate must be above 0"),
        "learningRate NaN": (
            lambda f: None,
            ("--learningRate", "nan"),
            "learningRate must be a finite number",
        ),
        "clipNorm inf": (lambda f: None, ("--clipNorm", "inf"), "clipNorm must be a finite number"),
        "batchSize beyond the set": (
            lambda f: None,
            ("--batchSize", "99"),
            ("batchSize is larger than the training set", "received 99"),
        ),
        "patchSide that cannot be halved": (
            lambda f: None,
            ("--patchSide", "9"),
            ("halves every side 1 times", "patchSide a multiple of 2", "received 9"),
        ),
        "positiveShare 2": (lambda f: None, ("--positiveShare", "2"), "positiveShare must lie in 0 to 1"),
        "no positive voxel": (
            change("trainingDataMask.npy", np.zeros_like),
            (),
            ("trainingDataMask.npy", "no positive voxel in the training masks", "positiveLabel"),
        ),
        "weightStart that would be replaced": (
            lambda f: None,
            ("--weightStart", "loss.h5", "--weightFile", "loss.h5"),
            ("loss.h5", "would replace the weights that it starts from"),
        ),
        "momentum 1": (lambda f: None, ("--momentum", "1"), "momentum must lie in 0 to 1"),
        "seed beyond 32 bits": (lambda f: None, ("--seed", "4294967296"), "seed must be below 2 ** 32"),
        "archive": (
            lambda f: np.savez(open(f / image, "wb"), a=np.zeros(3)),
            (),
            (image, "is no readable .npy file: it is an archive"),
        ),
        "more devices than there are": (lambda f: None, ("--deviceCount", "9"), "fewer devices"),
        "negative seed": (lambda f: None, ("--seed", "-1"), "seed must not be negative"),
        "base_depth 0": (lambda f: None, ("--base_depth", "0"), "base_depth"),
        "network of 3 GiB": (
            lambda f: None,
            ("--levelCount", "8", "--base_depth", "24"),
            ("the network is too large", "at most 2 GiB of weights", "received 3.2 GiB"),
        ),
        "float16 on a CPU": (
            lambda f: None,
            ("--precision", "mixed_float16"),
            ("no float16 on a CPU", "mixed_bfloat16"),
        ),
        "models in two folders": (
            lambda f: None,
            ("--modelFile", "net.h5"),
            "need one folder",
        ),
        "model that is a folder": (
            lambda f: (f.parent / "models" / "net.h5").mkdir(parents=True),
            (),
            "net.h5: is a folder",
        ),
        "log named as the contract": (
            lambda f: None,
            ("--metricsFile", "net.json"),
            "net.json: this is the name of another result",
        ),
        "tensorBoard that is a file": (
            lambda f: None,
            ("--tensorBoard", __file__),
            ("test_trainingAndValidation.py", "tensorBoard is no folder"),
        ),
        "levelCount 0": (lambda f: None, ("--levelCount", "0"), "1 to 8 levels"),
        "missing output folder": (
            lambda f: None,
            ("--weightFile", "/nowhere/loss.h5"),
            ("/nowhere: no such folder"),
        ),
        "one name for two models": (
            lambda f: None,
            ("--weightFileTrain", "loss.h5"),
            ("need different names", "loss.h5, loss.h5, dice.h5, net.h5, metrics.log"),
        ),
        "model of another format": (
            lambda f: None,
            ("--modelFile", "net.tif"),
            ("net.tif", "must end with .h5"),
        ),
        "weightStart missing": (lambda f: None, ("--weightStart", "/nowhere.h5"), "no such model file"),
        "damaged parameters.json": (
            lambda f: (f / "parameters.json").write_text("{"),
            (),
            ("parameters.json", "is no readable JSON file"),
        ),
    }


@pytest.mark.parametrize("case", badArrays())
def testTrainingRefuses(case, prepared, capfd):
    damage, flags, words = badArrays()[case]
    damage(prepared / "pythonFiles")
    (prepared / "models").mkdir(exist_ok=True)
    (prepared / "models" / "loss.h5").write_bytes(b"the last good one")
    before = snapshot(prepared)
    refusal(
        capfd,
        trainingAndValidation,
        [*trainFlags(prepared / "pythonFiles", prepared / "models"), *flags],
        words,
    )
    assert snapshot(prepared) == before


def testTrainingThatDivergesSaysSoAndKeepsTheLastCheckpoint(prepared, capfd, keras):
    models = prepared / "models"
    models.mkdir()
    names = ("loss.h5", "accuracy.h5", "dice.h5", "net.h5")
    for name in names:
        (models / name).write_bytes(b"the last good one")
    flags = [*trainFlags(prepared / "pythonFiles", models), "--learningRate", "1e30"]
    words = ("were never finite numbers; no checkpoint was written", "--learningRate")
    refusal(capfd, trainingAndValidation, flags, words)
    for name in names:
        assert (models / name).read_bytes() == b"the last good one"
    assert partialFiles(prepared) == [] and not list(models.glob(".state*"))


@pytest.mark.slow
def testTrainingThatDivergesLaterEndsWithTheBestEpoch(prepared, capfd, keras, monkeypatch):
    import engine.learning.training

    validate = engine.learning.training.Training._validate

    def validateAndSpoil(training):
        row = validate(training)
        if training.progress.epoch == 1:
            model = training.setup.model
            training._keepBest = lambda row: model.set_weights([w * np.nan for w in model.get_weights()])
        return row

    monkeypatch.setattr(engine.learning.training.Training, "_validate", validateAndSpoil)
    models = prepared / "my models"
    models.mkdir()
    flags = trainFlags(prepared / "pythonFiles", models)
    capfd.readouterr()
    callMain(trainingAndValidation, [*flags, "--Nepochs", "9"])
    text = capfd.readouterr().out
    assert "Warning: the loss of epoch 3 is not a finite number: the training ends" in text
    assert (models / "net.h5").read_bytes() == (models / "loss.h5").read_bytes()
    assert len(readLog(models / "metrics.log")["epoch"]) == 2
    words = nextCommand(text, "predictData.py")
    writeNrrd(prepared / "volume_data.nrrd", makeVolume(4)[0])
    callMain(predictData, [*words[1:], "--nameInput", prepared / "volume_data.nrrd"])
    assert np.isfinite(nrrd.read(str(prepared / "volume_segmented.nrrd"))[0]).all()
    assertPicture(models / "trainingCurves.png", 600, 900)


@pytest.mark.slow
def testTrainingOnARealFullDiskKeepsTheLastCheckpointAndGoesOnWithMoreSpace(prepared, capfd, keras):
    with smallDisk(prepared / "disk", 60) as disk:
        (disk / "loss.h5").write_bytes(b"the last good one")
        flags = trainFlags(prepared / "pythonFiles", disk)
        refusal(capfd, trainingAndValidation, flags, "the disk is full")
        assert (disk / "loss.h5").read_bytes() == b"the last good one"
        assert partialFiles(disk) == [] and not (disk / "net.h5").exists()
        subprocess.run(["mount", "-o", "remount,size=9000k", disk], check=True)
        callMain(trainingAndValidation, flags)
        assert (disk / "net.h5").exists()


# ---------------------------------------------------------------------------------------------- grey values


@pytest.mark.parametrize("flags", [(), ("--patchSide", "8", "--stepsPerEpoch", "2", "--turns", "--regions")])
def testTheContractTellsWhichGreyValuesWereLearnt(prepared, capfd, flags):
    folder = prepared / "pythonFiles"
    callMain(trainingAndValidation, [*trainFlags(folder, prepared), *flags])
    contract = findContract(prepared / "dice.h5")
    learnt = contract.learntBy(prepared / "dice.h5")
    squares = np.array(learnt["squares"])
    assert contract.moments == "robust" and learnt["features"] == list(FEATURES)
    assert len(squares) >= 12 and squares.shape[1] == len(FEATURES)
    assert (np.diff(squares[:, :-1]) >= 0).all() and (squares[:, -1] > 0).all()
    assert (
        sum(learnt["histogram"]) == pytest.approx(1, abs=1e-3) and len(learnt["histogram"]) == len(EDGES) - 1
    )
    assert learnt["voxelSizes"] == [[0.5, 0.5, 0.65, ""]]
    if not flags:  # whole sub-volumes as they are stored
        images = np.load(folder / "trainingDataImage.npy")[..., 0]
        planes = [plane for image in images for plane in (image[:, :, 8].T, image[4])]
        expected = np.concatenate([describeSquares(plane) for plane in planes]).round(3)
        np.testing.assert_allclose(np.sort(squares, axis=0), np.sort(expected, axis=0), atol=1e-3)
        counts = sum(np.histogram(plane, EDGES)[0] for plane in planes)
        np.testing.assert_allclose(learnt["histogram"], counts / counts.sum(), atol=1e-6)


def testAContractWithoutGreyValuesTellsNone(tmp_path):
    for content in ({}, {"greys": []}, {"greys": {}, "data": {"greys": {"training": {"a": {}}}}}):
        (tmp_path / "net.json").write_text(json.dumps(content))
        contract = readContract(tmp_path / "net.json")
        learnt = contract.learntBy(tmp_path / "net.json")
        assert learnt["voxelSizes"] == [] and "squares" not in learnt and contract.moments is None
        assert chooseMoments("", contract) == chooseMoments("", None) == "robust"
    plain = contract._replace(moments="plain")
    assert chooseMoments("", plain) == "plain" and chooseMoments("robust", plain) == "robust"


def testEverySizeOfAVoxelIsToldOnce(tmp_path):
    sizes = {"a": [1.0, 1.0, 1.0, "nm"], "b": None, "c": [2.0, 2.0, 2.0, "nm"], "d": [1.0, 1.0, 1.0, "nm"]}
    training = {name: {"voxelSize": size} for name, size in sizes.items()}
    contract = Contract.of(
        {"data": {"greys": {"training": training, "validation": {"e": {"voxelSize": [3]}}}}}
    )
    (tmp_path / "net.h5").write_bytes(b"")
    assert contract.learntBy(tmp_path / "net.h5")["voxelSizes"] == [sizes["a"], sizes["c"]]
