"""prepareData.py with several processes: the bytes of one, its refusals, and how they end."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nrrd
import numpy as np
import pytest
import tifffile
from places import ROOT, listNames
from projects import (
    GEOMETRY,
    callMain,
    checkRefusal,
    makeVolume,
    partialFiles,
    prepareFlags,
    refusal,
    spoil,
    writeNrrd,
)

import engine.preparation.checks as checks
import prepareData

COUNTS = (0, 1, 2, 3)


@pytest.fixture
def mixed(data):
    """Five pairs in as many formats, with hot voxels, a region without data, and a mask that is turned."""
    images = [makeVolume(number)[0] for number in range(10, 15)]
    images[0][5, 6, 7] = 60000
    images[1] = images[1].astype(np.float32)
    images[1][:, :5] = -1e30
    images[2][8:16] = 7
    folder = data / "trainingImages"
    for path in (*folder.iterdir(), *(data / "trainingMasks").iterdir()):
        path.unlink()
    nrrd.write(str(folder / "a_1.nrrd"), images[0], GEOMETRY | {"encoding": "raw"})
    nrrd.write(str(folder / "b_2.nrrd"), images[1], GEOMETRY | {"encoding": "gzip"})
    tifffile.imwrite(folder / "c_3.tif", images[2].T, compression="zlib")
    for kind, name in (("zlib", "d_4"), (None, "e_5")):
        (folder / name).mkdir()
        image = images[3 + (kind is None)]
        for z in range(image.shape[2]):
            tifffile.imwrite(folder / name / f"slice_{z:02}.tif", image[:, :, z].T, compression=kind)
    for number in range(1, 5):
        writeNrrd(data / "trainingMasks" / f"segm_{number}.nrrd", makeVolume(9 + number)[1])
    turned = GEOMETRY | {"space": "right-anterior-superior"}
    turned["space directions"] = GEOMETRY["space directions"] * [-1, -1, 1]
    nrrd.write(str(data / "trainingMasks" / "segm_5.nrrd"), makeVolume(14)[1], turned)
    return data


def prepare(folder, capfd, count, *flags):
    """Prepare a project; gives what is printed and the content of all files."""
    capfd.readouterr()
    callMain(prepareData, [*prepareFlags(folder), *flags, "--force", "--workerCount", str(count)])
    text = capfd.readouterr().out.splitlines()
    files = {path.name: path.read_bytes() for path in (folder / "pythonFiles").iterdir()}
    return [line for line in text if not line.startswith("Parameters:")], files


@pytest.mark.parametrize("scheme", ["subVolume", "volume"])
def testAnyNumberOfWorkersWritesTheSameBytesAndLines(mixed, capfd, scheme):
    flags = "--normalization", scheme, "--cover"
    lines, files = prepare(mixed, capfd, 0, *flags)
    text = "\n".join(lines)
    assert len(files) == 5 and "beyond" in text and "No data" in text
    assert ("is constant" in text) == (scheme == "subVolume")
    for count in (*COUNTS[1:], 9):
        assert prepare(mixed, capfd, count, *flags) == (lines, files)


def testTheNumberOfWorkersIsNoReasonToRepeat(data, capfd):
    prepare(data, capfd, 2)
    callMain(prepareData, prepareFlags(data))
    assert "Nothing changed since the last run" in capfd.readouterr().out


BROKEN = {
    "NaN in an image": lambda f: writeNrrd(
        f / "trainingImages" / "data_02.nrrd", spoil(makeVolume(2)[0], np.nan)
    ),
    "NaN in a mask": lambda f: writeNrrd(
        f / "validationMasks" / "segm_03.nrrd", spoil(makeVolume(3)[1], np.inf)
    ),
    "damaged data": lambda f: damage(f / "trainingImages" / "data_01.nrrd"),
}


def damage(path):
    """Spoil the last voxels of a compressed file."""
    content = path.read_bytes()
    path.write_bytes(content[:-40] + bytes(40))


@pytest.mark.parametrize("case", BROKEN)
def testARefusalIsTheLineOfOneProcess(prepared, capfd, case):
    BROKEN[case](prepared)
    before = listNames(prepared / "pythonFiles")
    texts = [
        refusal(capfd, prepareData, [*prepareFlags(prepared), "--workerCount", str(count)], ".nrrd")
        for count in COUNTS
    ]
    assert len(set(texts)) == 1 and listNames(prepared / "pythonFiles") == before


def testTooManyWorkersForTheMemoryAreRefused(data, capfd, monkeypatch):
    monkeypatch.setattr(checks, "freeMemoryGiB", lambda: 0.5)
    callMain(prepareData, [*prepareFlags(data), "--workerCount", "2"])  # 0.2 GiB each
    flags = [*prepareFlags(data), "--workerCount", "3"]
    words = "too little memory for so many workers (expected 0.59 GiB, received 0.50 GiB)", "--workerCount"
    refusal(capfd, prepareData, flags, words)
    refusal(capfd, prepareData, [*prepareFlags(data), "--workerCount", "-1"], "must not be negative")


# ----------------------------------------------------------------------------------------------- how they end

SLOW = """
import sys, time
import prepareData
from engine.base.console import runScript
from engine.preparation.writing import SampleWriter
write = SampleWriter.write
def writeSlowly(self, index, sample):
    write(self, index, sample)
    time.sleep(0.5)
SampleWriter.write = writeSlowly
if __name__ == "__main__":
    runScript(prepareData.main, lambda: prepareData.parseArguments(sys.argv[1:]))
"""


def startSlowly(folder):
    """Start it with two workers that take their time, in a group of their own."""
    (folder / "slow.py").write_text(SLOW)
    command = [sys.executable, folder / "slow.py", *prepareFlags(folder), "--force", "--workerCount", "2"]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [str(word) for word in command], env=environment, start_new_session=True, **streams
    )


def listWorkers(process):
    """Numbers of the workers of a process."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    commands = {int(child): Path(f"/proc/{child}/cmdline").read_bytes() for child in children}
    return [child for child, command in commands.items() if b"spawn_main" in command]


def awaitTrue(condition, seconds=60.0):
    """Wait until something holds."""
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.01)


def isGone(number):
    """Whether a process has ended."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")


@pytest.mark.parametrize("isAtWork", [False, True], ids=["while workers start", "while they work"])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def testASignalEndsAllProcessesInOneLine(prepared, number, code, isAtWork):
    folder = prepared / "pythonFiles"
    before = {path: path.read_bytes() for path in folder.iterdir()}
    with startSlowly(prepared) as process:
        awaitTrue(lambda: listWorkers(process))
        if isAtWork:
            awaitTrue(lambda: len(partialFiles(folder)) == 4)
            time.sleep(0.3)
        workers, begin = listWorkers(process), time.monotonic()
        if number == signal.SIGINT:
            os.killpg(process.pid, number)  # as a terminal does: workers too
        else:
            process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == code and time.monotonic() - begin < 4
    assert errors.strip() in (
        "Interrupted: nothing half-written was kept under a final name.",
        "Stopped: nothing half-written was kept under a final name.",
    )
    assert workers and all(map(isGone, workers))
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def testAKilledWorkerIsToldInOneLine(prepared):
    folder = prepared / "pythonFiles"
    before = {path: path.read_bytes() for path in folder.iterdir()}
    with startSlowly(prepared) as process:
        awaitTrue(lambda: len(partialFiles(folder)) == 4)
        workers = listWorkers(process)
        os.kill(workers[0], signal.SIGKILL)
        _, errors = process.communicate(timeout=60)
    words = "a worker process was killed", "take fewer with --workerCount, and repeat"
    checkRefusal(process.returncode, errors, words)
    assert all(map(isGone, workers))
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def testWorkersEndWithAKilledProcessAndTheNextRunCleansUp(prepared, capfd):
    folder = prepared / "pythonFiles"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with startSlowly(prepared) as process:
        awaitTrue(lambda: len(partialFiles(folder)) == 4)
        workers = listWorkers(process)
        process.kill()
        process.communicate(timeout=60)
    assert len(workers) == 2
    awaitTrue(lambda: all(map(isGone, workers)), 10)
    assert len(partialFiles(folder)) == 4
    assert prepare(prepared, capfd, 2)[1] == before
    assert partialFiles(folder) == []
