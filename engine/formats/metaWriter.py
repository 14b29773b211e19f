"""A MetaImage header (.mhd) beside an NRRD result, for programs that open no NRRD: no voxel is copied."""

import os
from pathlib import Path

import numpy as np

from engine.base.errors import PipelineError
from engine.base.files import writeAtomically
from engine.formats.metaImages import TYPES, UNITS
from engine.formats.nrrdFiles import openVolume
from engine.formats.rawData import RawVolume
from engine.volumes.frame import patientSigns


def nameMetaHeader(path: Path) -> Path:
    """Name the header beside an NRRD file."""
    return path.with_suffix(".mhd")


def writeMetaHeader(path: Path) -> Path:
    """Write an .mhd that points to the voxels of an NRRD file; both belong into one folder.

    Parameters
    ----------
    path : Path
        An NRRD file with raw voxels, the header attached or in a file of its own.

    Returns
    -------
    Path
        The header that was written, `nameMetaHeader(path)`.

    Raises
    ------
    PipelineError
        The voxels are compressed or text or in several files, the name of their file has a '%', which
        MetaImage takes for a pattern, or the folder cannot be written to.
    """
    volume = openVolume(path)
    if volume.encoding != "raw" or len(volume.dataPaths) != 1:
        rule = "an .mhd can only point to the raw voxels of one file"
        raise PipelineError(rule, file=path, expected="encoding raw", received=volume.encoding)
    name = os.path.relpath(volume.dataPath, path.parent)
    if "%" in name:
        raise PipelineError("an .mhd cannot point to a file with a '%' in its name", file=path)
    target = nameMetaHeader(path)
    with writeAtomically(target) as temporary:
        temporary.write_text(
            "".join(f"{field} = {value}\n" for field, value in _describe(volume, name)), "utf-8"
        )
    return target


def _describe(volume: RawVolume, name: str) -> list[tuple[str, str]]:
    """List the fields of the header; ElementDataFile must be the last one."""
    frame = volume.frame
    signs = patientSigns(frame.space or "")
    if signs is None:
        signs = np.ones(3)  # of a space without patient numbers are kept, as ITK keeps them
    sides = frame.sides
    turned = frame.directions / sides[:, np.newaxis] * signs
    (elementType,) = [name for name, code in TYPES.items() if code == volume.dtype.str[1:]][:1]
    unit = [("DistanceUnits", frame.unit)] if frame.unit in UNITS else []
    return [
        ("ObjectType", "Image"),
        ("NDims", "3"),
        ("BinaryData", "True"),
        ("BinaryDataByteOrderMSB", str(volume.dtype.str[0] == ">")),
        ("CompressedData", "False"),
        ("TransformMatrix", _write(turned)),
        ("Offset", _write(frame.origin * signs)),
        ("CenterOfRotation", "0 0 0"),
        *unit,
        ("ElementSpacing", _write(sides)),
        ("DimSize", " ".join(map(str, volume.shape))),
        ("HeaderSize", str(volume.offsets[0])),
        ("ElementType", elementType),
        ("ElementDataFile", name),
    ]


def _write(numbers: np.ndarray) -> str:
    """Write numbers so that they are read as the same ones."""
    return " ".join(repr(float(number) + 0.0) for number in np.ravel(numbers))
