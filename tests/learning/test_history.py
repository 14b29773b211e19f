"""The log of a training, its warnings and its curves."""

import csv

import pytest
from drawings import countColour
from PIL import Image

from engine.learning.history import drawTrainingCurves, listWarnings, writeLog, writeScalars

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


def testScoresOfEpochsAreScalarsForTensorBoard(tmp_path):
    tensorflow = pytest.importorskip("tensorflow")
    for epoch in (1, 2):
        writeScalars(tmp_path, epoch, {"loss": 0.5 / epoch, "val_dice": 0.25 * epoch})
    for part, name, expected in (("training", "loss", [0.5, 0.25]), ("validation", "dice", [0.25, 0.5])):
        found = [
            (event.step, value.tag, float(tensorflow.make_ndarray(value.tensor)))
            for path in sorted((tmp_path / part).iterdir())
            for event in tensorflow.compat.v1.train.summary_iterator(str(path))
            for value in event.summary.value
            if value.metadata.plugin_data.plugin_name == "scalars"
        ]
        assert sorted(found) == [(step, name, value) for step, value in enumerate(expected, 1)]


CURVES = ("loss", "dice", "precision", "recall")


@pytest.mark.parametrize("epochCount", [1, 40])
@pytest.mark.parametrize("value", [0.5, float("nan")])
def testTrainingCurvesAreDrawn(tmp_path, epochCount, value):
    names = ["learning_rate", *(f"{prefix}{name}" for prefix in ("", "val_") for name in CURVES)]
    history = [dict.fromkeys(names, 1 / (epoch + 1)) for epoch in range(epochCount)]
    history[0]["recall"] = value
    drawTrainingCurves(history, {"val_loss": epochCount - 1, "val_dice": 0}, tmp_path / "curves.png")
    assert countColour(tmp_path / "curves.png", lambda r, g, b: (r > 180) & (g < 120) & (b < 60)) > 20
    assert Image.open(tmp_path / "curves.png").size[0] > 1000
