"""The model of large predictions: its limits by hand; the whole benchmark on a small scan."""

import math
import sys

import numpy as np
import pytest
from places import ROOT

from engine.formats.opening import openVolume

sys.path.insert(0, str(ROOT / "benchmarks"))
import clusters
import scale
import scaleModel
from scaleModel import Job, Machine, Stage, firstLimit, listStages, planCube, totalSeconds

ENDLESS = math.inf
FREE = Machine(1e6, ENDLESS, ENDLESS, ENDLESS, 0.0, 0.0, 0.0, ENDLESS, ENDLESS, 0.0)  # but for the network
WORKERS = (1, 2, 4, 8, 16, 32, 64)


def seconds(job, machine):
    return {stage.name: stage.seconds for stage in listStages(job, machine)}


# --------------------------------------------------------------------------------------------------- limits


def testOneWorkerWithoutOverheadTakesVoxelsOverRate():
    assert totalSeconds(listStages(Job(1e9), FREE)) == 1000
    assert firstLimit(listStages(Job(1e9), FREE)) == "network"


def testWorkersShareTheWorkOfTheirParts():
    job = Job(1e9, factor=1.5, ranges=64, workers=10)
    assert totalSeconds(listStages(job, FREE)) == pytest.approx(1000 * 1.5 / 10)


def testASlowDiskLimitsHoweverManyWorkersThereAre():
    slow = FREE._replace(read=1e6, write=1e6)
    found = {
        count: seconds(Job(1e6, factor=1.5, ranges=64, workers=count), slow) for count in (4, 16, 64, 1000)
    }
    for each in found.values():
        assert each["network"] == 1.5 * 2 + 4 and each["digest"] == 2 and each["results"] == 2 * 4
    assert found[4]["grey values"] == found[64]["grey values"] == 2 * 2
    assert firstLimit(listStages(Job(1e6), slow)) == "results: reading"


def testReadingIsRepeatedByWorkersWithoutARangeOfTheirOwn():
    slow = FREE._replace(read=1e6)
    assert seconds(Job(1e6, ranges=64, workers=1024), slow)["grey values"] == 2 * 2 * 16


def testWritingLimitsWhereItIsSlower():
    stages = listStages(Job(1e6), FREE._replace(network=ENDLESS, read=1e9, write=1e6))
    assert firstLimit(stages) == "network: writing"
    assert Stage("network", 7.0, 3.0, 4.0).limit == "network"
    assert Stage("network", 6.9, 4.0, 3.0).limit == "network: reading"


def testWhatOneProcessDoesIsNotSharedOut():
    machine = FREE._replace(digest=1e6, results=1e6, start=3.0, finish=5.0, merge=0.5)
    job = Job(1e6, ranges=64, workers=1000)
    expected = {"start": 3, "digest": 2, "merge": 2 * 64 * 0.5, "results": 1, "finish": 5}
    assert {name: seconds(job, machine)[name] for name in expected} == expected
    assert seconds(job._replace(resultProcesses=64), machine)["results"] == 1 / 64
    assert seconds(Job(1e6, ranges=64), machine)["merge"] == 0  # one process joins nothing


def testGreyValuesAreSharedInWholeRanges():
    machine = FREE._replace(look=1e6)
    shares = {
        count: seconds(Job(64e6, ranges=64, workers=count), machine)["grey values"]
        for count in (1, 48, 64, 1000)
    }
    assert shares == {1: 64, 48: 2, 64: 1, 1000: 1}


# -------------------------------------------------------------------------------------------------- the cut


def testMoreWorkersAreNeverSlowerUntilTheTasksRunOut():
    machine = FREE._replace(look=2e6, digest=1e9, results=1e6, start=3.0, merge=0.01, finish=5.0)
    jobs = [planCube(1024**3, count, 8.0) for count in WORKERS]
    factors = [job.factor for job in jobs]
    assert factors == sorted(factors) and 1 < factors[0] < 1.1  # planes that lead out, at the least
    times = [totalSeconds(listStages(job, machine)) for job in jobs]
    assert times == sorted(times, reverse=True)
    assert planCube(64**3, 10**6, 8.0) is None


def testLargeCubesArePlannedAtOnce():
    job = planCube(5e13, 1024, 56.0)
    assert job.voxels == 36840**3 and job.ranges <= 64 and 1 < job.factor < 1.2


# ----------------------------------------------------------------------------------------------- the tables


@pytest.mark.parametrize(
    ("number", "text"), [(45, "45 s"), (5400, "90 min"), (36000, "10.0 h"), (86400 * 3, "3.0 d")]
)
def testTimesAreWrittenAsPeopleDo(number, text):
    assert scaleModel.describeTime(number) == text


def testTablesHaveARowASizeAndDisk():
    rows = scaleModel.tabulate(FREE, [1.0], [1.0, 100.0], [1, 4], 56.0)
    factors = [planCube(5e11, count, 56.0).factor for count in (1, 4)]
    times = [7937**3 * factor / 1e6 / count for factor, count in zip(factors, (1, 4), strict=True)]
    assert [row[:2] for row in rows] == [["1", "1"], ["1", "100"]]
    network = 7937**3 * factors[0] / 1e6 + 7937**3 * (2 * 2 + 2 + 2 * 4) / 1e11
    assert rows[1][2] == f"{scaleModel.describeTime(network)}, network"
    assert times[1] < times[0] and rows[1][3].endswith(", network")
    assert scaleModel.tabulate(FREE, [1e-6], [1.0], [10**6], 8.0)[0][2] == "too many parts"
    serial = scaleModel.tabulateSerial(FREE._replace(digest=1e9, results=1e8), [1.0], 10.0)
    assert serial == [["1", "17 min", "0 s", "83 min"]]


# ----------------------------------------------------------------------------------------- what is measured


def testALineThroughTwoRunsGivesRateAndOverhead():
    assert scale.fitLine(10, 30, 3.0, 7.0) == (5.0, 1.0)
    assert scale.fitLine(10, 30, 1.0, 3.0) == (10.0, 0.0)
    assert scale.fitLine(10, 30, 3.0, 2.0) == (15.0, 0.0)  # noise


def testTheScanFitsIntoTheMinutesAndOntoTheDisk():
    machine = FREE._replace(start=2.0, finish=2.0)
    assert scale.chooseDepth(10, 100, machine, 1e12) == int((540 - 12) / 2.4 * 1e6 / 100**2) // 16 * 16
    assert scale.chooseDepth(10, 100, machine, 6e7) == 896  # 6 bytes a voxel, a tenth is left
    assert scale.chooseDepth(0.01, 100, machine, 1e12) == 32


def testTheScanIsMirroredCopiesOfTheOneOfTheProject(tmp_path):
    shape = (200, 96, 300)
    clusters.makeScan(tmp_path / "scan.nrrd", shape)
    tile = openVolume(ROOT / "test-file" / "test-file_data.nrrd").read(((0, 160), (0, 160), (0, 128)))
    pads = [(0, max(side - own, 0)) for side, own in zip(shape, tile.shape, strict=True)]
    expected = np.pad(tile, pads, mode="symmetric")[:200, :96, :300]
    found = openVolume(tmp_path / "scan.nrrd").read(((0, 200), (0, 96), (0, 300)))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.slow
def testTheBenchmarkMeasuresComparesAndPlans(tmp_path, capsys):
    words = "--minutes 0.01 --across 64 --depths 32 64 --probe 0.02 --sizes 1 --disk 10 --workers 1 64"
    scale.main(scale.parseArguments([*words.split(), "--folder", str(tmp_path)]))
    text = capsys.readouterr().out
    assert "Probabilities of both runs: equal" in text
    assert "| one process | all |" in text and "| 2 parts | all |" in text
    assert text.count("| 1 | 10 |") == 3 and "(assumed)" in text and "(measured here)" in text
    assert not list(tmp_path.iterdir())
