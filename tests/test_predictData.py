"""predictData.py: what it loads, tells and refuses, labels and thresholds, full disks."""

import hashlib
import json
import re
import shutil
from pathlib import Path

import nrrd
import numpy as np
import pytest
from places import ROOT
from projects import (
    SHAPE,
    VOLUME_BYTES,
    badVolumes,
    callMain,
    listModules,
    makeVolume,
    predictFlags,
    refusal,
    refuseSpace,
    smallDisk,
    snapshot,
    spoil,
    writeNrrd,
)

import engine.base.files
import predictData


def testPredictionOnACpuLoadsNeitherTensorFlowNorKeras(models, tmp_path):
    writeNrrd(tmp_path / "data.nrrd", makeVolume(4)[0])
    flags = predictFlags(tmp_path / "data.nrrd", tmp_path / "out.nrrd", models / "good.h5")
    modules, text = listModules("predictData.py", *flags)
    assert "openvino" in modules and not modules & {"tensorflow", "keras", "jax"}
    assert re.search(r"^Device: CPU .*, openvino with oneDNN.*, (float32|bfloat16)$", text, re.MULTILINE)


def testPredictionWithoutResultsLoadsNothingOfThem(models, tmp_path):
    writeNrrd(tmp_path / "data.nrrd", makeVolume(4)[0])
    flags = predictFlags(tmp_path / "data.nrrd", tmp_path / "out.nrrd", models / "good.h5")
    kinds = ("mask", "segmentation", "labels", "particles", "scores", "report", "overview")
    modules, _ = listModules("predictData.py", *flags, *(f"--no-{kind}" for kind in kinds))
    assert {"h5py", "tqdm", "openvino"} <= modules
    assert not modules & {"scipy", "matplotlib", "cc3d"}


def testDryRunTellsEverythingAndWritesNothing(models, tmp_path, capfd):
    writeNrrd(tmp_path / "data.nrrd", makeVolume(4)[0])
    before = snapshot(tmp_path)
    flags = predictFlags(tmp_path / "data.nrrd", tmp_path / "out.nrrd", models / "good.h5")
    callMain(predictData, [*flags, "--dryRun", "--z2", "15", "--outputEncoding", "gzip"])
    text = capfd.readouterr().out
    for line in (
        "Input: data.nrrd 24x16x16 uint16.*",
        "Region: x 0:24 y 0:16 z 0:15",
        r"Stream: \d+ planes at a time, one tile, \d+\.\d\d GiB of memory",
        r"Result: 0\.000 GiB, as much for a while before it is gzip; [\d.]+ GiB of the disk are free",
        r"Estimate: \d+ s at [\d.]+ Mvoxel/s \(one slab: [\d.]+ s\)",
    ):
        assert re.search(f"^{line}$", text, re.MULTILINE), line
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("kind", ["uint8", "uint16"])
def testIntegerResultsAreScoredAsFloatsAre(kind, models, tmp_path, capfd):
    image, mask = makeVolume(4)
    writeNrrd(tmp_path / "data.nrrd", image)
    writeNrrd(tmp_path / "mask.nrrd", mask)
    results = {}
    for name in ("float32", kind):
        flags = predictFlags(tmp_path / "data.nrrd", tmp_path / f"{name}.nrrd", models / "good.h5")
        callMain(predictData, [*flags, "--outputType", name, "--nameReference", tmp_path / "mask.nrrd"])
        results[name] = nrrd.read(str(tmp_path / f"{name}.nrrd"))[0]
        record = json.loads((tmp_path / f"{name}.json").read_text())
        assert record["scores"]["tp"] + record["scores"]["fn"] == np.count_nonzero(mask == 0)
    levels = np.iinfo(kind).max
    assert results[kind].dtype == kind
    assert abs(results[kind] / levels - results["float32"]).max() < 0.51 / levels


def testPathsOfTheConstantsBelongToTheFolderOfTheScripts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(predictData, "nameOutput", "test-file/out.nrrd")
    for name, path in (("test-file/mask.nrrd", ROOT / "test-file" / "mask.nrrd"), ("none", Path("none"))):
        monkeypatch.setattr(predictData, "nameReference", name)
        arguments = predictData.parseArguments([])
        assert arguments.nameReference == path
    assert arguments.nameOutput == ROOT / "test-file" / "out.nrrd"


def badModels():
    return {
        "another width": ("good.h5", "wide.h5", ("wide.h5", "another filters", "expected 2, received 4")),
        "another depth": ("good.h5", "deep.h5", ("deep.h5",)),
        "corrupt": ("corrupt.h5", None, ("corrupt.h5", "is damaged or no model of Keras")),
        "corrupt weights": ("good.h5", "corrupt.h5", ("corrupt.h5", "is damaged or no model of Keras")),
        "noise": ("noise.h5", None, "is neither an HDF5 file (.h5) nor a .keras archive"),
        "empty": ("empty.h5", None, ("empty.h5", "is empty")),
        "missing": ("nowhere.h5", None, ("nowhere.h5", "no such model file")),
        "Lambda layer": ("lambda.h5", None, ("payload is a Lambda layer", "never executed")),
        "another network": ("dense.h5", None, "is a Sequential model"),
        "external link": ("link.h5", None, ("is an external link", "never followed")),
        "weights not finite": ("notFinite.h5", None, ("probability, kernel", "not finite")),
    }


@pytest.mark.parametrize("case", badModels())
def testPredictRefusesAModel(case, models, tmp_path, capfd):
    model, weights, words = badModels()[case]
    writeNrrd(tmp_path / "volume_data.nrrd", makeVolume(4)[0])
    before = snapshot(tmp_path)
    flags = predictFlags(tmp_path / "volume_data.nrrd", tmp_path / "result.nrrd", models / model)
    refusal(capfd, predictData, [*flags, *(("--weightFile", models / weights) if weights else ())], words)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("case", badVolumes())
def testPredictRefusesAVolume(case, models, tmp_path, capfd):
    damage, words = badVolumes()[case]
    (tmp_path / "elsewhere.raw").write_bytes(VOLUME_BYTES)
    (tmp_path / "in").mkdir()
    damage(tmp_path / "in" / "data.nrrd")
    before = snapshot(tmp_path)
    flags = predictFlags(tmp_path / "in" / "data.nrrd", tmp_path / "result.nrrd", models / "good.h5")
    assert "data.nrrd" in refusal(capfd, predictData, flags, words)
    assert snapshot(tmp_path) == before


def badRequests():
    """Name requests for a good volume that cannot be met: flags ({} is the folder), and what is told."""
    return {
        "region outside": (["--x2", "25"], ("data.nrrd", "along x leaves the volume", "received 0:25")),
        "region before": (["--z1", "-1"], ("along z leaves the volume", "received -1:16")),
        "region empty": (["--y1", "7", "--y2", "7"], ("along y is empty", "received 7:7")),
        "region reversed": (["--y1", "9", "--y2", "3"], ("along y is empty", "received 9:3")),
        "output replaces input": (["--nameOutput", "{}/data.nrrd"], "nameOutput would replace nameInput"),
        "output replaces input by a link": (
            ["--nameOutput", "{}/link.nrrd"],
            "nameOutput would replace nameInput",
        ),
        "output replaces reference": (
            ["--nameReference", "{}/mask.nrrd", "--nameOutput", "{}/mask.nrrd"],
            "nameOutput would replace nameReference",
        ),
        "output folder missing": (
            ["--nameOutput", "{}/nowhere/a.nrrd"],
            ("nowhere: no such folder", "create it"),
        ),
        "output of another format": (
            ["--nameOutput", "{}/result.tif"],
            ("result.tif", "must end with .nrrd"),
        ),
        "output is a folder": (["--nameOutput", "{}/folder.nrrd"], "nameOutput is a folder"),
        "record replaces the contract": (["--nameOutput", "{}/net.nrrd"], ("net.json", "would replace")),
        "reference of another shape": (
            ["--nameReference", "{}/small.nrrd"],
            ("small.nrrd", "differ in the shape", "expected (24, 16, 16)", "received (8, 8, 8)"),
        ),
        "reference missing": (["--nameReference", "{}/nowhere.nrrd"], ("nowhere.nrrd", "no such file")),
        "memoryBudget negative": (["--memoryBudget", "-1"], "memoryBudget must not be below 0"),
        "label no number": (["--positiveLabel", "0,x"], "positiveLabel cannot be read"),
        "NaN": (["--nameInput", "{}/nan.nrrd"], ("nan.nrrd", "2 voxels are NaN or infinite")),
        "no name": (["--nameInput", ""], "nameInput names no file"),
        "memoryBudget too small": (["--memoryBudget", "0.0000001"], ("memoryBudget", "is needed")),
    }


@pytest.mark.parametrize("case", badRequests())
def testPredictRefusesARequest(case, models, tmp_path, capfd):
    flags, words = badRequests()[case]
    image, mask = makeVolume(4)
    writeNrrd(tmp_path / "data.nrrd", image)
    writeNrrd(tmp_path / "mask.nrrd", mask)
    writeNrrd(tmp_path / "small.nrrd", np.zeros((8, 8, 8), np.uint8))
    writeNrrd(tmp_path / "nan.nrrd", spoil(image, np.nan, -np.inf))
    (tmp_path / "link.nrrd").symlink_to("data.nrrd")
    (tmp_path / "folder.nrrd").mkdir()
    shutil.copy(models / "good.h5", tmp_path / "net.h5")
    digest = hashlib.sha256((tmp_path / "net.h5").read_bytes()).hexdigest()
    (tmp_path / "net.json").write_text(json.dumps({"files": {"net.h5": digest}, "positiveLabel": [0]}))
    before = snapshot(tmp_path)
    standard = predictFlags(tmp_path / "data.nrrd", tmp_path / "result.nrrd", tmp_path / "net.h5")
    refusal(capfd, predictData, [*standard, *(flag.format(tmp_path) for flag in flags)], words)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("value", [np.int16(7), 0.1, 123.456])
def testConstantRegionIsPredictedWithAWarning(value, models, tmp_path, capfd):
    writeNrrd(tmp_path / "flat_data.nrrd", np.full((9, 8, 4), value))
    callMain(
        predictData, predictFlags(tmp_path / "flat_data.nrrd", tmp_path / "out.nrrd", models / "good.h5")
    )
    assert "Warning: all voxels of the volume have the same grey value" in capfd.readouterr().out
    assert np.isfinite(nrrd.read(str(tmp_path / "out.nrrd"))[0]).all()


def testScoresTakeTheLabelsFromTheContract(models, tmp_path, capfd):
    shutil.copy(models / "good.h5", tmp_path / "net.h5")
    digest = hashlib.sha256((tmp_path / "net.h5").read_bytes()).hexdigest()
    (tmp_path / "any.json").write_text(json.dumps({"files": {"net.h5": digest}, "positiveLabel": [1, 3]}))
    image, _ = makeVolume(4)
    labels = np.random.default_rng(2).integers(0, 5, SHAPE).astype(np.uint8)
    writeNrrd(tmp_path / "volume_data.nrrd", image)
    writeNrrd(tmp_path / "volume_mask.nrrd", labels)
    flags = predictFlags(tmp_path / "volume_data.nrrd", tmp_path / "out.nrrd", tmp_path / "net.h5")
    for extra, positive in (((), (1, 3)), (("--positiveLabel", "4"), (4,))):
        callMain(predictData, [*flags, *extra])
        scores = json.loads((tmp_path / "out.json").read_text())["scores"]
        assert scores["tp"] + scores["fn"] == np.isin(labels, positive).sum()
    callMain(predictData, [*flags, "--nameReference", "none"])
    assert json.loads((tmp_path / "out.json").read_text())["scores"] is None


def testThresholdIsThatOfTheTrainingUnlessAskedFor(models, tmp_path, capfd):
    shutil.copy(models / "good.h5", tmp_path / "net.h5")
    image, mask = makeVolume(4)
    writeNrrd(tmp_path / "volume_data.nrrd", image)
    writeNrrd(tmp_path / "volume_mask.nrrd", mask)
    flags = predictFlags(tmp_path / "volume_data.nrrd", tmp_path / "out.nrrd", tmp_path / "net.h5")

    def positives(words, *extra):
        capfd.readouterr()
        callMain(predictData, [*flags, *extra])
        assert f"Threshold: {words}" in capfd.readouterr().out
        scores = json.loads((tmp_path / "out.json").read_text())["scores"]
        probability = nrrd.read(str(tmp_path / "out.nrrd"))[0]
        return scores["tp"] + scores["fp"], probability

    count, probability = positives("0.5, the published one")
    assert count == (probability >= 0.5).sum()
    limit = float(np.float32(np.quantile(probability, 0.3)))
    digest = hashlib.sha256((tmp_path / "net.h5").read_bytes()).hexdigest()
    contract = {"files": {"a.h5": "0", "b.h5": digest}, "thresholds": {"a.h5": 0.9, "b.h5": limit}}
    (tmp_path / "any.json").write_text(json.dumps(contract))
    count, probability = positives(f"{limit:g}, chosen by the Dice on the validation data")
    assert 0 < count == (probability >= limit).sum() < probability.size
    assert positives("0, as asked for", "--threshold", "0")[0] == probability.size
    refusal(capfd, predictData, [*flags, "--threshold", "1.5"], ("threshold must lie in 0 to 1", "1.5"))


def testPredictOnAFullDiskKeepsTheOldFiles(models, tmp_path, capfd, monkeypatch):
    writeNrrd(tmp_path / "volume_data.nrrd", makeVolume(4)[0])
    for suffix in ("nrrd", "png", "json"):
        (tmp_path / f"out.{suffix}").write_bytes(b"the old result")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    monkeypatch.setattr(engine.base.files.os, "posix_fallocate", refuseSpace)
    flags = predictFlags(tmp_path / "volume_data.nrrd", tmp_path / "out.nrrd", models / "good.h5")
    refusal(capfd, predictData, flags, ("out.nrrd", "the disk is full"))
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def testPredictOnARealFullDisk(models, tmp_path, capfd):
    writeNrrd(tmp_path / "volume_data.nrrd", makeVolume(4)[0])
    with smallDisk(tmp_path / "disk", 20) as disk:  # the result needs 24 KiB
        flags = predictFlags(tmp_path / "volume_data.nrrd", disk / "out.nrrd", models / "good.h5")
        refusal(capfd, predictData, flags, ("out.nrrd", "too little disk for the result"))
        assert list(disk.iterdir()) == []


# ------------------------------------------------------------------------------------------------------- TIFF


@pytest.mark.parametrize("isFolder", [True, False])
def testTiffGivesTheResultsOfNrrd(models, tmp_path, capfd, isFolder):
    import tifffile

    image, mask = makeVolume(4)
    side = {"spacings": [0.65] * 3, "units": ["um"] * 3}
    (tmp_path / "nrrd").mkdir()
    nrrd.write(str(tmp_path / "nrrd" / "scan.nrrd"), image, side)
    nrrd.write(str(tmp_path / "nrrd" / "scan_mask.nrrd"), mask.astype(np.uint8), side)
    (tmp_path / "tiff").mkdir()
    for name, array in (("scan", image), ("scan_mask", mask.astype(np.uint8))):
        target = tmp_path / "tiff" / (name if isFolder else f"{name}.tif")
        if isFolder:
            target.mkdir()
            for z in range(array.shape[2]):
                tifffile.imwrite(target / f"{z}.tif", array[:, :, z].T, photometric="minisblack")
        else:
            tifffile.imwrite(target, array.T, photometric="minisblack", compression="zlib")
    words = ["--modelFile", str(models / "good.h5"), "--no-report"]
    name = "scan" if isFolder else "scan.tif"
    predictData.main(
        predictData.parseArguments(["--nameInput", str(tmp_path / "nrrd" / "scan.nrrd"), *words])
    )
    words += ["--voxelSize", "0.65 um"]
    predictData.main(predictData.parseArguments(["--nameInput", str(tmp_path / "tiff" / name), *words]))
    first, second = capfd.readouterr().out.split("Parameters:")[1:]
    scores = [
        next(line for line in text.splitlines() if "Scores against" in line) for text in (first, second)
    ]
    assert scores[0].split(":")[1] == scores[1].split(":")[1] and "0.65 um x 0.65 um x 0.65 um" in second
    for ending in (".nrrd", "_mask.nrrd", "_labels.nrrd"):
        arrays = [nrrd.read(str(tmp_path / kind / f"scan_segmented{ending}")) for kind in ("nrrd", "tiff")]
        np.testing.assert_array_equal(arrays[0][0], arrays[1][0])
        assert arrays[0][1]["spacings"].tolist() == arrays[1][1]["spacings"].tolist()
    tables = [(tmp_path / kind / "scan_segmented_particles.csv").read_text() for kind in ("nrrd", "tiff")]
    assert tables[0] == tables[1] and "volume_um3" in tables[0]
    flags = ["--nameInput", str(tmp_path / "tiff" / name), *words[:-1], "0.65 0.65 0.65 µm"]
    predictData.main(predictData.parseArguments(flags))
    assert "is finished" in capfd.readouterr().out  # the same size in other words
    predictData.main(predictData.parseArguments(flags[:-2]))
    printed = capfd.readouterr().out
    assert "Lengths are in voxels: the TIFF gives no size of a voxel; --voxelSize does" in printed
    assert "begun anew: voxelSize was 0.65 0.65 0.65 um, is None" in printed  # its header tells it
