"""What the jobs of SLURM ask for, and how their commands are written."""

import math
from pathlib import Path
from types import SimpleNamespace

import pytest

import engine.prediction.slurm
from engine.base.errors import PipelineError
from engine.prediction.backends import Backend
from engine.prediction.layout import GIB, Geometry, Layout
from engine.prediction.parts import partFactor
from engine.prediction.shared import Sharing
from engine.prediction.slurm import (
    LEAST_MINUTES,
    SAFETY,
    Needs,
    estimateParts,
    estimateResults,
    longestPart,
    parseCount,
    writeCommand,
)

CPU = Backend("openvino", "float32", "CPU", False)
GPU = Backend("keras", "bfloat16", "GPU", True)
SIDE = 2048


def makeRun(backend=CPU, count=8, side=SIDE, encoding="raw", memory=3.0, memoryBudget=0.0):
    """Make a run of a cube of which nothing is read."""
    volume = SimpleNamespace(shape=(side,) * 3, dtype=SimpleNamespace(itemsize=2))
    request = SimpleNamespace(
        volume=volume,
        shape=volume.shape,
        outputEncoding=encoding,
        nameOutput=Path("/data/a_segmented.nrrd"),
        memoryBudget=memoryBudget,
        otherFiles=(),
    )
    return SimpleNamespace(
        request=request,
        backend=backend,
        geometry=Geometry((side,) * 3, 16, 92),
        layout=Layout(16, 1, 1, memory),
        sharing=Sharing(count=count),
    )


@pytest.mark.parametrize(("text", "count"), [("1", 1), ("32", 32), ("auto", 0)])
def testTheNumberOfPartsIsRead(text, count):
    assert parseCount(text) == count


@pytest.mark.parametrize("text", ["0", "-3", "+3", "3.0", "1e3", "3 ", "AUTO", "all", "\u0663", "\u00b2"])
def testWordsThatAreNoNumberAreRefused(text):
    with pytest.raises(PipelineError, match="slurm must be a number of parts"):
        parseCount(text)


def testOptionsSayWhatIsNeeded():
    assert Needs(125, 4097, 16, False).options() == ["--cpus-per-task=16", "--mem=4097M", "--time=02:05:00"]
    assert Needs(6000, 1, 4, True).options() == [
        "--gres=gpu:1",
        "--cpus-per-task=4",
        "--mem=1M",
        "--time=100:00:00",
    ]


def testTheLongestPartIsThatOfTheCut():
    run = makeRun()
    slabs = SIDE / 16 * partFactor(run.geometry, run.layout, 8) / 8
    assert math.isclose(longestPart(run), slabs)


def testTimeGrowsWithTheSlabAndTheLongestPart():
    slow, fast = (estimateParts(makeRun(), seconds).minutes for seconds in (100.0, 1.0))
    assert slow * 60 > SAFETY * 100 * longestPart(makeRun()) > fast * 60
    assert estimateParts(makeRun(count=64), 100.0).minutes < slow
    assert estimateParts(makeRun(side=64, count=1), 0.001).minutes == LEAST_MINUTES


def testMemoryIsThatOfTheLayoutWithAMargin():
    for memory in (0.3, 3.0, 40.0):
        needs = estimateParts(makeRun(memory=memory), 1.0)
        assert 1.25 * memory * 1024 <= needs.memory <= 1.25 * memory * 1024 + 600


def testAGpuIsAskedForWhereThePlanHasOne(monkeypatch):
    monkeypatch.setattr(engine.prediction.slurm, "coreCount", lambda: 64)
    parts = estimateParts(makeRun(GPU, memory=60.0), 1.0)
    assert parts.hasGpu and parts.memory == 8192 and parts.coreCount == 4  # 60 GiB are those of the GPU
    assert not estimateResults(makeRun(GPU), parts).hasGpu
    assert estimateResults(makeRun(GPU._replace(precision="float16")), parts).hasGpu
    needs = estimateParts(makeRun(), 1.0)
    assert not needs.hasGpu and needs.coreCount == 64


def testTheResultsNeedTimeAndMemoryByTheirVoxels():
    small, large = (makeRun(side=side) for side in (256, 4096))
    parts = estimateParts(small, 0.01)
    assert estimateResults(small, parts).minutes == LEAST_MINUTES
    needs = estimateResults(large, parts)
    assert needs.minutes * 60 > 4096**3 / 6e6 and needs.memory > 0.04 * 4096**3 / GIB * 1024
    packed = estimateResults(makeRun(side=4096, encoding="gzip"), parts)
    assert packed.minutes > needs.minutes
    assert (
        estimateResults(small, parts._replace(memory=99999)).memory == 99999
    )  # what is missing is predicted


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"threshold": 0.25}, "--threshold 0.25"),
        ({"report": False, "mask": True}, "--no-report --mask"),
        ({"positiveLabel": "-5--1"}, "--positiveLabel=-5--1"),
        ({"noData": "-1"}, "--noData=-1"),
        ({"voxelSize": "0.65 um"}, "--voxelSize '0.65 um'"),
        ({"modelFile": Path("models/a b.h5")}, "--modelFile '/work/models/a b.h5'"),
        ({"nameReference": Path("none")}, "--nameReference none"),
        ({"nameReference": Path("a\nb$(reboot).nrrd")}, "--nameReference $'/work/a\\012b$(reboot).nrrd'"),
        ({"slurm": "3", "part": "1/3", "dryRun": True, "precision": "auto"}, ""),
    ],
)
def testParametersAreQuotedAndPathsAreAbsolute(given, words, monkeypatch):
    monkeypatch.setattr(engine.prediction.slurm.os.path, "abspath", lambda path: str(Path("/work") / path))
    settings = SimpleNamespace(nameInput=Path("/data/a.nrrd"), given=given)
    monkeypatch.setattr(engine.prediction.slurm.sys, "executable", "/env/bin/python3")
    command = writeCommand(makeRun(memoryBudget=2.5), settings, Path("/project/predictData.py"))
    fixed = (
        "/env/bin/python3 /project/predictData.py --nameInput /data/a.nrrd "
        "--nameOutput /data/a_segmented.nrrd --engine openvino --precision float32 "
        "--memoryBudget 3"  # that of the layout
    )
    assert command == f"{fixed} {words}".strip()
