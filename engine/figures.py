"""Pictures: training curves, and a prediction over the grey values."""

from pathlib import Path

import numpy as np

from engine.files import writeAtomically

COLOURS = ("#0072B2", "#D55E00")  # blue, vermilion: told apart by colour-blind readers too
REFERENCE_COLOUR = "#56B4E9"


def drawTrainingCurves(history: dict[str, list[float]], path: str | Path) -> None:
    """Draw loss and accuracy of training and validation over the epochs as PNG.

    Parameters
    ----------
    history : dict
        Values of every epoch: loss, val_loss, binary_accuracy, val_binary_accuracy.
    path : path
        The picture.
    """
    plt = _loadPyplot()
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    epochs = np.arange(1, len(history["loss"]) + 1)
    titles = (("loss", "Loss (binary cross-entropy)"), ("binary_accuracy", "Accuracy at threshold 0.5"))
    for axis, (name, title) in zip(axes, titles, strict=True):
        for prefix, label, colour in zip(("", "val_"), ("training", "validation"), COLOURS, strict=True):
            axis.plot(
                epochs,
                history[prefix + name],
                color=colour,
                label=label,
                marker="." if len(epochs) < 30 else "",
            )
        axis.set(xlabel="Epoch", title=title, xlim=(min(0.5, epochs[0]), epochs[-1] + 0.5))
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
        axis.legend()
    if min(history["loss"] + history["val_loss"]) > 0:
        axes[0].set_yscale("log")
    _save(figure, path)


def drawPrediction(
    image: np.ndarray,
    probability: np.ndarray,
    reference: np.ndarray | None,
    path: str | Path,
    voxelSize: tuple[tuple[float, ...], tuple[str, ...]] | None = None,
) -> None:
    """Draw three orthogonal mid-slices, grey values above, the probability over them below, as PNG.

    Parameters
    ----------
    image, probability : array
        (x, y, z) grey values and probability in 0..1.
    reference : array or None
        (x, y, z) bool, outlined where given.
    path : path
        The picture.
    voxelSize : tuple, optional
        Voxel sides and their units, for the aspect and the axes; default: voxels.
    """
    plt = _loadPyplot()
    sides, units = voxelSize or ((1.0, 1.0, 1.0), ("voxel",) * 3)
    planes = ((0, 1, 2), (0, 2, 1), (1, 2, 0))  # horizontal axis, vertical axis, axis of the slice
    figure, axes = plt.subplots(2, 3, figsize=(13, 8.6), layout="constrained")
    low, high = np.percentile(_thinOut(image), (0.5, 99.5))
    for column, (across, up, normal) in enumerate(planes):
        middle = image.shape[normal] // 2
        extent = (0, image.shape[across] * sides[across], 0, image.shape[up] * sides[up])
        cut = [np.take(array, middle, normal).T for array in (image, probability)]
        for row in range(2):
            axis = axes[row, column]
            axis.imshow(cut[0], cmap="gray", vmin=low, vmax=high, origin="lower", extent=extent)
            axis.set_xlabel(f"{'xyz'[across]} ({units[across]})")
            axis.set_ylabel(f"{'xyz'[up]} ({units[up]})")
        axes[0, column].set_title(f"grey values, {'xyz'[normal]} slice {middle}")
        overlay = np.ma.masked_less(cut[1], 0.05)
        drawn = axes[1, column].imshow(
            overlay,
            cmap="autumn_r",
            vmin=0,
            vmax=1,
            alpha=0.75,
            origin="lower",
            extent=extent,
            interpolation="nearest",
        )
        if reference is not None:
            outline = np.take(reference, middle, normal).T
            if outline.any() and not outline.all() and min(outline.shape) > 1:
                axes[1, column].contour(
                    outline, [0.5], colors=REFERENCE_COLOUR, linewidths=0.9, extent=extent
                )
        axes[1, column].set_title(
            "probability" + (", reference outlined in blue" if reference is not None else "")
        )
    figure.colorbar(drawn, ax=axes[1, :], label="Probability of precipitate or pore", shrink=0.85)
    _save(figure, path)


def _loadPyplot():
    """Import matplotlib for files, not for a screen."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def _thinOut(image: np.ndarray) -> np.ndarray:
    """Take at most about a million voxels: enough for percentiles."""
    step = max(1, round((image.size / 1e6) ** (1 / 3)))
    return image[::step, ::step, ::step]


def _save(figure, path: str | Path) -> None:
    """Write a figure as PNG, atomically."""
    with writeAtomically(path) as temporary:
        figure.savefig(temporary, dpi=110)
    _loadPyplot().close(figure)
