"""Records: the command, versions, JSON, digests, and what differs between two of them."""

import hashlib
import json
import os
import sys

import pytest

from engine.base.errors import PipelineError
from engine.base.records import (
    SAMPLE_FILES,
    commandLine,
    digestFile,
    digestFiles,
    packageVersions,
    readJson,
    refuseAnother,
    sketchFile,
    sketchFiles,
    spreadOver,
    writeJson,
)


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


def testDigestOfSeveralFilesTellsNamesAndContents(tmp_path):
    files = [tmp_path / name for name in ("a", "b")]
    for file in files:
        file.write_bytes(file.name.encode())
    digest = digestFiles(files, tmp_path)
    text = "".join(f"{file.name} {hashlib.sha256(file.read_bytes()).hexdigest()}\n" for file in files)
    assert digest == hashlib.sha256(text.encode()).hexdigest()
    assert digestFiles(files[::-1], tmp_path) != digest
    files[1].write_bytes(b"c")
    assert digestFiles(files, tmp_path) != digest


@pytest.mark.parametrize(("count", "chosen"), [(0, []), (1, [0]), (2, [0, 1]), (5, [0, 1, 2, 3, 4])])
def testFewFilesAreAllLookedAt(count, chosen):
    assert spreadOver(range(count)) == tuple(chosen)


def testOfManyFilesSomeAreLookedAt(tmp_path):
    for count in (SAMPLE_FILES, 17, 1000):
        chosen = spreadOver(range(count))
        assert len(set(chosen)) == SAMPLE_FILES and (chosen[0], chosen[-1]) == (0, count - 1)
    files = [tmp_path / str(number) for number in range(3)]
    for file in files:
        file.write_bytes(file.name.encode() * 9)
    sketch = sketchFiles(files)
    assert sketch["bytes"] == 27 and sketchFiles(files[:1]) == sketchFile(files[0])
    files[2].write_bytes(b"3" * 9)
    assert sketchFiles(files)["sample"] != sketch["sample"] and sketchFiles(files)["bytes"] == 27


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
