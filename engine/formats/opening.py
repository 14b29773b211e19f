"""Which formats of volumes there are; nothing else knows."""

import importlib
import os
import re
import stat
from pathlib import Path

from engine.base.errors import PipelineError
from engine.volumes.names import MARK, joinInner, splitInner, stemFor
from engine.volumes.volume import Volume

FORMATS = {".nrrd": "nrrdFiles", ".nhdr": "nrrdFiles", ".tif": "stacks", ".tiff": "stacks"}
FORMATS |= dict.fromkeys((".h5", ".hdf5", ".hdf", ".nxs", ".nx"), "hdf5Files")
FORMATS |= dict.fromkeys((".zarr", ".ome.zarr", ".zarr.zip", ".ome.zarr.zip"), "zarrFolders")
FORMATS |= {".mhd": "metaImages", ".mha": "metaImages", ".nii": "niftiFiles", ".nii.gz": "niftiFiles"}
FORMATS |= {".hdr": "niftiFiles", ".img": "niftiFiles", ".vol": "volFiles"}
FORMATS |= {".raw": "rawFiles", ".dat": "rawFiles", ".bin": "rawFiles"}
FORMATS |= {".seg.nrrd": "nrrdFiles"}  # last: of two masks beside a volume the plain one is meant
BARE = (".img", ".raw", ".dat", ".bin")  # volumes of their own only where no other file describes them
NAMED = ("hdf5Files", "zarrFolders")  # modules whose files hold several things
INNER = (*NAMED, "volFiles", "rawFiles")  # and those with layouts: openVolume(path, inner)
FOLDERS = ("zarrFolders",)  # modules whose volumes are folders with an ending of their own
MARKS = dict.fromkeys(("zarr.json", ".zgroup", ".zarray"), "zarrFolders")  # files that tell what a folder is
RAW = "rawFiles"
STACK = "stacks"  # any other folder: one of slices
SHOWN = (".nrrd", ".tif", ".h5", ".zarr", ".mhd", ".nii", ".vol", ".raw")  # of formats, in a message
MAGIC = b"NRRD"  # of the format that a name of no known ending may have
COMPANIONS = ("_infos.txt",)  # what programs write beside a volume of this name, needed or not: nabu
ADDRESS = re.compile("[a-zA-Z][a-zA-Z0-9+.-]+:/")  # s3://..., of which a Path keeps one slash


def openVolume(path: str | Path) -> Volume:
    """Open a volume of any format and check it without reading voxels.

    Parameters
    ----------
    path : path
        A file, one thing in it (scan.h5::/entry/data), or a folder with one file a slice. A name of an
        unknown ending is tried as NRRD.

    Raises
    ------
    PipelineError
        It is missing, damaged or no 3D volume with one number a voxel.
    """
    return _open(path, "openVolume")


def openMask(path: str | Path) -> Volume:
    """Open a manual mask as `openVolume`; in one of 3D Slicer segments may overlap.

    Then its voxels are records with a number for each layer: see `segments.decodeLayers`.
    """
    return _open(path, "openMask")


def _open(path: str | Path, function: str) -> Volume:
    """Call a function of the module of a format, or its openVolume where it has no such one."""
    path, inner = splitInner(path)
    if ADDRESS.match(str(path)) and not os.path.exists(path):
        remedy = "copy it to this computer, or mount it as a folder"
        raise PipelineError("is an address, no file or folder", file=path, remedy=remedy)
    _requirePlain(path)
    if not _endingOf(path) and path.is_file() and not _isNrrd(path):
        from engine.formats.companions import refuseOther  # which opens volumes too

        raise refuseOther(path)
    name = _moduleOf(path)
    module = importlib.import_module(f"engine.formats.{name}")  # libraries load slowly
    opener = getattr(module, function, module.openVolume)
    if name in INNER:
        return opener(path, inner)
    if inner:
        raise PipelineError("holds one volume, without names in it", file=path, received=inner)
    return opener(path)


def _requirePlain(path: Path) -> None:
    """Refuse what is neither file nor folder, such as a pipe; what is not there is told by its module."""
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return
    except ValueError as error:  # a zero in the name
        raise PipelineError("there is no such file", file=path) from error
    except OSError as error:
        raise PipelineError(f"cannot be read: {error.strerror or error}", file=path) from error
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise PipelineError("is neither a file nor a folder", file=path)


def _isNrrd(path: Path) -> bool:
    """Whether a file begins as NRRD does; so does one that cannot be read, which is told elsewhere."""
    try:
        with open(path, "rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return True


def _moduleOf(path: Path) -> str:
    """Name the module that opens a file or folder."""
    name = FORMATS.get(_endingOf(path), "nrrdFiles")
    if name in FOLDERS or not path.is_dir():
        return name
    return next((module for mark, module in MARKS.items() if (path / mark).is_file()), STACK)


def _endingOf(path: Path) -> str:
    """Give the ending of a known format; empty for any other name."""
    stem = stemFor(path.name, tuple(FORMATS))
    return "" if stem is None else path.name[len(stem) :].lower()


def nameIn(path: Path, inner: str) -> Path:
    """Name one thing in a file, if files of its format hold several under names."""
    return Path(joinInner(path, inner if _moduleOf(path) in NAMED else ""))


def withLayout(path: Path, rawLayout: str) -> Path:
    """Name a raw file with the layout of its voxels, if it is one and does not tell its own."""
    isRaw = MARK not in str(path) and FORMATS.get(_endingOf(path)) == RAW and not path.is_dir()
    return Path(joinInner(path, rawLayout.strip() if isRaw else ""))


def isVolumeName(path: Path) -> bool:
    """Whether a file of this name should be a volume."""
    return bool(_endingOf(path))


def isBareName(path: Path) -> bool:
    """Whether a file of this name may hold no more than the voxels of another one."""
    return _endingOf(path) in BARE


def stemOf(path: Path) -> str:
    """Name of a volume without its ending; a folder has none, a dot in its name is one."""
    path, _ = splitInner(path)
    stem = stemFor(path.name, tuple(FORMATS))
    return (path.name if path.is_dir() else path.stem) if stem is None else stem


def listCompanions(path: Path) -> list[Path]:
    """List the texts that belong to a volume by their names; they need not be there."""
    return [path.with_name(stemOf(path) + ending) for ending in COMPANIONS]


def findBeside(path: Path, name: str) -> Path:
    """Find a volume of this name, of any format, beside another; NRRD where there is none."""
    path, _ = splitInner(path)
    named = [path.with_name(name + ending) for ending in (*FORMATS, "")]
    return next((file for file in named if os.path.exists(file)), named[0])  # one too long is not there
