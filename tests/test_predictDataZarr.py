"""predictData.py --outputFormat omezarr: the voxels of the NRRD results, in one folder, whoever makes it."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import nrrd
import numpy as np
import pytest
from places import ROOT
from predictions import OBLIQUE, predict, readSlowly, refused

import engine.results.outcome as outcome
from engine.formats.opening import openVolume

pytest.importorskip("zarr")
FORMAT = "--outputFormat", "omezarr"
GEOMETRY = {
    "space directions": np.diag([0.5, 0.5, 0.8]),
    "space": "left-posterior-superior",
    "space origin": np.array([3.0, -4.0, 5.0]),
    "space units": ["um"] * 3,
}


def zarrOf(scan):
    """Give the folder of the results."""
    return scan.with_name("scan_segmented.ome.zarr")


def readFolder(path):
    """Read all files: {place: bytes}; nothing unfinished may lie there or beside it."""
    assert not [entry for entry in path.parent.rglob(".*") if entry.is_file() or entry.is_dir()]
    return {
        file.relative_to(path).as_posix(): file.read_bytes() for file in path.rglob("*") if file.is_file()
    }


@pytest.fixture(scope="module")
def folder(whole, tmp_path_factory):
    """Have one process write both formats of a scan with a size of its voxels."""
    folder = tmp_path_factory.mktemp("zarr")
    grey = openVolume(next(whole.glob("scan.nrrd"))).read()
    nrrd.write(str(folder / "scan.nrrd"), grey, GEOMETRY)
    predict(folder / "scan.nrrd", "--threshold", 0.4)
    predict(folder / "scan.nrrd", "--threshold", 0.4, *FORMAT)
    return folder


@pytest.fixture
def other(folder, tmp_path):
    """Give the same scan without results."""
    return shutil.copy2(folder / "scan.nrrd", tmp_path / "scan.nrrd")


def testItHoldsTheVoxelsAndThePlaceOfTheOtherResults(folder):
    arrays, path = readSlowly(folder), zarrOf(folder / "scan.nrrd")
    expected = {
        "": arrays["probability"],
        "::labels/mask": arrays["mask"] == 0,
        "::labels/particles": arrays["labels"],
    }
    frame = openVolume(folder / "scan.nrrd").frame
    for inner, array in expected.items():
        volume = openVolume(f"{path}{inner}")
        np.testing.assert_array_equal(volume.read(), array)
        np.testing.assert_allclose(volume.frame.directions, frame.directions)
        np.testing.assert_allclose(volume.frame.origin, frame.origin)
        assert volume.frame.unit == "um"
    assert arrays["labels"].max() > 5
    attributes = json.loads((path / "zarr.json").read_text())["attributes"]
    criteria = {"threshold": 0.4, "connectivity": 26, "minimumVoxels": 1}
    assert attributes["segmentation"] == criteria | {"labels": ["mask", "particles"]}


def testOmeZarrPyShowsProbabilityMaskAndParticles(folder):
    pytest.importorskip("ome_zarr")
    from ome_zarr.io import parse_url
    from ome_zarr.reader import Reader

    path = zarrOf(folder / "scan.nrrd")
    nodes = [node for node in Reader(parse_url(str(path), mode="r"))() if node.data]
    arrays = readSlowly(folder)
    expected = arrays["probability"], arrays["mask"] == 0, arrays["labels"]
    assert [node.metadata["name"] for node in nodes] == ["probability", "mask", "particles"]
    for node, array in zip(nodes, expected, strict=True):
        np.testing.assert_array_equal(np.asarray(node.data[0]), array.T)
        scale, shift = node.metadata["coordinateTransformations"][0]
        assert scale["scale"] == [0.8, 0.5, 0.5] and shift["translation"] == [5, -4, 3]


def testNapariOpensImageAndLabelsInTheirColour(folder):
    PluginManager = pytest.importorskip("npe2").PluginManager
    ViewerModel = pytest.importorskip("napari.components").ViewerModel  # a viewer without a display
    pytest.importorskip("napari_ome_zarr")
    PluginManager.instance().discover()
    viewer, arrays = ViewerModel(), readSlowly(folder)
    layers = viewer.open(str(zarrOf(folder / "scan.nrrd")), plugin="napari-ome-zarr")
    expected = arrays["probability"], arrays["mask"] == 0, arrays["labels"]
    for layer, array in zip(layers, expected, strict=True):
        np.testing.assert_array_equal(np.asarray(layer.data), array.T)
        assert layer.scale.tolist() == [0.8, 0.5, 0.5] and list(map(str, layer.units)) == ["micrometer"] * 3
    colour = np.array([0.9, 0.33, 0.05])
    np.testing.assert_allclose(layers[1].get_color(1)[:3], colour, atol=0.003)


def testItIsReadAsInputAndAsReference(folder, tmp_path, capfd):
    path = zarrOf(folder / "scan.nrrd")
    mask = "--nameReference", f"{path}::labels/mask", "--positiveLabel", 1, "--no-report"
    predict(folder / "scan.nrrd", "--threshold", 0.4, *mask)
    text = capfd.readouterr().out
    assert (
        "dice 1.0000" in text
        and "not of this one: scan_segmented.ome.zarr, scan_segmented_report.html\n" in text
    )
    predict(path, "--z2", 8, "--nameOutput", tmp_path / "again.nrrd")
    assert nrrd.read_header(str(tmp_path / "again.nrrd"))["space units"] == ["um"] * 3


def testWhatIsSwitchedOffIsLeftOut(folder, other):
    predict(other, "--threshold", 0.4, *FORMAT, "--no-labels", "--no-segmentation")
    path = zarrOf(other)
    assert sorted(entry.name for entry in (path / "labels").iterdir()) == ["mask", "zarr.json"]
    assert not list(other.parent.glob("*_mask*.nrrd")) and not list(other.parent.glob("*_labels*.nrrd"))
    predict(other, "--threshold", 0.4, *FORMAT, "--no-mask", "--no-labels")
    assert not (path / "labels").exists() and other.with_name("scan_segmented_mask.seg.nrrd").exists()
    predict(other, "--threshold", 0.4, *FORMAT)
    assert readFolder(path) == readFolder(zarrOf(folder / "scan.nrrd"))


def testObliqueAxesAreToldAndTheSidesAreKept(folder, tmp_path, caplog):
    header = OBLIQUE | {"space directions": np.array([[0, 0.5, 0], [-0.3, 0, 0.4], [0.4, 0, 0.3]])}
    nrrd.write(str(tmp_path / "scan.nrrd"), openVolume(folder / "scan.nrrd").read(), header)
    predict(tmp_path / "scan.nrrd", *FORMAT)
    np.testing.assert_allclose(openVolume(zarrOf(tmp_path / "scan.nrrd")).frame.sides, 0.5)
    assert caplog.text.count("OME-Zarr knows no oblique axes") == 1


# ---------------------------------------------------------------------------------- whoever makes the results


def testPartsGiveTheSameFiles(folder, other, capfd):
    for part in (2, 0, 1):
        predict(other, "--part", f"{part}/3", "--threshold", 0.4, *FORMAT)
    assert not zarrOf(other).exists()
    predict(other, "--threshold", 0.4, *FORMAT)
    assert "all is predicted" in capfd.readouterr().out
    assert readFolder(zarrOf(other)) == readFolder(zarrOf(folder / "scan.nrrd"))


def testWorkersGiveTheSameFiles(folder, other):
    pytest.importorskip("distributed")
    predict(other, "--scheduler", "local", "--workerCount", 2, "--threshold", 0.4, *FORMAT)
    assert readFolder(zarrOf(other)) == readFolder(zarrOf(folder / "scan.nrrd"))


def testARunThatIsKilledWhileItWritesLeavesTheOlderFolderAndGoesOn(folder, other):
    predict(other, "--threshold", 0.6, *FORMAT)
    older = readFolder(zarrOf(other))
    words = ["--nameInput", other, "--nameReference", "none", "--threshold", "0.4", *FORMAT]
    slow = (  # a process that waits for its end where the folder is half written
        "import sys, time, runpy; import engine.formats.zarrWriter as writer;"
        "write = writer._Level._write;"
        "writer._Level._write = lambda self: (write(self), print('half', flush=True), time.sleep(600));"
        "sys.argv = ['predictData.py', *sys.argv[1:]]; runpy.run_path('predictData.py', run_name='__main__')"
    )
    command = list(map(str, [sys.executable, "-c", slow, *words]))
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        end = time.monotonic() + 120
        while "half" not in process.stdout.readline() and time.monotonic() < end:
            pass
        unfinished = f".partial-*-{process.pid}-{zarrOf(other).name}"
        assert list(other.parent.glob(unfinished))
        os.kill(process.pid, signal.SIGKILL)
    assert older == {
        file.relative_to(zarrOf(other)).as_posix(): file.read_bytes()
        for file in zarrOf(other).rglob("*")
        if file.is_file()
    }
    predict(other, "--threshold", 0.4, *FORMAT)
    assert readFolder(zarrOf(other)) == readFolder(zarrOf(folder / "scan.nrrd")) != older


def testAFullDiskIsToldAndLeavesTheOlderFolder(folder, other, monkeypatch, capfd):
    predict(other, "--threshold", 0.6, *FORMAT)
    older = readFolder(zarrOf(other))

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("engine.formats.zarrWriter._Level._write", fail)
    text = refused(capfd, other, "--threshold", 0.4, *FORMAT)
    assert "scan_segmented.ome.zarr" in text and "the disk is full" in text
    assert readFolder(zarrOf(other)) == older


# -------------------------------------------------------------------------------------------- before any work


@pytest.fixture
def untouched(monkeypatch):
    """Fail where work is begun."""
    monkeypatch.setattr("engine.prediction.run.prepareRun", lambda *_: pytest.fail("work was begun"))


def testWithoutItsPackageItIsRefused(other, untouched, monkeypatch, capfd):
    monkeypatch.setitem(sys.modules, "zarr", None)
    assert 'pip install "zarr>=3,<4"' in refused(capfd, other, *FORMAT)


def testAnotherFolderOfItsNameIsRefused(other, untouched, capfd):
    zarrOf(other).mkdir()
    (zarrOf(other) / "thesis.txt").write_text("years of work")
    assert "is there, and not a result that may be replaced" in refused(capfd, other, *FORMAT)


def testLabelsThatSomebodyHasCorrectedThereAreNotLost(folder, other, untouched, capfd):
    shutil.copytree(zarrOf(folder / "scan.nrrd"), zarrOf(other))
    labels = zarrOf(other) / "labels"
    shutil.copytree(labels / "mask", labels / "corrected")
    text = refused(capfd, other, *FORMAT)
    assert "holds what is no result, and would be lost (received labels/corrected); move it away" in text


@pytest.mark.parametrize("inner", ["", "::labels/mask", "/labels/mask"])
def testItDoesNotReplaceItsInput(folder, tmp_path, untouched, capfd, inner):
    shutil.copytree(zarrOf(folder / "scan.nrrd"), tmp_path / "scan_segmented.ome.zarr")
    source = f"{tmp_path}/scan_segmented.ome.zarr{inner}"
    text = refused(capfd, source, "--nameOutput", tmp_path / "scan_segmented.nrrd", *FORMAT)
    assert "nameOutput would replace " in text and text.endswith("nameInput\n")


def testTheDiskThatItNeedsIsTold(other, capfd):
    predict(other, *FORMAT, "--dryRun")
    size = 5 * np.prod(openVolume(other).shape) / 2**30
    assert f"at most {size:.3f} GiB as OME-Zarr" in capfd.readouterr().out


def testItIsWrittenByOneProcessWhoeverMeasures(folder, other, monkeypatch):
    seen = []
    original = outcome.walk
    monkeypatch.setattr(
        outcome, "walk", lambda *words: seen.append(type(words[3]).__name__) or original(*words)
    )
    predict(other, "--threshold", 0.4, "--workerCount", 2, *FORMAT)
    assert seen == ["Here"] and readFolder(zarrOf(other)) == readFolder(zarrOf(folder / "scan.nrrd"))
