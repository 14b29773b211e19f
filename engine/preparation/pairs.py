"""Images and the masks that belong to them."""

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from engine.base.errors import PipelineError
from engine.base.files import splitNumbers
from engine.formats.opening import (
    SHOWN,
    isBareName,
    isVolumeName,
    listCompanions,
    nameIn,
    openMask,
    openVolume,
    stemOf,
    withLayout,
)
from engine.masks.place import openOnto
from engine.masks.targets import PUBLISHED, Labels
from engine.volumes.names import splitInner
from engine.volumes.volume import Volume

BOX = re.compile(r".*_box\d+_x\d+_y\d+_z\d+")  # what predictData.py --suggest calls its files


class Pair(NamedTuple):
    """An image and the mask that belongs to it."""

    image: Volume
    mask: Volume


def listPairs(imageFolder: Path, maskFolder: Path, rawLayout: str = "") -> list[tuple[Path, Path]]:
    """Pair images and masks by sorted order; boxes that were suggested to be labelled, by their names."""
    images, masks = listVolumes(imageFolder, False, rawLayout), listVolumes(maskFolder, True, rawLayout)
    if len(images) != len(masks):
        raise PipelineError(
            "every image needs one mask, in the same sorted order",
            file=maskFolder,
            expected=f"{len(images)} masks for {imageFolder.name}",
            received=len(masks),
        )
    byName = {name: mask for mask in masks if (name := _nameBox(mask))}
    same = {image: byName[name] for image in images if (name := _nameBox(image)) in byName}
    if len(set(same.values())) < len(same):
        same = {}  # several images of one name
    others = iter([mask for mask in masks if mask not in same.values()])
    return [(image, same.get(image) or next(others)) for image in images]


def _nameBox(path: Path) -> str:
    """Give the name of a suggested box, be it that of a segmentation; empty for any other volume."""
    name = stemOf(path)
    return name if BOX.fullmatch(name) else ""


def openPairs(
    paths: list[tuple[Path, Path]], labels: Labels = PUBLISHED.labels, ignoreLabel: Labels = ()
) -> list[Pair]:
    """Open images and masks; masks put into the places of their images, as far as their files say.

    Parameters
    ----------
    paths : list of (Path, Path)
        Images and their masks.
    labels, ignoreLabel : sequence of int or str
        Positive ones, and those that count nowhere: numbers or names of segments.
    """
    remedy = "take the mask that was drawn on this image, with its geometry"
    images = [openVolume(image) for image, _ in paths]
    return [
        Pair(image, openOnto(mask, image, labels, remedy, ignoreLabel))
        for image, (_, mask) in zip(images, paths, strict=True)
    ]


def doubtNames(pairs: list[tuple[Path, Path]]) -> list[str]:
    """Warn where the numbers in the names of a pair differ.

    Also where sorted names (scan10, scan2) pair other files than their numbers (scan2, scan10) would.
    """
    pairs = [
        (image, mask) for image, mask in pairs if not _nameBox(image) or _nameBox(image) != _nameBox(mask)
    ]
    images, masks = ([pair[part] for pair in pairs] for part in (0, 1))
    byNumber = dict(zip(sorted(images, key=splitNumbers), sorted(masks, key=splitNumbers), strict=True))
    for image, mask in pairs:
        other = byNumber[image]
        if other != mask:
            return [
                f"Warning: {image}: sorted by name it belongs to {mask.name}, by the numbers in the names to "
                f"{other.name}; number images and masks alike with leading zeros (scan02, scan10)"
            ]
    for image, mask in pairs:
        numbers, others = ([*map(int, re.findall("[0-9]+", path.stem))] for path in (image, mask))
        if len(numbers) == len(others) and numbers != others:
            return [f"Warning: {image} is paired with {mask.name}; is a file missing, or one too many?"]
    return []


@contextlib.contextmanager
def explainReadErrors(path: Path) -> Iterator[None]:
    """Turn the operating system's refusal to read a file or folder into the line a user reads."""
    try:
        yield
    except OSError as error:
        remedy = "give yourself the right to read it and the folder it lies in (chmod u+rX)"
        raise PipelineError(
            f"cannot be read: {error.strerror or error}",
            file=error.filename or path,
            remedy=remedy if isinstance(error, PermissionError) else None,
        ) from error


def listVolumes(folder: Path, areMasks: bool = False, rawLayout: str = "") -> list[Path]:
    """List the volumes, or masks, of a folder in sorted order: files, and folders of slices.

    What is named in the folder (images::/entry/data) is meant of each of its files that holds several things,
    `rawLayout` of raw files.
    Files that belong to a volume, such as scan.raw to scan.mhd, are none of their own. Any other file is an
    error, not one to skip.
    """
    folder, inner = splitInner(folder)
    entries, openFile = _listEntries(folder), openMask if areMasks else openVolume
    named, known, claimed = {}, set(), set()
    for path in sorted(entries, key=isBareName):  # first those that may describe others
        isVolume = path.is_dir() or isVolumeName(path)
        if isVolume and os.path.abspath(path) not in claimed:
            named[path] = withLayout(nameIn(path, inner), rawLayout)
            files = set(map(os.path.abspath, openFile(named[path]).files))
            claimed |= files - {os.path.abspath(path)}
            known |= files | set(map(os.path.abspath, listCompanions(path)))
    for path in entries:
        if path not in named and os.path.abspath(path) not in known:
            rule = f"is no volume of a known format ({', '.join(SHOWN)}, or a folder of slices)"
            raise PipelineError(rule, file=path, remedy="move it out of the folder")
    volumes = sorted(path for path in named if os.path.abspath(path) not in claimed)
    if not volumes:
        remedy = "put .nrrd or .tif volumes into it, or others that docs/formats.md lists"
        raise PipelineError("the folder holds no volume", file=folder, remedy=remedy)
    return [named[path] for path in volumes]


def _listEntries(folder: Path) -> list[Path]:
    """List files and folders in a folder in sorted order, without hidden ones."""
    with explainReadErrors(folder):
        if not folder.is_dir():
            raise PipelineError("no such folder", file=folder)
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
