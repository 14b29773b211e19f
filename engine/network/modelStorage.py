"""Model files of Keras 2 and 3 as plain data: nothing in them is executed, no link in them is followed."""

import contextlib
import io
import json
import lzma
import mmap
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from engine.base.errors import PipelineError
from engine.network.modelKinds import (
    openHdf5,
    refuseNestedWeights,
    refuseOtherArchives,
    refuseOtherFiles,
    refuseOtherModels,
    refuseUnknown,
    refuseWithoutModel,
)
from engine.network.plan import MAXIMUM_BYTES, VARIABLES

if TYPE_CHECKING:  # it loads slowly
    import h5py

StoredLayers = dict[str, dict[str, "h5py.Dataset"]]  # {layer: {variable: array of the open file}}
UNREADABLE = (  # what h5py, zipfile and json raise on damaged files, and what unexpected content leads to
    *(OSError, EOFError, MemoryError, struct.error, zlib.error, lzma.LZMAError, zipfile.BadZipFile),
    *(ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError),
)
LISTS = {"layer_names", "layer_names0"}  # attributes of weights alone
GROUP_KINDS = {"conv3d": "convolution", "batch_normalization": "normalisation"}  # groups of Keras 3


class Stored(NamedTuple):
    """What an open model file holds."""

    config: dict | None  # of the network; None: weights alone
    layers: StoredLayers  # those that own variables, in the order of the file
    isNumbered: bool  # by data flow, under names that Keras 3 gives; else under those of the configuration


@contextlib.contextmanager
def openStored(path: str | Path) -> Iterator[Stored]:
    """Open a model file: .h5 of Keras 2 or 3, .weights.h5 or .keras of Keras 3.

    Raises
    ------
    PipelineError
        No such file, a damaged, locked or foreign one, another model, or a link out of the file.
    """
    import h5py

    path = Path(path)
    try:
        refuseOtherFiles(path)
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                refuseOtherArchives(archive, path)
                configText = _readEntry(archive, "config.json", path)
                content = _readEntry(archive, "model.weights.h5", path)
            _refuseEndlessHeap(content, path)
            with h5py.File(io.BytesIO(content), "r") as file:
                yield _storedContent(file, configText, path)
        else:
            refuseUnknown(path)
            with open(path, "rb") as raw, mmap.mmap(raw.fileno(), 0, access=mmap.ACCESS_READ) as content:
                _refuseEndlessHeap(content, path)
            with openHdf5(path) as file:
                yield _storedContent(file, file.attrs.get("model_config"), path)
    except PipelineError:
        raise
    except PermissionError as error:
        raise PipelineError(f"cannot be read: {error.strerror}", file=path) from error
    except UNREADABLE as error:
        raise PipelineError(f"is damaged or no model of Keras: {error}", file=path) from error


def _readEntry(archive: zipfile.ZipFile, name: str, path: Path) -> bytes:
    """Content of one archive entry, refused when absurdly large."""
    size = archive.getinfo(name).file_size
    if size > MAXIMUM_BYTES:
        rule = f"entry {name} is too large"
        raise PipelineError(rule, file=path, expected="at most 2 GiB", received=f"{size} bytes")
    return archive.read(name)


def _refuseEndlessHeap(content: bytes | mmap.mmap, path: Path) -> None:
    """Refuse damaged text storage: HDF5 (1.14.6) loops for ever over an entry without length."""
    start = -1
    while (start := content.find(b"GCOL\1\0\0\0", start + 1)) >= 0:
        position, stop = start + 16, start + int.from_bytes(content[start + 8 : start + 16], "little")
        while position + 16 <= min(stop, len(content)):
            index, size = struct.unpack_from("<H6xQ", content, position)
            step = 16 + -(-size // 8) * 8 if index else size  # entry 0 is the free space, its header included
            if not 0 < step <= stop - position:
                raise PipelineError("is damaged: its text storage is broken", file=path)
            position += step


def _storedContent(file: "h5py.File", configText, path: Path) -> Stored:
    """Read configuration and layers of an open file after a walk that refuses links out of it."""
    _refuseLinks(file, path)
    description = {"config": None} if configText is None else json.loads(configText)
    refuseOtherModels(description, path)
    isNumbered = "layers" in file
    if not (configText or isNumbered or "model_weights" in file or LISTS & set(file.attrs)):
        refuseWithoutModel(file, path)
    if isNumbered:
        refuseNestedWeights(file["layers"], path)
    layers = _numberedLayers(file["layers"]) if isNumbered else _legacyLayers(file)
    if not layers:
        raise PipelineError("holds no weights", file=path)
    return Stored(description["config"], layers, isNumbered)


def _refuseLinks(file: "h5py.File", path: Path) -> None:
    """Refuse anything that makes HDF5 open another file or follow another path."""
    import h5py

    seen, pending = set(), [file]
    while pending:
        group = pending.pop()
        address = h5py.h5o.get_info(group.id).addr
        if address in seen:  # hard links may lead back to a group that contains them
            continue
        seen.add(address)
        for name in group:
            link = group.get(name, getlink=True)
            if not isinstance(link, h5py.HardLink):
                kind = "an external link" if isinstance(link, h5py.ExternalLink) else "a soft link"
                raise PipelineError(f"{group.name}/{name} is {kind}, which is never followed", file=path)
            item = group[name]
            if isinstance(item, h5py.Group):
                pending.append(item)
            elif isinstance(item, h5py.Dataset) and (item.external or item.is_virtual):
                rule = f"{item.name} keeps its data in another file, which is never read"
                raise PipelineError(rule, file=path)


def _legacyLayers(file: "h5py.File") -> StoredLayers:
    """Layers of an .h5 written by Keras 2 or by model.save("*.h5") of Keras 3."""
    group = file["model_weights"] if "model_weights" in file else file
    stored = {}
    for layerName in _textList(group, "layer_names"):
        paths = _textList(group[layerName], "weight_names")
        if paths:
            variables = {path.rsplit("/", 1)[-1].split(":")[0]: group[layerName][path] for path in paths}
            if len(variables) != len(paths):
                raise ValueError(f"layer {layerName} lists a variable twice, or is itself a model")
            stored[layerName] = variables
    return stored


def _numberedLayers(layers: "h5py.Group") -> StoredLayers:
    """Layers of the Keras 3 format: groups conv3d, conv3d_1, ... in data-flow order, variables 0, 1, ..."""
    numbers = {name: re.fullmatch(r"(.*?)(?:_(\d+))?", name, re.DOTALL).groups() for name in layers}
    stored = {}
    for name in sorted(numbers, key=lambda name: int(numbers[name][1] or 0)):
        variables = layers[name].get("vars", {})
        known = VARIABLES.get(GROUP_KINDS.get(numbers[name][0]), ())
        names = [*known, *map(str, range(len(known), len(variables)))]  # one too many keeps its number
        if len(variables):
            stored[name] = {names[index]: variables[str(index)] for index in range(len(variables))}
    return stored


def _textList(group: "h5py.Group", name: str) -> list[str]:
    """Attribute that lists names, in one piece or in the chunks that Keras cuts a long one into."""
    pieces = [group.attrs[name]] if name in group.attrs else []
    while f"{name}{len(pieces)}" in group.attrs and name not in group.attrs:
        pieces.append(group.attrs[f"{name}{len(pieces)}"])
    if not pieces:
        raise KeyError(f"{group.name} has no list {name}")
    return [item.decode() if isinstance(item, bytes) else str(item) for piece in pieces for item in piece]
