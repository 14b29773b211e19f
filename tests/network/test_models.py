"""Model files of Keras 2 and 3: what is read exactly, what is refused and how."""

import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import h5py
import networks
import numpy as np
import pytest
from places import ROOT

from engine.base.errors import PipelineError
from engine.network import modelStorage
from engine.network.models import readArchitecture, readWeights
from engine.network.plan import variableShapes
from functions import buildModel, describeUNet, readModel

VOLUME = networks.randomVolume(16, 8, 24)
VARIANTS = [(8, 4, "ReLU"), (2, 2, "Activation"), (3, 3, "ReLU"), (1, 5, "Activation")]


def importKeras(generation):
    """Import Keras of generation 3 or 2 (tf_keras); automatic layer names start again without a number."""
    keras = pytest.importorskip("keras" if generation == 3 else "tf_keras")
    keras.backend.clear_session()
    return keras


def refusal(path, weightFile=None):
    """Return the error's text: one line that opens with the file's name."""
    with pytest.raises(PipelineError) as caught:
        readModel(path, weightFile)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith((f"{path}: ", f"{weightFile}: "))
    return str(caught.value).split(": ", 1)[1]


def predict(modelFile, weightFile=None, volume=VOLUME):
    """Prediction of what readModel finds in the files."""
    return networks.passOnce(buildModel(*readModel(modelFile, weightFile)), volume)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Write one small network (width 2, 3 levels) in all layouts; files by name."""
    folder = tmp_path_factory.mktemp("models")
    for generation in (2, 3):
        model = networks.randomise(networks.buildPublished(importKeras(generation), 2, 3), generation)
        model.save(folder / f"full{generation}.h5")
        model.save_weights(folder / ("weights2.h5" if generation == 2 else "alone3.weights.h5"))
        model.save(folder / f"archive{generation}.keras")
    (folder / "text.h5").write_text("layer_names\n" * 100)
    (folder / "empty.h5").touch()
    return {path.name: path for path in folder.iterdir()}


@pytest.fixture
def edit(files, tmp_path):
    """Copy a valid .h5 under a new name and open the copy for editing."""

    def copy(name="full2.h5"):
        target = tmp_path / "edited.h5"
        target.write_bytes(files[name].read_bytes())
        return h5py.File(target, "r+")

    return copy


def rewriteArchive(source, target, **entries):
    """Copy a .keras archive with other entries; None drops one."""
    names = {"config": "config.json", "weights": "model.weights.h5", "metadata": "metadata.json"}
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for key, name in names.items():
            content = entries.get(key, old.read(name))
            if content is not None:
                new.writestr(name, content)
    return target


# ---------------------------------------------------------------------------------------- what must be read


@pytest.mark.parametrize(("width", "levels", "relu"), VARIANTS)
def testKeras2FilesPredictAsKeras2Does(tmp_path, width, levels, relu):
    keras = importKeras(2)
    networks.buildPublished(keras, 1, 2)  # so that the names of the next model do not start with conv3d
    model = networks.randomise(networks.buildPublished(keras, width, levels, relu))
    model.save(tmp_path / "model.h5")
    model.save_weights(tmp_path / "weights.h5")
    volume = networks.randomVolume(16, 32, 48) if levels == 5 else VOLUME
    expected = networks.passOnce(model, volume)
    for name in ("model.h5", "weights.h5"):
        assert readArchitecture(tmp_path / name) == (width, levels)
        assert np.ptp(expected) > 0.3
        np.testing.assert_allclose(
            predict(tmp_path / name, volume=volume), expected, rtol=0, atol=1e-5, err_msg=name
        )


@pytest.mark.parametrize(("width", "levels", "relu"), VARIANTS)
def testKeras3FilesPredictAsKeras3Does(tmp_path, width, levels, relu):
    keras = importKeras(3)
    networks.buildPublished(keras, 1, 2)  # so that the names of the next model do not start with conv3d
    model = networks.randomise(networks.buildPublished(keras, width, levels, relu))
    volume = networks.randomVolume(16, 32, 48) if levels == 5 else VOLUME
    expected = networks.passOnce(model, volume)
    for name in ("model.h5", "model.keras", "model.weights.h5"):
        (model.save_weights if "weights" in name else model.save)(tmp_path / name)
        assert readArchitecture(tmp_path / name) == (width, levels)
        assert np.ptp(expected) > 0.3
        np.testing.assert_allclose(
            predict(tmp_path / name, volume=volume), expected, rtol=0, atol=1e-5, err_msg=name
        )


def testSecondArchiveOfKeras2IsRead(files):
    expected = predict(files["full2.h5"])
    np.testing.assert_array_equal(predict(files["archive2.keras"]), expected)


@pytest.mark.parametrize("second", ["full3.h5", "alone3.weights.h5", "archive3.keras", "weights2.h5"])
@pytest.mark.parametrize("first", ["full2.h5", "weights2.h5", "archive3.keras"])
def testWeightFileReplacesTheWeightsOfTheModelFile(files, first, second):
    plan, weights = readModel(files[first], files[second])
    expected = readWeights(files["full2.h5" if "2" in second else "full3.h5"], plan)
    for layer, arrays in expected.items():
        for name, array in arrays.items():
            np.testing.assert_array_equal(weights[layer][name], array, err_msg=f"{layer} {name}")
            assert weights[layer][name].dtype == np.float32


def testTheTwoGenerationsDiffer(files):
    plan, second = readModel(files["full2.h5"])
    third = readWeights(files["full3.h5"], plan)
    assert not np.array_equal(second["up1_convolution1"]["kernel"], third["up1_convolution1"]["kernel"])


def testUnfittingWeightFileIsRefusedByName(files, tmp_path):
    networks.buildPublished(importKeras(2), 4, 3).save_weights(tmp_path / "wide.h5")
    text = refusal(files["full2.h5"], tmp_path / "wide.h5")
    assert "down1_convolution1, kernel: another architecture" in text
    assert "expected shape (3, 3, 3, 1, 2), received (3, 3, 3, 1, 4)" in text


def testLayerNamesInChunksAreJoined(files, tmp_path, monkeypatch):
    keras = importKeras(2)
    legacy = pytest.importorskip("tf_keras.src.saving.legacy.hdf5_format")
    monkeypatch.setattr(legacy, "HDF5_OBJECT_HEADER_LIMIT", 300)
    model = networks.randomise(networks.buildPublished(keras, 2, 3), 2)
    model.save_weights(tmp_path / "chunks.h5")
    with h5py.File(tmp_path / "chunks.h5") as file:
        assert "layer_names" not in file.attrs and "layer_names2" in file.attrs
    np.testing.assert_array_equal(predict(tmp_path / "chunks.h5"), predict(files["full2.h5"]))


def testOtherFloatTypesAndCompressionAreRead(edit):
    with edit() as file:
        group = file["model_weights/conv3d/conv3d"]
        bias = group["bias:0"][()].astype(np.float16)
        kernel = group["kernel:0"][()].astype(np.float64)
        del group["bias:0"], group["kernel:0"]
        group["bias:0"] = bias
        group.create_dataset("kernel:0", data=kernel, compression="gzip", shuffle=True)
        path = file.filename
    weights = readModel(path)[1]["down1_convolution1"]
    np.testing.assert_array_equal(weights["bias"], bias.astype(np.float32))
    np.testing.assert_array_equal(weights["kernel"], kernel.astype(np.float32))


# ------------------------------------------------------------------------------------- another architecture


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"filters": 5}, ["conv3d_3 (here down2_convolution2): another filters (expected 4, received 5)"]),
        ({"side": 5}, ["another kernel_size (expected [3, 3, 3], received [5, 5, 5])"]),
        ({"dropout": True}, ["layer dropout does not belong to the 3D U-Net", "class Dropout"]),
        ({"swapSkip": True}, ["another architecture", "expected upSample"]),
        ({"relu": "LeakyReLU"}, ["does not belong", "class LeakyReLU"]),
        ({"relu": "ELU"}, ["does not belong", "class ELU"]),
        ({"epsilon": 1e-5}, ["another epsilon (expected 0.001, received 1e-05)"]),
        ({"training": True}, ["is called with options", "received [True]"]),
        ({"stride": True}, ["expected upSample"]),
        ({"sharedRelu": True}, ["is used 10 times (expected once)"]),
        ({"outputs": True}, ["has several outputs (expected 1, received 2)"]),
        ({"lateSigmoid": True}, ["expected convolution", "(Activation)"]),
        ({"activation": "linear"}, ["another activation (expected sigmoid, received linear)"]),
        ({"useBias": False}, ["another use_bias (expected True, received False)"]),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
@pytest.mark.parametrize("name", ["2.h5", "3.h5", "3.keras"])
def testAnotherArchitectureIsRefused(tmp_path, changes, words, name):
    model = networks.buildPublished(importKeras(int(name[0])), 2, 3, **changes)
    model.save(tmp_path / f"model{name}")
    networks.buildPublished(importKeras(3), 2, 3).save_weights(tmp_path / "good.weights.h5")
    for weightFile in (None, tmp_path / "good.weights.h5"):  # other weights do not make it another network
        text = refusal(tmp_path / f"model{name}", weightFile)
        for word in words:
            assert word in text


@pytest.mark.parametrize("name", ["2.h5", "2.weights.h5", "3.h5", "3.keras", "3.weights.h5"])
def testMissingOrAdditionalLevelsAreRefused(tmp_path, files, name):
    path = tmp_path / name
    model = networks.buildPublished(importKeras(int(name[0])), 2, 2)
    (model.save_weights if "weights" in name else model.save)(path)
    with pytest.raises(PipelineError, match="another architecture|another number of layers|another filters"):
        readWeights(path, describeUNet(2, 3))
    with pytest.raises(PipelineError, match="another architecture|another number of layers|another filters"):
        readWeights(files["full2.h5"], describeUNet(2, 2))


@pytest.mark.parametrize("name", ["2.h5", "2.weights.h5", "3.h5", "3.keras", "3.weights.h5"])
def testDenseNetworkIsRefused(tmp_path, name):
    keras = importKeras(int(name[0]))
    model = keras.Sequential([keras.Input((4,)), *(keras.layers.Dense(4) for _ in range(3))])
    (model.save_weights if "weights" in name else model.save)(tmp_path / name)
    assert re.search("is no 3D U-Net|is a Sequential model", refusal(tmp_path / name))


@pytest.mark.parametrize(
    ("generation", "words"),
    [
        (2, "another number of layers of the kind normalisation (expected 6, received 7)"),
        (3, "weights of ['group_normalization'] have no place in the network"),
    ],
)
def testWeightsWithoutAPlaceInWeightsAloneAreRefused(tmp_path, generation, words):
    keras = importKeras(generation)
    model = networks.buildPublished(keras, 2, 2)
    further = keras.layers.GroupNormalization(1)(model.output)
    path = tmp_path / ("more.h5" if generation == 2 else "more.weights.h5")
    keras.Model(model.input, further).save_weights(path)
    assert words in refusal(path)


def editConfig(file, change):
    """Apply a change to the layer list of a full .h5, by layer name."""
    config = json.loads(file.attrs["model_config"])
    change({layer["config"]["name"]: layer for layer in config["config"]["layers"]}, config["config"])
    file.attrs["model_config"] = json.dumps(config)
    return file.filename


@pytest.mark.parametrize(
    ("layer", "setting", "value"),
    [
        ("conv3d_1", "strides", [2, 2, 2]),
        ("conv3d_1", "dilation_rate", [2, 2, 2]),
        ("conv3d_1", "padding", "valid"),
        ("conv3d_1", "padding", "causal"),
        ("conv3d_1", "data_format", "channels_first"),
        ("conv3d_1", "groups", 2),
        ("conv3d_1", "activation", "relu"),
        ("batch_normalization", "axis", [1]),
        ("batch_normalization", "epsilon", float("nan")),
        ("batch_normalization", "scale", False),
        ("batch_normalization", "center", False),
        ("re_lu", "max_value", 6.0),
        ("re_lu", "negative_slope", 0.1),
        ("re_lu", "threshold", 0.5),
        ("max_pooling3d", "pool_size", [3, 3, 3]),
        ("max_pooling3d", "strides", [1, 1, 1]),
        ("up_sampling3d", "size", [2, 2, 1]),
        ("concatenate", "axis", 1),
    ],
)
def testEverySettingThatChangesThePredictionIsChecked(edit, layer, setting, value):
    with edit() as file:
        path = editConfig(file, lambda layers, _: layers[layer]["config"].update({setting: value}))
    text = refusal(path)
    assert f"layer {layer} (here " in text and f"another {setting}" in text


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda layers, _: layers["re_lu"].update(class_name="Activation"), None),  # relu is its default
        (lambda layers, _: layers["conv3d"].update(registered_name="Mine>Conv3D"), "class Mine>Conv3D"),
        (lambda layers, config: config["layers"].append(layers["conv3d"]), "have the same name"),
        (lambda layers, config: config["layers"].remove(layers["conv3d"]), "'conv3d'"),
        (lambda layers, config: config.update(output_layers=[["re_lu", 0, 0]]), "expected convolution"),
        (lambda layers, config: config.update(output_layers=[]), "is damaged or no model"),
        (lambda layers, config: config.update(layers=[1]), "is damaged or no model"),
        (lambda layers, config: config.update(layers=None), "is damaged or no model"),
        (lambda layers, _: layers["conv3d"].update(class_name=["Conv3D"]), "is damaged or no model"),
        (lambda layers, _: layers["conv3d"].update(inbound_nodes=[]), "reads another number of layers"),
        (lambda layers, _: layers["re_lu"].update(inbound_nodes=[[["re_lu", 0, 0, {}]]]), "re_lu"),
        (  # the skip of the first level starts from the first of its two activations
            lambda layers, _: layers["concatenate_1"]["inbound_nodes"][0][0].__setitem__(0, "re_lu"),
            "layer re_lu stands where re_lu_1 should be used again",
        ),
    ],
)
def testTheGraphMustBeThePublishedOne(edit, change, words):
    with edit() as file:
        path = editConfig(file, change)
    if words:
        assert words in refusal(path)
    else:
        assert readModel(path)


# --------------------------------------------------------------------------------------- code and other files


@pytest.mark.parametrize("name", ["2.h5", "3.h5", "3.keras"])
def testLambdaLayerIsRefusedAndNeverRun(tmp_path, name):
    keras, trace = importKeras(int(name[0])), str(tmp_path / "trace")
    model = networks.buildPublished(keras, 2, 2)
    body = keras.layers.Lambda(lambda x: open(trace, "a").close() or x)
    output = body(model.output)
    keras.Model(model.input, output).save(tmp_path / f"model{name}")
    Path(trace).unlink()  # the payload works: building the model has run it
    text = refusal(tmp_path / f"model{name}")
    assert "layer lambda is a Lambda layer: code in a model file is never executed" in text
    assert not Path(trace).exists()


def testLinksOutOfTheFileAreRefused(edit, files, tmp_path):
    links = {
        "an external link": h5py.ExternalLink(files["full3.h5"], "/model_weights/conv3d"),
        "a soft link": h5py.SoftLink("/model_weights/conv3d_1"),
    }
    for kind, link in links.items():
        with edit() as file:
            del file["model_weights/conv3d"]
            file["model_weights"]["conv3d"] = link
            path = file.filename
        assert f"/model_weights/conv3d is {kind}, which is never followed" in refusal(path)
    with edit() as file:
        file["elsewhere/deep"] = h5py.ExternalLink("/etc/passwd", "/")  # although nothing uses it
        path = file.filename
    assert "/elsewhere/deep is an external link" in refusal(path)


def testArraysKeptInOtherFilesAreRefused(edit, files, tmp_path):
    (tmp_path / "secret").write_bytes(bytes(8))
    with edit() as file:
        group = file["model_weights/conv3d/conv3d"]
        del group["bias:0"]
        group.create_dataset("bias:0", (2,), "f4", external=[(str(tmp_path / "secret"), 0, 8)])
        path = file.filename
    assert "bias:0 keeps its data in another file, which is never read" in refusal(path)
    with edit() as file:
        group = file["model_weights/conv3d/conv3d"]
        del group["bias:0"]
        layout = h5py.VirtualLayout((2,), "f4")
        layout[:] = h5py.VirtualSource(files["full3.h5"], "model_weights/conv3d_1/conv3d_1/bias", (2,))
        group.create_virtual_dataset("bias:0", layout)
        path = file.filename
    assert "bias:0 keeps its data in another file, which is never read" in refusal(path)


def testGroupThatContainsItselfEndsTheWalk(edit, files):
    with edit() as file:
        file["model_weights/conv3d/again"] = file["model_weights"]
        file["root"] = file["/"]
        for index in range(60):  # 2 ** 60 paths, 60 groups
            group = file.create_group(f"chain/{index}")
            for name in "ab":
                if index:
                    group[name] = file[f"chain/{index - 1}"]
        path = file.filename
    np.testing.assert_array_equal(predict(path), predict(files["full2.h5"]))


# ------------------------------------------------------------------------------------------- damaged content


def testFilesOfAnotherKindAreRefused(files, tmp_path):
    (tmp_path / "random.h5").write_bytes(random.Random(1).randbytes(5000))
    (tmp_path / "archive.zip").write_bytes(files["archive3.keras"].read_bytes()[-300:])
    for path in (files["text.h5"], tmp_path / "random.h5"):
        assert "is neither an HDF5 file (.h5) nor a .keras archive" in refusal(path)
    assert "is damaged or no model of Keras" in refusal(tmp_path / "archive.zip")
    assert "no such model file" in refusal(tmp_path / "missing.h5")


@pytest.mark.parametrize("name", ["full2.h5", "weights2.h5", "archive3.keras", "alone3.weights.h5"])
def testTruncatedFilesAreRefused(files, tmp_path, name):
    content, path = files[name].read_bytes(), tmp_path / "short.h5"
    for share in (0.01, 0.3, 0.6, 0.9):
        path.write_bytes(content[: int(share * len(content))])
        assert re.search("is damaged|is neither", refusal(path))


def testLayerNamesMustBeListed(edit):
    with edit() as file:
        del file["model_weights"].attrs["layer_names"]
        path = file.filename
    assert "/model_weights has no list layer_names" in refusal(path)
    with edit() as file:
        names = [name for name in file["model_weights"].attrs["layer_names"] if name != "conv3d_2"]
        file["model_weights"].attrs["layer_names"] = names
        path = file.filename
    assert "is no 3D U-Net of two convolutions a level" in refusal(path)
    with edit() as file:
        file["model_weights"].attrs["layer_names"] = []
        path = file.filename
    assert "holds no weights" in refusal(path)


def replaceVariable(file, name, array):
    """Replace a variable of the second normalisation; None drops it."""
    layer = file["model_weights/batch_normalization_1"]
    path = f"batch_normalization_1/{name}:0"
    names = [item for item in layer.attrs["weight_names"] if item != path]
    if path in layer:
        del layer[path]
    if array is not None:
        layer[path] = array
        names.append(path)
    layer.attrs["weight_names"] = names
    return file.filename


@pytest.mark.parametrize(
    ("name", "array", "words"),
    [
        ("gamma", None, "has other variables (expected ['beta', 'gamma', 'moving_mean', 'moving_variance']"),
        ("extra", np.ones(2, np.float32), "received ['beta', 'extra', 'gamma',"),
        ("gamma", np.array([1, np.nan], np.float32), "gamma: weights that are not finite numbers"),
        ("gamma", np.array([1, np.inf], np.float32), "gamma: weights that are not finite numbers"),
        ("gamma", np.array([1, 1e300]), "gamma: weights that are not finite numbers"),
        ("gamma", np.ones(2, np.int8), "gamma: weights must be floating-point numbers (received int8)"),
        ("gamma", np.ones(2, np.complex64), "weights must be floating-point numbers (received complex64)"),
        ("gamma", np.array([b"1", b"2"]), "weights must be floating-point numbers"),
        ("gamma", np.ones(3, np.float32), "expected shape (2,), received (3,)"),
        ("gamma", np.float32(1), "expected shape (2,), received ()"),
        ("moving_variance", np.array([1, -0.1], np.float32), "moving_variance: a variance below 0"),
    ],
)
def testDamagedVariablesAreRefusedByLayerAndName(edit, name, array, words):
    with edit() as file:
        path = replaceVariable(file, name, array)
    text = refusal(path)
    assert text.startswith("layer down1_normalisation2") and words in text


def testVariableListedTwiceIsRefused(edit):
    with edit() as file:
        layer = file["model_weights/conv3d"]
        layer["other/kernel:0"] = np.zeros((3, 3, 3, 1, 2), np.float32)
        layer.attrs["weight_names"] = [*layer.attrs["weight_names"], "other/kernel:0"]
        path = file.filename
    assert "layer conv3d lists a variable twice" in refusal(path)


def testMissingAndAdditionalNumberedVariablesAreRefused(edit):
    for change in ("missing", "more"):
        with edit("alone3.weights.h5") as file:
            variables = file["layers/batch_normalization_1/vars"]
            if change == "more":
                variables["4"] = np.ones(2, np.float32)
            else:
                del variables["3"]
            path = file.filename
        assert "layer down1_normalisation2 has other variables" in refusal(path)


def testNumberedLayersAreOrderedByNumber(files):
    with h5py.File(files["alone3.weights.h5"]) as file:
        assert "conv3d_10" in file["layers"]  # alphabetical order would put it before conv3d_2
    expected = readModel(files["full3.h5"])[1]
    received = readModel(files["alone3.weights.h5"])[1]
    assert list(expected) == list(received)
    for layer in expected:
        for name in expected[layer]:
            np.testing.assert_array_equal(expected[layer][name], received[layer][name])


def testHugeNetworkIsRefusedBeforeItsMemoryIsTaken(edit):
    with edit("weights2.h5") as file:
        group = file["conv3d/conv3d"]
        del group["kernel:0"]
        group.create_dataset(
            "kernel:0", (3, 3, 3, 1, 1 << 40), "f4", chunks=(3, 3, 3, 1, 64)
        )  # no byte on disk
        path = file.filename
    assert "the network is too large" in refusal(path)


def testArchiveWithoutItsPartsIsRefused(files, tmp_path):
    source, target = files["archive3.keras"], tmp_path / "model.keras"
    assert "There is no item named 'config.json'" in refusal(rewriteArchive(source, target, config=None))
    assert "There is no item named 'model.weights.h5'" in refusal(
        rewriteArchive(source, target, weights=None)
    )
    for config in ("", "{", "[1]", '{"config": 1}', "[" * 100000, b"\xff\xfe\x00"):
        assert "is damaged or no model of Keras" in refusal(rewriteArchive(source, target, config=config))
    assert "is damaged or no model" in refusal(rewriteArchive(source, target, weights=b"nothing"))


def testArchiveWithAnAbsurdEntryIsRefused(files, tmp_path, monkeypatch):
    path = rewriteArchive(files["archive3.keras"], tmp_path / "model.keras")
    monkeypatch.setattr(modelStorage, "MAXIMUM_BYTES", 1 << 20)
    assert readModel(path)
    size = zipfile.ZipFile(path).getinfo("config.json").file_size
    content = bytearray(path.read_bytes())
    entry = content.rindex(b"config.json") - 46  # in the directory at the end of the archive
    content[entry + 24 : entry + 28] = (1 << 20).to_bytes(4, "little")
    path.write_bytes(content)
    assert readModel(path)  # exactly as much as may be
    content[entry + 24 : entry + 28] = ((1 << 20) + 1).to_bytes(4, "little")
    path.write_bytes(content)
    text = refusal(path)
    assert "entry config.json is too large" in text and f"received {(1 << 20) + 1} bytes" in text
    assert size < 1 << 20


def testZeroedTextStorageDoesNotHang(files, tmp_path):
    content = bytearray(files["full2.h5"].read_bytes())
    place = content.index(b"GCOL") + 16  # of the first entry: 16 bytes of header, then its text
    place += 16 + -(-int.from_bytes(content[place + 8 : place + 16], "little") // 8) * 8
    content[place : place + 16] = bytes(16)
    (tmp_path / "zeros.h5").write_bytes(content)
    program = "import sys; from functions import readModel; readModel(sys.argv[1])"
    command = [sys.executable, "-c", program, str(tmp_path / "zeros.h5")]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert "PipelineError" in answer.stderr and "its text storage is broken" in answer.stderr


# ---------------------------------------------------------------------------------------------------- fuzzing


def damage(content, seed):
    """Truncate, overwrite, flip bits or blank a stretch: decided by the seed."""
    generator, content = random.Random(seed), bytearray(content)
    place = generator.randrange(len(content))
    match seed % 4:
        case 0:
            del content[place:]
        case 1:
            for _ in range(generator.choice((1, 3, 20))):
                content[generator.randrange(len(content))] = generator.randrange(256)
        case 2:
            content[place] ^= 1 << generator.randrange(8)
        case 3:
            stretch = slice(place, place + generator.randrange(1, 200))
            content[stretch] = bytes([generator.choice((0, 127, 255))]) * len(content[stretch])
    return bytes(content)


def outcomeOf(path):
    """Exit status of reading a file in a process of its own: 0 valid, 1 PipelineError, 2 anything else."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    status = 2
    try:
        signal.alarm(30)  # HDF5 must not hang either
        plan = describeUNet(*readArchitecture(path))
        weights = readWeights(path, plan)
        shapes = {layer: {name: array.shape for name, array in weights[layer].items()} for layer in weights}
        isFinite = all(np.isfinite(array).all() for arrays in weights.values() for array in arrays.values())
        status = 0 if isFinite and shapes == variableShapes(plan) else 2
    except PipelineError:
        status = 1
    finally:
        os._exit(status)


def printOutcomes(path, first, last):
    """Damage a file with every seed and print how reading it ends; run without Keras, which must not fork."""
    content, damaged = Path(path).read_bytes(), Path(path + ".damaged")
    for seed in range(int(first), int(last)):
        damaged.write_bytes(damage(content, seed))
        print(seed, outcomeOf(damaged))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that fork")
@pytest.mark.parametrize("name", ["full2.h5", "weights2.h5", "archive3.keras", "alone3.weights.h5"])
@pytest.mark.parametrize(("first", "last"), [(0, 40), pytest.param(40, 2000, marks=pytest.mark.slow)])
def testDamagedBytesGiveAnErrorOrValidWeights(tmp_path, name, first, last):
    keras = importKeras(int(re.search(r"\d", name)[0]))
    model = networks.randomise(networks.buildPublished(keras, 1, 1))  # small: most bytes are structure
    (model.save_weights if "weights" in name else model.save)(tmp_path / name)
    paths = map(str, (ROOT, ROOT / "tests", Path(__file__).parent))
    program = "import sys, test_models; test_models.printOutcomes(*sys.argv[1:])"
    answer = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / name), str(first), str(last)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        **{"capture_output": True, "text": True, "check": True, "timeout": 900},
    )
    outcomes = [tuple(map(int, line.split())) for line in answer.stdout.splitlines()]
    assert len(outcomes) == last - first
    assert [(seed, status) for seed, status in outcomes if status not in (0, 1)] == []
    assert sum(status for _, status in outcomes) > len(outcomes) // 5  # the damage is real


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def testWeightsInsideAnArchiveMustBeFinite(files, tmp_path, value):
    with zipfile.ZipFile(files["archive3.keras"]) as archive:
        weights = archive.read("model.weights.h5")
    with h5py.File(io.BytesIO(weights)) as file:
        place = file["layers/conv3d_1/vars/0"].id.get_offset()
    damaged = bytearray(weights)
    damaged[place : place + 4] = np.float32(value).tobytes()
    path = rewriteArchive(files["archive3.keras"], tmp_path / "model.keras", weights=bytes(damaged))
    assert "layer down1_convolution2, kernel: weights that are not finite numbers" in refusal(path)
