"""The journal of a result that grows: what it vouches for, what a failure leaves, full disks."""

import json
from unittest.mock import Mock

import nrrd
import numpy as np
import pytest

import engine.formats.growing
import engine.prediction.journal
from engine.base.errors import PipelineError, StoppedBySignal
from engine.formats.growing import GrowingVolume, partialName
from engine.prediction.journal import Journal, joinResult, openResult
from engine.prediction.tasks import Task

SHAPE = (5, 4, 6)
HEADER = {"space": "left-posterior-superior", "space directions": np.eye(3) * 0.5, "note": "kept"}
FORM = {"outputType": "float32", "outputEncoding": "raw"}
NAMES = {".partial-a.nrrd", ".partial-a.nrrd.json", ".partial-a.nrrd.tasks"}


def makeProbability():
    """Probabilities (z, y, x) from 0 to 1."""
    return np.linspace(0, 1, np.prod(SHAPE), dtype=np.float32).reshape(SHAPE[::-1])


def newRecord(**identity):
    return {"identity": FORM | identity, "layout": [8, 1, 1, 0.5], "devices": ["a CPU"]}


def begin(path, record=None, isGoingOn=False):
    return openResult(path, SHAPE, HEADER, record or newRecord(input="a"), isGoingOn)


def done(first, last):
    return Task(0, (first, last))


def interruptAfter(path, count, error):
    """Write `count` planes of a result, then stop with an error."""
    with pytest.raises(type(error)):
        with begin(path) as result:
            result.write(makeProbability()[:count], 0, 0, 0)
            result.commit(done(0, count))
            raise error


def namesIn(folder):
    return {path.name for path in folder.iterdir()}


def testInterruptedResultGoesOn(tmp_path):
    planes, path = makeProbability(), tmp_path / "a.nrrd"
    path.write_bytes(b"the old result")
    interruptAfter(path, 4, KeyboardInterrupt())
    assert path.read_bytes() == b"the old result"
    record, differences = Journal(path).read(newRecord(input="a")["identity"])
    assert (record, differences) == (newRecord(input="a"), [])
    with begin(path, record, isGoingOn=True) as result:
        assert result.finished == [done(0, 4)]
        result.write(planes[4:], 4, 0, 0)
    voxels, header = nrrd.read(str(path))
    assert np.array_equal(voxels.T, planes) and header["note"] == "kept"
    assert namesIn(tmp_path) == {"a.nrrd"}


def testOtherIdentityIsNamedAndBeginsAnew(tmp_path):
    path = tmp_path / "a.nrrd"
    interruptAfter(path, 4, KeyboardInterrupt())
    record, differences = Journal(path).read(FORM | {"input": "b", "region": [1]})
    assert (record, differences) == (None, ["input was a, is b", "region was None, is [1]"])
    with pytest.raises(RuntimeError):  # killed before its first entry: the old ones must not vouch for it
        with begin(path, newRecord(input="b")) as result:
            assert result.finished == []
            result.write(makeProbability()[:2], 0, 0, 0)
            raise RuntimeError
    assert namesIn(tmp_path) == set()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"identity": {"input"', "the journal is damaged"),
        ('{"layout": []}', "the journal is damaged"),
        (
            json.dumps({"identity": {}, "layout": [], "progress": {"tile": 0, "planes": 4}}),
            "its journal is of an earlier version of this program",
        ),
    ],
)
def testJournalThatCannotBeGoneOnWithIsNamed(tmp_path, text, why):
    path = tmp_path / "a.nrrd"
    interruptAfter(path, 4, KeyboardInterrupt())
    (tmp_path / ".partial-a.nrrd.json").write_text(text)
    assert Journal(path).read(newRecord(input="a")["identity"]) == (None, [why])


def testLineThatAKillCutShortIsNone(tmp_path):
    journal = Journal(tmp_path / "a.nrrd")
    journal.add([Task(0, (0, 16)), Task(1, (0, 32))])
    whole = (tmp_path / ".partial-a.nrrd.tasks").read_text()
    for length in range(len(whole)):
        (tmp_path / ".partial-a.nrrd.tasks").write_text(whole[:length])
        assert journal.finished() in ([], [Task(0, (0, 16))])
        journal.add([Task(10, (32, 48))])  # of another process, or of the next run
        assert journal.finished()[-1:] == [Task(10, (32, 48))] and len(journal.finished()) <= 2


ENDINGS = [PipelineError("a file cannot be read"), KeyboardInterrupt(), StoppedBySignal(15)]


@pytest.mark.parametrize("error", ENDINGS)
def testNothingIsKeptOfAResultThatWasNotBegun(tmp_path, error):
    with pytest.raises(type(error)):
        with begin(tmp_path / "a.nrrd"):
            raise error
    assert namesIn(tmp_path) == set()


@pytest.mark.parametrize("error", [*ENDINGS, OSError(116, "Stale file handle")])
@pytest.mark.parametrize("isNoted", [True, False])
def testWhateverEndsItWhatIsDoneIsKept(tmp_path, monkeypatch, error, isNoted):
    planes, path = makeProbability(), tmp_path / "a.nrrd"
    monkeypatch.setattr(engine.prediction.journal, "COMMIT_SECONDS", 0)
    with pytest.raises((type(error), PipelineError)):
        with begin(path) as result:
            result.write(planes[:2], 0, 0, 0)
            result.commit(done(0, 2))
            monkeypatch.setattr(engine.prediction.journal, "COMMIT_SECONDS", 1e9)
            result.write(planes[2:4], 2, 0, 0)
            result.commit(done(2, 4))
            if not isNoted:  # a disk that is so full that not even the journal fits
                monkeypatch.setattr(Journal, "add", Mock(side_effect=OSError(28, "full")))
            raise error
    monkeypatch.undo()
    record, _ = Journal(path).read(newRecord(input="a")["identity"])
    count = 4 if isNoted else 2
    with begin(path, record, isGoingOn=True) as result:
        assert result.finished == [done(0, count)]
        result.write(planes[count:], count, 0, 0)
    assert np.array_equal(nrrd.read(str(path))[0].T, planes)
    assert namesIn(tmp_path) == {"a.nrrd"}


def testAnUnfinishedFileThatCannotBeOpenedIsLeftAlone(tmp_path, monkeypatch):
    path = tmp_path / "a.nrrd"
    interruptAfter(path, 4, KeyboardInterrupt())  # of another user
    kept = {item.name: item.read_bytes() for item in tmp_path.iterdir()}
    assert kept.keys() == NAMES
    monkeypatch.setattr("builtins.open", Mock(side_effect=PermissionError(13, "Permission denied")))
    for isGoingOn in (True, False):
        with pytest.raises(PipelineError, match="a.nrrd: cannot be written: Permission denied"):
            with begin(path, isGoingOn=isGoingOn):
                pass
    monkeypatch.undo()
    assert {item.name: item.read_bytes() for item in tmp_path.iterdir()} == kept


def testJournalVouchesOnlyForPlanesOnTheDisk(tmp_path, monkeypatch):
    events, path = [], tmp_path / "a.nrrd"
    monkeypatch.setattr(engine.prediction.journal, "COMMIT_SECONDS", 0)
    monkeypatch.setattr(GrowingVolume, "flush", lambda self: events.append("flush"))
    add = Journal.add
    monkeypatch.setattr(Journal, "add", lambda *names: events.append("journal") or add(*names))
    with begin(path) as result:
        result.write(makeProbability()[:2], 0, 0, 0)
        result.commit(done(0, 2))
        assert Journal(path).finished() == [done(0, 2)]
        assert events == ["flush", "journal"]


@pytest.mark.parametrize(("method", "kept"), [("_writeAt", set()), ("_compress", NAMES)])
def testFullDiskIsToldAndKeepsTheOldResult(tmp_path, monkeypatch, method, kept):
    path = tmp_path / "a.nrrd"
    path.write_bytes(b"the old result")
    monkeypatch.setattr(GrowingVolume, method, Mock(side_effect=OSError(28, "No space left on device")))
    with pytest.raises(PipelineError, match="a.nrrd: the disk is full"):
        with begin(path, newRecord(outputEncoding="gzip")) as result:
            result.write(makeProbability(), 0, 0, 0)
            result.commit(done(0, 6))
    assert path.read_bytes() == b"the old result"
    assert namesIn(tmp_path) - {"a.nrrd"} == kept


def testAnotherProcessMayJoin(tmp_path):
    planes, path = makeProbability(), tmp_path / "a.nrrd"
    with begin(path) as result:
        result.write(planes[:2], 0, 0, 0)
        result.commit(done(0, 2))
        result.note()
        with joinResult(path, "CPU") as other:
            assert other.finished == [done(0, 2)]
            other.write(planes[2:], 2, 0, 0)
            other.commit(done(2, 6))
        assert Journal(path).finished() == [done(0, 6)]
    assert np.array_equal(nrrd.read(str(path))[0].T, planes) and not partialName(path).exists()
