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


@pytest.mark.parametrize(
    ("unit", "name", "isMarked"),
    [
        ("nm", "nm", False),
        ("\xb5m", "um", False),
        ("\u03bcm", "um", False),
        ("\xc5", "\xc5", True),
        ("\udce5", "\\udce5", True),
    ],
)
def testASpreadsheetReadsTheUnits(tmp_path, unit, name, isMarked):
    table, _ = measure(*blobs(), np.eye(3))
    writeTable(table, unit, tmp_path / "a.csv")
    content = (tmp_path / "a.csv").read_bytes()
    assert content.startswith(b"\xef\xbb\xbf") is isMarked and content.isascii() is not isMarked
    with open(tmp_path / "a.csv", encoding="utf-8-sig", newline="") as file:
        header, *rows = csv.reader(file)
    assert header[0] == "label" and f"volume_{name}3" in header and f"surfaceArea_{name}2" in header
    assert len(rows) == len(table["label"])
