"""Where a device has too little memory for a training: what to try."""

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from engine.base.console import describeShape
from engine.base.errors import PipelineError

if TYPE_CHECKING:  # it loads Keras
    from engine.learning.training import Training


@contextlib.contextmanager
def explainMemoryErrors(training: "Training", sideMultiple: int) -> Iterator[None]:
    """Say what to try where a device runs out of memory in this block.

    Parameters
    ----------
    training : Training
        Tells what was computed.
    sideMultiple : int
        Voxels that every side must be a multiple of.

    Raises
    ------
    PipelineError
        Instead of the error of a back end.
    """
    try:
        yield
    except Exception as error:
        if not isOutOfMemory(error):
            raise
        setup, steps, shares = training.setup, training.setup.steps, training.setup.sharing.count
        what, remedy = (
            f"{steps.batchSize} x {describeShape(steps.sides)} voxels a step",
            "smaller sub-volumes",
        )
        if training.isValidating:
            what = f"a validation sub-volume of {describeShape(setup.validation.sides)} voxels"
        elif steps.batchSize >= 2 * shares:
            remedy = f"--batchSize {steps.batchSize // 2 // shares * shares}, or {remedy}"
        elif max(steps.sides) >= 2 * sideMultiple:
            remedy = f"--patchSide {max(steps.sides) // 2 // sideMultiple * sideMultiple}, or {remedy}"
        raise PipelineError(
            f"the device has too little memory for {what}", remedy=f"try {remedy} by prepareData.py"
        ) from error


def isOutOfMemory(error: Exception) -> bool:
    """Whether a back end ran out of memory."""
    return type(error).__name__ == "ResourceExhaustedError" or "RESOURCE_EXHAUSTED" in str(error)
