"""Volumes that are written plane after plane."""

import nrrd
import numpy as np
import pytest
from predictions import OBLIQUE

from engine.formats.nrrdWriter import openPlanes


@pytest.mark.parametrize("encoding", ["raw", "gzip"])
def testPlanesAreWrittenOneAfterTheOther(tmp_path, encoding):
    values = np.random.default_rng(0).integers(0, 1 << 30, (7, 5, 3), dtype=np.uint32)  # (x, y, z)
    with openPlanes(tmp_path / "a.nrrd", values.shape, "uint32", dict(OBLIQUE), encoding) as write:
        for planes in np.split(values.T, [2]):
            write(planes)
        assert not (tmp_path / "a.nrrd").exists()
    read, header = nrrd.read(str(tmp_path / "a.nrrd"))
    np.testing.assert_array_equal(read, values)
    np.testing.assert_array_equal(header["space directions"], OBLIQUE["space directions"])
