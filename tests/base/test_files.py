"""Atomic writing: a result is whole under its name or not there."""

import errno
import os
import re
import subprocess
import sys

import pytest
from places import ROOT, listNames

from engine.base.errors import PipelineError
from engine.base.files import (
    lockName,
    openScratch,
    refuseLongNames,
    reserveSpace,
    temporaryName,
    writeAtomically,
)
from engine.base.records import writeJson
from engine.base.words import printable
from engine.preparation.writing import writeArraysAtomically


def testTwoProcessesDoNotWorkAtOneFile(tmp_path):
    code = (
        "import sys; from pathlib import Path; from engine.base.files import lockName\n"
        "with lockName(Path(sys.argv[1]), 'another process is at it'): print('done')"
    )

    def runOther():
        command = [sys.executable, "-c", code, tmp_path / "a.nrrd"]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

    with lockName(tmp_path / "a.nrrd", ""):
        assert "a.nrrd: another process is at it" in runOther().stderr
        assert (tmp_path / ".lock-a.nrrd").exists()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / ".lock-a.nrrd").touch()  # of a process that was killed
    assert runOther().stdout == "done\n" and list(tmp_path.iterdir()) == []


def testWhatAnotherComputerLeftIsNamedOnceAndKept(tmp_path, caplog):
    left = tmp_path / ".partial-node-17-4711-a.json"
    left.write_text("half")
    (tmp_path / ".partial-node17-4711-other-a.json").touch()  # of another file
    for _ in range(2):
        writeJson(tmp_path / "a.json", {})
    assert [record.getMessage() for record in caplog.records] == [
        f"{left}: of another computer; remove it unless a job is writing it there"
    ]
    assert left.exists()


def testALockThatCannotBeWrittenIsTold(tmp_path):
    (tmp_path / ".lock-a.nrrd").mkdir()
    with pytest.raises(PipelineError, match=".lock-a.nrrd: cannot be written"):
        with lockName(tmp_path / "a.nrrd", ""):
            pass


def testFileAppearsOnlyWhenTheBlockEnds(tmp_path):
    path = tmp_path / "result.txt"
    path.write_text("old")
    with writeAtomically(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old" and temporary.suffix == ".txt" and temporary.parent == tmp_path
    assert path.read_text() == "new" and listNames(tmp_path) == ["result.txt"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def testInterruptedBlockKeepsTheOldFileAndLeavesNothing(tmp_path, error):
    path = tmp_path / "result.txt"
    path.write_text("old")
    with pytest.raises(error), writeAtomically(path) as temporary:
        temporary.write_text("half")
        raise error
    assert path.read_text() == "old" and listNames(tmp_path) == ["result.txt"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def testFullDiskIsToldAndKeepsTheOldFile(tmp_path, number):
    path = tmp_path / "result.txt"
    path.write_text("old")
    with (
        pytest.raises(PipelineError, match="result.txt: the disk is full"),
        writeAtomically(path) as temporary,
    ):
        temporary.write_text("half")
        raise OSError(number, os.strerror(number))
    assert path.read_text() == "old" and listNames(tmp_path) == ["result.txt"]


def testMissingFolderIsTold(tmp_path):
    with pytest.raises(PipelineError, match="cannot be written: No such file"):
        writeJson(tmp_path / "missing" / "file.json", {})


def testLeftoversOfKilledRunsAreClearedAndThoseOfLivingOnesStay(tmp_path):
    path = tmp_path / "result.txt"
    dead = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True
    )
    own = temporaryName(path).name
    leftover = tmp_path / own.replace(f"-{os.getpid()}-", f"-{int(dead.stdout)}-")
    other = tmp_path / own.replace(f"-{os.getpid()}-", f"-{os.getppid()}-")
    foreign = tmp_path / re.sub("^.partial-.*?-", ".partial-elsewhere-", leftover.name)
    for file in (leftover, other, foreign):
        file.touch()
    with writeAtomically(path) as temporary:
        temporary.touch()
    assert listNames(tmp_path) == sorted([other.name, foreign.name, "result.txt"])


def testAScratchFolderGoesWithItsBlockAndThoseOfKilledRunsToo(tmp_path):
    path = tmp_path / "result.nrrd"
    dead = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True
    )
    own = temporaryName(tmp_path / "result.pieces")
    leftover, other = (
        own.with_name(own.name.replace(f"-{os.getpid()}-", f"-{number}-"))
        for number in (int(dead.stdout), os.getppid())
    )
    for folder in (leftover, other):
        folder.mkdir()
        (folder / "0-labels").touch()
    with pytest.raises(KeyboardInterrupt), openScratch(path) as scratch:
        assert scratch == own and not list(scratch.iterdir()) and not leftover.exists()
        (scratch / "0-labels").touch()
        raise KeyboardInterrupt
    assert listNames(tmp_path) == [other.name]
    with pytest.raises(PipelineError, match="cannot be written"), openScratch(tmp_path / "absent" / "a.nrrd"):
        pass


def testSpaceIsReservedForRealOrRefusedBeforeWork(tmp_path, monkeypatch):
    reserveSpace(tmp_path / "file", 1 << 20)
    status = os.stat(tmp_path / "file")
    assert status.st_size == 1 << 20 and status.st_blocks * 512 >= 1 << 20

    def refuse(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    arrays = {tmp_path / "a.npy": ((2, 3), "bool")}
    with (
        pytest.raises(PipelineError, match="disk is full"),
        writeArraysAtomically(arrays, tmp_path / "marker"),
    ):
        raise AssertionError("the block must not start")
    assert listNames(tmp_path) == ["file"]


def testSpaceIsReservedWithoutTheSystemCall(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "posix_fallocate")
    (tmp_path / "file").write_bytes(b"head")
    reserveSpace(tmp_path / "file", 10_000_000)
    content = (tmp_path / "file").read_bytes()
    assert len(content) == 10_000_000 and content[:4] == b"head" and not any(content[4:])


# ---------------------------------------------------------------------------------------------- long names


@pytest.mark.parametrize("letter", ["n", "\xb5", "\u65e5", "\udce4"])
def testNamesAreRefusedExactlyWhereTheyCannotBeWritten(tmp_path, letter):
    spare = 255 - len(os.fsencode(temporaryName(tmp_path / ".nrrd").name)) - (7 - len(str(os.getpid())))
    count = spare // len(os.fsencode(letter))
    longest = tmp_path / f"{letter * count}.nrrd"
    refuseLongNames([tmp_path / "a.nrrd", longest], "shorter")
    with writeAtomically(longest) as temporary:
        temporary.write_bytes(b"a")
    assert longest.exists()
    with pytest.raises(PipelineError) as caught:
        refuseLongNames([tmp_path / "a.nrrd", tmp_path / f"{letter * (count + 1)}.nrrd"], "shorter")
    line, own = str(caught.value), len(os.fsencode(letter)) * (count + 1) + 5
    assert line.startswith(
        printable(f"{letter * (count + 1)}.nrrd: the name is too long (expected at most 255 ")
    )
    assert f"received {own}, and " in line and line.endswith("; shorter")


def testPathsThatAreTooLongAreRefused(tmp_path):
    folder = tmp_path.joinpath(*["d" * 200] * 22)
    with pytest.raises(
        PipelineError, match=r"the path is too long with \d+ bytes \(expected less than 4096\)"
    ):
        refuseLongNames([folder / "a.nrrd"], "")


def testTheLimitOfTheFileSystemCounts(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "pathconf", lambda folder, name: {"PC_NAME_MAX": 143, "PC_PATH_MAX": -1}[name])
    refuseLongNames([tmp_path / ("n" * 90)], "")
    with pytest.raises(PipelineError, match="at most 143 bytes"):
        refuseLongNames([tmp_path / ("n" * 140)], "")
    monkeypatch.delattr(os, "pathconf")
    refuseLongNames([tmp_path / ("n" * 140)], "")


@pytest.mark.parametrize("name", ["a[1].txt", "*.txt", "?", "\udce4.txt"])
def testLeftoversOfNamesLikePatternsAreCleared(tmp_path, name):
    dead = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True
    )
    path, other = tmp_path / name, tmp_path / "a1.txt"
    left = [
        temporaryName(file).with_name(
            temporaryName(file).name.replace(f"-{os.getpid()}-", f"-{int(dead.stdout)}-")
        )
        for file in (path, other)
    ]
    for file in left:
        file.touch()
    with writeAtomically(path) as temporary:
        temporary.touch()
    assert not left[0].exists() and left[1].exists() and path.exists()
