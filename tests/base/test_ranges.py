"""A walk in ranges: whoever does them, in whatever order, the observers end with the same bits."""

import itertools
import random
import subprocess
import sys

import numpy as np
import pytest
from places import ROOT, listNames

import engine.base.ranges as ranges
from engine.base.arrays import Moments
from engine.base.histograms import FineHistogram, Histogram, SummedHistogram
from engine.base.ranges import Maker, cutRanges, pack, unpack, walkRanges
from engine.base.squares import Squares
from engine.base.sums import SumFiles
from engine.base.workers import Here
from engine.volumes.greys import Greys, NoData

SHAPE = (40, 24, 96)
SLAB = 8


class Source:
    """Grey values with a corner without data, in planes."""

    label = "grey values"

    def __init__(self, dtype):
        image = np.random.default_rng(4).normal(30000, 2000, SHAPE[::-1])
        image[20:70, :9, :20] = 0
        image[3, 3, 3] = -1 if np.dtype(dtype).kind == "f" else 1
        self.image, self.reads = image.astype(dtype), 0

    def blocks(self, first, last):
        self.reads += last - first
        return ((self.image[z : min(z + SLAB, last)],) for z in range(first, last, SLAB))


class Shuffled:
    """Workers that do the calls in any order."""

    count = 2

    def map(self, function, items):
        order = random.Random(5).sample(range(len(items)), len(items))
        answers = {place: function(items[place]) for place in order}
        return (answers[place] for place in range(len(items)))


def makers(dtype):
    dtype = np.dtype(dtype)
    kinds = [Maker(Moments), Maker(Histogram, (dtype,)), Maker(FineHistogram, (20000.0, 40000.0))]
    kinds = [Maker(Taking, (kind,)) for kind in kinds[1:]] + [kinds[0], Maker(Squares)]
    declared = [Maker(Greys, (dtype, NoData(value, value is None))) for value in (None, 0.0)]
    return [*kinds, *declared, Maker(Taking, (Maker(SummedHistogram, (dtype,)),))]


class Taking:
    """Hands planes to a histogram."""

    STATE = ("into",)

    def __init__(self, maker):
        self.into = maker()

    def add(self, z, planes):
        self.into.add(planes)

    def join(self, other):
        self.into.join(other.into)


def packed(observers):
    return [{name: array.tobytes() for name, array in pack(observer).items()} for observer in observers]


@pytest.fixture(params=["uint16", "float32"])
def case(request, monkeypatch):
    """Give a volume in six ranges, the makers, and what one process finds."""
    monkeypatch.setattr(ranges, "RANGE_VOXELS", SHAPE[0] * SHAPE[1] * 16)
    source, cut = Source(request.param), cutRanges(SHAPE, SLAB)
    assert len(cut) == 6
    return source, cut, makers(request.param), packed(walkRanges(source, cut, makers(request.param), Here()))


def testRangesAreWholeSlabsOfTheWholeVolume(monkeypatch):
    for shape, slab in itertools.product([(10, 10, 7), (300, 300, 901), (2048, 2048, 2048)], (1, 16)):
        cut = cutRanges(shape, slab)
        assert [first for first, _ in cut] == [0, *(last for _, last in cut[:-1])] and cut[-1][1] == shape[2]
        assert all(first % slab == 0 for first, _ in cut) and len(cut) <= ranges.MOST_RANGES
    assert cutRanges((100, 100, 100), 16) == [(0, 100)]  # a small one is read as ever


def testOneWalkIsThatOfAllPlanesAtOnce(case):
    source, _, kinds, found = case
    whole = packed(walkRanges(source, [(0, SHAPE[2])], kinds, Here()))
    assert whole[:-3] == found[:-3]
    assert all(
        part[name] == one[name]
        for part, one in zip(found, whole, strict=True)
        for name in ("count",)
        if name in one
    )


def testWorkersInAnyOrderEndWithTheSameBits(case):
    source, cut, kinds, found = case
    assert packed(walkRanges(source, cut, kinds, Shuffled())) == found


def testProcessesShareWhatTheyFind(case, tmp_path):
    source, cut, kinds, found = case
    store = SumFiles(tmp_path / ".partial-a.nrrd.sum", "job")
    assert packed(walkRanges(source, cut, kinds, Here(), store, 4)) == found
    assert source.reads == 2 * SHAPE[2] and len(list(tmp_path.iterdir())) == 6
    assert packed(walkRanges(source, cut, kinds, Shuffled(), store)) == found
    assert source.reads == 2 * SHAPE[2]  # nothing was read again


def testAProcessBeginsAtItsShare(case, tmp_path):
    source, cut, kinds, _ = case
    order, store = [], SumFiles(tmp_path / "sum", "job")
    blocks = source.blocks
    source.blocks = lambda first, last: order.append(first) or blocks(first, last)
    walkRanges(source, cut, kinds, Here(), store, 4)
    assert order == [64, 80, 0, 16, 32, 48]


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "foreign"])
def testADamagedOrForeignSumIsMadeAnew(case, tmp_path, damage):
    source, cut, kinds, found = case
    walkRanges(source, cut, kinds, Here(), SumFiles(tmp_path / "sum", "job"))
    path = sorted(tmp_path.iterdir())[2]
    if damage == "foreign":  # of another job under the same name
        np.savez(path, of=np.array("0" * 64), count=np.array(3))
    else:
        path.write_bytes({"cut": path.read_bytes()[:-30], "empty": b"", "text": b"no archive"}[damage])
    assert packed(walkRanges(source, cut, kinds, Here(), SumFiles(tmp_path / "sum", "job"))) == found
    reads = source.reads
    assert packed(walkRanges(source, cut, kinds, Here(), SumFiles(tmp_path / "sum", "other job"))) == found
    assert source.reads == reads + SHAPE[2]  # another job takes none of them


def testASumOfAnotherVolumeOrOfOtherRangesIsNotTaken(case, tmp_path):
    source, cut, kinds, found = case
    store = SumFiles(tmp_path / "sum", "job")
    walkRanges(source, cut, kinds, Here(), store)
    reads, halves = source.reads, [(0, 48), (48, 96)]
    source.label = "those of another scan"
    assert packed(walkRanges(source, cut, kinds, Here(), store)) == found
    assert packed(walkRanges(source, halves, kinds, Here(), store)) == packed(
        walkRanges(source, halves, kinds, Here())
    )
    assert source.reads == reads + 3 * SHAPE[2]


def testASumHoldsNoCode(tmp_path):
    store = SumFiles(tmp_path / "sum", "job")
    store.save("name", 0, {"counts": np.arange(3)})
    (path,) = tmp_path.iterdir()
    np.savez(path, of=np.array(store._mark("name")), counts=np.array([print], object))
    assert store.load("name", 0) is None


def testASumOfAProcessThatIsKilledMeanwhileIsForgottenToo(tmp_path):
    code = (
        "import os, signal, sys; from pathlib import Path; import engine.base.sums as sums\n"
        "sums.publish = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "sums.SumFiles(Path(sys.argv[1]), 'key').save('name', 0, {'a': 1})"
    )
    stem = tmp_path / ".partial-a[1].nrrd.seen"
    subprocess.run([sys.executable, "-c", code, stem], cwd=ROOT)
    (tmp_path / ".partial-a1.nrrd.seen-0.npz").touch()
    assert len(listNames(tmp_path)) == 2
    SumFiles(stem, "").remove()
    assert listNames(tmp_path) == [".partial-a1.nrrd.seen-0.npz"]


def testWhatIsPackedIsUnpacked():
    greys = Greys(np.dtype("float32"), NoData())
    greys.add(0, Source("float32").image)
    again = Greys(np.dtype("float32"), NoData())
    unpack(again, pack(greys))
    assert packed([again]) == packed([greys])
    assert (again.noise, again.lowest, again.count) == (greys.noise, greys.lowest, greys.count)
    assert again.moments.finish() == greys.moments.finish()
    assert type(again.count) is int and type(again.lowest) is float
    for noData in (NoData(), NoData(isSought=False)):  # without regions, too
        nothing, fresh = (Greys(np.dtype("float32"), noData) for _ in range(2))
        unpack(fresh, pack(nothing))
        assert packed([fresh]) == packed([nothing]) and len(fresh._regions) == 2 * noData.isSought
    with pytest.raises(KeyError):
        unpack(Taking(Maker(SummedHistogram, (np.dtype("u1"),))), pack(greys))
