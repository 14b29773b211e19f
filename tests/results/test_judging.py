"""Results are the same to the last byte, however many processes have made them, whatever crosses a seam."""

import functools
import gzip
import json
import pickle
import shutil
from pathlib import Path

import nrrd
import numpy as np
import pytest
import SimpleITK as sitk
from particles import blobs
from scipy import ndimage

from engine.base import deflated
from engine.base.console import Stopwatch
from engine.base.errors import PipelineError
from engine.base.ranges import MOST_RANGES
from engine.base.workers import Here, openWorkers
from engine.formats.growing import partialName
from engine.formats.nrrdWriter import openPlanes
from engine.formats.opening import openVolume
from engine.masks.targets import PUBLISHED
from engine.results import kinds, outcome, ranges
from engine.results.evaluation import Criteria, Evaluation, Page, openReference
from engine.results.judging import Written, evaluate, leaveSums
from engine.results.looks import Looks
from engine.results.ranges import Source
from engine.volumes.turned import TurnedVolume

STEPS = {6: 1, 18: 2, 26: 3}  # of scipy.ndimage.generate_binary_structure
GEOMETRY = {"spacings": np.array([0.5, 0.7, 1.1]), "units": ["um"] * 3}
SHAPE = 23, 19, 31  # x, y, z
SWITCHES = {result.switch: True for result in kinds.KINDS} | {"mhd": False}
LABEL_RANGE = outcome.labelRange
LEARNT = {"threshold": 0.45, "sureness": [[0.7, 0.8], [0.8, 0.9], [0.6, 0.75]]}


@pytest.fixture(scope="module")
def pools():
    """Start two and three processes."""
    with openWorkers(2) as two, openWorkers(3) as three:
        yield [Here(), two, three]


@pytest.fixture(autouse=True)
def smallRanges(monkeypatch):
    """Read three planes at a time, two slabs a range; and let time stand still."""
    monkeypatch.setattr(ranges, "LEAST_VOXELS", 6 * SHAPE[0] * SHAPE[1])
    monkeypatch.setattr(ranges, "chooseSlab", lambda *_: 3)
    monkeypatch.setattr(outcome.time, "strftime", lambda *_: "now")


@pytest.fixture
def scan(tmp_path):
    """Write a probability with snakes through all planes, a mask with labels 0, 1, 2 and 7, a volume."""
    return writeScan(tmp_path)


def writeScan(folder, encoding="raw"):
    """Write them with this encoding."""
    positive, probability = blobs(SHAPE[::-1], seed=3, share=0.12)
    planes = np.arange(SHAPE[2])
    positive[planes, planes % 19, 5 + planes % 2] = True  # steps by corners
    positive[:, 3, 20] = True
    probability = np.where(positive, 0.5 + probability / 2, probability / 3).astype(np.float32)
    mask = np.where(np.roll(positive, 1, axis=2), 1 + (planes[:, None, None] > 12), 0).astype(np.uint8)
    mask[14, 4:9, 3] = 7
    header = dict(GEOMETRY)
    for name, values in (("scan_segmented", probability), ("scan_mask", mask), ("scan_data", mask)):
        with openPlanes(folder / f"{name}.nrrd", SHAPE, values.dtype.str, header, encoding) as write:
            write(values)
    return folder


def prepare(
    folder,
    connectivity=26,
    minimumVoxels=1,
    labels=(1, 2),
    outputFormat="nrrd",
    mask="scan_mask",
    store=None,
    ignored=(),
):
    """Describe the probability, and all results of it."""
    volume = openVolume(folder / "scan_data.nrrd")
    reference = openReference(folder / f"{mask}.nrrd" if mask else "none", volume, labels)
    region = tuple((0, side) for side in SHAPE)
    written = Written(folder / "scan_segmented.nrrd", volume, region, LEARNT, 0, {}, store)
    paths = kinds.chooseResults(written.path, outputFormat, SWITCHES, reference is not None)
    looks = Looks(SHAPE, paths, reference is not None)
    looks.watch("grey").add(0, volume.read().T)
    criteria, page = Criteria(0.5, connectivity, minimumVoxels), Page("scan", "CPU", {})
    target = PUBLISHED._replace(labels=labels)
    return written, Evaluation(target, criteria, reference, paths, looks, page, ignored)


def judge(folder, workers, *criteria, **rest):
    """Make all results; gives {name: bytes} of them, and the lines."""
    (written, evaluation), lines = prepare(folder, *criteria, **rest), []
    evaluate(written, evaluation, workers, lambda *told: lines.extend(told), Stopwatch())
    files = {}
    for path in evaluation.paths.values():
        for file in [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]:
            files[file.relative_to(folder).as_posix()] = file.read_bytes()
    for path in evaluation.paths.values():
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    assert not list(folder.glob(".*"))  # nothing unfinished is left
    return files, lines


def readLabels(content, path):
    """Read labels by pynrrd, (z, y, x)."""
    path.write_bytes(content)
    return nrrd.read(str(path))[0].T


CASES = [(6, 1, (1, 2)), (18, 4, (2,)), (26, 1, "!0,7"), (26, 9, (0,))]


@pytest.mark.parametrize(("connectivity", "minimumVoxels", "labels"), CASES)
def testAnyNumberOfProcessesGivesTheSameBytes(scan, pools, connectivity, minimumVoxels, labels):
    one, *others = (judge(scan, workers, connectivity, minimumVoxels, labels) for workers in pools)
    assert len(one[0]) == 9 and len(Source.of(scan, ((0, 23), (0, 19), (0, 31)), None, 0).ranges()) == 6
    for files, lines in others:
        assert lines == one[1]
        assert {name for name in files if files[name] != one[0][name]} == set()


def testIgnoredVoxelsGiveTheSameBytesToo(scan, pools):
    one, *others = (judge(scan, workers, 26, 4, (1,), ignored=[0, 7]) for workers in pools)
    dense = judge(scan, pools[0], 26, 4, (1,))
    assert one[0]["scan_segmented_scores.json"] != dense[0]["scan_segmented_scores.json"]
    assert one[0]["scan_segmented_particles.csv"] == dense[0]["scan_segmented_particles.csv"]
    for found in others:
        assert found == one


@pytest.mark.parametrize("connectivity", [6, 18, 26])
@pytest.mark.parametrize("minimumVoxels", [1, 5])
def testLabelsAreThoseOfTheWholeVolume(scan, pools, tmp_path, connectivity, minimumVoxels):
    files, _ = judge(scan, pools[1], connectivity, minimumVoxels, mask="")
    positive = nrrd.read(str(scan / "scan_segmented.nrrd"))[0].T >= 0.5
    expected, count = ndimage.label(positive, ndimage.generate_binary_structure(3, STEPS[connectivity]))
    isKept = np.bincount(expected.ravel()) >= minimumVoxels
    isKept[0] = False
    expected = np.where(isKept, np.cumsum(isKept), 0)[expected]
    content = files["scan_segmented_labels.nrrd"]
    np.testing.assert_array_equal(readLabels(content, tmp_path / "again.nrrd"), expected)
    header, _, packed = content.partition(b"\n\n")
    assert gzip.decompress(packed) == expected.astype("<u4").tobytes()
    mask = gzip.decompress(files["scan_segmented_mask.nrrd"].partition(b"\n\n")[2])
    assert mask == np.where(expected, 0, 255).astype(np.uint8).tobytes()
    for ending, values in (("labels", expected), ("mask.seg", expected > 0)):
        path = tmp_path / f"again_{ending}.nrrd"
        path.write_bytes(files[f"scan_segmented_{ending}.nrrd"])
        np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(path))), values)
    assert expected.max() == isKept.sum() and (isKept.sum() < count) == (minimumVoxels > 1)


def testOneRangeGivesTheSameTables(scan, pools, monkeypatch):
    several, _ = judge(scan, pools[0])
    monkeypatch.setattr(ranges, "LEAST_VOXELS", 1 << 24)
    one, _ = judge(scan, pools[1])
    for ending in ("particles.csv", "summary.json", "scores.json", "errors.csv"):
        assert several[f"scan_segmented_{ending}"] == one[f"scan_segmented_{ending}"]


@pytest.mark.parametrize(
    ("outputFormat", "labels"),
    [
        ("tiff", "scan_segmented_labels.tif"),
        ("omezarr", "scan_segmented.ome.zarr/labels/particles/zarr.json"),
    ],
)
def testOtherFormatsAreTheSameToo(scan, pools, outputFormat, labels):
    one, two, _ = (judge(scan, workers, outputFormat=outputFormat, mask="")[0] for workers in pools)
    assert one == two and {labels, "scan_segmented_mask.seg.nrrd"} < set(one)


@pytest.mark.parametrize("outputFormat", ["nrrd", "tiff", "omezarr"])
def testPiecesThatLieInFilesGiveTheSameBytes(scan, pools, monkeypatch, outputFormat):
    expected = judge(scan, pools[0], outputFormat=outputFormat)
    monkeypatch.setattr(outcome, "labelRange", labelIntoFiles)
    for workers in pools:
        assert judge(scan, workers, outputFormat=outputFormat) == expected


def labelIntoFiles(labelling, place, blocks, **rest):
    """Label a range, in any process, whose pieces are all too large for the memory."""
    limit, deflated.HELD_BYTES = deflated.HELD_BYTES, 0
    try:
        pieces, looks = LABEL_RANGE(labelling, place, blocks, **rest)
    finally:
        deflated.HELD_BYTES = limit
    assert pieces and all(isinstance(piece.deflated, Path) for piece in pieces.values())
    return pieces, looks


def testARangeThatFailsLeavesNoFiles(scan, pools, monkeypatch):
    monkeypatch.setattr(outcome, "labelRange", failAtTheEnd)
    for workers in pools:
        with pytest.raises(PipelineError, match="no more"):
            judge(scan, workers)
        assert not [path.name for path in scan.iterdir() if "mask.seg" in path.name or "labels" in path.name]
    assert not list(scan.glob(".*"))


def failAtTheEnd(labelling, place, blocks, **rest):
    """Label a range into files, but refuse the last one."""
    if place.last == SHAPE[2]:
        raise PipelineError("no more")
    return labelIntoFiles(labelling, place, blocks, **rest)


class Kept(dict):
    """A store in this process."""

    def load(self, name, number):
        return self.get((name, number))

    def save(self, name, number, state):
        self[name, number] = state


@pytest.mark.parametrize("ignored", [(), [0, 7]])
def testWhatPartsLeaveOfACompressedMaskIsReadARowAtATime(tmp_path, monkeypatch, ignored):
    folder, store, opened = writeScan(tmp_path, "gzip"), Kept(), []
    expected = judge(folder, Here(), 18, 3, (1,), ignored=ignored)
    open = Source.open
    monkeypatch.setattr(Source, "open", lambda *words: opened.append(words[1:]) or open(*words))
    written, evaluation = prepare(folder, 18, 3, (1,), store=store, ignored=ignored)
    partial = partialName(written.path)
    shutil.copy(written.path, partial)
    leave = functools.partial(leaveSums, written, [evaluation])
    assert leave([(12, 31)]) == ["4 of 6 ranges of planes are measured"] and opened == [(12, 31)]
    assert leave([(0, 10), (29, 31)]) == ["5 of 6 ranges of planes are measured"]
    assert opened == [(12, 31), (0, 6)]
    partial.unlink()
    assert judge(folder, Here(), 18, 3, (1,), store=store, ignored=ignored) == expected
    assert opened[2:] == [(6, 12), (0, 31)]  # what lacks, and all of it for the labels


def testCompressedVoxelsGiveTheSameParticles(scan, pools, tmp_path):
    plain = judge(scan, pools[1])[0]
    (tmp_path / "packed").mkdir()
    packed = writeScan(tmp_path / "packed", "gzip")
    found = [judge(packed, workers)[0] for workers in pools]
    assert found[0] == found[1] == found[2]
    for ending in ("particles.csv", "labels.nrrd", "mask.seg.nrrd"):
        assert found[0][f"scan_segmented_{ending}"] == plain[f"scan_segmented_{ending}"]


def testATurnedMaskIsReadByEveryProcess(scan, pools):
    header = {"space": "left-posterior-superior", "space units": ["um"] * 3}
    turned = np.diag([0.5, 0.7, -1.1]), np.array([0, 0, 1.1 * (SHAPE[2] - 1)])
    mask = nrrd.read(str(scan / "scan_mask.nrrd"))[0]
    for name, values, (directions, origin) in (
        ("scan_data", mask, (np.diag([0.5, 0.7, 1.1]), np.zeros(3))),
        ("turned", mask[:, :, ::-1], turned),
    ):
        place = {"space directions": directions, "space origin": origin, "encoding": "raw"}
        nrrd.write(str(scan / f"{name}.nrrd"), np.asfortranarray(values), header | place)
    volume = openVolume(scan / "scan_data.nrrd")
    assert isinstance(openReference(scan / "turned.nrrd", volume), TurnedVolume)
    one, two, _ = (judge(scan, workers, mask="turned")[0] for workers in pools)
    assert one == two
    scores = json.loads(one["scan_segmented_scores.json"])["voxels"]
    mask = np.isin(mask, (1, 2))
    positive = nrrd.read(str(scan / "scan_segmented.nrrd"))[0] >= 0.5
    assert (scores["tp"], scores["fn"]) == ((positive & mask).sum(), (~positive & mask).sum())


@pytest.mark.parametrize("isOverlapping", [False, True])
@pytest.mark.parametrize("encoding", ["raw", "gzip"])
def testACroppedSegmentationIsReadByEveryProcess(scan, pools, encoding, isOverlapping):
    header = {"space": "left-posterior-superior", "space units": ["um"] * 3, "encoding": encoding}
    steps, corner = np.diag([0.5, 0.7, 1.1]), np.array([2, 1, 3])
    mask = nrrd.read(str(scan / "scan_mask.nrrd"))[0]
    place = {"space directions": steps, "space origin": np.zeros(3)}
    nrrd.write(str(scan / "scan_data.nrrd"), mask, header | place)
    part = mask[2:-1, 1:-4, 3:-2]
    place = {"space directions": steps, "space origin": corner @ steps}
    place |= {"Segment0_Name": "one", "Segment0_LabelValue": "1", "Segment0_Layer": "0"}
    if isOverlapping:
        other = (part == 2) | (np.indices(part.shape)[0] == 4)
        part, place["kinds"] = np.stack([part == 1, other]).astype(np.uint8), ["list", *["domain"] * 3]
        place["space directions"] = np.vstack([np.full((1, 3), np.nan), steps])
        place |= {"Segment1_Name": "two", "Segment1_LabelValue": "1", "Segment1_Layer": "1"}
        positive = np.pad((part[0] == 1) | other, [(2, 1), (1, 4), (3, 2)])
    else:
        place |= {"Segment1_Name": "two", "Segment1_LabelValue": "2", "Segment1_Layer": "0"}
        positive = np.pad(np.isin(part, (1, 2)), [(2, 1), (1, 4), (3, 2)])
    nrrd.write(str(scan / "part.seg.nrrd"), np.asfortranarray(part), header | place)
    one, two, _ = (judge(scan, workers, labels="one,two", mask="part.seg")[0] for workers in pools)
    assert one == two
    scores = json.loads(one["scan_segmented_scores.json"])["voxels"]
    found = nrrd.read(str(scan / "scan_segmented.nrrd"))[0] >= 0.5
    assert (scores["tp"], scores["fn"]) == ((found & positive).sum(), (~found & positive).sum())
    assert 0 < scores["tp"] < found.sum()


def testATruncatedProbabilityIsRefusedAndNothingIsWritten(scan, pools):
    path = scan / "scan_segmented.nrrd"
    source = Source.of(path, tuple((0, side) for side in SHAPE), None, 0)
    places = source.ranges()
    content = path.read_bytes()
    seen = [str(place) for place in ranges.walk(giveRange, source, places, pools[1], "")]
    assert seen == list(map(str, places))
    path.write_bytes(content[:-400])
    lines = []
    for workers in pools:
        with pytest.raises(PipelineError) as error:
            judge(scan, workers)
        lines.append(str(error.value))
    assert len(set(lines)) == 1 and "scan_segmented.nrrd" in lines[0]
    assert {path.name for path in scan.iterdir()} == {
        f"scan_{name}.nrrd" for name in ("segmented", "mask", "data")
    }


def giveRange(place, blocks):
    return place


def testAnotherMachineMustSeeTheSameProbabilityAndMask(scan):
    region = tuple((0, side) for side in SHAPE)
    for name in ("scan_mask.nrrd", "scan_segmented.nrrd"):
        source = Source.of(scan / "scan_segmented.nrrd", region, openVolume(scan / "scan_mask.nrrd"), 0)
        source = pickle.loads(pickle.dumps(source.absolute()))
        assert sum(block.shape[2] for block, _ in source.open(3, 20)) == 17
        content = (scan / name).read_bytes()
        (scan / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(PipelineError, match=f"{name}: a worker sees another file"):
            next(source.open(0, 1))
        (scan / name).rename(scan / "hidden")
        with pytest.raises(PipelineError, match=f"{name}: a worker cannot read it: No such file"):
            next(source.open(0, 1))
        (scan / name).write_bytes(content)


def testRangesFollowFromTheShapeAlone(monkeypatch):
    monkeypatch.undo()
    for shape, slab in (
        ((512, 512, 512), 16),
        ((2048, 2048, 2048), 1),
        ((80, 60, 40), 16),
        ((9000, 9000, 7), 1),
    ):
        region = tuple((5, 5 + side) for side in shape)
        source = Source.of("a.nrrd", region, None, 0)
        places = source.ranges()
        assert source.slab == slab and len(places) <= MOST_RANGES
        planes = [plane for place in places for plane in range(place.first, place.last)]
        assert planes == list(range(shape[2]))
        assert all(place.first == place.firstSlab * slab for place in places)
        slabs = [number for place in places for number in range(place.firstSlab, place.lastSlab)]
        assert slabs == list(range(-(-shape[2] // slab)))


def testProcessesAreAsManyAsAreWorthwhileAndFit(monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(ranges, "coreCount", lambda: 6)
    assert ranges.chooseCount(0, (512, 512, 512)) == 1 and ranges.chooseCount(0, (1024, 1024, 512)) == 6
    assert ranges.chooseCount(3, (80, 60, 40)) == 3
    assert ranges.countFitting((1024, 1024, 1024), 0.1) == 1
    assert 2 <= ranges.countFitting((1024, 1024, 1024), 4) < ranges.countFitting((1024, 1024, 1024), 16)
