"""The sub-volumes that prepareData.py wrote: read piece by piece, never held or mapped as a whole."""

import contextlib
import math
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tokenize import TokenError
from typing import Any, NamedTuple

import numpy as np

from engine.base.errors import PipelineError
from engine.base.files import lockName
from engine.base.records import changedNames, digestFile, digestFiles, packageVersions, readJson, writeJson
from engine.masks.place import viewOf
from engine.preparation.labelled import EVERYTHING, Labelled
from engine.preparation.pairs import Pair, explainReadErrors
from engine.preparation.writing import SampleWriter, writeArraysAtomically
from engine.volumes.frame import Turn
from engine.volumes.volume import Volume

Place = Sequence[slice]
SCORED = (0.0, 1.0)  # mean and standard deviation of a z-scored scan
IDENTITY = (
    "positiveLabel",
    "normalization",
    "moments",
    "noData",
    "cover",
)  # parameters that voxels follow from
SPARSE = "ignoreLabel", "labelledSlices", "validationSlices"  # the same, where something is given
PARTS = "training", "validation"
UNLABELLED = -1  # in place of 0 and 1, where a voxel counts nowhere


class Samples:
    """Images and masks of one set.

    A file is mapped only while a piece of it is read: pages of a mapped file count as memory of the process,
    which would grow with the set. How many positive voxels lie in every plane is counted once, so that one of
    them is found by reading a single plane.

    Parameters
    ----------
    images, masks : path
        .npy files, (sample, x, y, z, 1) float32 and bool.
    labelled : path, optional
        The same as masks, True = labelled; without it every voxel is.
    scan : (float, float), optional
        Mean and standard deviation of whole scans as the grey values are stored; None: each sub-volume has
        its own scale.
    """

    def __init__(
        self,
        images: Path,
        masks: Path,
        labelled: Path | None = None,
        scan: tuple[float, float] | None = None,
    ) -> None:
        self.images, self.masks, self.labelled, self.scan = images, masks, labelled, scan
        self._known = {path: _identify(path) for path in self.files}
        self._layouts = {path: _describeLayout(openArray(path)) for path in self.files}
        count, *sides, _ = self._layouts[images]["shape"]
        self.count, self.sides = count, tuple(sides)
        self.positives = self._count(self._readPositives)  # (sample, x)
        self.labels = self._count(self._readLabelled) if labelled else None  # the same; None: all are

    @property
    def files(self) -> tuple[Path, ...]:
        """All files."""
        return (self.images, self.masks) + ((self.labelled,) if self.labelled else ())

    @property
    def labelledCount(self) -> int:
        """Voxels that are labelled."""
        return self.count * math.prod(self.sides) if self.labels is None else int(self.labels.sum())

    def read(self, index: int, place: Place = (slice(None),) * 3) -> tuple[np.ndarray, np.ndarray]:
        """Read a piece of a sample: grey values (x, y, z) float32 and mask bool.

        Where voxels of the set are not labelled, the mask is int8, and `UNLABELLED` there.
        """
        image, mask = (np.array(self._open(path)[index, *place, 0]) for path in (self.images, self.masks))
        if self.labelled is None:
            return image, mask
        return image, np.where(self._open(self.labelled)[index, *place, 0], mask, np.int8(UNLABELLED))

    def readImage(self, index: int, place: Place) -> np.ndarray:
        """Read grey values alone."""
        return np.array(self._open(self.images)[index, *place, 0])

    def positiveVoxel(self, index: int, rank: int) -> tuple[int, int, int]:
        """Find the voxel with this number among the positive ones of a sample."""
        return self._findVoxel(index, rank, self.positives, self._readPositives)

    def labelledVoxel(self, index: int, rank: int) -> tuple[int, int, int]:
        """Find the voxel with this number among the labelled ones of a sample, where not all are."""
        return self._findVoxel(index, rank, self.labels, self._readLabelled)

    def _findVoxel(
        self, index: int, rank: int, counts: np.ndarray, read: Callable[..., np.ndarray]
    ) -> tuple[int, int, int]:
        """Find the voxel with this number among those that are read and were counted."""
        ends = np.cumsum(counts[index])
        x = int(np.searchsorted(ends, rank, "right"))
        plane = np.flatnonzero(read(index, x))
        y, z = np.unravel_index(plane[rank - ends[x] + counts[index, x]], self.sides[1:])
        return x, int(y), int(z)

    def _count(self, read: Callable[..., np.ndarray]) -> np.ndarray:
        """Count the voxels of every plane that are read as True: (sample, x)."""
        return np.array([np.count_nonzero(read(index), axis=(1, 2, 3)) for index in range(self.count)])

    def _readPositives(self, *place: int) -> np.ndarray:
        """Read which voxels of a sample, or of one of its planes, are labelled as positive."""
        mask = self._open(self.masks)[place]
        return mask if self.labelled is None else mask & self._readLabelled(*place)

    def _readLabelled(self, *place: int) -> np.ndarray:
        """Read which voxels of a sample, or of one of its planes, are labelled."""
        return self._open(self.labelled)[place]

    def _open(self, path: Path) -> np.ndarray:
        """Map a file; PipelineError where it is another one than at the start."""
        if _identify(path) != self._known[path]:
            raise PipelineError(
                "was changed while it was learnt from", file=path, remedy="repeat the command"
            )
        return np.memmap(path, mode="r", **self._layouts[path])  # np.load would parse the header every time


def _describeLayout(array: np.memmap) -> dict:
    """How a mapped array lies in its file."""
    order = "C" if array.flags.c_contiguous else "F"
    return {"dtype": array.dtype, "offset": array.offset, "shape": array.shape, "order": order}


def _identify(path: Path) -> tuple[int, int] | None:
    """Size and time of the last change; None where there is no such file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def openSamples(folder: str | Path, part: str, multiple: int) -> Samples:
    """Open the sub-volumes that prepareData.py wrote and check that they can be learnt.

    Parameters
    ----------
    folder : path
        Usually pythonFiles/.
    part : str
        training or validation.
    multiple : int
        Voxels that the network needs sides to be multiples of.

    Raises
    ------
    PipelineError
        A file is missing, damaged or of another type; shapes differ; sides that the network cannot halve;
        nothing is labelled.
    """
    paths = [Path(folder) / f"{part}Data{kind}.npy" for kind in ("Image", "Mask")]
    images, masks = map(openArray, paths)
    _requireSubVolumes(paths[0], images, masks)
    if any(side % multiple for side in images.shape[1:4]):
        raise PipelineError(
            f"this network halves every side {multiple.bit_length() - 1} times",
            file=paths[0],
            expected=f"multiples of {multiple}",
            received=images.shape[1:4],
            remedy="prepare other sub-volumes or train with a smaller --levelCount",
        )
    labelled = _findLabelled(Path(folder), part, masks)
    prepared = (readJson(Path(folder) / "parameters.json") or {}).get("parameters", {})
    samples = Samples(*paths, labelled, SCORED if prepared.get("normalization") == "volume" else None)
    if not samples.labelledCount:
        raise PipelineError("nothing labelled", file=labelled, remedy="run prepareData.py again")
    return samples


def _findLabelled(folder: Path, part: str, masks: np.ndarray) -> Path | None:
    """Find the array that tells which voxels of a set are labelled; None where all are.

    Raises
    ------
    PipelineError
        It is missing, does not fit, or is of another preparation.
    """
    path = folder / nameLabelled(part)
    known = (readJson(folder / "parameters.json") or {}).get("outputs")
    if isinstance(known, dict) and (path.name in known) is not path.exists():
        rule, remedy = "is of an earlier preparation", "remove it, or run prepareData.py again"
        if path.name in known:
            rule, remedy = "no such file, and not all voxels are labelled", "run prepareData.py again"
        raise PipelineError(rule, file=path, remedy=remedy)
    if not path.exists():
        return None
    array = openArray(path)
    if (array.shape, array.dtype) != (masks.shape, np.dtype(bool)):
        expected, received = f"{masks.shape} bool", f"{array.shape} {array.dtype}"
        raise PipelineError("does not fit to the masks", file=path, expected=expected, received=received)
    return path


def nameLabelled(part: str) -> str:
    """Name the array that tells which voxels of a set are labelled."""
    return f"{part}DataLabelled.npy"


def _requireSubVolumes(file: Path, images: np.ndarray, masks: np.ndarray) -> None:
    """Refuse arrays that are no sub-volumes with their masks."""
    if images.shape != masks.shape:
        raise PipelineError(
            "images and masks differ in shape", file=file, received=f"{images.shape} and {masks.shape}"
        )
    if images.ndim != 5 or images.shape[-1] != 1 or not images.size:
        raise PipelineError(
            "is no set of sub-volumes", file=file, expected="(sample, x, y, z, 1)", received=images.shape
        )
    if images.dtype != np.float32 or masks.dtype != bool:
        raise PipelineError(
            "another type",
            file=file,
            expected="float32 and bool",
            received=f"{images.dtype} and {masks.dtype}",
        )


def openArray(path: Path) -> np.ndarray:
    """Memory-map an .npy file; objects in it are never unpickled."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        if isinstance(array, np.ndarray):
            return array
        array.close()
        raise ValueError("it is an archive of several")
    except FileNotFoundError as error:
        raise PipelineError("no such file", file=path, remedy="run prepareData.py first") from error
    except (OSError, ValueError, EOFError, SyntaxError, TypeError, TokenError) as error:
        raise PipelineError(f"is no readable .npy file: {error}", file=path) from error


# ------------------------------------------------------------------------------------------- what is written


class Part(NamedTuple):
    """What one of the two sets is cut into."""

    name: str  # training or validation
    pairs: list[Pair]
    shape: tuple[int, int, int]  # of every sub-volume
    starts: list[tuple[list[int], ...]]  # of each pair along x, y and z
    sampleCount: int
    labelled: Labelled = EVERYTHING
    kept: list[np.ndarray] | None = None  # of each pair, as in `Cut`; None: all sub-volumes are
    isSparse: bool = False  # whether voxels of them are not labelled


def describeRun(parts: list[Part], settings: dict[str, Any]) -> dict[str, Any]:
    """Describe inputs, parameters and outputs: equal descriptions mean equal results.

    A folder of slices has one digest, of those of its files in order: two thousand would bury the others.
    Outputs are empty as long as masks have to be looked at to know them.
    """
    inputs, turned, placed, inner = {}, [], {}, {}
    for part in parts:
        for pair in part.pairs:
            name, view = f"{part.name}Masks/{pair.mask.path.name}", viewOf(pair.mask)
            turned += [name] * (view.turn != Turn())
            placed |= {name: list(view.window.corner)} if view.window else {}
            for kind, volume in zip(("Images", "Masks"), pair, strict=True):
                inputs |= {f"{part.name}{kind}/{name}": digest for name, digest in _digestVolume(volume)}
                inner |= {f"{part.name}{kind}/{volume.path.name}": volume.inner} if volume.inner else {}
    parameters = {
        name: value
        for name, value in settings.items()
        if name.startswith(("length_", "nb_")) or name in IDENTITY or (name in SPARSE and value != "")
    }
    parameters |= {"turnedMasks": turned} if turned else {}
    parameters |= {"inner": inner} if inner else {}  # what is meant in files of several things
    parameters |= {"placedMasks": placed} if placed else {}  # voxel of the image at which each begins
    outputs = describeOutputs(parts) if all(part.labelled.isDense for part in parts) else {}
    return {"parameters": parameters, "inputs": inputs, "outputs": outputs, "versions": packageVersions()}


def describeOutputs(parts: list[Part]) -> dict[str, dict[str, Any]]:
    """Describe the arrays of all sets: {name: shape and type}."""
    outputs = {}
    for part in parts:
        shape = [part.sampleCount, *part.shape, 1]
        outputs[f"{part.name}DataImage.npy"] = {"shape": shape, "dtype": "float32"}
        outputs[f"{part.name}DataMask.npy"] = {"shape": shape, "dtype": "bool"}
        if part.isSparse:
            outputs[nameLabelled(part.name)] = {"shape": shape, "dtype": "bool"}
    return outputs


def _digestVolume(volume: Volume) -> Iterator[tuple[str, str]]:
    """Give names, as parameters.json has them, and digests of the files of a volume."""
    folder = volume.path.parent
    if volume.path.is_dir():
        with explainReadErrors(volume.path):
            yield volume.path.name, digestFiles(volume.files, folder)
        return
    for path in volume.files:
        with explainReadErrors(path):
            yield os.path.relpath(path, folder), digestFile(path)


def isUpToDate(record: dict[str, Any], folder: Path) -> bool:
    """Whether the folder holds the result of the same inputs and parameters, whole."""
    try:
        known = readJson(folder / "parameters.json") or {}
        outputs = known.get("outputs")
        if not isinstance(outputs, dict) or not _isWhole(outputs, folder):
            return False
    except PipelineError:  # damaged or missing
        return False
    wanted = record if record["outputs"] else record | {"outputs": outputs}
    return not changedNames(known, wanted, free={*known, *wanted} - {"parameters", "inputs", "outputs"})


def _isWhole(outputs: dict[str, Any], folder: Path) -> bool:
    """Whether the arrays of a folder are those that its parameters.json tells of, and no others."""
    if not all(f"{part}Data{kind}.npy" in outputs for part in PARTS for kind in ("Image", "Mask")):
        return False
    arrays = {name: openArray(folder / name) for name in outputs}
    found = {name: {"shape": [*array.shape], "dtype": str(array.dtype)} for name, array in arrays.items()}
    return found == outputs and not any(path.exists() for path in _listOutdated(outputs, folder))


def _listOutdated(outputs: dict[str, Any], folder: Path) -> list[Path]:
    """List the arrays that an earlier run may have left and this one does not have."""
    return [folder / name for name in map(nameLabelled, PARTS) if name not in outputs]


@contextlib.contextmanager
def openParts(folder: Path, record: dict[str, Any]) -> Iterator[dict[str, list["SampleWriter"]]]:
    """Yield {part: writers}; all files appear together, parameters.json comes last.

    The writers are those of images, masks and, where not all voxels are labelled, of which ones are.
    """
    marker, outputs = folder / "parameters.json", record["outputs"]
    arrays = {folder / name: (tuple(output["shape"]), output["dtype"]) for name, output in outputs.items()}
    with (
        lockName(marker, "another process is writing into this folder"),
        writeArraysAtomically(arrays, marker, _listOutdated(outputs, folder)) as writers,
    ):
        parts: dict[str, list[SampleWriter]] = {}
        for path, writer in writers.items():
            parts.setdefault(path.name.split("Data")[0], []).append(writer)
        yield parts
    writeJson(marker, record)
