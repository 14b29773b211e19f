"""Previews and mid-slices of volumes that come plane after plane."""

import numpy as np
import pytest
from drawings import slicesOf

import engine.results.looks
from engine.results.looks import Looks, Preview, chooseFactor


@pytest.mark.parametrize("factor", [1, 2, 3])
@pytest.mark.parametrize("slab", [1, 4, 50])
def testPreviewIsTheMeanOfBlocks(factor, slab):
    volume = np.random.default_rng(0).normal(size=(11, 9, 7)).astype(np.float32)  # (z, y, x)
    preview = Preview(volume.shape[::-1], factor)
    for z in range(0, len(volume), slab):
        preview.add(z, volume[z : z + slab])
    found = preview.finish()
    for z, y, x in np.ndindex(found.shape):
        block = volume[tuple(slice(i * factor, (i + 1) * factor) for i in (z, y, x))]
        assert found[z, y, x] == pytest.approx(block.mean(), abs=1e-5)
    assert found.shape == tuple(-(-side // factor) for side in volume.shape)


def testFactorFitsEveryVolumeIntoTheReport():
    assert chooseFactor((160, 160, 128)) == 1
    for shape in ((256, 256, 256), (2048, 2048, 2048), (20000, 400, 3), (1, 1, 10**7)):
        factor = chooseFactor(shape)
        sizes = [np.prod([-(-side // count) for side in shape]) for count in (factor, factor - 1)]
        assert sizes[0] <= engine.results.looks.VOXEL_LIMIT < sizes[1]


@pytest.mark.parametrize("count", [1, 3, 16])
@pytest.mark.parametrize("shape", [(24, 20, 16), (5, 1, 7), (1, 1, 1)])
def testMidSlicesAreThoseOfTheVolume(shape, count):
    volume = np.random.default_rng(0).integers(0, 1000, shape).astype(">u2")
    slices = slicesOf(volume, count)
    for axis in range(3):
        assert np.array_equal(slices.slice(axis), np.take(volume, shape[axis] // 2, axis).T)


def testMidSlicesOfHugeVolumesAreThinnedOut():
    slices = slicesOf(np.random.default_rng(0).random((4000, 2, 3)))
    assert slices.slice(1).shape == (3, 667) and slices.slice(0).shape == (3, 2)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("factor", [1, 2])
@pytest.mark.parametrize("value", [-3.4028234663852886e38, 1e30, np.nan, np.inf, -1000.0])
def testGreyValuesThatMeanNoDataAreShownAsTheFill(value, factor, monkeypatch):
    monkeypatch.setattr(engine.results.looks, "chooseFactor", lambda shape: factor)
    volume = np.random.default_rng(1).uniform(1, 2, (12, 10, 8)).astype(np.float32)  # (x, y, z)
    hidden = volume.copy()
    hidden[:5] = value
    looks = Looks(volume.shape, ("overview", "report"), False)
    looks.watch("grey").add(0, hidden.T)
    looks.fill((1.0, 2.0, 1.5))
    shown = looks.previews["grey"].finish().T
    filled = -(-5 // factor)
    assert (shown[:filled] == 1.5).all() and shown.dtype == np.float32
    blocks = volume.reshape(12 // factor, factor, 10 // factor, factor, 8 // factor, factor)
    np.testing.assert_allclose(shown[filled:], blocks.mean(axis=(1, 3, 5))[filled:], rtol=1e-6)
    for axis in range(3):
        expected = np.where(np.indices(volume.shape)[0] < 5, np.float32(1.5), volume)
        part = looks.slices["grey"].slice(axis)
        np.testing.assert_array_equal(part, np.take(expected, volume.shape[axis] // 2, axis).T)


def testEveryGreyValueIsShownWhereAllAreSome():
    volume = np.random.default_rng(1).integers(0, 60000, (6, 5, 4)).astype(np.uint16)
    looks = Looks(volume.shape, ("overview", "report"), False)
    looks.watch("grey").add(0, volume.T)
    looks.fill(())
    np.testing.assert_array_equal(looks.previews["grey"].finish(), volume.T)
    assert np.array_equal(looks.slices["grey"].slice(2), volume[:, :, 2].T)
