"""Moments, copies and voxels that are no numbers against plain NumPy."""

import numpy as np
import pytest
from sampleVolumes import TYPES, randomVolume

from engine.base.arrays import copyInOrder, measureMoments, refuseNonFinite
from engine.base.errors import PipelineError


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def testVoxelsThatAreNoNumbersAreCountedByFile(value):
    image = randomVolume("float32")
    refuseNonFinite(image, "scan.nrrd")
    image[1, 2, 3:6] = value
    with pytest.raises(PipelineError, match=r"scan\.nrrd: 3 voxels are NaN or infinite"):
        refuseNonFinite(image, "scan.nrrd")


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("order", ["F", "C"])
def testMomentsEqualThoseOfNumpyInFloat64(dtype, order):
    image = randomVolume(dtype, order)
    mean, std = measureMoments(image)
    assert mean == pytest.approx(image.astype(np.float64).mean(), rel=1e-12)
    assert std == pytest.approx(image.astype(np.float64).std(), rel=1e-12)


@pytest.mark.parametrize("dtype", ["bool", "uint16", ">u2", "float64"])
def testCopyInOrderIsTheSameVolumeInCOrder(dtype):
    image = np.asfortranarray(np.random.default_rng(0).integers(0, 2, (9, 8, 7))).astype(dtype, order="F")[
        1:, ::2
    ]
    copy = copyInOrder(image)
    assert copy.flags.c_contiguous and copy.dtype == image.dtype
    np.testing.assert_array_equal(copy, image)
