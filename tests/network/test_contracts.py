"""Contracts: how they are found, and what a prediction takes from them."""

import json

import pytest

from engine.base.records import digestFile
from engine.network.contracts import (
    Contract,
    chooseScope,
    chooseThreshold,
    describeNormalization,
    findContract,
)


def testContractIsFoundByDigestWhateverTheNames(tmp_path):
    weights = tmp_path / "renamed.h5"
    weights.write_bytes(b"weights")
    (tmp_path / "a.json").write_text("[1, 2]")
    (tmp_path / "b.json").write_text("{ no json")
    (tmp_path / "c.json").write_bytes(b"\xff\xfe")
    (tmp_path / "d.json").mkdir()
    (tmp_path / "e.json").write_text('{"files": ["x"]}')
    (tmp_path / "f.json").write_text(json.dumps({"files": {"renamed.h5": "0" * 64}}))
    assert findContract(weights) is None
    contract = {"files": {"x.h5": "1", "trained.h5": digestFile(weights)}, "normalization": "volume"}
    (tmp_path / "z.json").write_text(json.dumps(contract))
    assert findContract(weights) == findContract(str(weights)) == Contract.of(contract)
    weights.write_bytes(b"other weights")
    assert findContract(weights) is None


@pytest.mark.parametrize(
    ("contract", "scope", "line"),
    [
        (
            None,
            "volume",
            "z-score over the whole volume; no contract beside the model tells how it was trained",
        ),
        (
            {},
            "region",
            "z-score over the region of interest; no contract beside the model tells how it was trained",
        ),
        ({"normalization": "volume"}, "volume", "z-score over the whole volume, as in the training"),
        (
            {"normalization": "volume"},
            "region",
            "z-score over the region of interest; the training used another scheme: "
            "each whole volume by itself",
        ),
        (
            {"normalization": "subVolume"},
            "volume",
            "z-score over the whole volume; the training used another scheme: each sub-volume by itself",
        ),
        (
            {"normalization": "mine"},
            "volume",
            "z-score over the whole volume; the training used another scheme: mine by itself",
        ),
    ],
)
def testNormalisationIsToldInOneLine(contract, scope, line):
    contract = None if contract is None else Contract.of(contract)
    assert describeNormalization(contract, scope) == line


def testRegionIsNormalisedAsTheTrainingWas():
    shape, region, whole = (8, 9, 10), ((0, 8), (2, 9), (0, 10)), ((0, 8), (0, 9), (0, 10))
    contract = Contract.of({"normalization": "volume"})
    assert chooseScope("", contract, shape, region) == "volume"
    assert chooseScope("region", contract, shape, region) == "region"
    assert chooseScope("", Contract(normalization="subVolume"), shape, region) == "region"  # published
    assert chooseScope("", None, shape, region) == "region"
    assert chooseScope("volume", None, shape, region) == "volume"
    assert chooseScope("region", None, shape, whole) == "volume"  # the same


def testThresholdTellsWhereItComesFrom(tmp_path):
    (tmp_path / "net.h5").write_bytes(b"weights")
    files = {"net.h5": digestFile(tmp_path / "net.h5")}
    entries = {"files": files, "thresholds": {"net.h5": 0.3}, "diceAtThreshold": {"net.h5": 0.8}}
    contract = Contract.of(entries)
    assert chooseThreshold(None, contract, tmp_path / "net.h5") == (
        0.3,
        "chosen by the Dice on the validation data",
    )
    contract.diceAtThreshold["net.h5"] = 0
    assert "no threshold found anything" in chooseThreshold(None, contract, tmp_path / "net.h5")[1]
    begun = Contract.of({"files": files, "thresholds": {}})
    answer = 0.5, "the published one (the training is unfinished)"
    assert chooseThreshold(None, begun, tmp_path / "net.h5") == answer
    assert chooseThreshold(None, None, tmp_path / "net.h5") == (0.5, "the published one")
