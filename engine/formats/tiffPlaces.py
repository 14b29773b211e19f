"""The size of a voxel of a TIFF: by OME-XML, by ImageJ, by nabu's text beside it, by resolution tags."""

import configparser
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from engine.formats.omeFiles import omeRoot
from engine.volumes.frame import METRES, Frame, frameOfVoxels

if TYPE_CHECKING:  # it loads slowly
    import tifffile

SCREENS = (72, 96, 100, 150, 300, 600)  # dots an inch that programs write of themselves
INCH = 25400.0  # micrometres
TAG_SCALES = {2: INCH, 3: 10000.0}  # micrometres of an inch, of a centimetre
NO_LENGTHS = ("", "pixel", "pixels", "px", "voxel", "voxels", "reference frame")
SPELLINGS = {
    "um": ("µm", "μm", "micron", "microns", "micrometer", "micrometers", "micrometre", "micrometres"),
    "nm": ("nanometer", "nanometers", "nanometre", "nanometres"),
    "mm": ("millimeter", "millimeters", "millimetre", "millimetres"),
    "cm": ("centimeter", "centimeters", "centimetre", "centimetres"),
    "m": ("meter", "meters", "metre", "metres"),
    "inch": ("in", "inches"),
}
UNITS = {word: unit for unit, words in SPELLINGS.items() for word in words}
LENGTHS = METRES | {"inch": 0.0254, "Å": 1e-10, "pm": 1e-12}  # metres
NABU_ENDING = "_infos.txt"
NABU_KEYS = ("voxel_size_cm", "pixel_size_cm")  # the second one before nabu 2023.1
NABU_BYTES = 1 << 24  # of such a text, at most
FLAG = "--voxelSize does"
UNKNOWN = f"the TIFF gives no size of a voxel; {FLAG}"


class Sides(NamedTuple):
    """The sides of a voxel along (x, y, z) as a file gives them; None where it does not."""

    lengths: tuple[float | None, ...]
    units: tuple[str, ...]


def readFrame(tiff: "tifffile.TiffFile", notes: list[Path], step: int = 1) -> tuple[Frame, tuple[Path, ...]]:
    """Find the size of a voxel.

    Parameters
    ----------
    tiff : TiffFile
        The stack, or the first of its slices.
    notes : list of Path
        Texts of nabu that belong to it; asked where the TIFF does not give all three sides.
    step : int
        By how much the numbers of the slices go up: other than 1, some were left out.

    Returns
    -------
    tuple
        The frame; the texts that it follows from.
    """
    frame = _frameOfTiff(tiff)
    if not (frame.why and notes):
        return frame, ()
    sides, problem = readNabu(notes)
    if problem:
        return frameOfVoxels(f"the TIFF gives no size of a voxel, and {problem}; {FLAG}"), ()
    if step != 1:
        rule = f"{notes[0].name} is of all slices, and the numbers of these go up by {step}"
        return frameOfVoxels(f"{rule}; {FLAG}"), ()
    return _makeFrame(sides), tuple(notes)


def _frameOfTiff(tiff: "tifffile.TiffFile") -> Frame:
    """Make the frame of what the file itself tells."""
    for find in (_omeSides, _imagejSides, _tagSides):
        sides = find(tiff)
        if sides is not None:
            return _makeFrame(sides)
    return frameOfVoxels(UNKNOWN)


def _makeFrame(sides: Sides) -> Frame:
    """Make a frame of three sides, in one unit where the file names several."""
    lengths, units = sides
    if None in lengths[:2]:
        return frameOfVoxels(UNKNOWN)
    if lengths[2] is None:
        return frameOfVoxels(f"the TIFF gives no size of a voxel along z; {FLAG}")
    if len(set(units)) > 1 or units[0] == "inch":
        if not set(units) <= LENGTHS.keys():
            return frameOfVoxels(f"the TIFF gives the sides of a voxel in {', '.join(units)}; {FLAG}")
        lengths = tuple(
            length * LENGTHS[unit] / LENGTHS["um"] for length, unit in zip(lengths, units, strict=True)
        )
        units = ("um",) * 3
    array = np.array(lengths, float)
    if not (np.isfinite(array).all() and (array > 0).all()):
        return frameOfVoxels(f"the TIFF gives a voxel the size {tuple(lengths)}; {FLAG}")
    return Frame(np.diag(array), np.zeros(3), units[0])


def _nameUnit(text: str) -> str:
    """Give a unit of length its one name; empty for what is none."""
    unit = text.strip().strip("\0")
    unit = UNITS.get(unit, UNITS.get(unit.lower(), unit))
    return "" if unit.lower() in NO_LENGTHS else unit


# -------------------------------------------------- what the file itself tells


def _omeSides(tiff: "tifffile.TiffFile") -> Sides | None:
    """Read the sides of a voxel from OME-XML; None where it gives none."""
    root = omeRoot(tiff)
    pixels = None if root is None else next(root.iterfind(".//{*}Pixels"), None)
    if pixels is None or pixels.get("PhysicalSizeX") is None:
        return None
    lengths = tuple(_number(pixels.get(f"PhysicalSize{axis}")) for axis in "XYZ")
    units = tuple(_nameUnit(pixels.get(f"PhysicalSize{axis}Unit", "um")) for axis in "XYZ")
    if lengths[2] is None:
        units = (*units[:2], units[0])
    return Sides(lengths, units) if all(units) else None


def _imagejSides(tiff: "tifffile.TiffFile") -> Sides | None:
    """Read the sides of a voxel from the description of ImageJ; its unit is also that of the resolution.

    As ImageJ reads it: a spacing below 0 counts as above, and pixels a centimetre are meant beside "um".
    Without a spacing it means 1; that is believed where x and y are 1 too.
    """
    described = tiff.imagej_metadata or {}
    texts = [str(described.get(name, "")) for name in ("unit", "yunit", "zunit")]
    units = [_nameUnit(_unescape(text)) for text in texts]
    across = _resolution(tiff.pages[0])
    if not units[0] or None in across:
        return None
    units = tuple(unit or units[0] for unit in units)
    tag = _resolutionUnit(tiff.pages[0])
    if texts[0] == "um" and tag == 3:
        across = tuple(side * TAG_SCALES[3] for side in across)
    if units[0] == "inch" and _isScreen(INCH * side for side in across):
        return None
    spacing = _number(described.get("spacing"))
    if spacing is None and across == (1, 1):
        spacing = 1.0
    return Sides((*across, None if spacing is None else abs(spacing)), units)


def _unescape(text: str) -> str:
    r"""Read what Java writes as \u00B5."""
    return re.sub(r"\\u([0-9a-fA-F]{4})", lambda code: chr(int(code[1], 16)), text)


def _tagSides(tiff: "tifffile.TiffFile") -> Sides | None:
    """Read the sides of a pixel in micrometres from the resolution tags; None where they mean a screen."""
    scale = TAG_SCALES.get(_resolutionUnit(tiff.pages[0]))
    across = _resolution(tiff.pages[0])
    if scale is None or None in across or _isScreen(scale * side for side in across):
        return None
    return Sides((*(scale * side for side in across), None), ("um",) * 3)


def _resolutionUnit(page: Any) -> int:
    """Give the tag that says what resolutions are counted in; 0 where it is missing."""
    tag = page.tags.get("ResolutionUnit")
    return int(tag.value) if tag else 0


def _resolution(page: Any) -> tuple[float | None, float | None]:
    """Give the lengths of a pixel along x and y by the resolution tags."""
    values = (page.tags.valueof(name, (0, 0)) for name in ("XResolution", "YResolution"))
    return tuple(length / count if count and length else None for count, length in values)


def _isScreen(sides: Any) -> bool:
    """Whether one of the sides, micrometres, follows from dots an inch that programs write of themselves."""
    return any(abs(INCH / side - dots) < 0.5 for side in sides for dots in SCREENS)


def _number(text: object) -> float | None:
    """Read a number; None where it is none."""
    try:
        return float(str(text))
    except ValueError:
        return None


# -------------------------------------------------- nabu's text beside a stack


def findNotes(path: Path, first: Path) -> list[Path]:
    """Find the texts of nabu that belong to a stack, or to a folder whose first slice is `first`.

    In a folder several texts may lie: that which is named as the slices are is the one.
    """
    if not path.is_dir():
        note = path.with_name(path.stem + NABU_ENDING)
        return [note] if note.is_file() else []
    notes = sorted(note for note in path.glob(f"*{NABU_ENDING}") if not note.name.startswith("."))
    own = [note for note in notes if re.fullmatch(_stem(note) + "_?[0-9]+", first.stem)]
    return own or notes


def _stem(note: Path) -> str:
    """Give the name of the volume, as a pattern, that a text is about."""
    return re.escape(note.name.removesuffix(NABU_ENDING))


def readNabu(notes: list[Path]) -> tuple[Sides, str]:
    """Read the sides of a voxel from the one text of nabu.

    Returns
    -------
    tuple
        Sides in micrometres; what is wrong with the text, empty where nothing is.
    """
    nothing, (note, *others) = Sides((None,) * 3, ("",) * 3), notes
    if others:
        return nothing, f"both {note.name} and {others[0].name} may tell it"
    try:
        with open(note, encoding="utf-8", errors="replace") as file:
            texts = _listSizes(file.read(NABU_BYTES))
    except OSError as error:
        return nothing, f"{note.name} cannot be read: {error.strerror or error}"
    except configparser.Error:
        return nothing, f"{note.name} is damaged"
    found = {_readSizes(text) for text in texts}
    if not found:
        return nothing, f"{note.name} does not give it either"
    if None in found:
        return nothing, f"{note.name} is damaged ({texts[0]!r} is no size)"
    if len(found) > 1:
        return nothing, f"{note.name} gives it in several ways ({', '.join(texts)})"
    return Sides(tuple(side * 1e4 for side in found.pop()), ("um",) * 3), ""


def _listSizes(content: str) -> list[str]:
    """List what a text of nabu says of the size of a voxel, in cm."""
    parser = configparser.ConfigParser(strict=False, interpolation=None, allow_no_value=True)
    parser.read_string(content)
    sections = [section for section in parser.sections() if section.split(".")[-1] == "reconstruction"]
    return [text or "" for section in sections for key, text in parser.items(section) if key in NABU_KEYS]


def _readSizes(text: str) -> tuple[float, ...] | None:
    """Read one number, or those along z, y and x, as sides along (x, y, z); None where it is no size."""
    numbers = [_number(word) for word in re.sub(r"np\.\w+(?=\()|[][(),]", " ", text).split()]
    if len(numbers) not in (1, 3) or not all(number and 0 < number < np.inf for number in numbers):
        return None
    return tuple(numbers * 3)[:3] if len(numbers) == 1 else tuple(numbers[::-1])
