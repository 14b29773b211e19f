"""The edges of the scripts: exit codes, one line on stderr, records, devices."""

import argparse
import errno
import importlib
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from places import ROOT

from engine.base.console import Stopwatch, describeShape, relativePath, runScript
from engine.base.errors import PipelineError
from engine.base.machine import GROUP_FILES_1, GROUP_FILES_2, containerMemoryGiB, freeMemoryGiB
from engine.base.parameters import plainSettings
from engine.base.records import commandLine, packageVersions


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (PipelineError("a rule", file="a.nrrd"), 2, "Error: a.nrrd: a rule"),
        (KeyboardInterrupt(), 130, "Interrupted: nothing half-written was kept under a final name."),
        (MemoryError("8 GiB"), 2, "Error: out of memory (8 GiB)"),
        (OSError(errno.ENOSPC, "No space left on device", "a.log"), 2, "Error: a.log: the disk is full"),
    ],
)
def testWhatAUserCanCorrectIsOneLineAndAnExitCode(capsys, error, code, line):
    def main(arguments):
        raise error

    with pytest.raises(SystemExit) as exit:
        runScript(main, argparse.Namespace)
    printed = capsys.readouterr().err.strip()
    assert exit.value.code == code and printed.startswith(line) and "\n" not in printed


@pytest.mark.parametrize("error", [ZeroDivisionError(), OSError(errno.EIO, "Input/output error")])
def testAProgrammingErrorKeepsItsTraceback(error):
    def main(arguments):
        raise error

    with pytest.raises(type(error)):
        runScript(main, argparse.Namespace)


def testSettingsAreWrittenWithPathsOfTheCurrentFolder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    settings = argparse.Namespace(file=tmp_path / "a" / "b.h5", other=Path("/elsewhere/c"), count=3)
    assert plainSettings(settings) == {"file": "a/b.h5", "other": "/elsewhere/c", "count": 3}
    assert relativePath(Path("d")) == Path("d") and describeShape((1, 2, 3)) == "1x2x3"


def testCommandLineCanBePasted(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/some/where/predictData.py", "--nameInput", "a file.nrrd"])
    assert commandLine() == "python3 predictData.py --nameInput 'a file.nrrd'"


def testVersionsAreThoseOfTheInstalledPackages():
    import numpy

    versions = packageVersions()
    assert versions["numpy"] == numpy.__version__ and versions["python"] == sys.version.split()[0]


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


@pytest.mark.parametrize("module", ["prepareData", "trainingAndValidation", "predictData", "functions"])
def testNoScriptLoadsABackEndBeforeItNeedsOne(module):
    backends = {"keras", "tensorflow", "jax"}
    code = f"import sys, {module}; print(sorted({backends} & set(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


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


@pytest.mark.parametrize("name", ["prepareData", "trainingAndValidation", "predictData"])
def testEveryConstantIsAFlagWhoseHelpIsItsComment(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "1000")  # no line breaks in the help
    script = importlib.import_module(name)
    with pytest.raises(SystemExit):
        script.parseArguments(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    source = (ROOT / f"{name}.py").read_text()
    block = source.split(" parameters\n", 1)[1].split("\n# ---", 1)[0]
    for line in (line for line in block.splitlines() if not line.startswith("#")):
        constant, meaning = re.fullmatch(r"(\w+) = .*?  # (.+)", line).groups()
        assert f"--{constant}" in text and meaning in text


def testHelpShowsDefaultsAndAWrongValueIsToldInOneLine(capsys):
    import predictData

    with pytest.raises(SystemExit):
        predictData.parseArguments(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "(or a corner) [26]" in text and "[test-file/test-file_data.nrrd]" in text and "[raw]" in text
    for flags in (["--connectivity", "8"], ["--x1", "3.5"], ["--treshold", "0.5"]):
        with pytest.raises(SystemExit) as stop:
            predictData.parseArguments(flags)
        error = capsys.readouterr().err
        assert stop.value.code == 2 and error.count("\n") == 1 and flags[0] in error


def testStopwatchAddsUpThePartsOfARun(monkeypatch):
    instants = iter([1.0, 1.5, 4.0, 4.25])
    monkeypatch.setattr(time, "perf_counter", lambda: next(instants))
    clock = Stopwatch()
    for part in ("reading", "writing", "reading"):
        clock.lap(part)
    assert clock.seconds == {"reading": 0.75, "writing": 2.5}
