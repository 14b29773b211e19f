"""The result that grows in place: encoding, journal, what a failure leaves, full disks."""

import gzip
import json
from unittest.mock import Mock

import nrrd
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import engine.base.files
import engine.volumes.growing
from engine.base.errors import PipelineError, StoppedBySignal
from engine.volumes.growing import (
    decodeProbability,
    describeScale,
    encodeProbability,
    journalName,
    openPartial,
    partialName,
    readJournal,
)

SHAPE = (5, 4, 6)
HEADER = {"space": "left-posterior-superior", "space directions": np.eye(3) * 0.5, "note": "kept"}


def newJournal(**identity):
    return {"identity": identity, "layout": [8, 1, 1, 0.5], "progress": {}}


def makeProbability(shape=SHAPE):
    """Probabilities (z, y, x) from 0 to 1."""
    return np.linspace(0, 1, np.prod(shape), dtype=np.float32).reshape(shape[::-1])


def fill(path, planes, dtype="float32", encoding="raw"):
    header = HEADER | describeScale(dtype)
    with openPartial(path, SHAPE, dtype, header, newJournal(), encoding) as volume:
        for z in range(0, len(planes), 2):
            volume.write(planes[z : z + 2], z, 0, 0)
            volume.commit({"planes": z + 2})


@pytest.mark.parametrize("encoding", ["raw", "gzip"])
@pytest.mark.parametrize("dtype", ["float32", "uint8", "uint16"])
def testWrittenVolumeIsReadByAnotherReader(tmp_path, dtype, encoding):
    planes = makeProbability()
    fill(tmp_path / "a.nrrd", planes, dtype, encoding)
    voxels, header = nrrd.read(str(tmp_path / "a.nrrd"))
    assert voxels.dtype == dtype and header["encoding"] == encoding
    assert header["note"] == "kept" and header["space directions"][0, 0] == 0.5
    levels = 0 if dtype == "float32" else np.iinfo(dtype).max
    scale = levels or 1
    assert abs(voxels.T / np.float64(scale) - planes).max() <= (0.5 / levels if levels else 0) + 1e-7
    assert [path.name for path in tmp_path.iterdir()] == ["a.nrrd"]
    if levels:
        assert header["probability"] == f"value / {levels}"
        assert (header["old min"], header["old max"]) == (0, 1)


def testGzipOfEqualVoxelsIsTheSameFile(tmp_path):
    for name in ("a.nrrd", "b.nrrd"):
        fill(tmp_path / name, makeProbability(), "uint8", "gzip")
    assert (tmp_path / "a.nrrd").read_bytes() == (tmp_path / "b.nrrd").read_bytes()
    _, data = (tmp_path / "a.nrrd").read_bytes().split(b"\n\n", 1)
    assert len(gzip.decompress(data)) == np.prod(SHAPE)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(values=st.lists(st.floats(0, 1, width=32), min_size=1, max_size=20), dtype=st.sampled_from("BH"))
def testScaledProbabilitiesAreTheNearestSteps(values, dtype):
    planes = np.array(values, np.float32)
    steps = np.iinfo(dtype).max
    encoded = encodeProbability(planes, dtype)
    assert np.array_equal(encoded[planes == 1], np.full((planes == 1).sum(), steps))
    assert not encoded[planes == 0].any()
    assert abs(decodeProbability(encoded) - planes).max() <= 0.5 / steps + 1e-6


def testTilesLandWhereTheyBelong(tmp_path):
    planes = makeProbability()
    with openPartial(tmp_path / "a.nrrd", SHAPE, "float32", {}, newJournal()) as volume:
        for rows in ((0, 1), (1, 4)):
            for columns in ((0, 3), (3, 5)):
                for z in (4, 0, 2):
                    part = planes[z : z + 2, slice(*rows), slice(*columns)]
                    volume.write(part, z, rows[0], columns[0])
    assert np.array_equal(nrrd.read(str(tmp_path / "a.nrrd"))[0].T, planes)


# ------------------------------------------------------------------------------------------- interruptions


def interruptAfter(path, planes, count, error, journal=None, monkeypatch=None):
    """Write `count` planes of a result, then stop with an error."""
    with pytest.raises(type(error)):
        with openPartial(path, SHAPE, "float32", HEADER, journal or newJournal(input="a")) as volume:
            volume.write(planes[:count], 0, 0, 0)
            volume.commit({"planes": count})
            raise error


def testInterruptedResultGoesOn(tmp_path):
    planes, path = makeProbability(), tmp_path / "a.nrrd"
    path.write_bytes(b"the old result")
    interruptAfter(path, planes, 4, KeyboardInterrupt())
    assert path.read_bytes() == b"the old result"
    journal, differences = readJournal(path, {"input": "a"})
    assert journal["progress"] == {"planes": 4} and journal["layout"] == [8, 1, 1, 0.5] and differences == []
    with openPartial(path, SHAPE, "float32", HEADER, journal) as volume:
        assert volume.progress == {"planes": 4}
        volume.write(planes[4:], 4, 0, 0)
    assert np.array_equal(nrrd.read(str(path))[0].T, planes)
    assert sorted(item.name for item in tmp_path.iterdir()) == ["a.nrrd"]


def testOtherIdentityIsNamedAndBeginsAnew(tmp_path):
    planes, path = makeProbability(), tmp_path / "a.nrrd"
    interruptAfter(path, planes, 4, KeyboardInterrupt())
    journal, differences = readJournal(path, {"input": "b", "region": [1]})
    assert journal is None
    assert differences == ["input was a, is b", "region was None, is [1]"]
    with pytest.raises(RuntimeError):  # killed before its first note: the old one must not vouch for it
        with openPartial(path, SHAPE, "float32", HEADER, newJournal(input="b")) as volume:
            volume.write(planes[:2], 0, 0, 0)
            raise RuntimeError
    assert readJournal(path, {"input": "a"}) == (None, [])


def testDamagedJournalBeginsAnew(tmp_path):
    path = tmp_path / "a.nrrd"
    interruptAfter(path, makeProbability(), 4, KeyboardInterrupt())
    journalName(partialName(path)).write_text('{"identity": {"input"')
    assert readJournal(path, {"input": "a"}) == (None, ["the journal is damaged"])


ENDINGS = [PipelineError("a file cannot be read"), KeyboardInterrupt(), StoppedBySignal(15)]


@pytest.mark.parametrize("error", ENDINGS)
def testNothingIsKeptOfAResultThatWasNotBegun(tmp_path, error):
    with pytest.raises(type(error)):
        with openPartial(tmp_path / "a.nrrd", SHAPE, "float32", HEADER, newJournal()):
            raise error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [*ENDINGS, OSError(116, "Stale file handle")])
@pytest.mark.parametrize("isNoted", [True, False])
def testWhateverEndsItWhatIsDoneIsKept(tmp_path, monkeypatch, error, isNoted):
    planes, path, journal = makeProbability(), tmp_path / "a.nrrd", newJournal()
    monkeypatch.setattr(engine.volumes.growing, "COMMIT_SECONDS", 0)
    with pytest.raises((type(error), PipelineError)):
        with openPartial(path, SHAPE, "float32", HEADER, journal) as volume:
            volume.write(planes[:2], 0, 0, 0)
            volume.commit({"planes": 2})
            monkeypatch.setattr(engine.volumes.growing, "COMMIT_SECONDS", 1e9)
            volume.write(planes[2:4], 2, 0, 0)
            volume.commit({"planes": 4})
            if not isNoted:  # a disk that is so full that not even the journal fits
                monkeypatch.setattr(
                    engine.volumes.growing, "writeJson", Mock(side_effect=OSError(28, "full"))
                )
            raise error
    monkeypatch.undo()
    journal, differences = readJournal(path, journal["identity"])
    done = 4 if isNoted else 2
    assert (journal["progress"], differences) == ({"planes": done}, [])
    with openPartial(path, SHAPE, "float32", HEADER, journal) as volume:
        volume.write(planes[done:], done, 0, 0)
    assert np.array_equal(nrrd.read(str(path))[0].T, planes)
    assert sorted(item.name for item in tmp_path.iterdir()) == ["a.nrrd"]


def testAnUnfinishedFileThatCannotBeOpenedIsLeftAlone(tmp_path, monkeypatch):
    planes, path = makeProbability(), tmp_path / "a.nrrd"
    interruptAfter(path, planes, 4, KeyboardInterrupt())  # of another user
    kept = {item.name: item.read_bytes() for item in tmp_path.iterdir()}
    monkeypatch.setattr("builtins.open", Mock(side_effect=PermissionError(13, "Permission denied")))
    with pytest.raises(PipelineError, match="a.nrrd: cannot be written: Permission denied"):
        with openPartial(path, SHAPE, "float32", HEADER, newJournal()):
            pass
    monkeypatch.undo()
    assert {item.name: item.read_bytes() for item in tmp_path.iterdir()} == kept


def testJournalVouchesOnlyForPlanesOnTheDisk(tmp_path, monkeypatch):
    events = []
    monkeypatch.setattr(engine.volumes.growing, "COMMIT_SECONDS", 0)
    monkeypatch.setattr(engine.volumes.growing.os, "fsync", lambda descriptor: events.append("flush"))
    written = engine.volumes.growing.writeJson
    monkeypatch.setattr(
        engine.volumes.growing, "writeJson", lambda *names: events.append("journal") or written(*names)
    )
    with openPartial(tmp_path / "a.nrrd", SHAPE, "float32", HEADER, newJournal()) as volume:
        volume.write(makeProbability()[:2], 0, 0, 0)
        volume.commit({"planes": 2})
        content = json.loads(journalName(partialName(tmp_path / "a.nrrd")).read_text())
        assert content["progress"] == {"planes": 2}
        assert events[:2] == ["flush", "journal"]


@pytest.mark.parametrize(
    ("function", "kept"),
    [("reserveSpace", set()), ("_compress", {".partial-a.nrrd", ".partial-a.nrrd.json"})],
)
def testFullDiskIsToldAndKeepsTheOldResult(tmp_path, monkeypatch, function, kept):
    (tmp_path / "a.nrrd").write_bytes(b"the old result")

    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(engine.volumes.growing, function, refuse)
    with pytest.raises(PipelineError, match="the disk is full"):
        fill(tmp_path / "a.nrrd", makeProbability(), "uint8", "gzip")
    assert (tmp_path / "a.nrrd").read_bytes() == b"the old result"
    assert {path.name for path in tmp_path.iterdir()} - {"a.nrrd"} == kept


def testDiskThatFillsUpWhileWritingIsTold(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(engine.volumes.growing.PartialVolume, "_writeAt", refuse)
    with pytest.raises(PipelineError, match="a.nrrd: the disk is full"):
        fill(tmp_path / "a.nrrd", makeProbability())
    assert list(tmp_path.iterdir()) == []
