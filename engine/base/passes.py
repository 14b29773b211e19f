"""One walk over a volume that comes block by block, with all that want to see it."""

from collections.abc import Iterable
from typing import Protocol

import numpy as np

from engine.base.threads import readAhead


class Observer(Protocol):
    """What looks at the blocks of a walk."""

    def add(self, z: int, *block: np.ndarray | None) -> None:
        """Take the arrays of a block, (z, y, x) each, that begin at plane `z`."""


def passOver(blocks: Iterable[tuple], *observers: Observer, first: int = 0) -> None:
    """Show every block to every observer, in order; the next one is read meanwhile.

    Parameters
    ----------
    blocks : iterable of tuple
        Arrays (z, y, x) of the same planes; the first one tells how many.
    observers
        Asked one after the other.
    first : int
        Plane that the blocks begin at.
    """
    z = first
    for block in readAhead(iter(blocks)):
        for observer in observers:
            observer.add(z, *block)
        z += len(block[0])
