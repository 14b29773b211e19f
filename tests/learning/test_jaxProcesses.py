"""Two processes on loopback learn what one does, stop and die together, and go on."""

import csv
import os
import re
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from places import ROOT
from projects import refusal

import trainingAndValidation
from engine.base.files import lockName

FILES = {"metricsFile": "metrics.log", "weightFile": "loss.h5", "weightFileTrain": "accuracy.h5"}
FILES |= {"weightFileDice": "dice.h5", "modelFile": "net.h5"}
SIZES = {"base_depth": 2, "levelCount": 2, "Nepochs": 3, "stepsPerEpoch": 20, "patchSide": 8, "batchSize": 4}
GONE = "the same commands, repeated on all machines, go on from the last saved state"
SECONDS = 400  # for a training on a busy machine


def writeSet(folder, seed=2, validationCount=3):
    """Write sub-volumes of dark blobs in noise: one process validates two of them, the other one."""
    folder.mkdir(exist_ok=True)
    generator = np.random.default_rng(seed)
    for part, count in (("training", 5), ("validation", validationCount)):
        masks = np.zeros((count, 16, 16, 16, 1), bool)
        for mask in masks:
            for x, y, z in generator.integers(2, 12, (4, 3)):
                mask[x : x + 4, y : y + 4, z : z + 4] = True
        images = generator.normal(size=masks.shape) - 4 * masks
        np.save(folder / f"{part}DataImage.npy", images.astype(np.float32))
        np.save(folder / f"{part}DataMask.npy", masks)
    return folder


@pytest.fixture(scope="module")
def learningData(tmp_path_factory):
    return writeSet(tmp_path_factory.mktemp("learningData"))


def trainFlags(data, folder, *flags):
    words = ["--learningData", data]
    words += [word for name, file in FILES.items() for word in (f"--{name}", folder / file)]
    words += [word for name, value in SIZES.items() for word in (f"--{name}", value)]
    return list(map(str, [*words, *flags]))


class Started:
    """The script, started with JAX; what it prints goes into a file."""

    def __init__(self, data, folder, *flags, **environment):
        folder.mkdir(exist_ok=True)
        command = [sys.executable, ROOT / "trainingAndValidation.py", *trainFlags(data, folder, *flags)]
        environment = {"KERAS_BACKEND": "jax", "CUDA_VISIBLE_DEVICES": "-1"} | environment
        self.path = folder / f"output{time.monotonic_ns()}.txt"
        with open(self.path, "w") as output:
            self.process = subprocess.Popen(
                list(map(str, command)), cwd=ROOT, env=os.environ | environment, stdout=output, stderr=output
            )

    @property
    def text(self):
        """Give what it has printed so far, but for the notes of TensorFlow."""
        lines = self.path.read_text().splitlines()
        return "\n".join(line for line in lines if not re.match(r"WARNING: All log|[IWE]0000 ", line))

    def waitFor(self, words):
        """Wait until it has printed something."""
        end = time.monotonic() + SECONDS
        while words not in self.text:
            assert self.process.poll() is None and time.monotonic() < end, self.text
            time.sleep(0.2)

    def finish(self, code):
        """Wait for its end; gives what it has printed."""
        try:
            found = self.process.wait(SECONDS)
        finally:
            self.process.kill()
        assert found == code, self.text
        return self.text


def startTwo(datas, folder, *flags, others=()):
    """Start two processes by hand; `others` are flags of the second one."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    place = ("--processCount", 2, "--coordinator", f"127.0.0.1:{port}", "--processIndex")
    later = (), others
    return [Started(data, folder, *flags, *later[i], *place, i) for i, data in enumerate(datas)]


def readLog(folder):
    with open(folder / "metrics.log", newline="") as file:
        rows = list(csv.DictReader(file, delimiter=" "))
    return {name: np.array([float(row[name]) for row in rows]) for name in rows[0]}


def assertSameCourse(folder, expected):
    """Require the losses to 1e-5, and all scores but for a few voxels at the threshold."""
    log = readLog(folder)
    for name in ("loss", "val_loss", "learning_rate"):
        np.testing.assert_allclose(log[name], expected[name], rtol=1e-5, err_msg=name)
    for name in expected:
        np.testing.assert_allclose(log[name], expected[name], rtol=1e-3, atol=1e-3, err_msg=name)


@pytest.fixture(scope="module")
def whole(learningData, tmp_path_factory):
    """Train in one process; its log."""
    folder = tmp_path_factory.mktemp("whole")
    Started(learningData, folder).finish(0)
    log = readLog(folder)
    assert log["loss"][2] < 0.99 * log["loss"][0]  # something is learnt
    return log


@pytest.mark.slow
def testAProcessWithoutAValidationSampleOfItsOwnCountsNothing(tmp_path):
    data = writeSet(tmp_path / "data", validationCount=1)
    Started(data, tmp_path / "one", "--Nepochs", 1).finish(0)
    for each in startTwo([data] * 2, tmp_path / "two", "--Nepochs", 1):
        each.finish(0)
    assertSameCourse(tmp_path / "two", readLog(tmp_path / "one"))


@pytest.mark.slow
def testProcessesWithUnequalLabelsLearnWhatOneDoes(tmp_path):
    data, generator = writeSet(tmp_path / "data"), np.random.default_rng(4)
    for part, count in (("training", 5), ("validation", 3)):
        isLabelled = np.zeros((count, 16, 16, 16, 1), bool)
        for index, one in enumerate(isLabelled):
            one[:, :, generator.integers(16, size=1 + 4 * (index % 2))] = True
        np.save(data / f"{part}DataLabelled.npy", isLabelled)
    Started(data, tmp_path / "one", "--Nepochs", 1).finish(0)
    for each in startTwo([data] * 2, tmp_path / "two", "--Nepochs", 1):
        each.finish(0)
    assertSameCourse(tmp_path / "two", readLog(tmp_path / "one"))
    log = readLog(tmp_path / "two")
    assert sum(log[f"val_{name}"][0] for name in ("tp", "fp", "fn", "tn")) == isLabelled.sum()


@pytest.mark.slow
def testTwoTasksOfSlurmLearnWhatOneProcessDoes(learningData, whole, tmp_path):
    job = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "2"}
    job["SLURM_STEP_NODELIST"] = "localhost"
    two = [Started(learningData, tmp_path, **job, SLURM_PROCID=str(index)) for index in (0, 1)]
    texts = [each.finish(0) for each in two]
    assertSameCourse(tmp_path, whole)
    assert "Every batch is shared by 2 devices of 2 processes" in texts[0]
    assert re.fullmatch(r"Process 1 of 2 on \S+ looks for process 0 at localhost:\d+, .*\n.*", texts[1])
    assert ", the first of 2 processes" in texts[0]
    names = {path.name for path in tmp_path.iterdir() if path.suffix != ".txt"}
    assert names == {*FILES.values(), "net.json", "trainingCurves.png", "validationExample.png"}
    again = [each.finish(0) for each in startTwo([learningData] * 2, tmp_path)]
    assert "This training is finished" in again[0] and "finished" not in again[1]


@pytest.mark.slow
def testTwoProcessesThatAreStoppedAndKilledGoOn(learningData, whole, tmp_path):
    flags = ("--saveMinutes", "0.02")

    def startAgain():
        two = startTwo([learningData] * 2, tmp_path, *flags)
        two[0].waitFor(f"Epoch {1 + startAgain.count}/3")
        startAgain.count += 1
        return two

    startAgain.count = 0
    two = startAgain()
    two[1].process.send_signal(signal.SIGTERM)  # one of them is told, both stop
    for each in two:
        assert each.finish(143).endswith("Stopped: the same command goes on where it stopped.")
    two = startAgain()
    assert "Going on after epoch 1, step" in two[0].text
    two[1].process.kill()
    assert re.search(rf"\nError: process 1 on \S+ has ended; {GONE}$", two[0].finish(2))
    two = startTwo([learningData] * 2, tmp_path, *flags)
    two[0].waitFor("Going on after epoch 2")
    two[0].process.kill()
    text = two[1].finish(2)
    assert (
        re.search(rf"\nError: process 0 on 127.0.0.1 has ended; {GONE}$", text)
        and "Check failure" not in text
    )
    assert "Going on after epoch 2" in Started(learningData, tmp_path, *flags).finish(0)  # alone, too
    assertSameCourse(tmp_path, whole)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "words"),
    [
        (
            "other data",
            r"Error: .*process 1 on \S+ differs in trainingDataImage.npy, trainingDataMask.npy, val",
        ),
        ("other parameters", r"Error: .*process 1 on \S+ differs in seed 1 -> 5; all of them need the same"),
        (
            "uneven batch",
            r"Error: .*share a batch equally .expected batchSize a multiple of 2, received 3.; --b",
        ),
        ("taken names", r"Error: .*net.h5: another process is training this model"),
    ],
)
def testAllProcessesTellWhatIsRefused(learningData, tmp_path, case, words):
    datas, flags, others = [learningData] * 2, (), ()
    if case == "other data":
        datas[1] = writeSet(tmp_path / "other", 3)
    elif case == "other parameters":
        others = ("--seed", 5)
    elif case == "uneven batch":
        flags = ("--batchSize", 3)
    with lockName(tmp_path / ("net.h5" if case == "taken names" else "nothing"), "a test"):
        for each in startTwo(datas, tmp_path, *flags, others=others):
            assert re.search(words, each.finish(2))
    assert not (tmp_path / "metrics.log").exists()


def testTensorFlowIsRefusedWithTheReason(learningData, tmp_path, capfd):
    flags = ("--processCount", 2, "--processIndex", 0, "--coordinator", "localhost:29400")
    line = refusal(
        capfd,
        trainingAndValidation,
        trainFlags(learningData, tmp_path, *flags),
        ("keras.distribution shares a training among processes with JAX only", "received tensorflow"),
    )
    assert "set KERAS_BACKEND=jax" in line
    assert list(tmp_path.iterdir()) == []
