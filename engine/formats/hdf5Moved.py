"""Virtual HDF5 datasets that were moved, or written from another folder: where HDF5 finds their parts.

HDF5 looks for a part of a relative name in the folder of the file that names it, for one whose absolute place
is empty by its last name alone. tomocupy names parts as seen from the folder in which it was started
(`scan_rec/scan_parts/p0.h5` of `scan_rec/scan.h5`) or absolutely. A prefix given to HDF5 leads to both.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import h5py

from engine.base.errors import PipelineError
from engine.formats.hdf5Links import COPIED, Place, foldersOf


def findPrefix(place: Place, names: list[str]) -> str:
    """Find the folder that HDF5 has to be given for the parts of a dataset.

    Parameters
    ----------
    place : Place
        The virtual dataset.
    names : list of str
        Of the files of its parts, as it gives them.

    Returns
    -------
    str
        Empty where none helps, or none is needed.
    """
    first, isAbsolute = names[0], os.path.isabs(names[0])
    if any(os.path.isabs(name) != isAbsolute or name == "." or "%" in name for name in names):
        return ""
    folders = foldersOf(place.path)
    usual = [_resolve(folder, first) for folder in folders] + ([first] if isAbsolute else [])
    if any(map(os.path.isfile, usual)):
        return ""
    listFolders = _listTails if isAbsolute else _listParents
    found = (prefix for folder in folders for prefix in listFolders(folder, first))
    return next((prefix for prefix in found if os.path.isfile(_resolve(prefix, first))), "")


def byPrefix(prefix: str, name: str) -> str:
    """Give the name at which HDF5 finds a file by a prefix, or the one that it has, where it does not."""
    path = _resolve(prefix, name)
    isNeeded = prefix and not (os.path.isabs(name) and os.path.isfile(name))
    return path if isNeeded and os.path.isfile(path) else name


def _resolve(prefix: str, name: str) -> str:
    """Give the place at which HDF5 looks for a file by a prefix."""
    return os.path.join(prefix, os.path.basename(name) if os.path.isabs(name) else name)


def _listTails(folder: str, name: str) -> Iterator[str]:
    """List the folders below one that an absolute name may end in, the longest first."""
    parts = Path(name).parts[1:-1]
    return (os.path.join(folder, *parts[first:]) for first in range(len(parts)))


def _listParents(folder: str, name: str) -> Iterator[str]:
    """List the folders above one from which a relative name leads back into it."""
    parts, own = Path(name).parts, Path(folder).parts
    counts = range(1, min(len(parts), len(own)))
    return (os.path.join(*own[:-count]) for count in counts if own[-count:] == parts[:count])


def remedyFor(place: Place, name: str) -> str:
    """Say what to do about a part that is missing; where its folder was called otherwise, how."""
    parts = Path(name).parts
    for count in range(1, 0 if os.path.isabs(name) else len(parts)):
        if any(os.path.isfile(os.path.join(folder, *parts[count:])) for folder in foldersOf(place.path)):
            return f"put the dataset into a folder called {os.path.join(*parts[:count])}, as it was"
    return COPIED


def openVirtual(file: h5py.File, name: str, prefix: str) -> h5py.Dataset:
    """Open a dataset, by a prefix for the files of its parts where it needs one.

    Raises
    ------
    PipelineError
        This process has it open without the prefix: HDF5 would go without, and read zeros.
    """
    if not prefix:
        return file[name]
    access = h5py.h5p.create(h5py.h5p.DATASET_ACCESS)
    access.set_virtual_prefix(os.fsencode(prefix))
    dataset = h5py.Dataset(h5py.h5d.open(file.id, name.encode("utf-8", "surrogateescape"), access))
    if os.fsdecode(dataset.id.get_access_plist().get_virtual_prefix()) != prefix:
        raise PipelineError(f"{name} is being opened and read at the same time", file=file.filename)
    return dataset
