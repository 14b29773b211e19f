"""Pictures: training curves, and a prediction over the grey values."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from engine.base.drawing import LEAST_SHOWN, REFERENCE_COLOUR, leaveOutFailures, makeFigure, saveFigure
from engine.results.looks import MidSlices, thinning
from engine.volumes.frame import METRES

PLANES = ((0, 1, 2), (0, 2, 1), (1, 2, 0))  # axis to the right, axis downwards, axis of the slice
SHORTEST_DRAWN = 1 / 6  # of the longest axis: a shorter one is stretched, a thin volume would be a line


@leaveOutFailures
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
    sides = _describeSides(image.shape, voxelSize)
    widths, height = _chooseSize(sides)
    figure = makeFigure(figsize=(sum(widths) + 3, height), layout="constrained")
    grid = figure.subplot_mosaic([[*"abcx"], [*"defx"]], width_ratios=[*widths, 0.15])
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
    saveFigure(figure, path)


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
        sides.append(_Side(title, step * thinning(count), step * count, drawn, drawn / share))
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
