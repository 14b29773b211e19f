"""Batches by their numbers, and what Keras reads of them."""

import numpy as np
import pytest
from pretences import pretendBackend

from engine.base.errors import PipelineError
from engine.preparation.samples import Samples

COUNT = 7


@pytest.fixture
def samples(tmp_path):
    """Seven sub-volumes; sample i holds the grey value i, masks are positive where it is odd."""
    grey = np.arange(COUNT, dtype=np.float32)[:, None, None, None, None]
    images = np.broadcast_to(grey, (COUNT, 2, 4, 2, 1))
    np.save(tmp_path / "images.npy", images)
    np.save(tmp_path / "masks.npy", images % 2 == 1)
    return Samples(tmp_path / "images.npy", tmp_path / "masks.npy")


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


def testAnotherBackEndTakesBatchesAsTheyAre(monkeypatch):
    from engine.learning.batches import asDataset

    pretendBackend(monkeypatch, "jax", [])
    batches = object()
    assert asDataset(batches) is batches
