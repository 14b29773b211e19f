"""Raw files by their layout: values, and what a user is told who has given none or a wrong one."""

from pathlib import Path

import numpy as np
import pytest
from sampleVolumes import checkVolume, refuse, sampleArray

from engine.formats.layouts import TYPES
from engine.formats.nrrdGeometry import withVoxelSize
from engine.formats.opening import openVolume, stemOf, withLayout
from engine.formats.rawData import RawVolume

SHAPE = (7, 5, 4)  # (x, y, z)
WAY = "512x512x300 uint16 little 0': sides x y z, type, byte order and bytes to skip, preset little 0"


def write(folder, array, name="scan.raw", before=b""):
    (folder / name).write_bytes(before + array.tobytes("F"))
    return folder / name


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("order", "word"), [("<", ""), ("<", " little"), (">", " big")])
@pytest.mark.parametrize("skip", [0, 13])
def testFileIsReadByItsLayout(tmp_path, dtype, order, word, skip):
    array = sampleArray(np.dtype(dtype).newbyteorder(order), SHAPE)
    path = write(tmp_path, array, before=bytes(range(skip)))
    layout = f"7x5x4 {dtype}{word}{f' {skip}' if skip else ''}"
    volume = openVolume(withLayout(path, layout))
    checkVolume(volume, array)
    assert isinstance(volume, RawVolume) and volume.header == {} and volume.files == (path,)
    assert (volume.path, volume.inner) == (path, layout) and stemOf(f"{path}::{layout}") == "scan"
    assert volume.frame.why == "a raw file gives no size of a voxel; --voxelSize does"
    assert withVoxelSize(volume, "0.65 um").frame.unit == "um"


@pytest.mark.parametrize(
    "layout", ["7 x 5 x 4, uint16, little, 0", "7X5X4 UINT16 Little", " 7x5x4  uint16 0", "7×5×4 uint16"]
)
@pytest.mark.parametrize("name", ["scan.raw", "scan.dat", "scan.bin", "SCAN.RAW"])
def testLayoutsMayBeWrittenLoosely(tmp_path, layout, name):
    path = write(tmp_path, sampleArray("<u2", SHAPE), name)
    checkVolume(openVolume(f"{path}::{layout}"), sampleArray("<u2", SHAPE))


def testALayoutBelongsToRawFilesThatDoNotTellTheirs(tmp_path):
    layout, named = "7x5x4 uint16", tmp_path / "scan.raw::3x2x1 uint8"
    assert withLayout(tmp_path / "scan.raw", f" {layout} ") == tmp_path / f"scan.raw::{layout}"
    for path in (named, tmp_path / "scan.nrrd", tmp_path / "scan.mhd", tmp_path, Path("none")):
        assert withLayout(path, layout) == path
    assert withLayout(tmp_path / "scan.raw", "") == tmp_path / "scan.raw"


@pytest.mark.parametrize(
    "layout",
    [
        "7x5 uint16",
        "7x5x4",
        "7x5x4 uint17",
        "7x5x4 uint16 middle",
        "0x5x4 uint8",
        "7x5x4 float",
        "7x5x4 uint16 little -1",
        "uint16 7x5x4",
    ],
)
def testNonsenseIsNoLayout(tmp_path, layout):
    path = write(tmp_path, sampleArray("<u2", SHAPE))
    words = f"the layout cannot be read (expected '{WAY}, received '{layout}'); types are {', '.join(TYPES)}"
    assert refuse(f"{path}::{layout}") == f"{path}: {words}"


@pytest.mark.parametrize(
    ("layout", "fitting"),
    [
        ("7x5x4 uint8", "'7x5x4 uint16' or '7x5x8 uint8' or '7x5x4 uint8 little 140'"),
        ("7x5x4 float32", "'7x5x4 uint16' or '7x5x2 float32'"),
        ("7x5x4 uint16 big 20", "'7x5x4 uint16 big'"),
        ("7x5x3 uint16", "'7x5x4 uint16' or '7x5x3 uint16 little 70'"),
        ("7x5x9 int16", "'7x5x4 int16'"),
        ("100x100x100 uint16", ""),
    ],
)
def testOtherLengthsAreRefusedWithLayoutsThatFit(tmp_path, layout, fitting):
    path = write(tmp_path, sampleArray("<u2", SHAPE))
    line = refuse(f"{path}::{layout}")
    assert line.startswith(f"{path}: the length of the file does not fit its layout (expected ")
    assert ", received 280 bytes)" in line
    if layout == "7x5x4 uint16 big 20":
        assert "(expected 280 bytes of voxels and 20 that are skipped by 7x5x4 uint16 big 20," in line
    assert line.endswith(f"received 280 bytes); {fitting} would fit" if fitting else "received 280 bytes)")
    for other in fitting.split(" or ") if fitting else []:
        openVolume(f"{path}::{other[1:-1]}")


def testMissingLayoutIsExplained(tmp_path):
    path = write(tmp_path, sampleArray("<u2", SHAPE))
    words = "a raw file does not tell its sides and type: write them behind its name "
    assert refuse(path) == f"{path}: {words}(expected 'scan.raw::{WAY})"
    assert refuse(tmp_path / "b.raw") == f"{tmp_path / 'b.raw'}: there is no such file"


@pytest.mark.parametrize(
    ("name", "dtype", "proposal"),
    [
        ("scan_7x5x4_16bit_unsigned.raw", "<u2", "7x5x4 uint16"),
        ("scan_7x5x4_16bit_signed.raw", "<u2", "7x5x4 int16"),
        ("scan-7x5x4-uint16.raw", "<u2", "7x5x4 uint16"),
        ("scan_7x5x4_8bit.raw", "u1", "7x5x4 uint8"),
        ("scan_7x5x4_32-bit_real.raw", "<f4", "7x5x4 float32"),
        ("scan_7x5x4_32bit.raw", "<f4", "7x5x4 float32"),
        ("scan_7x5x4_float32_BE.raw", "<f4", "7x5x4 float32 big"),
        ("scan_7x5x4.raw", "<u2", "7x5x4 uint16"),
        ("scan_0.65um_7x5x4.dat", "u1", "7x5x4 uint8"),
    ],
)
def testLayoutInANameIsProposedButNotTaken(tmp_path, name, dtype, proposal):
    path = write(tmp_path, sampleArray(dtype, SHAPE), name)
    assert refuse(path).endswith(f"; by its name and length it may be '{name}::{proposal}'")
    assert openVolume(f"{path}::{proposal}").shape == SHAPE


@pytest.mark.parametrize(
    "name",
    ["scan_7x5x3_16bit.raw", "scan_7x5.raw", "scan_8x5x4_16bit.raw", "scan.raw", "scan_0x5x4_8bit.raw"],
)
def testNamesThatDoNotFitTheLengthProposeNothing(tmp_path, name):
    (tmp_path / name).write_bytes(bytes(279))
    assert refuse(tmp_path / name).endswith("preset little 0)")


@pytest.mark.parametrize("ending", ["mhd", "nhdr"])
def testHeaderBesideARawFileIsNamed(tmp_path, ending):
    path = write(tmp_path, sampleArray("<u2", SHAPE))
    (tmp_path / f"scan.{ending}").touch()
    assert refuse(path).endswith(f"; give scan.{ending}, which describes it")


def testEmptyFilesAreRefused(tmp_path):
    (tmp_path / "scan.raw").touch()
    assert "received 0 bytes" in refuse(f"{tmp_path / 'scan.raw'}::7x5x4 uint8")
    (tmp_path / "scan_7x5x4.raw").touch()
    assert "by its name" not in refuse(tmp_path / "scan_7x5x4.raw")


def testOtherFormatsTakeNoLayout(tmp_path):
    (tmp_path / "a.mhd").touch()
    assert refuse(f"{tmp_path / 'a.mhd'}::7x5x4 uint8").startswith(f"{tmp_path / 'a.mhd'}: holds one volume")
