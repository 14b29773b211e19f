"""The processes of a training: they come together, agree on everything, and notice when one is gone."""

import contextlib
import hashlib
import io
import json
import os
import queue
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from engine.base.console import leaveAtOnce
from engine.base.errors import PipelineError, StoppedBySignal
from engine.base.records import packageVersions, refuseAnother
from engine.learning.messages import (
    END,
    HELLO,
    LOST,
    PART,
    Gone,
    Line,
    Watch,
    connect,
    openPort,
    packParts,
    unpackParts,
)
from engine.learning.processes import Process

WAIT_SECONDS = 300.0  # for all to come together
GREETING_SECONDS = 10.0  # for the first words of a new connection
GRACE_SECONDS = 10.0  # for a process to end by itself when another one is gone, before it is ended
LATE_SECONDS = 3.0  # by which the reason may come after its consequence
POLL_SECONDS = 0.2
COMPARED = ("python", "numpy", "keras", "jax")  # versions that must be the same everywhere
REMEDY = "the same commands, repeated on all machines, go on from the last saved state"
CODE = Path(__file__).resolve().parents[2]


class Group:
    """The processes of a training; here this one alone.

    All of them call the same methods in the same order.
    """

    index, count = 0, 1

    @property
    def isFirst(self) -> bool:
        """Whether this process writes the results and tells of the training."""
        return self.index == 0

    def nameDevice(self, device: str) -> str:
        """Name what all compute on, given that of the first one."""
        return device if self.count == 1 else f"{device}, the first of {self.count} processes"

    def exchange(self, content: bytes) -> list[bytes]:
        """Give every process what each of them has, in order of their numbers."""
        return [content]

    def gather(self, value: Any) -> list:
        """Give every process the values of all; what JSON can hold."""
        return [value]

    def first(self, value: Any) -> Any:
        """Give every process the value of the first one."""
        return self.gather(value)[0]

    def gatherArrays(self, array: np.ndarray) -> list[np.ndarray]:
        """Give every process the arrays of all."""
        return [array]


ALONE = Group()


class Several(Group):
    """Several processes: process 0 has a line to every other one.

    Parameters
    ----------
    process : Process
        Which one this is, of how many, and where process 0 listens.
    description : dict
        What must be the same in all of them.
    waitSeconds : float
        For all to come together.
    end : callable
        Ends this process, with a code and a line, where it waits for ever for one that is gone.

    Raises
    ------
    PipelineError
        Not all come, the address cannot be used or reached, or processes differ.
    """

    def __init__(
        self,
        process: Process,
        description: dict[str, Any],
        waitSeconds: float = WAIT_SECONDS,
        end: Callable[[int, str], None] = leaveAtOnce,
    ) -> None:
        self.process, self.index, self.count = process, process.index, process.count
        self.lost = ""  # who is gone, and why
        self.onTunnel: Callable[[socket.socket], None] = socket.socket.close  # of connections of another kind
        self._end, self._isClosing, self._noting = end, False, threading.Lock()
        self._arrivals: queue.SimpleQueue = queue.SimpleQueue()  # (line, what it says of itself)
        self._farewell = b""  # why this process ends
        self._hosts, self._watches = {0: process.host}, {}
        own = {"index": self.index, "count": self.count, "host": socket.gethostname()}
        own["description"] = description
        try:
            self._await(own, waitSeconds) if self.isFirst else self._join(own, waitSeconds)
            self.gather(None)  # all are there, and agree
        except BaseException as error:
            self.leave(error)
            raise

    def exchange(self, content: bytes) -> list[bytes]:
        """Give every process what each of them has, in order of their numbers."""
        if not self.isFirst:
            self._watches[0].line.send(PART, content)
            return unpackParts(self._take(0))
        parts = [content, *(self._take(index) for index in range(1, self.count))]
        packed = packParts(parts)
        for watch in self._watches.values():
            watch.line.send(PART, packed)
        return parts

    def gather(self, value: Any) -> list:
        """Give every process the values of all; what JSON can hold."""
        return [json.loads(part) for part in self.exchange(json.dumps(value).encode())]

    def gatherArrays(self, array: np.ndarray) -> list[np.ndarray]:
        """Give every process the arrays of all."""
        buffer = io.BytesIO()
        np.save(buffer, array, allow_pickle=False)
        return [np.load(io.BytesIO(part), allow_pickle=False) for part in self.exchange(buffer.getvalue())]

    def finish(self) -> None:
        """Wait until all have finished; from then on nobody is missed."""
        self.gather(None)
        self._isClosing = True
        self._tell(END)

    def leave(self, error: BaseException) -> None:
        """Tell the others why this process ends, also those that have not been listened to yet."""
        reason = self.lost or f"process {self.index} on {socket.gethostname()} {_reason(error)}"
        with self._noting:
            self._isClosing, self._farewell = True, reason.encode()
        self._tell(LOST, self._farewell)
        with contextlib.suppress(queue.Empty):
            while True:
                self._arrivals.get_nowait()[0].send(LOST, self._farewell)

    def explain(self, error: BaseException) -> BaseException:
        """Give the reason for an error that followed from the end of another process, or the error itself."""
        if isinstance(error, PipelineError | StoppedBySignal | KeyboardInterrupt | SystemExit):
            return error
        end = time.monotonic() + LATE_SECONDS
        while not self.lost and time.monotonic() < end:
            time.sleep(POLL_SECONDS)
        return self._lostError() if self.lost else error

    def _take(self, index: int) -> bytes:
        """Wait for the part of another process."""
        while True:
            with contextlib.suppress(queue.Empty):
                return self._watches[index].parts.get(timeout=POLL_SECONDS)
            if self.lost:
                raise self._lostError()

    def _lostError(self) -> PipelineError:
        return PipelineError(self.lost, remedy=REMEDY)

    def _tell(self, kind: bytes, content: bytes = b"") -> None:
        """Send a message to all that this process has a line to."""
        for watch in list(self._watches.values()):
            watch.line.send(kind, content)

    # ---------------------------------------------------------------------------------------- coming together

    def _join(self, own: dict[str, Any], waitSeconds: float) -> None:
        """Introduce oneself to process 0."""
        line = Line(connect(self.process.host, self.process.port, waitSeconds))
        line.send(HELLO, json.dumps(own).encode())
        self._watch(0, line)

    def _await(self, own: dict[str, Any], waitSeconds: float) -> None:
        """Wait for the others, and compare what each of them brings."""
        listener = openPort(self.process.host, self.process.port)
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()
        end = time.monotonic() + waitSeconds
        while missing := set(range(1, self.count)) - set(self._watches):
            if self.lost:
                raise self._lostError()
            if time.monotonic() > end:
                names = ", ".join(map(str, sorted(missing)))
                rule = f"not all processes came within {waitSeconds:.0f} s: {names} of {self.count} missing"
                raise PipelineError(rule, remedy="start all of them with the same --coordinator")
            with contextlib.suppress(queue.Empty):
                line, other = self._arrivals.get(timeout=POLL_SECONDS)
                self._admit(line, own, other)

    def _admit(self, line: Line, own: dict[str, Any], other: dict[str, Any]) -> None:
        """Take in a process that is like this one."""
        index, name = other["index"], f"process {other['index']} on {other['host']}"
        isKnown = index in self._watches or not 0 < index < self.count
        self._watch(-1 if isKnown else index, line)  # whatever it is, it is told how this ends
        self._hosts[index] = other["host"]
        ours, theirs = ({"processCount": each["count"]} | each["description"] for each in (own, other))
        refuseAnother(ours, theirs, name, "all of them need the same code, parameters and data")
        if isKnown:
            remedy = f"the {self.count} processes have the numbers 0 to {self.count - 1}, each once"
            raise PipelineError(f"{name} is one too many", remedy=remedy)

    def _accept(self, listener: socket.socket) -> None:
        """Take connections as long as the process lives."""
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=self._greet, args=(connection,), daemon=True).start()

    def _greet(self, connection: socket.socket) -> None:
        """Find out who speaks there; who is none of the group is not listened to."""
        line = Line(connection, GREETING_SECONDS)
        try:
            kind, content = line.receive()
            other = json.loads(content) if kind == HELLO else None
            isWhole = other is None or other.keys() >= {"index", "count", "host", "description"}
        except (Gone, ValueError, AttributeError):
            isWhole = False
        if not isWhole:
            return line.close()
        if other is None:
            return self.onTunnel(connection)
        line = Line(connection)
        with self._noting:
            if not self._farewell:
                return self._arrivals.put((line, other))
        line.send(LOST, self._farewell)

    def _watch(self, index: int, line: Line) -> None:
        """Listen to another process from now on."""
        self._watches[index] = Watch(line, lambda why, isTold: self._noteGone(index, why, isTold))

    def _noteGone(self, index: int, why: str, isTold: bool) -> None:
        """Note that a process is gone, tell the others, and end this one if it does not by itself."""
        with self._noting:
            if self._isClosing or self.lost:
                return
            self.lost = why if isTold else f"process {index} on {self._hosts.get(index, '')} {why}"
        if self.isFirst:
            self._tell(LOST, self.lost.encode())
        timer = threading.Timer(GRACE_SECONDS, self._endIfStuck)
        timer.daemon = True
        timer.start()

    def _endIfStuck(self) -> None:
        if not self._isClosing:
            self._end(2, f"Error: {self._lostError()}")


def _reason(error: BaseException) -> str:
    """Tell in words why a process ends."""
    if isinstance(error, PipelineError):
        return f"has ended: {error}"
    if isinstance(error, StoppedBySignal | KeyboardInterrupt):
        return "was stopped"
    return f"has ended: {type(error).__name__}: {error}"


def describeProcess(identity: dict[str, Any]) -> dict[str, Any]:
    """Describe what must be the same in all processes: parameters, data, versions, the code itself."""
    versions = {name: version for name, version in packageVersions().items() if name in COMPARED}
    code = hashlib.sha256()
    for path in sorted([*CODE.glob("*.py"), *(CODE / "engine").rglob("*.py")]):
        code.update(os.fsencode(path.relative_to(CODE)) + path.read_bytes())
    return identity | versions | {"code": code.hexdigest()[:12]}
