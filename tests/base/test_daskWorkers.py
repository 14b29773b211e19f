"""Workers of Dask: calls, what they refuse, what is lost and found again, and who may reach them."""

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest

import engine.base.daskWorkers as daskWorkers
from engine.base.daskWorkers import Scheduler, openScheduler
from engine.base.errors import PipelineError
from engine.base.machine import coreCount, coreSets

pytest.importorskip("distributed")


@pytest.fixture(scope="module")
def workers():
    """Start two workers."""
    with openScheduler(Scheduler("local", 2)) as opened:
        yield opened


def double(number):
    return 2 * number


def refuseOdd(number):
    if number % 2:
        raise PipelineError("odd", received=number)
    return number


def fail(_):
    raise ZeroDivisionError("in a worker")


def whoAmI(_=None):
    return os.getpid()


def dieOnce(mark):
    """Kill the worker at the first call."""
    if not Path(mark).exists():
        Path(mark).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "alive"


def die(_):
    os.kill(os.getpid(), signal.SIGKILL)


def sleepThenGive(item):
    seconds, value = item
    time.sleep(seconds)
    return value


def lookAround():
    """Tell which cores and addresses this worker has."""
    return sorted(os.sched_getaffinity(0)), os.environ.get("OMP_NUM_THREADS"), coreCount()


def testAnswersComeInTheOrderOfTheItems(workers):
    items = [(0.4, "slow"), (0.0, "fast"), (0.1, "last")]
    assert list(workers.map(sleepThenGive, items)) == ["slow", "fast", "last"]
    assert list(workers.map(double, range(20))) == list(range(0, 40, 2))
    assert list(workers.map(double, [])) == []


def testCallsAreDoneByOtherProcesses(workers):
    found = set(workers.map(whoAmI, range(20)))
    assert len(found) == 2 and os.getpid() not in found
    assert set(workers.everywhere(whoAmI).values()) == found


def testARefusalEndsTheWorkAtOnceWithItsLine(workers):
    items = [2, 4, 3, 6]
    with pytest.raises(PipelineError, match=r"^odd \(received 3\) \(on .+\)$"):
        list(workers.map(refuseOdd, items))
    begin = time.monotonic()
    with pytest.raises(PipelineError, match="odd"):
        list(workers.map(partial(afterSleep, refuseOdd), [(30, 2), (0, 3)]))
    assert time.monotonic() - begin < 20  # the first call was not waited for


def afterSleep(function, item):
    time.sleep(item[0])
    return function(item[1])


def testAnUnexpectedErrorIsTriedAgainAndThenRaised(workers):
    with pytest.raises(ZeroDivisionError):
        list(workers.map(fail, [0]))


def failByDisk(_):
    raise PermissionError(13, "Permission denied", "/somewhere")


def testAnErrorOfTheSystemInAWorkerIsOneLine(workers):
    words = r"a worker failed: PermissionError: \[Errno 13\] Permission denied: '/somewhere'"
    with pytest.raises(PipelineError, match=words):
        list(workers.map(failByDisk, [0]))


def testWatchIsCalledMeanwhile(workers):
    looks = []
    assert list(workers.map(sleepThenGive, [(0.5, 1)], lambda: looks.append(1))) == [1]
    assert len(looks) > 3


def testWhatAKilledWorkerHadIsDoneAgain(workers, tmp_path):
    marks = [str(tmp_path / f"mark{number}") for number in range(3)]
    assert list(workers.map(dieOnce, marks)) == ["alive"] * 3


def testACallThatKillsEveryWorkerEnds(monkeypatch):
    monkeypatch.setattr(daskWorkers, "LOSSES", 2)
    with openScheduler(Scheduler("local", 1)) as workers:
        with pytest.raises(PipelineError, match="more than 2 workers have died at the same call"):
            list(workers.map(die, [0]))


def testWorkersHereHaveCoresOfTheirOwnAndNobodyElseReachesThem(workers):
    found = sorted(workers.everywhere(lookAround).values())
    if coreCount() >= 2:
        assert not set(found[0][0]) & set(found[1][0])
    assert all(len(cores) == int(threads) == count for cores, threads, count in found)
    info = workers._client.scheduler_info(n_workers=-1)
    addresses = [info["address"], *info["workers"], *(each["nanny"] for each in info["workers"].values())]
    assert all(address.startswith("tcp://127.0.0.1:") for address in addresses)
    listening = subprocess.run(["ss", "-ltnpH"], capture_output=True, text=True, check=False).stdout
    mine = [line.split()[3] for line in listening.splitlines() if f"pid={os.getpid()}," in line]
    assert all(address.startswith("127.0.0.1:") for address in mine)


def testCoresAreSharedOut(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {4, 5, 6, 7, 8}, raising=False)
    assert coreSets(0, 0) == [[4], [5], [6], [7], [8]]
    assert coreSets(2, 0) == [[4, 5], [6, 7]]
    assert coreSets(0, 2) == [[4, 5], [6, 7]]
    assert coreSets(3, 2) == [[4, 5], [6, 7], [8, 4]]
    assert coreSets(7, 0) == [[4], [5], [6], [7], [8], [4], [5]]
    for count, size, words in ((-1, 0, "negative"), (0, -2, "negative"), (0, 6, "more than there are")):
        with pytest.raises(PipelineError, match=words):
            coreSets(count, size)


# ------------------------------------------------------------------------------------------- other schedulers


def testWorkersElsewhereNeedOnlyTheFolder(cluster):
    cluster.start()
    with openScheduler(Scheduler(cluster.address, 1)) as workers:
        assert workers.count == 1
        found = workers.everywhere(partial(coreSets, 1, 1))  # a function of the project
        assert [len(cores) for cores in found.values()] == [1]
        assert list(workers.map(abs, [-1, 2])) == [1, 2]
        line = f"Workers: 1 of one machine, see {workers._client.dashboard_link}"
        assert workers.describe() == [line]


def testASchedulerThatDiesIsTold(cluster):
    cluster.start()
    with pytest.raises(PipelineError, match="the scheduler is gone .*start it again and repeat"):
        with openScheduler(Scheduler(cluster.address, 1)) as workers:
            os.killpg(cluster.scheduler.pid, signal.SIGKILL)
            list(workers.map(time.sleep, [0.1] * 4))


def testASchedulerThatDiesWhileWorkersAreAwaitedIsTold(cluster):
    killer = threading.Timer(3, lambda: os.killpg(cluster.scheduler.pid, signal.SIGKILL))
    killer.start()
    with pytest.raises(PipelineError, match="the scheduler is gone"):
        with openScheduler(Scheduler(cluster.address, 1)):
            pass
    killer.join()


def killWorker(worker, workers):
    """Kill the only worker, and wait until the scheduler knows it."""
    os.killpg(worker.pid, signal.SIGKILL)
    end = time.monotonic() + 30
    while workers._client.scheduler_info(n_workers=-1)["workers"] and time.monotonic() < end:
        time.sleep(0.1)


def testAWorkerThatComesBackIsAwaited(cluster):
    worker = cluster.start()
    with openScheduler(Scheduler(cluster.address, 1)) as workers:
        killWorker(worker, workers)
        again = threading.Timer(2, cluster.start)
        again.start()
        assert len(workers.everywhere(whoAmI)) == 1
        again.join()


def testAWorkerThatDiesWhileItIsAskedIsLeftOut(workers, tmp_path):
    survivors = workers.everywhere(partial(dieOnceHere, tmp_path / "mark"))
    assert set(survivors.values()) == {"alive"} and (tmp_path / "mark").exists()


def dieOnceHere(mark):
    """Kill the worker that is first to come."""
    try:
        mark.touch(exist_ok=False)
    except FileExistsError:
        time.sleep(0.5)
        return "alive"
    os.kill(os.getpid(), signal.SIGKILL)


def testWorkersThatAllDieWhileTheyAreAskedAreTold(cluster, monkeypatch):
    monkeypatch.setattr(daskWorkers, "RETURN_SECONDS", 1)
    cluster.start()
    with openScheduler(Scheduler(cluster.address, 1)) as workers:
        with pytest.raises(PipelineError, match="no worker is there any more; start one"):
            workers.everywhere(partial(die, None))


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), FileNotFoundError(2, "none")])
def testAnErrorOfTheSystemWhereAllAreAskedIsOneLine(workers, error):
    with pytest.raises(PipelineError, match=f"^a worker failed: {type(error).__name__}: .Errno"):
        workers.everywhere(partial(raiseError, error))


def raiseError(error):
    raise error


def testNoWorkerLeftIsTold(cluster, monkeypatch):
    monkeypatch.setattr(daskWorkers, "RETURN_SECONDS", 1)
    worker = cluster.start()
    with openScheduler(Scheduler(cluster.address, 1)) as workers:
        killWorker(worker, workers)
        with pytest.raises(PipelineError, match="no worker is there any more; start one"):
            workers.everywhere(whoAmI)


def testASchedulerWithoutWorkersIsTold(cluster, monkeypatch):
    monkeypatch.setattr(daskWorkers, "WORKER_SECONDS", 1)
    words = r"too few workers are connected .* after 1 s \(expected 3, received 0\)"
    with pytest.raises(PipelineError, match=words):
        with openScheduler(Scheduler(cluster.address, 3)):
            pass


def testASchedulerThatDoesNotAnswerIsTold(monkeypatch):
    monkeypatch.setattr(daskWorkers, "CONNECT_SECONDS", 1)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody listens
        address = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(PipelineError, match=f"the scheduler {address} does not answer within 1 s"):
            with openScheduler(Scheduler(address)):
                pass


@pytest.mark.parametrize("address", ["here", "nonsense://1:2", "tcp://"])
def testAnAddressThatIsNoneIsTold(address, monkeypatch):
    monkeypatch.setattr(daskWorkers, "CONNECT_SECONDS", 1)
    with pytest.raises(PipelineError, match="does not answer within 1 s"):
        with openScheduler(Scheduler(address)):
            pass


@pytest.mark.parametrize(
    ("address", "isTold"),
    [
        ("tcp://10.0.0.5:8786", True),
        ("host:8786", True),
        ("tls://10.0.0.5:8786", False),
        ("tcp://127.0.0.1:8786", False),
        ("localhost:8786", False),
        ("tcp://[::1]:8786", False),
    ],
)
def testAnOpenSchedulerIsWarnedOf(address, isTold, caplog):
    with caplog.at_level(logging.WARNING):
        daskWorkers._warnOfOpenScheduler(address)
    assert ("is not encrypted: whoever reaches it runs code as you do" in caplog.text) == isTold


def testTlsNeedsAllItsFiles(tmp_path):
    (tmp_path / "ca.pem").touch()
    asked = Scheduler("tls://127.0.0.1:1", tlsCaFile=tmp_path / "ca.pem", tlsKey=tmp_path / "no.pem")
    with pytest.raises(PipelineError, match="tlsCertificate is no file; TLS needs all three"):
        with openScheduler(asked):
            pass


def testTlsFilesAreUsed(tmp_path):
    """Make an authority with openssl, start scheduler and worker behind TLS, and connect with and without."""
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=test"]
    subprocess.run(
        [*command, "-keyout", "key.pem", "-out", "cert.pem"], cwd=tmp_path, check=True, capture_output=True
    )
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tls://127.0.0.1:{free.getsockname()[1]}"
    tls = ["--tls-ca-file", certificate, "--tls-cert", certificate, "--tls-key", key]
    where = ["--host", address, "--dashboard-address", "127.0.0.1:0"]
    commands = [["scheduler", *where, *tls], ["worker", address, "--nthreads", "1", "--no-dashboard", *tls]]
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", f"distributed.cli.dask_{words[0]}", *map(str, words[1:])],
            cwd=tmp_path,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for words in commands
    ]
    try:
        with openScheduler(Scheduler(address, 1, 0, certificate, certificate, key)) as workers:
            assert list(workers.map(abs, [-3])) == [3]
    finally:
        for process in processes:
            process.kill()
            process.wait()


def testDaskThatIsMissingIsNamed(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(PipelineError, match=r'the scheduler needs Dask; pip install "dask\[distributed\]"'):
        with openScheduler(Scheduler("local")):
            pass
