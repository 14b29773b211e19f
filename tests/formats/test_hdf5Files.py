"""HDF5 volumes against h5py's own whole reading; files by h5py, ITK, nabu, tomoscan and Data Exchange."""

import logging
import subprocess
import sys

import h5py
import numpy as np
import pytest
from places import ROOT
from sampleVolumes import checkVolume, refusal

from engine.base.errors import PipelineError
from engine.formats import hdf5Search
from engine.formats.chunked import ChunkedVolume
from engine.formats.opening import isVolumeName, openVolume, stemOf
from engine.formats.rawData import RawVolume

SHAPE = (9, 7, 8)  # (z, y, x)
FORMS = {
    "contiguous": {},
    "chunks": {"chunks": (4, 3, 8)},
    "gzip": {"chunks": (4, 3, 5), "compression": "gzip", "shuffle": True},
    "lzf": {"chunks": (1, 7, 8), "compression": "lzf"},
    "checksum": {"chunks": (2, 7, 8), "fletcher32": True},
    "growing": {"maxshape": (None, 7, 8)},
    "oneChunk": {"chunks": SHAPE, "compression": "gzip"},
}
TYPES = ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8", ">u2", ">i4", ">f4", ">f8"]


def makePlanes(kind="u2", shape=SHAPE):
    return np.random.default_rng(2).integers(0, 120, shape).astype(kind)


def write(path, name="data", planes=None, **options):
    """Write one dataset to a file, which may exist."""
    with h5py.File(path, "a") as file:
        file.create_dataset(name, data=makePlanes() if planes is None else planes, **options)
    return path


def check(volume, planes):
    """Compare a volume with its planes (z, y, x)."""
    checkVolume(volume, planes.T)


# --------------------------------------------------------------------------------------------------- voxels


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("form", FORMS)
def testDatasetIsReadAsItIs(tmp_path, form, kind):
    planes = makePlanes(kind)
    path = write(tmp_path / "a.h5", "data", planes, **FORMS[form])
    volume = openVolume(path)
    check(volume, planes)
    assert volume.files == (path,) and volume.header == {} and volume.path == path and volume.inner == "/data"
    assert isinstance(volume, RawVolume if form == "contiguous" else ChunkedVolume)


@pytest.mark.parametrize("name", ["a.h5", "a.hdf5", "a.hdf", "a.nxs", "a.nx", "A.H5"])
def testEveryEndingOfHdf5IsKnown(tmp_path, name):
    check(openVolume(write(tmp_path / name)), makePlanes())
    assert isVolumeName(tmp_path / name) and stemOf(f"{tmp_path / name}::/data").lower() == "a"


def testVoxelsBehindAUserBlockAreFound(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w", userblock_size=1024) as file:
        file["data"] = makePlanes()
    volume = openVolume(tmp_path / "a.h5")
    assert isinstance(volume, RawVolume)
    check(volume, makePlanes())


@pytest.mark.parametrize("options", [{}, {"chunks": (3, 7, 8), "compression": "gzip"}])
@pytest.mark.parametrize(("kind", "expected"), [("?", "u1"), ("f2", "f4"), (">f2", "f4"), (">u2", "u2")])
def testTypesWithoutASumOfTheirOwnBecomeOthers(tmp_path, options, kind, expected):
    planes = (makePlanes() % 2 if kind == "?" else makePlanes() / 4).astype(kind)
    volume = openVolume(write(tmp_path / "a.h5", "data", planes, **options))
    check(volume, planes.astype(expected))


@pytest.mark.parametrize("options", [{}, {"chunks": (3, 7, 8)}])
def testNamesOfAnEnumerationAreTheirNumbers(tmp_path, options):
    kind = h5py.enum_dtype({"matrix": 0, "pore": 1, "crack": 7}, "i2")
    planes = np.array([0, 1, 7])[makePlanes() % 3]
    volume = openVolume(write(tmp_path / "a.h5", "data", planes, dtype=kind, **options))
    check(volume, planes.astype("i2"))


def testVoxelsOfAnotherWidthThanTheirBytesAreConverted(tmp_path):
    """Twelve bits in the upper part of two bytes, as cameras write them."""
    kind = h5py.h5t.NATIVE_UINT16.copy()
    kind.set_precision(12)
    kind.set_offset(4)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        space = h5py.h5s.create_simple(SHAPE)
        dataset = h5py.h5d.create(file.id, b"data", kind, space)
        dataset.write(h5py.h5s.ALL, h5py.h5s.ALL, makePlanes())
    check(openVolume(tmp_path / "a.h5"), makePlanes())


@pytest.mark.parametrize("shape", [(1, *SHAPE), (1, 1, *SHAPE), (*SHAPE, 1), (1, *SHAPE, 1)])
@pytest.mark.parametrize("options", [{}, {"chunks": True, "compression": "gzip"}])
def testAxesOfLengthOneAreLeftOut(tmp_path, shape, options):
    planes = makePlanes()
    check(openVolume(write(tmp_path / "a.h5", "data", planes.reshape(shape), **options)), planes)


def testASlabAcrossSeveralFilesOfChunksKeepsItsPlace(tmp_path):
    planes = np.arange(40 * 6 * 5, dtype="u2").reshape(40, 6, 5)
    volume = openVolume(write(tmp_path / "a.h5", "data", planes, chunks=(16, 4, 4), compression="gzip"))
    assert volume.depth == 16
    blocks = list(volume.slabs(((1, 4), (2, 6), (7, 39)), 11))
    assert [block.shape for block in blocks] == [(3, 4, 11), (3, 4, 11), (3, 4, 10)]
    np.testing.assert_array_equal(np.concatenate(blocks, axis=2), planes.T[1:4, 2:6, 7:39])


# ------------------------------------------------------------------------------------- which dataset is meant


@pytest.mark.parametrize("inner", ["/entry/b", "entry/b", "/entry/b/", "//entry//b", "/link", "/entry/up"])
def testADatasetIsNamed(tmp_path, inner):
    path = tmp_path / "a.h5"
    write(path, "entry/a", makePlanes("u1"))
    write(path, "entry/b", makePlanes("f4") / 8)
    with h5py.File(path, "a") as file:
        file["link"] = h5py.SoftLink("/entry/b")
        file["entry/up"] = h5py.SoftLink("b")
    volume = openVolume(f"{path}::{inner}")
    check(volume, makePlanes("f4") / 8)
    assert volume.path == path and openVolume(f"{path}::{volume.inner}").inner == volume.inner


def testAGroupMeansTheOneVolumeInIt(tmp_path):
    path = tmp_path / "a.h5"
    write(path, "first/data", makePlanes("u1"))
    write(path, "second/deep/data", makePlanes("f4"))
    check(openVolume(f"{path}::second"), makePlanes("f4"))


def testTheOnlyVolumeAmongOtherThingsIsTaken(tmp_path):
    path = tmp_path / "a.h5"
    write(path, "deep/down/volume")
    write(path, "angles", np.arange(9.0))
    write(path, "flat", np.zeros((7, 8)))
    write(path, "times", np.zeros((4, 9, 7, 8)))
    write(path, "words", np.array(["a"] * 8, dtype=h5py.string_dtype()).reshape(2, 2, 2))
    volume = openVolume(path)
    check(volume, makePlanes())
    assert volume.inner == "/deep/down/volume"


@pytest.mark.parametrize("meant", ["/entry/reconstruction/results/data", "/exchange/data", "/data"])
def testAKnownLayoutIsTakenAmongSeveralVolumes(tmp_path, meant):
    path = write(tmp_path / "a.h5", meant)
    write(path, "/other", makePlanes("u1"))
    write(path, "/entry/another", makePlanes("u1"))
    assert openVolume(path).inner == meant
    check(openVolume(path), makePlanes())


def testTheDefaultOfNexusIsTakenAmongSeveralVolumes(tmp_path):
    path = write(tmp_path / "a.h5", "/scan/process/results/volume")
    write(path, "/scan/process/results/errors", makePlanes("u1"))
    write(path, "/data", makePlanes("u1"))
    with h5py.File(path, "a") as file:
        file["scan"].attrs["default"] = "process/results"
        file["scan/process/results"].attrs["signal"] = "volume"
    check(openVolume(path), makePlanes())
    with h5py.File(path, "a") as file:
        file.attrs["default"] = "/scan/process/results"
        file["scan/process/results"].attrs["signal"] = "errors"
    assert openVolume(path).inner == "/scan/process/results/errors"


def testSeveralVolumesAreListedWithAWayToNameOne(tmp_path):
    path = write(tmp_path / "a.h5", "second/b")
    write(path, "first", makePlanes("f4", (3, 4, 5)))
    words = (
        "holds several volumes; name one as a.h5::/first; "
        "there are /first (3 x 4 x 5 float32), /second/b (9 x 7 x 8 uint16)"
    )
    assert refusal(path) == f"{path}: {words}"
    words = "holds nothing of this name (received /third); name one as a.h5::/first; there are /first"
    assert refusal(f"{path}::third").startswith(f"{path}: {words}")


def testTwoReconstructionsAreListed(tmp_path):
    path = tmp_path / "a.h5"
    for entry in ("entry0000", "entry0001"):
        write(path, f"{entry}/reconstruction/results/data")
    assert "name one as a.h5::/entry0000/reconstruction/results/data; there are" in refusal(path)
    check(openVolume(f"{path}::entry0001"), makePlanes())


def testManyVolumesAreListedInPart(tmp_path):
    path = tmp_path / "a.h5"
    for number in range(20):
        write(path, f"v{number:02d}", makePlanes(shape=(2, 2, 2)))
    line = refusal(path)
    assert line.count("2 x 2 x 2") == 8 and line.endswith("and 12 more")


NO_VOLUMES = {
    "plane": (np.zeros((7, 8), "u1"), "/data is no volume", "7 x 8 uint8"),
    "number": (3.5, "/data is no volume", "one value float64"),
    "empty": (np.zeros((0, 7, 8), "u1"), "/data is no volume", "0 x 7 x 8 uint8"),
    "channels": (
        np.zeros((2, *SHAPE), "u1"),
        "/data holds several channels, points in time or volumes",
        "2 x 9 x 7 x 8 uint8",
    ),
    "colours": (
        np.zeros((*SHAPE, 3), "u1"),
        "/data holds several channels, points in time or volumes",
        "9 x 7 x 8 x 3 uint8",
    ),
}
NO_NUMBERS = {
    "complex": (np.zeros(SHAPE, "c8"), "complex64"),
    "compound": (np.zeros(SHAPE, [("a", "u1"), ("b", "f4")]), "compound"),
    "text": (np.full(SHAPE, b"ab"), "|S2"),
    "words": (np.full(SHAPE, "ab", h5py.string_dtype()), "object"),
    "long": (np.zeros(SHAPE, np.longdouble), "float128"),
}


@pytest.mark.parametrize("case", NO_VOLUMES)
def testWhatIsNoVolumeIsToldInOneLine(tmp_path, case):
    array, rule, received = NO_VOLUMES[case]
    path = write(tmp_path / "a.h5", "data", array)
    words = f"(expected one number a voxel (z, y, x), received {received})"
    assert refusal(f"{path}::/data") == f"{path}: {rule} {words}"
    assert refusal(path).startswith(f"{path}: holds no volume (expected a dataset (z, y, x) of numbers")
    assert received in refusal(path)


@pytest.mark.parametrize("case", NO_NUMBERS)
def testWhatIsNoNumberIsToldInOneLine(tmp_path, case):
    array, received = NO_NUMBERS[case]
    path = write(tmp_path / "a.h5", "data", array)
    rule = "this type of voxel of /data cannot be read"
    words = f"(expected integers or floats of 8 to 64 bits, received {received})"
    assert refusal(f"{path}::/data") == f"{path}: {rule} {words}"
    assert "holds no volume" in refusal(path)


def testAModelOfKerasIsNamedAsSuch():
    words = "is a model of Keras, no volume; --modelFile and --weightFile take models"
    models = sorted((ROOT / "modelAndWeights").glob("*.h5"))
    assert models
    for path in models:
        assert refusal(path) == f"{path}: {words}"


def testModelsOfKeras3AreNamedAsSuch(tmp_path):
    code = "import sys, keras; m = keras.Sequential([keras.Input((4, 3)), keras.layers.Conv1D(2, 3)]); "
    code += "m.save(sys.argv[1]); m.save_weights(sys.argv[2])"
    paths = [str(tmp_path / name) for name in ("a.keras.h5", "a.weights.h5")]
    subprocess.run([sys.executable, "-c", code, *paths], check=True, capture_output=True)
    for path in paths:
        assert "is a model of Keras, no volume" in refusal(path)


# --------------------------------------------------------------------------------- projections, order of axes


def testProjectionsAreNoVolume(tmp_path):
    path = write(tmp_path / "a.h5", "exchange/data")
    write(path, "exchange/data_white", makePlanes(shape=(2, 7, 8)))
    write(path, "exchange/data_dark", makePlanes(shape=(2, 7, 8)))
    write(path, "exchange/theta", np.linspace(0, 180, 9))
    assert f"{path}: holds projections, no volume; reconstruct the volume" in refusal(path)


@pytest.mark.parametrize("beside", ["image_key", "rotation_angle"])
def testFramesOfADetectorAreNoVolume(tmp_path, beside):
    path = write(tmp_path / "a.nx", "entry0000/instrument/detector/data")
    write(path, f"entry0000/instrument/detector/{beside}", np.zeros(9))
    assert "holds projections, no volume" in refusal(path)


def testProjectionsThatAreNamedAreReadWithAWarning(tmp_path, caplog):
    path = write(tmp_path / "a.h5", "exchange/data")
    with h5py.File(path, "a") as file:
        file["exchange/data"].attrs["axes"] = "theta:y:x"
    with caplog.at_level(logging.WARNING):
        check(openVolume(f"{path}::/exchange/data"), makePlanes())
    assert "/exchange/data looks like projections" in caplog.text


def saveAsHttomo(path, data, angleCount):
    """Write what httomo's save_intermediate_data writes between two methods."""
    with h5py.File(path, "w") as file:
        dataset = file.require_dataset("data", data.shape, data.dtype, exact=True)
        dataset[:] = data
        file.create_dataset("/angles", data=np.linspace(0, np.pi, angleCount))
        file.create_dataset(path.name, data=[0, 0])
        file.create_group("data_dims").create_dataset("detector_x_y", data=[data.shape[2], data.shape[1]])
    return path


def testReconstructionsOfHttomoHaveTheirSlicesAlongTheSecondAxis(tmp_path):
    saved = np.random.default_rng(5).random((9, 8, 9)).astype("f4")  # (y, z, x)
    volume = openVolume(saveAsHttomo(tmp_path / "6-httomolibgpu-FBP.h5", saved, 180))
    check(volume, saved.transpose(1, 0, 2))
    assert volume.shape == (9, 9, 8) and volume.frame.unit == "voxel"
    assert "holds projections" in refusal(saveAsHttomo(tmp_path / "3-normalize.h5", makePlanes("f4"), 9))


TAGS = '{"axes": [%s]}'
ORDERS = {
    "ilastik": ("axistags", TAGS % ", ".join(f'{{"key": "{letter}", "typeFlags": 2}}' for letter in "yxzc")),
    "exchange": ("axes", "y:x:z"),
}


@pytest.mark.parametrize("options", [{}, {"chunks": (4, 3, 5), "compression": "gzip"}])
@pytest.mark.parametrize("order", ORDERS)
def testNamesOfAxesGiveTheirOrder(tmp_path, order, options):
    planes = makePlanes()
    stored = planes.transpose(1, 2, 0)
    if order == "ilastik":
        stored, options = stored[..., np.newaxis], options and options | {"chunks": (4, 3, 5, 1)}
    path = write(tmp_path / "a.h5", "exported_data", stored, **options)
    with h5py.File(path, "a") as file:
        name, value = ORDERS[order]
        file["exported_data"].attrs[name] = value
        file["exported_data"].attrs["element_size_um"] = [0.5, 0.25, 2.0, 1.0][: stored.ndim]
    volume = openVolume(path)
    check(volume, planes)
    np.testing.assert_allclose(volume.frame.sides, (0.25, 0.5, 2.0))


def testLabelsOfDimensionsGiveTheirOrder(tmp_path):
    path = write(tmp_path / "a.h5", "data", makePlanes().T)
    with h5py.File(path, "a") as file:
        for number, letter in enumerate("xyz"):
            file["data"].dims[number].label = letter
    check(openVolume(path), makePlanes())


def testColoursOfASliceAreNoPlanes(tmp_path):
    path = write(tmp_path / "a.h5", "data", np.zeros((7, 8, 3), "u1"))
    with h5py.File(path, "a") as file:
        file["data"].attrs["axistags"] = TAGS % '{"key": "y"}, {"key": "x"}, {"key": "c"}'
    assert "holds no volume" in refusal(path)


# -------------------------------------------------------------------------------------------- size of a voxel

NABU = "entry/reconstruction/configuration/processing_options/reconstruction"
NO_SIZE = "the HDF5 file gives no size of a voxel; --voxelSize does"


@pytest.mark.parametrize(
    ("name", "value", "sides"),
    [
        ("voxel_size_cm", 6.5e-5, (0.65, 0.65, 0.65)),
        ("pixel_size_cm", 6.5e-5, (0.65, 0.65, 0.65)),
        ("pixel_size_cm", np.float32(6.5e-5), (0.65, 0.65, 0.65)),
        ("voxel_size_cm", np.array([1.3e-4, 5e-5, 6.5e-5]), (0.65, 0.5, 1.3)),
        ("voxel_size_cm", "[1.3e-4 5e-05 0.000065]", (0.65, 0.5, 1.3)),
        ("voxel_size_cm", "(0.00013, 0.00005, 6.5E-5)", (0.65, 0.5, 1.3)),
    ],
)
def testSizeOfAVoxelIsThatOfNabu(tmp_path, name, value, sides):
    path = write(tmp_path / "a.h5", "entry/reconstruction/results/data")
    with h5py.File(path, "a") as file:
        file[f"{NABU}/{name}"] = value
    frame = openVolume(path).frame
    np.testing.assert_allclose(frame.sides, sides, rtol=1e-12)
    assert (frame.unit, frame.why, frame.note) == ("um", "", "")


@pytest.mark.parametrize("value", ["None", 0.0, -1.0, np.nan, [1.0, 2.0], np.zeros(3)])
def testNonsenseIsNoSizeOfAVoxel(tmp_path, value):
    path = write(tmp_path / "a.h5", "entry/reconstruction/results/data")
    with h5py.File(path, "a") as file:
        file[f"{NABU}/voxel_size_cm"] = value
    frame = openVolume(path).frame
    assert frame.unit == "voxel" and frame.why.startswith("the HDF5 file gives ")
    np.testing.assert_array_equal(frame.sides, 1)


@pytest.mark.parametrize("shape", [SHAPE, (1, *SHAPE)])
def testSizeOfAVoxelIsThatOfFiji(tmp_path, shape):
    path = write(tmp_path / "a.h5", "t0/channel0", makePlanes().reshape(shape))
    with h5py.File(path, "a") as file:
        file["t0/channel0"].attrs["element_size_um"] = np.array([1.3, 0.5, 0.65], "f4")
    frame = openVolume(path).frame
    np.testing.assert_allclose(frame.sides, (0.65, 0.5, 1.3), rtol=1e-12)
    assert frame.unit == "um"


@pytest.mark.parametrize(
    ("units", "expected"), [("um", "um"), ("micrometre", "um"), ("mm", "mm"), ("m", "m")]
)
def testSizeOfAVoxelIsTheStepOfTheCoordinatesOfNexus(tmp_path, units, expected):
    path = write(tmp_path / "a.nxs", "entry/data/volume")
    with h5py.File(path, "a") as file:
        group = file["entry/data"]
        group.attrs.update({"NX_class": "NXdata", "signal": "volume", "axes": ["z", "y", "x"]})
        for name, count, step in zip("zyx", SHAPE, (1.3, 0.5, -0.65), strict=True):
            group[name] = 4 + np.arange(count) * step
            group[name].attrs["units"] = units
    frame = openVolume(path).frame
    np.testing.assert_allclose(frame.sides, (0.65, 0.5, 1.3), rtol=1e-9)
    assert frame.unit == expected
    with h5py.File(path, "a") as file:
        file["entry/data/x"][2] += 0.1
    assert openVolume(path).frame.why == NO_SIZE


def testLengthsAreInVoxelsWhereTheFileDoesNotTell(tmp_path):
    frame = openVolume(write(tmp_path / "a.h5")).frame
    assert (frame.unit, frame.why) == ("voxel", NO_SIZE)


# ------------------------------------------------------------------------------------------ files of writers


def testWhatItkWritesLiesWhereItsNrrdLies(tmp_path):
    sitk = pytest.importorskip("SimpleITK")
    planes = makePlanes("f4")
    image = sitk.GetImageFromArray(planes)
    image.SetSpacing((0.65, 0.5, 1.3))
    image.SetOrigin((1.0, -2.0, 3.0))
    image.SetDirection((0.8, -0.6, 0.0, 0.6, 0.8, 0.0, 0.0, 0.0, 1.0))
    for name in ("a.h5", "a.nrrd"):
        sitk.WriteImage(image, str(tmp_path / name))
    volume, other = openVolume(tmp_path / "a.h5"), openVolume(tmp_path / "a.nrrd")
    check(volume, planes)
    np.testing.assert_allclose(volume.frame.directions, other.frame.directions)
    np.testing.assert_allclose(volume.frame.origin, other.frame.origin)
    assert volume.frame[2:] == other.frame[2:]


def testWhatNabuWritesIsRead(tmp_path):
    writer = pytest.importorskip("nabu.io.writer")
    planes, names = makePlanes("f4"), []
    options = {"processing_options": {"reconstruction": {"voxel_size_cm": (1.3e-4, 5e-5, 6.5e-5)}}}
    for start, stop in ((0, 4), (4, 9)):
        part = writer.NXVolVolume(
            folder=str(tmp_path), volume_basename="scan", start_index=start, data_path="entry", overwrite=True
        )
        part.data, part.metadata = planes[start:stop], dict(options)
        part.save()
        names.append(f"scan/{part.file_path.rsplit('/', 1)[1]}")
    name = "entry/reconstruction/results/data"
    master, base = str(tmp_path / "scan.hdf5"), str(tmp_path)
    writer.merge_hdf5_files(
        names, name, master, "reconstruction", output_entry="entry", config=dict(options), base_dir=base
    )
    for file, expected in ((tmp_path / "scan.hdf5", planes), (tmp_path / names[0], planes[:4])):
        volume = openVolume(file)
        np.testing.assert_array_equal(volume.read(), expected.T)
        np.testing.assert_allclose(volume.frame.sides, (0.65, 0.5, 1.3))
        assert volume.frame.unit == "um" and volume.inner == f"/{name}"
    assert openVolume(master).files == tuple(tmp_path / file for file in ("scan.hdf5", *names))
    (tmp_path / names[1]).unlink()
    assert "a part of /entry/reconstruction/results/data is missing" in refusal(tmp_path / "scan.hdf5")


def testWhatTomoscanWritesIsRead(tmp_path):
    module = pytest.importorskip("tomoscan.esrf.volume.hdf5volume")
    planes = makePlanes("f4")
    written = module.HDF5Volume(file_path=str(tmp_path / "a.hdf5"), data_path="volume", data=planes)
    written.voxel_size = (1.3e-6, 5e-7, 6.5e-7)  # metres, along z, y, x
    written.save()
    volume = openVolume(tmp_path / "a.hdf5")
    check(volume, planes)
    np.testing.assert_allclose(volume.frame.sides, (0.65, 0.5, 1.3))
    assert volume.frame.unit == "um"


def testWhatDataExchangeWritesIsRead(tmp_path):
    """As dxchange.write_hdf5 and tomocupy do; neither is on PyPI."""
    path = write(tmp_path / "rec.h5", "exchange/data", makePlanes("f4"))
    with h5py.File(path, "a") as file:
        file["implements"] = "exchange"
        file["exchange/data"].attrs.update({"axes": "z:y:x", "description": "ReconData", "units": "counts"})
        file["measurement/instrument/detector/exposure"] = np.zeros((2, 3, 4))
    volume = openVolume(path)
    check(volume, makePlanes("f4"))
    assert (volume.frame.unit, volume.frame.why, volume.frame.hasOrigin) == ("voxel", NO_SIZE, False)


# --------------------------------------------------------------------------------------------- damaged files


def testOtherThingsAreNoHdf5(tmp_path):
    path = tmp_path / "a.h5"
    assert refusal(path) == f"{path}: there is no such file"
    path.write_bytes(b"")
    assert refusal(path) == f"{path}: is no HDF5 file"
    path.write_bytes(b"words" * 400)
    assert refusal(path) == f"{path}: is no HDF5 file"


def testATruncatedFileIsNamed(tmp_path):
    path = write(tmp_path / "a.h5")
    content = path.read_bytes()
    path.write_bytes(content[:-100])
    line = refusal(path)
    assert line.startswith(f"{path}: the file is truncated (expected {len(content)} bytes, received ")


@pytest.mark.parametrize("form", ["contiguous", "gzip"])
def testCutFilesNeverEndInATraceback(tmp_path, form):
    path = write(tmp_path / "a.h5", **FORMS[form])
    content = path.read_bytes()
    for length in range(0, len(content), 97):
        path.write_bytes(content[:length])
        refusal(path)


@pytest.mark.parametrize("form", ["contiguous", "gzip", "lzf"])
def testDamagedBytesNeverEndInATraceback(tmp_path, form):
    path = write(tmp_path / "a.h5", "a/data", **FORMS[form])
    with h5py.File(path) as file:
        heads = file["a/data"].id.get_offset() or 2000
    content, failed = path.read_bytes(), 0
    for place in range(8, min(heads, len(content)), 13):
        damaged = bytearray(content)
        damaged[place] ^= 0xFF
        path.write_bytes(damaged)
        try:
            openVolume(path).read()
        except PipelineError as error:
            failed += 1
            assert "\n" not in str(error)
    assert failed > 10


@pytest.mark.parametrize("form", ["gzip", "checksum"])
def testAChunkThatCannotBeDecodedIsNamedByItsPlanes(tmp_path, form):
    path = write(tmp_path / "a.h5", **FORMS[form])
    with h5py.File(path) as file:
        chunks = [
            file["data"].id.get_chunk_info(number) for number in range(file["data"].id.get_num_chunks())
        ]
    chunk = next(chunk for chunk in chunks if chunk.chunk_offset[0] == 4)
    content = bytearray(path.read_bytes())
    content[chunk.byte_offset : chunk.byte_offset + 20] = b"\xff" * 20
    path.write_bytes(content)
    volume = openVolume(path)
    np.testing.assert_array_equal(volume.read(((0, 8), (0, 7), (0, 4))), makePlanes()[:4].T)
    assert refusal(path, ((0, 8), (0, 7), (4, 6))).startswith(f"{path}: planes 4:6 of /data are damaged: ")


def testADatasetThatWasNeverWrittenIsRefused(tmp_path):
    path = tmp_path / "a.h5"
    for name, options in (("a", {}), ("b", {"chunks": (3, 7, 8)})):
        with h5py.File(path, "w") as file:
            file.create_dataset(name, SHAPE, "u2", **options)
        assert refusal(path) == f"{path}: no voxel of /{name} was ever written; wait until it is written"


def testChunksThatWereNeverWrittenAreTold(tmp_path, caplog):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        dataset = file.create_dataset("data", SHAPE, "u2", chunks=(2, 7, 8), fillvalue=7)
        dataset[:4] = makePlanes()[:4]
    with caplog.at_level(logging.WARNING):
        volume = openVolume(tmp_path / "a.h5")
    assert "3 of 5 chunks of /data were never written; they read as 7" in caplog.text
    assert (volume.read()[:, :, 4:] == 7).all()


def testAFilterThatIsMissingIsNamed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "hdf5plugin", None)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        dataset = file.create_dataset(
            "data", SHAPE, "u2", chunks=SHAPE, compression=32100, allow_unknown_filter=True
        )
        dataset.id.write_direct_chunk((0, 0, 0), makePlanes().tobytes())
    rule = "(filter 32100) of /data cannot be read; pip install hdf5plugin"
    line = refusal(tmp_path / "a.h5")
    assert line.startswith(f"{tmp_path / 'a.h5'}: the compression ") and line.endswith(rule)


@pytest.mark.parametrize("name", ["Blosc", "Zstd", "Bitshuffle", "LZ4", "Blosc2"])
def testFiltersOfHdf5pluginAreReadInAFreshProcess(tmp_path, name):
    plugin = pytest.importorskip("hdf5plugin")
    write(tmp_path / "a.h5", chunks=(4, 3, 5), **getattr(plugin, name)())
    code = "import sys, numpy; from engine.formats.opening import openVolume; "
    code += "numpy.save(sys.argv[2], openVolume(sys.argv[1]).read())"
    command = [sys.executable, "-c", code, str(tmp_path / "a.h5"), str(tmp_path / "a.npy")]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), makePlanes().T)


def testSzipIsRead(tmp_path):
    if not h5py.h5z.filter_avail(h5py.h5z.FILTER_SZIP):
        pytest.skip("this HDF5 has no szip")
    try:
        path = write(tmp_path / "a.h5", chunks=(4, 4, 8), compression="szip")
    except (OSError, ValueError):
        pytest.skip("this HDF5 writes no szip")
    check(openVolume(path), makePlanes())


# ------------------------------------------------------------------------------------------------------ locks


def runReader(path):
    """Open and read a volume in another process; gives its exit status and its last line."""
    code = "import sys; from engine.formats.opening import openVolume; "
    code += "print(openVolume(sys.argv[1]).read().sum())"
    done = subprocess.run([sys.executable, "-c", code, str(path)], cwd=ROOT, capture_output=True, text=True)
    return done.returncode, (done.stdout + done.stderr).strip().splitlines()[-1]


@pytest.mark.parametrize("form", ["contiguous", "gzip"])
def testAFileThatAWriterHoldsIsRead(tmp_path, form):
    path = write(tmp_path / "a.h5", **FORMS[form])
    with h5py.File(path, "r+"):
        assert runReader(path) == (0, str(makePlanes().astype(int).sum()))


@pytest.mark.parametrize("isShared", [False, True])
def testAFileThatIsStillBeingWrittenIsNamed(tmp_path, isShared):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w", libver="latest") as file:
        file.create_dataset("data", data=makePlanes(), **FORMS["growing"])
        file.flush()
        if isShared:
            file.swmr_mode = True
        status, line = runReader(path)
    assert status and line.startswith(
        f"engine.base.errors.PipelineError: {path}: is still being written; wait"
    )


def testAFileSystemWithoutLocksIsReadWithoutThem(tmp_path, monkeypatch):
    path, openFile = write(tmp_path / "a.h5", **FORMS["gzip"]), h5py.File

    def refuseLocks(name, mode="r", **options):
        if options.get("locking") is not False:
            raise OSError(37, "Unable to open file (unable to lock file, errno = 37, 'No locks available')")
        return openFile(name, mode, **options)

    monkeypatch.setattr(h5py, "File", refuseLocks)
    np.testing.assert_array_equal(openVolume(path).read(), makePlanes().T)


# ----------------------------------------------------------------------------------------------- many things


def testGroupsInACircleAreLookedThroughOnce(tmp_path):
    path = write(tmp_path / "a.h5", "a/b/data")
    with h5py.File(path, "a") as file:
        file["a/b/up"] = file["a"]
        file["a/b/root"] = h5py.SoftLink("/")
        file["x"], file["y"] = h5py.SoftLink("/y"), h5py.SoftLink("/x")
        file["a/self"] = h5py.ExternalLink("a.h5", "/a")
        file["gone"] = h5py.SoftLink("/nowhere")
    check(openVolume(path), makePlanes())
    assert "holds nothing of this name (received /x)" in refusal(f"{path}::/x")


def testAFileWithTooManyThingsAsksForAName(tmp_path, monkeypatch):
    monkeypatch.setattr(hdf5Search, "MOST_THINGS", 20)
    path = write(tmp_path / "a.h5", "z/data")
    with h5py.File(path, "a") as file:
        for number in range(30):
            file.create_group(f"g{number}")
    assert "holds too many things to look through; name the dataset: a.h5::/group/name" in refusal(path)
    check(openVolume(f"{path}::/z/data"), makePlanes())
