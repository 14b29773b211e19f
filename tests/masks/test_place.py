"""Masks that are put on their images."""

import itertools
import pickle
import tracemalloc

import nrrd
import numpy as np
import pytest
import tifffile
from sampleVolumes import OBLIQUE, writeVolume
from segmentations import drawSegments, writeSegmentation

from engine.base.errors import PipelineError
from engine.formats.opening import FORMATS, openVolume
from engine.masks.place import describePlaces, openOnto, openView, putInPlace, viewOf
from engine.masks.segments import ignoredLabels, resolveLabels
from engine.masks.targets import parseLabels, selectPositive

SHAPE = (5, 4, 7)
VALUES = np.random.default_rng(6).integers(0, 250, SHAPE).astype(np.uint8)
PLACE = {"space": "left-posterior-superior", "space directions": OBLIQUE, "space units": ["um"] * 3}
PLACE["space origin"] = np.array([3.0, -2.0, 1.0])
TO_RAS = np.array([-1, -1, 1])


def turnHeader(axes, flips, isRas=False):
    """Give the header of the voxels of `PLACE` in another order."""
    steps, sides = OBLIQUE[list(axes)], np.array(SHAPE)[list(axes)]
    origin = PLACE["space origin"] + sum(
        (side - 1) * step for side, step, flip in zip(sides, steps, flips, strict=True) if flip
    )
    header = PLACE | {
        "space directions": np.array([-s if f else s for s, f in zip(steps, flips, strict=True)]),
        "space origin": origin,
    }
    if isRas:
        header |= {"space": "RAS", "space origin": origin * TO_RAS}
        header["space directions"] = header["space directions"] * TO_RAS
    return header


def openPair(folder, mask, header, imageHeader=PLACE):
    """Write and open an image and its mask."""
    writeVolume(folder / "scan.nrrd", VALUES, imageHeader)
    writeVolume(folder / "mask.nrrd", mask, header)
    return openVolume(folder / "scan.nrrd"), openVolume(folder / "mask.nrrd")


@pytest.mark.parametrize("isRas", [False, True], ids=["lps", "ras"])
@pytest.mark.parametrize("axes", list(itertools.permutations(range(3))), ids=str)
@pytest.mark.parametrize("flips", list(itertools.product((False, True), repeat=3)), ids=str)
def testMaskOfTheSameGridIsTurnedIntoPlace(tmp_path, axes, flips, isRas):
    stored = np.flip(VALUES.transpose(axes), [axis for axis in range(3) if flips[axis]])
    image, mask = openPair(tmp_path, stored, turnHeader(axes, flips, isRas))
    placed = putInPlace(image, mask, "help")
    np.testing.assert_array_equal(placed.read(), VALUES)
    np.testing.assert_array_equal(np.concatenate(list(placed.slabs(planeCount=3)), axis=2), VALUES)
    lines = describePlaces([(image, placed)])
    isTurned = any(flips) or axes != (0, 1, 2)
    assert len(lines) == isTurned and (placed is mask) != isTurned


def testTurnIsToldByTheAxesOfTheImage(tmp_path):
    image, mask = openPair(tmp_path, VALUES[::-1, ::-1], turnHeader((0, 1, 2), (True, True, False)))
    told = describePlaces([(image, putInPlace(image, mask, "help"))])
    assert told == ["Mask mask.nrrd runs the other way along x, y: turned into place"]
    image, mask = openPair(tmp_path, VALUES.transpose(2, 0, 1), turnHeader((2, 0, 1), (False,) * 3))
    told = describePlaces([(image, putInPlace(image, mask, "help"))])
    assert told == ["Mask mask.nrrd has its axes in another order (y, z, x): turned into place"]


@pytest.mark.parametrize(
    ("shift", "what"), [([0.5, 0, 0], "space origin"), ([0, 0, 20.0], "space origin"), ([0.02, 0, 0], None)]
)
@pytest.mark.parametrize("flips", [(False, False, False), (True, True, False)])
def testAnotherGridIsRefusedHoweverItsAxesRun(tmp_path, shift, what, flips):
    header = turnHeader((0, 1, 2), flips)
    header["space origin"] = header["space origin"] + shift
    image, mask = openPair(tmp_path, VALUES, header)
    if what is None:
        putInPlace(image, mask, "help")
        return
    with pytest.raises(PipelineError) as caught:
        putInPlace(image, mask, "help")
    what = "space directions" if any(flips) else what
    assert f"mask and image scan.nrrd differ in the {what} (expected" in str(caught.value)
    assert str(caught.value).endswith("; help")


def testFlippedMaskOfAnotherShapeIsRefusedForItsShape(tmp_path):
    image, mask = openPair(tmp_path, VALUES[:, :, :6], turnHeader((0, 1, 2), (True, False, False)))
    with pytest.raises(PipelineError, match="differ in the shape"):
        putInPlace(image, mask, "help")


@pytest.mark.parametrize(("noise", "isSame"), [(1e-7, True), (4e-5, True), (6e-5, False)])
@pytest.mark.parametrize("flip", [1, -1])
def testTheFarCornerMayBeATenthOfAVoxelAway(tmp_path, noise, isSame, flip):
    """Over 2000 voxels of side 1: 0.0002, 0.08 and 0.12 voxels."""
    steps = np.eye(3)
    stretched = steps * [flip * (1 + noise), 1, 1]
    origin = [0 if flip == 1 else 1999 * (1 + noise), 0, 0]
    for name, directions, start in (("scan", steps, [0, 0, 0]), ("mask", stretched, origin)):
        header = PLACE | {"space directions": directions, "space origin": start}
        writeVolume(tmp_path / f"{name}.nrrd", np.zeros((2000, 2, 2), np.uint8), header)
    image, mask = openVolume(tmp_path / "scan.nrrd"), openVolume(tmp_path / "mask.nrrd")
    if isSame:
        assert (putInPlace(image, mask, "help") is mask) == (flip == 1)
        return
    with pytest.raises(PipelineError, match="differ in the space directions"):
        putInPlace(image, mask, "help")


def testWhatWasAssumedIsToldOnceForAllPairs(tmp_path):
    noUnit = {name: value for name, value in PLACE.items() if name != "space units"}
    pairs = []
    for number in range(3):
        (tmp_path / str(number)).mkdir()
        pairs.append(openPair(tmp_path / str(number), VALUES, noUnit))
    pairs = [(image, putInPlace(image, mask, "help")) for image, mask in pairs]
    line = "Mask mask.nrrd gives no unit, unlike its image: taken to be um"
    assert describePlaces(pairs[:1]) == [line]
    assert describePlaces(pairs) == [f"{line} (and 2 more)"]
    assert describePlaces([(mask, mask) for _, mask in pairs]) == []


def testAssumptionsOfAnImageAreToldToo(tmp_path):
    image, mask = openPair(tmp_path, VALUES, PLACE, imageHeader={})
    line = "Image scan.nrrd gives no usable size of a voxel, unlike its mask: taken to be the same"
    assert describePlaces([(image, putInPlace(image, mask, "help"))]) == [line]


# -------------------------------------------------------------------------------------- parts of their images

WIDE = (14, 11, 9)
DRAWN = drawSegments(WIDE)
APART = {name: DRAWN[name] for name in ("Precipitate", "pore")}


def writeImage(folder, shape=WIDE, **fields):
    """Write an image with the frame `PLACE`, and open it."""
    writeVolume(folder / "scan.nrrd", np.zeros(shape, np.uint8), PLACE | fields)
    return openVolume(folder / "scan.nrrd")


def select(path, image, text, ignoreLabel=()):
    """Put a mask on its image; gives it, where it is positive and where it is ignored."""
    labels = parseLabels(text)
    mask = openOnto(path, image, labels, "help", ignoreLabel)
    assert mask.shape == image.shape
    meant = resolveLabels(labels, mask), ignoredLabels(mask, ignoreLabel)
    return mask, *(selectPositive(mask.read(), part) for part in meant)


def writePart(path, values, corner, flips=(False,) * 3, axes=(0, 1, 2), shift=(0, 0, 0)):
    """Write a part of an image with the frame `PLACE`, its axes in another order."""
    steps, sides = OBLIQUE[list(axes)], np.array(values.shape)[list(axes)]
    origin = PLACE["space origin"] + (np.array(corner) + shift) @ OBLIQUE
    flips = np.array(flips)
    origin = origin + (flips * (sides - 1)) @ steps
    stored = np.flip(values.transpose(axes), np.flatnonzero(flips))
    fields = {"space directions": np.where(flips[:, np.newaxis], -steps, steps), "space origin": origin}
    writeVolume(path, stored, PLACE | fields)
    return path


@pytest.mark.parametrize(
    ("drawn", "text", "names"),
    [
        (APART, "pore", ["pore"]),
        (APART, "2", ["pore"]),
        (APART, "!0", ["Precipitate", "pore"]),
        (APART, "!pore", ["Precipitate"]),
        (DRAWN, "pore", ["pore"]),
        (DRAWN, "precipitate,halo", ["Precipitate", "halo"]),
        (DRAWN, "!pore", ["Precipitate", "halo"]),
    ],
)
def testCroppedSegmentationLiesWhereItWasDrawn(tmp_path, drawn, text, names):
    image, path = writeImage(tmp_path), tmp_path / "a.seg.nrrd"
    extent = writeSegmentation(path, drawn, OBLIQUE, PLACE["space origin"], isCropped=True)
    sizes = tuple(nrrd.read_header(str(path))["sizes"][-3:])
    assert sizes == tuple(part.stop - part.start for part in extent) and max(sizes) < max(WIDE)
    mask, positive, ignored = select(path, image, text)
    nowhere = np.zeros(WIDE, bool)
    np.testing.assert_array_equal(ignored, drawn.get("IGNORE", nowhere))
    expected = np.any([drawn[name] for name in names], axis=0) & ~drawn.get("IGNORE", nowhere)
    np.testing.assert_array_equal(positive, expected)
    ranges = " ".join(f"{axis} {part.start}:{part.stop}" for axis, part in zip("xyz", extent, strict=True))
    line = f"Mask a.seg.nrrd covers {ranges} of scan.nrrd: the rest of it is not positive"
    assert describePlaces([(image, mask)])[0] == line


@pytest.mark.parametrize("text", ["0", "255", "!0", "!255", "!7", "0-254", "1-255", "!0,7", "7"])
def testWhatLiesOutsideOfAPartIsNeverPositive(tmp_path, text):
    image, corner = writeImage(tmp_path), (3, 2, 4)
    values = np.random.default_rng(1).choice([0, 7, 255], (5, 6, 3)).astype(np.uint8)
    path = writePart(tmp_path / "mask.nrrd", values, corner)
    mask, positive, _ = select(path, image, text)
    expected = np.zeros(WIDE, bool)
    expected[3:8, 2:8, 4:7] = selectPositive(values, text)
    np.testing.assert_array_equal(positive, expected)
    assert expected.any() and mask.dtype == np.uint8
    _, _, ignored = select(path, image, "7", "0,255")
    expected[3:8, 2:8, 4:7] = values != 7
    np.testing.assert_array_equal(ignored, expected)


def testWhereEverythingIsPositiveNothingCanMeanTheRest(tmp_path):
    image = writeImage(tmp_path)
    path = writePart(tmp_path / "mask.nrrd", np.zeros((5, 6, 3), np.uint8), (3, 2, 4))
    with pytest.raises(PipelineError, match="covers a part of its image, and every uint8 is positive"):
        select(path, image, "0-255")


@pytest.mark.parametrize("axes", list(itertools.permutations(range(3))), ids=str)
@pytest.mark.parametrize("flips", [(True, False, False), (False, True, True), (True, True, True)], ids=str)
def testAPartWithItsAxesAnotherWayIsTurnedAndPlaced(tmp_path, axes, flips):
    image, corner = writeImage(tmp_path), (3, 2, 4)
    values = np.random.default_rng(2).integers(0, 2, (5, 6, 3)).astype(np.uint8)
    path = writePart(tmp_path / "mask.nrrd", values, corner, flips, axes)
    mask, positive, _ = select(path, image, "1")
    expected = np.zeros(WIDE, bool)
    expected[3:8, 2:8, 4:7] = values == 1
    np.testing.assert_array_equal(positive, expected)
    told = describePlaces([(image, mask)])
    assert "turned into place" in told[0] and "covers x 3:8 y 2:8 z 4:7 of scan.nrrd" in told[1]
    again = openView(path, pickle.loads(pickle.dumps(viewOf(mask))))
    np.testing.assert_array_equal(again.read(), mask.read())


@pytest.mark.parametrize("isOverlapping", [False, True])
def testCroppedAndFlippedSegmentationIsPlaced(tmp_path, isOverlapping):
    image = writeImage(tmp_path)
    drawn = DRAWN if isOverlapping else APART
    flipped = {name: mask[::-1, :, ::-1] for name, mask in drawn.items()}
    far = PLACE["space origin"] + (WIDE[0] - 1) * OBLIQUE[0] + (WIDE[2] - 1) * OBLIQUE[2]
    directions = np.diag([-1, 1, -1]) @ OBLIQUE
    writeSegmentation(tmp_path / "a.seg.nrrd", flipped, directions, far, isCropped=True)
    mask, positive, _ = select(tmp_path / "a.seg.nrrd", image, "pore")
    expected = DRAWN["pore"] & ~DRAWN["IGNORE"] if isOverlapping else DRAWN["pore"]
    np.testing.assert_array_equal(positive, expected)
    told = describePlaces([(image, mask)])
    assert told[0] == "Mask a.seg.nrrd runs the other way along x, z: turned into place"
    again = openView(tmp_path / "a.seg.nrrd", viewOf(mask))
    np.testing.assert_array_equal(again.read(), mask.read())


@pytest.mark.parametrize("planeCount", [1, 2, 4, 16])
@pytest.mark.parametrize("encoding", ["raw", "gzip"])
@pytest.mark.parametrize("corner", [(3, 2, 4), (0, 0, 1), (9, 5, 6)])
def testSlabsOfAPlacedMaskAreThoseOfTheWhole(tmp_path, corner, encoding, planeCount):
    image, values = writeImage(tmp_path), np.arange(90, dtype=np.uint16).reshape(5, 6, 3) + 1
    path = writePart(tmp_path / "mask.nrrd", values, corner)
    voxels, header = nrrd.read(str(path))
    nrrd.write(str(path), voxels, header | {"encoding": encoding})
    mask = openOnto(path, image, [1], "help")
    whole = np.zeros(WIDE, np.uint16)
    whole[tuple(slice(start, start + side) for start, side in zip(corner, values.shape, strict=True))] = (
        values
    )
    for region in (None, ((2, 7), (3, 11), (5, 9)), ((0, 3), (0, 2), (0, 9)), ((4, 5), (5, 6), (0, 1))):
        part = whole[tuple(slice(*pair) for pair in region or ((None, None),) * 3)]
        np.testing.assert_array_equal(mask.read(region), part)
        blocks = list(mask.slabs(region, planeCount))
        assert all(block.flags.f_contiguous and block.flags.owndata for block in blocks)
        assert all(block.shape[2] == planeCount for block in blocks[:-1])
        np.testing.assert_array_equal(np.concatenate(blocks, axis=2), part)
    np.testing.assert_allclose(mask.frame.origin, image.frame.origin)
    with pytest.raises(PipelineError, match="leaves the volume"):
        mask.slabs(((0, 15), (0, 1), (0, 1)))


def testDamageOfAPlacedMaskIsNoticed(tmp_path):
    image = writeImage(tmp_path)
    path = tmp_path / "a.seg.nrrd"
    writeSegmentation(path, APART, OBLIQUE, PLACE["space origin"], isCropped=True)
    path.write_bytes(path.read_bytes()[:-30])
    mask = openOnto(path, image, "pore", "help")
    for read in (mask.read, lambda: list(mask.slabs(planeCount=2))):
        with pytest.raises(PipelineError, match="truncated or damaged"):
            read()


def testAPlacedMaskIsReadInLittleMemory(tmp_path):
    shape = (200, 200, 400)
    image = writeImage(tmp_path, shape)
    path = writePart(tmp_path / "mask.nrrd", np.zeros((198, 198, 396), np.uint8), (1, 1, 2))
    mask = openOnto(path, image, [1], "help")
    tracemalloc.start()
    assert sum(int(block.sum()) for block in mask.slabs(planeCount=8)) == 0
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 * np.prod(shape) // shape[2] * 5


# ----------------------------------------------------------------------------------- parts that do not belong


@pytest.mark.parametrize(("shift", "isSame"), [(0.05, True), (0.3, False), (0.5, False)])
@pytest.mark.parametrize("axis", range(3))
def testACroppedSegmentationBetweenTheVoxelsIsRefused(tmp_path, axis, shift, isSame):
    image = writeImage(tmp_path)
    origin = PLACE["space origin"] + shift * OBLIQUE[axis]
    writeSegmentation(tmp_path / "a.seg.nrrd", APART, OBLIQUE, origin, isCropped=True)
    if isSame:
        np.testing.assert_array_equal(select(tmp_path / "a.seg.nrrd", image, "pore")[1], APART["pore"])
        return
    with pytest.raises(PipelineError) as caught:
        select(tmp_path / "a.seg.nrrd", image, "pore")
    assert "mask and image scan.nrrd differ in the space origin (expected" in str(caught.value)
    assert str(caught.value).endswith("; help")


def testACroppedSegmentationWithOtherVoxelsIsRefused(tmp_path):
    image = writeImage(tmp_path)
    writeSegmentation(tmp_path / "a.seg.nrrd", APART, 2 * OBLIQUE, PLACE["space origin"], isCropped=True)
    with pytest.raises(PipelineError, match="differ in the size of a voxel"):
        select(tmp_path / "a.seg.nrrd", image, "pore")


@pytest.mark.parametrize("corner", [(-4, 2, -3), (6, -1, 3)])
def testWhatOfASegmentationReachesBeyondItsImageIsCutOffWithAWarning(tmp_path, corner):
    image = writeImage(tmp_path)
    origin = PLACE["space origin"] + np.array(corner) @ OBLIQUE
    writeSegmentation(tmp_path / "a.seg.nrrd", APART, OBLIQUE, origin)
    mask, positive, _ = select(tmp_path / "a.seg.nrrd", image, "precipitate,pore")
    padded = np.pad(APART["pore"] | APART["Precipitate"], 20)
    start = 20 - np.array(corner)
    expected = padded[tuple(slice(first, first + side) for first, side in zip(start, WIDE, strict=True))]
    np.testing.assert_array_equal(positive, expected)
    assert 0 < expected.sum() < (APART["pore"] | APART["Precipitate"]).sum()
    np.testing.assert_array_equal(np.concatenate([*mask.slabs(planeCount=2)], axis=2), mask.read())
    reach = " ".join(f"{a} {c}:{c + s}" for a, c, s in zip("xyz", corner, WIDE, strict=True))
    warning = f"Warning: mask a.seg.nrrd reaches beyond its image ({reach}): cut off there"
    assert warning in describePlaces([(image, mask)])


def testASegmentationOutsideOfItsImageIsRefused(tmp_path):
    image = writeImage(tmp_path)
    origin = PLACE["space origin"] + 20 * OBLIQUE[1]
    writeSegmentation(tmp_path / "a.seg.nrrd", APART, OBLIQUE, origin)
    with pytest.raises(PipelineError) as caught:
        select(tmp_path / "a.seg.nrrd", image, "pore")
    words = (
        "the mask lies outside of its image scan.nrrd (expected x 0:14 y 0:11 z 0:9, received x 0:14 y 20:31"
    )
    assert words in str(caught.value)


@pytest.mark.parametrize("corner", [(0, 0, 0), (10, 2, 4), (-1, 2, 4)])
def testAPlainPartIsRefusedWhereItCouldBeAnotherVolumesMask(tmp_path, corner):
    """It begins where its image begins, or reaches beyond it."""
    image = writeImage(tmp_path)
    path = writePart(tmp_path / "mask.nrrd", np.zeros((5, 6, 3), np.uint8), corner)
    with pytest.raises(PipelineError, match="differ in the shape"):
        select(path, image, "0")


def testASegmentationOfAStackWithoutGeometryLiesWhereItsOffsetSays(tmp_path):
    tifffile.imwrite(tmp_path / "scan.tif", np.zeros(WIDE[::-1], np.uint8), photometric="minisblack")
    image = openVolume(tmp_path / "scan.tif")
    path = tmp_path / "a.seg.nrrd"
    writeSegmentation(path, APART, np.eye(3), np.zeros(3), isCropped=True)
    mask, positive, _ = select(path, image, "pore")
    np.testing.assert_array_equal(positive, APART["pore"])
    told = describePlaces([(image, mask)])
    assert "as its Segmentation_ReferenceImageExtentOffset says: the rest of it is not positive" in told[0]
    voxels, header = nrrd.read(str(path))
    header["Segmentation_ReferenceImageExtentOffset"] = "unknown"
    nrrd.write(str(path), voxels, header)
    with pytest.raises(PipelineError, match="differ in the shape"):
        select(path, image, "pore")


# ------------------------------------------------------------------------------------- rounding of directions


@pytest.mark.parametrize("name", ["mask.nrrd", "mask.nii.gz"])
def testMaskWithDirectionsRoundedToFloat32LiesOnItsImage(tmp_path, name):
    """As ITK-SNAP saves it: unsigned short, the geometry through single precision."""
    sitk = pytest.importorskip("SimpleITK")
    if not any(name.endswith(ending) for ending in FORMATS):
        pytest.skip("this format is not known yet")
    angle = np.array([0.3, -0.2, 0.5])
    turn = [np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]]) for a in angle]
    rotation = np.eye(3)
    for (first, second), small in zip(((0, 1), (1, 2), (0, 2)), turn, strict=True):
        step = np.eye(3)
        step[np.ix_([first, second], [first, second])] = small
        rotation = rotation @ step
    values = np.random.default_rng(4).integers(0, 3, (23, 31, 37))
    for file, array, isRounded in (("scan.nrrd", values * 9, False), (name, values, True)):
        picture = sitk.GetImageFromArray(array.astype(np.uint16))
        geometry = [(0.65, 0.7, 1.3), (1012.3, -734.1, 88.8), rotation.ravel()]
        if isRounded:
            geometry = [np.asarray(part, np.float32).astype(float) for part in geometry]
        picture.SetSpacing(list(geometry[0]))
        picture.SetOrigin(list(geometry[1]))
        picture.SetDirection(list(geometry[2]))
        sitk.WriteImage(picture, str(tmp_path / file))
    image = openVolume(tmp_path / "scan.nrrd")
    mask, positive, _ = select(tmp_path / name, image, "2")
    np.testing.assert_array_equal(positive, values.T == 2)
    assert not any("turned" in line for line in describePlaces([(image, mask)]))
