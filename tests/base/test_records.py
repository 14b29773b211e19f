"""Records: the command, versions, JSON, digests, and what differs between two of them."""

import json
import os
import sys

import pytest

from engine.base.errors import PipelineError
from engine.base.records import commandLine, digestFile, packageVersions, readJson, refuseAnother, writeJson


def testCommandLineCanBePasted(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/some/where/predictData.py", "--nameInput", "a file.nrrd"])
    assert commandLine() == "python3 predictData.py --nameInput 'a file.nrrd'"


def testVersionsAreThoseOfTheInstalledPackages():
    import numpy

    versions = packageVersions()
    assert versions["numpy"] == numpy.__version__ and versions["python"] == sys.version.split()[0]


def testJsonRoundTripAndItsRefusals(tmp_path):
    path = tmp_path / "file.json"
    assert readJson(path) is None
    writeJson(path, {"unit": "µm", "values": [1, 2.5]})
    assert readJson(path) == {"unit": "µm", "values": [1, 2.5]}
    unreadable = dict.fromkeys(("{", "[" * 100_000, "\xff"), "no readable JSON")
    for text, message in (unreadable | {"[]": "no JSON object"}).items():
        path.write_bytes(text.encode("latin1"))
        with pytest.raises(PipelineError, match=message):
            readJson(path)


def testNamesOfAnyBytesAreReadBackAsTheyWere(tmp_path):
    content = {os.fsdecode(b"Prob\xe4"): os.fsdecode(b"\xff\\udce4 \n"), "\xb5": ["\\udce4"]}
    writeJson(tmp_path / "a.json", content)
    assert readJson(tmp_path / "a.json") == content
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert r'"Prob\udce4": "\udcff\\udce4 \n"' in text and json.loads(text) == content


def testDigestIsSha256(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    assert digestFile(tmp_path / "file").startswith("ba7816bf8f01cfea414140de5dae2223")


def testDifferencesAreNamed():
    saved = {"loss": "bce", "seed": 1, "trainingDataMask.npy": "ab", "old": 3}
    words = "an unfinished training", "--restart to begin anew"
    refuseAnother(saved, dict(saved), *words)
    wanted = saved | {"loss": "dice", "trainingDataMask.npy": "cd"}
    with pytest.raises(PipelineError) as error:
        refuseAnother(saved, wanted, *words)
    assert "an unfinished training differs in loss bce -> dice, trainingDataMask.npy" in str(error.value)
    assert "--restart" in str(error.value)
    with pytest.raises(PipelineError, match="new None -> 4"):
        refuseAnother(saved, saved | {"new": 4}, *words)
