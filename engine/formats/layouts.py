"""The layout of a raw file: sides, type and byte order of its voxels, as a user writes and reads them."""

import math
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from engine.base.errors import PipelineError
from engine.formats.rawData import RawVolume
from engine.volumes.frame import frameOfVoxels

TYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float32", "float64")
ORDERS = {"little": "<", "big": ">"}
WAY = "512x512x300 uint16 little 0': sides x y z, type, byte order and bytes to skip, preset little 0"
NUMBER = "([0-9]{1,9})"
LAYOUT = re.compile(
    rf"\s*{NUMBER}\s*[x×*]\s*{NUMBER}\s*[x×*]\s*{NUMBER}[\s,]+([a-z]+[0-9]+)"
    r"(?:[\s,]+(little|big))?(?:[\s,]+([0-9]{1,15}))?\s*",
    re.IGNORECASE,
)
SIDES_IN_NAME = re.compile(rf"(?<![0-9]){NUMBER}x{NUMBER}x{NUMBER}(?![0-9])", re.IGNORECASE)
TYPE_IN_NAME = re.compile(r"(?<![a-z])(u?int(?:8|16|32|64)|float(?:32|64))(?![0-9])", re.IGNORECASE)
BITS_IN_NAME = re.compile(r"(?<![0-9])(8|16|32|64)[-_ ]?bits?", re.IGNORECASE)
BIG_IN_NAME = re.compile(r"(?<![a-z])(big|be|msb)(?![a-z])", re.IGNORECASE)
PLAIN_TYPES = {1: "uint8", 2: "uint16", 4: "float32", 8: "float64"}  # of voxels of so many bytes
UNKNOWN = "a raw file gives no size of a voxel; --voxelSize does"


class Layout(NamedTuple):
    """What a raw file holds."""

    shape: tuple[int, int, int]  # along x, y, z; x changes fastest
    kind: str  # of TYPES
    order: str = "little"
    skip: int = 0  # bytes before the first voxel

    @property
    def dtype(self) -> np.dtype:
        """Type of a voxel with its byte order."""
        return np.dtype(self.kind).newbyteorder(ORDERS[self.order])

    @property
    def byteCount(self) -> int:
        """Bytes of a file, with those that are skipped."""
        return self.skip + math.prod(self.shape) * self.dtype.itemsize

    def __str__(self) -> str:
        """Write it as a user would."""
        words = ["x".join(map(str, self.shape)), self.kind]
        if self.order != "little" or self.skip:
            words.append(self.order)
        return " ".join([*words, str(self.skip)] if self.skip else words)


def openByLayout(path: Path, text: str) -> RawVolume:
    """Open a raw file by the layout that a user has written.

    Raises
    ------
    PipelineError
        It is no layout, or the file has another length.
    """
    layout = parseLayout(path, text)
    checkLength(path, layout)
    where, place = ((path,), (layout.skip,)), frameOfVoxels(UNKNOWN)
    return RawVolume(path, {}, layout.shape, layout.dtype, "raw", *where, place=place, inner=text)


def parseLayout(path: Path, text: str) -> Layout:
    """Read a layout.

    Raises
    ------
    PipelineError
        It is no such text.
    """
    match = LAYOUT.fullmatch(text)
    *sides, kind, order, skip = match.groups() if match else (0, 0, 0, "", "", "")
    kind, shape = kind.lower(), tuple(map(int, sides))
    if kind not in TYPES or min(shape) < 1:
        remedy = f"types are {', '.join(TYPES)}"
        rule = "the layout cannot be read"
        raise PipelineError(rule, file=path, expected=f"'{WAY}", received=repr(text), remedy=remedy)
    return Layout(shape, kind, (order or "little").lower(), int(skip or 0))


def checkLength(path: Path, layout: Layout) -> None:
    """Require that a file is as long as its layout says.

    Raises
    ------
    PipelineError
        It is not; the message proposes layouts that would fit.
    """
    length = path.stat().st_size
    if length == layout.byteCount:
        return
    skipped = f" and {layout.skip} that are skipped" if layout.skip else ""
    voxels = f"{layout.byteCount - layout.skip} bytes of voxels{skipped} by {layout}"
    fitting = [f"'{other}'" for other in _listFitting(layout, length)]
    remedy = f"{' or '.join(fitting)} would fit" if fitting else None
    rule = "the length of the file does not fit its layout"
    raise PipelineError(rule, file=path, expected=voxels, received=f"{length} bytes", remedy=remedy)


def _listFitting(layout: Layout, length: int) -> list[Layout]:
    """List layouts close to one that fit a length: another type, more or fewer planes, bytes to skip."""
    voxels, plane = length - layout.skip, math.prod(layout.shape[:2]) * layout.dtype.itemsize
    others = [layout._replace(kind=kind) for kind in PLAIN_TYPES.values()]
    if voxels > 0 and voxels % plane == 0:
        others.append(layout._replace(shape=(*layout.shape[:2], voxels // plane)))
    others.append(layout._replace(skip=max(0, length - layout.byteCount + layout.skip)))
    return [other for other in others if other.byteCount == length]


def proposeLayout(path: Path) -> Layout | None:
    """Propose the layout that a name such as scan_512x512x300_16bit_unsigned.raw tells; None if it is not so.

    What the name leaves open follows from the length of the file.
    """
    name, length = path.name, path.stat().st_size
    sides = SIDES_IN_NAME.search(name)
    shape = tuple(map(int, sides.groups())) if sides else (0,)
    count = math.prod(shape)
    if count == 0:
        return None
    kind = _kindInName(name) or PLAIN_TYPES.get(length // count)
    if kind is None:
        return None
    layout = Layout(shape, kind, "big" if BIG_IN_NAME.search(name) else "little")
    return layout if layout.byteCount == length else None


def _kindInName(name: str) -> str:
    """Find the type of voxels in the name of a file; empty where it has none."""
    if match := TYPE_IN_NAME.search(name):
        return match[1].lower()
    if not (match := BITS_IN_NAME.search(name)):
        return ""
    words, bits = name.lower(), int(match[1])
    if "unsigned" in words or "signed" in words:
        return f"{'u' if 'unsigned' in words else ''}int{bits}"
    isReal = bits > 32 or "float" in words or "real" in words
    return f"float{bits}" if isReal and bits >= 32 else PLAIN_TYPES[bits // 8]
