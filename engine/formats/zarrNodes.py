"""What a Zarr folder holds, by its metadata alone: groups, arrays and the images of OME-Zarr among them."""

import math
import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from engine.base.errors import PipelineError
from engine.base.files import splitNumbers
from engine.base.records import readJson
from engine.volumes.names import joinInner

MOST_LISTED = 12  # volumes that a message names
MOST_DEEP = 8  # groups in groups; a plate has three above its images
LEAST_AXES = 3
MOST_VOXELS = 1 << 59  # more bytes than these have no address


class Node(NamedTuple):
    """A group or an array of a Zarr folder.

    Attributes
    ----------
    root : Path
        The folder that was asked for.
    name : str
        Where the node lies in it, such as labels/pores; empty for the folder itself.
    version : int
        Of the format: 2 or 3.
    content : dict
        Metadata of an array; empty for a group.
    attributes : dict
        What a writer has noted beside it, such as the multiscales of OME-Zarr.
    files : tuple of Path
        Those of the metadata.
    """

    root: Path
    name: str
    version: int
    content: dict[str, Any]
    attributes: dict[str, Any]
    files: tuple[Path, ...]

    @property
    def folder(self) -> Path:
        """Where its files lie."""
        return self.root / self.name

    @property
    def isArray(self) -> bool:
        """Whether it holds voxels."""
        return bool(self.content)

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels along the axes of an array, in their order."""
        return readCounts(self, self.content.get("shape"), "shape")

    @property
    def multiscales(self) -> list[dict[str, Any]]:
        """Pyramids of OME-Zarr in a group; one for each image."""
        ome = self.attributes.get("ome")
        found = (ome if isinstance(ome, dict) else self.attributes).get("multiscales")
        return [scales for scales in found if isinstance(scales, dict)] if isinstance(found, list) else []


class Found(NamedTuple):
    """A volume in a Zarr folder.

    Attributes
    ----------
    array : Node
        Its voxels.
    multiscale : dict
        The pyramid that it is the largest level of, or the one that was asked for; empty for a plain array.
    dataset : dict
        What the pyramid says of this level.
    name : str
        By which it is asked for.
    """

    array: Node
    multiscale: dict[str, Any]
    dataset: dict[str, Any]
    name: str


def readCounts(node: Node, counts: object, what: str) -> tuple[int, ...]:
    """Read whole numbers of the metadata of an array, each of them 1 or more."""
    isRight = isinstance(counts, list) and all(type(count) is int and count > 0 for count in counts)
    if not isRight or math.prod(counts) > MOST_VOXELS:
        rule = f"its {what} is none" if counts is None else f"its {what} cannot be read"
        raise PipelineError(rule, file=node.files[0], expected="numbers above 0", received=counts)
    return tuple(counts)


# --------------------------------------------------------------------------------- from the disk to a node


def readNode(root: Path, name: str) -> Node | None:
    """Read the metadata of a group or an array; None where there is no folder of this name.

    A folder without metadata counts as a group: Zarr 2 writers leave them out at times.

    Raises
    ------
    PipelineError
        The metadata cannot be read, or lie outside of the folder that was asked for.
    """
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise PipelineError("names something outside of the folder", file=root, received=name)
    name = "/".join(parts)
    folder = root / name
    if not folder.is_dir():
        return None
    requireInside(root, folder)
    if content := _readFile(root, folder / "zarr.json"):
        attributes = content.get("attributes")
        attributes = attributes if isinstance(attributes, dict) else {}
        isArray = content.get("node_type") == "array"
        return Node(root, name, 3, content if isArray else {}, attributes, (folder / "zarr.json",))
    named = {part: folder / part for part in (".zarray", ".zgroup", ".zattrs")}
    read = {part: content for part, path in named.items() if (content := _readFile(root, path)) is not None}
    files = tuple(named[part] for part in read)
    return Node(root, name, 2, read.get(".zarray", {}), read.get(".zattrs", {}), files)


def _readFile(root: Path, path: Path) -> dict | None:
    """Read a file of metadata; None where there is none."""
    requireInside(root, path)
    return readJson(path)


def requireInside(root: Path, path: Path) -> None:
    """Refuse a link that leads out of a folder: it could be any file of this computer."""
    top, real = os.path.realpath(root), os.path.realpath(path)
    if os.path.commonpath((top, real)) != top:
        remedy = "put the files themselves into the folder"
        raise PipelineError("is a link that leads out of the folder", file=path, received=real, remedy=remedy)


# ---------------------------------------------------------------------------------------- which one is meant


def findVolume(root: Path, inner: str) -> Found:
    """Find the volume that is meant.

    Parameters
    ----------
    root : Path
        A Zarr folder.
    inner : str
        An array in it, an image or a group; empty for the only one.

    Raises
    ------
    PipelineError
        There is none, or more than one.
    """
    node = readNode(root, inner)
    if node is None:
        raise _refuse("has nothing of this name", root, inner, readNode(root, ""))
    if node.isArray:
        return _describeArray(node)
    found = list(islice(_listVolumes(node), 2))
    if not found:
        rule = "holds no volume" if node.files else "is no Zarr: it holds no zarr.json, .zgroup or .zarray"
        received = f"a group {node.name}" if node.name else None
        raise PipelineError(rule, file=root, expected="an array of three axes", received=received)
    if len(found) > 1:
        raise _refuse("holds several volumes", root, inner, node)
    return found[0]


def _refuse(rule: str, root: Path, inner: str, node: Node | None) -> PipelineError:
    """Refuse a name, and list those that could be meant."""
    found = list(islice(_listNames(node), MOST_LISTED + 1)) if node else []
    listed = ", ".join(map(_describe, found[:MOST_LISTED])) + (", ..." if len(found) > MOST_LISTED else "")
    remedy = f"name one of {listed}, as in {joinInner(root, found[0].name)}" if found else None
    return PipelineError(rule, file=root, received=inner or None, remedy=remedy)


def _describe(found: Found) -> str:
    """Tell a volume by its name, its sides in the order of the file and its type."""
    content = found.array.content
    kind = content.get("data_type", content.get("dtype"))
    return f"{found.name} ({' x '.join(map(str, found.array.shape))} {kind})"


def _listNames(node: Node) -> Iterator[Found]:
    """List what can be named; of an image, its levels and its labels."""
    for multiscale in node.multiscales:
        for name, dataset in _listLevels(node, multiscale):
            level = readNode(node.root, name)
            if level and level.isArray:
                yield Found(level, multiscale, dataset, name)
    for part in (f"{node.name}/labels",) if node.multiscales else (node.name,):
        if (group := readNode(node.root, part)) and not group.isArray:
            yield from _listVolumes(group)


def _listVolumes(node: Node, depth: int = 0) -> Iterator[Found]:
    """List the images of a group, and the arrays of three axes or more that belong to none."""
    if node.isArray:
        if len(node.shape) >= LEAST_AXES:
            yield Found(node, {}, {}, node.name)
    elif scales := node.multiscales:
        for multiscale in scales:
            largest = _largestLevel(node, multiscale)
            yield largest if len(scales) > 1 else largest._replace(name=node.name)
    elif depth < MOST_DEEP:
        for child in _listChildren(node):
            yield from _listVolumes(child, depth + 1)


def _listChildren(node: Node) -> Iterator[Node]:
    """List what lies in a group, numbers in names as numbers."""
    try:
        entries = [path for path in node.folder.iterdir() if not path.name.startswith(".")]
    except OSError as error:
        raise PipelineError(f"cannot be read: {error.strerror or error}", file=node.folder) from error
    for path in sorted(entries, key=splitNumbers):
        child = readNode(node.root, f"{node.name}/{path.name}") if path.is_dir() else None
        if child:
            yield child


def _largestLevel(group: Node, multiscale: dict[str, Any]) -> Found:
    """Give the level of a pyramid that has the most voxels; its first one must be there."""
    levels = _listLevels(group, multiscale)
    if not levels:
        raise PipelineError("its multiscales name no array", file=group.files[-1])
    first = levels[0][0]
    if not (node := readNode(group.root, first)) or not node.isArray:
        rule = f"the level {first} of its multiscales is missing"
        raise PipelineError(rule, file=group.root, expected="an array")
    nodes = [(node, dataset, name) for name, dataset in levels if (node := readNode(group.root, name))]
    node, dataset, name = max((level for level in nodes if level[0].isArray), key=_countVoxels)
    return Found(node, multiscale, dataset, name)


def _countVoxels(level: tuple[Node, dict, str]) -> int:
    """Count the voxels of a level."""
    return math.prod(level[0].shape)


def _listLevels(group: Node, multiscale: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """List names of arrays, from the folder on, and what the pyramid says of them."""
    datasets = multiscale.get("datasets")
    known = (
        [dataset for dataset in datasets if isinstance(dataset, dict)] if isinstance(datasets, list) else []
    )
    paths = [dataset.get("path") for dataset in known]
    return [
        (f"{group.name}/{path.strip('/')}".strip("/"), dataset)
        for path, dataset in zip(paths, known, strict=True)
        if isinstance(path, str)
    ]


def _describeArray(array: Node) -> Found:
    """Find the pyramid that an array is a level of, in one of the groups above it."""
    for group in listAbove(array):
        for multiscale in group.multiscales:
            for name, dataset in _listLevels(group, multiscale):
                if name == array.name:
                    return Found(array, multiscale, dataset, array.name)
    return Found(array, {}, {}, array.name)


def listAbove(node: Node) -> list[Node]:
    """List the groups that a node lies in, from the folder on."""
    parts = node.name.split("/") if node.name else []
    above = [readNode(node.root, "/".join(parts[:count])) for count in range(len(parts))]
    return [group for group in above if group]
