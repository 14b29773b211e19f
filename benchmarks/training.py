"""Speed and memory of the training: a step against PyTorch, the input against the step, small and large sets.

    pip install -r benchmarks/requirements.txt -r benchmarks/requirements-peers.txt
    python3 benchmarks/training.py

Table 1 times steps of the published network on two patches of 64^3 (loss, gradient, optimiser and, but for
PyTorch, metrics included), as it is trained and with Keras's own layers, every side in a process of its own,
in turn. Table 2 times the same steps with batches drawn from the disk. Table 3 trains from a small and from a
large set, and for more epochs: whole commands. Table 4 times whole epochs, as the network is trained and with
the reading of the batches left to Keras. Table 5 times the ways of a convolution that fastLayers.py (in
engine/learning/) chooses from, in one process, in turn.
"""

import argparse
import importlib.util
import itertools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import measure
import numpy as np
import peers

from engine.base.machine import instructionSet

PATCH, BATCH, STEPS, WARM = 64, 2, 12, 3
TURNS = 6  # blocks of steps, drawn and cached in turn
EPOCH_STEPS, EPOCHS = 50, 6  # of the robust recipe; how many of each kind, in turn
ROUTE_SHAPES = ((64, 1, 8), (64, 8, 8), (32, 16, 16), (16, 32, 32), (8, 64, 64))  # side, features
UP_SHAPES = ((64, 16, 8), (32, 32, 16), (16, 64, 32))  # finer side, features
SUB_VOLUME = (192, 192, 64)
RUNS = ((0.1, 1), (6.0, 1), (0.1, 10))  # GB of training images, epochs of 20 steps: what memory may grow with
ROOT = measure.ROOT

# ------------------------------------------------------------------------------------- tasks, one a process


def makeBatch() -> tuple[np.ndarray, np.ndarray]:
    """Make a batch of noise."""
    images = np.random.default_rng(0).standard_normal((BATCH, *(PATCH,) * 3, 1)).astype(np.float32)
    return images, (images > 2).astype(np.float32)


def stepKeras(precision: str, isOwn: bool) -> dict:
    """Time steps of the network as trainingAndValidation.py trains it, or with Keras's own layers."""
    model = _buildTrained("published", precision, isOwn)
    images, masks = makeBatch()
    seconds = []
    for _ in range(STEPS + WARM):
        begin = time.perf_counter()
        model.train_on_batch(images, masks)
        seconds.append(time.perf_counter() - begin)
    return {"seconds": statistics.median(seconds[WARM:])}


def stepTorch(precision: str, channelsLast: bool) -> dict:
    """Time steps of the same network in PyTorch."""
    import torch

    plan, weights = peers.readNetwork()
    network = peers.buildTorchNetwork(plan, weights).train().requires_grad_(True)
    images, masks = (torch.tensor(array).permute(0, 4, 1, 2, 3) for array in makeBatch())
    order = torch.channels_last_3d if channelsLast else torch.contiguous_format
    network, images = network.to(memory_format=order), images.contiguous(memory_format=order)
    optimiser = torch.optim.Adam(network.parameters(), 0.005)
    seconds = []
    for _ in range(STEPS + WARM):
        begin = time.perf_counter()
        optimiser.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            answer = network(images)
        answer = answer.float().clamp(1e-7, 1 - 1e-7)
        torch.nn.functional.binary_cross_entropy(answer, masks).backward()
        optimiser.step()
        seconds.append(time.perf_counter() - begin)
    return {"seconds": statistics.median(seconds[WARM:])}


def fitBatches(place: str) -> dict:
    """Time steps of the robust recipe, in turn with always the same batch and with batches from the disk."""
    from engine.base.parameters import pick
    from engine.learning.batches import Batches, asDataset
    from engine.learning.steps import stackPairs
    from engine.preparation.samples import Samples
    from functions import Drawing, drawBatch

    keras, script = _loadScript()
    arguments = script.parseArguments(["--recipe", "robust"])
    samples = Samples(*(Path(place) / f"trainingData{kind}.npy" for kind in ("Image", "Mask")))
    drawing = pick(Drawing, arguments)
    model = _buildTrained("robust", "float32", False)
    cached = stackPairs(drawBatch(samples, drawing, 0, 0))

    def read(step: int):
        isDrawn = step // STEPS % 2
        return stackPairs(drawBatch(samples, drawing, 0, step)) if isDrawn else cached

    instants = []
    note = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: instants.append(time.perf_counter())
    )
    batches = asDataset(Batches(read, range((1 + TURNS) * STEPS)))
    model.fit(batches, verbose=0, shuffle=False, callbacks=[note])
    # the first block warms up; the first step of a block had its batch read during the block before
    steps = np.diff(instants)[STEPS - 1 :].reshape(TURNS, STEPS)[:, 1:].mean(axis=1)
    return {"drawn": float(np.median(steps[::2])), "same": float(np.median(steps[1::2]))}


def fitEpochs() -> dict:
    """Time epochs without validation, in turn with the batches as a dataset of our own and left to Keras."""
    from engine.learning.batches import Batches, asDataset

    model, pair = _buildTrained("robust", "float32", False), makeBatch()
    batches = Batches(lambda step: pair, range(EPOCH_STEPS))
    model.fit(asDataset(batches), verbose=0, shuffle=False)  # compiles
    seconds = {"ours": [], "keras": []}
    for _, name in itertools.product(range(EPOCHS), seconds):
        begin = time.perf_counter()
        model.fit(asDataset(batches) if name == "ours" else batches, verbose=0, shuffle=False)
        seconds[name].append(time.perf_counter() - begin)
    return seconds


def timeRoutes() -> dict:
    """Time the ways to convolutions and their gradients; {shape: {part: {way: seconds}}}."""
    from engine.network.devices import usesOneDnn

    assert usesOneDnn()
    import tensorflow as tf

    from engine.learning import fastLayers

    found, generator = {}, np.random.default_rng(0)
    for side, inCount, outCount in ROUTE_SHAPES:
        shape = BATCH, side, side, side
        tensor, upstream = (
            tf.constant(generator.standard_normal((*shape, count), np.float32))
            for count in (inCount, outCount)
        )
        kernel = tf.constant(generator.standard_normal((3, 3, 3, inCount, outCount), np.float32))
        parts = {
            "forward": partial(fastLayers._convolve, tensor, kernel),
            "gradient of the data": partial(fastLayers._convolve, upstream, fastLayers._flip(kernel)),
            "gradient of the kernel": partial(fastLayers._kernelGradient, tensor, upstream),
        }
        ways = {"as it is": ("", 8), "padded first": ("AVX2", 8), "two columns at once": ("AVX-512", 16)}
        found[f"{side}^3, {inCount} to {outCount}"] = {
            name: _timeInTurn({way: _trace(fastLayers, part, *options) for way, options in ways.items()})
            for name, part in parts.items()
        }
    for side, inCount, outCount in UP_SHAPES:
        coarse = tf.constant(generator.standard_normal((BATCH, *(side // 2,) * 3, inCount), np.float32))
        kernel = tf.constant(generator.standard_normal((3, 3, 3, inCount, outCount), np.float32))
        ways = {"up-sampled": _convolveRepeated, "sums of a transposed one": fastLayers.convolveUpSampled}
        calls = {name: _withGradients(way, coarse, kernel) for name, way in ways.items()}
        found[f"{side}^3, {inCount} up-sampled to {outCount}"] = {"with both gradients": _timeInTurn(calls)}
    return found


def _trace(fastLayers, part: Callable, instructions: str, lanes: int) -> Callable:
    """Make a graph of a part as it is computed on some kind of processor."""
    import tensorflow as tf

    fastLayers.instructionSet, fastLayers.vectorLanes = (lambda: instructions), (lambda: lanes)
    call = tf.function(part, autograph=False)
    call()  # traced: the choice is made
    return call


def _convolveRepeated(coarse, kernel):
    """Convolve as Keras's layers do: at the finer level."""
    import tensorflow as tf

    for axis in (1, 2, 3):
        coarse = tf.repeat(coarse, 2, axis=axis)
    return tf.nn.conv3d(coarse, kernel, (1,) * 5, "SAME")


def _withGradients(way: Callable, coarse, kernel) -> Callable:
    """Make a graph of a convolution and both of its gradients."""
    import tensorflow as tf

    @tf.function(autograph=False)
    def call():
        with tf.GradientTape() as tape:
            tape.watch([coarse, kernel])
            result = way(coarse, kernel)
        return result, *tape.gradient(result, [coarse, kernel])

    return call


def _timeInTurn(calls: dict[str, Callable]) -> dict[str, float]:
    """Median seconds of calls of TensorFlow, in turn."""
    seconds = {name: [] for name in calls}
    for _, (name, call) in itertools.product(range(STEPS + WARM), calls.items()):
        begin = time.perf_counter()
        answer = call()
        np.asarray(answer[-1] if isinstance(answer, tuple) else answer)  # waits
        seconds[name].append(time.perf_counter() - begin)
    return {name: statistics.median(values[WARM:]) for name, values in seconds.items()}


def makeSet(place: str, gigabytes: float) -> dict:
    """Write sub-volumes of noise with a few dark blocks: training images of so many gigabytes."""
    generator = np.random.default_rng(1)
    count = max(2, round(gigabytes * 1e9 / 4 / np.prod(SUB_VOLUME)))
    image = generator.standard_normal((*SUB_VOLUME, 1)).astype(np.float32)
    mask = np.zeros(image.shape, bool)
    for x, y, z in generator.integers(8, 50, (40, 3)):
        mask[3 * x : 3 * x + 6, 3 * y : 3 * y + 6, z : z + 6] = True
    image[mask] -= 2
    for part, number in (("training", count), ("validation", 1)):
        for kind, array in (("Image", image), ("Mask", mask)):
            path = Path(place) / f"{part}Data{kind}.npy"
            file = np.lib.format.open_memmap(path, "w+", array.dtype, (number, *array.shape))
            for index in range(number):
                file[index] = array
    return {"count": count}


def _loadScript():
    """Import Keras and the script."""
    import trainingAndValidation
    from engine.network.devices import loadKeras

    return loadKeras(), trainingAndValidation


def _buildTrained(recipe: str, precision: str, isOwn: bool):
    """Build the network that trainingAndValidation.py trains, or one of Keras's own layers."""
    from engine.base.parameters import pick
    from engine.learning.optimiser import Optimisation
    from engine.learning.sharing import Machine, Sharing, buildTrained
    from functions import buildSpotUNet

    _, script = _loadScript()
    arguments = script.parseArguments(["--recipe", recipe, "--precision", precision])
    network = buildSpotUNet()
    optimisation, sharing = pick(Optimisation, arguments), Sharing(pick(Machine, arguments), BATCH)
    trained = buildTrained(buildSpotUNet, network, optimisation, sharing, STEPS * arguments.Nepochs)
    return network if isOwn else trained


# ------------------------------------------------------------------------------------------------ the tables


def runTask(folder: Path, task: str, **options) -> dict:
    """Run a task in a process of its own; gives its answer."""
    command = [sys.executable, __file__, "--task", json.dumps({"task": task, "options": options})]
    measure.runCommand(command, folder)
    lines = (folder / "benchmark.log").read_text().splitlines()
    return json.loads([line for line in lines if line.startswith("{")][-1])


def timeInTurn(sides: dict[str, partial], repeats: int) -> dict[str, float]:
    """Median seconds of every side, run in turn."""
    seconds = {name: [] for name in sides}
    for _, (name, side) in itertools.product(range(repeats), sides.items()):
        seconds[name].append(side()["seconds"])
        print(f"{name}: {seconds[name][-1]:.3f} s", file=sys.stderr)
    return {name: statistics.median(values) for name, values in seconds.items()}


def printSteps(folder: Path, repeats: int) -> None:
    """Print the table of steps."""
    kinds = {
        "ours, float32": ("float32", False),
        "ours with Keras's own layers, float32": ("float32", True),
    }
    hasHalves = instructionSet() in ("AMX", "AVX-512")  # elsewhere a step in bfloat16 takes 20 s
    if hasHalves:
        kinds["ours, mixed_bfloat16 (Keras's own layers)"] = ("mixed_bfloat16", False)
    sides = {
        name: partial(runTask, folder, "stepKeras", precision=precision, isOwn=isOwn)
        for name, (precision, isOwn) in kinds.items()
    }
    if importlib.util.find_spec("torch"):
        precisions = ("float32", "bfloat16") if hasHalves else ("float32",)
        for precision, isLast in itertools.product(precisions, (True, False)):
            name = f"PyTorch, {precision}, channels {'last' if isLast else 'first'}"
            sides[name] = partial(runTask, folder, "stepTorch", precision=precision, channelsLast=isLast)
    seconds = timeInTurn(sides, repeats)
    peerSeconds = [value for name, value in seconds.items() if name.startswith("PyTorch")]
    best = min(peerSeconds, default=float("nan"))
    print(f"### A training step, {BATCH} patches of {PATCH}^3\n")
    print("| side | seconds | Mvoxel/s | speed, PyTorch's best = 1 |\n|---|---|---|---|")
    for name, value in seconds.items():
        print(f"| {name} | {value:.3f} | {BATCH * PATCH**3 / 1e6 / value:.3f} | {best / value:.2f} |")


def printInput(folder: Path, repeats: int) -> None:
    """Print the table of the input."""
    runTask(folder, "makeSet", place=str(folder), gigabytes=1.0)
    runs = []
    for _ in range(repeats):
        runs.append(runTask(folder, "fitBatches", place=str(folder)))
        print(f"same batch {runs[-1]['same']:.3f} s, drawn {runs[-1]['drawn']:.3f} s", file=sys.stderr)
    print("\n### The input, robust recipe, both in turn in one process\n")
    print("| batches | seconds a step | relative, median (span) |\n|---|---|---|")
    same, drawn = (statistics.median(run[name] for run in runs) for name in ("same", "drawn"))
    ratios = sorted(run["drawn"] / run["same"] for run in runs)
    span = f"{statistics.median(ratios):.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f})"
    print(f"| always the same batch | {same:.3f} | 1.000 |\n| drawn from the disk | {drawn:.3f} | {span} |")


def printMemory(folder: Path, repeats: int) -> None:
    """Print the table of memory, of one run each."""
    print(
        "\n### Memory, whole commands\n\n| training images | epochs of 20 steps | peak GiB |\n|---|---|---|"
    )
    for gigabytes, epochCount in RUNS:
        with tempfile.TemporaryDirectory(dir=folder) as place:
            runTask(folder, "makeSet", place=place, gigabytes=gigabytes)
            flags = ["--learningData", place, "--Nepochs", str(epochCount), "--stepsPerEpoch", "20"]
            names = ("metricsFile", "weightFile", "weightFileTrain", "weightFileDice", "modelFile")
            for name in names:
                suffix = "log" if name == "metricsFile" else "h5"
                flags += [f"--{name}", str(Path(place) / f"{name}.{suffix}")]
            command = [sys.executable, str(ROOT / "trainingAndValidation.py"), *flags]
            run = measure.runCommand(command, folder)
        print(f"| {gigabytes:g} GB | {epochCount} | {run.peakGiB:.2f} |", flush=True)


def printEpochs(folder: Path, repeats: int) -> None:
    """Print the table of epochs; they are repeated within one process."""
    seconds = runTask(folder, "fitEpochs")
    print(f"\n### Epochs of {EPOCH_STEPS} steps, always the same batch, both in turn in one process\n")
    print("| batches read by | seconds an epoch, median (span) | speed, median of the pairs |\n|---|---|---|")
    for name, words in (("keras", "Keras (PyDataset)"), ("ours", "ours")):
        values = sorted(seconds[name])
        ratio = statistics.median(np.divide(seconds["keras"], seconds[name]))
        span = f"{statistics.median(values):.1f} ({values[0]:.1f} to {values[-1]:.1f})"
        print(f"| {words} | {span} | {ratio:.2f} |")


def printRoutes(folder: Path, repeats: int) -> None:
    """Print the table of the ways of a convolution; they are repeated within one process."""
    print(f"\n### Routes of a convolution, {BATCH} samples, ms\n")
    found = runTask(folder, "timeRoutes")
    ways = list(dict.fromkeys(way for parts in found.values() for part in parts.values() for way in part))
    print(f"| convolution | part | {' | '.join(ways)} |\n{'|---' * (len(ways) + 2)}|")
    for shape, parts in found.items():
        for part, seconds in parts.items():
            cells = (f"{1e3 * seconds[way]:.1f}" if way in seconds else "" for way in ways)
            print(f"| {shape} | {part} | {' | '.join(cells)} |")


def parseArguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--tables", default="1,2,3,4,5", help="which ones, with commas")
    parser.add_argument("--repeats", type=int, default=5)
    measure.addInstructions(parser)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="of temporary files")
    parser.add_argument("--task", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main(arguments: argparse.Namespace) -> None:
    """Measure and print table by table, or do one task."""
    if arguments.task:
        call = json.loads(arguments.task)
        print(json.dumps(globals()[call["task"]](**call["options"])))
        return
    measure.limitInstructions(arguments.instructions)
    print(f"{measure.describeMachine()}; median of {arguments.repeats}\n", flush=True)
    tables = {"1": printSteps, "2": printInput, "3": printMemory, "4": printEpochs, "5": printRoutes}
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        for table in arguments.tables.split(","):
            tables[table](Path(folder), arguments.repeats)


if __name__ == "__main__":
    main(parseArguments())
