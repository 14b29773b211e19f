"""Learning data and checkpoints for Keras; imported only when a network is trained."""

import h5py
import keras
import numpy as np

from engine.files import writeAtomically


class SubVolumes(keras.utils.PyDataset):
    """Batches of memory-mapped sub-volumes, in an order that follows from (seed, epoch) alone.

    Parameters
    ----------
    images, masks : array
        (sample, x, y, z, 1) float32 and bool, usually memory-mapped; only the batch in use is read.
    batchSize : int
        Samples per batch; the last one may be smaller.
    seed : int, optional
        Shuffles every epoch anew; None keeps the order of the files.
    """

    def __init__(
        self, images: np.ndarray, masks: np.ndarray, batchSize: int, seed: int | None = None
    ) -> None:
        super().__init__(workers=1, use_multiprocessing=False)
        self.images, self.masks, self.batchSize, self.seed = images, masks, batchSize, seed
        self.epoch = -1  # no epoch has begun; Keras reads a batch or two before, to learn the shapes

    def __len__(self) -> int:
        """Count the batches of an epoch."""
        return -(-len(self.images) // self.batchSize)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Read one batch of images and masks as float32."""
        chosen = self._order()[index * self.batchSize : (index + 1) * self.batchSize]
        return self.images[chosen].astype(np.float32), self.masks[chosen].astype(np.float32)

    def on_epoch_begin(self) -> None:
        """Move on to the next order; Keras calls on_epoch_end once more than this, before the first epoch."""
        self.epoch += 1

    def _order(self) -> np.ndarray:
        """List the samples in the order of this epoch."""
        if self.seed is None:
            return np.arange(len(self.images))
        return np.random.default_rng((self.seed, max(self.epoch, 0))).permutation(len(self.images))


class BestModel(keras.callbacks.Callback):
    """Keep the model of the best epoch; a full disk or a kill never costs the last good file.

    Parameters
    ----------
    path : path
        Full model, .h5.
    metric : str
        Name in the log that decides.
    isBetter : callable
        (new, best) -> bool.
    """

    def __init__(self, path, metric: str, isBetter) -> None:
        super().__init__()
        self.path, self.metric, self.isBetter = path, metric, isBetter
        self.best, self.epoch = None, None

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Save the model if this epoch is the best so far; one of NaN can have the best accuracy."""
        value = float((logs or {})[self.metric])
        isFinite = np.isfinite((value, (logs or {}).get("val_loss", value))).all()
        if isFinite and (self.best is None or self.isBetter(value, self.best)):
            saveModel(self.model, self.path)
            self.best, self.epoch = value, epoch


class _FileInMemory(h5py.File):
    """HDF5 file that needs no disk; Keras asks for the text of a path that ends in .h5."""

    def __init__(self) -> None:
        super().__init__("model.h5", "w", driver="core", backing_store=False)

    def __str__(self) -> str:
        """Return a name that Keras takes for the older format."""
        return "model.h5"


def saveModel(model: keras.Model, path) -> None:
    """Save architecture and weights as .h5, atomically.

    HDF5 itself never writes to the disk: where that is full it cannot close its file, and the process crashes
    (segmentation fault) as soon as it closes the next one.
    """
    with _FileInMemory() as file:
        model.save(file, include_optimizer=False)
        file.flush()
        content = file.id.get_file_image()
    with writeAtomically(path) as temporary:
        temporary.write_bytes(content)
