"""trainingAndValidation.py stopped at any moment goes on and ends with the same bits."""

import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from kills import NEVER, killingScript
from places import ROOT

import trainingAndValidation as script
from engine.base.errors import PipelineError, StoppedBySignal
from engine.base.files import lockName
from engine.network.contracts import findContract
from engine.network.models import readWeights
from functions import describeUNet

FILES = {
    "metricsFile": "metrics.log",
    "weightFile": "loss.h5",
    "weightFileTrain": "accuracy.h5",
    "weightFileDice": "dice.h5",
    "modelFile": "net.h5",
}

TRAIN = killingScript(
    """
writeBytes = Path.write_bytes
def writeOrDie(self, content):
    countdown(lambda: writeBytes(self, content[: len(content) // 2]))
    return writeBytes(self, content)
Path.write_bytes = writeOrDie
""",
    "trainingAndValidation",
)


def writeSet(folder):
    """Write sub-volumes of dark blobs in noise."""
    generator = np.random.default_rng(2)
    for part, count in (("training", 5), ("validation", 2)):
        masks = np.zeros((count, 16, 16, 16, 1), bool)
        for mask in masks:
            for x, y, z in generator.integers(2, 12, (3, 3)):
                mask[x : x + 3, y : y + 3, z : z + 3] = True
        images = generator.normal(size=masks.shape) - 2 * masks
        np.save(folder / f"{part}DataImage.npy", images.astype(np.float32))
        np.save(folder / f"{part}DataMask.npy", masks)


@pytest.fixture(scope="module")
def learningData(tmp_path_factory):
    folder = tmp_path_factory.mktemp("training")
    writeSet(folder)
    return folder


def trainFlags(learningData, folder, *flags):
    """Give flags for a tiny network: two epochs of three steps, a state after every one of them."""
    paths = itertools.chain(*((f"--{name}", folder / file) for name, file in FILES.items()))
    sizes = ["--base_depth", 2, "--levelCount", 2, "--Nepochs", 2, "--stepsPerEpoch", 3, "--patchSide", 8]
    return list(map(str, ["--learningData", learningData, *paths, *sizes, "--saveMinutes", 0, *flags]))


def startTraining(learningData, folder, count, *flags):
    """Start the script; it kills itself at the count-th write, flush, rename or deletion."""
    command = [sys.executable, "-c", TRAIN, str(count), *trainFlags(learningData, folder, *flags)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def runTraining(*arguments):
    """Run the script to its end; return its exit code and what it printed."""
    with startTraining(*arguments) as process:
        text = process.communicate(timeout=300)[0]
    return process.returncode, text


def readResult(folder):
    """Everything that must not differ: models, log, and the contract but for its times."""
    contract = json.loads((folder / "net.json").read_text())
    for name in ("seconds", "epochSeconds", "command", "parameters", "identity"):
        contract["training"].pop(name)
    return {name: (folder / name).read_bytes() for name in FILES.values()}, contract


@pytest.fixture(scope="module")
def whole(learningData, tmp_path_factory):
    """Train with each recipe uninterrupted: results, and the number of events."""
    results = {}
    for recipe in ("robust", "published"):
        folder = tmp_path_factory.mktemp("whole")
        code, text = runTraining(learningData, folder, NEVER, "--recipe", recipe)
        assert code == 0, text
        results[recipe] = readResult(folder), int(text.split("events ")[1])
        assert sorted(path.name for path in folder.iterdir()) == sorted(
            [*FILES.values(), "net.json", "trainingCurves.png", "validationExample.png"]
        )
    return results


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["robust", "published"])
@pytest.mark.parametrize("seed", range(2))
def testKilledTrainingGoesOnToTheSameBits(learningData, whole, tmp_path, recipe, seed):
    expected, events = whole[recipe]
    counts = np.random.default_rng(seed).integers(1, events, 3)
    for count in [*counts, NEVER]:
        code, text = runTraining(learningData, tmp_path, count, "--recipe", recipe)
        assert code in (0, -signal.SIGKILL), text
    assert code == 0
    assert readResult(tmp_path) == expected


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def testSignalSavesAndTheSameCommandGoesOn(learningData, tmp_path, number):
    flags = ("--Nepochs", 2, "--stepsPerEpoch", 100, "--saveMinutes", 60)
    with startTraining(learningData, tmp_path, NEVER, *flags) as process:
        for line in process.stdout:
            if line.startswith("Epoch 1/2"):
                break
        time.sleep(0.3)
        process.send_signal(number)
        text = process.communicate(timeout=60)[0]
    assert process.returncode == 128 + number
    assert text.splitlines()[-1].endswith("Stopped: by the test")
    code, text = runTraining(learningData, tmp_path, NEVER, *flags)
    assert code == 0, text
    assert "Going on after epoch 1, step" in text
    whole = tmp_path / "whole"
    whole.mkdir()
    code, text = runTraining(learningData, whole, NEVER, *flags)
    assert code == 0 and "Going on" not in text
    assert readResult(tmp_path) == readResult(whole)


# -------------------------------------------------------------------------- in this process, where it is fast


class Killed(BaseException):
    """Ends a training at once."""


def callTraining(learningData, folder, *flags):
    script.main(script.parseArguments(trainFlags(learningData, folder, *flags)))


@pytest.fixture(scope="module")
def expected(learningData, tmp_path_factory):
    """Train uninterrupted, once for every set of flags."""
    results = {}

    def train(*flags):
        if flags not in results:
            folder = tmp_path_factory.mktemp("whole")
            callTraining(learningData, folder, *flags)
            results[flags] = readResult(folder)
        return results[flags]

    return train


CASES = {
    "robust": (),
    "published": ("--recipe", "published", "--stepsPerEpoch", "0"),
    "bfloat16": ("--precision", "mixed_bfloat16"),
    "no averages": ("--averageBatches", "0", "--momentum", "0.8", "--clipNorm", "0"),
}
MOMENTS = [
    *(("robust", moment) for moment in ("step", "checkpoint", "report", "finish")),
    *(("published", moment) for moment in ("step", "validation")),
    *(("bfloat16", moment) for moment in ("step", "finish")),
    ("no averages", "validation"),
]
MOMENTS[1:] = [pytest.param(*pair, marks=pytest.mark.slow) for pair in MOMENTS[1:]]


@pytest.mark.parametrize(("case", "moment"), MOMENTS)
def testTrainingStoppedAtAnyMomentEndsWithTheSameBits(
    learningData, expected, tmp_path, monkeypatch, case, moment
):
    import engine.learning.record
    import engine.learning.training
    import engine.learning.validation

    places = {
        "step": (
            engine.learning.training._Watch,
            "on_train_batch_end",
            4,
        ),  # the first step of the second epoch
        "validation": (engine.learning.training._Watch, "on_test_batch_end", 3),
        "checkpoint": (engine.learning.training.Training, "_writeBest", 2),
        "report": (engine.learning.record, "drawTrainingCurves", 2),
        "finish": (engine.learning.validation, "scoreSamples", 1),
    }
    holder, name, count = places[moment]
    original, calls = getattr(holder, name), []

    def callOrDie(*arguments, **options):
        result = original(*arguments, **options)
        calls.append(name)
        if len(calls) == count:
            raise Killed
        return result

    monkeypatch.setattr(holder, name, callOrDie)
    with pytest.raises(Killed):
        callTraining(learningData, tmp_path, *CASES[case])
    callTraining(learningData, tmp_path, *CASES[case])
    assert readResult(tmp_path) == expected(*CASES[case])
    assert not list(tmp_path.glob(".state*"))


def stopAtStep(monkeypatch, count):
    """Make the training stop as SIGTERM would after so many steps."""
    import engine.learning.training

    original, left = engine.learning.training._Watch.on_train_batch_end, [count]

    def signalOnce(watch, batch, logs=None):
        left[0] -= 1
        if left[0] == 0:
            watch.training.signal = signal.SIGTERM
        original(watch, batch, logs)

    monkeypatch.setattr(engine.learning.training._Watch, "on_train_batch_end", signalOnce)


def testTrainingThatGoesOnOnAnotherProcessorSaysWhatDiffers(learningData, tmp_path, monkeypatch, capsys):
    from engine.base.errors import StoppedBySignal

    stopAtStep(monkeypatch, 2)
    devices = [f"CPU (Imagined, 2 cores), tensorflow with oneDNN ({name})" for name in ("AVX2", "AMX")]
    monkeypatch.setattr(script, "describeDevice", lambda isCompiled: devices[0])
    with pytest.raises(StoppedBySignal):
        callTraining(learningData, tmp_path)
    monkeypatch.setattr(script, "describeDevice", lambda isCompiled: devices[1])
    capsys.readouterr()
    callTraining(learningData, tmp_path)
    text = capsys.readouterr().out
    expected = (
        f"Trained so far on {devices[0]}: the numbers go on the same to rounding, not to the last bit\n"
    )
    assert f"Device: {devices[1]}\n" in text and expected in text
    training = json.loads((tmp_path / "net.json").read_text())["training"]
    assert (training["device"], training["devices"]) == (devices[1], devices)


@pytest.mark.parametrize("device", ["CPU, tensorflow without oneDNN", "CPU, tensorflow with oneDNN (AVX2)"])
def testTrainingWithoutOneDnnWarns(learningData, tmp_path, monkeypatch, capsys, device):
    monkeypatch.setattr(script, "describeDevice", lambda isCompiled: device)
    callTraining(learningData, tmp_path, "--Nepochs", 1)
    warning = (
        "Warning: without oneDNN a step takes several times as long; TF_ENABLE_ONEDNN_OPTS=1 turns it on\n"
    )
    text = capsys.readouterr().out
    assert (warning in text) is ("without" in device)
    assert "Trained so far" not in text


@pytest.mark.slow
@pytest.mark.parametrize("count", [3, 5])  # the third step is the last one of an epoch: in its validation
def testAStoppedTrainingRefusesOtherParametersAndData(learningData, tmp_path, monkeypatch, capsys, count):
    stopAtStep(monkeypatch, count)
    with pytest.raises(StoppedBySignal) as stop:
        callTraining(learningData, tmp_path)
    assert stop.value.code == 143
    with pytest.raises(PipelineError, match=r"differs in seed 1 -> 2, loss bce\+dice -> bce; .*--restart"):
        callTraining(learningData, tmp_path, "--seed", "2", "--loss", "bce")
    other = tmp_path / "other"
    other.mkdir()
    for path in learningData.iterdir():
        shutil.copy(path, other)
    masks = np.load(other / "trainingDataMask.npy")
    np.save(other / "trainingDataMask.npy", ~masks)
    with pytest.raises(PipelineError, match="differs in trainingDataMask.npy;"):
        callTraining(other, tmp_path)
    np.save(other / "trainingDataMask.npy", masks)
    capsys.readouterr()
    callTraining(other, tmp_path)  # the same data in another folder
    text = capsys.readouterr().out
    assert f"Going on after epoch {(count - 1) // 3}, step {(count - 1) % 3 + 1}" in text
    callTraining(learningData, tmp_path)
    assert "This training is finished" in capsys.readouterr().out
    (tmp_path / "dice.h5").unlink()
    with pytest.raises(PipelineError, match=r"net.h5 is of this training, finished, but .*changed: dice.h5;"):
        callTraining(learningData, tmp_path)
    stopAtStep(monkeypatch, 1)
    with pytest.raises(StoppedBySignal):
        callTraining(learningData, tmp_path, "--restart")


def testAFinishedTrainingIsNotReplacedUnasked(learningData, tmp_path, capsys):
    callTraining(learningData, tmp_path, "--Nepochs", "1")
    before = readResult(tmp_path)
    with pytest.raises(PipelineError, match=r"net.h5 is of a finished training .*Nepochs 1 -> 2; --restart"):
        callTraining(learningData, tmp_path)
    with pytest.raises(PipelineError, match=r"loss.h5 is of a finished training .*Nepochs 1 -> 2; --restart"):
        callTraining(learningData, tmp_path, "--modelFile", tmp_path / "second.h5")
    assert readResult(tmp_path) == before
    capsys.readouterr()
    readme = {"training": None, "files": {}}
    (tmp_path / "other.json").write_text(json.dumps(readme))
    callTraining(learningData, tmp_path, "--Nepochs", "1")
    assert re.search(r"is finished.*\nThe next .*\nNext: python3 predictData.py", capsys.readouterr().out)
    callTraining(learningData, tmp_path, "--restart")
    assert readResult(tmp_path) != before


def testTrainingsDoNotReplaceTheCheckpointsOfEachOther(learningData, tmp_path, monkeypatch):
    other = ("--modelFile", tmp_path / "second.h5", "--seed", "9")
    stopAtStep(monkeypatch, 4)  # after the first epoch
    with pytest.raises(StoppedBySignal):
        callTraining(learningData, tmp_path)
    before = (tmp_path / "loss.h5").read_bytes()
    with pytest.raises(PipelineError, match=r"loss.h5 is of an unfinished training that differs in seed"):
        callTraining(learningData, tmp_path, *other)
    assert (tmp_path / "loss.h5").read_bytes() == before
    callTraining(learningData, tmp_path, *other, "--restart")
    before = (tmp_path / "loss.h5").read_bytes()
    with pytest.raises(PipelineError, match=r"loss.h5 is of a finished training that differs in seed"):
        callTraining(learningData, tmp_path)
    assert (tmp_path / "loss.h5").read_bytes() == before


def testARestartedTrainingThatIsStoppedGoesOn(learningData, tmp_path, monkeypatch, capsys):
    callTraining(learningData, tmp_path, "--Nepochs", "1")
    finished = readResult(tmp_path)
    stopAtStep(monkeypatch, 2)  # in the first epoch: the files of the finished one are still there
    with pytest.raises(StoppedBySignal):
        callTraining(learningData, tmp_path, "--restart")
    assert readResult(tmp_path) == finished
    callTraining(learningData, tmp_path, "--Nepochs", "1")  # says that it is finished, and removes nothing
    capsys.readouterr()
    stopAtStep(monkeypatch, 4)
    with pytest.raises(StoppedBySignal):
        callTraining(learningData, tmp_path, "--restart")
    assert "Going on after epoch 0, step 2" in capsys.readouterr().out
    with pytest.raises(PipelineError, match="an unfinished training differs in seed 1 -> 2"):
        callTraining(learningData, tmp_path, "--seed", "2")
    callTraining(learningData, tmp_path)
    assert "Going on after epoch 1" in capsys.readouterr().out
    stopAtStep(monkeypatch, 2)
    with pytest.raises(StoppedBySignal):
        callTraining(learningData, tmp_path, "--restart")
    assert "Going on" not in capsys.readouterr().out
    callTraining(learningData, tmp_path, "--restart", "--Nepochs", "1")  # another one: anew
    assert "Going on" not in capsys.readouterr().out and readResult(tmp_path) == finished


def testOneModelIsTrainedByOneProcess(learningData, tmp_path, capsys):
    with lockName(tmp_path / "net.h5", "another process"):
        with pytest.raises(PipelineError, match="net.h5: another process is training this model"):
            callTraining(learningData, tmp_path)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / ".lock-net.h5").touch()  # of a process that was killed
    callTraining(learningData, tmp_path, "--Nepochs", "1")
    assert not [*tmp_path.glob(".*")]


def testDataWithoutTheirParametersAreWarnedOf(learningData, tmp_path, capsys):
    data = tmp_path / "data"
    shutil.copytree(learningData, data)
    (data / "parameters.json").unlink(missing_ok=True)
    callTraining(data, tmp_path, "--Nepochs", "1")
    assert "Warning: no parameters.json in" in capsys.readouterr().out


def testAnUnfinishedTrainingHasAContractAndNoThreshold(learningData, tmp_path, monkeypatch):
    stopAtStep(monkeypatch, 5)
    with pytest.raises(StoppedBySignal):
        callTraining(learningData, tmp_path)
    contract = findContract(tmp_path / "dice.h5")
    assert (contract.architecture["levelCount"], contract.thresholds) == (2, {})
    assert contract.files.keys() == {"loss.h5", "accuracy.h5", "dice.h5"}
    assert not (tmp_path / "net.h5").exists()
    callTraining(learningData, tmp_path)
    assert findContract(tmp_path / "net.h5").thresholds.keys() == {*FILES.values()} - {"metrics.log"}


def testWeightsThatAreNoNumbersEndTheTraining(learningData, tmp_path, monkeypatch, capsys):
    import engine.learning.training

    validate, count = engine.learning.training.Training._validate, []

    def spoil(training):
        row = validate(training)
        count.append(1)
        if len(count) == 2:
            layer = training.setup.plain.get_layer("down1_normalisation2")
            layer.moving_variance.assign(layer.moving_variance * np.inf)
        return row

    monkeypatch.setattr(engine.learning.training.Training, "_validate", spoil)
    callTraining(learningData, tmp_path, "--Nepochs", "3")
    assert "Warning: a weight is no finite number after epoch 2: the training ends" in capsys.readouterr().out
    readWeights(tmp_path / "net.h5", describeUNet(2, 2))


def testAFolderThatCannotBeWrittenIsNoticedFirst(learningData, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    with pytest.raises(PipelineError, match="nothing can be written into this folder"):
        callTraining(learningData, tmp_path)


@pytest.mark.slow
def testDamagedStatesAreToldAndRestartBeginsAnew(learningData, tmp_path, monkeypatch, caplog, capsys):
    stopAtStep(monkeypatch, 5)
    with pytest.raises(StoppedBySignal):
        callTraining(learningData, tmp_path)
    states = sorted(tmp_path.glob(".state*"), key=lambda path: path.stat().st_mtime_ns)
    content = states[1].read_bytes()
    states[1].write_bytes(content[: len(content) // 2])
    stopAtStep(monkeypatch, 1)
    with pytest.raises(StoppedBySignal):
        callTraining(learningData, tmp_path)
    assert f"{states[1].name} is damaged and left out" in caplog.text
    assert "Going on after epoch 1, step 1" in capsys.readouterr().out
    for path in states:
        path.write_bytes(b"")
    with pytest.raises(PipelineError, match="is damaged; --restart begins anew"):
        callTraining(learningData, tmp_path)
    callTraining(learningData, tmp_path, "--restart")


def testDataThatChangeWhileTheyAreLearntEndTheTraining(learningData, tmp_path, monkeypatch):
    import engine.learning.training

    data = tmp_path / "data"
    shutil.copytree(learningData, data)
    original = engine.learning.training._Watch.on_epoch_begin

    def touch(watch, epoch, logs=None):
        original(watch, epoch, logs)
        (data / "trainingDataImage.npy").touch()

    monkeypatch.setattr(engine.learning.training._Watch, "on_epoch_begin", touch)
    with pytest.raises(PipelineError, match="trainingDataImage.npy: was changed while it was learnt from"):
        callTraining(data, tmp_path, "--stepsPerEpoch", "50")


@pytest.mark.parametrize(
    ("method", "batch", "words"),
    [
        (
            "fit",
            "2",
            "2 x 16x16x16 voxels a step; try --batchSize 1, or smaller sub-volumes by prepareData.py",
        ),
        ("fit", "1", "1 x 16x16x16 voxels a step; try --patchSide 8, or smaller"),
        ("evaluate", "2", "a validation sub-volume of .* voxels; try smaller sub-volumes by prepareData.py"),
    ],
)
def testTooLittleMemoryOfADeviceNamesWhatToTry(learningData, tmp_path, monkeypatch, method, batch, words):
    import tensorflow

    def fail(*_, **__):
        raise tensorflow.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")

    monkeypatch.setattr(f"keras.Model.{method}", fail)
    with pytest.raises(PipelineError, match=f"the device has too little memory for {words}"):
        callTraining(learningData, tmp_path, "--patchSide", "16", "--batchSize", batch)


def testNoBatchIsReadTheWayThatIsTuned(learningData, tmp_path, monkeypatch):
    from keras.utils import PyDataset

    def readTuned(*_):
        raise AssertionError("Keras was left to tune the reading")

    monkeypatch.setattr(PyDataset, "num_batches", property(readTuned))
    callTraining(learningData, tmp_path)


def testALossThatIsNoNumberEndsAnEpochAtOnce(learningData, tmp_path, monkeypatch):
    steps, draw = [], script.drawBatch
    monkeypatch.setattr(script, "drawBatch", lambda *a: steps.append(a[3]) or draw(*a))
    monkeypatch.setattr("engine.learning.drawn.MOST_STEPS", 1)  # draws as well
    flags = ("--stepsPerEpoch", 1000, "--learningRate", 1e30, "--averageBatches", 0, "--clipNorm", 0)
    with pytest.raises(PipelineError, match="never finite"):
        script.main(script.parseArguments(trainFlags(learningData, tmp_path, *flags)))
    assert len(steps) < 20
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def testEveryOptionOfTheRecipeTrains(learningData, tmp_path):
    flags = ["--recipe", "published", "--Nepochs", "1", "--loss", "tversky", "--schedule", "cosine"]
    flags += ["--deterministic", "--no-jitCompile", "--turns", "--startBias", "--averageBatches", "9"]
    command = [sys.executable, ROOT / "trainingAndValidation.py"]
    command += [*trainFlags(learningData, tmp_path, *flags), "--tensorBoard", tmp_path / "events"]
    subprocess.run(list(map(str, command)), check=True, capture_output=True)
    assert sorted(path.name for path in (tmp_path / "events").iterdir()) == ["training", "validation"]
    assert json.loads((tmp_path / "net.json").read_text())["training"]["parameters"]["loss"] == "tversky"
