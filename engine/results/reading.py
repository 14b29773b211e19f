"""The first pass over a written probability: what is seen of its ranges, joined in their order."""

import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from engine.base.passes import passOver
from engine.base.ranges import Store, pack, unpack
from engine.base.records import sketchFile
from engine.base.workers import Here, Workers
from engine.formats.growing import decodeProbability
from engine.masks.ignored import selectIgnored
from engine.masks.otherValues import OtherValues
from engine.masks.targets import Labels, selectPositive
from engine.measures.analysis import Judged
from engine.measures.scores import VoxelScores
from engine.measures.sureness import Sureness
from engine.results.evaluation import Criteria
from engine.results.looks import Looks
from engine.results.ranges import Blocks, Range, Source, walk
from engine.volumes.frame import Frame

SHOWN, WORDS = ("probability", "manual"), "Measuring particles"
Pairs = Iterator[tuple[np.ndarray | None, ...]]


class Question(NamedTuple):
    """What is asked of a probability, as plain data."""

    shape: tuple[int, int, int]  # voxels along (x, y, z)
    criteria: Criteria
    frame: Frame  # where the voxels lie
    labels: Labels  # that are positive in the reference
    learnt: dict[str, Any]  # of the contract of the model
    hasReference: bool
    isMeasured: bool  # whether particles are looked for
    looks: Looks  # empty: what is to be shown
    named: Labels = ()  # of the reference, that mean something else
    ignored: Labels = ()  # values of the reference that count in no score


class JoinedValues(OtherValues):
    """Counts the other values of a mask in ranges of planes, which are joined in their order."""

    STATE = ("_size", "_rare", "_counts")

    def join(self, other: OtherValues) -> None:
        """Add the values of the next range."""
        self._size += other._size
        self._rare += other._rare
        self._counts.update(other._counts)


class Reading(NamedTuple):
    """What has been seen of a range, or of all planes."""

    judged: Judged
    sureness: Sureness
    scores: VoxelScores | None  # where there is a reference
    others: JoinedValues
    looks: Looks
    STATE = ("judged", "sureness", "scores", "others", "looks")

    @classmethod
    def begin(cls, question: Question, looks: Looks, first: int = 0) -> "Reading":
        """Begin to look at the planes from `first` on."""
        threshold, connectivity, _ = question.criteria
        kinds = question.hasReference, question.isMeasured
        judged = Judged(question.shape, threshold, connectivity, question.frame, *kinds, first)
        scores = VoxelScores(threshold) if question.hasReference else None
        sureness = Sureness(threshold, question.learnt)
        return cls(judged, sureness, scores, JoinedValues(question.labels, question.named), looks)

    def join(self, other: "Reading") -> None:
        """Add what was seen of the next range."""
        for one, next in zip(self, other, strict=True):
            if one is not None:
                one.join(next)


def listPairs(
    blocks: Blocks, labels: Labels = (), others: OtherValues | None = None, ignored: Labels = ()
) -> Pairs:
    """Read the written probability and, with a reference, where that is positive: (z, y, x).

    Where values are ignored, a third array tells where they are; nothing is positive there.

    Parameters
    ----------
    blocks : iterator
        Of `Source.open`.
    labels : sequence of int or str
        The positive ones.
    others : OtherValues, optional
        Is shown the values of the reference.
    ignored : sequence of int or str
        Values that count nowhere.
    """
    for block, mask in blocks:
        if mask is not None and ignored:
            yield decodeProbability(block.T), *_readLabelled(mask.T, labels, others, ignored)
            continue
        positive = None if mask is None else selectPositive(mask.T, labels)
        if others and mask is not None:
            others.add(mask.T, positive)
        yield decodeProbability(block.T), positive


def _readLabelled(
    mask: np.ndarray, labels: Labels, others: OtherValues | None, ignored: Labels
) -> tuple[np.ndarray, np.ndarray]:
    """Tell where a reference is positive, and where it is ignored."""
    isIgnored = selectIgnored(mask, ignored)
    positive = selectPositive(mask, labels) & ~isIgnored
    if others:
        others.add(mask[~isIgnored], positive[~isIgnored])
    return positive, isIgnored


def readRange(question: Question, place: Range, blocks: Blocks) -> Reading:
    """Look at one range, in any process."""
    reading = _beginRange(question, place)
    shown = (*SHOWN, "ignored") if question.ignored else SHOWN  # the last one is not kept
    observers = reading.judged, reading.sureness, reading.scores, reading.looks.watch(*shown)
    pairs = listPairs(blocks, question.labels, reading.others, question.ignored)
    passOver(pairs, *filter(None, observers), first=place.first)
    return reading


def _beginRange(question: Question, place: Range) -> Reading:
    """Begin to look at one range."""
    return Reading.begin(question, question.looks.part(place.first, place.last, *SHOWN), place.first)


def readAll(
    question: Question,
    source: Source,
    ranges: list[Range],
    looks: Looks,
    workers: Workers,
    store: Store | None = None,
) -> Reading:
    """Look at all ranges.

    Parameters
    ----------
    question : Question
        What is looked for.
    source : Source
        The probability, with its reference if there is one.
    ranges : list of Range
        Of all planes.
    looks : Looks
        Is shown all of it.
    workers : Workers
        Who does it.
    store : Store, optional
        Knows ranges that the parts of an array have looked at.
    """
    look = functools.partial(readRange, question)
    known = _loadRanges(question, source, ranges, store) if store else {}
    whole = None
    for part in walk(look, source, ranges, workers, WORDS, known):
        whole = whole or Reading.begin(question, looks)  # loads slowly, meanwhile the others have begun
        whole.join(part)
    return whole


def leaveRanges(
    question: Question, source: Source, ranges: list[Range], store: Store, planes: Sequence[tuple[int, int]]
) -> int:
    """Look at those ranges of an unfinished probability that are predicted, and leave what is seen.

    Parameters
    ----------
    question, source, ranges
        As of `readAll`; the source is the unfinished file.
    store : Store
        Takes it.
    planes : sequence of (first, last)
        That are predicted, half-open.

    Returns
    -------
    int
        Ranges that are known now.
    """
    name = _nameOf(question, source)
    left = {place: number for number, place in enumerate(ranges) if store.load(name, number) is None}
    places = [
        place for place in left if any(first <= place.first and place.last <= last for first, last in planes)
    ]
    seen = walk(functools.partial(readRange, question), source, places, Here(), WORDS)
    for place, reading in zip(places, seen, strict=True):
        store.save(name, left[place], pack(reading))
    return len(ranges) - len(left) + len(places)


def _loadRanges(question: Question, source: Source, ranges: list[Range], store: Store) -> dict[int, Reading]:
    """Give what the store knows of ranges, by their first plane."""
    known, name = {}, _nameOf(question, source)
    for number, place in enumerate(ranges):
        if (state := store.load(name, number)) is not None:
            known[place.first] = _beginRange(question, place)
            unpack(known[place.first], state)
    return known


def _nameOf(question: Question, source: Source) -> str:
    """Tell what is asked for, and of which reference, in words that any process would use."""
    looks, reference = question.looks, source.reference
    shown = sorted(looks.slices), sorted(looks.previews)
    sketch = sketchFile(reference) if reference and reference.is_file() else str(reference)
    return f"{question._replace(looks=None)} {shown} {source.region} {source.slab} {source.view} {sketch}"
