"""Tests of the simulated demonstration data."""

import os
import signal
import subprocess
import sys
import time

import makeDemoData
import nrrd
import numpy as np
import pytest
import SimpleITK
from places import ROOT

from engine.base.console import runScript
from engine.base.errors import PipelineError

SHAPE = (48, 48, 16)
SMALL = ["--shape", "48", "48", "16", "--trainingCount", "1", "--validationCount", "1", "--processCount", "1"]


def run(arguments: list[str]) -> int:
    """Exit code of the program."""
    try:
        runScript(makeDemoData.main, lambda: makeDemoData.parseArguments(arguments))
    except SystemExit as exit:
        return exit.code
    return 0


@pytest.fixture(scope="module")
def smallSet(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    assert run(["--outputFolder", str(folder), *SMALL]) == 0
    return folder


def readAll(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.nrrd"))}


def testSetHasTheFoldersAndNamesOfTheProject(smallSet):
    assert set(readAll(smallSet)) == {
        "trainingImages/data_01.nrrd",
        "trainingMasks/segm_01.nrrd",
        "validationImages/data_02.nrrd",
        "validationMasks/segm_02.nrrd",
    }
    assert not list(smallSet.rglob(".partial-*"))


def testSameSeedGivesSameBytes_alsoFromTheProcessPool(smallSet, tmp_path):
    arguments = [*SMALL[:-1], "2"]
    assert run(["--outputFolder", str(tmp_path), *arguments]) == 0
    assert readAll(tmp_path) == readAll(smallSet)


def testOtherSeedGivesOtherVolumeAndMask(smallSet):
    files = readAll(smallSet)
    assert files["trainingImages/data_01.nrrd"] != files["validationImages/data_02.nrrd"]
    assert files["trainingMasks/segm_01.nrrd"] != files["validationMasks/segm_02.nrrd"]


@pytest.mark.parametrize(
    "name, dtype, encoding",
    [("trainingImages/data_01.nrrd", np.uint16, "raw"), ("trainingMasks/segm_01.nrrd", np.uint8, "gzip")],
)
def testHeaderIsReadBack(smallSet, name, dtype, encoding):
    array, header = nrrd.read(str(smallSet / name))
    assert array.dtype == dtype and array.shape == SHAPE
    assert header["encoding"] == encoding and header["space"] == "3D-right-handed"
    assert header["space units"] == ["nm"] * 3 and header["kinds"] == ["domain"] * 3
    np.testing.assert_array_equal(header["space directions"], np.eye(3) * makeDemoData.VOXEL_NM)
    np.testing.assert_array_equal(header["space origin"], makeDemoData.ORIGIN_NM)
    assert header["seed"] == "101" and header["generator"] == makeDemoData.GENERATOR
    assert float(header["photonCount"]) == makeDemoData.photonCount
    assert b"# " not in (smallSet / name).read_bytes().split(b"\n\n")[0]
    image = SimpleITK.ReadImage(str(smallSet / name))
    assert image.GetSize() == SHAPE
    assert image.GetSpacing() == (makeDemoData.VOXEL_NM,) * 3 and image.GetOrigin() == makeDemoData.ORIGIN_NM
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(image).transpose(2, 1, 0), array)


@pytest.mark.parametrize("seed", [11, 12])
def testMaskHasTwoValuesAndFewPositives(seed):
    _, mask, counts = makeDemoData.simulateVolume(seed, SHAPE)
    assert set(np.unique(mask)) == {0, 255}
    assert 0.002 < np.mean(mask == 0) < 0.05
    assert counts == {"clipped": 0, "starved": 0}


def testPositivesLieInThePillarAndAreDarkerThanTheMatrix():
    volume, mask, _ = makeDemoData.simulateVolume(5, (64, 64, 24), photonCount=1e5, gainError=0)
    a, b = np.meshgrid(np.arange(64) - 32, np.arange(64) - 32, indexing="ij")
    inside = np.broadcast_to((np.hypot(a, b) < 20)[:, :, None], mask.shape)
    outside = np.broadcast_to((np.hypot(a, b) > 29)[:, :, None], mask.shape)
    grey = volume.astype(float)
    matrix = grey[inside & (mask > 0)].mean()
    assert abs(matrix - makeDemoData.GREY_OFFSET - makeDemoData.GREY_SCALE) < 0.05 * makeDemoData.GREY_SCALE
    assert abs(grey[outside].mean() - makeDemoData.GREY_OFFSET) < 0.02 * makeDemoData.GREY_SCALE
    assert grey[inside & (mask == 0)].mean() < matrix - 0.25 * makeDemoData.GREY_SCALE
    assert not (mask[outside] == 0).any()


def testCentralRayHasTheOpticalThickness():
    width = 64
    absorption, _ = makeDemoData.drawObject(
        (width, width, 8), makeDemoData.spawnGenerators(3), precipitateShare=0, poreDensity=0
    )
    perVoxel = makeDemoData.opticalThickness / (2 * makeDemoData.PILLAR_RADIUS * width)
    integrals = makeDemoData.projectObject(absorption, np.array([0.0, 37.0, 90.0])) * perVoxel
    np.testing.assert_allclose(integrals[:, width // 2], 2.0, rtol=0.1)


@pytest.mark.parametrize("angle", [0.0, 33.0, 90.0, 151.0])
def testProjectionConservesAbsorptionAndFindsThePoint(angle):
    """A point's projection has the point's content, at the place that iradon's geometry gives."""
    width, x, y = 32, 22, 11
    absorption = np.zeros((2 * width, 2 * width, 1))
    absorption[2 * x : 2 * x + 2, 2 * y : 2 * y + 2] = 1
    row = makeDemoData.projectObject(absorption, np.array([angle]))[0, :, 0]
    place = (y - 16) * np.cos(np.deg2rad(angle)) - (x - 16) * np.sin(np.deg2rad(angle)) + 16
    assert row.sum() == pytest.approx(1)
    assert (row * np.arange(width)).sum() == pytest.approx(place)


def testNoiseFreeScanReconstructsTheObject():
    """Trusted: the drawn object itself, away from edges."""
    generators = makeDemoData.spawnGenerators(8)
    absorption, _ = makeDemoData.drawObject((64, 64, 4), generators)
    truth = absorption.reshape(64, 2, 64, 2, 4).mean((1, 3))
    angles = makeDemoData.computeAngles(64, 2.0)
    volume = makeDemoData.reconstructSlices(makeDemoData.projectObject(absorption, angles), angles)
    a, b = np.meshgrid(np.arange(64) - 32, np.arange(64) - 32, indexing="ij")
    error = (volume - truth)[np.hypot(a, b) < 20]
    assert abs(error.mean()) < 0.01 and error.std() < 0.06
    assert np.corrcoef(volume.ravel(), truth.ravel())[0, 1] > 0.98


def testPaintedEllipsoidHasItsVolume():
    semiAxes = np.array([3.0, 4.0, 6.0])
    rotation = np.linalg.qr(np.random.default_rng(0).standard_normal((3, 3)))[0]
    absorption, coverage = np.ones((60, 60, 60), np.float32), np.zeros((60, 60, 60), np.float32)
    body = makeDemoData.Ellipsoid(np.array([14.2, 15.1, 14.7]), semiAxes, rotation, 0.4)
    makeDemoData.paintEllipsoid(absorption, coverage, body)
    assert coverage.sum() / 8 == pytest.approx(4 / 3 * np.pi * semiAxes.prod(), rel=0.02)
    centre = np.array([np.average(grid, weights=coverage) for grid in np.indices(coverage.shape)])
    np.testing.assert_allclose((centre + 0.5) / 2 - 0.5, body.centre, atol=0.05)
    assert absorption.min() == pytest.approx(0.4)


@pytest.mark.parametrize("centre", [(-30.0, 5.0, 5.0), (5.0, 5.0, -2.0), (5.0, 11.0, 5.0), (5.0, 5.0, 40.0)])
def testBodiesBeyondTheFieldOfViewAreCut(centre):
    absorption, coverage = np.ones((24, 24, 24), np.float32), np.zeros((24, 24, 24), np.float32)
    body = makeDemoData.Ellipsoid(np.array(centre), np.full(3, 4.0), np.eye(3), 0.4)
    makeDemoData.paintEllipsoid(absorption, coverage, body)
    whole = 4 / 3 * np.pi * 4**3
    assert (coverage.sum() == 0) == (max(map(abs, centre)) > 20)
    assert coverage.sum() / 8 < 0.8 * whole


@pytest.mark.parametrize("changed", ["gainError", "photonCount", "poreDensity"])
def testChangingOneIngredientKeepsTheMask(changed):
    value = {"gainError": 0.05, "photonCount": 5e3, "poreDensity": 0.0}[changed]
    first = makeDemoData.simulateVolume(21, SHAPE, poreDensity=0.0)
    second = makeDemoData.simulateVolume(21, SHAPE, **({"poreDensity": 0.0} | {changed: value}))
    np.testing.assert_array_equal(first[1], second[1])
    assert (changed == "poreDensity") == np.array_equal(first[0], second[0])


def testPoresLeaveWallAndPrecipitatesInPlace():
    without = makeDemoData.simulateVolume(21, SHAPE, poreDensity=0.0)[1] == 0
    with_ = makeDemoData.simulateVolume(21, SHAPE, poreDensity=6e-5)[1] == 0
    assert with_[without].all() and with_.sum() > without.sum()


def testGainErrorsMakeRingsThatPhotonNoiseDoesNot():
    """A ring keeps its grey value along half a circle: the spread of half-circle means grows with it."""
    a, b = np.meshgrid(np.arange(48) - 24, np.arange(48) - 24, indexing="ij")
    upper = (b > 2) & (np.hypot(a, b) < 15)
    radius = np.rint(np.hypot(a, b)).astype(int)

    def spread(gainError):
        volume, _, _ = makeDemoData.simulateVolume(4, SHAPE, gainError=gainError, precipitateShare=0.0)
        means = [volume[upper & (radius == r)].mean(0) for r in range(5, 14)]
        return np.diff(means, axis=0).std()

    assert spread(0.06) > 1.5 * spread(0.0)


def testClippedAndStarvedValuesAreCounted():
    _, _, counts = makeDemoData.simulateVolume(4, SHAPE, photonCount=3.0)
    assert counts["clipped"] > 0 and counts["starved"] > 0


def testBaselineFindsTheThresholdOfAnEasyVolume():
    a, b, _ = np.meshgrid(*(np.arange(n) - n // 2 for n in SHAPE), indexing="ij")
    volume = np.where(np.hypot(a, b) < 18, 1000.0, 0.0)
    mask = np.full(SHAPE, 255, np.uint8)
    mask[20:26, 20:26, 5:9] = 0
    volume[mask == 0] = 700
    best = makeDemoData.bestGlobalThreshold(volume, mask)
    assert best["inside the pillar"][:2] == (1.0, 0)
    assert best["whole volume"][0] < 0.1


def testBestThresholdAgreesWithTryingAll():
    generator = np.random.default_rng(1)
    values, positive = generator.integers(0, 12, 300), generator.random(300) < 0.2
    scores = {
        t: 2 * np.sum(positive & (values <= t)) / (np.sum(values <= t) + positive.sum()) for t in range(12)
    }
    score, threshold = makeDemoData._bestThreshold(values, positive, positive.sum())
    assert score == pytest.approx(max(scores.values()))
    assert scores[threshold] == pytest.approx(score)


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--photonCount", "9"], "--photonCount needs --outputFolder"),
        (["--trainingCount", "3"], "--trainingCount needs --outputFolder"),
        (["--outputFolder", "FOLDER", "--firstSeed", "3"], "belong to the shipped set"),
        (
            ["--outputFolder", "FOLDER", "--trainingCount", "0", "--validationCount", "0"],
            "no volume asked for",
        ),
        (["--outputFolder", "FOLDER", "--shape", "48", "40", "16"], "field of view must be square"),
        (["--outputFolder", "FOLDER", "--trainingCount", "-1"], "must not be negative"),
        (["--outputFolder", "FOLDER", "--photonCount", "0"], "out of range"),
        (["--outputFolder", "FOLDER", "--gainError", "nan"], "out of range"),
        (["--outputFolder", "FOLDER", "--photonCount", "inf"], "out of range"),
        (["--outputFolder", "FOLDER", "--precipitateDiameters", "9", "4"], "LOW HIGH"),
        (["--baseline", "FOLDER/no.nrrd", "FOLDER/no.nrrd"], "cannot be read as NRRD"),
    ],
)
def testWrongArgumentsAreOneLineAndExitCode2(arguments, words, tmp_path, capsys):
    arguments = [word.replace("FOLDER", str(tmp_path)) for word in arguments]
    assert run(arguments) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def testAFileOfTheUserIsNotReplaced(tmp_path, capsys):
    own = tmp_path / "trainingImages" / "data_01.nrrd"
    own.parent.mkdir()
    nrrd.write(str(own), np.zeros((4, 4, 4), np.uint16))
    before = own.read_bytes()
    assert run(["--outputFolder", str(tmp_path), *SMALL]) == 2
    assert "was not made by makeDemoData.py" in capsys.readouterr().err
    assert own.read_bytes() == before


def testAnOutputFolderThatIsAFileIsOneLine(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert run(["--outputFolder", str(tmp_path / "file"), *SMALL]) == 2
    assert "cannot be written" in capsys.readouterr().err


def testMissingScikitImageNamesTheRemedy(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "skimage.transform", None)
    assert run(["--outputFolder", str(tmp_path), *SMALL]) == 2
    assert "pip install -r benchmarks/requirements.txt" in capsys.readouterr().err
    with pytest.raises(PipelineError, match="scikit-image"):
        makeDemoData.simulateVolume(1, SHAPE)


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize("seconds", [0.1, 3.0], ids=["while workers start", "while they work"])
def testInterruptExitsWith130InOneLine(seconds, tmp_path):
    command = [sys.executable, str(ROOT / "benchmarks" / "makeDemoData.py")]
    command += ["--outputFolder", str(tmp_path), "--trainingCount", "40", "--processCount", "2"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    process.stdout.readline()  # its first line: the arguments are checked, the work starts
    time.sleep(seconds)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: workers too
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert error.strip() == "Interrupted: nothing half-written was kept under a final name."
    assert not list(tmp_path.rglob(".partial-*"))


@pytest.mark.slow
@pytest.mark.parametrize("entry", makeDemoData.SHIPPED_PAIRS, ids=lambda entry: entry[2])
def testShippedFilesAreRegenerated(entry):
    seed, shape, image, mask = entry
    volume, positive, counts = makeDemoData.simulateVolume(seed, shape)
    shippedVolume, shippedMask = (
        nrrd.read(str(ROOT / image))[0],
        nrrd.read(str(ROOT / mask))[0],
    )
    assert counts["clipped"] == 0
    assert np.mean(positive == shippedMask) >= 0.999
    difference = np.abs(volume.astype(int) - shippedVolume)
    assert np.mean(difference <= 3) > 0.999
