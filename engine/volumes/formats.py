"""Which formats of volumes there are; nothing else knows."""

import importlib
import os
import re
from pathlib import Path

from engine.base.errors import PipelineError
from engine.volumes.names import splitInner, stemFor
from engine.volumes.volume import Volume

FORMATS = {".nrrd": "nrrdFiles", ".nhdr": "nrrdFiles", ".tif": "stacks", ".tiff": "stacks"}
FORMATS |= dict.fromkeys((".zarr", ".ome.zarr", ".zarr.zip", ".ome.zarr.zip"), "zarrFolders")
INNER = ("zarrFolders",)  # modules whose files hold several things: openVolume(path, inner)
FOLDERS = ("zarrFolders",)  # modules whose volumes are folders with an ending of their own
MARKS = dict.fromkeys(("zarr.json", ".zgroup", ".zarray"), "zarrFolders")  # files that tell what a folder is
STACK = "stacks"  # any other folder: one of slices
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
    path, inner = splitInner(path)
    if ADDRESS.match(str(path)) and not os.path.exists(path):
        remedy = "copy it to this computer, or mount it as a folder"
        raise PipelineError("is an address, no file or folder", file=path, remedy=remedy)
    name = _moduleOf(path)
    module = importlib.import_module(f"engine.volumes.{name}")  # libraries load slowly
    if name in INNER:
        return module.openVolume(path, inner)
    if inner:
        raise PipelineError("holds one volume, without names in it", file=path, received=inner)
    return module.openVolume(path)


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


def isVolumeName(path: Path) -> bool:
    """Whether a file of this name should be a volume."""
    return bool(_endingOf(path))


def stemOf(path: Path) -> str:
    """Name of a volume without its ending; a folder has none, a dot in its name is one."""
    path, _ = splitInner(path)
    stem = stemFor(path.name, tuple(FORMATS))
    return (path.name if path.is_dir() else path.stem) if stem is None else stem


def findBeside(path: Path, name: str) -> Path:
    """Find a volume of this name, of any format, beside another; NRRD where there is none."""
    path, _ = splitInner(path)
    named = [path.with_name(name + ending) for ending in (*FORMATS, "")]
    return next((file for file in named if os.path.exists(file)), named[0])  # one too long is not there
