"""Calls that other processes of this machine do: their order, what they refuse, and what is killed."""

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


def double(number):
    return 2 * number


def whoAmI(_):
    time.sleep(0.05)
    return os.getpid()


def refuseOdd(number):
    if number % 2:
        raise PipelineError("odd", file="a.nrrd", expected="even", received=number, remedy="add one")
    return number


def listBlocked(_):
    return signal.pthread_sigmask(signal.SIG_BLOCK, [])


def die(_):
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("count", [0, 1])
def testOneWorkerIsThisProcess(count):
    with openWorkers(count) as workers:
        assert isinstance(workers, Here) and workers.count == 1
        assert list(workers.map(double, [3, 1])) == [6, 2]
        assert list(workers.map(whoAmI, [0])) == [os.getpid()]


def testSeveralAreOthersAndKeepTheOrder():
    with openWorkers(2) as workers:
        assert workers.count == 2
        assert list(workers.map(double, range(50))) == list(range(0, 100, 2))
        found = set(workers.map(whoAmI, range(8)))
        assert len(found) == 2 and os.getpid() not in found


def testARefusalIsTheLineThatOneProcessGives():
    with pytest.raises(PipelineError) as here:
        refuseOdd(3)
    with openWorkers(2) as workers, pytest.raises(PipelineError) as there:
        list(workers.map(refuseOdd, [2, 3, 4]))
    assert str(there.value) == str(here.value) == "a.nrrd: odd (expected even, received 3); add one"


def testCtrlCIsBlockedInWorkersFromTheirFirstMomentAndNotInThisProcess():
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with openWorkers(2) as workers:
        assert all(signal.SIGINT in blocked for blocked in workers.map(listBlocked, range(2)))
    assert signal.SIGINT not in listBlocked(None)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def testAKilledWorkerIsTold():
    with pytest.raises(PipelineError, match="a worker process was killed .*take fewer with --workerCount"):
        with openWorkers(2) as workers:
            list(workers.map(die, [0, 1]))


def testANegativeCountIsRefused():
    with pytest.raises(PipelineError, match="workerCount must not be negative"):
        with openWorkers(-1):
            pass


INTERRUPTED = """
import os, signal, sys, time
from engine.base.workers import openWorkers
if __name__ == "__main__":
    with openWorkers(2) as workers:
        print(*set(workers.map(abs, [-1, -2])), flush=True)
        print(*[process.pid for process in workers._pool._processes.values()], flush=True)
        list(workers.map(time.sleep, [0.5] * 50))
"""


def testCtrlCEndsAllProcesses(tmp_path):
    (tmp_path / "interrupted.py").write_text(INTERRUPTED)
    command = [sys.executable, str(tmp_path / "interrupted.py")]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        process.stdout.readline()
        numbers = [int(word) for word in process.stdout.readline().split()]
        begin = time.monotonic()
        os.killpg(process.pid, signal.SIGINT)
        errors = process.communicate(timeout=60)[1]
    assert time.monotonic() - begin < 10 and len(numbers) == 2
    assert errors.count("Traceback") == 1 and "KeyboardInterrupt" in errors  # of the one that was asked
    for number in numbers:
        with pytest.raises(ProcessLookupError):
            os.kill(number, 0)


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


KILLED = """
import os, signal
from engine.base.workers import openWorkers
if __name__ == "__main__":
    with openWorkers(2) as workers:
        list(workers.map(abs, range(9)))
        print(*[process.pid for process in workers._pool._processes.values()], flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
"""


def testWorkersThatWaitEndWithAKilledProcess(tmp_path):
    (tmp_path / "killed.py").write_text(KILLED)
    command = [sys.executable, str(tmp_path / "killed.py")]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        numbers = [int(word) for word in process.stdout.readline().split()]
        assert process.wait(60) == -signal.SIGKILL and numbers
    waitUntil(lambda: not any(isRunning(str(number)) for number in numbers), 10)


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
