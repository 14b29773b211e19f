"""Two files in turn: one of them is whole at any moment."""

import errno
import os

import numpy as np
import pytest

from engine.base.errors import PipelineError
from engine.learning.trainingState import TrainingState

ARRAYS = {"weights/0": np.arange(6, dtype=np.float32).reshape(2, 3), "optimiser/0": np.array(7)}


@pytest.fixture
def state(tmp_path):
    return TrainingState(tmp_path / "net.h5")


def saveTimes(state, count):
    for number in range(count):
        state.save({"epoch": number}, {name: array + number for name, array in ARRAYS.items()})


def check(loaded, number):
    record, arrays = loaded
    assert record == {"epoch": number}
    assert arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(arrays[name], array + number)
        assert arrays[name].dtype == array.dtype


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def testTheNewestIsReadAndTwoAreKept(state, count, tmp_path):
    assert state.load() is None
    saveTimes(state, count)
    check(TrainingState(tmp_path / "net.h5").load(), count - 1)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [".state-net-0", ".state-net-1"][-2 if count > 1 else -1 :]


def testItGoesOnInTurnAfterALoad(state, tmp_path):
    saveTimes(state, 3)
    again = TrainingState(tmp_path / "net.h5")
    again.load()
    again.save({"epoch": 9}, {})
    assert TrainingState(tmp_path / "net.h5").load()[0] == {"epoch": 9}
    newest = max(again.paths, key=lambda path: path.stat().st_mtime_ns)
    newest.write_bytes(b"")
    check(TrainingState(tmp_path / "net.h5").load(), 2)


@pytest.mark.parametrize("damage", ["truncated", "a byte", "empty", "only a digest"])
def testADamagedFileIsReportedAndTheOtherOneUsed(state, tmp_path, caplog, damage):
    saveTimes(state, 4)
    newest = state.paths[0]
    content = newest.read_bytes()
    spoilt = {
        "truncated": content[:-9],
        "a byte": content[:400] + bytes([content[400] ^ 1]) + content[401:],
        "empty": b"",
        "only a digest": content[:32],
    }
    newest.write_bytes(spoilt[damage])
    check(TrainingState(tmp_path / "net.h5").load(), 2)
    assert caplog.messages == [".state-net-0 is damaged and left out"]


def testTwoDamagedFilesAreRefused(state, tmp_path):
    saveTimes(state, 2)
    for path in state.paths:
        path.write_bytes(b"x" * 100)
    with pytest.raises(PipelineError, match=r"is damaged; --restart begins anew"):
        TrainingState(tmp_path / "net.h5").load()


def testADiskThatFillsUpKeepsBothFiles(state, tmp_path, monkeypatch):
    saveTimes(state, 2)
    before = [path.read_bytes() for path in state.paths]

    def refuse(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(PipelineError, match="the disk is full"):
        saveTimes(state, 1)
    monkeypatch.undo()
    assert [path.read_bytes() for path in state.paths] == before
    assert len(list(tmp_path.iterdir())) == 2
    check(TrainingState(tmp_path / "net.h5").load(), 1)


def testFinishedTrainingLeavesNoState(state, tmp_path):
    saveTimes(state, 2)
    state.remove()
    assert state.load() is None and not any(tmp_path.iterdir())
    state.remove()
