"""The size of a voxel of a TIFF, from all that programs write."""

import os

import numpy as np
import pytest
import tifffile

from engine.base.errors import PipelineError
from engine.formats.opening import openVolume
from engine.preparation.pairs import listVolumes

GREY = {"photometric": "minisblack"}
PLANES = np.arange(6 * 4 * 5, dtype="uint16").reshape(6, 4, 5)  # (z, y, x)
RESOLUTION = (1 / 0.65, 1 / 0.5)


def write(path, **options):
    tifffile.imwrite(path, PLANES, **GREY, **options)
    return openVolume(path).frame


def writeImageJ(path, resolution=RESOLUTION, resolutionunit=None, **metadata):
    options = {"resolutionunit": resolutionunit} if resolutionunit else {}
    return write(path, imagej=True, resolution=resolution, metadata={"axes": "ZYX", **metadata}, **options)


def checkSides(frame, sides, unit):
    assert frame.why == ""
    np.testing.assert_allclose(frame.sides, sides, rtol=1e-5)
    assert frame.unit == unit and frame.space is None


# ------------------------------------------------------------------------------------------------- ImageJ

UNITS = [("micron", "um"), ("microns", "um"), ("um", "um"), ("\\u00B5m", "um"), ("\\u03bcm", "um")]
UNITS += [("micrometer", "um"), ("nm", "nm"), ("mm", "mm"), ("millimeters", "mm"), ("cm", "cm"), ("m", "m")]


@pytest.mark.parametrize(("written", "unit"), UNITS)
def testUnitsOfImageJ(tmp_path, written, unit):
    checkSides(writeImageJ(tmp_path / "a.tif", unit=written, spacing=1.3), (0.65, 0.5, 1.3), unit)


def testMicrometresThatAreNoAsciiAreRead(tmp_path):
    """As Bio-Formats and others write the sign of micrometres, which ImageJ escapes."""
    description = "ImageJ=1.54f\nimages=6\nslices=6\nunit=µm\nspacing=1.3\nloop=false\n"
    for encoding in ("latin-1", "utf-8"):
        options = {"description": description.encode(encoding), "metadata": None}
        checkSides(write(tmp_path / "a.tif", resolution=RESOLUTION, **options), (0.65, 0.5, 1.3), "um")


@pytest.mark.parametrize("unit", ["pixel", "pixels", "voxel", ""])
def testPixelsAreNoLength(tmp_path, unit):
    frame = writeImageJ(tmp_path / "a.tif", unit=unit, spacing=1.3)
    assert frame.why.startswith("the TIFF gives no size of a voxel; --voxelSize does")


def testTimesAndLoopsDoNotMatter(tmp_path):
    frame = writeImageJ(tmp_path / "a.tif", unit="um", spacing=1.3, finterval=0.2, fps=5.0, loop=True)
    checkSides(frame, (0.65, 0.5, 1.3), "um")


def testInchesAreConvertedUnlessTheyMeanAScreen(tmp_path):
    frame = writeImageJ(tmp_path / "a.tif", (1000, 2000), 2, unit="inch", spacing=0.003)
    checkSides(frame, (25.4, 12.7, 76.2), "um")
    frame = writeImageJ(tmp_path / "a.tif", (72, 72), 2, unit="inch", spacing=1)
    assert frame.why == "the TIFF gives no size of a voxel; --voxelSize does"


def testPixelsACentimetreAreMeantBesideUm(tmp_path):
    frame = writeImageJ(tmp_path / "a.tif", (1e4 / 0.65, 1e4 / 0.5), 3, unit="um", spacing=1.3)
    checkSides(frame, (0.65, 0.5, 1.3), "um")


def testUnitsThatDifferAlongTheAxesAreBroughtIntoOne(tmp_path):
    frame = writeImageJ(
        tmp_path / "a.tif", (1 / 650, 1 / 0.5), unit="nm", yunit="um", zunit="mm", spacing=0.0013
    )
    checkSides(frame, (0.65, 0.5, 1.3), "um")
    frame = writeImageJ(tmp_path / "a.tif", unit="um", zunit="slices", spacing=1)
    assert frame.why == "the TIFF gives the sides of a voxel in um, um, slices; --voxelSize does"


def testSpacingBelowZeroCountsAsAboveAsInImageJ(tmp_path):
    checkSides(writeImageJ(tmp_path / "a.tif", unit="um", spacing=-1.3), (0.65, 0.5, 1.3), "um")


@pytest.mark.parametrize("spacing", [0, float("inf"), float("nan")])
def testSpacingOfNothingIsNoSize(tmp_path, spacing):
    frame = writeImageJ(tmp_path / "a.tif", unit="um", spacing=spacing)
    assert frame.unit == "voxel" and frame.why.startswith("the TIFF gives a voxel the size (0.65")
    assert frame.why.endswith(f"{abs(spacing):.1f}); --voxelSize does")


def testSpacingThatImageJLeavesOutIsOneOnlyWhereTheOthersAre(tmp_path):
    frame = writeImageJ(tmp_path / "a.tif", unit="um")
    assert frame.why == "the TIFF gives no size of a voxel along z; --voxelSize does"
    frame = writeImageJ(tmp_path / "a.tif", unit="um", spacing="far")
    assert frame.why == "the TIFF gives no size of a voxel along z; --voxelSize does"
    checkSides(writeImageJ(tmp_path / "a.tif", (1, 1), unit="um"), (1, 1, 1), "um")


# ------------------------------------------------------------------------------------------------- OME

SIZES = {"PhysicalSizeX": 0.65, "PhysicalSizeY": 0.5, "PhysicalSizeZ": 1.3}


def writeOme(path, **attributes):
    return write(path, ome=True, metadata={"axes": "ZYX", **attributes})


@pytest.mark.parametrize(
    ("written", "unit"), [("µm", "um"), ("nm", "nm"), ("mm", "mm"), ("cm", "cm"), ("m", "m")]
)
def testUnitsOfOme(tmp_path, written, unit):
    units = {f"{name}Unit": written for name in SIZES}
    checkSides(writeOme(tmp_path / "a.tif", **SIZES, **units), (0.65, 0.5, 1.3), unit)


def testOmeWithoutUnitsIsInMicrometres(tmp_path):
    checkSides(writeOme(tmp_path / "a.tif", **SIZES), (0.65, 0.5, 1.3), "um")


def testUnitsOfOmeThatDifferAreBroughtIntoOne(tmp_path):
    units = {"PhysicalSizeXUnit": "nm", "PhysicalSizeYUnit": "µm", "PhysicalSizeZUnit": "mm"}
    sizes = {"PhysicalSizeX": 650, "PhysicalSizeY": 0.5, "PhysicalSizeZ": 0.0013}
    checkSides(writeOme(tmp_path / "a.tif", **sizes, **units), (0.65, 0.5, 1.3), "um")


@pytest.mark.parametrize("unit", ["pixel", "reference frame"])
def testOmeInPixelsGivesNoSize(tmp_path, unit):
    frame = writeOme(tmp_path / "a.tif", **SIZES, **{f"{name}Unit": unit for name in SIZES})
    assert frame.why.startswith("the TIFF gives no size of a voxel; --voxelSize does")


@pytest.mark.parametrize(
    ("sizes", "why"),
    [
        (
            {"PhysicalSizeX": 0.65, "PhysicalSizeY": 0.5},
            "the TIFF gives no size of a voxel along z; --voxelSize does",
        ),
        (
            {"PhysicalSizeX": 0.65, "PhysicalSizeZ": 0.5},
            "the TIFF gives no size of a voxel; --voxelSize does",
        ),
        (
            {**SIZES, "PhysicalSizeZ": -1.3},
            "the TIFF gives a voxel the size (0.65, 0.5, -1.3); --voxelSize does",
        ),
        (
            {**SIZES, "PhysicalSizeZ": 0.0},
            "the TIFF gives a voxel the size (0.65, 0.5, 0.0); --voxelSize does",
        ),
    ],
)
def testOmeThatGivesNoWholeSizeIsToldBy(tmp_path, sizes, why):
    frame = writeOme(tmp_path / "a.tif", **sizes)
    assert (frame.unit, frame.why) == ("voxel", why)


def testOnlyTheFirstImageOfOmeCounts(tmp_path):
    """A second <Image> without planes in the file, such as an overview that was left out, is not the scan."""
    writeOme(tmp_path / "a.tif", **SIZES)
    xml = tifffile.TiffFile(tmp_path / "a.tif").ome_metadata
    image = xml[xml.index("<Image") : xml.index("</Image>") + len("</Image>")]
    other = image.replace("Image:0", "Image:1").replace('X="0.65"', 'X="65"')
    other = other[: other.index("<TiffData")] + "</Pixels></Image>"
    tifffile.tiffcomment(tmp_path / "a.tif", xml.replace("</Image>", f"</Image>{other}").encode())
    checkSides(openVolume(tmp_path / "a.tif").frame, (0.65, 0.5, 1.3), "um")


# ------------------------------------------------------------------------------------------------- nabu

SECTION = "[processing_options.reconstruction]\nmethod = FBP\n"


def writeNote(path, line="voxel_size_cm = 6.5e-05", section=SECTION):
    path.write_text(f"[nabu_config.dataset]\nlocation = /data/scan.nx\n\n{section}{line}\n")
    return path


def writeSlices(folder, name="scan_{:06d}.tiff", step=1, **options):
    folder.mkdir()
    for number, plane in enumerate(PLANES):
        tifffile.imwrite(folder / name.format(number * step), plane, **GREY, **options)
    return folder


def testNabuTellsTheSizeOfSlices(tmp_path):
    folder = writeSlices(tmp_path / "scan")
    note = writeNote(folder / "scan_infos.txt")
    volume = openVolume(folder)
    checkSides(volume.frame, (0.65,) * 3, "um")
    assert volume.files[-1] == note and len(volume.files) == 7
    np.testing.assert_array_equal(volume.read(), PLANES.T)


@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}])
@pytest.mark.parametrize("isBig", [False, True])
def testNabuTellsTheSizeOfAStack(tmp_path, options, isBig):
    tifffile.imwrite(tmp_path / "scan.tiff", PLANES, bigtiff=isBig, **GREY, **options)
    note = writeNote(tmp_path / "scan_infos.txt", "pixel_size_cm = 6.5e-05")
    volume = openVolume(tmp_path / "scan.tiff")
    checkSides(volume.frame, (0.65,) * 3, "um")
    assert volume.files == (tmp_path / "scan.tiff", note)
    np.testing.assert_array_equal(volume.read(), PLANES.T)


@pytest.mark.parametrize(
    "text", ["0.00013, 5e-05, 6.5e-05", " [ 0.00013 5e-05 6.5e-05 ]", "(np.float64(0.00013), 5e-05, 6.5e-05)"]
)
def testNabuNamesSidesAlongZFirst(tmp_path, text):
    tifffile.imwrite(tmp_path / "scan.tiff", PLANES, **GREY)
    writeNote(tmp_path / "scan_infos.txt", f"voxel_size_cm = {text}")
    checkSides(openVolume(tmp_path / "scan.tiff").frame, (0.65, 0.5, 1.3), "um")


def testWhatTheTiffTellsBeatsNabu(tmp_path):
    writeNote(tmp_path / "a_infos.txt", "voxel_size_cm = 1")
    checkSides(writeImageJ(tmp_path / "a.tif", unit="um", spacing=1.3), (0.65, 0.5, 1.3), "um")
    assert openVolume(tmp_path / "a.tif").files == (tmp_path / "a.tif",)


def testNabuTellsTheSizeWhereTagsTellTwoSides(tmp_path):
    writeNote(tmp_path / "a_infos.txt")
    frame = write(tmp_path / "a.tif", resolution=(1e4, 1e4), resolutionunit="CENTIMETER")
    checkSides(frame, (0.65,) * 3, "um")


@pytest.mark.parametrize("isOneFile", [False, True])
@pytest.mark.parametrize("isAtOnce", [False, True])
def testVolumesOfTomoscanAreRead(tmp_path, isOneFile, isAtOnce):
    """Of tomoscan, with which nabu writes: whole, or slice by slice as they are reconstructed."""
    tomoscan = pytest.importorskip("tomoscan.esrf.volume.tiffvolume")
    folder, planes = tmp_path / "scan_rec", PLANES.astype("float32")
    if isOneFile:
        path = folder / "scan_rec.tiff"
        settings = {"file_path": str(path)}
        kind = tomoscan.MultiTIFFVolume
    else:
        path, settings, kind = folder, {"folder": str(folder)}, tomoscan.TIFFVolume
    volume = kind(**settings, data=planes if isAtOnce else None, overwrite=True)
    volume.voxel_size = (1.3e-6, 0.5e-6, 0.65e-6)  # metres along z, y, x
    if isAtOnce:
        volume.save_data()
    else:
        for saver, plane in zip(volume.data_file_saver_generator(6), planes, strict=True):
            saver[:] = plane
    volume.save_metadata()
    assert (folder / "scan_rec_infos.txt").is_file()
    read = openVolume(path)
    np.testing.assert_array_equal(read.read(), planes.T)
    np.testing.assert_array_equal(read.read(((1, 3), (0, 4), (2, 6))), planes.T[1:3, :, 2:])
    checkSides(read.frame, (0.65, 0.5, 1.3), "um")
    assert read.files[-1] == folder / "scan_rec_infos.txt"


@pytest.mark.parametrize("isOneFile", [False, True])
def testVolumesOfNabuAreRead(tmp_path, isOneFile):
    """Through nabu's own writer, with the options of a reconstruction beside those of the user."""
    writer = pytest.importorskip("nabu.pipeline.writer")
    size = (6.5e-05,) * 3
    metadata = {
        "nabu_config": {"output": {"file_format": "tiff"}, "dataset": {"location": "a, b %"}},
        "processing_options": {"reconstruction": {"voxel_size_cm": size, "angles": np.linspace(0, 3, 2000)}},
    }
    options = {"tiff_single_file": isOneFile}
    made = writer.WriterManager(
        str(tmp_path / "rec"), "scan", "tiff", metadata=metadata, extra_options=options
    )
    planes = PLANES.astype("float32")
    made.write_data(planes, metadata=metadata)
    read = openVolume(tmp_path / "rec" / "scan.tiff" if isOneFile else tmp_path / "rec")
    np.testing.assert_array_equal(read.read(), planes.T)
    checkSides(read.frame, (0.65,) * 3, "um")


DAMAGED = {
    "no number": ("voxel_size_cm = small", SECTION, "a_infos.txt is damaged ('small' is no size)"),
    "empty": ("voxel_size_cm = ", SECTION, "a_infos.txt is damaged ('' is no size)"),
    "no value": ("voxel_size_cm", SECTION, "a_infos.txt is damaged ('' is no size)"),
    "None": ("voxel_size_cm = None", SECTION, "a_infos.txt is damaged ('None' is no size)"),
    "two sides": ("voxel_size_cm = 1, 2", SECTION, "a_infos.txt is damaged ('1, 2' is no size)"),
    "zero": ("voxel_size_cm = 0", SECTION, "a_infos.txt is damaged ('0' is no size)"),
    "below zero": ("voxel_size_cm = -1", SECTION, "a_infos.txt is damaged ('-1' is no size)"),
    "not finite": ("voxel_size_cm = inf", SECTION, "a_infos.txt is damaged ('inf' is no size)"),
    "missing": ("other = 1", SECTION, "a_infos.txt does not give it either"),
    "elsewhere": ("voxel_size_cm = 1", "[nabu_config.phase]\n", "a_infos.txt does not give it either"),
    "no text": ("= 1", SECTION, "a_infos.txt is damaged"),
    "both": (
        "voxel_size_cm = 6.5e-05\npixel_size_cm = 1e-4",
        SECTION,
        "a_infos.txt gives it in several ways (6.5e-05, 1e-4)",
    ),
}


@pytest.mark.parametrize("case", DAMAGED)
def testDamagedTextsOfNabuAreToldInTheReason(tmp_path, case):
    line, section, words = DAMAGED[case]
    writeNote(tmp_path / "a_infos.txt", line, section)
    frame = write(tmp_path / "a.tif")
    assert frame.unit == "voxel"
    assert frame.why == f"the TIFF gives no size of a voxel, and {words}; --voxelSize does"


def testTheSameSizeTwiceIsOne(tmp_path):
    writeNote(tmp_path / "a_infos.txt", "voxel_size_cm = 6.5e-05\npixel_size_cm = 0.000065")
    checkSides(write(tmp_path / "a.tif"), (0.65,) * 3, "um")


def testOfSeveralTextsThatWhichIsNamedAsTheSlicesCounts(tmp_path):
    folder = writeSlices(tmp_path / "scan")
    writeNote(folder / "other_infos.txt", "voxel_size_cm = 1")
    writeNote(folder / "scan_infos.txt")
    checkSides(openVolume(folder).frame, (0.65,) * 3, "um")
    (folder / "scan_infos.txt").rename(folder / "third_infos.txt")
    words = "both other_infos.txt and third_infos.txt may tell it"
    assert openVolume(folder).frame.why == f"the TIFF gives no size of a voxel, and {words}; --voxelSize does"


def testTextsOfOtherStacksDoNotCount(tmp_path):
    writeNote(tmp_path / "b_infos.txt")
    assert write(tmp_path / "a.tif").why == "the TIFF gives no size of a voxel; --voxelSize does"


def testSizeOfAllSlicesIsNotThatOfEverySecondOne(tmp_path):
    folder = writeSlices(tmp_path / "scan", step=2)
    writeNote(folder / "scan_infos.txt")
    words = "scan_infos.txt is of all slices, and the numbers of these go up by 2"
    assert openVolume(folder).frame.why == f"{words}; --voxelSize does"


@pytest.mark.skipif(os.getuid() == 0, reason="nothing is forbidden to root")
def testTextThatMayNotBeReadIsToldInTheReason(tmp_path):
    writeNote(tmp_path / "a_infos.txt").chmod(0)
    words = "a_infos.txt cannot be read: Permission denied"
    assert (
        write(tmp_path / "a.tif").why == f"the TIFF gives no size of a voxel, and {words}; --voxelSize does"
    )


@pytest.mark.parametrize("line", ["voxel_size_cm = 6.5e-05", "voxel_size_cm = small"])
def testTextsOfNabuBelongToTheirVolumes(tmp_path, line):
    tifffile.imwrite(tmp_path / "a.tif", PLANES, **GREY)
    writeSlices(tmp_path / "b")
    for name in ("a_infos.txt", "b_infos.txt"):
        writeNote(tmp_path / name, line)
    assert listVolumes(tmp_path) == [tmp_path / "a.tif", tmp_path / "b"]
    writeNote(tmp_path / "c_infos.txt", line)
    with pytest.raises(PipelineError, match="c_infos.txt: is no "):
        listVolumes(tmp_path)
