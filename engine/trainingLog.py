"""The log of a training, and what in it deserves a warning."""

import math
from pathlib import Path

from engine.files import writeAtomically

Row = dict[str, float]
LASTING = 3  # epochs; in the first ones nothing is learnt yet


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


def writeLog(history: list[Row], path: Path) -> None:
    """Write a row an epoch, separated by spaces."""
    names = sorted(history[0])
    lines = [" ".join(["epoch", *names])]
    lines += [
        " ".join([str(epoch), *(repr(row[name]) for name in names)]) for epoch, row in enumerate(history)
    ]
    with writeAtomically(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="ascii")
