"""What the README shows of the test volume is what comes out; slow."""

import json
import re
from pathlib import Path

import pytest
from places import ROOT

import predictData
from engine.base.console import runScript

README, RESULTS = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/results.md"))


def blocks(language, page=README):
    """List the code blocks of a language."""
    return re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)


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
    expected = json.loads(blocks("json", RESULTS)[0])
    assert summary.keys() == {*expected, "settings"}
    for name in ("all", "withoutBorder"):
        quartiles = [part[name].pop("diameterQuartiles") for part in (summary, expected)]
        assert quartiles[0] == pytest.approx(quartiles[1], rel=1e-5)
        assert summary[name] == pytest.approx(expected[name])
    for name in expected.keys() - {"all", "withoutBorder"}:
        assert summary[name] == (expected[name] if name == "unit" else pytest.approx(expected[name]))
