"""Depth and width of the network: what each level and each feature buys, at equal steps.

    python3 benchmarks/ablation.py --folder ablation

The publication says that four levels and 8 features are the best of the smaller ones. Every network learns
from the demonstration volumes with the robust recipe, the same steps, for every seed. A finished run is kept
in the folder, so that the same command goes on where it stopped.
"""

import argparse
import itertools
import json
import statistics
import sys
from pathlib import Path

import learning
import measure
import peers

from engine.network.plan import countParameters
from functions import describeUNet


def runNetwork(folder: Path, data: Path, levels: int, width: int, seed: int, epochCount: int) -> dict:
    """Train and test one network, or take what an earlier call kept."""
    place = folder / f"{levels}-{width}-{seed}-{epochCount}"
    kept = place / "scores.json"
    if kept.is_file():
        return json.loads(kept.read_text())
    flags = ["--levelCount", levels, "--base_depth", width]
    contract = learning.train(place, data, flags, seed, epochCount)
    scores = learning.evaluate(place, contract)
    kept.write_text(json.dumps(scores, indent=2))
    return scores


def parseArguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--levels", type=int, nargs="+", default=[2, 3, 4])
    parser.add_argument("--widths", type=int, nargs="+", default=[4, 8, 16])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--epochCount", type=int, default=10, help="of 50 steps")
    parser.add_argument("--folder", type=Path, required=True, help="of finished runs")
    return parser.parse_args(argv)


def main(arguments: argparse.Namespace) -> None:
    """Run what is missing and print the table."""
    folder = arguments.folder.resolve()
    folder.mkdir(exist_ok=True)
    data = learning.prepare(folder)
    results = {}
    for seed, levels, width in itertools.product(arguments.seeds, arguments.levels, arguments.widths):
        scores = runNetwork(folder, data, levels, width, seed, arguments.epochCount)
        results.setdefault((levels, width), []).append(scores)
        print(f"{levels} levels, {width} features, seed {seed}: {scores['dice']:.3f}", file=sys.stderr)
    print(f"{measure.describeMachine()}; {arguments.epochCount} epochs of 50 steps\n")
    names = "parameters | multiply-adds a voxel | validation Dice | test Dice | seconds"
    print(f"| levels | features | {names} |\n|---|---|---|---|---|---|---|")
    for (levels, width), runs in sorted(results.items()):
        plan = describeUNet(width, levels)
        cells = [f"{countParameters(plan)}", f"{peers.countPublished(plan):.0f}"]
        for name in ("validationDice", "dice"):
            values = sorted(run[name] for run in runs)
            cells.append(f"{statistics.median(values):.3f} ({values[0]:.3f} to {values[-1]:.3f})")
        cells.append(f"{statistics.median(run['seconds'] for run in runs):.0f}")
        print(f"| {levels} | {width} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main(parseArguments())
