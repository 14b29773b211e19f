"""TIFF stacks: one file with all slices, or a folder with one file a slice.

What is not compressed is read as raw bytes at known places, like NRRD; the rest plane by plane.
"""

import contextlib
import re
import struct
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.base.errors import PipelineError
from engine.base.files import splitNumbers
from engine.volumes.frame import Frame, frameOfVoxels
from engine.volumes.planes import PlaneVolume
from engine.volumes.rawData import RawVolume
from engine.volumes.volume import Volume

if TYPE_CHECKING:  # it loads slowly
    import tifffile

ENDINGS = (".tif", ".tiff")
MOST_CHANNELS = 4  # of a single slice; more than these are slices
SCREENS = (72, 96, 100, 150, 300, 600)  # dots an inch that programs write of themselves
TAG_SCALES = {2: 25400.0, 3: 10000.0}  # micrometres of an inch, of a centimetre
MICRONS = ("um", "µm", "μm", "micron", "microns")
PREDICTORS = (1, 2)  # none, differences along a row
BUILT_IN = (1, 8, 32946, 32773)  # none, deflate, packed bits: tifffile needs no other package
UNKNOWN = "the TIFF gives no size of a voxel; --voxelSize does"
FLAT = "is a single slice, no volume"
FLAT_REMEDY = "put the slices of a volume into a folder of their own"


def openVolume(path: str | Path) -> Volume:
    """Open a stack and check it without reading voxels.

    Parameters
    ----------
    path : path
        A .tif or .tiff file with all slices, or a folder of such files with a slice each, in the order of
        their names (numbers as numbers).

    Raises
    ------
    PipelineError
        It is missing or damaged, or no volume with one number a voxel.
    """
    path = Path(path)
    if path.is_dir():
        return _openFolder(path)
    with _openTiff(path) as tiff:
        series = _onlySeries(tiff, path)
        if series.ndim == 2:
            raise _refuseSlice(tiff, path)
        depth, height, width = series.shape
        shape, frame, kind = (width, height, depth), _readFrame(tiff), _typeOf(tiff, series)
        if series.dataoffset is not None:
            _requireBytes(path, series)
            return RawVolume(path, {}, shape, kind, "raw", (path,), (series.dataoffset,), place=frame)
        _decode(series.pages[0], path)  # refused before any work
    return PlaneVolume(path, (path,), shape, np.dtype(series.dtype), frame, partial(_readPages, path))


def _readPages(path: Path, numbers: range) -> Iterator[np.ndarray]:
    """Read slices (y, x) of one file."""
    with _openTiff(path) as tiff:
        for number in numbers:
            yield _decode(tiff.series[0].pages[number], path)


def _refuseSlice(tiff: "tifffile.TiffFile", path: Path) -> PipelineError:
    """Say what is wrong with a single slice; a cut stack of ImageJ, which has one page, looks like it."""
    announced = (tiff.imagej_metadata or {}).get("images", 1)
    if announced == 1:
        return PipelineError(FLAT, file=path, remedy=FLAT_REMEDY)
    expected = f"{announced} slices, as ImageJ says"
    return PipelineError("the data are truncated", file=path, expected=expected, received="fewer bytes")


def _openFolder(folder: Path) -> Volume:
    """Open a folder of slices; other files in it, such as a log of the reconstruction, are left alone."""
    files = listSlices(folder)
    if not files:
        raise PipelineError("the folder holds no TIFF slices (.tif, .tiff)", file=folder)
    with _openTiff(files[0]) as tiff:
        first = _describeSlice(tiff, files[0])
        frame, (height, width), kind = _readFrame(tiff), first[0], first[1]
        _decode(tiff.series[0].pages[0], files[0])  # refused before any work
    offsets = []
    for file in files:
        with _openTiff(file) as tiff:
            shape, dtype, offset = _describeSlice(tiff, file)
        if (shape, dtype) != first[:2]:
            expected, received = (
                f"{part[1]} x {part[0]} {kind}" for part, kind in (first[:2], (shape, dtype))
            )
            rule = f"differs from {files[0].name}, the first slice"
            raise PipelineError(rule, file=file, expected=expected, received=received)
        offsets.append(offset)
    size = width, height, len(files)
    if None not in offsets:
        return RawVolume(folder, {}, size, kind, "raw", tuple(files), tuple(offsets), place=frame)
    return PlaneVolume(folder, tuple(files), size, kind.newbyteorder("="), frame, partial(_readSlices, files))


def _readSlices(files: list[Path], numbers: range) -> Iterator[np.ndarray]:
    """Read slices (y, x) of one file each."""
    for number in numbers:
        with _openTiff(files[number]) as tiff:
            yield _decode(tiff.series[0].pages[0], files[number])


def listSlices(folder: Path) -> list[Path]:
    """List the slices of a folder in the order of their names, numbers as numbers."""
    try:
        entries = [path for path in folder.iterdir() if not path.name.startswith(".")]
    except OSError as error:
        raise PipelineError(f"cannot be read: {error.strerror or error}", file=folder) from error
    for path in sorted(entries):
        if path.is_dir():
            rule = f"lies in the folder of slices {folder.name}"
            raise PipelineError(rule, file=path, remedy="keep the slices of a volume in one folder")
    return sorted((path for path in entries if path.suffix.lower() in ENDINGS), key=splitNumbers)


# -------------------------------------------------- what a file holds


@contextlib.contextmanager
def _openTiff(path: Path) -> Iterator["tifffile.TiffFile"]:
    """Open a file; what is wrong with it is told in one line."""
    try:
        import tifffile
    except ImportError as error:
        raise PipelineError("TIFF needs tifffile", file=path, remedy="pip install tifffile") from error
    try:
        with tifffile.TiffFile(path) as tiff:
            yield tiff
    except PipelineError:
        raise
    except FileNotFoundError as error:
        raise PipelineError("there is no such file", file=path) from error
    except OSError as error:
        raise PipelineError(f"cannot be read: {error.strerror or error}", file=path) from error
    except Exception as error:  # tifffile raises whatever a damaged file leads to
        raise PipelineError(f"is no readable TIFF file: {error}", file=path) from error


def _onlySeries(tiff: "tifffile.TiffFile", path: Path) -> Any:
    """Give the one series of grey values of a file; refuse anything else."""
    _requireAllPages(tiff, path)
    if len(tiff.series) != 1:
        rule = "holds several images of different shapes or types"
        raise PipelineError(rule, file=path, expected="one stack", received=len(tiff.series))
    series = tiff.series[0]
    page, axes = series.keyframe, series.axes
    if page.samplesperpixel != 1 or "S" in axes:
        raise PipelineError("is a colour image", file=path, expected="one grey value a voxel")
    isStack = series.ndim == 3 and (axes[0] != "C" or series.shape[0] > MOST_CHANNELS)  # whatever z is called
    for axis, what in (("C", "channels"), ("T", "points in time")):
        if axis in axes and not isStack:
            count = series.shape[axes.index(axis)]
            raise PipelineError(f"has several {what}", file=path, expected="one", received=count)
    if series.dtype is None or series.dtype.kind not in "iuf" or page.bitspersample not in (8, 16, 32, 64):
        received = f"{page.bitspersample} bits, {series.dtype}"
        rule = "this type of voxel cannot be read"
        raise PipelineError(rule, file=path, expected="integers or floats of 8 to 64 bits", received=received)
    if series.ndim not in (2, 3):
        raise PipelineError("is no 3D volume", file=path, expected="3 axes", received=axes)
    return series


def _requireAllPages(tiff: "tifffile.TiffFile", path: Path) -> None:
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


def _requireBytes(path: Path, series: Any) -> None:
    """Refuse raw voxels that end before the last one."""
    available = path.stat().st_size - series.dataoffset
    if available < series.nbytes:
        rule = "the data are truncated"
        raise PipelineError(rule, file=path, expected=f"{series.nbytes} bytes", received=max(available, 0))


def _describeSlice(tiff: "tifffile.TiffFile", path: Path) -> tuple[tuple[int, int], np.dtype, int | None]:
    """Give shape (y, x), type and, where it is not compressed, the first byte of a slice."""
    series = _onlySeries(tiff, path)
    if series.ndim != 2:
        rule = "holds several slices, but lies in a folder of slices"
        raise PipelineError(rule, file=path, expected="one slice a file", received=series.shape[0])
    if series.dataoffset is not None:
        _requireBytes(path, series)
    return series.shape, _typeOf(tiff, series), series.dataoffset


def _typeOf(tiff: "tifffile.TiffFile", series: Any) -> np.dtype:
    """Type of a voxel with the byte order of the file."""
    return np.dtype(series.dtype).newbyteorder(tiff.byteorder)


def _decode(page: Any, path: Path) -> np.ndarray:
    """Decode a page (y, x)."""
    try:
        return page.asarray()
    except Exception as error:
        compression, predictor = page.keyframe.compression, page.keyframe.predictor
        if compression not in BUILT_IN or predictor not in PREDICTORS:
            way = f" with predictor {predictor.name}" if predictor not in PREDICTORS else ""
            rule = f"its compression {compression.name}{way} cannot be read"
            remedy = "pip install imagecodecs, or save it uncompressed"
            raise PipelineError(rule, file=path, remedy=remedy) from error
        raise PipelineError(f"the data are truncated or damaged: {error}", file=path) from error


# -------------------------------------------------- the size of a voxel


def _readFrame(tiff: "tifffile.TiffFile") -> Frame:
    """Find the sides of a voxel: by OME-XML, by the description of ImageJ, else by the resolution tags."""
    found = _omeSides(tiff) or _imagejSides(tiff)
    if not found:
        across = _tagSides(tiff.pages[0])
        found = ((*across, None), "um") if across else ((None,) * 3, "")
    sides, unit = found
    if None in sides[:2]:
        return frameOfVoxels(UNKNOWN)
    if sides[2] is None:
        return frameOfVoxels("the TIFF gives no size of a voxel along z; --voxelSize does")
    lengths = np.array(sides, float)
    if not (np.isfinite(lengths).all() and (lengths > 0).all()):
        return frameOfVoxels(f"the TIFF gives a voxel the size {tuple(sides)}")
    return Frame(np.diag(lengths), np.zeros(3), unit)


def _omeSides(tiff: "tifffile.TiffFile") -> tuple[tuple[float | None, ...], str] | None:
    """Read the sides of a voxel from OME-XML; None where it gives none or different units."""
    if not tiff.is_ome:
        return None
    found = dict(re.findall(r'\b(PhysicalSize[XYZ](?:Unit)?)="([^"]*)"', tiff.ome_metadata or ""))
    sides = tuple(_number(found.get(f"PhysicalSize{axis}")) for axis in "XYZ")
    units = {found.get(f"PhysicalSize{axis}Unit", "µm") for axis in "XYZ"}
    unit = units.pop()
    if units or sides[0] is None or unit in ("pixel", "reference frame"):
        return None
    return sides, "um" if unit in MICRONS else unit


def _imagejSides(tiff: "tifffile.TiffFile") -> tuple[tuple[float | None, ...], str] | None:
    """Read the sides of a voxel from the description of ImageJ; its unit is also that of the resolution."""
    described = tiff.imagej_metadata or {}
    unit = re.sub(r"\\u([0-9a-fA-F]{4})", lambda code: chr(int(code[1], 16)), str(described.get("unit", "")))
    across = [_inverse(tiff.pages[0], name) for name in ("XResolution", "YResolution")]
    if unit in ("", "pixel", "pixels", "inch") or None in across:
        return None
    return (*across, _number(described.get("spacing"))), "um" if unit in MICRONS else unit


def _tagSides(page: Any) -> tuple[float, float] | None:
    """Read the sides of a pixel in micrometres from the resolution tags; None where they mean a screen."""
    unit = page.tags.get("ResolutionUnit")
    scale = TAG_SCALES.get(int(unit.value)) if unit else None
    across = [_inverse(page, name) for name in ("XResolution", "YResolution")]
    if scale is None or None in across:
        return None
    if any(abs(25400 / (scale * side) - dots) < 0.5 for side in across for dots in SCREENS):
        return None
    return tuple(scale * side for side in across)


def _inverse(page: Any, name: str) -> float | None:
    """Give the length of a pixel by a resolution tag."""
    tag = page.tags.get(name)
    count, length = tag.value if tag else (0, 0)
    return length / count if count and length else None


def _number(text: object) -> float | None:
    """Read a number; None where it is none."""
    try:
        return float(str(text))
    except ValueError:
        return None
