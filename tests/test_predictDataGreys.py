"""predictData.py: whose mean and standard deviation, what is no grey value, what is told of both."""

import base64
import gzip
import json
import re

import nrrd
import numpy as np
import pytest
import scans
from projects import callMain, refusal, snapshot, writeNrrd
from scans import addHot, hide, makeGreys, outsideOf

import predictData
from engine.base.records import digestFile
from engine.base.squares import EDGES, FEATURES

SHAPE = (64, 40, 24)
WIDE = (128, 80, 24)  # two squares a plane
OUTSIDE = outsideOf(SHAPE)
FEW = ("--no-report", "--no-overview", "--no-segmentation", "--no-labels", "--no-particles")
UNKNOWN = "Grey values: nothing tells which ones the network has learnt on"
FAR = {"features": list(FEATURES), "squares": [[90.0] * 6, [91.0] * 6], "histogram": [0.0] * (len(EDGES) - 1)}


def makeScan(seed=0):
    """Two phases of float grey values."""
    image = makeGreys("float32", 0.3, 0.05, seed, SHAPE)
    image[::9, ::5, ::4] -= 0.4
    image[20:40, 10:25, 4:16] -= 0.2
    return image


@pytest.fixture
def predict(models, tmp_path, capfd):
    """Predict a file of this folder: gives what is printed and the probability, (x, y, z)."""

    def run(source, *flags, output="out"):
        words = ["--nameInput", tmp_path / f"{source}.nrrd", "--nameOutput", tmp_path / f"{output}.nrrd"]
        capfd.readouterr()
        callMain(predictData, [*words, "--modelFile", models / "good.h5", *flags])
        printed = capfd.readouterr()
        assert printed.err == ""
        return printed.out, nrrd.read(str(tmp_path / f"{output}.nrrd"))[0]

    return run


def numbers(mean, std):
    """Write moments as --momentsOf takes them, to the last bit."""
    return ("--momentsOf", f"{mean!r},{std!r}")


# ---------------------------------------------------------------------------------------------------- moments


def testHotVoxelsChangeARobustPredictionOnlyWhereTheyAre(predict, tmp_path):
    image = makeScan()
    hot = addHot(image, 3, 1000)
    scale = scans.measure(hot).scale
    writeNrrd(tmp_path / "hot.nrrd", hot)
    writeNrrd(tmp_path / "mended.nrrd", scale.mend(hot))
    text, robust = predict("hot", *FEW)
    assert "Warning: 3 voxels (0.005%) lie beyond " in text and "(--moments plain keeps them)" in text
    _, expected = predict("mended", *FEW, *numbers(scale.mean, scale.std))
    np.testing.assert_array_equal(robust, expected)
    plainScale = scans.measure(hot, moments="plain").scale
    text, plain = predict("hot", *FEW, "--moments", "plain")
    assert "beyond" not in text and np.abs(plain - robust).max() > 0.01
    _, expected = predict("hot", *FEW, "--moments", "plain", *numbers(plainScale.mean, plainScale.std))
    np.testing.assert_array_equal(plain, expected)


def testACutPredictedWithTheMomentsOfItsWholeIsThatRegionOfTheWhole(predict, tmp_path):
    image = makeScan()
    writeNrrd(tmp_path / "whole.nrrd", image)
    writeNrrd(tmp_path / "cut.nrrd", image[17:42, 8:27, 3:20])
    limits = ("--x1", 17, "--x2", 42, "--y1", 8, "--y2", 27, "--z1", 3, "--z2", 20)
    _, expected = predict("whole", *FEW, *limits, "--normalization", "volume")
    _, found = predict("cut", *FEW, "--momentsOf", tmp_path / "whole.nrrd", output="cutout")
    np.testing.assert_array_equal(found, expected)
    scale = scans.measure(image).scale
    _, found = predict("cut", *FEW, *numbers(scale.mean, scale.std), output="cutout")
    np.testing.assert_array_equal(found, expected)
    _, own = predict("cut", *FEW, output="cutout")
    assert np.abs(own - expected).max() > 0.001


def testHotVoxelsAndNoDataOfTheOtherScanAreLeftOutToo(predict, tmp_path):
    image = makeScan()
    whole = addHot(hide(image, OUTSIDE, -1e30), 5, 1e5)
    whole[OUTSIDE] = -1e30
    writeNrrd(tmp_path / "whole.nrrd", whole)
    writeNrrd(tmp_path / "cut.nrrd", image[17:42, 8:27, 3:20])
    scale = scans.measure(whole).scale
    _, expected = predict("cut", *FEW, *numbers(scale.mean, scale.std))
    _, found = predict("cut", *FEW, "--momentsOf", tmp_path / "whole.nrrd", output="other")
    np.testing.assert_array_equal(found, expected)


# ---------------------------------------------------------------------------------------------------- no data


@pytest.mark.parametrize(
    ("value", "flags"),
    [
        (-3.4028234663852886e38, ()),
        (np.nan, ("--noData", "nan")),
        (0.25, ("--noData", "0.25")),
        (-np.inf, ("--noData=-inf",)),
    ],
)
def testVoxelsWithoutDataHaveProbabilityZero(predict, tmp_path, value, flags):
    image = hide(makeScan(), OUTSIDE, value)
    writeNrrd(tmp_path / "scan.nrrd", image)
    text, found = predict("scan", *FEW, *flags)
    assert f"No data: {OUTSIDE.sum()} voxels ({OUTSIDE.mean():.3%}) hold {np.float32(value):g}: " in text
    assert (found[OUTSIDE] == 0).all() and found[~OUTSIDE].min() > 0
    scale = scans.measure(image, noData=flags[-1].split("=")[-1] if flags else "auto").scale
    writeNrrd(tmp_path / "mended.nrrd", scale.mend(image))
    _, expected = predict("mended", *FEW, *numbers(scale.mean, scale.std), output="mendedout")
    np.testing.assert_array_equal(found[~OUTSIDE], expected[~OUTSIDE])


@pytest.mark.parametrize("isFinished", [False, True])
def testTheReportShowsTheGreyValuesBesidesARegionWithoutData(predict, tmp_path, isFinished):
    image = hide(makeScan(), OUTSIDE, -3.4028234663852886e38)
    writeNrrd(tmp_path / "scan.nrrd", image)
    for _ in range(1 + isFinished):
        predict("scan", "--no-overview")
    page = (tmp_path / "out_report.html").read_text(encoding="utf-8")
    packed = re.search(r'id="volume-grey">(.*?)</script>', page, re.DOTALL)[1]
    shown = np.frombuffer(gzip.decompress(base64.b64decode(packed)), np.uint8).reshape(SHAPE[::-1]).T
    assert np.corrcoef(shown[~OUTSIDE], image[~OUTSIDE])[0, 1] > 0.99 and len(np.unique(shown[OUTSIDE])) == 1
    assert 20 < shown[OUTSIDE][0] < 235


def testNoDataCanBeMadeGreyValuesAgain(predict, tmp_path):
    image = hide(makeGreys(shape=SHAPE), OUTSIDE, 0)
    writeNrrd(tmp_path / "scan.nrrd", image)
    text, found = predict("scan", *FEW)
    assert "No data" in text and (found[OUTSIDE] == 0).all()
    text, found = predict("scan", *FEW, "--noData", "none")
    assert "No data" not in text and "begun anew: noData was auto, is none" in text and found.min() > 0


# --------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("isDry", [False, True])
@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--momentsOf", "nowhere.nrrd"), ("nowhere.nrrd", "there is no such file")),
        (("--momentsOf", "1,0"), ("momentsOf needs a mean and a standard deviation above 0", "1,0")),
        (("--momentsOf", "1,-2"), "momentsOf needs a mean"),
        (("--momentsOf", "nan,1"), "momentsOf needs a mean"),
        (("--momentsOf", "inf,1"), "momentsOf needs a mean"),
        (("--momentsOf", "1,2,3"), "1,2,3"),
        (("--momentsOf", "7"), "there is no such file"),
        (("--noData", "some"), ("noData must be auto, none or a number", "'some'")),
        (("--noData", ""), "noData must be auto, none or a number"),
    ],
)
def testNonsenseIsRefusedBeforeAnyWork(models, tmp_path, capfd, flags, words, isDry):
    writeNrrd(tmp_path / "scan.nrrd", makeScan())
    before = snapshot(tmp_path)
    command = ["--nameInput", tmp_path / "scan.nrrd", "--modelFile", models / "good.h5", *flags]
    refusal(capfd, predictData, [*command, *["--dryRun"] * isDry], words)
    assert capfd.readouterr().out == "" and snapshot(tmp_path) == before


def testAScanOfOneGreyValueGivesNoMoments(models, tmp_path, capfd):
    writeNrrd(tmp_path / "scan.nrrd", makeScan())
    writeNrrd(tmp_path / "flat.nrrd", np.full((9, 9, 9), 5, np.uint8))
    flags = ["--nameInput", tmp_path / "scan.nrrd", "--modelFile", models / "good.h5"]
    refusal(
        capfd, predictData, [*flags, "--momentsOf", tmp_path / "flat.nrrd"], ("flat.nrrd", "the same value")
    )


def testTheOtherScanIsNotWrittenOver(models, tmp_path, capfd):
    for name in ("scan", "whole"):
        writeNrrd(tmp_path / f"{name}.nrrd", makeScan())
    before = snapshot(tmp_path)
    flags = ["--nameInput", tmp_path / "scan.nrrd", "--modelFile", models / "good.h5"]
    flags += ["--momentsOf", tmp_path / "whole.nrrd", "--nameOutput", tmp_path / "whole.nrrd"]
    refusal(capfd, predictData, flags, "nameOutput would replace momentsOf")
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (makeGreys("float64", 0, 1e200, shape=SHAPE), "too large for a z-score in single precision"),
        (makeGreys("float64", 0, 1e-40, shape=SHAPE), "too close for a z-score in single precision"),
        (2**60 + makeGreys("int64", 0, 600, shape=SHAPE), "the offset of 1.15e+18 hides grey values"),
        (addHot(makeScan(), 4, np.nan), "4 voxels are NaN or infinite"),
    ],
    ids=["1e200", "1e-40", "2**60", "NaN"],
)
def testGreyValuesThatCannotBeUsedAreRefusedInALine(models, tmp_path, capfd, image, words):
    writeNrrd(tmp_path / "scan.nrrd", image)
    flags = ["--nameInput", tmp_path / "scan.nrrd", "--modelFile", models / "good.h5"]
    refusal(capfd, predictData, flags, ("scan.nrrd: ", words))
    assert [path.name for path in tmp_path.iterdir()] == ["scan.nrrd"]


# ------------------------------------------------------------------------------------ what is there already


def testAFinishedResultIsComputedAnewWhereAnythingOfTheZScoreChanges(predict, tmp_path):
    writeNrrd(tmp_path / "scan.nrrd", makeScan())
    writeNrrd(tmp_path / "whole.nrrd", makeScan(1))
    assert "begun anew" not in predict("scan", *FEW)[0]
    whole = str(tmp_path / "whole.nrrd")
    for flags, change in (
        (("--moments", "plain"), "moments was robust, is plain"),
        (("--moments", "plain", "--noData", "none"), "noData was auto, is none"),
        (("--noData", "none"), "moments was plain, is robust"),
        (("--noData", "7"), "noData was none, is 7"),
        (("--noData", "7", "--momentsOf", "0,1"), "momentsOf was , is 0,1"),
        (("--noData", "7", "--momentsOf", whole), f"momentsOf was 0,1, is {whole}"),
    ):
        assert change in predict("scan", *FEW, *flags)[0]
        assert "out.nrrd is finished" in predict("scan", *FEW, *flags)[0]
    writeNrrd(tmp_path / "whole.nrrd", makeScan(2))
    assert re.search(r"begun anew: momentsOf file 1 was \w{12}\.\.\., is", predict("scan", *FEW, *flags)[0])


def writeContract(models, folder, **content):
    """Copy the model beside a contract that describes it."""
    (folder / "net.h5").write_bytes((models / "good.h5").read_bytes())
    known = {"files": {"net.h5": digestFile(folder / "net.h5")}, "thresholds": {}, **content}
    (folder / "net.json").write_text(json.dumps(known))
    return ("--modelFile", folder / "net.h5")


def testTheContractChoosesTheMoments(predict, models, tmp_path):
    writeNrrd(tmp_path / "scan.nrrd", addHot(makeScan(), 3, 1000))
    _, robust = predict("scan", *FEW)
    model = writeContract(models, tmp_path, moments="plain")
    text, plain = predict("scan", *FEW, *model)
    assert "begun anew: moments was robust, is plain" in text and np.abs(plain - robust).max() > 0.01
    np.testing.assert_array_equal(predict("scan", *FEW, *model, "--moments", "robust")[1], robust)


@pytest.mark.parametrize("isKnown", [True, False])
def testWarningAndRemarksAreRepeatedAndStandInReportAndRecord(predict, models, tmp_path, isKnown):
    isHidden = np.indices(WIDE)[0] > 70
    image = hide(addHot(np.tile(makeScan(), (2, 2, 1)), 9, 1e5), isHidden, -1e30)
    writeNrrd(tmp_path / "scan.nrrd", image)
    model = writeContract(models, tmp_path, **({"greys": FAR} if isKnown else {}))
    first, _ = predict("scan", *model)
    again, _ = predict("scan", *model)
    assert "is finished" in again and "is finished" not in first

    def listGreys(text):
        starts = ("No data: ", "Warning: ", "Grey values: ")
        return [line for line in text.splitlines() if line.startswith(starts) and "probab" not in line]

    lines = listGreys(first)
    assert listGreys(again) == lines and len(lines) == 3
    assert lines[0].startswith(f"No data: {isHidden.sum()} voxels") and "lie beyond" in lines[1]
    assert ("100% of the scan is unlike" in lines[2]) if isKnown else (lines[2] == UNKNOWN)

    record = json.loads((tmp_path / "out.json").read_text())["greys"]
    assert record["remarks"] == lines[:2] and record["noDataCount"] == isHidden.sum()
    assert record["unlikeShare"] == (1 if isKnown else None)
    assert (f"Warning: {record['warning']}" == lines[2]) if isKnown else (record["warning"] == "")
    page = (tmp_path / "out_report.html").read_text(encoding="utf-8")
    shown = json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])
    notes = [note.removesuffix(".") for note in shown["notes"]]
    assert set(record["remarks"]) <= set(notes) and (record["warning"] in notes) is isKnown
    assert shown["greys"]["training"] == (FAR["histogram"] if isKnown else [])


@pytest.mark.parametrize("greys", [None, {}, {"unlikeShare": None, "warning": "", "remarks": []}])
def testARecordOfAnotherVersionIsReadWithoutItsRemarks(predict, tmp_path, greys):
    writeNrrd(tmp_path / "scan.nrrd", makeScan())
    assert UNKNOWN in predict("scan")[0]
    record = json.loads((tmp_path / "out.json").read_text())
    (tmp_path / "out.json").write_text(json.dumps(record | {"greys": greys}))
    text, _ = predict("scan")
    assert "out.nrrd is finished" in text and "Grey values" not in text


def testAnotherSizeOfTheVoxelsIsToldWithTheAxisThatDiffersMost(predict, models, tmp_path):
    nrrd.write(str(tmp_path / "scan.nrrd"), makeScan(), {"spacings": [0.65, 0.65, 1.3], "units": ["um"] * 3})

    def told(*size):
        volumes = {"a.nrrd": {"voxelSize": [*size, "nm"]}}
        model = writeContract(models, tmp_path, data={"greys": {"training": volumes}})
        lines = predict("scan", *FEW, *model)[0].splitlines()
        return [line for line in lines if line.startswith("Note: a voxel of the scan")]

    assert told(650.0, 650.0, 1300.0) == told(660.0, 640.0, 1310.0) == []
    (line,) = told(1300.0, 1300.0, 1300.0)
    assert "of the scan is 650 x 650 x 1300 nm, of the training 1300 nm" in line
    assert "look 2 times as large" in line
    assert "look 2 times as small" in told(650.0, 650.0, 650.0)[0]
