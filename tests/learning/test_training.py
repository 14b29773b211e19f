"""What a training keeps of its epochs."""

from pathlib import Path


def testTheLossDecidesBetweenEpochsThatFindNothing():
    from engine.learning.progress import Checkpoint

    checkpoint = Checkpoint(Path("dice.h5"), "val_dice", True)
    first, second, third = ({"val_dice": d, "val_loss": v} for d, v in ((0, 2.0), (0, 1.0), (0.1, 3.0)))
    assert checkpoint.isBetter(second, first) and not checkpoint.isBetter(first, second)
    assert checkpoint.isBetter(third, second) and not checkpoint.isBetter(third, third)
    assert not checkpoint.isBetter({"val_dice": 1.0, "val_loss": float("nan")}, None)
