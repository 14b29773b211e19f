"""What a label is worth where predictData.py --suggest asks for it, against boxes anywhere in the scan.

    python3 benchmarks/suggestions.py --folder suggestions --condition weak

A network learns from one labelled box of one simulated scan. Another scan, of another kind, is predicted, and
boxes of it are labelled with the truth: those that are suggested, as many anywhere, and twice as many
anywhere. From the old weights the network learns on with each of these sets and the first box, for equally
many steps, and is tested on a third scan, of the second kind too, at the threshold that a fourth one, for
validation, found best. A finished run is kept in the folder: the same command goes on where it stopped.
"""

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import NamedTuple

import makeDemoData
import measure
import nrrd
import numpy as np
from learning import run, train
from robustness import TRAINING, USUAL, simulate

from engine.base.arrays import measureMoments
from engine.base.records import readJson
from engine.formats.opening import openVolume
from engine.measures.boxes import Box, Grid
from engine.volumes.scale import MOMENTS_FIELD
from functions import scoreVoxels, selectPositive

ROOT = measure.ROOT
SHAPE = (192, 192, 128)  # voxels along x, y, z: 3 x 3 x 2 boxes
SEEDS = {"start": 401, "pool": 402, "validation": 403, "test": 404}  # of the simulated scans
FLAGS: list[str] = []  # of all trainings, beside seed and epochs
TRIES = 200  # to place random boxes


class Side(NamedTuple):
    """A set of boxes that is labelled."""

    name: str
    share: int  # boxes, in numbers of the suggested ones
    isSuggested: bool = False


SIDES = (
    Side("no box, as long", 0),
    Side("boxes suggested", 1, True),
    Side("as many, anywhere", 1),
    Side("twice as many, anywhere", 2),
)


class Scan(NamedTuple):
    """A simulated scan with its truth."""

    image: Path
    mask: Path

    @classmethod
    def of(cls, folder: Path, name: str) -> "Scan":
        """Name the files."""
        return cls(folder / f"{name}_data.nrrd", folder / f"{name}_mask.nrrd")

    def writeBox(self, box: Box, name: str, folder: Path) -> None:
        """Write a box with its true labels, on the scale of the scan, into the folders of a training."""
        place = tuple(slice(*part) for part in box)
        grey, mask = (openVolume(path).read() for path in self)
        moments = {MOMENTS_FIELD: " ".join(map(repr, measureMoments(grey)))}
        for kind, array, header in (("Images", grey, moments), ("Masks", mask, {})):
            target = folder / f"training{kind}"
            target.mkdir(parents=True, exist_ok=True)
            nrrd.write(str(target / f"{name}.nrrd"), np.asfortranarray(array[place]), header)


def simulateScans(folder: Path, condition: str, processCount: int) -> dict[str, Scan]:
    """Simulate the scans that are missing: all but the first one of another kind."""
    scans = {name: Scan.of(folder, name) for name in SEEDS}
    changes = TRAINING[condition][2]
    simulate(
        [
            makeDemoData.Pair(SEEDS[name], SHAPE, *scan, USUAL | (changes if name != "start" else {}))
            for name, scan in scans.items()
        ],
        processCount,
    )
    return scans


def middleBox(shape: tuple[int, ...]) -> Box:
    """Give the box in the middle of a scan."""
    starts = [(side - box) // 2 for side, box in zip(shape, Grid.of(shape).box, strict=True)]
    return tuple((start, start + box) for start, box in zip(starts, Grid.of(shape).box, strict=True))


def drawBoxes(seed: int, shape: tuple[int, ...], count: int) -> list[Box]:
    """Draw boxes anywhere that do not overlap."""
    generator, grid = np.random.default_rng(seed), Grid.of(shape)
    for _ in range(TRIES):
        chosen: list[Box] = []
        for _ in range(TRIES):
            firsts = [int(generator.choice(starts)) for starts in grid.starts]
            box = tuple((first, first + side) for first, side in zip(firsts, grid.box, strict=True))
            if not any(overlap(box, other) for other in chosen):
                chosen.append(box)
            if len(chosen) == count:
                return chosen
    raise SystemExit(f"{count} boxes do not fit into {shape}: take fewer with --count")


def overlap(one: Box, other: Box) -> bool:
    """Whether boxes have a voxel in common."""
    return all(a < d and c < b for (a, b), (c, d) in zip(one, other, strict=True))


def learn(folder: Path, scans: dict[str, Scan], seed: int, epochCount: int, start: Path | None) -> list:
    """Prepare the boxes of a folder and learn from them; gives the flags of the model."""
    data = folder / "pythonFiles"
    data.mkdir(exist_ok=True)
    for kind, path in zip(("Images", "Masks"), scans["validation"], strict=True):
        target = folder / f"validation{kind}"
        target.mkdir(exist_ok=True)
        link = target / "validation.nrrd"
        link.unlink(missing_ok=True)
        link.symlink_to(path)
    names = [f"{part}{kind}" for part in ("training", "validation") for kind in ("Images", "Masks")]
    folders = [word for name in names for word in (f"--{name}", folder / name)]
    command = [sys.executable, ROOT / "prepareData.py", "--normalization", "volume", "--learningData", data]
    run([*command, *folders], folder)
    begun = ["--weightStart", start] if start else []
    train(folder, data, [*begun, *FLAGS], seed, epochCount)
    return ["--modelFile", folder / "net.h5", "--weightFile", folder / "dice.h5"]


def evaluate(folder: Path, scan: Scan, model: list) -> dict[str, float]:
    """Score a model on a scan, at its own threshold."""
    result = folder / "test.nrrd"
    command = [sys.executable, ROOT / "predictData.py", "--nameInput", scan.image, "--nameOutput", result]
    run([*command, "--nameReference", scan.mask, *model], folder)
    threshold = readJson(result.with_suffix(".json"))["threshold"]
    truth = selectPositive(openVolume(scan.mask).read())
    validation = readJson(folder / "net.json")["bestValidation"]["val_dice"]["dice"]
    return scoreVoxels(openVolume(result).read(), truth, threshold) | {"validationDice": validation}


def suggest(folder: Path, scan: Scan, model: list, count: int) -> list[Box]:
    """Have boxes suggested by a model."""
    listed = folder / "pool_suggested" / "suggested.json"
    if not listed.is_file():
        command = [sys.executable, ROOT / "predictData.py", "--nameInput", scan.image, "--suggest", count]
        run([*command, "--nameOutput", folder / "pool.nrrd", "--nameReference", "none", *model], folder)
    return [tuple(map(tuple, entry["box"])) for entry in readJson(listed)["boxes"]]


def runSide(
    folder: Path, scans: dict[str, Scan], boxes: list[Box], seed: int, epochs: int, start: Path
) -> dict:
    """Learn on with boxes, or take what an earlier call kept."""
    kept = folder / "scores.json"
    if not kept.is_file():
        scans["start"].writeBox(middleBox(SHAPE), "start", folder)
        for number, box in enumerate(boxes, 1):
            scans["pool"].writeBox(box, f"pool{number:02d}", folder)
        scores = evaluate(folder, scans["test"], learn(folder, scans, seed, epochs, start))
        truth = openVolume(scans["pool"].mask).read() == 0
        inside = [truth[tuple(slice(*part) for part in box)].mean() for box in boxes]
        scores["positiveShare"] = float(np.mean(inside)) if boxes else 0.0
        kept.write_text(json.dumps(scores | {"boxes": boxes}, indent=2))
    return readJson(kept)


def runSeed(
    folder: Path, scans: dict[str, Scan], seed: int, arguments: argparse.Namespace
) -> dict[str, dict]:
    """Run all sides with a seed: {side: scores}."""
    first = folder / f"start-{seed}"
    model = ["--modelFile", first / "net.h5", "--weightFile", first / "dice.h5"]
    if not (first / "scores.json").is_file():
        scans["start"].writeBox(middleBox(SHAPE), "start", first)
        learn(first, scans, seed, arguments.startEpochs, None)
        scores = evaluate(first, scans["test"], model) | {"boxes": [], "positiveShare": 0.0}
        (first / "scores.json").write_text(json.dumps(scores, indent=2))
    results = {"before": readJson(first / "scores.json")}
    suggested = suggest(first, scans["pool"], model, arguments.count)
    drawn = drawBoxes(seed, SHAPE, 2 * len(suggested))
    for side in SIDES:
        boxes = suggested if side.isSuggested else drawn[: side.share * len(suggested)]
        place = folder / f"{side.name}-{seed}"
        place.mkdir(exist_ok=True)
        results[side.name] = runSide(place, scans, boxes, seed, arguments.epochs, first / "dice.h5")
        print(f"{side.name}, seed {seed}: {results[side.name]['dice']:.3f}", file=sys.stderr, flush=True)
    return results


def printTable(results: dict[int, dict[str, dict]]) -> None:
    """Print medians over the seeds, and the test Dice of every seed, as Markdown."""
    columns = " | ".join(f"Dice, seed {seed}" for seed in results)
    head = "labelled | boxes | positive in them | validation Dice | test Dice | precision | recall"
    print(f"| {head} | {columns} |\n{'|---' * (7 + len(results))}|")
    for name in next(iter(results.values())):
        runs = [sides[name] for sides in results.values()]
        middle = {key: statistics.median(run[key] for run in runs) for key in runs[0] if key != "boxes"}
        cells = [
            f"{statistics.median(len(run['boxes']) for run in runs):g}",
            f"{middle['positiveShare']:.2%}",
        ]
        cells += [f"{middle[key]:.3f}" for key in ("validationDice", "dice", "precision", "recall")]
        cells += [f"{run['dice']:.3f}" for run in runs]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def parseArguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--folder", type=Path, required=True, help="of finished runs")
    parser.add_argument("--condition", choices=[*TRAINING], default="weak", help="kind of the other scans")
    parser.add_argument("--count", type=int, default=4, help="boxes that are suggested")
    parser.add_argument("--startEpochs", type=int, default=20, help="of the first training")
    parser.add_argument("--epochs", type=int, default=20, help="of every training that goes on")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--processCount", type=int, default=makeDemoData.processCount, help="that simulate")
    return parser.parse_args(argv)


def main(arguments: argparse.Namespace) -> None:
    """Run what is missing and print the table."""
    folder = arguments.folder.resolve() / f"{arguments.condition}-{arguments.count}"
    folder.mkdir(parents=True, exist_ok=True)
    scans = simulateScans(folder, arguments.condition, arguments.processCount)
    drawBoxes(0, SHAPE, 2 * arguments.count)  # refuses what does not fit
    steps = f"{arguments.startEpochs} and {arguments.epochs} epochs"
    print(f"{measure.describeMachine()}; other scans: {arguments.condition}; {steps}\n", flush=True)
    printTable({seed: runSeed(folder, scans, seed, arguments) for seed in arguments.seeds})


if __name__ == "__main__":
    main(parseArguments())
