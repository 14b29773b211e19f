"""predictData.py --slurm: what it prints, run by a stand-in for SLURM, gives the bytes of one process."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from places import ROOT, listNames
from predictions import predict, readBytes
from queues import Queue
from sampleVolumes import writeVolume

from engine.formats.opening import openVolume
from engine.prediction.journal import Journal

REGION = ((0, 64), (20, 68), (24, 120))
NAME = "a scan's $HOME 100% %a.nrrd"  # whatever a shell or SLURM might read in it
STEM = NAME.replace(".nrrd", "_segmented")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Predict a volume by one process; keep the folder."""
    folder = tmp_path_factory.mktemp("whole")
    grey = openVolume(ROOT / "test-file" / "test-file_data.nrrd").read(REGION)
    writeVolume(folder / NAME, grey, {"spacings": np.full(3, 0.5)})
    predict(folder / NAME, "--threshold", 0.4)
    return folder


@pytest.fixture
def scan(whole, tmp_path):
    """Copy the volume into a folder of its own, which no shell reads as one word."""
    (tmp_path / "my data").mkdir()
    return shutil.copy2(whole / NAME, tmp_path / "my data" / NAME)


def output(scan):
    return scan.with_name(f"{STEM}.nrrd")


def writeScript(scan, folder, capfd, *flags):
    """Save what --slurm prints."""
    capfd.readouterr()
    predict(scan, *flags)
    printed = capfd.readouterr()
    assert printed.err == ""
    script = folder / "job.sh"
    script.write_text(printed.out)
    subprocess.run(["bash", "-n", script], check=True)
    return script


def commandOf(script):
    """Give the words of the command of an array's task, up to its part."""
    line = next(line for line in script.read_text().splitlines() if "predictData.py --" in line)
    return shlex.split(line.removesuffix(" &"))


def disturb(scan, isCancelled=False):
    """Warn part 1 of its time limit while it predicts, and once more; or cancel it."""
    common = {"task": 1, "times": 2, "isCancelled": isCancelled}
    return common | {"file": str(Journal(output(scan)).voxels), "words": "\nResult: "}


def testThePrintedScriptGivesTheBytesOfOneProcess(whole, scan, tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(scan.parent)
    script = writeScript(scan, tmp_path, capfd, "--threshold", 0.4, "--slurm", 3)
    assert listNames(scan.parent) == [NAME]  # nothing else is done
    monkeypatch.chdir("/")
    queue = Queue(tmp_path / "queue")
    text = queue.submit(script, "--partition=gpu")
    assert text == "3 parts: job 1\nresults: job 2, when all parts are predicted\n"
    assert queue.codes(1) == [0, 0, 0] and queue.codes(2) == [0]
    assert readBytes(scan.parent, stem=STEM) == readBytes(whole, stem=STEM)
    logs = sorted(scan.parent.glob("*.log"))
    assert [log.name.removeprefix(STEM) for log in logs] == [
        *(f"_part-{part}.log" for part in range(3)),
        "_results.log",
    ]
    assert "3 of 3 parts are predicted" in logs[0].read_text()  # the stand-in does the last one first
    assert queue.options(1)["partition"] == queue.options(2)["partition"] == "gpu"


def testATimeLimitIsGoneOnAfter(whole, scan, tmp_path, capfd):
    script = writeScript(scan, tmp_path, capfd, "--threshold", 0.4, "--slurm", 2)
    queue = Queue(tmp_path / "queue", disturb(scan))
    queue.submit(script)
    assert queue.codes(1) == [0, 0] and queue.codes(2) == [0]
    log = scan.with_name(f"{STEM}_part-1.log").read_text()
    assert log.count("Device: ") >= 2  # begun again
    assert "Stopped: the same command goes on where it stopped." in log
    assert readBytes(scan.parent, stem=STEM) == readBytes(whole, stem=STEM)


def testAJobThatIsCancelledIsNotQueuedAgain(scan, tmp_path, capfd):
    script = writeScript(scan, tmp_path, capfd, "--slurm", 2)
    queue = Queue(tmp_path / "queue", disturb(scan, isCancelled=True))
    queue.submit(script)
    assert queue.codes(1) == [143, 0] and queue.codes(2) == ["dependency never satisfied"]
    assert not output(scan).exists()


def testAJobThatFailsKeepsTheResultsFromBeginning(scan, tmp_path, capfd):
    script = writeScript(scan, tmp_path, capfd, "--slurm", 2)
    with open(scan, "r+b") as file:
        file.truncate(1000)
    queue = Queue(tmp_path / "queue")
    queue.submit(script)
    assert queue.codes(1) == [2, 2] and queue.codes(2) == ["dependency never satisfied"]
    assert queue.options(2)["kill-on-invalid-dep"] == "yes"
    shutil.rmtree(queue.folder)


def testTheScriptSaysWhatThePlanSays(scan, tmp_path, capfd):
    lines = writeScript(scan, tmp_path, capfd, "--slurm", 3).read_text().splitlines()
    assert lines[0] == "#!/bin/bash"
    comments = lines[1 : lines.index("set -e")]
    assert all(line.startswith("# ") for line in comments)
    text = "\n".join(comments)
    assert "# Cut: 3 parts of at most 32 planes" in text and "# Device: CPU" in text and "a slab: " in text


def testTheCommandIsTheSameOnEveryNodeAndInEveryFolder(scan, tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(scan.parent)
    flags = ("--z1", 8, "--no-mask", "--voxelSize", "0.65 um", "--momentsOf", NAME, "--dryRun")
    words = commandOf(writeScript(Path(NAME), tmp_path, capfd, *flags, "--slurm", 2))
    assert words[:2] == [sys.executable, str(ROOT / "predictData.py")]
    pairs = dict(zip(words[2:-1], words[3:], strict=True))
    assert pairs["--nameInput"] == pairs["--momentsOf"] == str(scan)
    assert pairs["--nameOutput"] == str(output(scan))
    assert pairs["--engine"] == "openvino" and pairs["--precision"] in ("float32", "bfloat16")
    assert float(pairs["--memoryBudget"]) > 0 and pairs["--z1"] == "8" and pairs["--voxelSize"] == "0.65 um"
    assert pairs["--nameReference"] == "none" and pairs["--part"] == "$SLURM_ARRAY_TASK_ID/2"
    assert "--no-mask" in words and not {"--slurm", "--dryRun"} & set(words)


def testTheResultsOfPartsNeedNoNetwork(whole, scan, monkeypatch):
    """They may be made where there is no GPU, in less memory than its layout takes."""
    predict(scan, "--threshold", 0.4, "--part", "0/1")
    monkeypatch.setattr("engine.prediction.run.openNetwork", None)
    predict(scan, "--threshold", 0.4)
    assert readBytes(scan.parent, stem=STEM) == readBytes(whole, stem=STEM)


def testAutoKeepsTheExtraWorkSmall(scan, tmp_path, capfd):
    assert "\n#SBATCH --array=0-0\n" in writeScript(scan, tmp_path, capfd, "--slurm", "auto").read_text()


def testAutoGoesOnWithWhatWasBegun(scan, tmp_path, capfd):
    predict(scan, "--part", "0/3")
    assert "\n#SBATCH --array=0-2\n" in writeScript(scan, tmp_path, capfd, "--slurm", "auto").read_text()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--slurm", "0"), "slurm must be a number of parts, like 32, or auto (received '0')"),
        (("--slurm", "-3"), "slurm must be a number of parts, like 32, or auto (received '-3')"),
        (("--slurm", "many"), "(received 'many')"),
        (("--slurm", "2.5"), "(received '2.5')"),
        (("--slurm", "999"), "more parts than tasks (expected at most 576, received 999)"),
        (("--slurm", "3", "--part", "0/3"), "either --slurm or --part"),
    ],
)
def testWhatCannotBeIsRefusedInOneLine(scan, capfd, flags, words):
    capfd.readouterr()
    with pytest.raises(SystemExit) as caught:
        predict(scan, *flags)
    printed = capfd.readouterr()
    assert caught.value.code == 2 and words in printed.err and printed.err.count("\n") == 1
    assert printed.out == "" and listNames(scan.parent) == [NAME]


def testAnotherNumberOfPartsThanBegunIsRefused(scan, capfd):
    predict(scan, "--part", "0/3")
    capfd.readouterr()
    with pytest.raises(SystemExit):
        predict(scan, "--slurm", "2")
    text = capfd.readouterr().err
    assert "begun in another number of parts (expected 3, received 2); --slurm 3 goes on with it" in text


def testANameThatSlurmCannotWriteIsRefused(scan, capfd):
    with pytest.raises(SystemExit):
        predict(scan, "--slurm", "2", "--nameOutput", scan.with_name("a\\b.nrrd"))
    assert "SLURM cannot write beside a result of this name" in capfd.readouterr().err
    assert os.listdir(scan.parent) == [NAME]
