"""README and docs/: links, flags, paths; run as a script it writes docs/parameters.md anew."""

import functools
import importlib
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))

from engine.base.parameters import declareParameters, tabulateParameters  # noqa: E402

SCRIPTS = ("prepareData", "trainingAndValidation", "predictData")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "benchmarks" / "RESULTS.md"]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
FOREIGN = {
    "help",
    "folder",
    "logdir",
    "baseline",
    "training",
    "signal",
    "nodes",
    "ntasks-per-node",
    "gpus-per-node",
    "gpus-per-task",
    "sides",
    *("partition", "account", "me", "gres", "mem", "array", "time", "requeue", "wrap"),  # of SLURM
    *("parsable", "dependency", "constraint", "nodes", "ntasks", "ntasks-per-node"),
    *("gpus-per-task", "gpus-per-node"),
    *("nthreads", "protocol", "tls-ca-file", "tls-cert", "tls-key"),  # of Dask
}  # of other programs
FENCED = re.compile(r"^ *```.*?^ *```", re.DOTALL | re.MULTILINE)
INTRODUCTION = """# Parameters

Every parameter is a constant at the top of its script and a flag of the same name: `--Nepochs 2`. Change it
there for good, or give the flag for once. `--help` shows the same, under the same headings. A path given as
a flag is relative to the folder you are in; the presets belong to the folder of the scripts. This page is
written from the scripts (`python3 tests/test_documentation.py`).
"""


def writeParameters():
    """Write the text of docs/parameters.md."""
    parts = [INTRODUCTION]
    for name in SCRIPTS:
        parts.append(f"\n## {name}.py\n\n{tabulateParameters(importlib.import_module(name))}\n")
    return "".join(parts)


def listAnchors(text):
    """List the anchors of the headings of a page, as GitHub makes them; a comment in a command is none."""
    anchors = []
    for heading in re.findall(r"^#+ (.+)$", FENCED.sub("", text), re.MULTILINE):
        anchor = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        again = sum(re.fullmatch(rf"{re.escape(anchor)}(-\d+)?", other) is not None for other in anchors)
        anchors.append(f"{anchor}-{again}" if again else anchor)
    return anchors


def listCommands(text):
    """List the commands of a page that run one of the scripts: its name, and the flags they give it."""
    spans = [line for block in FENCED.findall(text) for line in block.splitlines()]
    spans += re.findall(r"`([^`]+)`", FENCED.sub("", text))
    found = []
    for span in spans:
        if match := re.search(rf"(?<![\w/])({'|'.join(SCRIPTS)})\.py\b([^#]*)", span):
            found.append((match[1], re.findall(r"(?<![\w-])--([a-zA-Z][\w-]*)", match[2])))
    return found


@functools.cache
def flagsOf(name):
    """Give the flags of a script."""
    names = {part.name for part in declareParameters(importlib.import_module(name))}
    switches = {part.name for part in declareParameters(importlib.import_module(name)) if part.kind is bool}
    return frozenset(names | {f"no-{name}" for name in switches} | {"help"})


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def testLinksLeadSomewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", FENCED.sub("", page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), f"{page.name}: {target}"
        assert not anchor or anchor in listAnchors(found.read_text(encoding="utf-8")), (
            f"{page.name}: {target}"
        )


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def testCommandsGiveTheirScriptFlagsThatItHas(page):
    for name, flags in listCommands(page.read_text(encoding="utf-8")):
        assert set(flags) <= flagsOf(name), f"{page.name}: {name}.py"


@pytest.mark.parametrize("page", PAGES[:-1], ids=NAMES[:-1])  # the last one is full of those of benchmarks
def testFlagsExist(page):
    known = frozenset().union(*map(flagsOf, SCRIPTS))
    for flag in re.findall(r"(?<![\w-])--([a-zA-Z][\w-]*)", page.read_text(encoding="utf-8")):
        assert flag in known | FOREIGN, f"{page.name}: --{flag}"


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def testPathsOfTheCodeExist(page):
    for path in re.findall(r"`((?:engine|tests|docs|benchmarks)/[\w./]+)`", page.read_text(encoding="utf-8")):
        assert (ROOT / path).exists(), f"{page.name}: {path}"


def testEveryModuleIsInTheDrawing():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    for path in (ROOT / "engine").glob("*/*.py"):
        if path.name != "__init__.py":
            assert f"`{path.relative_to(ROOT)}`" in text


def testAnchorsAreThoseOfHeadings():
    text = "# One `word`\n```sh\n# no heading\n```\n## GPU, and more\n### One word\n"
    assert listAnchors(text) == ["one-word", "gpu-and-more", "one-word-1"]


def testCommandsAreFoundInBlocksAndInLines():
    text = (
        "Give `python3 prepareData.py\n--cover`, `--seed` or `python3 benchmarks/startup.py --repeats 1`:\n\n"
        "1. so\n\n   ```sh\n   python3 predictData.py --dryRun  # not --seed\n   ```\n"
    )
    assert listCommands(text) == [("predictData", ["dryRun"]), ("prepareData", ["cover"])]
    assert "cover" in flagsOf("prepareData") and "cover" not in flagsOf("predictData")


def testReadmeIsShort():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 200


def testPageOfTheParametersIsThatOfTheScripts():
    written = (ROOT / "docs" / "parameters.md").read_text(encoding="utf-8")
    assert written == writeParameters(), "python3 tests/test_documentation.py writes it anew"


def testPublishedRecipeKnowsTheBlock():
    script = importlib.import_module("trainingAndValidation")
    for name, (preset, published) in script.PUBLISHED.items():
        assert getattr(script, name) == preset != published, name
    assert vars(script.parseArguments(["--recipe", "published"]))["Nepochs"] == 200


if __name__ == "__main__":
    (ROOT / "docs" / "parameters.md").write_text(writeParameters(), encoding="utf-8")
