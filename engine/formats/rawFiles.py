"""Raw files without a header: their sides and type come as a layout, `scan.raw::512x512x300 uint16`.

A layout is never guessed: where a name and the length of a file tell one, it is proposed in the message.
"""

from pathlib import Path

from engine.base.errors import PipelineError
from engine.formats import volFiles
from engine.formats.companions import findHeader
from engine.formats.layouts import WAY, openByLayout, proposeLayout
from engine.formats.rawData import RawVolume


def openVolume(path: str | Path, inner: str = "") -> RawVolume:
    """Open a raw file by a layout, without reading voxels.

    Parameters
    ----------
    path : path
        The file.
    inner : str
        Its layout, such as "512x512x300 uint16 little 1024"; without one a description beside the file
        (scan.raw.info, as PyHST and pymicro write it) is taken.

    Raises
    ------
    PipelineError
        The file is missing, its layout is missing or no such text, or the file has another length.
    """
    path = Path(path)
    if not path.is_file():
        raise PipelineError("is a folder, no file" if path.is_dir() else "there is no such file", file=path)
    if inner:
        return openByLayout(path, inner)
    if volFiles.findInfo(path) is not None:
        return volFiles.openVolume(path)
    raise _refuseUndescribed(path)


def _refuseUndescribed(path: Path) -> PipelineError:
    """Say how a layout is written, and which one is likely."""
    header, proposal, remedy = findHeader(path), proposeLayout(path), None
    if header is not None:
        remedy = f"give {header.name}, which describes it"
        return PipelineError("a raw file does not tell its sides and type", file=path, remedy=remedy)
    if proposal is not None:
        remedy = f"by its name and length it may be '{path.name}::{proposal}'"
    rule = "a raw file does not tell its sides and type: write them behind its name"
    return PipelineError(rule, file=path, expected=f"'{path.name}::{WAY}", remedy=remedy)
