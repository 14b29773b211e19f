"""TIFF stacks: one for ImageJ, and OME-TIFF where that ends."""

import tracemalloc
from xml.etree import ElementTree

import numpy as np
import pytest

import engine.formats.tiff
from engine.formats.nrrdGeometry import readFrame

tifffile = pytest.importorskip("tifffile")

SPACINGS = (50.0, 60.0, 80.0)


def writeStack(path, values: np.ndarray, unit: str, spacings: tuple[float, float, float] = SPACINGS) -> None:
    """Write (x, y, z) in two slabs."""
    frame = readFrame({"spacings": spacings, "units": [unit] * 3})
    with engine.formats.tiff.openTiff(path, values.shape, str(values.dtype), frame) as write:
        for planes in np.array_split(values.T, 2):
            write(planes)


def readPixels(file) -> dict[str, str]:
    """Attributes of the only <Pixels> of OME-XML."""
    (pixels,) = ElementTree.fromstring(file.ome_metadata).iterfind(".//{*}Pixels")
    return pixels.attrib


def readResolution(file) -> tuple[float, float, int]:
    """Pixels per unit along x and y, and the tag of this unit."""
    tags = file.pages[0].tags
    (x, perX), (y, perY) = tags["XResolution"].value, tags["YResolution"].value
    return x / perX, y / perY, tags["ResolutionUnit"].value


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("shape", [(7, 5, 4), (3, 5, 4), (7, 5, 1), (1, 5, 4)])
def testLargeStacksAreOmeTiffWithVoxelSize(tmp_path, monkeypatch, shape, dtype):
    monkeypatch.setattr(engine.formats.tiff, "CLASSIC_LIMIT", 1)
    values = np.random.default_rng(0).integers(0, 256, shape).astype(dtype)
    writeStack(tmp_path / "a_mask.tif", values, "nm")
    with tifffile.TiffFile(tmp_path / "a_mask.tif") as file:
        assert file.is_bigtiff and file.is_ome and not file.is_imagej
        assert len(file.pages) == shape[2] and len(file.series) == 1
        assert file.series[0].axes == ("ZYX" if shape[2] > 1 else "YX")
        assert file.pages[0].dtype == dtype
        np.testing.assert_array_equal(file.asarray().reshape(shape[::-1]), values.T)
        pixels = readPixels(file)
        assert [float(pixels[f"PhysicalSize{axis}"]) for axis in "XYZ"] == list(SPACINGS)
        assert [pixels[f"PhysicalSize{axis}Unit"] for axis in "XYZ"] == ["nm"] * 3
        assert [int(pixels[f"Size{axis}"]) for axis in "XYZ"] == list(shape)
        assert readResolution(file) == pytest.approx((1 / 50, 1 / 60, 1))  # 1: no unit, 2: inch


@pytest.mark.parametrize(
    ("unit", "side", "written", "size"),
    [
        ("um", 0.5, "\u00b5m", 0.5),
        ("\u00b5m", 0.5, "\u00b5m", 0.5),
        ("\u03bcm", 0.5, "\u00b5m", 0.5),
        ("microns", 0.5, "\u00b5m", 0.5),
        ("mm", 5e-5, "\u00b5m", 0.05),
        ("cm", 0.5, "cm", 0.5),
        ("m", 2e-6, "\u00b5m", 2),
        ("\u00c5", 2, "\u00c5", 2),
        ("", 0.5, "reference frame", 0.5),
        ("<&>", 0.5, "reference frame", 0.5),
        ("pc", 1e-12, "pixel", 1),
    ],
)
def testLargeStacksNameTheirUnitAsTheOmeSchemaDoes(tmp_path, monkeypatch, unit, side, written, size):
    monkeypatch.setattr(engine.formats.tiff, "CLASSIC_LIMIT", 1)
    writeStack(tmp_path / "a.tif", np.zeros((7, 5, 4), np.uint8), unit, (side, side, 2 * side))
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        pixels = readPixels(file)
    assert {pixels[f"PhysicalSize{axis}Unit"] for axis in "XYZ"} == {written}
    sizes = [float(pixels[f"PhysicalSize{axis}"]) for axis in "XYZ"]
    assert sizes == pytest.approx([1, 1, 1] if written == "pixel" else [size, size, 2 * size])


def testLargeStacksWithoutVoxelSizeAreInPixels(tmp_path, monkeypatch):
    monkeypatch.setattr(engine.formats.tiff, "CLASSIC_LIMIT", 1)
    with engine.formats.tiff.openTiff(tmp_path / "a.tif", (7, 5, 4), "uint8", readFrame({})) as write:
        write(np.zeros((4, 5, 7), np.uint8))
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        assert readPixels(file)["PhysicalSizeZ"] == "1.0" and readPixels(file)["PhysicalSizeZUnit"] == "pixel"


def testSmallStacksAreForImageJ(tmp_path):
    values = np.random.default_rng(0).integers(0, 256, (7, 5, 4), np.uint8)
    writeStack(tmp_path / "a.tif", values, "nm")
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        assert file.is_imagej and not file.is_ome and not file.is_bigtiff and file.series[0].axes == "ZYX"
        np.testing.assert_array_equal(file.asarray(), values.T)
        assert file.imagej_metadata["spacing"] == 80 and file.imagej_metadata["unit"] == "nm"
        assert readResolution(file) == pytest.approx((1 / 50, 1 / 60, 1))


@pytest.mark.parametrize("limit", [1, engine.formats.tiff.CLASSIC_LIMIT])
def testStacksAreWrittenSlabBySlab(tmp_path, monkeypatch, limit):
    monkeypatch.setattr(engine.formats.tiff, "CLASSIC_LIMIT", limit)
    plane = np.ones((1, 512, 512), np.uint8)  # 256 KiB of 16 MiB
    tracemalloc.start()
    try:
        with engine.formats.tiff.openTiff(
            tmp_path / "a.tif", (512, 512, 64), "uint8", readFrame({})
        ) as write:
            for _ in range(64):
                write(plane)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 << 20


@pytest.mark.parametrize(
    ("unit", "side", "written", "spacing"),
    [
        ("µm", 0.5, "\\u00b5m", 0.5),
        ("m", 2e-10, "nm", 0.2),
        ("Å", 2.0, "\\u00c5", 2.0),
        ("pc", 1e-12, "pixel", 1.0),
    ],
)
def testTiffTakesEveryUnit(tmp_path, unit, side, written, spacing):
    frame = readFrame({"spacings": (side,) * 3, "units": [unit] * 3})
    values = np.random.default_rng(0).random((7, 5, 4)).astype(np.float32)  # (x, y, z)
    with engine.formats.tiff.openTiff(tmp_path / "a.tif", values.shape, "float32", frame) as write:
        write(values.T)
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        np.testing.assert_array_equal(file.asarray(), values.T)
        assert file.imagej_metadata["unit"] == written
        assert file.imagej_metadata["spacing"] == pytest.approx(spacing)
        numerator, denominator = file.pages[0].tags["XResolution"].value
        assert denominator / numerator == pytest.approx(spacing, rel=1e-3)


def testTiffOfMoreThan4GigabytesIsBigTiff(tmp_path, monkeypatch):
    monkeypatch.setattr(engine.formats.tiff, "CLASSIC_LIMIT", 100)
    values = np.random.default_rng(0).random((7, 5, 4)).astype(np.float32)  # (x, y, z)
    frame = readFrame({"spacings": (1.0, 1.0, 2.0)})
    with engine.formats.tiff.openTiff(tmp_path / "a.tif", values.shape, "float32", frame) as write:
        write(values.T[:3])
        write(values.T[3:])
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        assert file.is_bigtiff
        np.testing.assert_array_equal(file.asarray(), values.T)
