"""What the three scripts share at their edges: exit codes, the record of a run, free memory."""

import atexit
import contextlib
import errno
import gc
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from engine.base.errors import PipelineError, StoppedBySignal
from engine.base.files import FULL_DISK
from engine.base.words import printable

UNREAD = errno.EPIPE, errno.EIO  # what writing to a stream gives when nobody reads it any more
_IS_HUSHED = False  # a worker shows no bars
KEPT = "nothing half-written was kept under a final name."


def runScript(main: Callable, parseArguments: Callable, afterInterrupt: str = KEPT) -> None:
    """Run a script and leave with 0, 2 (the user can correct it, one line), 130 (Ctrl-C) or 143 (SIGTERM)."""
    openConsole()
    before = signal.signal(signal.SIGTERM, _raiseStopped)
    try:
        main(parseArguments())
    except PipelineError as error:
        leave(2, f"Error: {error}")
    except StoppedBySignal as stop:
        leave(stop.code, f"Stopped: {afterInterrupt}")
    except KeyboardInterrupt:
        leave(130, f"Interrupted: {afterInterrupt}")
    except MemoryError as error:
        leave(2, f"Error: out of memory ({error}); close other programs or take a smaller volume or region")
    except OSError as error:
        words = "the disk is full; free some space and repeat" if error.errno in FULL_DISK else ""
        if error.errno == errno.ENAMETOOLONG:
            words = "this name is longer than the file system allows; choose a shorter one"
        if not words:
            raise
        leave(2, f"Error: {error.filename or 'output'}: {words}")
    finally:
        with contextlib.suppress(OSError):
            _writeOutput()
        signal.signal(signal.SIGTERM, before)
        atexit.register(gc.freeze)  # or the interpreter looks through all that was loaded: 0.2 s (startup.py)


def openConsole() -> None:
    """Make the streams of this process safe: closed ones, letters they cannot show, warnings of any text.

    Matplotlib is kept from the display, or the notebook, that MPLBACKEND asks for: scripts write files.
    """
    os.environ["MPLBACKEND"] = "Agg"
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if _isClosed(number):  # or the next file that is opened would be taken for it
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r+"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, ValueError):  # a notebook's, or a test's
            stream.reconfigure(errors="backslashreplace")
    handler = logging.StreamHandler()
    handler.setFormatter(_OneLine("Warning: %(message)s"))
    logging.basicConfig(handlers=[handler])  # what engine/ has to tell; level WARNING


class _OneLine(logging.Formatter):
    """Writes what engine/ has to tell in one line that any console takes."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Write the line, without a traceback."""
        return printable(super().formatMessage(record))


def _isClosed(number: int) -> bool:
    """Whether a file descriptor is none of an open file."""
    try:
        os.fstat(number)
    except OSError:
        return True
    return False


def _writeOutput(text: str = "") -> None:
    """Write to stdout at once; where that fails, nothing is written there any more.

    Raises
    ------
    OSError
        A file cannot be written. That nobody reads any more (| head, a terminal that is gone) is no error.
    """
    try:
        print(text, end="", flush=True)
    except OSError as error:
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, sys.stdout.fileno())
        os.close(nothing)
        if error.errno not in UNREAD:
            raise


def _raiseStopped(number: int, frame: object) -> None:
    """Handle SIGTERM like Ctrl-C: what is open is closed, what is unfinished is removed."""
    raise StoppedBySignal(number)


def showProgress(blocks: Iterable | None = None, **options) -> Any:
    """Make a bar of tqdm on stderr, none where that is no terminal; options as tqdm's."""
    from tqdm import tqdm  # loads slowly

    return tqdm(blocks, disable=_IS_HUSHED or None, **options)


def hushProgress() -> None:
    """Show no bars in this process: another one, whose worker it is, shows its own."""
    global _IS_HUSHED
    _IS_HUSHED = True


def say(*lines: str) -> None:
    """Print lines at once, also where the output is a file; work goes on where nobody reads them any more."""
    for line in lines:
        _writeOutput(f"{printable(line)}\n")


class Stopwatch:
    """Seconds that the parts of a run take, one after the other; `seconds` holds them by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._begin = time.perf_counter()

    def lap(self, part: str) -> None:
        """End a part: it took all the time since the one before it."""
        now = time.perf_counter()
        self.seconds[part] = self.seconds.get(part, 0.0) + round(now - self._begin, 3)
        self._begin = now


def leave(code: int, line: str) -> None:
    """Print one line on stderr and end the process."""
    with contextlib.suppress(OSError):
        print(f"\r{printable(line)}", file=sys.stderr)
        _writeOutput()
    sys.exit(code)


def leaveAtOnce(code: int, line: str) -> None:
    """Print one line on stderr and end the process from any thread, whatever the others wait for."""
    with contextlib.suppress(OSError):
        print(f"\r{printable(line)}", file=sys.stderr, flush=True)
    os._exit(code)


def describeShape(shape) -> str:
    """Write a shape as people do: 128x128x96."""
    return "x".join(map(str, shape))


def describeDuration(seconds: float) -> str:
    """Write a duration as people do: 45 s, 12 min, 3.4 h."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def relativePath(path: Path) -> Path:
    """Give a path as a user in the current folder would type it."""
    with contextlib.suppress(FileNotFoundError):  # the current folder was deleted
        path = path.resolve()
        return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
    return path
