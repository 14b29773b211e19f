"""Who does calls that do not depend on one another: this process, others of this machine, or a cluster.

A call is a function that pickles by name and one item that pickles; it may be done twice, and anywhere.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Protocol, TypeVar

from engine.base.console import hushProgress, openConsole
from engine.base.errors import PipelineError

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class Workers(Protocol):
    """What does calls, so many at a time."""

    count: int

    def map(self, function: Callable[[Item], Answer], items: Sequence[Item]) -> Iterator[Answer]:
        """Call a function with every item; gives the answers in the order of the items."""


class Here:
    """Calls are done by this process, one after the other, each when its answer is asked for."""

    count = 1

    def map(self, function: Callable[[Item], Answer], items: Sequence[Item]) -> Iterator[Answer]:
        """Call a function with every item, in order."""
        return map(function, items)


class Processes:
    """Calls are done by processes of this machine.

    Parameters
    ----------
    pool : ProcessPoolExecutor
        Of `count` processes.
    count : int
        Of them.
    """

    def __init__(self, pool: ProcessPoolExecutor, count: int) -> None:
        self._pool, self.count = pool, count

    def map(self, function: Callable[[Item], Answer], items: Sequence[Item]) -> Iterator[Answer]:
        """Call a function with every item; a process that is killed ends the work with a PipelineError."""
        try:
            yield from self._pool.map(function, items)
        except BrokenProcessPool as error:
            remedy = "take fewer with --workerCount, and repeat: what is finished is kept"
            rule = "a worker process was killed (is the memory too small for all of them?)"
            raise PipelineError(rule, remedy=remedy) from error


@contextlib.contextmanager
def openWorkers(count: int) -> Iterator[Workers]:
    """Start so many processes for a block; with one, or none, its own process does the calls.

    Raises
    ------
    PipelineError
        The number is negative.
    """
    if count < 0:
        raise PipelineError("workerCount must not be negative", received=count)
    if count < 2:
        yield Here()
        return
    context = multiprocessing.get_context("spawn")  # a fork would copy locks that threads hold
    with ProcessPoolExecutor(count, context, initializer=_beginWorker) as pool:
        with _holdSignals():
            for _ in range(count):  # a process starts with every call that finds none waiting
                pool.submit(int)
        try:
            yield Processes(pool, count)
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


@contextlib.contextmanager
def _holdSignals() -> Iterator[None]:
    """Let Ctrl-C wait for the end of the block, and for that of the beginning of processes started in it."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _beginWorker() -> None:
    """Leave Ctrl-C to the process that started this one, which hears of it too, and end when it is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    threading.Thread(target=_endWithParent, daemon=True).start()
    openConsole()
    hushProgress()


def _endWithParent() -> None:
    """End this process when the one that started it was killed: nobody would take its answers."""
    multiprocessing.parent_process().join()
    os._exit(1)
