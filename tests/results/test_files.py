"""The table of particles as a file."""

import csv

import numpy as np
import pytest
from particles import blobs, measure

from engine.results.files import writeTable


@pytest.mark.parametrize(
    ("unit", "names"),
    [
        ("um", ["x_voxel", "y_voxel", "z_voxel", "x_um", "y_um", "z_um"]),
        ("", ["x_voxel", "y_voxel", "z_voxel", "x", "y", "z"]),
        ("voxel", ["x_voxel", "y_voxel", "z_voxel"]),
    ],
)
def testEveryColumnIsWrittenOnceWithItsUnit(tmp_path, unit, names):
    table, _ = measure(*blobs(), np.eye(3))
    writeTable(table, unit, tmp_path / "a.csv")
    header, *rows = csv.reader((tmp_path / "a.csv").read_text().splitlines())
    assert header[: len(names) + 2] == ["label", *names, "voxelCount"] and len(set(header)) == len(header)
    assert ("volume" + f"_{unit}3" * bool(unit)) in header
    columns = dict(zip(header, np.array(rows, float).T, strict=True))
    for name in ("x_voxel", "y_voxel", "z_voxel", "voxelCount", "touchesBorder", "elongation"):
        np.testing.assert_allclose(columns[name], table[name], rtol=1e-6)
