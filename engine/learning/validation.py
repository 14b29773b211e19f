"""How good a trained network is: thresholds, and the samples where it is worst and best."""

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from engine.base.drawing import LEAST_SHOWN, REFERENCE_COLOUR, leaveOutFailures, makeFigure, saveFigure
from engine.base.records import digestFile
from engine.measures.thresholds import ThresholdScores
from engine.preparation.samples import UNLABELLED, Samples


def scoreFiles(
    model, samples: Samples, files: Iterable[Path], load: Callable[[Path], None]
) -> dict[str, ThresholdScores]:
    """Score the network with the weights of every file.

    Parameters
    ----------
    model : keras.Model
        The network.
    samples : Samples
        What is predicted.
    files : iterable of Path
        Their weights; equal files are scored once.
    load : callable
        Reads a file into the network.

    Returns
    -------
    dict
        {name of the file: scores}
    """
    known, scores = {}, {}
    for file in files:
        digest = digestFile(file)
        if digest not in known:
            load(file)
            known[digest] = scoreSamples(model, samples)
        scores[file.name] = known[digest]
    return scores


def scoreSamples(model, samples: Samples) -> ThresholdScores:
    """Predict every sample with a Keras model and count the labelled voxels at every threshold."""
    scores = ThresholdScores()
    for index in range(samples.count):
        image, mask = samples.read(index)
        scores.add(*keepLabelled(_predict(model, image), mask))
    return scores


def keepLabelled(probability: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Give probability and mask of the labelled voxels, as lists where not all are; bool mask."""
    if mask.dtype == bool:
        return probability, mask
    isLabelled = mask != UNLABELLED
    return probability[isLabelled], mask[isLabelled] > 0


def drawExtremes(model, samples: Samples, scores: ThresholdScores, path: Path) -> None:
    """Draw the samples with the lowest and the highest Dice as PNG; a single one once."""
    worst, best = scores.extremes()
    examples, chosen = [], {"worst": worst, "best": best} if worst != best else {"the only one": worst}
    for words, index in chosen.items():
        image, mask = samples.read(index)
        title = f"{words}: sub-volume {index}, Dice {scores.dices[index]:.3f}"
        examples.append((title, image, mask, _predict(model, image)))
    drawValidationExample(examples, scores.choose()[0], path)


def _predict(model, image: np.ndarray) -> np.ndarray:
    """Probability of every voxel of a sample (x, y, z)."""
    return np.asarray(model.predict_on_batch(image[np.newaxis, ..., np.newaxis]))[0, ..., 0]


@leaveOutFailures
def drawValidationExample(
    examples: list[tuple[str, np.ndarray, np.ndarray, np.ndarray]], threshold: float, path: str | Path
) -> None:
    """Draw sub-volumes, one a row: grey values, label and prediction in the slice with most positive voxels.

    Parameters
    ----------
    examples : list
        (title, grey values, mask, probability), arrays (x, y, z). The mask as `Samples.read` gives it: what
        is not labelled is grey.
    threshold : float
        Probability from which on a voxel counts as positive.
    path : path
        The picture.
    """
    figure = makeFigure(figsize=(12, 4.2 * len(examples)), layout="constrained")
    grid = figure.subplots(len(examples), 3, squeeze=False)
    for axes, (title, image, mask, probability) in zip(grid, examples, strict=True):
        counts = [(np.count_nonzero(plane > 0), np.count_nonzero(plane >= 0)) for plane in mask.T]
        z = max(range(len(counts)), key=counts.__getitem__)
        grey, label, share = (array[:, :, z].T for array in (image, mask, probability))
        shades = dict(zip(("vmin", "vmax"), np.percentile(grey, (0.5, 99.5)), strict=True))
        for axis, words in zip(axes, (f"{title}, slice z = {z}", "label", "prediction"), strict=True):
            axis.imshow(grey, cmap="gray", origin="upper", interpolation="nearest", **shades)
            axis.set(title=words, xlabel="x (voxel)", ylabel="y (voxel)")
        style = {"origin": "upper", "interpolation": "nearest", "vmin": 0, "vmax": 1, "alpha": 0.65}
        axes[1].imshow(np.ma.masked_less_equal(label, 0), cmap="autumn_r", **style)
        if label.dtype != bool:
            axes[1].imshow(np.ma.masked_not_equal(label, UNLABELLED), cmap="gray", **style | {"vmin": -2})
        drawn = axes[2].imshow(np.ma.masked_less(share, LEAST_SHOWN), cmap="autumn_r", **style)
        if share.min() < threshold <= share.max():
            axes[2].contour(share, [threshold], colors=REFERENCE_COLOUR, linewidths=0.9)
        figure.colorbar(drawn, ax=axes[2], label=f"probability, {threshold:g} outlined", shrink=0.8)
    saveFigure(figure, path)
