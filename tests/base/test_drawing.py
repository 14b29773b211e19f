"""Pictures: no display is asked for, and one that cannot be drawn ends nothing."""

import logging
import os
import subprocess
import sys

import pytest
from places import ROOT

from engine.base.drawing import leaveOutFailures, makeFigure, saveFigure
from engine.base.errors import PipelineError, StoppedBySignal

BACKENDS = ["nonsense", "module://matplotlib_inline.backend_inline", "module://nowhere", "tkagg", ""]
DRAW = (
    "import os, sys\n"
    "from engine.base.drawing import leaveOutFailures, makeFigure, saveFigure\n"
    "@leaveOutFailures\n"
    "def draw(path): saveFigure(makeFigure(), path)\n"
    "draw(sys.argv[1])\n"
    "print(os.environ.get('MPLBACKEND'), 'matplotlib.pyplot' in sys.modules)\n"
)


def runCode(code, *words, **environment):
    command = [sys.executable, "-c", code, *map(str, words)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=os.environ | environment)


@pytest.mark.parametrize("backend", BACKENDS)
def testAPictureIsDrawnWhateverTheBackEndOfANotebook(tmp_path, backend):
    result = runCode(DRAW, tmp_path / "a.png", MPLBACKEND=backend)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == f"{backend} False\n"  # the user's pictures stay where they were to appear
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def testAPictureIsDrawnWithoutAnyFolderOfAUser(tmp_path):
    folders = dict.fromkeys(
        ("HOME", "MPLCONFIGDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "TMPDIR"), "/proc/none"
    )
    result = runCode(DRAW, tmp_path / "a.png", **folders)
    assert (result.returncode, result.stderr) == (0, "")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("backend", ["nonsense", "module://nowhere"])
def testKerasIsImportedWhateverTheBackEndOfANotebook(backend):
    code = "from engine.network.devices import loadKeras; print(loadKeras().__name__)"
    result = runCode(code, MPLBACKEND=backend)
    assert (result.returncode, result.stdout) == (0, "keras\n"), result.stderr


def testKerasIsImportedWhereMatplotlibCannotBe(tmp_path):
    (tmp_path / "matplotlib").mkdir()
    (tmp_path / "matplotlib" / "__init__.py").write_text("raise OSError('no library')")
    code = "from engine.network.devices import loadKeras; print(loadKeras().__name__)"
    result = runCode(code, PYTHONPATH=str(tmp_path))
    assert (result.returncode, result.stdout) == (0, "keras\n"), result.stderr
    result = runCode(DRAW, tmp_path / "a.png", PYTHONPATH=str(tmp_path))
    assert result.returncode == 0, result.stderr
    assert result.stderr == f"{tmp_path / 'a.png'} cannot be drawn (OSError: no library)\n"


def testTheBackEndOfTheProcessIsKept(tmp_path):
    code = (
        "import matplotlib; matplotlib.use('svg'); import matplotlib.pyplot as plt; plt.plot([1])\n"
        "matplotlib.rcParams['lines.linewidth'] = 7\n" + DRAW + "print(matplotlib.get_backend(), "
        "len(plt.get_fignums()), matplotlib.rcParams['lines.linewidth'])"
    )
    result = runCode(code, tmp_path / "a.png", MPLBACKEND="agg")
    assert result.stdout.splitlines()[-1] == "svg 1 7.0", result.stderr


@pytest.mark.parametrize(
    "content", ["text.usetex: True\nfont.family: nowhere\n", "nonsense\nlines.color", b"\xff\xfe"]
)
def testSettingsOfAUserChangeNothing(tmp_path, content):
    content = content.encode() if isinstance(content, str) else content
    (tmp_path / "matplotlibrc").write_bytes(content)
    code = DRAW.replace("saveFigure(", "f = makeFigure(); f.subplots().set_title('a'); saveFigure(")
    result = runCode(code, tmp_path / "a.png", MATPLOTLIBRC=str(tmp_path / "matplotlibrc"), MPLBACKEND="")
    assert result.returncode == 0
    drawn = (tmp_path / "a.png").exists()
    assert drawn == (result.stderr == "") and (drawn or content == b"\xff\xfe")
    assert drawn or result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "error", [RuntimeError("a\nb"), OSError(13, "denied", "font"), MemoryError(), ImportError("x")]
)
def testAPictureThatCannotBeDrawnIsTold(tmp_path, caplog, error):
    path = tmp_path / "a.png"

    @leaveOutFailures
    def draw(path):
        raise error

    for _ in range(2):
        draw(path=path)
    assert len(caplog.records) == 1 and caplog.records[0].levelno == logging.WARNING
    line = caplog.records[0].getMessage()
    assert line.startswith(f"{path} cannot be drawn ({type(error).__name__}") and "\n" not in line
    assert not path.exists()


def testAnOlderPictureIsTold(tmp_path, caplog):
    (tmp_path / "a.png").write_bytes(b"old")

    @leaveOutFailures
    def draw(path):
        saveFigure(None, path)

    draw(tmp_path / "a.png")
    assert caplog.text.rstrip().endswith("the file of this name is older")
    assert (tmp_path / "a.png").read_bytes() == b"old"


@pytest.mark.parametrize(
    "error", [PipelineError("the disk is full"), StoppedBySignal(15), KeyboardInterrupt()]
)
def testWhatEndsARunEndsIt(tmp_path, error):
    @leaveOutFailures
    def draw(path):
        raise error

    with pytest.raises(type(error)):
        draw(tmp_path / "a.png")


def testAPictureIsDrawnInTheStyleOfMatplotlib(tmp_path):
    import matplotlib

    @leaveOutFailures
    def draw(path):
        assert matplotlib.rcParams["lines.linewidth"] == 1.5
        saveFigure(makeFigure(), path)

    with matplotlib.rc_context({"lines.linewidth": 9}):
        draw(tmp_path / "a.png")
        assert matplotlib.rcParams["lines.linewidth"] == 9
    assert (tmp_path / "a.png").exists()
