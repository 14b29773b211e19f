"""The course of a training for its reader: lines, warnings, log and curves."""

import importlib.util
import math
from pathlib import Path

import numpy as np

from engine.base.console import describeDuration
from engine.base.drawing import COLOURS, leaveOutFailures, makeFigure, saveFigure
from engine.base.errors import PipelineError
from engine.base.files import writeAtomically
from engine.learning.progress import Progress, Row

LASTING = 3  # epochs; in the first ones nothing is learnt yet


# --------------------------------------------------------------------------------------------------- lines


def describeEpoch(progress: Progress, epochCount: int) -> str:
    """Tell of the last epoch in a line, and how long the others will take."""
    row, left = progress.history[-1], progress.seconds / progress.epoch * (epochCount - progress.epoch)
    scores = "  ".join(f"{name} {row[f'val_{name}']:.4f}" for name in ("loss", "dice", "precision", "recall"))
    mark = "  (best Dice)" if progress.best.get("val_dice") == progress.epoch - 1 else ""
    return (
        f"Epoch {progress.epoch}/{epochCount}: loss {row['loss']:.4f}  dice {row['dice']:.4f}  "
        f"validation: {scores}{mark}  {describeDuration(left)} left"
    )


def describeBest(progress: Progress) -> list[str]:
    """Tell of the best epochs, a line each."""
    rows = {metric: (epoch, progress.history[epoch]) for metric, epoch in progress.best.items()}
    return [
        f"Best {metric}: epoch {epoch + 1}, loss {row['val_loss']:.4f}, "
        f"accuracy {row['val_binary_accuracy']:.4f}, validation Dice {row['val_dice']:.3f}"
        for metric, (epoch, row) in rows.items()
    ]


def listWarnings(history: list[Row]) -> list[str]:
    """List what has looked wrong for LASTING epochs and had not for longer: every warning comes once."""
    suspicions = [_findSuspicions(row) for row in history]

    def last(rows: list[set[str]]) -> set[str]:
        return set.intersection(*rows[-LASTING:]) if len(rows) >= LASTING else set()

    return sorted(last(suspicions) - last(suspicions[:-1]))


def _findSuspicions(row: Row) -> set[str]:
    """Find what looks wrong in one epoch."""
    found = set()
    for prefix, words in (("", "training"), ("val_", "validation")):
        if not row[f"{prefix}tp"] + row[f"{prefix}fp"]:
            found.add(f"no voxel of the {words} data is predicted positive")
        if not row[f"{prefix}tn"] + row[f"{prefix}fn"]:
            found.add(f"every voxel of the {words} data is predicted positive")
    if not math.isfinite(row["val_loss"]):
        found.add("the validation loss is not a finite number")
    elif row["val_dice"] < row["dice"] / 2 and row["val_loss"] > 2 * row["loss"]:
        found.add("validation is far from training: too few steps yet, too little or too different data")
    return found


# --------------------------------------------------------------------------------------------------- files


def writeLog(history: list[Row], path: Path) -> None:
    """Write a row an epoch, separated by spaces."""
    names = sorted(history[0])
    lines = [" ".join(["epoch", *names])]
    lines += [
        " ".join([str(epoch), *(repr(row[name]) for name in names)]) for epoch, row in enumerate(history)
    ]
    with writeAtomically(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="ascii")


def writeScalars(folder, epoch: int, values: dict[str, float]) -> None:
    """Add the scores of an epoch to the event files that TensorBoard shows.

    Raises
    ------
    PipelineError
        TensorFlow, which writes them, is not installed.
    """
    try:
        tensorflow = importlib.import_module("tensorflow")
    except ImportError as error:
        rule = f"event files for TensorBoard need TensorFlow ({error})"
        raise PipelineError(rule, remedy="pip install tensorflow") from error
    metadata = tensorflow.compat.v1.SummaryMetadata()
    metadata.plugin_data.plugin_name = "scalars"
    for part, isValidation in (("training", False), ("validation", True)):
        with tensorflow.summary.create_file_writer(f"{folder}/{part}").as_default(step=epoch):
            for name, value in values.items():
                if name.startswith("val_") is isValidation:
                    tag, scalar = name.removeprefix("val_"), tensorflow.constant(value, "float32")
                    tensorflow.summary.write(tag, scalar, metadata=metadata)


@leaveOutFailures
def drawTrainingCurves(history: list[dict[str, float]], best: dict[str, int], path: str | Path) -> None:
    """Draw loss, Dice, precision, recall and learning rate over the epochs as PNG.

    Parameters
    ----------
    history : list of dict
        A row an epoch: loss, dice, precision, recall, the same with val_ in front, learning_rate.
    best : dict
        {metric: epoch, from 0}; marked.
    path : path
        The picture.
    """
    figure = makeFigure(figsize=(11, 7.5), layout="constrained")
    axes = figure.subplots(2, 2, sharex=True)
    epochs = np.arange(1, len(history) + 1)
    style = {"marker": "." if len(epochs) < 30 else ""}

    def plot(axis, name: str, label: str, colour: str, line: str = "-") -> None:
        axis.plot(epochs, [row[name] for row in history], line, color=colour, label=label, **style)

    for axis, name, title in ((axes[0, 0], "loss", "Loss"), (axes[0, 1], "dice", "Dice at threshold 0.5")):
        plot(axis, name, "training", COLOURS[0])
        plot(axis, f"val_{name}", "validation", COLOURS[1])
        axis.set_title(title)
        if f"val_{name}" in best:
            epoch = best[f"val_{name}"]
            value = history[epoch][f"val_{name}"]
            axis.plot(epoch + 1, value, "*", color="black", markersize=11, label=f"best: epoch {epoch + 1}")
    for name, line in (("precision", "-"), ("recall", "--")):
        plot(axes[1, 0], name, f"{name}, training", COLOURS[0], line)
        plot(axes[1, 0], f"val_{name}", f"{name}, validation", COLOURS[1], line)
    axes[1, 0].set_title("Precision and recall at threshold 0.5")
    plot(axes[1, 1], "learning_rate", "learning rate", "black")
    axes[1, 1].set_title("Learning rate")
    losses = [row[name] for row in history for name in ("loss", "val_loss")]
    if np.isfinite(losses).all() and min(losses) > 0:
        axes[0, 0].set_yscale("log")
    _dressAxes(axes, epochs)
    saveFigure(figure, path)


def _dressAxes(axes: np.ndarray, epochs: np.ndarray) -> None:
    """Set limits, grids, legends and labels of the four curves."""
    for axis in axes.flat:
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.set_xlim(min(0.5, epochs[0]), epochs[-1] + 0.5)
        axis.grid(alpha=0.3)
    for axis in axes.flat[:3]:
        axis.legend()
    for axis in (axes[0, 1], axes[1, 0]):
        axis.set_ylim(-0.02, 1.02)
    for axis in axes[1]:
        axis.set_xlabel("Epoch")
