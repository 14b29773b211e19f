"""The moments of the region around a patch, against NumPy; what is drawn with and without them."""

import json
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.base.arrays import measureMoments
from engine.learning import regions
from engine.learning.regions import MOST_AIR, drawMoments, mixMoments
from engine.preparation.samples import Samples, openSamples
from functions import Drawing, drawBatch, placePatch, prep_img, spread, turnPatch, varyGrey

SHAPE = (24, 16, 20)
PATCH = (slice(3, 11), slice(8, 16), slice(0, 8))


@pytest.fixture
def samples(tmp_path):
    """Two sub-volumes whose corners, sides and inside all have other grey values."""
    generator, place = np.random.default_rng(2), np.indices(SHAPE)
    images = generator.normal(0, 1, (2, *SHAPE)) + place[0] / 5 - place[1] ** 2 / 40 + place[2] / 9
    np.save(tmp_path / "images.npy", images.astype(np.float32)[..., np.newaxis])
    np.save(tmp_path / "masks.npy", generator.random((2, *SHAPE, 1)) < 0.03)
    return Samples(tmp_path / "images.npy", tmp_path / "masks.npy")


def plain(array):
    values = array.astype(np.float64)
    return values.mean(), values.std()


def draw(samples, seed, index=0, patch=PATCH):
    return drawMoments(np.random.default_rng(seed), samples, index, patch)


def kindOf(seed):
    """Give the kind that a source of chance begins with."""
    return int(np.random.default_rng(seed).integers(4))


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 300), st.integers(1, 300), st.floats(-50, 50), st.floats(0.01, 20))
def testMomentsOfAMixtureAreThoseOfBothTogether(count, otherCount, mean, deviation):
    generator = np.random.default_rng(count)
    first, second = generator.normal(0, 1, count), generator.normal(mean, deviation, otherCount)
    share = otherCount / (count + otherCount)
    expected = plain(np.concatenate([first, second]))
    assert mixMoments(plain(first), plain(second), share) == pytest.approx(expected, rel=1e-9, abs=1e-9)


def testMomentsAreThoseOfTheKindsOfRegions(samples):
    image = samples.read(1)[0]
    whole = plain(image)
    sides = [plain(side) for side in (image[:1], image[-1:], image[:, :1], image[:, -1:])]
    seen = {0: 0, 1: set(), 2: 0, 3: set()}
    for seed in range(200):
        kind, found = kindOf(seed), draw(samples, seed, 1)
        if kind == 0:
            assert found == pytest.approx(plain(image[PATCH]), rel=1e-12)
            seen[0] += 1
        elif kind == 1:
            seen[1].add(found)
        elif kind == 2:
            assert found == pytest.approx(whole, rel=1e-12)
            seen[2] += 1
        else:  # more of one of the sides: how much follows from the mean, and then the deviation
            shares = [(found[0] - whole[0]) / (side[0] - whole[0]) for side in sides]
            fitting = [
                number
                for number, share in enumerate(shares)
                if 0 <= share <= MOST_AIR and mixMoments(whole, sides[number], share) == pytest.approx(found)
            ]
            assert fitting
            seen[3].update(fitting)
    assert min(seen[0], seen[2]) > 30 and len(seen[1]) > 30 and seen[3] == {0, 1, 2, 3}


def testABoxIsARegionOfTheSubVolumeThatHoldsThePatch(samples, monkeypatch):
    places, measure = [], regions._measure
    monkeypatch.setattr(regions, "_measure", lambda *words: places.append(words[2]) or measure(*words))
    image = samples.read(0)[0]
    for seed in filter(lambda seed: kindOf(seed) == 1, range(1500)):
        assert draw(samples, seed) == pytest.approx(plain(image[tuple(places[-1])]), rel=1e-12)
    assert len(places) > 300 and all(part.step is None for place in places for part in place)
    starts, stops = (
        [[getattr(part, end) for part in place] for place in places] for end in ("start", "stop")
    )
    assert np.min(starts, axis=0).tolist() == [0, 0, 0] and np.max(starts, axis=0).tolist() == [3, 8, 0]
    assert np.min(stops, axis=0).tolist() == [11, 16, 8] and np.max(stops, axis=0).tolist() == list(SHAPE)


def testMomentsFollowFromTheSourceOfChanceAlone(samples):
    first = [draw(samples, seed) for seed in range(60)]
    regions._measureWhole.cache_clear()
    assert [draw(samples, seed) for seed in reversed(range(60))] == first[::-1]
    assert len(set(first)) > 30


def testAPatchOfTheWholeSubVolumeHasItsMoments(samples):
    whole = tuple(slice(0, side) for side in SHAPE)
    expected = plain(samples.read(0)[0])
    for seed in filter(lambda seed: kindOf(seed) < 3, range(40)):
        assert draw(samples, seed, 0, whole) == pytest.approx(expected, rel=1e-12)


def testLargeRegionsAreMeasuredOnEvenlySpreadPlanes(samples, monkeypatch):
    monkeypatch.setattr(regions, "MOST_VOXELS", 5 * SHAPE[1] * SHAPE[2])
    whole = [slice(0, side) for side in SHAPE]
    assert regions._measure(samples, 0, whole) == pytest.approx(plain(samples.read(0)[0][::5]), rel=1e-12)


# ---------------------------------------------------------------------------------------------- what is drawn

DRAWING = Drawing(7, 3, 4, 8, 0.5, True, 0.1, 0.1, 0.2)


def drawAll(samples, drawing):
    return [pair for step in range(4) for pair in drawBatch(samples, drawing, 1, step)]


def testWithoutRegionsABatchIsAsItWasBeforeThereWereAny(samples):
    for step in range(4):
        generator = np.random.default_rng((7, 1, step))
        expected = []
        for isAround in spread(0.5, 3, generator):
            pair = samples.read(*placePatch(generator, samples, (8, 8, 8), isAround, None))
            image, mask = turnPatch(generator, *pair)
            expected.append((varyGrey(generator, image, 0.1, 0.1, 0.2), mask))
        for pair, other in zip(drawBatch(samples, DRAWING, 1, step), expected, strict=True):
            for array, same in zip(pair, other, strict=True):
                assert array.tobytes() == same.tobytes() and array.dtype == same.dtype


def testWithRegionsPatchesAreNormalisedByWhatLiesAroundThem(samples):
    quiet = DRAWING._replace(turns=False, greyScale=0.0, greyOffset=0.0, greyNoise=0.0, regions=True)
    for step in range(4):
        generator = np.random.default_rng((7, 1, step))
        for (image, mask), isAround in zip(
            drawBatch(samples, quiet, 1, step), spread(0.5, 3, generator), strict=True
        ):
            place = placePatch(generator, samples, (8, 8, 8), isAround, None)
            grey, expected = samples.read(*place)
            moments = drawMoments(generator, samples, *place)
            np.testing.assert_array_equal(image, prep_img(grey, *moments))
            np.testing.assert_array_equal(mask, expected)
    drawn = [measureMoments(image) for image, _ in drawAll(samples, quiet)]
    assert np.ptp([mean for mean, _ in drawn]) > 0.3


def testWhatIsDrawnWithRegionsIsTheSameAgain(samples):
    drawing = DRAWING._replace(regions=True)
    first = drawAll(samples, drawing)
    regions._measureWhole.cache_clear()
    for pair, other in zip(drawAll(samples, drawing), first, strict=True):
        np.testing.assert_array_equal(pair[0], other[0])
        np.testing.assert_array_equal(pair[1], other[1])


def testWhereThePatchIsAllOfASubVolumeTheScanTakesItsPlace(samples):
    whole, image = [slice(0, side) for side in SHAPE], samples.read(1)[0]
    own, sides = plain(image), [plain(side) for side in (image[:1], image[-1:], image[:, :1], image[:, -1:])]
    scan = Samples(samples.images, samples.masks, scan=(0.25, 3.0))
    seen = set()
    for seed in range(100):
        found, kind = draw(scan, seed, 1, whole), kindOf(seed)
        if kind == 0:
            assert found == pytest.approx(own, rel=1e-12)
        elif kind == 1:  # between the patch and its scan
            low, high = sorted((own[0], 0.25))
            assert low <= found[0] <= high
            share = (found[0] - own[0]) / (0.25 - own[0])
            assert found == pytest.approx(mixMoments(own, (0.25, 3.0), share), rel=1e-9)
            seen.add(share)
        elif kind == 2:
            assert found == (0.25, 3.0)
        else:
            shares = [(found[0] - 0.25) / (side[0] - 0.25) for side in sides]
            assert any(
                found == pytest.approx(mixMoments((0.25, 3.0), side, share), rel=1e-9)
                for side, share in zip(sides, shares, strict=True)
            )
    assert len(seen) > 10 and max(seen) - min(seen) > 0.5


def testAPatchInALargerSubVolumeIsDrawnAsBefore(samples):
    scan = Samples(samples.images, samples.masks, scan=(0.25, 3.0))
    assert [draw(scan, seed) for seed in range(40)] == [draw(samples, seed) for seed in range(40)]


@pytest.mark.parametrize(
    ("normalization", "scan"), [("volume", (0.0, 1.0)), ("subVolume", None), (None, None)]
)
def testPreparedDataTellWhetherTheyAreOnTheScaleOfScans(tmp_path, samples, normalization, scan):
    for part, file in (("Image", samples.images), ("Mask", samples.masks)):
        shutil.copy(file, tmp_path / f"trainingData{part}.npy")
    if normalization:
        content = {"parameters": {"normalization": normalization}}
        (tmp_path / "parameters.json").write_text(json.dumps(content))
    assert openSamples(tmp_path, "training", 4).scan == scan
