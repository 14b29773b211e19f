"""Learning data, checkpoints and contracts."""

import errno
import json
import os
import signal

import networks
import numpy as np
import pytest

from engine.contracts import describeNormalization, findContract
from engine.errors import PipelineError
from engine.files import digestFile
from engine.models import readWeights
from functions import buildSpotUNet, describeUNet, setWeights

COUNT = 7


@pytest.fixture
def arrays(tmp_path):
    """Memory-mapped images and masks; sample i holds the grey value i."""
    images = np.broadcast_to(
        np.arange(COUNT, dtype=np.float32)[:, None, None, None, None], (COUNT, 2, 4, 2, 1)
    )
    np.save(tmp_path / "images.npy", images)
    np.save(tmp_path / "masks.npy", images % 2 == 1)
    return [np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in ("images", "masks")]


def readEpoch(data):
    """List the samples of one epoch, batch by batch."""
    data.on_epoch_begin()
    batches = [data[index] for index in range(len(data))]
    data.on_epoch_end()
    return [list(images[:, 0, 0, 0, 0].astype(int)) for images, _ in batches]


# ------------------------------------------------------------------------------------------- sub-volumes


@pytest.mark.parametrize("batchSize", [1, 2, 3, 7, 10])
@pytest.mark.parametrize("seed", [None, 0, 5])
def testEveryEpochHasEverySampleOnceAndASmallerLastBatch(arrays, batchSize, seed):
    from engine.learning import SubVolumes

    data = SubVolumes(*arrays, batchSize, seed)
    for _ in range(3):
        batches = readEpoch(data)
        assert sorted(sum(batches, [])) == list(range(COUNT))
        sizes = [len(batch) for batch in batches]
        assert sizes[:-1] == [batchSize] * (len(sizes) - 1)
        assert sizes[-1] == (COUNT % batchSize or batchSize)
        assert len(data) == len(batches)


def testOrderFollowsFromSeedAndEpochAlone(arrays):
    from engine.learning import SubVolumes

    first, second, other = (SubVolumes(*arrays, 2, seed) for seed in (3, 3, 4))
    orders = [readEpoch(first) for _ in range(6)]
    np.random.seed(0)  # noqa: NPY002
    assert [readEpoch(second) for _ in range(6)] == orders
    assert len({str(order) for order in orders}) == 6
    assert [readEpoch(other) for _ in range(6)] != orders
    resumed = SubVolumes(*arrays, 2, 3)
    resumed.epoch = 3
    resumed[3], resumed[0]  # reading changes nothing
    assert readEpoch(resumed) == orders[4]


def testWithoutSeedTheOrderIsThatOfTheFiles(arrays):
    from engine.learning import SubVolumes

    data = SubVolumes(*arrays, 3)
    for _ in range(2):
        assert readEpoch(data) == [[0, 1, 2], [3, 4, 5], [6]]


def testBatchesAreFloat32CopiesWithImageAndMaskTogether(arrays):
    from engine.learning import SubVolumes

    data = SubVolumes(*arrays, 2, 1)
    for index in range(len(data)):
        images, masks = data[index]
        assert type(images) is type(masks) is np.ndarray
        assert images.dtype == masks.dtype == np.float32 and images.shape == masks.shape
        assert images.shape[1:] == (2, 4, 2, 1)
        np.testing.assert_array_equal(masks, images % 2)
        images += 1  # the files stay as they are
    np.testing.assert_array_equal(arrays[0][:, 0, 0, 0, 0], range(COUNT))


def testKerasFitsInTheOrderOfSeedAndEpoch(arrays):
    import keras

    from engine.learning import SubVolumes

    class Recorder(SubVolumes):
        seen = []

        def __getitem__(self, index):
            images, masks = super().__getitem__(index)
            self.seen.append((self.epoch, index, list(images[:, 0, 0, 0, 0])))
            return images, masks

    model = keras.Sequential([keras.Input((2, 4, 2, 1)), keras.layers.Conv3D(1, 1, activation="sigmoid")])
    model.compile(loss="binary_crossentropy")
    training, validation = Recorder(*arrays, 2, 5), SubVolumes(*arrays, 3)
    model.fit(training, validation_data=validation, epochs=3, shuffle=False, verbose=0)
    assert training.epoch == 2
    for epoch in range(3):
        order = np.random.default_rng((5, epoch)).permutation(COUNT)
        read = {index: values for number, index, values in Recorder.seen if number == epoch}
        assert [read[index] for index in range(4)] == [list(order[2 * i : 2 * i + 2]) for i in range(4)]
        indices = [index for number, index, _ in Recorder.seen if number == epoch]
        assert indices == [0, 1, 2, 3]  # nothing is read twice


# -------------------------------------------------------------------------------------------- checkpoints


def smallModel(seed):
    """Network of 1 feature and 2 levels with random weights."""
    plan = describeUNet(1, 2)
    model = buildSpotUNet(1, 2)
    setWeights(model, plan, networks.randomWeights(plan, seed))
    return model


def keptSeed(path):
    """Seed of the weights in a checkpoint."""
    plan = describeUNet(1, 2)
    kernel = readWeights(path, plan)["down1_convolution1"]["kernel"]
    seeds = [
        seed
        for seed in range(10)
        if np.array_equal(networks.randomWeights(plan, seed)["down1_convolution1"]["kernel"], kernel)
    ]
    assert len(seeds) == 1
    return seeds[0]


def trainFor(callback, values):
    """Run the ends of epochs with the metric's values; epoch i has the weights of seed i."""
    for epoch, value in enumerate(values):
        callback.set_model(smallModel(epoch))
        callback.on_epoch_end(epoch, {"metric": value})


@pytest.mark.parametrize(
    ("isBetter", "values", "best"),
    [
        (float.__lt__, [0.5, 0.3, 0.4, 0.3], 1),
        (float.__gt__, [0.5, 0.3, 0.9, 0.9], 2),
        (float.__lt__, [float("nan"), 0.7, float("nan"), float("-inf")], 1),
        (float.__gt__, [np.float32(0.25), 0.5, float("inf")], 1),
    ],
)
def testBestEpochIsKept(tmp_path, isBetter, values, best):
    from engine.learning import BestModel

    callback = BestModel(tmp_path / "best.h5", "metric", isBetter)
    trainFor(callback, values)
    assert (callback.epoch, callback.best) == (best, values[best])
    assert keptSeed(tmp_path / "best.h5") == best
    assert [path.name for path in tmp_path.iterdir()] == ["best.h5"]


def testWithoutAFiniteValueThereIsNoFile(tmp_path):
    from engine.learning import BestModel

    callback = BestModel(tmp_path / "best.h5", "metric", float.__lt__)
    trainFor(callback, [float("nan"), float("inf")])
    assert callback.epoch is None and not any(tmp_path.iterdir())
    with pytest.raises(KeyError):
        callback.on_epoch_end(0, {"another": 1.0})


@pytest.mark.parametrize("error", [RuntimeError("x"), KeyboardInterrupt()])
def testInterruptedSaveKeepsTheLastGoodFile(tmp_path, monkeypatch, error):
    from engine.learning import BestModel

    path = tmp_path / "best.h5"
    callback = BestModel(path, "metric", float.__lt__)
    trainFor(callback, [0.5])
    digest = digestFile(path)

    def save(target, **_):
        target["half"] = np.zeros(3)
        raise error

    monkeypatch.setattr(callback.model, "save", save)
    with pytest.raises(type(error)):
        callback.on_epoch_end(1, {"metric": 0.1})
    assert digestFile(path) == digest
    assert (callback.epoch, callback.best) == (0, 0.5)
    assert [item.name for item in tmp_path.iterdir()] == ["best.h5"]


def testDiskThatFillsUpLateKeepsTheLastGoodFile(tmp_path, monkeypatch):
    from engine.learning import BestModel

    path = tmp_path / "best.h5"
    callback = BestModel(path, "metric", float.__lt__)
    trainFor(callback, [0.5])
    callback.set_model(smallModel(1))

    def refuse(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(PipelineError, match="the disk is full; the previous file, if any, is unchanged"):
        callback.on_epoch_end(1, {"metric": 0.1})
    monkeypatch.undo()
    assert keptSeed(path) == 0 and (callback.epoch, callback.best) == (0, 0.5)
    assert [item.name for item in tmp_path.iterdir()] == ["best.h5"]
    callback.on_epoch_end(2, {"metric": 0.1})  # the next epoch may succeed
    assert keptSeed(path) == 1 and callback.epoch == 2


@pytest.mark.parametrize("room", [100, 4096, 12000, 30000])
def testFullDiskIsAnErrorOfTheUserAndKeepsTheLastGoodFile(tmp_path, room):
    """The operating system itself refuses to let a file grow, as a full disk or a quota does."""
    resource = pytest.importorskip("resource")
    from engine.learning import BestModel

    path = tmp_path / "best.h5"
    callback = BestModel(path, "metric", float.__lt__)
    trainFor(callback, [0.5])
    assert path.stat().st_size > room
    callback.set_model(smallModel(1))
    handler, limits = signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
    try:
        with pytest.raises(PipelineError, match="the disk is full"):
            callback.on_epoch_end(1, {"metric": 0.1})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert keptSeed(path) == 0 and callback.epoch == 0
    assert [item.name for item in tmp_path.iterdir()] == ["best.h5"]


def testSavedModelIsAnOrdinaryFileOfKeras(tmp_path):
    import keras

    from engine.learning import saveModel

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
    assert findContract(weights) == findContract(str(weights)) == contract
    weights.write_bytes(b"other weights")
    assert findContract(weights) is None


@pytest.mark.parametrize(
    ("contract", "isWhole", "line"),
    [
        (None, True, "z-score over the whole volume; no contract beside the model tells how it was trained"),
        (
            {},
            False,
            "z-score over the region of interest; no contract beside the model tells how it was trained",
        ),
        ({"normalization": "volume"}, True, "z-score over the whole volume, as in the training"),
        (
            {"normalization": "volume"},
            False,
            "z-score over the region of interest; the training used another scheme: "
            "each whole volume by itself",
        ),
        (
            {"normalization": "subVolume"},
            True,
            "z-score over the whole volume; the training used another scheme: each sub-volume by itself",
        ),
        (
            {"normalization": "mine"},
            True,
            "z-score over the whole volume; the training used another scheme: mine by itself",
        ),
    ],
)
def testNormalisationIsToldInOneLine(contract, isWhole, line):
    assert describeNormalization(contract, isWhole) == line
