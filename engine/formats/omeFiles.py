"""OME-TIFF of several files: which those are, and the OME-XML of one that lies in a companion file."""

import os
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from engine.base.errors import PipelineError

if TYPE_CHECKING:  # it loads slowly
    import tifffile

REMEDY = "copy all files of this OME-TIFF into one folder, or save it as one file"
SAVE = "save it as one file"
TIFF_ENDINGS = (".tif", ".tiff", ".tf2", ".tf8", ".btf")
LIMIT_BYTES = 1 << 28  # of a companion file


def omeRoot(tiff: "tifffile.TiffFile") -> ElementTree.Element | None:
    """Give the OME-XML of a file; None where it has none that can be read."""
    try:
        return ElementTree.fromstring(tiff.ome_metadata) if tiff.is_ome else None
    except ElementTree.ParseError:  # tifffile goes without it too
        return None


def nameFiles(tiff: "tifffile.TiffFile", path: Path) -> list[Path]:
    """Name the other files of an OME-TIFF whose slices lie in several ones; they lie in its folder.

    Raises
    ------
    PipelineError
        One of them is missing, or lies elsewhere: tifffile would put zeros in its place, or read anything.
    """
    root = omeRoot(tiff)
    if root is None:
        return []
    if _findBinaryOnly(root) is not None:
        raise _refusePart(root, path)
    found, own = [], root.get("UUID")
    known = {own or "": path.name}  # UUID: file
    for element in root.iterfind(".//{*}TiffData/{*}UUID"):
        name, uuid = element.get("FileName", ""), element.text or ""
        isOwn = name.lower() == path.name.lower() or uuid == own
        file = path.name if isOwn else name
        if known.setdefault(uuid, file) != file:  # tifffile would read one of them for all
            raise PipelineError(f"its OME-XML gives several files the UUID {uuid!r}", file=path, remedy=SAVE)
        if not isOwn:
            found.append(name)
    return [_placeFile(path, name) for name in dict.fromkeys(found)]


def _findBinaryOnly(root: ElementTree.Element) -> ElementTree.Element | None:
    """Find what a file says whose OME-XML lies in another one."""
    return next(root.iterfind("{*}BinaryOnly"), None)


def _refusePart(root: ElementTree.Element, path: Path) -> PipelineError:
    """Say that a file is to be read by another TIFF, which holds the OME-XML."""
    first = _findBinaryOnly(root).get("MetadataFile", "another file")
    return PipelineError(
        f"is a part of an OME-TIFF that {first} describes",
        file=path,
        remedy=f"name {first}, or {SAVE}",
    )


def _placeFile(path: Path, name: str) -> Path:
    """Give the place of a file that OME-XML names."""
    isElsewhere = ".." in PurePosixPath(name).parts or os.path.isabs(name)
    if not name or isElsewhere or PureWindowsPath(name).drive or "\\" in name:
        rule = "its OME-XML names a file outside of its folder"
        raise PipelineError(rule, file=path, received=name or "no name", remedy=REMEDY)
    if not (path.parent / name).is_file():
        raise PipelineError(
            f"its OME-XML names the file {name}, which is not there", file=path, remedy=REMEDY
        )
    return path.parent / name


# -------------------------------------------------- OME-XML in a companion file


def findCompanion(tiff: "tifffile.TiffFile", path: Path) -> Path | None:
    """Find the companion file (.companion.ome) that describes a TIFF; None where the TIFF does so itself.

    Raises
    ------
    PipelineError
        It is missing, lies in another folder, or is another TIFF.
    """
    root = omeRoot(tiff)
    only = None if root is None else _findBinaryOnly(root)
    if only is None:
        return None
    name = only.get("MetadataFile", "")
    if name.lower().endswith(TIFF_ENDINGS):
        raise _refusePart(root, path)
    return _placeFile(path, name)


def readCompanion(companion: Path, path: Path) -> str:
    """Read the OME-XML of a companion file, which must tell in which file each slice lies.

    Without the UUID of the companion itself, which is that of no TIFF.
    """
    try:
        with open(companion, "rb") as file:
            root = ElementTree.fromstring(file.read(LIMIT_BYTES))
    except OSError as error:
        raise PipelineError(f"cannot be read: {error.strerror or error}", file=companion) from error
    except ElementTree.ParseError as error:
        raise PipelineError(f"is damaged: {error}", file=companion) from error
    blocks = list(root.iterfind(".//{*}TiffData"))
    names = [uuid.get("FileName", "") for block in blocks for uuid in block.iterfind("{*}UUID")]
    if root.tag.split("}")[-1] != "OME" or not all(names) or not 0 < len(blocks) == len(names):
        raise PipelineError("does not tell in which file each slice lies", file=companion, remedy=REMEDY)
    if path.name.lower() not in map(str.lower, names):
        rule = f"is described by {companion.name}, which does not name it"
        raise PipelineError(rule, file=path, expected=f"a file such as {names[0]}", remedy=REMEDY)
    root.attrib.pop("UUID", None)
    return ElementTree.tostring(root, encoding="unicode")
