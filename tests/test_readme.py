"""What the README shows of the test volume is what comes out; slow."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import tifffile
from places import ROOT

import predictData
from engine.base.console import runScript
from engine.volumes.formats import openVolume
from engine.volumes.nrrdGeometry import voxelSize

README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    """List the code blocks of a language."""
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


@pytest.mark.slow
def testFirstRunPrintsAndSumsUpWhatTheReadmeShows(tmp_path, capfd):
    output = tmp_path / "test-file_segmented.nrrd"
    runScript(predictData.main, lambda: predictData.parseArguments(["--nameOutput", str(output)]))
    printed = capfd.readouterr().out
    shown = blocks("text")[0].splitlines()
    for line in shown[: next(i for i, line in enumerate(shown) if line.startswith("Predicted"))]:
        if not line.startswith(("Stream", "Result")):  # memory and disk differ
            assert line in printed, line
    files = {Path(line.strip()).name for line in shown if line.startswith("  ")}
    assert {path.name for path in tmp_path.iterdir()} == files
    summary = json.loads((tmp_path / "test-file_segmented_summary.json").read_text())
    expected = json.loads(blocks("json")[0])
    assert summary.keys() == {*expected, "settings"}
    for name in ("all", "withoutBorder"):
        quartiles = [part[name].pop("diameterQuartiles") for part in (summary, expected)]
        assert quartiles[0] == pytest.approx(quartiles[1], rel=1e-5)
        assert summary[name] == pytest.approx(expected[name])
    for name in expected.keys() - {"all", "withoutBorder"}:
        assert summary[name] == (expected[name] if name == "unit" else pytest.approx(expected[name]))


def testEveryParameterIsListedWithItsName():
    import prepareData
    import trainingAndValidation

    listed = set(re.findall(r"`(\w+)`", README.split("## Parameters")[1].split("\n## ")[0]))
    for script in (prepareData, trainingAndValidation, predictData):
        names = vars(script.parseArguments([])).keys()
        folders = {"trainingMasks", "validationImages", "validationMasks"}  # "..." stands for them
        assert names - folders <= listed, script.__name__


def testSlicesInTiffBecomeAVolumeWithVoxelSize(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("slices").mkdir()
    planes = np.arange(4 * 3 * 2, dtype=np.uint16).reshape(4, 3, 2)  # (z, y, x)
    for z, plane in enumerate(planes):
        tifffile.imwrite(f"slices/{z:04}.tif", plane)
    exec(blocks("python")[0], {})
    volume = openVolume(tmp_path / "scan.nrrd")
    np.testing.assert_array_equal(volume.read(), planes.T)
    assert voxelSize(volume.header) == ((0.65,) * 3, ("um",) * 3)
