"""predictData.py --scheduler: workers of Dask give the bytes of one process, or say what is wrong."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from places import ROOT
from predictions import predict, readBytes, refused, resultOf

import engine.base.daskWorkers as daskWorkers
from engine.prediction.journal import Journal
from engine.prediction.statistics import measureRequest

pytest.importorskip("distributed")
CAN_MOUNT = subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode == 0
needsMount = pytest.mark.skipif(not CAN_MOUNT, reason="no mount namespaces here")


@pytest.mark.parametrize("count", [1, 2, 3])
def testLocalWorkersGiveTheBytesOfOneProcess(whole, scan, capfd, count):
    predict(scan, "--scheduler", "local", "--workerCount", count)
    captured = capfd.readouterr()
    assert f"Workers: {count} of one machine, see http://127.0.0.1:" in captured.out
    assert "Cut: " in captured.out and "Traceback" not in captured.err
    assert readBytes(scan.parent) == readBytes(whole)
    predict(scan, "--scheduler", "local", "--workerCount", count)
    assert "scan_segmented.nrrd is finished" in capfd.readouterr().out


def testWorkersAreAskedForTheirMemoryWhateverThisProcessHolds(whole, scan, monkeypatch):
    monkeypatch.setattr("engine.prediction.backends.residentGiB", lambda: 100.0)
    predict(scan, "--scheduler", "local", "--workerCount", 1)
    assert readBytes(scan.parent) == readBytes(whole)


def testWorkersOfAnotherSchedulerGiveTheBytesOfOneProcess(whole, scan, cluster, capfd):
    for _ in range(2):
        cluster.start()
    predict(scan, "--scheduler", cluster.address, "--workerCount", 2)
    assert readBytes(scan.parent) == readBytes(whole)


def testWorkersGoOnWithPartsOfAnArray(whole, scan, capfd):
    predict(scan, "--part", "1/3")
    predict(scan, "--scheduler", "local", "--workerCount", 2)
    assert "Going on with an unfinished result" in capfd.readouterr().out
    assert readBytes(scan.parent) == readBytes(whole)


def testADriverThatIsKilledGoesOn(whole, scan):
    words = ["--nameInput", scan, "--scheduler", "local", "--workerCount", "1", "--nameReference", "none"]
    command = list(map(str, [sys.executable, ROOT / "predictData.py", *words]))
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as driver:
        end = time.monotonic() + 120
        while not Journal(resultOf(scan)).record.exists() and time.monotonic() < end:
            time.sleep(0.02)
        time.sleep(0.5)
        driver.send_signal(signal.SIGKILL)
    predict(scan, "--scheduler", "local", "--workerCount", 2)
    assert readBytes(scan.parent) == readBytes(whole)


def testAWorkerThatIsKilledIsReplaced(whole, scan, cluster):
    cluster.start()
    words = ["--nameInput", scan, "--scheduler", cluster.address, "--nameReference", "none"]
    command = list(map(str, [sys.executable, ROOT / "predictData.py", *words]))
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as driver:
        for _ in range(3):
            time.sleep(0.8)
            worker = cluster.start()
            with contextlib.suppress(ProcessLookupError):
                os.killpg(cluster.processes[-2].pid, signal.SIGKILL)
        assert worker.poll() is None
        assert driver.wait(300) == 0, driver.stderr.read()
    assert readBytes(scan.parent) == readBytes(whole)


# --------------------------------------------------------------------------------------- what is not the same


def hide(scan, command):
    """Give the command that starts another one in a world of its own, where `command` has changed a file."""
    return ["unshare", "-m", "sh", "-c", f'{command} && exec "$@"', "sh"]


@needsMount
def testAWorkerThatSeesAnotherInputIsRefused(scan, cluster, tmp_path, capfd):
    other = tmp_path / "other.nrrd"
    other.write_bytes(scan.read_bytes()[:-8] + bytes(8))
    cluster.start(before=hide(scan, f"mount --bind {other} {scan}"))
    text = refused(capfd, scan, "--scheduler", cluster.address)
    assert "a worker sees other files, packages or another program than this process" in text
    assert "nameInput was" in text and not resultOf(scan).exists()


@needsMount
def testAWorkerThatSeesNoInputIsRefused(scan, cluster, capfd):
    cluster.start(before=hide(scan, f"mount -t tmpfs none {scan.parent}"))
    text = refused(capfd, scan, "--scheduler", cluster.address)
    assert f"{scan}: a worker cannot read nameInput: No such file" in text
    assert "all machines need the same paths" in text


@needsMount
def testAWorkerThatJoinsLaterAndSeesAnotherInputIsRefused(scan, cluster, tmp_path, monkeypatch, capfd):
    other = tmp_path / "other.nrrd"
    other.write_bytes(scan.read_bytes()[:-8] + bytes(8))
    cluster.start(before=hide(scan, f"mount --bind {other} {scan}"))
    monkeypatch.setattr("predictData.checkWorkers", lambda *_: None)  # those that are there when it begins
    text = refused(capfd, scan, "--scheduler", cluster.address)
    assert "a worker sees other files" in text and Journal(resultOf(scan)).finished() == []
    assert not list(scan.parent.glob(".*.sum-*"))
    monkeypatch.setattr("predictData.measureRequest", lambda request, *_: measureRequest(request))
    text = refused(capfd, scan, "--scheduler", cluster.address)
    assert "a worker sees other files" in text and Journal(resultOf(scan)).finished() == []


def testAWorkerWithAnotherVersionIsRefused(scan, cluster, tmp_path, capfd):
    fake = tmp_path / "packages" / "openvino-1.2.3.dist-info"
    fake.mkdir(parents=True)
    (fake / "METADATA").write_text("Metadata-Version: 2.1\nName: openvino\nVersion: 1.2.3\n")
    cluster.start(PYTHONPATH=str(fake.parent))
    text = refused(capfd, scan, "--scheduler", cluster.address, "--engine", "openvino")
    assert "version of openvino was" in text and "is 1.2.3" in text


def testAWorkerWithoutTheProjectIsRefused(scan, cluster, monkeypatch, capfd):
    cluster.start()
    monkeypatch.setattr(daskWorkers, "ROOT", Path("/nowhere"))
    text = refused(capfd, scan, "--scheduler", cluster.address)
    assert "a worker lacks the project or one of its packages" in text and "has no folder /nowhere" in text


@pytest.mark.parametrize("moment", [".partial-scan_segmented.nrrd.json", "scan.nrrd"])
def testASchedulerThatDiesLeavesWhatIsFinished(whole, scan, cluster, moment):
    cluster.start()
    words = ["--nameInput", scan, "--scheduler", cluster.address, "--nameReference", "none"]
    command = list(map(str, [sys.executable, ROOT / "predictData.py", *words]))
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as driver:
        driver.stdout.readline()  # workers are there
        end = time.monotonic() + 120
        while not scan.with_name(moment).exists() and time.monotonic() < end:
            time.sleep(0.02)
        os.killpg(cluster.scheduler.pid, signal.SIGKILL)
        text = driver.communicate(timeout=300)[1]
        assert driver.returncode == 2, text
    assert text.strip().count("\n") == 0 and "the scheduler is gone" in text and not resultOf(scan).exists()
    predict(scan)
    assert readBytes(scan.parent) == readBytes(whole)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--scheduler", "local", "--workerCount", -1), "must not be negative"),
        (("--scheduler", "local", "--coresPerWorker", 999), "coresPerWorker is more than there are"),
        (("--scheduler", "local", "--part", "1/2"), "--part and --scheduler exclude one another"),
    ],
)
def testFlagsThatCannotBeAreRefused(scan, capfd, flags, words):
    assert words in refused(capfd, scan, *flags)
    assert [path.name for path in scan.parent.iterdir()] == ["scan.nrrd"]
