"""The benchmark of the prediction at tiny sizes: its sides agree, its counts and its arithmetic are right."""

import importlib
import importlib.util
import json
import math
import re
import subprocess
import sys

import haloBlocks
import networks
import nrrd
import numpy as np
import peers
import prediction
import pytest

from engine.prediction.stream import describeStream
from functions import buildModel, describeUNet

SHAPE = [16, 24, 32]
HAS_TORCH = bool(importlib.util.find_spec("torch"))
HAS_MONAI = all(map(importlib.util.find_spec, ("torch", "monai")))


def runHere(folder, task, onGpu=False, **options):
    """Run a task in this process; what other tests try, or cannot be tried, is answered at once."""
    known = {"findGpu": {"gpu": "a GPU"}, "checkTorchNetwork": {}}
    known["chooseMonaiSettings"] = {"channelsLast": True, "batch": 2}
    answer = known[task] if task in known else getattr(peers, task)(**options)
    return prediction.Outcome(answer.get("seconds", 0.5), 0.25, "", answer)


@pytest.fixture(autouse=True, scope="module")
def oneThread():
    """Tiny layers on several threads of PyTorch wait for one another, the longer the busier the machine."""
    if HAS_MONAI:
        importlib.import_module("torch").set_num_threads(1)


@pytest.fixture
def arguments(tmp_path):
    options = ["--repeats", "1", "--folder", str(tmp_path), "--depths", "8", "16"]
    for name in ("shape", "largeShape", "budgetShape", "gpuArrayShape", "gpuShape"):
        options += [f"--{name}", *map(str, SHAPE)]
    return prediction.parseArguments(options)


def readTables(text):
    """Rows of the tables in a text, as lists of words: [[[cell, ...], ...], ...]."""
    tables = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    return [[line.strip("| ").split(" | ") for line in table.splitlines()[2:]] for table in tables]


# ---------------------------------------------------------------------------------------------- the counts


def testMultiplyAddsOfThePublishedNetworkAreThoseOfKerasLayers():
    import keras

    model = networks.buildPublished(keras)
    layers = [layer for layer in model.layers if isinstance(layer, keras.layers.Conv3D)]
    outputs = keras.Model(model.input, [layer.output for layer in layers])(np.zeros((1, 16, 16, 16, 1)))
    total = sum(
        math.prod(layer.kernel.shape) * math.prod(output.shape[1:4])
        for layer, output in zip(layers, outputs, strict=True)
    )
    assert peers.countPublished(describeUNet()) == total / 16**3 == 16_316


def testStreamNeedsAnEighthOfTheProductsForWhatIsUpSampled():
    plan = describeUNet()
    steps = describeStream(plan, networks.randomWeights(plan))
    saved = (16 * 8 + 32 * 16 / 8 + 64 * 32 / 64) * (27 - 27 / 8)
    assert peers.countStream(steps) == 16_316 - saved == 11_024


# ------------------------------------------------------------------------------------------------- the sides


def testHaloBlocksEqualOnePass():
    plan = describeUNet(2, 2)
    model = buildModel(plan, networks.randomWeights(plan))
    volume = networks.randomVolume(8, 12, 64)
    budget = haloBlocks.GIB_PER_MVOXEL / 1e6 * 8 * 12 * 40
    assert haloBlocks.chooseSplit(volume.shape, plan, budget) == [1, 1, 2]
    assert haloBlocks.chooseSplit(volume.shape, plan, 8.0) == [1, 1, 1]
    received = haloBlocks.predictInBlocks(model.predict_on_batch, volume, plan, budget)
    expected = networks.passOnce(model, volume)
    assert np.ptp(expected) > 0.2
    np.testing.assert_allclose(received, expected, rtol=0, atol=1e-6)


def testTorchNetworkEqualsThatOfKeras():
    pytest.importorskip("torch")
    assert peers.checkTorchNetwork((8, 24, 16))["largest"] < 1e-5


def testTorchNetworkWithAnotherWeightIsNoticed(monkeypatch):
    pytest.importorskip("torch")
    build = peers.buildTorchNetwork

    def buildWrong(plan, weights):
        last = weights["probability"] | {"bias": weights["probability"]["bias"] + 1}
        return build(plan, weights | {"probability": last})

    monkeypatch.setattr(peers, "buildTorchNetwork", buildWrong)
    with pytest.raises(AssertionError, match="tolerance"):
        peers.checkTorchNetwork((8, 8, 16))


def testSettingsOfMonaiAreChosenAmongThoseThatThereAre():
    pytest.importorskip("torch")
    answer = peers.chooseMonaiSettings("bfloat16", 8)
    assert answer["batch"] in peers.BATCHES
    assert set(answer) == {"batch", "channelsLast"}


@pytest.mark.parametrize("precision", prediction.PRECISIONS)
def testProductIsTimedInEveryPrecision(precision):
    pytest.importorskip("openvino")
    answer = peers.multiplyMatrices("openvino", precision, 64)
    assert answer["rate"] == 64**3 / answer["seconds"] > 0


def testDifferencesAreThoseOfNumPy(tmp_path):
    expected, received = np.full((2, 3, 4), 0.4, np.float32), np.full((2, 3, 4), 0.4, np.float32)
    received[1, 2, 3] = 0.9
    for name, array in (("a", expected), ("b", received)):
        np.save(tmp_path / f"{name}.npy", array)
    answer = peers.compareResults(str(tmp_path / "a.npy"), str(tmp_path / "b.npy"))
    assert answer == pytest.approx({"largest": 0.5, "mean": 0.5 / 24, "agreement": 23 / 24})


# ------------------------------------------------------------------------------------------------ the tables


@pytest.mark.slow
def testNetworkTableHasARowForEverySideAndSmallDifferences(arguments, tmp_path, monkeypatch, capsys):
    pytest.importorskip("openvino")
    monkeypatch.setattr(prediction, "runTask", runHere)
    monkeypatch.setattr(prediction, "WINDOWS", (16,))
    monkeypatch.setattr(prediction, "PRODUCT_SIDE", 64)
    monkeypatch.setattr(prediction, "instructionSet", lambda: "AVX-512")  # any processor can, of this size
    rates = {}
    prediction.printNetwork(arguments, tmp_path, rates)
    text = capsys.readouterr().out
    network, limit = readTables(text)
    sides = {row[0]: row for row in network}
    assert len(network) == 5 + 3 * HAS_TORCH + 2 * HAS_MONAI
    assert ("Left out: PyTorch and OpenVINO" in text) is not HAS_TORCH
    assert ("Left out: MONAI" in text) is not HAS_MONAI
    assert sum("(auto)" in side for side in sides) == 1
    assert sides["Keras, one pass, float32"][4:] == ["1.00", "0.0e+00", "0.0e+00", "100.0000 %"]
    exact = [row for side, row in sides.items() if side.startswith(("halo", "stream, float32"))]
    assert len(exact) == 2
    assert all(float(row[5]) < 1e-4 for row in exact)
    assert all(float(row[6]) < 0.02 for row in network)
    assert set(rates) == set(prediction.PRECISIONS) == {row[0] for row in limit}
    speeds = {row[0].split()[1]: float(row[1]) for row in network if row[0].startswith("stream")}
    assert speeds == pytest.approx(rates, abs=0.006)


def testSideThatFailsIsLeftOut(tmp_path, monkeypatch, capsys):
    def fail(result):
        raise RuntimeError("command failed:\nout of memory")

    def work(result):
        np.save(result, np.zeros((2, 2, 2)))
        return prediction.Outcome(1.0, 1.0, "", {})

    monkeypatch.setattr(prediction, "runTask", runHere)
    first, differences = prediction.warmUp({"a": work, "b": fail, "c": work}, tmp_path)
    assert list(first) == list(differences) == ["a", "c"]
    assert "Left out: b, as it fails (out of memory)" in capsys.readouterr().out
    with pytest.raises(RuntimeError, match="out of memory"):
        prediction.warmUp({"a": fail, "b": work}, tmp_path)


def testMonaiIsLeftOutWithTheCommandThatInstallsIt(tmp_path, monkeypatch, capsys):
    missing = "torch", "monai"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in missing else name)
    monkeypatch.setattr(prediction, "runTask", lambda *_, **__: pytest.fail("work began"))
    assert not any(side.startswith(("MONAI", "PyTorch")) for side in prediction.listSides(tmp_path))
    assert "pip install -r benchmarks/requirements-peers.txt" in capsys.readouterr().out


def imitateCommands(monkeypatch):
    """Commands that take 0.58 s, and 1 s more for a million voxels; none is run."""

    def imitate(folder, command):
        shape = [int(side) for side in command[3].rsplit("/", 1)[1].split("-")[0].split("x")]
        megavoxels = math.prod(shape) / 1e6
        parts = {"opening": 0.08, "digests": 0.125, "statistics": 0.125, "picture": 0.5}
        parts |= {"prediction": megavoxels - 0.25}
        folder.joinpath("result.json").write_text(json.dumps({"seconds": parts}))
        log = "Stream: 16 planes at a time, 6 tiles (1.50 times the work), 0.75 GiB of memory\n"
        return prediction.Outcome(0.58 + megavoxels, 0.25, log, {})

    monkeypatch.setattr(prediction, "runCommand", imitate)
    monkeypatch.setattr(prediction, "runTask", lambda folder, task, **options: runHere(folder, "findGpu"))


def testStartUpIsTakenOffWholeCommands(arguments, tmp_path, monkeypatch, capsys):
    imitateCommands(monkeypatch)
    arguments.shape = [100, 100, 200]
    precision = prediction.chooseBackend("openvino", "auto").precision
    prediction.printCommand(arguments, tmp_path, {precision: 2.0})
    arguments.depths = [100, 400]
    prediction.printDepth(arguments, tmp_path, {})
    commands, depths = readTables(capsys.readouterr().out)
    times = ["2.58", "0.58", "2.00", "1.00", "50 %", "0.25"]
    assert commands == [[f"uint16, {encoding}", precision, *times] for encoding in ("raw", "gzip")]
    expected = [["100x100x100", "1.00", "1.00", "1.000", "0.25"]]
    assert depths == [*expected, ["100x100x400", "4.00", "1.00", "1.000", "0.25"]]


def testBudgetsAreComparedWithThePeak(arguments, tmp_path, monkeypatch, capsys):
    imitateCommands(monkeypatch)
    arguments.largeShape, arguments.budgetShape = [100, 100, 150], [100, 100, 50]
    prediction.printSection(arguments, tmp_path, {})
    (rows,) = readTables(capsys.readouterr().out)
    assert rows[0] == ["100x100x150", "4.9", "0.75", "0.25", "0.05", "6", "16", "2.1", "0.72"]
    assert rows[1] == ["100x100x50", "1", "0.75", "0.25", "0.25", "6", "16", "1.1", "0.46"]
    assert len(rows) == 1 + len(prediction.BUDGETS)


def testTableOfTheGpuHasARowForEachPrecisionAndTheFile(arguments, tmp_path, monkeypatch, capsys):
    imitateCommands(monkeypatch)
    monkeypatch.setattr(prediction, "runTask", runHere)
    prediction.printGpu(arguments, tmp_path, {})
    text = capsys.readouterr().out
    assert "### GPU: a GPU" in text
    names = [f"16x24x32, {precision}, memory to memory" for precision in ("bfloat16", "float32")]
    assert [row[0] for row in readTables(text)[0]] == [*names, "16x24x32, file to file, net"]


# ------------------------------------------------------------------------------------------------- processes


@pytest.mark.parametrize("encoding", ["raw", "gzip"])
def testVolumeOnTheDiskIsTheOneInMemory(encoding, tmp_path):
    path = str(tmp_path / "volume.nrrd")
    peers.makeNrrd(path, SHAPE, encoding)
    volume, header = nrrd.read(path)
    assert (volume.shape, volume.dtype, header["encoding"]) == (tuple(SHAPE), np.uint16, encoding)
    peers.makeArrays(str(tmp_path), SHAPE)
    planes, array = np.load(tmp_path / "planes.npy"), np.load(tmp_path / "volume.npy")
    np.testing.assert_allclose(array, (volume - volume.mean()) / volume.std(), rtol=0, atol=1e-4)
    np.testing.assert_array_equal(planes, array.T)


def testTaskRunsInAProcessOfItsOwn(tmp_path):
    outcome = prediction.runTask(tmp_path, "multiplyMatrices", library="numpy", precision="float32", side=64)
    assert outcome.seconds == outcome.answer["seconds"] < 0.1
    assert outcome.peakGiB > 0.01
    with pytest.raises(RuntimeError, match="KeyError: 'julia'"):
        prediction.runTask(tmp_path, "multiplyMatrices", library="julia", precision="float32", side=64)


def testCommandPredictsAndItsLayoutIsRead(tmp_path):
    pytest.importorskip("openvino")
    path = prediction.makeFile(tmp_path, SHAPE)
    outcome = prediction.predictFile(path, "--z2", "8")
    left = {"benchmark.log", path.name, "result.json", "result.nrrd"}
    assert {found.name for found in tmp_path.iterdir()} == left  # no mask, no particles, no report
    assert nrrd.read_header(str(tmp_path / "result.nrrd"))["sizes"].tolist() == [*SHAPE[:2], 8]
    slab, tiles, memory = prediction.readLayout(outcome.log)
    assert (slab, tiles) == (8, 1)
    assert 0 < memory < 1
    assert set(prediction.WORK) < outcome.answer.keys()
    assert 0 < prediction.netSeconds([outcome]) < sum(outcome.answer.values()) < outcome.seconds


def testWrongTablesAndFullDisksStopBeforeAnyWork(arguments, tmp_path, monkeypatch):
    monkeypatch.setattr(prediction, "runTask", lambda *_, **__: pytest.fail("work began"))
    arguments.tables = "1,5"
    with pytest.raises(SystemExit, match="--tables"):
        prediction.chooseTables(arguments)
    arguments.tables, arguments.shape = "1", [10**6, 10**6, 10**6]
    with pytest.raises(SystemExit, match="table 1 needs .* GiB of disk"):
        prediction.chooseTables(arguments)
    arguments.shape = SHAPE
    assert prediction.chooseTables(arguments) == ["1"]


def testTableOfTheGpuIsLeftOutWithoutOne(arguments, monkeypatch):
    monkeypatch.setattr(prediction, "runTask", lambda *_, **__: prediction.Outcome(1, 1, "", {"gpu": None}))
    assert prediction.chooseTables(arguments) == ["1", "2", "3", "4"]


def testHelpNamesTheOptions():
    command = [sys.executable, prediction.__file__, "--help"]
    answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert all(f"--{name}" in answer for name in ("tables", "repeats", "folder", "shape", "gpuShape"))
    assert json.dumps(prediction.parseArguments([]).depths) == "[256, 512, 1024, 2048]"
