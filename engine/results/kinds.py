"""Which results there are besides the probability: a new one is an entry here, and whoever makes it.

A result with a value for every voxel is wholly described by its entry; files.py writes it. The others are
made in outcome.py.
"""

import os
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from engine.base.errors import PipelineError
from engine.base.files import refuseLongNames
from engine.volumes.formats import findBeside, stemOf
from engine.volumes.growing import partialName
from engine.volumes.names import splitInner
from engine.volumes.tiff import requireTifffile
from engine.volumes.volume import Volume

POSITIVE, REST = np.uint8(0), np.uint8(255)  # published
TIFF = "tiff"


class Voxels(NamedTuple):
    """A result with a value for every voxel."""

    dtype: str
    values: Callable[[np.ndarray, np.ndarray], np.ndarray]  # of labelled planes and their probability
    tiffBytes: int = 0  # a voxel in TIFF, at most
    isSegmentation: bool = False  # which 3D Slicer opens as such


class Result(NamedTuple):
    """A kind of result."""

    kind: str
    ending: str  # behind the name of the probability
    switch: str  # parameter that turns it on; empty: none
    needsReference: bool = False
    tiffEnding: str = ""  # with outputFormat tiff
    voxels: Voxels | None = None
    needsParticles: bool = True


MASK = Voxels("uint8", lambda labels, probability: np.where(labels > 0, POSITIVE, REST), 1)
SEGMENTATION = Voxels("uint8", lambda labels, probability: labels > 0, isSegmentation=True)
LABELS = Voxels("uint32", lambda labels, probability: labels, 4)
PROBABILITY = Voxels("float32", lambda labels, probability: probability, 4)
KINDS = (
    Result("mask", "_mask.nrrd", "mask", tiffEnding="_mask.tif", voxels=MASK),
    Result("segmentation", "_mask.seg.nrrd", "segmentation", voxels=SEGMENTATION),
    Result("labels", "_labels.nrrd", "labels", tiffEnding="_labels.tif", voxels=LABELS),
    Result("particles", "_particles.csv", "particles"),
    Result("summary", "_summary.json", "particles"),
    Result("scores", "_scores.json", "scores", needsReference=True),
    Result("errors", "_errors.csv", "scores", needsReference=True),
    Result("report", "_report.html", "report"),
    Result("overview", "_overview.png", "overview", needsParticles=False),
    Result("mhd", ".mhd", "mhd", needsParticles=False),
    Result("probability", "", "", tiffEnding="_probability.tif", voxels=PROBABILITY),
)
BY_KIND = {result.kind: result for result in KINDS}


def nameResults(nameOutput: Path, outputFormat: str) -> dict[str, Path]:
    """Name the files of all kinds that the format has."""
    endings = {result.kind: (outputFormat == TIFF and result.tiffEnding) or result.ending for result in KINDS}
    return {
        kind: nameOutput.with_name(nameOutput.stem + ending) for kind, ending in endings.items() if ending
    }


def chooseResults(
    nameOutput: Path, outputFormat: str, parameters: dict[str, Any], hasReference: bool
) -> dict[str, Path]:
    """Choose the results that parameters switch on and that can be made: {kind: file}."""
    return {
        kind: path
        for kind, path in nameResults(nameOutput, outputFormat).items()
        if parameters.get(BY_KIND[kind].switch, True) and (hasReference or not BY_KIND[kind].needsReference)
    }


def needParticles(kinds: Collection[str]) -> bool:
    """Whether any of these results needs the particles."""
    return any(BY_KIND[kind].needsParticles for kind in kinds)


def measureTiff(kinds: Collection[str], outputFormat: str) -> int:
    """Bytes a voxel that the results take as TIFF, at most; NRRD masks and labels are compressed."""
    if outputFormat != TIFF:
        return 0
    return sum(BY_KIND[kind].voxels.tiffBytes for kind in kinds if BY_KIND[kind].voxels)


def describeOutdated(nameOutput: Path, written: Collection[Path]) -> list[str]:
    """Tell which results are of an earlier run, in a line; none where all are of this one."""
    outdated = listOutdated(nameOutput, written)
    return [f"Of an earlier run, not of this one: {', '.join(outdated)}"] if outdated else []


def listOutdated(nameOutput: Path, written: Collection[Path]) -> list[str]:
    """Name results of an earlier run that this one left as they are."""
    endings = [ending for result in KINDS for ending in (result.ending, result.tiffEnding) if ending]
    paths = (nameOutput.with_name(nameOutput.stem + ending) for ending in endings)
    return sorted({path.name for path in paths if path.exists()} - {path.name for path in written})


def refuseNameless(nameInput: Path) -> None:
    """Refuse a name of the input that is none of a file, before others follow from it."""
    if not nameInput.name:
        raise PipelineError("nameInput names no file", received=repr(str(nameInput)))


def refuseReplacing(nameOutput: Path, outputFormat: str, inputs: dict[str, Path | None]) -> None:
    """Refuse a result that could not be written, or that would replace an input, before any work.

    Parameters
    ----------
    nameOutput : Path
        The probability.
    outputFormat : str
        Of the other results: nrrd or tiff.
    inputs : dict
        {what a user reads of it: file}.
    """
    folder = nameOutput.parent
    if not folder.is_dir():
        raise PipelineError("no such folder", file=folder, remedy="create it or choose another --nameOutput")
    if not os.access(folder, os.W_OK):
        remedy = "choose another --nameOutput"
        raise PipelineError("nothing can be written into this folder", file=folder, remedy=remedy)
    outputs = nameOutput, nameOutput.with_suffix(".json"), *nameResults(nameOutput, outputFormat).values()
    journal = nameOutput.with_name(f"{partialName(nameOutput).name}.json")
    refuseLongNames((*outputs, journal), "choose a shorter name with --nameOutput")
    if nameOutput.suffix.lower() != ".nrrd":
        raise PipelineError("nameOutput must end with .nrrd", file=nameOutput)
    if nameOutput.is_dir():
        raise PipelineError("nameOutput is a folder", file=nameOutput)
    if outputFormat == TIFF:
        requireTifffile()
    for written in outputs:
        for name, path in inputs.items():
            if path and splitInner(path)[0].resolve() == written.resolve():
                raise PipelineError(f"nameOutput would replace {name}", file=written)


def nameManualMask(nameInput: Path) -> Path:
    """Name the manual mask that belongs to a volume, whether it is there or not."""
    return findBeside(nameInput, f"{stemOf(nameInput).removesuffix('_data')}_mask")


def findManualMask(nameInput: Path) -> Path:
    """Find the manual mask that belongs to a volume; "none" where there is none."""
    mask = nameManualMask(nameInput)
    return mask if os.path.exists(mask) else Path("none")  # a name can be too long to be asked for


def nameProbability(nameInput: Path) -> Path:
    """Name the probability of a volume."""
    path, _ = splitInner(nameInput)
    return path.with_name(f"{stemOf(nameInput).removesuffix('_data')}_segmented.nrrd")


def nameInputs(volume: Volume, modelFile: Path) -> dict[str, Path]:
    """Name what no result may replace besides the files that were named: {what a user reads: path}."""
    folder = volume.path.parent
    files = {f"the data file {os.path.relpath(path, folder)} of nameInput": path for path in volume.files}
    others = {"the contract of modelFile": modelFile.with_suffix(".json")}
    others["the manual mask of nameInput"] = nameManualMask(volume.path)  # even where there is none yet
    return {"nameInput": volume.path} | files | others
