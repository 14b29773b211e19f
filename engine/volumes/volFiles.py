"""Volumes of PyHST and nabu: .vol, raw voxels, with a .vol.info beside it that tells their sides."""

import math
import re
from pathlib import Path

import numpy as np

from engine.base.errors import PipelineError
from engine.volumes.frame import Frame, frameOfVoxels
from engine.volumes.layouts import TYPES, Layout, checkLength, openByLayout
from engine.volumes.nrrdGeometry import readFrame
from engine.volumes.rawData import RawVolume

BY_LENGTH = {4: "float32", 1: "uint8", 2: "uint16"}  # bytes of a voxel, where the description names no type
BYTE_ORDERS = {"LOWBYTEFIRST": "little", "HIGHBYTEFIRST": "big"}
INFO_LIMIT_BYTES = 1 << 20
LINE = re.compile(r"\s*(\w+)\s*=\s*(.*?)\s*")


def openVolume(path: str | Path, inner: str = "") -> RawVolume:
    """Open a .vol file by its description, without reading voxels.

    Parameters
    ----------
    path : path
        The file; beside it scan.vol.info (or scan.info).
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
    info = findInfo(path)
    if info is None:
        rule, expected = "its description is missing beside it", f"{path.name}.info"
        remedy = f"or write the layout behind the name: '{path.name}::512x512x300 float32'"
        raise PipelineError(rule, file=path, expected=expected, remedy=remedy)
    fields = _readInfo(info)
    layout = _readLayout(path, info, fields)
    others = (path.with_name(f"{path.name}.xml"),)  # PyHST writes the same once more
    beside = (info, *(other for other in others if other.is_file()))
    place = _readFrame(fields, info)
    where = (path,), (layout.skip,)
    return RawVolume(path, {}, layout.shape, layout.dtype, "raw", *where, place=place, notes=beside)


def findInfo(path: Path) -> Path | None:
    """Find the description beside a raw file; None where there is none."""
    names = path.with_name(f"{path.name}.info"), path.with_suffix(".info")
    return next((name for name in names if name.is_file()), None)


def _readInfo(info: Path) -> dict[str, str]:
    """Read the fields of a description by their names in capitals; '!' and '#' start comments."""
    try:
        with open(info, "rb") as file:
            text = file.read(INFO_LIMIT_BYTES).decode("utf-8", "replace")
    except OSError as error:
        raise PipelineError(f"cannot be read: {error.strerror or error}", file=info) from error
    lines = (LINE.fullmatch(re.split("[!#]", line)[0]) for line in text.splitlines())
    return {match[1].upper(): match[2] for match in lines if match}  # s1 and S1 are of no interest


def _readLayout(path: Path, info: Path, fields: dict[str, str]) -> Layout:
    """Find what a file holds."""
    words = [fields.get(f"NUM_{axis}", "missing") for axis in "XYZ"]
    if not all(re.fullmatch("[0-9]{1,9}", word) and int(word) for word in words):
        rule, received = "NUM_X, NUM_Y and NUM_Z must be positive whole numbers", ", ".join(words)
        raise PipelineError(rule, file=info, received=received[:80])
    order = BYTE_ORDERS.get(fields.get("BYTEORDER", "LOWBYTEFIRST").upper())
    if order is None:
        rule, expected = "BYTEORDER cannot be read", " or ".join(BYTE_ORDERS)
        raise PipelineError(rule, file=info, expected=expected, received=fields["BYTEORDER"][:60])
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
