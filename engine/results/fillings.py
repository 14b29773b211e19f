"""What the mask of a box to label holds: two values, or segments where labels are names of segments."""

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from engine.base.errors import PipelineError
from engine.masks.ignored import selectIgnored
from engine.masks.segmentFields import describeSegments
from engine.masks.segments import Segment, means
from engine.masks.targets import (
    Labels,
    Target,
    describeLabels,
    meansAllBut,
    selectPositive,
    splitLabels,
)
from engine.results.kinds import POSITIVE, REST

Part = tuple[int, int] | str  # of labels: a range, both ends included, or a name


class Filling(NamedTuple):
    """What the voxels of a mask hold."""

    inside: int  # where it is positive
    outside: int
    dtype: np.dtype
    segments: tuple[Segment, ...] = ()  # of a segmentation; empty: the mask is none

    @property
    def isSegmentation(self) -> bool:
        """Whether 3D Slicer is to open the mask as a segmentation."""
        return bool(self.segments)

    def describe(self, shape: tuple[int, ...], colour: tuple[float, ...]) -> dict[str, str]:
        """Give the header fields of a mask with voxels along (x, y, z), and a colour in 0..1."""
        return describeSegments(shape, self.segments, colour) if self.segments else {}


def chooseFilling(target: Target) -> Filling:
    """Choose what a mask holds so that the labels of a training select what is positive in it, and no more.

    Where there are names among the labels, it is a segmentation: a training with them takes no other mask.
    What is positive belongs to the first name that is; the other names are segments without voxels yet, as a
    training requires them, and a user may have to draw them. All segments but some are positive by a segment
    of one more name.

    Raises
    ------
    PipelineError
        These labels leave nothing that is positive, or nothing for the rest.
    """
    if not any(isinstance(part, str) for part in _split(target.labels) + _split(target.ignoreLabel)):
        return _chooseValues(target.labels, target.ignoreLabel)
    segments = _chooseSegments(target)
    dtype = np.min_scalar_type(max(segment.value for segment in segments))
    return Filling(segments[0].value, 0, dtype, segments)


def _split(labels: Labels) -> list[Part]:
    """Read labels as ranges and names."""
    return splitLabels(labels)[1] if np.size(labels) else []


def _refuse(rule: str, target: tuple[Labels, Labels]) -> PipelineError:
    """Say that labels leave nothing to write."""
    received = "positiveLabel {}, ignoreLabel {}".format(*(describeLabels(part) or "none" for part in target))
    remedy = "give other labels, or leave out --suggest"
    return PipelineError(f"no mask can be suggested: {rule}", received=received, remedy=remedy)


# ------------------------------------------------------------------------------------------------- two values


def _chooseValues(labels: Labels, ignored: Labels) -> Filling:
    """Choose two values: 0 and 255 where 0 is positive, as published; 0 for the rest wherever it can be."""

    def isPositive(value: int) -> bool:
        return bool(selectPositive(np.array([value]), labels)[0])

    def isCounted(value: int) -> bool:
        return not selectIgnored(np.array([value]), ignored)[0]

    texts = describeLabels(labels), describeLabels(ignored)
    named = [int(number) for text in texts for number in re.findall(r"(?<!\d)-?\d+", text)]
    tried = [value for value in (*range(256), *named, *(number + 1 for number in named)) if isCounted(value)]
    inside = next((value for value in tried if isPositive(value)), None)
    if inside is None:
        raise _refuse("no value is positive and counts", (labels, ignored))
    usual = [int(REST) if inside == POSITIVE else 0, 0, 255]
    outside = next((value for value in (*filter(isCounted, usual), *tried) if not isPositive(value)), None)
    if outside is None:
        raise _refuse("every value is positive or ignored", (labels, ignored))
    dtype = np.promote_types(np.min_scalar_type(inside), np.min_scalar_type(outside))
    return Filling(inside, outside, dtype)


# --------------------------------------------------------------------------------------------------- segments


def _chooseSegments(target: Target) -> tuple[Segment, ...]:
    """Choose the segments of a mask, first the one to which what is positive belongs."""
    positive, ignored = _split(target.labels), _split(target.ignoreLabel)
    named, others = (
        [part for part in parts if isinstance(part, str)] for parts in (positive, positive + ignored)
    )
    values = _listFree([part for part in positive + ignored if not isinstance(part, str)])
    isComplement = meansAllBut(target.labels)
    tried = [f"not {' or '.join(named)}"] if named and isComplement else named or [target.name]
    value = next(values) if named or isComplement else _findLowest(positive)
    found = (segment for name in tried if _counts(segment := Segment(name, value, 0), target))
    first = next(found, None)
    if first is None:
        raise _refuse("no segment is positive and counts", (target.labels, target.ignoreLabel))
    left = {name.casefold(): name for name in reversed(others)}  # as they are spelt first
    left.pop(first.name.casefold(), None)
    return (first, *(Segment(name, next(values), 0) for name in reversed(left.values())))


def _counts(segment: Segment, target: Target) -> bool:
    """Whether the voxels of a segment are positive, and count."""
    isIgnored = segment.isIgnored or means(target.ignoreLabel, segment)
    return segment.value > 0 and means(target.labels, segment) and not isIgnored


def _findLowest(parts: Sequence[Part]) -> int:
    """Find the lowest number of some ranges that a segment can have; 0 where there is none."""
    return min((max(first, 1) for first, last in parts if last > 0), default=0)


def _listFree(ranges: Sequence[tuple[int, int]]) -> Iterator[int]:
    """List the numbers from 1 on that lie in no range: they mean a segment by nothing but its name."""
    value = 1
    while True:
        while above := [last + 1 for first, last in ranges if first <= value <= last]:
            value = max(above)
        yield value
        value += 1
