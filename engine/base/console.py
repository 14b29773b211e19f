"""What the three scripts share at their edges: exit codes, the record of a run, free memory."""

import atexit
import contextlib
import gc
import logging
import signal
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from engine.base.errors import PipelineError, StoppedBySignal
from engine.base.files import FULL_DISK

KEPT = "nothing half-written was kept under a final name."


def runScript(main: Callable, parseArguments: Callable, afterInterrupt: str = KEPT) -> None:
    """Run a script and leave with 0, 2 (the user can correct it, one line), 130 (Ctrl-C) or 143 (SIGTERM)."""
    logging.basicConfig(format="Warning: %(message)s")  # what engine/ has to tell; level WARNING
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
        if error.errno not in FULL_DISK:
            raise
        leave(2, f"Error: {error.filename or 'output'}: the disk is full; free some space and repeat")
    finally:
        signal.signal(signal.SIGTERM, before)
        atexit.register(gc.freeze)  # or the interpreter looks through all that was loaded: 0.2 s (startup.py)


def _raiseStopped(number: int, frame: object) -> None:
    """Handle SIGTERM like Ctrl-C: what is open is closed, what is unfinished is removed."""
    raise StoppedBySignal(number)


def say(*lines: str) -> None:
    """Print lines at once, also where a file takes them."""
    for line in lines:
        print(line, flush=True)


def showProgress(blocks: Iterable | None = None, **options) -> Any:
    """Make a bar of tqdm on stderr, none where that is no terminal; options as tqdm's."""
    from tqdm import tqdm  # loads slowly

    return tqdm(blocks, disable=None, **options)


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
        print(f"\r{line}", file=sys.stderr)
        sys.stdout.flush()
    sys.exit(code)


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
    path = path.resolve()
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
