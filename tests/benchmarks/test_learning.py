"""The benchmarks of the training at tiny sizes: their scores, their arithmetic, what they keep."""

import importlib.util

import ablation
import learning
import learningPeer
import numpy as np
import pytest
import training

from engine.preparation.samples import Samples
from functions import Drawing, drawBatch

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


# ------------------------------------------------------------------------------------------------- the steps


@pytest.fixture
def tiny(monkeypatch):
    for name, value in {"PATCH": 16, "STEPS": 2, "WARM": 1}.items():
        monkeypatch.setattr(training, name, value)


@pytest.mark.slow
def testStepsAreTimed(tiny):
    assert all(training.stepKeras("float32", isOwn)["seconds"] > 0 for isOwn in (False, True))
    if HAS_MONAI:
        # bfloat16 gives NaN after TensorFlow in one process; the benchmark has a process for each side
        assert training.stepTorch("float32", True)["seconds"] > 0


def testSetsHavePositiveVoxelsAndTheSizeAskedFor(tiny, tmp_path):
    assert training.makeSet(str(tmp_path), 0.03) == {"count": 3}
    samples = Samples(tmp_path / "trainingDataImage.npy", tmp_path / "trainingDataMask.npy")
    assert samples.positives.sum(axis=1).min() > 1000
    assert samples.images.stat().st_size == pytest.approx(0.03e9, rel=0.1)
    drawing = Drawing(1, 2, 4, 64, 1.0, True, 0.1, 0.1, 0.1)
    assert all(mask.any() for _, mask in drawBatch(samples, drawing, 0, 0))


@pytest.mark.slow
def testStepsOfAnEpochAreTimed(tiny, tmp_path):
    training.makeSet(str(tmp_path), 0.01)
    assert all(seconds > 0 for seconds in training.fitBatches(str(tmp_path)).values())


def testTaskAnswersFromAProcessOfItsOwn(tmp_path):
    assert training.runTask(tmp_path, "makeSet", place=str(tmp_path), gigabytes=0.01) == {"count": 2}
    with pytest.raises(RuntimeError, match="KeyError"):
        training.runTask(tmp_path, "nothing")


def testSpeedIsRelativeToTheBestOfPyTorch(tmp_path, monkeypatch, capsys):
    def answer(folder, task, **options):
        torch = 1.0 if options.get("channelsLast") else 2.0
        return {"seconds": {"stepKeras": 0.5, "stepTorch": torch}.get(task)}

    monkeypatch.setattr(training, "runTask", answer)
    monkeypatch.setattr(training.importlib.util, "find_spec", lambda name: name)
    training.printSteps(tmp_path, 3)
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()[4:]]
    assert [row[3] for row in rows] == ["2.00", "2.00", "2.00", "1.00", "0.50", "1.00", "0.50"]
    assert rows[0][:3] == ["ours, float32", "0.500", "1.049"]


def testInputIsRelativeToTheSameRunWithoutIt(tmp_path, monkeypatch, capsys):
    answers = iter([{}, *({"same": 0.5, "drawn": 0.5 * ratio} for ratio in (1.02, 1.3, 1.01))])
    monkeypatch.setattr(training, "runTask", lambda *_, **__: next(answers))
    training.printInput(tmp_path, 3)
    assert (
        capsys.readouterr().out.splitlines()[-1] == "| drawn from the disk | 0.510 | 1.020 (1.010 to 1.300) |"
    )


@pytest.mark.slow
def testEpochsAreTimed(tiny, monkeypatch):
    monkeypatch.setattr(training, "EPOCH_STEPS", 3)
    monkeypatch.setattr(training, "EPOCHS", 2)
    seconds = training.fitEpochs()
    assert {name: len(values) for name, values in seconds.items()} == {"ours": 2, "keras": 2}
    assert min(sum(seconds.values(), [])) > 0


def testEpochsAreRelativeToThoseOfKeras(tmp_path, monkeypatch, capsys):
    seconds = {"ours": [2.0, 4.0, 3.0], "keras": [4.0, 10.0, 6.0]}
    monkeypatch.setattr(training, "runTask", lambda folder, task: seconds)
    training.printEpochs(tmp_path, 1)
    rows = capsys.readouterr().out.splitlines()[-2:]
    assert rows == ["| Keras (PyDataset) | 6.0 (4.0 to 10.0) | 1.00 |", "| ours | 3.0 (2.0 to 4.0) | 2.00 |"]
