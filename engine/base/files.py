"""Files that appear under their name only when they are whole, and the digests that identify them."""

import contextlib
import errno
import fnmatch
import functools
import glob
import logging
import os
import re
import shutil
import socket
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from engine.base.errors import PipelineError

try:
    import fcntl
except ImportError:  # Windows: no lock
    fcntl = None

LOGGER = logging.getLogger(__name__)
FULL_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EACCES}  # as file systems say it
CHUNK_BYTES = 1 << 22
PROCESS_DIGITS = 7  # of the number of a process, at most


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
        removeLeftovers(path.parent, glob.escape(path.name))
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
def openScratch(path: Path) -> Iterator[Path]:
    """Make a folder beside `path` for what is too large for the memory; it goes with the block.

    What a killed run of this machine left of it goes too.

    Raises
    ------
    PipelineError
        It cannot be made.
    """
    path = path.parent.resolve() / f"{path.stem}.pieces"  # shorter than the names of all results
    scratch = temporaryName(path)
    try:
        removeLeftovers(path.parent, glob.escape(path.name))
        scratch.mkdir()
    except OSError as error:
        raise explainWriteError(error, scratch) from error
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def publish(temporary: Path, path: Path) -> bool:
    """Give a whole file its name if there is no such file; tells whether it did. The temporary name goes.

    Of several processes, on any machines, one succeeds. Hard links do that on all file systems for clusters;
    where there are none, a look and a rename stand in, which two processes could do at the same moment.

    Raises
    ------
    OSError
        The folder cannot be written to.
    """
    try:
        flushToDisk(temporary)
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            if path.exists():
                return False
            os.rename(temporary, path)
        flushToDisk(path.parent)
        return True
    finally:
        temporary.unlink(missing_ok=True)


def fileSystemOf(path: Path) -> str:
    """Name the type of the file system that a path lies on, such as ext4 or nfs4; empty where none tells."""
    try:
        lines = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        return ""
    path = path.resolve()
    mounts = [line.split(" ")[1:3] for line in lines if line.count(" ") >= 2]
    known = [(folder.replace("\\040", " "), kind) for folder, kind in mounts]
    fitting = [(len(folder), kind) for folder, kind in known if path.is_relative_to(folder)]
    return max(fitting, default=(0, ""), key=lambda pair: pair[0])[1]


def temporaryName(path: Path) -> Path:
    """Name the unfinished file: same folder for an atomic rename, same suffix for Keras."""
    return path.with_name(f".partial-{socket.gethostname()}-{os.getpid()}-{path.name}")


def refuseLongNames(paths: Iterable[Path], remedy: str) -> None:
    """Refuse files whose names are too long for their folder, also while they are written, before any work.

    Parameters
    ----------
    paths : iterable of Path
        All that will be written.
    remedy : str
        What a user can do.

    Raises
    ------
    PipelineError
        The name of a file, the longest one of them, or its path has more bytes than the system allows.
    """
    path = max(paths, key=lambda path: len(os.fsencode(path.name)))
    temporary = temporaryName(path)
    spare = max(PROCESS_DIGITS - len(str(os.getpid())), 0)  # another process shall not be refused
    own, count = len(os.fsencode(path.name)), len(os.fsencode(temporary.name)) + spare
    if count > (limit := _limitOf(path.parent, "PC_NAME_MAX", 255)):
        expected, received = f"at most {limit} bytes", f"{own}, and {count - own} more while it is written"
        raise PipelineError(
            "the name is too long", file=path.name, expected=expected, received=received, remedy=remedy
        )
    count = len(os.fsencode(os.path.abspath(temporary))) + spare
    if count >= (limit := _limitOf(path.parent, "PC_PATH_MAX", 4096)):
        raise PipelineError(
            f"the path is too long with {count} bytes",
            file=path,
            expected=f"less than {limit}",
            remedy=remedy,
        )


def _limitOf(folder: Path, name: str, usual: int) -> float:
    """Ask the file system of a folder for a limit; the usual one where it does not tell."""
    try:
        limit = os.pathconf(folder, name)
    except (AttributeError, OSError, ValueError):  # Windows has no such call
        return usual
    return limit if limit > 0 else float("inf")


def removeLeftovers(folder: Path, pattern: str) -> None:
    """Delete what killed runs of this machine left of files whose names match a pattern, as of `glob`."""
    own, name = re.escape(f".partial-{socket.gethostname()}-"), fnmatch.translate(pattern)
    for leftover in folder.glob(f".partial-*-{pattern}"):
        found = re.fullmatch(rf"{own}(\d+)-{name}", leftover.name)
        if not found and re.fullmatch(rf"\.partial-.+-\d+-{name}", leftover.name):
            _nameLeftover(leftover)
        elif found and not _isAlive(int(found[1])):
            if leftover.is_dir():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                leftover.unlink(missing_ok=True)


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


def splitNumbers(path: Path) -> tuple[list[str | int], str]:
    """Sort key of a file: its name with numbers as numbers; the name itself decides between equal ones."""
    parts = re.split("([0-9]+)", path.name)  # every second one is a number
    return [int(part) if index % 2 else part for index, part in enumerate(parts)], path.name
