"""A result that grows in place: a file of its final size whose voxels are written in any order.

`.partial-NAME` lies beside the result, which appears under its name when it is whole. Several processes may
write into it at once, each its own voxels.
"""

import contextlib
import gzip
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from engine.base.files import (
    CHUNK_BYTES,
    explainWriteError,
    fileSystemOf,
    flushToDisk,
    publish,
    reserveSpace,
    temporaryName,
    writeAtomically,
)
from engine.formats.nrrdHeaders import describeData, formatHeader, readHeader, voxelType
from engine.formats.nrrdWriter import COMPRESSION

INCOHERENT = ("nfs", "cifs", "smb", "fuse", "9p")  # file systems whose clients cache pages of their own


class GrowingVolume:
    """An unfinished file of probabilities that exists; it opens where it is, whoever has begun it.

    Parameters
    ----------
    path : Path
        The result, *.nrrd.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.partial = path, partialName(path)
        header, self._offset = readHeader(self.partial)
        self.header: dict = dict(header)
        self.shape, self.dtype = tuple(header["sizes"].tolist()), voxelType(self.partial, header)
        self._file: BinaryIO = open(self.partial, "r+b", 0, opener=_openShared)  # noqa: SIM115

    def __enter__(self) -> "GrowingVolume":
        """Close the file with the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        self._file.close()

    def write(self, planes: np.ndarray, plane: int, row: int, column: int) -> None:
        """Write probabilities (plane, row, column) float32 where they belong; the offsets are voxels."""
        encoded = encodeProbability(planes, self.dtype)
        width, height, _ = self.shape
        count, rows, columns = encoded.shape
        if columns == width:
            encoded = encoded.reshape(count, 1, rows * columns)
        for index, blocks in enumerate(encoded):
            for line, voxels in enumerate(blocks):
                first = ((plane + index) * height + row + line) * width + column
                self._writeAt(self._offset + first * self.dtype.itemsize, voxels)

    def _writeAt(self, position: int, voxels: np.ndarray) -> None:
        """Write all bytes of an array at a place of the file."""
        self._file.seek(position)
        left = memoryview(np.ascontiguousarray(voxels)).cast("B")
        while left:
            left = left[self._file.write(left) :]

    def flush(self) -> None:
        """Have everything that was written on the disk."""
        os.fsync(self._file.fileno())

    def finish(self, encoding: str) -> None:
        """Give the whole file its name, or write it compressed under its name."""
        self.flush()
        if encoding == "raw":
            os.replace(self.partial, self.path)
        else:
            self._compress(encoding)
            self.partial.unlink()
        flushToDisk(self.path.parent)

    def _compress(self, encoding: str) -> None:
        """Write the voxels again as gzip, without a date so that equal results are equal files."""
        with writeAtomically(self.path) as temporary, open(temporary, "wb") as target:
            target.write(formatHeader(self.header | {"encoding": encoding}))
            with (
                open(self.partial, "rb") as source,
                gzip.GzipFile("", "wb", COMPRESSION, target, mtime=0) as stream,
            ):
                source.seek(self._offset)
                while block := source.read(CHUNK_BYTES):
                    stream.write(block)


def _openShared(path: str, flags: int) -> int:
    """Open a file that several processes write into.

    A client of NFS may write whole pages of which it has changed a few bytes, and undo what another one wrote
    beside them; not so where every write goes to the server at once.
    """
    isCareful = not isCoherent(Path(path)) and hasattr(os, "O_DSYNC")
    return os.open(path, (os.O_WRONLY | os.O_DSYNC) if isCareful else flags)


def isCoherent(path: Path) -> bool:
    """Whether the file system keeps apart what several machines write side by side, whatever is cached."""
    return not fileSystemOf(path).startswith(INCOHERENT)


def beginGrowing(path: Path, shape: tuple[int, int, int], dtype: np.dtype | type | str, header: dict) -> None:
    """Begin the unfinished file of a result unless another process has; as `createGrowing`."""
    partial = partialName(path)
    if not partial.exists():
        temporary = temporaryName(path)
        _createAt(temporary, shape, dtype, header)
        publish(temporary, partial)


def createGrowing(
    path: Path, shape: tuple[int, int, int], dtype: np.dtype | type | str, header: dict
) -> None:
    """Begin the unfinished file of a result, anew where there is one.

    Parameters
    ----------
    path : Path
        The result, *.nrrd.
    shape : tuple of int
        Voxels along (x, y, z).
    dtype : dtype
        float32, or uint8 and uint16 for probabilities scaled to the full range.
    header : dict
        Geometry and key/values.

    Raises
    ------
    OSError
        The disk is too full, or the folder cannot be written to: see `explainedWriting`.
    """
    _createAt(partialName(path), shape, dtype, header)


def _createAt(partial: Path, shape: tuple[int, int, int], dtype: np.dtype | type | str, header: dict) -> None:
    """Write the header of a file, and reserve space for its voxels."""
    dtype = np.dtype(dtype).newbyteorder("<")
    text = formatHeader(describeData(header, shape, dtype))
    try:
        partial.write_bytes(text)
        reserveSpace(partial, len(text) + math.prod(shape) * dtype.itemsize)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def requireWritable(path: Path) -> None:
    """Raise OSError where the unfinished file of a result cannot be made or written into."""
    partialName(path).touch()
    with open(partialName(path), "r+b"):
        pass


def partialName(path: Path) -> Path:
    """Name of the unfinished file of a result."""
    return path.with_name(f".partial-{path.name}")


@contextlib.contextmanager
def explainedWriting(path: Path) -> Iterator[None]:
    """Tell in one line why a result cannot be written."""
    try:
        yield
    except OSError as error:
        if error.filename not in (None, str(path), str(partialName(path))):
            raise  # another file's trouble
        raise explainWriteError(error, path) from error


# ------------------------------------------------------------------------------------ probability as integer


def encodeProbability(planes: np.ndarray, dtype: np.dtype | type | str) -> np.ndarray:
    """Scale probabilities 0..1 to the full range of an integer type, to the nearest value; float stays."""
    dtype = np.dtype(dtype)
    if dtype.kind == "f":
        return planes.astype(dtype, copy=False)
    return np.rint(planes * np.float32(np.iinfo(dtype).max)).astype(dtype)


def decodeProbability(voxels: np.ndarray) -> np.ndarray:
    """Turn stored voxels of a result back into float32 probabilities 0..1."""
    if voxels.dtype.kind == "f":
        return voxels.astype(np.float32, copy=False)
    return voxels.astype(np.float32) / np.float32(np.iinfo(voxels.dtype).max)


def describeScale(dtype: np.dtype | type | str) -> dict[str, str | float]:
    """Header fields that say what stored probabilities mean; empty for float."""
    dtype = np.dtype(dtype)
    if dtype.kind == "f":
        return {}
    return {"old min": 0.0, "old max": 1.0, "probability": f"value / {np.iinfo(dtype).max}"}
