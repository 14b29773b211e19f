"""Labelling slab by slab gives what SciPy gives for the whole volume."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from engine.measures.labelling import Joining, Relabelling, labelSlab

STEPS = {6: 1, 18: 2, 26: 3}  # of scipy.ndimage.generate_binary_structure


def labelAtOnce(positive, connectivity, minimumVoxels):
    """Label by SciPy, leave small particles out; gives labels and voxels of the particles."""
    labels, count = ndimage.label(positive, ndimage.generate_binary_structure(3, STEPS[connectivity]))
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    isKept = sizes >= minimumVoxels
    isKept[0] = False
    return np.where(isKept, np.cumsum(isKept), 0)[labels], sizes[isKept], sizes[1:][~isKept[1:]]


def labelBySlabs(positive, connectivity, minimumVoxels, ends):
    """Label by our own two passes."""
    slabs, joining = np.split(positive, ends), Joining(connectivity)
    for slab in slabs:
        joining.add(slab)
    found = joining.finish(minimumVoxels)
    again = Relabelling(found, connectivity)
    return np.concatenate([again.label(slab) for slab in slabs]), found


@settings(deadline=None, max_examples=150)
@given(
    sides=st.tuples(st.integers(1, 12), st.integers(1, 9), st.integers(1, 9)),
    share=st.sampled_from((0.0, 0.1, 0.3, 0.6, 1.0)),
    connectivity=st.sampled_from((6, 18, 26)),
    minimumVoxels=st.integers(1, 4),
    seed=st.integers(0, 2**31),
    data=st.data(),
)
def testSlabsGiveTheLabelsOfTheWholeVolume(sides, share, connectivity, minimumVoxels, seed, data):
    positive = np.random.default_rng(seed).random(sides) < share
    ends = data.draw(st.lists(st.integers(1, sides[0] - 1), unique=True).map(sorted)) if sides[0] > 1 else []
    labels, found = labelBySlabs(positive, connectivity, minimumVoxels, ends)
    expected, sizes, dropped = labelAtOnce(positive, connectivity, minimumVoxels)
    np.testing.assert_array_equal(labels, expected)
    np.testing.assert_array_equal(found.voxelCounts, sizes)
    assert (found.droppedCount, found.droppedVoxels) == (len(dropped), dropped.sum())


@pytest.mark.parametrize(("connectivity", "count"), [(6, 3), (18, 2), (26, 1)])
def testConnectivityDecidesAcrossASeam(connectivity, count):
    positive = np.zeros((2, 3, 4), bool)
    positive[1, 0, 1] = True
    positive[0, 0, 0] = True  # shares an edge with it
    positive[0, 1, 2] = True  # shares a corner with it
    _, found = labelBySlabs(positive, connectivity, 1, [1])
    assert len(found.voxelCounts) == count


def testRowsWithGapsOfOneVoxelAreLabelled():
    assert labelSlab(np.array([[[True, False, True]]]), 26)[3] == 2
