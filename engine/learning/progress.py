"""How far a training has come, and which of its epochs is the best."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

Row = dict[str, float]  # scores of an epoch, by name; those of the validation begin with val_


@dataclass
class Progress:
    """How far a training has come; what JSON can hold."""

    epoch: int = 0  # finished ones
    step: int = 0  # of the epoch under way
    learnt: Row | None = None  # scores of its training, when only its validation is missing
    history: list[Row] = field(default_factory=list)
    best: dict[str, int] = field(default_factory=dict)  # {metric: epoch, from 0}
    seconds: float = 0.0
    epochSeconds: list[float] = field(default_factory=list)


class Checkpoint(NamedTuple):
    """A file that keeps the model of the best epoch."""

    path: Path
    metric: str
    isHighest: bool  # whether more is better

    def isBetter(self, row: Row, best: Row | None) -> bool:
        """Whether an epoch is better than the best one so far; one of NaN can have the best accuracy.

        The loss decides between equals: as long as nothing is found, every Dice is 0.
        """
        if not (math.isfinite(row[self.metric]) and math.isfinite(row["val_loss"])):
            return False
        return best is None or self._rank(row) > self._rank(best)

    def _rank(self, row: Row) -> tuple[float, float]:
        """Order epochs: more is better."""
        value = row[self.metric]
        return value if self.isHighest else -value, -row["val_loss"]
