"""Tasks as sets of planes, and the same bytes whatever the order and whoever does them."""

import random
import subprocess
import sys

import nrrd
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from places import ROOT

from engine.formats.opening import openVolume
from engine.network.plan import haloOf, sideMultiple
from engine.prediction.execute import Method, execute, runTasks
from engine.prediction.job import Job
from engine.prediction.journal import Journal, openResult
from engine.prediction.layout import Geometry, Layout, listTiles, tileSection
from engine.prediction.openvinoStream import OpenvinoStream
from engine.prediction.stream import describeStream
from engine.prediction.tasks import Task, leaveOut, listTasks, mergeTasks
from engine.volumes.scale import Scale
from functions import predictProbability, readModel

MODELS = ROOT / "modelAndWeights"
METHOD = Method(readModel, predictProbability)
SHAPE = (40, 48, 56)
LAYOUT = Layout(8, 2, 1, 0.0)


def tasks():
    """Any tasks of two tiles."""
    pairs = st.tuples(st.integers(0, 20), st.integers(0, 20))
    return st.lists(st.builds(Task, st.integers(0, 1), pairs.map(lambda pair: tuple(sorted(pair)))))


def planesOf(some):
    return {(tile, plane) for tile, (first, last) in some for plane in range(first, last)}


@given(wanted=tasks(), finished=tasks())
def testWhatIsLeftIsTheDifferenceOfTheSets(wanted, finished):
    left = leaveOut(wanted, finished)
    assert planesOf(left) == planesOf(wanted) - planesOf(finished)
    assert all(first < last for _, (first, last) in left)


@given(some=tasks())
def testMergedTasksHoldTheSamePlanesOnce(some):
    merged = mergeTasks(task for task in some if task.planes[0] < task.planes[1])
    assert planesOf(merged) == planesOf(some)
    assert sum(last - first for _, (first, last) in merged) == len(planesOf(some))


@pytest.mark.parametrize("planeCount", [0, 7, 16])
def testTasksCoverEveryTileOnce(planeCount):
    geometry = Geometry(SHAPE[::-1], 8, 48)
    found = listTasks(geometry, LAYOUT, planeCount)
    assert mergeTasks(found) == [Task(tile, (0, 56)) for tile in range(len(listTiles(geometry, LAYOUT)))]
    assert sum(last - first for _, (first, last) in found) == 2 * 56


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """Describe the prediction of a small volume in two tiles; predict it once, in one stream."""
    folder = tmp_path_factory.mktemp("tasks")
    grey = np.random.default_rng(3).normal(30000, 2000, SHAPE).astype(np.uint16)
    nrrd.write(str(folder / "scan.nrrd"), grey)
    files = [MODELS / f"final-{name}.h5" for name in ("uNet_model", "trained-weights")]
    plan, weights = readModel(*files)
    geometry = Geometry(SHAPE[::-1], sideMultiple(plan), haloOf(plan))
    region, moments = tuple((0, side) for side in SHAPE), (grey.mean(), grey.std())
    whole = Job(str(folder / "scan.nrrd"), region, Scale(*map(float, moments)), geometry, LAYOUT)
    whole = whole._replace(modelFile=str(files[0]), weightFile=str(files[1]), output=str(folder / "a.nrrd"))
    stream = OpenvinoStream(
        describeStream(plan, weights), LAYOUT.slab, tileSection(geometry, LAYOUT), "float32"
    )
    with begin(folder / "a.nrrd") as result:
        execute(METHOD, openVolume(whole.volume), whole, result, stream)
    return whole


def begin(path):
    record = {"identity": {"outputType": "float32", "outputEncoding": "raw"}, "layout": [], "devices": []}
    return openResult(path, SHAPE, {}, record, isGoingOn=False)


def testJobSurvivesItsText(job):
    assert Job.fromJson(job.toJson()) == job


def testTasksInAnyOrderGiveTheBytesOfOneStream(job, tmp_path):
    other = job._replace(output=str(tmp_path / "b.nrrd"))
    parts = listTasks(job.geometry, job.layout, 16)
    random.Random(1).shuffle(parts)
    assert len(parts) == 8 and parts != sorted(parts)
    with begin(tmp_path / "b.nrrd"):
        for task in [*parts, parts[0]]:  # one of them twice
            assert runTasks(METHOD, other, [task]) == [task]
        assert leaveOut(parts, Journal(tmp_path / "b.nrrd").finished()) == []
    assert (tmp_path / "b.nrrd").read_bytes() == open(job.output, "rb").read()
    assert [path.name for path in tmp_path.iterdir()] == ["b.nrrd"]


WORKER = """
import random, sys
from pathlib import Path
from engine.prediction.execute import Method, runTasks
from engine.prediction.job import Job
from engine.prediction.tasks import listTasks
from functions import predictProbability, readModel
job, seed = Job.fromJson(sys.argv[1]), int(sys.argv[2])
tasks = listTasks(job.geometry, job.layout, 16)
random.Random(seed).shuffle(tasks)
for task in tasks[: 5]:
    runTasks(Method(readModel, predictProbability), job, [task])
"""


def testTwoProcessesAtOnceGiveTheBytesOfOne(job, tmp_path):
    other = job._replace(output=str(tmp_path / "b.nrrd"))
    parts = listTasks(job.geometry, job.layout, 16)
    chosen = [random.Random(seed).sample(parts, len(parts)) for seed in (1, 2)]
    assert chosen[0] != chosen[1]
    with begin(tmp_path / "b.nrrd"):
        commands = ([sys.executable, "-c", WORKER, other.toJson(), str(seed)] for seed in (1, 2))
        workers = [subprocess.Popen(command, cwd=ROOT) for command in commands]
        assert [worker.wait(120) for worker in workers] == [0, 0]
        finished = Journal(tmp_path / "b.nrrd").finished()
        left = leaveOut(parts, finished)
        assert 0 < len(left) < 8 - 4  # two processes did ten tasks of eight, some of them twice
        for task in left:
            runTasks(METHOD, other, [task])
    assert (tmp_path / "b.nrrd").read_bytes() == open(job.output, "rb").read()
