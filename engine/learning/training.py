"""The course of a training: epochs, the best models, and the states from which it goes on."""

import contextlib
import hashlib
import math
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np

from engine.base.console import say
from engine.base.errors import PipelineError, StoppedBySignal
from engine.base.files import writeAtomically
from engine.base.records import digestFile
from engine.learning.averages import Averages
from engine.learning.batches import Batches, asDataset, readInOrder
from engine.learning.job import Job
from engine.learning.optimiser import Optimisation
from engine.learning.progress import Progress, Row
from engine.learning.sharing import Sharing
from engine.learning.steps import Steps
from engine.learning.trainingState import Saved, captureState, restoreState
from engine.network.devices import SAME_TO_ROUNDING, toNumpy
from engine.network.modelWriter import modelContent, saveModel
from engine.preparation.samples import Samples


class Setup(NamedTuple):
    """What a training works with."""

    model: keras.Model  # that learns; compiled
    plain: keras.Model  # the same network, compiled, as it is validated and saved; may be the same object
    sharing: Sharing
    steps: Steps
    validation: Samples
    optimisation: Optimisation
    completeRow: Callable[[Row], Row]  # adds scores that follow from counts


class Training:
    """A training that can be stopped at any moment and goes on with the same numbers.

    Parameters
    ----------
    setup : Setup
        What it works with.
    job : Job
        Which one it is: its files, and where it notes how far it has come.
    device : str
        What it computes on, in words.
    saveSeconds : float
        A state is saved after every epoch, and after so many seconds within one.
    """

    def __init__(self, setup: Setup, job: Job, device: str, saveSeconds: float) -> None:
        self.setup, self.job, self.saveSeconds = setup, job, saveSeconds
        averageBatches = setup.optimisation.averageBatches
        faster = setup.model if setup.sharing.isAlike else setup.plain
        self.group = group = setup.sharing.group
        self._averages = Averages(setup.plain, setup.steps.readExtra, averageBatches, faster, group)
        self._isCounted = group.index < setup.validation.count  # or it has no sample of its own
        first = group.index if self._isCounted else 0  # Keras makes its metrics from a batch
        self._validation = readInOrder(setup.validation, first, group.count)
        self.devices = [device]  # all that it has computed on, this one last
        self.progress = Progress()
        self.kept: dict[str, np.ndarray] = {}  # {metric: content of the best model's file}
        self.signal = 0  # number of the one that came to this process
        self.stop = 0  # number of one that came to any process, once all of them know it
        self.isDiverged = False  # the loss is no number any more
        self._unread: dict[str, np.ndarray] | None = None  # state of the metrics within an epoch
        self._begin = self._epochBegin = time.monotonic()

    @property
    def isValidating(self) -> bool:
        """Whether no step is under way: the validation of an epoch, or all are done."""
        return self.progress.learnt is not None or self.progress.epoch == self.setup.steps.epochCount

    def start(self) -> list[str]:
        """Take up the saved state, if there is one, and tell so in lines."""
        if not self.job.saved:
            self.job.state.remove()  # of a training that shall not go on
            return []
        self._resume(self.job.saved)
        lines = [f"Going on after epoch {self.progress.epoch}, step {self.progress.step}"]
        if self.devices[:-1]:
            lines.append(f"Trained so far on {', '.join(self.devices[:-1])}: {SAME_TO_ROUNDING}")
        return lines

    def _resume(self, saved: Saved) -> None:
        """Go on from a state."""
        record, arrays = saved
        setup = self.setup
        self.progress = Progress(**record["progress"])
        earlier = [device for device in record.get("devices", ()) if device != self.devices[-1]]
        self.devices = [*earlier, self.devices[-1]]
        self.kept = {metric: arrays[f"best/{metric}"] for metric in self.progress.best}
        with setup.sharing.scope():
            setup.model.optimizer.build(setup.model.trainable_variables)
            for group in ("weights", "optimiser"):
                restoreState(setup.model, arrays, group)
            if self.progress.step and self.progress.learnt is None:
                self._unread = arrays
                batch = setup.sharing.partOf(setup.steps.read(0, 0))
                setup.model.test_on_batch(*batch)  # Keras makes its metrics only now
        self._renewPlain()
        self._writeBest()

    def run(self, report: Callable[[], None]) -> str:
        """Train to the end.

        Parameters
        ----------
        report : callable
            Called after every epoch, in the first process.

        Returns
        -------
        str
            Why it ended early; empty: it did not.

        Raises
        ------
        StoppedBySignal
            Ctrl-C or SIGTERM; the state is saved.
        """
        setup, progress = self.setup, self.progress
        bars = showEpochs(setup.steps.epochCount) if self.group.isFirst else []
        self._epochBegin = time.monotonic()  # an interrupted one counts from its last start
        self._begin = self._epochBegin - progress.seconds
        with _notedSignals(self):
            while progress.epoch < setup.steps.epochCount:
                if progress.learnt is None:
                    progress.learnt = self._learn(bars)
                if not math.isfinite(progress.learnt["loss"]):
                    return f"the loss of epoch {progress.epoch + 1} is not a finite number"
                row = setup.completeRow(progress.learnt | self._validate())
                areFinite = all(np.isfinite(weights).all() for weights in setup.plain.get_weights())
                if not self.group.first(bool(areFinite)):
                    return f"a weight is no finite number after epoch {progress.epoch + 1}"
                self._endEpoch(row)
                if self.group.isFirst:
                    report()
                self.agreeOnStop()
                self._stopIfInterrupted()
        if not math.isfinite(progress.history[-1]["val_loss"]):
            return f"the validation loss of epoch {progress.epoch} is not a finite number"
        return ""

    def saveLast(self, load: Callable[[Path], None], failure: str) -> list[str]:
        """Save the model of the last epoch; after a failure that with the best loss, and tell so in a line.

        Parameters
        ----------
        load : callable
            Reads a file into the network.
        failure : str
            What `run` gave.

        Raises
        ------
        PipelineError
            No epoch can be used; the state is removed.
        """
        if not self.progress.best:
            self.job.state.remove()
            rule = "loss, validation loss or weights were never finite numbers; no checkpoint was written"
            raise PipelineError(rule, remedy="try a smaller --learningRate")
        outputs, lines = self.job.outputs, []
        if failure:
            load(outputs.weightFile)
            held = f"{outputs.modelFile.name} holds its best epoch"
            lines.append(f"Warning: {failure}: the training ends; {held}")
        saveModel(self.setup.plain, outputs.modelFile)
        return lines

    def save(self) -> None:
        """Save the state, in the first process."""
        self.progress.seconds = round(time.monotonic() - self._begin, 1)
        if not self.group.isFirst:
            return
        record = {"identity": self.job.identity, "progress": asdict(self.progress), "devices": self.devices}
        best = {f"best/{metric}": content for metric, content in self.kept.items()}
        self.job.state.save(record, captureState(self.setup.model) | best)

    def _endEpoch(self, row: Row) -> None:
        """Note the scores of an epoch, and save its state and the best models."""
        progress = self.progress
        self._keepBest(row)
        progress.history.append(row)
        progress.epochSeconds.append(round(time.monotonic() - self._epochBegin, 2))
        self._epochBegin = time.monotonic()
        progress.epoch, progress.step, progress.learnt = progress.epoch + 1, 0, None
        self.save()
        self._writeBest()

    def _learn(self, callbacks: list) -> Row:
        """Do the steps of an epoch that are left."""
        model, steps, epoch = self.setup.model, self.setup.steps, self.progress.epoch
        partOf, numbers = self.setup.sharing.partOf, range(self.progress.step, steps.count)
        batches = Batches(lambda step: partOf(steps.read(epoch, step)), numbers)
        span, calls = {"initial_epoch": epoch, "epochs": epoch + 1}, [_Watch(self), *callbacks]
        with self.setup.sharing.scope(), _originalError(batches):
            model.fit(asDataset(batches), **span, callbacks=calls, verbose=0, shuffle=False)
        if self.progress.step < steps.count and not self.isDiverged:
            self.save()
            self._stopIfInterrupted()
        row = {name: float(value) for name, value in model.get_metrics_result().items()}
        return self.group.first(row | {"learning_rate": float(toNumpy(model.optimizer.learning_rate))})

    def _validate(self) -> Row:
        """Score the network on the whole validation set."""
        self._renewPlain()
        options = {"verbose": 0, "return_dict": True, "callbacks": [_Watch(self)]}
        with _originalError(self._validation):
            row = self.setup.plain.evaluate(asDataset(self._validation), **options)
        if self.agreeOnStop():
            self.save()
            self._stopIfInterrupted()
        if self.group.count > 1:
            row = self._addUpScores()
        return {f"val_{name}": float(value) for name, value in row.items()}

    def _addUpScores(self) -> Row:
        """Score what all processes have validated: Keras's metrics are sums."""
        plain = self.setup.plain
        for variable in plain.metrics_variables:
            variable.assign(sum(self.group.gatherArrays(toNumpy(variable) * self._isCounted)))
        return plain.get_metrics_result()

    def _renewPlain(self) -> None:
        """Bring the network that is validated and saved up to date."""
        model, plain = self.setup.model, self.setup.plain
        if plain is not model:
            plain.set_weights(model.get_weights())
        self._averages.renew()

    def _keepBest(self, row: Row) -> None:
        """Keep the model of this epoch wherever it is the best so far."""
        content = None
        for checkpoint in self.job.outputs.checkpoints:
            best = self.progress.best.get(checkpoint.metric)
            if checkpoint.isBetter(row, None if best is None else self.progress.history[best]):
                if content is None:
                    content = np.frombuffer(modelContent(self.setup.plain), np.uint8)
                self.kept[checkpoint.metric] = content
                self.progress.best[checkpoint.metric] = self.progress.epoch

    def _writeBest(self) -> None:
        """Write the best models that differ from the files; the state has them already."""
        if not self.group.isFirst:
            return
        for checkpoint in self.job.outputs.checkpoints:
            content = self.kept.get(checkpoint.metric)
            if content is None:
                continue
            digest = hashlib.sha256(content).hexdigest()
            if not (checkpoint.path.is_file() and digestFile(checkpoint.path) == digest):
                with writeAtomically(checkpoint.path) as temporary:
                    temporary.write_bytes(content)

    def agreeOnStop(self, isDue: bool = False) -> bool:
        """Tell all processes of a signal that came to any; whether they stop, or a state is due in the first.

        Parameters
        ----------
        isDue : bool
            Whether this process would save a state by the clock.
        """
        told = self.group.gather([int(self.signal), isDue])
        self.stop = max(number for number, _ in told)
        return bool(self.stop) or told[0][1]

    def _stopIfInterrupted(self) -> None:
        if self.stop:
            self.group.gather(None)  # nobody is missed before the state is saved
            raise StoppedBySignal(self.stop)


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
        isDue = training.agreeOnStop(time.monotonic() - self._saved > training.saveSeconds)
        if training.stop or training.isDiverged:
            self.model.stop_training = True
        elif training.progress.step == training.setup.steps.count:
            return  # the state of the finished epoch follows
        elif isDue:
            training.save()
            self._saved = time.monotonic()

    def on_test_batch_end(self, batch: int, logs: Row | None = None) -> None:
        """Stop a validation: it is done anew."""
        self.model.stop_evaluating = bool(self.training.signal or self.training.stop)


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


def showEpochs(epochCount: int) -> list[keras.callbacks.Callback]:
    """Make a progress bar; none where stdout is no terminal."""
    return [EpochBar(epochCount)] if sys.stdout.isatty() else []


class EpochBar(keras.callbacks.Callback):
    """Keras's own progress bar, with what a user looks at: loss, Dice and remaining time."""

    def __init__(self, epochCount: int) -> None:
        super().__init__()
        self.epochCount = epochCount

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Begin a line."""
        say(f"Epoch {epoch + 1}/{self.epochCount}")
        self.bar = keras.utils.Progbar(self.params["steps"], stateful_metrics=("loss", "dice"))

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        """Draw it."""
        self.bar.update(batch + 1, [(name, float(logs[name])) for name in ("loss", "dice")])
