"""Which formats of volumes there are; nothing else knows."""

import importlib
import os
from pathlib import Path

from engine.base.errors import PipelineError
from engine.volumes.names import splitInner, stemFor
from engine.volumes.volume import Volume

FORMATS = {".nrrd": "nrrdFiles", ".nhdr": "nrrdFiles", ".tif": "stacks", ".tiff": "stacks"}
FORMATS |= {".seg.nrrd": "nrrdFiles"}  # last: of two masks beside a volume the plain one is meant
INNER = ()  # modules whose files hold several things: openVolume(path, inner)
FOLDERS = ()  # modules whose volumes are folders with an ending of their own
STACK = "stacks"  # any other folder: one of slices


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
    name = _moduleOf(path)
    module = importlib.import_module(f"engine.volumes.{name}")  # libraries load slowly
    opener = getattr(module, function, module.openVolume)
    if name in INNER:
        return opener(path, inner)
    if inner:
        raise PipelineError("holds one volume, without names in it", file=path, received=inner)
    return opener(path)


def _moduleOf(path: Path) -> str:
    """Name the module that opens a file or folder."""
    name = FORMATS.get(_endingOf(path), "nrrdFiles")
    return STACK if path.is_dir() and name not in FOLDERS else name


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
