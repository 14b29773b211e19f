"""Inputs that public bug reports describe: every row of cases/README.md in the shared data."""

import json
import os
import subprocess
import sys

import nrrd
import numpy as np
import pytest
from places import ROOT, SHARED, listNames
from projects import callMain, checkRefusal, refusal, runCommand, snapshot

import predictData
import prepareData
from engine.base.words import printable
from engine.formats.opening import openVolume

MAKE = SHARED / "cases" / "make.py"
FEW = ("--no-report", "--no-overview")
LATIN = os.fsdecode(b"Prob\xe4")

pytestmark = pytest.mark.skipif(not MAKE.is_file(), reason="the shared data are absent")


@pytest.fixture(scope="session")
def cases(tmp_path_factory):
    """Write the inputs."""
    folder = tmp_path_factory.mktemp("cases")
    subprocess.run([sys.executable, str(MAKE), str(folder)], check=True, timeout=300)
    return folder


@pytest.fixture(scope="session")
def results(tmp_path_factory):
    """Give the folder of results that tests share, and what is known of them: {flags: text, scores}."""
    return tmp_path_factory.mktemp("results"), {}


@pytest.fixture
def predict(cases, results, capfd):
    """Predict a case with the shipped network, once: gives what is printed and the scores."""
    folder, known = results

    def run(source, mask, *flags):
        words = (source, mask, *flags)
        if words not in known:
            names = ("--nameInput", cases / f"{source}.nrrd", "--nameReference", cases / f"{mask}.nrrd")
            capfd.readouterr()
            callMain(predictData, [*names, "--nameOutput", folder / f"{source}.nrrd", *FEW, *flags])
            printed = capfd.readouterr()
            assert printed.err == ""
            scores = json.loads((folder / f"{source}_scores.json").read_text())["voxels"]
            known[words] = printed.out, scores
        return known[words]

    return run


def readProbability(results, source):
    return nrrd.read(str(results[0] / f"{source}.nrrd"))[0]


def prepare(folder, image, mask, capfd):
    """Prepare one pair for training and validation: gives what is printed, and the images."""
    paths = {
        "trainingImages": image,
        "trainingMasks": mask,
        "validationImages": image,
        "validationMasks": mask,
    }
    for name, path in paths.items():
        (folder / name).mkdir(parents=True)
        (folder / name / path.name).symlink_to(path)
    (folder / "pythonFiles").mkdir()
    flags = [word for name in paths for word in (f"--{name}", folder / name)]
    capfd.readouterr()
    callMain(prepareData, [*flags, "--learningData", folder / "pythonFiles"])
    return capfd.readouterr().out, np.load(folder / "pythonFiles" / "trainingDataImage.npy")[0, ..., 0]


# ------------------------------------------------------------------------------------------------ grey values


def testThePlainPairIsFound(predict):
    text, scores = predict("scan_data", "scan_mask")
    assert scores["dice"] >= 0.94
    assert "lie beyond" not in text and "No data" not in text


@pytest.mark.parametrize("source", ["inside", "moreair"])
def testAnotherCropOfASpecimenIsFoundOrWarnedOf(predict, source):
    text, scores = predict(source, f"{source}_mask")
    isWarned = "Warning" in text and "is unlike what the network has learnt on" in text
    assert scores["dice"] >= 0.90 or isWarned


@pytest.mark.parametrize("source", ["hot3", "hot100"])
def testHotVoxelsAreWarnedOfAndChangeLittle(predict, source):
    text, scores = predict(source, "scan_mask")
    assert scores["dice"] >= 0.90
    count = int(source.removeprefix("hot"))
    assert f"Warning: {count} voxels ({count / 64**3:.3%}) lie beyond " in text
    assert abs(scores["dice"] - predict("scan_data", "scan_mask")[1]["dice"]) < 0.005


@pytest.mark.parametrize("source", ["nodata_fltmax", "nodata_1e30"])
def testVoxelsWithoutDataAreToldAndChangeLittle(predict, cases, results, source):
    text, scores = predict(source, "scan_mask")
    assert scores["dice"] >= 0.90
    grey, _ = nrrd.read(str(cases / f"{source}.nrrd"))
    isNone = np.abs(grey) > 1e29
    assert f"No data: {isNone.sum()} voxels ({isNone.mean():.3%}) hold " in text
    assert (readProbability(results, source)[isNone] == 0).all()


def testHotVoxelsAndRegionsWithoutDataSpoilNoTraining(cases, tmp_path, capfd):
    mask = cases / "scan_mask.nrrd"
    text, plain = prepare(tmp_path / "plain", cases / "scan_data.nrrd", mask, capfd)
    assert "lie beyond" not in text and "No data" not in text
    for count in (3, 100):
        text, hot = prepare(tmp_path / f"hot{count}", cases / f"hot{count}.nrrd", mask, capfd)
        assert f"Warning: {count} voxels" in text
        assert np.count_nonzero(np.abs(hot - plain) > 0.01) <= count and np.abs(hot).max() < 8
    for value in ("fltmax", "1e30"):
        text, prepared = prepare(tmp_path / value, cases / f"nodata_{value}.nrrd", mask, capfd)
        assert "No data: 64000 voxels (24.414%)" in text and len(np.unique(prepared)) > 1000
        isNone = np.abs(nrrd.read(str(cases / f"nodata_{value}.nrrd"))[0]) > 1e29
        assert np.corrcoef(prepared[~isNone], plain[~isNone])[0, 1] > 0.9999 and np.ptp(prepared[isNone]) == 0


def changeScan(cases, kind):
    """Give the scan in numbers that no z-score in single precision can hold, and the reason."""
    grey = nrrd.read(str(cases / "scan_data.nrrd"))[0].astype(np.float64)
    return {
        "1e200": (grey * 1e196, "grey values of"),
        "1e-40": (grey * 1e-44, "are too close for a z-score in single precision"),
        "2**60": (grey.astype(np.int64) + 2**60, "the offset of 1.15e+18 hides grey values that differ by"),
    }[kind]


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("kind", ["1e200", "1e-40", "2**60"])
def testNumbersThatSinglePrecisionCannotHoldAreRefusedInALine(cases, tmp_path, capfd, kind):
    image, words = changeScan(cases, kind)
    nrrd.write(str(tmp_path / "scan.nrrd"), image, {"encoding": "raw"})
    command = ["--nameInput", tmp_path / "scan.nrrd", "--nameReference", cases / "scan_mask.nrrd"]
    refusal(capfd, predictData, command, ("scan.nrrd: ", words, "before they are saved"))
    assert listNames(tmp_path) == ["scan.nrrd"]
    with pytest.raises(SystemExit) as caught:
        prepare(tmp_path / "project", tmp_path / "scan.nrrd", cases / "scan_mask.nrrd", capfd)
    checkRefusal(caught.value.code, capfd.readouterr().err, ("scan.nrrd: ", words))
    assert listNames(tmp_path / "project" / "pythonFiles") == []


# ------------------------------------------------------------------------------------------------------ masks


@pytest.mark.parametrize(
    ("mask", "flags"),
    [("ras_mask", ()), ("shortlps_mask", ()), ("instances_mask", ("--positiveLabel", "!0"))],
)
def testMasksThatMeanTheSameGiveTheSameScores(predict, mask, flags):
    _, expected = predict("scan_data", "scan_mask")
    text, scores = predict("scan_data", mask, *flags)
    assert scores == expected and "hold neither" not in text
    assert ("turned into place" in text) == (mask != "instances_mask")


@pytest.mark.parametrize("flag", ["1", "!0", "particles", " Particles "])
@pytest.mark.parametrize("mask", ["cropped.seg", "layers.seg"])
def testSegmentationsOfSlicerGiveTheScoresOfTheWholeMask(predict, mask, flag):
    _, expected = predict("scan_data", "scan_mask")
    text, scores = predict("scan_data", mask, "--positiveLabel", flag)
    assert scores == expected and scores["dice"] > 0.94 and "Warning" not in text
    assert ("covers x " in text) == (mask == "cropped.seg")


def testAnInterpolatedMaskIsWarnedOfWithShareAndCount(predict, cases):
    mask, _ = nrrd.read(str(cases / "interpolated_mask.nrrd"))
    between = int(((mask != 0) & (mask != 255)).sum())
    text, _ = predict("scan_data", "interpolated_mask")
    words = "hold neither a positive label (0) nor 255, such as "
    assert f"Warning: interpolated_mask.nrrd: {between} voxels ({between / mask.size:.2%}) {words}" in text
    assert "hold neither" not in predict("scan_data", "scan_mask")[0]


# ---------------------------------------------------------------------------------------------------- headers


@pytest.mark.parametrize("source", ["twice_same", "onechannel"])
def testHeadersThatMeanTheSameGiveTheSameVoxels(predict, results, cases, source):
    _, expected = predict("scan_data", "scan_mask")
    _, scores = predict(source, "scan_mask")
    assert scores == expected
    np.testing.assert_array_equal(readProbability(results, source), readProbability(results, "scan_data"))
    assert openVolume(cases / f"{source}.nrrd").shape == (64, 64, 64)


def testAFieldThatContradictsItselfIsRefusedWithARemedy(cases, tmp_path, capfd):
    command = ["--nameInput", cases / "twice_other.nrrd", "--nameOutput", tmp_path / "out.nrrd"]
    text = refusal(capfd, predictData, command, ("twice_other.nrrd", "space units"))
    assert ";" in text.split("space units")[1] or "remove" in text or "delete" in text
    assert listNames(tmp_path) == []


# ------------------------------------------------------------------------------------------------------ names


def testANameOfAnyBytesIsPredicted(cases, tmp_path, capfd):
    command = ["--nameInput", cases / f"{LATIN}.nrrd", "--nameOutput", tmp_path / f"{LATIN}.nrrd"]
    callMain(predictData, command)
    printed = capfd.readouterr()
    assert printed.err == "" and f"Input: {printable(LATIN)}.nrrd 16x16x16" in printed.out
    record = json.loads((tmp_path / f"{LATIN}.json").read_text(encoding="utf-8"))
    assert any(name.endswith(f"{LATIN}.nrrd") for name in record["inputs"])


def testANameThatIsTooLongIsRefusedBeforeAnyWork(cases, capfd):
    before = snapshot(cases)
    command = ["--nameInput", cases / f"{'n' * 225}.nrrd"]
    refusal(capfd, predictData, command, ("the name is too long", "choose a shorter name with --nameOutput"))
    assert capfd.readouterr().out == "" and snapshot(cases) == before


# ----------------------------------------------------------------------------------------------- surroundings


@pytest.mark.slow
@pytest.mark.parametrize(
    "environment",
    [{"PYTHONIOENCODING": "ascii"}, {"MPLBACKEND": "module://matplotlib_inline.backend_inline"}],
    ids=["ascii", "notebook"],
)
def testAPredictionRunsInAConsoleOfAsciiAndInANotebook(cases, tmp_path, environment):
    command = ["--nameInput", cases / f"{LATIN}.nrrd", "--nameOutput", tmp_path / f"{LATIN}.nrrd"]
    result = runCommand(ROOT, "predictData.py", *command, **environment)
    assert result.stdout.isascii() and f"{printable(LATIN)}_overview.png" in result.stdout
    assert (tmp_path / f"{LATIN}_overview.png").stat().st_size > 10000


@pytest.mark.slow
def testKerasIsImportedInANotebook():
    code = "from engine.network.devices import loadKeras; print(loadKeras().__name__)"
    backend = "module://matplotlib_inline.backend_inline"
    assert runCommand(ROOT, "-c", code, MPLBACKEND=backend).stdout == "keras\n"
