"""Processes of this machine that do calls."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from places import ROOT

from engine.base.errors import PipelineError
from engine.base.workers import Here, openWorkers


def sleepThenGive(item):
    seconds, answer = item
    time.sleep(seconds)
    return answer, os.getpid()


def refuse(item):
    raise PipelineError("is odd", file=item, remedy="take an even one")


def die(_):
    os.kill(os.getpid(), signal.SIGKILL)


def testAnswersComeInTheOrderOfTheItems():
    with openWorkers(2) as workers:
        answers = list(workers.map(sleepThenGive, [(0.5, "slow"), (0, "fast"), (0, "last")]))
    assert workers.count == 2 and [answer for answer, _ in answers] == ["slow", "fast", "last"]
    assert os.getpid() not in {process for _, process in answers}


@pytest.mark.parametrize("count", [0, 1])
def testOneWorkerIsThisProcess(count):
    with openWorkers(count) as workers:
        assert isinstance(workers, Here) and list(workers.map(abs, [-1, 2])) == [1, 2]


def testRefusalsComeBackInOneLine():
    with openWorkers(2) as workers, pytest.raises(PipelineError, match="^7: is odd; take an even one$"):
        list(workers.map(refuse, ["7"]))
    with pytest.raises(PipelineError, match="workerCount must not be negative"), openWorkers(-1):
        pass


def testAKilledWorkerIsTold():
    with openWorkers(2) as workers, pytest.raises(PipelineError, match="a worker process was killed"):
        list(workers.map(die, [0, 1]))


def testWorkersEndWithTheirParent(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(
        "import os, pathlib, sys, time\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "from engine.base.workers import openWorkers\n"
        "def note(folder):\n"
        "    pathlib.Path(folder, str(os.getpid())).touch()\n"
        "    time.sleep(60)\n"
        "if __name__ == '__main__':\n"
        "    with openWorkers(2) as workers:\n"
        "        list(workers.map(note, sys.argv[1:] * 2))\n"
    )
    (tmp_path / "alive").mkdir()
    parent = subprocess.Popen([sys.executable, script, tmp_path / "alive"])
    waitUntil(lambda: len(list((tmp_path / "alive").iterdir())) == 2)
    parent.kill()
    parent.wait()
    processes = [path.name for path in (tmp_path / "alive").iterdir()]
    waitUntil(lambda: not any(isRunning(name) for name in processes))


def isRunning(process):
    """Whether a process has not ended; one that waits to be buried has."""
    try:
        return Path("/proc", process, "stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def waitUntil(isSo, seconds=30):
    """Wait for something, but not for ever."""
    end = time.monotonic() + seconds
    while not isSo():
        assert time.monotonic() < end
        time.sleep(0.05)
