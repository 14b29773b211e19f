"""The three scripts from end to end: what they write, what they say, and what holds for each of them.

What needs a process of its own (exit codes, signals, imports) has one, in a copy of the project.
The rest calls the same `main` through `runScript`, because a process that loads TensorFlow costs seconds.
"""

import ast
import hashlib
import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import nrrd
import numpy as np
import pytest
from places import ROOT
from projects import (
    ARRAYS,
    CUT,
    DATA_FOLDERS,
    GEOMETRY,
    SCRIPTS,
    TEST_SHAPE,
    TINY,
    assertPicture,
    callMain,
    cutPlain,
    listModules,
    makeProject,
    makeVolume,
    nextCommand,
    predictFlags,
    prepareFlags,
    readLog,
    runCommand,
    writeNrrd,
    zScore,
)

import predictData
import prepareData
import trainingAndValidation

PUBLISHED_COLUMNS = {"loss", "binary_accuracy", "tp", "tn", "fp", "fn"}
MORE_COLUMNS = {"precision", "recall", "dice", "iou"}


def predictPlain(model, image):
    """One pass of Keras over a z-scored volume whose odd sides are mirrored at the far end and cropped."""
    padded = np.pad(zScore(image), [(0, side % 2) for side in image.shape], mode="symmetric")
    probability = model.predict(padded[np.newaxis, ..., np.newaxis].astype(np.float32), verbose=0)
    return probability[0, ..., 0][tuple(slice(side) for side in image.shape)]


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
        "moments": "robust",
        "noData": "auto",
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
    np.testing.assert_allclose(images[:9], cutPlain(image, zScore, areCubes=True), atol=2e-5)
    inputs = json.loads((data / "pythonFiles" / "parameters.json").read_text())["inputs"]
    assert {f"trainingImages/{name}" for name in names} < set(inputs)
    writeNrrd(tmp_path / "one.nrrd", image)
    for source, result in ((folder / "data_01.nhdr", "list"), (tmp_path / "one.nrrd", "single")):
        callMain(predictData, predictFlags(source, tmp_path / f"{result}.nrrd", models / "good.h5"))
    assert np.array_equal(
        nrrd.read(str(tmp_path / "list.nrrd"))[0], nrrd.read(str(tmp_path / "single.nrrd"))[0]
    )


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


LATE = {"tensorflow", "keras", "jax", "openvino", "scipy", "matplotlib", "cc3d", "h5py", "tqdm"}


@pytest.mark.parametrize("script", ["prepareData.py", "trainingAndValidation.py", "predictData.py"])
def testHelpLoadsNothingThatOnlyWorkNeeds(script):
    modules, text = listModules(script, "--help")
    assert "numpy" in modules and not modules & LATE
    assert text.startswith("usage")


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


@pytest.mark.parametrize(
    ("script", "flag"),
    [(prepareData, "--nb_rot"), (trainingAndValidation, "--Nepoch"), (predictData, "--nameIn")],
)
def testAbbreviatedFlagsAreRefused(script, flag, capfd):
    with pytest.raises(SystemExit) as caught:
        script.parseArguments([flag, "2"])
    assert caught.value.code == 2
    assert f"unrecognized arguments: {flag} 2" in capfd.readouterr().err


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


@pytest.mark.parametrize("module", ["prepareData", "trainingAndValidation", "predictData", "functions"])
def testNoScriptLoadsABackEndBeforeItNeedsOne(module):
    backends = {"keras", "tensorflow", "jax"}
    code = f"import sys, {module}; print(sorted({backends} & set(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


@pytest.mark.parametrize("name", ["prepareData", "trainingAndValidation", "predictData"])
def testEveryConstantIsAFlagWhoseHelpIsItsComment(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "1000")  # no line breaks in the help
    script = importlib.import_module(name)
    with pytest.raises(SystemExit):
        script.parseArguments(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    source = (ROOT / f"{name}.py").read_text()
    block = source.split(" parameters\n", 1)[1].split("\n# ---", 1)[0]
    for line in (line for line in block.splitlines() if not line.startswith("#")):
        constant, meaning = re.fullmatch(r"(\w+): .+? = .*?  # (.+)", line).groups()
        assert f"--{constant}" in text and meaning in text
