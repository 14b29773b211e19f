"""Sizes, shapes and places of particles against scikit-image, geometry and brute force."""

import numpy as np
import pytest
from particles import blobs, measure
from skimage.measure import regionprops_table

from engine.measures.particles import STEPS, directionWeights

OBLIQUE = np.array([[1.0, 0.2, 0.0], [-0.3, 0.8, 0.1], [0.0, 0.3, -1.5]])


def ellipsoid(semiAxes, directions, side=56):
    """Voxels (z, y, x) whose centres lie in an ellipsoid along the axes of space."""
    index = np.indices((side,) * 3).reshape(3, -1) - (side / 2 + np.array([[0.3], [-0.2], [0.1]]))
    inside = ((directions.T @ index / np.array(semiAxes)[:, None]) ** 2).sum(axis=0) <= 1
    return inside.reshape((side,) * 3).T


@pytest.mark.parametrize("connectivity", [6, 26])
@pytest.mark.parametrize("slab", [1, 7, 100])
def testTableEqualsRegionprops(connectivity, slab):
    positive, probability = blobs()
    spacing = np.array([1.0, 1.5, 2.0])
    table, labels = measure(positive, probability, np.diag(spacing), connectivity=connectivity, slab=slab)
    names = ("label", "num_pixels", "area", "centroid", "bbox", "equivalent_diameter_area")
    names += ("mean_intensity", "min_intensity")
    expected = regionprops_table(labels, probability, spacing=tuple(spacing[::-1]), properties=names)
    pairs = {
        "label": "label",
        "voxelCount": "num_pixels",
        "volume": "area",
        "minimumProbability": "min_intensity",
    }
    pairs |= {"equivalentDiameter": "equivalent_diameter_area", "meanProbability": "mean_intensity"}
    pairs |= {"x": "centroid-2", "y": "centroid-1", "z": "centroid-0"}
    pairs |= {"x1": "bbox-2", "y1": "bbox-1", "z1": "bbox-0", "x2": "bbox-5", "y2": "bbox-4", "z2": "bbox-3"}
    assert len(table["label"]) > 20
    for ours, theirs in pairs.items():
        np.testing.assert_allclose(table[ours], expected[theirs], rtol=1e-6, err_msg=ours)


def testAxesEqualRegionpropsButForTheExtentOfAVoxel():
    positive, probability = blobs(seed=3)
    table, labels = measure(positive, probability, 0.5 * np.eye(3))
    names = ("axis_major_length", "axis_minor_length")
    expected = regionprops_table(labels, spacing=(0.5,) * 3, properties=names)
    ofVoxel = 20 * 0.5**2 / 12  # scikit-image takes a voxel for a point
    for ours, theirs in zip(("axis1", "axis3"), names, strict=True):
        np.testing.assert_allclose(table[ours] ** 2 - ofVoxel, expected[theirs] ** 2, rtol=1e-6, atol=1e-6)


def testProbabilitiesAndPlacesOfObliqueAxes():
    positive, probability = blobs(seed=1)
    origin = (100.0, -50.0, 7.0)
    table, labels = measure(positive, probability, OBLIQUE, origin)
    for number in table["label"]:
        z, y, x = np.nonzero(labels == number)
        place = np.array([x.mean(), y.mean(), z.mean()]) @ OBLIQUE + origin
        np.testing.assert_allclose([table[axis][number - 1] for axis in "xyz"], place)
    assert np.allclose(table["volume"], table["voxelCount"] * abs(np.linalg.det(OBLIQUE)))


def testNearestNeighbourByBruteForce():
    positive, probability = blobs(seed=2)
    table, _ = measure(positive, probability, OBLIQUE)
    points = np.stack([table[axis] for axis in "xyz"], axis=1)
    distances = np.linalg.norm(points[:, None] - points, axis=2) + np.diag(np.full(len(points), np.inf))
    np.testing.assert_allclose(table["nearestNeighbour"], distances.min(axis=1))


@pytest.mark.parametrize("directions", [np.eye(3), np.diag([1.0, 0.9, 2.0]), OBLIQUE], ids=["1", "a", "o"])
@pytest.mark.parametrize("radius", [8, 12])
def testBallHasItsSurfaceAxesAndSphericity(directions, radius):
    ball = ellipsoid((radius,) * 3, directions)
    table, _ = measure(ball, ball.astype(np.float32), directions)
    assert len(table["label"]) == 1 and not table["touchesBorder"][0]
    assert table["surfaceArea"][0] == pytest.approx(4 * np.pi * radius**2, rel=0.03)
    assert table["sphericity"][0] == pytest.approx(1, abs=0.03)
    for axis in ("axis1", "axis2", "axis3", "equivalentDiameter"):
        assert table[axis][0] == pytest.approx(2 * radius, rel=0.03)


def testEllipsoidHasItsAxesInSpace():
    body = ellipsoid((14, 7, 9), OBLIQUE)
    table, _ = measure(body, body.astype(np.float32), OBLIQUE)
    lengths = [table[f"axis{number}"][0] for number in (1, 2, 3)]
    np.testing.assert_allclose(lengths, (28, 18, 14), rtol=0.03)
    np.testing.assert_allclose([table[f"axis1_{axis}"][0] for axis in "xyz"], (1, 0, 0), atol=0.05)
    np.testing.assert_allclose([table[f"axis3_{axis}"][0] for axis in "xyz"], (0, 1, 0), atol=0.05)
    assert table["elongation"][0] == pytest.approx(2, rel=0.05)


def testPlateOfOneVoxelHasAFiniteElongation():
    plate = np.zeros((5, 9, 9), bool)
    plate[2, 1:8, 1:8] = True
    table, _ = measure(plate, plate.astype(np.float32), np.eye(3))
    assert table["axis3"][0] == pytest.approx(np.sqrt(20 / 12))  # of a layer of thickness 1
    assert table["axis1"][0] == pytest.approx(np.sqrt(20 * 49 / 12))


def testBorderIsNoticedOnEverySide():
    for place in ((0, 2, 2), (4, 2, 2), (2, 0, 2), (2, 4, 2), (2, 2, 0), (2, 2, 4)):
        volume = np.zeros((5, 5, 5), bool)
        volume[place] = True
        table, _ = measure(volume, volume.astype(np.float32), np.eye(3), slab=2)
        assert table["touchesBorder"][0], place
    volume = np.zeros((5, 5, 5), bool)
    volume[1:4, 1:4, 1:4] = True
    assert not measure(volume, volume.astype(np.float32), np.eye(3))[0]["touchesBorder"][0]


@pytest.mark.parametrize("connectivity", [6, 18, 26])
@pytest.mark.parametrize(("slab", "share"), [(1, 0.4), (5, 0.4), (5, 0.1), (100, 0.4)])
def testSurfaceIsThatOfCrossingsCountedOneByOne(connectivity, slab, share):
    positive = np.random.default_rng(4).random((13, 9, 11)) < share  # neighbours in different particles
    options = {"connectivity": connectivity, "slab": slab, "minimumVoxels": 2}
    table, labels = measure(positive, positive.astype(np.float32), OBLIQUE, **options)
    padded, area = np.pad(labels, 1), np.zeros(labels.max() + 1)
    inside = padded[1:-1, 1:-1, 1:-1]
    for (x, y, z), weight in zip(STEPS, directionWeights(OBLIQUE), strict=True):
        for shift in ((z, y, x), (-z, -y, -x)):
            isCrossed = np.roll(padded, shift, (0, 1, 2))[1:-1, 1:-1, 1:-1] != inside
            area += weight * np.bincount(inside[isCrossed], minlength=len(area))
    np.testing.assert_allclose(table["surfaceArea"], area[1:])
    assert len(area) > 5 or connectivity > 6


def testDirectionsOfACubicLatticeWeighAsPublished():
    weights = directionWeights(np.eye(3))
    lengths = np.array(
        [1, 2**0.5, 1, 2**0.5, 3**0.5, 2**0.5, 3**0.5, 2**0.5, 1, 2**0.5, 3**0.5, 2**0.5, 3**0.5]
    )
    published = {1.0: 0.04577789120476 * 2, 2**0.5: 0.03698062787608 * 2, 3**0.5: 0.03519563978232 * 2}
    np.testing.assert_allclose(weights * lengths / 2, [published[length] for length in lengths], rtol=1e-6)


def testNoParticleGivesAnEmptyTable():
    table, _ = measure(np.zeros((4, 4, 4), bool), np.zeros((4, 4, 4), np.float32), np.eye(3))
    assert {len(column) for column in table.values()} == {0}


def testOneParticleHasNoNeighbour():
    volume = np.zeros((3, 3, 3), bool)
    volume[1, 1, 1] = True
    table, _ = measure(volume, volume.astype(np.float32), np.eye(3))
    assert np.isnan(table["nearestNeighbour"][0])
