"""Vector instructions and memory, on processors and in containers that only pretend to be there."""

import os
import subprocess
import sys

import pytest
from places import ROOT

from engine.base import machine
from engine.base.machine import GROUP_FILES_1, GROUP_FILES_2, containerMemoryGiB, freeMemoryGiB

ZEN3 = "AuthenticAMD", 25, "sse4_1 avx avx2 fma"
ZEN4 = "AuthenticAMD", 25, "sse4_1 avx avx2 fma avx512f avx512dq avx512_bf16"
ZEN5 = "AuthenticAMD", 26, "sse4_1 avx avx2 fma avx512f avx512dq avx512_bf16"
SKYLAKE = "GenuineIntel", 6, "sse4_1 avx avx2 fma avx512f avx512dq"
SAPPHIRE = "GenuineIntel", 6, "sse4_1 avx avx2 fma avx512f avx512dq amx_bf16 amx_tile amx_int8"
OLD = "GenuineIntel", 6, "sse2 sse4_1 avx"


@pytest.fixture
def pretend(monkeypatch, tmp_path):
    """Give a function that pretends a processor and what the user has set."""
    for name in machine.LIMITS:
        monkeypatch.setenv(name, "")  # noted, so that it is as before afterwards
        monkeypatch.delenv(name)

    def pretendProcessor(vendor, family, flags, **environment):
        lines = [f"vendor_id\t: {vendor}", f"cpu family\t: {family}", "model name\t: Imagined \xb5"]
        text = "\n".join([*lines, f"flags\t\t: {flags}"])
        file = tmp_path / "cpuinfo"
        file.write_bytes(f"{text}\n\n{text.replace(flags, 'of another one')}\n".encode("latin-1"))
        monkeypatch.setattr(machine, "CPU_INFO", file)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)

    return pretendProcessor


@pytest.mark.parametrize(
    ("processor", "limit", "expected", "lanes"),
    [
        (SAPPHIRE, "", "AMX", 16),
        (SAPPHIRE, "AVX512_CORE_AMX", "AMX", 16),
        (SAPPHIRE, "AVX512_CORE_BF16", "AVX-512", 16),
        (SAPPHIRE, "AVX10_1_512", "AVX-512", 16),
        (SKYLAKE, "", "AVX-512", 16),
        (SKYLAKE, "default", "AVX-512", 16),
        (SKYLAKE, "AVX512_CORE_AMX", "AVX-512", 16),  # more than there is
        (SKYLAKE, "avx2_vnni", "AVX2", 8),
        (SKYLAKE, "AVX", "AVX", 8),
        (SKYLAKE, "SSE41", "SSE4.1", 8),
        (ZEN3, "", "AVX2", 8),
        (OLD, "AVX2", "AVX", 8),
        (("ARM", 8, "asimd"), "", "", 8),
    ],
)
def testInstructionsAreTheNewestThatOneDnnMayUse(pretend, processor, limit, expected, lanes):
    pretend(*processor, ONEDNN_MAX_CPU_ISA=limit)
    assert (machine.instructionSet(), machine.vectorLanes()) == (expected, lanes)
    assert machine.processorName() == "Imagined \ufffd"


def testTheOlderNameOfTheLimitCountsToo(pretend):
    pretend(*SKYLAKE, DNNL_MAX_CPU_ISA="AVX2")
    assert machine.instructionSet() == "AVX2"


def testWithoutTheFileNothingIsKnown(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "CPU_INFO", tmp_path / "nothing")
    assert machine.instructionSet() == ""
    assert machine.processorName()


@pytest.mark.parametrize(
    ("processor", "precision", "limit", "expected"),
    [
        (ZEN4, "auto", None, "AVX2"),
        (ZEN4, "float32", None, "AVX2"),
        (ZEN4, "bfloat16", None, None),
        (ZEN4, "float16", None, None),
        (ZEN4, "float32", "DEFAULT", "DEFAULT"),  # the user knows better
        (ZEN4, "float32", "AVX512_CORE", "AVX512_CORE"),
        (ZEN5, "float32", None, None),
        (ZEN3, "float32", None, None),
        (SKYLAKE, "auto", None, None),
        (SAPPHIRE, "auto", None, None),
    ],
)
def testHalvedRegistersAreLeftAlone(pretend, processor, precision, limit, expected):
    pretend(*processor, **({"ONEDNN_MAX_CPU_ISA": limit} if limit else {}))
    machine.preferInstructions("keras", precision)
    assert os.environ.get("ONEDNN_MAX_CPU_ISA") == limit
    machine.preferInstructions("openvino", precision)
    assert os.environ.get("ONEDNN_MAX_CPU_ISA") == expected


def testPredictionPrefersThemBeforeABackEndIsLoaded(pretend, tmp_path):
    """The whole command, on a processor that pretends to be of AMD's fourth generation."""
    pretend(*ZEN4)
    environment = {name: value for name, value in os.environ.items() if name not in machine.LIMITS}
    code = (
        "import pathlib, sys; from engine.base import machine; machine.CPU_INFO = pathlib.Path(sys.argv[1]);"
        "import predictData; predictData.main(predictData.parseArguments(sys.argv[2:]))"
    )
    command = [sys.executable, "-c", code, machine.CPU_INFO, "--dryRun", "--nameOutput", tmp_path / "a.nrrd"]
    run = subprocess.run(
        list(map(str, command)), cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert "cores), openvino with oneDNN (AVX2), float32" in run.stdout


def testFreeMemoryIsThatOfTheMachineOrOfItsContainer(monkeypatch):
    assert 0.1 < freeMemoryGiB() < 1e4
    monkeypatch.setattr("engine.base.machine.containerMemoryGiB", lambda: 0.25)
    assert freeMemoryGiB() == 0.25


@pytest.mark.parametrize(
    ("group", "folder", "names", "nothing"),
    [
        ("4:cpu,cpuacct:/x\n3:memory:", "memory", GROUP_FILES_1, "9223372036854771712"),
        ("0::", "", GROUP_FILES_2, "max"),
    ],
)
def testLimitOfAJobCountsWhereverItIsSet(tmp_path, group, folder, names, nothing):
    limit, usage, cache = names
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(f"{group}/slurm/job_7/step_0\n")
    step = tmp_path / "sys/fs/cgroup" / folder / "slurm/job_7/step_0"
    step.mkdir(parents=True)
    assert containerMemoryGiB(tmp_path) == float("inf")
    for place, most, used in ((step, nothing, 2 << 30), (step.parent, str(4 << 30), 3 << 30)):
        (place / limit).write_text(f"{most}\n")
        (place / usage).write_text(f"{used}\n")
    assert containerMemoryGiB(tmp_path) == 1
    (step.parent / "memory.stat").write_text(
        f"anon 5\n{cache} {1 << 29}\n"
    )  # 0.5 GiB of files that were read
    assert containerMemoryGiB(tmp_path) == 1.5
    (tmp_path / "proc/self/cgroup").write_text(
        f"{group}/elsewhere\n"
    )  # in a container: the group is the root
    assert containerMemoryGiB(tmp_path) == float("inf")
    (tmp_path / "sys/fs/cgroup" / folder / limit).write_text(str(1 << 30))
    (tmp_path / "sys/fs/cgroup" / folder / usage).write_text(str(1 << 28))
    assert containerMemoryGiB(tmp_path) == 0.75
