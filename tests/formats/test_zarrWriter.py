"""OME-Zarr that is written plane by plane, read back by ome-zarr-py, by zarr and by the engine."""

import contextlib
import hashlib
import logging
import socket
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from engine.base.errors import PipelineError
from engine.formats import zarrWriter
from engine.formats.opening import openVolume
from engine.formats.zarrWriter import halve, openZarr, requireReplaceable, requireZarr
from engine.volumes.frame import Frame, compareFrames, frameOfVoxels

zarr = pytest.importorskip("zarr")
SHAPE = (13, 10, 7)  # (x, y, z)
NOTES = {"threshold": 0.5}
COLOURS = {"colors": [{"label-value": 1, "rgba": [230, 84, 13, 255]}]}
FRAME = Frame(np.diag([0.65, 0.5, -1.3]), np.array([7.0, -3.0, 20.0]), "um", space="", hasOrigin=True)


def makePlanes(dtype="uint16", shape=SHAPE):
    return np.random.default_rng(5).integers(0, 200, shape[::-1]).astype(dtype)


def write(path, planes, frame=FRAME, step=3, labels=None):
    """Write planes (z, y, x), and labels {name: planes} of them."""
    with openZarr(path, planes.shape[::-1], frame, NOTES) as folder:
        writers = [(planes, folder.addImage("probability", str(planes.dtype)))]
        for name, array in (labels or {}).items():
            writers.append((array, folder.addLabels(name, str(array.dtype), COLOURS)))
        for z in range(0, len(planes), step):
            for array, append in writers:
                append(array[z : z + step])
    return path


def writeOne(path, planes, isLabels, **options):
    """Write planes as image or as labels; gives the name by which they are opened."""
    if not isLabels:
        return str(write(path, planes, **options))
    return f"{write(path, np.zeros_like(planes), labels={'mask': planes}, **options)}::labels/mask"


@pytest.fixture
def small(monkeypatch):
    """Several levels, chunks and files of a small volume."""
    for name, value in {"COARSEST": 4, "CHUNK": 4, "SHARD": 8, "DEPTH": 4}.items():
        monkeypatch.setattr(zarrWriter, name, value)


@pytest.mark.parametrize("step", [1, 3, 100])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "float32"])
def testVoxelsAndPlaceComeBack(tmp_path, small, dtype, step):
    planes = makePlanes(dtype)
    volume = openVolume(write(tmp_path / "a.ome.zarr", planes, step=step))
    assert volume.dtype == dtype and volume.shape == SHAPE
    np.testing.assert_array_equal(volume.read(), planes.T)
    np.testing.assert_allclose(volume.frame.directions, FRAME.directions)
    assert (volume.frame.unit, volume.frame.hasOrigin) == ("um", True)
    assert compareFrames(FRAME, volume.frame, SHAPE) is None
    array = zarr.open_array(tmp_path / "a.ome.zarr" / "0", mode="r")
    assert array.shards == (4, 8, 8) and array.chunks == (4, 4, 4)
    assert array.metadata.dimension_names == ("z", "y", "x")


def shrink(planes, isLabels):
    """Join eight voxels, slow and obvious."""
    sides = [(side + 1) // 2 for side in planes.shape]
    result = np.empty(sides, planes.dtype)
    for place in np.ndindex(*sides):
        pick = [np.minimum([2 * i, 2 * i + 1], n - 1) for i, n in zip(place, planes.shape, strict=True)]
        values = planes[np.ix_(*pick)].astype(float)
        mean = values.mean() if planes.dtype.kind == "f" else np.floor(values.mean() + 0.5)
        result[place] = values.max() if isLabels else mean
    return result


@pytest.mark.parametrize("isLabels", [False, True])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
def testCoarserLevelsJoinEightVoxelsAndLieOnTheFinest(tmp_path, small, dtype, isLabels):
    planes = makePlanes(dtype) - (100 if dtype == "int16" else 0)
    name = writeOne(tmp_path / "a.zarr", planes, isLabels)
    levels = Path(name.replace("::", "/"))
    assert sorted(entry.name for entry in levels.iterdir() if entry.name != "labels") == [
        "0",
        "1",
        "2",
        "zarr.json",
    ]
    expected = planes
    for level in (1, 2):
        expected = shrink(expected, isLabels)
        volume = openVolume(f"{name}/{level}" if isLabels else f"{name}::{level}")
        np.testing.assert_allclose(volume.read(), expected.T, rtol=1e-6)
        np.testing.assert_allclose(volume.frame.sides, FRAME.sides * 2**level)
        middle = FRAME.origin + (2**level - 1) / 2 * np.diag(FRAME.directions)
        np.testing.assert_allclose(volume.frame.origin, middle)


def testMeansOfLargeWholeNumbersAreExact():
    block = np.full((2, 2, 2), np.iinfo("uint32").max, "uint32")
    assert halve(block, False).tolist() == [[[np.iinfo("uint32").max]]]


def testOmeZarrPyReadsImageAndLabels(tmp_path, small):
    pytest.importorskip("ome_zarr")
    from ome_zarr.io import parse_url
    from ome_zarr.reader import Reader

    planes, mask, particles = makePlanes("float32"), makePlanes("uint8") % 2, makePlanes("uint32")
    path = write(tmp_path / "a.ome.zarr", planes, labels={"mask": mask, "particles": particles})
    nodes = list(Reader(parse_url(str(path), mode="r"))())
    image, *labels = [node for node in nodes if node.data]
    assert [level.shape for level in image.data] == [(7, 10, 13), (4, 5, 7), (2, 3, 4)]
    assert image.metadata["name"] == "probability"
    assert [node.metadata["name"] for node in labels] == ["mask", "particles"]
    for node, array in zip((image, *labels), (planes, mask, particles), strict=True):
        np.testing.assert_array_equal(np.asarray(node.data[0]), array)
        assert node.data[0].dtype == array.dtype
        units = [(axis["name"], axis["unit"]) for axis in node.metadata["axes"]]
        assert units == [(name, "micrometer") for name in "zyx"]
        scale, shift = node.metadata["coordinateTransformations"][0]
        assert scale["scale"] == [-1.3, 0.5, 0.65] and shift["translation"] == [20, -3, 7]
    assert labels[0].metadata["color"][1] == pytest.approx([230 / 255, 84 / 255, 13 / 255, 1])


def testOmeZarrModelsAcceptTheMetadata(tmp_path, small):
    models = pytest.importorskip("ome_zarr_models.v05")
    frame = FRAME._replace(directions=np.abs(FRAME.directions))  # they take a level below 0 for a finer one
    labels = {"mask": makePlanes("uint8"), "particles": makePlanes("uint32")}
    group = zarr.open_group(write(tmp_path / "a.zarr", makePlanes(), frame, labels=labels), mode="r")
    image = models.Image.from_zarr(group)
    assert len(image.ome_attributes.multiscales[0].datasets) == 3
    assert image.labels.label_paths == ["mask", "particles"]
    for name in labels:
        label = models.ImageLabel.from_zarr(group[f"labels/{name}"])
        assert label.ome_attributes.image_label.source.image == "../../"


def digest(path):
    return {
        file.relative_to(path).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in path.rglob("*")
        if file.is_file()
    }


def testEqualVoxelsGiveEqualFiles(tmp_path, small):
    labels = {"mask": makePlanes("uint8")}
    one = digest(write(tmp_path / "a.zarr", makePlanes(), step=1, labels=labels))
    assert one == digest(write(tmp_path / "b.zarr", makePlanes(), step=5, labels=labels)) and len(one) > 16
    assert one != digest(write(tmp_path / "c.zarr", makePlanes() + 1))


def testNoChunkIsLeftOut(tmp_path, small, caplog):
    with caplog.at_level(logging.WARNING):
        volume = openVolume(write(tmp_path / "a.zarr", np.zeros(SHAPE[::-1], "uint8")))
    assert not caplog.records and not volume.read().any()


@pytest.mark.parametrize("unit", ["nm", "µm", "mm", "cm", "m", "", "parrot"])
def testUnitIsThatOfOmeZarr(tmp_path, unit):
    frame = openVolume(write(tmp_path / "a.zarr", makePlanes(), FRAME._replace(unit=unit))).frame
    assert frame.unit == {"µm": "um", "parrot": ""}.get(unit, unit)


def testVolumeInVoxelsGivesNoSize(tmp_path):
    frame = openVolume(write(tmp_path / "a.zarr", makePlanes(), frameOfVoxels("nobody knows"))).frame
    assert frame.unit == "voxel"


def testObliqueAxesKeepTheSidesAlone(tmp_path, caplog):
    turned = np.array([[0.0, 0.5, 0.0], [-0.3, 0.0, 0.4], [0.4, 0.0, 0.3]])
    frame = FRAME._replace(directions=turned)
    path = write(tmp_path / "a.zarr", makePlanes(), frame, labels={"mask": makePlanes("uint8")})
    frame = openVolume(path).frame
    np.testing.assert_allclose(frame.directions, np.diag([0.5, 0.5, 0.5]))
    assert not frame.hasOrigin and caplog.text.count("knows no oblique axes") == 1


@contextlib.contextmanager
def openImage(path, shape, dtype):
    with openZarr(path, shape, FRAME, NOTES) as folder:
        yield folder.addImage("probability", dtype)


def testFolderAppearsWhenItIsWholeAndReplacesAnOlderOne(tmp_path, small):
    path = write(tmp_path / "a.zarr", makePlanes(), labels={"mask": makePlanes("uint8")})
    old = digest(path)
    with pytest.raises(KeyboardInterrupt), openImage(path, SHAPE, "uint16") as append:
        append(makePlanes()[:5])
        raise KeyboardInterrupt
    with pytest.raises(ValueError, match="5 planes were written of 7"):
        with openImage(path, SHAPE, "uint16") as append:
            append(makePlanes()[:5])
    assert digest(path) == old and [entry.name for entry in tmp_path.iterdir()] == ["a.zarr"]
    write(path, makePlanes("uint8"))
    assert openVolume(path).dtype == "uint8" and [entry.name for entry in tmp_path.iterdir()] == ["a.zarr"]
    assert not (path / "labels").exists()


def foreignFolder(path):
    path.mkdir()
    (path / "thesis.txt").write_text("years of work")


def foreignZarr(path):
    zarr.create_group(path, attributes={"ome": {"version": "0.5"}})


@pytest.mark.parametrize("make", [foreignFolder, foreignZarr, lambda path: path.write_text("notes")])
def testNothingElseIsReplaced(tmp_path, make):
    make(tmp_path / "b.zarr")
    with pytest.raises(PipelineError, match="is there, and not a result that may be replaced; move it away"):
        write(tmp_path / "b.zarr", makePlanes())
    assert [entry.name for entry in tmp_path.iterdir()] == ["b.zarr"]
    assert (tmp_path / "b.zarr").is_file() or not (tmp_path / "b.zarr" / "0").exists()


@pytest.mark.parametrize("added", ["labels/corrected", "table", "notes.txt"])
def testLabelsThatAUserHasAddedAreKept(tmp_path, added):
    path = write(tmp_path / "a.zarr", makePlanes(), labels={"mask": makePlanes("uint8")})
    (path / ".DS_Store").touch()
    requireReplaceable(path)
    (path / added).mkdir()
    words = rf"holds what is no result, and would be lost \(received {added}\); move it away"
    with pytest.raises(PipelineError, match=words):
        requireReplaceable(path)


def testWhatAKilledRunLeftGoes(tmp_path):
    path = tmp_path / "a[1].zarr"
    left = f".partial-{socket.gethostname()}-{2**22 + 1}-{path.name}"  # no process has this number
    for name in (left, f"{left}.former"):
        (tmp_path / name / "0").mkdir(parents=True)
    write(path, makePlanes())
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def testMissingOrOldZarrIsToldWithTheCommand(monkeypatch):
    monkeypatch.setattr("zarr.__version__", "2.18.0")
    with pytest.raises(PipelineError, match=r"needs a newer zarr .*pip install \"zarr>=3,<4\""):
        requireZarr()
    monkeypatch.setitem(sys.modules, "zarr", None)
    with pytest.raises(PipelineError, match=r"needs the package zarr; pip install \"zarr>=3,<4\""):
        requireZarr()


def testMemoryHoldsALayerOfChunks(tmp_path, monkeypatch):
    monkeypatch.setattr(zarrWriter, "DEPTH", 8)
    plane = np.random.default_rng(0).integers(0, 99, (1, 300, 300)).astype("uint16")
    peaks = []
    for depth in (32, 256):
        tracemalloc.start()
        with openImage(tmp_path / f"{depth}.zarr", (300, 300, depth), "uint16") as append:
            for _ in range(depth):
                append(plane)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0] and peaks[1] < 256 * plane.nbytes / 2
