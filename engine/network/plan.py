"""A network as a list of layers in data-flow order: what training, prediction and file checks read."""

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np

from engine.base.errors import PipelineError

MAXIMUM_BYTES = 1 << 31  # of all weights, and of one entry of a .keras archive: no bombs
VARIABLES = {
    "convolution": ("kernel", "bias"),
    "normalisation": ("gamma", "beta", "moving_mean", "moving_variance"),
}


class Layer(NamedTuple):
    """One layer: what it does, what it reads, and the sizes that its weights follow from."""

    name: str
    kind: str  # input, convolution, normalisation, relu, pool, upSample or concatenate
    inputs: tuple[str, ...] = ()
    filters: int = 0  # convolution: output channels
    kernel: int = 0  # convolution: side of the cubic kernel, voxels
    activation: str = "linear"  # convolution: linear or sigmoid


def weightedLayers(plan: list[Layer]) -> list[Layer]:
    """Layers that own variables, in data-flow order."""
    return [layer for layer in plan if layer.kind in VARIABLES]


def variableShapes(plan: list[Layer]) -> dict[str, dict[str, tuple[int, ...]]]:
    """Shape of every variable, as {layer: {variable: shape}} in data-flow order."""
    channels, shapes = {}, {}
    for layer in plan:
        width = sum(channels[name] for name in layer.inputs) or 1
        channels[layer.name] = layer.filters or width
        if layer.kind == "convolution":
            shapes[layer.name] = {
                "kernel": (layer.kernel,) * 3 + (width, layer.filters),
                "bias": (layer.filters,),
            }
        elif layer.kind == "normalisation":
            shapes[layer.name] = dict.fromkeys(VARIABLES["normalisation"], (width,))
    return shapes


def countParameters(plan: list[Layer]) -> int:
    """Count the parameters, moving statistics included."""
    shapes = variableShapes(plan).values()
    return sum(math.prod(shape) for variables in shapes for shape in variables.values())


def checkSize(plan: list[Layer], path: str | Path | None = None) -> None:
    """Refuse a network whose weights could not be read back.

    Raises
    ------
    PipelineError
        They take more than 2 GiB.
    """
    size = 4 * countParameters(plan)
    if size > MAXIMUM_BYTES:
        rule, received = "the network is too large", f"{size / 2**30:.1f} GiB"
        raise PipelineError(rule, file=path, expected="at most 2 GiB of weights", received=received)


def sizeOf(plan: list[Layer]) -> tuple[int, int]:
    """Read base depth and number of levels: features of the first convolution, poolings + 1."""
    width = next(layer.filters for layer in plan if layer.kind == "convolution")
    return width, 1 + sum(layer.kind == "pool" for layer in plan)


def sideMultiple(plan: list[Layer]) -> int:
    """Voxels that every side of the input must be a multiple of: 2 to the number of poolings."""
    return 2 ** sum(layer.kind == "pool" for layer in plan)


def haloOf(plan: list[Layer]) -> int:
    """Voxels of context that an aligned output block needs on each side, rounded up to whole pooling cells.

    The interval of one aligned output cell is followed backwards through the plan: a convolution widens it,
    an up-sampling halves it, a pooling doubles it. 46 voxels for the published network, hence 48.
    """
    cell = sideMultiple(plan)
    needed = {plan[-1].name: (0, cell)}
    for layer in reversed(plan):
        start, stop = needed[layer.name]
        if layer.kind == "convolution":
            start, stop = start - layer.kernel // 2, stop + layer.kernel // 2
        elif layer.kind == "upSample":
            start, stop = start // 2, -(-stop // 2)
        elif layer.kind == "pool":
            start, stop = 2 * start, 2 * stop
        for name in layer.inputs:
            known = needed.get(name, (start, stop))
            needed[name] = min(start, known[0]), max(stop, known[1])
    start, stop = needed[plan[0].name]
    return -(-max(-start, stop - cell) // cell) * cell


def upKernel(kernel: np.ndarray, axis: int) -> np.ndarray:
    """Turn the taps of a convolution of an up-sampled axis into those of a transposed one with stride 2.

    Fine plane 2g - 1 + k receives coarse plane g times tap k of 4: nothing is up-sampled, and half of the
    multiplications along the axis are saved.
    """
    first, middle, last = np.moveaxis(kernel, axis, 0)
    return np.stack([last, middle + last, first + middle, first], axis)
