"""The processes of benchmarks/prediction.py: inputs, all that is compared, and the machine's limit.

Every task runs in a process of its own and prints JSON; volumes are float32, z-scored, (x, y, z) unless said
otherwise. MONAI's sliding window needs PyTorch and MONAI:

    pip install -r benchmarks/requirements-peers.txt
"""

import itertools
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import measure
import numpy as np

from engine.base.arrays import mergeMoments
from engine.base.machine import preferInstructions
from engine.formats.nrrdHeaders import describeData, formatHeader
from engine.network.devices import describeDevice, hasGpu
from engine.network.models import Weights
from engine.network.plan import Layer, haloOf, sideMultiple, variableShapes
from engine.prediction.backends import baseMemory, chooseBackend, openStream
from engine.prediction.layout import Geometry, chooseLayout, tileSection
from engine.prediction.openvinoStream import TYPES, loadOpenvino
from engine.prediction.stream import EPSILON, Step, describeStream
from engine.prediction.tasks import Task
from engine.prediction.tiles import predictVolume
from functions import buildModel, readModel

MODELS = measure.ROOT / "modelAndWeights"
MATRIX, SPHERE, OUTSIDE, NOISE = 28200, 24000, 20000, 2500  # grey values, about those of test-file/
SPHERE_SPACING = 24  # voxels, of spheres with radii of 2 to 6
BUDGET = 8.0  # GiB: what the first version took by default
OVERLAP = 0.25  # of MONAI's windows, its default
BATCHES = (1, 2)  # windows of MONAI at a time
TOLERANCE = 1e-4  # between the networks of PyTorch and of Keras
REPEATS = 3  # of a matrix product
TORCH_NAMES = {
    "kernel": "weight",
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}


# --------------------------------------------------------------------------------------------------- inputs


def synthesisePlanes(shape: Iterable[int]) -> Iterator[np.ndarray]:
    """Make up a specimen plane by plane, (y, x) uint16; nothing but the plane is held."""
    from scipy.ndimage import gaussian_filter

    width, height, depth = shape
    generator = np.random.default_rng(0)
    count = math.ceil(width * height * depth / SPHERE_SPACING**3)
    centres, radii = generator.uniform(0, shape, (count, 3)), generator.uniform(2, 6, count)
    y, x = np.ogrid[:height, :width]
    isInside = (x / width - 0.5) ** 2 + (y / height - 0.5) ** 2 < 0.45**2
    for z in range(depth):
        plane = np.where(isInside, np.float32(MATRIX), np.float32(OUTSIDE))
        for index in np.flatnonzero(np.abs(centres[:, 2] - z) < radii):
            column, row, level = centres[index]
            radius = math.sqrt(radii[index] ** 2 - (z - level) ** 2)
            rows, columns = (slice(max(0, int(c - radius)), int(c + radius) + 2) for c in (row, column))
            disc = (x[:, columns] - column) ** 2 + (y[rows] - row) ** 2 <= radius**2
            plane[rows, columns][disc] = SPHERE
        noise = gaussian_filter(generator.standard_normal((height, width), np.float32), 0.6)
        yield (plane + NOISE * noise).astype(np.uint16)


def makeNrrd(path: str, shape: list[int], encoding: str = "raw") -> dict:
    """Write a volume as NRRD, plane by plane."""
    import gzip

    header = describeData({}, tuple(shape), np.dtype("<u2")) | {"encoding": encoding}
    with open(path, "wb") as file:
        file.write(formatHeader(header))
        stream = gzip.GzipFile("", "wb", 6, file) if encoding == "gzip" else file
        for plane in synthesisePlanes(shape):
            stream.write(plane.tobytes())
        stream.close()
    return {}


def makeArrays(target: str, shape: list[int]) -> dict:
    """Save a volume z-scored as float32: planes.npy (z, y, x) and volume.npy (x, y, z), both in C order."""
    planes = np.stack(list(synthesisePlanes(shape)))
    mean, deviation = mergeMoments(planes)
    planes = ((planes - np.float32(mean)) / np.float32(deviation)).astype(np.float32)
    np.save(Path(target) / "planes.npy", planes)
    np.save(Path(target) / "volume.npy", np.ascontiguousarray(planes.T))
    return {}


def compareResults(reference: str, result: str) -> dict:
    """Compare two probabilities (x, y, z) plane by plane."""
    pair = [np.load(name, mmap_mode="r") for name in (reference, result)]
    largest, total, equal = 0.0, 0.0, 0
    for expected, received in zip(*pair, strict=True):
        difference = np.abs(expected - received)
        largest, total = max(largest, float(difference.max())), total + float(difference.sum(dtype=float))
        equal += int(np.count_nonzero((expected >= 0.5) == (received >= 0.5)))
    return {"largest": largest, "mean": total / pair[0].size, "agreement": equal / pair[0].size}


def findGpu() -> dict:
    """Name the GPU that Keras would compute on."""
    return {"gpu": describeDevice() if hasGpu() else None}


# --------------------------------------------------------------------------------------- ours and Keras


def readNetwork() -> tuple[list[Layer], Weights]:
    """Read the shipped network."""
    return readModel(MODELS / "final-uNet_model.h5", MODELS / "final-trained-weights.h5")


def timePrediction(
    predict: Callable[[], np.ndarray], result: str | None, warmUp: Callable | None = None
) -> dict:
    """Predict to warm up, then by the clock; the probabilities are kept where a file name is given."""
    (warmUp or predict)()
    begin = time.perf_counter()
    probability = predict()
    seconds = time.perf_counter() - begin
    if result:
        np.save(result, probability)
    return {"seconds": seconds}


class ArraySink:
    """Probabilities (z, y, x) in memory."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.probability, self.finished = np.empty(shape, np.float32), ()

    def write(self, planes: np.ndarray, plane: int, row: int, column: int) -> None:
        """Take probabilities (plane, row, column) that begin at this voxel."""
        ends = (start + length for start, length in zip((plane, row, column), planes.shape, strict=True))
        self.probability[tuple(map(slice, (plane, row, column), ends))] = planes

    def commit(self, task: Task) -> None:
        """Note nothing: an array needs no journal."""


def predictByStream(volume: str, engine: str, precision: str, result: str | None = None) -> dict:
    """Predict as predictData.py does, from memory to memory; the volume is (z, y, x)."""
    plan, weights = readNetwork()
    preferInstructions(engine, precision)
    steps, backend = describeStream(plan, weights), chooseBackend(engine, precision)
    geometry = Geometry(np.load(volume, mmap_mode="r").shape, sideMultiple(plan), haloOf(plan))
    layout = chooseLayout(geometry, steps, backend.byteCount, BUDGET, baseMemory(backend))
    stream = openStream(backend, steps, layout.slab, tileSection(geometry, layout))
    planes = np.load(volume)

    def readPlanes(plane: int, rows: tuple, columns: tuple, slab: int) -> Iterator[np.ndarray]:
        for first in range(plane, len(planes), slab):
            yield planes[first : first + slab, slice(*rows), slice(*columns)]

    def predict() -> np.ndarray:
        sink = ArraySink(planes.shape)
        predictVolume(readPlanes, geometry, layout, stream, sink)
        return sink.probability.T

    return timePrediction(predict, result) | {"layout": list(layout)}


def predictByKeras(volume: str, result: str | None = None) -> dict:
    """Predict in one pass of Keras, float32: the reference."""
    model = buildModel(*readNetwork())
    image = np.load(volume)[np.newaxis, ..., np.newaxis]
    return timePrediction(lambda: model.predict_on_batch(image)[0, ..., 0], result)


def predictByHaloBlocks(volume: str, result: str | None = None) -> dict:
    """Predict in exact blocks of Keras, float32."""
    import haloBlocks

    plan, weights = readNetwork()
    model, image = buildModel(plan, weights), np.load(volume)
    blocks = haloBlocks.chooseSplit(image.shape, plan, BUDGET)

    def predict() -> np.ndarray:
        return haloBlocks.predictInBlocks(model.predict_on_batch, image, plan, BUDGET)

    return timePrediction(predict, result) | {"blocks": int(np.prod(blocks))}


# ---------------------------------------------------------------------------- PyTorch, OpenVINO and MONAI


def buildTorchNetwork(plan: list[Layer], weights: Weights):
    """Write the network of a plan in PyTorch.

    Returns
    -------
    torch.nn.Module
        (sample, 1, x, y, z) -> probability of the same shape; in evaluation mode.
    """
    import torch

    class Network(torch.nn.Module):
        """Layers in data-flow order; a tensor is forgotten after its last reader."""

        def __init__(self) -> None:
            super().__init__()
            self.steps = torch.nn.ModuleDict({layer.name: _torchLayer(layer, weights) for layer in plan[1:]})
            self.last = {name: layer.name for layer in plan for name in layer.inputs}

        def forward(self, image):
            made = {plan[0].name: image}
            for layer in plan[1:]:
                inputs = [made[name] for name in layer.inputs]
                tensor = torch.cat(inputs, 1) if len(inputs) > 1 else inputs[0]
                made[layer.name] = self.steps[layer.name](tensor)
                made = {name: held for name, held in made.items() if self.last.get(name) != layer.name}
            return made[plan[-1].name]

    return Network().eval()


def _torchLayer(layer: Layer, weights: Weights):
    """Layer of PyTorch with its weights."""
    import torch

    nn, variables = torch.nn, weights.get(layer.name, {})
    if layer.kind == "convolution":
        width = variables["kernel"].shape[3]
        module = nn.Conv3d(width, layer.filters, layer.kernel, padding=layer.kernel // 2)
        variables = variables | {"kernel": variables["kernel"].transpose(4, 3, 0, 1, 2)}
    elif layer.kind == "normalisation":
        module = nn.BatchNorm3d(len(variables["gamma"]), eps=EPSILON)
    else:
        up, identity = nn.Upsample(scale_factor=2), nn.Identity()  # concatenations are written in `forward`
        plain = {"relu": nn.ReLU(inplace=True), "pool": nn.MaxPool3d(2), "upSample": up}
        return plain.get(layer.kind, identity)
    arrays = {TORCH_NAMES[name]: torch.tensor(array.copy()) for name, array in variables.items()}
    module.load_state_dict(arrays, strict=False)
    return nn.Sequential(module, nn.Sigmoid()) if layer.activation == "sigmoid" else module


def checkTorchNetwork(shape: Iterable[int] = (32, 48, 40)) -> dict:
    """Make sure that the network in PyTorch gives what the one in Keras gives; AssertionError if not."""
    import torch

    plan, weights = readNetwork()
    image = np.random.default_rng(0).standard_normal(tuple(shape), np.float32)
    expected = np.asarray(buildModel(plan, weights)(image[np.newaxis, ..., np.newaxis], training=False))
    with torch.inference_mode():
        received = buildTorchNetwork(plan, weights)(torch.from_numpy(image)[None, None]).numpy()
    np.testing.assert_allclose(received[0, 0], expected[0, ..., 0], rtol=0, atol=TOLERANCE)
    return {"largest": float(np.abs(received[0, 0] - expected[0, ..., 0]).max())}


def predictByTorch(volume: str, channelsLast: bool, result: str | None = None) -> dict:
    """Predict in one pass of PyTorch, float32."""
    import torch

    network, image = _prepareNetwork(channelsLast), torch.from_numpy(np.load(volume))[None, None]

    def predict() -> np.ndarray:
        with torch.inference_mode():
            return network(image)[0, 0].numpy()

    return timePrediction(predict, result)


def predictByOpenvino(volume: str, result: str | None = None) -> dict:
    """Predict in one pass of OpenVINO, float32, from the network in PyTorch as OpenVINO's users do it."""
    import torch

    image = np.load(volume)[np.newaxis, np.newaxis]
    ov, example = loadOpenvino(), torch.zeros((1, 1, 16, 16, 16))
    network = ov.convert_model(_prepareNetwork(False), example_input=example, input=list(image.shape))
    settings = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    request = ov.Core().compile_model(network, "CPU", settings).create_infer_request()
    return timePrediction(lambda: request.infer([image], share_inputs=True)[0][0, 0], result)


def chooseMonaiSettings(precision: str, window: int) -> dict:
    """Find the faster memory format and number of windows at a time."""
    import torch

    generator = np.random.default_rng(0)
    windows = torch.from_numpy(generator.standard_normal((max(BATCHES), 1, *[window] * 3), np.float32))
    seconds = {}
    for channelsLast, batch in itertools.product((False, True), BATCHES):
        network = _prepareNetwork(channelsLast)
        with torch.inference_mode(), _autocast(precision):
            network(windows[:batch])
            begin = time.perf_counter()
            network(windows[:batch])
        seconds[(time.perf_counter() - begin) / batch] = {"channelsLast": channelsLast, "batch": batch}
    return seconds[min(seconds)]


def predictByMonai(
    volume: str, precision: str, window: int, channelsLast: bool, batch: int, result: str | None = None
) -> dict:
    """Predict by MONAI's sliding window, blended as MONAI does by default."""
    import torch
    from monai.inferers import SlidingWindowInferer

    network = _prepareNetwork(channelsLast)
    slide = SlidingWindowInferer((window,) * 3, batch, overlap=OVERLAP, mode="constant")
    image = torch.from_numpy(np.load(volume))[None, None]

    def predict() -> np.ndarray:
        with torch.inference_mode(), _autocast(precision):
            return slide(image, network)[0, 0].float().numpy()

    def warmUp() -> None:
        with torch.inference_mode(), _autocast(precision):
            network(torch.zeros((batch, 1, window, window, window)))

    return timePrediction(predict, result, warmUp)


def _prepareNetwork(channelsLast: bool):
    """Network in one of the memory formats."""
    import torch

    network = buildTorchNetwork(*readNetwork())
    return network.to(memory_format=torch.channels_last_3d) if channelsLast else network


def _autocast(precision: str):
    """Context in which PyTorch computes in a precision."""
    import torch

    return torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16")


# --------------------------------------------------------------------------------------- machine's own limit


def multiplyMatrices(library: str, precision: str, side: int) -> dict:
    """Time the product of two large square matrices, the best of several; multiply-adds a second."""
    generator = np.random.default_rng(0)
    arrays = [generator.standard_normal((side, side), np.float32) for _ in range(2)]
    build = {"numpy": _numpyProducts, "openvino": _openvinoProducts, "torch": _torchProducts}[library]
    seconds = []
    for product in build(*arrays, precision):
        product()
        for _ in range(REPEATS):
            begin = time.perf_counter()
            product()
            seconds.append(time.perf_counter() - begin)
    return {"seconds": min(seconds), "rate": side**3 / min(seconds)}


def _numpyProducts(first: np.ndarray, second: np.ndarray, precision: str) -> Iterator[Callable]:
    """Product by the BLAS of NumPy, float32."""
    target = np.empty_like(first)
    yield lambda: np.matmul(first, second, out=target)


def _torchProducts(first: np.ndarray, second: np.ndarray, precision: str) -> Iterator[Callable]:
    """Product by PyTorch."""
    import torch

    matrices = [torch.from_numpy(array).to(getattr(torch, precision)) for array in (first, second)]
    yield lambda: torch.matmul(*matrices)


def _openvinoProducts(first: np.ndarray, second: np.ndarray, precision: str) -> Iterator[Callable]:
    """Products by OpenVINO, of a matrix and a constant as weights are, and of two matrices: other kernels."""
    ov, hint = loadOpenvino(), TYPES[precision][0]
    opset, kind, shape = ov.opset13, getattr(ov.Type, hint), list(first.shape)
    settings = {"INFERENCE_PRECISION_HINT": hint, "PERFORMANCE_HINT": "LATENCY"}
    encoded = [_encode(array, precision) for array in (first, second)]  # a tensor does not own its memory
    for isConstant in (True, False):
        parameters = [opset.parameter(shape, kind) for _ in range(1 if isConstant else 2)]
        factors = [*parameters, opset.constant(second, kind)][:2]
        model = ov.Model([opset.result(opset.matmul(*factors, False, False))], parameters, "product")
        request = ov.Core().compile_model(model, "CPU", settings).create_infer_request()
        for index in range(len(parameters)):
            request.set_input_tensor(index, ov.Tensor(encoded[index], shape, kind))
        yield request.infer


def _encode(array: np.ndarray, precision: str) -> np.ndarray:
    """Array in a precision; bfloat16 as uint16, the upper half of a float32."""
    if precision == "bfloat16":
        return np.ascontiguousarray(array.view(np.uint16)[:, 1::2])
    return array.astype(precision)


def countPublished(plan: list[Layer]) -> float:
    """Count the multiply-adds of the network as it is published, per voxel of the volume."""
    shapes, levels, total = variableShapes(plan), {}, 0.0
    for layer in plan:
        level = max([levels[name] for name in layer.inputs], default=0)
        levels[layer.name] = level + (layer.kind == "pool") - (layer.kind == "upSample")
        if layer.kind == "convolution":
            total += math.prod(shapes[layer.name]["kernel"]) / 8**level
    return total


def countStream(steps: list[Step]) -> float:
    """Count those of the stream, which computes nothing of what is up-sampled at the finer level.

    A coarse voxel takes 27 products a channel: the sums that follow are no multiply-adds. Where two columns
    are computed at once (AVX-512) it takes more, with the zeros of the packed kernels.
    """
    total = 0.0
    for step in steps:
        for index, kernel in enumerate(step.kernels):
            total += kernel.size / 8 ** (step.level + (index > 0))
        total += step.head[0].size / 8**step.level if step.head else 0
    return total


if __name__ == "__main__":
    call = json.loads(sys.argv[1])
    if not call["onGpu"]:
        os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    print(json.dumps(globals()[call["task"]](**call["options"])))
