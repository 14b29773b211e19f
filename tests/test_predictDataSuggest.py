"""predictData.py --suggest: pairs that prepareData.py and a training that goes on take as they are."""

import json
import os
import shutil

import nrrd
import numpy as np
import pytest
from projects import (
    callMain,
    makeVolume,
    predictFlags,
    prepareFlags,
    refusal,
    snapshot,
    trainFlags,
    writeNrrd,
)

import predictData
import prepareData
import trainingAndValidation
from engine.formats.opening import stemOf
from engine.measures import boxes
from engine.volumes.scale import MOMENTS_FIELD

SHAPE = (40, 32, 29)
FEW = ("--no-report", "--no-overview", "--no-segmentation", "--no-labels", "--no-particles", "--no-scores")


@pytest.fixture(autouse=True)
def smallBoxes(monkeypatch):
    monkeypatch.setattr(boxes, "SIDE", 16)


@pytest.fixture
def scan(data):
    image, _ = makeVolume(7, SHAPE)
    writeNrrd(data / "scan_data.nrrd", image)
    return data / "scan_data.nrrd"


@pytest.fixture
def suggest(models, data, scan, capfd):
    """Predict the scan and suggest boxes: gives what is printed."""

    def run(*flags, model=models / "good.h5"):
        capfd.readouterr()
        callMain(predictData, [*predictFlags(scan, data / "scan_segmented.nrrd", model), *FEW, *flags])
        printed = capfd.readouterr()
        assert printed.err == ""
        return printed.out

    return run


def read(folder):
    """Read what was suggested: {name: (image, mask, header of the image)}."""
    images, masks = (sorted((folder / name).iterdir()) for name in ("trainingImages", "trainingMasks"))
    assert [stemOf(path) for path in images] == [stemOf(path) for path in masks]
    pairs = [(nrrd.read(str(image)), nrrd.read(str(mask))) for image, mask in zip(images, masks, strict=True)]
    return {path.name: (one[0], two[0], one[1]) for path, (one, two) in zip(images, pairs, strict=True)}


def nameSegments(data, *names):
    """Save the masks as segmentations: the first name is what they hold, the others are empty."""
    for path in (*(data / "trainingMasks").iterdir(), *(data / "validationMasks").iterdir()):
        mask, header = nrrd.read(str(path))
        for number, name in enumerate(names):
            header |= {f"Segment{number}_Name": name, f"Segment{number}_LabelValue": str(number + 1)}
        nrrd.write(str(path.with_suffix(".seg.nrrd")), (mask == 0).astype(np.uint8), header)
        path.unlink()


def movePairs(data):
    """Put what was suggested to the files of the training."""
    for name in ("trainingImages", "trainingMasks"):
        for path in (data / "scan_segmented_suggested" / name).iterdir():
            shutil.move(path, data / name)


def medianOf(data):
    """Give a threshold with voxels on both sides."""
    return float(np.median(nrrd.read(str(data / "scan_segmented.nrrd"))[0]))


def testPairsComeWithTheirPredictionAndAgainWithAFinishedOne(suggest, data, scan):
    text = suggest("--suggest", 2)
    folder, threshold = data / "scan_segmented_suggested", medianOf(data)
    assert "To label next: 2 boxes of 16x16x16 voxels" in text and len(read(folder)) == 2
    shutil.rmtree(folder)
    text = suggest("--suggest", 3, "--threshold", threshold)
    assert "is finished; delete it to have it computed again" in text
    grey, probability = (nrrd.read(str(data / name))[0] for name in ("scan_data.nrrd", "scan_segmented.nrrd"))
    entries = json.loads((folder / "suggested.json").read_text())["boxes"]
    assert len(entries) == 3
    for entry in entries:
        image, mask, header = read(folder)[f"{entry['name']}.nrrd"]
        place = tuple(slice(*part) for part in entry["box"])
        np.testing.assert_array_equal(image, grey[place])
        np.testing.assert_array_equal(mask == 0, probability[place] >= np.float32(threshold))
        mean, std = map(float, header[MOMENTS_FIELD].split())
        assert mean == pytest.approx(grey.mean(), rel=1e-9) and std == pytest.approx(grey.std(), rel=1e-9)


def testTheMomentsAreThoseThatThePredictionUsed(suggest, data):
    suggest("--suggest", 1, "--momentsOf", "1000,31.5")
    ((_, _, header),) = read(data / "scan_segmented_suggested").values()
    assert header[MOMENTS_FIELD] == "1000.0 31.5"


def testNothingIsSuggestedUnlessAskedFor(suggest, data):
    text = suggest()
    assert "To label next" not in text and not (data / "scan_segmented_suggested").exists()


def testVoxelsWithoutDataAreNotSuggested(suggest, data, scan):
    image, _ = makeVolume(7, SHAPE)
    image[:20] = 0
    writeNrrd(scan, image)
    suggest("--suggest", 9)
    found = read(data / "scan_segmented_suggested")
    assert found and all((image > 0).mean() >= 0.5 for image, _, _ in found.values())


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--suggest", -1), "suggest must not be negative"),
        (("--suggest", 2, "--z1", 3, "--z2", 9), ("too thin", "40x32x6")),
    ],
)
def testWhatCannotBeSuggestedIsRefused(models, data, scan, capfd, flags, words):
    before = snapshot(data)
    names = predictFlags(scan, data / "scan_segmented.nrrd", models / "good.h5")
    refusal(capfd, predictData, [*names, *flags], words)
    assert snapshot(data) == before


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write anywhere")
def testAFolderWithoutPermissionIsRefused(models, data, scan, capfd):
    folder = data / "scan_segmented_suggested"
    folder.mkdir(mode=0o555)
    names = predictFlags(scan, data / "scan_segmented.nrrd", models / "good.h5")
    refusal(capfd, predictData, [*names, "--suggest", 1], "nothing can be written into this folder")


@pytest.mark.parametrize(
    ("normalization", "label"),
    [("volume", "0"), ("subVolume", "0"), ("volume", "1"), ("volume", "pore,wall")],
)
def testATrainingGoesOnWithThePairsAsTheyAre(suggest, data, scan, capfd, normalization, label):
    if label == "1":
        for path in (*(data / "trainingMasks").iterdir(), *(data / "validationMasks").iterdir()):
            mask, header = nrrd.read(str(path))
            nrrd.write(str(path), (mask == 0).astype(np.uint8), header)
    elif label != "0":
        nameSegments(data, "wall", "pore", "dirt")
    flags = [*prepareFlags(data), "--normalization", normalization, "--positiveLabel", label]
    callMain(prepareData, flags)
    first, second = data / "first", data / "second"
    for folder in (first, second):
        folder.mkdir()
    callMain(trainingAndValidation, trainFlags(data / "pythonFiles", first))
    suggest("--suggest", 2)  # so that there is a probability
    threshold = medianOf(data)
    shutil.rmtree(data / "scan_segmented_suggested")
    suggest("--suggest", 3, "--threshold", threshold, model=first / "dice.h5")
    pairs = read(data / "scan_segmented_suggested")
    movePairs(data)
    capfd.readouterr()
    callMain(prepareData, flags)
    printed = capfd.readouterr()
    assert "Training: 5 pairs" in printed.out and printed.err == ""
    images, masks = (np.load(data / "pythonFiles" / f"trainingData{kind}.npy") for kind in ("Image", "Mask"))
    assert len(images) == 3 * (2 * 3 + 3 * 2)  # turned copies of the sub-volumes of 8x16x16 voxels
    scale = nrrd.read(str(scan))[0]
    mean, std = scale.mean(dtype=np.float64), scale.std(dtype=np.float64)
    image, mask, _ = pairs[sorted(pairs)[0]]
    part = image[:8].astype(np.float64)
    expected = (part - mean) / std if normalization == "volume" else (part - part.mean()) / part.std()
    np.testing.assert_allclose(images[18, ..., 0], expected, atol=1e-5)
    assert 0 < masks[18].mean() < 1
    np.testing.assert_array_equal(masks[18, ..., 0], mask[:8] == (int(label) if label.isdigit() else 1))
    started = ["--weightStart", first / "dice.h5"]
    callMain(trainingAndValidation, [*trainFlags(data / "pythonFiles", second), *started])
    contract = json.loads((second / "net.json").read_text())
    assert contract["training"]["startedFrom"]["file"] == "dice.h5"
    assert "is unlike the other volumes" not in printed.out
    isTold = "of the scan that it was cut from, as its header tells" in printed.out
    assert isTold is (normalization == "volume")


def testNamesGiveSegmentationsThatAreCorrectedAndPrepared(suggest, data, capfd):
    nameSegments(data, "pore", "wall", "dirt")
    names = "--positiveLabel", "precipitate,pore", "--ignoreLabel", "dirt"
    suggest()  # so that there is a probability
    threshold = medianOf(data)
    suggest("--suggest", 1, "--threshold", threshold, *names)
    folder = data / "scan_segmented_suggested"
    (path,) = (folder / "trainingMasks").iterdir()
    (entry,) = json.loads((folder / "suggested.json").read_text())["boxes"]
    assert path.name == f"{entry['name']}.seg.nrrd" and entry["positiveLabel"] == "precipitate,pore"
    labels, header = nrrd.read(str(path))
    probability = nrrd.read(str(data / "scan_segmented.nrrd"))[0]
    expected = probability[tuple(slice(*part) for part in entry["box"])] >= np.float32(threshold)
    np.testing.assert_array_equal(labels, expected)
    rows = [[header[f"Segment{number}_{key}"] for key in ("Name", "LabelValue")] for number in range(3)]
    assert rows == [["precipitate", "1"], ["pore", "2"], ["dirt", "3"]]
    assert {header[f"Segment{number}_Extent"] for number in range(3)} == {"0 15 0 15 0 15"}
    labels[:2], expected[:2] = 2, True  # as a user would: pores, nothing, and what cannot be decided
    labels[2:4], expected[2:4] = 0, False
    labels[4:6], expected[4:6] = 3, False
    nrrd.write(str(path), labels, header)
    for image in (data / "trainingImages").iterdir():
        image.unlink()
        (data / "trainingMasks" / image.name.replace("data", "segm").replace(".nrrd", ".seg.nrrd")).unlink()
    movePairs(data)
    for mask in (data / "validationMasks").iterdir():
        voxels, header = nrrd.read(str(mask))
        nrrd.write(str(mask), voxels, header | {"Segment1_Name": "precipitate"})
    callMain(prepareData, [*prepareFlags(data), *names])
    assert capfd.readouterr().err == ""
    found = [np.load(data / "pythonFiles" / f"trainingData{kind}.npy") for kind in ("Mask", "Labelled")]
    np.testing.assert_array_equal(found[0][0, ..., 0], expected[:8])
    np.testing.assert_array_equal(found[1][0, ..., 0], labels[:8] != 3)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--positiveLabel", "ignore"), ("no mask can be suggested", "positiveLabel ignore")),
        (("--positiveLabel", "pore", "--ignoreLabel", "Pore"), ("no mask can be suggested", "leave out")),
        (("--positiveLabel", "1", "--ignoreLabel", "0-9"), "no value is positive"),
    ],
)
def testLabelsWithoutAMaskAreRefusedBeforeThePrediction(models, data, scan, capfd, flags, words):
    before = snapshot(data)
    names = predictFlags(scan, data / "scan_segmented.nrrd", models / "good.h5")
    refusal(capfd, predictData, [*names, "--suggest", 1, *flags], words)
    assert snapshot(data) == before
