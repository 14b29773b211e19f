"""Volumes as TIFF stacks that ImageJ and Fiji open with the right voxel size."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from engine.base.errors import PipelineError
from engine.base.files import writeAtomically
from engine.volumes.frame import METRES, Frame

CLASSIC_LIMIT = 2**32 - 2**25  # bytes; a larger file needs BigTIFF, which Fiji reads through Bio-Formats
OME_UNITS = dict.fromkeys(("um", "µm", "μm", "micron", "microns"), "µm")
OME_UNITS |= {name: name for name in ("nm", "mm", "cm", "m", "Å", "pixel")} | {"voxel": "pixel"}


def requireTifffile() -> None:
    """Refuse early what could not be written.

    Raises
    ------
    PipelineError
        The package tifffile is missing.
    """
    try:
        import tifffile  # noqa: F401
    except ImportError as error:
        raise PipelineError("--outputFormat tiff needs tifffile", remedy="pip install tifffile") from error


def scaleSides(sides: np.ndarray, unit: str) -> tuple[np.ndarray, str]:
    """Write the sides of a voxel in a unit in which they are neither tiny nor huge, if the unit is known.

    TIFF holds their inverse as a fraction of 32 bits; what no fraction can hold becomes 1 pixel.
    """
    if unit in METRES and not 1e-3 <= sides.min() <= 1e3:
        lengths = {name: sides * METRES[unit] / METRES[name] for name in ("nm", "um", "mm", "m")}
        unit = min(lengths, key=lambda name: abs(np.log(lengths[name].min())))
        sides = lengths[unit]
    isWritable = 1e-9 < sides.min() and sides.max() < 1e9
    return (sides, unit) if isWritable else (np.ones(3), "pixel")


def escapeUnit(unit: str) -> str:
    """Write a unit in ASCII, as the Java properties that ImageJ reads."""
    return "".join(letter if letter.isascii() else f"\\u{ord(letter):04x}" for letter in unit)


def describeImageJ(sides: np.ndarray, unit: str) -> dict[str, str | float]:
    """Write what ImageJ reads beside the resolution in x and y."""
    return {"axes": "ZYX", "spacing": float(sides[2]), "unit": escapeUnit(unit)}


def describeOme(sides: np.ndarray, unit: str) -> dict[str, str | float]:
    """Write the voxel for OME-XML, whose "reference frame" is a unit of unknown length."""
    description: dict[str, str | float] = {"axes": "ZYX"}
    for axis, side in zip("XYZ", sides, strict=True):
        description[f"PhysicalSize{axis}"] = float(side)
        description[f"PhysicalSize{axis}Unit"] = OME_UNITS.get(unit, "reference frame")
    return description


@contextlib.contextmanager
def openTiff(
    path: Path, shape: tuple[int, int, int], dtype: str, frame: Frame
) -> Iterator[Callable[[np.ndarray], None]]:
    """Write a TIFF stack plane by plane; it appears under its name when the block ends well.

    As `nrrdWriter.openPlanes`, but for the type (uint8, uint16 or float32: ImageJ knows these) and the frame
    in place of a header: TIFF knows voxel size and unit, and no direction in space.
    ImageJ's own stacks end at 4 GB; a larger one is an OME-TIFF, of which Bio-Formats reads the voxel size.
    """
    import tifffile

    sides, unit = scaleSides(np.linalg.norm(frame.directions, axis=1), frame.unit)
    byteCount = int(np.prod(shape)) * np.dtype(dtype).itemsize
    isImageJ = byteCount < CLASSIC_LIMIT
    with writeAtomically(path) as temporary:
        offset, _ = tifffile.imwrite(
            temporary,
            shape=shape[::-1],
            dtype=dtype,
            imagej=isImageJ,
            ome=not isImageJ,
            bigtiff=not isImageJ,
            photometric="minisblack",  # three voxels along x are no colours
            byteorder=">" if isImageJ else "<",
            resolution=(1 / sides[0], 1 / sides[1]),
            resolutionunit="NONE",  # the description names the unit
            metadata=describeImageJ(sides, unit) if isImageJ else describeOme(sides, unit),
            returnoffset=True,
        )
        with open(temporary, "r+b") as file:
            file.seek(offset)
            kind = np.dtype(dtype).newbyteorder(">" if isImageJ else "<")
            yield lambda planes: file.write(np.ascontiguousarray(planes, kind).data)
