"""Scans that are not as in the demonstration: what the pipeline makes of them, and how often it says so.

    python3 benchmarks/surprises.py                      # docs/scans.png: the test volume in six guises
    python3 benchmarks/surprises.py --count 500          # random scans: Dice, and whether there was a warning

A random scan is a small specimen, dark ellipsoids in a pillar, with any share of air, offset and gain over
ten decades, hot voxels, a value that means no data, and noise. A failure is silent where the Dice is below
0.85 and predictData.py neither warns nor refuses.
"""

import argparse
import contextlib
import io
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import measure
import nrrd
import numpy as np
from makeDemoData import PILLAR_RADIUS
from scipy import ndimage

import predictData
from engine.base.drawing import makeFigure, saveFigure
from engine.base.errors import PipelineError
from engine.base.records import readJson
from engine.formats.opening import openVolume

SIDE = 64  # of a random specimen
PARTICLE = 0.48  # grey value of a particle; air is 0, the matrix 1
GOOD = 0.85  # Dice
NO_DATA = (-3.4028234663852886e38, 1e30, -1e30, 3.4028234663852886e38)
FLAGS = ("--no-report", "--no-overview", "--no-mask", "--no-segmentation", "--no-labels")


class Scan(NamedTuple):
    """A scan, its mask, and what is unusual about it."""

    grey: np.ndarray  # (x, y, z)
    isParticle: np.ndarray
    words: str


class Outcome(NamedTuple):
    """What predictData.py made of a scan."""

    dice: float  # NaN: refused
    warnings: list[str]

    @property
    def isSilent(self) -> bool:
        """Whether it is wrong without a word."""
        return not self.warnings and not self.dice >= GOOD


# -------------------------------------------------------------------------------------------- random scans


def drawSpecimen(generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw a pillar along z with ellipsoids in it: grey values of 0 to 1 without noise, and the particles."""
    places = np.mgrid[:SIDE, :SIDE, :SIDE].astype(np.float32)
    isParticle = np.zeros((SIDE,) * 3, bool)
    for _ in range(40):
        centre, radii = generator.uniform(7, SIDE - 7, 3), generator.uniform(2.5, 5, 3)
        squares = (((place - c) / r) ** 2 for place, c, r in zip(places, centre, radii, strict=True))
        isParticle |= sum(squares) <= 1
    distance = np.hypot(places[0] - SIDE / 2, places[1] - SIDE / 2)
    isParticle &= distance <= 0.36 * SIDE
    grey = np.where(isParticle, np.float32(PARTICLE), np.float32(1))
    grey[distance > 0.42 * SIDE] = 0
    return grey, isParticle


def drawScan(generator: np.random.Generator) -> Scan:
    """Draw a scan with anything that users hand over."""
    grey, isParticle = drawSpecimen(generator)
    airShare = generator.uniform(0, 0.8)
    grey, isParticle = _setAir(generator, grey, isParticle, airShare)
    noise = float(np.exp(generator.uniform(np.log(0.01), np.log(0.8))))
    grey = grey + noise * generator.standard_normal(grey.shape)
    gain = 10 ** generator.uniform(-5, 5)
    offset = gain * 10 ** generator.uniform(-2, 3) * generator.choice((-1, 1))
    words = (
        f"{np.mean(isParticle):.1%} particles, air asked {airShare:.0%}, noise {noise:.2f}, gain {gain:.1e}"
    )
    values = (grey * gain + offset).astype(generator.choice(("float32", "float64")))
    words += f", offset {offset:.1e}, {values.dtype}"
    if generator.random() < 0.4:
        count = int(generator.choice((3, 30, 300)))
        places = generator.choice(values.size, count, replace=False)
        values.ravel(order="K")[places] = offset + gain * 10 ** generator.uniform(1, 6)
        words += f", {count} hot voxels"
    if generator.random() < 0.4:
        shape, isThere = _drawNoData(generator, values.shape)
        value = float(generator.choice((*NO_DATA, offset - 10 * gain, offset + 10 * gain)))
        values[isThere] = value
        isParticle &= ~isThere
        words += f", no data {shape} {value:.2g}"
    return Scan(np.asfortranarray(values), np.asfortranarray(isParticle), words)


def _setAir(generator: np.random.Generator, grey: np.ndarray, isParticle: np.ndarray, share: float):
    """Cut the air away, or add some, across x and y."""
    pillar = np.pi * (0.42 * SIDE) ** 2
    side = int(np.sqrt(pillar / (1 - share)))
    if side >= SIDE:
        margin = [(width := (side - SIDE) // 2, width), (width, width), (0, 0)]
        return np.pad(grey, margin), np.pad(isParticle, margin)
    side = max(min(side, SIDE), 32) if share > 0.2 else int(generator.integers(24, 40))
    first = (SIDE - side) // 2
    inside = np.s_[first : first + side, first : first + side]
    return grey[inside], isParticle[inside]


def _drawNoData(generator: np.random.Generator, shape: tuple[int, ...]) -> tuple[str, np.ndarray]:
    """Draw where there is no data: outside a circle, in the first or last planes, or in a corner."""
    kind = str(generator.choice(("outside a circle", "in planes", "in a corner")))
    isThere = np.zeros(shape, bool)
    if kind == "outside a circle":
        x, y = np.mgrid[: shape[0], : shape[1]]
        radius = min(shape[:2]) / 2 * generator.uniform(0.9, 1)
        isThere[np.hypot(x - (shape[0] - 1) / 2, y - (shape[1] - 1) / 2) > radius] = True
    elif kind == "in planes":
        isThere[:, :, : int(generator.integers(2, shape[2] // 3))] = True
    else:
        isThere[: shape[0] // 3, : shape[1] // 3] = True
    return kind, isThere


def cropInside(volume: np.ndarray) -> np.ndarray:
    """Cut a box out of the inside of a pillar, without air: (x, y, z)."""
    sides = (slice(round(0.26 * side), round(0.74 * side)) for side in volume.shape[:2])
    return np.asfortranarray(volume[tuple(sides)])


def addAir(
    generator: np.random.Generator, grey: np.ndarray, isParticle: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Put a frame of air around a pillar, so that there is twice as much of it: grey values of its corner."""
    width, corner = grey.shape[0], grey[: grey.shape[0] // 16, : grey.shape[1] // 16].ravel()
    air = 1 - np.pi * PILLAR_RADIUS**2
    side = round(width * (1 + air) ** 0.5) // 2 * 2
    margin = [((side - width) // 2, (side - width) // 2)] * 2 + [(0, 0)]
    isInside = np.pad(np.ones(grey.shape, bool), margin)
    wide = np.pad(grey, margin)
    wide[~isInside] = generator.choice(corner, int((~isInside).sum()))
    return np.asfortranarray(wide), np.asfortranarray(np.pad(isParticle, margin))


# ---------------------------------------------------------------------------------------------- what is made


def predictScan(scan: Scan, folder: Path, flags: tuple[str, ...] = FLAGS) -> Outcome:
    """Write a scan and predict it with the default flags of predictData.py."""
    image, mask = folder / "scan_data.nrrd", folder / "scan_mask.nrrd"
    for old in folder.iterdir():
        old.unlink()
    nrrd.write(str(image), scan.grey, {"encoding": "raw"})
    nrrd.write(str(mask), np.where(scan.isParticle, np.uint8(0), np.uint8(255)), {"encoding": "raw"})
    words = io.StringIO()
    try:
        with contextlib.redirect_stdout(words), contextlib.redirect_stderr(io.StringIO()):
            predictData.main(predictData.parseArguments(["--nameInput", str(image), *flags]))
    except PipelineError as error:
        return Outcome(float("nan"), [str(error)])
    lines = words.getvalue().splitlines()
    scores = readJson(folder / "scan_segmented.json")["scores"]
    return Outcome(scores["dice"], [line for line in lines if line.startswith("Warning")])


def tryScans(count: int, seed: int) -> Iterator[tuple[Scan, Outcome]]:
    """Predict random scans."""
    with tempfile.TemporaryDirectory() as folder:
        for number in range(count):
            scan = drawScan(np.random.default_rng((seed, number)))
            yield scan, predictScan(scan, Path(folder))


# ------------------------------------------------------------------------------------------------ the picture


def listGuises() -> Iterator[Scan]:
    """Give the test volume as it is, and as users hand such volumes over."""
    file = measure.ROOT / "test-file" / "test-file_data.nrrd"
    grey = openVolume(file).read().astype(np.float32)
    isParticle = openVolume(file.with_name("test-file_mask.nrrd")).read() == 0
    generator, (width, height, _) = np.random.default_rng(1), grey.shape
    yield Scan(grey, isParticle, "as it should be")
    yield Scan(*map(cropInside, (grey, isParticle)), "a crop of the inside")
    yield Scan(*addAir(generator, grey, isParticle), "twice the air")
    hot = grey.copy()
    hot.ravel()[generator.choice(hot.size, 100, replace=False)] = 1e7
    yield Scan(hot, isParticle, "hot voxels")
    x, y = np.mgrid[:width, :height]
    empty = grey.copy()
    empty[np.hypot(x - width / 2, y - height / 2) > width / 2] = -1e30
    yield Scan(empty, isParticle, "no data outside a circle")
    noisy = grey + generator.normal(0, 5000, grey.shape).astype(np.float32)
    yield Scan(noisy, isParticle, "five times the noise")
    blurred = ndimage.gaussian_filter(grey, 2.5)
    yield Scan(blurred, isParticle, "out of focus")


def drawGuises(path: Path) -> None:
    """Predict every guise, draw it with its histogram over that of the training, and say what came out."""
    guises = list(listGuises())
    figure = makeFigure(figsize=(3.2 * len(guises), 6.6), layout="constrained")
    grid = figure.subplots(2, len(guises), height_ratios=(1.5, 1))
    with tempfile.TemporaryDirectory() as folder:
        for (top, bottom), scan in zip(grid.T, guises, strict=True):
            outcome = predictScan(scan, Path(folder))
            greys = readJson(Path(folder) / "scan_segmented.json")["greys"]
            middle = scan.grey[:, :, scan.grey.shape[2] // 2].T
            low, high = np.percentile(middle[middle > -1e29], (0.5, 99.5))
            top.imshow(middle, cmap="gray", vmin=low, vmax=high, interpolation="nearest")
            told = "with a warning" if outcome.warnings else "no warning"
            top.set(title=f"{scan.words}\nDice {outcome.dice:.2f}, {told}", xticks=(), yticks=())
            edges = np.array(greys["edges"])
            bottom.stairs(greys["training"], edges, fill=True, color="0.75", label="training")
            bottom.stairs(greys["scan"], edges, color="tab:orange", label="this scan")
            bottom.set(xlabel="z-scored grey value", yticks=(), xlim=(-5, 5))
            print(f"{scan.words}: Dice {outcome.dice:.3f}", *outcome.warnings, sep="\n  ", flush=True)
    grid[1, 0].legend(frameon=False)
    saveFigure(figure, path)


def parseArguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--count", type=int, default=0, help="random scans; 0: the picture")
    parser.add_argument("--seed", type=int, default=1, help="of the random scans")
    parser.add_argument("--picture", type=Path, default=measure.ROOT / "docs" / "scans.png")
    return parser.parse_args(argv)


def main(arguments: argparse.Namespace) -> None:
    """Draw the picture, or try random scans and count."""
    if not arguments.count:
        drawGuises(arguments.picture)
        return
    outcomes = []
    for scan, outcome in tryScans(arguments.count, arguments.seed):
        outcomes.append(outcome)
        if not outcome.dice >= GOOD:
            print(f"Dice {outcome.dice:.3f}: {scan.words}", *outcome.warnings, sep="\n  ", flush=True)
    dices = np.array([outcome.dice for outcome in outcomes])
    isGood, isTold = dices >= GOOD, np.array([bool(outcome.warnings) for outcome in outcomes])
    counts = {
        "scans": len(outcomes),
        f"Dice at least {GOOD}": int(isGood.sum()),
        "of these with a warning": int((isGood & isTold).sum()),
        "worse, with a warning or refused": int((~isGood & isTold).sum()),
        "worse without a word": sum(outcome.isSilent for outcome in outcomes),
        "median Dice": round(float(np.nanmedian(dices)), 3),
    }
    print(f"{measure.describeMachine()}\n{json.dumps(counts, indent=2)}")


if __name__ == "__main__":
    sys.exit(main(parseArguments()))
