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
from engine.volumes.nrrdFiles import openVolume
from engine.volumes.nrrdHeaders import TYPES, formatHeader


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


def testKeysAndValuesOfAnyBytesAreWrittenAsText():
    text = formatHeader({"type": "uint8", "source": "Prob\udce4\nline", "\udcff": 1}).decode("utf-8")
    assert "source:=Prob\\udce4\\nline\n" in text and "\\udcff:=1\n" in text
