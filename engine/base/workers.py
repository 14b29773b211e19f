"""Who does calls that do not depend on one another: this process, others of this machine, or a cluster.

A call is a function that pickles by name and one item that pickles; it may be done twice, and anywhere.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections import deque
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
            with _holdSignals():
                calls = deque(self._pool.submit(function, item) for item in items)
            while calls:
                yield calls.popleft().result()
        except BrokenProcessPool as error:
            remedy = "take fewer with --workerCount, and repeat"
            rule = "a worker process was killed (is the memory too small for all of them?)"
            raise PipelineError(rule, remedy=remedy) from error


# ------------------------------------------------------------------------------------- their begin and end


def refuseNegativeCount(count: int) -> None:
    """Refuse a number of workers below 0."""
    if count < 0:
        raise PipelineError("workerCount must not be negative", received=count)


@contextlib.contextmanager
def openWorkers(count: int) -> Iterator[Workers]:
    """Start so many processes for a block; with one, or none, its own process does the calls.

    They end with the block, and at once where it raises, be it by Ctrl-C; they end with this process too.

    Raises
    ------
    PipelineError
        The number is negative.
    """
    refuseNegativeCount(count)
    if count < 2:
        yield Here()
        return
    context = multiprocessing.get_context("spawn")  # a fork would copy locks that threads hold
    others = {child.pid for child in multiprocessing.active_children()}
    with ProcessPoolExecutor(count, context, initializer=_beginWorker) as pool:
        try:
            yield Processes(pool, count)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            own = [child for child in multiprocessing.active_children() if child.pid not in others]
            for child in own:
                child.terminate()  # nobody asks for what it does any more
            for child in own:
                child.join()
            raise


@contextlib.contextmanager
def _holdSignals() -> Iterator[None]:
    """Keep Ctrl-C and SIGTERM back while processes start, or one is left half-started; these hear no Ctrl-C.

    They inherit that it is blocked: it would end them with a traceback before they can ignore it.
    """
    if threading.current_thread() is not threading.main_thread():  # which no signal interrupts
        yield
        return
    caught: list[int] = []
    names = signal.SIGINT, signal.SIGTERM
    before = {number: signal.signal(number, lambda number, _: caught.append(number)) for number in names}
    canBlock = hasattr(signal, "pthread_sigmask")  # not on Windows
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT}) if canBlock else None
    try:
        yield
    finally:
        if canBlock:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in before.items():
            signal.signal(number, handler)
        for number in caught[:1]:
            signal.raise_signal(number)


def _beginWorker() -> None:
    """Leave Ctrl-C to the process that started this one, which hears of it too, and end with that one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_endWithParent, daemon=True).start()
    openConsole()
    hushProgress()


def _endWithParent() -> None:
    """Wait for the end of the process that started this one, which may be killed and tell nobody."""
    multiprocessing.parent_process().join()
    os._exit(1)
