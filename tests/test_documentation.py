"""README and docs/: links, flags, paths; run as a script it writes docs/parameters.md anew."""

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
FOREIGN = {"help", "folder", "logdir", "baseline", "training", "signal", "tables", "instructions", "threads"}
INTRODUCTION = """# Parameters

Every parameter is a constant at the top of its script and a flag of the same name: `--Nepochs 2`. Change it
there for good, or give the flag for once. `--help` shows this table too. A path given as a flag is relative
to the folder you are in; the presets belong to the folder of the scripts. This page is written from the
scripts (`python3 tests/test_documentation.py`).
"""


def writeParameters():
    """Write the text of docs/parameters.md."""
    parts = [INTRODUCTION]
    for name in SCRIPTS:
        parts.append(f"\n## {name}.py\n\n{tabulateParameters(importlib.import_module(name))}\n")
    return "".join(parts)


def anchorsOf(page):
    """Give the anchors of the headings of a page, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def testLinksLeadSomewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), f"{page.name}: {target}"
        assert not anchor or anchor in anchorsOf(found), f"{page.name}: {target}"


@pytest.mark.parametrize("page", PAGES[:-1], ids=NAMES[:-1])
def testFlagsExist(page):
    known = {part.name for name in SCRIPTS for part in declareParameters(importlib.import_module(name))}
    known |= {f"no-{name}" for name in known}
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
