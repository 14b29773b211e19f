"""The files that a training writes, and which epoch each model is of."""

from pathlib import Path
from typing import NamedTuple

from engine.learning.progress import Checkpoint


class Outputs(NamedTuple):
    """The files that are named on the command line; the others follow from them."""

    weightFile: Path
    weightFileTrain: Path
    weightFileDice: Path
    modelFile: Path
    metricsFile: Path

    @property
    def models(self) -> tuple[Path, ...]:
        """Every model: the three best ones and the last one."""
        return self[:4]

    @property
    def checkpoints(self) -> tuple[Checkpoint, ...]:
        """The best models."""
        return (
            Checkpoint(self.weightFile, "val_loss", False),
            Checkpoint(self.weightFileTrain, "val_binary_accuracy", True),
            Checkpoint(self.weightFileDice, "val_dice", True),
        )

    @property
    def contract(self) -> Path:
        """What a prediction has to know of the models."""
        return self.modelFile.with_suffix(".json")

    @property
    def curves(self) -> Path:
        """Picture of loss and scores over the epochs."""
        return self.modelFile.parent / "trainingCurves.png"

    @property
    def example(self) -> Path:
        """Picture of the worst and the best validation sample."""
        return self.modelFile.parent / "validationExample.png"
