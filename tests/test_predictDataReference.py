"""The manual mask of a prediction: its labels, the values in between, and where it lies."""

import json
import shutil

import nrrd
import numpy as np
import pytest
import SimpleITK
from places import ROOT, SHARED
from predictions import OBLIQUE, REGION, SHAPE, predict, refused, writeReference
from segmentations import writeSegmentation

import predictData
from engine.base.console import runScript
from engine.base.records import digestFile
from engine.formats.opening import openVolume

QUIET = ("--threshold", 0.4, "--no-report", "--no-overview")
CASES = SHARED / "cases" / "make.py"
KNOWN = "precipitate = 1, Pore = 2, thin = 1"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Predict a volume with oblique axes, and write a manual mask of it."""
    folder = tmp_path_factory.mktemp("run")
    grey = openVolume(ROOT / "test-file" / "test-file_data.nrrd").read(REGION)
    nrrd.write(str(folder / "scan_data.nrrd"), grey, OBLIQUE)
    predict(folder / "scan_data.nrrd", *QUIET)
    writeReference(folder, folder)
    return folder


@pytest.fixture
def copy(run, tmp_path):
    """Copy it; times of the files are kept."""
    return shutil.copytree(run, tmp_path / "copy")


def score(folder, capfd, mask, *flags):
    """Give what is told of a manual mask, and the files of scores and errors."""
    capfd.readouterr()
    predict(folder / "scan_data.nrrd", *QUIET, "--nameReference", folder / mask, *flags)
    text = capfd.readouterr().out
    scores = json.loads((folder / "scan_segmented_scores.json").read_text())
    return text, scores, (folder / "scan_segmented_errors.csv").read_text()


def testTurnedMaskGivesTheSameScoresForTheVolumeAndForARegion(copy, capfd):
    mask, _ = nrrd.read(str(copy / "scan_mask.nrrd"))
    directions, origin = OBLIQUE["space directions"], OBLIQUE["space origin"]
    sides = np.array(SHAPE) - 1
    far = origin + sides[0] * directions[0] + sides[2] * directions[2]
    header = {"space": "RAS", "space units": ["um"] * 3, "space origin": far * [-1, -1, 1]}
    header["space directions"] = np.diag([-1, 1, -1]) @ directions * [-1, -1, 1]
    nrrd.write(str(copy / "turned.nrrd"), mask[::-1, :, ::-1], header)
    for flags in ((), ("--x1", 13, "--x2", 72, "--y1", 16, "--z2", 24)):
        _, expected, table = score(copy, capfd, "scan_mask.nrrd", *flags)
        text, scores, errors = score(copy, capfd, "turned.nrrd", *flags)
        assert text.count("Mask turned.nrrd runs the other way along x, z: turned into place\n") == 1
        for found in (expected, scores):
            del found["settings"]
        assert scores == expected and 0 < scores["voxels"]["dice"] < 1
        assert errors == table


def testReferenceOfAnotherGridIsRefused(copy, capfd):
    mask, header = nrrd.read(str(copy / "scan_mask.nrrd"))
    header["space origin"] = header["space origin"] + [0, 0.2, 0]
    nrrd.write(str(copy / "other.nrrd"), mask, header)
    with pytest.raises(SystemExit):
        score(copy, capfd, "other.nrrd")
    assert "mask and image scan_data.nrrd differ in the space origin" in capfd.readouterr().err


def testInterpolatedReferenceIsWarnedOf(copy, capfd):
    assert "Warning" not in score(copy, capfd, "scan_mask.nrrd")[0]
    mask, header = nrrd.read(str(copy / "scan_mask.nrrd"))
    hard = SimpleITK.GetImageFromArray(mask.astype(np.float32))
    soft = np.rint(SimpleITK.GetArrayFromImage(SimpleITK.RecursiveGaussian(hard, 0.7))).clip(0, 255)
    nrrd.write(str(copy / "soft.nrrd"), soft.astype(np.uint8), header)
    count = int(((soft != 0) & (soft != 255)).sum())
    text, _, _ = score(copy, capfd, "soft.nrrd")
    share = f"{count} voxels ({count / soft.size:.2%})"
    assert f"Warning: soft.nrrd: {share} hold neither a positive label (0) nor 255, such as " in text
    part = soft[:, :, 8:]
    count = int(((part != 0) & (part != 255)).sum())
    text, _, _ = score(copy, capfd, "soft.nrrd", "--z1", 8, "--normalization", "volume")
    assert f"Warning: soft.nrrd: {count} voxels ({count / part.size:.2%}) hold" in text


@pytest.mark.parametrize(
    ("flag", "record"), [("!0", "!0"), ("-30--1,1-30", "-30--1,1-30"), ("!0,255", "!0,255")]
)
def testInstancesScoreAsTheirMask(copy, capfd, flag, record):
    _, expected, _ = score(copy, capfd, "scan_mask.nrrd")
    mask, header = nrrd.read(str(copy / "scan_mask.nrrd"))
    instances = np.where(mask == 0, 1 + np.indices(SHAPE)[0] % 30, 0) * (1 - 2 * (np.indices(SHAPE)[1] % 2))
    nrrd.write(str(copy / "instances.nrrd"), instances.astype(np.int16), header)
    text, scores, _ = score(copy, capfd, "instances.nrrd", "--positiveLabel", flag)
    assert "Warning" not in text
    assert scores["voxels"] == expected["voxels"] and scores["settings"]["positiveLabel"] == record


def testLabelsOfAContractMayBeARangeOrAComplement(copy, capfd, tmp_path):
    model = tmp_path / "net.h5"
    shutil.copy(ROOT / "modelAndWeights" / "final-trained-weights.h5", model)
    contract = json.loads((ROOT / "modelAndWeights" / "final-uNet_model.json").read_text())
    mask, header = nrrd.read(str(copy / "scan_mask.nrrd"))
    nrrd.write(str(copy / "ones.nrrd"), (mask == 0).astype(np.uint8) * 7, header)
    digest = digestFile(model)
    for known in ("!0", "5-9", [7], 7):
        content = contract | {"positiveLabel": known, "files": {"net.h5": digest}, "thresholds": {}}
        (tmp_path / "net.json").write_text(json.dumps(content))
        _, scores, _ = score(copy, capfd, "ones.nrrd", "--weightFile", model)
        assert scores["voxels"]["tp"] + scores["voxels"]["fn"] == (mask == 0).sum()


# ------------------------------------------------------------------------------------------- segments by name


def drawReference(folder, mask):
    """Draw what a mask holds as two segments, and a third over them; none touches the border.

    Gives them, and writes the plain masks `both.nrrd` and `thin.nrrd` of the first two and of the third.
    """
    positive = mask == 0
    for axis in range(3):
        positive = np.moveaxis(positive, axis, 0)
        positive[:2] = positive[-3:] = False
        positive = np.moveaxis(positive, 0, axis)
    upper = np.indices(SHAPE)[2] > 17
    drawn = {"precipitate": positive & upper, "Pore": positive & ~upper}
    drawn["thin"] = positive & (np.indices(SHAPE)[0] % 2 == 0)
    for name, part in (("both", positive), ("thin", drawn["thin"])):
        nrrd.write(str(folder / f"{name}.nrrd"), np.where(part, 0, 255).astype(np.uint8), OBLIQUE)
    return drawn


@pytest.mark.parametrize("isOverlapping", [False, True], ids=["apart", "overlapping"])
def testCroppedSegmentationScoresAsTheWholeMask(copy, capfd, isOverlapping):
    drawn = drawReference(copy, nrrd.read(str(copy / "scan_mask.nrrd"))[0])
    if not isOverlapping:
        del drawn["thin"]
    place = OBLIQUE["space directions"], OBLIQUE["space origin"]
    extent = writeSegmentation(copy / "a.seg.nrrd", drawn, *place, isCropped=True)
    cases = [("both", "precipitate,PORE")] + [("thin", "thin")] * isOverlapping
    for mask, flag in cases:
        for flags in ((), ("--x1", 13, "--x2", 72, "--y1", 16, "--z2", 24)):
            _, expected, table = score(copy, capfd, f"{mask}.nrrd", *flags)
            text, scores, errors = score(copy, capfd, "a.seg.nrrd", "--positiveLabel", flag, *flags)
            assert scores["settings"]["positiveLabel"] == flag and 0 < scores["voxels"]["dice"] < 1
            for found in (expected, scores):
                del found["settings"]
            assert scores == expected and errors == table
            x, y, z = (f"{part.start}:{part.stop}" for part in extent)
            assert f"Mask a.seg.nrrd covers x {x} y {y} z {z} of scan_data.nrrd: the rest" in text
            assert "hold neither" not in text


def testDiceOfASegmentIsThatByHand(copy, capfd):
    drawn = drawReference(copy, nrrd.read(str(copy / "scan_mask.nrrd"))[0])
    place = OBLIQUE["space directions"], OBLIQUE["space origin"]
    writeSegmentation(copy / "a.seg.nrrd", drawn, *place, isCropped=True)
    _, scores, _ = score(copy, capfd, "a.seg.nrrd", "--positiveLabel", "pore")
    found = nrrd.read(str(copy / "scan_segmented.nrrd"))[0] >= 0.4
    tp, both = (found & drawn["Pore"]).sum(), found.sum() + drawn["Pore"].sum()
    assert scores["voxels"]["tp"] == tp and abs(scores["voxels"]["dice"] - 2 * tp / both) < 1e-12


def testSegmentationBesideTheVolumeIsFoundAndItsNamesAreThoseOfTheContract(copy, capfd, tmp_path):
    drawn = drawReference(copy, nrrd.read(str(copy / "scan_mask.nrrd"))[0])
    (copy / "scan_mask.nrrd").unlink()
    place = OBLIQUE["space directions"], OBLIQUE["space origin"]
    writeSegmentation(copy / "scan_mask.seg.nrrd", drawn, *place, isCropped=True)
    model = tmp_path / "net.h5"
    shutil.copy(ROOT / "modelAndWeights" / "final-trained-weights.h5", model)
    contract = json.loads((ROOT / "modelAndWeights" / "final-uNet_model.json").read_text())
    content = contract | {"positiveLabel": "pore", "files": {"net.h5": digestFile(model)}, "thresholds": {}}
    (tmp_path / "net.json").write_text(json.dumps(content))
    capfd.readouterr()
    words = ["--nameInput", str(copy / "scan_data.nrrd"), *map(str, QUIET), "--weightFile", str(model)]
    runScript(predictData.main, lambda: predictData.parseArguments(words))
    assert "Scores against scan_mask.seg.nrrd at" in capfd.readouterr().out
    scores = json.loads((copy / "scan_segmented_scores.json").read_text())
    assert scores["voxels"]["tp"] + scores["voxels"]["fn"] == drawn["Pore"].sum()


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        (
            "pores",
            "no segment has this name (expected precipitate = 1, Pore = 2, thin = 1, received 'pores')",
        ),
        (
            "0",
            "positiveLabel is that of no segment (expected precipitate = 1, Pore = 2, thin = 1, received 0)",
        ),
        (
            "1",
            "2 segments that overlap have the label 1 (received precipitate = 1, thin = 1); give their names",
        ),
    ],
)
def testLabelsThatMeanNoSegmentAreRefused(copy, capfd, flag, words):
    drawn = drawReference(copy, nrrd.read(str(copy / "scan_mask.nrrd"))[0])
    writeSegmentation(copy / "a.seg.nrrd", drawn, OBLIQUE["space directions"], OBLIQUE["space origin"])
    scan, reference = copy / "scan_data.nrrd", copy / "a.seg.nrrd"
    line = refused(capfd, scan, *QUIET, "--nameReference", reference, "--positiveLabel", flag)
    assert f"Error: {reference}: {words}" in line


@pytest.mark.parametrize("isGiven", [True, False])
def testNamesNeedAMaskWithSegments(copy, capfd, isGiven):
    reference = copy / "scan_mask.nrrd" if isGiven else "none"
    line = refused(
        capfd, copy / "scan_data.nrrd", "--nameReference", reference, "--positiveLabel", "pore", *QUIET
    )
    assert "positiveLabel cannot be read (expected whole numbers or ranges" in line and "'pore'" in line
    remedy = "this mask has no named segments" if isGiven else "names are those of the segments of a mask"
    assert f"; {remedy}" in line


def testIgnoredVoxelsCountInNoScore(copy, capfd, tmp_path):
    mask, header = nrrd.read(str(copy / "scan_mask.nrrd"))
    isIgnored = np.random.default_rng(0).random(SHAPE) < 0.2
    isIgnored[30:, :, 5:20] = True
    other = np.where(isIgnored, 3, mask).astype(np.uint8)
    nrrd.write(str(copy / "sparse.nrrd"), other, header)
    text, scores, errors = score(copy, capfd, "sparse.nrrd", "--ignoreLabel", "3")
    probability = nrrd.read(str(copy / "scan_segmented.nrrd"))[0]
    y, p = (mask == 0)[~isIgnored], (probability >= 0.4)[~isIgnored]
    counts = {"tp": y & p, "fp": ~y & p, "fn": y & ~p, "tn": ~y & ~p}
    for name, isThere in counts.items():
        assert scores["voxels"][name] == isThere.sum() > 0
    assert scores["settings"]["ignoreLabel"] == [3] and "Warning" not in text
    assert f"Labelled in sparse.nrrd: {(~isIgnored).mean():.2%} of the voxels; the others" in text
    assert sum(scores["calibration"]["voxels"]) == (~isIgnored).sum()
    again = np.where(isIgnored, 4, mask).astype(np.uint8)
    nrrd.write(str(copy / "sparse.nrrd"), again, header)
    _, same, sameErrors = score(copy, capfd, "sparse.nrrd", "--ignoreLabel", "3-4", "--workerCount", 2)
    del scores["settings"], same["settings"]
    assert same == scores and sameErrors == errors
    _, whole, _ = score(copy, capfd, "scan_mask.nrrd")
    assert "ignoreLabel" not in whole["settings"] and whole["voxels"] != scores["voxels"]


def testIgnoredLabelsAreThoseOfTheTrainingUnlessTold(copy, capfd, tmp_path):
    model = tmp_path / "net.h5"
    shutil.copy(ROOT / "modelAndWeights" / "final-trained-weights.h5", model)
    contract = json.loads((ROOT / "modelAndWeights" / "final-uNet_model.json").read_text())
    contract |= {"files": {"net.h5": digestFile(model)}, "thresholds": {}}
    mask, header = nrrd.read(str(copy / "scan_mask.nrrd"))
    mask[:, :, ::2] = np.where(mask[:, :, ::2] == 0, 0, 9)
    nrrd.write(str(copy / "sparse.nrrd"), mask, header)
    for known, flags, count in (
        ("9", (), mask.size - (mask == 9).sum()),
        ("9", ("--ignoreLabel", "none"), mask.size),
        ("9", ("--ignoreLabel", "255"), mask.size - (mask == 255).sum()),
        ("", (), mask.size),
    ):
        data = contract["data"] | {"parameters": {"ignoreLabel": known}}
        (tmp_path / "net.json").write_text(json.dumps(contract | {"data": data}))
        _, scores, _ = score(copy, capfd, "sparse.nrrd", "--weightFile", model, *flags)
        assert sum(scores["voxels"][name] for name in ("tp", "fp", "fn", "tn")) == count


def testAReferenceWithoutAnyLabelIsWarnedOf(copy, capfd):
    text, scores, _ = score(copy, capfd, "scan_mask.nrrd", "--ignoreLabel", "0,255", "--positiveLabel", "1")
    assert "Labelled in scan_mask.nrrd: 0.00% of the voxels" in text
    assert "Warning: no voxel of the region is positive in scan_mask.nrrd (label 1)" in text
    assert scores["voxels"]["dice"] is None and scores["voxels"]["tp"] == 0


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--ignoreLabel", "x"), "scan_mask.nrrd: ignoreLabel cannot be read"),
        (
            ("--ignoreLabel", "0"),
            "Error: 0 is in ignoreLabel and in positiveLabel; a voxel counts as positive or",
        ),
    ],
)
def testLabelsThatCannotBeIgnoredAreRefused(copy, capfd, flags, words):
    with pytest.raises(SystemExit):
        score(copy, capfd, "scan_mask.nrrd", *flags)
    text = capfd.readouterr().err
    assert words in text and text.count("\n") == 1


@pytest.mark.skipif(not CASES.is_file(), reason="the shared data are absent")
def testReportedMasksAndHeadersGiveTheScoresOfThePlainPair(tmp_path, monkeypatch, capfd):
    import runpy

    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(CASES))["main"](tmp_path)
    plain = None
    for source, mask, flags in (
        ("scan_data", "scan_mask", ()),
        ("scan_data", "ras_mask", ()),
        ("scan_data", "shortlps_mask", ()),
        ("scan_data", "instances_mask", ("--positiveLabel", "!0")),
        ("twice_same", "scan_mask", ()),
        ("onechannel", "scan_mask", ()),
        ("scan_data", "cropped.seg", ("--positiveLabel", "1")),
        ("scan_data", "layers.seg", ("--positiveLabel", "particles")),
    ):
        names = ("--nameReference", tmp_path / f"{mask}.nrrd", "--nameOutput", tmp_path / "out.nrrd")
        predict(tmp_path / f"{source}.nrrd", "--no-report", "--no-overview", *names, *flags)
        assert "Warning" not in capfd.readouterr().out
        scores = json.loads((tmp_path / "out_scores.json").read_text())["voxels"]
        plain = plain or scores
        assert scores == plain and scores["dice"] > 0.94
    image, probability = (
        SimpleITK.ReadImage(str(tmp_path / f"{name}.nrrd")) for name in ("scan_data", "out")
    )
    assert probability.GetSpacing() == image.GetSpacing() and probability.GetSize() == image.GetSize()
