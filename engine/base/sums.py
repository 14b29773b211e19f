"""Partial sums of a file that several processes make and share, in small files beside the result."""

import glob
import hashlib
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from engine.base.files import publish, removeLeftovers, temporaryName

KEY = "of"  # entry of a file: what it is a sum of


class SumFiles(NamedTuple):
    """Partial sums in files `STEM-...npz`; nobody waits for anybody, and one that is damaged is made anew.

    Parameters
    ----------
    stem : Path
        Of their names.
    key : str
        Everything that the sums follow from; others under the same names are not taken.
    """

    stem: Path
    key: str

    def load(self, name: str, number: int) -> dict[str, np.ndarray] | None:
        """Give a sum that another process, or an earlier run, has made; None: there is none."""
        path = self._pathOf(name, number)
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {entry: file[entry] for entry in file.files}
        except FileNotFoundError:
            return None
        except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile):
            path.unlink(missing_ok=True)
            return None
        return arrays if str(arrays.pop(KEY, "")) == self._mark(name) else None

    def save(self, name: str, number: int, arrays: dict[str, np.ndarray]) -> None:
        """Keep a sum; where another process has kept the same one meanwhile, that one stays."""
        path = self._pathOf(name, number)
        temporary = temporaryName(path)
        with open(temporary, "wb") as file:
            np.savez_compressed(file, **{KEY: np.array(self._mark(name))}, **arrays)
        publish(temporary, path)

    def remove(self) -> None:
        """Forget all sums under this name, also of other jobs, and what killed processes left of them."""
        pattern = f"{glob.escape(self.stem.name)}-*.npz"
        for path in self.stem.parent.glob(pattern):
            path.unlink(missing_ok=True)
        removeLeftovers(self.stem.parent, pattern)

    def _mark(self, name: str) -> str:
        """Digest of what a sum is of."""
        return hashlib.sha256(f"{self.key}\n{name}".encode()).hexdigest()

    def _pathOf(self, name: str, number: int) -> Path:
        """Name the file of a sum."""
        return self.stem.with_name(f"{self.stem.name}-{self._mark(name)[:12]}-{number}.npz")
