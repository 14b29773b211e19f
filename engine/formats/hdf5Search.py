"""Which dataset of an HDF5 file is meant: the one named, the one volume, or that of a known layout."""

import re
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import h5py

from engine.base.errors import PipelineError
from engine.base.hdf5 import openForReading
from engine.formats.hdf5Kinds import isProjections, orderAxes, voxelType
from engine.formats.hdf5Links import MOST_LINKS, Place, findHard, follow, linkOf
from engine.volumes.names import MARK

MOST_THINGS = 20_000  # groups and datasets that are looked through
MOST_FILES = 500  # that links lead to
EXAMPLES = 8  # datasets that a message lists
LAYOUTS = (
    r".*/results/data",
    r"/exchange/data",
    r"/data",
    r"/ITKImage/0/VoxelData",
)  # nabu, APS, httomo, ITK
KERAS = {"model_config", "keras_version", "layer_names"}  # attributes of a model's file
NUMBERS = "integers or floats of 8 to 64 bits"


class Found(NamedTuple):
    """A dataset, and what can be said of it without reading it.

    Attributes
    ----------
    name : str
        As a user would give it, from the file that was asked for.
    place : Place
        Where it really lies.
    shape : tuple of int
        As in the file.
    kind : str
        Type of its values, for a message.
    axes : (int, int, int) or None
        Those of z, y, x; None where it is no volume of numbers.
    isProjections : bool
        Whether volumes are still to be made of it.
    """

    name: str
    place: Place
    shape: tuple[int, ...]
    kind: str
    axes: tuple[int, int, int] | None
    isProjections: bool


def chooseDataset(path: Path, inner: str) -> Found:
    """Find the dataset that is meant.

    Parameters
    ----------
    path : Path
        The file.
    inner : str
        Name of a dataset, or of a group that it lies in; empty for the whole file.

    Raises
    ------
    PipelineError
        There is none, there are several, or the one named is no volume of numbers.
    """
    name = "/" + inner.strip("/")
    start = follow(Place((path,), name), path)
    if start is None:
        _, found, _ = _search(path, "", Place((path,), "/"))
        rule = "holds nothing of this name"
        raise PipelineError(rule, file=path, received=name, remedy=_listVolumes(found, path))
    isDataset, found, trouble = _search(path, name.rstrip("/"), start)
    if isDataset:
        return _requireVolume(found[0], path)
    if name == "/":
        _refuseModels(path)
    return _choose(found, trouble, path)


def _choose(found: list[Found], trouble: PipelineError | None, path: Path) -> Found:
    """Choose one of several datasets."""
    volumes = [dataset for dataset in found if dataset.axes]
    usable = [dataset for dataset in volumes if not dataset.isProjections]
    if len(usable) == 1:
        return usable[0]
    if volumes and not usable:
        remedy = "reconstruct the volume from them, or name a dataset that is one all the same: "
        raise PipelineError(
            "holds projections, no volume", file=path, remedy=remedy + f"{path.name}{MARK}{volumes[0].name}"
        )
    for fits in (_defaultOf(path), *LAYOUTS):
        meant = [dataset for dataset in usable if re.fullmatch(fits, dataset.name)]
        if len(meant) == 1:
            return meant[0]
    if usable:
        raise PipelineError("holds several volumes", file=path, remedy=_listVolumes(usable, path))
    if trouble:
        raise trouble
    listed = ", ".join(map(_describe, found[:EXAMPLES])) or "no dataset"
    raise PipelineError(
        "holds no volume", file=path, expected="a dataset (z, y, x) of numbers", received=listed
    )


def _requireVolume(found: Found, path: Path) -> Found:
    """Refuse a dataset that was named and is no volume."""
    if found.axes:
        return found
    sizes = [size for size in found.shape if size != 1]
    if found.kind and len(sizes) > 3:
        rule = f"{found.name} holds several channels, points in time or volumes"
    elif found.kind and len(found.shape) >= 3 and 0 not in found.shape:
        rule = f"this type of voxel of {found.name} cannot be read"
        raise PipelineError(rule, file=path, expected=NUMBERS, received=found.kind)
    else:
        rule = f"{found.name} is no volume"
    raise PipelineError(rule, file=path, expected="one number a voxel (z, y, x)", received=_sizesOf(found))


def _sizesOf(found: Found) -> str:
    """Write shape and type of a dataset."""
    return f"{' x '.join(map(str, found.shape)) or 'one value'} {found.kind}"


def _describe(found: Found) -> str:
    """Write a dataset with its shape and type."""
    return f"{found.name} ({_sizesOf(found)})"


def _listVolumes(found: list[Found], path: Path) -> str:
    """Tell how one of the volumes of a file is named."""
    volumes = [dataset for dataset in found if dataset.axes]
    if not volumes:
        return "there is no volume in it"
    more = f" and {len(volumes) - EXAMPLES} more" if len(volumes) > EXAMPLES else ""
    listed = ", ".join(map(_describe, volumes[:EXAMPLES]))
    return f"name one as {path.name}{MARK}{volumes[0].name}; there are {listed}{more}"


# ------------------------------------------------------------------------------------- what there is


def _search(top: Path, name: str, start: Place) -> tuple[bool, list[Found], PipelineError | None]:
    """Look through all that lies below a name, each thing once, links to other files included.

    Gives whether the name is that of a dataset; the datasets in the order of their names; and what is wrong
    with the first link that leads to nothing that may be read.
    """
    pending, seen, found, trouble, files = deque([(name, start)]), set(), [], None, {top}
    while pending:
        shown, place = pending.popleft()
        links = []
        with openForReading(place.path) as file:
            for item in _walk(file, place, shown, seen, links):
                found.append(item)
                if item.name == name:
                    return True, [item], None
        if len(seen) > MOST_THINGS or len(links) > MOST_THINGS:
            _refuseSize(top)
        for shown, link in links:
            try:
                target = follow(link, top)
            except PipelineError as error:
                trouble = trouble or error
                continue
            if target:
                files.add(target.path)
                pending.append((shown, target))
            if len(files) > MOST_FILES:
                _refuseSize(top)
    return False, sorted(found, key=lambda dataset: dataset.name), trouble


def _refuseSize(top: Path) -> None:
    """Refuse to look through a file that holds too much."""
    remedy = f"name the dataset: {top.name}{MARK}/group/name"
    raise PipelineError("holds too many things to look through", file=top, remedy=remedy)


def _walk(
    file: h5py.File, place: Place, shown: str, seen: set, links: list[tuple[str, Place]]
) -> Iterator[Found]:
    """Yield the datasets below a name of one file, by hard links; other links are listed."""
    pending = [(shown, place.name)]
    while pending and len(seen) <= MOST_THINGS:
        shown, name = pending.pop()
        item = file[name]
        key = place.path, h5py.h5o.get_info(item.id).addr
        if key in seen:  # links may lead back
            continue
        seen.add(key)
        if isinstance(item, h5py.Dataset):
            yield _look(item, Place(place.files, name), shown)
        elif isinstance(item, h5py.Group):
            for part in item:
                link = linkOf(item, part)
                below = f"{name.rstrip('/')}/{part}"
                if link and link[0] == h5py.h5l.TYPE_HARD:
                    pending.append((f"{shown}/{part}", below))
                else:
                    links.append((f"{shown}/{part}", Place(place.files, below)))


def _look(dataset: h5py.Dataset, place: Place, name: str) -> Found:
    """Look at a dataset; one whose type NumPy has not is none of numbers."""
    shape = dataset.shape or ()
    try:
        kind = dataset.dtype
    except TypeError:
        return Found(name, place, shape, "of a type of its own", None, False)
    words = str(kind) if kind.names is None else "compound"
    axes = orderAxes(dataset) if voxelType(kind) else None
    return Found(name, place, shape, words, axes, bool(axes) and isProjections(dataset))


def _refuseModels(path: Path) -> None:
    """Refuse a model of Keras, whose files end in the same way."""
    with openForReading(path) as file:
        isModel = bool(KERAS & set(file.attrs)) or "model_weights" in file or {"layers", "vars"} <= set(file)
    if isModel:
        remedy = "--modelFile and --weightFile take models"
        raise PipelineError("is a model of Keras, no volume", file=path, remedy=remedy)


# ------------------------------------------------------------------------------------- what is meant


def _defaultOf(path: Path) -> str:
    """Follow the attributes by which NeXus says what is to be shown: a pattern of the name, or of none.

    A root that does not say which of its groups is meant is asked of the only one that says something.
    """
    with openForReading(path) as file:
        groups = [name for name in file if isinstance(findHard(file, name), h5py.Group)]
        starts = [""] if _stepOf(file) else [f"/{name}" for name in groups]
        ends = {end for end in (_chain(file, start) for start in starts) if end}
    return re.escape(ends.pop()) if len(ends) == 1 else "(?!)"


def _stepOf(group: h5py.Group) -> str:
    """Give the next name of the chain: the signal of NXdata, or the default of anything else."""
    value = group.attrs.get("signal", group.attrs.get("default", ""))
    value = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
    return value if isinstance(value, str) else ""


def _chain(file: h5py.File, name: str) -> str:
    """Follow a chain of defaults to the name of a dataset; empty where it leads to none."""
    for _ in range(MOST_LINKS):
        item = findHard(file, name)
        if not isinstance(item, h5py.Group):
            return name if isinstance(item, h5py.Dataset) else ""
        step = _stepOf(item)
        if not step:
            return ""
        name = step if step.startswith("/") else f"{name}/{step}"
    return ""
