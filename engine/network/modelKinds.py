"""What is no model file of a U-Net: told by its cause, with what to do about it."""

import contextlib
import errno
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.base.errors import PipelineError
from engine.base.hdf5 import LOCK_WORDS, isHdf5, openUnlocked

if TYPE_CHECKING:  # it loads slowly
    import h5py

HEAD_BYTES = 64
SAVE = "model.save('name.h5') of Keras writes what is needed"
UNPACKED = {"config.json", "model.weights.h5"}  # entries of a .keras archive
FOREIGN = {  # by the ending of a file that is neither HDF5 nor a .keras archive
    ".onnx": "a model of ONNX",
    ".pt": "a model of PyTorch",
    ".pth": "a model of PyTorch",
    ".ckpt": "a checkpoint of PyTorch or TensorFlow",
    ".safetensors": "weights of PyTorch",
    ".pb": "a graph of TensorFlow",
    ".tflite": "a model of TensorFlow Lite",
    ".index": "a checkpoint of TensorFlow",
    ".xml": "a model of OpenVINO",
    ".pkl": "a pickle of Python",
    ".npz": "an archive of NumPy",
    ".npy": "an array of NumPy",
    ".json": "a text without weights",
}
MODELS = ("Functional", "Model", "Sequential")  # classes of Keras 2 and 3
HELD = (errno.EAGAIN, errno.EACCES)  # by another process; any other number: nothing can be locked there


# --------------------------------------------------------------------------------------------- from outside


def refuseOtherFiles(path: Path) -> None:
    """Refuse what cannot be a model file of Keras, before any library opens it.

    Raises
    ------
    PipelineError
        Nothing, a folder, an empty file, a pointer of Git LFS, a web page, an archive of PyTorch.
    """
    if path.is_dir():
        _refuseFolder(path)
    if not path.is_file():
        if path.is_symlink():
            raise PipelineError("is a link to a file that is not there", file=path)
        if path.with_name(f"{path.name}.index").is_file():
            raise PipelineError("is a checkpoint of TensorFlow, no file of a model", file=path, remedy=SAVE)
        raise PipelineError("no such model file", file=path)
    if not path.stat().st_size:
        raise PipelineError("is empty", file=path, remedy="copy or download the file once more")
    with open(path, "rb") as file:
        head = file.read(HEAD_BYTES)
    if head.startswith(b"version https://git-lfs"):
        rule, remedy = "is a pointer of Git LFS, not the model itself", "git lfs pull fetches the model"
        raise PipelineError(rule, file=path, remedy=remedy)
    if head.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        rule, remedy = "is a web page, not a model", "download the file itself, not the page that shows it"
        raise PipelineError(rule, file=path, remedy=remedy)
    if head[4:8] == b"TFL3":
        _refuseForeign(FOREIGN[".tflite"], path)


def _refuseFolder(path: Path) -> None:
    """Refuse a folder, by what lies in it."""
    names = set(os.listdir(path))
    if "saved_model.pb" in names:
        _refuseForeign("a SavedModel folder of TensorFlow", path)
    if names >= UNPACKED:
        rule, remedy = "is an unpacked .keras archive", "zip the files in it, without a folder, to name.keras"
        raise PipelineError(rule, file=path, remedy=remedy)
    raise PipelineError("is a folder, no model file", file=path, remedy="name the file in it")


def refuseOtherArchives(archive: zipfile.ZipFile, path: Path) -> None:
    """Refuse zip archives of other programs."""
    names = archive.namelist()
    if any(name.endswith("data.pkl") for name in names):
        _refuseForeign(FOREIGN[".pt"], path)
    if any(name.endswith(".npy") for name in names):
        _refuseForeign(FOREIGN[".npz"], path)


def refuseUnknown(path: Path) -> None:
    """Refuse a file that is no HDF5 and was no archive, by what its ending says."""
    if isHdf5(path):
        return
    if kind := FOREIGN.get(path.suffix.lower()):
        _refuseForeign(kind, path)
    raise PipelineError("is neither an HDF5 file (.h5) nor a .keras archive", file=path, remedy=SAVE)


def _refuseForeign(kind: str, path: Path) -> None:
    """Refuse what another program wrote."""
    raise PipelineError(
        f"is {kind}, no model file of Keras", file=path, expected=".h5 or .keras", remedy=SAVE
    )


@contextlib.contextmanager
def openHdf5(path: Path) -> Iterator["h5py.File"]:
    """Open an HDF5 file for reading, without a lock where the file system knows none.

    Raises
    ------
    PipelineError
        Another process has it open for writing, or nothing can be locked or left unlocked.
    """
    import h5py

    try:
        file = h5py.File(path, "r")
    except OSError as error:
        if LOCK_WORDS not in str(error):
            raise
        if error.errno in HELD:
            remedy = "close it there (a notebook, a viewer, a training), or give a copy of the file"
            raise PipelineError(
                "is locked: another program writes to it", file=path, remedy=remedy
            ) from error
        file = openUnlocked(path)
    with file:
        yield file


# ---------------------------------------------------------------------------------------------- from inside


def refuseOtherModels(description: dict[str, Any], path: Path) -> None:
    """Refuse models that are no graph of layers, by the description that Keras writes of them.

    Parameters
    ----------
    description : dict
        class_name and config of the model.
    path : Path
        The file.

    Raises
    ------
    PipelineError
        A model within a model, a Sequential model, one of a class of its user.
    """
    className, config = description.get("class_name"), description["config"]
    layers = config.get("layers") if isinstance(config, dict) else config
    for layer in layers if isinstance(layers, list) else ():
        if isinstance(layer, dict) and layer.get("class_name") in MODELS:
            name = layer["config"]["name"]
            refuseNested(name, path, f"model.get_layer({name!r}).save('name.h5')")
    if className == "Sequential":
        rule = "is a Sequential model; a U-Net with skip connections is expected"
        raise PipelineError(rule, file=path, remedy="it has to be a Functional model of Keras")
    if className not in (None, *MODELS) and not layers:
        rule = f"is a model of the class {className} of its author, which tells no layers"
        raise PipelineError(rule, file=path, remedy="it has to be a Functional model of Keras")


def refuseNested(name: str, path: Path, command: str) -> None:
    """Refuse a model that is a layer of another one."""
    rule = f"holds the model {name} as a layer of another model; the U-Net has to stand alone"
    raise PipelineError(rule, file=path, remedy=f"save it by itself: {command}")


def refuseNestedWeights(group: "h5py.Group", path: Path) -> None:
    """Refuse weights of Keras 3 among which are those of a model within the model."""
    for name, part in group.items():
        if hasattr(part, "keys") and "layers" in part:
            refuseNested(name, path, "its own save_weights('name.weights.h5')")


def refuseWithoutModel(file: "h5py.File", path: Path) -> None:
    """Refuse an HDF5 file that Keras has not written, or for a class of its user."""
    refuseNestedWeights(file, path)
    names = ", ".join(sorted(file)[:5]) or "nothing"
    raise PipelineError(
        f"is an HDF5 file without a model of Keras (it holds {names})", file=path, remedy=SAVE
    )
