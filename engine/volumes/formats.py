"""Which formats of volumes there are; nothing else knows."""

import importlib
import os
from pathlib import Path

from engine.volumes.volume import Volume

FORMATS = {".nrrd": "nrrdFiles", ".nhdr": "nrrdFiles", ".tif": "stacks", ".tiff": "stacks"}
FOLDER = "stacks"  # a folder of slices


def openVolume(path: str | Path) -> Volume:
    """Open a volume of any format and check it without reading voxels.

    Parameters
    ----------
    path : path
        A file, or a folder with one file a slice. A name of an unknown ending is tried as NRRD.

    Raises
    ------
    PipelineError
        It is missing, damaged or no 3D volume with one number a voxel.
    """
    path = Path(path)
    module = FOLDER if path.is_dir() else FORMATS.get(path.suffix.lower(), "nrrdFiles")
    return importlib.import_module(f"engine.volumes.{module}").openVolume(path)  # TIFF loads slowly


def isVolumeName(path: Path) -> bool:
    """Whether a file of this name should be a volume."""
    return path.suffix.lower() in FORMATS


def stemOf(path: Path) -> str:
    """Name of a volume without its ending; a folder has none, a dot in its name is one."""
    return path.stem if isVolumeName(path) or not path.is_dir() else path.name


def findBeside(path: Path, name: str) -> Path:
    """Find a volume of this name, of any format, beside another; NRRD where there is none."""
    named = [path.with_name(name + ending) for ending in (*FORMATS, "")]
    return next((file for file in named if os.path.exists(file)), named[0])  # one too long is not there
