"""HDF5 volumes: a dataset (z, y, x) of a file, of its own or put together from several files.

What is neither in chunks nor compressed is read as raw bytes at known places, like NRRD; the rest by chunks.
"""

import contextlib
import logging
import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

from engine.base.errors import PipelineError
from engine.base.hdf5 import openForReading
from engine.formats.chunked import ChunkedVolume, Ranges
from engine.formats.hdf5Frames import readFrame
from engine.formats.hdf5Kinds import requireFilters, requireInside, voxelType
from engine.formats.hdf5Links import COPIED, Place
from engine.formats.hdf5Moved import openVirtual
from engine.formats.hdf5Search import Found, chooseDataset
from engine.formats.hdf5Sources import Sources, listSources
from engine.formats.rawData import RawVolume
from engine.volumes.frame import Frame, Turn
from engine.volumes.turned import TurnedVolume
from engine.volumes.volume import Volume

LOGGER = logging.getLogger(__name__)
HUGE_CHUNK = 1 << 30  # bytes that have to be decoded at once
DAMAGES = (OSError, RuntimeError, ValueError, TypeError, LookupError, AttributeError, OverflowError)


class _Layout(NamedTuple):
    """How a dataset lies in its file: its frame along its own axes, as the rest."""

    shape: tuple[int, int, int]  # along the axes of the file that are kept, the last one first
    kind: np.dtype
    frame: Frame
    offset: int | None  # of its first voxel, where all follow one another
    depth: int  # planes of a chunk
    files: tuple[Path, ...]  # with its voxels
    isVirtual: bool
    prefix: str  # of the names of these files


def openVolume(path: str | Path, inner: str = "") -> Volume:
    """Open a dataset and check it without reading voxels.

    Parameters
    ----------
    path : path
        An HDF5 file of any ending.
    inner : str
        Name of the dataset, or of a group with one volume; without it, the only volume of the file or that of
        a known layout.

    Raises
    ------
    PipelineError
        It is missing, damaged or still being written; there is no such dataset or no volume of numbers; its
        voxels lie outside of the folder, or are compressed in a way that cannot be read.
    """
    path = Path(path)
    with _explaining(path):
        found = chooseDataset(path, inner)
        layout = _readLayout(found, path)
    if found.isProjections:
        LOGGER.warning("%s: %s looks like projections, not like a volume made of them", path, found.name)
    volume = _makeVolume(found, layout, path)
    kept = sorted(found.axes)
    turn = Turn(tuple(2 - kept.index(axis) for axis in reversed(found.axes)))
    return volume if turn == Turn() else TurnedVolume(volume, turn)


def _makeVolume(found: Found, layout: _Layout, path: Path) -> Volume:
    """Make a volume whose axes run as in the file."""
    place, files = found.place, tuple(dict.fromkeys((path, *found.place.files, *layout.files)))
    if layout.offset is not None and set(files) <= {path, place.path}:
        offsets, name = (layout.offset,), found.name
        return RawVolume(
            path, {}, layout.shape, layout.kind, "raw", (place.path,), offsets, place=layout.frame, inner=name
        )
    sources = files if layout.isVirtual else ()
    read = partial(_readBlock, place, tuple(sorted(found.axes)), sources, layout.prefix)
    return ChunkedVolume(
        path, files, layout.shape, layout.kind, layout.frame, layout.depth, read, inner=found.name
    )


@contextlib.contextmanager
def _explaining(path: Path) -> Iterator[None]:
    """Turn what HDF5 raises on a damaged file into the line a user reads."""
    try:
        yield
    except PipelineError:
        raise
    except DAMAGES as error:
        raise PipelineError(f"is damaged: {error}", file=path) from error


# -------------------------------------------------- what is there


def _readLayout(found: Found, path: Path) -> _Layout:
    """Find out where the voxels of a dataset lie, and that all of them can be read."""
    place, kept = found.place, tuple(sorted(found.axes))
    with openForReading(place.path) as file:
        dataset = file[place.name]
        requireInside(dataset, place.path)
        requireFilters(dataset, place.path)
        shape, kind = dataset.shape, voxelType(dataset.dtype)
        frame, chunks, isVirtual = readFrame(dataset, kept), dataset.chunks, dataset.is_virtual
        offset = None if isVirtual else _findBytes(dataset, place.path)
        if offset is not None:
            kind = np.dtype(dataset.dtype.str)
    files, prefix = (place.path,), ""
    if isVirtual:
        sources = _checkSources(found, path, shape)
        files, chunks, prefix = (place.path, *sources.files), sources.chunks, sources.prefix
    depth = 1
    if chunks and len(chunks) == len(shape):
        depth = min(chunks[kept[0]], shape[kept[0]])
        _tellHugeChunks(found.name, math.prod(chunks) * kind.itemsize, path)
    sides = tuple(shape[axis] for axis in reversed(kept))
    return _Layout(sides, kind, frame, offset, depth, files, isVirtual, prefix)


def _findBytes(dataset: h5py.Dataset, path: Path) -> int | None:
    """Find the first byte of voxels that lie one after the other as NumPy has them; None for all others.

    Voxels that were never written are told or, where there is no other one, refused.
    """
    properties, kind = dataset.id.get_create_plist(), dataset.dtype
    layout = properties.get_layout()
    if layout != h5py.h5d.COMPACT and not dataset.id.get_storage_size():
        rule, remedy = f"no voxel of {dataset.name} was ever written", "wait until it is written"
        raise PipelineError(rule, file=path, remedy=remedy)
    if layout == h5py.h5d.CHUNKED:
        _tellMissingChunks(dataset, path)
    if layout != h5py.h5d.CONTIGUOUS or not h5py.h5t.py_create(kind).equal(dataset.id.get_type()):
        return None
    offset, size = dataset.id.get_offset(), dataset.size * kind.itemsize
    if kind.kind not in "iuf" or kind.itemsize != voxelType(kind).itemsize or offset is None:
        return None
    available = path.stat().st_size - offset
    if available < size:
        rule, received = f"the data of {dataset.name} are truncated", max(available, 0)
        raise PipelineError(rule, file=path, expected=f"{size} bytes", received=received)
    return offset


def _tellMissingChunks(dataset: h5py.Dataset, path: Path) -> None:
    """Warn of chunks that were never written: HDF5 reads them as the fill value without a word."""
    sides = zip(dataset.shape, dataset.chunks, strict=True)
    expected = math.prod(math.ceil(size / chunk) for size, chunk in sides)
    missing = expected - dataset.id.get_num_chunks()
    if missing > 0:
        words = "%s: %d of %d chunks of %s were never written; they read as %s"
        LOGGER.warning(words, path, missing, expected, dataset.name, dataset.fillvalue)


def _tellHugeChunks(name: str, byteCount: int, path: Path) -> None:
    """Warn of chunks that need much memory, because HDF5 decodes each as a whole."""
    if byteCount > HUGE_CHUNK:
        LOGGER.warning(
            "%s: each chunk of %s takes %.1f GiB of memory; h5repack of HDF5 makes smaller ones",
            *(path, name, byteCount / 2**30),
        )


def _checkSources(found: Found, path: Path, shape: tuple[int, ...]) -> Sources:
    """Check the sources of a virtual dataset; tell of voxels that are in none of them."""
    sources = listSources(found.place, path)
    if sources.missing == math.prod(shape):
        rule = f"no part of {found.name} is there"
        raise PipelineError(rule, file=path, remedy=COPIED)
    if sources.missing:
        LOGGER.warning(
            "%s: %d voxels of %s are in none of its parts (indices %d:%d of its first axis); they read as %s",
            *(path, sources.missing, found.name, *sources.planes, _fillOf(found.place)),
        )
    return sources


def _fillOf(place: Place) -> object:
    """Give the value of voxels that are nowhere."""
    with openForReading(place.path) as file:
        return file[place.name].fillvalue


# -------------------------------------------------- voxels


def _readBlock(
    place: Place, axes: tuple[int, int, int], sources: tuple[Path, ...], prefix: str, ranges: Ranges
) -> np.ndarray:
    """Read ranges along x, y, z of the axes of a dataset that are kept: (z, y, x) in the type of the file.

    HDF5 would read a source that has gone as its fill value.
    """
    gone = next((source for source in sources if not source.is_file()), None)
    if gone:
        raise PipelineError(f"the file of a part of {place.name} has gone", file=gone)
    with openForReading(place.path) as file:
        with _explaining(place.path):
            dataset = openVirtual(file, place.name, prefix)
            requireFilters(dataset, place.path)
            index: list[int | slice] = [0] * dataset.ndim
        for axis, (start, stop) in zip(axes, reversed(ranges), strict=True):
            index[axis] = slice(start, stop)
        try:
            return dataset[tuple(index)]
        except DAMAGES as error:
            first, last = ranges[2]
            rule = f"planes {first}:{last} of {place.name} are damaged: {error}"
            raise PipelineError(rule, file=place.path) from error
