"""Which boxes of a scan were suggested to be labelled, and where the files of these lie.

A folder beside the probability holds trainingImages/, trainingMasks/ and suggested.json, which names all
boxes that were ever suggested there: none of them is suggested again, and no file of theirs is written over.
"""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from engine.base.console import describeShape
from engine.base.errors import PipelineError
from engine.base.files import explainWriteError, refuseLongNames
from engine.base.records import readJson, writeJson
from engine.formats.opening import openVolume, stemOf
from engine.masks.segmentFields import ENDING
from engine.masks.targets import describeLabels
from engine.measures.boxes import MULTIPLE, Box, Choice, Grid
from engine.results.evaluation import Evaluation
from engine.volumes.names import shortName
from engine.volumes.volume import Region, Volume

FOLDERS = "trainingImages", "trainingMasks"
LIST = "suggested.json"
NAMED = re.compile(r".*_box(\d+)_x(\d+)_y(\d+)_z(\d+)\.[^/]*")
UNDO = "choose another --nameOutput, or move the folder away"


# ------------------------------------------------------------------------------------------ before any work


def nameFolder(nameOutput: Path) -> Path:
    """Name the folder of the suggestions that belong to a probability."""
    return nameOutput.with_name(f"{nameOutput.stem}_suggested")


def refuseSuggesting(count: int, region: Region, nameOutput: Path, volume: Volume) -> None:
    """Refuse suggestions that could not be written, before any work; nothing where none are wanted.

    Raises
    ------
    PipelineError
        The number is negative, the region too thin for a box, the folder cannot be written into, or holds
        suggestions of another scan.
    """
    if count < 0:
        raise PipelineError("suggest must not be negative", received=count)
    if not count:
        return
    sides = [stop - start for start, stop in region]
    if min(sides) < MULTIPLE:
        rule = "the region is too thin for a box to label"
        expected = f"at least {MULTIPLE} voxels a side"
        remedy = "leave out --suggest"
        raise PipelineError(rule, expected=expected, received=describeShape(sides), remedy=remedy)
    folder = nameFolder(nameOutput)
    for path in (folder, *(folder / name for name in FOLDERS)):
        if path.exists() and not path.is_dir():
            raise PipelineError("is no folder: suggestions cannot be written", file=path, remedy=UNDO)
        if path.exists() and not os.access(path, os.W_OK | os.X_OK):
            raise PipelineError("nothing can be written into this folder", file=path, remedy=UNDO)
    longest = Planned.nameBox(volume, 10**6, tuple((side, side) for side in volume.shape))
    remedy = "choose a shorter name for the scan, or for --nameOutput"
    refuseLongNames([folder / FOLDERS[1] / f"{longest}{ENDING}"], remedy)
    Folder(folder, volume).read()


# ----------------------------------------------------------------------------------- what is suggested so far


class Planned(NamedTuple):
    """A box with its number and name."""

    number: int
    name: str
    box: Box  # voxels of the scan

    @classmethod
    def of(cls, number: int, volume: Volume, box: Box) -> "Planned":
        """Give a box its name."""
        return cls(number, cls.nameBox(volume, number, box), box)

    @staticmethod
    def nameBox(volume: Volume, number: int, box: Box) -> str:
        """Name a box of a volume by its number and its first voxel."""
        place = "_".join(f"{axis}{first}" for axis, (first, _) in zip("xyz", box, strict=True))
        return f"{stemOf(volume.path)}_box{number:02d}_{place}"

    def paths(self, folder: Path, isSegmentation: bool = False) -> tuple[Path, Path]:
        """Name image and mask in a folder of suggestions."""
        endings = ".nrrd", ENDING if isSegmentation else ".nrrd"
        return tuple(folder / name / f"{self.name}{end}" for name, end in zip(FOLDERS, endings, strict=True))

    def hasMask(self, folder: Path) -> bool:
        """Whether there is a mask already, of either kind: an image has one."""
        return any(self.paths(folder, kind)[1].exists() for kind in (False, True))


class Folder:
    """The suggestions for a scan.

    Parameters
    ----------
    path : Path
        Of the folder, which need not exist.
    volume : Volume
        The scan.

    Attributes
    ----------
    boxes : dict
        {number: Planned} of all that were ever suggested, or lie there.
    """

    def __init__(self, path: Path, volume: Volume) -> None:
        self.path, self._volume = path, volume
        self.boxes: dict[int, Planned] = {}
        self._entries: list[dict[str, Any]] = []  # as the list has them

    def read(self) -> "Folder":
        """Read the list, and which files lie there.

        Raises
        ------
        PipelineError
            The list cannot be read, or is of another scan; a file is damaged.
        """
        content = readJson(self.path / LIST) or {}
        own = [shortName(self._volume), list(self._volume.shape)]
        if content and [content.get("scan"), content.get("shape")] != own:
            words = "{} of {} voxels".format
            expected, received = words(*own), words(content.get("scan"), content.get("shape"))
            rule = "lists suggestions for another scan"
            raise PipelineError(
                rule, file=self.path / LIST, expected=expected, received=received, remedy=UNDO
            )
        try:
            self._entries = [dict(entry) for entry in content.get("boxes", [])]
            for entry in self._entries:
                box = tuple((int(first), int(last)) for first, last in entry["box"])
                self.boxes[int(entry["number"])] = Planned(int(entry["number"]), str(entry["name"]), box)
        except (TypeError, ValueError, KeyError) as error:
            rule = f"is no list of suggestions: {error!r}"
            raise PipelineError(rule, file=self.path / LIST, remedy=UNDO) from error
        for number, planned in self._listFiles():
            self.boxes.setdefault(number, planned)
        return self

    def _listFiles(self) -> Iterator[tuple[int, Planned]]:
        """List the boxes of files whose names tell their places, but those that are known."""
        for path in sorted(path for name in FOLDERS for path in (self.path / name).glob("*_box*")):
            match = NAMED.fullmatch(path.name)
            if match is None or path.name.startswith(".") or int(match[1]) in self.boxes:
                continue
            number, *firsts = map(int, match.groups())
            box = tuple(zip(firsts, self._findEnds(path, firsts), strict=True))
            yield number, Planned(number, stemOf(path), box)

    def _findEnds(self, path: Path, firsts: Sequence[int]) -> Iterator[int]:
        """Find the ends of the box of a file; a segmentation may be cut to what is drawn in it."""
        isSegmentation = path.name.lower().endswith(ENDING)
        sides = Grid.of(self._volume.shape).box if isSegmentation else openVolume(path).shape
        ends = (first + side for first, side in zip(firsts, sides, strict=True))
        return map(min, ends, self._volume.shape) if isSegmentation else ends

    def listUnwritten(self, region: Region) -> list[Planned]:
        """List what an interrupted run has chosen in a region and not written, in order."""
        left = [self.boxes[entry["number"]] for entry in self._entries if not entry.get("isWritten", True)]
        return [planned for planned in left if _liesIn(planned.box, region)]

    def plan(self, choices: Iterable[Choice], evaluation: Evaluation) -> None:
        """Give boxes their numbers, and note them before they are written."""
        criteria = evaluation.criteria._asdict() | {"positiveLabel": describeLabels(evaluation.target.labels)}
        for number, choice in enumerate(choices, max(self.boxes, default=0) + 1):
            planned = self.boxes[number] = Planned.of(number, self._volume, choice.box)
            why = {name: round(value, 6) for name, value in choice._asdict().items() if name != "box"}
            entry = {"number": number, "name": planned.name, "box": [list(part) for part in choice.box]}
            self._entries.append(entry | why | criteria | {"isWritten": False})
        self._write()

    def finish(self, written: Iterable[Planned]) -> None:
        """Note that these are written."""
        numbers = {planned.number for planned in written}
        for entry in self._entries:
            entry["isWritten"] = entry.get("isWritten", True) or entry["number"] in numbers
        self._write()

    def describe(self, planned: Planned) -> str:
        """Tell of a box in a line."""
        entry = next(entry for entry in self._entries if entry["number"] == planned.number)
        return (
            f"  {planned.name}  score {entry['score']:.4f}: uncertainty {entry['uncertainty']:.4f}, "
            f"unlikeness {entry['unlikeness']:.2f}"
        )

    def _write(self) -> None:
        """Write the list."""
        scan = {"scan": shortName(self._volume), "shape": list(self._volume.shape)}
        writeJson(self.path / LIST, scan | {"boxes": self._entries})

    def make(self) -> None:
        """Make the folders."""
        for name in FOLDERS:
            try:
                (self.path / name).mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise explainWriteError(error, self.path / name) from error


def _liesIn(box: Box, region: Region) -> bool:
    """Whether all voxels of a box are voxels of a region."""
    return all(
        start <= first and last <= stop for (first, last), (start, stop) in zip(box, region, strict=True)
    )
