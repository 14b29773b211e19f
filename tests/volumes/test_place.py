"""Masks that are put on their images."""

import itertools

import numpy as np
import pytest
from sampleVolumes import OBLIQUE, writeVolume

from engine.base.errors import PipelineError
from engine.volumes.formats import openVolume
from engine.volumes.place import describePlaces, putInPlace

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
