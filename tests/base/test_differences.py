"""What differs between two records, in the words of every script."""

import os

import pytest

from engine.base.console import say
from engine.base.errors import PipelineError
from engine.base.records import changedNames, listDifferences, refuseAnother, stampOf

OLD = {"seed": 1, "input": "a" * 64, "engine": "keras", "gone": True}
NEW = {"seed": 1, "input": "b" * 64, "engine": "openvino", "new": None}


def testDifferencesAreSortedAndDigestsShort():
    assert listDifferences(OLD, OLD) == []
    assert listDifferences(OLD, NEW) == [
        "engine was keras, is openvino",
        "gone was True, is None",
        "input was aaaaaaaaaaaa..., is bbbbbbbbbbbb...",
    ]


def testWhatIsFreeMayDiffer():
    assert changedNames(OLD, NEW, free={"engine", "gone"}) == ["input"]
    assert listDifferences(OLD, NEW, free=("input", "engine", "gone")) == []


def testAnotherTrainingIsRefusedInTheOrderOfItsParameters():
    with pytest.raises(PipelineError, match="^it differs in seed 1 -> 2, a.npy, new None -> 3; do this$"):
        refuseAnother({"seed": 1, "a.npy": "x"}, {"seed": 2, "a.npy": "y", "new": 3}, "it", "do this")


def testAStampTellsALaterFileOfTheSameSize(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    os.utime(path, ns=(1, 5_000_000_001))
    assert stampOf(path) == [3, 5_000_000_001]
    os.utime(path, ns=(1, 5_000_000_002))
    assert stampOf(path) == [3, 5_000_000_002]


def testLinesAreSaidOneByOne(capsys):
    say("a", "b")
    say()
    assert capsys.readouterr().out == "a\nb\n"
