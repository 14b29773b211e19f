"""MetaImages against ITK's own reading of them: values, order, place in space, unit."""

import logging
import tracemalloc
import zlib

import nrrd
import numpy as np
import pytest
import SimpleITK as sitk
from sampleVolumes import checkVolume, refusal, sampleArray, writeVolume

from engine.base.errors import PipelineError
from engine.formats.metaImages import TYPES
from engine.formats.metaWriter import nameMetaHeader, writeMetaHeader
from engine.formats.nrrdGeometry import resultHeader
from engine.formats.opening import openVolume
from engine.formats.rawData import RawVolume, isSequential
from engine.masks.place import putInPlace
from engine.volumes.frame import Turn, compareFrames, findTurn

SHAPE = (7, 5, 4)  # (x, y, z)
SPACING, ORIGIN = (0.65, 0.5, 1.3), (-12.5, 3.25, 100.0)
TURN = np.array([[0.36, 0.48, -0.8], [-0.8, 0.6, 0.0], [0.48, 0.64, 0.6]])  # columns: axes x, y, z
ITK_TYPES = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64")


def writeItk(path, array, isCompressed=False):
    """Write an array (x, y, z) with an oblique place in space, as ITK does."""
    image = sitk.GetImageFromArray(array.T)
    image.SetSpacing(SPACING)
    image.SetOrigin(ORIGIN)
    image.SetDirection(TURN.ravel().tolist())
    sitk.WriteImage(image, str(path), isCompressed)
    return path


def writeText(path, *lines, data=b"", **changes):
    """Write a header by hand; None drops a field, ElementDataFile comes last."""
    fields = {"ObjectType": "Image", "NDims": "3", "DimSize": "7 5 4", "ElementType": "MET_USHORT"}
    fields |= {"ElementSpacing": "0.65 0.5 1.3", "ElementDataFile": "a.raw"} | changes
    fields["ElementDataFile"] = fields.pop("ElementDataFile")
    text = "".join(f"{name} = {value}\n" for name, value in fields.items() if value is not None)
    path.write_bytes((text + "".join(f"{line}\n" for line in lines)).encode() + data)
    return path


def checkLikeItk(path):
    """Compare values and place with ITK's reading of the same file; ITK's types are those of the file."""
    image, volume = sitk.ReadImage(str(path)), openVolume(path)
    checkVolume(volume, sitk.GetArrayFromImage(image).T)
    turn = np.array(image.GetDirection()).reshape(3, 3)
    np.testing.assert_allclose(volume.frame.directions, (turn * image.GetSpacing()).T, atol=1e-12)
    np.testing.assert_allclose(volume.frame.origin, image.GetOrigin(), atol=1e-9)
    return volume


# -------------------------------------------------- as ITK writes them


@pytest.mark.parametrize("isCompressed", [False, True])
@pytest.mark.parametrize("name", ["a.mha", "a.mhd"])
@pytest.mark.parametrize("dtype", ITK_TYPES)
def testFilesOfItkAreReadAsItkReadsThem(tmp_path, name, dtype, isCompressed):
    array = sampleArray(dtype, SHAPE)
    volume = checkLikeItk(writeItk(tmp_path / name, array, isCompressed))
    np.testing.assert_array_equal(volume.read(), array)
    assert isinstance(volume, RawVolume) and volume.header == {} and isSequential(volume) == isCompressed
    np.testing.assert_allclose(volume.frame.directions, TURN.T * np.array(SPACING)[:, np.newaxis], atol=1e-12)
    np.testing.assert_allclose(volume.frame.sides, SPACING)
    assert volume.frame.space == "left-posterior-superior" and volume.frame.hasOrigin
    names = [name] if name.endswith("mha") else [name, "a.zraw" if isCompressed else "a.raw"]
    assert [path.name for path in volume.files] == names


@pytest.mark.parametrize("other", ["b.nrrd", "b.nii", "b.nii.gz", "b.mha"])
def testImageAndMaskOfItkLieOnEachOtherInAnyFormat(tmp_path, other):
    image = openVolume(writeItk(tmp_path / "a.mhd", sampleArray("uint16", SHAPE)))
    mask = openVolume(writeItk(tmp_path / other, sampleArray("uint8", SHAPE)))
    assert findTurn(image.frame, mask.frame) == Turn() and image.frame.hasOrigin and mask.frame.hasOrigin
    for one, two in ((image, mask), (mask, image)):
        assert compareFrames(one.frame, two.frame, SHAPE) is None
        assert putInPlace(one, two, "") is two
    moved = mask.frame._replace(origin=mask.frame.origin + (0, 0, 0.3))
    assert compareFrames(image.frame, moved, SHAPE)[0] == "space origin"


def testLengthsHaveNoUnitAsThoseOfNrrdOfItk(tmp_path):
    array = sampleArray("uint8", SHAPE)
    frames = [openVolume(writeItk(tmp_path / name, array)).frame for name in ("a.mha", "a.nrrd")]
    assert [frame.unit for frame in frames] == ["", ""]
    assert frames[0].note == "The header names no unit: lengths are in that of its voxel size"


@pytest.mark.parametrize(("unit", "expected"), [("um", "um"), ("mm", "mm"), ("cm", "cm"), ("?", "")])
def testUnitIsThatOfTheHeader(tmp_path, unit, expected):
    (tmp_path / "a.raw").write_bytes(bytes(280))
    assert openVolume(writeText(tmp_path / "a.mhd", DistanceUnits=unit)).frame.unit == expected


def testPlaceTravelsToAResult(tmp_path):
    volume = openVolume(writeItk(tmp_path / "a.mha", sampleArray("uint16", SHAPE)))
    header = resultHeader(volume, ((2, 7), (0, 5), (1, 4)), "uint8")
    writeVolume(tmp_path / "b.nrrd", np.zeros((5, 5, 3), np.uint8), header)
    image = sitk.ReadImage(str(tmp_path / "b.nrrd"))
    whole = sitk.ReadImage(str(tmp_path / "a.mha"))
    np.testing.assert_allclose(image.GetOrigin(), whole.TransformIndexToPhysicalPoint((2, 0, 1)))
    np.testing.assert_allclose(image.GetDirection(), whole.GetDirection(), atol=1e-9)


# -------------------------------------------------- written by hand


@pytest.mark.parametrize("field", ["ElementByteOrderMSB", "BinaryDataByteOrderMSB"])
@pytest.mark.parametrize("order", [">", "<"])
def testByteOrderIsThatOfTheHeader(tmp_path, field, order):
    array = sampleArray(f"{order}u2", SHAPE)
    (tmp_path / "a.raw").write_bytes(array.tobytes("F"))
    volume = checkLikeItk(writeText(tmp_path / "a.mhd", **{field: str(order == ">")}))
    np.testing.assert_array_equal(volume.read(), array)


@pytest.mark.parametrize("name", TYPES)
def testEveryTypeIsThatOfItk(tmp_path, name):
    array = sampleArray(f"<{TYPES[name]}", SHAPE)
    (tmp_path / "a.raw").write_bytes(array.tobytes("F"))
    checkLikeItk(writeText(tmp_path / "a.mhd", ElementType=name))


PLACES = {
    "spacing": {},
    "size": {"ElementSpacing": None, "ElementSize": "0.65 0.5 1.3"},
    "both": {"ElementSize": "9 9 9"},
    "offset": {"Offset": "1 2 3"},
    "position": {"Position": "1 2 3"},
    "origin": {"Origin": "1 2 3"},
    "matrix": {"TransformMatrix": "0.36 -0.8 0.48 0.48 0.6 0.64 -0.8 0 0.6", "Offset": "-1 -2 3"},
    "rotation": {"Rotation": "0 1 0 0 0 1 1 0 0"},
    "orientation": {"Orientation": "0 1 0 0 0 1 1 0 0"},
    "centre": {"TransformMatrix": "0 1 0 -1 0 0 0 0 1", "CenterOfRotation": "5 6 7", "Offset": "1 2 3"},
    "anatomy": {"AnatomicalOrientation": "LPS", "Offset": "1 2 3"},
    "anatomyRAI": {"AnatomicalOrientation": "RAI", "TransformMatrix": "-1 0 0 0 -1 0 0 0 1"},
}


@pytest.mark.parametrize("case", PLACES)
def testPlaceIsThatOfItk(tmp_path, case):
    (tmp_path / "a.raw").write_bytes(sampleArray("<u2", SHAPE).tobytes("F"))
    volume = checkLikeItk(writeText(tmp_path / "a.mhd", **PLACES[case]))
    assert volume.frame.hasOrigin == any(name in PLACES[case] for name in ("Offset", "Position", "Origin"))


def testLengthsAreInVoxelsWithoutSpacing(tmp_path):
    (tmp_path / "a.raw").write_bytes(bytes(280))
    frame = openVolume(writeText(tmp_path / "a.mhd", ElementSpacing=None)).frame
    assert (frame.unit, frame.why) == ("voxel", "the header gives no size of a voxel")
    frame = openVolume(writeText(tmp_path / "a.mhd", ElementSpacing="1 -1 1")).frame
    assert frame.unit == "voxel" and "(1.0, -1.0, 1.0)" in frame.why


@pytest.mark.parametrize(("skip", "before"), [("13", 13), ("-1", 13), (None, 0), ("0", 0)])
def testHeaderOfTheDataFileIsSkipped(tmp_path, skip, before):
    (tmp_path / "a.raw").write_bytes(bytes(range(before)) + sampleArray("<u2", SHAPE).tobytes("F"))
    volume = checkLikeItk(writeText(tmp_path / "a.mhd", HeaderSize=skip))
    np.testing.assert_array_equal(volume.read(), sampleArray("<u2", SHAPE))


@pytest.mark.parametrize("isBinary", ["True", None])
def testVoxelsAreBinaryUnlessTheHeaderSaysNo(tmp_path, isBinary):
    data = sampleArray("<u2", SHAPE).tobytes("F")
    volume = checkLikeItk(
        writeText(tmp_path / "a.mha", BinaryData=isBinary, ElementDataFile="LOCAL", data=data)
    )
    np.testing.assert_array_equal(volume.read(), sampleArray("<u2", SHAPE))


def testVoxelsMayBeText(tmp_path):
    array = sampleArray("<u2", SHAPE)
    data = " ".join(map(str, array.ravel("F"))).encode()
    checkVolume(
        openVolume(writeText(tmp_path / "a.mha", BinaryData="False", ElementDataFile="LOCAL", data=data)),
        array,
    )


def writeParts(folder, array, count, compress=bytes):
    """Write as many equal files as are wanted, numbered from 8 in threes; return their names."""
    names = [f"s{8 + 3 * number:03d}.raw" for number in range(count)]
    for name, part in zip(names, np.split(array.ravel("F"), count), strict=True):
        (folder / name).write_bytes(compress(part.tobytes()))
    return names


@pytest.mark.parametrize(("dimension", "count"), [("", 4), (" 2", 4), (" 2D", 4), (" 3", 1), (" 1", 20)])
def testFilesInAListAreReadInItsOrder(tmp_path, dimension, count):
    array = sampleArray("<u2", SHAPE)
    names = writeParts(tmp_path, array, count)
    path = writeText(tmp_path / "a.mhd", *names, ElementDataFile=f"LIST{dimension}")
    checkVolume(openVolume(path), array)
    if dimension != " 3":  # which ITK reads in another order of axes
        checkLikeItk(path)
    turned = writeText(tmp_path / "b.mhd", *names[::-1], ElementDataFile=f"LIST{dimension}")
    if count == 4:
        np.testing.assert_array_equal(openVolume(turned).read(), array[:, :, ::-1])


@pytest.mark.parametrize("field", ["s%03d.raw 8 17 3", "s%03d.raw 17 8 -3"])
def testNumberedFilesAreReadInTheirOrder(tmp_path, field):
    array = sampleArray("<u2", SHAPE)
    writeParts(tmp_path, array, 4)
    volume = openVolume(writeText(tmp_path / "a.mhd", ElementDataFile=field))
    checkVolume(volume, array if field.endswith(" 3") else array[:, :, ::-1])
    assert len(volume.files) == 5
    if field.endswith(" 3"):
        checkLikeItk(tmp_path / "a.mhd")


def testCompressedSlicesAreReadOneByOne(tmp_path):
    array = sampleArray("<u2", SHAPE)
    names = writeParts(tmp_path, array, 4, zlib.compress)
    checkVolume(
        openVolume(writeText(tmp_path / "a.mhd", *names, CompressedData="True", ElementDataFile="LIST")),
        array,
    )


@pytest.mark.parametrize(
    ("sizes", "place", "kept"),
    [("7 5 4 1", "0.65 0.5 1.3 2", (0, 1, 2)), ("1 7 5 4", "2 0.65 0.5 1.3", (1, 2, 3))],
)
def testFourthAxisOfOneVoxelIsLeftOut(tmp_path, sizes, place, kept):
    array = sampleArray("<u2", SHAPE)
    (tmp_path / "a.raw").write_bytes(array.tobytes("F"))
    matrix, offset = np.eye(4), np.array([9.0, 9.0, 9.0, 9.0])
    matrix[np.ix_(kept, kept)] = TURN.T
    offset[list(kept)] = ORIGIN
    words = {"TransformMatrix": matrix.ravel(), "Offset": offset}
    fields = {name: " ".join(map(str, numbers)) for name, numbers in words.items()}
    path = writeText(tmp_path / "a.mhd", NDims="4", DimSize=sizes, ElementSpacing=place, **fields)
    volume = openVolume(path)
    checkVolume(volume, array)
    np.testing.assert_allclose(volume.frame.directions, TURN.T * np.array(SPACING)[:, np.newaxis])
    np.testing.assert_allclose(volume.frame.origin, ORIGIN)


# -------------------------------------------------- compressed


@pytest.mark.parametrize("chunk", [7, 1 << 20])
def testCompressedVoxelsAreStreamed(tmp_path, monkeypatch, chunk):
    from engine.formats import rawData

    monkeypatch.setattr(rawData, "CHUNK_BYTES", chunk)
    array = sampleArray("uint16", SHAPE)
    checkVolume(openVolume(writeItk(tmp_path / "a.mhd", array, isCompressed=True)), array)


def testMemoryDoesNotFollowWhatVoxelsExpandTo(tmp_path):
    (tmp_path / "a.zraw").write_bytes(zlib.compress(bytes(1 << 26)))  # 65 KB
    fields = {"DimSize": "1024 1024 32", "CompressedData": "True", "ElementDataFile": "a.zraw"}
    volume = openVolume(writeText(tmp_path / "a.mhd", **fields))
    tracemalloc.start()
    assert sum(block.shape[2] for block in volume.slabs(None, 2)) == 32
    assert tracemalloc.get_traced_memory()[1] < 3 << 22
    tracemalloc.stop()


def writeCompressed(folder, data):
    (folder / "a.zraw").write_bytes(data)
    return writeText(folder / "a.mhd", CompressedData="True", ElementDataFile="a.zraw")


def testCutOrDamagedCompressedVoxelsAreToldInOneLine(tmp_path):
    content = zlib.compress(sampleArray("<u2", SHAPE).tobytes("F"))
    for length in range(0, len(content), 7):
        line = refusal(writeCompressed(tmp_path, content[:length]))
        assert line.startswith(f"{tmp_path / 'a.zraw'}: the data are truncated")
    assert "damaged: " in refusal(writeCompressed(tmp_path, b"x" * len(content)))
    longer = zlib.compress(bytes(281))
    words = "the data are longer than the sizes say; correct the sizes in the header"
    assert refusal(writeCompressed(tmp_path, longer)) == f"{tmp_path / 'a.zraw'}: {words}"
    checkVolume(openVolume(writeCompressed(tmp_path, content + b"padding")), sampleArray("<u2", SHAPE))


def testVoxelsThatNoCompressionMakesSoSmallAreRefusedWhenOpened(tmp_path):
    (tmp_path / "a.zraw").write_bytes(zlib.compress(bytes(280)))
    fields = {"DimSize": "1000 1000 1000", "CompressedData": "True", "ElementDataFile": "a.zraw"}
    with pytest.raises(PipelineError, match="truncated: too few bytes for 1000 x 1000 x 1000 voxels"):
        openVolume(writeText(tmp_path / "a.mhd", **fields))


# -------------------------------------------------- bad input

BAD = {
    "channels": ({"ElementNumberOfChannels": "3"}, "has several channels (expected 1, received 3);"),
    "flat": ({"NDims": "2", "DimSize": "7 5"}, "is a 2D image (expected NDims 3, received 2)"),
    "series": (
        {"NDims": "4", "DimSize": "7 5 2 2"},
        "is no 3D volume, 7 x 5 x 2 x 2 numbers (expected NDims 3, received 4); save one moment",
    ),
    "sizes": ({"DimSize": "7 5"}, "DimSize must be NDims positive whole numbers (received 7 5 of 3)"),
    "size": ({"DimSize": "7 5 0"}, "DimSize must be NDims positive whole numbers (received 7 5 0 of 3)"),
    "half": ({"DimSize": "7 5 1.5"}, "DimSize must be NDims positive whole numbers (received 7 5 1.5 of 3)"),
    "dimensions": ({"NDims": "three"}, "NDims must be a whole number (received three)"),
    "type": (
        {"ElementType": "MET_FLOAT_ARRAY"},
        "this type of voxel cannot be read (expected integers, MET_FLOAT or MET_DOUBLE, "
        "received ElementType MET_FLOAT_ARRAY)",
    ),
    "no type": ({"ElementType": None}, "this type of voxel cannot be read"),
    "object": ({"ObjectType": "Tube"}, "is a MetaObject, no image (expected Image, received Tube)"),
    "spacing": (
        {"ElementSpacing": "1 2"},
        "ElementSpacing cannot be read (expected 3 finite numbers, received 1 2)",
    ),
    "nan": ({"Offset": "1 2 nan"}, "Offset cannot be read (expected 3 finite numbers, received 1 2 nan)"),
    "matrix": ({"TransformMatrix": "1 0 0 1"}, "TransformMatrix cannot be read (expected 9 finite numbers"),
    "twice": (
        {"Offset": "1 2 3", "Position": "1 2 4"},
        "the header gives Position twice, as '1 2 3' and as '1 2 4'; delete the line that is wrong",
    ),
    "orders": (
        {"ElementByteOrderMSB": "True", "BinaryDataByteOrderMSB": "False"},
        "the header gives BinaryDataByteOrderMSB twice",
    ),
    "skip": ({"HeaderSize": "-2"}, "HeaderSize is too small (expected -1 or more, received -2)"),
    "skip compressed": (
        {"HeaderSize": "-1", "CompressedData": "True"},
        "HeaderSize is too small (expected 0 or more, received -1)",
    ),
    "elsewhere": (
        {"ElementDataFile": "../a.raw"},
        "the data file must lie in the folder of its header (received ../a.raw)",
    ),
    "absolute": ({"ElementDataFile": "/etc/passwd"}, "the data file must lie in the folder of its header"),
    "missing": ({"ElementDataFile": "b.raw"}, "the data file is missing (received b.raw)"),
    "empty": ({"ElementDataFile": ""}, "the data file is missing"),
    "list": (
        {"ElementDataFile": "LIST"},
        "the number of data files does not fit DimSize (expected 4, received 0)",
    ),
    "list of 9": (
        {"ElementDataFile": "LIST 9"},
        "the dimension of the listed files cannot be read (expected 1 to 3, received 9)",
    ),
    "numbers": (
        {"ElementDataFile": "s%03d.raw 1 9 1"},
        "the number of data files does not fit DimSize (expected 4, received 9)",
    ),
    "step": ({"ElementDataFile": "s%d.raw 1 4 0"}, "the step of the numbered data files is 0"),
    "pattern": (
        {"ElementDataFile": "s%s.raw 1 4 1"},
        "the numbered data files cannot be understood (expected like slice%03d.raw 1 60 1",
    ),
}


@pytest.mark.parametrize("case", BAD)
def testWhatIsNoVolumeIsToldInOneLine(tmp_path, case):
    fields, words = BAD[case]
    (tmp_path / "a.raw").write_bytes(bytes(280))
    line = refusal(writeText(tmp_path / "a.mhd", **fields))
    assert line.startswith(f"{tmp_path / 'a.mhd'}: {words}")


@pytest.mark.parametrize(
    ("length", "words"),
    [
        (
            279,
            "the data are truncated: too few bytes for 7 x 5 x 4 voxels (expected 280 or more, received 279)",
        ),
        (
            281,
            "the data file is longer than DimSize says (expected 280 bytes, received 281); correct DimSize, "
            "or write 'HeaderSize = -1' into the header if the voxels are the last bytes",
        ),
    ],
)
def testDataFileOfAnotherLengthIsRefused(tmp_path, length, words):
    (tmp_path / "a.raw").write_bytes(bytes(length))
    assert refusal(writeText(tmp_path / "a.mhd")) == f"{tmp_path / 'a.raw'}: {words}"
    for skip in ("5", "-1"):
        if length == 279:
            assert "the data are truncated" in refusal(writeText(tmp_path / "a.mhd", HeaderSize=skip))


def testBytesBehindTheVoxelsAreTold(tmp_path, caplog):
    data = sampleArray("<u2", SHAPE).tobytes("F") + b"more"
    with caplog.at_level(logging.WARNING):
        checkVolume(
            openVolume(writeText(tmp_path / "a.mha", ElementDataFile="LOCAL", data=data)),
            sampleArray("<u2", SHAPE),
        )
    assert caplog.messages == [f"{tmp_path / 'a.mha'}: 4 bytes after the voxels are not used"]


def testOtherFilesAreNoMetaImages(tmp_path):
    (tmp_path / "a.mhd").write_bytes(b"NRRD0004\ntype: uint8\n\n")
    assert refusal(tmp_path / "a.mhd") == f"{tmp_path / 'a.mhd'}: is no MetaImage file (received 'NRRD0004')"
    (tmp_path / "a.mhd").write_bytes(b"")
    assert refusal(tmp_path / "a.mhd") == f"{tmp_path / 'a.mhd'}: is no MetaImage file"
    (tmp_path / "a.mhd").write_bytes(bytes(range(256)) * 9)
    assert "is no MetaImage file" in refusal(tmp_path / "a.mhd")
    assert refusal(tmp_path / "b.mhd") == f"{tmp_path / 'b.mhd'}: there is no such file"
    (tmp_path / "a.mhd").write_text("ObjectType = Image\nNDims = 3\n")
    assert refusal(tmp_path / "a.mhd").endswith("the header has no field 'ElementDataFile'")
    (tmp_path / "a.mhd").write_text("ObjectType = Image\nnonsense\n")
    assert refusal(tmp_path / "a.mhd").endswith("no 'field = value' (received 'nonsense')")


def testCutFilesNeverEndInATraceback(tmp_path):
    content = writeItk(tmp_path / "a.mha", sampleArray("uint16", SHAPE)).read_bytes()
    for length in range(0, len(content), 5):
        (tmp_path / "b.mha").write_bytes(content[:length])
        refusal(tmp_path / "b.mha")


def testLinesOfWindowsAreRead(tmp_path):
    array = sampleArray("<u2", SHAPE)
    path = writeText(tmp_path / "a.mhd")
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    (tmp_path / "a.raw").write_bytes(array.tobytes("F"))
    checkVolume(openVolume(path), array)


# --------------------------------------------------------------------------- a header beside an NRRD result

HEADERS = {
    "lps": {"space": "left-posterior-superior", "space origin": np.array(ORIGIN), "space units": ["um"] * 3},
    "ras": {"space": "right-anterior-superior", "space origin": np.array(ORIGIN)},
    "nm": {"space": "LPS", "space origin": np.array(ORIGIN), "space units": ["nm"] * 3},
    "spacings": {"spacings": np.array(SPACING), "units": ["um"] * 3},
    "nothing": {},
}


def writeResult(folder, case, dtype="uint16"):
    header = dict(HEADERS[case])
    if "space" in header:
        header["space directions"] = TURN.T * np.array(SPACING)[:, np.newaxis]
    array = sampleArray(dtype, SHAPE)
    writeVolume(folder / "scan_segmented.nrrd", array, header)
    return folder / "scan_segmented.nrrd", array


@pytest.mark.parametrize("dtype", ["uint8", "float32", "uint16"])
@pytest.mark.parametrize("case", HEADERS)
def testHeaderBesideAResultIsReadByItkAsTheResult(tmp_path, case, dtype):
    path, array = writeResult(tmp_path, case, dtype)
    before = path.read_bytes()
    header = writeMetaHeader(path)
    assert header == nameMetaHeader(path) == tmp_path / "scan_segmented.mhd" and path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 2
    result, image = sitk.ReadImage(str(path)), sitk.ReadImage(str(header))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image).T, array)
    assert image.GetPixelID() == result.GetPixelID()
    for one, other in zip(
        (image.GetSpacing(), image.GetOrigin(), image.GetDirection()),
        (result.GetSpacing(), result.GetOrigin(), result.GetDirection()),
        strict=True,
    ):
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("case", HEADERS)
def testHeaderBesideAResultIsReadAsTheResult(tmp_path, case):
    path, array = writeResult(tmp_path, case)
    volume, frame = openVolume(writeMetaHeader(path)), openVolume(path).frame
    checkVolume(volume, array)
    assert {file.name for file in volume.files} == {"scan_segmented.mhd", "scan_segmented.nrrd"}
    assert compareFrames(frame, volume.frame, SHAPE) is None
    assert volume.frame.unit == (frame.unit if frame.unit == "um" else "")


def testHeaderBesideAResultIsReadByVtkAsTheResult(tmp_path):
    vtk = pytest.importorskip("vtkmodules.vtkIOImage")
    from vtkmodules.util.numpy_support import vtk_to_numpy

    path, array = writeResult(tmp_path, "lps")
    reader = vtk.vtkMetaImageReader()
    reader.SetFileName(str(writeMetaHeader(path)))
    reader.Update()
    image = reader.GetOutput()
    voxels = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(SHAPE, order="F")
    np.testing.assert_array_equal(voxels, array)
    np.testing.assert_allclose(image.GetSpacing(), SPACING)
    np.testing.assert_allclose(image.GetOrigin(), ORIGIN)


def testFilesOfVtkAreRead(tmp_path):
    vtk = pytest.importorskip("vtkmodules.vtkIOImage")
    from vtkmodules.util.numpy_support import numpy_to_vtk
    from vtkmodules.vtkCommonDataModel import vtkImageData

    array, image = sampleArray("uint16", SHAPE), vtkImageData()
    image.SetDimensions(SHAPE)
    image.SetSpacing(SPACING)
    image.SetOrigin(ORIGIN)
    image.GetPointData().SetScalars(numpy_to_vtk(array.ravel("F"), deep=True))
    for isCompressed in (False, True):
        writer = vtk.vtkMetaImageWriter()
        writer.SetFileName(str(tmp_path / f"a{isCompressed}.mhd"))
        writer.SetCompression(isCompressed)
        writer.SetInputData(image)
        writer.Write()
        volume = openVolume(tmp_path / f"a{isCompressed}.mhd")
        checkVolume(volume, array)
        np.testing.assert_allclose(volume.frame.sides, SPACING)
        np.testing.assert_allclose(volume.frame.origin, ORIGIN)


def testHeaderPointsToRawVoxelsOfOneFileOnly(tmp_path):
    nrrd.write(str(tmp_path / "a.nrrd"), sampleArray("uint8", SHAPE), {"encoding": "gzip"})
    with pytest.raises(PipelineError) as caught:
        writeMetaHeader(tmp_path / "a.nrrd")
    words = "an .mhd can only point to the raw voxels of one file (expected encoding raw, received gzip)"
    assert str(caught.value) == f"{tmp_path / 'a.nrrd'}: {words}"
    writeVolume(tmp_path / "50%.nrrd", sampleArray("uint8", SHAPE), {})
    with pytest.raises(PipelineError, match="'%' in its name"):
        writeMetaHeader(tmp_path / "50%.nrrd")
    assert not list(tmp_path.glob("*.mhd"))
