"""Names of any bytes, as a console, a shell and a page show them."""

import os
import subprocess

import pytest

from engine.base.errors import PipelineError
from engine.base.words import joinWords, printable

NAMES = ["plain", "two words", "it's", "Probé µ", "a\nb", "\x1b[31mred", "back\\slash\n'q'", "\t9"]
NAMES += [os.fsdecode(b"Prob\xe4.nrrd"), os.fsdecode(b"\xff\xfe 1'2\\n")]


@pytest.mark.parametrize("name", NAMES)
def testWhatIsShownIsOneLineOfText(name):
    shown = printable(name)
    assert shown.isprintable() and shown.encode("utf-8").decode() == shown
    assert (shown == name) is name.isprintable()
    assert "\n" not in str(PipelineError("a rule", file=name)) and shown in str(
        PipelineError("a rule", file=name)
    )


def testBytesAreShownAsPythonWritesThem():
    assert printable(os.fsdecode(b"Prob\xe4\n")) == "Prob\\udce4\\n"


@pytest.mark.parametrize("name", NAMES)
def testAShellReadsTheSameWords(name):
    line = joinWords(["printf", "%s", name])
    assert line.isprintable()
    result = subprocess.run(["bash", "-c", line], capture_output=True, check=True)
    assert result.stdout == os.fsencode(name)
