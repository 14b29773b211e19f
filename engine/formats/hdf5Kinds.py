"""What an HDF5 dataset is: which of its axes are z, y and x, its type, and whether it can be read here."""

import json
import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from engine.base.errors import PipelineError
from engine.formats.hdf5Links import findHard, linkOf

WIDTHS = (1, 2, 4, 8)  # bytes of numbers that are read
BESIDE = ("data_white", "data_dark", "image_key")  # what lies beside projections
ANGLES = re.compile("theta|angle|rotation", re.IGNORECASE)  # names of their first axis
ANGLE_LISTS = ("theta", "rotation_angle")


def voxelType(kind: np.dtype) -> np.dtype | None:
    """Give the type in which voxels are read; None where they are no numbers.

    Truth values become 0 and 1, names of an enumeration their numbers; a sum of float16 would overflow, so
    these become float32.
    """
    if kind.kind == "b":
        return np.dtype("u1")
    if (kind.kind, kind.itemsize) == ("f", 2):
        return np.dtype("f4")
    isNumber = kind.kind in "iuf" and kind.itemsize in WIDTHS
    return np.dtype(kind.newbyteorder("=").str) if isNumber else None


def orderAxes(dataset: h5py.Dataset) -> tuple[int, int, int] | None:
    """Find the axes of a dataset that are z, y, x; None where it is no volume with one number a voxel.

    By their names where the file gives them; else they are the last three, or those before an axis of length
    one. An axis of length one beside them is left out.
    """
    shape, names = dataset.shape or (), _nameAxes(dataset)
    if names and len(names) == len(shape) and set(names) <= set("tczyx"):
        if not all(names.count(letter) == 1 for letter in "zyx") or 0 in shape:
            return None
        isAlone = all(size == 1 for size, name in zip(shape, names, strict=True) if name not in "zyx")
        return tuple(names.index(letter) for letter in "zyx") if isAlone else None
    first, stop = 0, len(shape)
    while stop - first > 3 and shape[first] == 1:
        first += 1
    while stop - first > 3 and shape[stop - 1] == 1:
        stop -= 1
    if stop - first != 3 or 0 in shape:
        return None
    return _upright(dataset, first) if _isSaved(dataset) else (first, first + 1, first + 2)


def _nameAxes(dataset: h5py.Dataset) -> list[str]:
    """List the names of the axes: as ilastik, Data Exchange or the labels of HDF5 write them."""
    attributes = dataset.attrs
    if "axistags" in attributes:
        try:
            return [axis["key"] for axis in json.loads(_text(attributes["axistags"]))["axes"]]
        except (ValueError, LookupError, TypeError):
            return []
    if "axes" in attributes:
        return re.split("[:, ]+", _text(attributes["axes"]).strip().lower())
    if "DIMENSION_LABELS" in attributes:
        return [dimension.label.lower() for dimension in dataset.dims]
    return []


def _text(value: Any) -> str:
    """Read an attribute as text; empty where it is none."""
    if isinstance(value, np.ndarray):
        value = value.item() if value.size == 1 else ":".join(map(_text, value.ravel().tolist()))
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


# ------------------------------------------------------------------------------------- projections or volume


def isProjections(dataset: h5py.Dataset) -> bool:
    """Whether a dataset holds the projections that a volume is reconstructed from, by what lies beside it."""
    if ANGLES.search(":".join(_nameAxes(dataset))):
        return True
    count, group = dataset.shape[0], dataset.parent
    if _isSaved(dataset):
        return count != dataset.shape[2] and count == findHard(dataset.file, "angles").size
    if any(linkOf(group, name) for name in BESIDE) or ANGLES.search(_text(group.attrs.get("axes", ""))):
        return True
    lists = [findHard(group, name) for name in ANGLE_LISTS]
    return any(isinstance(item, h5py.Dataset) and item.size == count for item in lists)


def _isSaved(dataset: h5py.Dataset) -> bool:
    """Whether httomo saved a dataset between two of its steps, with angles whatever it is."""
    beside = [findHard(dataset.file, name) for name in ("angles", "data_dims/detector_x_y")]
    return dataset.ndim == 3 and all(isinstance(item, h5py.Dataset) for item in beside)


def _upright(dataset: h5py.Dataset, first: int) -> tuple[int, int, int]:
    """Give the axes of what httomo saved: its reconstructions are (y, z, x), one square slice for each z."""
    isVolume = dataset.shape[0] == dataset.shape[2]
    return (1, 0, 2) if isVolume else (first, first + 1, first + 2)


# -------------------------------------------------------------------------------------- what cannot be read


def requireInside(dataset: h5py.Dataset, path: Path) -> None:
    """Refuse a dataset whose voxels lie in raw files, which may be any of the computer."""
    if dataset.id.get_create_plist().get_external_count():
        rule, remedy = "keeps its voxels in raw files elsewhere", "h5repack of HDF5 puts them into one file"
        raise PipelineError(f"{dataset.name} {rule}", file=path, remedy=remedy)


def requireFilters(dataset: h5py.Dataset, path: Path) -> None:
    """Refuse a compression that cannot be decoded here; hdf5plugin is loaded for one that needs it."""
    properties = dataset.id.get_create_plist()
    for number in range(properties.get_nfilters()):
        code, _, _, name = properties.get_filter(number)
        if h5py.h5z.filter_avail(code):
            continue
        try:
            import hdf5plugin  # noqa: F401
        except ImportError:
            remedy = "pip install hdf5plugin"
        else:
            remedy = "save it with gzip"
        if not h5py.h5z.filter_avail(code):
            words = name.decode(errors="replace").split(";")[0] or "of no name"
            rule = f"the compression {words} (filter {code}) of {dataset.name} cannot be read"
            raise PipelineError(rule, file=path, remedy=remedy)
