"""Segments of 3D Slicer: which there are in a mask, which are meant, and masks in which they overlap.

Source: the section "Segmentation file format" of the documentation of 3D Slicer. A segment is a label value
in a layer; there are several layers, numbers side by side in every voxel, only where segments overlap. Only
segments can be positive: what belongs to none, label 0, is the background.
"""

import contextlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from engine.base.errors import PipelineError
from engine.masks.targets import (
    Labels,
    describeLabels,
    joinValues,
    refuseNames,
    selectPositive,
    splitLabels,
)
from engine.volumes.volume import SLAB, Region, Volume, VolumeView, checkRegion, checkSlabs, listSources

IGNORE = "ignore"  # segment whose voxels count nowhere, in any case of its letters
POSITIVE, IGNORED = (1,), (2,)  # labels of a LayeredVolume
FIELD = re.compile(r"Segment([0-9]{1,9})_(Name|ID|LabelValue|Layer|Extent)")
MOST_NAMES = 20  # that a message lists
AGAIN = "save the segmentation again in 3D Slicer"
NO_NAMES = "this mask has no named segments: give numbers, or save it in 3D Slicer as .seg.nrrd"


class Segment(NamedTuple):
    """A row of the table of segments."""

    name: str
    value: int
    layer: int
    isEmpty: bool = False  # without voxels, and with the label of another one

    @property
    def isIgnored(self) -> bool:
        """Whether its name says that its voxels count nowhere."""
        return self.name.casefold() == IGNORE


# ------------------------------------------------------------------------------------- the table of a file


def readSegments(mask: Volume) -> list[Segment]:
    """Read the segments of a mask; none where it is no segmentation.

    Raises
    ------
    PipelineError
        The table cannot be understood, or does not fit the layers of the file.
    """
    file = listSources(mask)[-1]
    rows: dict[int, dict[str, str]] = {}
    for key, value in file.header.items():
        if match := FIELD.fullmatch(key):
            rows.setdefault(int(match[1]), {})[match[2]] = str(value).strip()
    if not rows:
        return []
    _requireLabels(file)
    count = len(file.dtype.names or (1,))
    hasLayers = any("Layer" in row for row in rows.values())
    found = []
    for place, (number, row) in enumerate(sorted(rows.items())):
        name = row.get("Name") or row.get("ID") or f"Segment_{number}"
        value = _readNumber(file.path, name, "label value", row.get("LabelValue", "1"))
        default = place if count > 1 and not hasLayers else 0  # before 2020 every segment had its own layer
        layer = _readNumber(file.path, name, "layer", row.get("Layer", str(default)))
        if not 0 <= layer < count:
            rule = f"the table of segments does not fit: {name!r} lies in layer {layer}"
            expected = f"0 to {count - 1}" if count > 1 else "0, the only one"
            raise PipelineError(rule, file=file.path, expected=expected, remedy=AGAIN)
        found.append(Segment(name, value, layer, _isEmpty(row.get("Extent", ""))))
    return _requireDifferent(file.path, found)


def _requireLabels(file: Volume) -> None:
    """Refuse a segmentation whose voxels are fractions."""
    kinds = (file.header.get(f"Segmentation_{kind}Representation", "") for kind in ("Master", "Source"))
    if any("fractional" in kind.lower() for kind in kinds):
        remedy = "convert it in the module Segmentations of 3D Slicer"
        rule = "is a fractional labelmap"
        raise PipelineError(rule, file=file.path, expected="a binary labelmap", remedy=remedy)


def _readNumber(path: Path, name: str, what: str, text: str) -> int:
    """Read a number of the table."""
    if not re.fullmatch(r"[+-]?[0-9]{1,18}", text):
        rule = f"the {what} of segment {name!r} is no whole number"
        raise PipelineError(rule, file=path, received=repr(text), remedy=AGAIN)
    return int(text)


def _isEmpty(extent: str) -> bool:
    """Whether an extent, first and last voxel along x, y and z, holds no voxel."""
    numbers = [int(word) for word in extent.split() if re.fullmatch(r"[+-]?[0-9]{1,9}", word)]
    return len(numbers) == 6 and any(numbers[axis] > numbers[axis + 1] for axis in (0, 2, 4))


def _requireDifferent(path: Path, segments: list[Segment]) -> list[Segment]:
    """Refuse segments that share their voxels by having one label; one with an empty extent has none."""
    known: dict[tuple[int, int], Segment] = {}
    for segment in segments:
        if segment.isEmpty:
            continue
        other = known.setdefault((segment.layer, segment.value), segment)
        if other is not segment:
            rule = f"the segments {other.name!r} and {segment.name!r} have one label, {segment.value}"
            raise PipelineError(rule, file=path, expected="a label each", remedy=AGAIN)
    return [
        segment._replace(isEmpty=segment.isEmpty and (segment.layer, segment.value) in known)
        for segment in segments
    ]


# -------------------------------------------------------------------------------------------- what is meant


def resolveLabels(labels: Labels, mask: Volume) -> Labels:
    """Give the numbers that mean the positive voxels of a mask, for `targets.selectPositive`.

    Parameters
    ----------
    labels : sequence of int or str
        As `targets.parseLabels` gives them: numbers, or names of segments in any case of their letters.
    mask : Volume
        As it was opened, or a view on it.

    Returns
    -------
    sequence of int or str
        The labels themselves where the mask is no segmentation.

    Raises
    ------
    PipelineError
        A name is that of no segment, or of several; no segment has one of the numbers; the segment to be
        ignored is meant; or there are names, and the mask has none.
    """
    segments = readSegments(mask)
    if not segments:
        refuseNames(labels, NO_NAMES, mask.path)
        return labels
    chosen = _choosePositive(labels, segments, mask.path)
    return POSITIVE if _isDecoded(mask) else _valuesOf(chosen)


def ignoredLabels(mask: Volume, ignoreLabel: Labels = ()) -> Labels:
    """Give the numbers that mean voxels of a mask which count nowhere, even where they are positive too.

    Parameters
    ----------
    mask : Volume
        As it was opened, or a view on it.
    ignoreLabel : sequence of int or str
        Labels of such voxels, as `targets.parseLabels` gives them; a segment called "ignore" is always one.

    Returns
    -------
    sequence of int or str
        For `targets.selectPositive`; empty where there are none.

    Raises
    ------
    PipelineError
        As of `resolveLabels`, but numbers need not be there.
    """
    segments = readSegments(mask)
    if not segments:
        if np.size(ignoreLabel):
            refuseNames(ignoreLabel, NO_NAMES, mask.path, "ignoreLabel")
        return ignoreLabel
    chosen = _chooseIgnored(ignoreLabel, segments, mask.path)
    if _isDecoded(mask):
        return IGNORED if chosen else ()
    return _valuesOf(chosen)


def namedLabels(mask: Volume) -> Labels:
    """Give the numbers that are labels of segments: they mean something, positive or not."""
    if _isDecoded(mask):
        return (*POSITIVE, *IGNORED)
    return _valuesOf(readSegments(mask))


def means(labels: Labels, segment: Segment) -> bool:
    """Whether labels mean a segment, by its name or its number; () means none."""
    if np.size(labels) == 0:
        return False
    isComplement, parts = splitLabels(labels)
    return any(_fits(part, segment) for part in parts) != isComplement


def _choosePositive(labels: Labels, segments: list[Segment], path: Path) -> list[Segment]:
    """Choose the segments that are positive, at least one."""
    isComplement, parts = splitLabels(labels)
    chosen = _choose(labels, segments, path)
    explicit = [part for part in parts if isinstance(part, str) or part[0] == part[1]]
    for segment in chosen:
        if segment.isIgnored and not isComplement and any(_fits(part, segment) for part in explicit):
            rule = f"the segment {segment.name!r} is ignored, it cannot be positive"
            received = f"positiveLabel {describeLabels(labels)}"
            raise PipelineError(rule, file=path, received=received, remedy="rename it in 3D Slicer")
    chosen = [segment for segment in chosen if not segment.isIgnored]
    if not chosen:
        known = [segment for segment in segments if not segment.isIgnored]
        rule, expected = "positiveLabel is that of no segment", _listSegments(known) or "a segment"
        remedy = f"name it, such as --positiveLabel {_quote(known[0].name)}" if known else "label something"
        received = describeLabels(labels)
        raise PipelineError(rule, file=path, expected=expected, received=received, remedy=remedy)
    return chosen


def _chooseIgnored(ignoreLabel: Labels, segments: list[Segment], path: Path) -> list[Segment]:
    """Choose the segments that count nowhere."""
    named = _choose(ignoreLabel, segments, path) if np.size(ignoreLabel) else []
    return [segment for segment in segments if segment.isIgnored or segment in named]


def _choose(labels: Labels, segments: list[Segment], path: Path) -> list[Segment]:
    """Choose the segments that labels mean, in the order of the table; all but these in a complement."""
    isComplement, parts = splitLabels(labels)
    meant: list[Segment] = []
    for part in parts:
        found = [segment for segment in segments if _fits(part, segment)]
        if isinstance(part, str) and not found:
            expected = _listSegments(segments)
            raise PipelineError("no segment has this name", file=path, expected=expected, received=repr(part))
        isOne = isinstance(part, str) or part[0] == part[1]
        if len(found) > 1 and isOne and not isComplement:
            _refuseSeveral(part, found, path)
        meant += found
    return [segment for segment in segments if (segment in meant) != isComplement]


def _fits(part: tuple[int, int] | str, segment: Segment) -> bool:
    """Whether a part of labels means a segment."""
    if isinstance(part, str):
        return segment.name.casefold() == part.casefold()
    return part[0] <= segment.value <= part[1] and not segment.isEmpty


def _refuseSeveral(part: tuple[int, int] | str, found: list[Segment], path: Path) -> None:
    """Refuse a name, or a number, that means several segments."""
    if isinstance(part, str):
        rule, remedy = f"{len(found)} segments are called {part!r}", "rename or merge them in 3D Slicer"
        raise PipelineError(rule, file=path, expected="one", remedy=remedy)
    rule = f"{len(found)} segments that overlap have the label {part[0]}"
    raise PipelineError(rule, file=path, received=_listSegments(found), remedy="give their names")


def _listSegments(segments: Sequence[Segment]) -> str:
    """List segments for a reader."""
    names = [f"{segment.name} = {segment.value}" for segment in segments[:MOST_NAMES]]
    more = len(segments) - len(names)
    return ", ".join([*names, f"{more} more"] if more else names)


def _quote(name: str) -> str:
    """Write a name as a shell takes it."""
    return f"'{name}'" if re.search(r"[^\w.-]", name) else name


# --------------------------------------------------------------------------------------------------- layers


class Layer(NamedTuple):
    """What the numbers of a layer mean."""

    positive: Labels
    ignored: Labels


@dataclass(frozen=True, eq=False)
class LayeredVolume(VolumeView):
    """A mask whose segments overlap as one number a voxel: 1 positive, 2 ignored, 0 neither.

    Parameters
    ----------
    source : Volume
        Its voxels are records with a number for each layer.
    layers : tuple of Layer
        What these mean.
    """

    layers: tuple[Layer, ...]

    @property
    def dtype(self) -> np.dtype:
        """Type of a voxel."""
        return np.dtype(np.uint8)

    def read(self, region: Region | None = None) -> np.ndarray:
        """Read a region: (x, y, z) uint8; memory holds it, and a few planes of all layers."""
        ranges = checkRegion(self, region)
        try:
            whole = np.empty([stop - start for start, stop in ranges], self.dtype, order="F")
        except MemoryError as error:
            remedy = "choose a smaller region"
            raise PipelineError("does not fit in memory", file=self.path, remedy=remedy) from error
        z = 0
        for block in self._slabs(ranges, SLAB):
            whole[:, :, z : z + block.shape[2]] = block
            z += block.shape[2]
        return whole

    def slabs(self, region: Region | None = None, planeCount: int = SLAB) -> Iterator[np.ndarray]:
        """Read a region as blocks (x, y, planes) in Fortran order; memory holds one of all layers too."""
        return self._slabs(checkSlabs(self, region, planeCount), planeCount)

    def _slabs(self, region: tuple[tuple[int, int], ...], planeCount: int) -> Iterator[np.ndarray]:
        """Yield the blocks of a region that was checked."""
        with contextlib.closing(self.source.slabs(region, planeCount)) as blocks:
            for block in blocks:
                yield self._decode(block)

    def _decode(self, block: np.ndarray) -> np.ndarray:
        """Say what voxels mean; ignored ones are so whatever else they are."""
        codes = np.zeros(block.shape, np.uint8, order="F")
        for code, kind in (POSITIVE, "positive"), (IGNORED, "ignored"):
            for name, layer in zip(block.dtype.names, self.layers, strict=True):
                if np.size(labels := getattr(layer, kind)):
                    codes[selectPositive(block[name], labels)] = code[0]
        return codes


def decodeLayers(mask: Volume, labels: Labels, ignoreLabel: Labels = ()) -> Volume:
    """Give a mask whose voxels are numbers: itself, unless its segments overlap.

    Parameters
    ----------
    mask : Volume
        As `formats.openMask` gives it.
    labels, ignoreLabel : sequence of int or str
        Positive ones, and those that count nowhere, as `targets.parseLabels` gives them.

    Raises
    ------
    PipelineError
        As of `resolveLabels`; several numbers a voxel of which no table tells what they mean.
    """
    if mask.dtype.names is None:
        return mask
    segments = readSegments(mask)
    positive = _choosePositive(labels, segments, mask.path)
    ignored = _chooseIgnored(ignoreLabel, segments, mask.path)
    layers = tuple(
        Layer(*(_valuesOf(chosen, layer) for chosen in (positive, ignored)))
        for layer in range(len(mask.dtype.names))
    )
    return LayeredVolume(mask, layers)


def _valuesOf(segments: list[Segment], layer: int = 0) -> Labels:
    """Give the label values of segments in a layer."""
    return joinValues(part.value for part in segments if part.layer == layer and not part.isEmpty)


def _isDecoded(mask: Volume) -> bool:
    """Whether a mask is a view on layers."""
    return any(isinstance(part, LayeredVolume) for part in listSources(mask))
