"""Masks, labels, particles and summary that predictData.py writes, read back by others and computed anew."""

import hashlib
import json
import math
import re
import resource
import shutil
import sys
import types
from pathlib import Path

import h5py
import nrrd
import numpy as np
import pytest
import SimpleITK
import slicerio
from places import ROOT
from predictions import OBLIQUE, REGION, SHAPE, predict, readSlowly, readTable, writeReference
from scipy import ndimage
from skimage.measure import regionprops_table

import engine.prediction.told
import predictData
from engine.base.files import lockName
from engine.formats.opening import openVolume
from engine.results.ranges import Source


@pytest.fixture(scope="module")
def grey():
    """Read the grey values of a region of the test volume."""
    volume = openVolume(ROOT / "test-file" / "test-file_data.nrrd")
    return volume.read(REGION)


@pytest.fixture(scope="module")
def run(grey, tmp_path_factory):
    """Predict a volume with oblique axes, at threshold 0.4."""
    folder = tmp_path_factory.mktemp("run")
    nrrd.write(str(folder / "scan_data.nrrd"), grey, OBLIQUE)
    predict(folder / "scan_data.nrrd", "--threshold", 0.4)
    return folder


@pytest.fixture
def copy(run, tmp_path):
    """Copy it, to be changed; times of the files are kept."""
    return Path(shutil.copytree(run, tmp_path / "copy"))


def testMaskLabelsAndTableFollowFromTheProbability(run):
    arrays = readSlowly(run)
    positive = arrays["probability"] >= 0.4
    expected, count = ndimage.label(positive.T, np.ones((3, 3, 3)))  # numbered as the file is stored
    assert count > 5
    np.testing.assert_array_equal(arrays["mask"], np.where(positive, 0, 255))
    np.testing.assert_array_equal(arrays["segmentation"], positive)
    np.testing.assert_array_equal(arrays["labels"], expected.T)
    assert [arrays[name].dtype for name in ("mask", "segmentation", "labels")] == ["u1", "u1", "u4"]
    table = readTable(run / "scan_segmented_particles.csv")
    names = ("label", "num_pixels", "centroid", "mean_intensity")
    found = regionprops_table(expected.T, arrays["probability"], properties=names)
    for ours, theirs in {"label": "label", "voxelCount": "num_pixels", "x_voxel": "centroid-0"}.items():
        np.testing.assert_allclose(table[ours].astype(float), found[theirs], rtol=1e-6)
    np.testing.assert_allclose(table["meanProbability"].astype(float), found["mean_intensity"], rtol=1e-5)
    volumes = table["volume_um3"].astype(float)
    np.testing.assert_allclose(volumes, table["voxelCount"].astype(float) * 0.125, rtol=1e-6)


def testSummaryAddsUpTheTable(run):
    table = readTable(run / "scan_segmented_particles.csv")
    summary = json.loads((run / "scan_segmented_summary.json").read_text())
    voxels, diameters = table["voxelCount"].astype(int), table["equivalentDiameter_um"].astype(float)
    inner, size = table["touchesBorder"] == "0", np.prod(SHAPE)
    assert 0 < inner.sum() < len(inner)
    for name, chosen in (("all", np.ones(len(inner), bool)), ("withoutBorder", inner)):
        part = summary[name]
        assert (part["particles"], part["voxels"]) == (chosen.sum(), voxels[chosen].sum())
        assert part["volumeFraction"] == pytest.approx(voxels[chosen].sum() / size)
        assert part["numberDensity"] == pytest.approx(chosen.sum() / (size * 0.125))
        assert part["diameterQuartiles"] == pytest.approx(np.quantile(diameters[chosen], (0.25, 0.5, 0.75)))
    assert (summary["unit"], summary["voxels"], summary["volume"]) == ("um", size, pytest.approx(size / 8))
    assert summary["settings"]["threshold"] == 0.4 and summary["settings"]["connectivity"] == 26


@pytest.mark.parametrize("kind", ["_mask", "_mask.seg", "_labels"])
def testSimpleItkReadsValuesAndGeometry(run, kind):
    image = SimpleITK.ReadImage(str(run / f"scan_segmented{kind}.nrrd"))
    values, _ = nrrd.read(str(run / f"scan_segmented{kind}.nrrd"))
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(image), values.T)
    placed = [image.TransformIndexToPhysicalPoint(index) for index in ((0, 0, 0), (5, 0, 0), (0, 3, 2))]
    directions, origin = OBLIQUE["space directions"], OBLIQUE["space origin"]
    expected = np.array([(0, 0, 0), (5, 0, 0), (0, 3, 2)]) @ directions + origin
    np.testing.assert_allclose(placed, expected, atol=1e-9)


@pytest.mark.parametrize("dtype", ["<u2", ">u2", "<f4", ">f4"])
@pytest.mark.parametrize("signs", [(-1, -1, 1), (1, -1, -1)])
def testSimpleItkAgreesForEveryByteOrderAndReversedAxes(tmp_path, grey, dtype, signs):
    region = np.s_[20:52, 16:48, 8:32]
    kind, header = (
        np.dtype(dtype),
        dict(OBLIQUE, **{"space directions": np.diag(signs) * np.array([0.5, 0.4, 2])}),
    )
    header["endian"] = "big" if kind.byteorder == ">" else "little"
    nrrd.write(str(tmp_path / "scan_data.nrrd"), grey[region].astype(kind), header)
    predict(tmp_path / "scan_data.nrrd", "--threshold", 0.4)
    image = SimpleITK.ReadImage(str(tmp_path / "scan_data.nrrd"))
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(image), grey[region].T)  # the file is as meant
    arrays = readSlowly(tmp_path)
    for name, ending in {"probability": "", "mask": "_mask", "labels": "_labels"}.items():
        result = SimpleITK.ReadImage(str(tmp_path / f"scan_segmented{ending}.nrrd"))
        np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(result), arrays[name].T)
        assert result.GetOrigin() == pytest.approx(image.GetOrigin())
        assert result.GetSpacing() == pytest.approx(image.GetSpacing())
        assert result.GetDirection() == pytest.approx(image.GetDirection())
    filter = SimpleITK.LabelShapeStatisticsImageFilter()
    filter.Execute(SimpleITK.ReadImage(str(tmp_path / "scan_segmented_labels.nrrd")))
    table = readTable(tmp_path / "scan_segmented_particles.csv")
    assert len(table["label"]) == len(filter.GetLabels()) > 0
    for row, number in enumerate(filter.GetLabels()):
        ours = [float(table[f"{axis}_um"][row]) for axis in "xyz"]
        np.testing.assert_allclose(ours, filter.GetCentroid(number), atol=1e-6)


def testCentroidsLieWhereSimpleItkPutsThem(run):
    image = SimpleITK.ReadImage(str(run / "scan_segmented_labels.nrrd"))
    filter = SimpleITK.LabelShapeStatisticsImageFilter()
    filter.Execute(image)
    table = readTable(run / "scan_segmented_particles.csv")
    for row, number in enumerate(filter.GetLabels()):
        ours = [float(table[f"{axis}_um"][row]) for axis in "xyz"]
        np.testing.assert_allclose(ours, filter.GetCentroid(number), atol=1e-6)
        assert float(table["volume_um3"][row]) == pytest.approx(filter.GetPhysicalSize(number))


def testSlicerFindsOneNamedSegment(run):
    segmentation = slicerio.read_segmentation(str(run / "scan_segmented_mask.seg.nrrd"))
    (segment,) = segmentation["segments"]
    assert segment["name"] == "precipitates and pores" and segment["labelValue"] == 1
    assert segment["extent"] == [0, 79, 0, 59, 0, 39] and len(segment["color"]) == 3
    np.testing.assert_array_equal(segmentation["voxels"] == 1, readSlowly(run)["mask"] == 0)


def testMaskIsTakenAsTheMaskOfATraining(run):
    from functions import selectPositive

    mask = openVolume(run / "scan_segmented_mask.nrrd").read()
    np.testing.assert_array_equal(selectPositive(mask), readSlowly(run)["probability"] >= 0.4)


# ------------------------------------------------------------------------------------ against a manual mask


def testScoresEqualScikitLearnAndPlainCounting(copy, run, capfd):
    metrics = pytest.importorskip("sklearn.metrics")
    truth = writeReference(copy, run).ravel()
    predict(copy / "scan_data.nrrd", "--threshold", 0.4, "--nameReference", copy / "scan_mask.nrrd")
    scores = json.loads((copy / "scan_segmented_scores.json").read_text())
    probability = readSlowly(copy)["probability"].ravel()
    predicted = probability >= 0.4
    expected = {
        "precision": metrics.precision_score(truth, predicted),
        "recall": metrics.recall_score(truth, predicted),
        "dice": metrics.f1_score(truth, predicted),
        "iou": metrics.jaccard_score(truth, predicted),
        "accuracy": metrics.accuracy_score(truth, predicted),
    }
    assert {name: scores["voxels"][name] for name in expected} == pytest.approx(expected)
    matrix = metrics.confusion_matrix(truth, predicted).ravel().tolist()
    assert [scores["voxels"][name] for name in ("tn", "fp", "fn", "tp")] == matrix
    area = metrics.average_precision_score(truth, probability)
    assert scores["precisionRecall"]["averagePrecision"] == pytest.approx(area, abs=2e-3)
    best = scores["bestThreshold"]
    assert metrics.f1_score(truth, probability >= best["threshold"]) == pytest.approx(best["dice"])
    assert best["dice"] >= scores["voxels"]["dice"]
    assert "Particles that touch one of the" in capfd.readouterr().out


def testVoxelScoresAreThoseOfTheWrittenMask(copy, run):
    truth = writeReference(copy, run)
    sizes = np.sort(readTable(copy / "scan_segmented_particles.csv")["voxelCount"].astype(int))
    flags = ("--threshold", 0.4, "--nameReference", copy / "scan_mask.nrrd", "--minimumVoxels", sizes[-3])
    predict(copy / "scan_data.nrrd", *flags)
    positive = readSlowly(copy)["mask"] == 0
    assert positive.sum() == sizes[-3:].sum()
    scores = json.loads((copy / "scan_segmented_scores.json").read_text())
    expected = [(positive & truth).sum(), (positive & ~truth).sum(), (~positive & truth).sum()]
    assert [scores["voxels"][name] for name in ("tp", "fp", "fn")] == expected
    assert scores["voxels"]["tn"] == (~positive & ~truth).sum()
    assert scores["voxels"]["dice"] == pytest.approx(2 * expected[0] / (2 * expected[0] + sum(expected[1:])))
    assert scores["settings"]["minimumVoxels"] == sizes[-3] and scores["settings"]["positiveLabel"] == [0]
    digest = hashlib.sha256((copy / "scan_mask.nrrd").read_bytes()).hexdigest()
    assert list(scores["settings"]["reference"].values()) == [digest]


@pytest.mark.parametrize("damage", ["checksum", "planes", "end"])
def testDamagedReferenceIsRefused(copy, run, damage, capfd):
    writeReference(copy, run)
    mask, header = nrrd.read(str(copy / "scan_mask.nrrd"))
    path = copy / "damaged.nrrd"
    nrrd.write(str(path), np.concatenate([mask] * (1 + (damage == "planes")), axis=2), header)
    content = path.read_bytes()
    if damage == "planes":
        content = content.replace(b"sizes: 80 60 80", b"sizes: 80 60 40")
    elif damage == "checksum":
        content = content[:-8] + bytes([content[-8] ^ 1]) + content[-7:]
    else:
        content = content[:-8]
    path.write_bytes(content)
    with pytest.raises(SystemExit) as stop:
        predict(copy / "scan_data.nrrd", "--threshold", 0.3, "--nameReference", path)
    assert stop.value.code == 2 and "damaged.nrrd" in capfd.readouterr().err


def testReferenceOfAnotherPlaceIsRefused(copy, run, capfd):
    writeReference(copy, run)
    moved = OBLIQUE | {"space origin": OBLIQUE["space origin"] + 5}
    nrrd.write(str(copy / "moved.nrrd"), nrrd.read(str(copy / "scan_mask.nrrd"))[0], moved)
    with pytest.raises(SystemExit) as stop:
        predict(copy / "scan_data.nrrd", "--nameReference", copy / "moved.nrrd")
    message = capfd.readouterr().err
    assert stop.value.code == 2 and "differ in the space origin" in message
    assert "expected [10.0, -20.0, 30.0]" in message and "received [15.0, -15.0, 35.0]" in message


def testErrorsAreFoundInTheVolume(copy, run):
    truth = writeReference(copy, run)
    predict(copy / "scan_data.nrrd", "--threshold", 0.4, "--nameReference", copy / "scan_mask.nrrd")
    arrays, errors = readSlowly(copy), readTable(copy / "scan_segmented_errors.csv")
    expected = set(np.unique(arrays["labels"])) - set(np.unique(arrays["labels"][truth])) - {0}
    alarms = errors["kind"] == "false positive"
    assert set(errors["label"][alarms].astype(int)) == expected and len(expected) > 0
    scores = json.loads((copy / "scan_segmented_scores.json").read_text())["particles"]
    count = scores["predicted"]
    assert scores["anyOverlap"]["precision"] == pytest.approx((count - len(expected)) / count)
    missed = scores["reference"] - (~alarms).sum()
    assert scores["anyOverlap"]["recall"] == pytest.approx(missed / scores["reference"])


def testReferenceWithoutAPositiveVoxelGivesScores(copy):
    mask = np.full(SHAPE, 255, np.uint8)
    nrrd.write(str(copy / "scan_mask.nrrd"), mask, OBLIQUE)
    predict(copy / "scan_data.nrrd", "--threshold", 0.4, "--nameReference", copy / "scan_mask.nrrd")
    scores = json.loads((copy / "scan_segmented_scores.json").read_text())
    assert scores["particles"]["reference"] == 0 and scores["particles"]["anyOverlap"]["recall"] is None
    assert scores["voxels"]["precision"] == 0 and scores["voxels"]["recall"] is None


# ---------------------------------------------------------------------- a finished probability is used again


def testOtherThresholdsUseTheProbabilityThatIsThere(copy, tmp_path, monkeypatch, capfd):
    before = (copy / "scan_segmented.nrrd").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(predictData, "makeWhole", None)  # calling it would fail
        predict(copy / "scan_data.nrrd", "--threshold", 0.2, "--minimumVoxels", 3, "--connectivity", 6)
    assert "is finished" in capfd.readouterr().out
    assert (copy / "scan_segmented.nrrd").read_bytes() == before
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    shutil.copy(copy / "scan_data.nrrd", fresh)
    predict(fresh / "scan_data.nrrd", "--threshold", 0.2, "--minimumVoxels", 3, "--connectivity", 6)
    for ending in (".nrrd", "_mask.nrrd", "_labels.nrrd", "_particles.csv"):
        name = f"scan_segmented{ending}"
        assert (copy / name).read_bytes() == (fresh / name).read_bytes(), ending


def testModelsOfTheSameNameAreToldApart(copy, tmp_path, monkeypatch, capfd):
    shipped = ROOT / "modelAndWeights" / "final-uNet_model.h5"
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        shutil.copy(shipped, tmp_path / folder / "net.h5")
    with h5py.File(tmp_path / "one" / "net.h5", "r+") as file:
        file["model_weights/probability/probability/bias"][0] += 1
    flags = ["--threshold", 0.4, "--modelFile", tmp_path / "two" / "net.h5"]
    flags += ["--weightFile", tmp_path / "one" / "net.h5"]
    predict(copy / "scan_data.nrrd", *flags)
    shutil.copy(shipped, tmp_path / "one" / "net.h5")
    calls, makeWhole = [], predictData.makeWhole
    monkeypatch.setattr(predictData, "makeWhole", lambda *a: calls.append(a) or makeWhole(*a))
    predict(copy / "scan_data.nrrd", *flags)
    assert len(calls) == 1 and "is finished" not in capfd.readouterr().out.split("Written")[-2]


def testWithEverythingSwitchedOffOnlyTheProbabilityIsLeft(copy, monkeypatch, capfd):
    for path in copy.glob("scan_segmented*"):
        path.unlink()
    names = ("mask", "segmentation", "labels", "particles", "scores", "report", "overview")
    monkeypatch.setattr(Source, "open", lambda *_: pytest.fail("the probability was read again"))
    flags = ["--nameReference", "none", *(f"--no-{name}" for name in names)]
    predict(copy / "scan_data.nrrd", *flags)
    assert {path.name for path in copy.glob("scan_segmented*")} == {
        "scan_segmented.nrrd",
        "scan_segmented.json",
    }
    predict(copy / "scan_data.nrrd", *flags)
    assert "is finished" in capfd.readouterr().out


def testResultsInAnotherFormatAreNamedToo(copy, capfd):
    predict(copy / "scan_data.nrrd", "--threshold", 0.4, "--outputFormat", "tiff")
    text = capfd.readouterr().out
    line = next(line for line in text.splitlines() if line.startswith("Of an earlier run"))
    assert "scan_segmented_mask.nrrd" in line and "scan_segmented_labels.nrrd" in line


def testManualMaskTheOtherWayRoundIsWarnedOf(copy, grey, capfd):
    half = np.where(np.arange(SHAPE[0])[:, None, None] < 30, 255, 0) * np.ones(SHAPE)
    for mask, words in (
        (half, "62% of the voxels are positive in manual.nrrd (label 0); the scores mean nothing if"),
        (np.full(SHAPE, 255), "no voxel of the region is positive in manual.nrrd (label 0)"),
        (half[::-1] * 0 + 255 * (np.indices(SHAPE)[0] > 30), None),
    ):
        nrrd.write(str(copy / "manual.nrrd"), mask.astype(np.uint8), OBLIQUE)
        predict(copy / "scan_data.nrrd", "--nameReference", copy / "manual.nrrd", "--no-report")
        text = capfd.readouterr().out
        assert (f"Warning: {words}" in text) if words else ("Warning" not in text)


def testRegionIsNormalisedByTheWholeVolumeAsTheTrainingWas(grey, tmp_path, capfd):
    nrrd.write(str(tmp_path / "scan_data.nrrd"), grey, OBLIQUE)
    region = ("--y1", 16, "--z2", 24, "--no-report", "--no-overview")
    used, _ = _momentsUsed(tmp_path, *region), capfd.readouterr()
    assert used == pytest.approx((grey.mean(), grey.std()))
    part = grey[:, 16:, :24]
    used = _momentsUsed(tmp_path, *region, "--normalization", "region")
    assert used == pytest.approx((part.mean(), part.std()))
    text = capfd.readouterr().out
    assert "An earlier result is begun anew: normalization was volume, is region" in text
    assert "z-score over the region of interest; the training used another scheme" in text
    assert json.loads((tmp_path / "scan_segmented.json").read_text())["normalization"] == "region"


def testRegionIsNamedInThePageTheSummaryAndTheFirstLine(grey, tmp_path, capfd):
    nrrd.write(str(tmp_path / "scan_data.nrrd"), grey, OBLIQUE)
    predict(tmp_path / "scan_data.nrrd", "--y1", 16, "--z2", 24, "--no-overview")
    text, page = capfd.readouterr().out, (tmp_path / "scan_segmented_report.html").read_text()
    settings = json.loads((tmp_path / "scan_segmented_summary.json").read_text())["settings"]
    assert (settings["region"], settings["inputShape"]) == ([[0, 80], [16, 60], [0, 24]], [80, 60, 40])
    assert "region x 0:80 y 16:60 z 0:24 (half-open) of 80x60x40 voxels" in page and "of the region" in page
    assert re.search(r"Particles: \d+, [\d.]+% of the region", text) and "of the volume" not in text
    predict(tmp_path / "scan_data.nrrd", "--no-overview")
    text, page = capfd.readouterr().out, (tmp_path / "scan_segmented_report.html").read_text()
    assert "% of the volume" in text and "of the whole volume" in page and "half-open" not in page


def _momentsUsed(folder, *flags):
    """Mean and standard deviation that a prediction is normalised with."""
    with pytest.MonkeyPatch.context() as patch:
        used, original = [], predictData.predictProbability
        patch.setattr(
            predictData, "predictProbability", lambda *a: used.append(a[1].scale[:2]) or original(*a)
        )
        predict(folder / "scan_data.nrrd", *flags)
    return used[0]


def testFilesSayWhatTheyFollowFromAndOutdatedOnesAreNamed(copy, capfd):
    capfd.readouterr()
    predict(copy / "scan_data.nrrd", "--threshold", 0.25, "--minimumVoxels", 2, "--no-labels")
    assert "Of an earlier run, not of this one: scan_segmented_labels.nrrd\n" in capfd.readouterr().out
    for ending, expected in {
        "_mask": ("0.25", "2"),
        "_mask.seg": ("0.25", "2"),
        "_labels": ("0.4", "1"),
    }.items():
        header = nrrd.read_header(str(copy / f"scan_segmented{ending}.nrrd"))
        assert (header["threshold"], header["minimumVoxels"]) == expected
        assert header["connectivity"] == "26"


def testDroppedParticlesAreCountedAndInNoResult(copy, capfd):
    sizes = readTable(copy / "scan_segmented_particles.csv")["voxelCount"].astype(int)
    least = int(np.sort(sizes)[len(sizes) // 2])
    predict(copy / "scan_data.nrrd", "--threshold", 0.4, "--minimumVoxels", least)
    small, arrays = sizes[sizes < least], readSlowly(copy)
    summary = json.loads((copy / "scan_segmented_summary.json").read_text())
    assert (summary["droppedParticles"], summary["droppedVoxels"]) == (len(small), small.sum())
    assert f"Left out: {len(small)} particles" in capfd.readouterr().out
    kept = readTable(copy / "scan_segmented_particles.csv")["voxelCount"].astype(int)
    np.testing.assert_array_equal(kept, sizes[sizes >= least])
    assert (
        (arrays["mask"] == 0).sum()
        == arrays["segmentation"].sum()
        == (arrays["labels"] > 0).sum()
        == kept.sum()
    )


@pytest.mark.parametrize("change", ["input", "result", "region", "record", "type"])
def testAnythingElseIsComputedAnew(copy, change, grey, monkeypatch, capfd):
    flags = {"region": ("--z2", 30), "type": ("--outputType", "uint8")}.get(change, ())
    if change == "input":
        nrrd.write(str(copy / "scan_data.nrrd"), grey[::-1], OBLIQUE)
    elif change == "result":
        (copy / "scan_segmented.nrrd").write_bytes((copy / "scan_segmented.nrrd").read_bytes())
    elif change == "record":
        (copy / "scan_segmented.json").write_text("{")
    calls, makeWhole = [], predictData.makeWhole
    monkeypatch.setattr(predictData, "makeWhole", lambda *a: calls.append(a) or makeWhole(*a))
    predict(copy / "scan_data.nrrd", "--threshold", 0.4, *flags)
    text, why = capfd.readouterr().out, {"result": "scan_segmented.nrrd was changed since it was written"}
    why |= {"type": "outputType was float32, is uint8", "input": "data file 1 was"}
    assert len(calls) == 1 and "is finished" not in text
    assert change not in why or f"An earlier result is begun anew: {why[change]}" in text


def testAProbabilityOfAnotherComputerIsUsedAgain(copy, monkeypatch, capfd):
    record = json.loads((copy / "scan_segmented.json").read_text())
    record |= {"precision": "bfloat16", "device": "CPU (with AMX)"}
    record["identity"]["precision"] = "bfloat16"
    (copy / "scan_segmented.json").write_text(json.dumps(record))
    with monkeypatch.context() as patch:
        patch.setattr(predictData, "makeWhole", None)
        predict(copy / "scan_data.nrrd", "--threshold", 0.3)
    assert "is finished" in capfd.readouterr().out
    after = json.loads((copy / "scan_segmented.json").read_text())
    for name in ("engine", "precision", "device", "predicted", "identity"):
        assert after[name] == record[name]
    assert "CPU (with AMX), bfloat16" in (copy / "scan_segmented_report.html").read_text()
    predict(copy / "scan_data.nrrd", "--precision", "float32")
    text = "An earlier result is begun anew: precision was bfloat16, is float32"
    assert text in capfd.readouterr().out


def testGreyValuesAreReadOnlyForThePictures(copy, monkeypatch):
    monkeypatch.setattr(predictData, "listGreys", lambda *_: pytest.fail("the volume was read again"))
    predict(copy / "scan_data.nrrd", "--threshold", 0.3, "--no-report", "--no-overview")


def testAFinishedProbabilityNeedsNoMemoryOfTheNetwork(copy, monkeypatch, capfd):
    monkeypatch.setattr(predictData, "makeWhole", None)
    predict(copy / "scan_data.nrrd", "--threshold", 0.3, "--memoryBudget", 0.001)
    text = capfd.readouterr().out
    assert "is finished" in text and "Stream:" not in text


def testOneResultIsWrittenByOneProcess(copy, capfd):
    with lockName(copy / "scan_segmented.nrrd", ""), pytest.raises(SystemExit):
        predict(copy / "scan_data.nrrd", "--threshold", 0.3)
    assert "scan_segmented.nrrd: another process is writing this result" in capfd.readouterr().err
    predict(copy / "scan_data.nrrd", "--threshold", 0.3, "--dryRun")


def testScoresLeaveSmallParticlesOutWithoutATableToo(copy):
    mask = nrrd.read(str(copy / "scan_segmented_mask.nrrd"))[0]
    nrrd.write(str(copy / "manual.nrrd"), mask, OBLIQUE)
    flags = ["--threshold", 0.3, "--minimumVoxels", 9, "--nameReference", copy / "manual.nrrd"]
    found = []
    for switch in ("", "no-"):
        names = ("mask", "segmentation", "labels", "particles", "scores", "report", "overview")
        predict(copy / "scan_data.nrrd", *flags, *(f"--{switch}{name}" for name in names))
        found.append(json.loads((copy / "scan_segmented.json").read_text())["scores"])
    assert found[0] == found[1]


def testAnUnfinishedFileThatIsWrittenOverCountsAsFreeSpace(copy, monkeypatch, capfd):
    partial = copy / ".partial-scan_segmented.nrrd"
    (copy / "scan_segmented.nrrd").unlink()
    free = math.prod(SHAPE) * 2  # half of what the result takes
    disk = types.SimpleNamespace(free=free)
    monkeypatch.setattr(engine.prediction.told.shutil, "disk_usage", lambda _: disk)
    with pytest.raises(SystemExit):
        predict(copy / "scan_data.nrrd")
    assert "too little disk for the result" in capfd.readouterr().err
    partial.write_bytes(bytes(math.prod(SHAPE) * 3))  # of other parameters
    predict(copy / "scan_data.nrrd")
    assert not partial.exists()


@pytest.mark.parametrize(
    ("kind", "ending"),
    [
        ("labels", "_labels.nrrd"),
        ("mask", "_mask.nrrd"),
        ("report", "_report.html"),
        ("particles", "_particles.csv"),
    ],
)
def testFullDiskNamesTheFileAndKeepsThePreviousOne(copy, kind, ending, capfd):
    before = {path.name: path.read_bytes() for path in copy.iterdir() if path.name != "scan_segmented.json"}
    kinds = ("mask", "segmentation", "labels", "particles", "report", "overview")
    flags = [f"--no-{other}" for other in kinds if other != kind]
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before[f"scan_segmented{ending}"]) // 2, limits[1]))
    try:
        with pytest.raises(SystemExit) as stop:
            predict(copy / "scan_data.nrrd", "--threshold", 0.3, *flags)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert stop.value.code == 2
    assert f"scan_segmented{ending}: the disk is full" in capfd.readouterr().err
    assert (copy / f"scan_segmented{ending}").read_bytes() == before[f"scan_segmented{ending}"]
    assert {path.name for path in copy.iterdir()} == {*before, "scan_segmented.json"}
    predict(copy / "scan_data.nrrd", "--threshold", 0.3)
    assert "is finished" in capfd.readouterr().out
    assert (copy / f"scan_segmented{ending}").read_bytes() != before[f"scan_segmented{ending}"]


# ------------------------------------------------------------------------------------------------ odd cases


def testNothingPositiveIsAResult(copy, capfd):
    nrrd.write(str(copy / "scan_data.nrrd"), np.full(SHAPE, 7, np.uint16), OBLIQUE)
    predict(copy / "scan_data.nrrd", "--threshold", 1)
    summary = json.loads((copy / "scan_segmented_summary.json").read_text())
    assert summary["all"]["particles"] == 0 and summary["all"]["diameterQuartiles"] is None
    assert (copy / "scan_segmented_particles.csv").read_text().count("\n") == 1
    assert "Particles: 0," in capfd.readouterr().out
    assert (readSlowly(copy)["mask"] == 255).all()


def testEverythingPositiveIsOneParticle(copy):
    predict(copy / "scan_data.nrrd", "--threshold", 0)
    summary = json.loads((copy / "scan_segmented_summary.json").read_text())
    assert summary["all"]["particles"] == 1 and summary["all"]["volumeFraction"] == 1
    assert summary["withoutBorder"]["particles"] == 0


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "no size of a voxel"),
        ({"spacings": [1.0, float("nan"), 1.0]}, "no size of a voxel"),
        ({"spacings": [0.0, 1.0, 1.0]}, "the size (0.0, 1.0, 1.0)"),
    ],
)
def testWithoutAUsableSizeColumnsAreInVoxels(tmp_path, grey, fields, words, capfd):
    nrrd.write(str(tmp_path / "scan_data.nrrd"), grey, fields)
    predict(tmp_path / "scan_data.nrrd", "--threshold", 0.4)
    table = readTable(tmp_path / "scan_segmented_particles.csv")
    np.testing.assert_allclose(table["volume_voxel3"].astype(float), table["voxelCount"].astype(float))
    assert words in capfd.readouterr().out


def testEveryResultCanBeSwitchedOff(tmp_path, grey):
    nrrd.write(str(tmp_path / "scan_data.nrrd"), grey, OBLIQUE)
    kinds = {"mask": {"_mask.nrrd"}, "segmentation": {"_mask.seg.nrrd"}, "labels": {"_labels.nrrd"}}
    kinds |= {
        "particles": {"_particles.csv", "_summary.json"},
        "report": {"_report.html"},
        "overview": {"_overview.png"},
    }
    for wanted, endings in ({None: set()} | kinds).items():
        predict(tmp_path / "scan_data.nrrd", *(f"--no-{kind}" for kind in kinds if kind != wanted))
        found = {path.name.removeprefix("scan_segmented") for path in tmp_path.glob("scan_segmented?*")}
        assert found == {".nrrd", ".json"} | endings
        for ending in endings:
            (tmp_path / f"scan_segmented{ending}").unlink()


def testRegionKeepsThePlaceOfItsParticles(copy, tmp_path):
    output = tmp_path / "part.nrrd"
    predict(copy / "scan_data.nrrd", "--nameOutput", output, "--threshold", 0.4, "--x1", 8, "--z1", 6)
    table = readTable(tmp_path / "part_particles.csv")
    voxel = np.stack([table[f"{axis}_voxel"].astype(float) for axis in "xyz"], axis=1)
    place = np.stack([table[f"{axis}_um"].astype(float) for axis in "xyz"], axis=1)
    expected = (voxel + (8, 0, 6)) @ OBLIQUE["space directions"] + OBLIQUE["space origin"]
    np.testing.assert_allclose(place, expected, atol=1e-6)


@pytest.mark.parametrize("flags", [("--minimumVoxels", "-1"), ("--connectivity", "8")])
def testWrongRequestsAreRefused(copy, flags, capfd):
    before = {path: path.read_bytes() for path in copy.iterdir()}
    with pytest.raises(SystemExit) as stop:
        predict(copy / "scan_data.nrrd", *flags)
    assert stop.value.code == 2 and flags[0][2:] in capfd.readouterr().err
    assert {path: path.read_bytes() for path in copy.iterdir()} == before


@pytest.mark.parametrize("hasMask", [False, True])
def testMaskNeverTakesTheNameOfTheManualOne(copy, hasMask, capfd):
    if hasMask:
        nrrd.write(str(copy / "scan_mask.nrrd"), np.full(SHAPE, 255, np.uint8), OBLIQUE)
    before = {path: path.read_bytes() for path in copy.iterdir()}
    with pytest.raises(SystemExit) as stop:
        predict(copy / "scan_data.nrrd", "--nameOutput", copy / "scan.nrrd")
    message = capfd.readouterr().err
    assert stop.value.code == 2 and "scan_mask.nrrd: nameOutput would replace the manual mask" in message
    assert {path: path.read_bytes() for path in copy.iterdir()} == before


# ---------------------------------------------------------------------------------------------- for ImageJ


def testTiffStacksHoldTheSameVoxelsAndTheirSize(tmp_path, grey):
    tifffile = pytest.importorskip("tifffile")
    geometry = {
        "space directions": np.diag([0.5, 0.5, 0.8]),
        "space": "3D-right-handed",
        "space units": ["um"] * 3,
    }
    nrrd.write(str(tmp_path / "scan_data.nrrd"), grey, geometry)
    predict(tmp_path / "scan_data.nrrd", "--threshold", 0.4)
    arrays = readSlowly(tmp_path)
    predict(tmp_path / "scan_data.nrrd", "--threshold", 0.4, "--outputFormat", "tiff")
    for name, dtype in {"mask": "uint8", "labels": "uint16", "probability": "float32"}.items():
        with tifffile.TiffFile(tmp_path / f"scan_segmented_{name}.tif") as file:
            assert file.is_imagej and file.series[0].axes == "ZYX" and file.pages[0].dtype == dtype
            np.testing.assert_array_equal(file.asarray(), arrays[name].T)
            assert file.imagej_metadata["spacing"] == pytest.approx(0.8)
            assert file.imagej_metadata["unit"] == "um"
            numerator, denominator = file.pages[0].tags["XResolution"].value
            assert numerator / denominator == pytest.approx(2)


def testNapariOpensTheStacks(tmp_path, grey):
    PluginManager = pytest.importorskip("npe2").PluginManager
    ViewerModel = pytest.importorskip("napari.components").ViewerModel  # a viewer without a display
    nrrd.write(str(tmp_path / "scan_data.nrrd"), grey, OBLIQUE)
    predict(tmp_path / "scan_data.nrrd", "--threshold", 0.4)
    arrays = readSlowly(tmp_path)
    predict(tmp_path / "scan_data.nrrd", "--threshold", 0.4, "--outputFormat", "tiff")
    PluginManager.instance().discover()
    viewer = ViewerModel()
    for name in ("mask", "labels", "probability"):
        (layer,) = viewer.open(str(tmp_path / f"scan_segmented_{name}.tif"), plugin="napari")
        np.testing.assert_array_equal(layer.data, arrays[name].T)


def testTiffWithoutItsPackageIsRefusedBeforeAnyWork(copy, monkeypatch, capfd):
    monkeypatch.setitem(sys.modules, "tifffile", None)
    with pytest.raises(SystemExit) as stop:
        predict(copy / "scan_data.nrrd", "--outputFormat", "tiff")
    assert stop.value.code == 2 and "pip install tifffile" in capfd.readouterr().err
