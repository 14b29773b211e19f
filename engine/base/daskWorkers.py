"""Workers of Dask: on this machine, or on those of a scheduler that runs already.

What travels are bytes and one small function that is pickled by its code, so a worker needs nothing but Dask,
the project's packages and the project's folder under the same path. What a worker cannot do ends the work
with its message; what is lost with a worker is done again by another one.
"""

import contextlib
import ipaddress
import logging
import pickle
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from engine.base.errors import PipelineError
from engine.base.machine import coreSets, visibleGpus

if TYPE_CHECKING:
    from distributed import Client, Future, SpecCluster

LOGGER = logging.getLogger(__name__)
ROOT = Path(__file__).resolve().parents[2]
LOCAL, HOST, ANY_PORT = "local", "127.0.0.1", 0
DASHBOARD = f"{HOST}:8787"  # another port where this one is taken
CONNECT_SECONDS, WORKER_SECONDS = 30, 120  # until a scheduler, and its first worker, must have answered
RETURN_SECONDS = 30  # that a worker which has died may take to come back
RETRIES = 3  # of a call that fails
LOSSES = 20  # workers that a call may lose before nobody tries it again
LOOK_SECONDS = 0.05  # between two looks at what is done
GONE, GONE_REMEDY = "no worker is there any more", "start one, and repeat"
HINT = 'pip install "dask[distributed]"'


class Scheduler(NamedTuple):
    """Where the workers are, as a user says it."""

    scheduler: str = ""  # local, or its address; empty: there is none
    workerCount: int = 0  # local: to start; else to wait for; 0: by the machine, or whoever is there
    coresPerWorker: int = 0  # local: 0 = equal shares of all
    tlsCaFile: Path | None = None
    tlsCertificate: Path | None = None
    tlsKey: Path | None = None


class DaskWorkers:
    """Calls are done by workers of Dask, each one call at a time.

    Parameters
    ----------
    client : distributed.Client
        Connected.
    """

    def __init__(self, client: "Client") -> None:
        self._client, self._page = client, client.dashboard_link
        with _explainedLoss():
            workers = client.scheduler_info(n_workers=-1)["workers"].values()
        self.count, self._hosts = max(len(workers), 1), {worker["host"] for worker in workers}

    def describe(self) -> list[str]:
        """Tell how many workers there are, and where one sees what they do."""
        where = f"{len(self._hosts)} machines" if len(self._hosts) > 1 else "one machine"
        return [f"Workers: {self.count} of {where}, see {self._page}"]

    def everywhere(self, function: Callable[[], Any]) -> dict[str, Any]:
        """Call a function once on every worker that is there; gives what it returns, by address.

        A worker that dies before it answers is left out, and all are asked again. So the function may be
        called twice.

        Raises
        ------
        PipelineError
            A worker cannot, or refuses; all die again and again, or the scheduler is gone.
        """
        call = _makeCall(), str(ROOT), pickle.dumps(_Constant(function)), b""
        with _explainedLoss():
            for _ in range(RETRIES + 1):
                self._waitForOne()
                answers = self._client.run(*call, on_error="return")
                living = {address: answer for address, answer in answers.items() if not _isLost(answer)}
                if living and len(living) == len(answers):
                    break
        if not living:
            raise PipelineError(GONE, remedy=GONE_REMEDY)
        return {address: _unpack(_checkAnswer(answer), address) for address, answer in living.items()}

    def _waitForOne(self) -> None:
        """Wait until a worker is there again: one that has died may be on its way back."""
        try:
            self._client.wait_for_workers(1, timeout=RETURN_SECONDS)
        except TimeoutError as error:
            raise PipelineError(GONE, remedy=GONE_REMEDY) from error

    def map(
        self, function: Callable, items: Sequence, watch: Callable[[], None] | None = None
    ) -> Iterator[Any]:
        """Call a function with every item; gives the answers in the order of the items.

        Parameters
        ----------
        function : callable
            Pickles by name.
        items : sequence
            They pickle.
        watch : callable, optional
            Is called every now and then while nothing is done.

        Raises
        ------
        PipelineError
            A call refuses its item, its workers die again and again, or the scheduler is gone.
        """
        payload, call = pickle.dumps(function), _makeCall()

        def submit(number: int) -> "Future":
            packed = pickle.dumps(items[number])
            return self._client.submit(call, str(ROOT), payload, packed, pure=False, retries=RETRIES)

        with _explainedLoss():
            futures = {number: submit(number) for number in range(len(items))}
            answers, losses = {}, Counter()
            try:
                for number in range(len(items)):
                    while number not in answers:
                        time.sleep(LOOK_SECONDS)
                        if watch:
                            watch()
                        answers |= _takeDone(futures, losses, submit)
                    yield answers.pop(number)
            finally:
                with contextlib.suppress(OSError, RuntimeError):  # the client is closed
                    self._client.cancel(list(futures.values()))


def _takeDone(
    futures: dict[int, "Future"], losses: Counter, submit: Callable[[int], "Future"]
) -> dict[int, Any]:
    """Take the answers that have come, in any order; what is lost with its workers is submitted anew."""
    from distributed import KilledWorker

    answers = {}
    for number in [number for number, future in futures.items() if future.done()]:
        future = futures.pop(number)
        error = future.exception()
        if error is None:
            answers[number] = _unpack(future.result(), "a worker")
        elif isinstance(error, OSError | MemoryError):
            raise _explainFailure(error)
        elif not isinstance(error, KilledWorker):
            raise error
        elif losses[number] >= LOSSES:
            rule = f"more than {LOSSES} workers have died at the same call"
            remedy = "is their memory too small? see their logs; what is finished is kept"
            raise PipelineError(rule, remedy=remedy)
        else:
            LOGGER.warning("workers have died with one call several times; it is tried again")
            losses[number] += 1
            futures[number] = submit(number)
    return answers


def _isLost(answer: bytes | Exception) -> bool:
    """Tell whether a worker has died, or is not reached any more: what the scheduler says in its place."""
    return isinstance(answer, OSError) and not isinstance(answer, FileNotFoundError)


def _checkAnswer(answer: bytes | Exception) -> bytes:
    """Give what a worker has answered.

    Raises
    ------
    PipelineError
        It lacks what it needs.
    """
    if isinstance(answer, ImportError | FileNotFoundError):
        rule = f"a worker lacks the project or one of its packages: {answer}"
        remedy = f"every machine must see {ROOT} under this path and use an environment like this one"
        raise PipelineError(rule, remedy=remedy) from answer
    if isinstance(answer, Exception):
        raise answer
    return answer


class _Constant:
    """A call without an item, whose errors of the system are its own and not those of the way to it."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self.function = function

    def __call__(self, _: Any) -> Any:
        """Call it."""
        try:
            return self.function()
        except (OSError, MemoryError) as error:
            raise _explainFailure(error) from error


def _explainFailure(error: BaseException) -> PipelineError:
    """Tell in one line what a worker's system has refused."""
    return PipelineError(f"a worker failed: {type(error).__name__}: {_firstLine(error)}")


def _unpack(answer: bytes, who: str) -> Any:
    """Read what a call has given, or raise what it has refused."""
    isRefused, host, value = pickle.loads(answer)
    if isRefused:
        raise PipelineError(f"{value} (on {host or who})")
    return value


def _makeCall() -> Callable:
    """Make the function that travels; being local, it is pickled by its code and needs no module there."""

    def call(root: str, payload: bytes, packed: bytes) -> bytes:
        import os
        import pickle
        import socket
        import sys

        if not os.path.isdir(root):
            raise FileNotFoundError(f"{socket.gethostname()} has no folder {root}")
        if root not in sys.path:
            sys.path.insert(0, root)
        cores = {int(core) for core in os.environ.pop("PREDICTION_CORES", "").split(",") if core}
        for thread in os.listdir("/proc/self/task") if cores else ():
            os.sched_setaffinity(int(thread), cores)
        from engine.base.console import hushProgress
        from engine.base.errors import PipelineError

        hushProgress()
        item = pickle.loads(packed) if packed else None
        try:
            outcome = False, "", pickle.loads(payload)(item)
        except PipelineError as error:
            outcome = True, socket.gethostname(), str(error)
        return pickle.dumps(outcome)

    return call


# --------------------------------------------------------------------------------------------- where they are


@contextlib.contextmanager
def openScheduler(asked: Scheduler) -> Iterator[DaskWorkers]:
    """Connect to a scheduler, or start one with its workers on this machine, for a block.

    Raises
    ------
    PipelineError
        Dask is not installed, or nobody answers.
    """
    try:
        import distributed
    except ImportError as error:
        raise PipelineError("the scheduler needs Dask", remedy=HINT) from error
    for name in ("distributed", "distributed.client"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # each loss with a traceback
    if asked.scheduler == LOCAL:
        with _startCluster(asked) as cluster, distributed.Client(cluster, set_as_default=False) as client:
            yield DaskWorkers(client)
        return
    _warnOfOpenScheduler(asked.scheduler)
    rule = f"the scheduler {asked.scheduler} does not answer within {CONNECT_SECONDS} s"
    security = _describeTls(asked)
    try:
        client = distributed.Client(
            asked.scheduler, timeout=CONNECT_SECONDS, security=security, set_as_default=False
        )
    except (OSError, ValueError, TypeError) as error:
        remedy = "start it with: dask scheduler; or take --scheduler local"
        raise PipelineError(rule, received=_firstLine(error), remedy=remedy) from error
    with client:
        with _explainedLoss():
            _waitForWorkers(client, asked)
        yield DaskWorkers(client)


def _waitForWorkers(client: "Client", asked: Scheduler) -> None:
    """Wait until as many workers as are asked for are connected, at least one."""
    wanted = max(asked.workerCount, 1)
    try:
        client.wait_for_workers(wanted, timeout=WORKER_SECONDS)
    except TimeoutError as error:
        there = len(client.scheduler_info(n_workers=-1)["workers"])
        rule = f"too few workers are connected to {asked.scheduler} after {WORKER_SECONDS} s"
        remedy = f"start them with: dask worker {asked.scheduler} --nthreads 1"
        raise PipelineError(rule, expected=wanted, received=there, remedy=remedy) from error


@contextlib.contextmanager
def _startCluster(asked: Scheduler) -> Iterator["SpecCluster"]:
    """Start a scheduler and workers that nobody outside this machine reaches, one for each GPU or share."""
    import dask
    from distributed import Nanny, SpecCluster
    from distributed import Scheduler as DaskScheduler

    gpus = visibleGpus()
    sets = coreSets(asked.workerCount or len(gpus), asked.coresPerWorker)
    workers = {}
    for number, cores in enumerate(sets):
        environment = {"PREDICTION_CORES": ",".join(map(str, cores)), "OMP_NUM_THREADS": str(len(cores))}
        if gpus:
            environment["CUDA_VISIBLE_DEVICES"] = gpus[number % len(gpus)]
        options = {"host": HOST, "nthreads": 1, "memory_limit": 0, "env": environment}
        options |= {"dashboard_address": f"{HOST}:{ANY_PORT}", "silence_logs": logging.CRITICAL}
        workers[number] = {"cls": Nanny, "options": options}
    scheduler = {"cls": DaskScheduler, "options": {"host": HOST, "dashboard_address": DASHBOARD}}
    with dask.config.set({"distributed.scheduler.allowed-failures": LOSSES}):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # the dashboard has another port
            cluster = SpecCluster(scheduler=scheduler, workers=workers, silence_logs=False)
        with cluster:
            yield cluster


def _describeTls(asked: Scheduler) -> Any:
    """Give the files of TLS to Dask; None without any.

    Raises
    ------
    PipelineError
        One lacks.
    """
    from distributed.security import Security

    files = asked.tlsCaFile, asked.tlsCertificate, asked.tlsKey
    if not any(files):
        return None
    names = ("tlsCaFile", "tlsCertificate", "tlsKey")
    for name, file in zip(names, files, strict=True):
        if file is None or not file.is_file():
            raise PipelineError(f"{name} is no file", received=file, remedy="TLS needs all three of them")
    keys = "tls_ca_file", "tls_client_cert", "tls_client_key"
    options = {key: str(file) for key, file in zip(keys, files, strict=True)}
    return Security(require_encryption=True, **options)


def _warnOfOpenScheduler(address: str) -> None:
    """Warn of a scheduler to which anybody who reaches it can send code."""
    parts = urlsplit(address if "://" in address else f"tcp://{address}")
    if parts.scheme != "tcp" or parts.hostname in (None, "localhost"):
        return
    with contextlib.suppress(ValueError):
        if ipaddress.ip_address(parts.hostname).is_loopback:
            return
    LOGGER.warning(
        "%s is not encrypted: whoever reaches it runs code as you do; use tls:// with --tlsCaFile, "
        "--tlsCertificate and --tlsKey, or a network of your own",
        address,
    )


@contextlib.contextmanager
def _explainedLoss() -> Iterator[None]:
    """Tell in one line that the scheduler is gone."""
    from concurrent.futures import CancelledError

    from distributed.client import ClosedClientError
    from distributed.comm.core import CommClosedError

    try:
        yield
    except (CommClosedError, ClosedClientError, CancelledError, OSError) as error:  # TimeoutError as well
        remedy = "start it again and repeat: what is finished is kept"
        raise PipelineError("the scheduler is gone", received=_firstLine(error), remedy=remedy) from error


def _firstLine(error: BaseException) -> str:
    """Give the first line of a message."""
    return next(iter(str(error).splitlines()), type(error).__name__)
