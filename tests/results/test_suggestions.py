"""Boxes to label next: where they lie, what their masks hold, and that nothing of a user is written over."""

import functools
import itertools
import json
import shutil

import nrrd
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from scipy import ndimage

from engine.base.errors import PipelineError
from engine.base.workers import Here, openWorkers
from engine.formats.growing import encodeProbability
from engine.formats.nrrdWriter import openPlanes
from engine.formats.opening import openVolume, stemOf
from engine.masks.segments import ignoredLabels, resolveLabels
from engine.masks.targets import PUBLISHED, selectPositive
from engine.measures.boxes import MOST_CELLS
from engine.preparation.pairs import listPairs, openPairs
from engine.results import ranges, suggested, suggestions
from engine.results.evaluation import Criteria, Evaluation, Written
from engine.results.suggestions import cutBoxes, suggestBoxes
from engine.volumes.scale import MOMENTS_FIELD, Scale, Statistics, measureVolume

SHAPE = (150, 100, 84)  # x, y, z
SPOTS = {"first": (40, 36, 50), "second": (110, 60, 30)}  # of the probability
SCALE = Scale(1000.1, 50.3)
OBLIQUE = {
    "space": "left-posterior-superior",
    "space directions": np.array([[0.3, 0.4, 0.0], [-0.4, 0.3, 0.0], [0.0, 0.0, 0.65]]),
    "space origin": np.array([10.0, -5.0, 2.5]),
    "space units": ["um"] * 3,
    "operator": "of the beamline",
}


def makeScan(seed=0):
    """Grey values, asymmetric, and a probability with two uncertain spots and single positive voxels."""
    generator, place = np.random.default_rng(seed), np.indices(SHAPE)
    grey = (generator.normal(1000, 50, SHAPE) + place[0] / 2 - place[2]).astype(np.uint16)
    probability = generator.uniform(0, 0.01, SHAPE).astype(np.float32)
    for radius, centre in zip((12, 10), SPOTS.values(), strict=True):
        distance = np.sqrt(sum((one - at) ** 2 for one, at in zip(place, centre, strict=True)))
        probability = np.where(distance < radius, 0.3 + 0.4 * generator.random(SHAPE), probability)
    probability[(generator.random(SHAPE) < 0.001)] = 0.9
    return grey, probability.astype(np.float32)


@pytest.fixture(scope="module")
def arrays():
    return makeScan()


@pytest.fixture
def write(arrays, tmp_path):
    """Write scan and probability (of a region); gives what describes the latter."""

    def make(
        header=OBLIQUE, region=None, encoding="raw", kind="float32", grey=arrays[0], path="scan_data.nrrd"
    ):
        path = tmp_path / path
        if path.suffix == ".tif":
            tifffile.imwrite(path, grey.T, imagej=False)
        else:
            with openPlanes(path, SHAPE, grey.dtype.str, header, encoding) as writePlanes:
                writePlanes(grey.T)
        region = region or tuple((0, side) for side in SHAPE)
        cut = arrays[1][tuple(slice(*part) for part in region)]
        result = tmp_path / "scan_segmented.nrrd"
        with openPlanes(result, cut.shape, kind, {}, encoding) as writePlanes:
            writePlanes(encodeProbability(cut, kind).T)
        return Written(result, openVolume(path), region, {}, 0, {})

    return make


def evaluationOf(threshold=0.5, minimumVoxels=1, labels=(0,), connectivity=26, ignoreLabel=()):
    criteria = Criteria(threshold, connectivity, minimumVoxels)
    target = PUBLISHED._replace(labels=labels, ignoreLabel=ignoreLabel)
    return Evaluation(target, criteria, None, {}, None, None)


def suggest(written, count=2, evaluation=None, workers=None, scale=SCALE):
    return suggestBoxes(written, evaluation or evaluationOf(), workers or Here(), count, scale)


def folderOf(written):
    return written.path.with_name("scan_segmented_suggested")


def listed(written):
    return json.loads((folderOf(written) / "suggested.json").read_text())["boxes"]


def pairsOf(written):
    folder = folderOf(written)
    images, masks = (sorted((folder / name).iterdir()) for name in suggested.FOLDERS)
    assert [stemOf(path) for path in images] == [stemOf(path) for path in masks]
    return list(zip(images, masks, strict=True))


def readFiles(written):
    files = folderOf(written).rglob("*.*")
    return {str(path.relative_to(folderOf(written))): path.read_bytes() for path in files}


def cut(array, box):
    return array[tuple(slice(*part) for part in box)]


def overlap(one, other):
    return all(a < d and c < b for (a, b), (c, d) in zip(one, other, strict=True))


# -------------------------------------------------------------------------------------------- what is written


def testPairsAreTheVoxelsOfTheScanWithMasksOfTheThreshold(write, arrays):
    written = write()
    told = suggest(written)
    entries, pairs = listed(written), pairsOf(written)
    assert [entry["number"] for entry in entries] == [1, 2] and len(pairs) == 2
    for entry, spot, (image, mask) in zip(entries, SPOTS.values(), pairs, strict=True):
        box = entry["box"]
        assert all(first + 8 <= at < last - 8 for (first, last), at in zip(box, spot, strict=True))
        (x, _), (y, _), (z, _) = box
        assert image.name == f"scan_data_box{entry['number']:02d}_x{x}_y{y}_z{z}.nrrd"
        grey, labels = (nrrd.read(str(path))[0] for path in (image, mask))
        assert grey.dtype == np.uint16 and labels.dtype == np.uint8
        np.testing.assert_array_equal(grey, cut(arrays[0], box))
        np.testing.assert_array_equal(labels == 0, cut(arrays[1], box) >= 0.5)
        np.testing.assert_array_equal(np.unique(labels), [0, 255])
        assert entry["threshold"] == 0.5 and entry["uncertainty"] > 0 and entry["isWritten"]
    assert not overlap(entries[0]["box"], entries[1]["box"])
    assert told[0] == f"To label next: 2 boxes of 64x64x64 voxels in {folderOf(written)}"
    assert [line.split()[0] for line in told[1:3]] == [entry["name"] for entry in entries]
    assert not [path for path in folderOf(written).rglob("*") if ".partial" in path.name]


def testPairsLieWhereTheyLieInTheScan(write):
    written = write()
    suggest(written)
    scan = sitk.ReadImage(str(written.volume.path))
    for entry, pair in zip(listed(written), pairsOf(written), strict=True):
        for path in pair:
            part = sitk.ReadImage(str(path))
            for corner in itertools.product((0, 63), repeat=3):
                there = [first + step for (first, _), step in zip(entry["box"], corner, strict=True)]
                here = part.TransformIndexToPhysicalPoint(corner)
                np.testing.assert_allclose(here, scan.TransformIndexToPhysicalPoint(there), atol=1e-9)
                if path == pair[0]:
                    assert part[corner] == scan[there]
        header = nrrd.read_header(str(pair[0]))
        assert header["operator"] == "of the beamline" and list(header["space units"]) == ["um"] * 3


def testWithoutGeometryTheHeaderTellsThePlace(write):
    written = write(header={})
    suggest(written, 1)
    ((first, last), (y1, y2), (z1, z2)) = listed(written)[0]["box"]
    for path in pairsOf(written)[0]:
        assert nrrd.read_header(str(path))["pipeline_region"] == f"{first}:{last} {y1}:{y2} {z1}:{z2}"


def testATiffScanGivesPairsToo(write, arrays):
    written = write(path="scan.tif")
    suggest(written, 1)
    (image, mask), box = pairsOf(written)[0], listed(written)[0]["box"]
    assert image.name.startswith("scan_box01_x")
    np.testing.assert_array_equal(nrrd.read(str(image))[0], cut(arrays[0], box))
    np.testing.assert_array_equal(nrrd.read(str(mask))[0] == 0, cut(arrays[1], box) >= 0.5)


def testTheHeaderTellsTheMomentsOfTheScan(write):
    written = write(header=OBLIQUE | {MOMENTS_FIELD: "1 2"})
    suggest(written, 1)
    image, mask = pairsOf(written)[0]
    assert nrrd.read_header(str(image))[MOMENTS_FIELD] == f"{SCALE.mean!r} {SCALE.std!r}"
    assert MOMENTS_FIELD not in nrrd.read_header(str(mask))
    volume = openVolume(image)
    asked = Statistics.parse("robust", "auto", areOfScan=True)
    found = measureVolume(lambda: ((block.T,) for block in volume.slabs()), volume, asked)
    assert found.scale[:2] == SCALE[:2]


def testRegionsCountFromTheScan(write, arrays):
    region = ((21, 150), (10, 97), (5, 84))
    written = write(region=region)
    suggest(written)
    for entry, (image, mask) in zip(listed(written), pairsOf(written), strict=True):
        assert all(
            start <= first and last <= stop
            for (first, last), (start, stop) in zip(entry["box"], region, strict=True)
        )
        np.testing.assert_array_equal(nrrd.read(str(image))[0], cut(arrays[0], entry["box"]))
        np.testing.assert_array_equal(nrrd.read(str(mask))[0] == 0, cut(arrays[1], entry["box"]) >= 0.5)


@pytest.mark.parametrize("connectivity", [6, 26])
@pytest.mark.parametrize("slab", [16, 5])
def testParticlesThatAreTooSmallAreLeftOut(write, arrays, monkeypatch, connectivity, slab):
    monkeypatch.setattr(ranges, "chooseSlab", lambda *_: slab)
    written = write()
    suggest(written, 2, evaluationOf(0.4, 4, connectivity=connectivity))
    structure = ndimage.generate_binary_structure(3, {6: 1, 26: 3}[connectivity])
    labels, _ = ndimage.label(arrays[1] >= np.float32(0.4), structure)
    sizes = np.bincount(labels.ravel())
    expected = (labels > 0) & (sizes[labels] >= 4)
    for entry, (_, mask) in zip(listed(written), pairsOf(written), strict=True):
        found = nrrd.read(str(mask))[0] == 0
        np.testing.assert_array_equal(found, cut(expected, entry["box"]))
        assert found.sum() < (cut(arrays[1], entry["box"]) >= 0.4).sum()


@pytest.mark.parametrize(("encoding", "kind"), [("gzip", "float32"), ("gzip", "uint16"), ("raw", "uint8")])
def testCompressedAndIntegerProbabilitiesGiveTheSamePairs(write, arrays, encoding, kind):
    written = write(encoding=encoding, kind=kind)
    suggest(written)
    stored = encodeProbability(arrays[1], kind).astype(np.float32)
    stored = stored if kind == "float32" else stored / np.float32(np.iinfo(kind).max)
    for entry, (image, mask) in zip(listed(written), pairsOf(written), strict=True):
        np.testing.assert_array_equal(nrrd.read(str(image))[0], cut(arrays[0], entry["box"]))
        np.testing.assert_array_equal(nrrd.read(str(mask))[0] == 0, cut(stored, entry["box"]) >= 0.5)


def testAnyNumberOfProcessesGivesTheSameFiles(write, monkeypatch):
    written, found = write(), []
    monkeypatch.setattr(ranges, "LEAST_VOXELS", 1)
    with openWorkers(2) as two:
        for workers in (Here(), two):
            suggest(written, 3, evaluationOf(0.4, 3), workers)
            found.append(readFiles(written))
            shutil.rmtree(folderOf(written))
    assert found[0] == found[1] and len(found[0]) > 4


# ----------------------------------------------------------------------------------------------------- labels


def testMasksHaveTheLabelsOfTheTraining(write, arrays):
    written = write()
    suggest(written, 1, evaluationOf(labels=(1,)))
    labels = nrrd.read(str(pairsOf(written)[0][1]))[0]
    np.testing.assert_array_equal(labels, cut(arrays[1], listed(written)[0]["box"]) >= 0.5)
    assert listed(written)[0]["positiveLabel"] == "1"


def testLabelsWithNamesGiveSegmentations(write, arrays):
    written = write()
    suggest(written, 2, evaluationOf(labels="precipitate,pore", ignoreLabel="dirt"))
    for entry, (image, mask) in zip(listed(written), pairsOf(written), strict=True):
        assert image.name == f"{entry['name']}.nrrd" and mask.name == f"{entry['name']}.seg.nrrd"
        labels, header = nrrd.read(str(mask))
        assert labels.dtype == np.uint8 and header["encoding"] == "gzip"
        np.testing.assert_array_equal(labels, cut(arrays[1], entry["box"]) >= 0.5)
        assert header["Segmentation_MasterRepresentation"] == "Binary labelmap"
        assert header["Segmentation_ContainedRepresentationNames"] == "Binary labelmap|"
        assert header["Segmentation_ReferenceImageExtentOffset"] == "0 0 0"
        for number, name in enumerate(("precipitate", "pore", "dirt")):
            row = {key: header[f"Segment{number}_{key}"] for key in ("ID", "Name", "LabelValue", "Layer")}
            value = str(number + 1)
            assert row == {"ID": f"Segment_{value}", "Name": name, "LabelValue": value, "Layer": "0"}
            assert header[f"Segment{number}_Extent"] == "0 63 0 63 0 63"
        colours = [header[f"Segment{number}_Color"] for number in range(3)]
        assert colours[0] == "0.9 0.33 0.05" and len(set(colours)) == 3
        assert not [key for key in header if key.startswith("Segment3")]
        assert entry["positiveLabel"] == "precipitate,pore"


def testSegmentationsLieWhereTheirImagesLie(write):
    written = write(header=OBLIQUE | {MOMENTS_FIELD: "1 2"})
    suggest(written, 2, evaluationOf(labels="pore"))
    for image, mask in pairsOf(written):
        one, other = (sitk.ReadImage(str(path)) for path in (image, mask))
        assert one.GetSize() == other.GetSize() and one.GetOrigin() == other.GetOrigin()
        assert one.GetSpacing() == other.GetSpacing() and one.GetDirection() == other.GetDirection()
        header = nrrd.read_header(str(mask))
        assert list(header["space units"]) == ["um"] * 3 and MOMENTS_FIELD not in header
    folder = folderOf(written)
    assert listPairs(*(folder / name for name in suggested.FOLDERS)) == pairsOf(written)


def testAUserCorrectsEverySegmentOfABox(write, arrays):
    written = write()
    suggest(written, 1, evaluationOf(labels="precipitate,pore", ignoreLabel="dirt"))
    image, mask = pairsOf(written)[0]
    labels, header = nrrd.read(str(mask))
    expected = labels > 0
    labels[:8], expected[:8] = 2, True
    labels[8:16], expected[8:16] = 0, False
    labels[16:20], expected[16:20] = 3, False
    nrrd.write(str(mask), labels, header)
    pair = openPairs([(image, mask)], "precipitate,pore", "dirt")[0]
    found, meant = pair.mask.read(), resolveLabels("precipitate,pore", pair.mask)
    np.testing.assert_array_equal(selectPositive(found, meant), expected)
    np.testing.assert_array_equal(selectPositive(found, ignoredLabels(pair.mask, "dirt")), labels == 3)


# -------------------------------------------------------------------------------------- what is there already


@pytest.mark.parametrize("labels", [(0,), "pore"])
def testTheNextBoxesHaveTheNextNumbersAndLeaveWhatIsThere(write, labels):
    written, evaluation = write(), evaluationOf(labels=labels)
    suggest(written, 1, evaluation)
    _, mask = pairsOf(written)[0]
    labels, header = nrrd.read(str(mask))
    labels[:9] = 0  # as a user would
    nrrd.write(str(mask), labels, header)
    before = {path: path.read_bytes() for path in folderOf(written).rglob("*.nrrd")}
    told = suggest(written, 1, evaluation)
    assert {path: path.read_bytes() for path in before} == before
    assert [entry["number"] for entry in listed(written)] == [1, 2]
    assert not overlap(*(entry["box"] for entry in listed(written)))
    assert len(pairsOf(written)) == 2 and told[0].startswith("To label next: 1 boxes")


def testBoxesThatWereMovedAwayCountAsLabelled(write):
    written = write()
    suggest(written, 1)
    for path in pairsOf(written)[0]:
        path.unlink()
    suggest(written, 1)
    first, second = listed(written)
    assert second["number"] == 2 and not overlap(first["box"], second["box"])
    assert [image.stem for image, _ in pairsOf(written)] == [second["name"]]


@pytest.mark.parametrize("labels", [(0,), "pore"])
def testFilesWithoutAListCountAsLabelled(write, labels):
    written = write()
    suggest(written, 1, evaluationOf(labels=labels))
    first = listed(written)[0]
    (folderOf(written) / "suggested.json").unlink()
    image, mask = pairsOf(written)[0]
    image.unlink()
    if labels == "pore":  # as 3D Slicer may save it: no more than is drawn, in layers
        voxels, header = nrrd.read(str(mask))
        layers = np.stack([voxels[:8, :8, :8]] * 2)
        kinds = {"kinds": ["list", *["domain"] * 3]}
        kinds["space directions"] = np.vstack([np.full(3, np.nan), header["space directions"]])
        nrrd.write(str(mask), layers, header | kinds | {"Segment0_Layer": "1"})
    suggest(written, 1)
    second = listed(written)[0]
    assert second["number"] == 2 and not overlap(first["box"], second["box"])


def testNoMoreBoxesThanFit(write):
    written = write()
    told = suggest(written, 50)
    boxes = [entry["box"] for entry in listed(written)]
    assert 2 <= len(boxes) < 50 and len(pairsOf(written)) == len(boxes)
    assert not any(overlap(*pair) for pair in itertools.combinations(boxes, 2))
    assert any(line.startswith("No more boxes fit") for line in told)
    before = {path: path.read_bytes() for path in folderOf(written).rglob("*.nrrd")}
    told = suggest(written, 5)
    assert told[0].startswith("To label next: 0 boxes") and len(listed(written)) == len(boxes)
    assert {path: path.read_bytes() for path in folderOf(written).rglob("*.nrrd")} == before


@pytest.mark.parametrize(("stopAt", "labels"), [(0, (0,)), (1, (0,)), (3, (0,)), (2, "pore"), (3, "pore")])
def testAnInterruptedRunGoesOnWithItsBoxes(write, monkeypatch, stopAt, labels):
    written, opened, evaluation = write(), itertools.count(), evaluationOf(labels=labels)

    @functools.wraps(openPlanes)
    def stop(*arguments):
        if next(opened) == stopAt:
            raise KeyboardInterrupt
        return openPlanes(*arguments)

    monkeypatch.setattr(suggestions, "openPlanes", stop)
    with pytest.raises(KeyboardInterrupt):
        suggest(written, 2, evaluation)
    planned = listed(written)
    assert len(planned) == 2 and not any(entry["isWritten"] for entry in planned)
    monkeypatch.setattr(suggestions, "openPlanes", openPlanes)
    suggest(written, 2, evaluation)
    entries = listed(written)
    assert [entry["name"] for entry in entries] == [entry["name"] for entry in planned]
    assert all(entry["isWritten"] for entry in entries) and len(pairsOf(written)) == 2
    interrupted = readFiles(written)
    shutil.rmtree(folderOf(written))
    suggest(written, 2, evaluation)
    assert readFiles(written) == interrupted


def testAMaskOfTheOtherKindIsTheMaskOfABox(write):
    written = write()
    suggest(written, 1)
    before, path = readFiles(written), folderOf(written) / "suggested.json"
    path.write_text(path.read_text().replace('"isWritten": true', '"isWritten": false'))
    suggest(written, 1, evaluationOf(labels="pore"))
    assert readFiles(written) == before


# --------------------------------------------------------------------------------------------------- refusals


def refusalOf(written, count=2, region=None):
    with pytest.raises(PipelineError) as caught:
        suggested.refuseSuggesting(count, region or written.region, written.path, written.volume)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def testWhatCannotBeSuggestedIsRefusedBeforeAnyWork(write, tmp_path):
    written = write()
    suggested.refuseSuggesting(3, written.region, written.path, written.volume)
    suggested.refuseSuggesting(0, ((0, 4),) * 3, written.path, written.volume)
    assert "suggest must not be negative (received -1)" in refusalOf(written, -1)
    thin = refusalOf(written, region=((0, 150), (0, 100), (3, 10)))
    assert "too thin" in thin and "at least 8" in thin and "150x100x7" in thin
    folderOf(written).write_text("")
    assert "is no folder" in refusalOf(written)
    assert not list(tmp_path.glob(".*"))


def testAListThatIsDamagedOrOfAnotherScanIsRefused(write):
    written = write()
    suggest(written, 1)
    path = folderOf(written) / "suggested.json"
    content = json.loads(path.read_text())
    for changed, words in (
        (content | {"shape": [1, 2, 3]}, "another scan"),
        (content | {"boxes": [{"number": 1}]}, "is no list of suggestions"),
        (content | {"boxes": [7]}, "is no list of suggestions"),
    ):
        path.write_text(json.dumps(changed))
        assert words in refusalOf(written)
    path.write_text("{")
    assert "suggested.json" in refusalOf(written)


def testAFolderThatCannotBeWrittenIntoIsRefused(write, monkeypatch):
    written = write()
    folder = folderOf(written) / "trainingMasks"
    folder.mkdir(parents=True)
    access = suggested.os.access
    monkeypatch.setattr(suggested.os, "access", lambda path, mode: path != folder and access(path, mode))
    assert "nothing can be written into this folder" in refusalOf(written)


# ----------------------------------------------------------------------------------------------- small memory


def testBoxesAreCutOutOfBlocksAsSoonAsTheyAreWhole():
    array = np.arange(20 * 16 * 40).reshape(20, 16, 40)
    boxes = [((0, 8), (8, 16), (0, 8)), ((4, 12), (0, 8), (3, 19)), ((8, 16), (0, 8), (24, 32))]
    read = []

    def listBlocks():
        for z in range(0, 40, 7):
            read.append(z)
            yield array[:, :, z : z + 7]

    found = cutBoxes(listBlocks(), boxes)
    for box, last in zip(boxes, (7, 14, 28), strict=True):
        np.testing.assert_array_equal(next(found), cut(array, box))
        assert read[-1] == last
    assert next(found, None) is None and read[-1] == 28


def testNoVolumeIsEverReadWhole(write, arrays, monkeypatch):
    written, sizes = write(encoding="gzip"), []
    cells = suggestions.Cells.add

    def add(self, z, probability, grey):
        sizes.append(grey.size)
        cells(self, z, probability, grey)

    monkeypatch.setattr(suggestions.Cells, "add", add)
    monkeypatch.setattr(type(written.volume), "read", None)  # of a compressed volume it would hold everything
    suggest(written, 2, evaluationOf(0.4, 3))
    assert max(sizes) <= 16 * SHAPE[0] * SHAPE[1] and sum(sizes) == arrays[0].size
    assert MOST_CELLS * 8 * 5 < 1 << 26
