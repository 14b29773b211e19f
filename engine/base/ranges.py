"""A walk over a volume in ranges of planes, by whoever does them, that ends in the same bits.

The ranges follow from the volume, and from a memoryBudget below 1 GiB. Each is seen by an observer of its
own, and these are joined in order, also where one process does everything: so all sums have the same terms in
the same order.
What an observer knows is its `STATE`, names of attributes: numbers, arrays, or objects that have one.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol, Self

import numpy as np

from engine.base.passes import Observer, passOver
from engine.base.workers import Workers

RANGE_VOXELS = 1 << 26  # of a range, at least
MOST_RANGES = 64
State = dict[str, np.ndarray]


class Joinable(Observer, Protocol):
    """An observer of some planes, that takes in what another one has seen of those behind them."""

    STATE: tuple[str, ...]

    def join(self, other: Self) -> None:
        """Take in what the observer of the next planes has seen."""


class Maker(NamedTuple):
    """How an observer is made, in any process."""

    kind: Callable[..., Joinable]
    arguments: tuple = ()

    def __call__(self) -> Joinable:
        """Make one that has seen nothing."""
        return self.kind(*self.arguments)


class Store(Protocol):
    """Keeps what is known of ranges, for other processes."""

    def load(self, name: str, number: int) -> State | None:
        """Give what is known of a range; None: nothing."""

    def save(self, name: str, number: int, state: State) -> None:
        """Keep what is known of a range."""


class Source(Protocol):
    """What is walked over, as plain data; its label tells it from all others of the job, in any process."""

    label: str

    def blocks(self, first: int, last: int) -> Iterator[tuple]:
        """Read planes as blocks (z, y, x)."""


def cutRanges(shape: Sequence[int], slab: int, least: int = 0) -> list[tuple[int, int]]:
    """Cut the planes of a volume (x, y, z) into at most 64 ranges of whole slabs.

    Parameters
    ----------
    shape : sequence of int
        Voxels along x, y, z.
    slab : int
        Planes that are read at a time.
    least : int
        Voxels of a range, at least; 0: 64 million.
    """
    width, height, depth = shape
    slabs = max(-(-depth // slab // MOST_RANGES), -(-(least or RANGE_VOXELS) // (width * height * slab)))
    return [(first, min(first + slabs * slab, depth)) for first in range(0, depth, slabs * slab)]


def walkRanges(
    source: Source,
    ranges: Sequence[tuple[int, int]],
    makers: Sequence[Maker],
    workers: Workers,
    store: Store | None = None,
    begin: int = 0,
    seeing: Sequence[Observer] = (),
) -> list[Joinable]:
    """Show a volume to observers, and give them joined.

    Parameters
    ----------
    source : Source
        Pickles.
    ranges : sequence of (first, last)
        Half-open, in order.
    makers : sequence of Maker
        Of the observers.
    workers : Workers
        Do the ranges.
    store : Store, optional
        Knows ranges that other processes have done, and takes those that are done now.
    begin : int
        Number of the range that is done first, so that several processes do not do the same.
    seeing : sequence of Observer
        See every plane in order; only where this process does all of it.
    """
    if store is None and workers.count == 1:
        watching = _Switch(ranges, makers)
        passOver(source.blocks(0, ranges[-1][1]), watching, *seeing)
        return watching.finish()
    name, states = f"{source.label} {ranges} {makers}", {}
    order = [*range(begin, len(ranges)), *range(begin)]
    for number in order if store else ():
        if (state := store.load(name, number)) is not None:
            states[number] = state
    left = [number for number in order if number not in states]
    do = partial(_doRange, source, tuple(ranges), tuple(makers), store, name)
    states |= zip(left, workers.map(do, left), strict=True)
    joined = None
    for number in range(len(ranges)):
        found = [maker() for maker in makers]
        for place, observer in enumerate(found):
            unpack(observer, states[number], f"{place}.")
        joined = _join(joined, found)
    return joined


class _Switch:
    """Hands planes on to observers that are new for every range: an observer."""

    def __init__(self, ranges: Sequence[tuple[int, int]], makers: Sequence[Maker]) -> None:
        self._makers, self._firsts = makers, {first for first, _ in ranges}
        self._found: list[Joinable] = []
        self._joined: list[Joinable] | None = None

    def add(self, z: int, *block: np.ndarray) -> None:
        """Take planes (z, y, x), all of one range."""
        if z in self._firsts:
            self.finish()
            self._found = [maker() for maker in self._makers]
        for observer in self._found:
            observer.add(z, *block)

    def finish(self) -> list[Joinable]:
        """Join what has been seen since the last call; gives the observers of all ranges."""
        if self._found:
            self._joined, self._found = _join(self._joined, self._found), []
        return self._joined


def _doRange(
    source: Source,
    ranges: tuple[tuple[int, int], ...],
    makers: tuple[Maker, ...],
    store: Store | None,
    name: str,
    number: int,
) -> State:
    """Do one range, unless another process has done it meanwhile."""
    if store and (state := store.load(name, number)) is not None:
        return state
    found = [maker() for maker in makers]
    passOver(source.blocks(*ranges[number]), *found)
    state: State = {}
    for place, observer in enumerate(found):
        state |= pack(observer, f"{place}.")
    if store:
        store.save(name, number, state)
    return state


def _join(joined: list[Joinable] | None, found: list[Joinable]) -> list[Joinable]:
    """Join observers to those of the planes before."""
    if joined is None:
        return found
    for observer, other in zip(joined, found, strict=True):
        observer.join(other)
    return joined


def pack(thing: Any, prefix: str = "") -> State:
    """Describe what an observer knows as arrays, by name."""
    arrays: State = {}
    for name in thing.STATE:
        arrays |= _packValue(getattr(thing, name), prefix + name)
    return arrays


def _packValue(value: Any, name: str) -> State:
    """Describe one attribute: None is left out, and a list tells its length."""
    if value is None:
        return {}
    if hasattr(value, "STATE"):
        return pack(value, f"{name}.")
    if _isGroup(value):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return {key: array for place, each in items for key, array in pack(each, f"{name}.{place}.").items()}
    if isinstance(value, dict):  # counts by number
        return {f"{name}.keys": np.array([*value]), f"{name}.values": np.array([*value.values()])}
    if isinstance(value, list) and not all(isinstance(each, int) for each in value):
        present = {f"{name}.{place}": each for place, each in enumerate(value) if each is not None}
        return {f"{name}.count": np.array(len(value))} | present
    return {name: np.asarray(value)}


def _isGroup(value: Any) -> bool:
    """Whether a value is a dict, a list or a tuple of observers, which are there from the beginning.

    An empty tuple is one; lists and dicts that are empty may still be filled with something else.
    """
    items = list(value.values()) if isinstance(value, dict) else value
    if not isinstance(items, list | tuple):
        return False
    return (len(items) > 0 or isinstance(items, tuple)) and all(hasattr(each, "STATE") for each in items)


def unpack(thing: Any, arrays: State, prefix: str = "") -> None:
    """Let an observer that has seen nothing know what another one knew; the reverse of `pack`.

    Raises
    ------
    KeyError
        The arrays are those of another kind of observer.
    """
    for name in thing.STATE:
        value, key = getattr(thing, name), prefix + name
        if hasattr(value, "STATE"):
            unpack(value, arrays, f"{key}.")
        elif _isGroup(value):
            for place, each in value.items() if isinstance(value, dict) else enumerate(value):
                unpack(each, arrays, f"{key}.{place}.")
        elif value is not None or key in arrays:
            setattr(thing, name, _unpackValue(value, arrays, key))


def _unpackValue(value: Any, arrays: State, key: str) -> Any:
    """Give one attribute; `value` is what it is at the beginning, and tells of which type it is."""
    if value is None:
        return arrays[key][()]
    if isinstance(value, dict):
        keys, counts = arrays[f"{key}.keys"].tolist(), arrays[f"{key}.values"].tolist()
        return type(value)(dict(zip(keys, counts, strict=True)))
    if isinstance(value, list) and f"{key}.count" in arrays:
        return [arrays.get(f"{key}.{place}") for place in range(int(arrays[f"{key}.count"]))]
    if isinstance(value, list):
        return arrays[key].tolist()
    return arrays[key] if isinstance(value, np.ndarray) else arrays[key].item()
