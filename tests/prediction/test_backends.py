"""Which back end is chosen on computers that only pretend to be there."""

import builtins
import importlib.util
from unittest.mock import Mock

import networks
import pytest

import engine.base.machine
import engine.prediction.backends as backends
from engine.base.errors import PipelineError
from engine.base.machine import residentGiB
from engine.prediction.backends import Backend, availableMemory, baseMemory, chooseBackend, openStream
from engine.prediction.stream import describeStream
from functions import describeUNet

FLAGS = {
    "amx": "flags : fpu avx512f avx512_bf16 amx_bf16 avx512_fp16 amx_tile amx_int8\n",
    "bf16": "flags : fpu avx512f avx512dq avx512_bf16 avx512_fp16\n",
    "plain": "flags : fpu sse2\n",
    "": "",
}
SETS = {"amx": " (AMX)", "bf16": " (AVX-512)"}
GPU, CPU = "GPU Imagined (80 GiB), tensorflow", "CPU (Imagined, 2 cores), tensorflow"


@pytest.fixture
def pretend(monkeypatch, tmp_path):
    """Give a function that pretends a computer: with a GPU or not, with these flags or without the file."""
    findSpec = importlib.util.find_spec

    def pretendComputer(gpu, flags, hasOpenvino=True):
        file = tmp_path / "cpuinfo"
        if flags is not None:
            file.write_bytes(b"model name : Imagined \xb5\n" + FLAGS[flags].encode())
        for name in engine.base.machine.LIMITS:
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr(backends, "hasGpu", lambda: gpu)
        monkeypatch.setattr(backends, "describeDevice", lambda: GPU if gpu else CPU)
        monkeypatch.setattr(backends, "processorName", lambda: "Imagined")
        monkeypatch.setattr(backends, "describeCores", lambda: "2 cores")
        monkeypatch.setattr(engine.base.machine, "CPU_INFO", file)
        spec = {"openvino": object() if hasOpenvino else None}
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda name: spec[name] if name in spec else findSpec(name)
        )

    return pretendComputer


@pytest.mark.parametrize(
    ("gpu", "flags", "engine", "precision"),
    [
        (True, "amx", "keras", "bfloat16"),
        (True, "plain", "keras", "bfloat16"),
        (True, None, "keras", "bfloat16"),
        (False, "amx", "openvino", "bfloat16"),
        (False, "bf16", "openvino", "float32"),  # slower there
        (False, "plain", "openvino", "float32"),
        (False, "", "openvino", "float32"),
        (False, None, "openvino", "float32"),  # no such file: not Linux
    ],
)
def testAutoTakesTheFastest(pretend, gpu, flags, engine, precision):
    pretend(gpu, flags)
    device = GPU if gpu else f"CPU (Imagined, 2 cores), openvino with oneDNN{SETS.get(flags, '')}"
    assert chooseBackend("auto", "auto") == Backend(engine, precision, device, gpu)


@pytest.mark.parametrize(
    ("gpu", "flags", "engine", "precision"),
    [
        (True, "amx", "openvino", "bfloat16"),
        (True, "plain", "openvino", "float32"),  # the GPU is of no use there
        (False, "amx", "keras", "float32"),  # Keras on a CPU has no fast bfloat16
        (True, "plain", "keras", "bfloat16"),
    ],
)
def testNamedEngineWithAutomaticPrecision(pretend, gpu, flags, engine, precision):
    pretend(gpu, flags)
    chosen = chooseBackend(engine, "auto")
    assert (chosen.engine, chosen.precision) == (engine, precision)
    expected = f"CPU (Imagined, 2 cores), openvino with oneDNN{SETS.get(flags, '')}"
    expected = expected if engine == "openvino" else GPU if gpu else CPU
    assert chosen.device == expected
    assert chosen.isGpu == (gpu and engine == "keras")


@pytest.mark.parametrize("gpu", [True, False])
@pytest.mark.parametrize("flags", ["amx", "plain"])
@pytest.mark.parametrize("engine", ["auto", "keras", "openvino"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def testNamedPrecisionIsTakenAsItIs(pretend, gpu, flags, engine, precision):
    pretend(gpu, flags)
    if (engine, precision, gpu) == ("keras", "float16", False):
        with pytest.raises(PipelineError, match="expected float32 or bfloat16"):
            chooseBackend(engine, precision)
        return
    chosen = chooseBackend(engine, precision)
    assert chosen.precision == precision
    assert chosen.engine == (engine if engine != "auto" else "keras" if gpu else "openvino")
    assert chosen.byteCount == (4 if precision == "float32" else 2) * (2 if chosen.engine == "keras" else 1)


@pytest.mark.parametrize(
    ("engine", "precision", "message"),
    [
        ("torch", "auto", "no such engine (expected auto or keras or openvino, received torch)"),
        ("", "auto", "no such engine"),
        ("OpenVINO", "auto", "received OpenVINO"),
        (
            "auto",
            "float64",
            "no such precision (expected auto or float32 or bfloat16 or float16, received float64)",
        ),
        ("keras", "", "no such precision"),
    ],
)
def testUnknownNamesAreRefused(pretend, engine, precision, message):
    pretend(False, "plain")
    with pytest.raises(PipelineError) as caught:
        chooseBackend(engine, precision)
    assert message in str(caught.value)


@pytest.mark.parametrize("gpu", [True, False])
def testKerasWhereOpenvinoIsMissingWithAWordOnACpu(pretend, caplog, gpu):
    pretend(gpu, "amx", hasOpenvino=False)
    chosen = chooseBackend("auto", "auto")
    assert (chosen.engine, chosen.precision) == ("keras", "bfloat16" if gpu else "float32")
    assert ("pip install openvino" in caplog.text) == (not gpu)


def testNamedEngineIsNotReplaced(pretend, caplog):
    pretend(False, "plain", hasOpenvino=False)
    assert chooseBackend("openvino", "auto").engine == "openvino"
    assert chooseBackend("keras", "auto").engine == "keras"
    assert not caplog.text


def testADriverWithoutABackEndDoesNotStopAPrediction(monkeypatch, pretend, caplog):
    pretend(False, "plain")
    missing = PipelineError("Keras or its back end tensorflow cannot be imported", remedy="pip install keras")
    monkeypatch.setattr(backends, "hasGpu", Mock(side_effect=missing))
    assert chooseBackend("auto", "auto")[:2] == ("openvino", "float32")
    assert "a GPU is not used: Keras or its back end tensorflow cannot be imported; pip" in caplog.text
    with pytest.raises(PipelineError, match="cannot be imported"):
        chooseBackend("keras", "auto")
    pretend(False, "plain", hasOpenvino=False)
    monkeypatch.setattr(backends, "hasGpu", Mock(side_effect=missing))
    with pytest.raises(PipelineError, match="cannot be imported"):
        chooseBackend("auto", "auto")


def testOpenvinoDoesNotAskForAGpu(monkeypatch, pretend):
    pretend(False, "plain")
    monkeypatch.setattr(backends, "hasGpu", lambda: pytest.fail("loads Keras"))
    assert chooseBackend("openvino", "auto").engine == "openvino"


@pytest.mark.parametrize(
    "error", [ImportError("libopenvino.so: no such file"), ModuleNotFoundError("no openvino")]
)
def testMissingOpenvinoNamesTheCommandThatInstallsIt(monkeypatch, error):
    def importModule(name, *_):
        if name.split(".")[0] == "openvino":
            raise error
        return original(name)

    original, originalStatement = importlib.import_module, builtins.__import__
    monkeypatch.setattr(importlib, "import_module", importModule)
    monkeypatch.setattr(
        builtins,
        "__import__",
        lambda name, *rest: importModule(name) if name == "openvino" else originalStatement(name, *rest),
    )
    plan = describeUNet(1, 1)
    steps = describeStream(plan, networks.randomWeights(plan))
    with pytest.raises(PipelineError, match="OpenVINO cannot be imported .*; pip install openvino") as caught:
        openStream(Backend("openvino", "float32", "", False), steps, 8, (4, 4))
    assert str(error) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("engine", "name"), [("openvino", "OpenvinoStream"), ("keras", "KerasStream")])
def testStreamIsThatOfTheEngine(engine, name):
    plan = describeUNet(1, 2)
    steps = describeStream(plan, networks.randomWeights(plan))
    stream = openStream(Backend(engine, "float32", "", False), steps, 4, (6, 8))
    assert type(stream).__name__ == name
    assert (stream.slab, stream.lag) == (4, 8)


@pytest.mark.parametrize("engine", ["openvino", "keras"])
def testBaseMemoryHoldsMoreThanTheProcessNow(engine):
    before = residentGiB()
    assert before + 0.05 < baseMemory(Backend(engine, "float32", "", False)) < before + 4


@pytest.mark.parametrize(("free", "expected"), [(4.0, 2.0), (100.0, 8.0), (0.3, 0.15)])
def testHalfOfTheFreeMemoryIsAvailable(monkeypatch, free, expected):
    monkeypatch.setattr(backends, "freeMemoryGiB", lambda: free)
    assert availableMemory(Backend("openvino", "float32", "", False)) == expected


def testMemoryOfAGpuIsItsOwn(monkeypatch):
    monkeypatch.setattr(backends, "freeGpuGiB", lambda: 40.0)
    monkeypatch.setattr(backends, "freeMemoryGiB", lambda: pytest.fail("the computer's"))
    monkeypatch.setattr(backends, "residentGiB", lambda: pytest.fail("the process's"))
    backend = Backend("keras", "bfloat16", GPU, True)
    assert baseMemory(backend) < 5 < availableMemory(backend) < 40
