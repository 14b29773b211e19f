"""How a network does on scans unlike those it has learnt from; by default the shipped one.

    python3 benchmarks/robustness.py --folder robustness           # the table, one unseen volume a condition
    python3 benchmarks/robustness.py --folder demoData --training  # what the shipped network learnt from

The generator of the demonstration data simulates every condition: contrast of the precipitates, photons, ring
artefacts, size of the particles, blur. None of the tested settings but the first is one of the training.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import makeDemoData
import measure
import nrrd
import numpy as np
from learning import scoreParticles
from surprises import addAir, cropInside

from engine.base.records import readJson
from engine.formats.opening import openVolume
from functions import scoreVoxels, selectPositive

SHAPE = (144, 144, 96)
USUAL = {name: getattr(makeDemoData, name) for name in makeDemoData.PHYSICS}
TRAINING = {  # condition: training volumes (one more for validation), first seed, settings
    "base": (24, 101, {}),
    "weak": (7, 201, {"precipitateContrasts": (0.5, 0.8), "photonCount": 2000.0}),
    "noisy": (7, 211, {"photonCount": 500.0, "gainError": 0.01}),
    "rings": (7, 221, {"gainError": 0.03}),
    "large": (7, 231, {"precipitateDiameters": (8.0, 18.0), "precipitateShare": 0.02}),
    "clean": (7, 251, {"photonCount": 20000.0, "gainError": 0.002}),
    "small": (7, 241, {"precipitateDiameters": (3.0, 7.0), "blurSigma": 0.8}),
}
TESTS = {  # condition: seed, settings
    "as in the training": (301, {}),
    "weaker contrast: absorption 0.6 to 0.8 of the matrix": (302, {"precipitateContrasts": (0.6, 0.8)}),
    "stronger contrast: 0.15 to 0.4": (303, {"precipitateContrasts": (0.15, 0.4)}),
    "less noise: 4000 photons": (304, {"photonCount": 4000.0}),
    "more noise: 350 photons": (305, {"photonCount": 350.0}),
    "no rings": (306, {"gainError": 0.0}),
    "more rings: gain error 0.04": (307, {"gainError": 0.04}),
    "larger particles: 12 to 24 voxels": (
        308,
        {"precipitateDiameters": (12.0, 24.0), "precipitateShare": 0.02},
    ),
    "smaller particles: 4 to 7 voxels": (311, {"precipitateDiameters": (4.0, 7.0)}),
    "much smaller particles: 3 to 5 voxels": (
        309,
        {"precipitateDiameters": (3.0, 5.0), "precipitateShare": 0.006},
    ),
    "more blur: 1 pixel": (310, {"blurSigma": 1.0}),
}


def listTraining(folder: Path) -> Iterator[makeDemoData.Pair]:
    """Name the volumes that the shipped network learnt from; the last of a condition is for validation."""
    for condition, (count, firstSeed, changes) in TRAINING.items():
        for number in range(1, count + 2):
            part = "training" if number <= count else "validation"
            image = folder / f"{part}Images" / f"{condition}-data_{number:02d}.nrrd"
            mask = folder / f"{part}Masks" / f"{condition}-segm_{number:02d}.nrrd"
            yield makeDemoData.Pair(firstSeed + number - 1, SHAPE, image, mask, USUAL | changes)


def listTests(folder: Path) -> list[makeDemoData.Pair]:
    """Name the volumes of the table."""
    files = {seed: (folder / f"{seed}_data.nrrd", folder / f"{seed}_mask.nrrd") for seed, _ in TESTS.values()}
    return [makeDemoData.Pair(seed, SHAPE, *files[seed], USUAL | changes) for seed, changes in TESTS.values()]


GUISES = {  # row of the table: seed of the volume that is changed
    "crop of the inside, without air": 301,
    "twice the air": 301,
}


def listGuises(folder: Path) -> dict[str, tuple[Path, Path]]:
    """Write the changed volumes of the table that are missing: {row: image and mask}."""
    files = {}
    for row, seed in GUISES.items():
        name = row.split()[0]
        image, mask = folder / f"{seed}_{name}_data.nrrd", folder / f"{seed}_{name}_mask.nrrd"
        if not mask.is_file():
            grey, labels = (openVolume(folder / f"{seed}_{part}.nrrd").read() for part in ("data", "mask"))
            if name == "crop":
                changed = cropInside(grey), cropInside(labels)
            else:
                grey, isParticle = addAir(np.random.default_rng(seed), grey, labels == 0)
                changed = grey, np.where(isParticle, np.uint8(0), np.uint8(255))
            for file, array in zip((image, mask), changed, strict=True):
                nrrd.write(str(file), array, {"encoding": "gzip"})
        files[row] = image, mask
    return files


def simulate(pairs: list[makeDemoData.Pair], processCount: int) -> None:
    """Simulate the volumes that are missing."""
    missing = [pair for pair in pairs if not (pair.image.is_file() and pair.mask.is_file())]
    if not missing:
        return
    for pair, volume, mask, counts in makeDemoData.simulatePairs(missing, processCount):
        makeDemoData.writePair(pair, volume, mask, counts)
        print(f"{pair.image.name}  {(mask == 0).mean():.2%} positive", file=sys.stderr, flush=True)


def scoreVolume(image: Path, mask: Path, model: list[str]) -> dict[str, float]:
    """Predict one volume with predictData.py and score it at the threshold of the contract and at 0.5."""
    result = image.with_name(image.name.replace("_data", "_probability"))
    command = [sys.executable, measure.ROOT / "predictData.py", "--nameInput", image]
    subprocess.run([*command, "--nameOutput", result, *model], check=True, stdout=subprocess.DEVNULL)
    threshold = readJson(result.with_suffix(".json"))["threshold"]
    probability, truth = openVolume(result).read(), selectPositive(openVolume(mask).read())
    return {
        **scoreVoxels(probability, truth, threshold),
        "diceAtHalf": scoreVoxels(probability, truth, 0.5)["dice"],
        "threshold": threshold,
        **scoreParticles(probability >= threshold, truth),
    }


def parseArguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--folder", type=Path, required=True, help="of the volumes; what is there is kept")
    parser.add_argument("--training", action="store_true", help="simulate the training data and stop")
    parser.add_argument("--modelFile", type=Path, help="default: the shipped one")
    parser.add_argument("--weightFile", type=Path, help="default: the shipped one")
    parser.add_argument("--processCount", type=int, default=makeDemoData.processCount)
    return parser.parse_args(argv)


def main(arguments: argparse.Namespace) -> None:
    """Simulate, predict, print the table."""
    folder = arguments.folder.resolve()
    pairs = list(listTraining(folder)) if arguments.training else listTests(folder)
    simulate(pairs, arguments.processCount)
    if arguments.training:
        return
    given = {name: getattr(arguments, name) for name in ("modelFile", "weightFile")}
    model = [word for name, file in given.items() if file for word in (f"--{name}", str(file.resolve()))]
    print(f"{measure.describeMachine()}\n")
    head = "scan | Dice | at 0.5 | precision | recall | particle recall | particle precision"
    print(f"| {head} |\n{'|---' * 7}|")
    names = ("dice", "diceAtHalf", "precision", "recall", "particleRecall", "particlePrecision")
    results = {}
    files = {row: (pair.image, pair.mask) for row, pair in zip(TESTS, pairs, strict=True)}
    for condition, (image, mask) in (files | listGuises(folder)).items():
        results[condition] = scores = scoreVolume(image, mask, model)
        print(f"| {condition} | {' | '.join(f'{scores[name]:.3f}' for name in names)} |", flush=True)
    means = [sum(scores[name] for scores in results.values()) / len(results) for name in names]
    print(f"| mean | {' | '.join(f'{mean:.3f}' for mean in means)} |")
    (folder / "scores.json").write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main(parseArguments())
