"""Results of predictData.py that several processes make."""

import json
import os
import shutil
import signal
from pathlib import Path

import nrrd
import numpy as np
import pytest
from places import ROOT
from predictions import OBLIQUE, REGION, predict, writeReference

import engine.results.ranges
from engine.formats.opening import openVolume
from engine.results import judging, outcome, ranges


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Predict a volume, and write a mask."""
    folder = tmp_path_factory.mktemp("run")
    grey = openVolume(ROOT / "test-file" / "test-file_data.nrrd").read(REGION)
    nrrd.write(str(folder / "scan_data.nrrd"), grey, OBLIQUE)
    predict(folder / "scan_data.nrrd", "--threshold", 0.4)
    positive = writeReference(folder, folder)
    raw = OBLIQUE | {"encoding": "raw"}  # compressed, it would be read by one process
    nrrd.write(str(folder / "scan_mask.nrrd"), np.where(positive, 0, 255).astype(np.uint8), raw)
    return folder


@pytest.fixture
def copy(run, tmp_path, monkeypatch):
    """Copy it; its 40 planes are cut into ranges of four, and time stands still."""
    monkeypatch.setattr(ranges, "LEAST_VOXELS", 1)
    monkeypatch.setattr(ranges, "chooseSlab", lambda *_: 4)
    monkeypatch.setattr(outcome.time, "strftime", lambda *_: "now")
    return Path(shutil.copytree(run, tmp_path / "copy"))


def testWorkerCountChangesNoByte(copy, monkeypatch, capfd):
    found, counts, evaluate = [], [], judging.evaluate
    monkeypatch.setattr(judging, "evaluate", lambda *a: counts.append(a[2].count) or evaluate(*a))
    flags = "--nameReference", copy / "scan_mask.nrrd", "--minimumVoxels", 3, "--threshold", 0.4
    for count in (1, 2, 3, 0):
        capfd.readouterr()
        predict(copy / "scan_data.nrrd", *flags, "--workerCount", count)
        told = [
            line for line in capfd.readouterr().out.splitlines() if line.startswith(("Particles", "Scores"))
        ]
        assert len(told) == 3
        paths = sorted(copy.glob("scan_segmented*"))
        written = {path.name: path.read_bytes() for path in paths if path.name != "scan_segmented.json"}
        page = written.pop("scan_segmented_report.html")
        found.append((told, written, page.replace(b'"workerCount": %d' % count, b"")))
    assert counts == [1, 2, 3, 1]  # of itself, it starts none for so few voxels
    assert len(found[0][1]) >= 8 and found[0] == found[1] == found[2] == found[3]


def testWorkersOfASchedulerGiveTheSameBytes(copy, monkeypatch):
    pytest.importorskip("distributed")
    flags = "--nameReference", copy / "scan_mask.nrrd", "--threshold", 0.4, "--no-report"
    found, walks, walk = [], [], ranges._doInTurn
    monkeypatch.setattr(ranges, "_doInTurn", lambda *a: walks.append(a) or walk(*a))
    for others, count in (((), 2), (("--scheduler", "local", "--workerCount", 2), 2)):
        predict(copy / "scan_data.nrrd", *flags, *others)
        written = {path.name: readResult(path) for path in copy.glob("scan_segmented[_]*")}
        found.append(written)
        assert len(walks) == count  # both passes here; none by the workers
    assert found[0] == found[1]


def readResult(path):
    """Read a file; JSON without the digests of the inputs, which a scheduler needs only to predict."""
    if path.suffix != ".json":
        return path.read_bytes()
    content = json.loads(path.read_text())
    del content["settings"]["inputs"]
    return content


def testNegativeWorkerCountIsRefused(copy, capfd):
    with pytest.raises(SystemExit):
        predict(copy / "scan_data.nrrd", "--workerCount", -2)
    assert "workerCount must not be negative (received -2)" in capfd.readouterr().err


def testProcessesThatTheMemoryIsTooSmallForAreLeftOut(copy, caplog):
    flags = "--workerCount", 3, "--memoryBudget", 0.3, "--threshold", 0.4
    predict(copy / "scan_data.nrrd", *flags)
    assert "memory for 1 of 3 processes" in caplog.text


def testAKilledWorkerLeavesTheOldResults(copy, monkeypatch, capfd):
    before = {path.name: path.read_bytes() for path in copy.iterdir() if path.suffix != ".json"}
    monkeypatch.setattr(ranges, "doOne", dieAlone)
    with pytest.raises(SystemExit) as end:
        predict(copy / "scan_data.nrrd", "--threshold", 0.3, "--workerCount", 2)
    assert end.value.code == 2
    assert "a worker process was killed (is the memory too small" in capfd.readouterr().err
    assert {path.name: path.read_bytes() for path in copy.iterdir() if path.suffix != ".json"} == before


def dieAlone(function, source, place):
    """Die as a process does that the system has killed, at the fourth range."""
    if place.first == 12:
        os.kill(os.getpid(), signal.SIGKILL)
    return engine.results.ranges.doOne(function, source, place)
