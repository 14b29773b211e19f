"""The log of a training and its warnings."""

import csv

import pytest

from engine.learning.history import listWarnings, writeLog

GOOD = {
    **{"loss": 0.2, "dice": 0.8, "tp": 40.0, "fp": 10.0, "tn": 900.0, "fn": 10.0},
    **{"val_loss": 0.25, "val_dice": 0.7, "val_tp": 30.0, "val_fp": 9.0, "val_tn": 800.0, "val_fn": 9.0},
}


def testRowsAreThoseOfTheEpochs(tmp_path):
    history = [GOOD | {"loss": 0.1 + epoch / 3, "recall": float("nan")} for epoch in range(3)]
    writeLog(history, tmp_path / "metrics.log")
    with open(tmp_path / "metrics.log", newline="") as file:
        rows = list(csv.DictReader(file, delimiter=" "))
    assert [row["epoch"] for row in rows] == ["0", "1", "2"]
    assert [float(row["loss"]) for row in rows] == [row["loss"] for row in history]
    assert rows[0]["recall"] == "nan" and rows[0].keys() == {"epoch", *history[0]}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, []),
        ({"tp": 0.0, "fp": 0.0}, ["no voxel of the training data is predicted positive"]),
        ({"val_tp": 0.0, "val_fp": 0.0}, ["no voxel of the validation data is predicted positive"]),
        ({"val_tn": 0.0, "val_fn": 0.0}, ["every voxel of the validation data is predicted positive"]),
        ({"val_loss": float("nan")}, ["the validation loss is not a finite number"]),
        ({"val_loss": 3.0, "val_dice": 0.1}, ["validation is far from training"]),
        ({"val_loss": 3.0}, []),
    ],
)
def testWarningsComeOnceWhenSomethingStaysWrong(changes, words):
    bad = GOOD | changes
    for history in ([bad] * 3, [GOOD, bad, bad, bad], [*[bad] * 5, GOOD, bad, bad, bad]):
        found = listWarnings(history)
        assert len(found) == len(words)
        assert all(text.startswith(word) for text, word in zip(found, words, strict=True))
    for history in ([bad], [bad, bad], [bad] * 4, [bad, bad, GOOD], [bad, bad, GOOD, bad]):
        assert listWarnings(history) == []
