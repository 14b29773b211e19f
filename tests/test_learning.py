"""Batches, losses, metrics, averages, model files and contracts."""

import json

import networks
import numpy as np
import pytest

from engine.base.errors import PipelineError
from engine.base.records import digestFile
from engine.network.contracts import (
    Contract,
    chooseScope,
    chooseThreshold,
    describeNormalization,
    findContract,
)
from engine.preparation.samples import Samples
from functions import buildSpotUNet, describeUNet, scoreVoxels, setWeights

COUNT = 7


@pytest.fixture
def samples(tmp_path):
    """Seven sub-volumes; sample i holds the grey value i, masks are positive where it is odd."""
    grey = np.arange(COUNT, dtype=np.float32)[:, None, None, None, None]
    images = np.broadcast_to(grey, (COUNT, 2, 4, 2, 1))
    np.save(tmp_path / "images.npy", images)
    np.save(tmp_path / "masks.npy", images % 2 == 1)
    return Samples(tmp_path / "images.npy", tmp_path / "masks.npy")


# ------------------------------------------------------------------------------------------------- batches


def testValidationReadsEverySampleOnceInTheOrderOfTheFile(samples):
    from engine.learning.batches import readInOrder

    data = readInOrder(samples)
    batches = [data[index] for index in range(len(data))]
    read = [int(value) for images, _ in batches for value in images[:, 0, 0, 0, 0]]
    assert read == list(range(COUNT))
    for images, masks in batches:
        assert images.dtype == masks.dtype == np.float32 and images.shape == masks.shape
        assert images.shape[1:] == (2, 4, 2, 1)
        np.testing.assert_array_equal(masks, images % 2)


def testBatchesAreThoseOfTheirNumbers():
    from engine.learning.batches import Batches

    read = []
    data = Batches(lambda number: read.append(number) or number * 10, range(3, 7))
    assert data[2] == 50  # any order works
    assert [data[index] for index in range(len(data))] == [30, 40, 50, 60]
    assert sorted(read) == [3, 4, 5, 5, 6]


def testBatchesBecomeADatasetWhoseReadingIsNotTuned():
    from engine.learning.batches import Batches, asDataset

    lengths = (2, 2, 1)  # the last batch is smaller

    def readPair(number):
        shape = (lengths[number], 4, 6, 8, 1)
        return np.full(shape, number, np.float32), np.full(shape, -number, np.float32)

    dataset = asDataset(Batches(readPair, range(3)))
    assert dataset.options().autotune.enabled is False
    assert len(dataset) == 3
    for number, (images, masks) in enumerate(dataset):
        np.testing.assert_array_equal(images, readPair(number)[0])
        np.testing.assert_array_equal(masks, readPair(number)[1])
    assert sum(1 for _ in dataset) == 3  # a second pass


def testErrorOfTheDataIsKept():
    from engine.learning.batches import Batches

    def fail(number):
        raise PipelineError("was changed")

    data = Batches(fail, range(2))
    with pytest.raises(PipelineError):
        data[0]
    assert str(data.error) == "was changed"


# --------------------------------------------------------------------------------------- losses and metrics


def makeBatch(seed=0):
    """Make masks and probabilities; the second sample has no positive voxel."""
    generator = np.random.default_rng(seed)
    masks = (generator.random((3, 4, 4, 8, 1)) < 0.2).astype(np.float32)
    masks[1] = 0
    return masks, generator.uniform(0.02, 0.98, masks.shape).astype(np.float32)


def plainLosses(y, p):
    """Every loss of one sample, written out."""
    entropy = -np.mean(y * np.log(p) + (1 - y) * np.log(1 - p))
    focal = -np.mean(y * (1 - p) ** 2 * np.log(p) + (1 - y) * p**2 * np.log(1 - p))
    dice = 1 - 2 * np.sum(y * p) / np.sum(y + p)
    misses, alarms = np.sum(y * (1 - p)), np.sum((1 - y) * p)
    tversky = 1 - np.sum(y * p) / (np.sum(y * p) + 0.3 * alarms + 0.7 * misses)
    return {"bce": entropy, "dice": dice, "bce+dice": entropy + dice, "focal": focal, "tversky": tversky}


@pytest.mark.parametrize("name", ["bce", "dice", "bce+dice", "focal", "tversky"])
def testLossesAreMeansOverSamples(name):
    from engine.learning.losses import makeLoss

    masks, probabilities = makeBatch()
    expected = np.mean(
        [
            plainLosses(y.astype(float), p.astype(float))[name]
            for y, p in zip(masks, probabilities, strict=True)
        ]
    )
    assert float(makeLoss(name)(masks, probabilities)) == pytest.approx(expected, rel=1e-4)


def testDiceIsThatOfAllBatchesTogether():
    from engine.learning.metrics import PositiveDice

    metric = PositiveDice()
    batches = [makeBatch(seed) for seed in range(3)]
    for masks, probabilities in batches:
        metric.update_state(masks, probabilities)
    masks, probabilities = (np.concatenate(arrays) for arrays in zip(*batches, strict=True))
    expected = scoreVoxels(probabilities[..., 0], masks[..., 0] > 0)["dice"]
    assert float(metric.result()) == pytest.approx(expected, rel=1e-6)
    metric.reset_state()
    assert float(metric.result()) == 0
    metric.update_state(np.zeros((1, 2, 2, 2, 1)), np.zeros((1, 2, 2, 2, 1)))
    assert float(metric.result()) == 0


# ------------------------------------------------------------------------------------------ moving averages


def smallModel(seed):
    """Network of 1 feature and 2 levels with random weights."""
    plan = describeUNet(1, 2)
    model = buildSpotUNet(1, 2)
    setWeights(model, plan, networks.randomWeights(plan, seed))
    return model


@pytest.mark.parametrize(("momentum", "isFaster"), [(0.99, False), (0.5, False), (0.9, True)])
def testRenewedAveragesAreTheMediansOfTheBatches(momentum, isFaster):
    """With them a network in inference gives what it gives in training on the same single batch."""
    import keras

    from engine.learning.averages import Averages
    from engine.learning.sharing import fasterLayers

    model = twin = smallModel(3)
    if isFaster:
        twin = buildSpotUNet(1, 2, fasterLayers())
    for layer in (*model.layers, *twin.layers):
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = momentum
    images = np.random.default_rng(1).normal(size=(3, 2, 8, 8, 8, 1)).astype(np.float32)
    before = [layer.get_weights() for layer in model.layers]
    Averages(model, lambda number: images[number], 0, twin).renew()
    assert all(
        np.array_equal(old, new)
        for weights, layer in zip(before, model.layers, strict=True)
        for old, new in zip(weights, layer.get_weights(), strict=True)
    )
    Averages(model, lambda number: images[number], 1, twin).renew()
    expected = np.asarray(model(images[0], training=True))  # which moves the averages
    Averages(model, lambda number: images[number], 1, twin).renew()
    np.testing.assert_allclose(np.asarray(model(images[0], training=False)), expected, atol=2e-5)

    Averages(model, lambda number: images[number], 3, twin).renew()
    first = next(layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization))
    convolved = np.asarray(model.layers[1](images.reshape(-1, 8, 8, 8, 1))).reshape(3, -1, 1)
    np.testing.assert_allclose(first.moving_mean, np.median(convolved.mean(axis=1), axis=0), atol=1e-5)
    np.testing.assert_allclose(first.moving_variance, np.median(convolved.var(axis=1), axis=0), rtol=1e-4)


# -------------------------------------------------------------------------------------------------- files


def testSavedModelIsAnOrdinaryFileOfKeras(tmp_path):
    import keras

    from engine.network.modelWriter import saveModel

    model = smallModel(4)
    volume = networks.randomVolume(8, 6, 4)
    saveModel(model, tmp_path / "model.h5")
    received = networks.passOnce(keras.models.load_model(tmp_path / "model.h5"), volume)
    np.testing.assert_array_equal(received, networks.passOnce(model, volume))
    assert [item.name for item in tmp_path.iterdir()] == ["model.h5"]


# ---------------------------------------------------------------------------------------------- contracts


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
    assert (
        chooseScope("", Contract.of({"normalization": "subVolume"}), shape, region) == "region"
    )  # published
    assert chooseScope("", None, shape, region) == "region"
    assert chooseScope("volume", None, shape, region) == "volume"
    assert chooseScope("region", None, shape, whole) == "volume"  # the same


def testThresholdTellsWhereItComesFrom(tmp_path):
    (tmp_path / "net.h5").write_bytes(b"weights")
    files = {"net.h5": digestFile(tmp_path / "net.h5")}
    entries = {"files": files, "thresholds": {"net.h5": 0.3}, "diceAtThreshold": {"net.h5": 0.8}}
    contract = Contract.of(entries)
    assert chooseThreshold(None, contract, tmp_path / "net.h5") == (0.3, "best Dice on the validation data")
    contract.diceAtThreshold["net.h5"] = 0
    assert "no threshold found anything" in chooseThreshold(None, contract, tmp_path / "net.h5")[1]
    begun = Contract.of({"files": files, "thresholds": {}})
    answer = 0.5, "the published one (the training is unfinished)"
    assert chooseThreshold(None, begun, tmp_path / "net.h5") == answer
    assert chooseThreshold(None, None, tmp_path / "net.h5") == (0.5, "the published one")
