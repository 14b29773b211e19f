"""NRRD headers as text and as geometry: parse, check, crop, describe, format. No voxel is touched here.

pynrrd parses the fields and formats their values. The lines are split here, because pynrrd drops what is not
ASCII ("μm" becomes "m"), cuts a size of 10.7 to 10, takes key/values ('byte skip:=5') for fields, splits
'(1, 0, 0)' at its spaces, and does not know fields in other spellings ('Type', 'centers').
"""

import re
from collections import OrderedDict
from pathlib import Path

import nrrd
import numpy as np

from engine.base.errors import PipelineError

HEADER_LIMIT_BYTES = 1 << 24
TYPES = {  # NumPy: NRRD, the name that is written first
    "i1": ("int8", "int8_t", "signed char"),
    "u1": ("uint8", "uint8_t", "uchar", "unsigned char"),
    "i2": ("int16", "int16_t", "short", "short int", "signed short", "signed short int"),
    "u2": ("uint16", "uint16_t", "ushort", "unsigned short", "unsigned short int"),
    "i4": ("int32", "int32_t", "int", "signed int"),
    "u4": ("uint32", "uint32_t", "uint", "unsigned int"),
    "i8": (
        "int64",
        "int64_t",
        "longlong",
        "long long",
        "long long int",
        "signed long long",
        "signed long long int",
    ),
    "u8": ("uint64", "uint64_t", "ulonglong", "unsigned long long", "unsigned long long int"),
    "f4": ("float",),
    "f8": ("double",),
}
ENCODINGS = {"raw": "raw", "gz": "gzip", "gzip": "gzip", "bz2": "bzip2", "bzip2": "bzip2"}
ENCODINGS |= {"ascii": "text", "text": "text", "txt": "text"}
SCALAR_KINDS = {"domain", "space", "none", "???"}
AXIS_FIELDS = ("kinds", "space directions", "spacings", "thicknesses", "axis mins", "axis maxs", "centerings")
AXIS_FIELDS += ("labels", "units")
OLD_FILE_FIELDS = {"data file", "line skip", "byte skip", "block size", "number", "endian", "encoding"}
OLD_VALUE_FIELDS = {"content", "sample units", "min", "max", "old min", "old max"}
ALIASES = {
    name.replace(" ", ""): name for name in ("data file", "line skip", "byte skip", "block size", "old min")
}
ALIASES |= {name.replace(" ", ""): name for name in ("old max", "axis mins", "axis maxs", "sample units")}
ALIASES["centers"] = "centerings"


def _quote(words: list[str]) -> str:
    """Write strings as pynrrd's reader splits them."""
    return " ".join('"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"' for word in words)


FORMATS = {  # field: how its value is written; the order is that of the header
    "type": str,
    "dimension": str,
    "space dimension": str,
    "space": str,
    "sizes": nrrd.format_number_list,
    "space directions": nrrd.format_optional_vector_list,
    "kinds": " ".join,
    "endian": str,
    "encoding": str,
    "min": nrrd.format_number,
    "max": nrrd.format_number,
    "old min": nrrd.format_number,
    "old max": nrrd.format_number,
    "content": str,
    "sample units": str,
    "spacings": nrrd.format_number_list,
    "thicknesses": nrrd.format_number_list,
    "axis mins": nrrd.format_number_list,
    "axis maxs": nrrd.format_number_list,
    "centerings": " ".join,
    "labels": _quote,
    "units": _quote,
    "space units": _quote,
    "space origin": nrrd.format_optional_vector,
    "measurement frame": nrrd.format_optional_matrix,
}

# -------------------------------------------------- from text to a checked header


def readHeader(path: Path, mayHaveLayers: bool = False) -> tuple[OrderedDict, int]:
    """Parse the header of a 3D volume with one number a voxel.

    Parameters
    ----------
    path : Path
        An .nrrd or .nhdr file.
    mayHaveLayers : bool
        Whether a segmentation of 3D Slicer may hold several numbers a voxel, on a first axis that is none of
        space; `layers` of the header tells how many.

    Returns
    -------
    header : OrderedDict
        Fields as pynrrd parses them, in one spelling ('byte skip'), and the key/values as strings; 'data
        file' is a list of lines if it names files one by one: ['LIST', name, name, ...].
    byteCount : int
        Length of the header with its empty line.

    Raises
    ------
    PipelineError
        The file is missing, no NRRD or no such volume, or its header is unclear or contradicts itself.
    """
    lines, byteCount = _readLines(path)
    fields, keyValues = _splitLines(path, lines[1:])
    listed = fields.get("data file", "").split()[:1] == ["LIST"]
    for name in ("type", "dimension", "sizes", "encoding"):
        if name not in fields:
            remedy = "'data file: LIST' must be the last field" if listed else None
            raise PipelineError(f"the header has no field '{name}'", file=path, remedy=remedy)
    if not all(re.fullmatch(r"[+-]?[0-9]{1,18}", size) for size in fields["sizes"].split()):
        raise PipelineError("sizes must be whole numbers", file=path, received=fields["sizes"])
    try:
        header = nrrd.read_header([lines[0], *(f"{name}: {value}" for name, value in fields.items())])
    except (nrrd.NRRDError, ValueError, IndexError) as error:
        raise PipelineError(f"the header cannot be understood: {error}", file=path) from error
    header["sizes"] = np.array(fields["sizes"].split(), dtype=np.int64)  # pynrrd's came through float64
    if listed:
        header["data file"] = fields["data file"].split("\n")
    header.update((key, value) for key, value in keyValues.items() if key not in header)
    if not (mayHaveLayers and _dropLayers(header)):
        _dropSingleAxis(header)
    _checkScalarVolume(path, header)
    _checkGeometry(path, header)
    return header, byteCount


def _readLines(path: Path) -> tuple[list[str], int]:
    """Header lines up to the empty one, without reading on in a file that has none."""
    if not path.is_file():
        raise PipelineError("is a folder, no file" if path.is_dir() else "there is no such file", file=path)
    with open(path, "rb") as file:
        if file.peek(4)[:4] != b"NRRD":
            raise PipelineError("is no NRRD file (its first letters are not 'NRRD')", file=path)
        lines = []
        while line := file.readline(HEADER_LIMIT_BYTES).rstrip():
            lines.append(_decode(line))
            if file.tell() > HEADER_LIMIT_BYTES:
                raise PipelineError("the header does not end (an empty line must follow it)", file=path)
        return lines, file.tell()


def _decode(line: bytes) -> str:
    """Text of a header line: ASCII by the standard, UTF-8 or Latin-1 in practice."""
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError:
        return line.decode("latin-1")


def _splitLines(path: Path, lines: list[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Fields, and key/values; a key/value under a field's name has no meaning in NRRD and is left out."""
    fields, keyValues = {}, {}
    unread = iter(lines)
    for line in unread:
        if line.startswith("#"):
            continue
        match = re.match(r"(.+?)(: |:=)(.*)", line) or re.match(r"(.+?)(:)(.*)", line)
        name, separator, value = (part.strip() for part in match.groups()) if match else ("", "", "")
        if not name:
            raise PipelineError(f"the header has a line that is no 'field: value': {line[:60]!r}", file=path)
        found = fields if separator == ":" else keyValues
        known = _fieldName(name)
        if separator == ":" and known in ("space directions", "measurement frame"):
            value = _closeVectors(value)
        _refuseContradiction(path, name, found.get(known or name, value), value)
        if separator == ":":
            fields[known or name] = value
        elif known is None:
            keyValues[name] = value
        if known == "data file" and separator == ":" and value.split()[:1] == ["LIST"]:
            fields[known] = "\n".join((value, *unread))  # the lines that follow are file names
    if re.fullmatch(r"none|\((nan|[,\s])+\)", fields.get("space origin", ""), re.IGNORECASE):
        del fields["space origin"]  # unknown; pynrrd writes 'none' but cannot read it
    return fields, keyValues


def _refuseContradiction(path: Path, name: str, first: str, second: str) -> None:
    """Refuse a field that the header gives twice, with different values; blanks are no difference."""
    if first.split() != second.split():
        rule = f"the header gives '{name}' twice, as {first[:60]!r} and as {second[:60]!r}"
        raise PipelineError(rule, file=path, remedy="delete the line that is wrong")


def _fieldName(name: str) -> str | None:
    """Spelling of a field of the format: lower case, with spaces; None for another name."""
    known = ALIASES.get(name.lower(), name.lower())
    return known if known in FORMATS or known in OLD_FILE_FIELDS else None


def _closeVectors(value: str) -> str:
    """Write '( 1, 0, 0 )' as '(1,0,0)'."""
    return re.sub(r"\s+([,)])", r"\1", re.sub(r"([(,])\s+", r"\1", value))


def _dropSingleAxis(header: dict) -> None:
    """Leave out a fourth axis of one voxel: the only channel, or the only moment, of a 3D volume."""
    axis = _findSingleAxis(header)
    if axis is not None:
        _dropAxis(header, axis)


def _dropLayers(header: dict) -> bool:
    """Leave out the axis of the layers of a segmentation, which comes first; tells whether there is one."""
    isSegmentation = any(re.match("Segment[0-9]+_", name) for name in header)
    isFirst = "".join(header.get("kinds", ())[:1]).lower() in ("list", "vector")  # the second as ITK writes
    if header["dimension"] != 4 or len(header["sizes"]) != 4 or not (isSegmentation and isFirst):
        return False
    header["layers"] = int(header["sizes"][0])
    _dropAxis(header, 0)
    return True


def _dropAxis(header: dict, axis: int) -> None:
    """Leave out one of four axes."""
    header["dimension"], header["sizes"] = 3, np.delete(header["sizes"], axis)
    for name in AXIS_FIELDS:
        if name in header and len(header[name]) == 4:
            values = header[name]
            isArray = isinstance(values, np.ndarray)
            header[name] = np.delete(values, axis, 0) if isArray else [*values[:axis], *values[axis + 1 :]]


def _findSingleAxis(header: dict) -> int | None:
    """Find the axis of four that is none of space and has one voxel; None where there is no such one.

    Kinds and directions decide; where they do not tell, the only axis of one voxel, or the last of several.
    """
    sizes = header["sizes"].tolist()
    if header["dimension"] != 4 or len(sizes) != 4:
        return None
    directions, kinds = spaceDirections(header), header.get("kinds", ())
    others = {axis for axis, kind in enumerate(kinds[:4]) if kind.lower() not in SCALAR_KINDS}
    if directions is not None and len(directions) == 4:
        others |= set(np.flatnonzero(np.isnan(directions).all(axis=1)).tolist())
    if others:
        return others.pop() if len(others) == 1 and sizes[min(others)] == 1 else None
    return max((axis for axis in range(4) if sizes[axis] == 1), default=None)


def _checkScalarVolume(path: Path, header: dict) -> None:
    """Refuse what is not one number for each voxel of a 3D grid."""
    dimension, sizes = header["dimension"], header["sizes"].tolist()
    if dimension != 3:
        several = f"a 4D data set, {' x '.join(map(str, sizes))} numbers"
        what = {2: "a 2D image", 4: several}.get(dimension, "no 3D volume")
        remedy = "save one channel, or one moment, as a 3D volume" if dimension == 4 else None
        rule = f"is {what}"
        raise PipelineError(rule, file=path, expected="dimension 3", received=dimension, remedy=remedy)
    if len(sizes) != 3 or min(sizes) < 1:
        raise PipelineError("sizes must be three positive numbers", file=path, received=sizes)
    for name in AXIS_FIELDS:
        if name in header and len(header[name]) != 3:
            rule = f"the header must give '{name}' for each axis"
            raise PipelineError(rule, file=path, expected="3 values", received=len(header[name]))
    for axis, kind in zip("xyz", header.get("kinds", ()), strict=False):
        if kind.lower() not in SCALAR_KINDS:
            remedy = "convert it to a 3D volume with one grey value a voxel"
            raise PipelineError(
                f"axis {axis} is no direction in space but '{kind}'", file=path, remedy=remedy
            )


def _checkGeometry(path: Path, header: dict) -> None:
    """Require numbers that a place in space can be calculated with."""
    directions, origin = spaceDirections(header), header.get("space origin")
    if directions is not None and not (np.isfinite(directions).all(1) | np.isnan(directions).all(1)).all():
        raise PipelineError("space directions must be finite numbers or none", file=path)
    for name in ("spacings", "axis mins", "axis maxs", "space origin"):
        if np.isinf(header.get(name, 0)).any():
            raise PipelineError(f"{name} must not be infinite", file=path)
    if directions is not None and origin is not None and directions.shape[1] != len(origin):
        rule = "space origin and space directions must have as many numbers"
        raise PipelineError(rule, file=path, expected=directions.shape[1], received=len(origin))


def voxelType(path: Path, header: dict) -> np.dtype:
    """Tell the type of a voxel, with the file's byte order.

    Raises
    ------
    PipelineError
        The type is not one of NRRD's integers and floats, or the byte order is missing.
    """
    name = " ".join(header["type"].lower().split())
    code = next((code for code, names in TYPES.items() if name in names), None)
    if code is None:
        rule = "this type of voxel cannot be read"
        raise PipelineError(rule, file=path, expected="integers, float or double", received=header["type"])
    if code.endswith("1") or ENCODINGS.get(header["encoding"].lower()) == "text":
        return np.dtype(code)
    order = {"little": "<", "big": ">"}.get(header.get("endian", "").lower())
    if order is None:
        rule, received = "the byte order must be known", f"endian {header.get('endian', 'missing')}"
        remedy = "write 'endian: little' (most computers) or 'endian: big' into the header"
        raise PipelineError(rule, file=path, received=received, remedy=remedy)
    return np.dtype(order + code)


# -------------------------------------------------- geometry


def spaceDirections(header: dict) -> np.ndarray | None:
    """Step in space of each axis.

    Returns
    -------
    np.ndarray or None
        (3, space dimension) float64, a row of NaN for an axis without direction; None if no axis has one.
    """
    rows = header.get("space directions", ())
    length = max((len(row) for row in rows if row is not None), default=0)
    if length == 0:
        return None
    directions = np.array([np.full(length, np.nan) if row is None else row for row in rows], dtype=np.float64)
    return None if np.isnan(directions).all() else directions


# -------------------------------------------------- from a header to text


def describeData(header: dict, shape: tuple[int, ...], dtype: np.dtype | type | str) -> dict:
    """Replace what a header says about the file and the array: raw, little endian, attached.

    Raises
    ------
    PipelineError
        NRRD has no such voxel type.
    """
    names = TYPES.get(np.dtype(dtype).str[1:])
    if names is None:
        raise PipelineError(
            "NRRD files cannot hold this type of voxel",
            expected="integers, float32 or float64",
            received=dtype,
        )
    result = {name: value for name, value in header.items() if name not in OLD_FILE_FIELDS}
    if "space" in result:
        result.pop("space dimension", None)  # the format allows one of the two
    result |= {"type": names[0], "dimension": 3, "sizes": np.array(shape), "encoding": "raw"}
    if np.dtype(dtype).itemsize > 1:
        result["endian"] = "little"
    return result


def formatHeader(header: dict) -> bytes:
    """Write a header as UTF-8 text, empty line included; the same header gives the same bytes (no date)."""
    lines = ["NRRD0005"]
    lines += [f"{name}: {write(header[name])}" for name, write in FORMATS.items() if name in header]
    lines += [f"{key}:={value}".replace("\n", "\\n") for key, value in header.items() if key not in FORMATS]
    text = "\n".join([*(line for line in lines if line != "space origin: none"), "", ""])
    return text.encode("utf-8", "backslashreplace")  # of names that are no text
