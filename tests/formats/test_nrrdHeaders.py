"""Headers that are written, read by others."""

import gzip

import nrrd
import numpy as np
import pytest
import SimpleITK as sitk
from sampleVolumes import (
    DATA,
    EXPECTED,
    OBLIQUE,
    SHAPE,
    headerLines,
    sampleArray,
    writeText,
    writeVolume,
)

from engine.base.errors import PipelineError
from engine.formats.nrrdFiles import openVolume
from engine.formats.nrrdGeometry import resultHeader
from engine.formats.nrrdHeaders import TYPES, formatHeader


@pytest.mark.parametrize("code", list(TYPES))
def testWrittenVolumeIsReadBySimpleItkAndPynrrd(tmp_path, code):
    array, path = sampleArray(code), tmp_path / "a.nrrd"
    header = {"space": "left-posterior-superior", "space directions": OBLIQUE, "space origin": [1, 2, 3]}
    writeVolume(path, array, header)
    image = sitk.ReadImage(str(path))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image).T, array)
    np.testing.assert_allclose(image.GetOrigin(), [1, 2, 3])
    np.testing.assert_allclose(
        np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing(), OBLIQUE.T, atol=1e-12
    )
    again, fields = nrrd.read(str(path))
    np.testing.assert_array_equal(again, array)
    np.testing.assert_array_equal(fields["space directions"], OBLIQUE)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def testSameInputGivesSameBytes(tmp_path):
    header = {"space": "RAS", "space directions": OBLIQUE, "owner": "me"}
    for name in ("a.nrrd", "b.nrrd"):
        writeVolume(tmp_path / name, EXPECTED.astype("f4"), header)
    content = (tmp_path / "a.nrrd").read_bytes()
    assert content == (tmp_path / "b.nrrd").read_bytes()
    assert content.startswith(b"NRRD0005\ntype: float\ndimension: 3\nspace: RAS\nsizes: 5 4 3\n")
    assert content.endswith(b"\n\n" + EXPECTED.astype("<f4").tobytes(order="F"))


@pytest.mark.parametrize(
    "array", [np.ascontiguousarray(EXPECTED), EXPECTED[::-1, :, ::2], EXPECTED.astype(">f8")]
)
def testMemoryOrderOfTheArrayDoesNotMatter(tmp_path, array):
    writeVolume(tmp_path / "a.nrrd", array, {})
    np.testing.assert_array_equal(openVolume(tmp_path / "a.nrrd").read(), array)
    np.testing.assert_array_equal(nrrd.read(str(tmp_path / "a.nrrd"))[0], array)


def testHeaderOfACompressedDetachedFileCanBeWrittenAsItIs(tmp_path):
    (tmp_path / "a.raw.gz").write_bytes(gzip.compress(b"123" + DATA))
    path = writeText(tmp_path / "a.nhdr", headerLines(data_file="a.raw.gz", encoding="gzip", byte_skip="3"))
    volume = openVolume(path)
    writeVolume(tmp_path / "b.nrrd", volume.read(), volume.header)
    np.testing.assert_array_equal(openVolume(tmp_path / "b.nrrd").read(), EXPECTED)
    assert {"byte skip", "data file"} & volume.header.keys()  # the caller's header is unchanged


@pytest.mark.parametrize("dtype", [np.float16, np.complex64, bool, "V3"])
def testTypesThatNrrdLacksAreRefused(tmp_path, dtype):
    with pytest.raises(PipelineError, match="NRRD files cannot hold this type of voxel"):
        writeVolume(tmp_path / "a.nrrd", np.zeros(SHAPE, dtype), {})
    assert names(tmp_path) == []


# -------------------------------------------------- a field twice, a fourth axis


@pytest.mark.parametrize(
    "line",
    ["sizes: 5 4 3", "Sizes:  5  4 3 ", "space directions: ( 1, 0,0) (0,1,0) (0,0,1)", "my key:=a"],
)
def testTheSameFieldTwiceWithTheSameValueIsRead(tmp_path, line):
    lines = [*headerLines(space="LPS", space_directions="(1,0,0) (0,1,0) (0,0,1)"), "my key:=a", line]
    volume = openVolume(writeText(tmp_path / "a.nrrd", lines, DATA))
    np.testing.assert_array_equal(volume.read(), EXPECTED)
    assert volume.header["my key"] == "a"


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("sizes: 3 4 5", "the header gives 'sizes' twice, as '5 4 3' and as '3 4 5'; delete the line"),
        ('space units: "mm"', '\'space units\' twice, as \'"um" "um" "um"\' and as \'"mm"\''),
        ("my key:=b", "the header gives 'my key' twice, as 'a' and as 'b'; delete the line that is wrong"),
    ],
)
def testAContradictionIsRefusedWithBothValues(tmp_path, line, text):
    lines = [*headerLines(space="LPS", space_units='"um" "um" "um"'), "my key:=a", line]
    path = writeText(tmp_path / "a.nrrd", lines, DATA)
    with pytest.raises(PipelineError) as caught:
        openVolume(path)
    assert str(caught.value).startswith(f"{path}: ") and text in str(caught.value)


FIRST = {
    "sizes": "1 5 4 3",
    "kinds": "list domain space domain",
    "space directions": "none (0.8,0.6,0) (-1.2,1.6,0) (0,0,-0.5)",
    "labels": '"c" "x" "y" "z"',
    "spacings": "nan nan nan nan",
    "centerings": "none cell cell cell",
}
LAST = {name: " ".join(value.split()[1:] + value.split()[:1]) for name, value in FIRST.items()}


@pytest.mark.parametrize("encoding", ["raw", "gzip"])
@pytest.mark.parametrize("kind", ["list", "vector", "scalar", "stub", "time", "???"])
@pytest.mark.parametrize("fields", [FIRST, LAST], ids=["first", "last"])
def testOneChannelInAFourthAxisIsA3dVolume(tmp_path, fields, kind, encoding):
    fields = {name: value.replace("list", kind) for name, value in fields.items()}
    fields |= {"dimension": "4", "space": "left-posterior-superior", "space origin": "(1,2,3)"}
    fields |= {"space units": '"um" "um" "um"', "encoding": encoding}
    lines = headerLines(**{name.replace(" ", "_"): value for name, value in fields.items()})
    path = writeText(tmp_path / "a.nrrd", lines, gzip.compress(DATA) if encoding == "gzip" else DATA)
    volume = openVolume(path)
    assert volume.shape == SHAPE and volume.header["labels"] == ["x", "y", "z"]
    np.testing.assert_array_equal(volume.read(), EXPECTED)
    np.testing.assert_array_equal(np.concatenate([*volume.slabs(planeCount=2)], axis=2), EXPECTED)
    np.testing.assert_array_equal(volume.frame.directions, OBLIQUE)
    assert volume.frame.unit == "um" and volume.frame.origin.tolist() == [1, 2, 3]
    writeVolume(tmp_path / "b.nrrd", EXPECTED, resultHeader(volume, ((1, 5), (0, 4), (2, 3)), np.uint8))
    image = sitk.ReadImage(str(tmp_path / "b.nrrd"))
    np.testing.assert_allclose(image.GetOrigin(), np.array([1, 2, 3]) + OBLIQUE[0] + 2 * OBLIQUE[2])
    np.testing.assert_allclose(image.GetSpacing(), [1, 2, 0.5])


@pytest.mark.parametrize("sizes", ["1 5 4 3", "5 4 3 1"])
@pytest.mark.parametrize("kinds", [None, "??? none ??? ???", "domain domain domain domain"])
def testOneChannelIsKnownByItsSizeWhereNothingElseTells(tmp_path, sizes, kinds):
    path = writeText(tmp_path / "a.nrrd", headerLines(dimension="4", sizes=sizes, kinds=kinds), DATA)
    np.testing.assert_array_equal(openVolume(path).read(), EXPECTED)


def testASingleSliceOfOneChannelKeepsItsThinAxis(tmp_path):
    lines = headerLines(dimension="4", sizes="1 20 3 1", kinds="list domain domain domain")
    assert openVolume(writeText(tmp_path / "a.nrrd", lines, DATA)).shape == (20, 3, 1)


def testKeysAndValuesOfAnyBytesAreWrittenAsText():
    text = formatHeader({"type": "uint8", "source": "Prob\udce4\nline", "\udcff": 1}).decode("utf-8")
    assert "source:=Prob\\udce4\\nline\n" in text and "\\udcff:=1\n" in text
