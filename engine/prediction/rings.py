"""Planes of a tensor that wait in memory for their readers."""

import math

import numpy as np

from engine.prediction.stream import Step, Window, listWindows

ALIGNMENT = 64  # bytes; vector loads of the back ends are fastest from there


class Ring:
    """The latest planes of one tensor, written slot by slot, read as contiguous windows without a copy.

    The slots follow each other in memory and are used in turn. In front of the first slot lie copies of the
    last planes of the last one, so that a window that starts before slot 0 is contiguous too.

    Parameters
    ----------
    planes : int
        Planes of a slot, those of one step.
    lag : int
        Planes that the tensor is behind the input.
    shape : tuple of int
        Of one plane: (rows, columns, channels).
    dtype : dtype
        Of the stored numbers.
    windows : list of Window
        What the readers need at every step, counted from step number x `planes`.
    """

    def __init__(
        self, planes: int, lag: int, shape: tuple[int, ...], dtype: np.dtype | type, windows: list[Window]
    ) -> None:
        self.planes, self._windows = planes, {}
        self.slotCount, self.headCount = 1, 0
        for window in windows:
            head = _headPlanes(window, planes, lag)
            delay = -(window.start + lag + head) // planes  # slots that the window is behind the newest
            self._windows[window] = head, delay
            self.headCount = max(self.headCount, head)
            before = -(-head // planes)  # slots that it needs besides the one in which it ends
            self.slotCount = max(self.slotCount, delay + 1 + before if delay else 1)
        self.storage = alignedZeros((self.headCount + self.slotCount * planes, *shape), dtype)
        self._isClear = True

    def slot(self, step: int) -> np.ndarray:
        """Planes to be written at a step; (planes, rows, columns, channels)."""
        index, self._isClear = step % self.slotCount, False
        if index == 0:
            self.storage[: self.headCount] = self.storage[len(self.storage) - self.headCount :]
        start = self.headCount + index * self.planes
        return self.storage[start : start + self.planes]

    def window(self, step: int, window: Window) -> np.ndarray:
        """Planes that a reader needs at a step, the newest slot included; a view."""
        head, delay = self._windows[window]
        start = self.headCount + (step - delay) % self.slotCount * self.planes - head
        return self.storage[start : start + window.count]

    def clear(self) -> None:
        """Forget everything: planes before the first one are zero."""
        if not self._isClear:
            self.storage[...] = 0
        self._isClear = True


def makeRings(
    steps: list[Step], slab: int, section: tuple[int, int], dtype: np.dtype | type
) -> dict[str, Ring]:
    """Make the ring of every tensor that is read again; the input stays float32."""
    windows = listWindows(steps, slab)
    return {
        step.name: Ring(
            slab >> step.level,
            step.lag,
            (section[0] >> step.level, section[1] >> step.level, step.channels),
            np.float32 if step.kind == "input" else dtype,
            windows[step.name],
        )
        for step in steps[:-1]
    }


def planesOf(planes: int, lag: int, windows: list[Window]) -> int:
    """Planes that a ring holds in memory."""
    return len(Ring(planes, lag, (0,), np.uint8, windows).storage)


def _headPlanes(window: Window, planes: int, lag: int) -> int:
    """Planes of a window that lie before the slot in which it ends."""
    least = max(window.count - planes, 0)
    return least + (-(window.start + lag) - least) % planes


def alignedZeros(shape: tuple[int, ...], dtype: np.dtype | type) -> np.ndarray:
    """Zeros whose first byte lies where vector loads are fastest."""
    byteCount = math.prod(shape) * np.dtype(dtype).itemsize
    raw = np.empty(byteCount + ALIGNMENT, np.uint8)  # np.zeros would take small pages: 0.9 s for 300 MB here
    raw[...] = 0
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + byteCount].view(dtype).reshape(shape)
