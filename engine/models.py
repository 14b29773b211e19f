"""Model files of Keras 2 and 3, read without executing anything in them.

The layer list and the arrays are data; classes, functions and links that a file may carry are never followed.
A file that describes another network than the plan is refused with the layer and the shape.
"""

import contextlib
import io
import json
import math
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np

from engine.errors import PipelineError
from engine.plan import VARIABLES, Layer, variableShapes, weightedLayers

Weights = dict[str, dict[str, np.ndarray]]  # {layer of the plan: {variable: float32 array}}
StoredLayers = dict[str, dict[str, h5py.Dataset]]

MAXIMUM_ENTRY_BYTES = 1 << 31  # of one entry of a .keras archive: no zip bombs
KIND_OF_CLASS = {
    "InputLayer": "input",
    "Conv3D": "convolution",
    "BatchNormalization": "normalisation",
    "ReLU": "relu",
    "Activation": "relu",
    "MaxPooling3D": "pool",
    "UpSampling3D": "upSample",
    "Concatenate": "concatenate",
}
LAST_AXIS = (-1, 4, [4], [-1])
SETTINGS = {  # what a layer of each kind must say of itself, besides its sizes; absent = the first value
    "input": {},
    "convolution": {
        "strides": ([1, 1, 1],),
        "dilation_rate": ([1, 1, 1],),
        "data_format": ("channels_last",),
        "groups": (1,),
        "use_bias": (True,),
    },
    "normalisation": {"axis": LAST_AXIS, "epsilon": (0.001,), "center": (True,), "scale": (True,)},
    "relu": {
        "activation": ("relu",),
        "max_value": (None,),
        "negative_slope": (0, None),
        "threshold": (0, None),
    },
    "pool": {"pool_size": ([2, 2, 2],), "strides": ([2, 2, 2],), "data_format": ("channels_last",)},
    "upSample": {"size": ([2, 2, 2],), "data_format": ("channels_last",)},
    "concatenate": {"axis": LAST_AXIS},
}


# ----------------------------------------------------------------------------------------- what a caller uses


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
    with _openStored(path) as (_, stored):
        kernels = [variables["kernel"].shape for variables in stored.values() if "kernel" in variables]
    levelCount, rest = divmod(len(kernels) + 1, 4)  # 2 convolutions a level down, 2 a level up, 1 output
    if not kernels or rest or len(kernels[0]) != 5 or not kernels[0][-1]:
        raise PipelineError(
            "is no 3D U-Net of two convolutions a level",
            file=path,
            expected="4 x levels - 1 convolutions",
            received=len(kernels),
        )
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
        weight that is not finite.
    """
    with _openStored(path) as (config, stored):
        if config is None:
            names = _namesByOrder(plan, stored, path)
        else:
            names = _namesByGraph(plan, config, path)
        unused = set(stored) - set(names.values())
        if unused:
            raise PipelineError(f"weights of {sorted(unused)} have no place in the network", file=path)
        return {
            layer.name: _readVariables(layer.name, shapes, stored.get(names[layer.name], {}), path)
            for layer in weightedLayers(plan)
            for shapes in (variableShapes(plan)[layer.name],)
        }


# ------------------------------------------------------------------------------------- the file as plain data


@contextlib.contextmanager
def _openStored(path: str | Path) -> Iterator[tuple[dict | None, StoredLayers]]:
    """Yield the model's configuration (None for weights alone) and its layers' datasets, in order."""
    path = Path(path)
    if not path.is_file():
        raise PipelineError("no such model file", file=path)
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                configText = _readEntry(archive, "config.json", path)
                source = io.BytesIO(_readEntry(archive, "model.weights.h5", path))
            with h5py.File(source, "r") as file:
                yield _storedContent(file, configText, path)
        elif h5py.is_hdf5(path):
            with h5py.File(path, "r") as file:
                yield _storedContent(file, file.attrs.get("model_config"), path)
        else:
            raise PipelineError("is neither an HDF5 file (.h5) nor a .keras archive", file=path)
    except PipelineError:
        raise
    except (OSError, KeyError, ValueError, TypeError, AttributeError, RuntimeError, LookupError) as error:
        raise PipelineError(f"is damaged or no model of Keras: {error}", file=path) from error
    except zipfile.BadZipFile as error:
        raise PipelineError(f"is a damaged .keras archive: {error}", file=path) from error


def _readEntry(archive: zipfile.ZipFile, name: str, path: Path) -> bytes:
    """Content of one archive entry, refused when absurdly large."""
    size = archive.getinfo(name).file_size
    if size > MAXIMUM_ENTRY_BYTES:
        raise PipelineError(
            f"entry {name} is too large", file=path, expected="at most 2 GiB", received=f"{size} bytes"
        )
    return archive.read(name)


def _storedContent(file: h5py.File, configText, path: Path) -> tuple[dict | None, StoredLayers]:
    """Read configuration and layers of an open file after a walk that refuses links out of it."""
    _refuseLinks(file, path)
    config = None if configText is None else json.loads(configText)["config"]
    stored = _legacyLayers(file) if "layers" not in file else _numberedLayers(file["layers"], config)
    if not stored:
        raise PipelineError("holds no weights", file=path)
    return config, stored


def _refuseLinks(group: h5py.Group, path: Path) -> None:
    """Refuse anything that makes HDF5 open another file or follow another path."""
    for name in group:
        link = group.get(name, getlink=True)
        if not isinstance(link, h5py.HardLink):
            kind = "an external link" if isinstance(link, h5py.ExternalLink) else "a soft link"
            raise PipelineError(f"{group.name}/{name} is {kind}, which is never followed", file=path)
        item = group[name]
        if isinstance(item, h5py.Group):
            _refuseLinks(item, path)
        elif isinstance(item, h5py.Dataset) and (item.external or item.is_virtual):
            raise PipelineError(f"{item.name} keeps its data in another file, which is never read", file=path)


def _legacyLayers(file: h5py.File) -> StoredLayers:
    """Layers of an .h5 written by Keras 2 or by model.save("*.h5") of Keras 3."""
    group = file["model_weights"] if "model_weights" in file else file
    stored = {}
    for layerName in _textList(group, "layer_names"):
        paths = _textList(group[layerName], "weight_names")
        if paths:
            variables = {path.rsplit("/", 1)[-1].split(":")[0]: group[layerName][path] for path in paths}
            stored[layerName] = variables
    return stored


def _numberedLayers(layers: h5py.Group, config: dict | None) -> StoredLayers:
    """Layers of the Keras 3 format: groups conv3d, conv3d_1, ... in the model's order, variables 0, 1, ..."""
    stored = {}
    for group, kind in (("conv3d", "convolution"), ("batch_normalization", "normalisation")):
        pattern = re.compile(rf"{group}(?:_(\d+))?")
        matches = [match for name in layers if (match := pattern.fullmatch(name))]
        matches.sort(key=lambda match: int(match[1] or 0))
        named = (
            []
            if config is None
            else [
                layer["config"]["name"]
                for layer in config["layers"]
                if KIND_OF_CLASS.get(layer["class_name"]) == kind
            ]
        )
        for index, match in enumerate(matches):
            variables = layers[match[0]]["vars"]
            name = named[index] if index < len(named) else match[0]
            stored[name] = dict(
                zip(VARIABLES[kind], (variables[str(i)] for i in range(len(variables))), strict=False)
            )
    return stored


def _textList(group: h5py.Group, name: str) -> list[str]:
    """Attribute that lists names, in one piece or in the chunks that Keras cuts a long one into."""
    pieces = [group.attrs[name]] if name in group.attrs else []
    while f"{name}{len(pieces)}" in group.attrs and name not in group.attrs:
        pieces.append(group.attrs[f"{name}{len(pieces)}"])
    if not pieces:
        raise KeyError(f"{group.name} has no list {name}")
    return [item.decode() if isinstance(item, bytes) else str(item) for piece in pieces for item in piece]


def _readVariables(layerName: str, shapes: dict, stored: dict[str, h5py.Dataset], path: str | Path) -> dict:
    """Arrays of one layer, each checked for its shape before it is read."""
    if set(stored) != set(shapes):
        raise PipelineError(
            f"layer {layerName} has other variables",
            file=path,
            expected=sorted(shapes),
            received=sorted(stored),
        )
    arrays = {}
    for name, shape in shapes.items():
        if tuple(stored[name].shape) != shape:
            raise PipelineError(
                f"layer {layerName}, {name}: another architecture",
                file=path,
                expected=f"shape {shape}",
                received=tuple(stored[name].shape),
            )
        arrays[name] = np.asarray(stored[name][()], dtype=np.float32)
        if not np.isfinite(arrays[name]).all():
            raise PipelineError(f"layer {layerName}, {name}: weights that are not finite numbers", file=path)
    return arrays


# -------------------------------------------------------------------------------- which stored layer is which


def _namesByOrder(plan: list[Layer], stored: StoredLayers, path: str | Path) -> dict[str, str]:
    """Weights alone carry no graph: the layers of each kind correspond in data-flow order."""
    names = {}
    for kind in VARIABLES:
        expected = [layer.name for layer in plan if layer.kind == kind]
        received = [name for name, variables in stored.items() if VARIABLES[kind][0] in variables]
        if len(expected) != len(received):
            raise PipelineError(
                f"another number of layers of the kind {kind}",
                file=path,
                expected=len(expected),
                received=len(received),
            )
        names |= dict(zip(expected, received, strict=True))
    return names


def _namesByGraph(plan: list[Layer], config: dict, path: str | Path) -> dict[str, str]:
    """Walk both graphs from the output back to the input; every layer must agree."""
    stored = {layer["config"]["name"]: layer for layer in config["layers"]}
    _refuseCode(stored, path)
    expected = {layer.name: layer for layer in plan}
    names, pending = {}, [(plan[-1].name, _outputName(config))]
    while pending:
        name, storedName = pending.pop()
        if names.setdefault(name, storedName) != storedName:
            raise PipelineError(
                f"layer {storedName} stands where {names[name]} should be used again", file=path
            )
        _compareLayer(expected[name], stored[storedName], path)
        inputs = _inputNames(stored[storedName])
        if len(inputs) != len(expected[name].inputs):
            raise PipelineError(
                f"layer {storedName} reads another number of layers",
                file=path,
                expected=len(expected[name].inputs),
                received=len(inputs),
            )
        pending += [pair for pair in zip(expected[name].inputs, inputs, strict=True) if pair[0] not in names]
    unused = set(stored) - set(names.values())
    if unused:
        raise PipelineError(f"layers {sorted(unused)} do not belong to the network", file=path)
    return names


def _refuseCode(stored: dict[str, dict], path: str | Path) -> None:
    """Refuse Lambda layers and classes that the network does not have."""
    for name, layer in stored.items():
        if layer["class_name"] == "Lambda":
            raise PipelineError(
                f"layer {name} is a Lambda layer: code in a model file is never executed", file=path
            )
        if layer["class_name"] not in KIND_OF_CLASS:
            raise PipelineError(
                f"layer {name} does not belong to the 3D U-Net",
                file=path,
                received=f"class {layer['class_name']}",
            )


def _outputName(config: dict) -> str:
    """Name of the single output layer: ["name", 0, 0] or [["name", 0, 0]]."""
    outputs = config["output_layers"]
    return outputs[0] if isinstance(outputs[0], str) else outputs[0][0]


def _inputNames(layer: dict) -> list[str]:
    """Layers that a stored layer reads, in the notation of Keras 2 ([[[name, 0, 0, {}]]]) or 3 (args)."""
    nodes = layer["inbound_nodes"]
    if not nodes:
        return []
    if isinstance(nodes[0], dict):
        tensors = nodes[0]["args"][0]
        tensors = tensors if isinstance(tensors, list) else [tensors]
        return [tensor["config"]["keras_history"][0] for tensor in tensors]
    return [nodes[0][0]] if isinstance(nodes[0][0], str) else [tensor[0] for tensor in nodes[0]]


def _compareLayer(expected: Layer, stored: dict, path: str | Path) -> None:
    """Refuse a stored layer that computes something else than the plan's."""
    config, kind = stored["config"], KIND_OF_CLASS[stored["class_name"]]
    if kind != expected.kind:
        received = f"{config['name']} ({stored['class_name']})"
        raise PipelineError(
            f"layer {expected.name}: another architecture",
            file=path,
            expected=expected.kind,
            received=received,
        )
    allowed = SETTINGS[kind] | _sizeSettings(expected)
    for setting, values in allowed.items():
        received = _plainValue(config.get(setting, values[0]))
        if not any(_isSame(received, value) for value in values):
            raise PipelineError(
                f"layer {config['name']} (here {expected.name}): another {setting}",
                file=path,
                expected=values[0],
                received=received,
            )


def _sizeSettings(layer: Layer) -> dict:
    """Give the allowed values of the settings that differ from convolution to convolution."""
    if layer.kind != "convolution":
        return {}
    return {
        "filters": (layer.filters,),
        "kernel_size": ([layer.kernel] * 3,),
        "activation": (layer.activation,),
        "padding": ("same",) if layer.kernel > 1 else ("same", "valid"),
    }


def _plainValue(value):
    """Unwrap a setting: Keras 3 may wrap a function's name in a dictionary."""
    return value.get("config") if isinstance(value, dict) else value


def _isSame(received, value) -> bool:
    """Equality that forgives the rounding of stored float32 numbers."""
    if isinstance(received, float) and isinstance(value, int | float):
        return math.isclose(received, value, rel_tol=1e-6, abs_tol=1e-12)
    return received == value
