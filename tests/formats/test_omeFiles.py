"""OME-TIFF of several files, described by themselves or by a companion file."""

import numpy as np
import pytest
import tifffile
from sampleVolumes import checkVolume
from sampleVolumes import refuse as refuseWhole

from engine.base.errors import PipelineError
from engine.formats.opening import openVolume
from engine.preparation.pairs import listVolumes

GREY = {"photometric": "minisblack"}
SHAPE = (6, 4, 5)  # (z, y, x)


def makePlanes():
    return np.random.default_rng(3).integers(0, 120, SHAPE).astype("uint16")


def check(volume, planes):
    """Compare a volume with its planes and with the place that the OME-XML gives."""
    checkVolume(volume, planes.T)
    np.testing.assert_allclose(volume.frame.sides, (0.65, 0.5, 1.3))
    assert volume.frame.unit == "um"


def refuse(path) -> str:
    """Give the line with which a volume is refused, without its path."""
    return refuseWhole(path).removeprefix(f"{path}: ")


XML = """<?xml version="1.0" encoding="UTF-8"?>
<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="urn:uuid:{own}"><Image ID="Image:0">
<Pixels ID="Pixels:0" DimensionOrder="{order}" Type="uint16" SizeX="5" SizeY="4" SizeZ="{depth}" SizeC="1"
SizeT="1" PhysicalSizeX="0.65" PhysicalSizeY="0.5" PhysicalSizeZ="1.3"><Channel ID="Channel:0:0"/>
{data}</Pixels></Image></OME>"""
DATA = """<TiffData FirstZ="{z}" IFD="{page}" PlaneCount="1"><UUID FileName="{name}">urn:uuid:{uuid}</UUID>
</TiffData>"""


def writeFiles(folder, layout, planes, order="XYZCT", names=None, byteorder="<", **options):
    """Write an OME-TIFF of several files as Bio-Formats does; `layout` gives the planes of each."""
    folder.mkdir()
    names = names or {name: name for name in layout}
    data = "".join(
        DATA.format(z=z, page=page, name=names[name], uuid=name)
        for name, numbers in layout.items()
        for page, z in enumerate(numbers)
    )
    for name, numbers in layout.items():
        xml = XML.format(own=name, order=order, depth=len(planes), data=data)
        with tifffile.TiffWriter(folder / name, byteorder=byteorder) as writer:
            for number, z in enumerate(numbers):
                description = None if number else xml
                settings = {"description": description, "metadata": None, "contiguous": False, **GREY}
                writer.write(planes[z], **settings, **options)


LAYOUTS = {
    "one each": {f"scan_z{z}.ome.tif": [z] for z in range(6)},
    "the other way": {f"scan_{5 - z}.ome.tif": [z] for z in range(6)},
    "some each": {"a.ome.tif": [0, 1, 2, 3], "b.ome.tif": [4, 5]},
    "mixed": {"a.ome.tif": [4, 1, 3], "b.ome.tif": [0, 5, 2]},
}


@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}, {"tile": (16, 16)}, {"byteorder": ">"}])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("order", ["XYZCT", "XYCTZ"])
def testOmeOfSeveralFilesIsReadByAnyOfThem(tmp_path, layout, options, order):
    planes, folder = makePlanes(), tmp_path / "scan"
    writeFiles(folder, LAYOUTS[layout], planes, order, **options)
    for name in LAYOUTS[layout]:
        volume = openVolume(folder / name)
        check(volume, planes)
        assert volume.path == volume.files[0] == folder / name
        assert set(volume.files) == {folder / other for other in LAYOUTS[layout]}
    assert listVolumes(folder) == [folder / sorted(LAYOUTS[layout])[0]]


@pytest.mark.parametrize("layout", LAYOUTS)
def testOmeOfSeveralFilesIsReadByItsFolder(tmp_path, layout):
    planes, folder = makePlanes(), tmp_path / "scan"
    writeFiles(folder, LAYOUTS[layout], planes)
    volume = openVolume(folder)
    check(volume, planes)
    assert volume.path == folder and {file.name for file in volume.files} == LAYOUTS[layout].keys()


REMEDY = "copy all files of this OME-TIFF into one folder, or save it as one file"


@pytest.mark.parametrize("layout", LAYOUTS)
def testAMissingFileOfAnOmeTiffIsNamed(tmp_path, layout):
    folder, names = tmp_path / "scan", sorted(LAYOUTS[layout])
    writeFiles(folder, LAYOUTS[layout], makePlanes())
    (folder / names[-1]).unlink()
    words = f"its OME-XML names the file {names[-1]}, which is not there; {REMEDY}"
    assert refuse(folder / names[0]) == words


@pytest.mark.parametrize(
    "name", ["../b.ome.tif", "/etc/hostname", "sub/../../b.ome.tif", "C:\\data\\b.ome.tif", ""]
)
def testAnOmeTiffReadsNothingOutsideOfItsFolder(tmp_path, name):
    folder = tmp_path / "scan"
    layout = LAYOUTS["some each"]
    writeFiles(folder, layout, makePlanes(), names={"a.ome.tif": "a.ome.tif", "b.ome.tif": name})
    (folder / "b.ome.tif").rename(tmp_path / "b.ome.tif")
    words = f"its OME-XML names a file outside of its folder (received {name or 'no name'}); {REMEDY}"
    assert refuse(folder / "a.ome.tif") == words


def testAFileOfAnOmeTiffThatIsCutIsRefused(tmp_path):
    folder, planes = tmp_path / "scan", makePlanes()
    writeFiles(folder, {"a.ome.tif": [0, 1, 2, 3], "b.ome.tif": [4]}, planes)
    words = f"slices that its OME-XML tells of are missing (expected 6, received 5); {REMEDY}"
    assert refuse(folder / "a.ome.tif") == words


def testASlicesThatOmeDoesNotNameIsNoneOfIts(tmp_path):
    folder = tmp_path / "scan"
    writeFiles(folder, LAYOUTS["one each"], makePlanes())
    tifffile.imwrite(folder / "scan_z6.ome.tif", makePlanes()[0], **GREY)
    with pytest.raises(PipelineError) as caught:
        openVolume(folder)
    words = "lies in the folder of slices scan, but their OME-XML does not name it; take it out of the folder"
    assert str(caught.value) == f"{folder / 'scan_z6.ome.tif'}: {words}"


def testSlicesOfOmeThatNameThemselvesAloneAreSlices(tmp_path):
    planes = makePlanes()
    (tmp_path / "scan").mkdir()
    for z, plane in enumerate(planes):
        tifffile.imwrite(
            tmp_path / "scan" / f"s_{z}.ome.tif", plane, ome=True, metadata={"axes": "YX"}, **GREY
        )
    checkVolume(openVolume(tmp_path / "scan"), planes.T)


def testARenamedOmeTiffIsReadAllTheSame(tmp_path):
    planes = makePlanes()
    writeFiles(tmp_path / "scan", {"old.ome.tif": range(6)}, planes)
    (tmp_path / "scan" / "old.ome.tif").rename(tmp_path / "new.tif")
    check(openVolume(tmp_path / "new.tif"), planes)


def testPlanesThatOmeAnnouncesAndThatAreNotThereAreNoZeros(tmp_path):
    planes = makePlanes()
    xml = XML.format(own="a", order="XYZCT", depth=9, data="<TiffData/>")
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        for number, plane in enumerate(planes):
            writer.write(plane, description=None if number else xml, metadata=None, contiguous=False, **GREY)
    words = f"slices that its OME-XML tells of are missing (expected 9, received 6); {REMEDY}"
    assert refuse(tmp_path / "a.tif") == words


# ------------------------------------------------------------------------------------------ companion files

PART = """<?xml version="1.0" encoding="UTF-8"?>
<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="{own}">
<BinaryOnly MetadataFile="{companion}" UUID="urn:uuid:companion"/></OME>"""


def writeCompanion(folder, layout, planes, companion="scan.companion.ome", order="XYZCT", **options):
    """Write TIFF files that leave their OME-XML to a file of its own, as Bio-Formats does."""
    folder.mkdir()
    data = "".join(
        DATA.format(z=z, page=page, name=name, uuid=name)
        for name, numbers in layout.items()
        for page, z in enumerate(numbers)
    )
    xml = XML.format(own="companion", order=order, depth=len(planes), data=data)
    for name, numbers in layout.items():
        with tifffile.TiffWriter(folder / name) as writer:
            for number, z in enumerate(numbers):
                part = None if number else PART.format(own=name, companion=companion)
                settings = {"description": part, "metadata": None, "contiguous": False, **GREY}
                writer.write(planes[z], **settings, **options)
    if "/" not in companion:
        (folder / companion).write_text(xml)
    return folder / companion


@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("order", ["XYZCT", "XYCTZ"])
def testOmeWithACompanionIsReadByAnyOfItsFilesAndByItsFolder(tmp_path, layout, options, order):
    planes, folder = makePlanes(), tmp_path / "scan"
    companion = writeCompanion(folder, LAYOUTS[layout], planes, order=order, **options)
    files = {companion, *(folder / name for name in LAYOUTS[layout])}
    for name in LAYOUTS[layout]:
        volume = openVolume(folder / name)
        check(volume, planes)
        assert volume.path == volume.files[0] == folder / name and set(volume.files) == files
    volume = openVolume(folder)
    check(volume, planes)
    assert volume.path == folder and set(volume.files) == files
    assert listVolumes(folder) == [folder / sorted(LAYOUTS[layout])[0]]


@pytest.mark.parametrize("contiguous", [True, False])
def testOneFileWithACompanionIsRead(tmp_path, contiguous):
    planes = makePlanes()
    companion = writeCompanion(tmp_path / "scan", {"a.ome.tif": range(6)}, planes)
    path, xml = tmp_path / "scan" / "a.ome.tif", PART.format(own="a.ome.tif", companion=companion.name)
    if contiguous:
        tifffile.imwrite(path, planes, description=xml, metadata=None, **GREY)
    volume = openVolume(path)
    check(volume, planes)
    assert volume.files == (path, companion)


@pytest.mark.parametrize("contiguous", [True, False])
def testVoxelsAreThoseOfTheFileThatIsNamed(tmp_path, contiguous):
    """Also where all of them lie in another file than the one that describes them."""
    planes = makePlanes()
    writeFiles(tmp_path / "scan", {"a.ome.tif": range(6)}, planes)
    first, path = (tmp_path / "scan" / name for name in ("master.ome.tif", "a.ome.tif"))
    with tifffile.TiffFile(path) as tiff:
        xml = tiff.ome_metadata.replace("urn:uuid:a.ome.tif", "urn:uuid:master", 1)
    tifffile.imwrite(first, np.zeros(SHAPE, "uint16"), description=xml, metadata=None, **GREY)
    if contiguous:
        tifffile.imwrite(path, planes, description="", metadata=None, **GREY)
    check(openVolume(first), planes)


def testAMissingCompanionIsNamed(tmp_path):
    writeCompanion(tmp_path / "scan", LAYOUTS["some each"], makePlanes()).unlink()
    words = f"its OME-XML names the file scan.companion.ome, which is not there; {REMEDY}"
    assert refuse(tmp_path / "scan" / "a.ome.tif") == words


@pytest.mark.parametrize("name", ["../scan.companion.ome", "/etc/hostname", "C:\\scan.companion.ome", ""])
def testACompanionOutsideOfTheFolderIsNotRead(tmp_path, name):
    folder = tmp_path / "scan"
    writeCompanion(folder, LAYOUTS["some each"], makePlanes()).rename(tmp_path / "scan.companion.ome")
    xml = PART.format(own="a", companion=name)
    tifffile.imwrite(folder / "a.ome.tif", makePlanes(), description=xml, metadata=None, **GREY)
    words = f"its OME-XML names a file outside of its folder (received {name or 'no name'}); {REMEDY}"
    assert refuse(folder / "a.ome.tif") == words


@pytest.mark.parametrize("name", ["../b.ome.tif", "/etc/hostname", "gone.ome.tif"])
def testACompanionNamesNothingOutsideOfItsFolder(tmp_path, name):
    companion = writeCompanion(tmp_path / "scan", LAYOUTS["some each"], makePlanes())
    (tmp_path / "scan" / "b.ome.tif").rename(tmp_path / "b.ome.tif")
    companion.write_text(companion.read_text().replace('"b.ome.tif"', f'"{name}"'))
    rule = f"names the file {name}, which is not there" if "gone" in name else "names a file outside of its"
    assert refuse(tmp_path / "scan" / "a.ome.tif").startswith(f"its OME-XML {rule}")


NO_PLACES = f"does not tell in which file each slice lies; {REMEDY}"
BAD_COMPANIONS = {
    "empty": (lambda text: "", "is damaged: no element found"),
    "cut": (lambda text: text[:-20], "is damaged: "),
    "no OME": (lambda text: "<a/>", NO_PLACES),
    "no slices": (lambda text: text[: text.index("<TiffData")] + "</Pixels></Image></OME>", NO_PLACES),
    "no files": (lambda text: text.replace("FileName=", "Name="), NO_PLACES),
    "not this file": (
        lambda text: text.replace("a.ome.tif", "b.ome.tif"),
        "is described by scan.companion.ome, which does not name it (expected a file such as b.ome.tif)",
    ),
    "one UUID": (
        lambda text: text.replace("urn:uuid:b.ome.tif", "urn:uuid:a.ome.tif"),
        "its OME-XML gives several files the UUID 'urn:uuid:a.ome.tif'; save it as one file",
    ),
    "no UUID": (
        lambda text: text.replace("urn:uuid:b.ome.tif", ""),
        "its OME-XML gives several files the UUID ''; save it as one file",
    ),
}


@pytest.mark.parametrize("case", BAD_COMPANIONS)
def testACompanionThatDoesNotDescribeItsFilesIsRefused(tmp_path, case):
    change, words = BAD_COMPANIONS[case]
    companion = writeCompanion(tmp_path / "scan", LAYOUTS["some each"], makePlanes())
    companion.write_text(change(companion.read_text()))
    path = tmp_path / "scan" / "a.ome.tif"
    file = companion if words in (NO_PLACES,) or "damaged" in words else path
    assert refuseWhole(path).startswith(f"{file}: {words}")


FEWER = "its OME-XML tells of fewer slices than its files have pages (received 5); save it as one file"
BAD_XML = {
    "fewer slices": (("SizeZ", "6", "5"), FEWER),
    "more slices": (
        ("SizeZ", "6", "7"),
        "slices that its OME-XML tells of are missing (expected 7, received 6)",
    ),
    "wider": (("SizeX", "5", "6"), "its OME-XML does not fit the pages of its files; copy all files"),
    "narrower": (("SizeX", "5", "4"), "its OME-XML does not fit the pages of its files; copy all files"),
    "a slice twice": (
        ("FirstZ", "1", "0"),
        "slices that its OME-XML tells of are missing (expected 6, received 5)",
    ),
    "a page twice": (("IFD", "1", "0"), "its OME-XML takes a page for several slices; save it as one file"),
    "no such page": (
        ("IFD", "1", "9"),
        "slices that its OME-XML tells of are missing (expected 6, received 4)",
    ),
    "channels": (("SizeC", "1", "6"), "has several channels (expected one, received 6)"),
}


@pytest.mark.parametrize("isCompanion", [True, False])
@pytest.mark.parametrize("case", BAD_XML)
def testXmlThatDoesNotFitItsFilesLosesNoSlices(tmp_path, case, isCompanion):
    (name, old, new), words = BAD_XML[case]
    folder, planes = tmp_path / "scan", makePlanes()
    old, new = (f'{name}="{number}"' for number in (old, new))
    if isCompanion:
        companion = writeCompanion(folder, LAYOUTS["some each"], planes)
        companion.write_text(companion.read_text().replace(old, new))
    else:
        writeFiles(folder, LAYOUTS["some each"], planes)
        for name in LAYOUTS["some each"]:
            with tifffile.TiffFile(folder / name) as tiff:
                xml = tiff.ome_metadata.replace(old, new)
            tifffile.tiffcomment(folder / name, xml.encode())
    assert refuse(folder / "a.ome.tif").startswith(words)


def testAPartThatAnotherTiffDescribesNamesThat(tmp_path):
    xml = PART.format(own="a", companion="scan.ome.tif")
    tifffile.imwrite(tmp_path / "a.tif", makePlanes(), description=xml, metadata=None, **GREY)
    words = "is a part of an OME-TIFF that scan.ome.tif describes; name scan.ome.tif, or save it as one file"
    assert refuse(tmp_path / "a.tif") == words
