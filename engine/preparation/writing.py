"""Arrays on the disk that are written sample by sample, and appear together."""

import contextlib
import math
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from engine.base.files import flushToDisk, reserveSpace, writeAtomically


@contextlib.contextmanager
def writeArraysAtomically(
    arrays: dict[Path, tuple[tuple[int, ...], str]], marker: Path, outdated: Iterable[Path] = ()
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
    outdated : iterable of path
        Files of an earlier set that this one has not; they go with the old ones.
    """
    with contextlib.ExitStack() as stack:
        writers = {
            path: SampleWriter(stack.enter_context(writeAtomically(path)), *arrays[path]) for path in arrays
        }
        yield writers
        for writer in writers.values():
            flushToDisk(writer.path)
        for path in (marker, *arrays, *outdated):
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
