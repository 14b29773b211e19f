"""The slices of a folder in their order, none missing, none twice, and nothing else among them."""

import itertools
import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from engine.base.errors import PipelineError
from engine.base.files import splitNumbers

ENDINGS = (".tif", ".tiff")
OWN_FOLDER = "put the slices of each volume into a folder of their own"


class Slices(NamedTuple):
    """The slices of a folder."""

    files: list[Path]  # in the order of the numbers in their names
    step: int  # from one number to the next; 1 where there is none


def listSlices(folder: Path) -> Slices:
    """List the slices of a folder in the order of their names, numbers as numbers.

    Raises
    ------
    PipelineError
        There are none; numbers are missing or come twice; a file is named unlike the others; more than one
        number varies and none counts.
    """
    try:
        entries = [path for path in folder.iterdir() if not path.name.startswith(".")]
    except OSError as error:
        raise PipelineError(f"cannot be read: {error.strerror or error}", file=folder) from error
    for path in sorted(entries):
        if path.is_dir():
            rule = f"lies in the folder of slices {folder.name}"
            raise PipelineError(rule, file=path, remedy="keep the slices of a volume in one folder")
    files = sorted((path for path in entries if path.suffix.lower() in ENDINGS), key=splitNumbers)
    if not files:
        raise PipelineError("the folder holds no TIFF slices (.tif, .tiff)", file=folder)
    return Slices(files, _findStep(folder, files))


def _findStep(folder: Path, files: list[Path]) -> int:
    """Find by how much the numbers of the slices go up; refuse names that do not count."""
    names = [_splitName(path) for path in files]
    _requireOnce(folder, files, names)
    if not any(numbers for _, numbers in names):
        return 1  # in the order of the alphabet
    _requireAlike(folder, files, [words for words, _ in names])
    columns = list(zip(*(numbers for _, numbers in names), strict=True))
    varying = [index for index, column in enumerate(columns) if len(set(column)) > 1]
    steps = [set(_differences(columns[index])) for index in varying]
    regular = [min(found) for found in steps if len(found) == 1 and min(found) > 0]
    if varying and not regular:
        raise _explainNumbers(folder, files, columns, varying)
    return min(regular, default=1)


def _splitName(path: Path) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Split a name into its words, of which case does not count, and its numbers."""
    parts = re.split("([0-9]+)", path.stem.lower())
    return tuple(parts[::2]), tuple(map(int, parts[1::2]))


def _differences(column: tuple[int, ...]) -> list[int]:
    """Give the steps from each number to the next."""
    return [after - before for before, after in itertools.pairwise(column)]


def _requireOnce(folder: Path, files: list[Path], names: list[tuple]) -> None:
    """Refuse two files that are the same slice."""
    known = {}
    for path, name in zip(files, names, strict=True):
        other = known.setdefault(name, path)
        if other is not path:
            rule = f"{other.name} and {path.name} are the same slice by their names"
            raise PipelineError(rule, file=folder, remedy="take one of them out of the folder")


def _requireAlike(folder: Path, files: list[Path], words: list[tuple[str, ...]]) -> None:
    """Refuse a file that is named unlike the others, such as a preview; it is the one to look at."""
    usual, count = Counter(words).most_common(1)[0]
    if count == len(files):
        return
    odd = next(path for path, own in zip(files, words, strict=True) if own != usual)
    one = next(path for path, own in zip(files, words, strict=True) if own == usual)
    rule = f"is named unlike the slices of {folder.name}, such as {one.name}"
    remedy = "take it out of the folder, or give all slices one name and a number"
    raise PipelineError(rule, file=odd, remedy=remedy)


def _explainNumbers(
    folder: Path, files: list[Path], columns: list[tuple[int, ...]], varying: list[int]
) -> PipelineError:
    """Say what is wrong with numbers that do not go up evenly."""
    counting = [index for index in varying if min(_differences(columns[index])) > 0]
    if not counting:
        names = f"{files[0].name} to {files[-1].name}"
        rule = f"more than one number varies in the names of the slices, from {names}"
        return PipelineError(rule, file=folder, expected="one that counts them", remedy=OWN_FOLDER)
    index = max(counting, key=lambda index: _evenness(columns[index]))
    steps = _differences(columns[index])
    step = min(steps)
    last = next(number for number, found in enumerate(steps) if found > step)
    count = sum(-(-found // step) - 1 for found in steps)
    words = f"{count} slices are missing" if count > 1 else "a slice is missing"
    return PipelineError(
        f"the numbers of its slices have a gap: {words}",
        file=folder,
        expected=f"{_renumber(files[last], index, columns[index][last] + step)} after {files[last].name}",
        received=files[last + 1].name,
        remedy="add what is missing, or number the slices anew if the gap is meant",
    )


def _evenness(column: tuple[int, ...]) -> float:
    """Share of the smallest step among all steps."""
    steps = _differences(column)
    return steps.count(min(steps)) / len(steps)


def _renumber(path: Path, index: int, number: int) -> str:
    """Write the name of a file with another number in place of one of its numbers."""
    parts = re.split("([0-9]+)", path.stem)
    parts[2 * index + 1] = str(number).zfill(len(parts[2 * index + 1]))
    return "".join(parts) + path.suffix
