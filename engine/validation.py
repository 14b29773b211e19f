"""How good a trained network is: thresholds, and the samples where it is worst and best."""

from pathlib import Path

import numpy as np

from engine.figures import drawValidationExample
from engine.samples import Samples
from engine.thresholds import ThresholdScores


def scoreSamples(model, samples: Samples) -> ThresholdScores:
    """Predict every sample with a Keras model and count at every threshold."""
    scores = ThresholdScores()
    for index in range(samples.count):
        image, mask = samples.read(index)
        scores.add(_predict(model, image), mask)
    return scores


def drawExtremes(model, samples: Samples, scores: ThresholdScores, path: Path) -> None:
    """Draw the samples with the lowest and the highest Dice as PNG; a single one once."""
    worst, best = scores.extremes()
    examples, chosen = [], {"worst": worst, "best": best} if worst != best else {"the only one": worst}
    for words, index in chosen.items():
        image, mask = samples.read(index)
        title = f"{words}: sub-volume {index}, Dice {scores.dices[index]:.3f}"
        examples.append((title, image, mask, _predict(model, image)))
    drawValidationExample(examples, scores.best()[0], path)


def _predict(model, image: np.ndarray) -> np.ndarray:
    """Probability of every voxel of a sample (x, y, z)."""
    return np.asarray(model.predict_on_batch(image[np.newaxis, ..., np.newaxis]))[0, ..., 0]
