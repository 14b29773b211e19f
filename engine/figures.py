"""Pictures: training curves, and a prediction over the grey values."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from engine.files import writeAtomically
from engine.geometry import METRES

COLOURS = ("#0072B2", "#D55E00")  # blue, vermilion: told apart by colour-blind readers too
PLANES = ((0, 1, 2), (0, 2, 1), (1, 2, 0))  # axis to the right, axis downwards, axis of the slice
SHORTEST_DRAWN = 1 / 6  # of the longest axis: a shorter one is stretched, a thin volume would be a line
LEAST_SHOWN = 0.1  # probability below which the grey values show through
SHOWN_VOXELS = 750  # along a side of a slice, more than it has pixels; memory does not grow with the volume
REFERENCE_COLOUR = "#00E5FF"  # cyan keeps apart from the reds of the probability and from grey


def drawTrainingCurves(history: list[dict[str, float]], best: dict[str, int], path: str | Path) -> None:
    """Draw loss, Dice, precision, recall and learning rate over the epochs as PNG.

    Parameters
    ----------
    history : list of dict
        A row an epoch: loss, dice, precision, recall, the same with val_ in front, learning_rate.
    best : dict
        {metric: epoch, from 0}; marked.
    path : path
        The picture.
    """
    plt = _loadPyplot()
    figure, axes = plt.subplots(2, 2, figsize=(11, 7.5), layout="constrained", sharex=True)
    epochs = np.arange(1, len(history) + 1)
    style = {"marker": "." if len(epochs) < 30 else ""}

    def plot(axis, name: str, label: str, colour: str, line: str = "-") -> None:
        axis.plot(epochs, [row[name] for row in history], line, color=colour, label=label, **style)

    for axis, name, title in ((axes[0, 0], "loss", "Loss"), (axes[0, 1], "dice", "Dice at threshold 0.5")):
        plot(axis, name, "training", COLOURS[0])
        plot(axis, f"val_{name}", "validation", COLOURS[1])
        axis.set_title(title)
        if f"val_{name}" in best:
            epoch = best[f"val_{name}"]
            value = history[epoch][f"val_{name}"]
            axis.plot(epoch + 1, value, "*", color="black", markersize=11, label=f"best: epoch {epoch + 1}")
    for name, line in (("precision", "-"), ("recall", "--")):
        plot(axes[1, 0], name, f"{name}, training", COLOURS[0], line)
        plot(axes[1, 0], f"val_{name}", f"{name}, validation", COLOURS[1], line)
    axes[1, 0].set_title("Precision and recall at threshold 0.5")
    plot(axes[1, 1], "learning_rate", "learning rate", "black")
    axes[1, 1].set_title("Learning rate")
    losses = [row[name] for row in history for name in ("loss", "val_loss")]
    if np.isfinite(losses).all() and min(losses) > 0:
        axes[0, 0].set_yscale("log")
    for axis in axes.flat:
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.set_xlim(min(0.5, epochs[0]), epochs[-1] + 0.5)
        axis.grid(alpha=0.3)
    for axis in axes.flat[:3]:
        axis.legend()
    for axis in (axes[0, 1], axes[1, 0]):
        axis.set_ylim(-0.02, 1.02)
    for axis in axes[1]:
        axis.set_xlabel("Epoch")
    _save(figure, path)


def drawValidationExample(
    examples: list[tuple[str, np.ndarray, np.ndarray, np.ndarray]], threshold: float, path: str | Path
) -> None:
    """Draw sub-volumes, one a row: grey values, label and prediction in the slice with most positive voxels.

    Parameters
    ----------
    examples : list
        (title, grey values, mask, probability), arrays (x, y, z).
    threshold : float
        Probability from which on a voxel counts as positive.
    path : path
        The picture.
    """
    plt = _loadPyplot()
    figure, grid = plt.subplots(
        len(examples), 3, figsize=(12, 4.2 * len(examples)), layout="constrained", squeeze=False
    )
    for axes, (title, image, mask, probability) in zip(grid, examples, strict=True):
        z = int(np.argmax(np.count_nonzero(mask, axis=(0, 1))))
        grey, label, share = (array[:, :, z].T for array in (image, mask, probability))
        shades = dict(zip(("vmin", "vmax"), np.percentile(grey, (0.5, 99.5)), strict=True))
        for axis, words in zip(axes, (f"{title}, slice z = {z}", "label", "prediction"), strict=True):
            axis.imshow(grey, cmap="gray", origin="upper", interpolation="nearest", **shades)
            axis.set(title=words, xlabel="x (voxel)", ylabel="y (voxel)")
        style = {"origin": "upper", "interpolation": "nearest", "vmin": 0, "vmax": 1, "alpha": 0.65}
        axes[1].imshow(np.ma.masked_equal(label, 0), cmap="autumn_r", **style)
        drawn = axes[2].imshow(np.ma.masked_less(share, LEAST_SHOWN), cmap="autumn_r", **style)
        if share.min() < threshold <= share.max():
            axes[2].contour(share, [threshold], colors=REFERENCE_COLOUR, linewidths=0.9)
        figure.colorbar(drawn, ax=axes[2], label=f"probability, {threshold:g} outlined", shrink=0.8)
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
        return part[tuple(slice(None, None, _thinning(side)) for side in part.shape)]


def drawPrediction(
    image: MidSlices,
    probability: MidSlices,
    reference: MidSlices | None,
    path: str | Path,
    voxelSize: tuple[tuple[float, ...], tuple[str, ...]] | None = None,
) -> None:
    """Draw three orthogonal mid-slices, grey values above, the probability over them below, as PNG.

    The first row of a slice is on top, as in the report, ImageJ and napari.

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
    sides = _describeSides(image.shape, voxelSize)
    widths, height = _chooseSize(sides)
    figure, grid = plt.subplot_mosaic(
        [[*"abcx"], [*"defx"]],
        figsize=(sum(widths) + 3, height),
        width_ratios=[*widths, 0.15],
        layout="constrained",
    )
    panels = [[grid[upper], grid[lower]] for upper, lower in ("ad", "be", "cf")]
    shown = np.concatenate([image.slice(axis).ravel() for axis in range(3)])
    shades = dict(zip(("vmin", "vmax"), np.percentile(shown, (0.5, 99.5)), strict=True))
    for (upper, lower), (across, down, normal) in zip(panels, PLANES, strict=True):
        frame = sides[across], sides[down]
        for axes in (upper, lower):
            _drawSlice(axes, image.slice(normal), *frame, cmap="gray", **shades)
        overlay = np.ma.masked_less(probability.slice(normal), LEAST_SHOWN)
        drawn = _drawSlice(lower, overlay, *frame, cmap="autumn_r", vmin=0, vmax=1, alpha=0.65)
        if reference is not None:
            _outline(lower, reference.slice(normal), (frame[0].pixel, frame[1].pixel))
        upper.set_title(f"{'xyz'[normal]} slice {image.shape[normal] // 2}: grey values")
        lower.set_title("probability" + (", reference outlined" if reference is not None else ""))
    figure.colorbar(drawn, grid["x"], label="Probability of precipitate or pore")
    grid["x"].set_box_aspect(30)
    _save(figure, path)


class _Side(NamedTuple):
    """A side of a volume as it is drawn."""

    name: str  # with its unit
    pixel: float  # length of a pixel of a slice: of a voxel, or of those that are thinned out to one
    length: float
    drawn: float  # on the paper, 1 = the longest side
    stretch: float  # by how much more than the longest side

    def title(self, other: "_Side") -> str:
        """Label the axis; says where it is stretched beside the other one of its picture."""
        ratio = self.stretch / other.stretch
        return self.name + (f"\nstretched {ratio:.3g} times" if ratio > 1.005 else "")


def _describeSides(
    shape: tuple[int, int, int], voxelSize: tuple[tuple[float, ...], tuple[str, ...]] | None
) -> list[_Side]:
    """Choose units and proportions of the sides along x, y, z; a very short one is stretched, and says so."""
    isKnown = voxelSize is not None and min(voxelSize[0]) > 0
    steps, units = voxelSize if isKnown else ((1.0, 1.0, 1.0), ("voxel",) * 3)
    lengths, metres = np.multiply(shape, steps), [METRES.get(unit) for unit in units]
    if len(set(units)) == 1:
        real = lengths
    else:
        real = np.array(shape, float) if None in metres else lengths * metres  # cubes, if none can tell
    real = real / real.max()
    sides = []
    for name, count, step, unit, share in zip("xyz", shape, steps, units, real, strict=True):
        drawn, title = max(share, SHORTEST_DRAWN), f"{name} ({unit or 'unit not given'})"
        sides.append(_Side(title, step * _thinning(count), step * count, drawn, drawn / share))
    return sides


def _chooseSize(sides: list[_Side]) -> tuple[list[float], float]:
    """Choose the widths of the three columns, wide enough for their titles, and the height of the figure."""
    widths, heights = ([sides[plane[part]].drawn for plane in PLANES] for part in (0, 1))
    scale = min(10 / sum(widths), 6 / max(heights))  # inches
    return [max(scale * width, 2.8) for width in widths], max(2 * scale * max(heights) + 2.4, 4.5)


def _drawSlice(axes, part: np.ndarray, across: _Side, down: _Side, **style):
    """Draw a slice (down, across), its first row on top, in units and proportions of its sides."""
    extent = (0, part.shape[1] * across.pixel, part.shape[0] * down.pixel, 0)
    drawn = axes.imshow(part, origin="upper", extent=extent, aspect="auto", interpolation="nearest", **style)
    axes.set(xlabel=across.title(down), ylabel=down.title(across))
    axes.set(xlim=(0, across.length), ylim=(down.length, 0))
    axes.set_box_aspect(down.drawn / across.drawn)
    return drawn


def _outline(axes, mask: np.ndarray, pixel: tuple[float, float]) -> None:
    """Draw the edges between the pixels (down, across) of a mask and the others, those of the picture too."""
    from matplotlib.collections import LineCollection

    padded = np.pad(mask, 1)
    upright = np.argwhere(padded[1:-1, 1:] != padded[1:-1, :-1])[:, ::-1]  # its first end (across, down)
    level = np.argwhere(padded[1:, 1:-1] != padded[:-1, 1:-1])[:, ::-1]
    lines = [np.stack([upright, upright + (0, 1)], axis=1), np.stack([level, level + (1, 0)], axis=1)]
    style = {"colors": REFERENCE_COLOUR, "linewidths": 1.1, "capstyle": "projecting"}
    style |= {"zorder": 3, "clip_on": False}  # over the frame of the picture
    axes.add_collection(LineCollection(np.concatenate(lines) * pixel, **style), autolim=False)


def _thinning(count: int) -> int:
    """Choose which voxels of a side are drawn: every n-th."""
    return -(-count // SHOWN_VOXELS)


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
