"""predictData.py killed at any moment goes on and ends with the bytes of an uninterrupted run."""

import json
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from kills import NEVER, killingScript
from places import ROOT
from sampleVolumes import writeVolume

from engine.formats.growing import partialName
from engine.prediction.journal import Journal

SHAPE = (40, 56, 120)

PREDICT = killingScript(
    """
import engine.formats.growing, engine.prediction.journal
engine.prediction.journal.COMMIT_SECONDS = 0.0
writeAt = engine.formats.growing.GrowingVolume._writeAt
def writeOrDie(self, position, voxels):
    countdown(lambda: writeAt(self, position, voxels[: len(voxels) // 2]))
    writeAt(self, position, voxels)
engine.formats.growing.GrowingVolume._writeAt = writeOrDie
import gzip
wrap(gzip.GzipFile, "write")
""",
    "predictData",
)


@pytest.fixture(scope="module")
def volume(tmp_path_factory):
    """Write a volume of blobs in noise."""
    folder = tmp_path_factory.mktemp("resume")
    generator = np.random.default_rng(8)
    image = generator.normal(30000, 900, SHAPE)
    for x, y, z in generator.integers(4, 36, (25, 3)) * np.array([1, 1, 3]):
        image[x - 3 : x + 3, y - 3 : y + 3, z - 3 : z + 3] -= 9000
    writeVolume(folder / "scan.nrrd", image.astype(np.uint16), {"spacings": np.ones(3)})
    return folder


def startPredict(volume, output, count, *flags):
    """Start the script; it kills itself at the count-th write, flush, rename or deletion."""
    command = [sys.executable, "-c", PREDICT, count, "--nameInput", volume / "scan.nrrd"]
    command += ["--nameOutput", output, "--nameReference", "none", *flags]
    return subprocess.Popen(
        list(map(str, command)), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def runPredict(*arguments):
    """Run the script to its end; return its exit code and what it printed."""
    with startPredict(*arguments) as process:
        text = process.communicate(timeout=300)[0]
    return process.returncode, text


def recordOf(output):
    """Give the file that says what an unfinished result follows from."""
    return output.with_name(f".partial-{output.name}.json")


def planesDone(output):
    """Count the planes of all tiles that are noted as finished."""
    return sum(last - first for _, (first, last) in Journal(output).finished())


def readResults(folder, stem):
    """Read those results that hold no time and no path; their folder must hold nothing unfinished."""
    endings = ("_labels.nrrd", "_mask.nrrd", "_mask.seg.nrrd", "_overview.png", "_particles.csv")
    names = {f"{stem}{ending}" for ending in (".nrrd", ".json", *endings, "_report.html", "_summary.json")}
    assert {path.name for path in folder.iterdir() if stem in path.name} == names
    return {ending: (folder / f"{stem}{ending}").read_bytes() for ending in (".nrrd", *endings)}


def uninterrupted(volume, *flags):
    """Results of an uninterrupted run, and the number of its events."""
    code, text = runPredict(volume, volume / "whole.nrrd", NEVER, *flags)
    assert code == 0, text
    contents = readResults(volume, "whole")
    (volume / "whole.nrrd").unlink()
    return contents, int(text.split("events ")[1])


def killUntilDone(volume, folder, counts, *flags):
    """Kill one run after the other; return the results and how often a run went on where one had stopped."""
    resumed = 0
    for count in [*counts, NEVER]:
        code, text = runPredict(volume, folder / "out.nrrd", count, *flags)
        resumed += "Going on with an unfinished result" in text
        assert code in (0, -signal.SIGKILL), text
    assert code == 0
    assert len(list(folder.iterdir())) == 9
    return readResults(folder, "out"), resumed


@pytest.mark.parametrize(
    "flags",
    [
        pytest.param((), marks=pytest.mark.slow),
        ("--memoryBudget", "0.32", "--outputType", "uint8", "--outputEncoding", "gzip", "--x1", "3"),
    ],
    ids=["one tile", "tiles, integers, gzip"],
)
def testKilledPredictionGoesOnToTheSameBytes(volume, tmp_path, flags):
    expected, events = uninterrupted(volume, *flags)
    received, resumed = killUntilDone(volume, tmp_path, [events // 4, events // 8], *flags)  # results follow
    assert received == expected
    assert resumed == 2


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def testRandomKillsChangeNothing(volume, tmp_path, seed):
    generator = np.random.default_rng(seed)
    flags = [(), ("--memoryBudget", "0.32"), ("--outputEncoding", "gzip", "--outputType", "uint16")][seed]
    expected, events = uninterrupted(volume, *flags)
    counts = [*generator.integers(1, events + 1, 8), events, events - 1, events - 2, 1, 2, 3]
    received, _ = killUntilDone(volume, tmp_path, map(int, counts), *flags)
    assert received == expected


def testKilledResultsAreMadeAnewFromTheProbability(volume, tmp_path):
    expected, events = uninterrupted(volume)
    output = tmp_path / "out.nrrd"
    assert runPredict(volume, output, events - 3)[0] == -signal.SIGKILL  # the picture
    code, text = runPredict(volume, output, NEVER)
    assert code == 0 and "is finished" in text and readResults(tmp_path, "out") == expected
    events = int(text.split("events ")[1])  # of the results alone
    for count in (2, events // 3, events // 2, events - 1):
        for path in tmp_path.glob("out_*"):
            path.unlink()
        assert runPredict(volume, output, count)[0] == -signal.SIGKILL
        assert output.read_bytes() == expected[".nrrd"]
    code, text = runPredict(volume, output, NEVER)
    assert code == 0 and "is finished" in text and readResults(tmp_path, "out") == expected


@pytest.mark.slow
def testKillsFromOutsideAtRandomTimesChangeNothing(volume, tmp_path):
    generator = np.random.default_rng(5)
    expected, _ = uninterrupted(volume)
    output = tmp_path / "out.nrrd"
    for delay in generator.uniform(0.2, 3.0, 8):
        with startPredict(volume, output, NEVER) as process:
            time.sleep(delay)
            process.kill()
            process.communicate()
        if output.exists():
            assert output.read_bytes() == expected[".nrrd"]
    assert killUntilDone(volume, tmp_path, [])[0] == expected


def testOtherInputsAreNamedAndBegunAnew(volume, tmp_path):
    _, events = uninterrupted(volume)
    expected, _ = uninterrupted(volume, "--z2", "100")
    output = tmp_path / "out.nrrd"
    runPredict(volume, output, events // 4)
    assert planesDone(output) > 8
    code, text = runPredict(volume, output, NEVER, "--z2", "100")
    assert code == 0
    assert "begun anew: region was [[0, 40], [0, 56], [0, 120]], is [[0, 40], [0, 56], [0, 100]]" in text
    assert "Going on" not in text and readResults(tmp_path, "out") == expected


def testAnotherBudgetGoesOnUnlessItIsTooSmall(volume, tmp_path):
    expected, events = uninterrupted(volume)
    output = tmp_path / "out.nrrd"
    runPredict(volume, output, events // 4, "--memoryBudget", "1")
    text = runPredict(volume, output, events // 8, "--memoryBudget", "2")[1]
    assert "Going on with an unfinished result" in text
    taken = json.loads(recordOf(output).read_text())["layout"][-1]
    code, text = runPredict(volume, output, NEVER, "--memoryBudget", f"{taken - 0.002:.3f}")
    assert code == 0 and "Going on" not in text
    assert re.search(r"begun anew: it took 0.\d+ GiB, more than memoryBudget now", text)
    assert readResults(tmp_path, "out").keys() == expected.keys()


@pytest.mark.slow
def testInterruptedPredictionSaysSoAndGoesOn(volume, tmp_path):
    output = tmp_path / "out.nrrd"
    output.write_bytes(b"the old result")
    code = (
        "import time, engine.formats.growing as p; write = p.GrowingVolume.write\n"
        "p.GrowingVolume.write = lambda *a: (write(*a), time.sleep(0.3))\n"
        "import runpy, sys; sys.argv[0] = 'predictData.py'\n"
        "runpy.run_path('predictData.py', run_name='__main__')"
    )
    flags = ["--nameInput", volume / "scan.nrrd", "--nameOutput", output, "--nameReference", "none"]
    with subprocess.Popen(
        [sys.executable, "-c", code, *map(str, flags)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        limit = time.monotonic() + 60
        while not partialName(output).exists() and time.monotonic() < limit:
            time.sleep(0.01)
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert error.strip() == "Interrupted: the same command goes on where it stopped."
    assert output.read_bytes() == b"the old result"
    assert planesDone(output) > 0
    expected, _ = uninterrupted(volume)
    assert killUntilDone(volume, tmp_path, [])[0] == expected


def testChangedInputIsNamed(volume, tmp_path):
    _, events = uninterrupted(volume)
    folder = tmp_path / "scan"
    folder.mkdir()
    content = (volume / "scan.nrrd").read_bytes()
    (folder / "scan.nrrd").write_bytes(content)
    output = tmp_path / "out.nrrd"
    runPredict(folder, output, events // 4)
    (folder / "scan.nrrd").write_bytes(content[:-2] + b"\x12\x34")
    code, text = runPredict(folder, output, NEVER)
    assert code == 0
    assert re.search(r"begun anew: .*nameInput was \w{12}\.\.\., is \w{12}\.\.\.", text)


def testPredictionThatGoesOnOnAnotherProcessorSaysWhatDiffers(volume, tmp_path):
    _, events = uninterrupted(volume)
    code, _ = runPredict(volume, tmp_path / "out.nrrd", events // 4)
    assert code == -signal.SIGKILL
    journal = recordOf(tmp_path / "out.nrrd")
    record = json.loads(journal.read_text())
    assert len(record["devices"]) == 1 and record["devices"][0].startswith("CPU (")
    journal.write_text(json.dumps(record | {"devices": ["CPU (Imagined, 64 cores), openvino"]}))
    code, text = runPredict(volume, tmp_path / "out.nrrd", NEVER)
    assert code == 0, text
    words = "the numbers go on the same to rounding, not to the last bit"
    assert f"Predicted so far by CPU (Imagined, 64 cores), openvino: {words}\n" in text
    devices = json.loads((tmp_path / "out.json").read_text())["devices"]
    assert devices == ["CPU (Imagined, 64 cores), openvino", *record["devices"]]
