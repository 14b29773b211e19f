"""Which voxels of a mask are labelled: those of certain slices, without those that hold certain values."""

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from engine.base.errors import PipelineError
from engine.masks.ignored import parseIgnored, refuseBoth, selectIgnored
from engine.masks.segments import ignoredLabels
from engine.masks.targets import Labels
from engine.volumes.volume import Volume

EVERY = "all"  # in place of slices: every one is labelled
WORD = re.compile(r"([xyz]):(.+)")
PART = re.compile(r"([0-9]{1,9})(?:-([0-9]{1,9})(?::([0-9]{1,9}))?)?")
EXPECTED = 'numbers from 0 on, such as z:10,40,70 or "z:40 x:64 y:64"; z:0-190:8 is every eighth to 190'


class Labelled(NamedTuple):
    """Which voxels of the masks of a set are labelled; without anything given all of them."""

    ignored: Labels = ()  # values that count nowhere
    slices: tuple[tuple[range, ...], ...] = ()  # along x, y and z the only labelled ones; empty: all are
    hasSegment: bool = False  # whether a mask of the set has a segment that is ignored

    @property
    def isDense(self) -> bool:
        """Whether every voxel is labelled, whatever it holds."""
        return not (self.ignored or self.slices or self.hasSegment)

    def lookAt(self, masks: Iterable[Volume]) -> "Labelled":
        """Give the same of a set with these masks."""
        return self._replace(hasSegment=any(ignoredLabels(mask, self.ignored) for mask in masks))

    def of(self, mask: Volume) -> "Labelled":
        """Give the same with the numbers that one mask of the set holds."""
        return self._replace(ignored=ignoredLabels(mask, self.ignored))

    def select(self, mask: np.ndarray, corner: Sequence[int] = (0, 0, 0)) -> np.ndarray:
        """Select the labelled voxels of a piece of a mask.

        Parameters
        ----------
        mask : array
            (x, y, z), as it lies on its image.
        corner : three int
            First voxel of the piece.

        Returns
        -------
        array
            bool of the same shape, True = labelled.
        """
        isLabelled = self._selectSlices(mask.shape, corner) if self.slices else np.ones(mask.shape, bool)
        if self.ignored:
            isLabelled &= ~selectIgnored(mask, self.ignored)
        return isLabelled

    def _selectSlices(self, shape: Sequence[int], corner: Sequence[int]) -> np.ndarray:
        """Select the voxels that lie in one of the slices."""
        axes = [np.zeros(side, bool) for side in shape]
        for chosen, numbers, start in zip(axes, self.slices, corner, strict=True):
            for part in numbers:
                places = np.arange(part.start, part.stop, part.step) - start
                chosen[places[(places >= 0) & (places < len(chosen))]] = True
        x, y, z = axes
        return x[:, np.newaxis, np.newaxis] | y[:, np.newaxis] | z

    def requireInside(self, volume: Volume) -> None:
        """Raise PipelineError naming a volume that one of the slices lies outside of."""
        for axis, side, numbers in zip("xyz", volume.shape, self.slices or ((),) * 3, strict=True):
            last = max((part[-1] for part in numbers), default=0)
            if last >= side:
                rule, expected = (
                    "a labelled slice lies outside of the volume",
                    f"{axis}:0 to {axis}:{side - 1}",
                )
                remedy = "slices count from 0; --validationSlices are those of the validation volumes"
                raise PipelineError(
                    rule, file=volume.path, expected=expected, received=f"{axis}:{last}", remedy=remedy
                )


EVERYTHING = Labelled()


# ----------------------------------------------------------------------------------------- from what is typed


def parseLabelled(
    ignoreLabel: Labels | int, labelledSlices: str, validationSlices: str, positive: Labels
) -> dict[str, Labelled]:
    """Read which voxels of the training and of the validation masks are labelled.

    Parameters
    ----------
    ignoreLabel : str
        Values as `parseLabels` takes them; empty: none.
    labelledSlices, validationSlices : str
        As `parseSlices` takes them; empty: all, for the validation those of the training.
    positive : sequence of int or str
        The positive labels.

    Raises
    ------
    PipelineError
        A text that cannot be read, or a label that is to be positive and ignored.
    """
    ignored = parseIgnored(ignoreLabel)
    refuseBoth(ignored, positive)
    training = parseSlices(labelledSlices, "labelledSlices")
    validation = parseSlices(validationSlices, "validationSlices") if validationSlices else training
    return {"training": Labelled(ignored, training), "validation": Labelled(ignored, validation)}


def parseSlices(text: str, name: str) -> tuple[tuple[range, ...], ...]:
    """Read slices along the axes.

    Parameters
    ----------
    text : str
        "z:10,40,70", "z:10-20 x:64", "z:0-190:8; y:3": an axis each, separated by blanks or semicolons;
        ranges with both ends, and every so many-th of them.
    name : str
        Of the parameter, for its error.

    Returns
    -------
    tuple
        Ranges of numbers along x, y and z; () for "all" and an empty text.

    Raises
    ------
    PipelineError
        It is none of these, or a range ends before it begins.
    """
    words = re.sub(r"\s*([,:-])\s*", r"\1", str(text)).replace(";", " ").split()
    if words in ([], [EVERY]):
        return ()
    numbers: dict[str, list[range]] = {axis: [] for axis in "xyz"}
    for word in words:
        match = WORD.fullmatch(word)
        parts = [PART.fullmatch(part) for part in match[2].split(",")] if match else [None]
        if None in parts:
            raise PipelineError(f"{name} cannot be read", expected=EXPECTED, received=repr(str(text)))
        numbers[match[1]] += [_readRange(part, name) for part in parts]
    return tuple(map(tuple, numbers.values()))


def _readRange(match: re.Match, name: str) -> range:
    """Make the numbers of "3", "3-9" or "3-9:2"."""
    first, last, step = int(match[1]), int(match[2] or match[1]), int(match[3] or 1)
    if last < first or step < 1:
        expected = "first-last, or first-last:step with a step from 1 on"
        raise PipelineError(f"the range {match[0]} of {name} is empty", expected=expected)
    return range(first, last + 1, step)
