"""Files that are no model of a U-Net: the cause by name, and what to do, in one line."""

import subprocess
import sys
import zipfile

import h5py
import keras
import numpy as np
import pytest
from places import ROOT

from engine.base.errors import PipelineError
from engine.network import modelKinds
from functions import buildSpotUNet, readModel

ENDINGS = (".h5", ".keras", ".weights.h5")


def refusal(path, weightFile=None):
    """Return the error's text: one line that opens with the file's name."""
    with pytest.raises(PipelineError) as caught:
        readModel(path, weightFile)
    assert "\n" not in str(caught.value) and str(caught.value).startswith(f"{weightFile or path}: ")
    return str(caught.value)


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """Write a model that can be read."""
    path = tmp_path_factory.mktemp("good") / "good.h5"
    buildSpotUNet(1, 2).save(path, include_optimizer=False)
    return path


# --------------------------------------------------------------------------------------------- other models


class Wrapped(keras.Model):
    """A model whose layers only its class knows."""

    def __init__(self):
        super().__init__()
        self.inner = buildSpotUNet(1, 2)

    def call(self, tensor):
        return self.inner(tensor)


def makeWrapped():
    model = Wrapped()
    model(np.zeros((1, 2, 2, 2, 1), np.float32))
    return model


def makeNested():
    first = keras.Input((None, None, None, 1))
    return keras.Model(first, buildSpotUNet(1, 2)(first))


def save(model, path):
    (model.save_weights if path.name.endswith(".weights.h5") else model.save)(path)
    return path


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("isSequential", [False, True])
def testAModelWithinAModelIsNamed(tmp_path, ending, isSequential):
    inner = buildSpotUNet(1, 2)
    model = makeNested()
    if isSequential:
        model = keras.Sequential([keras.Input((None, None, None, 1)), inner])
    text = refusal(save(model, tmp_path / f"model{ending}"))
    name = "functional" if ending == ".weights.h5" else inner.name
    assert f"holds the model {name} as a layer of another model" in text and "save it by itself: " in text
    if ending != ".weights.h5":
        assert f"model.get_layer({inner.name!r}).save('name.h5')" in text


def testTheRemedyForAModelWithinAModelWorks(tmp_path):
    model = makeNested()
    name = next(layer.name for layer in model.layers if isinstance(layer, keras.Model))
    model.get_layer(name).save(tmp_path / "inner.h5")
    assert readModel(tmp_path / "inner.h5")


def testAModelWithinAModelOfKeras2IsNamed(tmp_path):
    tf_keras = pytest.importorskip("tf_keras")
    first = tf_keras.Input((8, 8, 8, 1))
    inner = tf_keras.Sequential([first, tf_keras.layers.Conv3D(2, 3), tf_keras.layers.Conv3D(1, 1)])
    model = tf_keras.Model(first, inner(first))
    model.save(tmp_path / "model.h5")
    model.save_weights(tmp_path / "weights.h5")
    assert "holds the model sequential" in refusal(tmp_path / "model.h5")
    assert "or is itself a model" in refusal(tmp_path / "weights.h5")


@pytest.mark.parametrize("ending", [".h5", ".keras"])
@pytest.mark.parametrize("hasInput", [False, True])
def testASequentialModelIsNamed(tmp_path, ending, hasInput):
    layers = [keras.layers.Conv3D(2, 3, padding="same"), keras.layers.Conv3D(1, 1)]
    model = keras.Sequential([*([keras.Input((8, 8, 8, 1))] if hasInput else []), *layers])
    model.build((None, 8, 8, 8, 1))
    text = refusal(save(model, tmp_path / f"model{ending}"))
    assert "is a Sequential model; a U-Net with skip connections is expected" in text


@pytest.mark.parametrize(
    ("ending", "words"),
    zip(ENDINGS, ["of the class Wrapped"] * 2 + ["as a layer of another model"], strict=True),
)
def testAModelOfAClassOfItsUserIsNamed(tmp_path, ending, words):
    assert words in refusal(save(makeWrapped(), tmp_path / f"model{ending}"))


def testAWeightFileIsNamedToo(tmp_path, good):
    path = save(makeNested(), tmp_path / "nested.weights.h5")
    assert "as a layer of another model" in refusal(good, path)


# ---------------------------------------------------------------------------------------------- other files


def testHdf5WithoutAModelIsNamed(tmp_path):
    with h5py.File(tmp_path / "data.h5", "w") as file:
        file["volume"] = np.zeros(3)
    assert "is an HDF5 file without a model of Keras (it holds volume)" in refusal(tmp_path / "data.h5")
    h5py.File(tmp_path / "bare.h5", "w").close()
    assert "(it holds nothing)" in refusal(tmp_path / "bare.h5")


def testFoldersAreNamed(tmp_path, good):
    assert "is a folder, no model file; name the file in it" in refusal(tmp_path)
    buildSpotUNet(1, 2).export(tmp_path / "saved", verbose=False)
    text = refusal(tmp_path / "saved")
    assert "is a SavedModel folder of TensorFlow" in text and "model.save('name.h5')" in text
    buildSpotUNet(1, 2).save(tmp_path / "model.keras")
    with zipfile.ZipFile(tmp_path / "model.keras") as archive:
        archive.extractall(tmp_path / "unpacked")
    assert "is an unpacked .keras archive; zip the files" in refusal(tmp_path / "unpacked")
    assert "is a folder" in refusal(good, tmp_path)


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935\nsize 12345\n"
OTHERS = {
    "a.h5": (b"", "is empty"),
    "b.h5": (POINTER, "is a pointer of Git LFS, not the model itself; git lfs pull"),
    "c.h5": (b"\n<!DOCTYPE html><html>", "is a web page"),
    "d.onnx": (b"\x08\x07\x12\x07pytorch", "is a model of ONNX, no model file of Keras"),
    "e.pth": (b"\x80\x02\x8a\nl\xfc", "is a model of PyTorch"),
    "f.PB": (b"\n\x0b\n\x07x", "is a graph of TensorFlow"),
    "g.bin": (b"\x1c\0\0\0TFL3\x14\0", "is a model of TensorFlow Lite"),
    "h.tflite": (b"1234", "is a model of TensorFlow Lite"),
    "i.json": (b'{"class_name": "Functional"}', "is a text without weights"),
    "j.h5": (b"some text", "is neither an HDF5 file (.h5) nor a .keras archive"),
}


@pytest.mark.parametrize("name", OTHERS)
def testFilesOfOtherProgramsAreNamed(tmp_path, name):
    content, words = OTHERS[name]
    (tmp_path / name).write_bytes(content)
    assert words in refusal(tmp_path / name)


@pytest.mark.parametrize(
    ("entry", "words"),
    [("model/data.pkl", "is a model of PyTorch"), ("kernel.npy", "is an archive of NumPy")],
)
def testArchivesOfOtherProgramsAreNamed(tmp_path, entry, words):
    with zipfile.ZipFile(tmp_path / "model.h5", "w") as archive:
        archive.writestr(entry, b"content")
    assert words in refusal(tmp_path / "model.h5")


def testLinksAndCheckpointsWithoutAFileAreNamed(tmp_path):
    (tmp_path / "link.h5").symlink_to("nowhere.h5")
    assert "is a link to a file that is not there" in refusal(tmp_path / "link.h5")
    (tmp_path / "model.ckpt.index").write_bytes(b"x")
    assert "is a checkpoint of TensorFlow" in refusal(tmp_path / "model.ckpt")
    assert refusal(tmp_path / "model.h5").endswith(": no such model file")


def testAnEndingAloneRefusesNothing(tmp_path, good):
    for name in ("model.pt", "model"):
        (tmp_path / name).write_bytes(good.read_bytes())
        assert readModel(tmp_path / name)


def testAFileThatMayNotBeReadIsNamed(good, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied", str(good))

    monkeypatch.setattr(modelKinds, "open", refuse, raising=False)
    assert refusal(good).endswith(": cannot be read: Permission denied")


@pytest.mark.parametrize("offset", [0, 512, 2048])
def testAHeadBeforeHdf5IsSkipped(tmp_path, good, offset):
    (tmp_path / "a.h5").write_bytes(bytes(offset) + good.read_bytes())
    assert modelKinds.isHdf5(tmp_path / "a.h5") and h5py.is_hdf5(tmp_path / "a.h5")


# ------------------------------------------------------------------------------------------------- locks


def testAFileThatIsBeingWrittenIsNamed(good):
    code = "import sys; from functions import readModel; readModel(sys.argv[1])"
    command = [sys.executable, "-c", code, good]
    with h5py.File(good, "r+"):
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    line = result.stderr.splitlines()[-1]
    assert f"{good}: is locked: another program writes to it; close it there" in line
    with h5py.File(good, "r"):  # who reads locks nobody out
        assert subprocess.run(command, cwd=ROOT, capture_output=True).returncode == 0


@pytest.mark.parametrize("isUnlockable", [True, False])
def testAFileSystemWithoutLocksIsReadWithoutThem(good, monkeypatch, isUnlockable):
    openFile = h5py.File

    def refuse(name, mode="r", **options):
        if isinstance(name, (str, bytes)) or hasattr(name, "suffix"):
            if options.get("locking") is not False or not isUnlockable:
                raise OSError(
                    37, "Unable to open file (unable to lock file, errno = 37, 'No locks available')"
                )
        return openFile(name, mode, **options)

    expected = readModel(good)
    monkeypatch.setattr(h5py, "File", refuse)
    if isUnlockable:
        assert readModel(good)[0] == expected[0]
    else:
        assert "cannot lock files; set HDF5_USE_FILE_LOCKING=FALSE and repeat" in refusal(good)
