"""A shared result where the file system gives less than a local disk: no locks, no hard links, late names."""

import contextlib
import errno
import fcntl
import os
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
from places import ROOT, listNames
from predictions import predict, readBytes

import engine.base.files
import engine.formats.growing
import engine.prediction.shared
from engine.base.files import NO_LINKS, fileSystemOf, lockName, publish
from engine.base.records import publishJson, readJson
from engine.formats.growing import GrowingVolume, beginGrowing, createGrowing, partialName
from engine.formats.opening import openVolume
from engine.prediction.journal import Journal

LATE_SECONDS = 1.0


def fail(number):
    """Give a call of the system that always fails."""

    def failing(*_, **__):
        raise OSError(number, os.strerror(number))

    return failing


# ---------------------------------------------------------------------------------------- two machines, FUSE


@pytest.fixture
def clients(tmp_path):
    """Mount a folder twice: two machines that cache its attributes and see no locks of one another."""
    if not shutil.which("bindfs"):
        pytest.skip("bindfs is not installed")
    folders = [tmp_path / "first", tmp_path / "second"]
    (tmp_path / "server").mkdir()
    with contextlib.ExitStack() as stack:
        for folder in folders:
            folder.mkdir()
            mounted = subprocess.run(
                ["bindfs", tmp_path / "server", folder], capture_output=True, check=False
            )
            if mounted.returncode:
                pytest.skip("bindfs cannot mount here")
            unmount = ["umount", "-l", folder] if os.getuid() == 0 else ["fusermount", "-uz", folder]
            stack.callback(subprocess.run, unmount, check=True)
        yield folders


def startPart(folder, *flags):
    """Start predictData.py on one of the machines."""
    words = [sys.executable, ROOT / "predictData.py", "--nameInput", folder / "scan.nrrd"]
    words += ["--nameReference", "none", *flags]
    return subprocess.Popen(
        list(map(str, words)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finish(processes):
    """Wait for processes that must end well; gives what they said."""
    said = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), said
    return said


def testTheMountsAreLikeTwoMachines(clients):
    first, second = (folder / "file" for folder in clients)
    assert any(isSeenLate(first, second, byteCount) for byteCount in range(1, 6))
    with open(first) as one, open(second) as other:
        fcntl.flock(one, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)  # nobody sees the lock of the other one
    assert not engine.formats.growing.isCoherent(second)


def isSeenLate(first, second, byteCount):
    """Whether the other machine still sees the size that a file had."""
    first.write_bytes(bytes(byteCount))
    before = second.stat().st_size
    first.write_bytes(bytes(byteCount + 10))
    return second.stat().st_size == before


def testPartsOnTwoMachinesWithoutLocksGiveTheBytesOfOneProcess(whole, clients, tmp_path):
    first, second = clients
    shutil.copy2(whole / "scan.nrrd", first / "scan.nrrd")
    parts = [(first, "0/3"), (second, "1/3"), (second, "2/3"), (first, "1/3")]  # one of them twice
    said = finish([startPart(folder, "--part", part) for folder, part in parts])
    assert all("parts are predicted" in text for text in said)
    assert "all is predicted" in finish([startPart(second)])[0]
    assert readBytes(tmp_path / "server") == readBytes(whole)


def testMachinesThatWriteSideBySideKeepWhatTheOtherOneWrote(clients):
    """Rows and columns of one page of the file, written in turn by both."""
    shape = (40, 30, 20)
    planes = np.random.default_rng(0).random(shape[::-1], np.float32)
    paths = [folder / "a.nrrd" for folder in clients]
    createGrowing(paths[0], shape, "float32", {})
    with GrowingVolume(paths[0]) as first, GrowingVolume(paths[1]) as second:
        for column in range(0, 40, 8):
            for writer, start in ((first, column), (second, column + 4)):
                writer.write(planes[:, :, start : start + 4], 0, 0, start)
        first.flush()
        second.flush()
        second.finish("raw")
    assert np.array_equal(openVolume(paths[1]).read().T, planes)


# ------------------------------------------------------------------------------------------- no hard links


@pytest.mark.parametrize("number", sorted(NO_LINKS))
def testWithoutHardLinksALookAndARenameStandIn(tmp_path, monkeypatch, number):
    monkeypatch.setattr(os, "link", fail(number))
    for content, isFirst in ((1, True), (2, False)):
        assert publishJson(tmp_path / "a.json", {"content": content}) is isFirst
    assert readJson(tmp_path / "a.json") == {"content": 1} and listNames(tmp_path) == ["a.json"]


def testAnotherTroubleWithALinkIsToldAndLeavesNothing(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "link", fail(errno.EIO))
    with pytest.raises(OSError, match="Input/output error"):
        publishJson(tmp_path / "a.json", {})
    assert listNames(tmp_path) == []


def testOfManyProcessesOnePublishes(tmp_path):
    """Each tells whether it was the first; all at the same moment, 20 times."""
    code = (
        "import sys, time; from pathlib import Path; from engine.base.records import publishJson\n"
        "begin, folder, own = float(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]\n"
        "for number in range(20):\n"
        "    time.sleep(max(begin + number * 0.05 - time.time(), 0))\n"
        "    if publishJson(folder / f'{number}.json', {'by': own}): print(number)\n"
    )
    command = [sys.executable, "-c", code, str(time.time() + 1.5), str(tmp_path)]
    processes = [
        subprocess.Popen([*command, own], cwd=ROOT, stdout=subprocess.PIPE, text=True) for own in "abcd"
    ]
    won = {own: process.communicate()[0].split() for own, process in zip("abcd", processes, strict=True)}
    assert sorted(int(number) for numbers in won.values() for number in numbers) == list(range(20))
    for own, numbers in won.items():
        assert all(readJson(tmp_path / f"{number}.json") == {"by": own} for number in numbers)


def testPartsWithoutHardLinksGiveTheBytesOfOneProcess(whole, scan, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "link", fail(errno.EPERM))
    for part in ("1/2", "0/2"):
        predict(scan, "--part", part)
    predict(scan)
    assert readBytes(tmp_path) == readBytes(whole)


# ------------------------------------------------------------------------------------------------ no locks


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP])
def testWithoutLocksWorkGoesOn(whole, scan, tmp_path, monkeypatch, number):
    monkeypatch.setattr(engine.base.files.fcntl, "flock", fail(number))
    with lockName(tmp_path / "a", ""), lockName(tmp_path / "b", ""):
        pass
    for part in ("1/2", "0/2"):
        predict(scan, "--part", part)
    predict(scan)
    assert readBytes(tmp_path) == readBytes(whole)


# -------------------------------------------------------------------------------------- names that come late


class Late:
    """Hides what others have written for a while, as a client that caches attributes does.

    Parameters
    ----------
    seconds : float
        From the first look on.
    """

    def __init__(self, seconds):
        self._seconds, self._begin, self.looks = seconds, {}, 0

    def isHidden(self, name):
        begin = self._begin.setdefault(name, time.monotonic())
        self.looks += time.monotonic() - begin < self._seconds
        return time.monotonic() - begin < self._seconds


@pytest.mark.parametrize("kind", ["record", "digests"])
def testAFileThatIsSeenLateIsWaitedForOrMadeAgain(whole, scan, tmp_path, monkeypatch, kind):
    """Its name can be taken before it can be read."""
    predict(scan, "--part", "0/2")
    late = Late(LATE_SECONDS)
    hidden = getattr(Journal(scan.with_name("scan_segmented.nrrd")), kind)

    def readLate(path):
        return None if path == hidden and late.isHidden(path) else readJson(path)

    with monkeypatch.context() as patched:
        patched.setattr(engine.prediction.shared, "readJson", readLate)
        predict(scan, "--part", "1/2", *(["--verify"] if kind == "digests" else []))
    assert late.looks
    predict(scan)
    assert readBytes(tmp_path) == readBytes(whole)


def testARecordThatNeverAppearsEndsInAnError(scan, monkeypatch, capfd):
    predict(scan, "--part", "0/2")
    journal = Journal(scan.with_name("scan_segmented.nrrd"))
    record, finished = journal.record, journal.finished()
    monkeypatch.setattr(engine.prediction.shared, "VISIBLE_SECONDS", 0.1)
    monkeypatch.setattr(
        engine.prediction.shared, "readJson", lambda path: None if path == record else readJson(path)
    )
    with pytest.raises(SystemExit) as caught:
        predict(scan, "--part", "1/2")
    assert caught.value.code == 2 and "scan_segmented.nrrd: " in capfd.readouterr().err
    assert record.exists() and journal.finished() == finished


def testTheNotesOfAnotherMachineThatAreSeenLateCostWorkAndNothingElse(
    whole, scan, tmp_path, monkeypatch, capfd
):
    predict(scan, "--part", "0/2")
    predict(scan, "--part", "1/2")
    with monkeypatch.context() as patched:
        patched.setattr(Journal, "_texts", lambda self: iter(()))
        predict(scan)
    assert "all is predicted" not in capfd.readouterr().out.split("1 of 2 parts")[-1]
    assert readBytes(tmp_path) == readBytes(whole)


def testVoxelsThatAreSeenLateAreNotBegunAnew(tmp_path, monkeypatch):
    path, exists = tmp_path / "a.nrrd", type(tmp_path).exists
    beginGrowing(path, (4, 3, 2), "float32", {})
    with GrowingVolume(path) as volume:
        volume.write(np.ones((2, 3, 4), np.float32), 0, 0, 0)
    before = partialName(path).read_bytes()
    monkeypatch.setattr(type(path), "exists", lambda self: self != partialName(path) and exists(self))
    beginGrowing(path, (4, 3, 2), "float32", {})
    assert partialName(path).read_bytes() == before and listNames(tmp_path) == [".partial-a.nrrd"]


# ------------------------------------------------------------------------------------- what a client caches


@pytest.mark.parametrize(
    ("kind", "isCareful"), [("nfs4", True), ("fuse.sshfs", True), ("lustre", False), ("gpfs", False)]
)
def testWritesGoToTheServerAtOnceWhereClientsCachePages(tmp_path, monkeypatch, kind, isCareful):
    monkeypatch.setattr(engine.formats.growing, "fileSystemOf", lambda path: kind)
    createGrowing(tmp_path / "a.nrrd", (4, 3, 2), "float32", {})
    with GrowingVolume(tmp_path / "a.nrrd") as volume:
        flags = fcntl.fcntl(volume._file.fileno(), fcntl.F_GETFL)
    assert bool(flags & os.O_DSYNC) is isCareful
    assert flags & os.O_ACCMODE == (os.O_WRONLY if isCareful else os.O_RDWR)


def testTheFileSystemOfAPathIsThatOfTheInnermostMount(tmp_path):
    kinds = subprocess.run(["stat", "-f", "-c", "%T", "/proc"], capture_output=True, text=True).stdout.split()
    assert fileSystemOf(tmp_path) != "" and [fileSystemOf(type(tmp_path)("/proc/self"))] == kinds


def testAPublishedFileIsWholeWhereItIsSeen(tmp_path):
    temporary = tmp_path / "temporary"
    temporary.write_bytes(bytes(100_000))
    assert publish(temporary, tmp_path / "a")
    assert (tmp_path / "a").stat().st_nlink == 1 and (tmp_path / "a").read_bytes() == bytes(100_000)
