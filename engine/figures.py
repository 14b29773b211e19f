"""Pictures: training curves, and a prediction over the grey values."""

from pathlib import Path

import numpy as np

from engine.files import writeAtomically

COLOURS = ("#0072B2", "#D55E00")  # blue, vermilion: told apart by colour-blind readers too
PLANES = ((0, 1, 2), (0, 2, 1), (1, 2, 0))  # horizontal axis, vertical axis, axis of the slice
LEAST_SHOWN = 0.1  # probability below which the grey values show through
SHOWN_VOXELS = 1500  # along a side of a slice; memory for pictures does not grow with the volume
REFERENCE_COLOUR = "#00E5FF"  # cyan keeps apart from the reds of the probability and from grey


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


class MidSlices:
    """The three orthogonal mid-slices of a volume that comes plane by plane.

    Parameters
    ----------
    shape : tuple of int
        Voxels along (x, y, z).
    """

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self.shape = tuple(shape)
        self.slices: list[np.ndarray | None] = [None, None, None]

    def add(self, z: int, planes: np.ndarray) -> None:
        """Take planes (z, y, x) that begin at plane `z`."""
        x, y, middle = (side // 2 for side in self.shape)
        for axis, part in ((0, planes[:, :, x].T), (1, planes[:, y].T)):
            if self.slices[axis] is None:
                self.slices[axis] = np.zeros((part.shape[0], self.shape[2]), planes.dtype.newbyteorder("="))
            self.slices[axis][:, z : z + len(planes)] = part
        if z <= middle < z + len(planes):
            self.slices[2] = planes[middle - z].T.astype(planes.dtype.newbyteorder("="))

    def slice(self, axis: int) -> np.ndarray:
        """Mid-slice across an axis, (vertical, horizontal); thinned out where no screen could show it."""
        part = self.slices[axis].T
        return part[tuple(slice(None, None, -(-side // SHOWN_VOXELS)) for side in part.shape)]


def drawPrediction(
    image: MidSlices,
    probability: MidSlices,
    reference: MidSlices | None,
    path: str | Path,
    voxelSize: tuple[tuple[float, ...], tuple[str, ...]] | None = None,
) -> None:
    """Draw three orthogonal mid-slices, grey values above, the probability over them below, as PNG.

    Parameters
    ----------
    image, probability : MidSlices
        Grey values, and probability in 0..1.
    reference : MidSlices or None
        Of bool, outlined where given.
    path : path
        The picture.
    voxelSize : tuple, optional
        Voxel sides and units, for aspect and axes; without it, or with a side of 0 or less: voxels.
    """
    plt = _loadPyplot()
    isKnown = voxelSize is not None and min(voxelSize[0]) > 0
    sides, units = voxelSize if isKnown else ((1.0, 1.0, 1.0), ("voxel",) * 3)
    lengths = [count * side for count, side in zip(image.shape, sides, strict=True)]
    widths = [max(lengths[across], max(lengths) / 8) for across, _, _ in PLANES]
    height = 20 * max(lengths[up] for _, up, _ in PLANES) / sum(widths) + 1.5
    figure, axes = plt.subplots(
        2, 3, figsize=(13, min(max(height, 5), 16)), width_ratios=widths, layout="constrained"
    )
    shown = np.concatenate([image.slice(axis).ravel() for axis in range(3)])
    shades = dict(zip(("vmin", "vmax"), np.percentile(shown, (0.5, 99.5)), strict=True))
    for (upper, lower), (across, up, normal) in zip(axes.T, PLANES, strict=True):
        middle = image.shape[normal] // 2
        grey, share = (array.slice(normal) for array in (image, probability))  # (up, across)
        place = {"origin": "lower", "extent": (0, lengths[across], 0, lengths[up])}
        for axis in (upper, lower):
            axis.imshow(grey, cmap="gray", interpolation="nearest", **shades, **place)
            axis.set(xlabel=f"{'xyz'[across]} ({units[across]})", ylabel=f"{'xyz'[up]} ({units[up]})")
            axis.set_aspect("equal" if 1 / 8 < lengths[up] / lengths[across] < 8 else "auto")
        overlay = np.ma.masked_less(share, LEAST_SHOWN)
        drawn = lower.imshow(
            overlay, "autumn_r", vmin=0, vmax=1, alpha=0.65, interpolation="nearest", **place
        )
        if reference is not None:
            outline = reference.slice(normal)
            if min(outline.shape) > 1 and outline.any() and not outline.all():
                extent = place["extent"]
                lower.contour(outline, [0.5], colors=REFERENCE_COLOUR, linewidths=1.1, extent=extent)
        upper.set_title(f"{'xyz'[normal]} slice {middle}: grey values")
        lower.set_title("probability" + (", reference outlined" if reference is not None else ""))
    figure.colorbar(drawn, ax=axes, label="Probability of precipitate or pore", shrink=0.6, aspect=40)
    _save(figure, path)


def _loadPyplot():
    """Import matplotlib for files, not for a screen."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def _save(figure, path: str | Path) -> None:
    """Write a figure as PNG, atomically."""
    with writeAtomically(path) as temporary:
        figure.savefig(temporary, dpi=110)
    _loadPyplot().close(figure)
