"""Contracts: one schema that is written and read; files of others and of older trainings."""

import json

import pytest

from engine.base.errors import PipelineError
from engine.base.records import digestFile
from engine.network.contracts import Contract, findContent, findContract, readContract

ENTRIES = {
    "architecture": {"base_depth": 8, "levelCount": 4, "parameterCount": 366593},
    "normalization": "volume",
    "moments": "robust",
    "positiveLabel": [0],
    "thresholds": {"net.h5": 0.4},
    "diceAtThreshold": {"net.h5": 0.9},
    "sureness": {"net.h5": [[0.98, 0.93]]},
    "bestValidation": {"val_dice": {"epoch": 3, "dice": 0.9}},
    "greys": {"features": ["noise"], "squares": [[0.3]]},
    "training": {"identity": {"seed": 1}, "seconds": 2.5},
    "data": {"parameters": {"nb_rotation": 1}},
    "files": {"net.h5": "ab"},
}


def testWhatIsWrittenIsReadAndHasTheKeysOfTheFilesSoFar(tmp_path):
    path = tmp_path / "net.json"
    Contract(**ENTRIES).write(path)
    assert path.read_text() == json.dumps(ENTRIES, indent=2) + "\n"
    assert readContract(path) == Contract.of(ENTRIES) == Contract(**ENTRIES)
    assert readContract(path).identity == {"seed": 1}
    assert readContract(tmp_path / "nothing.json") is None


def testATrainingWithoutRecordOfItsDataWritesNull(tmp_path):
    Contract().write(tmp_path / "net.json")
    content = json.loads((tmp_path / "net.json").read_text())
    assert list(content) == list(ENTRIES)
    assert content["normalization"] is content["positiveLabel"] is None


@pytest.mark.parametrize("name", ENTRIES)
@pytest.mark.parametrize("isMissing", [True, False])
def testAnEntryThatIsMissingOrOfAnotherTypeIsLeftOut(name, isMissing):
    entries = {key: value for key, value in ENTRIES.items() if key != name}
    contract = Contract.of(entries if isMissing else entries | {name: 1.5, "foreign": 7})
    assert contract == Contract(**entries)
    assert getattr(contract, name) in (None, {})


def testOldestLabelsAreNumbers():
    for known in (255, [1, 2], "!0", "-5--1"):
        assert Contract.of({"positiveLabel": known}).positiveLabel == known


def testAFileIsKnownByItsNameAndContent(tmp_path):
    file = tmp_path / "net.h5"
    file.write_bytes(b"weights")
    contract = Contract.of({"files": {"net.h5": digestFile(file)}})
    assert contract.knows(file) and not contract.knows(tmp_path / "other.h5")
    file.rename(tmp_path / "renamed.h5")
    assert not contract.knows(file) and not contract.knows(tmp_path / "renamed.h5")


@pytest.mark.parametrize("training", [None, [], {"identity": None}, {"identity": "x"}, {}])
def testAForeignTrainingHasNoIdentity(training):
    assert Contract.of({"training": training}).identity is None


def testTheFileIsFoundAsItStands(tmp_path):
    (tmp_path / "net.h5").write_bytes(b"weights")
    content = {"files": {"old.h5": digestFile(tmp_path / "net.h5")}, "of an older version": [1]}
    (tmp_path / "any name.json").write_text(json.dumps(content))
    assert findContent(tmp_path / "net.h5") == content
    assert findContract(tmp_path / "net.h5") == Contract.of(content)


def testADamagedContractIsToldWhereItIsNamed(tmp_path):
    (tmp_path / "net.json").write_text("{")
    with pytest.raises(PipelineError, match="net.json: is no readable JSON file"):
        readContract(tmp_path / "net.json")
