"""What is looked at in images and masks before they are cut."""

import contextlib
import hashlib
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from engine.base.arrays import NonFinite
from engine.base.errors import PipelineError
from engine.base.machine import freeMemoryGiB
from engine.base.passes import passOver
from engine.base.workers import refuseNegativeCount
from engine.formats.rawData import isHeld
from engine.masks.otherValues import OtherValues
from engine.masks.segments import namedLabels, resolveLabels
from engine.masks.targets import Labels, describeLabels, selectPositive
from engine.preparation.labelled import EVERYTHING, Labelled
from engine.preparation.pairs import Pair
from engine.preparation.samples import Part
from engine.volumes.scale import Finding, Statistics, describeFinding, measureVolume
from engine.volumes.turned import TurnedVolume
from engine.volumes.volume import Volume, listSources

BLOCK_VOXELS = 1 << 22  # looked at together, so that memory stays small
WORKER_BYTES = 200 << 20  # that a worker takes besides volume and sub-volume


def requireMemory(parts: list[Part], workerCount: int) -> None:
    """Refuse so many workers that the volumes which they cut at a time do not fit into the memory.

    Parameters
    ----------
    parts : list of Part
        What they cut, a pair each.
    workerCount : int
        Below 2 there are none, and nothing is refused.

    Raises
    ------
    PipelineError
        Less memory is free than the largest pairs take together, or the number is negative.
    """
    refuseNegativeCount(workerCount)
    needs = sorted((_memoryOf(pair, part) for part in parts for pair in part.pairs), reverse=True)
    needed, free = sum(needs[:workerCount]) / 2**30, freeMemoryGiB()
    if workerCount > 1 and needed > free:
        rule, remedy = "too little memory for so many workers", "take fewer with --workerCount"
        raise PipelineError(rule, expected=f"{needed:.2f} GiB", received=f"{free:.2f} GiB", remedy=remedy)


def _memoryOf(pair: Pair, part: Part) -> int:
    """Bytes that a worker takes to cut a pair: what of it is not mapped, a sub-volume and its copies."""
    views = [view for volume in pair for view in listSources(volume)]
    sources = [view for view in views if not isinstance(view, TurnedVolume)]
    held = sum(math.prod(view.shape) * view.dtype.itemsize for view in sources if isHeld(view))
    voxelBytes = sum(volume.dtype.itemsize for volume in pair) + np.dtype(np.float32).itemsize + 3  # bool
    voxelBytes += 0 if part.labelled.isDense else 3
    return held + voxelBytes * math.prod(part.shape) + WORKER_BYTES


def coverAxis(side: int, starts: list[int], length: int) -> np.ndarray:
    """Tell which voxels of an axis lie in at least one sub-volume: (side,) bool."""
    isCovered = np.zeros(side, bool)
    for start in starts:
        isCovered[start : start + length] = True
    return isCovered


class Inspection(NamedTuple):
    """What a pair is like."""

    positive: float  # share of the labelled voxels
    labelled: float  # share of all voxels
    used: float  # share of the voxels that lie in a sub-volume
    counts: np.ndarray  # labelled voxels of the sub-volumes along x, y and z
    found: Finding  # what the grey values are like
    warnings: list[str]


def inspectPair(
    item: tuple[Pair, tuple[list[int], ...]],
    shape: tuple[int, int, int],
    labels: Labels,
    labelled: Labelled,
    asked: Statistics,
) -> Inspection:
    """Look at every voxel of a pair; refuse numbers that are none.

    Parameters
    ----------
    item : tuple
        Image and mask; where its sub-volumes begin along x, y and z.
    shape : three int
        Of a sub-volume.
    labels : sequence of int or str
        Positive ones of the mask: numbers, or names of its segments.
    labelled : Labelled
        Which voxels of it count.
    asked : Statistics
        What of the image counts in mean and standard deviation.
    """
    pair, starts = item
    used = [coverAxis(*axis) for axis in zip(pair.image.shape, starts, shape, strict=True)]
    found = measureVolume(lambda: listBlocks(pair.image), pair.image, asked)
    meant, labelled = resolveLabels(labels, pair.mask), labelled.of(pair.mask)
    positives = Positives(used, meant, labelled, namedLabels(pair.mask))
    nonFinite, tally = NonFinite(), Tally(starts, shape, labelled)
    passOver(listBlocks(pair.mask), positives, nonFinite, tally)
    nonFinite.refuse(pair.mask.path, "a label")
    fraction = positives.count / max(positives.labelledCount, 1)
    doubts = _doubtPositives(positives, fraction, labels), positives.others.describe()
    lines = [f"{line} in {pair.image.path}" for line in describeFinding(found, "volume")]
    lines += [f"Warning: {pair.mask.path}: {doubt}" for doubt in doubts if doubt]
    share = positives.labelledCount / math.prod(pair.mask.shape)
    return Inspection(fraction, share, math.prod(axis.mean() for axis in used), tally.counts, found, lines)


def _doubtPositives(positives: "Positives", fraction: float, labels: Labels) -> str:
    """Say what looks wrong with a mask; empty: nothing."""
    if not positives.labelledCount:
        return "nothing labelled, so none of it is used"
    if fraction in (0, 1):
        missing = "no positive voxel" if fraction == 0 else "nothing but positive voxels"
        return f"{missing} (positiveLabel {describeLabels(labels)})"
    if positives.usedCount == 0:
        outside = f"all {positives.count} positive voxels lie outside the sub-volumes"
        return f"{outside}; --cover, with nb_subVol_x, _y and _z 0, uses every voxel"
    return "more than half of the voxels are positive; is positiveLabel right?" if fraction > 0.5 else ""


class Positives:
    """Counts the positive voxels of a mask, those of them that lie in a sub-volume, and unclear values.

    Only labelled voxels count, and they are counted too.
    """

    def __init__(
        self, used: list[np.ndarray], labels: Labels, labelled: Labelled = EVERYTHING, named: Labels = ()
    ) -> None:
        self._isUsed, self._usedPlanes = used[0] & used[1][:, np.newaxis], used[2]  # (y, x), (z,)
        self._labels, self._labelled = labels, labelled
        self.count = self.usedCount = self.labelledCount = 0
        self.others = OtherValues(labels, named)

    def add(self, z: int, block: np.ndarray) -> None:
        """Take labels (z, y, x)."""
        positive = selectPositive(block, self._labels)
        if self._labelled.isDense:
            self.labelledCount += block.size
            self.others.add(block, positive)
        else:
            isLabelled = self._labelled.select(block.T, (0, 0, z)).T
            positive &= isLabelled
            self.labelledCount += int(np.count_nonzero(isLabelled))
            self.others.add(block[isLabelled], positive[isLabelled])
        self.count += int(np.count_nonzero(positive))
        inside = positive[self._usedPlanes[z : z + len(positive)]] & self._isUsed
        self.usedCount += int(np.count_nonzero(inside))


class Tally:
    """Counts the labelled voxels of every sub-volume.

    Parameters
    ----------
    starts, shape : sequences
        Where the sub-volumes begin along x, y and z; their sides.
    labelled : Labelled
        Where it takes everything, nothing is looked at.
    """

    def __init__(self, starts: Sequence[Sequence[int]], shape: Sequence[int], labelled: Labelled) -> None:
        self._starts, self._shape, self._labelled = starts, shape, labelled
        whole = math.prod(shape) if labelled.isDense else 0
        self.counts = np.full([len(axis) for axis in starts], whole, np.int64)

    def add(self, z: int, block: np.ndarray) -> None:
        """Take labels (z, y, x)."""
        if self._labelled.isDense:
            return
        isLabelled = self._labelled.select(block.T, (0, 0, z))  # (x, y, z)
        for place in np.ndindex(self.counts.shape):
            corner = [axis[number] for axis, number in zip(self._starts, place, strict=True)]
            corner[2] -= z
            first = np.maximum(corner, 0)  # a sub-volume may have begun in an earlier block
            last = np.maximum(np.add(corner, self._shape), 0)
            self.counts[place] += np.count_nonzero(isLabelled[tuple(map(slice, first, last))])


def listBlocks(volume: Volume) -> Iterator[tuple[np.ndarray]]:
    """Read a volume as blocks of planes (z, y, x) that are small whatever the volume is."""
    planeCount = max(1, BLOCK_VOXELS // math.prod(volume.shape[:2]))
    return ((block.T,) for block in volume.slabs(planeCount=planeCount))


# ------------------------------------------------------------------------------------------------------ leaks


def findLeaks(training: Part, validation: Part) -> list[str]:
    """Warn where a validation image is a training image as well, whatever its header, encoding or type."""
    seen: dict[tuple, list[Pair]] = {}
    for pair in training.pairs:
        seen.setdefault(_identifyMiddle(pair.image), []).append(pair)
    lines = []
    for pair in validation.pairs:
        image = pair.image
        for twin in seen.get(_identifyMiddle(image), []):
            if digestPlanes(image, 0, image.shape[2]) != digestPlanes(twin.image, 0, twin.image.shape[2]):
                continue
            same = f"Warning: {image.path}: has the same content as the training image {twin.image.path}; "
            words = "the validation measures nothing there, take another volume"
            if not _shareLabels(pair, twin, validation.labelled, training.labelled):
                words = (
                    "no voxel is labelled in both, but slices of one volume are alike: it will look too good"
                )
            lines.append(same + words)
    return lines


def _shareLabels(pair: Pair, twin: Pair, ours: Labelled, theirs: Labelled) -> bool:
    """Whether a voxel of one image is labelled in two masks."""
    if ours.isDense or theirs.isDense:
        return True
    ours, theirs = ours.of(pair.mask), theirs.of(twin.mask)
    planes = zip(_listPlanes(pair.mask), _listPlanes(twin.mask), strict=True)
    return any(
        (ours.select(one, (0, 0, z)) & theirs.select(other, (0, 0, z))).any()
        for z, (one, other) in enumerate(planes)
    )


def _listPlanes(volume: Volume) -> Iterator[np.ndarray]:
    """Read a volume plane by plane: (x, y, 1)."""
    for (block,) in listBlocks(volume):
        for plane in block:
            yield plane.T[..., np.newaxis]


def _identifyMiddle(image: Volume) -> tuple:
    """Give what equal volumes have in common and others hardly ever, without reading all of them."""
    middle = image.shape[2] // 2
    return image.shape, digestPlanes(image, middle, middle + 1)


def digestPlanes(image: Volume, first: int, last: int) -> bytes:
    """Digest grey values of whole planes along z, whatever their type in the file."""
    x, y, _ = image.shape
    digest = hashlib.sha256()
    slabs = contextlib.closing(image.slabs(((0, x), (0, y), (first, last))))
    with slabs as blocks, np.errstate(over="ignore"):  # such grey values are refused afterwards
        for slab in blocks:
            digest.update(slab.astype("<f4").tobytes("F"))
    return digest.digest()
