"""A result that several processes make at once, on any machines: who begins it, and what all must agree on.

Nobody waits for anybody, and nothing is locked: the first process publishes what the result follows from, in
a file that can be made once (`.partial-NAME.json`), and all others compare themselves with it. A file of
voxels is begun in the same way. From then on everybody writes voxels of his own, or the same ones.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from engine.base.errors import PipelineError
from engine.base.records import (
    digestProgram,
    listDifferences,
    packageVersions,
    publishJson,
    readJson,
    sketchFiles,
    spreadOver,
)
from engine.formats.growing import explainedWriting, partialName
from engine.prediction.journal import SHARED, Journal
from engine.prediction.layout import Layout
from engine.prediction.parts import Part
from engine.prediction.request import Request, digestInputs, nameInputs, showInputs

DECISIVE = {"keras", "tensorflow", "jax", "openvino", "numpy", "scipy", "connected-components-3d"}
VISIBLE_SECONDS = 60.0  # after which every client of a shared file system sees a new file


class Sharing(NamedTuple):
    """How a result is shared."""

    part: Part | None = None  # what this process does; None: all that is missing
    count: int = 0  # parts that are asked for; 0: as many as the result was begun in
    isVerified: bool = False  # whole files are compared, not samples of them
    isSpread: bool = False  # workers of a scheduler predict, `count` of them or more
    memory: float = 0.0  # GiB that each of them has
    base: float = 0.0  # GiB of it that each takes before any plane is held

    @classmethod
    def of(cls, part: str, isVerified: bool, path: Path) -> "Sharing | None":
        """Read what is asked for; None where one process does everything, and nobody has begun otherwise."""
        found = Part.parse(part)
        if found:
            return cls(found, found.count, isVerified)
        return cls(isVerified=isVerified) if isShared(path) else None


def isShared(path: Path) -> bool:
    """Whether an unfinished result is one that several processes make."""
    try:
        return SHARED in (readJson(Journal(path).record) or {})
    except PipelineError:
        return False


def sketchInputs(request: Request) -> dict[str, Any]:
    """Describe the files that a probability follows from, without reading all of them."""
    return {name: sketchFiles(spreadOver(paths)) for name, paths in nameInputs(request).items()}


def describeProgram(engine: str) -> dict[str, Any]:
    """Describe what computes: all that make a result together must be alike."""
    left = {"openvino"} if engine == "keras" else {"keras", "tensorflow", "jax"}
    versions = packageVersions().items()
    own = {f"version of {name}": number for name, number in versions if name in DECISIVE - left}
    return own | {"program": digestProgram()}


class Witness(NamedTuple):
    """What a process must see as the one does that has begun."""

    engine: str
    files: dict[str, tuple[str, ...]]  # paths by name, of many files some
    seen: dict[str, Any]  # versions and program, and a sketch of the files

    @classmethod
    def of(cls, request: Request, engine: str) -> "Witness":
        """Tell what this process sees."""
        files = {
            name: tuple(str(path.resolve()) for path in spreadOver(paths))
            for name, paths in nameInputs(request).items()
        }
        return cls(engine, files, describeProgram(engine) | sketchInputs(request))

    def check(self) -> None:
        """Look at the files, the packages and the program of this process.

        Raises
        ------
        PipelineError
            Something lacks, or is another one.
        """
        own = describeProgram(self.engine)
        for name, paths in self.files.items():
            try:
                own[name] = sketchFiles(paths)
            except OSError as error:
                rule, file = f"a worker cannot read {name}: {error.strerror}", error.filename or paths[0]
                raise PipelineError(rule, file=file, remedy="all machines need the same paths") from error
        if differences := listDifferences(self.seen, own):
            rule = "a worker sees other files, packages or another program than this process"
            raise PipelineError(rule, received="; ".join(differences))


def joinShared(
    request: Request, identity: dict[str, Any], chooseCut: Callable[[], Layout], sharing: Sharing
) -> tuple[dict[str, Any], bool]:
    """Begin a shared result, or join it.

    Parameters
    ----------
    request : Request
        What is asked for.
    identity : dict
        Everything that the result follows from; files as `sketchInputs` describes them.
    chooseCut : callable
        Gives the layout; called only where nobody has begun.
    sharing : Sharing
        Number of parts.

    Returns
    -------
    record : dict
        What was published: identity, layout, devices, parts, dates.
    isFirst : bool
        Whether this process has begun it.

    Raises
    ------
    PipelineError
        The unfinished result is that of another job, of one process alone, or in another number of parts.
    """
    journal, path, isFirst = Journal(request.nameOutput), request.nameOutput, False
    record = readJson(journal.record)
    if record is None:
        content = {"identity": identity, "layout": list(chooseCut()), "devices": [], SHARED: sharing.count}
        with explainedWriting(path):
            isFirst = publishJson(journal.record, content | {"dates": _datesOf(request)})
        record = _readPublished(journal.record)
    remedy = f"choose another --nameOutput, or remove {partialName(path).name}* where nothing works at it"
    if record is None or not {"identity", "layout", SHARED} <= record.keys():
        raise PipelineError("one process alone has begun this result", file=path, remedy=remedy)
    if differences := listDifferences(record["identity"], identity):
        rule = "another job has begun this result"
        raise PipelineError(rule, file=path, received="; ".join(differences), remedy=remedy)
    if sharing.part and sharing.count != record[SHARED]:
        expected, received = f"--part .../{record[SHARED]}", f"{sharing.count} parts"
        rule = "the result was begun in another number of parts"
        raise PipelineError(rule, file=path, expected=expected, received=received, remedy=remedy)
    return record, isFirst


def _readPublished(path: Path) -> dict[str, Any] | None:
    """Read what a process has published; a client of NFS may not see a new file for a while."""
    end = time.monotonic() + VISIBLE_SECONDS
    while (content := readJson(path)) is None and time.monotonic() < end:
        time.sleep(0.5)
    return content


def _datesOf(request: Request) -> dict[str, int]:
    """Give the times at which the files were changed last; of several, their sum."""
    named = nameInputs(request).items()
    return {name: sum(path.stat().st_mtime_ns for path in paths) for name, paths in named}


def checkFiles(request: Request, record: dict[str, Any], isVerified: bool) -> dict[str, str]:
    """Compare whole files where samples are not enough: it is asked for, or one has changed its date.

    Returns
    -------
    dict
        Digests of the whole files by name; empty where they were not needed.

    Raises
    ------
    PipelineError
        Another process has read another file, or nobody can tell any more.
    """
    dates, known = _datesOf(request), record.get("dates") or {}
    changed = [name for name in dates if known.get(name) != dates[name]]
    if not (isVerified or changed):
        return {}
    journal = Journal(request.nameOutput)
    if changed and journal.finished() and readJson(journal.digests) is None:
        rule = "was written after parts of this result were predicted; nobody can tell whether it is the same"
        remedy = f"give the file the date back that it had, or remove {journal.voxels.name}*"
        raise PipelineError(rule, file=showInputs(request)[changed[0]], remedy=remedy)
    return agreeDigests(request, isKnown=False)


def agreeDigests(request: Request, isKnown: bool) -> dict[str, str]:
    """Give the digests of whole files, which are made once: by whoever comes first.

    Parameters
    ----------
    request : Request
        Whose files.
    isKnown : bool
        Take what another process has published; else make them in any case, and compare.

    Raises
    ------
    PipelineError
        Another process has read another file.
    """
    journal, named = Journal(request.nameOutput), nameInputs(request)
    published = readJson(journal.digests)
    if not (isKnown and published and published.keys() == named.keys()):
        digests = digestInputs(request)
        with explainedWriting(request.nameOutput):
            publishJson(journal.digests, digests)
        published = readJson(journal.digests) or digests
        if differences := listDifferences(published, digests):
            rule = "this process sees another file than the one that has begun"
            remedy = "let all machines read the same file"
            raise PipelineError(rule, received="; ".join(differences), remedy=remedy)
    return {name: published[name] for name in named}
