"""What is looked for: which labels of a manual mask mean it, how it is called and shown."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from engine.base.errors import PipelineError

Labels = Sequence[int] | str  # a list, or the text of ranges ("1-30"), complements ("!0") and names ("pore")
NUMBER = "[+-]?[0-9]{1,18}"
PART = re.compile(rf"({NUMBER})(?:\s*-\s*({NUMBER}))?")
EXPECTED = (
    "whole numbers or ranges separated by commas, such as 1,3-5, or all but some, such as !0, "
    "or names of segments, such as pore"
)
NO_MASK = "names are those of the segments of a mask, and there is none; give it with --nameReference"


class Target(NamedTuple):
    """One class of voxels; whatever comes behind the network is done for each of them."""

    name: str
    labels: tuple[int, ...] | str  # in the manual mask
    colour: tuple[float, float, float]  # red, green, blue in 0..1
    ignoreLabel: Labels = ()  # labels that count nowhere, as the user or the training gives them

    @property
    def cssColour(self) -> str:
        """The colour as a web page writes it."""
        return "#" + "".join(f"{round(255 * value):02x}" for value in self.colour)


PUBLISHED = Target("precipitates and pores", (0,), (0.90, 0.33, 0.05))


def chooseTargets(
    positiveLabel: Labels, known: Labels | int | None, hasReference: bool = True
) -> list[Target]:
    """Choose what is looked for.

    Parameters
    ----------
    positiveLabel : str
        Labels as the user gives them; empty: as in the training.
    known : sequence of int, str, int or None
        Labels of the training, as far as they are known.
    hasReference : bool
        Whether there is a manual mask to look for them in, or one is to be written.

    Raises
    ------
    PipelineError
        The labels cannot be read, or the user names segments where there is no mask.
    """
    if positiveLabel and not hasReference:
        refuseNames(positiveLabel, NO_MASK)
    labels = parseLabels(positiveLabel or known or PUBLISHED.labels)
    return [PUBLISHED._replace(labels=labels if isinstance(labels, str) else tuple(labels))]


def selectPositive(mask: np.ndarray, positiveLabel: Labels = (0,)) -> np.ndarray:
    """Select the voxels that a mask labels as precipitate or pore; bool of the mask's shape.

    Parameters
    ----------
    mask : array
        Labels, integers or floats.
    positiveLabel : sequence of int or str
        As `parseLabels` gives them, names replaced by `segments.resolveLabels`. A range means its whole
        numbers, a complement every number but some, an empty sequence none.
    """
    if np.size(positiveLabel) == 0:
        return np.zeros_like(mask, dtype=bool)
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
        "0", "1,2", "1-30", "-5--1", "-1,3-5", or "!0" and "!0,255": all but these. A part that begins with a
        letter is the name of a segment: "precipitate,pore".

    Returns
    -------
    list of int or str
        The numbers; where there are ranges, a complement or names, their text without blanks around them.

    Raises
    ------
    PipelineError
        It is none of these, or a range ends before it begins.
    """
    isComplement, parts = splitLabels(labels)
    if not isComplement and all(not isinstance(part, str) and part[0] == part[1] for part in parts):
        return [first for first, _ in parts]
    return "!" * isComplement + ",".join(map(_writePart, parts))


def describeLabels(labels: Labels) -> str:
    """Write labels as a user gives them."""
    return labels if isinstance(labels, str) else ",".join(map(str, labels))


def meansAllBut(labels: Labels) -> bool:
    """Whether every label is meant but the named ones."""
    return describeLabels(labels).startswith("!")


def refuseNames(
    labels: Labels | int, remedy: str, file: Path | None = None, parameter: str = "positiveLabel"
) -> None:
    """Refuse labels with names where only numbers have a meaning.

    Raises
    ------
    PipelineError
        There are names among them; the line ends with the remedy.
    """
    if any(isinstance(part, str) for part in splitLabels(labels)[1]):
        rule = f"{parameter} cannot be read"
        expected = EXPECTED.rpartition(", or names")[0]
        raise PipelineError(rule, file=file, expected=expected, received=repr(_join(labels)), remedy=remedy)


def joinValues(values: Iterable[int]) -> Labels:
    """Write numbers as labels: those that follow one another as ranges, so that many take no longer."""
    runs: list[list[int]] = []
    for value in sorted(set(values)):
        if runs and runs[-1][1] == value - 1:
            runs[-1][1] = value
        else:
            runs.append([value, value])
    if all(first == last for first, last in runs):
        return tuple(first for first, _ in runs)
    return ",".join(_writePart((first, last)) for first, last in runs)


def splitLabels(labels: Labels | int) -> tuple[bool, list[tuple[int, int] | str]]:
    """Read labels as ranges, both ends included, and names; and whether all labels but these are meant."""
    text = _join(labels)
    return text.startswith("!"), [_readPart(part.strip(), text) for part in text.removeprefix("!").split(",")]


def _join(labels: Labels | int) -> str:
    """Write labels as text, whatever they are given as."""
    return str(labels).strip() if np.isscalar(labels) else ",".join(map(str, labels))


def _readRanges(labels: Labels | int) -> tuple[bool, list[tuple[int, int]]]:
    """Read labels without names."""
    refuseNames(labels, "names have a meaning in segmentations of 3D Slicer (.seg.nrrd) alone")
    return splitLabels(labels)


def _readPart(part: str, text: str) -> tuple[int, int] | str:
    """Read "3" or "3-5", or a name; PipelineError naming the whole text for anything else."""
    match = PART.fullmatch(part)
    if match is None:
        if part[:1].isalpha() or part[:1] == "_":
            return part
        rule = "positiveLabel cannot be read"
        raise PipelineError(rule, expected=EXPECTED, received=repr(text))
    first, last = int(match[1]), int(match[2] or match[1])
    if last < first:
        rule = f"the range {part} of positiveLabel ends before it begins"
        raise PipelineError(rule, received=repr(text), remedy=f"write {last}-{first}")
    return first, last


def _writePart(part: tuple[int, int] | str) -> str:
    """Write a number, a range or a name."""
    if isinstance(part, str):
        return part
    return str(part[0]) if part[0] == part[1] else f"{part[0]}-{part[1]}"
