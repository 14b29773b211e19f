"""Reading and writing beside the computation: one thread each."""

import contextlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

WAITING = 2  # calls that may wait
Block = TypeVar("Block")
Words = ParamSpec("Words")


def readAhead(blocks: Iterator[Block]) -> Iterator[Block]:
    """Pass blocks on while a thread makes the next one; None ends them."""
    with ThreadPoolExecutor(1) as reader:
        ahead = reader.submit(next, blocks, None)
        while (block := ahead.result()) is not None:
            ahead = reader.submit(next, blocks, None)
            yield block


@contextlib.contextmanager
def writeBehind(write: Callable[Words, None]) -> Iterator[Callable[Words, None]]:
    """Yield a function that has its calls done by a thread, in order; what fails is raised by a later one.

    All are done when the block ends. What they are given must not be changed afterwards.
    """
    with ThreadPoolExecutor(1) as writer:
        waiting: deque[Future] = deque()

        def submit(*words: Words.args) -> None:
            if len(waiting) == WAITING:
                waiting.popleft().result()
            waiting.append(writer.submit(write, *words))

        try:
            yield submit
            for call in waiting:
                call.result()
        finally:
            writer.shutdown(cancel_futures=True)
