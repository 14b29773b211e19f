"""NRRD volumes, checked before they are read.

Arrays are (x, y, z): index order 'F' of pynrrd, the first axis changes fastest in the file. The data may
follow the header, or lie in a file of their own or in several; rawData.py reads them.
"""

import logging
import re
from dataclasses import replace
from pathlib import Path

import numpy as np

from engine.base.errors import PipelineError
from engine.formats.dataFiles import LIKE_NUMBERED, findDataFile, measureSurplus, numberNames
from engine.formats.nrrdHeaders import ENCODINGS, readHeader, voxelType
from engine.formats.rawData import CHUNK_BYTES, COMPRESSED, SKIP_REMEDY, RawVolume

LOGGER = logging.getLogger(__name__)
MOST_LAYERS = 1000  # of overlapping segments

# -------------------------------------------------- open: everything is checked, no voxel is read


def openVolume(path: str | Path) -> RawVolume:
    """Open an NRRD file (attached or detached header) and check it without reading voxels.

    Parameters
    ----------
    path : path
        An .nrrd or .nhdr file.

    Returns
    -------
    RawVolume
        With `.header`, `.shape` (x, y, z), `.dtype`, `.read(region)` and `.slabs(region)`.

    Raises
    ------
    PipelineError
        The file is missing, no NRRD or no 3D volume with one number a voxel, its header contradicts itself,
        or its data are missing, too short, in an encoding that cannot be read or in another folder.
    """
    return _open(Path(path))


def openMask(path: str | Path) -> RawVolume:
    """Open an NRRD file as `openVolume`; a segmentation of 3D Slicer may have layers.

    Then a voxel is a record with a field for each layer, `layer0` and so on: see `segments.LayeredVolume`.
    """
    return _open(Path(path), mayHaveLayers=True)


def _open(path: Path, mayHaveLayers: bool = False) -> RawVolume:
    """Open a file and check it."""
    try:
        header, headerBytes = readHeader(path, mayHaveLayers)
        shape, dtype = tuple(header["sizes"].tolist()), voxelType(path, header)
        encoding = _checkEncoding(path, header)
        if isinstance(header.get("layers"), int):  # a key/value of that name is text
            dtype = _recordType(path, header, dtype, encoding)
        byteSkip = header.get("byte skip", 0) if encoding in COMPRESSED else 0
        volume = RawVolume(
            path, header, shape, dtype, encoding, _findDataFiles(path, header), offsets=(), byteSkip=byteSkip
        )
        start = 0 if "data file" in header else headerBytes
        return replace(volume, offsets=_locateData(volume, start))
    except OSError as error:
        raise PipelineError(
            f"cannot be read: {error.strerror or error}", file=error.filename or path
        ) from error


def _recordType(path: Path, header: dict, dtype: np.dtype, encoding: str) -> np.dtype:
    """Give the type of a voxel with several numbers: the layers lie side by side in the file."""
    count = header.pop("layers")
    if not 1 <= count <= MOST_LAYERS:
        raise PipelineError("has too many layers", file=path, expected=f"1 to {MOST_LAYERS}", received=count)
    if encoding == "text":
        raise PipelineError("layers in text cannot be read", file=path, remedy="save it as raw or gzip")
    return np.dtype([(f"layer{number}", dtype) for number in range(count)]) if count > 1 else dtype


def _checkEncoding(path: Path, header: dict) -> str:
    """Name of the encoding in one spelling; the skips must make sense with it."""
    encoding = ENCODINGS.get(header["encoding"].lower())
    if encoding is None:
        rule, expected = "the data are in an encoding that cannot be read", "raw, gzip, bzip2 or text"
        raise PipelineError(rule, file=path, expected=expected, received=header["encoding"])
    for name, lowest in (("line skip", 0), ("byte skip", 0 if encoding == "text" else -1)):
        if header.get(name, 0) < lowest:
            raise PipelineError(
                f"{name} is too small", file=path, expected=f"{lowest} or more", received=header[name]
            )
    return encoding


# -------------------------------------------------- open: the names of the data files


def _findDataFiles(path: Path, header: dict) -> tuple[Path, ...]:
    """Files with the voxels, in their order; the first that is missing ends the search."""
    field = header.get("data file")
    if field is None:
        return (path,)
    if isinstance(field, list):
        names, subDimension = field[1:], field[0].removeprefix("LIST").strip()
        _checkFileCount(path, header, len(names), subDimension or "2")
    elif re.fullmatch(LIKE_NUMBERED, field):
        numbers, nameOf, subDimension = numberNames(path, field)
        _checkFileCount(path, header, len(numbers), subDimension or "2")
        names = map(nameOf, numbers)
    else:
        names = [field]
    return tuple(findDataFile(path, name) for name in names)


def _checkFileCount(path: Path, header: dict, count: int, subDimension: str) -> None:
    """Require one file a row (sub-dimension 1), one a plane (2) or slabs of as many planes each (3)."""
    _, height, depth = header["sizes"].tolist()
    if subDimension not in ("1", "2", "3"):
        rule = "the sub-dimension of the data files is not that of rows, planes or slabs"
        raise PipelineError(rule, file=path, expected="1, 2 or 3", received=subDimension)
    if subDimension == "3":
        fits, expected = count > 0 and depth % count == 0, f"a number that divides {depth} planes"
    else:
        files = height * depth if subDimension == "1" else depth
        fits, expected = count == files, f"{files}, one a {'row' if subDimension == '1' else 'plane'}"
    if not fits:
        rule = "the number of data files does not fit the sizes"
        raise PipelineError(rule, file=path, expected=expected, received=count)


# -------------------------------------------------- open: the place of the voxels in them


def _skipLines(path: Path, offset: int, lineCount: int) -> int:
    """Byte after `lineCount` lines, in pieces: binary data may hold no line end for gigabytes."""
    if lineCount == 0:
        return offset
    with open(path, "rb") as file:
        file.seek(offset)
        while lineCount > 0 and (piece := file.readline(CHUNK_BYTES)):
            lineCount -= piece.endswith(b"\n")
        return file.tell()


def _locateData(volume: RawVolume, start: int) -> tuple[int, ...]:
    """Byte of each data file where the (encoded) voxels start; compare the files' lengths with the sizes."""
    offsets, surplus = [], 0
    for dataPath in volume.dataPaths:
        offset = _skipLines(dataPath, start, volume.header.get("line skip", 0))
        available = dataPath.stat().st_size - offset
        if volume.encoding not in COMPRESSED:
            skip = volume.header.get("byte skip", 0)
            skip = available - volume.fileByteCount if skip == -1 else skip
            offset, available = offset + skip, available - max(skip, 0)
        surplus += _judgeLength(volume, dataPath, available)
        offsets.append(offset)
    if surplus > 0:
        place = volume.dataPath if len(volume.dataPaths) == 1 else volume.path
        LOGGER.warning("%s: %d bytes after the voxels are not used", place, surplus)
    return tuple(offsets)


def _judgeLength(volume: RawVolume, dataPath: Path, available: int) -> int:
    """Refuse a data file that is too short; return surplus of raw data whose header says where they start."""
    surplus = measureSurplus(volume, dataPath, available)
    if surplus > 0 and "data file" in volume.header and not {"byte skip", "line skip"} & volume.header.keys():
        rule, expected = "the data file is longer than the sizes say", f"{volume.fileByteCount} bytes"
        remedy = f"{SKIP_REMEDY}, 'byte skip: 0' if they are the first"
        raise PipelineError(rule, file=dataPath, expected=expected, received=available, remedy=remedy)
    return surplus
