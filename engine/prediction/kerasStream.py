"""The stream on Keras, TensorFlow or JAX: one compiled function a slab, its states stay on the device."""

import numpy as np

from engine.network.devices import compileFunction, loadKeras
from engine.prediction.stream import Step, Window, listWindows, windowsOf


class KerasStream:
    """Predict planes as they come; parameters and methods as `OpenvinoStream`.

    The result of `feed` is an array of the back end: it may still be computed when the call returns.
    """

    def __init__(self, steps: list[Step], slab: int, section: tuple[int, int], precision: str) -> None:
        self.steps, self.slab, self.lag = steps, slab, steps[-1].lag
        self._section, self._precision = section, precision
        self._ops = loadKeras().ops
        self._windows = listWindows(steps, slab)
        self._constants = {step.name: self._toDevice(step) for step in steps}
        self._advance = compileFunction(self._makeFunction())

    def restart(self, planeCount: int) -> None:
        """Begin a new volume of so many planes."""
        self._planeCount = planeCount
        self._states = {
            step.name: self._ops.zeros(
                (1, self._pastOf(step), *(side >> step.level for side in self._section), step.channels),
                self._precision if step.kind != "input" else "float32",
            )
            for step in self.steps
            if self._windows[step.name]
        }

    def feed(self, index: int, planes: np.ndarray):
        """Take slab number `index`; see `OpenvinoStream.feed`."""
        position = self._ops.convert_to_tensor(np.array([index, self._planeCount], np.int32))
        slab = self._ops.convert_to_tensor(planes[np.newaxis, ..., np.newaxis])
        self._states, probability = self._advance(self._states, slab, position)
        return probability

    def _pastOf(self, step: Step) -> int:
        """Planes before the newest ones that the readers of a tensor need."""
        return max([-(window.start + step.lag) for window in self._windows[step.name]])

    def _toDevice(self, step: Step) -> tuple:
        """Kernel over all inputs, bias and head of a step, as tensors."""
        if not step.kernels:
            return ()
        kind = "float32" if step.level == 0 and step.kernels[0].shape[3] == 1 else self._precision
        arrays = [(np.concatenate(step.kernels, axis=3), kind), (step.bias, kind)]
        arrays += [(array, "float32") for array in step.head or ()]
        return tuple(self._ops.convert_to_tensor(array, dtype) for array, dtype in arrays)

    def _makeFunction(self):
        """Write the steps as one pure function of states, slab and position."""
        ops, slab = self._ops, self.slab

        def advance(states: dict, planes, position):
            known, after = {}, {}
            for step in self.steps:
                made = planes if step.kind == "input" else self._compute(step, known)
                if not self._windows[step.name]:
                    return after, made[0, ..., 0]
                made = made * self._insideOnly(step, position, made.dtype)
                past = self._pastOf(step)
                known[step.name] = ops.concatenate([states[step.name], made], axis=1) if past else made
                after[step.name] = known[step.name][:, slab >> step.level :]

        return advance

    def _insideOnly(self, step: Step, position, dtype):
        """Ones for planes of the volume, zeros before and after it: the meaning of 'same' padding."""
        ops, count = self._ops, self.slab >> step.level
        plane = position[0] * count - step.lag + ops.arange(count, dtype="int32")
        inside = ops.logical_and(plane >= 0, plane < position[1] // 2**step.level)
        return ops.reshape(ops.cast(inside, dtype), (1, count, 1, 1, 1))

    def _compute(self, step: Step, known: dict):
        """Compute the new planes of one step from what is known of its inputs."""
        ops = self._ops
        first, *coarse = (
            self._window(known[name], name, window)
            for name, window in zip(step.inputs, windowsOf(step, self.slab), strict=True)
        )
        if step.kind == "pool":
            return ops.max_pool(first, (2, 2, 2), (2, 2, 2))  # JAX needs the strides
        for tensor in coarse:
            for axis in (1, 2, 3):
                tensor = ops.repeat(tensor, 2, axis=axis)
            first = ops.concatenate([first, tensor], axis=-1)
        kernel, bias, *head = self._constants[step.name]
        padded = ops.pad(first, ((0, 0), (0, 0), (1, 1), (1, 1), (0, 0)))
        made = ops.cast(ops.relu(ops.conv(padded, kernel, padding="valid") + bias), self._precision)
        if not head:
            return made
        return ops.sigmoid(ops.matmul(ops.cast(made, "float32"), head[0]) + head[1])

    def _window(self, tensor, name: str, window: Window):
        """Planes of a tensor that a reader needs."""
        step = next(step for step in self.steps if step.name == name)
        start = window.start + step.lag + self._pastOf(step)
        return tensor[:, start : start + window.count]
