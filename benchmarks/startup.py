"""How long the scripts take besides network and results, and what Python loads for it.

    python3 benchmarks/startup.py [--against FOLDER]

Table 1 times whole processes, in turn: `--help` of the scripts, prepareData.py on the demonstration data, and
the default command of predictData.py without its seconds for the network and for the results (which it
notes in the record of its result). --against names another checkout of this project, which is timed as well.
Table 2 lists what Python loads, by `python3 -X importtime`: milliseconds and modules of the packages that
take most. Byte code is read from the disk, as it is from the second run on.
"""

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import measure

KINDS = ("mask", "segmentation", "labels", "particles", "scores", "report", "overview")
NOTHING = [f"--no-{name}" for name in KINDS]
COMMANDS = {  # name: script and flags; OUT is replaced
    "predictData.py --help": ["predictData.py", "--help"],
    "prepareData.py --help": ["prepareData.py", "--help"],
    "trainingAndValidation.py --help": ["trainingAndValidation.py", "--help"],
    "prepareData.py": ["prepareData.py", "--force", "--learningData", "OUT"],
    "predictData.py, results off": [
        "predictData.py",
        *NOTHING,
        "--no-overview",
        "--nameOutput",
        "OUT/a.nrrd",
    ],
    "predictData.py": ["predictData.py", "--nameOutput", "OUT/b.nrrd"],
}
RESULTS = ("prediction", "reading back", "particles", "picture")  # parts that the record notes
SHOWN = 10  # packages


def runOnce(checkout: Path, command: list[str], folder: Path, *flags: str) -> tuple[float, str]:
    """Run a command of a checkout; gives its seconds besides network and results, and what it said."""
    shutil.rmtree(folder / "out", ignore_errors=True)
    (folder / "out").mkdir()
    script, *words = (word.replace("OUT", str(folder / "out")) for word in command)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    begin = time.perf_counter()
    run = subprocess.run(
        [sys.executable, *flags, str(checkout / script), *words],
        env=environment, cwd=folder, capture_output=True, text=True, check=True,
    )  # fmt: skip
    seconds = time.perf_counter() - begin
    for record in (folder / "out").glob("[ab].json"):
        parts = json.loads(record.read_text())["seconds"]
        seconds -= sum(parts.get(part, 0) for part in RESULTS)
    return seconds, run.stderr


def countImports(text: str) -> tuple[Counter, Counter]:
    """Read the log of -X importtime: milliseconds and modules of every package."""
    milliseconds, modules = Counter(), Counter()
    for own, name in re.findall(r"^import time:\s+(\d+) \|\s+\d+ \|\s+(\S+)$", text, re.MULTILINE):
        milliseconds[name.split(".")[0]] += int(own) / 1000
        modules[name.split(".")[0]] += 1
    return milliseconds, modules


def printSeconds(sides: dict[str, Path], repeats: int, folder: Path) -> None:
    """Print the table of seconds."""
    print(f"### Besides network and results, seconds\n\n| command | {' | '.join(sides)} |")
    print("|---" * (len(sides) + 1) + "|")
    for name, command in COMMANDS.items():
        seconds = {side: [] for side in sides}
        for number in range(repeats + 1):  # the first one warms up
            for side, checkout in sides.items():
                taken, _ = runOnce(checkout, command, folder)
                seconds[side] += [taken] if number else []
        print(f"| {name} | {' | '.join(f'{statistics.median(taken):.2f}' for taken in seconds.values())} |")
    print(flush=True)


def printImports(folder: Path) -> None:
    """Print the table of what is loaded."""
    print("### What is loaded\n\n| command | ms | modules | packages that take most: ms (modules) |")
    print("|---|---|---|---|")
    for name, command in COMMANDS.items():
        milliseconds, modules = countImports(runOnce(measure.ROOT, command, folder, "-X", "importtime")[1])
        most = (f"{package} {ms:.0f} ({modules[package]})" for package, ms in milliseconds.most_common(SHOWN))
        print(f"| {name} | {milliseconds.total():.0f} | {modules.total()} | {', '.join(most)} |")


def parseArguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--against", type=Path, help="another checkout of this project")
    return parser.parse_args(argv)


def main(arguments: argparse.Namespace) -> None:
    """Measure and print both tables."""
    print(f"{measure.describeMachine()}; median of {arguments.repeats} after a warm-up\n", flush=True)
    sides = {"seconds": measure.ROOT}
    if arguments.against:
        sides = {"before": arguments.against.resolve(), "now": measure.ROOT}
    with tempfile.TemporaryDirectory() as folder:
        printSeconds(sides, arguments.repeats, Path(folder))
        printImports(Path(folder))


if __name__ == "__main__":
    main(parseArguments())
