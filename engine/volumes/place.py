"""Whether a mask lies on its image: turned into place where its axes run another way, refused elsewhere."""

import dataclasses
from collections.abc import Iterable

import numpy as np

from engine.base.errors import PipelineError
from engine.volumes.frame import Turn, compareFrames, findTurn, listAssumptions
from engine.volumes.turned import TurnedVolume
from engine.volumes.volume import Volume


def putInPlace(image: Volume, mask: Volume, remedy: str) -> Volume:
    """Give a mask with its voxels in the order of its image.

    Parameters
    ----------
    image, mask : Volume
        The mask as it lies in its file.
    remedy : str
        What helps where both do not fit.

    Returns
    -------
    Volume
        The mask itself, or turned where it has the same voxels in another order.

    Raises
    ------
    PipelineError
        Shape or, as far as both files say, place of the mask is another one than that of its image.
    """
    mask = _leaveUnitOfItk(image, mask)
    turn = findTurn(image.frame, mask.frame)
    if turn != Turn():
        turned = TurnedVolume(mask, turn)
        if turned.shape == image.shape and not compareFrames(image.frame, turned.frame, image.shape):
            return turned
    if image.shape != mask.shape:
        difference = "shape", image.shape, mask.shape
    else:
        difference = compareFrames(image.frame, mask.frame, image.shape)
    if difference:
        what, expected, received = difference
        rule = f"mask and image {image.path.name} differ in the {what}"
        raise PipelineError(rule, file=mask.path, expected=expected, received=received, remedy=remedy)
    return mask


def _leaveUnitOfItk(image: Volume, mask: Volume) -> Volume:
    """Leave out the mm of a mask with the numbers of its image: ITK keeps these and calls all lengths mm."""
    frame, sides = mask.frame, (np.sort(volume.frame.sides) for volume in (image, mask))
    differ = frame.unit == "mm" and image.frame.unit not in ("mm", "", "voxel")
    if not differ or not np.allclose(*sides, rtol=1e-3, atol=0):
        return mask
    return dataclasses.replace(mask, place=frame._replace(unit=""))


def describePlaces(pairs: Iterable[tuple[Volume, Volume]]) -> list[str]:
    """Tell which masks were turned, and once for all pairs what was assumed of those that do not say.

    Parameters
    ----------
    pairs : iterable
        (image, mask) after `putInPlace`.
    """
    lines, assumed = [], {}
    for image, mask in pairs:
        if isinstance(mask, TurnedVolume):
            lines.append(f"Mask {mask.path.name} {_describeTurn(mask.turn)}: turned into place")
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
