"""The one error that a user can correct, and the end that a user or a scheduler asks for."""

from pathlib import Path

from engine.base.words import printable


class PipelineError(ValueError):
    """A rule of the pipeline that the input breaks, told in one line.

    Parameters
    ----------
    rule : str
        What must hold, or what went wrong.
    file : path, optional
        The file or folder concerned; it opens the line.
    expected, received : object, optional
        The value that the rule asks for and the one that was found.
    remedy : str, optional
        What the user can do about it.
    """

    def __init__(
        self,
        rule: str,
        *,
        file: str | Path | None = None,
        expected: object = None,
        received: object = None,
        remedy: str | None = None,
    ) -> None:
        line = rule if file is None else f"{printable(file)}: {rule}"
        found = [
            f"{word} {value}"
            for word, value in (("expected", expected), ("received", received))
            if value is not None
        ]
        if found:
            line += f" ({', '.join(found)})"
        if remedy:
            line += f"; {remedy}"
        super().__init__(printable(" ".join(line.split())))


class StoppedBySignal(Exception):
    """Work that a signal ended after what it did was saved; the exit status is 128 + its number."""

    def __init__(self, number: int) -> None:
        self.code = 128 + number
        super().__init__(f"signal {number}")
