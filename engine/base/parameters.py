"""The parameters of a script, declared once: an annotated line each at its top."""

import argparse
import re
from pathlib import Path
from typing import NoReturn

from engine.base.console import relativePath


class ScriptParser(argparse.ArgumentParser):
    """Command line of a script; what a flag means is the comment behind its constant.

    Parameters
    ----------
    script : path
        File with lines `name = value  # meaning`.
    description : str
        Docstring of the script.
    """

    def __init__(self, script: str | Path, description: str) -> None:
        formatter = argparse.RawDescriptionHelpFormatter
        super().__init__(description=description, formatter_class=formatter, allow_abbrev=False)
        comments = re.findall(
            r"^(\w+) = .*?  # (.+)$", Path(script).read_text(encoding="utf-8"), re.MULTILINE
        )
        self.meanings = {name: meaning.replace("%", "%%") for name, meaning in comments}

    def addFlag(self, name: str, **options) -> None:
        """Add a flag that is spelled like its constant."""
        default, meaning = options.get("default"), self.meanings.get(name)
        if meaning and default not in (None, "") and "action" not in options:
            shown = str(relativePath(default) if isinstance(default, Path) else default)
            meaning += f" [{shown.replace('%', '%%')}]"
        self.add_argument(f"--{name}", **{"help": meaning} | options)

    def parse_args(self, argv=None, namespace=None) -> argparse.Namespace:
        """Read the command line; constants that were edited must be among the choices of their flags too."""
        arguments = super().parse_args(argv, namespace)
        for action in self._actions:
            value = getattr(arguments, action.dest, None)
            if action.choices is not None and value is not None and value not in action.choices:
                known = ", ".join(map(repr, action.choices))
                self.error(f"{action.dest} is {value!r}, not one of {known}")
        return arguments

    def error(self, message: str) -> NoReturn:
        """Leave with 2 and one line."""
        self.exit(2, f"Error: {message}; --help lists the parameters\n")


def printSettings(arguments) -> None:
    """Print the effective values of all parameters, once."""
    print("Parameters: " + "  ".join(f"{name}={value}" for name, value in plainSettings(arguments).items()))


def plainSettings(arguments) -> dict:
    """Parameters as JSON can hold them."""
    return {
        name: str(relativePath(value)) if isinstance(value, Path) else value
        for name, value in vars(arguments).items()
    }
