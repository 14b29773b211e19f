"""Previews and mid-slices of volumes that come plane after plane."""

import numpy as np
import pytest
from drawings import slicesOf

import engine.results.looks
from engine.results.looks import Preview, chooseFactor


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
