"""Which formats of volumes there are; nothing else knows."""

import importlib
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
    module = (
        FOLDER if path.is_dir() and not isVolumeName(path) else FORMATS.get(path.suffix.lower(), "nrrdFiles")
    )
    return importlib.import_module(f"engine.volumes.{module}").openVolume(path)  # TIFF loads slowly


def isVolumeName(path: Path) -> bool:
    """Whether a file of this name should be a volume."""
    return path.suffix.lower() in FORMATS
