"""MetaImage volumes of ITK: .mhd with its data files, or .mha with the voxels behind the header.

As for ITK, directions and offset are those of the space left-posterior-superior; centre of rotation and
anatomical orientation say nothing more. ITK calls every length mm. Here only DistanceUnits gives a unit, as
`space units` do in NRRD: programs of microscopy write micrometres without saying so.
"""

import logging
import math
import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from engine.base.errors import PipelineError
from engine.formats.dataFiles import findDataFile, measureSurplus, numberNames
from engine.formats.nrrdGeometry import readFrame
from engine.formats.rawData import COMPRESSED, RawVolume
from engine.volumes.frame import Frame

LOGGER = logging.getLogger(__name__)
HEADER_LIMIT_BYTES = 1 << 24
SPACE = "left-posterior-superior"
TYPES = {  # a long has 4 bytes in MetaImage, on every computer
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_LONG": "i4",
    "MET_ULONG": "u4",
    "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}
UNITS = ("um", "mm", "cm")  # of DistanceUnits; '?' is none
ALIASES = {"position": "offset", "origin": "offset", "imageposition": "offset"}
ALIASES |= {"rotation": "transformmatrix", "orientation": "transformmatrix"}
ALIASES |= {"elementbyteordermsb": "binarydatabyteordermsb"}
LINE = re.compile(r"\s*([A-Za-z]\w*)\s*[=:]\s*(.*)")
SIZE_REMEDY = "correct DimSize, or write 'HeaderSize = -1' into the header if the voxels are the last bytes"


@dataclass(frozen=True)
class _Header:
    """Fields of a header by their names in lower case, aliases in one spelling."""

    path: Path
    fields: dict[str, str]
    byteCount: int  # of the header in its file
    listed: list[str]  # lines behind ElementDataFile = LIST

    def get(self, name: str, preset: str = "") -> str:
        """Give a field as it is written."""
        return self.fields.get(name.lower(), preset)

    def isTrue(self, name: str, preset: str) -> bool:
        """Whether a field says True, as MetaIO reads it."""
        return self.get(name, preset)[:1] in ("T", "t", "1")

    def numbers(self, name: str, count: int) -> np.ndarray | None:
        """Give the numbers (count,) of a field; None where it is missing."""
        words = self.get(name).split()
        if not words:
            return None
        try:
            values = np.array([float(word) for word in words])
        except ValueError:
            values = np.zeros(0)
        if len(values) != count or not np.isfinite(values).all():
            rule, expected = f"{name} cannot be read", f"{count} finite numbers"
            raise PipelineError(rule, file=self.path, expected=expected, received=" ".join(words)[:60])
        return values

    def integer(self, name: str, preset: int) -> int:
        """Give a whole number."""
        text = self.get(name, str(preset))
        if not re.fullmatch(r"[+-]?[0-9]{1,18}", text):
            raise PipelineError(f"{name} must be a whole number", file=self.path, received=text[:60])
        return int(text)


# -------------------------------------------------- open: everything is checked, no voxel is read


def openVolume(path: str | Path) -> RawVolume:
    """Open a MetaImage and check it without reading voxels.

    Parameters
    ----------
    path : path
        An .mhd or .mha file.

    Raises
    ------
    PipelineError
        The file is missing, no MetaImage or no 3D volume with one number a voxel, its header contradicts
        itself, or its data are missing, too short or in another folder.
    """
    path = Path(path)
    try:
        header = _readHeader(path)
        sizes = _readSizes(header)
        kept = _keptAxes(path, sizes)
        shape = tuple(sizes[axis] for axis in kept)
        dtype, encoding = _readType(header), _readEncoding(header)
        dataPaths = _findDataFiles(header, sizes)
        place = _readFrame(header, len(sizes), kept)
        volume = RawVolume(path, {}, shape, dtype, encoding, dataPaths, offsets=(), place=place)
        return replace(volume, offsets=_locateData(volume, header))
    except OSError as error:
        rule = f"cannot be read: {error.strerror or error}"
        raise PipelineError(rule, file=error.filename or path) from error


def _readHeader(path: Path) -> _Header:
    """Read the lines up to ElementDataFile, which is the last field."""
    if not path.is_file():
        raise PipelineError("is a folder, no file" if path.is_dir() else "there is no such file", file=path)
    fields: dict[str, str] = {}
    with open(path, "rb") as file:
        while "elementdatafile" not in fields:
            line = file.readline(HEADER_LIMIT_BYTES)
            text = _decode(line).strip()
            match = LINE.fullmatch(text)
            if match is None and text or file.tell() > HEADER_LIMIT_BYTES:
                what = (
                    "the header has a line that is no 'field = value'" if fields else "is no MetaImage file"
                )
                raise PipelineError(what, file=path, received=repr(text[:40]))
            if not line:
                rule = "the header has no field 'ElementDataFile'" if fields else "is no MetaImage file"
                raise PipelineError(rule, file=path)
            if match is not None:
                _addField(path, fields, *match.groups())
        byteCount = file.tell()
        isList = fields["elementdatafile"].split()[:1] == ["LIST"]
        lines = file.read(HEADER_LIMIT_BYTES).splitlines() if isList else []
    return _Header(path, fields, byteCount, [text for line in lines if (text := _decode(line).strip())])


def _addField(path: Path, fields: dict[str, str], name: str, value: str) -> None:
    """Note a field; one given twice must say the same, under whatever name."""
    known = ALIASES.get(name.lower(), name.lower())
    if known != "comment" and fields.get(known, value).split() != value.split():
        rule = f"the header gives {name} twice, as {fields[known][:60]!r} and as {value[:60]!r}"
        raise PipelineError(rule, file=path, remedy="delete the line that is wrong")
    fields[known] = value


def _decode(line: bytes) -> str:
    """Text of a header line."""
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError:
        return line.decode("latin-1")


def _readSizes(header: _Header) -> tuple[int, ...]:
    """Voxels along every axis, one that is left out later too."""
    path, kind = header.path, header.get("ObjectType", "Image")
    if kind.lower() != "image":
        raise PipelineError("is a MetaObject, no image", file=path, expected="Image", received=kind[:60])
    words, count = header.get("DimSize").split(), header.integer("NDims", 0)
    if len(words) != count or not all(re.fullmatch(r"[0-9]{1,18}", word) and int(word) for word in words):
        rule, received = "DimSize must be NDims positive whole numbers", f"{' '.join(words)[:60]} of {count}"
        raise PipelineError(rule, file=path, received=received)
    channels = header.integer("ElementNumberOfChannels", 1)
    if channels != 1:
        remedy = "save one channel as a volume of its own"
        raise PipelineError("has several channels", file=path, expected=1, received=channels, remedy=remedy)
    return tuple(map(int, words))


def _keptAxes(path: Path, sizes: tuple[int, ...]) -> tuple[int, ...]:
    """Name the three axes of a volume; a fourth one of one voxel is left out, the last of several such."""
    axes = list(range(len(sizes)))
    if len(sizes) == 4 and 1 in sizes:
        axes.remove(max(axis for axis in axes if sizes[axis] == 1))
    if len(axes) != 3:
        what = "a 2D image" if len(sizes) == 2 else f"no 3D volume, {' x '.join(map(str, sizes))} numbers"
        remedy = "save one moment as a 3D volume" if len(sizes) == 4 else None
        raise PipelineError(f"is {what}", file=path, expected="NDims 3", received=len(sizes), remedy=remedy)
    return tuple(axes)


def _readType(header: _Header) -> np.dtype:
    """Type of a voxel with the byte order of the file; little endian where it gives none."""
    name = header.get("ElementType", "missing")
    if name not in TYPES:
        rule, expected = "this type of voxel cannot be read", "integers, MET_FLOAT or MET_DOUBLE"
        raise PipelineError(rule, file=header.path, expected=expected, received=f"ElementType {name[:60]}")
    if header.isTrue("BinaryDataByteOrderMSB", "False") and header.isTrue("BinaryData", "True"):
        return np.dtype(f">{TYPES[name]}")
    return np.dtype(f"<{TYPES[name]}")


def _readEncoding(header: _Header) -> str:
    """Tell the encoding of the voxels."""
    if not header.isTrue("BinaryData", "True"):
        return "text"
    return "zlib" if header.isTrue("CompressedData", "False") else "raw"


# -------------------------------------------------- open: the files with the voxels


def _findDataFiles(header: _Header, sizes: tuple[int, ...]) -> tuple[Path, ...]:
    """Files with the voxels, in their order."""
    path, field = header.path, header.get("ElementDataFile")
    words = field.split()
    if field.lower() == "local":
        return (path,)
    if words[:1] == ["LIST"]:
        names, dimension = header.listed, words[1] if len(words) > 1 else str(len(sizes) - 1)
        if not re.fullmatch(r"[1-9]D?", dimension) or int(dimension[0]) > len(sizes):
            rule, expected = "the dimension of the listed files cannot be read", f"1 to {len(sizes)}"
            raise PipelineError(rule, file=path, expected=expected, received=dimension)
        _checkFileCount(path, len(names), math.prod(sizes[int(dimension[0]) :]))
    elif "%" in field and len(words) > 1:
        numbers, nameOf, _ = numberNames(path, f"{field} 1" if len(words) == 3 else field)
        _checkFileCount(path, len(numbers), sizes[-1])
        names = map(nameOf, numbers)
    else:
        names = [field]
    return tuple(findDataFile(path, name) for name in names)


def _checkFileCount(path: Path, count: int, expected: int) -> None:
    """Require as many files as the sizes say."""
    if count != expected:
        rule = "the number of data files does not fit DimSize"
        raise PipelineError(rule, file=path, expected=expected, received=count)


def _locateData(volume: RawVolume, header: _Header) -> tuple[int, ...]:
    """Byte of each data file where the (encoded) voxels start; HeaderSize counts from the file's first."""
    skip, isLocal = header.integer("HeaderSize", 0), volume.dataPath == volume.path
    if skip < -1 or (skip == -1 and volume.encoding != "raw"):
        expected = "0 or more" if volume.encoding != "raw" else "-1 or more"
        raise PipelineError("HeaderSize is too small", file=volume.path, expected=expected, received=skip)
    offsets, surplus = [], 0
    for dataPath in volume.dataPaths:
        length = dataPath.stat().st_size
        offset = skip or (header.byteCount if isLocal else 0)
        if skip == -1:
            offset = max(length - volume.fileByteCount, 0)
        unused = measureSurplus(volume, dataPath, length - offset)
        if unused and not isLocal and not skip:
            rule, expected = "the data file is longer than DimSize says", f"{volume.fileByteCount} bytes"
            raise PipelineError(rule, file=dataPath, expected=expected, received=length, remedy=SIZE_REMEDY)
        surplus += unused
        offsets.append(offset)
    if surplus and volume.encoding not in COMPRESSED:
        LOGGER.warning("%s: %d bytes after the voxels are not used", volume.dataPath, surplus)
    return tuple(offsets)


# -------------------------------------------------- where the voxels lie


def _readFrame(header: _Header, count: int, kept: tuple[int, ...]) -> Frame:
    """Find the place of the voxels: rows of the matrix are the directions of the axes."""
    spacing = header.numbers("ElementSpacing", count)
    if spacing is None:
        spacing = header.numbers("ElementSize", count)
    matrix, offset = header.numbers("TransformMatrix", count * count), header.numbers("Offset", count)
    if spacing is None:
        return readFrame({})
    directions = (np.eye(count) if matrix is None else matrix.reshape(count, count)) * spacing[:, np.newaxis]
    left = [axis for axis in range(count) if axis not in kept]
    if (spacing <= 0).any() or directions[np.ix_(kept, left)].any():  # no space of three axes
        return readFrame({"spacings": spacing[list(kept)]})
    unit = header.get("DistanceUnits")
    fields = {"space": SPACE, "space directions": directions[np.ix_(kept, kept)]}
    fields |= {"space units": [unit] * 3} if unit in UNITS else {}
    fields |= {} if offset is None else {"space origin": offset[list(kept)]}
    return readFrame(fields)
