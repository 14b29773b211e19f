"""Names as a console, a shell and a page can show them: a file may be called anything."""

import os
import re
import shlex
from collections.abc import Iterable

SURROGATES = re.compile("[\ud800-\udfff]")  # as which Python reads the bytes of a name that are no text


def printable(text: object) -> str:
    r"""Write a text in one line that any console takes: what cannot be printed as \n, \xe4 or \udce4."""
    letters = str(text)
    if letters.isprintable():
        return letters
    return "".join(part if part.isprintable() else _escape(part) for part in letters)


def _escape(letter: str) -> str:
    """Write a letter that cannot be printed as Python would."""
    return letter.encode("unicode_escape").decode("ascii")


def joinWords(words: Iterable[str]) -> str:
    r"""Join the words of a command for a shell; those that cannot be printed as $'Prob\344'."""
    return " ".join(shlex.quote(word) if word.isprintable() else _quoteBytes(word) for word in words)


def _quoteBytes(word: str) -> str:
    r"""Quote a word with its bytes, as Bash, Zsh and POSIX of 2024 read them: $'a\012b'."""
    shown = {byte: chr(byte) for byte in range(32, 127)} | {ord(mark): f"\\{mark}" for mark in "\\'"}
    letters = (shown.get(byte) or f"\\{byte:03o}" for byte in os.fsencode(word))
    return f"$'{''.join(letters)}'"
