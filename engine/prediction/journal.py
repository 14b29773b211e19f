"""What an unfinished result is made from, and which of its tasks are finished.

Beside `.partial-NAME`, the voxels, lie two files. `.partial-NAME.json` says what the result follows from.
`.partial-NAME.tasks` has a line for each finished task, written when its voxels are on the disk. It is only
appended to: several processes may do so, and a line that a kill cut short is none.
"""

import contextlib
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from engine.base.errors import PipelineError
from engine.base.records import listDifferences, readJson, writeJson
from engine.prediction.tasks import Task, mergeTasks
from engine.volumes.growing import (
    GrowingVolume,
    createGrowing,
    explainedWriting,
    partialName,
    requireWritable,
)

COMMIT_SECONDS = 5.0  # between two entries: what a kill can cost
LINE = re.compile(r"^\[(\d+), (\d+), (\d+)\]$", re.MULTILINE)  # tile, first plane, the one after the last


class Journal:
    """The two files beside the voxels.

    Parameters
    ----------
    path : Path
        The result.
    """

    def __init__(self, path: Path) -> None:
        partial = partialName(path)
        self._voxels, self._record = partial, partial.with_name(f"{partial.name}.json")
        self._tasks = partial.with_name(f"{partial.name}.tasks")

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
            record = readJson(self._record)
        except PipelineError:
            return None, ["the journal is damaged"]
        if record is None or not self._voxels.is_file():
            return None, []
        if "progress" in record:
            return None, ["its journal is of an earlier version of this program"]
        if not {"identity", "layout", "devices"} <= record.keys():
            return None, ["the journal is damaged"]
        differences = listDifferences(record["identity"], identity)
        return (None, differences) if differences else (record, [])

    def finished(self) -> list[Task]:
        """List what is finished, joined to ranges."""
        try:
            text = self._tasks.read_text(encoding="ascii", errors="replace")
        except FileNotFoundError:
            return []
        numbers = (map(int, match) for match in LINE.findall(text))
        return mergeTasks(Task(tile, (first, last)) for tile, first, last in numbers)

    def begin(self, record: dict[str, Any]) -> None:
        """Note what the result is made from; what is noted as finished stays."""
        writeJson(self._record, record)

    def add(self, tasks: list[Task]) -> None:
        """Note finished tasks; their voxels must be on the disk."""
        text = "".join(f"\n[{tile}, {first}, {last}]" for tile, (first, last) in tasks)
        descriptor = os.open(self._tasks, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            os.write(descriptor, text.encode("ascii"))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def remove(self) -> None:
        """Forget everything, what vouches for voxels first."""
        for path in (self._tasks, self._record):
            path.unlink(missing_ok=True)


class GrowingResult:
    """The sink of a prediction: voxels go to the growing volume, finished tasks to the journal.

    Parameters
    ----------
    volume : GrowingVolume
    journal : Journal
    """

    def __init__(self, volume: GrowingVolume, journal: Journal) -> None:
        self.volume, self.journal, self.finished = volume, journal, journal.finished()
        self._waiting: list[Task] = []  # written, not noted yet
        self._noted = time.monotonic()

    def write(self, planes: np.ndarray, plane: int, row: int, column: int) -> None:
        """Write probabilities (plane, row, column) float32 where they belong."""
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
            self.journal.add(mergeTasks(self._waiting))
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
    journal, form = Journal(path), record["identity"]
    with explainedWriting(path):
        if not isGoingOn:
            requireWritable(path)  # or the unfinished file, of another user, stays as it is
            journal.remove()  # of another input: it must not vouch for this
            createGrowing(path, shape, form["outputType"], header)
        volume = GrowingVolume(path)
    with volume, explainedWriting(path):
        result = GrowingResult(volume, journal)
        try:
            journal.begin(record)
            yield result
            volume.finish(form["outputEncoding"])
            journal.remove()
        except BaseException:
            with contextlib.suppress(OSError, PipelineError):  # then the last note stands
                if result.isBegun:
                    result.note()
                else:
                    journal.remove()
                    volume.partial.unlink(missing_ok=True)
            raise


@contextlib.contextmanager
def joinResult(path: Path) -> Iterator[GrowingResult]:
    """Write into a result that another process has begun and will finish; tasks are noted at the end."""
    with explainedWriting(path), GrowingVolume(path) as volume:
        result = GrowingResult(volume, Journal(path))
        yield result
        result.note()
