"""The benchmark of robustness: what it simulates, and its table at a tiny size."""

import json
import sys

import numpy as np
import pytest
from places import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
import makeDemoData
import robustness


def testNoTestedSettingButTheFirstIsOneOfTheTraining():
    learnt = [changes for _, _, changes in robustness.TRAINING.values()]
    tested = [changes for _, changes in robustness.TESTS.values()]
    assert tested[0] == {} and all(changes not in learnt for changes in tested[1:])
    varied = {name for changes in tested for name in changes}
    assert varied >= {"precipitateContrasts", "photonCount", "gainError", "precipitateDiameters"}


def testNoSeedServesTwice(tmp_path):
    pairs = [*robustness.listTraining(tmp_path), *robustness.listTests(tmp_path)]
    seeds = [pair.seed for pair in pairs] + [entry[0] for entry in makeDemoData.SHIPPED_PAIRS]
    assert len(set(seeds)) == len(seeds)


def testShippedNetworkLearntFromWhatIsSimulated(tmp_path):
    contract = json.loads((ROOT / "modelAndWeights" / "final-uNet_model.json").read_text())
    names = {
        str(path.relative_to(tmp_path))
        for pair in robustness.listTraining(tmp_path)
        for path in (pair.image, pair.mask)
    }
    assert set(contract["data"]["inputs"]) == names


@pytest.mark.slow
def testTableHasARowForEveryScanAndKeepsTheVolumes(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(robustness, "SHAPE", (48, 48, 24))
    chosen = {name: robustness.TESTS[name] for name in list(robustness.TESTS)[:2]}
    monkeypatch.setattr(robustness, "TESTS", chosen)
    arguments = robustness.parseArguments(["--folder", str(tmp_path), "--processCount", "1"])
    robustness.main(arguments)
    names = tuple(f"| {name}" for name in (*chosen, *robustness.GUISES))
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith(names)]
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert len(rows) == len(scores) == 4
    for row, entry in zip(rows, scores.values(), strict=True):
        values = np.array([float(cell) for cell in row.split("|")[2:-1]])
        assert values[0] == pytest.approx(entry["dice"], abs=5e-4) and (values >= 0).all()
    files = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*_data.nrrd")}
    robustness.main(arguments)
    assert files == {path: path.stat().st_mtime_ns for path in tmp_path.glob("*_data.nrrd")}
