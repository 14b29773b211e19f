"""HDF5 files opened for reading: with and without locks, and what is wrong with a file, in one line."""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from engine.base.errors import PipelineError

if TYPE_CHECKING:  # it loads slowly
    import h5py

HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"  # at byte 0, 512, 1024, 2048, ...
LOCK_WORDS = "unable to lock file"  # of HDF5
MIXED_WORDS = "locking flag values don't match"  # this process has opened it in another way
WRITING_WORDS = "already open for"  # write, or SWMR write
CUT_WORDS = re.compile(r"eof = (\d+),.*stored_eof = (\d+)")


def isHdf5(path: Path) -> bool:
    """Whether a file has the signature of HDF5; no lock is asked for."""
    with open(path, "rb") as file:
        place, size = 0, path.stat().st_size
        while place < size:
            file.seek(place)
            if file.read(len(HDF5_SIGNATURE)) == HDF5_SIGNATURE:
                return True
            place = max(512, 2 * place)
    return False


def openUnlocked(path: Path) -> "h5py.File":
    """Open an HDF5 file without a lock: what is only read needs none.

    Raises
    ------
    PipelineError
        This h5py cannot do without a lock, and its file system knows none.
    OSError
        Anything else that HDF5 does not like.
    """
    import h5py

    try:
        try:
            return h5py.File(path, "r", locking=False)
        except ValueError:  # an HDF5 that always locks
            return h5py.File(path, "r")
        except OSError as error:
            if MIXED_WORDS not in str(error):
                raise
            return h5py.File(path, "r")
    except OSError as error:
        if LOCK_WORDS not in str(error):
            raise
        rule, remedy = "its file system cannot lock files", "set HDF5_USE_FILE_LOCKING=FALSE and repeat"
        raise PipelineError(rule, file=path, remedy=remedy) from error


@contextlib.contextmanager
def openForReading(path: Path) -> Iterator["h5py.File"]:
    """Open an HDF5 file of any program, also one that a writer holds and has flushed.

    Raises
    ------
    PipelineError
        It is missing, no HDF5, truncated, damaged or still being written.
    """
    try:
        file = openUnlocked(path)
    except OSError as error:
        raise _explain(error, path) from error
    with file:
        yield file


def _explain(error: OSError, path: Path) -> PipelineError:
    """Turn what HDF5 says of a file that it does not open into the line a user reads."""
    if not path.is_file():
        return PipelineError("is a folder" if path.is_dir() else "there is no such file", file=path)
    if isinstance(error, PermissionError):
        return PipelineError(f"cannot be read: {error.strerror or error}", file=path)
    try:
        if not isHdf5(path):
            return PipelineError("is no HDF5 file", file=path)
    except OSError as other:
        return PipelineError(f"cannot be read: {other.strerror or other}", file=path)
    if WRITING_WORDS in str(error):
        remedy = "wait until it is closed; where its writer was killed, h5clear -s NAME of HDF5 unmarks it"
        return PipelineError("is still being written", file=path, remedy=remedy)
    if cut := CUT_WORDS.search(str(error)):
        expected, remedy = f"{cut[2]} bytes", "wait until it is written, or copy it once more"
        rule = "the file is truncated"
        return PipelineError(rule, file=path, expected=expected, received=cut[1], remedy=remedy)
    return PipelineError(f"is damaged: {error}", file=path)
