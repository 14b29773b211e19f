"""Slices of volumes, and the colours and figures of what is drawn of them."""

import numpy as np
from PIL import Image

from engine.results.looks import MidSlices


def countColour(path, isColour) -> int:
    """Pixels of a picture for which isColour(red, green, blue) holds."""
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
    return int(np.count_nonzero(isColour(*np.moveaxis(pixels, -1, 0))))


def isCyan(red, green, blue):
    return (red < 90) & (green > 180) & (blue > 200)


def isRed(red, green, blue):
    return (red > 150) & (green < 90) & (blue < 90)


def slicesOf(volume, count=3):
    """Mid-slices of a volume (x, y, z) that comes `count` planes at a time."""
    slices = MidSlices(volume.shape)
    for z in range(0, volume.shape[2], count):
        slices.add(z, volume[:, :, z : z + count].T)
    return slices


def keepFigures(monkeypatch, module):
    """Keep the figures that a module saves; a generator for a fixture, which closes them."""
    import matplotlib.pyplot as plt

    kept = []

    def save(figure, path):
        figure.savefig(path)
        kept.append(figure)

    monkeypatch.setattr(module, "saveFigure", save)
    yield kept
    plt.close("all")
