"""What is looked at in images and masks before they are cut."""

import contextlib
import hashlib
import math
from collections.abc import Iterator

import numpy as np

from engine.base.arrays import NonFinite
from engine.base.errors import PipelineError
from engine.base.machine import freeMemoryGiB
from engine.base.passes import passOver
from engine.base.workers import refuseNegativeCount
from engine.preparation.pairs import Pair
from engine.preparation.samples import Part
from engine.volumes.otherValues import OtherValues
from engine.volumes.rawData import isHeld
from engine.volumes.scale import Finding, Statistics, describeFinding, measureVolume
from engine.volumes.segments import namedLabels, resolveLabels
from engine.volumes.targets import Labels, describeLabels, selectPositive
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
    needs = sorted((_memoryOf(pair, part.shape) for part in parts for pair in part.pairs), reverse=True)
    needed, free = sum(needs[:workerCount]) / 2**30, freeMemoryGiB()
    if workerCount > 1 and needed > free:
        rule, remedy = "too little memory for so many workers", "take fewer with --workerCount"
        raise PipelineError(rule, expected=f"{needed:.2f} GiB", received=f"{free:.2f} GiB", remedy=remedy)


def _memoryOf(pair: Pair, shape: tuple[int, int, int]) -> int:
    """Bytes that a worker takes to cut a pair: what of it is not mapped, a sub-volume and its copies."""
    sources = [part for volume in pair for part in listSources(volume) if not isinstance(part, TurnedVolume)]
    held = sum(math.prod(part.shape) * part.dtype.itemsize for part in sources if isHeld(part))
    voxelBytes = sum(volume.dtype.itemsize for volume in pair) + np.dtype(np.float32).itemsize + 3  # bool
    return held + voxelBytes * math.prod(shape) + WORKER_BYTES


def coverAxis(side: int, starts: list[int], length: int) -> np.ndarray:
    """Tell which voxels of an axis lie in at least one sub-volume: (side,) bool."""
    isCovered = np.zeros(side, bool)
    for start in starts:
        isCovered[start : start + length] = True
    return isCovered


def inspectPair(
    item: tuple[Pair, list[np.ndarray]], labels: Labels, asked: Statistics
) -> tuple[float, Finding, list[str]]:
    """Look at every voxel of a pair; refuse numbers that are none.

    Parameters
    ----------
    item : tuple
        Image and mask; list of (side,) bool along x, y and z: the voxels that lie in a sub-volume.
    labels : sequence of int or str
        Positive ones of the mask: numbers, or names of its segments.
    asked : Statistics
        What of the image counts in mean and standard deviation.

    Returns
    -------
    tuple
        Positive fraction of the whole mask; what the grey values are like; warnings.
    """
    pair, used = item
    found = measureVolume(lambda: listBlocks(pair.image), pair.image, asked)
    meant = resolveLabels(labels, pair.mask)
    unlabelled, positives = NonFinite(), Positives(used, meant, namedLabels(pair.mask))
    passOver(listBlocks(pair.mask), positives, unlabelled)
    unlabelled.refuse(pair.mask.path, "a label")
    fraction = positives.count / math.prod(pair.mask.shape)
    doubts = _doubtPositives(positives, fraction, labels), positives.others.describe()
    lines = [f"{line} in {pair.image.path}" for line in describeFinding(found, "volume")]
    return fraction, found, [*lines, *(f"Warning: {pair.mask.path}: {doubt}" for doubt in doubts if doubt)]


def _doubtPositives(positives: "Positives", fraction: float, labels: Labels) -> str:
    """Say what looks wrong with a mask; empty: nothing."""
    if fraction in (0, 1):
        missing = "no positive voxel" if fraction == 0 else "nothing but positive voxels"
        return f"{missing} (positiveLabel {describeLabels(labels)})"
    if positives.usedCount == 0:
        outside = f"all {positives.count} positive voxels lie outside the sub-volumes"
        return f"{outside}; --cover, with nb_subVol_x, _y and _z 0, uses every voxel"
    return "more than half of the voxels are positive; is positiveLabel right?" if fraction > 0.5 else ""


class Positives:
    """Counts the positive voxels of a mask, those of them that lie in a sub-volume, and unclear values."""

    def __init__(self, used: list[np.ndarray], labels: Labels, named: Labels = ()) -> None:
        self._isUsed, self._usedPlanes = used[0] & used[1][:, np.newaxis], used[2]  # (y, x), (z,)
        self._labels, self.count, self.usedCount = labels, 0, 0
        self.others = OtherValues(labels, named)

    def add(self, z: int, block: np.ndarray) -> None:
        """Take labels (z, y, x)."""
        positive = selectPositive(block, self._labels)
        self.count += int(np.count_nonzero(positive))
        self.others.add(block, positive)
        inside = positive[self._usedPlanes[z : z + len(positive)]] & self._isUsed
        self.usedCount += int(np.count_nonzero(inside))


def listBlocks(volume: Volume) -> Iterator[tuple[np.ndarray]]:
    """Read a volume as blocks of planes (z, y, x) that are small whatever the volume is."""
    planeCount = max(1, BLOCK_VOXELS // math.prod(volume.shape[:2]))
    return ((block.T,) for block in volume.slabs(planeCount=planeCount))


# ------------------------------------------------------------------------------------------------------ leaks


def findLeaks(training: list[Pair], validation: list[Pair]) -> list[str]:
    """Warn where a validation image is a training image as well, whatever its header, encoding or type."""
    seen: dict[tuple, list[Volume]] = {}
    for image, _ in training:
        seen.setdefault(_identifyMiddle(image), []).append(image)
    return [
        f"Warning: {image.path}: has the same content as the training image {twin.path}; "
        "the validation measures nothing there, take another volume"
        for image, _ in validation
        for twin in seen.get(_identifyMiddle(image), [])
        if digestPlanes(image, 0, image.shape[2]) == digestPlanes(twin, 0, twin.shape[2])
    ]


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
