"""Writing a model as .h5, the published format."""

from pathlib import Path

import h5py

from engine.base.files import writeAtomically


class _FileInMemory(h5py.File):
    """HDF5 file that needs no disk; Keras asks for the text of a path that ends in .h5."""

    def __init__(self) -> None:
        super().__init__("model.h5", "w", driver="core", backing_store=False)

    def __str__(self) -> str:
        """Return a name that Keras takes for the older format."""
        return "model.h5"


def modelContent(model) -> bytes:
    """Architecture and weights as the content of an .h5 file.

    HDF5 itself never writes to the disk: where that is full it cannot close its file, and the process crashes
    (segmentation fault) as soon as it closes the next one.
    """
    with _FileInMemory() as file:
        model.save(file, include_optimizer=False)
        file.flush()
        return file.id.get_file_image()


def saveModel(model, path: Path) -> None:
    """Save architecture and weights as .h5, atomically."""
    content = modelContent(model)
    with writeAtomically(path) as temporary:
        temporary.write_bytes(content)
