"""NIfTI volumes: .nii, .nii.gz, and pairs of .hdr and .img; versions 1 and 2, either byte order.

The header is 348 or 540 bytes at known places, read here without another package. Its space is
right-anterior-superior; ITK and the results of this pipeline count left-posterior-superior.
"""

import gzip
import logging
import zlib
from pathlib import Path

import numpy as np

from engine.base.errors import PipelineError
from engine.formats.companions import findHeader
from engine.formats.dataFiles import measureSurplus
from engine.formats.nrrdGeometry import readFrame
from engine.formats.rawData import RawVolume
from engine.formats.scaled import ScaledVolume
from engine.volumes.frame import Frame, compareFrames
from engine.volumes.volume import Volume

LOGGER = logging.getLogger(__name__)
GZIP = b"\x1f\x8b"
MAGIC = {348: {b"n+1": True, b"ni1": False}, 540: {b"n+2": True, b"ni2": False}}  # voxels in the same file?
TYPES = {
    2: "u1",
    4: "i2",
    8: "i4",
    16: "f4",
    64: "f8",
    256: "i1",
    512: "u2",
    768: "u4",
    1024: "i8",
    1280: "u8",
}
OTHER_TYPES = {1: "bits", 32: "complex", 128: "RGB colours", 1536: "float128", 1792: "complex"}
OTHER_TYPES |= {2048: "complex", 2304: "RGBA colours"}
UNITS = {1: "m", 2: "mm", 3: "um"}
TO_LPS = np.array([-1.0, -1.0, 1.0])
SAVE_REMEDY = "save it as .nii or .nii.gz"


def _layout(itemsize: int, **fields: tuple[str, int]) -> np.dtype:
    """Make the type of a header from (type, first byte) of its fields."""
    formats, offsets = zip(*fields.values(), strict=True)
    return np.dtype({"names": list(fields), "formats": formats, "offsets": offsets, "itemsize": itemsize})


HEADERS = {
    348: _layout(
        348,
        dim=("8i2", 40),
        datatype=("i2", 70),
        pixdim=("8f4", 76),
        vox_offset=("f4", 108),
        scl_slope=("f4", 112),
        scl_inter=("f4", 116),
        xyzt_units=("u1", 123),
        qform_code=("i2", 252),
        sform_code=("i2", 254),
        quatern=("3f4", 256),
        qoffset=("3f4", 268),
        srow=("(3,4)f4", 280),
        magic=("S4", 344),
    ),
    540: _layout(
        540,
        magic=("S8", 4),
        datatype=("i2", 12),
        dim=("8i8", 16),
        pixdim=("8f8", 104),
        vox_offset=("i8", 168),
        scl_slope=("f8", 176),
        scl_inter=("f8", 184),
        qform_code=("i4", 344),
        sform_code=("i4", 348),
        quatern=("3f8", 352),
        qoffset=("3f8", 376),
        srow=("(3,4)f8", 400),
        xyzt_units=("i4", 500),
    ),
}

# -------------------------------------------------- open: everything is checked, no voxel is read


def openVolume(path: str | Path) -> Volume:
    """Open a NIfTI file and check it without reading voxels.

    Parameters
    ----------
    path : path
        A .nii or .nii.gz file, or one of a pair .hdr and .img.

    Raises
    ------
    PipelineError
        It is missing, no NIfTI or no 3D volume with one number a voxel, or its voxels are too few.
    """
    path = Path(path)
    try:
        headerPath = _findOther(path, ".hdr") if path.suffix.lower() == ".img" else path
        header, isSingle = _readHeader(headerPath)
        dataPath = headerPath if isSingle else _findOther(headerPath, ".img")
        return _open(path, headerPath, dataPath, header)
    except OSError as error:
        rule = f"cannot be read: {error.strerror or error}"
        raise PipelineError(rule, file=error.filename or path) from error


def _open(path: Path, headerPath: Path, dataPath: Path, header: np.void) -> Volume:
    """Open the volume of a header."""
    shape, dtype = _readShape(headerPath, header), _readType(headerPath, header)
    place, start = _readFrame(headerPath, header, shape), _readOffset(headerPath, header, dataPath)
    isPacked = _isPacked(dataPath)
    volume = RawVolume(
        path,
        {},
        shape,
        dtype,
        "gzip" if isPacked else "raw",
        (dataPath,),
        (0 if isPacked else start,),
        byteSkip=start if isPacked else 0,
        place=place,
        notes=(headerPath,),
    )
    surplus = measureSurplus(volume, dataPath, dataPath.stat().st_size - volume.offsets[0])
    if surplus:
        LOGGER.warning("%s: %d bytes after the voxels are not used", dataPath, surplus)
    slope, intercept = (float(header[name]) for name in ("scl_slope", "scl_inter"))
    if slope == 0 or not np.isfinite(slope):  # the values are those of the file
        return volume
    if not np.isfinite(intercept):
        raise PipelineError("scl_inter must be a finite number", file=headerPath, received=intercept)
    return volume if (slope, intercept) == (1, 0) else ScaledVolume(volume, slope, intercept)


def _findOther(path: Path, ending: str) -> Path:
    """Find the other file of a pair, whatever letters its ending has."""
    names = [path.with_suffix(kind) for kind in (ending, ending.upper(), f"{ending}.gz")]
    found = next((name for name in names if name.is_file()), None)
    if found is None:
        if not path.exists():
            raise PipelineError("there is no such file", file=path)
        header = findHeader(path) if ending == ".hdr" else None
        remedy = SAVE_REMEDY if header is None else f"give {header.name}, which describes it"
        what = "the header" if ending == ".hdr" else "the file with the voxels"
        raise PipelineError(f"{what} {names[0].name} is missing beside it", file=path, remedy=remedy)
    return found


def _isPacked(path: Path) -> bool:
    """Whether a file is compressed, whatever its ending says."""
    with open(path, "rb") as file:
        return file.read(2) == GZIP


def _readHeader(path: Path) -> tuple[np.void, bool]:
    """Read the header in the byte order of the file; tell whether the voxels follow it in the same file."""
    if not path.is_file():
        raise PipelineError("is a folder, no file" if path.is_dir() else "there is no such file", file=path)
    try:
        with gzip.open(path) if _isPacked(path) else open(path, "rb") as file:
            content = file.read(max(HEADERS))
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise PipelineError(f"the data are truncated or damaged: {error}", file=path) from error
    for order in "<>":
        size = int(np.frombuffer(content[:4].ljust(4, b"\0"), f"{order}i4")[0])
        if size in HEADERS and len(content) >= size:
            header = np.frombuffer(content[:size], HEADERS[size].newbyteorder(order))[0]
            isSingle = MAGIC[size].get(bytes(header["magic"])[:3])
            if isSingle is not None:
                return header, isSingle
    remedy = SAVE_REMEDY if path.suffix.lower() == ".hdr" else None
    raise PipelineError("is no NIfTI file", file=path, remedy=remedy)


def _readShape(path: Path, header: np.void) -> tuple[int, int, int]:
    """Voxels along (x, y, z); axes beyond them must have one each."""
    count = int(header["dim"][0])
    sizes = header["dim"][1 : count + 1].tolist()
    if not 1 <= count <= 7 or min(sizes) < 1:
        raise PipelineError("its sizes cannot be read", file=path, received=header["dim"].tolist())
    if count < 3:
        raise PipelineError("is a 2D image", file=path, expected="3 axes", received=count)
    if max(sizes[3:], default=1) > 1:
        received = " x ".join(map(str, sizes))
        rule, remedy = "holds several values a voxel, or several volumes", "save one of them as a 3D volume"
        raise PipelineError(rule, file=path, expected="one", received=received, remedy=remedy)
    return tuple(sizes[:3])


def _readType(path: Path, header: np.void) -> np.dtype:
    """Type of a voxel with the byte order of the file."""
    code = int(header["datatype"])
    if code not in TYPES:
        rule, received = "this type of voxel cannot be read", OTHER_TYPES.get(code, f"datatype {code}")
        raise PipelineError(rule, file=path, expected="integers or floats", received=received)
    return np.dtype(TYPES[code]).newbyteorder(header.dtype["datatype"].byteorder)


def _readOffset(path: Path, header: np.void, dataPath: Path) -> int:
    """Byte of the (decoded) data file where the voxels start."""
    start, least = float(header["vox_offset"]), header.dtype.itemsize + 4 if path == dataPath else 0
    if start == 0:
        return least
    if not np.isfinite(start) or start != int(start) or start < least:
        rule, expected = "vox_offset must be a whole number behind the header", f"{least} or more"
        raise PipelineError(rule, file=path, expected=expected, received=f"{start:g}")
    return int(start)


# -------------------------------------------------- where the voxels lie


def _readFrame(path: Path, header: np.void, shape: tuple[int, int, int]) -> Frame:
    """Find the place of the voxels: by the sform, else by the qform, else their sides alone."""
    unit = UNITS.get(int(header["xyzt_units"]) & 7)
    byRows = _frameOf(header["srow"].astype(float), unit) if header["sform_code"] > 0 else None
    byTurn = _frameOf(_quaternAffine(header), unit) if header["qform_code"] > 0 else None
    if byRows is not None and byTurn is not None and (found := compareFrames(byRows, byTurn, shape)):
        LOGGER.warning("%s: sform and qform differ in the %s; the sform is taken", path, found[0])
    if byRows is not None or byTurn is not None:
        return byTurn if byRows is None else byRows
    sides = header["pixdim"][1:4].astype(float)
    return readFrame({"spacings": np.abs(sides)} | ({"units": [unit] * 3} if unit else {}))


def _frameOf(affine: np.ndarray, unit: str | None) -> Frame:
    """Make a frame of an affine (3, 4) from voxels to right-anterior-superior."""
    if not np.isfinite(affine).all():
        return readFrame({})
    directions, origin = (affine[:, :3] * TO_LPS[:, np.newaxis]).T, affine[:, 3] * TO_LPS
    fields = {"space": "left-posterior-superior", "space directions": directions, "space origin": origin}
    return readFrame(fields | ({"space units": [unit] * 3} if unit else {}))


def _quaternAffine(header: np.void) -> np.ndarray:
    """Affine (3, 4) of a turn by a quaternion, voxel sides and offset (method 2 of NIfTI)."""
    b, c, d = header["quatern"].astype(float)
    a = np.sqrt(max(0.0, 1 - b * b - c * c - d * d))
    turn = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
    )
    sides = header["pixdim"][1:4].astype(float)
    sides[2] *= -1 if header["pixdim"][0] < 0 else 1
    return np.column_stack((turn * sides, header["qoffset"].astype(float)))
