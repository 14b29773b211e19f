"""The grey values of a prediction, looked at by several processes: the bits of one."""

import os
import signal
import subprocess
import sys
import time

import nrrd
import numpy as np
import pytest
from places import ROOT, listNames

import engine.base.ranges as ranges
from engine.base.sums import SumFiles
from engine.base.workers import openWorkers
from engine.formats.opening import openVolume
from engine.prediction.comparison import compareGreys
from engine.prediction.request import Request
from engine.prediction.statistics import Walker, measureRequest
from engine.volumes.volume import completeRegion

SHAPE = (40, 36, 90)
REGION = ((4, 36), (0, 30), (10, 84))


@pytest.fixture(autouse=True)
def manyRanges(monkeypatch):
    """Let small volumes have several ranges."""
    monkeypatch.setattr(ranges, "RANGE_VOXELS", 1 << 13)


def makeRequest(folder, kind="uint16", region=None, mean=8000, **fields):
    """Write a scan with hot voxels and a corner without data, in a file of its kind; ask for it."""
    generator = np.random.default_rng(3)
    image = generator.normal(mean, 600, SHAPE)
    image[:9, :20] = 0
    image[generator.integers(0, 40, 30), 5, generator.integers(0, 90, 30)] = 60000
    path = folder / f"scan-{kind}.nrrd"
    nrrd.write(str(path), image.astype(kind), {"encoding": fields.pop("encoding", "raw")})
    volume = openVolume(path)
    values = dict.fromkeys(Request._fields[:13], "") | {"learnt": {}, "memoryBudget": 0.0}
    values |= {"volume": volume, "region": completeRegion(volume.shape, region), "normalization": "region"}
    return Request(**values | fields)


def describe(request, by=None):
    """Measure; gives all that follows, to the bit."""
    found, squares = measureRequest(request, by=by or Walker())
    comparison = compareGreys(found, squares, request)
    plain = found._replace(histogram=found.histogram.counts.tobytes())
    return repr(plain), squares.tobytes(), repr(comparison)


CASES = {
    "all": {},
    "float32": {"kind": "float32"},
    "plain": {"moments": "plain"},
    "declared": {"noData": "0"},
    "region": {"region": REGION},
    "volume of a region": {"region": REGION, "normalization": "volume"},
    "gzip": {"encoding": "gzip"},
}


@pytest.mark.parametrize("case", CASES)
def testAnyNumberOfProcessesFindsTheSameBits(tmp_path, case):
    request = makeRequest(tmp_path, **CASES[case])
    expected = describe(request)
    for count in (1, 2, 3):
        store = SumFiles(tmp_path / f".partial-{count}.sum", "job")
        with openWorkers(count) as workers:
            assert describe(request, Walker(workers)) == expected
            assert describe(request, Walker(workers, store, 0.4)) == expected
            assert describe(request, Walker(workers, store, 0.9)) == expected  # from the files


def testTheMomentsOfAnotherScanAreSharedOutToo(tmp_path):
    (tmp_path / "other").mkdir()
    other = makeRequest(tmp_path / "other", mean=12000)
    request = makeRequest(tmp_path, momentsOf=str(other.volume.path))
    with openWorkers(2) as workers:
        found = describe(request, Walker(workers, SumFiles(tmp_path / "sum", "job")))
    assert found == describe(request) != describe(request._replace(momentsOf=""))


ALONE = """
import sys
from pathlib import Path
import numpy as np
import engine.base.ranges as ranges
import engine.base.sums as sums
from engine.base.workers import Here
from engine.prediction.statistics import Walker
sys.path.insert(0, sys.argv[1])
from test_statistics import describe, makeRequest
ranges.RANGE_VOXELS = 1 << 13
folder, share, left = Path(sys.argv[2]), float(sys.argv[3]), [int(sys.argv[4])]
save = sums.publish
def publishOrDie(*names):
    left[0] -= 1
    if left[0] == 0:
        import os, signal
        os.kill(os.getpid(), signal.SIGKILL)
    return save(*names)
sums.publish = publishOrDie
(folder / f"own-{share}").mkdir(exist_ok=True)
request = makeRequest(folder / f"own-{share}")
found = describe(request, Walker(Here(), sums.SumFiles(folder / "sum", "job"), share))
print(hash(found))
"""


def startAlone(folder, share, count=10**9):
    """Measure in a process of its own, killed before it keeps its n-th sum."""
    command = [sys.executable, "-c", ALONE, ROOT / "tests" / "prediction", folder, share, count]
    paths = os.pathsep.join(map(str, (ROOT, ROOT / "tests")))
    environment = os.environ | {"PYTHONPATH": paths, "PYTHONHASHSEED": "0"}
    return subprocess.Popen([str(word) for word in command], env=environment, stdout=subprocess.PIPE)


def testProcessesThatAreKilledOrAtItTogetherEndWithTheSameBits(tmp_path):
    with startAlone(tmp_path, 0.0) as first:
        expected = first.communicate(timeout=60)[0]
    assert expected.strip()
    names = [name for name in listNames(tmp_path) if name.startswith("sum")]
    for name in names:
        (tmp_path / name).unlink()
    for count in (1, 3, 3):
        with startAlone(tmp_path, 0.5, count) as killed:
            assert killed.wait(60) == -signal.SIGKILL
    begin = time.monotonic()
    together = [startAlone(tmp_path, share) for share in (0.0, 0.3, 0.6, 0.6)]
    found = [process.communicate(timeout=60)[0] for process in together]
    assert set(found) == {expected} and time.monotonic() - begin < 60
    assert {name for name in listNames(tmp_path) if name.startswith("sum")} == set(names)
