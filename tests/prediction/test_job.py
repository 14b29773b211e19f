"""A prediction as text: every number comes back, also those that JSON does not know."""

import numpy as np
import pytest

from engine.prediction.job import Job
from engine.prediction.layout import Geometry, Layout
from engine.volumes.scale import Scale

SCALES = {
    "plain": Scale(0.1 + 0.2, 1 / 3),
    "fences": Scale(-5e-324, 1e300, (-1.5, 3.4028234663852886e38), (0.1, 0.3)),
    "no data": Scale(8000.0, 600.0, None, None, -3.4028234663852886e38, 7999.5),
    "both": Scale(8000.0, 600.0, (1.0, 2.0), (1.25, 1.75), 65535.0, 3.0),
    "infinite": Scale(0.0, 1.0, noData=-np.inf, fill=0.5),
    "NaN": Scale(0.0, 1.0, (1.0, 2.0), (1.25, 1.75), np.nan, 0.25),
}


@pytest.mark.parametrize("kind", SCALES)
def testAJobSurvivesItsText(kind):
    region, geometry = ((0, 5), (3, 12), (1, 9)), Geometry((8, 9, 5), 8, 48)
    job = Job("a b/\xb5.nrrd", region, SCALES[kind], geometry, Layout(8, 2, 3, 0.25), "m.h5", "w.h5")
    again = Job.fromJson(job.toJson())
    assert repr(again) == repr(job)  # NaN is not equal to itself
    assert again == job or kind == "NaN"
    assert isinstance(again.scale, Scale) and isinstance(again.scale.fences, tuple | None)


@pytest.mark.parametrize("kind", SCALES)
def testAScaleOfATextDoesTheSame(kind):
    scale = SCALES[kind]
    again = Job.fromJson(Job("", (), scale, Geometry((1, 1, 1), 1, 0), Layout(1, 1, 1, 0.0)).toJson()).scale
    generator, values = np.random.default_rng(1), [scale.noData or 7.0, 1.1, 1.5, 1e31, -4.0, 8000.0]
    block = generator.choice(np.float64(values), (4, 5, 6))
    np.testing.assert_array_equal(again.mend(block), scale.mend(block))
    np.testing.assert_array_equal(again.keep(block[0]), scale.keep(block[0]))
