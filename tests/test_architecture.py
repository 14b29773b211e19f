"""The architecture: who may import whom in engine, who prints, how long a file may be."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest
from places import ROOT

ARROWS = {
    "base": set(),
    "volumes": {"base"},
    "formats": {"volumes", "base"},
    "masks": {"formats", "volumes", "base"},
    "network": {"base"},
    "preparation": {"masks", "formats", "volumes", "base"},
    "measures": {"volumes", "base"},
    "learning": {"preparation", "network", "measures", "base"},
    "prediction": {"network", "formats", "volumes", "base"},
    "results": {"measures", "masks", "formats", "volumes", "base"},
}
SCRIPTS = ("prepareData", "trainingAndValidation", "predictData")
PRINTING = re.compile(r"(builtins\.)?print|(sys\.)?(__)?std(out|err)(__)?(\.buffer)?\.write(lines)?")
MODULES = sorted((ROOT / "engine").rglob("*.py"))
LIMITS = {
    **{path.relative_to(ROOT).as_posix(): 400 for path in MODULES},
    "functions.py": 600,
    **{f"{script}.py": 250 for script in SCRIPTS},
}


def nameOf(path) -> str:
    """Give the name by which a file of engine is imported."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {nameOf(path): path for path in MODULES}


@cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def listImports(nodes, package: str) -> list[tuple[int, str]]:
    """List what statements import, as (line, module), for a file of a package; `a.b` of `from a import b`."""
    found = []
    for node in nodes:
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *([base] if base else [])])
            found += [(node.lineno, f"{base}.{alias.name}") for alias in node.names]
    return found


def packageOf(path) -> str:
    """Give the package of a file of engine: that in which it lies."""
    return ".".join(path.relative_to(ROOT).parent.parts)


def everyImport(path) -> list[tuple[int, str]]:
    """List the imports of a file, those inside of functions too."""
    return listImports(ast.walk(parse(path)), packageOf(path))


def importsAtOnce(path) -> list[tuple[int, str]]:
    """List the imports that come with the import of a file: those outside of functions."""

    def walk(nodes):
        for node in nodes:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                continue
            if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
                yield from walk(node.orelse)  # types alone are never imported
                continue
            yield node
            yield from walk(ast.iter_child_nodes(node))

    return listImports(walk(parse(path).body), packageOf(path))


def resolve(name: str) -> str:
    """Give the module of engine that an imported name means or lies in; "" for any other."""
    parts = name.split(".")
    known = (".".join(parts[:count]) for count in range(len(parts), 0, -1))
    return next((prefix for prefix in known if prefix in NAMES), "")


def judgeArrow(source: str, target: str) -> str:
    """Say which rule an import breaks, from the name of the module and what it imports; "" for none."""
    if target.split(".")[0] in ("functions", *SCRIPTS):
        return "nothing in engine imports functions or a script"
    if target.split(".")[0] != "engine":
        return ""
    own, other = ((name.split(".") + [""])[1] for name in (source, target))
    if own not in ARROWS:
        return "a module of engine lies in one of its packages"
    if other not in ARROWS:
        return f"engine/{own} imports packages of engine, which {target} is not"
    if other != own and other not in ARROWS[own]:
        return f"engine/{own} may import {', '.join(sorted(ARROWS[own])) or 'nothing'}, not {other}"
    return ""


def refuse(found) -> None:
    """Fail with a line for each (path, line, rule)."""
    __tracebackhide__ = True
    lines = dict.fromkeys(f"{path.relative_to(ROOT)}:{line}: {rule}" for path, line, rule in found)
    if lines:
        pytest.fail("\n".join(lines))


def isPrinting(node) -> bool:
    """Whether a node is a call of print, or of write of sys.stdout or sys.stderr."""
    return isinstance(node, ast.Call) and bool(PRINTING.fullmatch(ast.unparse(node.func)))


@pytest.mark.parametrize("path", MODULES, ids=nameOf)
def testImportsFollowTheArrows(path):
    judged = [(path, line, judgeArrow(nameOf(path), name)) for line, name in everyImport(path)]
    refuse([found for found in judged if found[-1]])


def testModulesImportOneAnotherInNoCircle():
    arrows = {
        name: [(line, resolve(target)) for line, target in importsAtOnce(path) if resolve(target)]
        for name, path in NAMES.items()
    }
    circles, finished = [], set()

    def follow(name, way):
        for line, target in arrows[name]:
            if target in way:
                circle = " -> ".join([*way[way.index(target) :], target])
                circles.append((NAMES[name], line, f"no circle of imports: {circle}"))
            elif target not in finished:
                follow(target, [*way, target])
        finished.add(name)

    for name in arrows:
        if name not in finished:
            follow(name, [name])
    refuse(circles)


def testPackagesImportNothingByThemselves():
    rule = "an __init__.py of engine imports nothing"
    packages = [path for path in MODULES if path.name == "__init__.py"]
    refuse([(path, line, rule) for path in packages for line, _ in everyImport(path)])


def testEveryPackageOfTheEngineHasItsArrows():
    folders = {path.parent.name for path in MODULES if path.parent != ROOT / "engine"}
    assert folders == set(ARROWS), "every package of engine needs its line in ARROWS, and none else"


@pytest.mark.parametrize("path", MODULES, ids=nameOf)
def testOnlyTheConsolePrints(path):
    if nameOf(path) == "engine.base.console":
        assert any(map(isPrinting, ast.walk(parse(path))))  # the search finds what there is
        return
    rule = "only engine/base/console.py prints"
    refuse([(path, node.lineno, rule) for node in ast.walk(parse(path)) if isPrinting(node)])


@pytest.mark.parametrize("name", LIMITS)
def testFilesStayShort(name):
    count, limit = len((ROOT / name).read_text().splitlines()), LIMITS[name]
    refuse([(ROOT / name, count, f"{count} lines, at most {limit} are allowed")] if count > limit else [])


# ------------------------------------------------------------------------------------------- the rules bite


@pytest.mark.parametrize(
    ("source", "target", "word"),
    [
        ("engine.base.files", "engine.volumes.frame", "may import nothing, not volumes"),
        (
            "engine.results.report",
            "engine.network.devices.loadKeras",
            "may import base, formats, masks, measures, volumes",
        ),
        ("engine.network.models", "functions.readModel", "nothing in engine imports functions"),
        ("engine.network.models", "predictData", "nothing in engine imports functions or a script"),
        ("engine.formats.tiff", "engine.figures", "which engine.figures is not"),
        ("engine.loose", "engine.base", "lies in one of its packages"),
    ],
)
def testForbiddenImportsAreNoticed(source, target, word):
    assert word in judgeArrow(source, target)


@pytest.mark.parametrize(
    "target", ["numpy", "engine.base.files", "engine.volumes.frame.Frame", "functionsOf"]
)
def testAllowedImportsAreLeftAlone(target):
    assert judgeArrow("engine.formats.tiff", target) == ""


def testImportsAreFoundWhereverTheyStand():
    code = "import a.b\nfrom c import d, e\ndef f():\n    from . import g\n    from ..h import i\n"
    names = [name for _, name in listImports(ast.walk(ast.parse(code)), "engine.base")]
    assert sorted(names) == ["a.b", "c.d", "c.e", "engine.base.g", "engine.h.i"]


@pytest.mark.parametrize(
    ("code", "isFound"),
    [
        ("print(1)", True),
        ("sys.stdout.write('a')", True),
        ("sys.stderr.write('a')", True),
        ("sys.stderr.buffer.write(b'a')", True),
        ("file.write('a')", False),
        ("tqdm(file=sys.stdout)", False),
        ("printer(1)", False),
    ],
)
def testPrintingIsNoticed(code, isFound):
    assert any(map(isPrinting, ast.walk(ast.parse(code)))) is isFound
