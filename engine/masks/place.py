"""Whether a mask lies on its image: put into place where it says where that is, refused elsewhere."""

import dataclasses
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from engine.base.errors import PipelineError
from engine.formats.opening import openMask
from engine.masks.placed import PlacedVolume, Window
from engine.masks.segments import (
    Layer,
    LayeredVolume,
    decodeLayers,
    ignoredLabels,
    readSegments,
    resolveLabels,
)
from engine.masks.targets import PUBLISHED, Labels, describeLabels, selectPositive
from engine.volumes.frame import Turn, compareFrames, cutFrame, findCorner, findTurn, listAssumptions
from engine.volumes.turned import TurnedVolume
from engine.volumes.volume import Volume, listSources

OFFSET = "Segmentation_ReferenceImageExtentOffset"  # of a segmentation, in voxels of its image
FILLS = (0, 255, 1, 254)  # values that mean the rest in one mask or another, the likeliest first


class View(NamedTuple):
    """How a mask is seen, as plain data.

    Attributes
    ----------
    layers : tuple of Layer
        What overlapping segments mean; empty where none do.
    turn : Turn
        How its axes run along those of its image.
    window : Window or None
        Where it lies on its image, in the order of its axes; None where it is as large.
    """

    layers: tuple[Layer, ...] = ()
    turn: Turn = Turn()
    window: Window | None = None


def viewOf(mask: Volume) -> View:
    """Tell how a mask is seen."""
    view = View()
    for part in listSources(mask):
        if isinstance(part, PlacedVolume):
            view = view._replace(window=part.window)
        elif isinstance(part, TurnedVolume):
            view = view._replace(turn=part.turn)
        elif isinstance(part, LayeredVolume):
            view = view._replace(layers=part.layers)
    return view


def openView(path: Path, view: View) -> Volume:
    """Open a mask to see it so."""
    mask = openMask(path)
    if view.layers:
        mask = LayeredVolume(mask, view.layers)
    if view.turn != Turn():
        mask = TurnedVolume(mask, view.turn)
    return PlacedVolume(mask, view.window) if view.window else mask


# --------------------------------------------------------------------------------------------- onto its image


def openOnto(path: Path, image: Volume, labels: Labels, remedy: str, ignoreLabel: Labels = ()) -> Volume:
    """Open a mask, and put it on its image.

    Parameters
    ----------
    path : Path
        The mask, of any format.
    image : Volume
        What it was drawn on.
    labels, ignoreLabel : sequence of int or str
        Positive ones, and those that count nowhere, as `targets.parseLabels` gives them.
    remedy : str
        What helps where mask and image do not fit.

    Raises
    ------
    PipelineError
        As of `openVolume`, `segments.resolveLabels` and `putInPlace`.
    """
    mask = decodeLayers(openMask(path), labels, ignoreLabel)
    meant = resolveLabels(labels, mask), ignoredLabels(mask, ignoreLabel)
    return putInPlace(image, mask, remedy, *meant)


def putInPlace(
    image: Volume, mask: Volume, remedy: str, labels: Labels = PUBLISHED.labels, ignored: Labels = ()
) -> Volume:
    """Give a mask with its voxels in the order of its image, and as many of them.

    A segmentation of 3D Slicer covers no more than its segments. What lies outside of it is not positive, and
    what of it lies outside of the image is cut off. Another mask may be a part of its image too, if its own
    origin says so: one that begins where its image begins looks like the mask of another volume.

    Parameters
    ----------
    image, mask : Volume
        The mask as it lies in its file.
    remedy : str
        What helps where both do not fit.
    labels, ignored : sequence of int or str
        Numbers of the mask that are positive, and that count nowhere: what lies outside is neither.

    Returns
    -------
    Volume
        The mask itself; turned where its axes run another way; with a border where it is smaller.

    Raises
    ------
    PipelineError
        Shape or, as far as both files say, place of the mask is another one than that of its image.
    """
    mask = _leaveUnitOfItk(image, mask)
    turn = findTurn(image.frame, mask.frame)
    turned = TurnedVolume(mask, turn) if turn != Turn() else mask
    if turned.shape == image.shape and not compareFrames(image.frame, turned.frame, image.shape):
        return turned
    if image.shape != mask.shape:
        difference = "shape", image.shape, mask.shape
    else:
        difference = compareFrames(image.frame, mask.frame, image.shape)
    if difference is None:
        return mask
    window = _findWindow(image, turned, remedy)
    if window is None:
        raise _refuse(image, mask, difference, remedy)
    return PlacedVolume(turned, window._replace(fill=_chooseFill(mask, labels, ignored)))


def _refuse(image: Volume, mask: Volume, difference: tuple, remedy: str) -> PipelineError:
    """Say in what a mask and its image differ: what, expected, received."""
    what, expected, received = difference
    rule = f"mask and image {image.path.name} differ in the {what}"
    return PipelineError(rule, file=mask.path, expected=expected, received=received, remedy=remedy)


def _findWindow(image: Volume, mask: Volume, remedy: str) -> Window | None:
    """Find where a mask of another extent lies on its image; None where it does not say, or is no part of it.

    Raises PipelineError where it is a segmentation that lies elsewhere.
    """
    isSegmentation = bool(readSegments(mask))
    corner = findCorner(image.frame, mask.frame)
    if corner is None and isSegmentation:
        corner = _readOffset(mask)
    if corner is None:
        return None
    window = Window(corner, image.shape)
    difference = compareFrames(cutFrame(image.frame, corner), mask.frame, mask.shape)
    covered = [stop - start for start, stop in window.coverage(mask.shape)]
    if not isSegmentation:
        isPart = any(corner) and covered == list(mask.shape)
        return window if isPart and difference is None else None
    if difference:
        raise _refuse(image, mask, difference, remedy)
    if min(covered) <= 0:
        rule = f"the mask lies outside of its image {image.path.name}"
        expected = _writeRanges((0, side) for side in image.shape)
        received = _writeRanges(_reach(corner, mask.shape))
        raise PipelineError(rule, file=mask.path, expected=expected, received=received, remedy=remedy)
    return window


def _readOffset(mask: Volume) -> tuple[int, ...] | None:
    """Read at which voxel of its image a segmentation begins; None where it does not say."""
    words = listSources(mask)[-1].header.get(OFFSET, "").split()
    isKnown = len(words) == 3 and all(re.fullmatch(r"[+-]?[0-9]{1,9}", word) for word in words)
    return tuple(map(int, words)) if isKnown else None


def _chooseFill(mask: Volume, labels: Labels, ignored: Labels) -> int:
    """Choose a value of the type of a mask that is neither positive nor ignored, whatever these are."""
    text = f"{describeLabels(labels)},{describeLabels(ignored)}"
    numbers = [int(number) for number in re.findall(r"(?<![0-9])-?[0-9]{1,18}", text)]
    tried = [*FILLS, *(number + step for number in numbers for step in (0, 1, -1))]
    for value in tried:
        if not _canHold(mask.dtype, value):
            continue
        voxel = np.array([value], mask.dtype)
        if not (selectPositive(voxel, labels)[0] or selectPositive(voxel, ignored)[0]):
            return value
    rule = f"covers a part of its image, and every {mask.dtype.name} is positive: nothing can mean the rest"
    received = f"positiveLabel {describeLabels(labels)}"
    raise PipelineError(rule, file=mask.path, received=received, remedy="name fewer labels")


def _canHold(dtype: np.dtype, value: int) -> bool:
    """Whether a type has a number."""
    return dtype.kind == "f" or np.iinfo(dtype).min <= value <= np.iinfo(dtype).max


# ----------------------------------------------------------------------------------------------- what is told


def _leaveUnitOfItk(image: Volume, mask: Volume) -> Volume:
    """Leave out the mm of a mask with the numbers of its image: ITK keeps these and calls all lengths mm."""
    frame, sides = mask.frame, (np.sort(volume.frame.sides) for volume in (image, mask))
    differ = frame.unit == "mm" and image.frame.unit not in ("mm", "", "voxel")
    if not differ or not hasattr(mask, "place") or not np.allclose(*sides, rtol=1e-3, atol=0):
        return mask
    return dataclasses.replace(mask, place=frame._replace(unit=""))


def describePlaces(pairs: Iterable[tuple[Volume, Volume]]) -> list[str]:
    """Tell which masks were put into place, and once for all pairs what was assumed of those that do not say.

    Parameters
    ----------
    pairs : iterable
        (image, mask) after `putInPlace`.
    """
    lines, assumed = [], {}
    for image, mask in pairs:
        turn = viewOf(mask).turn
        if turn != Turn():
            lines.append(f"Mask {mask.path.name} {_describeTurn(turn)}: turned into place")
        if isinstance(mask, PlacedVolume):
            lines += _describeWindow(image, mask)
        for isMask, what, value in listAssumptions(image.frame, mask.frame):
            words = f"gives {what}, unlike its {'image' if isMask else 'mask'}: taken to be {value}"
            one = f"Mask {mask.path.name}" if isMask else f"Image {image.path.name}"
            assumed.setdefault(words, []).append(one)
    for words, (one, *others) in assumed.items():
        lines.append(f"{one} {words}{f' (and {len(others)} more)' if others else ''}")
    return lines


def _describeTurn(turn: Turn) -> str:
    """Tell how the axes of a mask run in its file."""
    flipped = ", ".join(axis for axis, isFlipped in zip("xyz", turn.flips, strict=True) if isFlipped)
    words = [f"runs the other way along {flipped}"] if flipped else []
    if turn.axes != (0, 1, 2):
        words.insert(0, f"has its axes in another order ({', '.join('xyz'[axis] for axis in turn.axes)})")
    return " and ".join(words)


def _describeWindow(image: Volume, mask: PlacedVolume) -> list[str]:
    """Tell what of its image a mask covers, by which of its words, and what of it is cut off."""
    coverage, shape, corner = mask.coverage, mask.source.shape, mask.window.corner
    isByOrigin = findCorner(image.frame, mask.source.frame) is not None
    by = "" if isByOrigin else f", as its {OFFSET} says"
    words = f"covers {_writeRanges(coverage)} of {image.path.name}{by}: the rest of it is not positive"
    lines = [f"Mask {mask.path.name} {words}"]
    reach = _reach(corner, shape)
    if reach != list(coverage):
        words = f"reaches beyond its image ({_writeRanges(reach)}): cut off there"
        lines.append(f"Warning: mask {mask.path.name} {words}")
    return lines


def _reach(corner: tuple[int, ...], shape: tuple[int, ...]) -> list[tuple[int, int]]:
    """Give the half-open ranges of a mask in voxels of its image."""
    return [(start, start + length) for start, length in zip(corner, shape, strict=True)]


def _writeRanges(ranges: Iterable[tuple[int, int]]) -> str:
    """Write half-open ranges along x, y and z."""
    return " ".join(f"{axis} {start}:{stop}" for axis, (start, stop) in zip("xyz", ranges, strict=True))
