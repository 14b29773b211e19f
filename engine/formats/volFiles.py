"""Volumes of PyHST and nabu: .vol, raw voxels; a .vol.info or .vol.xml beside it tells their sides."""

import math
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from engine.base.errors import PipelineError
from engine.formats.layouts import TYPES, Layout, checkLength, openByLayout
from engine.formats.nrrdGeometry import readFrame
from engine.formats.rawData import RawVolume
from engine.volumes.frame import Frame, frameOfVoxels

BY_LENGTH = {4: "float32", 1: "uint8", 2: "uint16"}  # bytes of a voxel, where the description names no type
BYTE_ORDERS = {"LOWBYTEFIRST": "little", "HIGHBYTEFIRST": "big"}
INFO_LIMIT_BYTES = 1 << 20
KEYS = {  # by the ending of a description: sides along x, y and z, byte order
    ".info": ("NUM_X", "NUM_Y", "NUM_Z", "BYTEORDER"),
    ".xml": ("SIZEX", "SIZEY", "SIZEZ", "BYTE_ORDER"),
}
LINE = re.compile(r"\s*(\w+)\s*=\s*(.*?)\s*")


def openVolume(path: str | Path, inner: str = "") -> RawVolume:
    """Open a .vol file by its description, without reading voxels.

    Parameters
    ----------
    path : path
        The file; beside it scan.vol.info (or scan.info), or else scan.vol.xml.
    inner : str
        A layout, as of a raw file, that takes the place of the description.

    Raises
    ------
    PipelineError
        File or description are missing, the description cannot be read or does not fit the file's length.
    """
    path = Path(path)
    if not path.is_file():
        raise PipelineError("is a folder, no file" if path.is_dir() else "there is no such file", file=path)
    if inner:
        return openByLayout(path, inner)
    xml = path.with_name(f"{path.name}.xml")
    beside = tuple(file for file in (findInfo(path), xml) if file is not None and file.is_file())
    if not beside:
        rule, expected = "its description is missing beside it", f"{path.name}.info or {xml.name}"
        remedy = f"or write the layout behind the name: '{path.name}::512x512x300 float32'"
        raise PipelineError(rule, file=path, expected=expected, remedy=remedy)
    info = beside[0]  # of two the text; PyHST writes the same into both
    fields = _readXml(path, info) if info == xml else _readInfo(info)
    layout = _readLayout(path, info, fields)
    place = _readFrame(fields, info)
    where = (path,), (layout.skip,)
    return RawVolume(path, {}, layout.shape, layout.dtype, "raw", *where, place=place, notes=beside)


def findInfo(path: Path) -> Path | None:
    """Find the description beside a raw file; None where there is none."""
    names = path.with_name(f"{path.name}.info"), path.with_suffix(".info")
    return next((name for name in names if name.is_file()), None)


def _readText(info: Path) -> bytes:
    """Read a description."""
    try:
        with open(info, "rb") as file:
            return file.read(INFO_LIMIT_BYTES)
    except OSError as error:
        raise PipelineError(f"cannot be read: {error.strerror or error}", file=info) from error


def _readInfo(info: Path) -> dict[str, str]:
    """Read the fields of a description by their names in capitals; '!' and '#' start comments."""
    text = _readText(info).decode("utf-8", "replace")
    lines = (LINE.fullmatch(re.split("[!#]", line)[0]) for line in text.splitlines())
    return {match[1].upper(): match[2] for match in lines if match}  # s1 and S1 are of no interest


def _readXml(path: Path, info: Path) -> dict[str, str]:
    """Read the fields of the one sub-volume, or of that with the name of the file, by names in capitals."""
    try:
        root = ElementTree.fromstring(_readText(info))
    except ElementTree.ParseError as error:
        raise PipelineError(f"is damaged: {error}", file=info) from error
    parts = [
        {field.tag.upper(): (field.text or "").strip() for field in part}
        for part in root.iter()
        if part.tag.upper() == "SUBVOLUME"
    ]
    named = [part for part in parts if part.get("SUBVOLUME_NAME") == path.name] or parts
    if len(named) != 1:
        rule, expected = "does not describe one volume", f"a subVolume of SUBVOLUME_NAME {path.name}"
        raise PipelineError(rule, file=info, expected=expected, received=f"{len(parts)} of them")
    return named[0]


def _readLayout(path: Path, info: Path, fields: dict[str, str]) -> Layout:
    """Find what a file holds."""
    *sides, orderKey = KEYS[info.suffix]
    words = [fields.get(side, "missing") for side in sides]
    if not all(re.fullmatch("[0-9]{1,9}", word) and int(word) for word in words):
        rule, received = "{}, {} and {} must be positive whole numbers".format(*sides), ", ".join(words)
        raise PipelineError(rule, file=info, received=received[:80])
    order = BYTE_ORDERS.get(fields.get(orderKey, "LOWBYTEFIRST").upper())
    if order is None:
        rule, expected = f"{orderKey} cannot be read", " or ".join(BYTE_ORDERS)
        raise PipelineError(rule, file=info, expected=expected, received=fields[orderKey][:60])
    shape = tuple(map(int, words))
    bytesEach, rest = divmod(path.stat().st_size, math.prod(shape))
    kind = BY_LENGTH.get(bytesEach if rest == 0 else 0, "float32")
    kind = fields.get("DATA_TYPE", kind).lower()
    if kind not in TYPES:
        rule, expected = "DATA_TYPE cannot be read", ", ".join(TYPES)
        raise PipelineError(rule, file=info, expected=expected, received=fields["DATA_TYPE"][:60])
    layout = Layout(shape, kind, order)
    checkLength(path, layout)
    return layout


def _readFrame(fields: dict[str, str], info: Path) -> Frame:
    """Find the sides of a voxel: of tomoscan in cm along z, y and x, else of PyHST in um."""
    for name, scale in (("VOXEL_SIZE_CM", 1e4), ("VOXELSIZE", 1.0)):
        words = re.split(r"[\s,]+", fields.get(name, "").strip("[]() "))
        try:
            sides = np.array([float(word) for word in words]) * scale
        except ValueError:
            continue
        if len(sides) in (1, 3):
            ordered = sides[::-1] if name == "VOXEL_SIZE_CM" else sides
            return readFrame({"spacings": np.resize(ordered, 3), "units": ["um"] * 3})
    return frameOfVoxels(f"{info.name} gives no size of a voxel; --voxelSize does")
