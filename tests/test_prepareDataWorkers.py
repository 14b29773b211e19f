"""prepareData.py --workerCount: the files are those of one process, and so are the refusals."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from places import ROOT
from projects import ARRAYS, callMain, makeProject, makeVolume, prepareFlags, refusal, writeNrrd

import prepareData


@pytest.fixture
def project(tmp_path):
    """Make a project of four training pairs and a validation pair."""
    folder = makeProject(tmp_path)
    for number in (4, 5):
        image, mask = makeVolume(number, (24, 16, 32))
        writeNrrd(folder / "trainingImages" / f"data_0{number}.nrrd", image)
        writeNrrd(folder / "trainingMasks" / f"segm_0{number}.nrrd", mask)
    return folder


def readAll(folder):
    """Read the arrays, and what the record says of them."""
    record = json.loads((folder / "pythonFiles" / "parameters.json").read_text())
    return [(folder / "pythonFiles" / f"{name}.npy").read_bytes() for name in ARRAYS], record


@pytest.mark.parametrize("flags", [(), ("--normalization", "volume", "--cover")], ids=["subVolume", "volume"])
def testWorkersWriteTheBytesOfOneProcess(project, capfd, flags):
    callMain(prepareData, [*prepareFlags(project), *flags])
    expected, text = readAll(project), capfd.readouterr().out
    for count in (2, 3, 9):
        callMain(prepareData, [*prepareFlags(project), *flags, "--force", "--workerCount", count])
        assert readAll(project) == expected
        told = capfd.readouterr().out
        assert told.splitlines()[1:] == text.splitlines()[1:]  # the first line names the flags


def testAConstantSubVolumeIsWarnedOf(project, capfd):
    image, _ = makeVolume(4, (24, 16, 32))
    image[:8] = 700
    writeNrrd(project / "trainingImages" / "data_04.nrrd", image)
    callMain(prepareData, [*prepareFlags(project), "--workerCount", 2])
    text = "".join(capfd.readouterr())
    assert "data_04.nrrd: sub-volume at (0, 0, 0) is constant; it becomes zeros" in text


def testARefusalIsThatOfOneProcess(project, capfd):
    image = makeVolume(5, (24, 16, 32))[0].astype(np.float32)
    image[3, 4, 5] = np.nan
    writeNrrd(project / "trainingImages" / "data_05.nrrd", image)
    lines = [
        refusal(capfd, prepareData, [*prepareFlags(project), "--workerCount", count], "1 voxels are NaN")
        for count in (0, 2)
    ]
    assert lines[0] == lines[1]
    assert not list((project / "pythonFiles").glob("*.npy"))


def testANegativeCountIsRefused(project, capfd):
    refusal(capfd, prepareData, [*prepareFlags(project), "--workerCount", -1], "must not be negative")


def testWorkersThatAreKilledLeaveNothingBehind(project):
    command = [sys.executable, ROOT / "prepareData.py", *prepareFlags(project), "--workerCount", 2]
    code = (
        "import sys, time, prepareData\n"
        "from engine.base.console import runScript\n"
        "def slow(*_, **__): time.sleep(60)\n"
        "prepareData.inspectPair = slow\n"
        "if __name__ == '__main__':\n"
        "    runScript(prepareData.main, lambda: prepareData.parseArguments(sys.argv[1:]))\n"
    )
    (project / "slow.py").write_text(code)
    command[1] = project / "slow.py"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        list(map(str, command)), env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        workers = waitForWorkers(process.pid)
        os.kill(workers[0], signal.SIGKILL)
        text = process.communicate(timeout=60)[1]
    assert process.returncode == 2
    assert "a worker process was killed" in text and text.strip().count("\n") == 0
    assert not [path for path in (project / "pythonFiles").iterdir() if path.suffix == ".npy"]


def waitForWorkers(number):
    """Wait until two processes of a pool have begun; give their numbers."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        listed = subprocess.run(
            ["pgrep", "-f", "-P", str(number), "spawn_main"], capture_output=True, text=True, check=False
        )
        if len(found := listed.stdout.split()) == 2:
            time.sleep(2)
            return [int(word) for word in found]
        time.sleep(0.1)
    raise AssertionError("no workers")
