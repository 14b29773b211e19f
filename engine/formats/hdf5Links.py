"""Links in HDF5 files: followed into the folder of the file asked for, and nowhere else.

HDF5 itself follows a link to any place of the computer.
"""

import contextlib
import os
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import h5py

from engine.base.errors import PipelineError
from engine.base.hdf5 import openForReading

MOST_LINKS = 40  # one after the other, to one thing
COPIED = "copy all files of the dataset, in the same folders"


class Place(NamedTuple):
    """A thing in a file.

    Attributes
    ----------
    files : tuple of Path
        Opened on the way to it; the last one holds it.
    name : str
        Its name in that file; where it was found, one without links.
    """

    files: tuple[Path, ...]
    name: str

    @property
    def path(self) -> Path:
        """The file that holds it."""
        return self.files[-1]


# ------------------------------------------------------------------------------------------------------ links


def linkOf(group: h5py.Group, name: str) -> tuple[int, Any] | None:
    """Give kind (of `h5py.h5l`) and target of a link without following it; None where there is none."""
    links, key = group.id.links, name.encode("utf-8", "surrogateescape")
    if not links.exists(key):
        return None
    kind = links.get_info(key).type
    return kind, None if kind == h5py.h5l.TYPE_HARD else links.get_val(key)


def findHard(group: h5py.Group, name: str) -> h5py.Group | h5py.Dataset | None:
    """Find what a group holds under a name, following hard links alone; None where nothing is there."""
    for part in _split(name):
        if not isinstance(group, h5py.Group) or linkOf(group, part) != (h5py.h5l.TYPE_HARD, None):
            return None
        group = group[part]
    return group


def follow(place: Place, top: Path) -> Place | None:
    """Follow a name through all links to the thing it means; None where nothing is there.

    Parameters
    ----------
    place : Place
        A name in a file.
    top : Path
        The file that was asked for: any other one must lie in its folder or below.

    Raises
    ------
    PipelineError
        A link leads out of the folder, to a file that is missing or unreadable, or in a circle.
    """
    with reach(place, top) as (found, _):
        return found


@contextlib.contextmanager
def reach(place: Place, top: Path) -> Iterator[tuple[Place | None, h5py.Group | h5py.Dataset | None]]:
    """Open what a name means, as of `follow`: its place and the thing itself; None and None for nothing."""
    files, name = place
    for _ in range(MOST_LINKS):
        with openForReading(files[-1]) as file:
            target = _followInside(file, name)
            if target is None or isinstance(target, str):
                yield (None, None) if target is None else (Place(files, target), file[target])
                return
        what = f"the file of the link {name}"
        files, name = (*files, requireFile(target[0], files[-1], top, what)), target[1]
    raise PipelineError("its links lead in a circle", file=top, received=name)


def _followInside(file: h5py.File, name: str) -> str | tuple[str, str] | None:
    """Follow a name as far as one file goes: to a name of hard links, or to (other file, name in it)."""
    pending, item, count = deque(_split(name)), file["/"], 0
    while pending:
        part = pending.popleft()
        link = linkOf(item, part) if isinstance(item, h5py.Group) else None
        kind, target = link or (None, None)
        if kind == h5py.h5l.TYPE_HARD:
            item = item[part]
        elif kind == h5py.h5l.TYPE_SOFT and count < MOST_LINKS:
            count, path = count + 1, target.decode("utf-8", "surrogateescape")
            item = file["/"] if path.startswith("/") else item
            pending.extendleft(reversed(_split(path)))
        elif kind == h5py.h5l.TYPE_EXTERNAL:
            path = target[1].decode("utf-8", "surrogateescape")
            return os.fsdecode(target[0]), "/".join([path, *pending])
        else:
            return None
    return item.name


def _split(name: str) -> list[str]:
    """Split a name at its slashes."""
    return [part for part in name.split("/") if part not in ("", ".")]


def requireFile(name: str, holder: Path, top: Path, what: str) -> Path:
    """Find a file that another one names; PipelineError where it is missing, or as of `findFile`."""
    found = findFile(name, holder, top, what)
    if found is None:
        raise PipelineError(f"{what} is missing", file=holder, received=name, remedy=COPIED)
    return found


def findFile(name: str, holder: Path, top: Path, what: str) -> Path | None:
    """Find a file that another one names, where HDF5 would; None where it is missing.

    HDF5 looks for a file that is not at its absolute path beside the one that names it.

    Parameters
    ----------
    name : str
        As it is named.
    holder : Path
        The file that names it.
    top : Path
        The file that was asked for.
    what : str
        What it is, for the message.

    Raises
    ------
    PipelineError
        It lies neither in the folder of the file that was asked for nor below.
    """
    folders = foldersOf(holder)
    if os.path.isabs(name):
        paths = [name, *(os.path.join(folder, os.path.basename(name)) for folder in folders)]
    else:
        paths = [os.path.join(folder, name) for folder in folders]
    paths = [os.path.normpath(path) for path in paths]
    found = next((path for path in paths if os.path.isfile(path)), None)
    if not any(Path(found or paths[-1]).is_relative_to(folder) for folder in foldersOf(top)):
        rule, remedy = f"{what} is not in the folder of {top.name}", "copy it there"
        raise PipelineError(rule, file=holder, received=name, remedy=remedy)
    return Path(found) if found else None


def foldersOf(path: Path) -> list[str]:
    """List the folder of a file, and where its name is a link, that of the file itself."""
    return list(
        dict.fromkeys(os.path.dirname(name) for name in (os.path.abspath(path), os.path.realpath(path)))
    )
