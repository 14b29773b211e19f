"""What an unfinished result is made from, and which of its tasks are finished.

Beside `.partial-NAME`, the voxels, lie other files. `.partial-NAME.json` says what the result follows from.
`.partial-NAME.tasks` has a line for each finished task, written when its voxels are on the disk. It is only
appended to, and a line that a kill cut short is none. Where several processes write one result, each has a
file of its own, `.partial-NAME.tasks-...`: lines that two machines append to one file can be lost on NFS.
"""

import contextlib
import glob
import os
import re
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from engine.base.errors import PipelineError
from engine.base.files import removeLeftovers
from engine.base.records import listDifferences, readJson, writeJson
from engine.base.sums import SumFiles
from engine.formats.growing import (
    GrowingVolume,
    beginGrowing,
    createGrowing,
    explainedWriting,
    partialName,
    requireWritable,
)
from engine.prediction.tasks import Task, mergeTasks

SHARED = "parts"  # entry of the record of a result that several processes make
COMMIT_SECONDS = 5.0  # between two entries: what a kill can cost
LINE = re.compile(r"^\[(\d+), (\d+), (\d+)\]$", re.MULTILINE)  # tile, first plane, the one after the last
DEVICE = re.compile(r"^# (.+)$", re.MULTILINE)


class Journal:
    """The files beside the voxels.

    Parameters
    ----------
    path : Path
        The result.
    writer : str
        Name of this process among several that write the result; empty: it is alone.
    """

    def __init__(self, path: Path, writer: str = "") -> None:
        self._path, partial = path, partialName(path)
        self.voxels, self.record = partial, partial.with_name(f"{partial.name}.json")
        self.digests = partial.with_name(f"{partial.name}.digests.json")  # of a shared one, whole files
        self.sums = partial.with_name(f"{partial.name}.sum")  # begin of the names of partial sums
        self.seen = partial.with_name(f"{partial.name}.seen")  # the same, of the probability
        self._stem = f"{partial.name}.tasks"
        self._tasks = partial.with_name(f"{self._stem}-{writer}" if writer else self._stem)

    def read(self, identity: dict[str, Any]) -> tuple[dict[str, Any] | None, list[str]]:
        """Find out whether the unfinished result can be gone on with.

        Parameters
        ----------
        identity : dict
            Everything that the result follows from.

        Returns
        -------
        record : dict or None
            What `begin` noted; None if there is nothing to go on with.
        differences : list of str
            What is not as in the unfinished result.
        """
        try:
            record = readJson(self.record)
        except PipelineError:
            return None, ["the journal is damaged"]
        if record is None or not self.voxels.is_file():
            return None, []
        if "progress" in record:
            return None, ["its journal is of an earlier version of this program"]
        if not {"identity", "layout", "devices"} <= record.keys():
            return None, ["the journal is damaged"]
        differences = listDifferences(record["identity"], identity)
        return (None, differences) if differences else (record, [])

    def finished(self) -> list[Task]:
        """List what is finished, joined to ranges."""
        numbers = (map(int, match) for text in self._texts() for match in LINE.findall(text))
        return mergeTasks(Task(tile, (first, last)) for tile, first, last in numbers)

    def devices(self) -> list[str]:
        """List the devices of several processes that have finished any task."""
        return sorted({device for text in self._texts() for device in DEVICE.findall(text)})

    def _texts(self) -> Iterator[str]:
        """Read the journals of all processes."""
        for path in sorted(self.voxels.parent.glob(f"{glob.escape(self._stem)}*")):
            with contextlib.suppress(FileNotFoundError):
                yield path.read_text(encoding="utf-8", errors="replace")

    def begin(self, record: dict[str, Any]) -> None:
        """Note what the result is made from; what is noted as finished stays."""
        writeJson(self.record, record)

    def add(self, tasks: list[Task], device: str = "") -> None:
        """Note finished tasks, and by what if several may do so; their voxels must be on the disk."""
        text = f"\n# {device}" if device else ""
        text += "".join(f"\n[{tile}, {first}, {last}]" for tile, (first, last) in tasks)
        descriptor = os.open(self._tasks, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            os.write(descriptor, text.encode("utf-8"))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def requireOpen(self) -> None:
        """Refuse to go on with a shared result that another process has finished: it has its name now."""
        if not self.record.exists():
            raise PipelineError("another process has finished this result meanwhile", file=self._path)

    def remove(self) -> None:
        """Forget everything, what vouches for voxels first."""
        tasks = self.voxels.parent.glob(f"{glob.escape(self._stem)}*")
        for path in (*tasks, self.record, self.digests):
            path.unlink(missing_ok=True)
        SumFiles(self.sums, "").remove()
        for path in (self._path, self.record, self.digests):
            removeLeftovers(path.parent, glob.escape(path.name))


class GrowingResult:
    """The sink of a prediction: voxels go to the growing volume, finished tasks to the journal.

    Parameters
    ----------
    volume : GrowingVolume
    journal : Journal
    device : str
        Of this process among several; empty: it is alone.
    """

    def __init__(self, volume: GrowingVolume, journal: Journal, device: str = "") -> None:
        self.volume, self.journal, self.finished = volume, journal, journal.finished()
        self._device = device
        self._waiting: list[Task] = []  # written, not noted yet
        self._noted = time.monotonic()

    def write(self, planes: np.ndarray, plane: int, row: int, column: int) -> None:
        """Write probabilities (plane, row, column) float32 where they belong."""
        if self._device:
            self.journal.requireOpen()
        self.volume.write(planes, plane, row, column)

    def commit(self, task: Task) -> None:
        """Take note of a finished task, in the journal at most every few seconds."""
        self._waiting.append(task)
        if time.monotonic() - self._noted >= COMMIT_SECONDS:
            self.note()

    def note(self) -> None:
        """Enter what is finished into the journal, once it is on the disk."""
        if self._waiting:
            self.volume.flush()
            if self._device:
                self.journal.requireOpen()
            self.journal.add(mergeTasks(self._waiting), self._device)
            self.finished, self._waiting = mergeTasks([*self.finished, *self._waiting]), []
        self._noted = time.monotonic()

    @property
    def isBegun(self) -> bool:
        """Whether any task is finished, noted or not."""
        return bool(self.finished or self._waiting)


@contextlib.contextmanager
def openResult(
    path: Path, shape: tuple[int, int, int], header: dict, record: dict[str, Any], isGoingOn: bool
) -> Iterator[GrowingResult]:
    """Open or begin the unfinished file of a result; the result appears when the block ends well.

    An interruption or an error keeps what is finished for the next run. One process at a time: the caller
    holds `lockName(path, ...)` since before `Journal.read`; others may `joinResult` meanwhile.

    Parameters
    ----------
    path : Path
        Result, *.nrrd.
    shape : tuple of int
        Voxels along (x, y, z).
    header : dict
        Geometry and key/values.
    record : dict
        What the result is made from: identity (with outputType and outputEncoding), layout, devices.
    isGoingOn : bool
        Whether `Journal.read` found an unfinished result to go on with.

    Raises
    ------
    PipelineError
        The disk is too full, or the folder cannot be written to.
    """
    journal, form, isShared = Journal(path), record["identity"], SHARED in record
    if isShared:
        beginShared(path, shape, header, record)
    with explainedWriting(path):
        if not isGoingOn:
            requireWritable(path)  # or the unfinished file, of another user, stays as it is
            if SHARED in (readJson(journal.record) or {}):
                raise PipelineError("several processes have begun this result meanwhile", file=path)
            journal.remove()  # of another input: it must not vouch for this
            createGrowing(path, shape, form["outputType"], header)
        volume = GrowingVolume(path)
    with volume, explainedWriting(path):
        result = GrowingResult(volume, journal)
        try:
            if not isShared:
                journal.begin(record)
            yield result
            if isShared:
                journal.requireOpen()
            volume.finish(form["outputEncoding"])
            journal.remove()
        except BaseException:
            with contextlib.suppress(OSError, PipelineError):  # then the last note stands
                if result.isBegun:
                    result.note()
                elif not isShared:
                    journal.remove()
                    volume.partial.unlink(missing_ok=True)
            raise


def beginShared(path: Path, shape: tuple[int, int, int], header: dict, record: dict[str, Any]) -> None:
    """Begin the unfinished file of a result that several processes make, unless another one has.

    Parameters and errors as those of `openResult`.
    """
    with explainedWriting(path):
        beginGrowing(path, shape, record["identity"]["outputType"], header)


@contextlib.contextmanager
def joinResult(path: Path, device: str) -> Iterator[GrowingResult]:
    """Write into a result that several processes make; what is finished is noted, also after an interruption.

    Parameters
    ----------
    path : Path
        Result; its unfinished file exists.
    device : str
        What this process computes with, in words.
    """
    with explainedWriting(path), GrowingVolume(path) as volume:
        result = GrowingResult(volume, Journal(path, uuid.uuid4().hex[:8]), device)
        try:
            yield result
        except BaseException:
            with contextlib.suppress(OSError, PipelineError):  # then the last note stands
                result.note()
            raise
        result.note()
