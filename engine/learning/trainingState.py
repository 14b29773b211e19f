"""The state of an unfinished training: two files in turn, so that one is whole at any moment."""

import hashlib
import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from engine.base.errors import PipelineError
from engine.base.files import writeAtomically
from engine.network.devices import backendName, toNumpy

LOGGER = logging.getLogger(__name__)
DIGEST_BYTES = 32
Saved = tuple[dict[str, Any], dict[str, np.ndarray]]  # what JSON can hold, and arrays
RECORD = "record"  # name of the JSON text among the arrays


class TrainingState:
    """Two files beside the model; the newer one that is whole counts.

    Parameters
    ----------
    modelFile : path
        Names the files: .state-NAME-0 and .state-NAME-1 in the same folder.
    isRestart : bool
        The training was asked to begin anew. What it saves says so, for a repetition of the same command to
        go on instead of beginning anew once more.
    """

    def __init__(self, modelFile: Path, isRestart: bool = False) -> None:
        self.paths = [modelFile.with_name(f".state-{modelFile.stem}-{number}") for number in (0, 1)]
        self.isRestart = isRestart
        self._saved = 0

    def save(self, record: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        """Replace the older file.

        Parameters
        ----------
        record : dict
            What JSON can hold.
        arrays : dict
            {name: array}.

        Raises
        ------
        PipelineError
            The disk is full; both files are as before.
        """
        number = self._saved + 1
        content = packState(record | {"number": number, "isRestart": self.isRestart}, arrays)
        with writeAtomically(self.paths[number % 2]) as temporary:
            temporary.write_bytes(hashlib.sha256(content).digest() + content)
        self._saved = number

    def load(self) -> Saved | None:
        """Read the newer of the files that are whole; a damaged one is reported.

        Where the training shall begin anew, only what it has saved itself since then counts.

        Raises
        ------
        PipelineError
            There are files, all of them are damaged, and the training shall not begin anew.
        """
        existing = [path for path in self.paths if path.exists()]
        found = [state for state in map(_readState, existing) if state]
        if existing and not (found or self.isRestart):
            raise PipelineError(
                "the state of the unfinished training is damaged",
                file=existing[0],
                remedy="--restart begins anew",
            )
        if not found:
            return None
        newest = max(found, key=lambda state: state[0]["number"])
        isRestart = newest[0].pop("isRestart", False)
        if self.isRestart and not isRestart:
            return None
        self._saved, self.isRestart = newest[0].pop("number"), isRestart
        return newest

    def remove(self) -> None:
        """Delete the files: the training is finished, or begins anew."""
        for path in self.paths:
            path.unlink(missing_ok=True)
        self._saved = 0


def _readState(path: Path) -> Saved | None:
    """Read one file; None, and a warning, where it is damaged."""
    content = path.read_bytes()
    if hashlib.sha256(content[DIGEST_BYTES:]).digest() != content[:DIGEST_BYTES]:
        LOGGER.warning("%s is damaged and left out", path.name)
        return None
    return unpackState(content[DIGEST_BYTES:])


class UnwrittenState:
    """What a process of several has in place of a state: the first one saves it for all."""

    def save(self, record: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        """Save nothing."""

    def remove(self) -> None:
        """Remove nothing."""


def packState(record: dict[str, Any], arrays: dict[str, np.ndarray]) -> bytes:
    """Put a state into bytes, so that `unpackState` gives it back."""
    buffer = io.BytesIO()
    text = np.frombuffer(json.dumps(record).encode(), np.uint8)
    np.savez(buffer, **{RECORD: text}, **arrays)
    return buffer.getvalue()


def unpackState(content: bytes) -> Saved:
    """Take apart what `packState` made."""
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        arrays = dict(file)
    return json.loads(arrays.pop(RECORD).tobytes()), arrays


def captureState(model) -> dict[str, np.ndarray]:
    """Copy weights, optimiser and running metrics of a model in training."""
    if backendName() == "jax":
        model.jax_state_sync()
    return {name: toNumpy(variable) for name, variable in _variables(model)}


def restoreState(model, arrays: dict[str, np.ndarray], group: str) -> None:
    """Set what `captureState` copied, of one group of variables."""
    for name, variable in _variables(model):
        if name.startswith(group):
            variable.assign(arrays[name])


def _variables(model) -> Iterator[tuple[str, Any]]:
    """Name every variable of a training."""
    groups = {
        "weights": model.variables,
        "optimiser": model.optimizer.variables,
        "metrics": model.metrics_variables,
    }
    for group, variables in groups.items():
        for number, variable in enumerate(variables):
            yield f"{group}/{number}", variable
