"""A project in miniature for the tests of the scripts: its data, its commands, what one expects of them."""

import contextlib
import errno
import functools
import itertools
import os
import re
import shlex
import shutil
import subprocess
import sys

import h5py
import matplotlib.image
import nrrd
import numpy as np
import pytest
from places import ROOT

from engine.base.console import runScript
from functions import buildSpotUNet

SCRIPTS = ("prepareData.py", "trainingAndValidation.py", "predictData.py")
DATA_FOLDERS = ("trainingImages", "trainingMasks", "validationImages", "validationMasks")
ARRAYS = ("trainingDataImage", "trainingDataMask", "validationDataImage", "validationDataMask")
SHAPE = (24, 16, 16)
TEST_SHAPE = (22, 16, 13)  # odd along z: the network cannot halve it
CUT = ("--length_subVol_x", "8", "--length_subVol_y", "16", "--nb_rotation", "3")
TINY = ("--recipe", "published", "--base_depth", "2", "--levelCount", "2", "--batchSize", "3")
GEOMETRY = {
    "space": "left-posterior-superior",
    "space directions": np.array([[0.3, 0.4, 0.0], [-0.4, 0.3, 0.0], [0.0, 0.0, 0.65]]),
    "space origin": np.array([10.0, -5.0, 2.5]),
}


def makeVolume(seed, shape=SHAPE):
    """Noisy matrix with dark balls: grey values uint16, and the mask that is 0 inside the balls."""
    generator = np.random.default_rng(seed)
    place = np.indices(shape)
    mask = np.full(shape, 255, np.uint8)
    for centre in generator.uniform(3, np.array(shape) - 3, (4, 3)):
        mask[((place - centre.reshape(3, 1, 1, 1)) ** 2).sum(axis=0) < 3.5**2] = 0
    image = generator.normal(1000, 30, shape) - 300.0 * (mask == 0)
    return image.astype(np.uint16), mask


def writeNrrd(path, array, **fields):
    path.parent.mkdir(parents=True, exist_ok=True)
    nrrd.write(str(path), array, GEOMETRY | fields)


def writeData(folder):
    """Two training pairs and one validation pair in the folders of a project."""
    for part, numbers in (("training", (1, 2)), ("validation", (3,))):
        for number in numbers:
            image, mask = makeVolume(number)
            writeNrrd(folder / f"{part}Images" / f"data_0{number}.nrrd", image)
            writeNrrd(folder / f"{part}Masks" / f"segm_0{number}.nrrd", mask)


def makeProject(folder):
    """Copy the code, without its data and weights, and fill in tiny volumes."""
    shutil.copytree(ROOT / "engine", folder / "engine", ignore=shutil.ignore_patterns("__pycache__"))
    for script in (*SCRIPTS, "functions.py"):
        shutil.copy(ROOT / script, folder)
    for name in (*DATA_FOLDERS, "pythonFiles", "modelAndWeights", "test-file"):
        (folder / name).mkdir()
    writeData(folder)
    image, mask = makeVolume(4, TEST_SHAPE)
    writeNrrd(folder / "test-file" / "test-file_data.nrrd", image)
    writeNrrd(folder / "test-file" / "test-file_mask.nrrd", mask)
    return folder


def runCommand(folder, *command, code=0, **environment):
    """Run a command with this Python in a folder; only a refusal, or TensorFlow under JAX, may use stderr."""
    result = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=500,
        env=os.environ | environment,
        check=False,
    )
    assert result.returncode == code, f"{command}\n{result.stdout}\n{result.stderr}"
    if code == 0 and environment.get("KERAS_BACKEND") != "jax":
        assert result.stderr == ""
    return result


def nextCommand(text, script):
    """Read the command that a script proposes as the next one, as the words after python3."""
    lines = re.findall(r"^Next: python3 (.*)$", text, re.MULTILINE)
    assert len(lines) == 1 and text.endswith(f"{lines[0]}\n")
    words = shlex.split(lines[0])
    assert words[0] == script
    return words


def prepareFlags(folder):
    """Point prepareData.py to the folders of a project."""
    paths = [(f"--{name}", str(folder / name)) for name in DATA_FOLDERS]
    return [*itertools.chain(*paths), "--learningData", str(folder / "pythonFiles"), *CUT]


def trainFlags(folder, modelFolder):
    """Give flags for a tiny network, learnt from and written to these folders."""
    files = {
        "metricsFile": "metrics.log",
        "weightFile": "loss.h5",
        "weightFileTrain": "accuracy.h5",
        "weightFileDice": "dice.h5",
        "modelFile": "net.h5",
    }
    paths = itertools.chain(*((f"--{name}", str(modelFolder / file)) for name, file in files.items()))
    return ["--learningData", str(folder), "--Nepochs", "1", *TINY, *paths]


def predictFlags(inputFile, outputFile, model):
    return ["--nameInput", str(inputFile), "--nameOutput", str(outputFile), "--modelFile", str(model)]


def callMain(script, flags):
    """Run a script's main in this process as its __main__ block does."""
    runScript(script.main, functools.partial(script.parseArguments, [str(flag) for flag in flags]))


def refusal(capfd, script, flags, words):
    """Require exit code 2 and one line on stderr that holds `words`; return it."""
    capfd.readouterr()
    with pytest.raises(SystemExit) as caught:
        callMain(script, flags)
    return checkRefusal(caught.value.code, capfd.readouterr().err, words)


def checkRefusal(code, text, words):
    assert code == 2
    assert re.fullmatch(r"[\r\n]Error: [^\n\r]+\n", text), text  # subprocess reads \r as \n
    for word in [words] if isinstance(words, str) else words:
        assert word in text
    return text


def snapshot(folder):
    """Every file and folder below, files with their time and content: equal means untouched."""
    return {
        path.relative_to(folder): (path.lstat().st_mtime_ns, path.read_bytes()) if path.is_file() else None
        for path in sorted(folder.rglob("*"))
        if "__pycache__" not in path.parts
    }


def partialFiles(folder):
    return sorted(path.name for path in folder.rglob(".partial-*"))


def assertPicture(path, height, width):
    """Require a PNG of at least this size that shows something."""
    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    picture = matplotlib.image.imread(path)[..., :3]
    assert picture.shape[0] >= height and picture.shape[1] >= width
    assert picture.std() > 0.02 and len(np.unique(picture.reshape(-1, 3), axis=0)) > 20


def zScore(array):
    return (array.astype(np.float64) - array.mean(dtype=np.float64)) / array.std(dtype=np.float64)


def cutPlain(array, normalise, areCubes=False):
    """Cut by plain loops: 8 x 16 x 16, unturned, turned in (0, 1) and (1, 2), where cubes take a quarter."""
    samples = []
    for x in range(0, 24, 8):
        part = normalise(array[x : x + 8])
        turned = part.transpose(0, 2, 1)[:, ::-1] if areCubes else part[:, ::-1, ::-1]
        samples += [part, part[::-1, ::-1, :], turned]
    return np.stack(samples)[..., np.newaxis]


def readLog(path):
    """Rows of a log separated by spaces, as {column: [values]}."""
    rows = [line.split(" ") for line in path.read_text().splitlines()]
    assert {len(row) for row in rows} == {len(rows[0])}
    return {name: [float(row[index]) for row in rows[1:]] for index, name in enumerate(rows[0])}


def listModules(script, *flags):
    """Run a script; gives the packages that it loads, and what it prints."""
    command = [sys.executable, "-X", "importtime", ROOT / script, *map(str, flags)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return set(re.findall(r"\|\s+(\w+)[\w.]*$", result.stderr, re.MULTILINE)), result.stdout


def writeHeader(path, lines, content=b""):
    """Write an NRRD by hand; None drops a field."""
    fields = {"type": "uint8", "dimension": "3", "sizes": "24 16 16", "encoding": "raw"} | lines
    text = "".join(f"{name}: {value}\n" for name, value in fields.items() if value is not None)
    path.write_bytes(b"NRRD0004\n" + text.encode() + b"\n" + content)


VOLUME_BYTES = bytes(range(256)) * 24  # 24 x 16 x 16 of one byte


def badVolumes():
    """List what a volume may be like that no script can read, and what it is told."""
    return {
        "no NRRD": (lambda path: path.write_bytes(b"II*\0" + bytes(100)), "is no NRRD file"),
        "empty file": (lambda path: path.write_bytes(b""), "is no NRRD file"),
        "truncated": (lambda path: writeHeader(path, {}, VOLUME_BYTES[:-1]), "truncated"),
        "2D": (
            lambda path: writeHeader(path, {"dimension": 2, "sizes": "64 96"}, VOLUME_BYTES),
            ("is a 2D image", "expected dimension 3"),
        ),
        "4D": (
            lambda path: writeHeader(path, {"dimension": 4, "sizes": "24 16 4 4"}, VOLUME_BYTES),
            "is a 4D data set",
        ),
        "RGB": (
            lambda path: writeHeader(
                path, {"sizes": "3 64 32", "kinds": "RGB-color domain domain"}, VOLUME_BYTES
            ),
            ("axis x is no direction in space", "RGB-color"),
        ),
        "block": (
            lambda path: writeHeader(path, {"type": "block", "block size": 1}, VOLUME_BYTES),
            ("this type of voxel cannot be read", "received block"),
        ),
        "hex": (
            lambda path: writeHeader(path, {"encoding": "hex"}, VOLUME_BYTES.hex().encode()),
            ("encoding that cannot be read", "received hex"),
        ),
        "outside its folder": (
            lambda path: writeHeader(path, {"data file": "../elsewhere.raw"}),
            "the data file must lie in the folder of its header",
        ),
        "missing data file": (
            lambda path: writeHeader(path, {"data file": "nowhere.raw"}),
            "the data file is missing",
        ),
        "broken link": (lambda path: path.symlink_to("nowhere.nrrd"), "there is no such file"),
    }


def spoil(array, *values):
    """Float copy whose first voxels are other values."""
    spoilt = array.astype(np.float32)
    spoilt[0, 0, : len(values)] = values
    return spoilt


def refuseSpace(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@contextlib.contextmanager
def smallDisk(folder, kibibytes):
    """Mount a small file system; only root may."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={kibibytes}k", "none", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("a small file system cannot be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def writeModels(folder, keras):
    """Write a good model of two levels, and some that must be refused; gives the folder."""
    keras.utils.set_random_seed(3)  # two features of a level can be dead in a network drawn anew
    buildSpotUNet(2, 2).save(folder / "good.h5", include_optimizer=False)
    buildSpotUNet(4, 2).save(folder / "wide.h5", include_optimizer=False)
    buildSpotUNet(2, 3).save(folder / "deep.h5", include_optimizer=False)
    good = (folder / "good.h5").read_bytes()
    (folder / "corrupt.h5").write_bytes(good[: len(good) // 2])
    (folder / "noise.h5").write_bytes(np.random.default_rng(1).bytes(5000))
    (folder / "empty.h5").write_bytes(b"")
    model = buildSpotUNet(2, 2)
    output = keras.layers.Lambda(lambda tensor: tensor, name="payload")(model.output)
    keras.Model(model.input, output).save(folder / "lambda.h5", include_optimizer=False)
    dense = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    dense.save(folder / "dense.h5", include_optimizer=False)
    for name in ("link.h5", "notFinite.h5"):
        shutil.copy(folder / "good.h5", folder / name)
        with h5py.File(folder / name, "r+") as file:
            group = file["model_weights/probability"]
            kernel = next(name for name in map(str, group.attrs["weight_names"]) if "kernel" in name)
            if name == "notFinite.h5":
                group[kernel][...] = np.nan
            else:
                del group[kernel]
                group[kernel] = h5py.ExternalLink("secret.h5", "/data")
    with h5py.File(folder / "secret.h5", "w") as file:
        file["data"] = np.ones((1, 1, 1, 2, 1), np.float32)
    return folder
