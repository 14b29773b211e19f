"""The sub-volumes that prepareData.py wrote: read piece by piece, never held or mapped as a whole."""

import contextlib
import hashlib
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from tokenize import TokenError
from typing import Any, NamedTuple

import numpy as np

from engine.base.errors import PipelineError
from engine.base.files import flushToDisk, lockName, reserveSpace, writeAtomically
from engine.base.records import changedNames, digestFile, packageVersions, readJson, writeJson
from engine.preparation.pairs import Pair, explainReadErrors
from engine.volumes.turned import TurnedVolume
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


class Samples:
    """Images and masks of one set.

    A file is mapped only while a piece of it is read: pages of a mapped file count as memory of the process,
    which would grow with the set. How many positive voxels lie in every plane is counted once, so that one of
    them is found by reading a single plane.

    Parameters
    ----------
    images, masks : path
        .npy files, (sample, x, y, z, 1) float32 and bool.
    scan : (float, float), optional
        Mean and standard deviation of whole scans as the grey values are stored; None: each sub-volume has
        its own scale.
    """

    def __init__(self, images: Path, masks: Path, scan: tuple[float, float] | None = None) -> None:
        self.images, self.masks, self.scan = images, masks, scan
        self._known = {path: _identify(path) for path in (images, masks)}
        self._layouts = {path: _describeLayout(openArray(path)) for path in (images, masks)}
        count, *sides, _ = self._layouts[images]["shape"]
        self.count, self.sides = count, tuple(sides)
        counts = [np.count_nonzero(self._open(masks)[index], axis=(1, 2, 3)) for index in range(count)]
        self.positives = np.array(counts)  # (sample, x)

    def read(self, index: int, place: Place = (slice(None),) * 3) -> tuple[np.ndarray, np.ndarray]:
        """Read a piece of a sample: grey values (x, y, z) float32 and mask bool."""
        image, mask = (self._open(path)[index, *place, 0] for path in (self.images, self.masks))
        return np.array(image), np.array(mask)

    def readImage(self, index: int, place: Place) -> np.ndarray:
        """Read grey values alone."""
        return np.array(self._open(self.images)[index, *place, 0])

    def positiveVoxel(self, index: int, rank: int) -> tuple[int, int, int]:
        """Find the voxel with this number among the positive ones of a sample."""
        ends = np.cumsum(self.positives[index])
        x = int(np.searchsorted(ends, rank, "right"))
        plane = np.flatnonzero(self._open(self.masks)[index, x])
        y, z = np.unravel_index(plane[rank - ends[x] + self.positives[index, x]], self.sides[1:])
        return x, int(y), int(z)

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
        A file is missing, damaged or of another type; shapes differ; sides that the network cannot halve.
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
    prepared = (readJson(Path(folder) / "parameters.json") or {}).get("parameters", {})
    return Samples(*paths, SCORED if prepared.get("normalization") == "volume" else None)


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


@contextlib.contextmanager
def writeArraysAtomically(
    arrays: dict[Path, tuple[tuple[int, ...], str]], marker: Path
) -> Iterator[dict[Path, "SampleWriter"]]:
    """Yield a writer for each .npy file; when the block ends well all of them replace the old files together.

    The old files and the `marker` that vouches for them go first and the new files come one by one, so that a
    kill in between leaves an incomplete set without a marker and never a mixture of old and new.

    Parameters
    ----------
    arrays : dict
        {path: (shape, type)} of every file.
    marker : path
        File that the caller writes afterwards; it says that the set is whole.
    """
    with contextlib.ExitStack() as stack:
        writers = {
            path: SampleWriter(stack.enter_context(writeAtomically(path)), *arrays[path]) for path in arrays
        }
        yield writers
        for writer in writers.values():
            flushToDisk(writer.path)
        for path in (marker, *arrays):
            path.unlink(missing_ok=True)


class SampleWriter:
    """An .npy file that is filled sample by sample; only the sample in hand is mapped.

    Pages of a mapped file count as memory of the process, so a map of everything would grow with the file.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: str) -> None:
        header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
        with open(path, "wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            byteCount = file.tell() + math.prod(shape) * np.dtype(dtype).itemsize
        reserveSpace(path, byteCount)
        self.path = path

    def write(self, index: int, sample: np.ndarray) -> None:
        """Write one sample."""
        np.lib.format.open_memmap(self.path, mode="r+")[index] = sample


# ------------------------------------------------------------------------------------------- what is written


class Part(NamedTuple):
    """What one of the two sets is cut into."""

    name: str  # training or validation
    pairs: list[Pair]
    shape: tuple[int, int, int]  # of every sub-volume
    starts: list[tuple[list[int], ...]]  # of each pair along x, y and z
    sampleCount: int


def describeRun(parts: list[Part], settings: dict[str, Any]) -> dict[str, Any]:
    """Describe inputs, parameters and outputs: equal descriptions mean equal results.

    A folder of slices has one digest, of those of its files in order: two thousand would bury the others.
    """
    inputs, outputs, turned, inner = {}, {}, [], {}
    for part in parts:
        for pair in part.pairs:
            turned += [f"{part.name}Masks/{pair.mask.path.name}"] * isinstance(pair.mask, TurnedVolume)
            for kind, volume in zip(("Images", "Masks"), pair, strict=True):
                inputs |= {f"{part.name}{kind}/{name}": digest for name, digest in _digestVolume(volume)}
                inner |= {f"{part.name}{kind}/{volume.path.name}": volume.inner} if volume.inner else {}
        shape = [part.sampleCount, *part.shape, 1]
        outputs[f"{part.name}DataImage.npy"] = {"shape": shape, "dtype": "float32"}
        outputs[f"{part.name}DataMask.npy"] = {"shape": shape, "dtype": "bool"}
    parameters = {
        name: value
        for name, value in settings.items()
        if name.startswith(("length_", "nb_")) or name in IDENTITY
    }
    parameters |= {"turnedMasks": turned} if turned else {}
    parameters |= {"inner": inner} if inner else {}  # what is meant in files of several things
    return {"parameters": parameters, "inputs": inputs, "outputs": outputs, "versions": packageVersions()}


def _digestVolume(volume: Volume) -> Iterator[tuple[str, str]]:
    """Give names, as parameters.json has them, and digests of the files of a volume."""
    digests = []
    for path in volume.files:
        with explainReadErrors(path):
            digests.append((os.path.relpath(path, volume.path.parent), digestFile(path)))
    if volume.path.is_dir():
        text = "".join(f"{name} {digest}\n" for name, digest in digests)
        whole = hashlib.sha256(text.encode("utf-8", "surrogateescape"))  # names can hold any bytes
        digests = [(volume.path.name, whole.hexdigest())]
    yield from digests


def isUpToDate(record: dict[str, Any], folder: Path) -> bool:
    """Whether the folder holds the result of the same inputs and parameters, whole."""
    try:
        known = readJson(folder / "parameters.json") or {}
        arrays = [openArray(folder / name) for name in record["outputs"]]
    except PipelineError:  # damaged or missing
        return False
    shapes = [{"shape": list(array.shape), "dtype": str(array.dtype)} for array in arrays]
    isSame = not changedNames(known, record, free={*known, *record} - {"parameters", "inputs", "outputs"})
    return isSame and shapes == list(record["outputs"].values())


@contextlib.contextmanager
def openParts(
    folder: Path, record: dict[str, Any]
) -> Iterator[dict[str, tuple["SampleWriter", "SampleWriter"]]]:
    """Yield {part: writers of images and masks}; all files appear together, parameters.json comes last."""
    marker = folder / "parameters.json"
    arrays = {
        folder / name: (tuple(output["shape"]), output["dtype"]) for name, output in record["outputs"].items()
    }
    with (
        lockName(marker, "another process is writing into this folder"),
        writeArraysAtomically(arrays, marker=marker) as writers,
    ):
        images, masks = (
            {path.name.split("Data")[0]: writer for path, writer in writers.items() if kind in path.name}
            for kind in ("DataImage", "DataMask")
        )
        yield {name: (images[name], masks[name]) for name in images}
    writeJson(marker, record)
