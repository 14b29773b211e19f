"""What is looked for: which labels of a manual mask mean it, how it is called and shown."""

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from engine.base.errors import PipelineError

Labels = Sequence[int] | str  # a list, or the text of ranges ("1-30") and complements ("!0")
NUMBER = "[+-]?[0-9]{1,18}"
PART = re.compile(rf"({NUMBER})(?:\s*-\s*({NUMBER}))?")
EXPECTED = "whole numbers or ranges separated by commas, such as 1,3-5, or all but some, such as !0"


class Target(NamedTuple):
    """One class of voxels; whatever comes behind the network is done for each of them."""

    name: str
    labels: tuple[int, ...] | str  # in the manual mask
    colour: tuple[float, float, float]  # red, green, blue in 0..1

    @property
    def cssColour(self) -> str:
        """The colour as a web page writes it."""
        return "#" + "".join(f"{round(255 * value):02x}" for value in self.colour)


PUBLISHED = Target("precipitates and pores", (0,), (0.90, 0.33, 0.05))


def chooseTargets(positiveLabel: Labels, known: Labels | int | None) -> list[Target]:
    """Choose what is looked for.

    Parameters
    ----------
    positiveLabel : str
        Labels as the user gives them; empty: as in the training.
    known : sequence of int, str, int or None
        Labels of the training, as far as they are known.
    """
    labels = parseLabels(positiveLabel or known or PUBLISHED.labels)
    return [PUBLISHED._replace(labels=labels if isinstance(labels, str) else tuple(labels))]


def selectPositive(mask: np.ndarray, positiveLabel: Labels = (0,)) -> np.ndarray:
    """Select the voxels that a mask labels as precipitate or pore; bool of the mask's shape.

    Parameters
    ----------
    mask : array
        Labels, integers or floats.
    positiveLabel : sequence of int or str
        As `parseLabels` gives them. A range means its whole numbers, a complement every number but some.
    """
    isComplement, ranges = _readRanges(positiveLabel)
    positive = _selectRange(mask, *ranges[0])
    for limits in ranges[1:]:
        positive |= _selectRange(mask, *limits)
    if isComplement:
        np.logical_not(positive, out=positive)
        if mask.dtype.kind == "f":
            positive &= ~np.isnan(mask)
    return positive


def _selectRange(mask: np.ndarray, first: int, last: int) -> np.ndarray:
    """Select whole numbers from the first to the last: two comparisons, however many they are."""
    if first == last:
        return mask == first
    inside = (mask >= first) & (mask <= last)
    return inside & (mask == np.rint(mask)) if mask.dtype.kind == "f" else inside


def parseLabels(labels: Labels | int) -> list[int] | str:
    """Read which labels are positive, in a form that JSON can hold.

    Parameters
    ----------
    labels : str, int or sequence of int
        "0", "1,2", "1-30", "-5--1", "-1,3-5", or "!0" and "!0,255": all but these.

    Returns
    -------
    list of int or str
        The numbers; where there are ranges or a complement, their text without blanks.

    Raises
    ------
    PipelineError
        It is none of these, or a range ends before it begins.
    """
    isComplement, ranges = _readRanges(labels)
    if not isComplement and all(first == last for first, last in ranges):
        return [first for first, _ in ranges]
    parts = (str(first) if first == last else f"{first}-{last}" for first, last in ranges)
    return "!" * isComplement + ",".join(parts)


def describeLabels(labels: Labels) -> str:
    """Write labels as a user gives them."""
    return labels if isinstance(labels, str) else ",".join(map(str, labels))


def meansAllBut(labels: Labels) -> bool:
    """Whether every label is meant but the named ones."""
    return _readRanges(labels)[0]


def _readRanges(labels: Labels | int) -> tuple[bool, list[tuple[int, int]]]:
    """Read labels as ranges, both ends included; and whether all labels but these are meant."""
    text = str(labels).strip() if np.isscalar(labels) else ",".join(map(str, labels))
    ranges = [_readRange(part.strip(), text) for part in text.removeprefix("!").split(",")]
    return text.startswith("!"), ranges


def _readRange(part: str, text: str) -> tuple[int, int]:
    """Read "3" or "3-5"; PipelineError naming the whole text for anything else."""
    match = PART.fullmatch(part)
    if match is None:
        rule = "positiveLabel cannot be read"
        raise PipelineError(rule, expected=EXPECTED, received=repr(text))
    first, last = int(match[1]), int(match[2] or match[1])
    if last < first:
        rule = f"the range {part} of positiveLabel ends before it begins"
        raise PipelineError(rule, received=repr(text), remedy=f"write {last}-{first}")
    return first, last
