"""Voxels of a mask that count nowhere: which values mean that, and where they are."""

import numpy as np

from engine.base.errors import PipelineError
from engine.masks.targets import Labels, describeLabels, parseLabels, selectPositive

NONE = "none"  # in place of values: every voxel counts


def selectIgnored(mask: np.ndarray, ignored: Labels) -> np.ndarray:
    """Select the voxels that count nowhere: bool of the mask's shape."""
    return selectPositive(mask, ignored)


def parseIgnored(ignoreLabel: Labels | int) -> Labels:
    """Read the values of a mask that count nowhere, as `parseLabels` does; () where there are none."""
    if ignoreLabel == () or str(ignoreLabel).strip() in ("", NONE):
        return ()
    try:
        return parseLabels(ignoreLabel)
    except PipelineError as error:
        raise PipelineError(str(error).replace("positiveLabel", "ignoreLabel")) from error


def refuseBoth(ignored: Labels, positive: Labels) -> None:
    """Raise PipelineError where a number is listed as positive and as ignored; in ranges, it is ignored."""
    if isinstance(ignored, str) or isinstance(positive, str):
        return
    if both := sorted(set(ignored) & set(positive)):
        rule = f"{describeLabels(both)} is in ignoreLabel and in positiveLabel"
        remedy = f"a voxel counts as positive or not at all; --ignoreLabel {NONE} ignores nothing"
        raise PipelineError(rule, remedy=remedy)


def chooseIgnored(ignoreLabel: Labels | int, known: Labels | int | None, positive: Labels) -> Labels:
    """Choose which values of a reference count nowhere.

    Parameters
    ----------
    ignoreLabel : str
        Values as the user gives them; empty: as in the training.
    known : str, int or None
        Those of the training, as far as they are known.
    positive : sequence of int or str
        The positive labels.

    Raises
    ------
    PipelineError
        They cannot be read, or one of them is positive too.
    """
    ignored = parseIgnored(ignoreLabel if str(ignoreLabel).strip() else known or "")
    refuseBoth(ignored, positive)
    return ignored
