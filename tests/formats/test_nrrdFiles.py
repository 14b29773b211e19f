"""NRRD files against pynrrd and SimpleITK."""

import bz2
import errno
import gzip
import itertools
import os
import random
import warnings

import nrrd
import numpy as np
import pytest
import SimpleITK as sitk
from places import SHARED
from sampleVolumes import (
    DATA,
    EXPECTED,
    SHAPE,
    headerLines,
    refusal,
    sampleArray,
    writeText,
    writeVolume,
)

from engine.base.errors import PipelineError
from engine.formats import nrrdFiles, rawData
from engine.formats.nrrdFiles import openVolume
from engine.formats.nrrdGeometry import cropHeader, readVoxelSize
from engine.formats.nrrdHeaders import ENCODINGS, TYPES

SAMPLES = SHARED / "nrrd_format"
# -------------------------------------------------- reading agrees with pynrrd and SimpleITK


@pytest.mark.parametrize("shape", [(5, 4, 3), (1, 7, 2), (3, 1, 1)])
@pytest.mark.parametrize("encoding", ["raw", "gzip", "bzip2", "ascii"])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("code", list(TYPES))
def testReadsWhatPynrrdReads(tmp_path, code, order, encoding, shape):
    path, array = tmp_path / "a.nrrd", sampleArray(order + code, shape)
    if encoding == "ascii" and code in ("i8", "u8"):
        array >>= 12  # pynrrd writes them as 64-bit floats
    nrrd.write(str(path), array, {"encoding": encoding})
    volume = openVolume(path)
    result = volume.read()
    assert volume.shape == result.shape == shape
    np.testing.assert_array_equal(result, nrrd.read(str(path))[0])
    if encoding != "ascii":
        assert volume.dtype == result.dtype == array.dtype
        np.testing.assert_array_equal(result, array)
    region = tuple((size // 2, size) for size in shape)
    cut = tuple(slice(*ends) for ends in region)
    np.testing.assert_array_equal(volume.read(region), result[cut])


@pytest.mark.parametrize("code", list(TYPES))
def testReadsWhatSimpleItkReads(tmp_path, code):
    array = sampleArray(code)
    path = tmp_path / "a.nrrd"
    sitk.WriteImage(sitk.GetImageFromArray(array.T), str(path), useCompression=True)
    np.testing.assert_array_equal(openVolume(path).read(), array)


def testNamesOfTypesAndEncodingsAreThoseOfPynrrd():
    names = {name: code for code, names in TYPES.items() for name in names}
    assert names | {"block": "V"} == nrrd.reader._TYPEMAP_NRRD2NUMPY
    assert {ENCODINGS[name] for name in ("ascii", "text", "txt")} == {"text"}


@pytest.mark.parametrize("name", [name for names in TYPES.values() for name in names])
def testEveryNameOfATypeIsRead(tmp_path, name):
    array = sampleArray(nrrd.reader._TYPEMAP_NRRD2NUMPY[name])
    path = writeText(
        tmp_path / "a.nrrd", headerLines(type=name.upper(), endian="Little"), array.tobytes(order="F")
    )
    np.testing.assert_array_equal(openVolume(path).read(), array)


@pytest.mark.parametrize("encoding", ["raw", "gzip", "bzip2", "text"])
@pytest.mark.parametrize("chunkBytes", [1, 40, 1 << 22])
def testEveryRegionIsACutOfTheWhole(tmp_path, monkeypatch, encoding, chunkBytes):
    monkeypatch.setattr(rawData, "CHUNK_BYTES", chunkBytes)
    path = tmp_path / "a.nrrd"
    nrrd.write(str(path), EXPECTED.astype(">i2"), {"encoding": encoding})
    volume = openVolume(path)
    ranges = [[(a, b) for a, b in itertools.combinations(range(size + 1), 2)] for size in (2, 4, 3)]
    for region in itertools.product(*ranges):
        np.testing.assert_array_equal(volume.read(region), EXPECTED[tuple(slice(*ends) for ends in region)])
    np.testing.assert_array_equal(volume.read(((None, 2), (1, None), (None, None))), EXPECTED[:2, 1:])


def testRawDataAreMappedNotCopied(tmp_path):
    path = writeText(tmp_path / "a.nrrd", headerLines(), DATA)
    part = openVolume(path).read(((1, 3), (0, 4), (2, 3)))
    assert not part.flags.owndata and not part.flags.writeable
    with open(path, "r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\xff")
    assert openVolume(path).read()[-1, -1, -1] == 255


def testRawVolumeLargerThanMemoryOpensAtOnce(tmp_path):
    path = writeText(tmp_path / "a.nrrd", headerLines(sizes="20000 20000 2500"))
    os.truncate(path, path.stat().st_size + 10**12)  # sparse
    with open(path, "r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x07")
    part = openVolume(path).read(((19998, None), (19999, None), (2499, None)))
    assert part.tolist() == [[[0]], [[7]]]


# -------------------------------------------------- skips, detached data, odd headers


@pytest.mark.parametrize("chunkBytes", [2, 1 << 22])
def testSkipsOfRawData(tmp_path, monkeypatch, chunkBytes):
    monkeypatch.setattr(nrrdFiles, "CHUNK_BYTES", chunkBytes)
    (tmp_path / "a.raw").write_bytes(b"one\ntwo\n" + b"xyz" + DATA)
    for skips in (
        {"line_skip": "2", "byte_skip": "3"},
        {"lineskip": "0", "byteskip": "-1"},
        {"byte_skip": "11"},
    ):
        path = writeText(tmp_path / "a.nhdr", headerLines(data_file="a.raw", **skips))
        np.testing.assert_array_equal(openVolume(path).read(), EXPECTED)


@pytest.mark.parametrize("encoding, compress", [("gzip", gzip.compress), ("bz2", bz2.compress)])
def testByteSkipOfCompressedDataCountsDecodedBytes(tmp_path, encoding, compress):
    for skip, content in (("3", b"xyz" + DATA), ("-1", b"xyz" + DATA), ("-1", DATA)):
        lines = headerLines(encoding=encoding, line_skip="1", byte_skip=skip)
        path = writeText(tmp_path / "a.nrrd", lines, b"a line\n" + compress(content))
        volume = openVolume(path)
        np.testing.assert_array_equal(volume.read(), EXPECTED)
        np.testing.assert_array_equal(volume.read(((0, 5), (0, 4), (1, 2))), EXPECTED[:, :, 1:2])


@pytest.mark.parametrize("encoding, compress", [("gz", gzip.compress), ("bzip2", bz2.compress)])
def testSeveralCompressedMembersAreOneStream(tmp_path, encoding, compress):
    data = compress(DATA[:17]) + compress(DATA[17:])
    path = writeText(tmp_path / "a.nrrd", headerLines(encoding=encoding), data)
    np.testing.assert_array_equal(openVolume(path).read(), EXPECTED)


def testTextWithCommasAndExactLargeIntegers(tmp_path):
    values = [2**64 - 1, 2**53 + 1, 0]
    data = b"%d, %d,\n%d\n" % tuple(values)
    path = writeText(tmp_path / "a.nrrd", headerLines(encoding="TXT", type="uint64", sizes="3 1 1"), data)
    assert openVolume(path).read().ravel().tolist() == values


def testDataFileBelowTheFolderOrByAbsolutePath(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.raw").write_bytes(DATA)
    for name in ("sub/a.raw", "./sub/../sub/a.raw", str(tmp_path / "sub" / "a.raw")):
        path = writeText(tmp_path / "a.nhdr", headerLines(data_file=name))
        np.testing.assert_array_equal(openVolume(path).read(), EXPECTED)


def testDetachedHeaderIsFoundFromAnotherWorkingFolder(tmp_path, monkeypatch):
    (tmp_path / "a.raw").write_bytes(DATA)
    writeText(tmp_path / "a.nhdr", headerLines(data_file="a.raw"))
    monkeypatch.chdir(tmp_path)
    np.testing.assert_array_equal(openVolume("a.nhdr").read(), EXPECTED)
    monkeypatch.chdir(tmp_path.parent)
    np.testing.assert_array_equal(openVolume(f"{tmp_path.name}/a.nhdr").read(), EXPECTED)


def testSurplusAfterAttachedDataIsTold(tmp_path, caplog):
    path = writeText(tmp_path / "a.nrrd", headerLines(), DATA + b"tail")
    np.testing.assert_array_equal(openVolume(path).read(), EXPECTED)
    assert "4 bytes after the voxels are not used" in caplog.text


def testWindowsLineEndsCommentsAndSpellings(tmp_path):
    lines = [
        "NRRD0004",
        "# comment: with colon",
        "Type: unsigned  char",
        "DIMENSION: 3",
        "sizes:5 4 3",
        "Encoding: RAW",
    ]
    lines += [
        "centers: cell cell cell",
        "Space Directions: ( 1, 0 ,0) (0, 2, 0) (0,0,3 )",
        "space: RAS",
        "my key:=a: b",
    ]
    lines += ["kinds: Domain SPACE ???"]
    path = writeText(tmp_path / "a.nrrd", lines, DATA, ending=b"\r\n")
    volume = openVolume(path)
    np.testing.assert_array_equal(volume.read(), EXPECTED)
    np.testing.assert_array_equal(volume.header["space directions"], np.diag([1, 2, 3]))
    assert volume.header["centerings"] == ["cell"] * 3 and volume.header["my key"] == "a: b"


@pytest.mark.parametrize("coding", ["utf-8", "latin-1"])
def testUnitsKeepTheirGreekLetter(tmp_path, coding):
    lines = [
        *headerLines(spacings="2 2 2"),
        'units: "µm" "µm" "µm"'.encode(coding),
        "Gerät:=Röntgen".encode(coding),
    ]
    volume = openVolume(writeText(tmp_path / "a.nrrd", lines, DATA))
    assert readVoxelSize(volume.header) == ((2.0, 2.0, 2.0), ("µm", "µm", "µm"))
    writeVolume(tmp_path / "b.nrrd", volume.read(), volume.header)
    copy = openVolume(tmp_path / "b.nrrd")
    assert copy.header["units"] == ["µm"] * 3 and copy.header["Gerät"] == "Röntgen"
    assert sitk.ReadImage(str(tmp_path / "b.nrrd")).GetSize() == SHAPE


def testKeyValueIsNoField(tmp_path):
    path = writeText(tmp_path / "a.nrrd", [*headerLines(), "byte skip:=7", "data file:=/etc/passwd"], DATA)
    np.testing.assert_array_equal(openVolume(path).read(), EXPECTED)


# -------------------------------------------------- refusals

HEADER_REFUSALS = [
    ({"dimension": "2", "sizes": "5 12"}, "is a 2D image (expected dimension 3, received 2)"),
    (
        {"dimension": "4", "sizes": "2 5 3 2"},
        "is a 4D data set, 2 x 5 x 3 x 2 numbers (expected dimension 3, received 4); save one channel",
    ),
    ({"dimension": "4", "sizes": "2 5 6 1", "kinds": "list domain domain domain"}, "is a 4D data set"),
    ({"dimension": "4", "sizes": "5 6 1 2", "kinds": "domain domain domain time"}, "is a 4D data set"),
    ({"dimension": "4", "sizes": "5 4 3 1", "kinds": "domain domain list time"}, "is a 4D data set"),
    (
        {"dimension": "4", "sizes": "2 5 6 1", "space directions": "none (1,0,0) (0,1,0) (0,0,1)"},
        "is a 4D data set",
    ),
    ({"dimension": "3.0"}, "cannot be understood"),
    ({"dimension": None}, "the header has no field 'dimension'"),
    ({"kinds": "RGB-color domain domain"}, "axis x is no direction in space but 'RGB-color'"),
    ({"kinds": "domain domain vector"}, "axis z is no direction in space but 'vector'"),
    ({"kinds": "space space time"}, "axis z is no direction in space but 'time'"),
    ({"kinds": "space LIST space"}, "axis y is no direction in space but 'LIST'"),
    ({"kinds": "space 3D-symmetric-matrix space"}, "axis y is no direction in space"),
    ({"kinds": "domain domain"}, "must give 'kinds' for each axis (expected 3 values, received 2)"),
    ({"spacings": "1 2 3 4"}, "must give 'spacings' for each axis"),
    ({"space directions": "(1,0) (0,1) (inf,1)"}, "space directions must be finite numbers or none"),
    ({"spacings": "1 2 inf"}, "spacings must not be infinite"),
    ({"space directions": "(1,0,0) (0,1,0) (0,0)"}, "cannot be understood"),
    ({"space directions": "(1,0,0) (0,1,0) (0,0,1)", "space origin": "(1,2)"}, "as many numbers"),
    ({"labels": '"x" "y" "z'}, "cannot be understood"),
    (
        {"type": "block"},
        "this type of voxel cannot be read (expected integers, float or double, received block)",
    ),
    ({"type": "complex"}, "this type of voxel cannot be read"),
    ({"type": "uint16"}, "the byte order must be known (received endian missing); write 'endian: little'"),
    ({"type": "float", "endian": "middle"}, "the byte order must be known (received endian middle)"),
    ({"sizes": "5 4 0"}, "sizes must be three positive numbers"),
    ({"sizes": "5 -4 3"}, "sizes must be three positive numbers"),
    ({"sizes": "5 4"}, "sizes must be three positive numbers"),
    ({"sizes": "5 4.7 3"}, "sizes must be whole numbers"),
    ({"sizes": "nan 4 3"}, "sizes must be whole numbers"),
    ({"sizes": "5 4 1" + "0" * 40}, "sizes must be whole numbers"),
    ({"sizes": "999999999999999999 999999999999999999 999999999999999999"}, "the data are truncated"),
    (
        {"encoding": "hex"},
        "in an encoding that cannot be read (expected raw, gzip, bzip2 or text, received hex)",
    ),
    ({"encoding": "zstd"}, "in an encoding that cannot be read"),
    ({"line skip": "-1"}, "line skip is too small"),
    ({"byte skip": "-2"}, "byte skip is too small"),
    ({"byte skip": "-1", "encoding": "text"}, "byte skip is too small"),
    ({"byte skip": "1"}, "truncated: too few bytes for 5 x 4 x 3 voxels (expected 60 or more, received 59)"),
    ({"line skip": "99"}, "the data are truncated"),
    ({"sizes": "5 4 4", "byte skip": "-1"}, "the data are truncated"),
    ({"type": "uint16", "endian": "little"}, "the data are truncated"),
    ({"encoding": "text", "sizes": "5 4 8"}, "the data are truncated"),
    ({"sizes": "5000 4000 3000", "encoding": "gzip"}, "the data are truncated"),
    ({"sizes": "500000 400000 300000", "encoding": "bzip2"}, "the data are truncated"),
    ({"encoding": "gzip"}, "the data are truncated or damaged"),
    ({"encoding": "bzip2"}, "the data are truncated or damaged"),
    ({"encoding": "text", "sizes": "5 1 1"}, "the text must hold one number a voxel"),
    (
        {"Sizes": "5 3 4"},
        "header gives 'Sizes' twice, as '5 4 3' and as '5 3 4'; delete the line that is wrong",
    ),
    ({"data file": "absent.raw"}, "the data file is missing (received absent.raw)"),
    ({"data file": "."}, "the data file is missing"),
    ({"data file": "a\0b"}, "the data file is missing"),
    ({"data file": "/etc/passwd"}, "the data file must lie in the folder of its header"),
    ({"data file": "../secret.raw"}, "the data file must lie in the folder of its header"),
    ({"data file": "../volumes-other/secret.raw"}, "the data file must lie in the folder of its header"),
    ({"data file": "sub/../../secret.raw"}, "the data file must lie in the folder of its header"),
    (
        {"data file": "long.raw"},
        "longer than the sizes say (expected 60 bytes, received 61); correct the sizes, or",
    ),
]


@pytest.mark.parametrize(
    "changes, text", HEADER_REFUSALS, ids=[str(changes) for changes, _ in HEADER_REFUSALS]
)
def testHeaderIsRefused(tmp_path, changes, text):
    folder = tmp_path / "volumes"
    folder.mkdir()
    (tmp_path / "volumes-other").mkdir()
    for secret in (tmp_path / "secret.raw", tmp_path / "volumes-other" / "secret.raw"):
        secret.write_bytes(DATA)
    (folder / "long.raw").write_bytes(DATA + b"0")
    path = writeText(folder / "a.nrrd", headerLines(**changes), DATA)
    message = refusal(path)
    assert text in message and str(folder) in message


def testSkipTellsWhereALongerDataFileStarts(tmp_path):
    (tmp_path / "a.raw").write_bytes(DATA + b"0")
    path = writeText(tmp_path / "a.nhdr", headerLines(data_file="a.raw", byte_skip="0"))
    np.testing.assert_array_equal(openVolume(path).read(), EXPECTED)


@pytest.mark.parametrize(
    "content, text",
    [
        (b"", "is no NRRD file"),
        (b"NRR", "is no NRRD file"),
        (b"\x1f\x8b" * 40, "is no NRRD file"),
        (b"NRRD", "the header has no field 'type'"),
        (
            b"NRRD0009\ntype: uint8\ndimension: 3\nsizes: 5 4 3\nencoding: raw\n\n",
            "Unsupported NRRD file version",
        ),
        (b"NRRDxyz\ntype: uint8\ndimension: 3\nsizes: 5 4 3\nencoding: raw\n\n", "Invalid NRRD magic line"),
        (b"NRRD0005\nhello\n\n", "a line that is no 'field: value': 'hello'"),
        (b"NRRD0005\n: 3\n\n", "a line that is no 'field: value'"),
    ],
)
def testNoNrrdIsRefused(tmp_path, content, text):
    path = tmp_path / "a.nrrd"
    path.write_bytes(content)
    assert text in refusal(path)


def testMissingFileFolderAndEndlessHeader(tmp_path, monkeypatch):
    assert refusal(tmp_path / "none.nrrd") == f"{tmp_path}/none.nrrd: there is no such file"
    assert "the folder holds no TIFF slices" in refusal(tmp_path)
    monkeypatch.setattr("engine.formats.nrrdHeaders.HEADER_LIMIT_BYTES", 100)
    assert "the header does not end" in refusal(
        writeText(tmp_path / "a.nrrd", ["NRRD0005", "a: " + 200 * "b"])
    )


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def testForbiddenFileIsTold(tmp_path):
    path = writeText(tmp_path / "a.nrrd", headerLines(), DATA)
    path.chmod(0)
    assert "cannot be read: Permission denied" in refusal(path)


def testUnreadableFileIsTold(tmp_path, monkeypatch):
    path = writeText(tmp_path / "a.nrrd", headerLines(line_skip="1"), b"\n" + DATA)
    monkeypatch.setattr(
        nrrdFiles, "open", lambda *a: (_ for _ in ()).throw(OSError(errno.EIO, "I/O error")), raising=False
    )
    assert refusal(path) == f"{path}: cannot be read: I/O error"


@pytest.mark.parametrize("encoding, compress", [("gzip", gzip.compress), ("bzip2", bz2.compress)])
def testDamagedCompressedDataAreRefusedWhateverTheRegion(tmp_path, encoding, compress):
    top = ((0, 5), (0, 4), (0, 1))
    good = compress(DATA)
    flipped = bytearray(good)
    flipped[-6] ^= 0xFF
    for bad, text in (
        (good[:-5], "truncated or damaged"),
        (bytes(flipped), "truncated or damaged"),
        (compress(DATA[:-1]), "there are fewer bytes than the sizes say"),
        (
            compress(DATA + b"0"),
            "the data are longer than the sizes say; correct the sizes, or write 'byte skip: -1'",
        ),
    ):
        path = writeText(tmp_path / "a.nrrd", headerLines(encoding=encoding), bad)
        assert text in refusal(path, top)
    path = writeText(tmp_path / "a.nrrd", headerLines(encoding=encoding, byte_skip="-1"), compress(DATA[:-1]))
    assert "there are fewer bytes than the sizes say" in refusal(path, top)


@pytest.mark.parametrize(
    "words, dtype", [(b"300 1 2", "uint8"), (b"1 x 2", "float"), (b"1.5 1 2", "int16"), (b"-1 1 2", "uint8")]
)
def testTextThatIsNoNumberOfTheTypeIsRefused(tmp_path, words, dtype):
    path = writeText(tmp_path / "a.nrrd", headerLines(encoding="text", type=dtype, sizes="3 1 1"), words)
    assert "truncated or damaged" in refusal(path)


def testTooLittleMemoryIsTold(tmp_path, monkeypatch):
    path = writeText(tmp_path / "a.nrrd", headerLines(encoding="gzip"), gzip.compress(DATA))
    monkeypatch.setattr(rawData.np, "empty", lambda *a, **k: (_ for _ in ()).throw(MemoryError))
    assert "does not fit in memory; choose a smaller region" in refusal(path)


# -------------------------------------------------- garbage


def judge(path):
    """Whatever the file holds: an array of the right shape, or the one error."""
    try:
        volume = openVolume(path)
        array = volume.read()
    except PipelineError:
        return False
    assert array.shape == volume.shape and array.dtype == volume.dtype
    header = cropHeader(volume.header, [(size - 1, size) for size in volume.shape], np.int8)
    readVoxelSize(header)
    writeVolume(path.with_name("result.nrrd"), np.zeros((1, 1, 1), np.int8), header)
    openVolume(path.with_name("result.nrrd")).read()
    return True


FULL_HEADER = headerLines(
    type="int16",
    endian="big",
    space="left-posterior-superior",
    space_directions="(0.8,0.6,0) (-1.2,1.6,0) none",
    space_origin="(1,-2.5,3e2)",
    kinds="domain domain space",
    labels='"x" "y y" "z"',
    units='"mm" "µm" ""',
    space_units='"mm" "mm" "mm"',
    thicknesses="nan 1 2",
    centerings="cell node ???",
    measurement_frame="(1,0,0) (0,1,0) (0,0,1)",
    line_skip="1",
    byte_skip="0",
    old_min="0",
    content="something",
) + ["key:=value"]


@pytest.mark.parametrize("encoding", ["raw", "gzip", "bzip2", "text"])
def testGarbageNeverEscapesTheOneError(tmp_path, encoding):
    chance = random.Random(3)
    data = {"raw": DATA * 2, "gzip": gzip.compress(DATA * 2), "bzip2": bz2.compress(DATA * 2)}
    data["text"] = b" ".join(b"%d" % value for value in DATA)
    lines = [line.replace(": raw", f": {encoding}") for line in FULL_HEADER]
    path = writeText(tmp_path / "a.nrrd", lines, b"skipped\n" + data[encoding])
    good = path.read_bytes()
    assert judge(path)
    read = 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(1500):
            bad = bytearray(good)
            for _ in range(chance.choice((1, 1, 2, 5))):
                place = chance.randrange(len(bad))
                change = chance.choice(
                    (b"", b"\0", b"9", b"-", b" ", b"\n", b":", b'"', b"(", b"nan", b"\xff", b"e9")
                )
                bad[place : place + chance.choice((0, 1, 1, 4))] = change
            path.write_bytes(bad[: chance.choice((None, None, None, chance.randrange(len(bad))))])
            read += judge(path)
    assert 20 < read < 1400  # both ends are met


def testRandomFieldValuesNeverEscapeTheOneError(tmp_path):
    chance = random.Random(4)
    words = [
        "",
        "none",
        "nan",
        "inf",
        "-1",
        "0",
        "3",
        "1e400",
        "(1,0,0)",
        "(nan,1)",
        "(",
        "()",
        "(,)",
        '"',
        "'a",
        "\\",
    ]
    words += ["???", "raw", "gzip", "LIST", "%d 1 2 3", "9" * 30, "2 3 4", "uint8", "𝟛", "١"]
    names = [line.split(":")[0] for line in FULL_HEADER[1:]] + [
        "data file",
        "spacings",
        "axis mins",
        "min",
        "number",
    ]
    read = 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(3000):
            lines = list(FULL_HEADER)
            name = chance.choice(names)
            value = " ".join(chance.choices(words, k=chance.randrange(1, 5)))
            lines = [line for line in lines if not line.startswith(f"{name}:")] + [f"{name}: {value}"]
            read += judge(writeText(tmp_path / "a.nrrd", lines, b"skipped\n" + DATA * 2))
    assert 50 < read < 2900


# -------------------------------------------------- files by other writers

COLOUR = "is no direction in space but 'RGB-color'"
FLAT = "is a 2D image"
FOUR = "is a 4D data set"
RESULTS = {
    "NRRD.jl/headers/test2d_spu_spacing_labels.nhdr": FLAT,
    "NRRD.jl/headers/test2dfloat.nhdr": FLAT,
    "NRRD.jl/headers/test2drgb.nhdr": f"axis x {COLOUR}",
    "NRRD.jl/headers/test2drgb_last.nhdr": f"axis z {COLOUR}",
    "NRRD.jl/headers/test2drgb_spu_sd.nhdr": f"axis x {COLOUR}",
    "NRRD.jl/headers/test2drgb_spu_spacing.nhdr": f"axis x {COLOUR}",
    "NRRD.jl/headers/test2drgb_spu_spacing_labels.nhdr": f"axis x {COLOUR}",
    "NRRD.jl/headers/test2duchar.nhdr": FLAT,
    "NRRD.jl/headers/test2dushort.nhdr": FLAT,
    "NRRD.jl/headers/test3d_time.nhdr": FOUR,
    "NRRD.jl/headers/test3d_time_labels.nhdr": FOUR,
    "NRRD.jl/headers/test3d_time_labels_units.nhdr": FOUR,
    "NRRD.jl/headers/test3d_time_labels_units_s.nhdr": FOUR,
    "NRRD.jl/headers/test3d_units_range_axes.nhdr": "the data file is missing (received dummy.raw)",
    "NRRD.jl/headers/test3dlist_origin.nhdr": FOUR,
    "NRRD.jl/io/bswap.nrrd": FLAT,
    "NRRD.jl/io/eltype_gray_u12.nrrd": FLAT,
    "NRRD.jl/io/eltype_gray_u12_hex.nrrd": FLAT,
    "NRRD.jl/io/eltype_gray_u16.nrrd": FLAT,
    "NRRD.jl/io/eltype_gray_u8.nrrd": FLAT,
    "NRRD.jl/io/eltype_rgb_u8.nrrd": f"axis x {COLOUR}",
    "NRRD.jl/io/eltype_u8.nrrd": FLAT,
    "NRRD.jl/io/eltype_uint8.nrrd": FLAT,
    "NRRD.jl/io/fiji-stack-microns-16bit.nrrd": "reads",
    "NRRD.jl/io/fiji-stack-pixels-16bit.nrrd": "reads",
    "NRRD.jl/io/small.nrrd": "reads",
    "NRRD.jl/io/small_time.nrrd": FOUR,
    "NRRD.jl/io/smallgz.nrrd": "reads",
    "NRRD.jl/io/test_helix.nrrd": FOUR,
    "NRRD.jl/io/units.nhdr": "reads",
    "nrrd-js/example1.nrrd": "reads",
    "nrrd-js/example2.nrrd": FLAT,
    "nrrd-js/example3.nrrd": FLAT,
    "nrrd-js/example4.nrrd": FOUR,
    "pynrrd/BallBinary30x30x30.nhdr": "reads",
    "pynrrd/BallBinary30x30x30.nrrd": "reads",
    "pynrrd/BallBinary30x30x30_byteskip_minus_five.nhdr": "byte skip is too small",
    "pynrrd/BallBinary30x30x30_byteskip_minus_one.nhdr": "reads",
    "pynrrd/BallBinary30x30x30_byteskip_minus_one_nifti.nhdr": "reads",
    "pynrrd/BallBinary30x30x30_bz2.nrrd": "reads",
    "pynrrd/BallBinary30x30x30_gz.nrrd": "reads",
    "pynrrd/BallBinary30x30x30_gz_byteskip_minus_one.nrrd": "reads",
    "pynrrd/BallBinary30x30x30_gz_lineskip.nrrd": "reads",
    "pynrrd/BallBinary30x30x30_nifti.nhdr": "the data are longer than the sizes say",
    "pynrrd/test1d_ascii.nrrd": "is no 3D volume",
    "pynrrd/test2d_ascii.nrrd": FLAT,
    "pynrrd/test_customFields.nrrd": "is no 3D volume",
    "pynrrd/test_simple4d_raw.nrrd": "reads",  # one channel
}


@pytest.mark.skipif(not SAMPLES.is_dir(), reason="the shared data are absent")
@pytest.mark.parametrize("name, result", RESULTS.items())
def testFileByAnotherWriter(name, result):
    path = SAMPLES / name
    if result != "reads":
        assert result in refusal(path)
        return
    volume = openVolume(path)
    array, header = nrrd.read(str(path))
    np.testing.assert_array_equal(volume.read(), array.reshape(volume.shape, order="F"))
    assert volume.dtype == array.dtype
    assert {field.strip() for field in header} - {"byte skip"} <= volume.header.keys()


@pytest.mark.skipif(not SAMPLES.is_dir(), reason="the shared data are absent")
def testEveryFileOfTheSharedDataIsJudged():
    found = {
        str(path.relative_to(SAMPLES)) for path in SAMPLES.rglob("*.n*") if path.suffix in (".nhdr", ".nrrd")
    }
    assert found == RESULTS.keys()
