"""The course of a training: epochs, the best models, and the states from which it goes on."""

import contextlib
import hashlib
import math
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np

from engine.base.errors import StoppedBySignal
from engine.base.files import writeAtomically
from engine.base.records import digestFile
from engine.learning.averages import Averages
from engine.learning.batches import Batch, Batches, asDataset
from engine.learning.sharing import Sharing
from engine.learning.trainingState import TrainingState, captureState, restoreState
from engine.network.devices import toNumpy
from engine.network.modelWriter import modelContent

Row = dict[str, float]


class Checkpoint(NamedTuple):
    """A file that keeps the model of the best epoch."""

    path: Path
    metric: str
    isHighest: bool  # whether more is better

    def isBetter(self, row: Row, best: Row | None) -> bool:
        """Whether an epoch is better than the best one so far; one of NaN can have the best accuracy.

        The loss decides between equals: as long as nothing is found, every Dice is 0.
        """
        if not (math.isfinite(row[self.metric]) and math.isfinite(row["val_loss"])):
            return False
        return best is None or self._rank(row) > self._rank(best)

    def _rank(self, row: Row) -> tuple[float, float]:
        """Order epochs: more is better."""
        value = row[self.metric]
        return value if self.isHighest else -value, -row["val_loss"]


@dataclass
class Progress:
    """How far a training has come; what JSON can hold."""

    epoch: int = 0  # finished ones
    step: int = 0  # of the epoch under way
    learnt: Row | None = None  # scores of its training, when only its validation is missing
    history: list[Row] = field(default_factory=list)
    best: dict[str, int] = field(default_factory=dict)  # {metric: epoch, from 0}
    seconds: float = 0.0
    epochSeconds: list[float] = field(default_factory=list)


class Parts(NamedTuple):
    """What a training works with."""

    model: keras.Model  # compiled
    plain: keras.Model  # the same network, compiled, as it is validated and saved; may be the same object
    sharing: Sharing
    readBatch: Callable[[int, int], Batch]  # (epoch, step) -> arrays for Keras
    stepCount: int  # of an epoch
    epochCount: int
    validation: Batches
    averages: Averages
    checkpoints: list[Checkpoint]
    completeRow: Callable[[Row], Row]  # adds scores that follow from counts


class Training:
    """A training that can be stopped at any moment and goes on with the same numbers.

    Parameters
    ----------
    parts : Parts
        What it works with.
    state : TrainingState
        Where it notes how far it has come.
    identity : dict
        Parameters and digests that the state belongs to.
    device : str
        What it computes on, in words.
    saveSeconds : float
        A state is saved after every epoch, and after so many seconds within one.
    """

    def __init__(
        self, parts: Parts, state: TrainingState, identity: dict[str, Any], device: str, saveSeconds: float
    ) -> None:
        self.parts, self.state, self.identity, self.saveSeconds = parts, state, identity, saveSeconds
        self.devices = [device]  # all that it has computed on, this one last
        self.progress = Progress()
        self.kept: dict[str, np.ndarray] = {}  # {metric: content of the best model's file}
        self.signal = 0  # number of the one that came
        self.isDiverged = False  # the loss is no number any more
        self._unread: dict[str, np.ndarray] | None = None  # state of the metrics within an epoch
        self._begin = self._epochBegin = time.monotonic()

    @property
    def isValidating(self) -> bool:
        """Whether no step is under way: the validation of an epoch, or all are done."""
        return self.progress.learnt is not None or self.progress.epoch == self.parts.epochCount

    def resume(self, record: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        """Go on from a state: what `TrainingState.load` gave."""
        parts = self.parts
        self.progress = Progress(**record["progress"])
        earlier = [device for device in record.get("devices", ()) if device != self.devices[-1]]
        self.devices = [*earlier, self.devices[-1]]
        self.kept = {metric: arrays[f"best/{metric}"] for metric in self.progress.best}
        with parts.sharing.scope():
            parts.model.optimizer.build(parts.model.trainable_variables)
            for group in ("weights", "optimiser"):
                restoreState(parts.model, arrays, group)
            if self.progress.step and self.progress.learnt is None:
                self._unread = arrays
                parts.model.test_on_batch(*parts.readBatch(0, 0))  # Keras makes its metrics only now
        self._renewPlain()
        self._writeBest()

    def run(self, report: Callable[["Training", Row], None], callbacks: list) -> str:
        """Train to the end.

        Parameters
        ----------
        report : callable
            Called after every epoch.
        callbacks : list
            Of Keras, for example a progress bar.

        Returns
        -------
        str
            Why it ended early; empty: it did not.

        Raises
        ------
        StoppedBySignal
            Ctrl-C or SIGTERM; the state is saved.
        """
        parts, progress = self.parts, self.progress
        self._epochBegin = time.monotonic()  # an interrupted one counts from its last start
        self._begin = self._epochBegin - progress.seconds
        with _notedSignals(self):
            while progress.epoch < parts.epochCount:
                if progress.learnt is None:
                    progress.learnt = self._learn(callbacks)
                if not math.isfinite(progress.learnt["loss"]):
                    return f"the loss of epoch {progress.epoch + 1} is not a finite number"
                row = parts.completeRow(progress.learnt | self._validate())
                if not all(np.isfinite(weights).all() for weights in parts.plain.get_weights()):
                    return f"a weight is no finite number after epoch {progress.epoch + 1}"
                self._keepBest(row)
                progress.history.append(row)
                progress.epochSeconds.append(round(time.monotonic() - self._epochBegin, 2))
                self._epochBegin = time.monotonic()
                progress.epoch, progress.step, progress.learnt = progress.epoch + 1, 0, None
                self.save()
                self._writeBest()
                report(self, row)
                self._stopIfInterrupted()
        if not math.isfinite(progress.history[-1]["val_loss"]):
            return f"the validation loss of epoch {progress.epoch} is not a finite number"
        return ""

    def save(self) -> None:
        """Save the state."""
        self.progress.seconds = round(time.monotonic() - self._begin, 1)
        record = {"identity": self.identity, "progress": asdict(self.progress), "devices": self.devices}
        best = {f"best/{metric}": content for metric, content in self.kept.items()}
        self.state.save(record, captureState(self.parts.model) | best)

    def _learn(self, callbacks: list) -> Row:
        """Do the steps of an epoch that are left."""
        parts, epoch = self.parts, self.progress.epoch
        batches = Batches(
            lambda step: parts.readBatch(epoch, step), range(self.progress.step, parts.stepCount)
        )
        watch = _Watch(self)
        span, calls = {"initial_epoch": epoch, "epochs": epoch + 1}, [watch, *callbacks]
        with parts.sharing.scope(), _originalError(batches):
            parts.model.fit(asDataset(batches), **span, callbacks=calls, verbose=0, shuffle=False)
        if self.progress.step < parts.stepCount and not self.isDiverged:
            self.save()
            self._stopIfInterrupted()
        row = {name: float(value) for name, value in parts.model.get_metrics_result().items()}
        return row | {"learning_rate": float(toNumpy(parts.model.optimizer.learning_rate))}

    def _validate(self) -> Row:
        """Score the network on the whole validation set."""
        self._renewPlain()
        options = {"verbose": 0, "return_dict": True, "callbacks": [_Watch(self)]}
        with _originalError(self.parts.validation):
            row = self.parts.plain.evaluate(asDataset(self.parts.validation), **options)
        if self.signal:
            self.save()
            self._stopIfInterrupted()
        return {f"val_{name}": float(value) for name, value in row.items()}

    def _renewPlain(self) -> None:
        """Bring the network that is validated and saved up to date."""
        model, plain = self.parts.model, self.parts.plain
        if plain is not model:
            plain.set_weights(model.get_weights())
        self.parts.averages.renew()

    def _keepBest(self, row: Row) -> None:
        """Keep the model of this epoch wherever it is the best so far."""
        content = None
        for checkpoint in self.parts.checkpoints:
            best = self.progress.best.get(checkpoint.metric)
            if checkpoint.isBetter(row, None if best is None else self.progress.history[best]):
                if content is None:
                    content = np.frombuffer(modelContent(self.parts.plain), np.uint8)
                self.kept[checkpoint.metric] = content
                self.progress.best[checkpoint.metric] = self.progress.epoch

    def _writeBest(self) -> None:
        """Write the best models that differ from the files; the state has them already."""
        for checkpoint in self.parts.checkpoints:
            content = self.kept.get(checkpoint.metric)
            if content is None:
                continue
            digest = hashlib.sha256(content).hexdigest()
            if not (checkpoint.path.is_file() and digestFile(checkpoint.path) == digest):
                with writeAtomically(checkpoint.path) as temporary:
                    temporary.write_bytes(content)

    def _stopIfInterrupted(self) -> None:
        if self.signal:
            raise StoppedBySignal(self.signal)


class _Watch(keras.callbacks.Callback):
    """Counts steps, saves from time to time, and stops after the step in which a signal came."""

    def __init__(self, training: Training) -> None:
        super().__init__()
        self.training, self._saved = training, time.monotonic()

    def on_epoch_begin(self, epoch: int, logs: Row | None = None) -> None:
        """Take up the running scores of an epoch that was interrupted; Keras has just set them to zero."""
        arrays, self.training._unread = self.training._unread, None
        if arrays:
            restoreState(self.model, arrays, "metrics")

    def on_train_batch_end(self, batch: int, logs: Row | None = None) -> None:
        """Count a step."""
        training = self.training
        training.progress.step += 1
        training.isDiverged = not math.isfinite(logs["loss"])
        if training.signal or training.isDiverged:
            self.model.stop_training = True
        elif training.progress.step == training.parts.stepCount:
            return  # the state of the finished epoch follows
        elif time.monotonic() - self._saved > training.saveSeconds:
            training.save()
            self._saved = time.monotonic()

    def on_test_batch_end(self, batch: int, logs: Row | None = None) -> None:
        """Stop a validation: it is done anew."""
        self.model.stop_evaluating = bool(self.training.signal)


@contextlib.contextmanager
def _originalError(batches: Batches) -> Iterator[None]:
    """Raise what was wrong with the data, not the error that a back end makes of it."""
    try:
        yield
    except Exception:
        if batches.error:
            raise batches.error from None
        raise


@contextlib.contextmanager
def _notedSignals(training: Training) -> Iterator[None]:
    """Note Ctrl-C and SIGTERM instead of dying of them; a second one has its usual effect."""

    def note(number: int, frame) -> None:
        training.signal = number
        signal.signal(number, before[number])

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, note)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class EpochBar(keras.callbacks.Callback):
    """Keras's own progress bar, with what a user looks at: loss, Dice and remaining time."""

    def __init__(self, epochCount: int) -> None:
        super().__init__()
        self.epochCount = epochCount

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Begin a line."""
        print(f"Epoch {epoch + 1}/{self.epochCount}")
        self.bar = keras.utils.Progbar(self.params["steps"], stateful_metrics=("loss", "dice"))

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        """Draw it."""
        self.bar.update(batch + 1, [(name, float(logs[name])) for name in ("loss", "dice")])
