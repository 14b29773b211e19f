"""prepareData.py: what it writes again and when, what it refuses, full disks, Ctrl-C and kills."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nrrd
import numpy as np
import pytest
from places import ROOT
from projects import (
    CUT,
    GEOMETRY,
    SHAPE,
    VOLUME_BYTES,
    badVolumes,
    callMain,
    checkRefusal,
    cutPlain,
    makeVolume,
    nextCommand,
    partialFiles,
    prepareFlags,
    refusal,
    refuseSpace,
    runCommand,
    smallDisk,
    snapshot,
    spoil,
    writeNrrd,
    zScore,
)

import engine.base.files
import prepareData
import trainingAndValidation


def testSecondPrepareKeepsTheFilesUntilSomethingChanges(prepared, capfd):
    folder = prepared / "pythonFiles"
    before = snapshot(folder)
    capfd.readouterr()
    callMain(prepareData, prepareFlags(prepared))
    assert "Nothing changed since the last run" in capfd.readouterr().out
    assert snapshot(folder) == before
    callMain(prepareData, [*prepareFlags(prepared), "--force"])
    after = snapshot(folder)
    assert all(after[path][0] > before[path][0] for path in before)
    assert {path: content for path, (_, content) in after.items()} == {
        path: content for path, (_, content) in before.items()
    }


@pytest.mark.parametrize("damage", ["truncate", "delete", "other type"])
def testPrepareRepeatsWhereAResultIsDamaged(prepared, damage):
    path = prepared / "pythonFiles" / "validationDataMask.npy"
    good = path.read_bytes()
    if damage == "truncate":
        path.write_bytes(good[:-1])
    elif damage == "delete":
        path.unlink()
    else:
        np.save(path, np.load(path).astype(np.uint8))
    callMain(prepareData, prepareFlags(prepared))
    assert path.read_bytes() == good


def testPrepareRepeatsForOtherParametersAndInputs(prepared, capfd):
    callMain(prepareData, [*prepareFlags(prepared), "--positiveLabel", "255"])
    mask = np.load(prepared / "pythonFiles" / "validationDataMask.npy")
    np.testing.assert_array_equal(mask, cutPlain(makeVolume(3)[1] == 255, np.array))
    writeNrrd(prepared / "validationMasks" / "segm_03.nrrd", makeVolume(5)[1])
    callMain(prepareData, [*prepareFlags(prepared), "--positiveLabel", "255"])
    mask = np.load(prepared / "pythonFiles" / "validationDataMask.npy")
    np.testing.assert_array_equal(mask, cutPlain(makeVolume(5)[1] == 255, np.array))


def testPrepareNoticesAChangeWhereBothSetsHaveFoldersAndFilesOfOneName(tmp_path):
    flags = ["--learningData", tmp_path, *CUT]
    for part, number in (("training", 1), ("validation", 2)):
        image, mask = makeVolume(number)
        writeNrrd(tmp_path / part / "images" / "volume.nrrd", image)
        writeNrrd(tmp_path / part / "masks" / "volume.nrrd", mask)
        flags += [f"--{part}Images", tmp_path / part / "images", f"--{part}Masks", tmp_path / part / "masks"]
    callMain(prepareData, flags)
    writeNrrd(tmp_path / "training" / "images" / "volume.nrrd", makeVolume(3)[0])
    callMain(prepareData, flags)
    images = np.load(tmp_path / "trainingDataImage.npy")
    np.testing.assert_allclose(images, cutPlain(makeVolume(3)[0], zScore), atol=2e-5)


def testPrepareReadsDetachedHeadersInAFolderNamedFromHere(data, monkeypatch):
    (data / "trainingImages" / "data_01.nrrd").unlink()
    image = makeVolume(1)[0]
    nrrd.write(str(data / "trainingImages" / "data_01.nhdr"), image, GEOMETRY | {"encoding": "raw"})
    monkeypatch.chdir(data)
    callMain(prepareData, prepareFlags(Path()))
    images = np.load(data / "pythonFiles" / "trainingDataImage.npy")
    np.testing.assert_allclose(images[:9], cutPlain(image, zScore), atol=2e-5)


@pytest.mark.parametrize(
    ("voxel", "turns"), [((4, 4, 50), (1, 2, 2)), ((50, 50, 51), (1, 1, 1)), ((4, 5, 4), (2, 2, 1))]
)
def testCopiesOfThickSlicesAreTurnedBy180Degrees(data, capfd, voxel, turns):
    image, mask = (array[:16] for array in makeVolume(1))
    for part, numbers in (("training", (1, 2)), ("validation", (3,))):
        for name in [
            f"{part}{kind}_0{number}" for number in numbers for kind in ("Images/data", "Masks/segm")
        ]:
            array = image if "Images" in name else mask
            nrrd.write(str(data / f"{name}.nrrd"), array, {"spacings": voxel, "units": ["um"] * 3})
    flags = ["--length_subVol_x", "16", "--nb_rotation", "4"]
    callMain(prepareData, [*prepareFlags(data), *flags])
    text = capfd.readouterr().out
    for kind, expected in (("Image", zScore(image)), ("Mask", mask == 0)):
        copies = np.load(data / "pythonFiles" / f"validationData{kind}.npy")[..., 0]
        np.testing.assert_allclose(copies[0], expected, atol=2e-5)
        for copy, axes, count in zip(copies[1:], ((0, 1), (1, 2), (0, 2)), turns, strict=True):
            np.testing.assert_allclose(copy, np.rot90(expected, count, axes), atol=2e-5)
            assert (f"axes {axes}: the sides differ, so the copy is turned by 180" in text) is (count == 2)


def testPrepareTellsGreyValuesAndSizesOfVoxelsOfEveryVolume(data, capfd):
    image = makeVolume(2)[0].astype(np.int32)
    image[3, 3, 3] = 2**30
    writeNrrd(data / "trainingImages" / "data_02.nrrd", image)
    callMain(prepareData, prepareFlags(data))
    text = capfd.readouterr().out
    beyond = "Warning: 1 voxels (0.016%) lie beyond "
    assert beyond in text and f"in {data / 'trainingImages' / 'data_02.nrrd'}" in text
    greys = json.loads((data / "pythonFiles" / "parameters.json").read_text())["greys"]
    assert list(greys) == ["training", "validation"]
    known = greys["training"]["data_02.nrrd"]
    assert known["beyondCount"] == 1 and known["noDataShare"] == 0 and len(known["quantiles"]) == 7
    kept = np.delete(image.ravel(), np.ravel_multi_index((3, 3, 3), image.shape))
    assert known["mean"] == pytest.approx(kept.mean()) and known["std"] == pytest.approx(kept.std())
    written = np.load(data / "pythonFiles" / "trainingDataImage.npy")
    assert np.abs(written).max() < 8  # the hot voxel is one of the brightest, and no more


@pytest.mark.parametrize(("flag", "other"), [("--moments", "plain"), ("--noData", "1000")])
def testPrepareRepeatsForOtherMomentsAndNoDataValues(prepared, capfd, flag, other):
    callMain(prepareData, [*prepareFlags(prepared), flag, other])
    assert "Nothing changed" not in capfd.readouterr().out
    callMain(prepareData, [*prepareFlags(prepared), flag, other])
    assert "Nothing changed since the last run" in capfd.readouterr().out


def testRegionsWithoutDataBecomeWhatLiesBesideThemAndAreLeftOutOfTheMoments(data, capfd):
    image = makeVolume(3)[0].astype(np.float32)
    hidden = image.copy()
    hidden[:, :8] = -3.4028234663852886e38
    for scheme in ("subVolume", "volume"):
        writeNrrd(data / "validationImages" / "data_03.nrrd", hidden)
        callMain(prepareData, [*prepareFlags(data), "--normalization", scheme, "--nb_rotation", "1"])
        text = capfd.readouterr().out
        assert "No data: 3072 voxels (50.000%) hold -3.40282e+38: left out" in text
        written = np.load(data / "pythonFiles" / "validationDataImage.npy")[..., 0]
        for number in range(3):
            piece = image[8 * number : 8 * number + 8, 8:]
            whole = piece if scheme == "subVolume" else image[:, 8:]
            expected = (piece - whole.mean(dtype=float)) / whole.std(dtype=float)
            np.testing.assert_allclose(written[number][:, 8:], expected, atol=2e-5)
            filled = written[number][:, :8]
            assert np.ptp(filled) == 0 and abs(filled[0, 0, 0]) < 1.5


def testPrepareProposesTheFolderItWrote(data, capfd):
    (data / "my data").mkdir()
    callMain(prepareData, [*prepareFlags(data), "--learningData", data / "my data"])
    words = nextCommand(capfd.readouterr().out, "trainingAndValidation.py")
    assert trainingAndValidation.parseArguments(words[1:]).learningData == data / "my data"


def testPrepareWarnsOfMasksAndSubVolumesWithoutContent(data, capfd):
    writeNrrd(data / "trainingMasks" / "segm_01.nrrd", np.full(SHAPE, 255, np.uint8))
    writeNrrd(data / "trainingMasks" / "segm_02.nrrd", np.zeros(SHAPE, np.uint8))
    writeNrrd(data / "validationMasks" / "segm_03.nrrd", 255 - makeVolume(3)[1])
    image = makeVolume(3)[0]
    image[8:16] = 7
    writeNrrd(data / "validationImages" / "data_03.nrrd", image)
    callMain(prepareData, prepareFlags(data))
    text = capfd.readouterr().out
    assert re.search(r"Warning: .*segm_01.nrrd: no positive voxel \(positiveLabel 0\)", text)
    assert re.search(r"Warning: .*segm_02.nrrd: nothing but positive voxels \(positiveLabel 0\)", text)
    assert re.search(r"Warning: .*segm_03.nrrd: more than half of the voxels are positive", text)
    assert re.search(r"Warning: .*data_03.nrrd: sub-volume at \(8, 0, 0\) is constant", text)
    images = np.load(data / "pythonFiles" / "validationDataImage.npy")
    assert not images[3:6].any() and np.isfinite(images).all()


@pytest.mark.parametrize("case", badVolumes())
def testPrepareRefusesAVolume(case, prepared, capfd):
    damage, words = badVolumes()[case]
    path = prepared / "validationImages" / "data_03.nrrd"
    path.unlink()
    (prepared / "elsewhere.raw").write_bytes(VOLUME_BYTES)
    damage(path)
    before = snapshot(prepared)
    text = refusal(capfd, prepareData, prepareFlags(prepared), words)
    assert "data_03.nrrd" in text
    assert snapshot(prepared) == before


def badFolders():
    """Name what a set of folders may be like that cannot be prepared, and what it is told."""
    masks, images = "trainingMasks", "trainingImages"
    return {
        "missing folder": (lambda f: shutil.rmtree(f / masks), (), (masks, "no such folder")),
        "empty folder": (
            lambda f: [path.unlink() for path in (f / images).iterdir()],
            (),
            (images, "the folder holds no volume"),
        ),
        "unequal counts": (
            lambda f: (f / masks / "segm_02.nrrd").unlink(),
            (),
            (masks, "every image needs one mask", "expected 2 masks", "received 1"),
        ),
        "mask of another shape": (
            lambda f: writeNrrd(f / masks / "segm_02.nrrd", np.zeros((24, 16, 15), np.uint8)),
            (),
            ("segm_02.nrrd", "data_02.nrrd", "expected (24, 16, 16)", "received (24, 16, 15)"),
        ),
        "stray file": (
            lambda f: (f / images / "notes.txt").write_text("x"),
            (),
            ("notes.txt", "is no volume of a known format", "move it out of the folder"),
        ),
        "stray raw data": (
            lambda f: (f / images / "data_01.raw").write_bytes(bytes(9)),
            (),
            ("data_01.raw", "does not tell its sides and type"),
        ),
        "NaN": (
            lambda f: writeNrrd(f / images / "data_02.nrrd", spoil(makeVolume(2)[0], np.nan, np.inf, np.nan)),
            (),
            ("data_02.nrrd", "3 voxels are NaN or infinite"),
        ),
        "thinner than 8": (
            lambda f: [
                writeNrrd(f / f"validation{kind}" / name, np.zeros((24, 16, 7), np.uint8))
                for kind, name in (("Images", "data_03.nrrd"), ("Masks", "segm_03.nrrd"))
            ],
            (),
            ("validation volumes", "at least 8 voxels", "received 7"),
        ),
        "side no multiple of 8": (
            lambda f: None,
            ("--length_subVol_x", "12"),
            ("multiple of 8", "received 12"),
        ),
        "more sub-volumes than fit": (
            lambda f: None,
            ("--nb_subVol_x", "4"),
            ("4 sub-volumes of 8 voxels do not fit into 24", "at most 3 fit"),
        ),
        "negative count": (lambda f: None, ("--nb_subVol_y", "-1"), "-1"),
        "label no number": (
            lambda f: None,
            ("--positiveLabel", "pore"),
            ("positiveLabel cannot be read (expected whole numbers or ranges", "'pore'"),
        ),
        "missing output folder": (
            lambda f: shutil.rmtree(f / "pythonFiles"),
            (),
            ("pythonFiles: no such folder"),
        ),
        "folder is a file": (
            lambda f: (shutil.rmtree(f / masks), (f / masks).write_text("x")),
            (),
            (masks, "no such folder"),
        ),
    }


@pytest.mark.parametrize("case", badFolders())
def testPrepareRefusesFolders(case, prepared, capfd):
    damage, flags, words = badFolders()[case]
    damage(prepared)
    before = snapshot(prepared)
    refusal(capfd, prepareData, [*prepareFlags(prepared), *flags], words)
    assert snapshot(prepared) == before


def testRefusalLeavesTheProcessWithCode2AndOneLine(data):
    (data / "trainingMasks" / "segm_02.nrrd").unlink()
    result = runCommand(data, ROOT / "prepareData.py", *prepareFlags(data), code=2)
    checkRefusal(result.returncode, result.stderr, "every image needs one mask")


def testPrepareOnAFullDiskKeepsTheOldFiles(prepared, capfd, monkeypatch):
    before = snapshot(prepared)
    monkeypatch.setattr(engine.base.files.os, "posix_fallocate", refuseSpace)
    text = refusal(capfd, prepareData, [*prepareFlags(prepared), "--force"], "the disk is full")
    assert "pythonFiles" in text and partialFiles(prepared) == []
    after = snapshot(prepared)
    assert {path: after[path] for path in after if path.suffix} == {
        path: before[path] for path in before if path.suffix
    }


def testPrepareOnARealFullDisk(data, capfd):
    with smallDisk(data / "disk", 150) as disk:  # the arrays need 276 KiB
        refusal(capfd, prepareData, [*prepareFlags(data), "--learningData", disk], "the disk is full")
        assert list(disk.iterdir()) == []


SLOW_PREPARE = """
import runpy, sys, time
from engine.preparation.writing import SampleWriter
write = SampleWriter.write
def writeSlowly(self, index, sample):
    write(self, index, sample)
    time.sleep(0.1)
SampleWriter.write = writeSlowly
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


KILLED_PREPARE = """
import os, runpy, signal, sys
replace, count = os.replace, iter(range(99))
def replaceOrDie(*names):
    if next(count) == int(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGKILL)
    replace(*names)
os.replace = replaceOrDie
sys.argv[0] = sys.argv[2]
sys.argv[1:] = [sys.argv[1], *sys.argv[3:]]
import prepareData
from engine.base.console import runScript
runScript(prepareData.main, lambda: prepareData.parseArguments(sys.argv[2:]))
"""


def interrupt(command, isAtWork, number, **environment):
    """Start a command, send it a signal once it is at work; return its exit code, stdout and stderr."""
    with subprocess.Popen(
        [sys.executable, *map(str, command)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
    ) as process:
        limit = time.monotonic() + 200
        while not isAtWork() and process.poll() is None and time.monotonic() < limit:
            time.sleep(0.01)
        assert process.poll() is None, process.communicate()
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    return process.returncode, out.decode(), err.decode()


def slowPrepare(folder):
    return ["-c", SLOW_PREPARE, ROOT / "prepareData.py", *prepareFlags(folder), "--force"]


def testInterruptedPrepareLeavesTheOldFiles(prepared):
    before = {path: path.read_bytes() for path in (prepared / "pythonFiles").iterdir()}
    folder = prepared / "pythonFiles"
    code, _, err = interrupt(slowPrepare(prepared), lambda: len(partialFiles(folder)) == 4, signal.SIGINT)
    assert code == 130
    assert err == "\rInterrupted: nothing half-written was kept under a final name.\n"
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def testKilledPrepareLeavesTheOldFilesAndTheNextRunCleansUp(prepared):
    before = {path: path.read_bytes() for path in (prepared / "pythonFiles").iterdir()}
    folder = prepared / "pythonFiles"
    code, _, _ = interrupt(slowPrepare(prepared), lambda: len(partialFiles(folder)) == 4, signal.SIGKILL)
    assert code == -signal.SIGKILL
    assert len(partialFiles(folder)) == 4
    assert {path: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(".")} == before
    callMain(prepareData, [*prepareFlags(prepared), "--force"])
    assert partialFiles(folder) == []
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize("count", range(5))
def testPrepareKilledWhileItReplacesIsRepeated(prepared, count, capfd):
    """Kill it before each of the renames: the four arrays, then parameters.json."""
    folder = prepared / "pythonFiles"
    good = {path.name: path.read_bytes() for path in folder.iterdir()}
    flags = [*prepareFlags(prepared), "--positiveLabel", "255"]
    code, _, _ = interrupt(["-c", KILLED_PREPARE, count, "prepareData.py", *flags], lambda: True, 0)
    assert code == -signal.SIGKILL
    left = {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(".")}
    assert len(left) == count and "parameters.json" not in left
    for name, content in left.items():
        assert len(content) == len(good[name]) and (content == good[name]) == name.endswith("Image.npy")
    capfd.readouterr()
    callMain(prepareData, prepareFlags(prepared))
    assert "Nothing changed" not in capfd.readouterr().out
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == good
