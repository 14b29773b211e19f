"""What every picture of matplotlib needs."""

from pathlib import Path

from engine.base.files import writeAtomically

COLOURS = ("#0072B2", "#D55E00")  # blue, vermilion: told apart by colour-blind readers too
LEAST_SHOWN = 0.1  # probability below which the grey values show through
REFERENCE_COLOUR = "#00E5FF"  # cyan keeps apart from the reds of the probability and from grey


def loadPyplot():
    """Import matplotlib for files, not for a screen."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def saveFigure(figure, path: str | Path) -> None:
    """Write a figure as PNG, atomically."""
    with writeAtomically(path) as temporary:
        figure.savefig(temporary, dpi=110)
    loadPyplot().close(figure)
