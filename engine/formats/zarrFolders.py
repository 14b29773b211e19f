"""Zarr folders of versions 2 and 3, plain or OME-Zarr: one volume, or several that are asked for by name.

Metadata are read as JSON; the package zarr decodes the chunks. Nothing outside of the folder is read.
"""

import logging
import math
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from engine.base.errors import PipelineError
from engine.formats.chunked import ChunkedVolume, Ranges
from engine.formats.omeAxes import orderAxes, readAxes, readFrame
from engine.formats.zarrCodecs import requireCodecs, splitCodec
from engine.formats.zarrNodes import Node, findVolume, listAbove, readCounts, requireInside

if TYPE_CHECKING:  # it loads slowly
    import zarr

LOGGER = logging.getLogger(__name__)
NEEDED = 'pip install "zarr>=3,<4"'
SHARDED = "sharding_indexed"
WIDENED = {np.dtype(bool): "uint8", np.dtype("<f2"): "float32", np.dtype(">f2"): "float32"}


class Grid(NamedTuple):
    """The chunk files of an array.

    Attributes
    ----------
    counts : tuple of int
        Files along each axis.
    depths : tuple of int
        Voxels along each axis that are decoded together: those of a chunk, also where a file holds several.
    start : str
        What the names of files begin with: nothing or c.
    separator : str
        Between the numbers in a name: a slash, so that they lie in folders, or a dot.
    """

    counts: tuple[int, ...]
    depths: tuple[int, ...]
    start: str
    separator: str


def openVolume(path: str | Path, inner: str = "") -> ChunkedVolume:
    """Open a Zarr folder and check it without reading voxels.

    Parameters
    ----------
    path : path
        The folder.
    inner : str
        An array in it (0/1), an image of several or labels (labels/pores); empty for the largest level of
        its only image, or its only array of three axes.

    Raises
    ------
    PipelineError
        It is missing or damaged, holds no volume with one number a voxel, or several to choose from; it needs
        a package that is not installed.
    """
    path, inner = Path(path), inner.strip("/")
    _requireFolder(path)
    found = findVolume(path, inner)
    axes = readAxes(found)
    order = orderAxes(found, axes)
    grid = _readGrid(found.array)
    requireCodecs(found.array)
    array = _openArray(found.array.folder, found.array.version)
    dtype = _typeOf(array, found.array)
    chunks = _listChunks(found.array, grid)
    _countAbsent(found.array, grid, len(chunks), array.fill_value)
    above = [file for node in listAbove(found.array) for file in node.files]
    depth, height, width = (found.array.shape[axis] for axis in order)
    return ChunkedVolume(
        path,
        (*above, *found.array.files, *chunks),
        (width, height, depth),
        dtype,
        readFrame(found, axes, order),
        grid.depths[order[0]],
        partial(_readBlock, path, found.array.name, found.array.version, order, dtype),
        inner=inner,
    )


def _requireFolder(path: Path) -> None:
    """Refuse what is no folder."""
    if not os.path.exists(path):
        raise PipelineError("there is no such folder", file=path)
    if path.is_dir():
        return
    if path.suffix.lower() == ".zip":
        raise PipelineError("is a zipped Zarr", file=path, expected="a folder", remedy="unzip it first")
    raise PipelineError("is no Zarr", file=path, expected="a folder", received="a file")


# -------------------------------------------------- the array as the package zarr sees it


def _openArray(folder: Path, version: int) -> "zarr.Array":
    """Open an array; what is wrong with it is told in one line."""
    try:
        import zarr
        from zarr.storage import LocalStore
    except ImportError as error:
        raise PipelineError("Zarr needs the package zarr", file=folder, remedy=NEEDED) from error
    try:
        return zarr.open_array(LocalStore(folder, read_only=True), mode="r", zarr_format=version)
    except MemoryError:
        raise
    except Exception as error:  # zarr raises whatever damaged metadata lead to
        raise PipelineError(f"is no readable Zarr array: {error}", file=folder) from error


def _typeOf(array: "zarr.Array", node: Node) -> np.dtype:
    """Give the type of a voxel in the byte order of this machine.

    Truth values, as masks have them, count as uint8. Half floats, which nabu writes unless it is told
    otherwise, become float32: sums of them would overflow.
    """
    dtype = np.dtype(array.dtype)
    if dtype in WIDENED:
        return np.dtype(WIDENED[dtype])
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        rule, expected = "this type of voxel cannot be read", "integers or floats of 8 to 64 bits"
        raise PipelineError(rule, file=node.folder, expected=expected, received=dtype)
    return dtype.newbyteorder("=")


def _readBlock(
    root: Path, name: str, version: int, order: tuple[int, int, int], dtype: np.dtype, region: Ranges
) -> np.ndarray:
    """Decode a region (x, y, z) of an array whose axes `order` are z, y and x: voxels (z, y, x)."""
    folder = root / name
    array = _openArray(folder, version)
    selection: list[Any] = [0] * array.ndim
    for axis, (start, stop) in zip(order, region[::-1], strict=True):
        selection[axis] = slice(start, stop)
    try:
        block = np.asarray(array[tuple(selection)])
    except MemoryError:
        raise
    except Exception as error:  # each codec has its own
        first, last = region[2][0], region[2][1] - 1
        rule = f"the data are truncated or damaged somewhere in planes {first} to {last}: {error}"
        raise PipelineError(rule, file=folder) from error
    block = block.transpose([sorted(order).index(axis) for axis in order])
    return block.astype(dtype, copy=False)


# -------------------------------------------------- chunk files


def _readGrid(node: Node) -> Grid:
    """Read how an array is cut into chunks and how their files are called."""
    content = node.content
    if node.version == 2:
        chunks = depths = readCounts(node, content.get("chunks"), "size of chunks")
        start, separator = "", content.get("dimension_separator", ".")
    else:
        name, settings = splitCodec(content.get("chunk_grid"))
        if name != "regular":
            rule = "its chunks cannot be read"
            raise PipelineError(rule, file=node.files[0], expected="a regular grid", received=name)
        chunks = readCounts(node, settings.get("chunk_shape"), "size of chunks")
        depths = _decodedTogether(node, chunks)
        name, settings = splitCodec(content.get("chunk_key_encoding"))
        start, separator = {"default": ("c", "/"), "v2": ("", ".")}.get(name, ("", None))
        separator = settings.get("separator", separator) if separator else None
    if separator not in ("/", ".") or not len(chunks) == len(depths) == len(node.shape):
        rule = "its chunks do not fit its shape, or their names cannot be read"
        raise PipelineError(rule, file=node.files[0])
    counts = tuple(math.ceil(side / chunk) for side, chunk in zip(node.shape, chunks, strict=True))
    return Grid(counts, depths, start, separator)


def _decodedTogether(node: Node, chunks: tuple[int, ...]) -> tuple[int, ...]:
    """Give the sides of what is decoded at once: a chunk of a shard, if it can be had by itself."""
    codecs = node.content.get("codecs")
    if not isinstance(codecs, list) or len(codecs) != 1:
        return chunks
    name, settings = splitCodec(codecs[0])
    return readCounts(node, settings.get("chunk_shape"), "size of chunks") if name == SHARDED else chunks


def _listChunks(node: Node, grid: Grid) -> list[Path]:
    """List the chunk files that are there, in the order of their numbers; other files are left alone."""
    if grid.separator == "/":
        folder = node.folder / grid.start if grid.start else node.folder
        requireInside(node.root, folder)
        return list(_walk(node.root, folder, grid.counts))
    start = grid.start + grid.separator if grid.start else ""
    found = []
    for entry in _scan(node.root, node.folder):
        numbers = entry.name.removeprefix(start).split(grid.separator)
        if entry.name.startswith(start) and len(numbers) == len(grid.counts) and entry.is_file():
            place = [_readNumber(*pair) for pair in zip(numbers, grid.counts, strict=True)]
            found += [(place, entry.name)] if None not in place else []
    return [node.folder / name for _, name in sorted(found)]


def _walk(root: Path, folder: Path, counts: tuple[int, ...]) -> Iterator[Path]:
    """List the chunk files in folders that are called by numbers below `counts`."""
    numbered = [(_readNumber(entry.name, counts[0]), entry) for entry in _scan(root, folder)]
    for _, entry in sorted((pair for pair in numbered if pair[0] is not None), key=lambda pair: pair[0]):
        if len(counts) > 1 and entry.is_dir():
            yield from _walk(root, folder / entry.name, counts[1:])
        elif len(counts) == 1 and entry.is_file():
            yield folder / entry.name


def _scan(root: Path, folder: Path) -> list[os.DirEntry]:
    """List a folder, which may be missing; links must not lead out of the root."""
    try:
        with os.scandir(folder) as entries:
            found = list(entries)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise PipelineError(f"cannot be read: {error.strerror or error}", file=folder) from error
    for entry in found:
        if entry.is_symlink():
            requireInside(root, folder / entry.name)
    return found


def _readNumber(text: str, count: int) -> int | None:
    """Read a number below `count` in the one spelling that chunks have; None where it is no such one."""
    isNumber = text.isascii() and text.isdigit() and len(text) < 10 and text == str(int(text))
    return int(text) if isNumber and int(text) < count else None


def _countAbsent(node: Node, grid: Grid, present: int, value: object) -> None:
    """Warn where chunk files are not there: that may be meant, or be a copy that was broken off."""
    count = math.prod(grid.counts)
    if present < count:
        words = "%s: %d of %d chunk files are not there; their voxels count as the fill value %s"
        LOGGER.warning(words, node.folder, count - present, count, 0 if value is None else value)
