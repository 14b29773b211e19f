"""The benchmarks of the training at tiny sizes: their scores, their arithmetic, what they keep."""

import importlib.util

import ablation
import learning
import learningPeer
import numpy as np
import pytest

HAS_MONAI = all(map(importlib.util.find_spec, ("torch", "monai")))


def testParticlesAreMatchedAtAnyOverlap():
    truth, found = np.zeros((12, 12, 12), bool), np.zeros((12, 12, 12), bool)
    truth[1:3, 1:3, 1:3] = truth[6:8, 6:8, 6:8] = truth[3, 3, 3] = True  # the third touches the first one
    assert np.isnan(learning.scoreParticles(found, truth)["particlePrecision"])
    found[2, 2, 2] = found[10, 10, 10] = found[10, 1, 1] = found[1, 1, 10] = True
    assert learning.scoreParticles(found, truth) == {"particleRecall": 0.5, "particlePrecision": 0.25}


def testEpochsFollowFromTheMeasuredSecondsAndAFinishedRunIsKept(tmp_path, monkeypatch):
    calls = []

    def train(folder, data, flags, seed, epochCount):
        calls.append((folder.name, tuple(flags), seed, epochCount))
        return {"training": {"epochSeconds": [99, 4, 6, 5]}}

    monkeypatch.setattr(learning, "train", train)
    monkeypatch.setattr(learning, "evaluate", lambda folder, contract: {"dice": 0.5})
    for _ in range(2):
        scores = learning.runSide(tmp_path, tmp_path, "loss bce", 3, 0.5)
        assert scores == {"dice": 0.5, "epochCount": 6, "calibrated": 30}  # seconds, 5 each
    flags = ("--loss", "bce")
    assert calls == [
        ("robust-calibration", (), 1, learning.CALIBRATION),
        ("loss bce-3", flags, 3, 6),  # steps of the same work
    ]
    learning.runSide(tmp_path, tmp_path, "published", 3, 0.5)
    assert [name for name, *_ in calls[2:]] == ["published-calibration", "published-3"]


def testSidesAreCommandsThatTheScriptTakes():
    import trainingAndValidation

    robust = vars(trainingAndValidation.parseArguments(["--recipe", "robust"]))
    for side, flags in learning.SIDES.items():
        changed = vars(trainingAndValidation.parseArguments(flags))
        assert (changed != robust) is (side != "robust"), side


def testTableGivesMedianAndSpan(capsys):
    names = ("validationDice", "dice", "diceAtHalf", "particleRecall", "particlePrecision")
    runs = [dict.fromkeys(names, value) | {"calibrated": 600 * value} for value in (0.5, 0.25, 1.0)]
    runs[1]["particlePrecision"] = float("nan")  # nothing was found
    learning.printTable({"robust": runs}, [4, 5, 6])
    head, _, row = capsys.readouterr().out.splitlines()
    assert head.endswith("| Dice, seed 4 | Dice, seed 5 | Dice, seed 6 |")
    assert row == "| robust | 5.0 |" + " 0.500 |" * 4 + " 0.750 | 0.500 | 0.250 | 1.000 |"


def testLabelsOfAFewSlicesAreComparedWithTheDenseOnes(tmp_path, monkeypatch, capsys):
    calls = []

    def train(folder, data, flags, seed, epochCount):
        calls.append((folder.name, data.name, tuple(flags), seed, epochCount))
        folder.mkdir(exist_ok=True)
        return {"training": {"epochSeconds": [99, 5]}}

    def prepare(folder, flags, name):
        (folder / name).mkdir(exist_ok=True)
        writeSet(folder / name)
        if flags:
            for part in ("training", "validation"):
                isLabelled = np.zeros((2, 32, 32, 32, 1), bool)
                isLabelled[:, :, :, 5] = True
                np.save(folder / name / f"{part}DataLabelled.npy", isLabelled)
        return folder / name

    names = ("validationDice", "dice", "diceAtHalf", "particleRecall", "particlePrecision")
    monkeypatch.setattr(learning, "train", train)
    monkeypatch.setattr(learning, "prepare", prepare)
    monkeypatch.setattr(learning, "evaluate", lambda folder, contract: dict.fromkeys(names, 0.5))
    flags = ["--labels", "dense", "every 8th slice", "--minutes", "0.5", "--seeds", "1", "2"]
    for _ in range(2):  # the second time nothing is trained
        learning.main(learning.parseArguments([*flags, "--folder", str(tmp_path / "out")]))
        rows = capsys.readouterr().out.splitlines()[-4:]
    assert rows[0].endswith("| Dice, seed 1 | Dice, seed 2 | labelled voxels |")
    assert rows[1].count("---") == 10 == rows[2].count("|") - 1
    dense, sparse = 4 * 32**3, 4 * 32**2
    assert rows[2] == "| dense | 0.5 |" + " 0.500 |" * 7 + f" {dense} |"
    assert rows[3] == "| every 8th slice | 0.5 |" + " 0.500 |" * 7 + f" {sparse} |"
    assert calls == [
        ("robust-calibration", "pythonFiles dense", (), 1, learning.CALIBRATION),
        ("dense-1", "pythonFiles dense", (), 1, 6),
        ("every 8th slice-1", "pythonFiles every 8th slice", (), 1, 6),
        ("dense-2", "pythonFiles dense", (), 2, 6),
        ("every 8th slice-2", "pythonFiles every 8th slice", (), 2, 6),
    ]
    assert learning.parseArguments(["--labels", "--folder", "x"]).labels == []
    assert learning.parseArguments(["--folder", "x"]).labels is None


@pytest.mark.parametrize("labels", list(learning.LABELS))
def testLabelsAreFlagsThatFitTheDemonstrationVolumes(labels):
    import prepareData
    from engine.formats.opening import openVolume
    from engine.preparation.labelled import parseLabelled

    arguments = prepareData.parseArguments(learning.LABELS[labels])
    both = parseLabelled(arguments.ignoreLabel, arguments.labelledSlices, arguments.validationSlices, [0])
    for part, labelled in both.items():
        paths = [path for path in (learning.ROOT / f"{part}Masks").iterdir() if path.name[0] != "."]
        assert paths
        for path in paths:
            volume = openVolume(path)
            labelled.requireInside(volume)
            share = labelled.select(np.zeros(volume.shape, np.uint8)).mean()
            assert share == 1 if labels == "dense" else 0.02 < share < 0.13


def writeSet(folder):
    generator = np.random.default_rng(0)
    for part in ("training", "validation"):
        masks = np.zeros((2, 32, 32, 32, 1), bool)
        masks[:, 4:12, 8:20, 6:14] = True
        images = generator.normal(size=masks.shape) - 2 * masks
        np.save(folder / f"{part}DataImage.npy", images.astype(np.float32))
        np.save(folder / f"{part}DataMask.npy", masks)


@pytest.mark.slow
@pytest.mark.skipif(not HAS_MONAI, reason="MONAI is not installed")
def testPeerLearns(tmp_path, monkeypatch):
    writeSet(tmp_path)
    monkeypatch.setattr(learningPeer, "PATCH", 32)  # 2 voxels on the fifth level
    assert learningPeer.calibrate(tmp_path) > 0
    monkeypatch.setattr(learningPeer, "predict", lambda network, image: np.full(image.shape, 0.75))
    probability, notes = learningPeer.trainAndPredict(tmp_path, 1, 2)
    assert probability.shape == (160, 160, 128)
    assert notes["seconds"] > 0 and 0 < notes["validationDice"] < 1


def testAblationCountsParametersAndKeepsRuns(tmp_path, monkeypatch, capsys):
    def train(folder, data, flags, seed, epochCount):
        folder.mkdir(parents=True)
        return {"flags": flags, "epochCount": epochCount}

    scores = {"dice": 0.5, "validationDice": 0.75, "seconds": 7.0}
    monkeypatch.setattr(learning, "prepare", lambda folder: folder)
    monkeypatch.setattr(learning, "train", train)
    monkeypatch.setattr(learning, "evaluate", lambda folder, contract: scores)
    flags = ["--levels", "4", "--widths", "8", "--seeds", "1", "2", "--folder", str(tmp_path / "a")]
    for _ in range(2):  # the second time nothing is trained: its folder exists
        ablation.main(ablation.parseArguments(flags))
        row = capsys.readouterr().out.splitlines()[-1]
        spans = "0.750 (0.750 to 0.750) | 0.500 (0.500 to 0.500)"
        assert row == f"| 4 | 8 | 366593 | 16316 | {spans} | 7 |"
