"""TIFF as programs write it: ImageJ above 4 GB, OME-TIFF, masks of single bits."""

import pickle
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import tifffile

from engine.base.errors import PipelineError
from engine.formats.opening import openVolume
from engine.formats.planes import PlaneVolume
from engine.formats.rawData import RawVolume

GREY = {"photometric": "minisblack"}
SHAPE = (6, 4, 5)  # (z, y, x)


def makePlanes(dtype="uint16", shape=SHAPE):
    return np.random.default_rng(3).integers(0, 120, shape).astype(dtype)


def check(volume, planes):
    """Compare a volume, sent to another process, with its planes: whole, in part and slab by slab."""
    volume, expected = pickle.loads(pickle.dumps(volume)), planes.T
    assert volume.shape == expected.shape and volume.dtype.newbyteorder("=") == expected.dtype
    np.testing.assert_array_equal(volume.read(), expected)
    region = (1, 4), (1, None), (2, 5)
    for count in (1, 2, 99):
        blocks = list(volume.slabs(region, count))
        assert all(block.flags.f_contiguous for block in blocks)
        np.testing.assert_array_equal(np.concatenate(blocks, axis=2), expected[1:4, 1:, 2:5])


def refuse(path) -> str:
    """Give the whole line with which a volume is refused, without its path."""
    with pytest.raises(PipelineError) as caught:
        openVolume(path)
    assert str(caught.value).startswith(f"{path}: ")
    return str(caught.value).removeprefix(f"{path}: ")


# ------------------------------------------------------------------------------------------ ImageJ above 4 GB

IMAGE_START = 768  # byte of the first voxel in a file of ImageJ


def writeImageJ(path, planes, shape, lines=("unit=um", "spacing=1.3"), counts=("images", "slices")):
    """Write as ImageJ does above 4 GB: one page, then all planes; some of them are given, by number."""
    depth, height, width = shape
    text = "\n".join(["ImageJ=1.54f", *(f"{name}={depth}" for name in counts), *lines, "loop=false", "\0"])
    kind = next(iter(planes.values())).dtype.newbyteorder(">")
    planeBytes = height * width * kind.itemsize
    tags = [(254, 4, 1, 0), (256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8 * kind.itemsize << 16)]
    tags += [(262, 3, 1, 1 << 16), (270, 2, len(text), 300), (273, 4, 1, IMAGE_START), (277, 3, 1, 1 << 16)]
    tags += [
        (278, 4, 1, height),
        (279, 4, 1, planeBytes),
        (282, 5, 1, 250),
        (283, 5, 1, 258),
        (296, 3, 1, 1 << 16),
    ]
    header = bytearray(IMAGE_START)
    struct.pack_into(">2sHIH", header, 0, b"MM", 42, 8, len(tags))
    for number, tag in enumerate(tags):
        struct.pack_into(">HHII", header, 10 + 12 * number, *tag)
    struct.pack_into(">4I", header, 250, 1000000, 650000, 1000000, 500000)  # pixels a micrometre
    header[300 : 300 + len(text)] = text.encode()
    with open(path, "wb") as file:
        file.write(header)
        for number, plane in planes.items():
            file.seek(IMAGE_START + number * planeBytes)
            file.write(plane.astype(kind).tobytes())
        file.truncate(IMAGE_START + depth * planeBytes)


@pytest.mark.parametrize("counts", [("images", "slices"), ("images",), ("images", "frames")])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def testStackOfImageJWithOnePageIsWhole(tmp_path, counts, dtype):
    planes = makePlanes(dtype)
    writeImageJ(tmp_path / "a.tif", dict(enumerate(planes)), SHAPE, counts=counts)
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        assert len(tiff.pages) == 1 and tiff.is_imagej
    volume = openVolume(tmp_path / "a.tif")
    check(volume, planes)
    np.testing.assert_allclose(volume.frame.sides, (0.65, 0.5, 1.3), rtol=1e-6)
    assert volume.frame.unit == "um" and isinstance(volume, RawVolume)


@pytest.mark.parametrize("counts", [("images", "slices"), ("images",)])
def testStackOfImageJAbove4GigabytesIsReadWithoutReadingAll(tmp_path, counts):
    shape, path = (1100, 1400, 1500), tmp_path / "a.tif"
    values = {number: makePlanes("uint16", shape[1:]) + number for number in (0, 1022, 1023, 1099)}
    writeImageJ(path, values, shape, counts=counts)
    assert path.stat().st_size == IMAGE_START + 2 * 1100 * 1400 * 1500 > 1 << 32
    assert path.stat().st_blocks * 512 < 1 << 26  # a file with holes
    volume = openVolume(path)
    assert volume.shape == shape[::-1] and volume.dtype == ">u2" and volume.frame.unit == "um"
    np.testing.assert_allclose(volume.frame.sides, (0.65, 0.5, 1.3), rtol=1e-6)
    tracemalloc.start()
    for number, plane in values.items():  # plane 1022 lies across 4 GiB
        (block,) = volume.slabs(((None, None), (None, None), (number, number + 1)), 1)
        np.testing.assert_array_equal(block[:, :, 0], plane.T)
    part = volume.read(((3, 9), (5, 8), (1021, 1025)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 25  # a plane has 4 MiB, the file more than 4 GiB
    for number in (1022, 1023):
        np.testing.assert_array_equal(part[:, :, number - 1021], values[number][5:8, 3:9].T)
    assert not part[:, :, 0].any()


@pytest.mark.filterwarnings("ignore:.*truncating ImageJ file")
def testWhatTifffileWritesForImageJAbove4GigabytesIsRead(tmp_path):
    shape, path = (1100, 1400, 1500), tmp_path / "a.tif"
    offset, _ = tifffile.imwrite(
        path, shape=shape, dtype="uint16", imagej=True, byteorder="<", returnoffset=True
    )
    plane = makePlanes("uint16", shape[1:])
    with open(path, "r+b") as file:
        file.seek(offset + 1090 * plane.nbytes)
        file.write(plane.tobytes())
    volume = openVolume(path)
    assert volume.shape == shape[::-1]
    np.testing.assert_array_equal(volume.read(((0, 1500), (0, 1400), (1090, 1091)))[:, :, 0], plane.T)


@pytest.mark.parametrize("counts", [("images", "slices"), ("images",)])
def testCutStackOfImageJIsRefused(tmp_path, counts):
    path = tmp_path / "a.tif"
    writeImageJ(path, dict(enumerate(makePlanes())), SHAPE, counts=counts)
    with open(path, "r+b") as file:
        file.truncate(path.stat().st_size - 1)
    words = "the data are truncated (expected 6 slices, as ImageJ says, received fewer bytes)"
    assert refuse(path) == words


@pytest.mark.parametrize("lines", [("slices=5",), ("frames=3",), ("channels=5", "hyperstack=true")])
def testDescriptionOfImageJThatContradictsItselfLosesNoSlices(tmp_path, lines):
    writeImageJ(tmp_path / "a.tif", dict(enumerate(makePlanes())), SHAPE, lines, counts=("images",))
    received = f"{lines[0].split('=')[1]} slices"
    words = f"the description of ImageJ contradicts itself (expected 6 images, received {received})"
    assert refuse(tmp_path / "a.tif") == f"{words}; save it again with ImageJ"


def testPagesAndDescriptionMustAgree(tmp_path):
    """A program that leaves out pages and keeps the description: no slice may be lost in silence."""
    path = tmp_path / "a.tif"
    description = "ImageJ=1.54f\nimages=3\nslices=3\nloop=false\n"
    tifffile.imwrite(path, makePlanes(), description=description, metadata=None, **GREY)
    try:
        volume = openVolume(path)
    except PipelineError as error:
        words = "its description tells of another number of slices than it has pages (expected 3, received 6)"
        assert words in str(error)
    else:
        check(volume, makePlanes())


# ------------------------------------------------------------------------------------------ OME-TIFF

SIZES = {"PhysicalSizeX": 0.65, "PhysicalSizeY": 0.5, "PhysicalSizeZ": 1.3}
OME = {"axes": "ZYX", **SIZES}


def checkPlace(volume):
    np.testing.assert_allclose(volume.frame.sides, (0.65, 0.5, 1.3))
    assert volume.frame.unit == "um"


@pytest.mark.parametrize("options", [{}, {"tile": (16, 16)}, {"compression": "zlib"}])
@pytest.mark.parametrize("isBig", [False, True])
@pytest.mark.parametrize(
    ("axes", "empty"), [("ZYX", ()), ("TCZYX", (0, 1)), ("TZCYX", (0, 2)), ("CZYX", (0,))]
)
def testOmeIsRead(tmp_path, options, isBig, axes, empty):
    planes = makePlanes()
    metadata = OME | {"axes": axes}
    array = np.expand_dims(planes, empty)
    tifffile.imwrite(tmp_path / "a.tif", array, ome=True, bigtiff=isBig, metadata=metadata, **GREY, **options)
    volume = openVolume(tmp_path / "a.tif")
    check(volume, planes)
    checkPlace(volume)


@pytest.mark.parametrize("isOme", [False, True])
@pytest.mark.parametrize("options", [{}, {"tile": (16, 16), "compression": "zlib"}])
def testOfAPyramidTheFullResolutionIsRead(tmp_path, isOme, options):
    planes = makePlanes("uint16", (6, 40, 50))
    with tifffile.TiffWriter(tmp_path / "a.tif", bigtiff=True, ome=isOme) as writer:
        writer.write(planes, subifds=2, metadata=OME if isOme else {"axes": "ZYX"}, **GREY, **options)
        for step in (2, 4):
            writer.write(planes[:, ::step, ::step], subfiletype=1, **GREY, **options)
    volume = openVolume(tmp_path / "a.tif")
    check(volume, planes)
    if isOme:
        checkPlace(volume)


@pytest.mark.parametrize(
    ("axes", "shape"), [("CZYX", (2, 6, 4, 5)), ("TZYX", (3, 6, 4, 5)), ("ZCYX", (6, 2, 4, 5))]
)
def testChannelsAndTimesOfOmeAreRefused(tmp_path, axes, shape):
    tifffile.imwrite(
        tmp_path / "a.tif", makePlanes("uint16", shape), ome=True, metadata={"axes": axes}, **GREY
    )
    what = "points in time" if "T" in axes else "channels"
    count = shape[axes.index("T" if "T" in axes else "C")]
    assert refuse(tmp_path / "a.tif") == f"has several {what} (expected one, received {count})"


def testPagesAcrossAnotherAxisAreRefused(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", makePlanes(), metadata={"axes": "XYZ"}, **GREY)
    words = "its pages are no slices across z (expected axes that end in YX, received XYZ)"
    assert refuse(tmp_path / "a.tif") == f"{words}; save it with the axes ZYX"


@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}])
def testSlicesThatWereWrittenOneByOneAreAStack(tmp_path, options):
    planes = makePlanes()
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        for plane in planes:
            writer.write(plane, **GREY, **options)
    check(openVolume(tmp_path / "a.tif"), planes)


def testSlicesOfSeveralShapesAreNoStack(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        for plane in (*makePlanes(), makePlanes()[0, :2]):
            writer.write(plane, **GREY)
    words = "holds several images of different shapes or types (expected one stack, received 2)"
    assert refuse(tmp_path / "a.tif") == words


# ------------------------------------------------------------------------------------------ types of voxels


@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}, {"bigtiff": True}])
def testSingleBitsAreReadAsTheyAreStored(tmp_path, photometric, options):
    planes = makePlanes() > 50
    tifffile.imwrite(tmp_path / "a.tif", planes, photometric=photometric, **options)
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        assert tiff.pages[0].bitspersample == 1
    check(openVolume(tmp_path / "a.tif"), planes.astype("uint8"))


def testSingleBitsOfPillowAreReadAsTheyAreStored(tmp_path):
    image = pytest.importorskip("PIL.Image")
    planes = makePlanes() > 50
    slices = [image.fromarray(plane) for plane in planes]
    slices[0].save(tmp_path / "a.tif", save_all=True, append_images=slices[1:])
    (tmp_path / "scan").mkdir()
    for z, one in enumerate(slices):
        one.save(tmp_path / "scan" / f"s{z}.tif")
    for name in ("a.tif", "scan"):
        check(openVolume(tmp_path / name), planes.astype("uint8"))


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}])
def testWhiteThatIsZeroStaysZero(tmp_path, dtype, options):
    planes = makePlanes(dtype)
    tifffile.imwrite(tmp_path / "a.tif", planes, photometric="miniswhite", **options)
    check(openVolume(tmp_path / "a.tif"), planes)


@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}, {"imagej": True}])
def testPalettesAreReadAsIndices(tmp_path, options):
    planes = makePlanes("uint8") % 4
    colours = np.random.default_rng(0).integers(0, 65536, (3, 256)).astype("uint16")
    tifffile.imwrite(tmp_path / "a.tif", planes, photometric="palette", colormap=colours, **options)
    check(openVolume(tmp_path / "a.tif"), planes)


@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}, {"byteorder": ">"}])
def testHalfPrecisionIsReadAsSingle(tmp_path, options):
    planes = np.random.default_rng(0).normal(size=SHAPE).astype("float16")
    tifffile.imwrite(tmp_path / "a.tif", planes, **GREY, **options)
    volume = openVolume(tmp_path / "a.tif")
    check(volume, planes.astype("float32"))
    assert isinstance(volume, PlaneVolume)
    (tmp_path / "scan").mkdir()
    for z, plane in enumerate(planes):
        tifffile.imwrite(tmp_path / "scan" / f"s{z}.tif", plane, **GREY, **options)
    check(openVolume(tmp_path / "scan"), planes.astype("float32"))


def testHalfPrecisionWithAPredictorIsReadOrRefused(tmp_path):
    pytest.importorskip("imagecodecs")
    planes = np.random.default_rng(0).normal(size=SHAPE).astype("float16")
    tifffile.imwrite(tmp_path / "a.tif", planes, compression="zlib", predictor=3, **GREY)
    check(openVolume(tmp_path / "a.tif"), planes.astype("float32"))


def setTag(path: Path, name: str, value: int, order: str = "<") -> None:
    """Overwrite a short tag of every page."""
    content = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as tiff:
        places = [page.tags[name].valueoffset for page in tiff.pages]
    for place in places:
        struct.pack_into(f"{order}H", content, place, value)
    path.write_bytes(content)


ENCODED = "holds all its slices in one page, encoded (expected plain numbers, received {}, compression {}); "
ENCODED += "save it with one page a slice"
VOLUMES = {
    "bits": ("bool", {}, "1 bits", "NONE"),
    "halves": ("float16", {}, "16 bits", "NONE"),
    "deflate": ("uint16", {"compression": "zlib"}, "16 bits", "ADOBE_DEFLATE"),
    "tiles": ("uint8", {"tile": (16, 16)}, "8 bits", "NONE"),
    "blocks": ("uint8", {"tile": (16, 16, 16)}, "8 bits", "NONE"),
}


@pytest.mark.parametrize("case", VOLUMES)
def testEncodedSlicesInOnePageAreRefused(tmp_path, case):
    """A page that is a volume, as a tag of SGI has it: tifffile decodes it as a whole or not at all."""
    dtype, options, bits, compression = VOLUMES[case]
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, makePlanes(dtype), volumetric=True, **GREY, **options)
    with tifffile.TiffFile(path) as tiff:
        assert len(tiff.pages) == 1
    assert refuse(path) == ENCODED.format(bits, compression)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("order", ["<", ">"])
def testPlainSlicesInOnePageAreRead(tmp_path, dtype, order):
    tifffile.imwrite(tmp_path / "a.tif", makePlanes(dtype), volumetric=True, byteorder=order, **GREY)
    check(openVolume(tmp_path / "a.tif"), makePlanes(dtype))


def testSingleBitsInTheOnePageOfImageJAreRefused(tmp_path):
    writeImageJ(tmp_path / "a.tif", dict(enumerate(makePlanes("uint8"))), SHAPE)
    setTag(tmp_path / "a.tif", "BitsPerSample", 1, ">")
    assert refuse(tmp_path / "a.tif") == ENCODED.format("1 bits", "NONE")


@pytest.mark.parametrize("bits", [2, 4, 10, 12, 14])
def testPackedIntegersAreRefused(tmp_path, bits):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, makePlanes(), **GREY)
    setTag(path, "BitsPerSample", bits)
    expected = "integers or floats of 8 to 64 bits"
    received = f"{bits} bits, {'uint8' if bits < 8 else 'uint16'}"
    words = f"this type of voxel cannot be read (expected {expected}, received {received})"
    assert refuse(path) == f"{words}; save it with 8 or 16 bits"


def testPartsThatWereNeverWrittenAreNoZeros(tmp_path):
    """As a writer that is killed leaves them: the pages are there, their bytes are not."""
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, makePlanes(), compression="zlib", **GREY)
    content = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as tiff:
        tag = tiff.pages[4].tags["StripByteCounts"]
    content[tag.valueoffset : tag.valueoffset + 4] = bytes(4)
    path.write_bytes(content)
    with pytest.raises(PipelineError) as caught:
        openVolume(path).read()
    assert str(caught.value) == f"{path}: the data are damaged: parts of page 4 were never written"


@pytest.mark.parametrize(("code", "name"), [(34925, "LZMA"), (9999, "number 9999")])
def testCompressionsThatCannotBeReadAreNamed(tmp_path, code, name):
    """Also those of which tifffile knows no more than the number, and whether imagecodecs is here or not."""
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, makePlanes(), compression="zlib", **GREY)
    setTag(path, "Compression", code)
    words = f"its compression {name} cannot be read; pip install imagecodecs, or save it uncompressed"
    assert refuse(path) == words


def testADamagedTagIsNoCompression(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, makePlanes(), compression="zlib", **GREY)
    content = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as tiff:
        struct.pack_into("<I", content, tiff.pages.first.tags["Compression"].offset + 4, 2)  # two values
    path.write_bytes(content)
    assert refuse(path).startswith("the data are truncated or damaged: ")


@pytest.mark.parametrize(("compression", "predictor"), [("lzw", 2), ("zstd", None), ("lzma", 2), ("zlib", 3)])
def testCompressionsOfImagecodecsAreRead(tmp_path, compression, predictor):
    pytest.importorskip("imagecodecs")
    planes = makePlanes("float32" if predictor == 3 else "uint16")
    options = {"compression": compression, "predictor": predictor, **GREY}
    tifffile.imwrite(tmp_path / "a.tif", planes, **options)
    (tmp_path / "scan").mkdir()
    for z, plane in enumerate(planes):
        tifffile.imwrite(tmp_path / "scan" / f"s{z}.tif", plane, **options)
    for name in ("a.tif", "scan"):
        check(openVolume(tmp_path / name), planes)


# ------------------------------------------------------------------------------------------ napari


def testLabelsOfNapariAreRead(tmp_path):
    write = pytest.importorskip("napari_builtins.io").napari_write_labels
    labels = makePlanes("uint8") % 3
    write(str(tmp_path / "a.tif"), labels, {})
    check(openVolume(tmp_path / "a.tif"), labels.astype("uint32"))
