"""Files that appear under their name only when they are whole, and the digests that identify them."""

import contextlib
import errno
import functools
import hashlib
import json
import logging
import math
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np

from engine.errors import PipelineError

try:
    import fcntl
except ImportError:  # Windows: no lock
    fcntl = None

LOGGER = logging.getLogger(__name__)
FULL_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
CHUNK_BYTES = 1 << 22


@contextlib.contextmanager
def writeAtomically(path: str | Path) -> Iterator[Path]:
    """Yield a temporary name beside `path` that replaces it when the block ends well.

    The old file stays untouched until then, and for ever if the block raises.

    Raises
    ------
    PipelineError
        The folder does not exist or cannot be written to, or the disk is full.
    """
    path = Path(path)
    temporary = temporaryName(path)
    try:
        _removeLeftovers(path)
        yield temporary
        flushToDisk(temporary)
        os.replace(temporary, path)
        flushToDisk(path.parent)
    except OSError as error:
        if error.filename not in (None, str(path), str(path.parent), str(temporary)):
            raise  # another file's trouble
        raise explainWriteError(error, path) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def writeArraysAtomically(
    arrays: dict[Path, tuple[tuple[int, ...], str]], marker: Path
) -> Iterator[dict[Path, "SampleWriter"]]:
    """Yield a writer for each .npy file; when the block ends well all of them replace the old files together.

    The old files and the `marker` that vouches for them go first and the new files come one by one, so that a
    kill in between leaves an incomplete set without a marker and never a mixture of old and new.

    Parameters
    ----------
    arrays : dict
        {path: (shape, type)} of every file.
    marker : path
        File that the caller writes afterwards; it says that the set is whole.
    """
    with contextlib.ExitStack() as stack:
        writers = {
            path: SampleWriter(stack.enter_context(writeAtomically(path)), *arrays[path]) for path in arrays
        }
        yield writers
        for writer in writers.values():
            flushToDisk(writer.path)
        for path in (marker, *arrays):
            path.unlink(missing_ok=True)


class SampleWriter:
    """An .npy file that is filled sample by sample; only the sample in hand is mapped.

    Pages of a mapped file count as memory of the process, so a map of everything would grow with the file.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: str) -> None:
        header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
        with open(path, "wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            byteCount = file.tell() + math.prod(shape) * np.dtype(dtype).itemsize
        reserveSpace(path, byteCount)
        self.path = path

    def write(self, index: int, sample: np.ndarray) -> None:
        """Write one sample."""
        np.lib.format.open_memmap(self.path, mode="r+")[index] = sample


def temporaryName(path: Path) -> Path:
    """Name the unfinished file: same folder for an atomic rename, same suffix for Keras."""
    return path.with_name(f".partial-{socket.gethostname()}-{os.getpid()}-{path.name}")


def _removeLeftovers(path: Path) -> None:
    """Delete what killed runs of this machine left of the same file."""
    start = f".partial-{socket.gethostname()}-"
    for leftover in path.parent.glob(f"{start}*-{path.name}"):
        processId = leftover.name[len(start) :].split("-")[0]
        if (
            leftover.name == f"{start}{processId}-{path.name}"
            and processId.isdigit()
            and not _isAlive(int(processId))
        ):
            leftover.unlink(missing_ok=True)
    for leftover in path.parent.glob(f".partial-*-{path.name}"):
        foreign = re.fullmatch(r"\.partial-(.+)-\d+-" + re.escape(path.name), leftover.name)
        if foreign and foreign[1] != socket.gethostname():
            _nameLeftover(leftover)


@functools.cache
def _nameLeftover(leftover: Path) -> None:
    """Tell once of a file that another computer may still be writing."""
    LOGGER.warning("%s: of another computer; remove it unless a job is writing it there", leftover)


def _isAlive(processId: int) -> bool:
    """Whether a process of this number runs on this machine, or might."""
    if os.name == "nt":  # there, signal 0 would end the process
        return True
    try:
        os.kill(processId, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@contextlib.contextmanager
def lockName(path: Path, what: str) -> Iterator[None]:
    """Keep other processes from working at the same file in this block; a hidden file beside it is the lock.

    Parameters
    ----------
    path : Path
        What is worked at; it need not exist.
    what : str
        What a user reads of the other process.

    Raises
    ------
    PipelineError
        Another process is at it, or the lock cannot be written.
    """
    lock = path.with_name(f".lock-{path.name}")
    try:
        file = open(lock, "ab")  # noqa: SIM115
    except OSError as error:  # for example that of another user
        raise explainWriteError(error, lock) from error
    with file:
        if not _isLocked(file, lock):
            raise PipelineError(what, file=path)
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


def _isLocked(file: IO, path: Path) -> bool:
    """Lock a file until it is closed; True also where nothing can be locked."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except (BlockingIOError, FileNotFoundError):  # or the other one has just finished and removed it
        return False
    except OSError:  # a file system without locks
        return True


def explainWriteError(error: OSError, path: Path) -> PipelineError:
    """Turn an operating system's refusal to write `path` into the line a user reads."""
    if error.errno in FULL_DISK:
        return PipelineError(
            "the disk is full; the previous file, if any, is unchanged",
            file=path,
            remedy="free some space and repeat",
        )
    return PipelineError(f"cannot be written: {error.strerror or error}", file=path)


def flushToDisk(path: Path) -> None:
    """Make the content of a file, or the names in a folder, survive a power failure."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (
            errno.EINVAL,
            errno.ENOTSUP,
            errno.EROFS,
        ):  # some network file systems cannot sync a folder
            raise
    finally:
        os.close(descriptor)


def reserveSpace(path: Path, byteCount: int) -> None:
    """Create or extend a file to `byteCount` bytes that the disk is sure to have.

    Writing through a memory map to a disk that fills up kills the process (SIGBUS); reserving first gives an
    ordinary ENOSPC before any work.
    """
    path.touch()
    with open(path, "r+b") as file:  # "ab" would be EBADF where glibc has to stand in for a missing fallocate
        missing = byteCount - file.seek(0, os.SEEK_END)
        if missing <= 0:
            return
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, byteCount)
            return
        while missing > 0:  # macOS
            missing -= file.write(bytes(min(missing, CHUNK_BYTES)))


def digestFile(path: str | Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def writeJson(path: str | Path, content: dict) -> None:
    """Write a JSON file, atomically; JSON knows no NaN and no infinity, they become null."""
    text = json.dumps(finite(content), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    with writeAtomically(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def finite(content: object) -> object:
    """Replace numbers that JSON does not know by None, at any depth."""
    if isinstance(content, dict):
        return {key: finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def readJson(path: str | Path) -> dict | None:
    """Read a JSON object; None if there is no such file.

    Raises
    ------
    PipelineError
        The file is no JSON object.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise PipelineError(f"is no readable JSON file: {error}", file=path) from error
    if not isinstance(content, dict):
        raise PipelineError("is no JSON object", file=path, received=type(content).__name__)
    return content
