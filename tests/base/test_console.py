"""The edges of the scripts: exit codes, one line on stderr, seconds of the parts of a run."""

import argparse
import errno
import time

import pytest

from engine.base.console import Stopwatch, runScript
from engine.base.errors import PipelineError


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (PipelineError("a rule", file="a.nrrd"), 2, "Error: a.nrrd: a rule"),
        (KeyboardInterrupt(), 130, "Interrupted: nothing half-written was kept under a final name."),
        (MemoryError("8 GiB"), 2, "Error: out of memory (8 GiB)"),
        (OSError(errno.ENOSPC, "No space left on device", "a.log"), 2, "Error: a.log: the disk is full"),
    ],
)
def testWhatAUserCanCorrectIsOneLineAndAnExitCode(capsys, error, code, line):
    def main(arguments):
        raise error

    with pytest.raises(SystemExit) as exit:
        runScript(main, argparse.Namespace)
    printed = capsys.readouterr().err.strip()
    assert exit.value.code == code and printed.startswith(line) and "\n" not in printed


@pytest.mark.parametrize("error", [ZeroDivisionError(), OSError(errno.EIO, "Input/output error")])
def testAProgrammingErrorKeepsItsTraceback(error):
    def main(arguments):
        raise error

    with pytest.raises(type(error)):
        runScript(main, argparse.Namespace)


def testStopwatchAddsUpThePartsOfARun(monkeypatch):
    instants = iter([1.0, 1.5, 4.0, 4.25])
    monkeypatch.setattr(time, "perf_counter", lambda: next(instants))
    clock = Stopwatch()
    for part in ("reading", "writing", "reading"):
        clock.lap(part)
    assert clock.seconds == {"reading": 0.75, "writing": 2.5}
