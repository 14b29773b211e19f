"""What a TIFF file holds: its one stack of grey values, whole, and the pages that its planes are."""

import contextlib
import os
import re
import struct
from collections.abc import Iterator
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.base.errors import PipelineError
from engine.formats.omeFiles import REMEDY, SAVE, findCompanion, nameFiles, readCompanion

if TYPE_CHECKING:  # it loads slowly
    import tifffile

MOST_CHANNELS = 4  # of a single slice; more than these are slices
PREDICTORS = (1, 2)  # none, differences along a row
BUILT_IN = (1, 8, 32946, 32773)  # none, deflate, packed bits: tifffile needs no other package
BITS = (1, 8, 16, 32, 64)
Place = tuple[Path, int]  # a file, and the number of a page in it

# -------------------------------------------------- the file


@contextlib.contextmanager
def openTiff(path: Path, xml: str | None = None) -> Iterator["tifffile.TiffFile"]:
    """Open a file, with OME-XML that comes from elsewhere; what is wrong with it is told in one line."""
    try:
        import tifffile
    except ImportError as error:
        raise PipelineError("TIFF needs tifffile", file=path, remedy="pip install tifffile") from error
    try:
        with tifffile.TiffFile(path, omexml=xml) as tiff:
            yield tiff
    except PipelineError:
        raise
    except FileNotFoundError as error:
        raise PipelineError("there is no such file", file=path) from error
    except OSError as error:
        raise PipelineError(f"cannot be read: {error.strerror or error}", file=path) from error
    except Exception as error:  # tifffile raises whatever a damaged file leads to
        raise PipelineError(f"is no readable TIFF file: {_tell(error)}", file=path) from error


def _tell(error: Exception) -> str:
    """Give the words of an error; with its kind where there are none, as of KeyError(0)."""
    words = str(error).strip()
    return words if re.search("[A-Za-z]", words) else f"{type(error).__name__} {words}".strip()


@contextlib.contextmanager
def openDescribed(path: Path) -> Iterator[tuple["tifffile.TiffFile", tuple[Path, ...]]]:
    """Open a file with its OME-XML, which may lie in a companion file beside it; give that one too."""
    with openTiff(path) as tiff:
        companion = findCompanion(tiff, path)
        if companion is None:
            yield tiff, ()
            return
    with openTiff(path, readCompanion(companion, path)) as tiff:
        yield tiff, (companion,)


def onlySeries(tiff: "tifffile.TiffFile", path: Path) -> Any:
    """Give the one series of grey values of a file; refuse anything else.

    Of a pyramid it is the full resolution.

    Raises
    ------
    PipelineError
        Pages or files are missing; it is no stack or slice with one number a voxel.
    """
    pageCount = _countPages(tiff, path)
    named = nameFiles(tiff, path)
    found = _listSeries(tiff)
    if len(found) != 1:
        rule = "holds several images of different shapes or types"
        raise PipelineError(rule, file=path, expected="one stack", received=len(found))
    series = found[0]
    _requireGreys(series, path)
    _requirePlanes(series, pageCount, bool(named), path)
    return series


def _listSeries(tiff: "tifffile.TiffFile") -> list:
    """List the series of a file: without the smaller copies of a pyramid, and slices as one stack.

    Slices that a program wrote one by one with tifffile, as nabu does, are a series each for it.
    """
    if len(tiff.series) > 1 and all(one.kind == "shaped" and one.ndim == 2 for one in tiff.series):
        tiff.is_shaped = False
        del tiff.series
    return [one for one in tiff.series if not one.keyframe.is_subifd]


def _requireGreys(series: Any, path: Path) -> None:
    """Refuse a series that is not one slice or stack with one number a voxel."""
    page, axes = series.keyframe, series.axes
    if page.samplesperpixel != 1 or "S" in axes:
        raise PipelineError("is a colour image", file=path, expected="one grey value a voxel")
    isStack = series.ndim == 3 and (axes[0] != "C" or series.shape[0] > MOST_CHANNELS)  # whatever z is called
    for axis, what in (("C", "channels"), ("T", "points in time")):
        if axis in axes and not isStack:
            count = series.shape[axes.index(axis)]
            raise PipelineError(f"has several {what}", file=path, expected="one", received=count)
    if series.dtype is None or series.dtype.kind not in "biuf" or page.bitspersample not in BITS:
        received = f"{page.bitspersample} bits, {series.dtype}"
        rule, expected = "this type of voxel cannot be read", "integers or floats of 8 to 64 bits"
        remedy = None if page.bitspersample in BITS else "save it with 8 or 16 bits"
        raise PipelineError(rule, file=path, expected=expected, received=received, remedy=remedy)
    if series.ndim not in (2, 3):
        raise PipelineError("is no 3D volume", file=path, expected="3 axes", received=axes)
    if axes[-2:] != "YX":
        remedy = "save it with the axes ZYX"
        rule = "its pages are no slices across z"
        raise PipelineError(rule, file=path, expected="axes that end in YX", received=axes, remedy=remedy)


def _countPages(tiff: "tifffile.TiffFile", path: Path) -> int:
    """Refuse a file whose chain of pages breaks off: tifffile would go on with fewer of them."""
    form, file, offset, known = tiff.tiff, tiff.filehandle, tiff.pages.first.offset, set()
    try:
        while offset:
            if offset in known:
                raise PipelineError("the data are truncated or damaged: pages in a circle", file=path)
            known.add(offset)
            file.seek(offset)
            (tagCount,) = struct.unpack(form.tagnoformat, file.read(form.tagnosize))
            file.seek(offset + form.tagnosize + tagCount * form.tagsize)
            (offset,) = struct.unpack(form.offsetformat, file.read(form.offsetsize))
    except (struct.error, OverflowError) as error:
        rule = f"the data are truncated or damaged: page {len(known)} is not whole"
        raise PipelineError(rule, file=path) from error
    return len(known)


def _requirePlanes(series: Any, pageCount: int, isOneOfSeveral: bool, path: Path) -> None:
    """Refuse planes that the file announces and does not have, which tifffile makes up, or the reverse."""
    planeCount = series.shape[0] if series.ndim == 3 else 1
    pages = list(series.pages) if series.kind == "ome" else []
    if None in pages:
        found = sum(page is not None for page in pages)
        rule = "slices that its OME-XML tells of are missing"
        raise PipelineError(rule, file=path, expected=planeCount, received=found, remedy=REMEDY)
    isWhole = isOneOfSeveral or len(series.levels) > 1 or pageCount in (1, planeCount)
    if not isWhole:
        rule = "its description tells of another number of slices than it has pages"
        remedy = "save it again with the program that you look at it with"
        raise PipelineError(rule, file=path, expected=planeCount, received=pageCount, remedy=remedy)


# -------------------------------------------------- voxels


def placesOf(series: Any, path: Path, named: list[Path]) -> list[Place]:
    """Give file and page of every plane of a series, whose other files are `named`.

    Raises
    ------
    PipelineError
        OME-XML does not fit the pages, takes one for several planes, or leaves some of several files out.
    """
    if named and series.kind != "ome":  # tifffile would go on with the pages of this file
        raise PipelineError("its OME-XML does not fit the pages of its files", file=path, remedy=REMEDY)
    known = {os.path.abspath(file): file for file in (*named, path)}
    counts, places = {}, []
    for page in series.pages:
        file = known[os.path.abspath(page.parent.filehandle.path)]
        counts[file] = len(page.parent.pages)
        places.append((file, page.index))
    if len(set(places)) < len(places):
        raise PipelineError("its OME-XML takes a page for several slices", file=path, remedy=SAVE)
    isWhole = set(named) <= counts.keys() and sum(counts.values()) == len(places)
    if named and not isWhole:
        rule, received = "its OME-XML tells of fewer slices than its files have pages", len(places)
        raise PipelineError(rule, file=path, received=received, remedy=SAVE)
    return places


def typeOf(tiff: "tifffile.TiffFile", series: Any) -> np.dtype:
    """Type of a voxel with the byte order of the file."""
    return np.dtype(series.dtype).newbyteorder(tiff.byteorder)


def widen(kind: np.dtype) -> np.dtype:
    """Type of a voxel in memory, in the order of the machine: single bits are 0 and 1, halves float32."""
    return {"?": np.dtype("u1"), "e": np.dtype("f4")}.get(kind.char, kind.newbyteorder("="))


def rawOffset(series: Any) -> int | None:
    """Byte where raw voxels of a usual type start; None where planes have to be decoded."""
    isOneFile = not getattr(series, "is_multifile", False)
    return series.dataoffset if isOneFile and series.dtype.char not in "?e" else None


def requireBytes(path: Path, offset: int, byteCount: int) -> None:
    """Refuse raw voxels that end before the last one."""
    available = path.stat().st_size - offset
    if available < byteCount or not offset:
        rule, received = "the data are truncated", max(available, 0) if offset else "none written"
        raise PipelineError(rule, file=path, expected=f"{byteCount} bytes", received=received)


def nameCode(code: int) -> str:
    """Name the value of a tag such as a compression; tifffile gives one it does not know as a number."""
    return getattr(code, "name", "NONE" if code == 1 else f"number {code}")


def readPlanes(places: list[Place], shape: tuple[int, int], numbers: range) -> Iterator[np.ndarray]:
    """Read planes (y, x) by their numbers; each file is open as long as planes of it follow each other."""
    for path, group in groupby((places[number] for number in numbers), itemgetter(0)):
        with openTiff(path) as tiff:
            for _, index in group:
                yield _decode(tiff.pages[index], path, shape)


def _decode(page: Any, path: Path, shape: tuple[int, int]) -> np.ndarray:
    """Decode a page (y, x)."""
    if not all(page.databytecounts):
        raise PipelineError(f"the data are damaged: parts of page {page.index} were never written", file=path)
    try:
        plane = page.asarray()
    except Exception as error:
        compression, predictor = page.keyframe.compression, page.keyframe.predictor
        isKnown = isinstance(compression, int) and isinstance(predictor, int)  # not so where tags are damaged
        if isKnown and (compression not in BUILT_IN or predictor not in PREDICTORS):
            way = f" with predictor {nameCode(predictor)}" if predictor not in PREDICTORS else ""
            rule = f"its compression {nameCode(compression)}{way} cannot be read"
            remedy = "pip install imagecodecs, or save it uncompressed"
            raise PipelineError(rule, file=path, remedy=remedy) from error
        raise PipelineError(f"the data are truncated or damaged: {_tell(error)}", file=path) from error
    if plane.shape != shape:
        rule = f"the data are damaged: page {page.index} has another shape"
        raise PipelineError(rule, file=path, expected=shape, received=plane.shape)
    return plane
