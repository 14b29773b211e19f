"""The stream on OpenVINO: one compiled operation a tensor, planes handed over without a copy.

Every operation reads a window of its input's ring and writes into a slot of its own, both of them memory of
NumPy; OpenVINO sees it as (1, plane, row, column, channel) and turns it into its own order for free. What
lies before the first plane and after the last is set to zero in the rings: the meaning of 'same' padding.
"""

import importlib
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from engine.base.errors import PipelineError
from engine.base.machine import vectorLanes
from engine.network.plan import upKernel
from engine.prediction.rings import makeRings
from engine.prediction.stream import Step, windowsOf

HINT = "pip install openvino"
TYPES = {"float32": ("f32", np.float32), "bfloat16": ("bf16", np.uint16), "float16": ("f16", np.float16)}
COMPILERS = 2  # threads: 0.27 instead of 0.53 s
LEAST_PACKED = 8  # columns; OpenVINO 2026.4 computes two of them wrongly with a kernel of four and stride 2
TO_CHANNEL_FIRST, TO_CHANNEL_LAST = (0, 4, 1, 2, 3), (0, 2, 3, 4, 1)


def loadOpenvino():
    """Import OpenVINO.

    Raises
    ------
    PipelineError
        It is not installed.
    """
    try:
        return importlib.import_module("openvino")
    except ImportError as error:
        raise PipelineError(f"OpenVINO cannot be imported ({error})", remedy=HINT) from error


class OpenvinoStream:
    """Predict planes as they come.

    Parameters
    ----------
    steps : list of Step
        From `describeStream`.
    slab : int
        Planes that enter at a time.
    section : tuple of int
        Rows and columns, multiples of `sideMultiple`.
    precision : str
        float32, bfloat16 or float16: of what is computed and kept.
    """

    def __init__(self, steps: list[Step], slab: int, section: tuple[int, int], precision: str) -> None:
        self.steps, self.slab, self.lag = steps, slab, steps[-1].lag
        operations = _Operations(loadOpenvino(), precision)
        pools = {step.inputs[0]: step for step in steps if step.kind == "pool"}
        self._pairs = [(step, pools.get(step.name)) for step in steps[1:] if step.kind != "pool"]
        with ThreadPoolExecutor(COMPILERS) as pool:
            runs = [pool.submit(operations.compile, *pair, slab, section) for pair in self._pairs]
            self.rings = makeRings(steps, slab, section, TYPES[precision][1])  # meanwhile
        self._runs = {step.name: run.result() for (step, _), run in zip(self._pairs, runs, strict=True)}

    def restart(self, planeCount: int) -> None:
        """Begin a new volume of so many planes."""
        self.planeCount = planeCount
        for ring in self.rings.values():
            ring.clear()

    def feed(self, index: int, planes: np.ndarray) -> np.ndarray:
        """Take slab number `index`.

        Parameters
        ----------
        index : int
            The slab holds planes index * S to (index + 1) * S.
        planes : array
            (S, rows, columns) float32, zeros after the last plane.

        Returns
        -------
        array
            (S, rows, columns) float32 probabilities, those of `lag` planes ago.
        """
        self.rings[self.steps[0].name].slot(index)[..., 0] = planes
        probability = np.empty((*planes.shape, 1), np.float32)
        for step, pool in self._pairs:
            made = [step] if pool is None else [step, pool]
            targets = [self.rings[item.name].slot(index) for item in made if item.name in self.rings]
            targets = targets or [probability]
            inside = [self._inside(item, index) for item in made]
            if any(start < end for start, end in inside):
                sources = [
                    self.rings[name].window(index, window)
                    for name, window in zip(step.inputs, windowsOf(step, self.slab), strict=True)
                ]
                self._runs[step.name](sources, targets)
            for target, (start, end) in zip(targets, inside, strict=True):
                target[:start] = 0
                target[end:] = 0
        return probability[..., 0]

    def _inside(self, step: Step, index: int) -> tuple[int, int]:
        """Which of the planes that a step makes now lie in the volume, from and to."""
        count = self.slab >> step.level
        first = index * count - step.lag  # plane of the volume, negative before it
        start = min(max(-first, 0), count)
        return start, min(max((self.planeCount >> step.level) - first, start), count)


class _Operations:
    """Compiler of single operations.

    Level 0 has 8 features, half of a register of AVX-512 (of AVX2: a whole one). There two columns are
    computed as one with twice the features (a kernel one column wider, stride 2): 18 instead of 24 ms for a
    slab of 16x256x256. In memory both are the same, as channels come last.
    """

    def __init__(self, ov, precision: str) -> None:
        self.ov, self.opset, self.core = ov, ov.opset13, ov.Core()
        hint, _ = TYPES[precision]
        self.type = getattr(ov.Type, hint)
        self.settings = {"INFERENCE_PRECISION_HINT": hint, "PERFORMANCE_HINT": "LATENCY"}

    def compile(self, step: Step, pool: Step | None, slab: int, section: tuple[int, int]) -> Callable:
        """Compile a step and the pooling of its result; gives a function of input windows and results."""
        planes, sides = slab >> step.level, tuple(side >> step.level for side in section)
        parameters, results = self._build(step, planes, sides, pool is not None)
        shapes = [[list(node.output(0).shape) for node in nodes] for nodes in (parameters, results)]
        types = [[node.get_element_type() for node in nodes] for nodes in (parameters, results)]
        model = self.ov.Model([self.opset.result(result) for result in results], parameters, step.name)
        request = self.core.compile_model(model, "CPU", self.settings).create_infer_request()

        def run(sources: list[np.ndarray], targets: list[np.ndarray]) -> None:
            for index, source in enumerate(sources):
                request.set_input_tensor(index, self._asTensor(source, shapes[0][index], types[0][index]))
            for index, target in enumerate(targets):
                request.set_output_tensor(index, self._asTensor(target, shapes[1][index], types[1][index]))
            request.infer(share_inputs=True, share_outputs=True)  # otherwise the results are copied

        return run

    def _build(self, step: Step, planes: int, sides: tuple[int, int], isPooled: bool) -> tuple[list, list]:
        """Parameters and results of the model of one step."""
        isPacked = 2 * step.channels <= vectorLanes() and sides[1] % 2 == 0 and sides[1] >= LEAST_PACKED
        opset, pack = self.opset, 2 if isPacked else 1
        kernel, *coarse = step.kernels
        inputType = self.ov.Type.f32 if step.level == 0 and kernel.shape[3] == 1 else self.type
        parameter, tensor = self._input((planes + 2, *sides, kernel.shape[3]), inputType)
        parameters = [parameter]
        taps = self._constant(packColumns(kernel, pack).transpose(4, 3, 0, 1, 2))
        tensor = opset.convolution(tensor, taps, [1, 1, pack], [0, 1, 1], [0, 1, 1], [1, 1, 1])
        tensor = opset.add(tensor, self._perChannel(step.bias, pack))
        if coarse:
            shape = (planes // 2 + 1, sides[0] // 2, sides[1] // 2, coarse[0].shape[3])
            parameter, up = self._input(shape, self.type)
            up = self._upConvolution(up, coarse[0], pack)
            flat = (planes, sides[0], sides[1] * step.channels)
            tensor = opset.relu(opset.add(self._flatten(tensor, flat), self._flatten(up, flat)))
            return [*parameters, parameter], [self._stored(tensor, self.type)]
        tensor = opset.relu(tensor)
        if step.head:
            tensor = self._pointwise(tensor, *step.head, pack)
            return parameters, [self._transpose(tensor, TO_CHANNEL_LAST)]
        results = [tensor, self._pool(tensor, pack)] if isPooled else [tensor]
        return parameters, [
            self._stored(self._transpose(node, TO_CHANNEL_LAST), self.type) for node in results
        ]

    def _pool(self, tensor, pack: int):
        """Largest of 2x2x2 voxels; of packed columns, the larger of the two."""
        size = [2, 2, 2 // pack]
        pooled = self.opset.max_pool(tensor, size, [1] * 3, [0] * 3, [0] * 3, size).output(0)
        if pack == 1:
            return pooled
        return self.opset.maximum(*self.opset.split(pooled, self.opset.constant(np.int32(1)), 2).outputs())

    def _pointwise(self, tensor, kernel: np.ndarray, bias: np.ndarray, pack: int):
        """1x1x1 convolution with sigmoid."""
        taps = self._constant(np.kron(np.eye(pack), kernel).T[..., None, None, None])
        tensor = self.opset.convolution(tensor, taps, [1] * 3, [0] * 3, [0] * 3, [1] * 3)
        return self.opset.sigmoid(self.opset.add(tensor, self._perChannel(bias, pack)))

    def _upConvolution(self, tensor, kernel: np.ndarray, pack: int):
        """Convolution of an up-sampled tensor, from the tensor itself.

        To up-sample is to put zeros between the numbers and to add up neighbours. The convolution may come
        in between; of numbers with zeros between them it is a transposed one, with 27 instead of 64 products
        for 8 voxels (with two columns at once 54 instead of 96, zeros among them).
        """
        stuffed, size = kernel[::-1, ::-1], [2, 2, 2 // pack]
        stuffed = stuffed[:, :, ::-1] if pack == 1 else packUpColumns(stuffed)
        taps = math.prod(size) * stuffed.transpose(3, 4, 0, 1, 2)  # the pooling gives means
        crop = [1, 0, pack - 1]  # planes at both ends that nobody asked for
        tensor = self.opset.convolution_backprop_data(
            tensor, self._constant(taps), size, pads_begin=crop, pads_end=crop
        )
        return self.opset.avg_pool(tensor, [1] * 3, [0] * 3, [0] * 3, size, True)

    def _input(self, shape: tuple[int, ...], kind) -> tuple:
        """Parameter (1, plane, row, column, channel) and the same as operations want it."""
        parameter = self.opset.parameter([1, *shape], kind)
        tensor = parameter if kind == self.ov.Type.f32 else self.opset.convert(parameter, self.ov.Type.f32)
        return parameter, self._transpose(tensor, TO_CHANNEL_FIRST)

    def _flatten(self, tensor, shape: tuple[int, ...]):
        """Channels last, in fewer axes: the sum of two tensors in five costs two changes of layout, 20 ms."""
        tensor = self._transpose(tensor, TO_CHANNEL_LAST)
        return self.opset.reshape(tensor, self.opset.constant(np.array(shape, np.int32)), False)

    def _stored(self, tensor, kind):
        """Turn a result into the type of the rings."""
        return tensor if kind == self.ov.Type.f32 else self.opset.convert(tensor, kind)

    def _asTensor(self, array: np.ndarray, shape: list[int], kind):
        """Tensor on the memory of an array, which must outlive it."""
        if kind == self.ov.Type.bf16:
            return self.ov.Tensor(array.reshape(shape), shape, kind)
        return self.ov.Tensor(array.reshape(shape), shared_memory=True)

    def _transpose(self, tensor, order: tuple[int, ...]):
        return self.opset.transpose(tensor, self.opset.constant(np.array(order, np.int32)))

    def _constant(self, array: np.ndarray):
        return self.opset.constant(np.ascontiguousarray(array, np.float32))

    def _perChannel(self, bias: np.ndarray, pack: int):
        return self._constant(np.tile(bias, pack).reshape(1, -1, 1, 1, 1))


def packColumns(kernel: np.ndarray, pack: int) -> np.ndarray:
    """Kernel (3, 3, 3, in, out) that computes `pack` columns at once: (3, 3, 2 + pack, in, pack * out)."""
    packed = np.zeros((3, 3, 2 + pack, kernel.shape[3], pack, kernel.shape[4]), np.float32)
    for column in range(pack):
        packed[:, :, column : column + 3, :, column] = kernel
    return packed.reshape(*packed.shape[:4], -1)


def packUpColumns(kernel: np.ndarray) -> np.ndarray:
    """Do the same for a transposed convolution: columns 2g and 2g + 1 lie in packed column g."""
    taps = upKernel(kernel, 2)  # coarse column g reaches the fine ones 2g - 1, 2g, 2g + 1, 2g + 2
    packed = np.zeros((*kernel.shape[:2], 3, kernel.shape[3], 2, kernel.shape[4]), np.float32)
    for tap in range(4):
        column = (tap + 1) // 2, (tap + 1) % 2  # packed column g - 1, g or g + 1; which of its two
        packed[:, :, column[0], :, column[1]] = taps[:, :, tap]
    return packed.reshape(*packed.shape[:4], -1)
