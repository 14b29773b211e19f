"""An OME-Zarr 0.5 that is written plane by plane: an image, its labels, and coarser levels for viewers."""

import contextlib
import glob
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
from engine.base.records import readJson
from engine.volumes.frame import METRES, Frame

if TYPE_CHECKING:  # it loads slowly
    import zarr

LOGGER = logging.getLogger(__name__)
NEEDED = 'pip install "zarr>=3,<4"'
UNDO = "move it away, or choose another --nameOutput"
NOTES = "segmentation"  # attribute that tells what a folder written here follows from
LABELS = "labels"  # folder; its name is part of OME-Zarr
COARSEST = 256  # voxels along the longest side of the last level
CHUNK, SHARD = 128, 1024  # voxels along x and y
DEPTH = 64  # planes of a chunk, and of a file; fewer where planes are large
LAYER_BYTES = 1 << 26  # of planes that wait for their files to be whole
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
    path: Path, shape: tuple[int, int, int], frame: Frame, notes: dict[str, Any]
) -> Iterator["ZarrFolder"]:
    """Write an OME-Zarr 0.5 plane by plane; it appears under its name when the block ends well.

    Memory holds the planes of a layer of files for every level of an image, 64 MiB of each at most where a
    plane is not larger than 32 MiB. Equal voxels give equal files.

    Parameters
    ----------
    path : Path
        The folder; an older one that was written here is replaced, nothing else is.
    shape : (int, int, int)
        Voxels along (x, y, z).
    frame : Frame
        Where they lie. OME-Zarr 0.5 knows no oblique axes: of these, the sides of a voxel are written.
    notes : dict
        What the voxels follow from; JSON. They tell too that the folder was written here.

    Raises
    ------
    PipelineError
        The folder cannot be written to, or would replace something else.
    """
    requireZarr()
    with _replaceFolder(path) as temporary:
        folder = ZarrFolder(temporary, shape, frame, notes)
        yield folder
        folder.finish()


def requireReplaceable(path: Path) -> None:
    """Refuse a folder that is there and was not written here, or holds more than what was.

    Raises
    ------
    PipelineError
        It would be lost.
    """
    if not os.path.lexists(path):
        return
    content = (readJson(path / "zarr.json") if path.is_dir() else None) or {}
    attributes = content.get("attributes")
    notes = attributes.get(NOTES) if isinstance(attributes, dict) else None
    if not (isinstance(notes, dict) and isinstance(notes.get("labels"), list)):
        raise PipelineError("is there, and not a result that may be replaced", file=path, remedy=UNDO)
    known = {path / "zarr.json", path / LABELS, path / LABELS / "zarr.json"}
    known |= {path / LABELS / str(name) for name in notes["labels"]}
    found = {*path.iterdir(), *(path / LABELS).glob("*")} - known
    others = [entry for entry in found if not (entry.name.startswith(".") or entry.name.isdigit())]
    if others:
        names = ", ".join(sorted(entry.relative_to(path).as_posix() for entry in others))
        rule = "holds what is no result, and would be lost"
        raise PipelineError(rule, file=path, received=names, remedy=UNDO)


@contextlib.contextmanager
def _replaceFolder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder that gets the name `path` when the block ends well."""
    temporary = temporaryName(path)
    former = temporary.with_name(f"{temporary.name}.former")
    requireReplaceable(path)
    try:
        for name in (path.name, f"{path.name}.former"):
            removeLeftovers(path.parent, glob.escape(name))
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


class ZarrFolder:
    """An OME-Zarr that is being written: one image, and labels of its voxels.

    Parameters
    ----------
    path, shape, frame, notes
        As of `openZarr`; the folder is empty.
    """

    def __init__(self, path: Path, shape: tuple[int, int, int], frame: Frame, notes: dict[str, Any]) -> None:
        self._path, self._notes = path, notes
        self._sides = [shape[::-1]]  # of every level
        while max(self._sides[-1]) > COARSEST:
            self._sides.append(tuple(math.ceil(side / 2) for side in self._sides[-1]))
        self._place = _describe(frame, len(self._sides))
        self._levels: list[_Level] = []
        self._labels: list[str] = []

    def addImage(self, name: str, dtype: str) -> Callable[[np.ndarray], None]:
        """Begin the image, of this name in viewers; gives what writes the next planes (z, y, x)."""
        return self._add(self._path, name, dtype)

    def addLabels(self, name: str, dtype: str, label: dict[str, Any]) -> Callable[[np.ndarray], None]:
        """Begin labels, of which 0 is the rest; gives what writes the next planes (z, y, x).

        Parameters
        ----------
        name : str
            Of the folder, and in viewers.
        dtype : str
            A type of whole numbers.
        label : dict
            What OME-Zarr calls "image-label": colours and names of values.
        """
        self._labels.append(name)
        return self._add(self._path / LABELS / name, name, dtype, label | {"source": {"image": "../../"}})

    def _add(
        self, path: Path, name: str, dtype: str, label: dict[str, Any] | None = None
    ) -> Callable[[np.ndarray], None]:
        """Begin an image with all its levels."""
        described = {"multiscales": [{"name": name, **self._place}]}
        described |= {} if label is None else {"image-label": label}
        group = _createGroup(path, described)
        levels: list[_Level] = []
        for number, sides in reversed([*enumerate(self._sides)]):
            array = _createArray(group, str(number), sides, np.dtype(dtype))
            levels.insert(0, _Level(array, levels[0] if levels else None, label is not None))
        self._levels += levels
        return levels[0].append

    def finish(self) -> None:
        """Write what waits, and what the folder holds."""
        for level in self._levels:  # of each image from the finest on
            level.finish()
        if self._labels:
            _createGroup(self._path / LABELS, {"labels": self._labels})
        root = _openGroup(self._path)
        root.attrs.update({NOTES: self._notes | {"labels": self._labels}})


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


def _createGroup(folder: Path, ome: dict[str, Any]) -> "zarr.Group":
    """Create a group with metadata of OME-Zarr; groups and arrays in it may be there."""
    import zarr

    store = zarr.storage.LocalStore(folder)
    return zarr.create_group(store, attributes={"ome": {"version": "0.5", **ome}})


def _openGroup(folder: Path) -> "zarr.Group":
    """Open a group, to change its metadata."""
    import zarr

    return zarr.open_group(zarr.storage.LocalStore(folder), mode="r+")


def _createArray(group: "zarr.Group", name: str, shape: tuple[int, ...], dtype: np.dtype) -> "zarr.Array":
    """Create the array of a level (z, y, x)."""
    from zarr.codecs import ZstdCodec

    chunks, shards = _chooseChunks(shape, dtype)
    return group.create_array(
        name,
        shape=shape,
        dtype=dtype.newbyteorder("="),
        chunks=chunks,
        shards=shards,
        compressors=[ZstdCodec(level=1)],
        fill_value=0,
        dimension_names=("z", "y", "x"),
        config={"write_empty_chunks": True},  # what is not there looks like a copy that broke off
    )


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
    return {"axes": axes, "datasets": datasets}
