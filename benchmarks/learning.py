"""What a training learns in equal time: published, robust, robust without each of its parts, and a peer.

    pip install -r benchmarks/requirements.txt -r benchmarks/requirements-peers.txt
    python3 benchmarks/learning.py --folder learning

Learns from the demonstration volumes (two for training, one for validation, z-scored over the whole volume as
a prediction does), tests on test-file at the threshold that validation found best. How many steps fit into
the time is measured first, with nothing beside it; then every side gets so many, for every seed. Sides whose
steps do the same work as those of robust (another loss, another schedule) get as many as robust, so that the
noise of a measured pace is not taken for an effect. A finished run is kept in the folder, so that the same
command goes on where it stopped (hours on 2 cores). The peer is MONAI's BasicUNet with the settings of its
tutorials, trained and applied by MONAI.

    python3 benchmarks/learning.py --folder labels --labels

compares instead what robust learns in equal time where only some slices of every volume are labelled, those
of the validation too: a table with a row for each of `LABELS`. The test is on all voxels, as always.
"""

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import learningPeer
import measure
import numpy as np
from scipy import ndimage

from engine.formats.opening import openVolume
from engine.preparation.samples import openSamples
from functions import scoreVoxels, selectPositive

ROOT = measure.ROOT
CALIBRATION = 8  # epochs; the first one is not timed
SIDES = {
    "published": ["--recipe", "published"],
    "robust": [],
    "whole sub-volumes": ["--patchSide", "0", "--stepsPerEpoch", "10"],
    "patches anywhere": ["--positiveShare", "0"],
    "no turns": ["--no-turns"],
    "no regions": ["--no-regions"],
    "grey values as they are": ["--greyScale", "0", "--greyOffset", "0", "--greyNoise", "0"],
    "grey scale as it is": ["--greyScale", "0"],
    "grey offset as it is": ["--greyOffset", "0"],
    "no grey noise": ["--greyNoise", "0"],
    "loss bce": ["--loss", "bce"],
    "loss dice": ["--loss", "dice"],
    "loss focal": ["--loss", "focal"],
    "loss tversky": ["--loss", "tversky"],
    "bias starts at 0": ["--no-startBias"],
    "constant learning rate": ["--schedule", "constant"],
    "learning rate 0.001": ["--learningRate", "0.001"],
    "no clipping": ["--clipNorm", "0"],
    "100 steps an epoch": ["--stepsPerEpoch", "100"],
    "averages of momentum 0.99": ["--momentum", "0.99", "--averageBatches", "0"],
}
PEER = "MONAI BasicUNet"
OWN_PACE = (
    *("published", "robust", "whole sub-volumes", "100 steps an epoch"),
    *("averages of momentum 0.99", PEER),
)

LABELS = {  # flags of prepareData.py; the demonstration volumes have 144x144x96 voxels
    "dense": [],
    "every 8th slice": ["--labelledSlices", "z:4-92:8"],
    "every 16th slice": ["--labelledSlices", "z:8-88:16"],
    "five slices": ["--labelledSlices", "z:8-88:20"],
    "three orthogonal slices": ["--labelledSlices", "x:72 y:72 z:48"],
}


def run(command: list, folder: Path) -> str:
    """Run a command; its output goes to a log in the folder and comes back."""
    with open(folder / "run.log", "w+") as log:
        subprocess.run(list(map(str, command)), stdout=log, stderr=subprocess.STDOUT, check=True)
        log.seek(0)
        return log.read()


def prepare(folder: Path, flags: Sequence[str] = (), name: str = "pythonFiles") -> Path:
    """Cut the demonstration volumes, normalised as a prediction does."""
    target = folder / name
    target.mkdir(exist_ok=True)
    command = [sys.executable, ROOT / "prepareData.py", "--normalization", "volume", "--learningData", target]
    run([*command, *flags], folder)
    return target


def train(folder: Path, data: Path, flags: list, seed: int, epochCount: int) -> dict:
    """Train with these flags; gives the contract."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {"metricsFile": "metrics.log", "weightFile": "loss.h5", "weightFileTrain": "accuracy.h5"}
    files |= {"weightFileDice": "dice.h5", "modelFile": "net.h5"}
    paths = [word for name, file in files.items() for word in (f"--{name}", folder / file)]
    command = [sys.executable, ROOT / "trainingAndValidation.py", "--learningData", data, *paths]
    run([*command, "--seed", seed, "--Nepochs", epochCount, *flags], folder)
    return json.loads((folder / "net.json").read_text())


def calibrate(folder: Path, data: Path, side: str) -> float:
    """Measure the seconds of an epoch, validation included."""
    contract = train(folder / f"{side}-calibration", data, SIDES[side], 1, CALIBRATION)
    return statistics.median(contract["training"]["epochSeconds"][1:])


def evaluate(folder: Path, contract: dict) -> dict:
    """Score the best model on test-file, at its own threshold and at 0.5."""
    result = folder / "test.nrrd"
    data = ROOT / "test-file" / "test-file_data.nrrd"
    flags = ["--modelFile", folder / "net.h5", "--weightFile", folder / "dice.h5"]
    command = [sys.executable, ROOT / "predictData.py", "--nameInput", data, "--nameOutput", result]
    run([*command, *flags], folder)
    probability = openVolume(result).read()
    best = contract["bestValidation"]["val_dice"]
    return {
        "validationDice": best["dice"],
        "steps": contract["training"]["parameters"]["stepsPerEpoch"],
        "seconds": contract["training"]["seconds"],
        **scoreTest(probability, contract["thresholds"]["dice.h5"]),
    }


def scoreTest(probability: np.ndarray, threshold: float) -> dict:
    """Score a prediction of test-file by voxels and by particles."""
    mask = openVolume(ROOT / "test-file" / "test-file_mask.nrrd").read()
    truth = selectPositive(mask)
    return {
        "dice": scoreVoxels(probability, truth, threshold)["dice"],
        "diceAtHalf": scoreVoxels(probability, truth, 0.5)["dice"],
        "threshold": threshold,
        **scoreParticles(probability >= threshold, truth),
    }


def scoreParticles(positive: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Share of the true particles that are touched, and of the found ones that touch a true one."""

    def share(particles: np.ndarray, others: np.ndarray) -> float:
        labels, count = ndimage.label(particles, np.ones((3, 3, 3)))
        return len(np.unique(labels[others & particles])) / count if count else float("nan")

    return {"particleRecall": share(truth, positive), "particlePrecision": share(positive, truth)}


def runSide(folder: Path, data: Path, side: str, seed: int, minutes: float, name: str = "") -> dict:
    """Run a side with a seed, or take what an earlier call kept; in a folder of this name, or its own."""
    place, paceOf = folder / f"{name or side}-{seed}", side if side in OWN_PACE else "robust"
    calibration = folder / f"{paceOf}.json"
    if not calibration.is_file():
        measured = learningPeer.calibrate(data) if side == PEER else calibrate(folder, data, paceOf)
        calibration.write_text(json.dumps(measured))
    epochSeconds = json.loads(calibration.read_text())
    epochCount = max(1, int(60 * minutes / epochSeconds))
    kept = place / f"scores-{minutes:g}.json"
    if not kept.is_file():
        place.mkdir(parents=True, exist_ok=True)
        if side == PEER:
            probability, notes = learningPeer.trainAndPredict(data, seed, epochCount)
            scores = notes | scoreTest(probability, notes["threshold"])
        else:
            scores = evaluate(place, train(place, data, SIDES[side], seed, epochCount))
        kept.write_text(json.dumps(scores | {"epochCount": epochCount}, indent=2))
    scores = json.loads(kept.read_text())
    return scores | {"calibrated": scores["epochCount"] * epochSeconds}


def runLabels(folder: Path, labels: str, seed: int, minutes: float) -> dict:
    """Run robust where only some voxels are labelled, or take what an earlier call kept."""
    data = prepare(folder, LABELS[labels], f"pythonFiles {labels}")
    parts = [openSamples(data, part, 1) for part in ("training", "validation")]
    voxels = {"labelled": sum(part.labelledCount for part in parts)}
    return runSide(folder, data, "robust", seed, minutes, labels) | voxels


def printTable(results: dict[str, list[dict]], seeds: list[int]) -> None:
    """Print medians over the seeds, and the test Dice of every seed, as Markdown.

    The minutes are those of the calibration: epochs times seconds an epoch took with nothing beside it. Where
    runs tell how many voxels are labelled, that is a column too.
    """
    names = ("validationDice", "dice", "diceAtHalf", "particleRecall", "particlePrecision")
    columns = " | ".join(f"Dice, seed {seed}" for seed in seeds)
    head = "side | minutes | validation Dice | test Dice | at 0.5 | particle recall | precision"
    if isSparse := any("labelled" in run for runs in results.values() for run in runs):
        columns += " | labelled voxels"
    print(f"| {head} | {columns} |\n{'|---' * (7 + len(seeds) + isSparse)}|")
    for side, runs in results.items():
        cells = [f"{statistics.median(run['calibrated'] for run in runs) / 60:.1f}"]
        cells += [f"{np.nanmedian([run[name] for run in runs]):.3f}" for name in names]
        cells += [f"{run['dice']:.3f}" for run in runs]
        cells += [str(runs[0]["labelled"])] if isSparse else []
        print(f"| {side} | {' | '.join(cells)} |", flush=True)


def parseArguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--minutes", type=float, default=10.0, help="of training, for every side and seed")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--sides", nargs="+", choices=[*SIDES, PEER], default=[*SIDES, PEER])
    parser.add_argument("--labels", nargs="*", choices=[*LABELS], help="compare these, or all, not the sides")
    parser.add_argument("--folder", type=Path, required=True, help="of finished runs")
    return parser.parse_args(argv)


def main(arguments: argparse.Namespace) -> None:
    """Run what is missing and print the table."""
    folder = arguments.folder.resolve()
    folder.mkdir(exist_ok=True)
    if arguments.labels is not None:
        compare(folder, arguments.labels or [*LABELS], arguments, runLabels)
        return
    if PEER in arguments.sides and not all(map(importlib.util.find_spec, ("torch", "monai"))):
        arguments.sides.remove(PEER)
        print(f"Left out: {PEER} (pip install -r benchmarks/requirements-peers.txt)\n")
    data = prepare(folder)
    compare(folder, arguments.sides, arguments, lambda folder, *rest: runSide(folder, data, *rest))


def compare(
    folder: Path,
    names: list[str],
    arguments: argparse.Namespace,
    runOne: Callable[[Path, str, int, float], dict],
) -> None:
    """Run every name with every seed, and print the table."""
    print(f"{measure.describeMachine()}; {arguments.minutes:g} minutes each\n", flush=True)
    results = {}
    for seed in arguments.seeds:
        for name in names:
            scores = runOne(folder, name, seed, arguments.minutes)
            results.setdefault(name, []).append(scores)
            print(f"{name}, seed {seed}: test Dice {scores['dice']:.3f}", file=sys.stderr, flush=True)
    printTable(results, arguments.seeds)


if __name__ == "__main__":
    main(parseArguments())
