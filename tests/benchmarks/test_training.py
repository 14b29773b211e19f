"""The benchmark of steps and epochs at tiny sizes: they are timed, and its arithmetic is right."""

import importlib.util

import pytest
import training

from engine.preparation.samples import Samples
from functions import Drawing, drawBatch

HAS_MONAI = all(map(importlib.util.find_spec, ("torch", "monai")))


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
