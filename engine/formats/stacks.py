"""TIFF stacks: one file with all slices, or a folder with one file a slice.

What is not compressed is read as raw bytes at known places, like NRRD; the rest plane by plane.
"""

import dataclasses
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.base.errors import PipelineError
from engine.formats.omeFiles import nameFiles
from engine.formats.planes import PlaneVolume
from engine.formats.rawData import RawVolume
from engine.formats.sliceNames import Slices, listSlices
from engine.formats.tiffPages import (
    nameCode,
    onlySeries,
    openDescribed,
    openTiff,
    placesOf,
    rawOffset,
    readPlanes,
    requireBytes,
    typeOf,
    widen,
)
from engine.formats.tiffPlaces import findNotes, readFrame
from engine.volumes.volume import Volume

if TYPE_CHECKING:  # it loads slowly
    import tifffile

FLAT = "is a single slice, no volume"
FLAT_REMEDY = "put the slices of a volume into a folder of their own, and name that folder"


def openVolume(path: str | Path) -> Volume:
    """Open a stack and check it without reading voxels.

    Parameters
    ----------
    path : path
        A .tif or .tiff file with all slices, one of the files of an OME-TIFF, or a folder of such files with
        a slice each, in the order of their names (numbers as numbers).

    Raises
    ------
    PipelineError
        It is missing or damaged, or no volume with one number a voxel.
    """
    path = Path(path)
    return _openFolder(path) if path.is_dir() else _openFile(path)


# -------------------------------------------------- one file


def _openFile(path: Path) -> Volume:
    """Open a file with all slices, or one that names the others with the rest of them."""
    with openDescribed(path) as (tiff, companions):
        series, named = onlySeries(tiff, path), nameFiles(tiff, path)
        depth, (height, width) = _countSlices(tiff, series, path), series.shape[-2:]
        shape, kind = (width, height, depth), typeOf(tiff, series)
        frame, notes = readFrame(tiff, findNotes(path, path))
        notes = (*companions, *notes)
        offset = None if named else rawOffset(series)
        if offset is not None:
            requireBytes(path, offset, int(np.prod(shape)) * kind.itemsize)
            return RawVolume(path, {}, shape, kind, "raw", (path,), (offset,), place=frame, notes=notes)
        _requirePages(len(tiff.pages), depth, series, bool(named), path)
        places = placesOf(series, path, named)
    volume = _decoded(path, places, shape, kind, frame)
    files = dict.fromkeys((path, *(file for file, _ in places), *notes))
    return dataclasses.replace(volume, files=tuple(files))


def _countSlices(tiff: "tifffile.TiffFile", series: Any, path: Path) -> int:
    """Count the slices of a stack; refuse a single one.

    ImageJ writes one page before all voxels of a stack above 4 GB. What it says of the number of slices as
    "images" alone is not seen by tifffile; of a cut file one slice is seen.
    """
    announced = (tiff.imagej_metadata or {}).get("images", 1)
    if series.ndim == 3:
        _requireAgreement(announced, series.shape[0], len(tiff.pages), path)
        return series.shape[0]
    if not isinstance(announced, int) or announced <= 1 or len(tiff.pages) > 1:
        raise PipelineError(FLAT, file=path, remedy=FLAT_REMEDY)
    offset = rawOffset(series)
    if offset is None or path.stat().st_size < offset + announced * series.nbytes:
        expected = f"{announced} slices, as ImageJ says"
        raise PipelineError("the data are truncated", file=path, expected=expected, received="fewer bytes")
    return announced


def _requireAgreement(announced: Any, depth: int, pageCount: int, path: Path) -> None:
    """Refuse a description of ImageJ whose slices are not its images, where no pages tell which is right."""
    if pageCount == 1 and isinstance(announced, int) and announced not in (1, depth):
        rule, remedy = "the description of ImageJ contradicts itself", "save it again with ImageJ"
        expected, received = f"{announced} images", f"{depth} slices"
        raise PipelineError(rule, file=path, expected=expected, received=received, remedy=remedy)


def _requirePages(count: int, depth: int, series: Any, isOneOfSeveral: bool, path: Path) -> None:
    """Refuse slices that all lie in one page and have to be decoded: single bits, compressed, in tiles."""
    if count == 1 < depth and not isOneOfSeveral:
        page = series.keyframe
        received = f"{page.bitspersample} bits, compression {nameCode(page.compression)}"
        rule, remedy = "holds all its slices in one page, encoded", "save it with one page a slice"
        raise PipelineError(rule, file=path, expected="plain numbers", received=received, remedy=remedy)


def _decoded(path: Path, places: list, shape: tuple, kind: np.dtype, frame: Any) -> PlaneVolume:
    """Make a volume of planes that have to be decoded; the first one is, before any work."""
    read = partial(readPlanes, places, shape[1::-1])
    next(read(range(1)))
    files = tuple(dict.fromkeys(file for file, _ in places))
    return PlaneVolume(path, files, shape, widen(kind), frame, read)


# -------------------------------------------------- a folder of slices


def _openFolder(folder: Path) -> Volume:
    """Open a folder of slices; other files in it, such as a log of the reconstruction, are left alone."""
    slices = listSlices(folder)
    first = slices.files[0]
    with openDescribed(first) as (tiff, companions):
        if companions or nameFiles(tiff, first):
            return _openNamed(folder, slices)
        size, kind, _ = _describeSlice(tiff, first)
        frame, notes = readFrame(tiff, findNotes(folder, first), slices.step)
    offsets = [_readOffset(file, first, size, kind) for file in slices.files]
    shape = (*size[::-1], len(slices.files))
    if None not in offsets:
        files = tuple(slices.files)
        return RawVolume(folder, {}, shape, kind, "raw", files, tuple(offsets), place=frame, notes=notes)
    volume = _decoded(folder, [(file, 0) for file in slices.files], shape, kind, frame)
    return dataclasses.replace(volume, files=(*slices.files, *notes))


def _openNamed(folder: Path, slices: Slices) -> Volume:
    """Open an OME-TIFF of several files by its folder: the order is the one that its OME-XML gives."""
    volume = _openFile(slices.files[0])
    others = sorted(set(slices.files) - set(volume.files))
    if others:
        rule = f"lies in the folder of slices {folder.name}, but their OME-XML does not name it"
        raise PipelineError(rule, file=others[0], remedy="take it out of the folder")
    return dataclasses.replace(volume, path=folder)


def _readOffset(file: Path, first: Path, size: tuple[int, int], kind: np.dtype) -> int | None:
    """Give the first byte of a slice where it is raw; refuse one that differs from the first slice."""
    with openTiff(file) as tiff:
        found = _describeSlice(tiff, file)
    if found[:2] != (size, kind):
        expected, received = (f"{s[1]} x {s[0]} {k}" for s, k in ((size, kind), found[:2]))
        rule = f"differs from {first.name}, the first slice"
        raise PipelineError(rule, file=file, expected=expected, received=received)
    return found[2]


def _describeSlice(tiff: "tifffile.TiffFile", path: Path) -> tuple[tuple[int, int], np.dtype, int | None]:
    """Give shape (y, x), type and, where it is not compressed, the first byte of a slice."""
    series = onlySeries(tiff, path)
    if series.ndim != 2:
        rule = "holds several slices, but lies in a folder of slices"
        raise PipelineError(rule, file=path, expected="one slice a file", received=series.shape[0])
    offset = rawOffset(series)
    if offset is not None:
        requireBytes(path, offset, series.nbytes)
    return series.shape, typeOf(tiff, series), offset
