"""Volumes of PyHST and nabu, with the descriptions that their writers make."""

import numpy as np
import pytest
from sampleVolumes import checkVolume, refuse, sampleArray

from engine.formats.opening import openVolume, stemOf
from engine.formats.rawData import RawVolume

SHAPE = (7, 5, 4)  # (x, y, z)
INFO = """! PyHST_SLAVE VOLUME INFO FILE
NUM_X =  7
NUM_Y =  5
NUM_Z =  4
voxelSize =  0.65
BYTEORDER = LOWBYTEFIRST
ValMin =  -1.5
ValMax =  2.5
s1 =  0.0
s2 =  1.0
S1 =  0.0
S2 =  1.0"""


def write(folder, array, info=INFO, name="scan.vol.info"):
    """Write voxels (x, y, z) and their description."""
    (folder / "scan.vol").write_bytes(array.tobytes("F"))
    (folder / name).write_text(info)
    return folder / "scan.vol"


@pytest.mark.parametrize("name", ["scan.vol.info", "scan.info"])
def testVolumeOfPyhstIsReadAsItsDescriptionSays(tmp_path, name):
    array = sampleArray("<f4", SHAPE)
    volume = openVolume(write(tmp_path, array, name=name))
    checkVolume(volume, array)
    assert isinstance(volume, RawVolume) and volume.header == {} and stemOf(volume.path) == "scan"
    assert volume.files == (tmp_path / "scan.vol", tmp_path / name)
    np.testing.assert_allclose(volume.frame.sides, (0.65,) * 3)
    assert (volume.frame.unit, volume.frame.space, volume.frame.hasOrigin) == ("um", None, False)


@pytest.mark.parametrize("dtype", ["<f4", "|u1", "<u2", ">f4", ">u2"])
def testTypeFollowsFromTheLengthOfTheFile(tmp_path, dtype):
    array = sampleArray(dtype, SHAPE)
    info = INFO.replace("LOWBYTEFIRST", "HIGHBYTEFIRST") if dtype[0] == ">" else INFO
    checkVolume(openVolume(write(tmp_path, array, info)), array)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32", "uint16", "int32", "float64"])
def testTypeOfTheDescriptionBeatsThatOfTheLength(tmp_path, dtype):
    array = sampleArray(dtype, SHAPE)
    info = f"! PyHST_SLAVE VOLUME INFO FILE\nNUM_X =    7\nNUM_Y =    5\nNUM_Z =    4\nDATA_TYPE = {dtype}\n"
    volume = openVolume(write(tmp_path, array, info))
    checkVolume(volume, array)
    assert volume.frame.why == "scan.vol.info gives no size of a voxel; --voxelSize does"


def writeTomoscan(folder, array, sides=None, **metadata):
    """Write voxels (x, y, z) as tomoscan does; sides (z, y, x) in metres."""
    tomoscan = pytest.importorskip("tomoscan.esrf.volume.rawvolume")
    sizes = {f"NUM_{axis}": size for axis, size in zip("XYZ", array.shape, strict=True)}
    fields = {"path": str(folder / "scan.vol"), "data": np.ascontiguousarray(array.T)}
    volume = tomoscan.RawVolume(fields["path"], fields["data"], metadata=sizes | metadata)
    if sides:
        volume.voxel_size = sides
    volume.save()
    assert (folder / "scan.vol.info").is_file()
    return folder / "scan.vol"


def testVolumesOfTomoscanAreRead(tmp_path):
    array = sampleArray("<f4", SHAPE)
    volume = openVolume(writeTomoscan(tmp_path, array, voxelSize=0.65, BYTEORDER="LOWBYTEFIRST"))
    checkVolume(volume, array)
    np.testing.assert_allclose(volume.frame.sides, (0.65,) * 3)
    volume = openVolume(writeTomoscan(tmp_path, array, (1.3e-6, 0.5e-6, 0.65e-6)))
    checkVolume(volume, array)
    np.testing.assert_allclose(volume.frame.sides, (0.65, 0.5, 1.3))
    assert volume.frame.unit == "um"


def testSidesInCentimetresAreThoseOfTomoscan(tmp_path):
    section = "[processing_options.reconstruction]\nvoxel_size_cm = 0.00013000000000000002, 5e-05, 6.5e-05\n"
    volume = openVolume(write(tmp_path, sampleArray("<f4", SHAPE), f"{INFO}\n\n{section}"))
    np.testing.assert_allclose(volume.frame.sides, (0.65, 0.5, 1.3))
    assert volume.frame.unit == "um"


def testVolumesOfNabuAreRead(tmp_path):
    writer = pytest.importorskip("nabu.io.writer")
    array = sampleArray("<f4", SHAPE)
    path = tmp_path / "scan.vol"
    writer.HSTVolWriter(str(path), hst_metadata={"voxelSize": 0.65}).write(np.ascontiguousarray(array.T))
    names = ("scan.vol", "scan.vol.info", "scan.vol.xml")
    volume = openVolume(path)
    checkVolume(volume, array)
    assert volume.files == tuple(tmp_path / name for name in names)
    np.testing.assert_allclose(volume.frame.sides, (0.65,) * 3)


XML = """<?xml version="1.0" ?>
<tomodb2>
  <reconstruction>
    <idAc>N_A_</idAc>
    <listSubVolume>
      <subVolume>
        <SUBVOLUME_NAME>scan.vol</SUBVOLUME_NAME>
        <SIZEX>7</SIZEX>
        <SIZEY>5</SIZEY>
        <SIZEZ>4</SIZEZ>
        <ORIGINX>1</ORIGINX>
        <ORIGINY>1</ORIGINY>
        <ORIGINZ>1</ORIGINZ>
        <DIM_REC>560</DIM_REC>
        <BYTE_ORDER>LOWBYTEFIRST</BYTE_ORDER>
        <voxelSize>0.65</voxelSize>
        <ValMin>-1.5</ValMin>
        <s1>0.0</s1>
        <S1>0.0</S1>
      </subVolume>
    </listSubVolume>
  </reconstruction>
</tomodb2>
"""
PART = XML[XML.index("<subVolume>") : XML.index("</subVolume>") + len("</subVolume>")]


@pytest.mark.parametrize("dtype", ["<f4", "|u1", "<u2", ">f4", ">u2"])
@pytest.mark.parametrize("spelling", [str, str.lower])
def testXmlOfPyhstDescribesAVolumeToo(tmp_path, dtype, spelling):
    array = sampleArray(dtype, SHAPE)
    xml = XML.replace("LOWBYTEFIRST", "HIGHBYTEFIRST") if dtype[0] == ">" else XML
    volume = openVolume(write(tmp_path, array, spelling(xml), "scan.vol.xml"))
    checkVolume(volume, array)
    assert volume.files == (tmp_path / "scan.vol", tmp_path / "scan.vol.xml")
    np.testing.assert_allclose(volume.frame.sides, (0.65,) * 3)
    assert (volume.frame.unit, volume.frame.space, volume.frame.hasOrigin) == ("um", None, False)


def testXmlOfNabuDescribesAVolumeToo(tmp_path):
    writer = pytest.importorskip("nabu.io.writer")
    array, path = sampleArray("<f4", SHAPE), tmp_path / "scan.vol"
    writer.HSTVolWriter(str(path), hst_metadata={"voxelSize": 0.65}).write(np.ascontiguousarray(array.T))
    (tmp_path / "scan.vol.info").unlink()
    volume = openVolume(path)
    checkVolume(volume, array)
    np.testing.assert_allclose(volume.frame.sides, (0.65,) * 3)
    assert volume.frame.unit == "um"


def testTheTextIsReadWhereBothAreThere(tmp_path):
    array = sampleArray("<f4", SHAPE)
    (tmp_path / "scan.vol.xml").write_text("damaged")
    checkVolume(openVolume(write(tmp_path, array)), array)


def testOfSeveralSubVolumesThatOfTheNameOfTheFileIsMeant(tmp_path):
    array = sampleArray("<f4", SHAPE)
    other = PART.replace("scan.vol", "other.vol").replace("0.65", "6.5").replace("<SIZEX>7", "<SIZEX>9")
    volume = openVolume(write(tmp_path, array, XML.replace(PART, other + PART), "scan.vol.xml"))
    checkVolume(volume, array)
    np.testing.assert_allclose(volume.frame.sides, (0.65,) * 3)
    renamed = XML.replace("scan.vol", "old.vol")
    checkVolume(openVolume(write(tmp_path, array, renamed, "scan.vol.xml")), array)


BAD_XML = {
    "empty": ("", "is damaged: no element found"),
    "cut": (XML[:200], "is damaged: "),
    "no volume": (
        XML.replace(PART, ""),
        "does not describe one volume (expected a subVolume of SUBVOLUME_NAME scan.vol, received 0 of them)",
    ),
    "two": (
        XML.replace(PART, PART * 2),
        "does not describe one volume (expected a subVolume of SUBVOLUME_NAME scan.vol, received 2 of them)",
    ),
    "sides": (
        XML.replace("<SIZEY>5</SIZEY>", ""),
        "SIZEX, SIZEY and SIZEZ must be positive whole numbers (received 7, missing, 4)",
    ),
    "order": (
        XML.replace("LOWBYTEFIRST", "VAX"),
        "BYTE_ORDER cannot be read (expected LOWBYTEFIRST or HIGHBYTEFIRST, received VAX)",
    ),
}


@pytest.mark.parametrize("case", BAD_XML)
def testXmlThatCannotBeReadIsToldInOneLine(tmp_path, case):
    xml, words = BAD_XML[case]
    path = write(tmp_path, sampleArray("<f4", SHAPE), xml, "scan.vol.xml")
    assert refuse(path).startswith(f"{tmp_path / 'scan.vol.xml'}: {words}")


@pytest.mark.parametrize("size", ["0.0", "", "unknown"])
def testXmlWithoutAUsableSizeLeavesLengthsInVoxels(tmp_path, size):
    xml = XML.replace("0.65", size)
    volume = openVolume(write(tmp_path, sampleArray("<f4", SHAPE), xml, "scan.vol.xml"))
    assert volume.frame.unit == "voxel"


def testRawFileWithADescriptionOfPymicroIsRead(tmp_path):
    array = sampleArray("uint16", SHAPE)
    (tmp_path / "scan.raw").write_bytes(array.tobytes("F"))
    (tmp_path / "scan.raw.info").write_text("NUM_X = 7\nNUM_Y = 5\nNUM_Z = 4\nDATA_TYPE = uint16\n")
    volume = openVolume(tmp_path / "scan.raw")
    checkVolume(volume, array)
    assert volume.files == (tmp_path / "scan.raw", tmp_path / "scan.raw.info")


def testCommentsAndSpacesAreNoFields(tmp_path):
    info = "! NUM_X = 99\n\n  num_x=7   ! across\nNUM_Y=5 # NUM_Y = 6\nNUM_Z =4\nnonsense\n"
    info += "voxelSize = 0.5 0.6 0.7 ! NUM_Z = 3\n"
    volume = openVolume(write(tmp_path, sampleArray("<f4", SHAPE), info))
    checkVolume(volume, sampleArray("<f4", SHAPE))
    np.testing.assert_allclose(volume.frame.sides, (0.5, 0.6, 0.7))


@pytest.mark.parametrize("size", ["0", "", "unknown", "nan", "1 2"])
def testLengthsAreInVoxelsWithoutAUsableSize(tmp_path, size):
    info = INFO.replace("voxelSize =  0.65", f"voxelSize = {size}")
    assert openVolume(write(tmp_path, sampleArray("<f4", SHAPE), info)).frame.unit == "voxel"


def testLayoutTakesThePlaceOfADescription(tmp_path):
    array = sampleArray(">u2", SHAPE)
    (tmp_path / "scan.vol").write_bytes(array.tobytes("F"))
    volume = openVolume(f"{tmp_path / 'scan.vol'}::7x5x4 uint16 big")
    checkVolume(volume, array)
    assert volume.inner == "7x5x4 uint16 big" and volume.frame.unit == "voxel"


def testMissingDescriptionIsNamed(tmp_path):
    (tmp_path / "scan.vol").write_bytes(bytes(560))
    words = "its description is missing beside it (expected scan.vol.info or scan.vol.xml); "
    words += "or write the layout behind the name: 'scan.vol::512x512x300 float32'"
    assert refuse(tmp_path / "scan.vol") == f"{tmp_path / 'scan.vol'}: {words}"
    assert refuse(tmp_path / "b.vol") == f"{tmp_path / 'b.vol'}: there is no such file"


BAD = {
    "sides": (
        ("NUM_Y =  5", ""),
        "NUM_X, NUM_Y and NUM_Z must be positive whole numbers (received 7, missing, 4)",
    ),
    "none": (
        ("NUM_Y =  5", "NUM_Y = 0"),
        "NUM_X, NUM_Y and NUM_Z must be positive whole numbers (received 7, 0, 4)",
    ),
    "half": (("NUM_Y =  5", "NUM_Y = 5.5"), "NUM_X, NUM_Y and NUM_Z must be positive whole numbers"),
    "order": (
        ("LOWBYTEFIRST", "MIDDLEBYTEFIRST"),
        "BYTEORDER cannot be read (expected LOWBYTEFIRST or HIGHBYTEFIRST, received MIDDLEBYTEFIRST)",
    ),
    "bits": (("S2 =", "DATA_TYPE = PACKED_BINARY\nS2 ="), "DATA_TYPE cannot be read (expected uint8, int8"),
}


@pytest.mark.parametrize("case", BAD)
def testDescriptionThatCannotBeReadIsToldInOneLine(tmp_path, case):
    (old, new), words = BAD[case]
    path = write(tmp_path, sampleArray("<f4", SHAPE), INFO.replace(old, new))
    assert refuse(path).startswith(f"{tmp_path / 'scan.vol.info'}: {words}")


def testDescriptionOfAnotherLengthIsRefused(tmp_path):
    path = write(tmp_path, sampleArray("<f4", SHAPE))
    path.write_bytes(path.read_bytes()[:-3])
    words = "the length of the file does not fit its layout "
    words += "(expected 560 bytes of voxels by 7x5x4 float32, received 557 bytes)"
    assert refuse(path) == f"{path}: {words}"
    path.write_bytes(bytes(7 * 5 * 3 * 4))
    assert refuse(path).endswith("received 420 bytes); '7x5x3 float32' would fit")
