"""A script that kills itself at its n-th write, flush, rename or deletion, for the tests of resuming."""

NEVER = 10**9

BEGIN = """
import os, signal, sys
from pathlib import Path
count, left = int(sys.argv[1]), [int(sys.argv[1])]

def countdown(half=lambda: None):
    left[0] -= 1
    if left[0] == 0:
        half()
        os.kill(os.getpid(), signal.SIGKILL)

def wrap(holder, name):
    original = getattr(holder, name)
    def wrapped(*arguments, **options):
        countdown()
        return original(*arguments, **options)
    setattr(holder, name, wrapped)

for holder, name in ((os, "fsync"), (os, "replace"), (os, "posix_fallocate"), (Path, "unlink")):
    wrap(holder, name)
"""

END = """
from engine.base.console import runScript
runScript(script.main, lambda: script.parseArguments(sys.argv[2:]), "by the test")
if count > 10**8:
    print("events", count - left[0])
"""


def killingScript(wrapWrites: str, script: str) -> str:
    """Give the code: what else counts as an event, and the script's name."""
    return f"{BEGIN}\n{wrapWrites}\nimport {script} as script\n{END}"
