"""NIfTI files against nibabel's and ITK's own reading of them: values, order, place in space, unit."""

import gzip
import logging
import tracemalloc

import numpy as np
import pytest
import SimpleITK as sitk
from places import SHARED
from sampleVolumes import checkVolume, refusal, sampleArray, writeVolume

from engine.base.errors import PipelineError
from engine.formats.niftiFiles import TYPES
from engine.formats.opening import findBeside, openVolume, stemOf
from engine.formats.rawData import RawVolume, isHeld, isSequential
from engine.formats.scaled import ScaledVolume
from engine.masks.place import describePlaces, putInPlace
from engine.volumes.frame import Turn, compareFrames, findTurn
from engine.volumes.turned import TurnedVolume

nib = pytest.importorskip("nibabel")

SHAPE = (7, 5, 4)  # (x, y, z)
SPACING, ORIGIN = (0.65, 0.5, 1.3), (-12.5, 3.25, 100.0)
TURN = np.array([[0.36, 0.48, -0.8], [-0.8, 0.6, 0.0], [0.48, 0.64, 0.6]])  # columns: axes x, y, z
AFFINE = np.block([[TURN * SPACING, np.array(ORIGIN)[:, None]], [np.zeros((1, 3)), np.ones((1, 1))]])
RAS_TO_LPS = np.diag([-1, -1, 1, 1])
BALL = SHARED / "nrrd_format" / "pynrrd" / "BallBinary30x30x30.nii.gz"
IMAGES = {1: nib.Nifti1Image, 2: nib.Nifti2Image}


def makeImage(array, version=1, affine=AFFINE, order="<", **fields):
    """Make an image of nibabel; fields are those of the header, written as they are."""
    kind = IMAGES[version]
    header = kind.header_class(endianness=order)
    header.set_data_dtype(array.dtype)
    header.set_xyzt_units("mm")
    image = kind(array, affine, header)
    for name, value in fields.items():
        image.header[name] = value
    return image


def affineOf(frame):
    """Affine (4, 4) of a frame, from voxels to right-anterior-superior as nibabel gives it."""
    assert frame.space == "left-posterior-superior"
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = frame.directions.T, frame.origin
    return RAS_TO_LPS @ affine


def writeItk(path, array):
    """Write an array (x, y, z) with an oblique place in space, as ITK and ITK-SNAP do."""
    image = sitk.GetImageFromArray(array.T)
    image.SetSpacing(SPACING)
    image.SetOrigin(ORIGIN)
    image.SetDirection(TURN.ravel().tolist())
    sitk.WriteImage(image, str(path))
    return path


# ----------------------------------------------------------------------------------------------------- values


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "A.NII.GZ"])
@pytest.mark.parametrize("dtype", sorted(TYPES.values()))
def testFilesOfNibabelAreReadAsTheyAre(tmp_path, name, dtype, version, order):
    array = sampleArray(dtype, SHAPE)
    nib.save(makeImage(array, version, order=order), tmp_path / name)
    volume = openVolume(tmp_path / name)
    checkVolume(volume, array)
    np.testing.assert_array_equal(np.asanyarray(nib.load(tmp_path / name).dataobj), volume.read())
    assert isinstance(volume, RawVolume) and volume.header == {} and volume.files == (tmp_path / name,)
    assert isSequential(volume) == name.lower().endswith(".gz") and stemOf(tmp_path / name) in ("a", "A")


@pytest.mark.parametrize("ending", ["nii", "nii.gz"])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "float32", "float64"])
def testFilesOfItkAreReadAsItkReadsThem(tmp_path, ending, dtype):
    array = sampleArray(dtype, SHAPE)
    path = writeItk(tmp_path / f"a.{ending}", array)
    volume, image = openVolume(path), sitk.ReadImage(str(path))
    checkVolume(volume, array)
    turn = np.array(image.GetDirection()).reshape(3, 3)
    np.testing.assert_allclose(volume.frame.directions, (turn * image.GetSpacing()).T, atol=1e-6)
    np.testing.assert_allclose(volume.frame.origin, image.GetOrigin(), atol=1e-5)
    np.testing.assert_allclose(volume.frame.directions, TURN.T * np.array(SPACING)[:, np.newaxis], atol=1e-6)
    assert volume.frame.unit == "mm"


@pytest.mark.parametrize("ending", ["nii", "nii.gz"])
@pytest.mark.parametrize(
    ("stored", "dtype"), [("i2", "f4"), ("u2", "f4"), ("f4", "f4"), ("i4", "f8"), ("f8", "f8")]
)
def testSlopeAndInterceptAreApplied(tmp_path, ending, stored, dtype):
    array = np.random.default_rng(3).integers(0, 30000, SHAPE).astype(stored)
    image = makeImage(array)
    image.header.set_slope_inter(0.25, -7.5)
    path = tmp_path / f"a.{ending}"
    image.to_filename(path)
    with open(path, "rb") as file:  # nibabel divides by a slope that is set, so the stored values are its own
        raw = gzip.decompress(file.read()) if ending.endswith("gz") else file.read()
    loaded = nib.load(path)
    assert loaded.dataobj.slope == 0.25 and loaded.dataobj.inter == -7.5 and len(raw) > 352
    expected = np.asanyarray(loaded.dataobj).astype(dtype)
    volume = openVolume(path)
    assert isinstance(volume, ScaledVolume) and volume.dtype == dtype
    checkVolume(volume, expected)
    assert isHeld(volume) and isSequential(volume) == ending.endswith("gz")
    np.testing.assert_allclose(affineOf(volume.frame), AFFINE, atol=1e-5)


@pytest.mark.parametrize(("slope", "intercept"), [(1, 0), (0, 5), (np.nan, np.nan), (np.nan, 3)])
def testSlopesThatMeanNothingLeaveTheValues(tmp_path, slope, intercept):
    array = sampleArray("int16", SHAPE)
    path = writeChanged(tmp_path, array, scl_slope=slope, scl_inter=intercept)
    assert isinstance(openVolume(path), RawVolume)
    checkVolume(openVolume(path), array)


def testMemoryDoesNotFollowTheSizeOfAScaledVolume(tmp_path):
    path = writeChanged(tmp_path, np.zeros((512, 512, 64), np.int16), name="a.nii.gz", scl_slope=2.0)
    volume = openVolume(path)
    tracemalloc.start()
    assert sum(block.shape[2] for block in volume.slabs(None, 2)) == 64
    assert tracemalloc.get_traced_memory()[1] < 5 << 21
    tracemalloc.stop()


def writeChanged(folder, array, version=1, name="a.nii", order="<", **fields):
    """Write an image, and set fields in the bytes of its header: nibabel mends what it would not write."""
    image = makeImage(array, version, order=order)
    nib.save(image, folder / name)
    content = (folder / name).read_bytes()
    content = bytearray(gzip.decompress(content) if name.endswith("gz") else content)
    header = np.frombuffer(content, image.header.structarr.dtype, 1)
    for field, value in fields.items():
        header[field] = value
    (folder / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    return folder / name


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def testExtensionsOfTheHeaderAreSkipped(tmp_path, name, version):
    image = makeImage(sampleArray("uint16", SHAPE), version)
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"a comment of some length " * 9))
    nib.save(image, tmp_path / name)
    checkVolume(openVolume(tmp_path / name), sampleArray("uint16", SHAPE))


@pytest.mark.parametrize("count", [4, 5])
def testAxesOfOneVolumeAreLeftOut(tmp_path, count):
    array = sampleArray("uint16", SHAPE)
    nib.save(makeImage(array.reshape(*SHAPE, *[1] * (count - 3))), tmp_path / "a.nii.gz")
    checkVolume(openVolume(tmp_path / "a.nii.gz"), array)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("given", ["a.hdr", "a.img"])
def testPairsAreReadByEitherName(tmp_path, given, version):
    array = sampleArray("uint16", SHAPE)
    kind = {1: nib.Nifti1Pair, 2: nib.Nifti2Pair}[version]
    nib.save(kind(array, AFFINE), tmp_path / "a.hdr")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.hdr", "a.img"]
    volume = openVolume(tmp_path / given)
    checkVolume(volume, array)
    assert set(volume.files) == {tmp_path / "a.hdr", tmp_path / "a.img"} and volume.path.name == given
    np.testing.assert_allclose(affineOf(volume.frame), AFFINE, atol=1e-5)


# --------------------------------------------------------------------------------------------- place in space


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("codes", [(1, 0), (0, 1), (1, 1), (2, 4)])
@pytest.mark.parametrize("mirror", [1, -1])
def testPlaceIsThatOfNibabel(tmp_path, codes, version, mirror):
    affine = AFFINE @ np.diag([1, 1, mirror, 1])
    image = makeImage(sampleArray("uint8", SHAPE), version, affine)
    image.set_qform(affine, codes[0])
    image.set_sform(affine, codes[1])
    nib.save(image, tmp_path / "a.nii")
    frame = openVolume(tmp_path / "a.nii").frame
    np.testing.assert_allclose(affineOf(frame), nib.load(tmp_path / "a.nii").affine, atol=1e-5)
    np.testing.assert_allclose(affineOf(frame), affine, atol=1e-5)
    assert frame.hasOrigin


def testOnlySidesAreKnownWithoutCodes(tmp_path):
    image = makeImage(sampleArray("uint8", SHAPE))
    image.set_qform(None, 0)
    image.set_sform(None, 0)
    nib.save(image, tmp_path / "a.nii")
    frame = openVolume(tmp_path / "a.nii").frame
    assert frame.space is None and not frame.hasOrigin and frame.unit == "mm"
    np.testing.assert_allclose(frame.sides, SPACING, rtol=1e-6)


def testFormsThatDifferAreTold(tmp_path, caplog):
    image = makeImage(sampleArray("uint8", SHAPE))
    image.set_qform(np.diag([1.0, 1, 1, 1]), 1)
    image.set_sform(AFFINE, 1)
    nib.save(image, tmp_path / "a.nii")
    with caplog.at_level(logging.WARNING):
        frame = openVolume(tmp_path / "a.nii").frame
    np.testing.assert_allclose(affineOf(frame), AFFINE, atol=1e-5)
    assert caplog.messages == [
        f"{tmp_path / 'a.nii'}: sform and qform differ in the size of a voxel; the sform is taken"
    ]


@pytest.mark.parametrize(
    ("unit", "expected"), [("unknown", ""), ("meter", "m"), ("mm", "mm"), ("micron", "um")]
)
@pytest.mark.parametrize("time", ["unknown", "sec", "msec"])
def testUnitIsThatOfTheHeader(tmp_path, unit, expected, time):
    image = makeImage(sampleArray("uint8", SHAPE))
    image.header.set_xyzt_units(unit, time)
    nib.save(image, tmp_path / "a.nii")
    frame = openVolume(tmp_path / "a.nii").frame
    assert frame.unit == expected
    np.testing.assert_allclose(frame.sides, SPACING, rtol=1e-6)


def testMaskOfItkSnapLiesOnItsNrrdDespiteFloat32(tmp_path):
    shape = 60, 50, 40
    image = sitk.GetImageFromArray(np.zeros(shape[::-1], np.uint16))
    axis, angle = np.array([0.3, -0.5, 0.81]) / np.linalg.norm([0.3, -0.5, 0.81]), 0.777
    cross = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    turn = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    image.SetSpacing((1 / 3, 0.7, 1.1))
    image.SetOrigin((1234.5678901, -987.654321, 333.333333))
    image.SetDirection(turn.ravel().tolist())
    sitk.WriteImage(image, str(tmp_path / "a.nrrd"))
    sitk.WriteImage(sitk.Cast(image, sitk.sitkUInt8), str(tmp_path / "mask.nii.gz"))
    volume, mask = openVolume(tmp_path / "a.nrrd"), openVolume(tmp_path / "mask.nii.gz")
    noise = np.abs(volume.frame.directions - mask.frame.directions).max()
    assert 0 < noise < 1e-6  # else nothing is shown
    assert findTurn(volume.frame, mask.frame) == Turn()
    assert compareFrames(volume.frame, mask.frame, shape) is None and putInPlace(volume, mask, "") is mask
    moved = mask.frame._replace(origin=mask.frame.origin + (0.3, 0, 0))
    assert compareFrames(volume.frame, moved, shape)[0] == "space origin"


def testMillimetresOfItkAreThoseOfTheImage(tmp_path):
    array, header = sampleArray("uint8", SHAPE), {"space": "LPS", "space origin": np.array(ORIGIN)}
    header["space directions"] = TURN.T * np.array(SPACING)[:, np.newaxis]
    writeVolume(tmp_path / "a.nrrd", array, header | {"space units": ["um"] * 3})
    sitk.WriteImage(
        sitk.ReadImage(str(tmp_path / "a.nrrd")), str(tmp_path / "mask.nii.gz")
    )  # as a program does
    image, mask = (openVolume(tmp_path / name) for name in ("a.nrrd", "mask.nii.gz"))
    assert (image.frame.unit, mask.frame.unit) == ("um", "mm")
    placed = putInPlace(image, mask, "")
    np.testing.assert_array_equal(placed.read(), array)
    told = describePlaces([(image, placed)])
    assert told == ["Mask mask.nii.gz gives no unit, unlike its image: taken to be um"]
    writeVolume(tmp_path / "b.nrrd", array, header | {"space units": ["nm"] * 3, "space origin": np.zeros(3)})
    with pytest.raises(PipelineError, match="differ in the space origin"):
        putInPlace(openVolume(tmp_path / "b.nrrd"), mask, "")


def testMaskInTheOrderOfAnotherProgramIsTurnedIntoPlace(tmp_path):
    array = sampleArray("uint8", SHAPE)
    image = openVolume(writeItk(tmp_path / "a.nrrd", array))
    saved = nib.load(writeItk(tmp_path / "b.nii", array))
    other = nib.as_closest_canonical(saved)
    assert other.shape != SHAPE or not np.array_equal(np.asanyarray(other.dataobj), array)
    nib.save(other, tmp_path / "c.nii.gz")
    mask = putInPlace(image, openVolume(tmp_path / "c.nii.gz"), "")
    assert isinstance(mask, TurnedVolume)
    np.testing.assert_array_equal(mask.read(), array)


@pytest.mark.skipif(not BALL.exists(), reason="the shared files are not here")
def testRealFileIsReadAsNibabelReadsIt():
    volume, image = openVolume(BALL), nib.load(BALL)
    np.testing.assert_array_equal(volume.read(), np.asanyarray(image.dataobj))
    np.testing.assert_allclose(affineOf(volume.frame), image.affine, atol=1e-5)
    other = openVolume(BALL.with_name("BallBinary30x30x30.nrrd"))
    np.testing.assert_array_equal(volume.read(), other.read())


def testMaskBesideAScanIsFoundByAnyEnding(tmp_path):
    scan = tmp_path / "scan.nii.gz"
    assert findBeside(scan, "scan_mask").name == "scan_mask.nrrd"
    (tmp_path / "scan_mask.raw").touch()
    assert findBeside(scan, "scan_mask").name == "scan_mask.raw"
    for name in ("scan_mask.nii.gz", "scan_mask.mhd"):  # which describes the raw one
        (tmp_path / name).touch()
        assert findBeside(scan, f"{stemOf(scan)}_mask").name == name


# -------------------------------------------------- bad input

ARRAY = sampleArray("uint16", SHAPE)
COLOURS = np.dtype([(name, "u1") for name in "RGB"])
BAD = {
    "series": (
        lambda p: nib.save(makeImage(np.zeros((*SHAPE, 2), "u1")), p),
        "holds several values a voxel, or several volumes (expected one, received 7 x 5 x 4 x 2); "
        "save one of them as a 3D volume",
    ),
    "vectors": (
        lambda p: nib.save(makeImage(np.zeros((*SHAPE, 1, 3), "u1")), p),
        "holds several values a voxel, or several volumes (expected one, received 7 x 5 x 4 x 1 x 3)",
    ),
    "flat": (
        lambda p: nib.save(makeImage(np.zeros((7, 5), "u1")), p),
        "is a 2D image (expected 3 axes, received 2)",
    ),
    "colours": (
        lambda p: nib.save(makeImage(np.zeros(SHAPE, COLOURS)), p),
        "this type of voxel cannot be read (expected integers or floats, received RGB colours)",
    ),
    "complex": (
        lambda p: nib.save(makeImage(np.zeros(SHAPE, "c8")), p),
        "this type of voxel cannot be read (expected integers or floats, received complex)",
    ),
    "no type": (
        lambda p: writeChanged(p.parent, ARRAY, datatype=7),
        "this type of voxel cannot be read (expected integers or floats, received datatype 7)",
    ),
    "sizes": (
        lambda p: writeChanged(p.parent, ARRAY, dim=[3, 7, 5, -4, 1, 1, 1, 1]),
        "its sizes cannot be read",
    ),
    "axes": (lambda p: writeChanged(p.parent, ARRAY, dim=[0] * 8), "its sizes cannot be read"),
    "offset": (
        lambda p: writeChanged(p.parent, ARRAY, vox_offset=100),
        "vox_offset must be a whole number behind the header (expected 352 or more, received 100)",
    ),
    "offset nan": (
        lambda p: writeChanged(p.parent, ARRAY, vox_offset=np.nan),
        "vox_offset must be a whole number behind the header (expected 352 or more, received nan)",
    ),
    "offset far": (
        lambda p: writeChanged(p.parent, ARRAY, vox_offset=400),
        "the data are truncated: too few bytes for 7 x 5 x 4 voxels (expected 280 or more, received 232)",
    ),
    "intercept": (
        lambda p: writeChanged(p.parent, ARRAY, scl_slope=2, scl_inter=np.inf),
        "scl_inter must be a finite number (received inf)",
    ),
    "text": (lambda p: p.write_text("words"), "is no NIfTI file"),
    "empty": (lambda p: p.write_bytes(b""), "is no NIfTI file"),
    "gzip": (lambda p: p.write_bytes(gzip.compress(b"words")), "is no NIfTI file"),
    "magic": (lambda p: writeChanged(p.parent, ARRAY, magic=b"abc"), "is no NIfTI file"),
    "none": (lambda p: None, "there is no such file"),
}


@pytest.mark.parametrize("case", BAD)
def testWhatIsNoVolumeIsToldInOneLine(tmp_path, case):
    write, words = BAD[case]
    write(tmp_path / "a.nii")
    assert refusal(tmp_path / "a.nii").startswith(f"{tmp_path / 'a.nii'}: {words}")


def testAFrameThatIsNoNumberIsInVoxels(tmp_path):
    rows = np.full((3, 4), np.nan)
    path = writeChanged(tmp_path, ARRAY, srow_x=rows[0], qform_code=0)
    assert openVolume(path).frame.unit == "voxel"


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def testCutFilesNeverEndInATraceback(tmp_path, name):
    nib.save(makeImage(ARRAY), tmp_path / name)
    content = (tmp_path / name).read_bytes()
    for length in range(0, len(content), 3):
        (tmp_path / name).write_bytes(content[:length])
        refusal(tmp_path / name)


def testDamagedCompressionIsToldInOneLine(tmp_path):
    nib.save(makeImage(ARRAY), tmp_path / "a.nii.gz")
    content = bytearray((tmp_path / "a.nii.gz").read_bytes())
    content[-6] ^= 0xFF  # of the checksum
    (tmp_path / "a.nii.gz").write_bytes(content)
    assert "the data are truncated or damaged: " in refusal(tmp_path / "a.nii.gz")


def testHalfAPairIsRefused(tmp_path):
    nib.save(nib.Nifti1Pair(ARRAY, AFFINE), tmp_path / "a.hdr")
    (tmp_path / "a.img").rename(tmp_path / "b.img")
    remedy = "save it as .nii or .nii.gz"
    words = f"the file with the voxels a.img is missing beside it; {remedy}"
    assert refusal(tmp_path / "a.hdr") == f"{tmp_path / 'a.hdr'}: {words}"
    assert (
        refusal(tmp_path / "b.img")
        == f"{tmp_path / 'b.img'}: the header b.hdr is missing beside it; {remedy}"
    )
    assert refusal(tmp_path / "c.img") == f"{tmp_path / 'c.img'}: there is no such file"
    analyze = nib.AnalyzeImage(ARRAY.astype("i2"), AFFINE)
    nib.save(analyze, tmp_path / "d.hdr")
    assert refusal(tmp_path / "d.hdr") == f"{tmp_path / 'd.hdr'}: is no NIfTI file; {remedy}"
