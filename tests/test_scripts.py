"""The three scripts from end to end: what they write, what they say, and how they refuse bad input.

What needs a process of its own (exit codes, signals, imports) has one, in a copy of the project.
The rest calls the same `main` through `runScript`, because a process that loads TensorFlow costs seconds.
"""

import ast
import contextlib
import errno
import functools
import hashlib
import itertools
import json
import os
import pickle
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import matplotlib.image
import nrrd
import numpy as np
import pytest

import engine.base.files
import predictData
import prepareData
import trainingAndValidation
from engine.base.console import runScript

ROOT = Path(__file__).resolve().parents[1]
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
PUBLISHED_COLUMNS = {"loss", "binary_accuracy", "tp", "tn", "fp", "fn"}
MORE_COLUMNS = {"precision", "recall", "dice", "iou"}


# ---------------------------------------------------------------------------------------------------- helpers


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


def predictPlain(model, image):
    """One pass of Keras over a z-scored volume whose odd sides are mirrored at the far end and cropped."""
    padded = np.pad(zScore(image), [(0, side % 2) for side in image.shape], mode="symmetric")
    probability = model.predict(padded[np.newaxis, ..., np.newaxis].astype(np.float32), verbose=0)
    return probability[0, ..., 0][tuple(slice(side) for side in image.shape)]


@pytest.fixture(scope="module")
def keras():
    """Keras in this process, loaded as quietly as the scripts do it."""
    from engine.network.devices import loadKeras

    return loadKeras()


@pytest.fixture
def data(tmp_path):
    """Folders of a project with tiny pairs, without code."""
    writeData(tmp_path)
    (tmp_path / "pythonFiles").mkdir()
    return tmp_path


@pytest.fixture
def prepared(data, capfd):
    """Folders of a project after prepareData.py."""
    callMain(prepareData, prepareFlags(data))
    return data


# ------------------------------------------------------------------------------------------------- happy path


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Prepare, train and predict by the commands that the scripts themselves propose."""
    folder = makeProject(tmp_path_factory.mktemp("project"))
    texts = {"prepare": runCommand(folder, "prepareData.py", *CUT).stdout}
    train = nextCommand(texts["prepare"], "trainingAndValidation.py")
    texts["train"] = runCommand(folder, *train, "--Nepochs", 2, *TINY).stdout
    predict = nextCommand(texts["train"], "predictData.py")
    texts["predict"] = runCommand(folder, *predict).stdout
    return folder, texts


def cutPlain(array, normalise):
    """Cut by three plain loops: 8 x 16 x 16, unturned, half turn in (0, 1), quarter turn in (1, 2)."""
    samples = []
    for x in range(0, 24, 8):
        part = normalise(array[x : x + 8])
        samples += [part, part[::-1, ::-1, :], part.transpose(0, 2, 1)[:, ::-1, :]]
    return np.stack(samples)[..., np.newaxis]


def testPreparedArraysAreWhatPlainNumPyMakes(run):
    folder, _ = run
    for part, numbers in (("training", (1, 2)), ("validation", (3,))):
        pairs = [makeVolume(number) for number in numbers]
        images = np.load(folder / "pythonFiles" / f"{part}DataImage.npy")
        masks = np.load(folder / "pythonFiles" / f"{part}DataMask.npy")
        assert images.dtype == np.float32 and masks.dtype == bool
        assert images.shape == masks.shape == (9 * len(pairs), 8, 16, 16, 1)
        np.testing.assert_allclose(images, np.concatenate([cutPlain(i, zScore) for i, _ in pairs]), atol=2e-5)
        np.testing.assert_array_equal(masks, np.concatenate([cutPlain(m == 0, np.array) for _, m in pairs]))


def testParametersTellInputsOutputsAndVersions(run):
    folder, _ = run
    record = json.loads((folder / "pythonFiles" / "parameters.json").read_text())
    assert record["parameters"] == {
        "length_subVol_x": 8,
        "length_subVol_y": 16,
        "length_subVol_z": 0,
        "nb_subVol_x": 0,
        "nb_subVol_y": 0,
        "nb_subVol_z": 0,
        "nb_rotation": 3,
        "positiveLabel": [0],
        "normalization": "subVolume",
        "cover": False,
    }
    files = [path for name in DATA_FOLDERS for path in (folder / name).iterdir()]
    assert record["inputs"] == {
        f"{path.parent.name}/{path.name}": hashlib.sha256(path.read_bytes()).hexdigest() for path in files
    }
    for name in ARRAYS:
        array = np.load(folder / "pythonFiles" / f"{name}.npy", mmap_mode="r")
        assert record["outputs"][f"{name}.npy"] == {"shape": list(array.shape), "dtype": str(array.dtype)}
    assert record["versions"]["numpy"] == np.__version__


def testPrepareTellsWhichMaskBelongsToWhichImage(run):
    text = run[1]["prepare"]
    for number in (1, 2, 3):
        _, mask = makeVolume(number)
        line = next(line for line in text.splitlines() if f"data_0{number}.nrrd" in line)
        assert f"<->  segm_0{number}.nrrd" in line and "24x16x16 uint16" in line
        assert f"{(mask == 0).mean():.3%} positive" in line and "100.0% of the voxels used" in line


def readLog(path):
    """Rows of a log separated by spaces, as {column: [values]}."""
    rows = [line.split(" ") for line in path.read_text().splitlines()]
    assert {len(row) for row in rows} == {len(rows[0])}
    return {name: [float(row[index]) for row in rows[1:]] for index, name in enumerate(rows[0])}


def testMetricsLogHasThePublishedColumnsAndOneRowAnEpoch(run):
    folder, _ = run
    log = readLog(folder / "modelAndWeights" / "metrics.log")
    columns = PUBLISHED_COLUMNS | MORE_COLUMNS
    assert set(log) == {"epoch", "learning_rate", *columns, *(f"val_{name}" for name in columns)}
    assert log["epoch"] == [0, 1]
    for prefix, part in (("", "training"), ("val_", "validation")):
        mask = np.load(folder / "pythonFiles" / f"{part}DataMask.npy")
        tp, tn, fp, fn = (np.array(log[prefix + name]) for name in ("tp", "tn", "fp", "fn"))
        assert (tp + fn == mask.sum()).all() and (tn + fp == (~mask).sum()).all()
        np.testing.assert_allclose(log[f"{prefix}binary_accuracy"], (tp + tn) / mask.size, atol=1e-4)
        dice = np.divide(2 * tp, 2 * tp + fp + fn)
        np.testing.assert_allclose(log[f"{prefix}dice"], dice, atol=1e-6)
        np.testing.assert_allclose(log[f"{prefix}iou"], dice / (2 - dice), atol=1e-6)
    assert log["learning_rate"] == pytest.approx([0.005, 0.005])
    assert log["loss"][1] < log["loss"][0]


def testContractDescribesTheTrainingAndTheFiles(run):
    folder, _ = run
    models = folder / "modelAndWeights"
    contract = json.loads((models / "current-uNet_model.json").read_text())
    assert contract["architecture"]["base_depth"] == 2 and contract["architecture"]["levelCount"] == 2
    assert contract["normalization"] == "subVolume" and contract["positiveLabel"] == [0]
    assert contract["files"] == {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in models.glob("*.h5")
    }
    assert len(contract["files"]) == 4
    assert contract["thresholds"].keys() == contract["files"].keys()
    assert contract["data"] == json.loads((folder / "pythonFiles" / "parameters.json").read_text())
    log = readLog(models / "metrics.log")
    metrics = (("val_loss", np.argmin), ("val_binary_accuracy", np.argmax), ("val_dice", np.argmax))
    for metric, better in metrics:
        row = int(better(log[metric]))
        best = contract["bestValidation"][metric]
        assert best["epoch"] == row + 1
        assert best["loss"] == pytest.approx(log["val_loss"][row])
        tp, fp, fn = (log[f"val_{name}"][row] for name in ("tp", "fp", "fn"))
        assert best["recall"] == pytest.approx(tp / (tp + fn))
        assert best["dice"] == pytest.approx(2 * tp / (2 * tp + fp + fn))
    training = contract["training"]
    assert training["command"].startswith("python3 trainingAndValidation.py")
    assert training["parameters"]["Nepochs"] == 2 and training["parameters"]["batchSize"] == 3
    assert training["versions"]["keras"] and training["device"] and training["startedFrom"] is None


def testCheckpointsLoadInKeras(run, keras):
    folder, _ = run
    models = folder / "modelAndWeights"
    contract = json.loads((models / "current-uNet_model.json").read_text())
    images = np.load(folder / "pythonFiles" / "validationDataImage.npy")
    masks = np.load(folder / "pythonFiles" / "validationDataMask.npy")
    for name in ("current-best_modelWeight_val-loss", "current-best_modelWeight_val-accuracy"):
        model = keras.models.load_model(models / f"{name}.h5", compile=False)
        assert model.count_params() == contract["architecture"]["parameterCount"]
        metric = "val_loss" if name.endswith("loss") else "val_binary_accuracy"
        accuracy = ((model.predict(images, verbose=0) > 0.5) == masks).mean()
        assert accuracy == pytest.approx(contract["bestValidation"][metric]["binary_accuracy"], abs=1e-3)
    keras.models.load_model(models / "current-uNet_model.h5", compile=False)


def testPicturesShowSomething(run):
    folder, _ = run
    assertPicture(folder / "modelAndWeights" / "trainingCurves.png", 600, 900)
    assertPicture(folder / "modelAndWeights" / "validationExample.png", 600, 900)
    assertPicture(folder / "test-file" / "test-file_segmented_overview.png", 600, 1000)


def testNothingElseIsWritten(run):
    folder, _ = run
    assert {path.name for path in (folder / "pythonFiles").iterdir()} == {
        *(f"{name}.npy" for name in ARRAYS),
        "parameters.json",
    }
    assert {path.name for path in (folder / "modelAndWeights").iterdir()} == {
        "current-best_modelWeight_val-loss.h5",
        "current-best_modelWeight_val-accuracy.h5",
        "current-best_modelWeight_val-dice.h5",
        "current-uNet_model.h5",
        "current-uNet_model.json",
        "metrics.log",
        "trainingCurves.png",
        "validationExample.png",
    }
    results = (".nrrd", ".json", "_mask.nrrd", "_mask.seg.nrrd", "_labels.nrrd", "_particles.csv")
    more = ("_summary.json", "_scores.json", "_errors.csv", "_report.html", "_overview.png")
    assert {path.name for path in (folder / "test-file").iterdir()} == {
        "test-file_data.nrrd",
        "test-file_mask.nrrd",
        *(f"test-file_segmented{ending}" for ending in (*results, *more)),
    }


def testPredictionKeepsGeometryAndEqualsOnePassOfKeras(run, keras):
    folder, _ = run
    probability, header = nrrd.read(str(folder / "test-file" / "test-file_segmented.nrrd"))
    assert probability.dtype == np.float32 and probability.shape == TEST_SHAPE
    assert probability.min() >= 0 and probability.max() <= 1 and probability.std() > 0
    for name, value in GEOMETRY.items():
        np.testing.assert_array_equal(header[name], value)
    model = keras.models.load_model(
        folder / "modelAndWeights" / "current-best_modelWeight_val-dice.h5", compile=False
    )
    np.testing.assert_allclose(probability, predictPlain(model, makeVolume(4, TEST_SHAPE)[0]), atol=1e-5)


def testPredictionRecordsScoresAndInputs(run):
    folder, texts = run
    record = json.loads((folder / "test-file" / "test-file_segmented.json").read_text())
    positive = nrrd.read(str(folder / "test-file" / "test-file_segmented.nrrd"))[0] >= record["threshold"]
    mask = makeVolume(4, TEST_SHAPE)[1] == 0
    tp, fp, fn = (positive & mask).sum(), (positive & ~mask).sum(), (~positive & mask).sum()
    assert [record["scores"][name] for name in ("tp", "fp", "fn")] == [tp, fp, fn]
    assert record["scores"]["dice"] == pytest.approx(2 * tp / (2 * tp + fp + fn), nan_ok=True)
    assert record["region"] == [[0, side] for side in TEST_SHAPE]
    weights = folder / "modelAndWeights" / "current-best_modelWeight_val-dice.h5"
    assert hashlib.sha256(weights.read_bytes()).hexdigest() in record["inputs"].values()
    assert "training used another scheme: each sub-volume by itself" in texts["predict"]
    assert "Scores against test-file_mask.nrrd" in texts["predict"]


def testRegionIsPredictedByItselfAndItsOriginMoves(run, keras, tmp_path, capfd):
    folder, _ = run
    model = folder / "modelAndWeights" / "current-best_modelWeight_val-loss.h5"
    flags = predictFlags(folder / "test-file" / "test-file_data.nrrd", tmp_path / "part.nrrd", model)
    callMain(predictData, [*flags, "--x1", 3, "--x2", 20, "--y2", 12, "--z1", 2])
    probability, header = nrrd.read(str(tmp_path / "part.nrrd"))
    assert probability.shape == (17, 12, 11)
    origin = GEOMETRY["space origin"] + np.array([3, 0, 2]) @ GEOMETRY["space directions"]
    np.testing.assert_allclose(header["space origin"], origin, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(header["space directions"], GEOMETRY["space directions"])
    part = makeVolume(4, TEST_SHAPE)[0][3:20, :12, 2:]
    expected = predictPlain(keras.models.load_model(model, compile=False), part)
    np.testing.assert_allclose(probability, expected, atol=1e-5)
    scores = json.loads((tmp_path / "part.json").read_text())["scores"]
    assert scores["tp"] + scores["fn"] == (makeVolume(4, TEST_SHAPE)[1][3:20, :12, 2:] == 0).sum()


# --------------------------------------------------------------------------------------------- prepare again


def testSecondPrepareKeepsTheFilesUntilSomethingChanges(prepared, capfd):
    folder = prepared / "pythonFiles"
    before = snapshot(folder)
    capfd.readouterr()
    callMain(prepareData, prepareFlags(prepared))
    assert "Nothing changed since the last run" in capfd.readouterr().out
    assert snapshot(folder) == before
    callMain(prepareData, [*prepareFlags(prepared), "--force"])
    after = snapshot(folder)
    assert all(after[path][0] > before[path][0] for path in before)
    assert {path: content for path, (_, content) in after.items()} == {
        path: content for path, (_, content) in before.items()
    }


@pytest.mark.parametrize("damage", ["truncate", "delete", "other type"])
def testPrepareRepeatsWhereAResultIsDamaged(prepared, damage):
    path = prepared / "pythonFiles" / "validationDataMask.npy"
    good = path.read_bytes()
    if damage == "truncate":
        path.write_bytes(good[:-1])
    elif damage == "delete":
        path.unlink()
    else:
        np.save(path, np.load(path).astype(np.uint8))
    callMain(prepareData, prepareFlags(prepared))
    assert path.read_bytes() == good


def testPrepareRepeatsForOtherParametersAndInputs(prepared, capfd):
    callMain(prepareData, [*prepareFlags(prepared), "--positiveLabel", "255"])
    mask = np.load(prepared / "pythonFiles" / "validationDataMask.npy")
    np.testing.assert_array_equal(mask, cutPlain(makeVolume(3)[1] == 255, np.array))
    writeNrrd(prepared / "validationMasks" / "segm_03.nrrd", makeVolume(5)[1])
    callMain(prepareData, [*prepareFlags(prepared), "--positiveLabel", "255"])
    mask = np.load(prepared / "pythonFiles" / "validationDataMask.npy")
    np.testing.assert_array_equal(mask, cutPlain(makeVolume(5)[1] == 255, np.array))


def testPrepareNoticesAChangeWhereBothSetsHaveFoldersAndFilesOfOneName(tmp_path):
    flags = ["--learningData", tmp_path, *CUT]
    for part, number in (("training", 1), ("validation", 2)):
        image, mask = makeVolume(number)
        writeNrrd(tmp_path / part / "images" / "volume.nrrd", image)
        writeNrrd(tmp_path / part / "masks" / "volume.nrrd", mask)
        flags += [f"--{part}Images", tmp_path / part / "images", f"--{part}Masks", tmp_path / part / "masks"]
    callMain(prepareData, flags)
    writeNrrd(tmp_path / "training" / "images" / "volume.nrrd", makeVolume(3)[0])
    callMain(prepareData, flags)
    images = np.load(tmp_path / "trainingDataImage.npy")
    np.testing.assert_allclose(images, cutPlain(makeVolume(3)[0], zScore), atol=2e-5)


def testPrepareReadsDetachedHeadersInAFolderNamedFromHere(data, monkeypatch):
    (data / "trainingImages" / "data_01.nrrd").unlink()
    image = makeVolume(1)[0]
    nrrd.write(str(data / "trainingImages" / "data_01.nhdr"), image, GEOMETRY | {"encoding": "raw"})
    monkeypatch.chdir(data)
    callMain(prepareData, prepareFlags(Path()))
    images = np.load(data / "pythonFiles" / "trainingDataImage.npy")
    np.testing.assert_allclose(images[:9], cutPlain(image, zScore), atol=2e-5)


def testScriptsReadAVolumeOfOneFileASlice(data, models, tmp_path):
    image = makeVolume(1)[0]
    folder = data / "trainingImages"
    (folder / "data_01.nrrd").unlink()
    names = [f"slice{z}.raw" for z in range(image.shape[2])]
    for z, name in enumerate(names):
        image[:, :, z].T.tofile(folder / name)
    sizes = " ".join(map(str, image.shape))
    header = f"NRRD0004\ntype: uint16\ndimension: 3\nsizes: {sizes}\nendian: little\nencoding: raw\n"
    (folder / "data_01.nhdr").write_text(header + "data file: LIST\n" + "\n".join(names) + "\n")
    callMain(prepareData, prepareFlags(data))
    images = np.load(data / "pythonFiles" / "trainingDataImage.npy")
    np.testing.assert_allclose(images[:9], cutPlain(image, zScore), atol=2e-5)
    inputs = json.loads((data / "pythonFiles" / "parameters.json").read_text())["inputs"]
    assert {f"trainingImages/{name}" for name in names} < set(inputs)
    writeNrrd(tmp_path / "one.nrrd", image)
    for source, result in ((folder / "data_01.nhdr", "list"), (tmp_path / "one.nrrd", "single")):
        callMain(predictData, predictFlags(source, tmp_path / f"{result}.nrrd", models / "good.h5"))
    assert np.array_equal(
        nrrd.read(str(tmp_path / "list.nrrd"))[0], nrrd.read(str(tmp_path / "single.nrrd"))[0]
    )


def testPrepareProposesTheFolderItWrote(data, capfd):
    (data / "my data").mkdir()
    callMain(prepareData, [*prepareFlags(data), "--learningData", data / "my data"])
    words = nextCommand(capfd.readouterr().out, "trainingAndValidation.py")
    assert trainingAndValidation.parseArguments(words[1:]).learningData == data / "my data"


def testPrepareWarnsOfMasksAndSubVolumesWithoutContent(data, capfd):
    writeNrrd(data / "trainingMasks" / "segm_01.nrrd", np.full(SHAPE, 255, np.uint8))
    writeNrrd(data / "trainingMasks" / "segm_02.nrrd", np.zeros(SHAPE, np.uint8))
    writeNrrd(data / "validationMasks" / "segm_03.nrrd", 255 - makeVolume(3)[1])
    image = makeVolume(3)[0]
    image[8:16] = 7
    writeNrrd(data / "validationImages" / "data_03.nrrd", image)
    callMain(prepareData, prepareFlags(data))
    text = capfd.readouterr().out
    assert re.search(r"Warning: .*segm_01.nrrd: no positive voxel \(positiveLabel 0\)", text)
    assert re.search(r"Warning: .*segm_02.nrrd: nothing but positive voxels \(positiveLabel 0\)", text)
    assert re.search(r"Warning: .*segm_03.nrrd: more than half of the voxels are positive", text)
    assert re.search(r"Warning: .*data_03.nrrd: sub-volume at \(8, 0, 0\) is constant", text)
    images = np.load(data / "pythonFiles" / "validationDataImage.npy")
    assert not images[3:6].any() and np.isfinite(images).all()


# ---------------------------------------------------------------------------------------------- command lines


@pytest.mark.parametrize("script", SCRIPTS)
def testHelpComesWithoutLoadingANetwork(script):
    result = subprocess.run(
        [sys.executable, "-X", "importtime", ROOT / script, "--help"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0 and result.stdout.startswith(f"usage: {script}")
    modules = set(re.findall(r"\|\s+([\w.]+)$", result.stderr, re.MULTILINE))
    assert "numpy" in modules  # the listing works
    assert not modules & {"tensorflow", "keras", "jax", "torch", "matplotlib"}


def testPredictionOnACpuLoadsNeitherTensorFlowNorKeras(models, tmp_path):
    writeNrrd(tmp_path / "data.nrrd", makeVolume(4)[0])
    flags = predictFlags(tmp_path / "data.nrrd", tmp_path / "out.nrrd", models / "good.h5")
    modules, text = listModules("predictData.py", *flags)
    assert "openvino" in modules and not modules & {"tensorflow", "keras", "jax"}
    assert re.search(r"^Device: CPU .*, openvino with oneDNN.*, (float32|bfloat16)$", text, re.MULTILINE)


def listModules(script, *flags):
    """Run a script; gives the packages that it loads, and what it prints."""
    command = [sys.executable, "-X", "importtime", ROOT / script, *map(str, flags)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return set(re.findall(r"\|\s+(\w+)[\w.]*$", result.stderr, re.MULTILINE)), result.stdout


LATE = {"tensorflow", "keras", "jax", "openvino", "scipy", "matplotlib", "cc3d", "h5py", "tqdm"}


@pytest.mark.parametrize("script", ["prepareData.py", "trainingAndValidation.py", "predictData.py"])
def testHelpLoadsNothingThatOnlyWorkNeeds(script):
    modules, text = listModules(script, "--help")
    assert "numpy" in modules and not modules & LATE
    assert text.startswith("usage")


def testPredictionWithoutResultsLoadsNothingOfThem(models, tmp_path):
    writeNrrd(tmp_path / "data.nrrd", makeVolume(4)[0])
    flags = predictFlags(tmp_path / "data.nrrd", tmp_path / "out.nrrd", models / "good.h5")
    kinds = ("mask", "segmentation", "labels", "particles", "scores", "report", "overview")
    modules, _ = listModules("predictData.py", *flags, *(f"--no-{kind}" for kind in kinds))
    assert {"h5py", "tqdm", "openvino"} <= modules
    assert not modules & {"scipy", "matplotlib", "cc3d"}


def testDryRunTellsEverythingAndWritesNothing(models, tmp_path, capfd):
    writeNrrd(tmp_path / "data.nrrd", makeVolume(4)[0])
    before = snapshot(tmp_path)
    flags = predictFlags(tmp_path / "data.nrrd", tmp_path / "out.nrrd", models / "good.h5")
    callMain(predictData, [*flags, "--dryRun", "--z2", "15", "--outputEncoding", "gzip"])
    text = capfd.readouterr().out
    for line in (
        "Input: data.nrrd 24x16x16 uint16.*",
        "Region: x 0:24 y 0:16 z 0:15",
        r"Stream: \d+ planes at a time, one tile, \d+\.\d\d GiB of memory",
        r"Result: 0\.000 GiB, as much for a while before it is gzip; [\d.]+ GiB of the disk are free",
        r"Estimate: \d+ s at [\d.]+ Mvoxel/s \(one slab: [\d.]+ s\)",
    ):
        assert re.search(f"^{line}$", text, re.MULTILINE), line
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("kind", ["uint8", "uint16"])
def testIntegerResultsAreScoredAsFloatsAre(kind, models, tmp_path, capfd):
    image, mask = makeVolume(4)
    writeNrrd(tmp_path / "data.nrrd", image)
    writeNrrd(tmp_path / "mask.nrrd", mask)
    results = {}
    for name in ("float32", kind):
        flags = predictFlags(tmp_path / "data.nrrd", tmp_path / f"{name}.nrrd", models / "good.h5")
        callMain(predictData, [*flags, "--outputType", name, "--nameReference", tmp_path / "mask.nrrd"])
        results[name] = nrrd.read(str(tmp_path / f"{name}.nrrd"))[0]
        record = json.loads((tmp_path / f"{name}.json").read_text())
        assert record["scores"]["tp"] + record["scores"]["fn"] == np.count_nonzero(mask == 0)
    levels = np.iinfo(kind).max
    assert results[kind].dtype == kind
    assert abs(results[kind] / levels - results["float32"]).max() < 0.51 / levels


def constantsOf(script):
    """Names assigned between the two fences of a script."""
    fence = re.compile(r"# -{30,}( parameters)?$")
    fences = [i for i, line in enumerate((ROOT / script).read_text().splitlines(), 1) if fence.match(line)]
    body = ast.parse((ROOT / script).read_text()).body
    inside = range(fences[0], fences[1])
    return [node.target.id for node in body if isinstance(node, ast.AnnAssign) and node.lineno in inside]


@pytest.mark.parametrize(
    ("script", "published"),
    [
        (prepareData, {"nb_subVol_x", "nb_subVol_y", "length_subVol_x", "length_subVol_y", "nb_rotation"}),
        (
            trainingAndValidation,
            {
                "learningRate",
                "Nepochs",
                "batchSize",
                "weightFile",
                "weightFileTrain",
                "metricsFile",
                "modelFile",
            },
        ),
        (predictData, {"nameInput", "nameOutput", "x1", "x2", "y1", "y2", "z1", "z2"}),
    ],
)
def testEveryConstantIsAFlag(script, published):
    constants = constantsOf(Path(script.__file__).name)
    assert published <= set(constants)
    flags = vars(script.parseArguments([]))
    for name in constants:
        assert name in flags
        if isinstance(getattr(script, name), int | float) and name != "memoryBudget":
            assert flags[name] == getattr(script, name)


def testPathsOfTheConstantsBelongToTheFolderOfTheScripts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(predictData, "nameOutput", "test-file/out.nrrd")
    for name, path in (("test-file/mask.nrrd", ROOT / "test-file" / "mask.nrrd"), ("none", Path("none"))):
        monkeypatch.setattr(predictData, "nameReference", name)
        arguments = predictData.parseArguments([])
        assert arguments.nameReference == path
    assert arguments.nameOutput == ROOT / "test-file" / "out.nrrd"


@pytest.mark.parametrize(
    ("script", "flag"),
    [(prepareData, "--nb_rot"), (trainingAndValidation, "--Nepoch"), (predictData, "--nameIn")],
)
def testAbbreviatedFlagsAreRefused(script, flag, capfd):
    with pytest.raises(SystemExit) as caught:
        script.parseArguments([flag, "2"])
    assert caught.value.code == 2
    assert f"unrecognized arguments: {flag} 2" in capfd.readouterr().err


# ---------------------------------------------------------------------------------------- bad input: prepare


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


@pytest.mark.parametrize("case", badVolumes())
def testPrepareRefusesAVolume(case, prepared, capfd):
    damage, words = badVolumes()[case]
    path = prepared / "validationImages" / "data_03.nrrd"
    path.unlink()
    (prepared / "elsewhere.raw").write_bytes(VOLUME_BYTES)
    damage(path)
    before = snapshot(prepared)
    text = refusal(capfd, prepareData, prepareFlags(prepared), words)
    assert "data_03.nrrd" in text
    assert snapshot(prepared) == before


def spoil(array, *values):
    """Float copy whose first voxels are other values."""
    spoilt = array.astype(np.float32)
    spoilt[0, 0, : len(values)] = values
    return spoilt


def badFolders():
    """Name what a set of folders may be like that cannot be prepared, and what it is told."""
    masks, images = "trainingMasks", "trainingImages"
    return {
        "missing folder": (lambda f: shutil.rmtree(f / masks), (), (masks, "no such folder")),
        "empty folder": (
            lambda f: [path.unlink() for path in (f / images).iterdir()],
            (),
            (images, "the folder holds no NRRD file"),
        ),
        "unequal counts": (
            lambda f: (f / masks / "segm_02.nrrd").unlink(),
            (),
            (masks, "every image needs one mask", "expected 2 masks", "received 1"),
        ),
        "mask of another shape": (
            lambda f: writeNrrd(f / masks / "segm_02.nrrd", np.zeros((24, 16, 15), np.uint8)),
            (),
            ("segm_02.nrrd", "data_02.nrrd", "expected (24, 16, 16)", "received (24, 16, 15)"),
        ),
        "stray file": (
            lambda f: (f / images / "notes.txt").write_text("x"),
            (),
            ("notes.txt", "is no NRRD file", "move it out of the folder"),
        ),
        "stray raw data": (
            lambda f: (f / images / "data_01.raw").write_bytes(bytes(9)),
            (),
            ("data_01.raw", "is no NRRD file"),
        ),
        "NaN": (
            lambda f: writeNrrd(f / images / "data_02.nrrd", spoil(makeVolume(2)[0], np.nan, np.inf, np.nan)),
            (),
            ("data_02.nrrd", "3 voxels are NaN or infinite"),
        ),
        "thinner than 8": (
            lambda f: [
                writeNrrd(f / f"validation{kind}" / name, np.zeros((24, 16, 7), np.uint8))
                for kind, name in (("Images", "data_03.nrrd"), ("Masks", "segm_03.nrrd"))
            ],
            (),
            ("validation volumes", "at least 8 voxels", "received 7"),
        ),
        "side no multiple of 8": (
            lambda f: None,
            ("--length_subVol_x", "12"),
            ("multiple of 8", "received 12"),
        ),
        "more sub-volumes than fit": (
            lambda f: None,
            ("--nb_subVol_x", "4"),
            ("4 sub-volumes of 8 voxels do not fit into 24", "at most 3 fit"),
        ),
        "negative count": (lambda f: None, ("--nb_subVol_y", "-1"), "-1"),
        "label no number": (
            lambda f: None,
            ("--positiveLabel", "pore"),
            ("positiveLabel must be whole numbers", "'pore'"),
        ),
        "missing output folder": (
            lambda f: shutil.rmtree(f / "pythonFiles"),
            (),
            ("pythonFiles: no such folder"),
        ),
        "folder is a file": (
            lambda f: (shutil.rmtree(f / masks), (f / masks).write_text("x")),
            (),
            (masks, "no such folder"),
        ),
    }


@pytest.mark.parametrize("case", badFolders())
def testPrepareRefusesFolders(case, prepared, capfd):
    damage, flags, words = badFolders()[case]
    damage(prepared)
    before = snapshot(prepared)
    refusal(capfd, prepareData, [*prepareFlags(prepared), *flags], words)
    assert snapshot(prepared) == before


def testRefusalLeavesTheProcessWithCode2AndOneLine(data):
    (data / "trainingMasks" / "segm_02.nrrd").unlink()
    result = runCommand(data, ROOT / "prepareData.py", *prepareFlags(data), code=2)
    checkRefusal(result.returncode, result.stderr, "every image needs one mask")


# --------------------------------------------------------------------------------------- bad input: training


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):  # noqa: D105
        return os.mkdir, (str(self.path),)


def badArrays():
    """Name what pythonFiles/ may be like that cannot be learnt, and what it is told."""

    def change(name, function):
        return lambda folder: np.save(folder / name, function(np.load(folder / name)))

    image, mask = "trainingDataImage.npy", "validationDataMask.npy"
    pair = (image, "trainingDataMask.npy")
    return {
        "missing": (
            lambda f: (f / image).unlink(),
            (),
            (image, "no such file", "run prepareData.py first"),
        ),
        "truncated": (
            lambda f: (f / image).write_bytes((f / image).read_bytes()[:-7]),
            (),
            (image, "is no readable .npy file"),
        ),
        "cut in its header": (
            lambda f: (f / image).write_bytes((f / image).read_bytes()[:50]),
            (),
            (image, "is no readable .npy file"),
        ),
        "damaged in its header": (
            lambda f: (f / image).write_bytes((f / image).read_bytes().replace(b",", b"(", 1)),
            (),
            (image, "is no readable .npy file"),
        ),
        "empty": (lambda f: (f / image).write_bytes(b""), (), (image, "is no readable .npy file")),
        "objects": (
            lambda f: np.save(f / image, np.array([Trap(f / "trap")], object), allow_pickle=True),
            (),
            (image, "is no readable .npy file"),
        ),
        "pickle": (
            lambda f: (f / image).write_bytes(pickle.dumps(Trap(f / "trap"))),
            (),
            (image, "is no readable .npy file"),
        ),
        "float64": (
            change(image, lambda array: array.astype(np.float64)),
            (),
            (image, "expected float32 and bool", "received float64 and bool"),
        ),
        "mask of bytes": (
            change(mask, lambda array: array.astype(np.uint8)),
            (),
            ("validationData", "received float32 and uint8"),
        ),
        "shapes differ": (change(image, lambda array: array[1:]), (), (image, "differ in shape")),
        "no channel": (
            lambda f: [change(name, lambda array: array[..., 0])(f) for name in pair],
            (),
            (image, "is no set of sub-volumes", "expected (sample, x, y, z, 1)"),
        ),
        "sides that cannot be halved": (
            lambda f: [change(name, lambda array: array[:, :, :6])(f) for name in pair],
            ("--levelCount", "3"),
            (image, "halves every side 2 times", "expected multiples of 4", "received (8, 6, 16)"),
        ),
        "batchSize 0": (lambda f: None, ("--batchSize", "0"), ("batchSize must be above 0", "received 0")),
        "Nepochs 0": (lambda f: None, ("--Nepochs", "0"), "Nepochs must be above 0"),
        "negative learningRate": (lambda f: None, ("--learningRate", "-1"), "learningRate must be above 0"),
        "learningRate NaN": (
            lambda f: None,
            ("--learningRate", "nan"),
            "learningRate must be a finite number",
        ),
        "clipNorm inf": (lambda f: None, ("--clipNorm", "inf"), "clipNorm must be a finite number"),
        "batchSize beyond the set": (
            lambda f: None,
            ("--batchSize", "99"),
            ("batchSize is larger than the training set", "received 99"),
        ),
        "patchSide that cannot be halved": (
            lambda f: None,
            ("--patchSide", "9"),
            ("halves every side 1 times", "patchSide a multiple of 2", "received 9"),
        ),
        "positiveShare 2": (lambda f: None, ("--positiveShare", "2"), "positiveShare must lie in 0 to 1"),
        "no positive voxel": (
            change("trainingDataMask.npy", np.zeros_like),
            (),
            ("trainingDataMask.npy", "no positive voxel in the training masks", "positiveLabel"),
        ),
        "weightStart that would be replaced": (
            lambda f: None,
            ("--weightStart", "loss.h5", "--weightFile", "loss.h5"),
            ("loss.h5", "would replace the weights that it starts from"),
        ),
        "momentum 1": (lambda f: None, ("--momentum", "1"), "momentum must lie in 0 to 1"),
        "seed beyond 32 bits": (lambda f: None, ("--seed", "4294967296"), "seed must be below 2 ** 32"),
        "archive": (
            lambda f: np.savez(open(f / image, "wb"), a=np.zeros(3)),
            (),
            (image, "is no readable .npy file: it is an archive"),
        ),
        "more devices than there are": (lambda f: None, ("--deviceCount", "9"), "fewer devices"),
        "negative seed": (lambda f: None, ("--seed", "-1"), "seed must not be negative"),
        "base_depth 0": (lambda f: None, ("--base_depth", "0"), "base_depth"),
        "network of 3 GiB": (
            lambda f: None,
            ("--levelCount", "8", "--base_depth", "24"),
            ("the network is too large", "at most 2 GiB of weights", "received 3.2 GiB"),
        ),
        "float16 on a CPU": (
            lambda f: None,
            ("--precision", "mixed_float16"),
            ("no float16 on a CPU", "mixed_bfloat16"),
        ),
        "models in two folders": (
            lambda f: None,
            ("--modelFile", "net.h5"),
            "need one folder",
        ),
        "model that is a folder": (
            lambda f: (f.parent / "models" / "net.h5").mkdir(parents=True),
            (),
            "net.h5: is a folder",
        ),
        "log named as the contract": (
            lambda f: None,
            ("--metricsFile", "net.json"),
            "net.json: this is the name of another result",
        ),
        "tensorBoard that is a file": (
            lambda f: None,
            ("--tensorBoard", __file__),
            ("test_scripts.py", "tensorBoard is no folder"),
        ),
        "levelCount 0": (lambda f: None, ("--levelCount", "0"), "1 to 8 levels"),
        "missing output folder": (
            lambda f: None,
            ("--weightFile", "/nowhere/loss.h5"),
            ("/nowhere: no such folder"),
        ),
        "one name for two models": (
            lambda f: None,
            ("--weightFileTrain", "loss.h5"),
            ("need different names", "loss.h5, loss.h5, dice.h5, net.h5, metrics.log"),
        ),
        "model of another format": (
            lambda f: None,
            ("--modelFile", "net.tif"),
            ("net.tif", "must end with .h5"),
        ),
        "weightStart missing": (lambda f: None, ("--weightStart", "/nowhere.h5"), "no such model file"),
        "damaged parameters.json": (
            lambda f: (f / "parameters.json").write_text("{"),
            (),
            ("parameters.json", "is no readable JSON file"),
        ),
    }


@pytest.mark.parametrize("case", badArrays())
def testTrainingRefuses(case, prepared, capfd):
    damage, flags, words = badArrays()[case]
    damage(prepared / "pythonFiles")
    (prepared / "models").mkdir(exist_ok=True)
    (prepared / "models" / "loss.h5").write_bytes(b"the last good one")
    before = snapshot(prepared)
    refusal(
        capfd,
        trainingAndValidation,
        [*trainFlags(prepared / "pythonFiles", prepared / "models"), *flags],
        words,
    )
    assert snapshot(prepared) == before


def testTrainingThatDivergesSaysSoAndKeepsTheLastCheckpoint(prepared, capfd, keras):
    models = prepared / "models"
    models.mkdir()
    names = ("loss.h5", "accuracy.h5", "dice.h5", "net.h5")
    for name in names:
        (models / name).write_bytes(b"the last good one")
    flags = [*trainFlags(prepared / "pythonFiles", models), "--learningRate", "1e30"]
    words = ("were never finite numbers; no checkpoint was written", "--learningRate")
    refusal(capfd, trainingAndValidation, flags, words)
    for name in names:
        assert (models / name).read_bytes() == b"the last good one"
    assert partialFiles(prepared) == [] and not list(models.glob(".state*"))


@pytest.mark.slow
def testTrainingThatDivergesLaterEndsWithTheBestEpoch(prepared, capfd, keras, monkeypatch):
    import engine.learning.training

    validate = engine.learning.training.Training._validate

    def validateAndSpoil(training):
        row = validate(training)
        if training.progress.epoch == 1:
            model = training.setup.model
            training._keepBest = lambda row: model.set_weights([w * np.nan for w in model.get_weights()])
        return row

    monkeypatch.setattr(engine.learning.training.Training, "_validate", validateAndSpoil)
    models = prepared / "my models"
    models.mkdir()
    flags = trainFlags(prepared / "pythonFiles", models)
    capfd.readouterr()
    callMain(trainingAndValidation, [*flags, "--Nepochs", "9"])
    text = capfd.readouterr().out
    assert "Warning: the loss of epoch 3 is not a finite number: the training ends" in text
    assert (models / "net.h5").read_bytes() == (models / "loss.h5").read_bytes()
    assert len(readLog(models / "metrics.log")["epoch"]) == 2
    words = nextCommand(text, "predictData.py")
    writeNrrd(prepared / "volume_data.nrrd", makeVolume(4)[0])
    callMain(predictData, [*words[1:], "--nameInput", prepared / "volume_data.nrrd"])
    assert np.isfinite(nrrd.read(str(prepared / "volume_segmented.nrrd"))[0]).all()
    assertPicture(models / "trainingCurves.png", 600, 900)


# ----------------------------------------------------------------------------------------- bad input: predict


@pytest.fixture(scope="module")
def models(tmp_path_factory, keras):
    """Model files: a good one of two levels, and some that must be refused."""
    from functions import buildSpotUNet

    folder = tmp_path_factory.mktemp("models")
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


def badModels():
    return {
        "another width": ("good.h5", "wide.h5", ("wide.h5", "another filters", "expected 2, received 4")),
        "another depth": ("good.h5", "deep.h5", ("deep.h5",)),
        "corrupt": ("corrupt.h5", None, ("corrupt.h5", "is damaged or no model of Keras")),
        "corrupt weights": ("good.h5", "corrupt.h5", ("corrupt.h5", "is damaged or no model of Keras")),
        "noise": ("noise.h5", None, "is neither an HDF5 file (.h5) nor a .keras archive"),
        "empty": ("empty.h5", None, "is neither an HDF5 file (.h5) nor a .keras archive"),
        "missing": ("nowhere.h5", None, ("nowhere.h5", "no such model file")),
        "Lambda layer": ("lambda.h5", None, ("payload is a Lambda layer", "never executed")),
        "another network": ("dense.h5", None, "is no 3D U-Net"),
        "external link": ("link.h5", None, ("is an external link", "never followed")),
        "weights not finite": ("notFinite.h5", None, ("probability, kernel", "not finite")),
    }


@pytest.mark.parametrize("case", badModels())
def testPredictRefusesAModel(case, models, tmp_path, capfd):
    model, weights, words = badModels()[case]
    writeNrrd(tmp_path / "volume_data.nrrd", makeVolume(4)[0])
    before = snapshot(tmp_path)
    flags = predictFlags(tmp_path / "volume_data.nrrd", tmp_path / "result.nrrd", models / model)
    refusal(capfd, predictData, [*flags, *(("--weightFile", models / weights) if weights else ())], words)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("case", badVolumes())
def testPredictRefusesAVolume(case, models, tmp_path, capfd):
    damage, words = badVolumes()[case]
    (tmp_path / "elsewhere.raw").write_bytes(VOLUME_BYTES)
    (tmp_path / "in").mkdir()
    damage(tmp_path / "in" / "data.nrrd")
    before = snapshot(tmp_path)
    flags = predictFlags(tmp_path / "in" / "data.nrrd", tmp_path / "result.nrrd", models / "good.h5")
    assert "data.nrrd" in refusal(capfd, predictData, flags, words)
    assert snapshot(tmp_path) == before


def badRequests():
    """Name requests for a good volume that cannot be met: flags ({} is the folder), and what is told."""
    return {
        "region outside": (["--x2", "25"], ("data.nrrd", "along x leaves the volume", "received 0:25")),
        "region before": (["--z1", "-1"], ("along z leaves the volume", "received -1:16")),
        "region empty": (["--y1", "7", "--y2", "7"], ("along y is empty", "received 7:7")),
        "region reversed": (["--y1", "9", "--y2", "3"], ("along y is empty", "received 9:3")),
        "output replaces input": (["--nameOutput", "{}/data.nrrd"], "nameOutput would replace nameInput"),
        "output replaces input by a link": (
            ["--nameOutput", "{}/link.nrrd"],
            "nameOutput would replace nameInput",
        ),
        "output replaces reference": (
            ["--nameReference", "{}/mask.nrrd", "--nameOutput", "{}/mask.nrrd"],
            "nameOutput would replace nameReference",
        ),
        "output folder missing": (
            ["--nameOutput", "{}/nowhere/a.nrrd"],
            ("nowhere: no such folder", "create it"),
        ),
        "output of another format": (
            ["--nameOutput", "{}/result.tif"],
            ("result.tif", "must end with .nrrd"),
        ),
        "output is a folder": (["--nameOutput", "{}/folder.nrrd"], "nameOutput is a folder"),
        "record replaces the contract": (["--nameOutput", "{}/net.nrrd"], ("net.json", "would replace")),
        "reference of another shape": (
            ["--nameReference", "{}/small.nrrd"],
            ("small.nrrd", "differ in the shape", "expected (24, 16, 16)", "received (8, 8, 8)"),
        ),
        "reference missing": (["--nameReference", "{}/nowhere.nrrd"], ("nowhere.nrrd", "no such file")),
        "memoryBudget negative": (["--memoryBudget", "-1"], "memoryBudget must not be below 0"),
        "label no number": (["--positiveLabel", "0,x"], "positiveLabel must be whole numbers"),
        "NaN": (["--nameInput", "{}/nan.nrrd"], ("nan.nrrd", "2 voxels are NaN or infinite")),
        "no name": (["--nameInput", ""], "nameInput names no file"),
        "memoryBudget too small": (["--memoryBudget", "0.0000001"], ("memoryBudget", "is needed")),
    }


@pytest.mark.parametrize("case", badRequests())
def testPredictRefusesARequest(case, models, tmp_path, capfd):
    flags, words = badRequests()[case]
    image, mask = makeVolume(4)
    writeNrrd(tmp_path / "data.nrrd", image)
    writeNrrd(tmp_path / "mask.nrrd", mask)
    writeNrrd(tmp_path / "small.nrrd", np.zeros((8, 8, 8), np.uint8))
    writeNrrd(tmp_path / "nan.nrrd", spoil(image, np.nan, -np.inf))
    (tmp_path / "link.nrrd").symlink_to("data.nrrd")
    (tmp_path / "folder.nrrd").mkdir()
    shutil.copy(models / "good.h5", tmp_path / "net.h5")
    digest = hashlib.sha256((tmp_path / "net.h5").read_bytes()).hexdigest()
    (tmp_path / "net.json").write_text(json.dumps({"files": {"net.h5": digest}, "positiveLabel": [0]}))
    before = snapshot(tmp_path)
    standard = predictFlags(tmp_path / "data.nrrd", tmp_path / "result.nrrd", tmp_path / "net.h5")
    refusal(capfd, predictData, [*standard, *(flag.format(tmp_path) for flag in flags)], words)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("value", [np.int16(7), 0.1, 123.456])
def testConstantRegionIsPredictedWithAWarning(value, models, tmp_path, capfd):
    writeNrrd(tmp_path / "flat_data.nrrd", np.full((9, 8, 4), value))
    callMain(
        predictData, predictFlags(tmp_path / "flat_data.nrrd", tmp_path / "out.nrrd", models / "good.h5")
    )
    assert "Warning: all voxels of the volume have the same grey value" in capfd.readouterr().out
    assert np.isfinite(nrrd.read(str(tmp_path / "out.nrrd"))[0]).all()


def testScoresTakeTheLabelsFromTheContract(models, tmp_path, capfd):
    shutil.copy(models / "good.h5", tmp_path / "net.h5")
    digest = hashlib.sha256((tmp_path / "net.h5").read_bytes()).hexdigest()
    (tmp_path / "any.json").write_text(json.dumps({"files": {"net.h5": digest}, "positiveLabel": [1, 3]}))
    image, _ = makeVolume(4)
    labels = np.random.default_rng(2).integers(0, 5, SHAPE).astype(np.uint8)
    writeNrrd(tmp_path / "volume_data.nrrd", image)
    writeNrrd(tmp_path / "volume_mask.nrrd", labels)
    flags = predictFlags(tmp_path / "volume_data.nrrd", tmp_path / "out.nrrd", tmp_path / "net.h5")
    for extra, positive in (((), (1, 3)), (("--positiveLabel", "4"), (4,))):
        callMain(predictData, [*flags, *extra])
        scores = json.loads((tmp_path / "out.json").read_text())["scores"]
        assert scores["tp"] + scores["fn"] == np.isin(labels, positive).sum()
    callMain(predictData, [*flags, "--nameReference", "none"])
    assert json.loads((tmp_path / "out.json").read_text())["scores"] is None


def testThresholdIsThatOfTheTrainingUnlessAskedFor(models, tmp_path, capfd):
    shutil.copy(models / "good.h5", tmp_path / "net.h5")
    image, mask = makeVolume(4)
    writeNrrd(tmp_path / "volume_data.nrrd", image)
    writeNrrd(tmp_path / "volume_mask.nrrd", mask)
    flags = predictFlags(tmp_path / "volume_data.nrrd", tmp_path / "out.nrrd", tmp_path / "net.h5")

    def positives(words, *extra):
        capfd.readouterr()
        callMain(predictData, [*flags, *extra])
        assert f"Threshold: {words}" in capfd.readouterr().out
        scores = json.loads((tmp_path / "out.json").read_text())["scores"]
        probability = nrrd.read(str(tmp_path / "out.nrrd"))[0]
        return scores["tp"] + scores["fp"], probability

    count, probability = positives("0.5, the published one")
    assert count == (probability >= 0.5).sum()
    limit = float(np.float32(np.quantile(probability, 0.3)))
    digest = hashlib.sha256((tmp_path / "net.h5").read_bytes()).hexdigest()
    contract = {"files": {"a.h5": "0", "b.h5": digest}, "thresholds": {"a.h5": 0.9, "b.h5": limit}}
    (tmp_path / "any.json").write_text(json.dumps(contract))
    count, probability = positives(f"{limit:g}, best Dice on the validation data")
    assert 0 < count == (probability >= limit).sum() < probability.size
    assert positives("0, as asked for", "--threshold", "0")[0] == probability.size
    refusal(capfd, predictData, [*flags, "--threshold", "1.5"], ("threshold must lie in 0 to 1", "1.5"))


# -------------------------------------------------------------------------------------------------- full disk


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


def testPrepareOnAFullDiskKeepsTheOldFiles(prepared, capfd, monkeypatch):
    before = snapshot(prepared)
    monkeypatch.setattr(engine.base.files.os, "posix_fallocate", refuseSpace)
    text = refusal(capfd, prepareData, [*prepareFlags(prepared), "--force"], "the disk is full")
    assert "pythonFiles" in text and partialFiles(prepared) == []
    after = snapshot(prepared)
    assert {path: after[path] for path in after if path.suffix} == {
        path: before[path] for path in before if path.suffix
    }


def testPrepareOnARealFullDisk(data, capfd):
    with smallDisk(data / "disk", 150) as disk:  # the arrays need 276 KiB
        refusal(capfd, prepareData, [*prepareFlags(data), "--learningData", disk], "the disk is full")
        assert list(disk.iterdir()) == []


def testPredictOnAFullDiskKeepsTheOldFiles(models, tmp_path, capfd, monkeypatch):
    writeNrrd(tmp_path / "volume_data.nrrd", makeVolume(4)[0])
    for suffix in ("nrrd", "png", "json"):
        (tmp_path / f"out.{suffix}").write_bytes(b"the old result")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    monkeypatch.setattr(engine.base.files.os, "posix_fallocate", refuseSpace)
    flags = predictFlags(tmp_path / "volume_data.nrrd", tmp_path / "out.nrrd", models / "good.h5")
    refusal(capfd, predictData, flags, ("out.nrrd", "the disk is full"))
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def testPredictOnARealFullDisk(models, tmp_path, capfd):
    writeNrrd(tmp_path / "volume_data.nrrd", makeVolume(4)[0])
    with smallDisk(tmp_path / "disk", 20) as disk:  # the result needs 24 KiB
        flags = predictFlags(tmp_path / "volume_data.nrrd", disk / "out.nrrd", models / "good.h5")
        refusal(capfd, predictData, flags, ("out.nrrd", "too little disk for the result"))
        assert list(disk.iterdir()) == []


@pytest.mark.slow
def testTrainingOnARealFullDiskKeepsTheLastCheckpointAndGoesOnWithMoreSpace(prepared, capfd, keras):
    with smallDisk(prepared / "disk", 60) as disk:
        (disk / "loss.h5").write_bytes(b"the last good one")
        flags = trainFlags(prepared / "pythonFiles", disk)
        refusal(capfd, trainingAndValidation, flags, "the disk is full")
        assert (disk / "loss.h5").read_bytes() == b"the last good one"
        assert partialFiles(disk) == [] and not (disk / "net.h5").exists()
        subprocess.run(["mount", "-o", "remount,size=9000k", disk], check=True)
        callMain(trainingAndValidation, flags)
        assert (disk / "net.h5").exists()


# ------------------------------------------------------------------------------------------- Ctrl-C and kills

SLOW_PREPARE = """
import runpy, sys, time
from engine.preparation.samples import SampleWriter
write = SampleWriter.write
def writeSlowly(self, index, sample):
    write(self, index, sample)
    time.sleep(0.1)
SampleWriter.write = writeSlowly
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""

KILLED_PREPARE = """
import os, runpy, signal, sys
replace, count = os.replace, iter(range(99))
def replaceOrDie(*names):
    if next(count) == int(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGKILL)
    replace(*names)
os.replace = replaceOrDie
sys.argv[0] = sys.argv[2]
sys.argv[1:] = [sys.argv[1], *sys.argv[3:]]
import prepareData
from engine.base.console import runScript
runScript(prepareData.main, lambda: prepareData.parseArguments(sys.argv[2:]))
"""


def interrupt(command, isAtWork, number, **environment):
    """Start a command, send it a signal once it is at work; return its exit code, stdout and stderr."""
    with subprocess.Popen(
        [sys.executable, *map(str, command)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
    ) as process:
        limit = time.monotonic() + 200
        while not isAtWork() and process.poll() is None and time.monotonic() < limit:
            time.sleep(0.01)
        assert process.poll() is None, process.communicate()
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    return process.returncode, out.decode(), err.decode()


def slowPrepare(folder):
    return ["-c", SLOW_PREPARE, ROOT / "prepareData.py", *prepareFlags(folder), "--force"]


def testInterruptedPrepareLeavesTheOldFiles(prepared):
    before = {path: path.read_bytes() for path in (prepared / "pythonFiles").iterdir()}
    folder = prepared / "pythonFiles"
    code, _, err = interrupt(slowPrepare(prepared), lambda: len(partialFiles(folder)) == 4, signal.SIGINT)
    assert code == 130
    assert err == "\rInterrupted: nothing half-written was kept under a final name.\n"
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def testKilledPrepareLeavesTheOldFilesAndTheNextRunCleansUp(prepared):
    before = {path: path.read_bytes() for path in (prepared / "pythonFiles").iterdir()}
    folder = prepared / "pythonFiles"
    code, _, _ = interrupt(slowPrepare(prepared), lambda: len(partialFiles(folder)) == 4, signal.SIGKILL)
    assert code == -signal.SIGKILL
    assert len(partialFiles(folder)) == 4
    assert {path: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(".")} == before
    callMain(prepareData, [*prepareFlags(prepared), "--force"])
    assert partialFiles(folder) == []
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize("count", range(5))
def testPrepareKilledWhileItReplacesIsRepeated(prepared, count, capfd):
    """Kill it before each of the renames: the four arrays, then parameters.json."""
    folder = prepared / "pythonFiles"
    good = {path.name: path.read_bytes() for path in folder.iterdir()}
    flags = [*prepareFlags(prepared), "--positiveLabel", "255"]
    code, _, _ = interrupt(["-c", KILLED_PREPARE, count, "prepareData.py", *flags], lambda: True, 0)
    assert code == -signal.SIGKILL
    left = {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(".")}
    assert len(left) == count and "parameters.json" not in left
    for name, content in left.items():
        assert len(content) == len(good[name]) and (content == good[name]) == name.endswith("Image.npy")
    capfd.readouterr()
    callMain(prepareData, prepareFlags(prepared))
    assert "Nothing changed" not in capfd.readouterr().out
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == good


# ------------------------------------------------------------------------------------------- another back end


@pytest.mark.slow
def testJaxRunsAllThreeScriptsAndAgreesWithTensorFlow(tmp_path):
    pytest.importorskip("jax")
    folder = makeProject(tmp_path / "project")
    prepare = runCommand(folder, "prepareData.py", *CUT, KERAS_BACKEND="jax").stdout
    train = nextCommand(prepare, "trainingAndValidation.py")
    text = runCommand(folder, *train, "--Nepochs", 2, *TINY, KERAS_BACKEND="jax").stdout
    predict = nextCommand(text, "predictData.py")
    results = {}
    for backend in ("jax", "tensorflow"):
        output = folder / f"{backend}.nrrd"
        flags = ["--nameOutput", output, "--engine", "keras"]
        text = runCommand(folder, *predict, *flags, KERAS_BACKEND=backend).stdout
        assert re.search(rf"^Device: .*, {backend} with .*, float32$", text, re.MULTILINE)
        results[backend] = nrrd.read(str(output))[0]
    np.testing.assert_allclose(results["jax"], results["tensorflow"], atol=1e-4)
    assert results["jax"].std() > 1e-3
