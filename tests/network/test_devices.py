"""The device line, with back ends and drivers that this machine may not have."""

import functools
import json
import os
import subprocess
import sys

import pytest
from places import ROOT
from pretences import pretendBackend

import engine.learning.batches
import engine.network.devices
from engine.base.errors import PipelineError
from engine.base.machine import processorName
from engine.network.devices import describeDevice


@pytest.fixture
def backend(monkeypatch):
    """Set the back end and the GPUs that it sees."""
    return functools.partial(pretendBackend, monkeypatch)


@pytest.fixture
def driver(tmp_path, monkeypatch):
    """Set what the driver's tool answers; None = not installed."""

    def pretend(answer):
        monkeypatch.setenv("PATH", str(tmp_path))
        if answer is not None:
            (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\necho '{answer}'\n")
            (tmp_path / "nvidia-smi").chmod(0o755)

    return pretend


@pytest.fixture
def nvidia(tmp_path, monkeypatch):
    """Pretend that the driver of NVIDIA is loaded."""
    monkeypatch.setattr(engine.network.devices, "GPU_DRIVERS", (str(tmp_path), "/nowhere", "/nowhere"))


@pytest.mark.parametrize(
    ("name", "library"), [("tensorflow", "tensorflow with CUDA"), ("jax", "jax with CUDA and XLA")]
)
def testGpuIsNamedWithItsMemory(name, library, backend, driver, nvidia):
    backend(name, ["NVIDIA RTX A4000"])
    driver("16376 MiB")
    assert describeDevice() == f"GPU NVIDIA RTX A4000 (16376 MiB), {library}"


def testGpuWithoutTheDriversToolIsNamedAlone(backend, driver, nvidia):
    backend("jax", ["NVIDIA RTX A4000"])
    driver(None)
    assert describeDevice() == "GPU NVIDIA RTX A4000, jax with CUDA and XLA"


@pytest.mark.parametrize(
    ("number", "library"), [(0, " with CUDA"), (1, " with CUDA"), (2, " with ROCm"), (3, "")]
)
def testTheLibraryIsThatOfTheDriver(number, library, backend, driver, monkeypatch, tmp_path):
    files = ["/nowhere"] * 4
    files[number] = str(tmp_path)
    monkeypatch.setattr(engine.network.devices, "GPU_DRIVERS", tuple(files[:3]))
    backend("tensorflow", ["Imagined"])
    driver(None)
    assert describeDevice() == f"GPU Imagined, tensorflow{library}"


@pytest.mark.parametrize(
    ("count", "isCompiled", "isNamed"),
    [(1, None, True), (2, None, False), (1, False, False), (2, True, True)],
)
def testXlaIsNamedWhereKerasCompiles(count, isCompiled, isNamed, backend, driver, nvidia):
    backend("tensorflow", ["Imagined"] * count)
    driver(None)
    assert describeDevice(isCompiled).endswith("CUDA and XLA" if isNamed else "with CUDA")


@pytest.mark.parametrize(
    ("name", "isCompiled", "hasOneDnn", "library"),
    [
        ("jax", False, True, "jax with XLA"),
        ("tensorflow", True, True, "tensorflow with XLA"),
        ("tensorflow", None, True, "tensorflow with oneDNN (AVX2)"),  # on a CPU Keras compiles nothing
        ("tensorflow", False, True, "tensorflow with oneDNN (AVX2)"),
        ("tensorflow", False, False, "tensorflow without oneDNN"),
    ],
)
def testCpuIsNamedWithItsCoresAndWhatComputes(name, isCompiled, hasOneDnn, library, backend, monkeypatch):
    backend(name, [])
    monkeypatch.setattr(engine.network.devices, "usesOneDnn", lambda: hasOneDnn)
    monkeypatch.setattr(engine.network.devices, "instructionSet", lambda: "AVX2")
    text = describeDevice(isCompiled)
    assert text.startswith(f"CPU ({processorName()}, ") and text.endswith(f" cores), {library}")


@pytest.mark.parametrize(
    ("before", "wanted", "isUsed"),
    [("", None, True), ("", "0", False), ("", "1", True), ("import tensorflow; ", "0", False)],
)
def testTensorflowComputesWithOneDnnUnlessTheUserWantsNone(before, wanted, isUsed):
    pytest.importorskip("tensorflow")
    environment = {name: value for name, value in os.environ.items() if name != engine.network.devices.ONEDNN}
    environment |= {"KERAS_BACKEND": "tensorflow"} | (
        {engine.network.devices.ONEDNN: wanted} if wanted else {}
    )
    show = "print(devices.usesOneDnn(), devices.describeDevice())"
    code = f"{before}import engine.network.devices as devices; {show}"
    command = [sys.executable, "-c", code]
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    used, device = run.stdout.strip().split(" ", 1)
    assert (used == "True", "with oneDNN" in device) == (isUsed, isUsed), run.stderr


def testAnotherBackEndIsRefused(monkeypatch):
    import keras

    monkeypatch.setattr(keras.backend, "backend", lambda: "torch")
    with pytest.raises(PipelineError, match=r"KERAS_BACKEND .*expected tensorflow or jax, received torch"):
        engine.network.devices.loadKeras()


def testSettingsOfKerasChangeNothing(tmp_path):
    settings = {"backend": "tensorflow", "image_data_format": "channels_first", "floatx": "float16"}
    (tmp_path / "keras.json").write_text(json.dumps(settings))
    code = "from functions import buildSpotUNet as build; print(build().output.shape, build().output.dtype)"
    environment = {**os.environ, "KERAS_HOME": str(tmp_path)}
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert run.stdout.split("\n")[0] == "(None, None, None, None, 1) float32", run.stderr


def testFreeMemoryOfTheGpuIsWhatTheDriverTells(tmp_path, monkeypatch):
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 40960\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert engine.network.devices.freeGpuGiB() == 40
    tool.write_text('#!/bin/sh\ncase "$*" in *--id=1) echo 10240;; *--id=0) echo 20480;; *) exit 9;; esac\n')
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,0")
    assert engine.network.devices.freeGpuGiB() == 10
    assert engine.network.devices._gpuMemory() == "10240, 20480"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-4")  # the tool does not know it
    assert engine.network.devices.freeGpuGiB() == 8


def testHintNamesThePackageOfTheBackEnd(backend):
    for name, package in (("jax", "jax[cuda12]"), ("tensorflow", "tensorflow[and-cuda]")):
        backend(name, [])
        assert engine.network.devices.cudaHint().endswith(f'pip install "{package}"')


def testWithoutADriverNoBackEndIsLoadedToFindAGpu(monkeypatch):
    monkeypatch.setattr(engine.network.devices, "GPU_DRIVERS", ("/nowhere",))
    monkeypatch.setattr(engine.network.devices, "loadKeras", pytest.fail)
    assert not engine.network.devices.hasGpu()


def testAMissingBackEndIsToldWithThePipCommand():
    code = (
        "import sys; sys.modules['tensorflow'] = None; sys.modules['tensorflow.experimental'] = None\n"
        "from engine.network.devices import loadKeras\n"
        "try: loadKeras()\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    environment = os.environ | {"KERAS_BACKEND": "tensorflow"}
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, env=environment, check=True
    )
    assert ran.stdout.startswith("PipelineError Keras or its back end tensorflow cannot be imported")
    assert ran.stdout.strip().endswith("pip install keras tensorflow")


@pytest.mark.parametrize("settings", ['{"floatx": "nonsense"}', '{"backend": "nonsense"}', "[1]"])
def testSettingsThatKerasRefusesAreOneLine(tmp_path, settings):
    (tmp_path / "keras.json").write_text(settings)
    environment = {name: value for name, value in os.environ.items() if name != "KERAS_BACKEND"}
    code = "from engine.network.devices import loadKeras; loadKeras()"
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=environment | {"KERAS_HOME": str(tmp_path)},
    )
    line = result.stderr.splitlines()[-1]
    assert f"PipelineError: {tmp_path / 'keras.json'}: Keras refuses its settings" in line
    assert line.endswith("; correct KERAS_BACKEND or remove this file")
