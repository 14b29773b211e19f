"""Files with the voxels of a header: their names by its folder, and whether they are long enough."""

import os
import re
from collections.abc import Callable
from pathlib import Path

from engine.base.errors import PipelineError
from engine.formats.rawData import RawVolume

EXPANSION = {"gzip": 1032, "zlib": 1032, "bzip2": 2_000_000}  # most bytes that a compressed one stands for
INTEGER = r"[+-]?[0-9]{1,9}"
NUMBERED = rf"([^%\s]*)%(0?(?:[1-9][0-9]?)?)d([^%\s]*)\s+({INTEGER})\s+({INTEGER})\s+({INTEGER})(?:\s+(\S+))?"
LIKE_NUMBERED = r".*%\S*\s+[+-]?[0-9]+(\s.*)?"  # meant as the form above, if not right


def findDataFile(path: Path, name: str) -> Path:
    """Path of a data file; a header must not make the program read files elsewhere on the computer.

    Raises
    ------
    PipelineError
        It lies outside of the header's folder, or is missing.
    """
    folder = os.path.abspath(path.parent)
    target = os.path.normpath(os.path.join(folder, name))
    if os.path.commonpath((folder, target)) != folder:
        raise PipelineError("the data file must lie in the folder of its header", file=path, received=name)
    if not os.path.isfile(target):
        raise PipelineError("the data file is missing", file=path, received=name)
    return Path(target)


def numberNames(path: Path, field: str) -> tuple[range, Callable[[int], str], str]:
    """Read '<name with %d or %03d> <min> <max> <step> [<sub-dimension>]', the last number included.

    Returns
    -------
    tuple
        The numbers; the name of a file by its number; the sub-dimension, empty where there is none.

    Raises
    ------
    PipelineError
        It is no such form, or its step is 0.
    """
    match = re.fullmatch(NUMBERED, field)
    if match is None:
        rule, expected = "the numbered data files cannot be understood", "like slice%03d.raw 1 60 1"
        raise PipelineError(rule, file=path, expected=expected, received=field)
    before, width, after, *limits, subDimension = match.groups()
    first, last, step = map(int, limits)
    if step == 0:
        raise PipelineError("the step of the numbered data files is 0", file=path, received=field)
    numbers = range(first, last + (1 if step > 0 else -1), step)
    return numbers, lambda number: f"{before}{number:{width}d}{after}", subDimension or ""


def measureSurplus(volume: RawVolume, dataPath: Path, available: int) -> int:
    """Count the bytes of raw voxels that follow those of a data file.

    Parameters
    ----------
    volume : RawVolume
        Of which only the offsets may be missing.
    dataPath : Path
        One of its data files.
    available : int
        Bytes of it from the first of the (encoded) voxels on.

    Raises
    ------
    PipelineError
        There are too few bytes, also if they are compressed as well as can be.
    """
    needed = volume.fileByteCount
    if volume.encoding == "text":
        needed = 2 * (needed // volume.dtype.itemsize) - 1
    needed += max(volume.byteSkip, 0)
    most = available * EXPANSION.get(volume.encoding, 1)
    if most < needed:
        part = f"1/{len(volume.dataPaths)} of " if len(volume.dataPaths) > 1 else ""
        rule = f"the data are truncated: too few bytes for {part}{' x '.join(map(str, volume.shape))} voxels"
        raise PipelineError(rule, file=dataPath, expected=f"{needed} or more", received=max(most, 0))
    return available - needed if volume.encoding == "raw" else 0
