"""The parameters of a script, declared once: an annotated line each in the block at its top.

    # particles
    connectivity: Literal[6, 18, 26] = 26  # of the voxels of a particle: faces, edges or corners

The annotation gives type and choices, the comment the meaning, a comment line of its own the group. Flag,
`--help`, the record of a run and docs/parameters.md follow from that line.
"""

import argparse
import inspect
import re
import sys
import types
import typing
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, TypeVar

from engine.base.console import relativePath
from engine.base.errors import PipelineError
from engine.base.words import printable

BLOCK = re.compile(r"^# -+ parameters\n(.*?)^# -{20,}$", re.DOTALL | re.MULTILINE)
LINE = re.compile(r"(?:(\w+): .+? = .*?  )?# (.+)")  # a parameter and its meaning, or the heading of a group
NOTHING = "none"  # in place of a file: there shall be none
KINDS = {int: "whole number", float: "number", bool: "on, off", str: "text", Path: "file or folder"}
Kind = TypeVar("Kind")


class Parameter(NamedTuple):
    """A line of the block."""

    name: str
    group: str
    meaning: str
    kind: type  # int, float, bool, str or Path
    choices: tuple  # empty: any value of the type
    preset: Any  # paths against the folder of the script


class Settings(argparse.Namespace):
    """The effective values of all parameters: `vars` gives these and nothing else.

    Attributes
    ----------
    preset : dict
        The values without a flag: those of the block, or of a recipe.
    given : dict
        The flags that were typed.
    edited : dict
        Constants of the block that were edited and that a recipe therefore leaves alone.
    """

    __slots__ = ("edited", "given", "preset")


# --------------------------------------------------------------------------------------- from lines to values


def declareParameters(script: types.ModuleType) -> list[Parameter]:
    """Read the block of a script: the text of its lines, annotations and values of the module."""
    path = Path(script.__file__).resolve()
    annotations, group, found = inspect.get_annotations(script), "", []
    for line in BLOCK.search(path.read_text(encoding="utf-8"))[1].splitlines():
        if not (match := LINE.fullmatch(line)):
            rule = f"a line of the parameters cannot be read: {line!r}"
            raise PipelineError(rule, file=path, expected="name: type = value  # meaning")
        name, words = match.groups()
        if name is None:
            group = words
            continue
        kind, choices = _readAnnotation(annotations[name])
        preset = _place(getattr(script, name), path.parent) if kind is Path else getattr(script, name)
        found.append(Parameter(name, group, words, kind, choices, preset))
    return found


def _readAnnotation(annotation: Any) -> tuple[type, tuple]:
    """Give type and choices of a parameter; `| None` is said by its preset value alone."""
    if isinstance(annotation, types.UnionType):
        annotation = next(part for part in typing.get_args(annotation) if part is not types.NoneType)
    choices = typing.get_args(annotation)
    return (type(choices[0]) if choices else annotation), choices


def _place(path: str | Path | None, folder: Path) -> Path | None:
    """Put a path of the block into the folder of the script; None where it names nothing."""
    if path is None or str(path) in ("", NOTHING):
        return Path(NOTHING) if path else None
    return folder / path


def readParameters(script: types.ModuleType, argv: list[str] | None = None) -> Settings:
    """Read the command line of a script: one flag a parameter, spelled like it.

    Ends the process with 2 and one line where a value, typed or edited, is none of the parameter's choices.
    """
    parameters = declareParameters(script)
    parser = ScriptParser(script.__doc__, parameters)
    settings = Settings(**{part.name: part.preset for part in parameters})
    settings.preset, settings.edited = dict(vars(settings)), {}
    settings.given = vars(parser.parse_args(_joinNegative(sys.argv[1:] if argv is None else argv)))
    vars(settings).update(settings.given)
    for part in parameters:
        value = getattr(settings, part.name)
        if part.choices and value is not None and value not in part.choices:
            known = ", ".join(map(repr, part.choices))
            parser.error(f"{part.name} is {value!r}, not one of {known}")
    return settings


def _joinNegative(words: list[str]) -> list[str]:
    """Write `--flag -5--1` as `--flag=-5--1`: argparse takes such a value for a flag."""
    joined: list[str] = []
    for word in words:
        isValue = joined and re.match(r"-(\d|\.\d|inf)", word) and re.fullmatch(r"--\w+", joined[-1])
        joined[-1:] = [f"{joined[-1]}={word}"] if isValue else [*joined[-1:], word]
    return joined


def followRecipe(settings: Settings, changes: dict[str, tuple[Any, Any]]) -> Settings:
    """Set what a recipe changes, where neither a flag nor an edited constant says otherwise; in place.

    Parameters
    ----------
    settings : Settings
        Of `readParameters`.
    changes : dict
        {parameter: (value of the block, value of the recipe)}.
    """
    for name, (known, value) in changes.items():
        if settings.preset[name] != known:
            settings.edited[name] = settings.preset[name]
            continue
        settings.preset[name] = value
        setattr(settings, name, settings.given.get(name, value))
    return settings


def pick(kind: type[Kind], settings: Settings) -> Kind:
    """Make a named tuple of the parameters called like its fields; one with a default need not be there."""
    free = {name for name in kind._field_defaults if not hasattr(settings, name)}
    return kind(**{name: getattr(settings, name) for name in kind._fields if name not in free})


# ------------------------------------------------------------------------------------------- the command line


class ScriptParser(argparse.ArgumentParser):
    """Command line of a script; only what was typed appears in what it reads.

    Parameters
    ----------
    description : str
        Docstring of the script.
    parameters : list of Parameter
        A flag each, under the heading of its group.
    """

    def __init__(self, description: str, parameters: list[Parameter]) -> None:
        super().__init__(
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            argument_default=argparse.SUPPRESS,
            allow_abbrev=False,
        )
        groups = {part.group: None for part in parameters}
        groups |= {name: self.add_argument_group(name or None) for name in groups}
        for part in parameters:
            options: dict[str, Any] = {"type": part.kind, "choices": part.choices or None}
            if part.kind is bool:
                options = {"action": argparse.BooleanOptionalAction}
            shown = "" if part.preset in (None, "") else f" [{plainValue(part.preset)}]"
            meaning = f"{part.meaning}{shown}".replace("%", "%%")
            groups[part.group].add_argument(f"--{part.name}", help=meaning, **options)

    def error(self, message: str) -> NoReturn:
        """Leave with 2 and one line."""
        self.exit(2, f"Error: {printable(message)}; --help lists the parameters\n")


# ------------------------------------------------------------------------------------------------ as text


def describeSettings(settings: Settings) -> list[str]:
    """Tell in a line what is not as preset; in a second one what a recipe has left alone."""
    changed = {name: value for name, value in settings.given.items() if value != settings.preset[name]}
    lines = [f"Parameters: {_join(changed) or 'as preset'}"]
    if settings.edited:
        lines.append(f"Edited in the script, so not as the recipe has it: {_join(settings.edited)}")
    return lines


def _join(values: dict[str, Any]) -> str:
    """Write names and values in one line."""
    return "  ".join(f"{name}={plainValue(value)}" for name, value in values.items())


def plainSettings(settings: argparse.Namespace) -> dict[str, Any]:
    """Give the effective values as JSON can hold them."""
    return {name: plainValue(value) for name, value in vars(settings).items()}


def plainValue(value: Any) -> Any:
    """Give a value as JSON can hold it; a path as a user would type it."""
    return str(relativePath(value)) if isinstance(value, Path) else value


def tabulateParameters(script: types.ModuleType) -> str:
    """Write the parameters of a script as tables of Markdown, one a group."""
    folder, tables = Path(script.__file__).resolve().parent, {}
    for part in declareParameters(script):
        preset = part.preset
        if isinstance(preset, bool):
            preset = "on" if preset else "off"
        elif isinstance(preset, Path) and preset.is_absolute():
            preset = preset.relative_to(folder)
        values = ", ".join(f"`{value}`" for value in part.choices if value != "") or KINDS[part.kind]
        flag = f"`--{part.name}`" + (f", `--no-{part.name}`" if part.kind is bool else "")
        head = "| flag | preset | values | meaning |\n|---|---|---|---|"
        row = f"| {flag} | {'' if preset is None else preset} | {values} | {part.meaning} |"
        tables.setdefault(part.group, [head]).append(row)
    return "\n\n".join("\n".join([f"### {group.capitalize()}", "", *rows]) for group, rows in tables.items())
