"""Results that predictData.py writes of a region of the test volume, and how they are read back."""

import csv

import nrrd
import numpy as np
import pytest

import predictData
from engine.base.console import runScript

REGION = ((0, 80), (20, 80), (50, 90))  # with air, wall and some thirty particles
SHAPE = (80, 60, 40)
SAME = ("", "_labels", "_mask", "_mask.seg")  # volumes that hold no time and no path
OBLIQUE = {
    "space": "left-posterior-superior",
    "space directions": np.array([[0.0, 0.5, 0.0], [-0.3, 0.0, 0.4], [0.4, 0.0, 0.3]]),
    "space origin": np.array([10.0, -20.0, 30.0]),
    "space units": ["um", "um", "um"],
}


def predict(source, *flags):
    """Run predictData.py in this process."""
    words = [str(word) for word in ("--nameInput", source, "--nameReference", "none", *flags)]
    runScript(predictData.main, lambda: predictData.parseArguments(words))


def readTable(path):
    """Read the table of particles: {column: values}."""
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
        return {name: np.array([row[name] for row in rows]) for name in rows[0]} if rows else {}


def readSlowly(folder, stem="scan_segmented"):
    """Read probability, mask, segmentation and labels by pynrrd, (x, y, z)."""
    names = {"": "probability", "_mask": "mask", "_mask.seg": "segmentation", "_labels": "labels"}
    return {name: nrrd.read(str(folder / f"{stem}{ending}.nrrd"))[0] for ending, name in names.items()}


def writeReference(folder, run):
    """Write a mask that differs from the prediction: particles moved by a voxel, some left out."""
    positive = np.roll(readSlowly(run)["probability"] >= 0.6, 1, axis=0)
    positive[:, :24] = False
    nrrd.write(str(folder / "scan_mask.nrrd"), np.where(positive, 0, 255).astype(np.uint8), OBLIQUE)
    return positive


def readBytes(folder, *more, stem="scan_segmented"):
    """Read what holds no time and no path: {name: bytes}; nothing unfinished may lie there."""
    assert not list(folder.glob(".*"))
    endings = *(f"{ending}.nrrd" for ending in SAME), "_overview.png", "_particles.csv", *more
    return {ending: (folder / f"{stem}{ending}").read_bytes() for ending in endings}


def resultOf(scan):
    """Give the file of the probability."""
    return scan.with_name("scan_segmented.nrrd")


def refused(capfd, scan, *flags):
    """Require the exit code 2 and one line; give it."""
    capfd.readouterr()
    with pytest.raises(SystemExit) as caught:
        predict(scan, *flags)
    text = capfd.readouterr().err
    assert caught.value.code == 2 and text.count("Error: ") == 1 and text.endswith("\n")
    return text[text.index("Error: ") :]
