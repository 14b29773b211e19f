"""Files that belong to a volume and are none of their own: which name is to be given instead of theirs."""

import contextlib
import os
import re
from pathlib import Path

from engine.base.errors import PipelineError
from engine.formats.opening import COMPANIONS, MARKS, SHOWN, findBeside, openVolume

HEADERS = (".mhd", ".nhdr")  # of files that may point to one of any name
MOST_HEADERS = 100  # that are opened to see whether they do
PACKED = ".zraw"  # voxels of an .mhd alone
DESCRIPTIONS = (".info", ".xml")  # of a .vol: behind its name, or in place of its ending
OME_COMPANION = ".companion.ome"
OME_LIMIT_BYTES = 1 << 20
NAMED_IN_OME = re.compile(r"FileName\s*=\s*[\"']([^\"'/\\]+)[\"']")
ZARR_FILES = (*MARKS, ".zattrs", ".zmetadata")


def refuseOther(path: Path) -> PipelineError:
    """Say what a file is that is no volume of any format, and the name of the volume that it belongs to.

    Parameters
    ----------
    path : Path
        An existing file whose ending is that of no format, and that is no NRRD.
    """
    found = _describeZarr(path) or _describeText(path) or _describeData(path)
    known = ", ".join(SHOWN)
    rule, remedy = found or (f"is no volume of a known format ({known}, or a folder of slices)", None)
    return PipelineError(rule, file=path, remedy=remedy)


def findHeader(path: Path) -> Path | None:
    """Find a header beside a file that points to it, or else one that is named like it."""
    alike = [header for ending in HEADERS if (header := path.with_suffix(ending)).is_file()]
    with contextlib.suppress(OSError):
        others = (file for file in sorted(path.parent.iterdir()) if file.suffix.lower() in HEADERS)
        for header in list(dict.fromkeys((*alike, *others)))[:MOST_HEADERS]:
            with contextlib.suppress(PipelineError):
                if os.path.abspath(path) in map(os.path.abspath, openVolume(header).files):
                    return header
    return next(iter(alike), None)


def _describeZarr(path: Path) -> tuple[str, str] | None:
    """Say of metadata of Zarr that the folder is meant."""
    if path.name not in ZARR_FILES:
        return None
    return "is a part of a Zarr folder", f"name the folder, such as {path.absolute().parent}"


def _describeText(path: Path) -> tuple[str, str] | None:
    """Say of a text beside a volume that the volume is meant."""
    rule, name = "describes a volume and holds no voxels", path.name
    if name.lower().endswith(OME_COMPANION):
        return "describes an OME-TIFF and holds no voxels", f"name {_firstOfOme(path)}"
    for ending in COMPANIONS:
        if name.endswith(ending):
            volume = findBeside(path, name.removesuffix(ending))
            return rule, f"name {volume.name if volume.exists() else 'the volume itself, or its folder'}"
    if path.suffix.lower() in DESCRIPTIONS:
        stem = path.with_suffix("")
        volume = next((name for name in (stem, stem.with_suffix(".vol")) if name.is_file()), None)
        return None if volume is None else (rule, f"name {volume.name}")
    return None


def _firstOfOme(path: Path) -> str:
    """Name a TIFF file that a companion of OME-TIFF names."""
    with contextlib.suppress(OSError), open(path, encoding="utf-8", errors="replace") as file:
        match = NAMED_IN_OME.search(file.read(OME_LIMIT_BYTES))
        if match and path.with_name(match[1]).is_file():
            return match[1]
    return "one of its TIFF files, or their folder"


def _describeData(path: Path) -> tuple[str, str] | None:
    """Say of a file that a header points to that it holds no more than voxels."""
    header = findHeader(path)
    if header is None and path.suffix.lower() != PACKED:
        return None
    rule = "holds the voxels of another file, which tells their sides and type"
    return rule, f"name {header.name if header else 'its header, an .mhd file'}"
