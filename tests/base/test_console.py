"""The edges of the scripts: exit codes, one line on stderr, seconds of the parts of a run."""

import argparse
import errno
import io
import os
import subprocess
import sys
import time

import pytest
from places import ROOT

from engine.base.console import Stopwatch, relativePath, runScript, say
from engine.base.errors import PipelineError


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (PipelineError("a rule", file="a.nrrd"), 2, "Error: a.nrrd: a rule"),
        (KeyboardInterrupt(), 130, "Interrupted: nothing half-written was kept under a final name."),
        (MemoryError("8 GiB"), 2, "Error: out of memory (8 GiB)"),
        (OSError(errno.ENOSPC, "No space left on device", "a.log"), 2, "Error: a.log: the disk is full"),
        (
            OSError(errno.ENAMETOOLONG, "File name too long", "n" * 300),
            2,
            f"Error: {'n' * 300}: this name is",
        ),
        (PipelineError("a\nb\udce4", file="c\n\udce4"), 2, r"Error: c\n\udce4: a b\udce4"),
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


# ------------------------------------------------------------------------------------------------ streams

SCRIPT = """
import argparse, logging, os, sys
from engine.base.console import runScript, say
def main(arguments):
    say("a\\nb \\udce4 \\xb5m", "second")
    logging.getLogger("x").warning("c\\nd %s", "\\udce4")
    open(sys.argv[1], "w").write(f"{os.environ['MPLBACKEND']} {os.open(os.devnull, os.O_RDONLY) > 2}")
runScript(main, argparse.Namespace)
"""


def runShell(line, folder, **environment):
    """Run SCRIPT by a line of Bash, in which it is called "$@"."""
    command = ["bash", "-o", "pipefail", "-c", line, "bash", sys.executable, "-c", SCRIPT, folder / "done"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, env=os.environ | environment)
    done = (folder / "done").read_text() if (folder / "done").exists() else None
    return result.returncode, result.stdout.decode(), result.stderr.decode(), done


@pytest.mark.parametrize(
    ("environment", "letter"),
    [
        ({"PYTHONIOENCODING": "utf-8"}, "\xb5"),
        ({"PYTHONIOENCODING": "ascii"}, "\\xb5"),
        ({"PYTHONIOENCODING": "ascii:strict"}, "\\xb5"),
        ({"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}, "\\xb5"),
        ({"LC_ALL": "C", "MPLBACKEND": "nonsense", "TERM": "dumb", "COLUMNS": "0"}, "\xb5"),
    ],
)
def testAnyConsoleShowsAnyLetter(tmp_path, environment, letter):
    code, out, err, done = runShell('"$@"', tmp_path, **environment)
    assert (code, done) == (0, "Agg True")
    assert out == f"a\\nb \\udce4 {letter}m\nsecond\n" and err == "Warning: c\\nd \\udce4\n"


@pytest.mark.parametrize(
    "line", ['"$@" >&-', '"$@" 2>&-', '"$@" <&- >&- 2>&-', '"$@" | true', '"$@" | head -n 1']
)
@pytest.mark.parametrize("unbuffered", ["", "1"])
def testWorkIsDoneWhereNobodyReads(tmp_path, line, unbuffered):
    code, out, err, done = runShell(line, tmp_path, PYTHONUNBUFFERED=unbuffered)
    assert (code, done) == (0, "Agg True") and "Traceback" not in err and "Exception" not in err


def testAFullDiskUnderTheOutputIsOneLine(tmp_path):
    code, _, err, done = runShell('"$@" >/dev/full', tmp_path)
    assert (code, done) == (2, None) and err.strip().splitlines() == [
        "Error: output: the disk is full; free some space and repeat"
    ]


def testAHelpThatIsCutOffIsNoError():
    line = '"$0" prepareData.py --help | head -n 1'
    result = subprocess.run(
        ["bash", "-o", "pipefail", "-c", line, sys.executable], cwd=ROOT, capture_output=True
    )
    assert result.stdout.startswith(b"usage:") and result.stderr == b"" and result.returncode == 0


def testTheStreamsOfANotebookAreLeftAlone(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdout", io.StringIO())  # cannot be reconfigured
    runScript(lambda arguments: say("a"), argparse.Namespace)
    assert sys.stdout.getvalue() == "a\n"


def testAPathIsToldWhereTheCurrentFolderIsGone(tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert relativePath(tmp_path / "a") == tmp_path / "a"
