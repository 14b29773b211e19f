"""What every picture of matplotlib needs: no display, no style of a user, and nothing that ends the work."""

import contextlib
import functools
import importlib
import inspect
import io
import logging
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ParamSpec

from engine.base.errors import PipelineError, StoppedBySignal
from engine.base.files import writeAtomically

LOGGER = logging.getLogger(__name__)
COLOURS = ("#0072B2", "#D55E00")  # blue, vermilion: told apart by colour-blind readers too
LEAST_SHOWN = 0.1  # probability below which the grey values show through
REFERENCE_COLOUR = "#00E5FF"  # cyan keeps apart from the reds of the probability and from grey
BACKEND = "MPLBACKEND"  # variable with which notebooks, and users, choose where matplotlib shows pictures
Words = ParamSpec("Words")


def leaveOutFailures(draw: Callable[Words, None]) -> Callable[Words, None]:
    """Make a function that draws a picture, `path`, warn in one line where it cannot, and go on.

    Pictures come last, when hours of work are done. A full disk stays an error: it stops the rest too.
    """
    signature = inspect.signature(draw)

    @functools.wraps(draw)
    def attempt(*words: Words.args, **named: Words.kwargs) -> None:
        path = signature.bind(*words, **named).arguments["path"]
        try:
            with _plainStyle():
                draw(*words, **named)
        except (PipelineError, StoppedBySignal):
            raise
        except Exception as error:  # whatever matplotlib, its fonts, its settings or its parts are missing
            _warn(Path(path), f"{type(error).__name__}: {error}")

    return attempt


@functools.cache
def _warn(path: Path, cause: str) -> None:
    """Tell once of a picture that is missing: training curves are drawn after every epoch."""
    kept = "; the file of this name is older" if path.exists() else ""
    LOGGER.warning("%s cannot be drawn (%s)%s", path, " ".join(cause.split()), kept)


def makeFigure(**options: Any):
    """Make a figure of matplotlib that is for files alone: the pictures of a notebook stay where they are."""
    return _importMatplotlib("figure").Figure(**options)


def saveFigure(figure, path: str | Path) -> None:
    """Write a figure as PNG, atomically."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=110)
    with writeAtomically(path) as temporary:
        temporary.write_bytes(content.getvalue())


@contextlib.contextmanager
def withMatplotlib() -> Iterator[None]:
    """Import in this block a library that itself imports matplotlib, if that can be imported."""
    try:
        _importMatplotlib("pyplot")
    except Exception:  # then the library has to believe that there is none
        known = sys.modules.get("matplotlib")
        sys.modules["matplotlib"] = None
        try:
            yield
        finally:
            del sys.modules["matplotlib"]
            if known:
                sys.modules["matplotlib"] = known
        return
    yield


def _importMatplotlib(part: str = ""):
    """Import matplotlib, or a part of it; the first import fails where MPLBACKEND names nothing it knows."""
    with _quietly():
        if "matplotlib" not in sys.modules and BACKEND in os.environ:
            wanted = os.environ.pop(BACKEND)
            try:
                matplotlib = importlib.import_module("matplotlib")
            finally:
                os.environ[BACKEND] = wanted
            with contextlib.suppress(ValueError):  # as the import does it; empty: matplotlib chooses
                matplotlib.rcParams.update({"backend": wanted} if wanted else {})
        return importlib.import_module(f"matplotlib.{part}" if part else "matplotlib")


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Keep matplotlib in this block from telling of its caches, which nobody needs."""
    logger = logging.getLogger("matplotlib")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextlib.contextmanager
def _plainStyle() -> Iterator[None]:
    """Draw in this block in the style that matplotlib is delivered with, whatever a user has set."""
    matplotlib = _importMatplotlib()
    presets = {name: value for name, value in matplotlib.rcParamsDefault.items() if "backend" not in name}
    with _quietly(), matplotlib.rc_context(presets):
        yield
