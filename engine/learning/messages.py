"""Messages between the processes of a training over TCP, and how one notices that another is gone."""

import contextlib
import errno
import json
import queue
import socket
import struct
import threading
import time
from collections.abc import Callable

from engine.base.errors import PipelineError

HEAD = struct.Struct("!8s1sQ")  # mark, kind, bytes that follow
MARK = b"spotunet"  # or it is no process of a training that speaks there
HELLO, TUNNEL, PART, ALIVE, LOST, END = (kind.encode() for kind in "htpale")
PIECE = 1 << 20  # bytes
BEAT_SECONDS = 5.0  # between two signs of life
SILENCE_SECONDS = 60.0  # without any, a process counts as gone
RETRY_SECONDS = 0.5
LOOPBACK = "127.0.0.1"


class Gone(Exception):
    """The other process has ended, is not heard of any more, or is none of a training; says which."""


class Line:
    """A connection to another process; messages have a kind and content.

    Parameters
    ----------
    connection : socket
        Connected.
    seconds : float
        Without a sign of life after which the other one counts as gone.
    """

    def __init__(self, connection: socket.socket, seconds: float = SILENCE_SECONDS) -> None:
        self.connection, self._sending = connection, threading.Lock()
        connection.settimeout(seconds)
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, kind: bytes, content: bytes = b"") -> None:
        """Send a message; whether the other one is gone is for the reader to notice."""
        with self._sending, contextlib.suppress(OSError):
            self.connection.sendall(HEAD.pack(MARK, kind, len(content)) + content)

    def receive(self) -> tuple[bytes, bytes]:
        """Wait for a message, and give its kind and content.

        Raises
        ------
        Gone
            There will be none.
        """
        mark, kind, count = HEAD.unpack(self._read(HEAD.size))
        if mark != MARK:
            raise Gone("is no process of this training")
        return kind, self._read(count)

    def _read(self, count: int) -> bytes:
        """Read so many bytes."""
        pieces = bytearray()
        while len(pieces) < count:
            try:
                piece = self.connection.recv(min(count - len(pieces), PIECE))
            except TimeoutError as error:
                seconds = self.connection.gettimeout() or 0
                raise Gone(f"has not been heard of for {seconds:.0f} s") from error
            except OSError as error:
                raise Gone("has ended") from error
            if not piece:
                raise Gone("has ended")
            pieces += piece
        return bytes(pieces)

    def close(self) -> None:
        """End the connection."""
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)
        self.connection.close()


class Watch:
    """Reads a line in a thread of its own: parts come into a queue, an end is told.

    Parameters
    ----------
    line : Line
        To the other process.
    onGone : callable
        Told what the other process says of an end, or why nothing more comes from it; and whether it said so.
    """

    def __init__(self, line: Line, onGone: Callable[[str, bool], None]) -> None:
        self.line, self.parts, self._onGone = line, queue.SimpleQueue(), onGone
        self._isOver = threading.Event()
        for work in (self._read, self._beat):
            threading.Thread(target=work, daemon=True).start()

    def _read(self) -> None:
        """Read until the other one says that it ends, or is gone."""
        while True:
            try:
                kind, content = self.line.receive()
            except Gone as gone:
                self._isOver.set()
                return self._onGone(str(gone), False)
            if kind == PART:
                self.parts.put(content)
            elif kind == LOST:
                self._onGone(content.decode(errors="replace"), True)
            elif kind == END:
                return self._isOver.set()

    def _beat(self) -> None:
        """Give signs of life."""
        while not self._isOver.wait(BEAT_SECONDS):
            self.line.send(ALIVE)


def packParts(parts: list[bytes]) -> bytes:
    """Put contents into one, so that `unpackParts` gives them back."""
    lengths = json.dumps([len(part) for part in parts]).encode()
    return b"".join([struct.pack("!Q", len(lengths)), lengths, *parts])


def unpackParts(content: bytes) -> list[bytes]:
    """Take apart what `packParts` made."""
    begin = 8 + struct.unpack_from("!Q", content)[0]
    parts = []
    for length in json.loads(content[8:begin]):
        parts.append(content[begin : begin + length])
        begin += length
    return parts


# ----------------------------------------------------------------------------------------------- connections


def openPort(host: str, port: int) -> socket.socket:
    """Listen on a port; on one network where the host is an address, on all of them where it is a name.

    Raises
    ------
    PipelineError
        The address is not of this machine, or the port is taken.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise PipelineError(f"coordinator {host} is unknown ({error.strerror or error})") from error
    isAddress = host == address[0] or host == "localhost"
    try:
        if isAddress:
            return socket.create_server(address, family=family)
        isDual = socket.has_dualstack_ipv6()
        kind = {"family": socket.AF_INET6, "dualstack_ipv6": True} if isDual else {}
        return socket.create_server(("", port), **kind)
    except OSError as error:
        if error.errno == errno.EADDRNOTAVAIL:
            rule = f"coordinator {host} is no address of this machine"
            raise PipelineError(rule, remedy="process 0 runs on the machine that it names") from error
        rule, remedy = f"port {port} of the coordinator cannot be used", "another --coordinator, host:port"
        raise PipelineError(f"{rule} ({error.strerror or error})", remedy=remedy) from error


def connect(host: str, port: int, seconds: float) -> socket.socket:
    """Connect to a process, which may begin to listen later.

    Raises
    ------
    PipelineError
        It cannot be reached for so many seconds.
    """
    end = time.monotonic() + seconds
    while True:
        try:
            return socket.create_connection((host, port), timeout=max(end - time.monotonic(), 1.0))
        except OSError as error:
            if time.monotonic() + RETRY_SECONDS > end:
                rule = f"process 0 could not be reached at {host}:{port} for {seconds:.0f} s"
                remedy = "is it running, and --coordinator its machine? does a firewall close the port?"
                words = f"{rule} ({error.strerror or error})"
                raise PipelineError(words, remedy=remedy) from error
        time.sleep(RETRY_SECONDS)


def tie(one: socket.socket, other: socket.socket, isHeldOpen: bool = False) -> None:
    """Hand on what comes from one connection to the other one and back, in two threads.

    Parameters
    ----------
    one, other : socket
        Both are closed when `one` ends.
    isHeldOpen : bool
        `one` stays open when `other` ends: who speaks there shall not notice.
    """

    def pump(source: socket.socket, target: socket.socket, isLast: bool) -> None:
        with contextlib.suppress(OSError):
            while piece := source.recv(PIECE):
                target.sendall(piece)
        if isLast:
            for end in (source, target):
                end.close()

    for pair in ((one, other, True), (other, one, not isHeldOpen)):
        pair[0].settimeout(None)
        threading.Thread(target=pump, args=pair, daemon=True).start()
