"""What a script meets outside of its data: names of any bytes, long names, pictures that cannot be drawn."""

import json
import os

import matplotlib.figure
import nrrd
import numpy as np
import pytest
import tifffile
from projects import (
    callMain,
    makeVolume,
    partialFiles,
    predictFlags,
    prepareFlags,
    readLog,
    refusal,
    snapshot,
    trainFlags,
    writeNrrd,
)

import predictData
import prepareData
import trainingAndValidation
from engine.base.words import printable

NAMES = [
    os.fsdecode(b"Prob\xe4"),
    "two\nlines",
    "a[1]*",
    "it's \x1b[31m",
    "Prob\xe9 \u65e5",
    "\xb5\u2028m",
    "-x",
]
SLOW_RESULTS = ("--no-report", "--no-segmentation", "--no-labels", "--no-mask")


def failToDraw(*_, **__):
    raise RuntimeError("no font\nwas found")


# ---------------------------------------------------------------------------------------- names of any bytes


@pytest.mark.parametrize("name", NAMES)
def testResultsOfANameOfAnyBytesAreWrittenAndKnownAgain(models, tmp_path, capfd, name):
    writeNrrd(tmp_path / f"{name}.nrrd", makeVolume(4)[0])
    writeNrrd(tmp_path / f"{name}_mask.nrrd", makeVolume(4)[1])
    flags = ["--nameInput", tmp_path / f"{name}.nrrd", "--modelFile", models / "good.h5"]
    callMain(predictData, flags)
    first = capfd.readouterr()
    assert first.err == "" and f"Input: {printable(name)}.nrrd 24x16x16" in first.out.splitlines()[2]
    assert first.out.splitlines()[-1].endswith(f"{printable(name)}_segmented.json")
    before = (tmp_path / f"{name}_segmented.nrrd").stat().st_mtime_ns
    callMain(predictData, flags)
    again = capfd.readouterr()
    assert f"{printable(name)}_segmented.nrrd is finished" in again.out and again.err == ""
    assert (tmp_path / f"{name}_segmented.nrrd").stat().st_mtime_ns == before and not partialFiles(tmp_path)

    record = json.loads((tmp_path / f"{name}_segmented.json").read_text(encoding="utf-8"))
    assert any(key.endswith(f"{name}.nrrd") for key in record["inputs"])
    assert record["parameters"]["nameInput"].endswith(f"{name}.nrrd")
    page = (tmp_path / f"{name}_segmented_report.html").read_text(encoding="utf-8")
    title = page[page.index("<title>") + 7 : page.index("</title>")]
    assert title.isprintable()
    data = json.loads(page[page.index('id="data">') + 10 :].split("</script>")[0])
    data["title"].encode("utf-8")  # text of a browser
    with open(tmp_path / f"{name}_segmented_mask.seg.nrrd", "rb") as file:
        assert nrrd.read_header(file)["Segment0_ID"] == "Segment_1"


def testAnInterruptedResultOfANameOfAnyBytesIsGoneOnWith(models, tmp_path, capfd, monkeypatch):
    from engine.formats.growing import GrowingVolume

    writeNrrd(tmp_path / "a.nrrd", makeVolume(4)[0])
    (tmp_path / "a.nrrd").rename(tmp_path / f"{NAMES[0]}.nrrd")
    flags = ["--nameInput", tmp_path / f"{NAMES[0]}.nrrd", "--modelFile", models / "good.h5", "--no-report"]

    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(GrowingVolume, "finish", interrupt)
        callMain(predictData, flags)
    assert len(partialFiles(tmp_path)) == 3
    callMain(predictData, flags)
    assert "Going on with an unfinished result: all is predicted" in capfd.readouterr().out
    assert not partialFiles(tmp_path)


@pytest.mark.parametrize("name", NAMES[:3])
def testPreparedDataOfANameOfAnyBytesAreKnownAgain(data, capfd, name):
    for folder, old in (("trainingImages", "data_01"), ("trainingMasks", "segm_01")):
        (data / folder / f"{old}.nrrd").rename(data / folder / f"{old}{name}.nrrd")
    callMain(prepareData, prepareFlags(data))
    assert f"  data_01{printable(name)}.nrrd  <->  segm_01{printable(name)}.nrrd" in capfd.readouterr().out
    before = snapshot(data)
    callMain(prepareData, prepareFlags(data))
    assert snapshot(data) == before
    record = json.loads((data / "pythonFiles" / "parameters.json").read_text(encoding="utf-8"))
    assert f"trainingImages/data_01{name}.nrrd" in record["inputs"]


def testSlicesOfNamesOfAnyBytesArePreparedAndPredicted(data, models, capfd):
    image, _ = makeVolume(1)
    (data / "trainingImages" / "data_01.nrrd").unlink()
    folder = data / "trainingImages" / f"data_01{NAMES[0]}"
    folder.mkdir()
    for number, plane in enumerate(image.T):
        tifffile.imwrite(folder / "slice.tif", plane)
        (folder / "slice.tif").rename(folder / f"{NAMES[0]}{number:02}.tif")
    callMain(prepareData, prepareFlags(data))
    before = snapshot(data)
    callMain(prepareData, prepareFlags(data))
    assert snapshot(data) == before and "Nothing changed" in capfd.readouterr().out
    flags = ["--nameInput", folder, "--modelFile", models / "good.h5"]
    for words in ("Written", "is finished"):
        callMain(predictData, flags)
        assert words in capfd.readouterr().out


def testModelsOfANameOfAnyBytesAreTrainedAndRead(prepared, capfd, tmp_path):
    folder = tmp_path / NAMES[0]
    folder.mkdir()
    callMain(trainingAndValidation, trainFlags(prepared / "pythonFiles", folder))
    line = capfd.readouterr().out.splitlines()[-1]
    assert line.isprintable() and r"\344" in line
    writeNrrd(folder / "a.nrrd", makeVolume(4)[0])
    callMain(predictData, predictFlags(folder / "a.nrrd", folder / "b.nrrd", folder / "net.h5"))
    assert (folder / "b_report.html").exists()


@pytest.mark.parametrize("name", NAMES[:-1])
def testAWrongCommandIsToldInALine(capsys, name):
    with pytest.raises(SystemExit) as caught:
        callMain(predictData, [name])
    line = capsys.readouterr().err
    assert caught.value.code == 2 and line.startswith(f"Error: unrecognized arguments: {printable(name)};")
    assert line.rstrip("\n").isprintable()


# ------------------------------------------------------------------------------------------------ long names


@pytest.mark.parametrize("name", ["n" * 225, "\xb5" * 120])
def testANameThatIsTooLongIsRefusedBeforeAnyWork(models, tmp_path, capfd, name):
    writeNrrd(tmp_path / f"{name}.nrrd", makeVolume(4)[0])
    before = snapshot(tmp_path)
    flags = ["--nameInput", tmp_path / f"{name}.nrrd", "--modelFile", models / "good.h5"]
    words = (
        f".partial-{name}_segmented.nrrd.json: the name is too long",
        "at most 255 bytes",
        "--nameOutput",
    )
    refusal(capfd, predictData, flags, words)
    assert snapshot(tmp_path) == before
    refusal(
        capfd, predictData, [*flags, "--nameOutput", tmp_path / f"{'o' * 300}.nrrd"], "the name is too long"
    )
    assert capfd.readouterr().out == ""
    callMain(predictData, [*flags, "--nameOutput", tmp_path / "short.nrrd"])
    assert (tmp_path / "short_mask.seg.nrrd").exists()


def testAnInputOfTheLongestNameIsRead(models, tmp_path):
    name = f"{'n' * 250}.nrrd"
    writeNrrd(tmp_path / "a.nrrd", makeVolume(4)[0])
    (tmp_path / "a.nrrd").rename(tmp_path / name)
    callMain(predictData, predictFlags(tmp_path / name, tmp_path / "short.nrrd", models / "good.h5"))
    assert (tmp_path / "short_mask.seg.nrrd").exists()


def testAnInputOfATooLongNameIsToldInALine(tmp_path, capfd):
    refusal(
        capfd,
        predictData,
        ["--nameInput", tmp_path / ("n" * 300)],
        "this name is longer than the file system",
    )


@pytest.mark.parametrize("flag", ["modelFile", "weightFileDice", "metricsFile"])
def testNamesOfModelsThatAreTooLongAreRefusedBeforeAnyWork(prepared, capfd, flag):
    before = snapshot(prepared)
    flags = trainFlags(prepared / "pythonFiles", prepared / "pythonFiles")
    for length in (240, 300):
        name = prepared / "pythonFiles" / f"{'m' * length}.h5"
        words = ("the name is too long", "at most 255 bytes", f"--{flag}")
        refusal(capfd, trainingAndValidation, [*flags, f"--{flag}", name], words)
    assert snapshot(prepared) == before


# -------------------------------------------------------------------------------------------------- pictures


def testAPredictionEndsWellWithoutItsPicture(models, tmp_path, capfd, caplog, monkeypatch):
    writeNrrd(tmp_path / "a.nrrd", makeVolume(4)[0])
    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", failToDraw)
    callMain(predictData, predictFlags(tmp_path / "a.nrrd", tmp_path / "b.nrrd", models / "good.h5"))
    lines = [record.getMessage() for record in caplog.records]
    picture = tmp_path / "b_overview.png"
    assert lines == [f"{picture} cannot be drawn (RuntimeError: no font was found)"]
    text = capfd.readouterr().out
    assert "b_report.html" in text and "b_overview.png" not in text
    assert not picture.exists() and (tmp_path / "b_report.html").exists() and (tmp_path / "b.json").exists()
    assert not partialFiles(tmp_path)


def testATrainingEndsWellWithoutItsPictures(prepared, capfd, caplog, monkeypatch):
    monkeypatch.setattr(matplotlib.figure.Figure, "__init__", failToDraw)
    flags = trainFlags(prepared / "pythonFiles", prepared / "pythonFiles")
    callMain(trainingAndValidation, [*flags, "--Nepochs", "2"])
    lines = [record.getMessage() for record in caplog.records]
    names = ("trainingCurves.png", "validationExample.png")
    assert "  net.json  metrics.log\n" in capfd.readouterr().out
    cause = "cannot be drawn (RuntimeError: no font was found)"
    assert lines == [f"{prepared / 'pythonFiles' / name} {cause}" for name in names]
    assert len(readLog(prepared / "pythonFiles" / "metrics.log")["loss"]) == 2
    contract = json.loads((prepared / "pythonFiles" / "net.json").read_text())
    assert np.isfinite(contract["thresholds"]["dice.h5"])
