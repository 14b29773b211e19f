"""TIFF stacks, as one file or as a folder of slices, against tifffile's own whole reading."""

import logging
import struct

import nrrd
import numpy as np
import pytest
import tifffile
from sampleVolumes import checkVolume, refuse, writeVolume

from engine.base.errors import PipelineError
from engine.formats.nrrdGeometry import readFrame, resultHeader, withVoxelSize
from engine.formats.opening import openVolume
from engine.formats.planes import PlaneVolume
from engine.formats.rawData import RawVolume
from engine.formats.tiff import openTiff
from engine.volumes.frame import Frame

SHAPE = (9, 7, 8)  # (z, y, x)
GREY = {"photometric": "minisblack"}
FORMS = {
    "plain": {},
    "big": {"bigtiff": True},
    "otherOrder": {"byteorder": ">"},
    "deflate": {"compression": "zlib"},
    "tiles": {"tile": (16, 16), "compression": "zlib"},
    "imagej": {"imagej": True},
    "ome": {"ome": True, "metadata": {"axes": "ZYX"}},
}


def makePlanes(dtype="uint16", shape=SHAPE):
    return np.random.default_rng(2).integers(0, 120, shape).astype(dtype)


def writeSlices(folder, planes, name="slice{}.tif", **options):
    folder.mkdir()
    for number, plane in enumerate(planes):
        tifffile.imwrite(folder / name.format(number + 1), plane, **GREY, **options)
    return folder


def check(volume, planes):
    """Compare a volume with its planes (z, y, x)."""
    checkVolume(volume, planes.T)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
@pytest.mark.parametrize("form", FORMS)
def testStackInOneFileIsReadAsItIs(tmp_path, form, dtype):
    if form == "imagej" and dtype == "int16":
        pytest.skip("ImageJ has no such type")
    planes = makePlanes(dtype)
    tifffile.imwrite(tmp_path / "a.tif", planes, **GREY, **FORMS[form])
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "a.tif"), planes)
    volume = openVolume(tmp_path / "a.tif")
    check(volume, planes)
    assert volume.files == (tmp_path / "a.tif",) and volume.header == {}
    assert isinstance(volume, PlaneVolume if "compression" in FORMS[form] else RawVolume)


@pytest.mark.parametrize("options", [{}, {"byteorder": ">"}, {"compression": "zlib"}])
def testFolderOfSlicesIsReadInTheOrderOfItsNumbers(tmp_path, options):
    planes = makePlanes(shape=(12, 7, 8))
    folder = writeSlices(tmp_path / "scan", planes, **options)
    (folder / "scan_infos.txt").write_text("voxel_size_cm = 1")
    (folder / ".hidden.tif").write_bytes(b"nothing")
    volume = openVolume(folder)
    check(volume, planes)
    assert [path.name for path in volume.files] == [f"slice{number}.tif" for number in range(1, 13)]
    assert volume.path == folder


def testSlicesOfTomocupyAndTomopyAreRead(tmp_path):
    """As they save them: slices from any number on, beside the command that made them; no size of a voxel."""
    planes = makePlanes("float32")
    (tmp_path / "scan_rec").mkdir()
    for number, plane in enumerate(planes):
        tifffile.imwrite(tmp_path / "scan_rec" / f"recon_{number + 95:05}.tiff", plane)
    (tmp_path / "scan_rec" / "rec_line.txt").write_text("tomocupy recon --file-name scan.h5")
    volume = openVolume(tmp_path / "scan_rec")
    check(volume, planes)
    assert (volume.frame.unit, volume.frame.hasOrigin, len(volume.files)) == ("voxel", False, len(planes))


def testPagesThatDoNotFollowEachOtherAreRead(tmp_path):
    planes = makePlanes()
    with tifffile.TiffWriter(tmp_path / "a.tiff") as writer:
        for plane in planes:
            writer.write(plane, metadata=None, contiguous=False, **GREY)
    check(openVolume(tmp_path / "a.tiff"), planes)


def testSlabsDecodeEveryPlaneOnceAndInOrder():
    planes, read = makePlanes(), []

    def readPlanes(numbers):
        for number in numbers:
            read.append(number)
            yield planes[number]

    volume = PlaneVolume(None, (), planes.shape[::-1], planes.dtype, None, readPlanes)
    slabs = volume.slabs(((0, 8), (0, 7), (2, 9)), 3)
    assert read == []
    np.testing.assert_array_equal(next(slabs), planes[2:5].T)
    assert read == [2, 3, 4]
    list(slabs)
    assert read == [2, 3, 4, 5, 6, 7, 8]


# ---------------------------------------------------------------------------------------- the size of a voxel

SPACED = {"axes": "ZYX", "spacing": 1.3, "unit": "um"}
OME = {f"PhysicalSize{axis}": side for axis, side in zip("XYZ", (0.65, 0.5, 1.3), strict=True)}
MICROMETRES = {f"PhysicalSize{axis}Unit": "µm" for axis in "XYZ"}
CENTIMETRE = {"resolution": (1e4 / 0.65, 1e4 / 0.5), "resolutionunit": "CENTIMETER"}


@pytest.mark.parametrize(
    "options",
    [
        {"imagej": True, "resolution": (1 / 0.65, 1 / 0.5), "metadata": SPACED},
        {"imagej": True, "resolution": (1 / 0.65, 1 / 0.5), "metadata": SPACED | {"unit": "\\u00B5m"}},
        {"ome": True, "metadata": {"axes": "ZYX", **OME, **MICROMETRES}},
    ],
)
def testVoxelSizeIsThatOfTheFile(tmp_path, options):
    tifffile.imwrite(tmp_path / "a.tif", makePlanes(), **GREY, **options)
    frame = openVolume(tmp_path / "a.tif").frame
    np.testing.assert_allclose(frame.sides, (0.65, 0.5, 1.3), rtol=1e-6)
    assert (frame.unit, frame.why) == ("um", "")


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({}, "the TIFF gives no size of a voxel; --voxelSize does"),
        ({"resolution": (72, 72), "resolutionunit": "INCH"}, "the TIFF gives no size of a voxel;"),
        ({"resolution": (300, 300), "resolutionunit": "INCH"}, "the TIFF gives no size of a voxel;"),
        ({"imagej": True, "resolution": (1, 1)}, "the TIFF gives no size of a voxel;"),
        (CENTIMETRE, "the TIFF gives no size of a voxel along z; --voxelSize does"),
    ],
)
def testLengthsAreInVoxelsWhereTheFileDoesNotTell(tmp_path, options, why):
    tifffile.imwrite(tmp_path / "a.tif", makePlanes(), **GREY, **options)
    frame = openVolume(tmp_path / "a.tif").frame
    assert frame.unit == "voxel" and frame.why.startswith(why)


def testWhatTheProjectWritesIsReadWithTheSameVoxels(tmp_path):
    planes, frame = makePlanes(), Frame(np.diag([0.65, 0.5, 1.3]), np.zeros(3), "um")
    with openTiff(tmp_path / "a.tif", SHAPE[::-1], "uint16", frame) as write:
        write(planes)
    volume = openVolume(tmp_path / "a.tif")
    check(volume, planes)
    np.testing.assert_allclose(volume.frame.sides, frame.sides, rtol=1e-6)
    assert volume.frame.unit == "um"


@pytest.mark.parametrize(("text", "sides"), [("650 nm", (650,) * 3), ("0.65 0.5 1.3 um", (0.65, 0.5, 1.3))])
def testVoxelSizeOfTheUserTravelsToTheResult(tmp_path, text, sides):
    tifffile.imwrite(tmp_path / "a.tif", makePlanes(), **GREY)
    volume = withVoxelSize(openVolume(tmp_path / "a.tif"), text)
    frame = readFrame(resultHeader(volume, ((2, 8), (0, 7), (1, 9)), "uint8"))
    np.testing.assert_allclose(frame.sides, sides)
    np.testing.assert_allclose(frame.origin, np.multiply(sides, (2, 0, 1)))
    assert frame.unit == text.split()[-1]
    np.testing.assert_array_equal(volume.read(), makePlanes().T)


def testVoxelSizeOfTheUserBeatsAHeaderAndSaysSo(tmp_path, caplog):
    directions = np.array([[0.0, 0.5, 0.0], [-0.3, 0.0, 0.4], [0.4, 0.0, 0.3]])
    header = {"space": "left-posterior-superior", "space directions": directions, "space units": ["um"] * 3}
    header["space origin"] = np.array([1.0, 2.0, 3.0])
    writeVolume(tmp_path / "a.nrrd", makePlanes("uint8"), header)
    volume = openVolume(tmp_path / "a.nrrd")
    with caplog.at_level(logging.WARNING):
        same = withVoxelSize(volume, "500 nm")
        assert not caplog.records and withVoxelSize(volume, "") is volume
        other = withVoxelSize(volume, "1 um")
        assert "the file gives a voxel the sides [0.5, 0.5, 0.5] um" in caplog.text
    np.testing.assert_allclose(same.frame.directions, directions * 1000)
    np.testing.assert_allclose(same.frame.origin, (1000, 2000, 3000))
    np.testing.assert_allclose(readFrame(resultHeader(other, None, "uint8")).directions, directions * 2)


@pytest.mark.parametrize("unit", ["um", "µm", "μm", "microns"])
def testMicrometresOfTheUserAreReadAsSuchByPynrrd(tmp_path, unit):
    writeVolume(tmp_path / "a.nrrd", makePlanes("uint8"), {})
    volume = withVoxelSize(openVolume(tmp_path / "a.nrrd"), f"0.65 {unit}")
    writeVolume(tmp_path / "b.nrrd", volume.read(), resultHeader(volume, None, "uint8"))
    expected = "microns" if unit == "microns" else "um"
    assert nrrd.read_header(str(tmp_path / "b.nrrd"))["units"] == [expected] * 3


def testHeaderOfAVolumeInVoxelsGivesNoSize(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", makePlanes(), **GREY)
    header = resultHeader(openVolume(tmp_path / "a.tif"), ((1, 3), (0, 7), (0, 9)), "uint8")
    assert header["pipeline_region"] == "1:3 0:7 0:9"
    assert not {"spacings", "units", "space", "space directions", "space units"} & header.keys()


@pytest.mark.parametrize(
    "text", [" ", "0.65", "um", "0 um", "-1 um", "1 2 um", "1 ly", "nan um", "1 2 3 4 um"]
)
def testNonsenseIsNoVoxelSize(tmp_path, text):
    writeVolume(tmp_path / "a.nrrd", makePlanes("uint8"), {})
    with pytest.raises(PipelineError, match="voxelSize cannot be read .expected '0.65 um' or"):
        withVoxelSize(openVolume(tmp_path / "a.nrrd"), text)


# ------------------------------------------------------------------------------------------------- bad input


def writeClaim(path, name, value, **options):
    """Write a compressed file whose pages claim something that needs another package."""
    tifffile.imwrite(path, makePlanes(), compression="zlib", **GREY, **options)
    content = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as tiff:
        places = [page.tags[name].valueoffset for page in tiff.pages]
    for place in places:
        struct.pack_into("<H", content, place, value)
    path.write_bytes(content)


BAD = {
    "colours": (
        lambda p: tifffile.imwrite(p, np.zeros((6, 5, 3), "u1"), photometric="rgb"),
        "is a colour image (expected one grey value a voxel)",
    ),
    "channels": (
        lambda p: tifffile.imwrite(p, makePlanes("u2", (4, 2, 9, 8)), imagej=True, metadata={"axes": "ZCYX"}),
        "has several channels (expected one, received 2)",
    ),
    "times": (
        lambda p: tifffile.imwrite(p, makePlanes("u2", (4, 2, 9, 8)), imagej=True, metadata={"axes": "TZYX"}),
        "has several points in time (expected one, received 4)",
    ),
    "one slice": (
        lambda p: tifffile.imwrite(p, makePlanes()[0], **GREY),
        "is a single slice, no volume; "
        "put the slices of a volume into a folder of their own, and name that folder",
    ),
    "bits": (
        lambda p: writeClaim(p, "BitsPerSample", 12),
        "this type of voxel cannot be read (expected integers or floats of 8 to 64 bits, "
        "received 12 bits, uint16); save it with 8 or 16 bits",
    ),
    "complex": (
        lambda p: tifffile.imwrite(p, makePlanes("complex64"), **GREY),
        "this type of voxel cannot be read (expected integers or floats of 8 to 64 bits, "
        "received 64 bits, complex64)",
    ),
    "nothing": (lambda p: None, "there is no such file"),
    "compressed": (
        lambda p: writeClaim(p, "Compression", 5),
        "its compression LZW cannot be read; pip install imagecodecs, or save it uncompressed",
    ),
    "predicted": (
        lambda p: writeClaim(p, "Predictor", 3, predictor=2),
        "its compression ADOBE_DEFLATE with predictor FLOATINGPOINT cannot be read; "
        "pip install imagecodecs, or save it uncompressed",
    ),
}


@pytest.mark.parametrize("case", BAD)
def testWhatIsNoVolumeIsToldInOneLine(tmp_path, case):
    damage, words = BAD[case]
    damage(tmp_path / "a.tif")
    if case in ("compressed", "predicted") and pytest.importorskip("tifffile").TIFF.DECOMPRESSORS.get(5):
        pytest.skip("imagecodecs is installed")
    assert refuse(tmp_path / "a.tif") == f"{tmp_path / 'a.tif'}: {words}"


def testOtherFilesAreNoTiffWhateverTheirEnding(tmp_path):
    (tmp_path / "a.tif").write_bytes(b"NRRD0004 and more")
    line = refuse(tmp_path / "a.tif")  # ends in the words of tifffile
    assert line.startswith(f"{tmp_path / 'a.tif'}: is no readable TIFF file: ") and "\n" not in line


def testSlicesThatDifferAreNamed(tmp_path):
    folder = writeSlices(tmp_path / "scan", makePlanes())
    tifffile.imwrite(folder / "slice5.tif", makePlanes()[0, :5], **GREY)
    words = r"slice5.tif: differs from slice1.tif, .* .expected 8 x 7 uint16, received 8 x 5 uint16"
    with pytest.raises(PipelineError, match=words):
        openVolume(folder)
    tifffile.imwrite(folder / "slice5.tif", makePlanes(), **GREY)
    with pytest.raises(PipelineError, match="holds several slices, but lies in a folder of slices"):
        openVolume(folder)


def testFolderWithoutSlicesIsRefused(tmp_path):
    (tmp_path / "scan.nrrd").touch()
    with pytest.raises(PipelineError, match="the folder holds no TIFF slices"):
        openVolume(tmp_path)


@pytest.mark.parametrize("form", ["plain", "deflate", "ome", "imagej"])
def testCutFilesNeverEndInATraceback(tmp_path, form):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, makePlanes(), **GREY, **FORMS[form])
    content, failed = path.read_bytes(), 0
    for length in range(0, len(content), 41):
        path.write_bytes(content[:length])
        try:
            volume = openVolume(path)
            read = list(volume.slabs(None, 4))
            assert np.concatenate(read, axis=2).shape == volume.shape
        except PipelineError:
            failed += 1
    assert failed > 3


@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}, {"tile": (16, 16)}])
@pytest.mark.parametrize("isBig", [False, True])
def testCutFilesLoseNoPlanes(tmp_path, options, isBig):
    path, planes, opened = tmp_path / "a.tif", makePlanes(), 0
    with tifffile.TiffWriter(path, bigtiff=isBig) as writer:
        for plane in planes:
            writer.write(plane, metadata=None, contiguous=False, **GREY, **options)
    content = path.read_bytes()
    for length in range(8, len(content), 7):
        path.write_bytes(content[:length])
        try:
            volume = openVolume(path)
        except PipelineError:
            continue
        opened += 1
        assert volume.shape == planes.T.shape
        with pytest.raises(PipelineError, match="truncated or damaged"):
            volume.read()
    assert opened < len(content) / 70  # nearly all are refused before any work


def writeOnePage(path, planes):
    """Write as ImageJ does: the first page alone, all voxels behind it and nothing after them."""
    tifffile.imwrite(path, planes, imagej=True, byteorder=">")
    with tifffile.TiffFile(path) as tiff:
        start, size = tiff.series[0].dataoffset, tiff.series[0].nbytes
        following = tiff.pages.first.offset + 2 + 12 * len(tiff.pages.first.tags)
    content = bytearray(path.read_bytes()[: start + size])
    content[following : following + 4] = bytes(4)
    path.write_bytes(content)
    return size


def testStackOfImageJWithOnePageIsRead(tmp_path):
    writeOnePage(tmp_path / "a.tif", makePlanes())
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        assert len(tiff.pages) == 1
    check(openVolume(tmp_path / "a.tif"), makePlanes())


def testRawVoxelsThatEndTooEarlyAreRefusedWhenOpened(tmp_path):
    file, planes = tmp_path / "a.tif", makePlanes()
    writeOnePage(file, planes)
    file.write_bytes(file.read_bytes()[:-3])
    words = "the data are truncated (expected 9 slices, as ImageJ says, received fewer bytes)"
    assert refuse(file) == f"{file}: {words}"
    size = writeOnePage(file, planes[0])
    file.write_bytes(file.read_bytes()[:-3])
    words = f"the data are truncated (expected {size} bytes, received {size - 3})"
    assert refuse(tmp_path) == f"{file}: {words}"


def testPagesInACircleAreRefused(tmp_path):
    file = tmp_path / "a.tif"
    tifffile.imwrite(file, makePlanes(), **GREY, metadata=None)
    with tifffile.TiffFile(file) as tiff:
        last = tiff.pages[len(tiff.pages) - 1]
        place, first = last.offset + 2 + 12 * len(last.tags), tiff.pages.first.offset
    content = bytearray(file.read_bytes())
    struct.pack_into("<I", content, place, first)
    file.write_bytes(content)
    with pytest.raises(PipelineError, match="truncated or damaged: pages in a circle"):
        openVolume(file)


def testFoldersAmongSlicesAreRefused(tmp_path):
    folder = writeSlices(tmp_path / "scan", makePlanes())
    (folder / ".thumbnails").mkdir()
    assert openVolume(folder).shape == SHAPE[::-1]
    (folder / "more").mkdir()
    with pytest.raises(PipelineError) as caught:
        openVolume(folder)
    words = "lies in the folder of slices scan; keep the slices of a volume in one folder"
    assert str(caught.value) == f"{folder / 'more'}: {words}"


def testMissingPackageIsNamed(tmp_path, monkeypatch):
    import sys

    tifffile.imwrite(tmp_path / "a.tif", makePlanes(), **GREY)
    monkeypatch.setitem(sys.modules, "tifffile", None)
    with pytest.raises(PipelineError, match="a.tif: TIFF needs tifffile; pip install tifffile"):
        openVolume(tmp_path / "a.tif")


@pytest.mark.parametrize(
    ("error", "words"),
    [(ValueError("odd tags"), "odd tags"), (KeyError(0), "KeyError 0"), (AssertionError(), "AssertionError")],
)
def testADamagedFileIsNeverToldWithoutWords(tmp_path, monkeypatch, error, words):
    def fail(path, **options):
        raise error

    tifffile.imwrite(tmp_path / "a.tif", makePlanes(), **GREY)
    monkeypatch.setattr(tifffile, "TiffFile", fail)
    assert refuse(tmp_path / "a.tif") == f"{tmp_path / 'a.tif'}: is no readable TIFF file: {words}"


def testOtherNamesAreTriedAsNrrd(tmp_path):
    nrrd.write(str(tmp_path / "a.nrrd"), makePlanes())
    (tmp_path / "a.nrrd").rename(tmp_path / "a.scan")
    assert openVolume(tmp_path / "a.scan").shape == SHAPE
    (tmp_path / "a.txt").write_text("words")
    with pytest.raises(PipelineError, match="a.txt: is no volume of a known format"):
        openVolume(tmp_path / "a.txt")
