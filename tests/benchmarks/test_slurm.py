"""The benchmark of SLURM: what it says where there is none, and a small run where there is."""

import shutil
import sys

import pytest
from places import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
import peers
import slurm

OUTCOME = slurm.Outcome("one process", 10.0, [], 0, dict.fromkeys(slurm.KINDS, "a" * 64))
TASKS = [slurm.Task("part 0", "COMPLETED", 2, "0:0"), slurm.Task("results", "COMPLETED", 0, "0:0")]


def testWithoutSlurmItSaysWhatToInstall(monkeypatch):
    monkeypatch.setattr(slurm.shutil, "which", lambda name, path: None)
    with pytest.raises(SystemExit, match="not installed: munged, .*apt-get install slurm-wlm munge"):
        slurm.main(slurm.parseArguments([]))


def testTheTablesTellOfEqualBytes(capsys):
    slurm.printOutcomes([OUTCOME, OUTCOME._replace(name="disturbed", tasks=TASKS, warnings=1)])
    text = capsys.readouterr().out
    assert "| disturbed | 10.0 | 1 | 2 | the same (aaaaaaaaaaaa...) |" in text
    assert "| disturbed | part 0 | COMPLETED | 2 | 0:0 |" in text


def testBytesThatDifferEndTheBenchmark(capsys):
    other = OUTCOME._replace(digests=OUTCOME.digests | {"_labels.nrrd": "b" * 64})
    with pytest.raises(SystemExit, match="the results differ"):
        slurm.printOutcomes([OUTCOME, other])
    assert "different: _labels.nrrd" in capsys.readouterr().out


def testUnfinishedResultsAreNotTakenForResults(tmp_path):
    (tmp_path / ".partial-scan_segmented.nrrd").touch()
    with pytest.raises(RuntimeError, match="unfinished"):
        slurm.digestResults(tmp_path)


@pytest.mark.slow
def testAPrintedScriptRunsOnARealSlurm(tmp_path):
    if not all(shutil.which(name) or shutil.which(name, path="/usr/sbin") for name in slurm.PROGRAMS):
        pytest.skip("SLURM is not installed")
    peers.makeNrrd(str(tmp_path / "scan.nrrd"), [96, 96, 128])
    folders = [tmp_path / "one", tmp_path / "two"]
    (tmp_path / "cluster").mkdir()
    for folder in folders:
        folder.mkdir()
    commands = [slurm.commandFor(folder, tmp_path / "scan.nrrd", "float32") for folder in folders]
    expected = slurm.predictAlone(folders[0], commands[0])
    with slurm.Cluster(tmp_path / "cluster", 2) as cluster:
        outcome = slurm.predictByJobs("by jobs", cluster, folders[1], commands[1], 3, None)
    assert outcome.digests == expected.digests
    assert [task.name for task in outcome.tasks] == ["part 0", "part 1", "part 2", "results"]
    assert all(process.poll() is not None for process in cluster._processes.values())
