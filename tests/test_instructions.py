"""Training and stream with the vector instructions of other processors: fast kernels, the same numbers.

oneDNN tells which kernel it takes for every convolution. One of its reference implementations takes hundreds
of times as long; matrix products for the gradient of a kernel three times (benchmarks/RESULTS.md, routes of
a convolution). Which ones it has depends on the instructions, on paddings and on strides.
"""

import functools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from engine.base.machine import LIMITS, SETS, instructionSet
from engine.network.devices import ONEDNN

SCRIPT = Path(__file__).with_name("instructions.py")
LIMITED = {"AVX2": "AVX2", "AVX-512": "AVX512_CORE", "AMX": "AVX512_CORE_AMX"}
DIRECTIONS = {"forward_training", "backward_data", "backward_weights"}
SLOW = "ref", "gemm", "simple"  # in the names of oneDNN's kernels

pytestmark = pytest.mark.slow


def runLimited(folder, part, limit):
    """Run a part with some instructions at most; gives what it printed, and its numbers."""
    environment = {name: value for name, value in os.environ.items() if name not in (*LIMITS, ONEDNN)}
    environment |= {"KERAS_BACKEND": "tensorflow", "ONEDNN_MAX_CPU_ISA": limit}
    if part == "training":  # OpenVINO 2026.4 fails with it: "could not execute a primitive"
        environment["ONEDNN_VERBOSE"] = "1"
    target = folder / f"{part}-{limit}.npz"
    command = [sys.executable, str(SCRIPT), part, str(target)]
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    with np.load(target) as file:
        return run.stdout.splitlines(), dict(file)


@pytest.fixture(scope="module")
def runPart(tmp_path_factory):
    """Every run once."""
    return functools.cache(functools.partial(runLimited, tmp_path_factory.mktemp("runs")))


@pytest.fixture(params=LIMITED)
def limit(request):
    """Limit to the instructions of each kind of processor that this one has too."""
    names = list(SETS)
    if names.index(request.param) < names.index(instructionSet() or "SSE4.1"):
        pytest.skip(f"this processor has no {request.param}")
    return LIMITED[request.param]


def listKernels(lines):
    """List kernel and direction of every convolution that oneDNN logged."""
    return [line.split(",")[6:8] for line in lines if ",exec,cpu,convolution," in line]


def findSlow(names):
    """Find the slow ones among the names of kernels."""
    return {name for name in names if any(word in name for word in SLOW)}


def compareNumbers(received, expected):
    """Compare all arrays; a gradient that is zero but for rounding is small beside the largest one."""
    assert received.keys() == expected.keys()
    largest = max(np.abs(array).max() for name, array in expected.items() if name != "loss")
    for name, array in expected.items():
        scale = max(np.abs(array).max(), 0.01 * largest)
        np.testing.assert_allclose(received[name], array, rtol=0, atol=1e-3 * scale, err_msg=name)


def testTrainingTakesFastKernels(runPart, limit):
    pytest.importorskip("tensorflow")
    lines, numbers = runPart("training", limit)
    kind = next(kind for kind, name in LIMITED.items() if name == limit)
    assert next(line for line in lines if line.startswith("device")).endswith(f"oneDNN ({kind})")
    kernels = listKernels(lines)
    assert {direction for _, direction in kernels} == DIRECTIONS
    assert not findSlow(name for name, _ in kernels)
    compareNumbers(numbers, runPart("training", "DEFAULT")[1])


def testStreamTakesFastKernels(runPart, limit):
    lines, numbers = runPart("stream", limit)
    kernels = [line.rsplit(",", 1)[1] for line in lines if line.startswith("openvino,")]
    assert len(kernels) == 14 + 3 + 1  # three for what is up-sampled, one at the end
    width = "avx2" if limit == "AVX2" else "avx512"
    assert all(width in kernel for kernel in kernels) and not findSlow(kernels)
    np.testing.assert_allclose(
        numbers["probability"], runPart("stream", "DEFAULT")[1]["probability"], rtol=0, atol=5e-5
    )


def testTheWayOfKerasWouldBeNoticed(tmp_path):
    """The same check finds the kernels that the layers of Keras take on AVX2."""
    pytest.importorskip("tensorflow")
    code = (
        "import numpy as np, keras;"
        "model = keras.Sequential([keras.Input((16, 16, 16, 8)), keras.layers.Conv3D(8, 3, padding='same')]);"
        "model.compile('sgd', 'mse');"
        "model.train_on_batch(np.ones((2, 16, 16, 16, 8)), np.ones((2, 16, 16, 16, 8)))"
    )
    environment = os.environ | {"KERAS_BACKEND": "tensorflow", ONEDNN: "1"}
    environment |= {"ONEDNN_VERBOSE": "1", "ONEDNN_MAX_CPU_ISA": "AVX2"}
    command = [sys.executable, "-c", code]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path, check=True)
    kernels = listKernels(run.stdout.splitlines())
    assert {direction for _, direction in kernels} <= DIRECTIONS
    assert findSlow(name for name, direction in kernels if direction == "backward_weights")
