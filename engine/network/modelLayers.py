"""Which layer of a model file is which of the plan, and whether it computes the same."""

import math
from pathlib import Path

from engine.base.errors import PipelineError
from engine.network.modelStorage import StoredLayers
from engine.network.plan import VARIABLES, Layer

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


def namesByOrder(plan: list[Layer], stored: StoredLayers, path: str | Path) -> dict[str, str]:
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


def namesByGraph(plan: list[Layer], config: dict, path: str | Path) -> dict[str, str]:
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
