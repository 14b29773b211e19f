"""What the three scripts share at their edges: exit codes, the record of a run, free memory."""

import argparse
import atexit
import contextlib
import gc
import logging
import os
import platform
import re
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

from engine.errors import PipelineError, StoppedBySignal
from engine.files import FULL_DISK

KEPT = "nothing half-written was kept under a final name."
PACKAGES = ("keras", "tensorflow", "jax", "openvino", "numpy", "scipy", "pynrrd", "h5py")
PACKAGES += ("connected-components-3d",)


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


class ScriptParser(argparse.ArgumentParser):
    """Command line of a script; what a flag means is the comment behind its constant.

    Parameters
    ----------
    script : path
        File with lines `name = value  # meaning`.
    description : str
        Docstring of the script.
    """

    def __init__(self, script: str | Path, description: str) -> None:
        formatter = argparse.RawDescriptionHelpFormatter
        super().__init__(description=description, formatter_class=formatter, allow_abbrev=False)
        comments = re.findall(
            r"^(\w+) = .*?  # (.+)$", Path(script).read_text(encoding="utf-8"), re.MULTILINE
        )
        self.meanings = {name: meaning.replace("%", "%%") for name, meaning in comments}

    def addFlag(self, name: str, **options) -> None:
        """Add a flag that is spelled like its constant."""
        default, meaning = options.get("default"), self.meanings.get(name)
        if meaning and default not in (None, "") and "action" not in options:
            shown = str(relativePath(default) if isinstance(default, Path) else default)
            meaning += f" [{shown.replace('%', '%%')}]"
        self.add_argument(f"--{name}", **{"help": meaning} | options)

    def parse_args(self, argv=None, namespace=None) -> argparse.Namespace:
        """Read the command line; constants that were edited must be among the choices of their flags too."""
        arguments = super().parse_args(argv, namespace)
        for action in self._actions:
            value = getattr(arguments, action.dest, None)
            if action.choices is not None and value is not None and value not in action.choices:
                known = ", ".join(map(repr, action.choices))
                self.error(f"{action.dest} is {value!r}, not one of {known}")
        return arguments

    def error(self, message: str) -> NoReturn:
        """Leave with 2 and one line."""
        self.exit(2, f"Error: {message}; --help lists the parameters\n")


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


def packageVersions() -> dict[str, str]:
    """Versions of Python and of those packages of the pipeline that are installed."""
    import importlib.metadata  # loads slowly

    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


def commandLine() -> str:
    """Command that started this script, without the folder of the interpreter."""
    return shlex.join(["python3", Path(sys.argv[0]).name, *sys.argv[1:]])


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


def printSettings(arguments) -> None:
    """Print the effective values of all parameters, once."""
    print("Parameters: " + "  ".join(f"{name}={value}" for name, value in plainSettings(arguments).items()))


def plainSettings(arguments) -> dict:
    """Parameters as JSON can hold them."""
    return {
        name: str(relativePath(value)) if isinstance(value, Path) else value
        for name, value in vars(arguments).items()
    }


def freeMemoryGiB() -> float:
    """Memory that a program can take now without swapping, GiB; the limit of a container counts."""
    with contextlib.suppress(OSError, StopIteration):
        with open("/proc/meminfo", encoding="ascii") as file:
            free = next(int(line.split()[1]) for line in file if line.startswith("MemAvailable")) / 2**20
        return min(free, containerMemoryGiB())
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30 / 2


def residentGiB() -> float:
    """Memory that this process has now, GiB."""
    with contextlib.suppress(OSError):
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**30
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)


def containerMemoryGiB(root: Path = Path("/")) -> float:
    """Read what the control groups of this process (container, SLURM job) still allow.

    Parameters
    ----------
    root : Path
        Of the file system.

    Returns
    -------
    float
        GiB, the least of all groups that this one lies in; infinite without a limit.
    """
    least = float("inf")
    with contextlib.suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text(encoding="ascii").splitlines():
            _, controllers, place = line.split(":", 2)
            if controllers and "memory" not in controllers.split(","):
                continue
            kind, names = ("memory", GROUP_FILES_1) if controllers else ("", GROUP_FILES_2)
            top, inner = root / "sys/fs/cgroup" / kind, PurePosixPath(place.strip("/"))
            for group in (inner, *inner.parents):
                least = min(least, _allowedGiB(top / group, *names))
    return least


GROUP_FILES_1 = "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"  # of version 1
GROUP_FILES_2 = "memory.max", "memory.current", "inactive_file"


def _allowedGiB(folder: Path, limit: str, usage: str, cache: str) -> float:
    """Read what one group still allows; what was only read from files and could be dropped counts as free."""
    with contextlib.suppress(OSError, ValueError):  # no such group; no limit: "max"
        allowed = int((folder / limit).read_text()) - int((folder / usage).read_text())
        with contextlib.suppress(OSError, ValueError, KeyError):
            lines = (folder / "memory.stat").read_text().splitlines()
            allowed += int(dict(line.split(" ", 1) for line in lines)[cache])
        return allowed / 2**30
    return float("inf")
