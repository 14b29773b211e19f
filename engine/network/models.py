"""Model files of Keras 2 and 3, read without executing anything in them.

The layer list and the arrays are data; classes, functions and links that a file may carry are never followed.
A file that describes another network than the plan is refused with the layer and the shape.
"""

import contextlib
import io
import json
import lzma
import math
import mmap
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from engine.base.errors import PipelineError
from engine.network.plan import MAXIMUM_BYTES, VARIABLES, Layer, checkSize, variableShapes, weightedLayers

Weights = dict[str, dict[str, np.ndarray]]  # {layer of the plan: {variable: float32 array}}
if TYPE_CHECKING:  # it loads slowly
    import h5py

StoredLayers = dict[str, dict[str, "h5py.Dataset"]]

UNREADABLE = (  # what h5py, zipfile and json raise on damaged files, and what unexpected content leads to
    *(OSError, EOFError, MemoryError, struct.error, zlib.error, lzma.LZMAError, zipfile.BadZipFile),
    *(ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError),
)
GROUP_KINDS = {"conv3d": "convolution", "batch_normalization": "normalisation"}  # groups of Keras 3
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
    with _openStored(path) as (_, stored, _):
        kernels = [variables["kernel"].shape for variables in stored.values() if "kernel" in variables]
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
    with _openStored(path) as (config, stored, isNumbered):
        names = {} if config is None else _namesByGraph(plan, config, path)
        if config is None or isNumbered:
            names = _namesByOrder(plan, stored, path)
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
def _openStored(path: str | Path) -> Iterator[tuple[dict | None, StoredLayers, bool]]:
    """Yield configuration (None: weights alone), datasets by layer in order, whether numbered."""
    import h5py

    path = Path(path)
    if not path.is_file():
        raise PipelineError("no such model file", file=path)
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                configText = _readEntry(archive, "config.json", path)
                content = _readEntry(archive, "model.weights.h5", path)
            _refuseEndlessHeap(content, path)
            with h5py.File(io.BytesIO(content), "r") as file:
                yield _storedContent(file, configText, path)
        elif h5py.is_hdf5(path):
            with open(path, "rb") as raw, mmap.mmap(raw.fileno(), 0, access=mmap.ACCESS_READ) as content:
                _refuseEndlessHeap(content, path)
            with h5py.File(path, "r") as file:
                yield _storedContent(file, file.attrs.get("model_config"), path)
        else:
            raise PipelineError("is neither an HDF5 file (.h5) nor a .keras archive", file=path)
    except PipelineError:
        raise
    except UNREADABLE as error:
        raise PipelineError(f"is damaged or no model of Keras: {error}", file=path) from error


def _readEntry(archive: zipfile.ZipFile, name: str, path: Path) -> bytes:
    """Content of one archive entry, refused when absurdly large."""
    size = archive.getinfo(name).file_size
    if size > MAXIMUM_BYTES:
        rule = f"entry {name} is too large"
        raise PipelineError(rule, file=path, expected="at most 2 GiB", received=f"{size} bytes")
    return archive.read(name)


def _refuseEndlessHeap(content: bytes | mmap.mmap, path: Path) -> None:
    """Refuse damaged text storage: HDF5 (1.14.6) loops for ever over an entry without length."""
    start = -1
    while (start := content.find(b"GCOL\1\0\0\0", start + 1)) >= 0:
        position, stop = start + 16, start + int.from_bytes(content[start + 8 : start + 16], "little")
        while position + 16 <= min(stop, len(content)):
            index, size = struct.unpack_from("<H6xQ", content, position)
            step = 16 + -(-size // 8) * 8 if index else size  # entry 0 is the free space, its header included
            if not 0 < step <= stop - position:
                raise PipelineError("is damaged: its text storage is broken", file=path)
            position += step


def _storedContent(file: "h5py.File", configText, path: Path) -> tuple[dict | None, StoredLayers, bool]:
    """Read configuration and layers of an open file after a walk that refuses links out of it."""
    _refuseLinks(file, path)
    config = None if configText is None else json.loads(configText)["config"]
    isNumbered = "layers" in file
    stored = _numberedLayers(file["layers"]) if isNumbered else _legacyLayers(file)
    if not stored:
        raise PipelineError("holds no weights", file=path)
    return config, stored, isNumbered


def _refuseLinks(file: "h5py.File", path: Path) -> None:
    """Refuse anything that makes HDF5 open another file or follow another path."""
    import h5py

    seen, pending = set(), [file]
    while pending:
        group = pending.pop()
        address = h5py.h5o.get_info(group.id).addr
        if address in seen:  # hard links may lead back to a group that contains them
            continue
        seen.add(address)
        for name in group:
            link = group.get(name, getlink=True)
            if not isinstance(link, h5py.HardLink):
                kind = "an external link" if isinstance(link, h5py.ExternalLink) else "a soft link"
                raise PipelineError(f"{group.name}/{name} is {kind}, which is never followed", file=path)
            item = group[name]
            if isinstance(item, h5py.Group):
                pending.append(item)
            elif isinstance(item, h5py.Dataset) and (item.external or item.is_virtual):
                rule = f"{item.name} keeps its data in another file, which is never read"
                raise PipelineError(rule, file=path)


def _legacyLayers(file: "h5py.File") -> StoredLayers:
    """Layers of an .h5 written by Keras 2 or by model.save("*.h5") of Keras 3."""
    group = file["model_weights"] if "model_weights" in file else file
    stored = {}
    for layerName in _textList(group, "layer_names"):
        paths = _textList(group[layerName], "weight_names")
        if paths:
            variables = {path.rsplit("/", 1)[-1].split(":")[0]: group[layerName][path] for path in paths}
            if len(variables) != len(paths):
                raise ValueError(f"layer {layerName} lists a variable twice")
            stored[layerName] = variables
    return stored


def _numberedLayers(layers: "h5py.Group") -> StoredLayers:
    """Layers of the Keras 3 format: groups conv3d, conv3d_1, ... in data-flow order, variables 0, 1, ..."""
    numbers = {name: re.fullmatch(r"(.*?)(?:_(\d+))?", name, re.DOTALL).groups() for name in layers}
    stored = {}
    for name in sorted(numbers, key=lambda name: int(numbers[name][1] or 0)):
        variables = layers[name].get("vars", {})
        known = VARIABLES.get(GROUP_KINDS.get(numbers[name][0]), ())
        names = [*known, *map(str, range(len(known), len(variables)))]  # one too many keeps its number
        if len(variables):
            stored[name] = {names[index]: variables[str(index)] for index in range(len(variables))}
    return stored


def _textList(group: "h5py.Group", name: str) -> list[str]:
    """Attribute that lists names, in one piece or in the chunks that Keras cuts a long one into."""
    pieces = [group.attrs[name]] if name in group.attrs else []
    while f"{name}{len(pieces)}" in group.attrs and name not in group.attrs:
        pieces.append(group.attrs[f"{name}{len(pieces)}"])
    if not pieces:
        raise KeyError(f"{group.name} has no list {name}")
    return [item.decode() if isinstance(item, bytes) else str(item) for piece in pieces for item in piece]


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


# -------------------------------------------------------------------------------- which stored layer is which


def _namesByOrder(plan: list[Layer], stored: StoredLayers, path: str | Path) -> dict[str, str]:
    """Weights alone carry no graph: the layers of each kind correspond in data-flow order."""
    names = {}
    for kind in VARIABLES:
        expected = [layer.name for layer in plan if layer.kind == kind]
        received = [name for name, variables in stored.items() if VARIABLES[kind][0] in variables]
        if len(expected) != len(received):
            rule = f"another number of layers of the kind {kind}"
            raise PipelineError(rule, file=path, expected=len(expected), received=len(received))
        names |= dict(zip(expected, received, strict=True))
    return names


def _namesByGraph(plan: list[Layer], config: dict, path: str | Path) -> dict[str, str]:
    """Walk both graphs from the output back to the input; every layer must agree."""
    stored = {layer["config"]["name"]: layer for layer in config["layers"]}
    if len(stored) != len(config["layers"]):
        raise PipelineError("several layers have the same name", file=path)
    _refuseCode(stored, path)
    expected = {layer.name: layer for layer in plan}
    names, pending = {}, [(plan[-1].name, _outputName(config, path))]
    while pending:
        name, storedName = pending.pop()
        if name in names:
            if names[name] != storedName:
                rule = f"layer {storedName} stands where {names[name]} should be used again"
                raise PipelineError(rule, file=path)
            continue
        names[name] = storedName
        _compareLayer(expected[name], stored[storedName], path)
        inputs = _inputNames(storedName, stored[storedName]["inbound_nodes"], path)
        if len(inputs) != len(expected[name].inputs):
            rule, wanted = f"layer {storedName} reads another number of layers", len(expected[name].inputs)
            raise PipelineError(rule, file=path, expected=wanted, received=len(inputs))
        pending += zip(expected[name].inputs, inputs, strict=True)
    unused = set(stored) - set(names.values())
    if unused:
        raise PipelineError(f"layers {sorted(unused)} do not belong to the network", file=path)
    return names


def _refuseCode(stored: dict[str, dict], path: str | Path) -> None:
    """Refuse Lambda layers and classes that the network does not have."""
    for name, layer in stored.items():
        className = layer["class_name"]
        if className == "Lambda":
            rule = f"layer {name} is a Lambda layer: code in a model file is never executed"
            raise PipelineError(rule, file=path)
        registered = layer.get("registered_name") or className  # the user's own class may share a name
        if className not in KIND_OF_CLASS or registered != className:
            rule = f"layer {name} does not belong to the 3D U-Net"
            raise PipelineError(rule, file=path, received=f"class {registered}")


def _outputName(config: dict, path: str | Path) -> str:
    """Name of the single output layer: ["name", 0, 0] or [["name", 0, 0]]."""
    outputs = config["output_layers"]
    if isinstance(outputs[0], str):
        return outputs[0]
    if len(outputs) > 1:
        raise PipelineError("has several outputs", file=path, expected=1, received=len(outputs))
    return outputs[0][0]


def _inputNames(name: str, nodes: list, path: str | Path) -> list[str]:
    """Layers that a stored layer reads, in the notation of Keras 2 ([[[name, 0, 0, {}]]]) or 3 (args)."""
    if not nodes:
        return []
    if len(nodes) > 1:
        raise PipelineError(f"layer {name} is used {len(nodes)} times", file=path, expected="once")
    if isinstance(nodes[0], dict):
        tensors, *options = nodes[0]["args"]
        options += nodes[0]["kwargs"].values()
        tensors = tensors if isinstance(tensors, list) else [tensors]
        inputs = [tensor["config"]["keras_history"] for tensor in tensors]
    else:
        inputs = [nodes[0]] if isinstance(nodes[0][0], str) else nodes[0]
        options = [value for tensor in inputs for settings in tensor[3:] for value in settings.values()]
    if any(value not in (None, False) for value in options):  # normalisation called with training=True
        raise PipelineError(f"layer {name} is called with options", file=path, received=options)
    return [tensor[0] for tensor in inputs]


def _compareLayer(expected: Layer, stored: dict, path: str | Path) -> None:
    """Refuse a stored layer that computes something else than the plan's."""
    config, kind = stored["config"], KIND_OF_CLASS[stored["class_name"]]
    if kind != expected.kind:
        rule = f"layer {expected.name}: another architecture"
        received = f"{config['name']} ({stored['class_name']})"
        raise PipelineError(rule, file=path, expected=expected.kind, received=received)
    allowed = SETTINGS[kind] | _sizeSettings(expected)
    for setting, values in allowed.items():
        received = _plainValue(config.get(setting, values[0]))
        if not any(_isSame(received, value) for value in values):
            rule = f"layer {config['name']} (here {expected.name}): another {setting}"
            raise PipelineError(rule, file=path, expected=values[0], received=received)


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
