"""An OME-Zarr 0.5 that is written plane by plane, with coarser levels for viewers."""

import contextlib
import logging
import math
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.base.errors import PipelineError
from engine.base.files import explainWriteError, flushToDisk, removeLeftovers, temporaryName
from engine.volumes.frame import METRES, Frame

if TYPE_CHECKING:  # it loads slowly
    import zarr

LOGGER = logging.getLogger(__name__)
NEEDED = 'pip install "zarr>=3,<4"'
MARKS = ("zarr.json", ".zgroup", ".zarray")  # by which a Zarr is known
COARSEST = 256  # voxels along the longest side of the last level
CHUNK, SHARD = 128, 1024  # voxels along x and y
DEPTH = 64  # planes of a chunk, and of a file; fewer where planes are large
LAYER_BYTES = 1 << 27  # of planes that wait for their files to be whole
OME_NAMES = {1e-9: "nanometer", 1e-6: "micrometer", 1e-3: "millimeter", 1e-2: "centimeter", 1.0: "meter"}


def requireZarr() -> None:
    """Refuse early what could not be written.

    Raises
    ------
    PipelineError
        The package zarr is missing, or too old.
    """
    try:
        import zarr
    except ImportError as error:
        raise PipelineError("writing OME-Zarr needs the package zarr", remedy=NEEDED) from error
    if int(zarr.__version__.partition(".")[0]) < 3:
        raise PipelineError("writing OME-Zarr needs a newer zarr", received=zarr.__version__, remedy=NEEDED)


@contextlib.contextmanager
def openZarr(
    path: Path,
    shape: tuple[int, int, int],
    dtype: str,
    frame: Frame,
    isLabels: bool = False,
    encoding: str = "zstd",
) -> Iterator[Callable[[np.ndarray], None]]:
    """Write an OME-Zarr 0.5 plane by plane; it appears under its name when the block ends well.

    Memory holds the planes of a layer of files for every level, 128 MiB of each at most where a plane is not
    larger than 64 MiB. Equal voxels give equal files.

    Parameters
    ----------
    path : Path
        The folder; an older Zarr of this name is replaced, no other folder is.
    shape : (int, int, int)
        Voxels along (x, y, z).
    dtype : str
        Type of a voxel.
    frame : Frame
        Where they lie. OME-Zarr 0.5 knows no oblique axes: of these, the sides of a voxel are written.
    isLabels : bool
        Coarser voxels are the largest of eight values, not their mean.
    encoding : str
        'zstd' or 'raw'.

    Yields
    ------
    callable
        Writes the next planes (z, y, x).

    Raises
    ------
    PipelineError
        The folder cannot be written to, or something else of this name is there.
    """
    requireZarr()
    with _replaceFolder(path) as temporary:
        levels = _createLevels(temporary, shape, np.dtype(dtype), frame, isLabels, encoding)
        yield levels[0].append
        for level in levels:
            level.finish()


@contextlib.contextmanager
def _replaceFolder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder that gets the name `path` when the block ends well."""
    temporary = temporaryName(path)
    former = temporary.with_name(f"{temporary.name}.former")
    if os.path.lexists(path) and not any(
        (path / mark).is_file() for mark in ("zarr.json", ".zgroup", ".zarray")
    ):
        raise PipelineError("is there, and no Zarr that could be replaced", file=path, remedy="move it away")
    try:
        removeLeftovers(path.parent, path.name)
        temporary.mkdir()
        yield temporary
        for folder, _, names in os.walk(temporary):
            for name in (*names, "."):
                flushToDisk(Path(folder, name))
        if path.exists():
            os.replace(path, former)
        os.replace(temporary, path)
        flushToDisk(path.parent)
    except OSError as error:
        raise explainWriteError(error, path) from error
    finally:
        for leftover in (temporary, former):
            shutil.rmtree(leftover, ignore_errors=True)


# ------------------------------------------------------------------------------------------------ levels


class _Level:
    """A level that is being written: planes wait until they fill a layer of chunks."""

    def __init__(self, array: "zarr.Array", coarser: "_Level | None", isLabels: bool) -> None:
        self._array, self._coarser, self._isLabels = array, coarser, isLabels
        self._waiting = np.empty((array.chunks[0], *array.shape[1:]), array.dtype)  # a multiple of 2, or all
        self._count = self._written = 0

    def append(self, planes: np.ndarray) -> None:
        """Take the next planes (z, y, x)."""
        while len(planes):
            part = planes[: len(self._waiting) - self._count]
            self._waiting[self._count : self._count + len(part)] = part
            self._count, planes = self._count + len(part), planes[len(part) :]
            if self._count == len(self._waiting):
                self._write()

    def finish(self) -> None:
        """Write what waits."""
        if self._count:
            self._write()
        if self._written != self._array.shape[0]:
            raise ValueError(f"{self._written} planes were written of {self._array.shape[0]}")

    def _write(self) -> None:
        """Write the planes that wait, and hand them on to the next level."""
        planes = self._waiting[: self._count]
        self._array[self._written : self._written + self._count] = planes
        self._written, self._count = self._written + self._count, 0
        if self._coarser:
            self._coarser.append(halve(planes, self._isLabels))


def halve(block: np.ndarray, isLabels: bool) -> np.ndarray:
    """Join 2 x 2 x 2 voxels of a block of three axes: to their mean, or of labels to the largest.

    Where a side is odd, its last voxels count twice. Means of whole numbers are rounded, halves upwards.
    """
    if any(side % 2 for side in block.shape):
        block = np.pad(block, [(0, side % 2) for side in block.shape], "edge")
    parts = [block[z::2, y::2, x::2] for z in (0, 1) for y in (0, 1) for x in (0, 1)]
    if isLabels:
        return np.maximum.reduce(parts)
    isWhole = block.dtype.kind in "iu"
    total = np.zeros(parts[0].shape, np.int64 if isWhole else np.promote_types(block.dtype, np.float32))
    for part in parts:
        total += part.astype(total.dtype)
    return ((total + 4) // 8 if isWhole else total / 8).astype(block.dtype)


def _createLevels(
    folder: Path, shape: tuple[int, int, int], dtype: np.dtype, frame: Frame, isLabels: bool, encoding: str
) -> list[_Level]:
    """Create the arrays of all levels, the finest first, and their metadata."""
    import zarr
    from zarr.codecs import ZstdCodec

    sides = [shape[::-1]]
    while max(sides[-1]) > COARSEST:
        sides.append(tuple(math.ceil(side / 2) for side in sides[-1]))
    ome = {"version": "0.5", "multiscales": [_describe(frame, len(sides))]}
    ome |= {"image-label": {}} if isLabels else {}
    group = zarr.create_group(zarr.storage.LocalStore(folder), attributes={"ome": ome})
    compressors = [ZstdCodec(level=1)] if encoding == "zstd" else None
    level, levels = None, []
    for number in reversed(range(len(sides))):
        chunks, shards = _chooseChunks(sides[number], dtype)
        array = group.create_array(
            str(number),
            shape=sides[number],
            dtype=dtype.newbyteorder("="),
            chunks=chunks,
            shards=shards,
            compressors=compressors,
            fill_value=0,
            dimension_names=("z", "y", "x"),
            config={"write_empty_chunks": True},  # what is not there looks like a copy that broke off
        )
        level = _Level(array, level, isLabels)
        levels.insert(0, level)
    return levels


def _chooseChunks(shape: tuple[int, int, int], dtype: np.dtype) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Choose the sides (z, y, x) of a chunk and of a file, which is as deep; the depth is even."""
    depth, planeBytes = DEPTH, shape[1] * shape[2] * dtype.itemsize
    while depth > 2 and depth * planeBytes > LAYER_BYTES:
        depth //= 2
    chunk = [min(CHUNK, side) for side in shape[1:]]
    shard = [part * math.ceil(min(SHARD, side) / part) for part, side in zip(chunk, shape[1:], strict=True)]
    return (depth, *chunk), (depth, *shard)


def _describe(frame: Frame, count: int) -> dict[str, Any]:
    """Describe the levels as multiscales of OME-Zarr."""
    scale, origin = np.diag(frame.directions), frame.origin
    hasOrigin = frame.hasOrigin
    if np.count_nonzero(frame.directions - np.diag(scale)):
        LOGGER.warning("OME-Zarr knows no oblique axes: only the sides of a voxel are written")
        scale, hasOrigin = frame.sides, False
    origin = origin if hasOrigin else np.zeros(3)
    unit = OME_NAMES.get(METRES.get(frame.unit))
    axes = [{"name": name, "type": "space"} | ({"unit": unit} if unit else {}) for name in "zyx"]
    datasets = []
    for level in range(count):
        steps = [{"type": "scale", "scale": (scale * 2.0**level)[::-1].tolist()}]
        if hasOrigin or level:
            shift = origin + scale * (2.0**level - 1) / 2
            steps.append({"type": "translation", "translation": shift[::-1].tolist()})
        datasets.append({"path": str(level), "coordinateTransformations": steps})
    return {"name": "image", "axes": axes, "datasets": datasets}
