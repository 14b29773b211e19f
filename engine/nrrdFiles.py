"""NRRD volumes: checked before they are read, read by region, written under their name when they are whole.

Arrays are (x, y, z): index order 'F' of pynrrd, the first axis changes fastest in the file. Raw data are
mapped. Compressed data are streamed, because pynrrd holds them three times in memory, unpacks without limit,
stops after the first member of a gzip file and applies a positive byte skip twice.
"""

import bz2
import contextlib
import gzip
import logging
import math
import os
import re
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np

from engine.errors import PipelineError
from engine.files import reserveSpace, writeAtomically
from engine.nrrdHeaders import (
    ENCODINGS,
    Region,
    completeRegion,
    cropHeader,
    describeData,
    formatHeader,
    readHeader,
    voxelSize,
    voxelType,
)

__all__ = [
    "NrrdVolume",
    "checkRegion",
    "createVolume",
    "cropHeader",
    "openVolume",
    "voxelSize",
    "writeVolume",
]

LOGGER = logging.getLogger(__name__)
CHUNK_BYTES = 1 << 22
EXPANSION = {"gzip": 1032, "bzip2": 2_000_000}  # most bytes that one compressed byte can stand for
SKIP_REMEDY = "correct the sizes, or write 'byte skip: -1' into the header if the voxels are the last bytes"
SEVERAL_FILES = r"LIST(\s.*)?|.*%\d*d.*(\s[+-]?\d+){3,4}"

# -------------------------------------------------- open: everything is checked, no voxel is read


@dataclass(frozen=True, eq=False)
class NrrdVolume:
    """A volume whose header is consistent and whose data are where it says; made by `openVolume`.

    Parameters
    ----------
    path, dataPath : Path
        The file that was asked for, and the one with the voxels; the same if the header is attached.
    header : OrderedDict
        Fields as pynrrd parses them, spelled with spaces ('byte skip'), and the key/values as strings.
    shape : tuple of int
        Voxels along (x, y, z).
    dtype : np.dtype
        Type of a voxel, with the byte order of the file.
    encoding : str
        'raw', 'gzip', 'bzip2' or 'text'.
    offset : int
        Byte of the data file where the (encoded) voxels start.
    byteSkip : int
        Bytes to leave out after decompression; -1 means that the voxels come last.
    """

    path: Path
    header: OrderedDict
    shape: tuple[int, int, int]
    dtype: np.dtype
    dataPath: Path
    encoding: str
    offset: int
    byteSkip: int = 0

    @property
    def byteCount(self) -> int:
        """Bytes of all voxels, decoded."""
        return math.prod(self.shape) * self.dtype.itemsize

    def read(self, region: Region | None = None) -> np.ndarray:
        """Read a region.

        Parameters
        ----------
        region : three (start, stop) pairs, optional
            Half-open ranges along x, y, z; None for an end, or for the region, means all of it.

        Returns
        -------
        np.ndarray
            (x, y, z) in the type of the file; for raw data a read-only view on the mapped file, no copy.

        Raises
        ------
        PipelineError
            The region is empty or leaves the volume, the data are damaged, or memory is too small for them.
        """
        region = checkRegion(self, region)
        read = {"raw": _readRaw, "text": _readText}.get(self.encoding, _readCompressed)
        try:
            return read(self, region)
        except PipelineError:
            raise
        except MemoryError as error:
            raise PipelineError(
                "does not fit in memory", file=self.path, remedy="choose a smaller region"
            ) from error
        except (OSError, EOFError, zlib.error, ValueError, OverflowError) as error:
            raise PipelineError(f"the data are truncated or damaged: {error}", file=self.dataPath) from error


def openVolume(path: str | Path) -> NrrdVolume:
    """Open an NRRD file (attached or detached header) and check it without reading voxels.

    Parameters
    ----------
    path : path
        An .nrrd or .nhdr file.

    Returns
    -------
    NrrdVolume
        With `.header`, `.shape` (x, y, z), `.dtype` and `.read(region)`.

    Raises
    ------
    PipelineError
        The file is missing, no NRRD or no 3D volume with one number a voxel, its header contradicts itself,
        or its data are missing, too short, in an encoding that cannot be read or in another folder.
    """
    path = Path(path)
    try:
        header, headerBytes = readHeader(path)
        shape, dtype = tuple(header["sizes"].tolist()), voxelType(path, header)
        encoding = _checkEncoding(path, header)
        dataPath = _findDataFile(path, header)
        offset = _skipLines(dataPath, 0 if "data file" in header else headerBytes, header.get("line skip", 0))
        volume = NrrdVolume(
            path, header, shape, dtype, dataPath, encoding, offset, header.get("byte skip", 0)
        )
        return _locateData(volume)
    except OSError as error:
        raise PipelineError(
            f"cannot be read: {error.strerror or error}", file=error.filename or path
        ) from error


def _checkEncoding(path: Path, header: dict) -> str:
    """Name of the encoding in one spelling; the skips must make sense with it."""
    encoding = ENCODINGS.get(header["encoding"].lower())
    if encoding is None:
        rule, expected = "the data are in an encoding that cannot be read", "raw, gzip, bzip2 or text"
        raise PipelineError(rule, file=path, expected=expected, received=header["encoding"])
    for name, lowest in (("line skip", 0), ("byte skip", 0 if encoding == "text" else -1)):
        if header.get(name, 0) < lowest:
            raise PipelineError(
                f"{name} is too small", file=path, expected=f"{lowest} or more", received=header[name]
            )
    return encoding


def _findDataFile(path: Path, header: dict) -> Path:
    """File with the voxels; a header must not make the program read files elsewhere on the computer."""
    name = header.get("data file")
    if name is None:
        return path
    if re.fullmatch(SEVERAL_FILES, name):
        raise PipelineError(
            "data spread over several files cannot be read yet", file=path, received=f"data file {name}"
        )
    folder = os.path.abspath(path.parent)
    target = os.path.normpath(os.path.join(folder, name))
    if os.path.commonpath((folder, target)) != folder:
        raise PipelineError("the data file must lie in the folder of its header", file=path, received=name)
    if not os.path.isfile(target):
        raise PipelineError("the data file is missing", file=path, received=name)
    return Path(target)


def _skipLines(path: Path, offset: int, lineCount: int) -> int:
    """Byte after `lineCount` lines, in pieces: binary data may hold no line end for gigabytes."""
    if lineCount == 0:
        return offset
    with open(path, "rb") as file:
        file.seek(offset)
        while lineCount > 0 and (piece := file.readline(CHUNK_BYTES)):
            lineCount -= piece.endswith(b"\n")
        return file.tell()


def _locateData(volume: NrrdVolume) -> NrrdVolume:
    """Apply the byte skip unless data must be decompressed first; compare the data's length with sizes."""
    available = volume.dataPath.stat().st_size - volume.offset
    if volume.encoding in EXPANSION:
        available *= EXPANSION[volume.encoding]
    else:
        skip = available - volume.byteCount if volume.byteSkip == -1 else volume.byteSkip
        volume = replace(volume, offset=volume.offset + skip, byteSkip=0)
        available -= max(skip, 0)
    needed = 2 * math.prod(volume.shape) - 1 if volume.encoding == "text" else volume.byteCount
    if available < needed:
        rule = f"the data are truncated: too few bytes for {' x '.join(map(str, volume.shape))} voxels"
        raise PipelineError(
            rule, file=volume.dataPath, expected=f"{needed} or more", received=max(available, 0)
        )
    if volume.encoding == "raw" and available > needed:
        _judgeSurplus(volume, available)
    return volume


def _judgeSurplus(volume: NrrdVolume, available: int) -> None:
    """Refuse a longer data file unless its header says where in it the voxels start."""
    if "data file" in volume.header and not {"byte skip", "line skip"} & volume.header.keys():
        rule, expected = "the data file is longer than the sizes say", f"{volume.byteCount} bytes"
        raise PipelineError(
            rule, file=volume.dataPath, expected=expected, received=available, remedy=SKIP_REMEDY
        )
    LOGGER.warning(
        "%s: %d bytes after the voxels are not used", volume.dataPath, available - volume.byteCount
    )


def checkRegion(volume: NrrdVolume, region: Region | None) -> tuple[tuple[int, int], ...]:
    """Complete a region and require that it lies in the volume.

    Parameters
    ----------
    volume : NrrdVolume
        The volume to cut from.
    region : three (start, stop) pairs or None
        As for `NrrdVolume.read`.

    Returns
    -------
    tuple
        Three pairs of int.

    Raises
    ------
    PipelineError
        A range is empty or leaves the volume.
    """
    ranges = completeRegion(volume.shape, region)
    for axis, (start, stop), size in zip("xyz", ranges, volume.shape, strict=True):
        inside = 0 <= start and stop <= size
        if not inside or start >= stop:
            rule = f"the range along {axis} {'is empty' if inside else 'leaves the volume'}"
            raise PipelineError(
                rule, file=volume.path, expected=f"a part of 0:{size}", received=f"{start}:{stop}"
            )
    return ranges


# -------------------------------------------------- read


def _slices(region: tuple[tuple[int, int], ...]) -> tuple[slice, ...]:
    """Index of a region."""
    return tuple(slice(start, stop) for start, stop in region)


def _readRaw(volume: NrrdVolume, region: tuple[tuple[int, int], ...]) -> np.ndarray:
    """View on the mapped file."""
    mapped = np.memmap(volume.dataPath, volume.dtype, "r", volume.offset, volume.shape, order="F")
    return np.asarray(mapped[_slices(region)])


def _readText(volume: NrrdVolume, region: tuple[tuple[int, int], ...]) -> np.ndarray:
    """Numbers between spaces or commas; NumPy's own text reader lets 300 wrap around to 44 in 8 bits."""
    with open(volume.dataPath, "rb") as file:
        file.seek(volume.offset)
        words = file.read().replace(b",", b" ").split()
    if len(words) != math.prod(volume.shape):
        rule, expected = "the text must hold one number a voxel", math.prod(volume.shape)
        raise PipelineError(rule, file=volume.dataPath, expected=expected, received=len(words))
    convert = int if volume.dtype.kind in "iu" else float
    values = np.array([convert(word) for word in words], volume.dtype)
    return values.reshape(volume.shape, order="F")[_slices(region)]


def _readCompressed(volume: NrrdVolume, region: tuple[tuple[int, int], ...]) -> np.ndarray:
    """Keep the region of a stream read to its end: only so is it known that nothing is missing or shifted."""
    (first, last), planeBytes = region[2], volume.byteCount // volume.shape[2]
    skip = volume.byteSkip if volume.byteSkip >= 0 else max(0, _countDecoded(volume) - volume.byteCount)
    step = max(1, CHUNK_BYTES // planeBytes)  # planes at a time
    result = np.empty([stop - start for start, stop in region], volume.dtype, order="F")
    with _openDecoded(volume) as stream:
        _discard(stream, skip + first * planeBytes)
        for z in range(first, last, step):
            count = min(step, last - z)
            planes = np.frombuffer(_readExactly(stream, count * planeBytes), volume.dtype)
            planes = planes.reshape((*volume.shape[:2], count), order="F")  # (x, y, count)
            result[:, :, z - first : z - first + count] = planes[_slices(region[:2])]
        _discard(stream, (volume.shape[2] - last) * planeBytes)
        if stream.read(1):
            raise PipelineError(
                "the data are longer than the sizes say", file=volume.dataPath, remedy=SKIP_REMEDY
            )
    return result


@contextlib.contextmanager
def _openDecoded(volume: NrrdVolume) -> Iterator[BinaryIO]:
    """Stream of decompressed bytes."""
    with open(volume.dataPath, "rb") as file:
        file.seek(volume.offset)
        with gzip.GzipFile(fileobj=file) if volume.encoding == "gzip" else bz2.BZ2File(file) as stream:
            yield stream


def _countDecoded(volume: NrrdVolume) -> int:
    """Bytes of the whole decompressed stream."""
    with _openDecoded(volume) as stream:
        return sum(map(len, iter(lambda: stream.read(CHUNK_BYTES), b"")))


def _readExactly(stream: BinaryIO, byteCount: int) -> bytes:
    """Next bytes, all of them or an error."""
    piece = stream.read(byteCount)
    if len(piece) < byteCount:
        raise EOFError("there are fewer bytes than the sizes say")
    return piece


def _discard(stream: BinaryIO, byteCount: int) -> None:
    """Pass over bytes, which must exist."""
    while byteCount > 0:
        byteCount -= len(_readExactly(stream, min(byteCount, CHUNK_BYTES)))


# -------------------------------------------------- write


@contextlib.contextmanager
def createVolume(
    path: str | Path, shape: tuple[int, int, int], dtype: np.dtype | type | str, header: dict
) -> Iterator[np.memmap]:
    """Yield a mapped array to fill; the file appears under its name when the block ends well.

    Parameters
    ----------
    path : path
        Result, *.nrrd: attached header, raw, little endian.
    shape : tuple of int
        Voxels along (x, y, z).
    dtype : dtype
        Type of a voxel.
    header : dict
        Geometry and key/values, as `cropHeader` makes them; type, sizes and encoding are set here.

    Yields
    ------
    np.memmap
        (x, y, z), zeros, Fortran order: planes of one z are contiguous in the file.

    Raises
    ------
    PipelineError
        The disk is too full (told before the block starts), the folder is missing or closed, the name does
        not end in .nrrd, or NRRD has no such voxel type.
    """
    path = Path(path)
    if path.suffix.lower() != ".nrrd":
        raise PipelineError("the result's name must end with .nrrd", file=path)
    text = formatHeader(describeData(header, shape, dtype))
    stored = np.dtype(dtype).newbyteorder("<")
    with writeAtomically(path) as temporary:
        temporary.write_bytes(text)
        reserveSpace(temporary, len(text) + math.prod(shape) * stored.itemsize)
        volume = np.memmap(temporary, stored, "r+", len(text), tuple(shape), order="F")
        yield volume
        volume.flush()


def writeVolume(path: str | Path, array: np.ndarray, header: dict) -> None:
    """Write an array (x, y, z) as NRRD, plane by plane so that a mapped one is never copied as a whole.

    Raises
    ------
    PipelineError
        As `createVolume`.
    """
    with createVolume(path, array.shape, array.dtype, header) as volume:
        for z in range(array.shape[2]):
            volume[:, :, z] = array[:, :, z]
