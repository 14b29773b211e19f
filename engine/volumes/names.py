"""Names of volumes: a file, and where a file holds several things, the one in it (scan.h5::/entry/data)."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine.volumes.volume import Volume

MARK = "::"


def splitInner(path: str | Path) -> tuple[Path, str]:
    """Split a name into the file and what is meant in it.

    Parameters
    ----------
    path : path
        Such as scan.h5::/entry/data or scan.raw::512x512x300 uint16; a file that is really called so is meant
        whole.

    Returns
    -------
    tuple
        The file; the name in it, empty where none is given.
    """
    outer, mark, inner = str(path).partition(MARK)
    return (Path(path), "") if not mark or not outer or os.path.exists(path) else (Path(outer), inner)


def joinInner(path: Path, inner: str) -> str:
    """Write file and name in it as a user would type them."""
    return f"{path}{MARK}{inner}" if inner else str(path)


def nameOf(volume: "Volume") -> Path:
    """Give the name under which any process opens a volume."""
    return Path(joinInner(volume.path, volume.inner))


def shortName(volume: "Volume") -> str:
    """Name a volume for a reader, without its folder."""
    return joinInner(Path(volume.path.name), volume.inner)


def stemFor(name: str, endings: tuple[str, ...]) -> str | None:
    """Give a name without its ending, the longest that is known; None where it has none of them."""
    known = [ending for ending in endings if name.lower().endswith(ending) and len(name) > len(ending)]
    return name[: -len(max(known, key=len))] if known else None
