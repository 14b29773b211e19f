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
from engine.formats.growing import partialName
from engine.formats.opening import findBeside, stemOf
from engine.formats.tiff import requireTifffile
from engine.formats.zarrWriter import requireReplaceable, requireZarr
from engine.volumes.names import splitInner
from engine.volumes.volume import Volume

POSITIVE, REST = np.uint8(0), np.uint8(255)  # published
NRRD, TIFF, ZARR = "nrrd", "tiff", "omezarr"  # outputFormat
ZARR_ENDING = ".ome.zarr"  # of the folder that holds all


class Voxels(NamedTuple):
    """A result with a value for every voxel."""

    dtype: str
    values: Callable[[np.ndarray, np.ndarray], np.ndarray]  # of labelled planes and their probability
    isSegmentation: bool = False  # which 3D Slicer opens as such


class Result(NamedTuple):
    """A kind of result."""

    kind: str
    ending: str  # behind the name of the probability
    switch: str  # parameter that turns it on; empty: none
    needsReference: bool = False
    voxels: Voxels | None = None
    needsParticles: bool = True


class Form(NamedTuple):
    """How a result with a value for every voxel is written in another format than NRRD."""

    ending: str
    voxels: Voxels
    voxelBytes: int  # at most; 0: compressed to little


MASK = Voxels("uint8", lambda labels, probability: np.where(labels > 0, POSITIVE, REST))
SEGMENTATION = Voxels("uint8", lambda labels, probability: labels > 0, isSegmentation=True)
LABELS = Voxels("uint32", lambda labels, probability: labels)
PROBABILITY = Voxels("float32", lambda labels, probability: probability)
KINDS = (
    Result("mask", "_mask.nrrd", "mask", voxels=MASK),
    Result("segmentation", "_mask.seg.nrrd", "segmentation", voxels=SEGMENTATION),
    Result("labels", "_labels.nrrd", "labels", voxels=LABELS),
    Result("particles", "_particles.csv", "particles"),
    Result("summary", "_summary.json", "particles"),
    Result("scores", "_scores.json", "scores", needsReference=True),
    Result("errors", "_errors.csv", "scores", needsReference=True),
    Result("report", "_report.html", "report"),
    Result("overview", "_overview.png", "overview", needsParticles=False),
    Result("mhd", ".mhd", "mhd", needsParticles=False),
    Result("probability", "", "", voxels=PROBABILITY),
)
BY_KIND = {result.kind: result for result in KINDS}
FORMS = {
    TIFF: {
        "mask": Form("_mask.tif", MASK, 1),
        "labels": Form("_labels.tif", LABELS, 4),
        "probability": Form("_probability.tif", PROBABILITY, 4),
    },
    ZARR: {
        "mask": Form(f"{ZARR_ENDING}/labels/mask", SEGMENTATION, 0),  # in labels of OME-Zarr 0 is the rest
        "labels": Form(f"{ZARR_ENDING}/labels/particles", LABELS, 0),
        "probability": Form(ZARR_ENDING, PROBABILITY, 5),  # coarser levels take a seventh
    },
}
FORMAT_NAMES = {NRRD: "NRRD", TIFF: "TIFF", ZARR: "OME-Zarr"}
REQUIRED = {TIFF: requireTifffile, ZARR: requireZarr}


def nameResults(nameOutput: Path, outputFormat: str) -> dict[str, Path]:
    """Name the files, and folders, of all kinds that the format has."""
    forms = FORMS.get(outputFormat, {})
    endings = {kind: forms[kind].ending if kind in forms else BY_KIND[kind].ending for kind in BY_KIND}
    return {kind: _nameResult(nameOutput, ending) for kind, ending in endings.items() if ending}


def _nameResult(nameOutput: Path, ending: str) -> Path:
    """Name a result of a probability."""
    return nameOutput.parent / f"{nameOutput.stem}{ending}"


def formatOf(paths: dict[str, Path]) -> str:
    """Tell the format of results by their names: {kind: path}."""

    def fits(forms: dict[str, Form]) -> bool:
        return any(kind in paths and str(paths[kind]).endswith(form.ending) for kind, form in forms.items())

    return next((name for name, forms in FORMS.items() if fits(forms)), NRRD)


def nameZarr(nameOutput: Path) -> Path:
    """Name the OME-Zarr of a probability."""
    return _nameResult(nameOutput, ZARR_ENDING)


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


def measureCopies(kinds: Collection[str], outputFormat: str) -> tuple[int, str]:
    """Bytes a voxel that results take in another format than NRRD, at most, and the name of the format.

    Masks and labels are compressed to little, but in TIFF.
    """
    forms = FORMS.get(outputFormat, {})
    return sum(forms[kind].voxelBytes for kind in kinds if kind in forms), FORMAT_NAMES[outputFormat]


def describeOutdated(nameOutput: Path, written: Collection[Path]) -> list[str]:
    """Tell which results are of an earlier run, in a line; none where all are of this one."""
    outdated = listOutdated(nameOutput, written)
    return [f"Of an earlier run, not of this one: {', '.join(outdated)}"] if outdated else []


def listOutdated(nameOutput: Path, written: Collection[Path]) -> list[str]:
    """Name results of an earlier run that this one left as they are."""
    paths = {path for name in FORMAT_NAMES for path in nameResults(nameOutput, name).values()}
    left = {path for path in paths if path.exists()} - {*written}
    named = {path for path in left if not left.intersection(path.parents)}  # a folder stands for its content
    return sorted(path.relative_to(nameOutput.parent).as_posix() for path in named)


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
        Of the other results.
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
    written = {path.resolve(): path for path in reversed(outputs)}
    for name, path in [(name, path) for name, path in inputs.items() if path]:
        own = splitInner(path)[0].resolve()
        places = (place for place in (own, *own.parents) if place in written)  # a file, or a folder
        if place := next(places, None):
            raise PipelineError(f"nameOutput would replace {name}", file=written[place])
    REQUIRED.get(outputFormat, lambda: None)()
    if outputFormat == ZARR:
        requireReplaceable(nameZarr(nameOutput))


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
