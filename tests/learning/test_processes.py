"""Which process of a training this is, as flags and SLURM tell it."""

import pytest

from engine.base.errors import PipelineError
from engine.learning.processes import Process, findProcess, firstHost

STEP = {  # of `srun --ntasks=4`
    "SLURM_JOB_ID": "1234",
    "SLURM_STEP_ID": "2",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "3",
    "SLURM_STEP_NODELIST": "gpu[07-08,11]",
}
BATCH = {"SLURM_JOB_ID": "1234", "SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_JOB_NODELIST": "gpu[07-08]"}


def testWithoutFlagsAndSlurmThereIsOneProcess():
    assert findProcess(None, None, None, {}) == Process(0, 1) and Process().isFirst
    assert findProcess(None, 1, None, {}) == findProcess(0, 1, None, {}) == Process()


def testFlagsTellOfSeveral():
    process = findProcess(1, 3, "node1:29400", {})
    assert process == Process(1, 3, "node1", 29400) and not process.isFirst
    assert process.address == "node1:29400"
    assert findProcess(0, 2, "[fe80::1]:80", {}) == Process(0, 2, "fe80::1", 80)
    assert findProcess(0, 2, "[fe80::1]:80", {}).address == "[fe80::1]:80"


def testSlurmTellsTheTasksOfAStep():
    process = findProcess(None, None, None, STEP)
    assert process[:3] == (3, 4, "gpu07") and 15000 <= process.port < 30000
    others = [findProcess(None, None, None, STEP | {"SLURM_PROCID": str(index)}) for index in range(4)]
    assert {other.address for other in others} == {process.address}
    assert findProcess(None, None, None, STEP | {"SLURM_JOB_ID": "1235"}).port != process.port
    assert findProcess(None, None, None, STEP | {"SLURM_STEP_ID": "3"}).port != process.port


def testFlagsBeatSlurm():
    assert findProcess(None, None, "other:99", STEP) == Process(3, 4, "other", 99)
    assert findProcess(None, 1, None, STEP) == Process()
    assert findProcess(0, 2, "other:99", STEP) == Process(0, 2, "other", 99)


@pytest.mark.parametrize(
    "environment",
    [
        BATCH,  # the script of a job, without srun
        STEP | {"SLURM_STEP_NUM_TASKS": "1"},
        {name: value for name, value in STEP.items() if name != "SLURM_PROCID"},
        STEP | {"SLURM_PROCID": "?"},
    ],
)
def testAnythingElseOfSlurmIsOneProcess(environment):
    assert findProcess(None, None, None, environment) == Process()


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ("node1", "node1"),
        ("node1,node2", "node1"),
        ("node[03-07,12],big1", "node03"),
        ("node[5,7]", "node5"),
        ("rack[1-2]node[03-04]-ib,x", "rack1node03-ib"),
        ("", ""),
    ],
)
def testTheFirstHostOfAListIsFound(nodes, expected):
    assert firstHost(nodes) == expected


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ((1, None, None), "belong together .received no --processCount"),
        ((None, None, "node1:80"), "belong together .received no --processCount"),
        ((None, 2, "node1:80"), "belong together .received no --processIndex"),
        ((0, 2, None), "several processes need a --coordinator; .*node1:29400"),
        ((2, 2, "node1:80"), "processIndex counts from 0 .expected 0 to 1, received 2"),
        ((-1, 2, "node1:80"), "expected 0 to 1, received -1"),
        ((1, 1, None), "expected 0 of 1 process, received 1"),
        ((0, 0, None), "processCount must be above 0 .received 0"),
        *(
            ((0, 2, text), "coordinator is no address .expected host:port, a port of 1 to 65535, received")
            for text in ("node1", "node1:", ":80", "node1:0", "node1:70000", "node1:http", "node1:²")
        ),
    ],
)
def testWhatCannotBeIsRefused(flags, words):
    with pytest.raises(PipelineError, match=words):
        findProcess(*flags, {})


def testAnUnknownHostOfAStepNeedsACoordinator():
    lost = {name: value for name, value in STEP.items() if "NODELIST" not in name}
    with pytest.raises(PipelineError, match="several processes need a --coordinator"):
        findProcess(None, None, None, lost)
