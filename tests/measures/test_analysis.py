"""Particles and scores of real shapes against SciPy, scikit-image, scikit-learn and stardist; slow."""

import nrrd
import numpy as np
import pytest
from places import SHARED
from scipy import ndimage
from skimage.filters import threshold_otsu
from skimage.measure import regionprops_table

from engine.measures.analysis import Judged
from engine.measures.labelling import Relabelling
from engine.volumes.frame import Frame
from functions import scoreVoxels

STEPS = {6: 1, 18: 2, 26: 3}  # of scipy.ndimage.generate_binary_structure
SPACING = np.array([0.7, 0.7, 1.3])

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not SHARED.is_dir(), reason="the real volumes are not on this computer"),
]


def readGrey(name):
    """Read a volume as a probability, (z, y, x): its grey values scaled to 0..1."""
    grey = nrrd.read(str(SHARED / f"{name}.nrrd"))[0].T.astype(np.float32)
    return (grey - grey.min()) / np.ptp(grey)


def judge(probability, truth, threshold, connectivity, slab=11):
    """Take a volume slab by slab; gives what is measured, and both label volumes."""
    frame = Frame(np.diag(SPACING), np.zeros(3), "um")
    judged = Judged(probability.shape[::-1], threshold, connectivity, frame, truth is not None)
    starts = range(0, len(probability), slab)
    for z in starts:
        judged.add(z, probability[z : z + slab], None if truth is None else truth[z : z + slab])
    measured = judged.finish(1)
    again = Relabelling(measured.labels, connectivity)
    labels = np.concatenate([again.label(probability[z : z + slab] >= threshold) for z in starts])
    return measured, labels, judged


@pytest.mark.parametrize("connectivity", [6, 18, 26])
@pytest.mark.parametrize("name", ["bone3155_200", "cement", "shell", "fibers"])
def testParticlesOfRealShapesEqualThoseOfScikitImage(name, connectivity):
    probability = 1 - readGrey(name) if name == "cement" else readGrey(name)  # its pores
    threshold = float(threshold_otsu(probability))
    measured, labels, _ = judge(probability, None, threshold, connectivity)
    structure = ndimage.generate_binary_structure(3, STEPS[connectivity])
    expected, count = ndimage.label(probability >= threshold, structure)
    np.testing.assert_array_equal(labels, expected)
    assert count == len(measured.table["label"]) >= 10
    names = ("num_pixels", "area", "centroid", "bbox", "mean_intensity", "min_intensity")
    table = regionprops_table(expected, probability, spacing=tuple(SPACING[::-1]), properties=names)
    pairs = {"voxelCount": "num_pixels", "volume": "area", "minimumProbability": "min_intensity"}
    pairs |= {"x": "centroid-2", "y": "centroid-1", "z": "centroid-0", "meanProbability": "mean_intensity"}
    pairs |= {"x1": "bbox-2", "y1": "bbox-1", "z1": "bbox-0", "x2": "bbox-5", "y2": "bbox-4", "z2": "bbox-3"}
    for ours, theirs in pairs.items():
        np.testing.assert_allclose(measured.table[ours], table[theirs], rtol=2e-5, err_msg=ours)


@pytest.mark.parametrize("name", ["cement", "fibers"])
def testMatchesOfRealShapesEqualThoseOfStardist(name):
    matching = pytest.importorskip("stardist.matching").matching
    grey = 1 - readGrey(name)  # pores
    probability, threshold = ndimage.gaussian_filter(grey, 0.8), float(np.quantile(grey, 0.95))
    truth = ndimage.median_filter(grey, 3) >= threshold
    measured, labels, judged = judge(probability, truth, threshold, 26)
    reference, count = ndimage.label(truth, np.ones((3, 3, 3)))
    assert measured.scores["reference"] == count > 20
    for row in measured.scores["iou"]:
        expected = matching(reference, labels.astype(int), thresh=row["threshold"])
        assert (row["matched"], measured.scores["predicted"]) == (expected.tp, expected.n_pred)
        assert (row["precision"], row["recall"]) == pytest.approx((expected.precision, expected.recall))
    missed = set(np.unique(reference)) - set(np.unique(reference[labels > 0])) - {0}
    errors = measured.errors
    assert set(errors["label"][errors["kind"] == "miss"]) == missed


@pytest.mark.parametrize("name", ["brain1", "breast1"])
def testScoresAgainstManualLabelsEqualScikitLearn(name):
    metrics = pytest.importorskip("sklearn.metrics")
    truth = nrrd.read(str(SHARED / "pyradiomics" / f"{name}_label.nrrd"))[0].T > 0
    noise = np.random.default_rng(0).normal(0, 0.15, truth.shape)
    probability = np.clip(ndimage.gaussian_filter(truth.astype(float), 1) + noise, 0, 1).astype(np.float32)
    measured, _, judged = judge(probability, truth, 0.5, 26)
    scores = scoreVoxels(probability, truth, 0.5)
    assert scores["dice"] == pytest.approx(metrics.f1_score(truth.ravel(), (probability >= 0.5).ravel()))
    area = metrics.average_precision_score(truth.ravel(), probability.ravel())
    assert judged.curves.precisionRecall()["averagePrecision"] == pytest.approx(area, abs=2e-3)
    assert measured.scores["reference"] == ndimage.label(truth, np.ones((3, 3, 3)))[1]
