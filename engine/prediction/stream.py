"""The network as a stream: which planes every tensor holds at every step, from the plan of layers alone.

S planes enter at a time, S a multiple of `sideMultiple(plan)`. A 3x3x3 convolution needs the plane after the
one it computes, so its output lags one plane behind its input; planes are counted at the level of the tensor
(S at level 0, S / 2 at level 1, ...). A skip waits in memory until its coarse partner has come back up.

    published network: skips leave level 0, 1, 2 with a lag of 2, 4, 4 planes; the middle lags 4, the way up
    9, 10 (level 2), 21, 22 (level 1), 45, 46 (level 0)

Two rewrites, exact in algebra: the batch normalisation becomes part of the convolution before it, and the
1x1x1 convolution at the end is applied where its input is made. Arrays here are (plane, row, column).
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from engine.network.plan import Layer

EPSILON = 1e-3  # of the batch normalisation: Keras's default, which model files are checked for


@dataclass(frozen=True, eq=False)
class Step:
    """One tensor of the stream and how it is made.

    Parameters
    ----------
    name : str
        Name of the last layer that takes part.
    kind : str
        'input', 'convolution', 'merge' (convolution of a skip and of an up-sampled tensor) or 'pool'.
    inputs : tuple of str
        Names of the steps it reads; of a merge: skip, coarse tensor.
    level, lag, channels : int
        Halvings so far; planes that the tensor is behind the input, at its own level; features.
    kernels : tuple of array
        (3, 3, 3, in, out) float32 for each input.
    bias : array
        (out,) float32.
    head : tuple of array, optional
        Kernel (in, out) and bias (out,) of a 1x1x1 convolution with sigmoid that follows.
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    level: int
    lag: int
    channels: int
    kernels: tuple[np.ndarray, ...] = ()
    bias: np.ndarray | None = None
    head: tuple[np.ndarray, np.ndarray] | None = None


class Window(NamedTuple):
    """Planes that a step reads of one input: `count` from `start` on, counted from step number x planes."""

    start: int
    count: int


def describeStream(plan: list[Layer], weights: dict[str, dict[str, np.ndarray]]) -> list[Step]:
    """Derive the steps of the stream from a network.

    Parameters
    ----------
    plan : list of Layer
        U-Net as `functions.describeUNet` describes it; kernels (x, y, z, in, out).
    weights : dict
        {layer: {variable: array}}.

    Returns
    -------
    list of Step
        In the order in which they can be computed; the last one gives the probability.
    """
    steps: dict[str, Step] = {}
    made: dict[str, str] = {}  # layer -> step that holds its output
    kinds = {layer.name: layer for layer in plan}
    for layer in plan:
        source = made[layer.inputs[0]] if layer.inputs else ""
        if layer.kind == "input":
            steps[layer.name] = Step(layer.name, "input", (), 0, 0, 1)
        elif layer.kind == "pool":
            before = steps[source]
            lag = -(-before.lag // 2)  # a whole cell of two planes: the tensor before it waits for one more
            steps[source] = replace(before, lag=2 * lag)
            steps[layer.name] = Step(layer.name, "pool", (source,), before.level + 1, lag, before.channels)
        elif layer.kind == "convolution" and layer.kernel == 1:
            steps[source] = replace(steps[source], head=_pointwise(weights[layer.name]))
        elif layer.kind == "convolution":
            steps[layer.name] = _convolution(layer, kinds, steps, made, weights[layer.name])
        elif layer.kind == "normalisation":
            steps[source] = _foldNormalisation(steps[source], weights[layer.name])
        made[layer.name] = layer.name if layer.name in steps else source
    return list(steps.values())


def _convolution(
    layer: Layer, kinds: dict[str, Layer], steps: dict[str, Step], made: dict[str, str], variables: dict
) -> Step:
    """Step of a 3x3x3 convolution, of one tensor or of a skip joined with an up-sampled one."""
    kernel = variables["kernel"].transpose(2, 1, 0, 3, 4)  # (x, y, z, ...) -> (plane z, row y, column x, ...)
    before = kinds[layer.inputs[0]]
    if before.kind != "concatenate":
        source = steps[made[before.name]]
        place = (source.name,), source.level, source.lag + 1
        return Step(layer.name, "convolution", *place, layer.filters, (kernel,), variables["bias"])
    skip, coarse = (steps[made[name]] for name in before.inputs)
    lag = 2 * coarse.lag + 1
    kernels = kernel[..., : skip.channels, :], kernel[..., skip.channels :, :]
    place = (skip.name, coarse.name), skip.level, lag
    return Step(layer.name, "merge", *place, layer.filters, kernels, variables["bias"])


def _pointwise(variables: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Kernel (in, out) and bias of a 1x1x1 convolution."""
    return variables["kernel"][0, 0, 0], variables["bias"]


def _foldNormalisation(step: Step, variables: dict[str, np.ndarray]) -> Step:
    """Scale kernels and bias as the batch normalisation after them does at inference."""
    exact = {name: array.astype(np.float64) for name, array in variables.items()}
    scale = exact["gamma"] / np.sqrt(exact["moving_variance"] + EPSILON)
    bias = (step.bias - exact["moving_mean"]) * scale + exact["beta"]
    kernels = tuple((kernel * scale).astype(np.float32) for kernel in step.kernels)
    return replace(step, kernels=kernels, bias=bias.astype(np.float32))


def windowsOf(step: Step, slab: int) -> tuple[Window, ...]:
    """Planes of each input that a step reads when `slab` planes enter at a time."""
    planes = slab >> step.level
    if step.kind == "pool":
        return (Window(-2 * step.lag, 2 * planes),)
    own = Window(-step.lag - 1, planes + 2)
    if step.kind == "convolution":
        return (own,)
    return own, Window(-(step.lag + 1) // 2, planes // 2 + 1)


def listWindows(steps: list[Step], slab: int) -> dict[str, list[Window]]:
    """Windows that are read of every tensor."""
    windows = {step.name: [] for step in steps}
    for step in steps[1:]:
        for name, window in zip(step.inputs, windowsOf(step, slab), strict=True):
            windows[name].append(window)
    return windows
