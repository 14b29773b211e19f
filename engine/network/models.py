"""Models of Keras 2 and 3, read without executing anything in their files.

The layer list and the arrays are data; classes, functions and links that a file may carry are never followed.
A file that describes another network than the plan is refused with the layer and the shape.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from engine.base.errors import PipelineError
from engine.network.modelLayers import namesByGraph, namesByOrder
from engine.network.modelStorage import openStored
from engine.network.plan import Layer, checkSize, variableShapes, weightedLayers

if TYPE_CHECKING:  # it loads slowly
    import h5py

Weights = dict[str, dict[str, np.ndarray]]  # {layer of the plan: {variable: float32 array}}


def readArchitecture(path: str | Path) -> tuple[int, int]:
    """Read base depth and number of levels of the U-Net in a model or weight file.

    Returns
    -------
    tuple of int
        Features of the first convolution; levels (poolings + 1).

    Raises
    ------
    PipelineError
        The file cannot be read or holds no 3D U-Net.
    """
    with openStored(path) as stored:
        kernels = [part["kernel"].shape for part in stored.layers.values() if "kernel" in part]
    levelCount, rest = divmod(len(kernels) + 1, 4)  # 2 convolutions a level down, 2 a level up, 1 output
    if not kernels or rest or len(kernels[0]) != 5 or not kernels[0][-1]:
        rule, expected = "is no 3D U-Net of two convolutions a level", "4 x levels - 1 convolutions"
        raise PipelineError(rule, file=path, expected=expected, received=len(kernels))
    return int(kernels[0][-1]), levelCount


def readWeights(path: str | Path, plan: list[Layer]) -> Weights:
    """Read every variable of the plan from a model or weight file.

    Parameters
    ----------
    path : path
        .h5 of Keras 2 or 3 (full model or weights alone), .weights.h5 or .keras of Keras 3.
    plan : list of Layer
        The network that the file must describe.

    Returns
    -------
    dict
        {layer: {variable: float32 array}}; every weight of the file is used, every variable is set.

    Raises
    ------
    PipelineError
        Another architecture (which layer, which shape), a damaged file, a Lambda layer, an external link, a
        weight that is no finite floating-point number.
    """
    checkSize(plan, path)
    shapes = variableShapes(plan)
    with openStored(path) as (config, stored, isNumbered):
        names = {} if config is None else namesByGraph(plan, config, path)
        if config is None or isNumbered:
            names = namesByOrder(plan, stored, path)
        unused = set(stored) - set(names.values())
        if unused:
            raise PipelineError(f"weights of {sorted(unused)} have no place in the network", file=path)
        return {
            layer.name: _readVariables(
                layer.name, shapes[layer.name], stored.get(names[layer.name], {}), path
            )
            for layer in weightedLayers(plan)
        }


def _readVariables(layerName: str, shapes: dict, stored: dict[str, "h5py.Dataset"], path: str | Path) -> dict:
    """Arrays of one layer, each checked for its shape before it is read."""
    if set(stored) != set(shapes):
        rule = f"layer {layerName} has other variables"
        raise PipelineError(rule, file=path, expected=sorted(shapes), received=sorted(stored))
    arrays = {}
    for name, shape in shapes.items():
        if tuple(stored[name].shape) != shape:
            rule, received = f"layer {layerName}, {name}: another architecture", tuple(stored[name].shape)
            raise PipelineError(rule, file=path, expected=f"shape {shape}", received=received)
        if stored[name].dtype.kind != "f":  # whole numbers would be a quantised network
            rule = f"layer {layerName}, {name}: weights must be floating-point numbers"
            raise PipelineError(rule, file=path, received=stored[name].dtype)
        with np.errstate(over="ignore"):  # of float64: told as not finite
            arrays[name] = np.asarray(stored[name][()], dtype=np.float32)
        if not np.isfinite(arrays[name]).all():
            raise PipelineError(f"layer {layerName}, {name}: weights that are not finite numbers", file=path)
        if name == "moving_variance" and (arrays[name] < 0).any():
            raise PipelineError(f"layer {layerName}, {name}: a variance below 0", file=path)
    return arrays
