"""The model of large predictions: its limits by hand, and the whole script on a small volume."""

import subprocess
import sys

import pytest
from places import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
import scale
from scale import Machine, Stage, describeStages

FREE = Machine(1e6, 1e15, 1e15, 1e15, 1e15, 0.0)  # nothing but the network takes time


def seconds(voxels, factor, count, machine):
    return sum(stage.seconds for stage in describeStages(voxels, factor, count, count, machine))


def testTheNetworkAloneIsVoxelsOverRate():
    assert seconds(1e9, 1.0, 1, FREE) == pytest.approx(1000)
    assert seconds(1e9, 1.0, 10, FREE) == pytest.approx(100)
    assert seconds(1e9, 1.5, 10, FREE) == pytest.approx(150)  # parts repeat planes


def testASlowDiskLimitsHoweverManyWorkersThereAre():
    slow = Machine(1e6, 1e6, 1e15, 1e15, 1e15, 0.0)
    stages = describeStages(1e6, 1.0, 1000, 1000, slow)
    # digest and grey values read 2 bytes each, the network reads 2 and writes 4, the results read 4 twice
    assert [stage.disk for stage in stages] == [0, 2, 2, 6, 8]
    assert seconds(1e6, 1.0, 1000, slow) == pytest.approx(18)
    assert stages[3].limit == "network (disk)"


def testOneProcessDigests():
    machine = FREE._replace(digest=1e6)
    assert seconds(1e9, 1.0, 1000, machine) == pytest.approx(2000 + 1)


def testTheLongerLimitCounts():
    assert Stage("network", 3.0, 2.0).seconds == 3.0 and Stage("network", 3.0, 2.0).limit.endswith(
        "(computing)"
    )
    assert Stage("network", 3.0, 4.0).seconds == 4.0 and Stage("network", 3.0, 4.0).limit.endswith("(disk)")


def testPartsCostMoreTheMoreThereAre():
    factors = [scale.chooseFactor(2048, count) for count in (1, 4, 16, 64)]
    assert factors == sorted(factors) and 1 <= factors[0] < 1.1 and factors[-1] < 4
    times = [
        seconds(2048**3, factor, count, FREE) for factor, count in zip(factors, (1, 4, 16, 64), strict=True)
    ]
    assert times == sorted(times, reverse=True)  # and yet more workers are faster


@pytest.mark.parametrize(("number", "text"), [(90, "2 min"), (5400, "1.5 h"), (86400 * 3, "3.0 d")])
def testTimesAreWrittenAsPeopleDo(number, text):
    assert scale.describeHours(number) == text


@pytest.mark.slow
def testTheScriptMeasuresAndCompares():
    command = [sys.executable, str(ROOT / "benchmarks" / "scale.py"), "--minutes", "0.1", "--across", "64"]
    text = subprocess.run(
        [*command, "--small", "64", "64", "64"], capture_output=True, text=True, check=True, timeout=500
    ).stdout
    assert "Measured: network " in text and "| network | " in text and text.count("| 1024 | ") == 3
