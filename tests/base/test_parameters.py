"""The parser of the scripts: its help, its refusals, the settings that it keeps."""

import argparse
from pathlib import Path

import pytest

from engine.base.console import describeShape, relativePath
from engine.base.parameters import plainSettings


def testSettingsAreWrittenWithPathsOfTheCurrentFolder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    settings = argparse.Namespace(file=tmp_path / "a" / "b.h5", other=Path("/elsewhere/c"), count=3)
    assert plainSettings(settings) == {"file": "a/b.h5", "other": "/elsewhere/c", "count": 3}
    assert relativePath(Path("d")) == Path("d") and describeShape((1, 2, 3)) == "1x2x3"


def testHelpShowsDefaultsAndAWrongValueIsToldInOneLine(capsys):
    import predictData

    with pytest.raises(SystemExit):
        predictData.parseArguments(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "edges or corners [26]" in text and "[test-file/test-file_data.nrrd]" in text and "[raw]" in text
    for flags in (["--connectivity", "8"], ["--x1", "3.5"], ["--treshold", "0.5"]):
        with pytest.raises(SystemExit) as stop:
            predictData.parseArguments(flags)
        error = capsys.readouterr().err
        assert stop.value.code == 2 and error.count("\n") == 1 and flags[0] in error


@pytest.mark.parametrize("value", ["-1", "-5--1", "-1,3-5", "!0", "1-30"])
def testAValueMayBeginWithAMinusSign(value):
    import predictData

    for words in ([f"--positiveLabel={value}"], ["--positiveLabel", value]):
        settings = predictData.parseArguments(["--no-mask", *words, "--z1", "3"])
        assert (settings.positiveLabel, settings.z1, settings.mask) == (value, 3, False)


def testAFlagWithoutItsValueIsStillRefused(capsys):
    import predictData

    for words in (["--positiveLabel", "--no-mask"], ["--positiveLabel"], ["-5"], ["--no-mask", "-5"]):
        with pytest.raises(SystemExit):
            predictData.parseArguments(words)
        assert capsys.readouterr().err.startswith("Error: ")
