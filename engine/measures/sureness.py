"""How sure a network is of its voxels, and which Dice that lets expect where there is no manual mask.

If probabilities were calibrated, the sum of those above the threshold would be the number of right voxels,
the sum of all others that of the missed ones: a Dice without a reference. They are not, but on the validation
data both are known, and a line through these tells one from the other (benchmarks/RESULTS.md).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

LEAST = 0.01  # smaller probabilities are none: a large background would add up
FEWEST = 3  # validation samples for a line
SPREAD = 0.003  # standard deviation that their sureness must have
MARGIN = 0.01  # below all validation samples, where there is no line
DOUBTFUL = 0.88  # expected Dice below which a result is warned of: 0.85, and what the line is off


class Sureness:
    """Sums probabilities that come block by block: an observer.

    Parameters
    ----------
    threshold : float
        Probability from which on a voxel is positive, where the contract of the model tells none.
    learnt : dict
        Of the contract: threshold, and sureness of the validation samples.
    """

    def __init__(self, threshold: float, learnt: dict[str, Any]) -> None:
        self._wanted, self._threshold = threshold, learnt.get("threshold", threshold)
        self._known, self._isEmpty = learnt.get("sureness", []), True
        self._found, self._right, self._all = 0, 0.0, 0.0

    def add(self, z: int, probability: np.ndarray, *others: np.ndarray | None) -> None:
        """Take a block (z, y, x)."""
        self._isEmpty &= not (probability >= self._wanted).any()
        positive = probability[probability >= self._threshold]
        self._found += positive.size
        self._right += float(positive.sum(dtype=np.float64))
        self._all += float(probability[probability >= LEAST].sum(dtype=np.float64))

    def join(self, other: "Sureness") -> None:
        """Add the sums of other blocks."""
        self._isEmpty &= other._isEmpty
        self._found += other._found
        self._right += other._right
        self._all += other._all

    def describe(self) -> list[str]:
        """Tell what to expect of a result, and warn where that is little."""
        if self._isEmpty:
            return ["Warning: no voxel reaches the threshold; is there nothing to find in this scan?"]
        sureness = self.finish()
        return [] if sureness is None else describeExpectation(sureness, self._known)

    def finish(self) -> float | None:
        """Give the Dice that calibrated probabilities would have; None where nothing is positive."""
        return dice(self._found, self._right, self._all) if self._found else None


def dice(found: float, right: float, wanted: float) -> float:
    """Give the Dice of so many found voxels, right ones among them, and wanted ones."""
    return 2 * right / (found + wanted)


def expectDice(sureness: float, known: Sequence[Sequence[float]]) -> float | None:
    """Expect a Dice by a line through the validation samples.

    Parameters
    ----------
    sureness : float
        Of a scan.
    known : sequence of (sureness, Dice)
        Of the validation samples.

    Returns
    -------
    float or None
        In 0 to 1; None where the samples are too few or too much alike.
    """
    sure, dices = np.array(known, float).reshape(-1, 2).T
    if len(sure) < FEWEST or sure.std() < SPREAD:
        return None
    slope, offset = np.polyfit(sure, dices, 1)
    return float(np.clip(slope * sureness + offset, 0, 1)) if slope > 0 else None


def describeExpectation(sureness: float, known: Sequence[Sequence[float]]) -> list[str]:
    """Tell what to expect of a result, and warn where that is little."""
    remedy = "look at the probability before you trust it, and train with scans like this one"
    if not known:
        return []
    expected = expectDice(sureness, known)
    if expected is None:
        if sureness >= min(sure for sure, _ in known) - MARGIN:
            return []
        return [f"Warning: the network is less sure here than on all validation data: {remedy}"]
    rule = f"sureness {sureness:.3f} and a line through {len(known)} validation samples"
    if expected < DOUBTFUL:
        return [f"Warning: a Dice of about {expected:.2f} is to be expected here ({rule}): {remedy}"]
    return [f"Expected Dice: about {expected:.2f} ({rule})"]
