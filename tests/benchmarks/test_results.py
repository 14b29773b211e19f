"""The benchmark of the results at a tiny size: both sides measure the same."""

import csv
from types import SimpleNamespace

import numpy as np
import pytest
import results


@pytest.fixture
def folder(tmp_path):
    results.writeVolumes(tmp_path, 64, 40)
    return tmp_path


def readColumns(path, key):
    """Read a table, its rows ordered by a column."""
    with open(path, newline="") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: float(row[key]))
    return {name: np.array([float(row[name]) for row in rows]) for name in rows[0]}


def testBothSidesGiveTheSameNumbers(folder):
    ours, peer = results.runOurs(folder), results.runPeer(folder, hasSurfaces=True)
    assert ours == peer and ours["particles"] > 10 and 0 < ours["matched"] < ours["particles"]
    table, other = readColumns(folder / "ours.csv", "x_um"), readColumns(folder / "peer.csv", "centroid-0")
    np.testing.assert_array_equal(table["voxelCount"], other["num_pixels"])
    np.testing.assert_allclose(table["volume_um3"], other["area"], rtol=1e-6)
    np.testing.assert_allclose(table["nearestNeighbour_um"], other["neighbour"], rtol=1e-6)
    large = table["voxelCount"] > 200  # smaller balls of voxels have no surface to agree on
    assert large.sum() > 5
    np.testing.assert_allclose(table["surfaceArea_um2"][large], other["surface"][large], rtol=0.12)


def testTableHasARowASide(folder, monkeypatch, capsys):

    def runInTurn(commands, place, repeats):
        for name in commands:
            (place / f"{name}.json").write_text('{"particles": 3, "matched": 2, "dice": 0.5}')
        seconds = {name: 2.0 if name in results.OURS else 4.0 for name in commands}
        return {name: [SimpleNamespace(seconds=seconds[name], peakGiB=1.0)] for name in commands}

    monkeypatch.setattr(results.measure, "runInTurn", runInTurn)
    monkeypatch.setattr(results, "writeVolumes", lambda *_: None)
    results.compare(folder, 100, results.parseArguments(["--peerLimit", "100"]))
    results.compare(folder, 200, results.parseArguments(["--peerLimit", "100"]))
    rows = capsys.readouterr().out.splitlines()
    assert [row.split("|")[2].strip() for row in rows] == [*results.SIDES, *results.OURS]
    assert rows[2] == "| 100^3 | slab by slab | 3 | 2 | 0.500000 | 2.0 | 0.5 | 1.00 | 2.0 |"
    assert rows[5] == "| 200^3 | by two processes | 3 | 2 | 0.500000 | 2.0 | 4.0 | 1.00 | 1.0 |"
