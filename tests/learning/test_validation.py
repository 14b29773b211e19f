"""Thresholds and examples of a trained network, with a network that is no network."""

import types

import numpy as np
import pytest
from drawings import countColour, keepFigures
from PIL import Image

import engine.learning.validation
from engine.learning.validation import drawExtremes, drawValidationExample, scoreSamples
from engine.preparation.samples import Samples
from functions import scoreVoxels


@pytest.mark.parametrize("count", [1, 3])
def testExamplesAreTheWorstAndTheBestSample(tmp_path, count, monkeypatch):
    generator = np.random.default_rng(3)
    masks = generator.random((count, 8, 8, 8, 1)) < 0.3
    contrasts = np.linspace(0.1, 0.6, count)[:, None, None, None, None]  # the later, the clearer
    images = np.clip(0.3 + contrasts * masks + generator.normal(0, 0.1, masks.shape), 0, 1)
    np.save(tmp_path / "images.npy", images.astype(np.float32))
    np.save(tmp_path / "masks.npy", masks)
    samples = Samples(tmp_path / "images.npy", tmp_path / "masks.npy")
    model = types.SimpleNamespace(predict_on_batch=lambda batch: batch)  # the grey value as probability
    scores = scoreSamples(model, samples)
    threshold, _ = scores.choose()
    expected = [scoreVoxels(*pair, threshold)["dice"] for pair in zip(images, masks, strict=True)]
    np.testing.assert_allclose(scores.dices, expected, atol=0.03)
    assert scores.extremes() == (0, count - 1)
    drawExtremes(model, samples, scores, tmp_path / "example.png")
    width, height = Image.open(tmp_path / "example.png").size
    assert width > 1000 and (height > 800) is (count > 1)


def testValidationExamplesShowLabelAndPredictionWhereTheyAre(tmp_path):
    image, mask = np.zeros((24, 16, 8), np.float32), np.zeros((24, 16, 8), bool)
    image[::2] = 1
    mask[4:9, 3:12, 5] = True
    empty = np.zeros_like(image)

    def countRed(probability):
        examples = [("worst: sub-volume 0", image, mask, probability), ("best", image, mask, probability)]
        drawValidationExample(examples, 0.5, tmp_path / "example.png")
        return countColour(tmp_path / "example.png", lambda r, g, b: (r > 180) & (g < 120) & (b < 110))

    assert countRed(np.where(mask, 1, empty)) > 1.5 * countRed(empty) > 500


@pytest.fixture
def figures(monkeypatch):
    """Keep the figures that are drawn."""
    yield from keepFigures(monkeypatch, engine.learning.validation)


def testValidationExamplesHaveTheirFirstRowOnTop(tmp_path, figures):
    image = np.random.default_rng(0).random((12, 10, 8))
    drawValidationExample([("best", image, image > 0.5, image)], 0.5, tmp_path / "example.png")
    assert [axes.yaxis_inverted() for axes in figures[0].axes[:3]] == [True] * 3
