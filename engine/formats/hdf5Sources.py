"""Sources of virtual HDF5 datasets: all are there, fit, and lie in the folder of the file asked for.

HDF5 itself reads a source that is missing, or does not fit, as zeros without a word.
"""

import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from engine.base.errors import PipelineError
from engine.base.hdf5 import openForReading
from engine.formats.hdf5Kinds import requireFilters, requireInside
from engine.formats.hdf5Links import COPIED, MOST_LINKS, Place, findFile, reach
from engine.formats.hdf5Moved import byPrefix, findPrefix, remedyFor

MOST_SOURCES = 100_000  # that a pattern of names stands for
GAP = 100  # names of such a pattern that are looked for behind the last one that is there
PREFIXES = ("HDF5_VDS_PREFIX", "HDF5_EXT_PREFIX")  # of the environment: other folders, before that of a file
WHOLE = (0, 0)  # no voxel is missing


class Sources(NamedTuple):
    """What a virtual dataset is made of.

    Attributes
    ----------
    files : tuple of Path
        Those that hold its voxels.
    chunks : tuple of int or None
        Of the first source.
    missing : int
        Voxels that are in no source: they read as the fill value.
    planes : (int, int)
        From the first to behind the last index along its first axis with such voxels.
    prefix : str
        The folder that HDF5 has to be given to find the files, empty where it needs none.
    """

    files: tuple[Path, ...]
    chunks: tuple[int, ...] | None
    missing: int
    planes: tuple[int, int]
    prefix: str = ""


def listSources(place: Place, top: Path, way: tuple[Place, ...] = ()) -> Sources:
    """Check all sources of a virtual dataset, and those of sources that are virtual themselves.

    Parameters
    ----------
    place : Place
        The virtual dataset, its name without links.
    top : Path
        The file that was asked for.
    way : tuple of Place
        Virtual datasets that this one is a source of.

    Raises
    ------
    PipelineError
        A source is missing, lies elsewhere, does not fit, or is made of itself.
    """
    place = Place((place.path,), place.name)
    if place in way or len(way) > MOST_LINKS:
        raise PipelineError(f"the parts of {place.name} lead in a circle", file=place.path)
    if used := next((name for name in PREFIXES if os.environ.get(name)), None):
        rule = "the parts of a virtual dataset are read from its own folder alone"
        raise PipelineError(rule, file=top, received=f"{used} is set", remedy=f"unset {used}")
    with openForReading(place.path) as file:
        dataset = file[place.name]
        shape, mappings = dataset.shape, dataset.virtual_sources()
        checking = _Checking(place, dataset.dtype, top, (*way, place))
    if mappings and not way:
        checking.prefix = findPrefix(place, [mapping.file_name for mapping in mappings])
    space = h5py.h5s.create_simple(shape)
    space.select_all()
    for mapping in mappings:
        parts = checking.listParts(mapping)
        for name, part in parts:
            _requireRoom(mapping, part.shape, place, name)
        _take(space, mapping, shape, _blockCount(mapping, [part.shape for _, part in parts]))
    missing, planes = space.get_select_npoints(), WHOLE
    if missing:
        low, high = space.get_select_bounds()
        planes = int(low[0]), int(high[0]) + 1
    found = [part.sources for part in checking.known.values() if part]
    files = dict.fromkeys(path for sources in found for path in sources.files)
    chunks = found[0].chunks if found else None
    return Sources(tuple(files), chunks, int(missing), planes, checking.prefix)


class _Part(NamedTuple):
    """A source, and what it is made of itself."""

    sources: Sources
    shape: tuple[int, ...]


class _Checking:
    """The sources of one virtual dataset, each checked once."""

    def __init__(self, place: Place, kind: np.dtype, top: Path, way: tuple[Place, ...]) -> None:
        self._place, self._kind, self._top, self._way = place, kind, top, way
        self.known: dict[tuple[str, str], _Part | None] = {}
        self.prefix = ""

    def listParts(self, mapping: Any) -> list[tuple[str, _Part]]:
        """List the sources of a mapping with the names of their files: one, or as many as are numbered."""
        found, gap = [], None
        for number, (fileName, name) in enumerate(_expand(mapping)):
            part = self._find(fileName, name)
            if part and gap:
                self._refuseMissing(*gap)
            elif part:
                found.append((fileName, part))
            elif not found:
                self._refuseMissing(fileName, name)
            gap = gap or (None if part else (fileName, name))
            if number >= len(found) + GAP:
                break
        return found

    def _refuseMissing(self, fileName: str, name: str) -> None:
        """Refuse a dataset of which a part is not there."""
        rule = f"a part of {self._place.name} is missing"
        received, remedy = f"{fileName}::{name}", remedyFor(self._place, fileName)
        raise PipelineError(rule, file=self._place.path, received=received, remedy=remedy)

    def _find(self, fileName: str, name: str) -> _Part | None:
        """Find and check a source; None where there is none."""
        key = fileName, name
        if key not in self.known:
            path = self._place.path
            if fileName != ".":
                named = byPrefix(self.prefix, fileName)
                path = findFile(named, path, self._top, f"a part of {self._place.name}")
            self.known[key] = self._check(Place((path,), name)) if path else None
        return self.known[key]

    def _check(self, named: Place) -> _Part | None:
        """Check a source; None where its file holds nothing of this name."""
        with reach(named, self._top) as (place, dataset):
            if place is None:
                return None
            what = f"{place.name}, a part of {self._place.name}"
            if not isinstance(dataset, h5py.Dataset):
                raise PipelineError(f"{what}, is no dataset", file=place.path)
            requireInside(dataset, place.path)
            requireFilters(dataset, place.path)
            if not _isKept(dataset.dtype, self._kind):
                rule, expected = f"the values of {what}, are cut off when they are read", self._kind
                raise PipelineError(rule, file=place.path, expected=expected, received=dataset.dtype)
            shape, chunks, isVirtual = dataset.shape, dataset.chunks, dataset.is_virtual
        if not isVirtual:
            return _Part(Sources(place.files, chunks, 0, WHOLE), shape)
        if self.prefix:  # HDF5 would take it for the parts of the part too
            rule = f"{what}, is made of parts itself, and the dataset was moved"
            raise PipelineError(rule, file=place.path, remedy=COPIED)
        sources = listSources(place, self._top, self._way)
        if sources.missing:
            raise PipelineError(f"{sources.missing} voxels of {what}, are in no file", file=place.path)
        files = dict.fromkeys((*place.files, *sources.files))
        return _Part(sources._replace(files=tuple(files)), shape)


def _expand(mapping: Any) -> Iterator[tuple[str, str]]:
    """List file and dataset of the sources of a mapping: one, or all numbers for %b, as HDF5 writes them."""
    names = mapping.file_name, mapping.dset_name
    isNumbered = any("b" in re.findall("%(.)", name) for name in names)
    for number in range(MOST_SOURCES if isNumbered else 1):
        signs = {"b": str(number), "%": "%"}
        yield tuple(re.sub("%(.)", lambda mark, to=signs: to.get(mark[1], mark[0]), name) for name in names)


def _isKept(kind: np.dtype, other: np.dtype) -> bool:
    """Whether numbers of one type become those of another one without being cut off."""
    return np.can_cast(kind, other, "safe") or (kind.kind in "iuf" and other.kind == "f")


# -------------------------------------------------------------------------------- what the sources cover


def _requireRoom(mapping: Any, shape: tuple[int, ...], place: Place, fileName: str) -> None:
    """Refuse a source that is smaller than the part of it that is used, or has other axes."""
    space, isFitting = mapping.src_space, True
    if space.get_select_type() == h5py.h5s.SEL_ALL:  # its own extent is not kept in the file
        needed = _sidesOf(mapping.vspace)
        isFitting = [size for size in needed if size != 1] == [size for size in shape if size != 1]
    elif space.get_simple_extent_ndims() != len(shape):
        needed, isFitting = space.get_simple_extent_dims(), False
    elif _unlimitedAxis(space) is None and space.get_select_npoints():
        needed = tuple(high + 1 for high in space.get_select_bounds()[1])
        isFitting = not any(np.greater(needed, shape))
    if not isFitting:
        rule = f"{mapping.dset_name} in {fileName} does not fit into {place.name}"
        expected, received = (" x ".join(map(str, sides)) for sides in (needed, shape))
        raise PipelineError(rule, file=place.path, expected=expected, received=received, remedy=COPIED)


def _sidesOf(space: h5py.h5s.SpaceID) -> tuple[int, ...]:
    """Give how many voxels a selection has along each axis; of an endless one, those of a block."""
    if space.get_select_type() == h5py.h5s.SEL_ALL:
        return space.get_simple_extent_dims()
    if not space.is_regular_hyperslab():
        return (space.get_select_npoints(),)
    _, _, counts, blocks = space.get_regular_hyperslab()
    return tuple(
        (count if count != h5py.h5s.UNLIMITED else 1) * block
        for count, block in zip(counts, blocks, strict=True)
    )


def _unlimitedAxis(space: h5py.h5s.SpaceID) -> int | None:
    """Find the axis along which a selection goes on as far as there are voxels."""
    if space.get_select_type() != h5py.h5s.SEL_HYPERSLABS or not space.is_regular_hyperslab():
        return None
    _, _, counts, blocks = space.get_regular_hyperslab()
    ends = [h5py.h5s.UNLIMITED in pair for pair in zip(counts, blocks, strict=True)]
    return ends.index(True) if any(ends) else None


def _blockCount(mapping: Any, shapes: list[tuple[int, ...]]) -> int:
    """Count the blocks along the unlimited axis of a mapping that its source, or numbered sources, fill."""
    axis = _unlimitedAxis(mapping.src_space)
    if axis is None:
        return len(shapes)
    start, stride, _, block = (part[axis] for part in mapping.src_space.get_regular_hyperslab())
    if block == h5py.h5s.UNLIMITED:
        return shapes[0][axis] - start
    return max(0, math.ceil((shapes[0][axis] - start) / stride))


def _take(space: h5py.h5s.SpaceID, mapping: Any, shape: tuple[int, ...], count: int) -> None:
    """Take what a mapping covers out of a selection; `count` blocks along an unlimited axis."""
    covered = mapping.vspace
    kind = covered.get_select_type()
    if kind == h5py.h5s.SEL_ALL:
        space.select_none()
    elif kind == h5py.h5s.SEL_HYPERSLABS and covered.is_regular_hyperslab():
        start, stride, counts, blocks = map(list, covered.get_regular_hyperslab())
        axis = _unlimitedAxis(covered)
        if axis is not None:
            parts = blocks if blocks[axis] == h5py.h5s.UNLIMITED else counts
            parts[axis] = count
        if all(counts) and all(blocks):
            space.select_hyperslab(
                tuple(start), tuple(counts), tuple(stride), tuple(blocks), op=h5py.h5s.SELECT_NOTB
            )
    elif kind == h5py.h5s.SEL_HYPERSLABS:
        for low, high in covered.get_select_hyper_blocklist():
            size = tuple(int(stop - first + 1) for first, stop in zip(low, high, strict=True))
            start = tuple(map(int, low))
            space.select_hyperslab(start, (1,) * len(shape), None, size, op=h5py.h5s.SELECT_NOTB)
