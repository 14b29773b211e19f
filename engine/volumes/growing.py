"""A result that grows in place and survives a kill: a pre-allocated file and a journal of what it holds.

`.partial-NAME` has the final size from the start, planes are written at their place; `.partial-NAME.json`
says what the file is made from and how much of it is done. Both lie beside the result, which appears under
its name when it is whole.
"""

import contextlib
import gzip
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from engine.base.errors import PipelineError
from engine.base.files import CHUNK_BYTES, explainWriteError, flushToDisk, reserveSpace, writeAtomically
from engine.base.records import listDifferences, readJson, writeJson
from engine.volumes.nrrdHeaders import describeData, formatHeader

COMMIT_SECONDS = 5.0  # between two entries of the journal: what a kill can cost
COMPRESSION = 1  # of gzip: noise does not shrink much further, and level 6 takes four times as long


class PartialVolume:
    """A probability volume being written; made by `openPartial`.

    Parameters
    ----------
    path : Path
        The unfinished file.
    shape : tuple of int
        Voxels along (x, y, z).
    dtype : dtype
        float32, or uint8 and uint16 for probabilities scaled to the full range.
    offset : int
        Bytes of the header.
    journal : dict
        What the file is made from and how much is done.
    """

    def __init__(
        self, path: Path, shape: tuple[int, int, int], dtype: np.dtype, offset: int, journal: dict[str, Any]
    ) -> None:
        self.path, self.shape, self.dtype, self.offset, self.journal = path, shape, dtype, offset, journal
        self.file: BinaryIO = open(path, "r+b", buffering=0)  # noqa: SIM115
        self.progress: dict[str, Any] = journal["progress"]  # where to begin
        self._latest, self._committed = self.progress, time.monotonic()

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
                self._writeAt(self.offset + first * self.dtype.itemsize, voxels)

    def _writeAt(self, position: int, voxels: np.ndarray) -> None:
        """Write all bytes of an array at a place of the file."""
        self.file.seek(position)
        left = memoryview(np.ascontiguousarray(voxels)).cast("B")
        while left:
            left = left[self.file.write(left) :]

    def commit(self, progress: dict[str, Any]) -> None:
        """Note what is done, at most every few seconds; the planes are on the disk before the note is."""
        self._latest = progress
        if time.monotonic() - self._committed >= COMMIT_SECONDS:
            self._writeJournal()

    def _writeJournal(self) -> None:
        """Write the journal once the planes that it vouches for are on the disk."""
        os.fsync(self.file.fileno())
        writeJson(journalName(self.path), self.journal | {"progress": self._latest})
        self._committed = time.monotonic()

    def interrupt(self) -> None:
        """Note what is done for the next run if the disk lets us; keep nothing where nothing was done."""
        with contextlib.suppress(OSError, PipelineError):  # then the last note stands
            if not self._latest:
                self.path.unlink()
            elif self.path.exists():
                self._writeJournal()

    def finish(self, path: Path, header: dict) -> None:
        """Give the whole file its name, or compress it under its name."""
        os.fsync(self.file.fileno())
        if header["encoding"] == "raw":
            os.replace(self.path, path)
        else:
            _compress(self.path, self.offset, header, path)
            self.path.unlink()
        flushToDisk(path.parent)
        journalName(self.path).unlink(missing_ok=True)


def partialName(path: Path) -> Path:
    """Name of the unfinished file of a result."""
    return path.with_name(f".partial-{path.name}")


def journalName(partial: Path) -> Path:
    """Name of the journal of an unfinished file."""
    return partial.with_name(f"{partial.name}.json")


def readJournal(path: Path, identity: dict[str, Any]) -> tuple[dict[str, Any] | None, list[str]]:
    """Find out whether an unfinished result can be continued.

    Parameters
    ----------
    path : Path
        The result.
    identity : dict
        Everything that the result follows from.

    Returns
    -------
    journal : dict or None
        None if there is nothing to continue.
    differences : list of str
        What is not as in the unfinished result.
    """
    partial = partialName(path)
    try:
        journal = readJson(journalName(partial))
    except PipelineError:
        return None, ["the journal is damaged"]
    if journal is None or not partial.is_file():
        return None, []
    if not {"identity", "layout", "progress"} <= journal.keys():
        return None, ["the journal is damaged"]
    old = journal.get("identity", {})
    differences = listDifferences(old, identity)
    return (None, differences) if differences else (journal, [])


@contextlib.contextmanager
def openPartial(
    path: Path,
    shape: tuple[int, int, int],
    dtype: np.dtype | type | str,
    header: dict,
    journal: dict[str, Any],
    encoding: str = "raw",
) -> Iterator[PartialVolume]:
    """Open or begin the unfinished file of a result; the result appears when the block ends well.

    An interruption or an error keeps the unfinished file for the next run, unless nothing was done. One
    process at a time: the caller holds `lockName(path, ...)` since before `readJournal`.

    Parameters
    ----------
    path : Path
        Result, *.nrrd.
    shape : tuple of int
        Voxels along (x, y, z).
    dtype : dtype
        Type of a voxel of the result.
    header : dict
        Geometry and key/values.
    journal : dict
        From `readJournal`, or a new one: {"identity": ..., "progress": {}, ...}.
    encoding : str
        'raw', or 'gzip' of the finished file.

    Raises
    ------
    PipelineError
        The disk is too full, or the folder cannot be written to.
    """
    dtype, partial = np.dtype(dtype).newbyteorder("<"), partialName(path)
    header = describeData(header, shape, dtype)
    text = formatHeader(header)
    with _explained(path):
        partial.touch()
        volume = PartialVolume(partial, shape, dtype, len(text), journal)
    with volume.file, _explained(path):
        try:
            if not journal["progress"]:
                journalName(partial).unlink(missing_ok=True)  # of another input: it must not vouch for this
                partial.write_bytes(text)
                reserveSpace(partial, len(text) + math.prod(shape) * dtype.itemsize)
            yield volume
            volume.finish(path, header if encoding == "raw" else header | {"encoding": encoding})
        except BaseException:
            volume.interrupt()
            raise


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Tell in one line why a result cannot be written."""
    try:
        yield
    except OSError as error:
        if error.filename not in (None, str(path), str(partialName(path))):
            raise  # another file's trouble
        raise explainWriteError(error, path) from error


def _compress(partial: Path, offset: int, header: dict, path: Path) -> None:
    """Write the finished voxels again as gzip, without a date so that equal results are equal files."""
    with writeAtomically(path) as temporary, open(partial, "rb") as source, open(temporary, "wb") as target:
        target.write(formatHeader(header))
        source.seek(offset)
        with gzip.GzipFile("", "wb", COMPRESSION, target, mtime=0) as stream:
            while block := source.read(CHUNK_BYTES):
                stream.write(block)


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
