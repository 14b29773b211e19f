"""An NRRD file that is written plane by plane."""

import contextlib
import gzip
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from engine.base.files import writeAtomically
from engine.formats.nrrdHeaders import describeData, formatHeader

ENCODING = "gzip"  # masks and labels are mostly zeros
COMPRESSION = 1  # of gzip: masks and labels shrink a hundredfold even so


@contextlib.contextmanager
def openPlanes(
    path: Path, shape: tuple[int, int, int], dtype: str, header: dict, encoding: str
) -> Iterator[Callable[[np.ndarray], None]]:
    """Write an NRRD file plane by plane; it appears under its name when the block ends well.

    Parameters
    ----------
    path : Path
        The file.
    shape : (int, int, int)
        Voxels along (x, y, z).
    dtype : str
        Type of a voxel.
    header : dict
        Geometry and key/values.
    encoding : str
        'raw' or 'gzip'.

    Yields
    ------
    callable
        Writes the next planes (z, y, x).
    """
    kind = np.dtype(dtype).newbyteorder("<")
    text = formatHeader(describeData(header, shape, kind) | {"encoding": encoding})
    with writeAtomically(path) as temporary, contextlib.ExitStack() as stack:
        file = stack.enter_context(open(temporary, "wb"))
        file.write(text)
        if encoding == "gzip":
            file = stack.enter_context(gzip.GzipFile("", "wb", COMPRESSION, file, mtime=0))
        yield lambda planes: file.write(np.ascontiguousarray(planes, kind).data)
