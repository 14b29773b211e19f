"""Encoded voxels at known places of known files: a region at once or slab by slab.

Arrays are (x, y, z): index order 'F' of pynrrd, the first axis changes fastest in the file. A region of one
raw file is mapped. Everything else goes through one forward reader that holds a block and a few MiB.
Compressed data are streamed, because pynrrd holds them three times in memory, unpacks without limit, stops
after the first member of a gzip file and applies a positive byte skip twice. Slabs of raw data are read, not
mapped, because pages of a mapped file count as memory of the process.
"""

import bz2
import contextlib
import functools
import gzip
import io
import math
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from engine.base.errors import PipelineError
from engine.formats.nrrdGeometry import readFrame
from engine.volumes.frame import Frame
from engine.volumes.volume import Region, checkRegion, checkSlabs

CHUNK_BYTES = 1 << 20
COMPRESSED = ("gzip", "bzip2", "zlib")
SKIP_REMEDY = "correct the sizes, or write 'byte skip: -1' into the header if the voxels are the last bytes"
READ_ERRORS = (MemoryError, OSError, EOFError, zlib.error, ValueError, OverflowError)

# -------------------------------------------------- a volume


@dataclass(frozen=True, eq=False)
class RawVolume:
    """A volume whose data are where it says; made by `openVolume` of a format.

    Parameters
    ----------
    path : Path
        The file that was asked for.
    header : dict
        NRRD: fields as `readHeader` gives them, spelled with spaces ('byte skip'), and the key/values as
        strings; empty for other formats.
    shape : tuple of int
        Voxels along (x, y, z).
    dtype : np.dtype
        Type of a voxel, with the byte order of the file.
    encoding : str
        'raw', 'gzip', 'bzip2', 'zlib' or 'text'.
    dataPaths : tuple of Path
        Files with the voxels, as many in each, in the order of the voxels; `path` if the header is attached.
    offsets : tuple of int
        Byte of each data file where the (encoded) voxels start.
    byteSkip : int
        Bytes to leave out of each file after decompression; -1 means that the voxels come last.
    place : Frame, optional
        Where the voxels lie in space; without it, as the header tells.
    inner : str
        As of every `Volume`.
    notes : tuple of Path
        Files without voxels that say what the others hold, or where.
    """

    path: Path
    header: dict
    shape: tuple[int, int, int]
    dtype: np.dtype
    encoding: str
    dataPaths: tuple[Path, ...]
    offsets: tuple[int, ...]
    byteSkip: int = 0
    place: Frame | None = None
    inner: str = ""
    notes: tuple[Path, ...] = ()

    @functools.cached_property
    def frame(self) -> Frame:
        """Where the voxels lie in space."""
        return self.place or readFrame(self.header)

    @property
    def files(self) -> tuple[Path, ...]:
        """The header's file, those with the voxels, and those that say what these hold, or where they lie."""
        own = () if self.path.is_dir() else (self.path,)
        return tuple(dict.fromkeys((*own, *self.dataPaths, *self.notes)))

    @property
    def dataPath(self) -> Path:
        """The data file, or the first of several."""
        return self.dataPaths[0]

    @property
    def byteCount(self) -> int:
        """Bytes of all voxels, decoded."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def fileByteCount(self) -> int:
        """Bytes of the voxels of one data file, decoded."""
        return self.byteCount // len(self.dataPaths)

    def read(self, region: Region | None = None) -> np.ndarray:
        """Read a region.

        Parameters
        ----------
        region : three (start, stop) pairs, optional
            Half-open ranges along x, y, z; None for an end, or for the region, means all of it.

        Returns
        -------
        np.ndarray
            (x, y, z) in the type of the file; for raw data in one file a read-only view on it, no copy.

        Raises
        ------
        PipelineError
            The region is empty or leaves the volume, the data are damaged, or memory is too small for them.
        """
        region = checkRegion(self, region)
        if self.encoding == "raw" and len(self.dataPaths) == 1:
            return _mapRegion(self, region)
        (block,) = _readBlocks(self, region, self.shape[2])
        return block

    def slabs(self, region: Region | None = None, planeCount: int = 16) -> Iterator[np.ndarray]:
        """Read a region as consecutive blocks of z planes; memory holds about two blocks, nothing is mapped.

        A compressed or text file is read to its end whatever part of it the region takes; a file without a
        voxel of the region is not opened.

        Parameters
        ----------
        region : three (start, stop) pairs, optional
            As for `read`.
        planeCount : int
            Planes in a block, 1 or more; the last block may have fewer.

        Returns
        -------
        iterator of np.ndarray
            (x, y, planes) in the type of the file, Fortran order, each an array of its own. Closing the
            iterator closes the file in hand.

        Raises
        ------
        PipelineError
            At the call: the region is empty or leaves the volume. From the iterator: as for `read`.
        """
        return _readBlocks(self, checkSlabs(self, region, planeCount), planeCount)


# -------------------------------------------------- from decoded bytes to arrays


def isSequential(volume: object) -> bool:
    """Whether a volume of any format can only be read from its beginning, being compressed as a whole."""
    return getattr(volume, "encoding", "") in COMPRESSED


def isHeld(volume: object) -> bool:
    """Whether `read` of a volume of any format takes memory; else it gives a view on the file."""
    return getattr(volume, "encoding", "") != "raw" or len(volume.dataPaths) > 1


def _mapRegion(volume: RawVolume, region: tuple[tuple[int, int], ...]) -> np.ndarray:
    """View on the one raw file, mapped."""
    try:
        mapped = np.memmap(volume.dataPath, volume.dtype, "r", volume.offsets[0], volume.shape, order="F")
    except READ_ERRORS as error:
        raise _explain(error, volume, volume.dataPath) from error
    return np.asarray(mapped[tuple(slice(start, stop) for start, stop in region)])


def _readBlocks(
    volume: RawVolume, region: tuple[tuple[int, int], ...], planeCount: int
) -> Iterator[np.ndarray]:
    """Yield the region in blocks of z planes and keep none of them."""
    first, last = region[2]
    with contextlib.closing(_VoxelStream(volume)) as stream:
        try:
            for z in range(first, last, planeCount):
                yield _readBlock(stream, region[:2], z, min(z + planeCount, last))
            stream.finish()
        except PipelineError:
            raise
        except READ_ERRORS as error:
            raise _explain(error, volume, stream.path) from error


def _readBlock(
    stream: "_VoxelStream", region: tuple[tuple[int, int], ...], first: int, last: int
) -> np.ndarray:
    """Read the planes first:last; if y is whole, their rows follow each other in the file."""
    (x1, x2), (y1, y2) = region
    height = stream.volume.shape[1]
    block = np.empty((x2 - x1, y2 - y1, last - first), stream.volume.dtype, order="F")
    rows = block.T.reshape(-1, x2 - x1)  # (z and y, x), no copy
    together = len(rows) if y2 - y1 == height else y2 - y1
    for start in range(0, len(rows), together):
        firstRow = (first + start // together) * height + y1
        _readRows(stream, firstRow, x1, rows[start : start + together])
    return block


def _readRows(stream: "_VoxelStream", firstRow: int, x1: int, rows: np.ndarray) -> None:
    """Fill rows (row, x), directly if they are whole, else cut from a few MiB of whole rows at a time."""
    width, dtype = stream.volume.shape[0], stream.volume.dtype
    rowBytes = width * dtype.itemsize
    if rows.shape[1] == width:
        stream.readInto(firstRow * rowBytes, rows)
        return
    step = min(len(rows), max(1, CHUNK_BYTES // rowBytes))
    buffer = np.empty((step, width), dtype)
    for start in range(0, len(rows), step):
        part = buffer[: len(rows) - start]
        stream.readInto((firstRow + start) * rowBytes, part)
        rows[start : start + step] = part[:, x1 : x1 + rows.shape[1]]


def _explain(error: Exception, volume: RawVolume, dataPath: Path) -> PipelineError:
    """Turn what reading or decoding raised into the line a user reads."""
    if isinstance(error, MemoryError):
        return PipelineError("does not fit in memory", file=volume.path, remedy="choose a smaller region")
    return PipelineError(f"the data are truncated or damaged: {error}", file=dataPath)


# -------------------------------------------------- from data files to decoded bytes


class _VoxelStream:
    """Decoded bytes of the voxels through all data files; read forward, with one file open at a time."""

    def __init__(self, volume: RawVolume) -> None:
        self.volume, self.path = volume, volume.dataPath  # path: the file in hand, for messages
        self.index, self.position = None, 0  # of the file in hand, and the next of its decoded bytes
        self.stream, self.opened = None, contextlib.ExitStack()

    def readInto(self, position: int, array: np.ndarray) -> None:
        """Fill a contiguous array with the bytes at `position`, which is never before the last one's end."""
        target = array.reshape(-1).view(np.uint8).data
        while target:
            index, start = divmod(position, self.volume.fileByteCount)
            part = target[: self.volume.fileByteCount - start]
            self._moveTo(index, start)
            _fill(self.stream, part)
            self.position += len(part)
            position, target = position + len(part), target[len(part) :]

    def _moveTo(self, index: int, start: int) -> None:
        """Make `start` of a file the next byte."""
        if index != self.index:
            self.finish()
            self.index, self.position, self.path = index, 0, self.volume.dataPaths[index]
            self.stream = self.opened.enter_context(_openDecoded(self.volume, index))
        if self.volume.encoding in COMPRESSED:
            _discard(self.stream, start - self.position)
        else:
            self.stream.seek(start - self.position, os.SEEK_CUR)
        self.position = start

    def finish(self) -> None:
        """Close the file in hand; a compressed one ends here, or else voxels are missing or shifted."""
        if self.stream is not None and self.volume.encoding in COMPRESSED:
            _discard(self.stream, self.volume.fileByteCount - self.position)
            if self.stream.read(1):
                remedy = SKIP_REMEDY if self.volume.header else "correct the sizes in the header"
                raise PipelineError("the data are longer than the sizes say", file=self.path, remedy=remedy)
        self.close()

    def close(self) -> None:
        """Close the file in hand as it is."""
        self.stream = None
        self.opened.close()


@contextlib.contextmanager
def _openDecoded(volume: RawVolume, index: int) -> Iterator[BinaryIO]:
    """Stream of one data file's decoded voxels, skipped bytes already behind it."""
    skip = volume.byteSkip
    if skip == -1:
        with _openEncoded(volume, index) as stream:
            skip = max(0, _countBytes(stream) - volume.fileByteCount)
    with _openEncoded(volume, index) as stream:
        _discard(stream, skip)
        yield io.BytesIO(_parseText(volume, stream)) if volume.encoding == "text" else stream


@contextlib.contextmanager
def _openEncoded(volume: RawVolume, index: int) -> Iterator[BinaryIO]:
    """Stream of one data file from its offset, decompressed."""
    with open(volume.dataPaths[index], "rb") as file:
        file.seek(volume.offsets[index])
        if volume.encoding not in COMPRESSED:
            yield file
            return
        with _decode(file, volume.encoding) as stream:
            yield stream


def _decode(file: BinaryIO, encoding: str) -> BinaryIO:
    """Stream of what a compressed file holds from here on."""
    if encoding == "zlib":
        return io.BufferedReader(_Inflated(file), CHUNK_BYTES)
    return gzip.GzipFile(fileobj=file) if encoding == "gzip" else bz2.BZ2File(file)


class _Inflated(io.RawIOBase):
    """What one zlib or gzip stream holds; memory does not follow how far it expands."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._decoder = file, zlib.decompressobj(wbits=47)  # takes both, as MetaIO does

    def readable(self) -> bool:
        """Whether this can be read, which it can."""
        return True

    def readinto(self, target: memoryview) -> int:
        """Fill a part of a buffer; 0 bytes at the end of the stream, whatever follows it in the file."""
        while not self._decoder.eof:
            encoded = self._decoder.unconsumed_tail or self._file.read(CHUNK_BYTES)
            part = self._decoder.decompress(encoded, len(target))
            if part:
                target[: len(part)] = part
                return len(part)
            if not encoded and not self._decoder.eof:
                raise EOFError("the compressed data end too early")
        return 0


def _parseText(volume: RawVolume, file: BinaryIO) -> bytes:
    """Numbers between spaces or commas; NumPy's own text reader lets 300 wrap around to 44 in 8 bits."""
    words = file.read().replace(b",", b" ").split()
    expected = volume.fileByteCount // volume.dtype.itemsize
    if len(words) != expected:
        rule, path = "the text must hold one number a voxel", file.name
        raise PipelineError(rule, file=path, expected=expected, received=len(words))
    convert = int if volume.dtype.kind in "iu" else float
    return np.array([convert(word) for word in words], volume.dtype).tobytes()


def _countBytes(stream: BinaryIO) -> int:
    """Bytes that are left of a stream."""
    return sum(map(len, iter(lambda: stream.read(CHUNK_BYTES), b"")))


def _fill(stream: BinaryIO, target: memoryview) -> None:
    """Read the next bytes, all of them or an error; in pieces, because gzip passes each through a copy."""
    while target:
        count = stream.readinto(target[:CHUNK_BYTES])
        if count == 0:
            raise EOFError("there are fewer bytes than the sizes say")
        target = target[count:]


def _discard(stream: BinaryIO, byteCount: int) -> None:
    """Pass over bytes, which must exist."""
    buffer = memoryview(bytearray(min(byteCount, CHUNK_BYTES)))
    for start in range(0, byteCount, CHUNK_BYTES):
        _fill(stream, buffer[: byteCount - start])
