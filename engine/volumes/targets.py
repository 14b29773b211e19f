"""What is looked for: which labels of a manual mask mean it, how it is called and shown."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from engine.base.errors import PipelineError


class Target(NamedTuple):
    """One class of voxels; whatever comes behind the network is done for each of them."""

    name: str
    labels: tuple[int, ...]  # in the manual mask
    colour: tuple[float, float, float]  # red, green, blue in 0..1

    @property
    def cssColour(self) -> str:
        """The colour as a web page writes it."""
        return "#" + "".join(f"{round(255 * value):02x}" for value in self.colour)


PUBLISHED = Target("precipitates and pores", (0,), (0.90, 0.33, 0.05))


def chooseTargets(positiveLabel: str | Sequence[int], known: str | Sequence[int] | None) -> list[Target]:
    """Choose what is looked for.

    Parameters
    ----------
    positiveLabel : str
        Labels as the user gives them; empty: as in the training.
    known : sequence of int or None
        Labels of the training, as far as they are known.
    """
    labels = parseLabels(positiveLabel or known or PUBLISHED.labels)
    return [PUBLISHED._replace(labels=tuple(labels))]


def selectPositive(mask: np.ndarray, positiveLabel: Sequence[int] = (0,)) -> np.ndarray:
    """Select the voxels that a mask labels as precipitate or pore; bool of the mask's shape."""
    positive = mask == positiveLabel[0]
    for label in positiveLabel[1:]:
        positive |= mask == label
    return positive


def parseLabels(labels: str | Sequence[int]) -> list[int]:
    """Read one label or several: "0", "1,2" or a list of numbers; PipelineError for anything else."""
    try:
        return [int(label) for label in (str(labels).split(",") if np.isscalar(labels) else labels)]
    except ValueError:
        rule = "positiveLabel must be whole numbers separated by commas"
        raise PipelineError(rule, received=repr(labels)) from None
