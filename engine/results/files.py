"""From a probability and a threshold to files: mask, segmentation, labels, table of particles, summary."""

import contextlib
import csv
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from engine.base.deflated import Deflating, Member, Piece
from engine.base.files import explainWriteError, temporaryName, writeAtomically
from engine.formats.nrrdHeaders import describeData, formatHeader
from engine.formats.tiff import openTiff
from engine.formats.zarrWriter import openZarr
from engine.masks.segmentFields import describeSegments
from engine.masks.segments import Segment
from engine.masks.targets import Target
from engine.measures.labelling import Labels
from engine.results.evaluation import Criteria
from engine.results.kinds import BY_KIND, FORMS, TIFF, ZARR, Voxels, formatOf
from engine.volumes.frame import Frame

CHUNK_ROWS = 10_000
MICROMETRES = ("\xb5m", "\u03bcm")  # micro sign, Greek letter
LENGTHS = ("equivalentDiameter", "axis1", "axis2", "axis3", "nearestNeighbour")
Writer = Callable[[np.ndarray, np.ndarray], None]  # of labelled planes and their probability (z, y, x)
POWERS = dict.fromkeys(("x", "y", "z", *LENGTHS), "") | {"surfaceArea": "2", "volume": "3"}


class Subject(NamedTuple):
    """What results are of."""

    shape: tuple[int, int, int]  # voxels along (x, y, z)
    frame: Frame  # where they lie
    header: dict  # of NRRD files: geometry and key/values
    target: Target  # what the particles are


class Parts:
    """Compresses what files hold of a range of planes, in any process: `add` its slabs, then `finish`.

    Parameters
    ----------
    kinds : sequence of str
        Of results with a value for every voxel, as NRRD.
    stem : Path
        Begins the names of files for pieces that are too large for the memory.
    """

    def __init__(self, kinds: Sequence[str], stem: Path) -> None:
        names = {kind: temporaryName(stem.with_name(f"{stem.name}-{kind}")) for kind in kinds}
        self._deflating = {kind: Deflating(name) for kind, name in names.items()}

    def add(self, labels: np.ndarray, probability: np.ndarray) -> None:
        """Take the next labelled planes and their probability (z, y, x)."""
        for kind, deflating in self._deflating.items():
            voxels = BY_KIND[kind].voxels
            planes = voxels.values(labels, probability)
            deflating.add(np.ascontiguousarray(planes, _nrrdType(voxels.dtype)).data)

    def addAnd(self, write: Writer) -> Writer:
        """Give what takes planes, and hands them on."""

        def addBoth(labels: np.ndarray, probability: np.ndarray) -> None:
            self.add(labels, probability)
            write(labels, probability)

        return addBoth

    def finish(self) -> dict[str, Piece]:
        """Give the piece of every file."""
        return {kind: deflating.finish() for kind, deflating in self._deflating.items()}


class PlaneWriter(NamedTuple):
    """A begun file that is no NRRD, or a part of one."""

    voxels: Voxels
    write: Callable[[np.ndarray], None]  # the next planes (z, y, x)


class Files(NamedTuple):
    """Begun files of results that have a value for every voxel."""

    paths: dict[str, Path]  # of all kinds
    members: dict[str, Member]  # NRRD: they take pieces
    writers: dict[str, PlaneWriter]  # the others: they take planes

    def append(self, pieces: dict[str, Piece]) -> None:
        """Write the pieces of the next range."""
        for kind, piece in pieces.items():
            with self._explained(kind):
                self.members[kind].append(piece)

    def write(self, labels: np.ndarray, probability: np.ndarray) -> None:
        """Write the next labelled planes, and their probability, to what is no NRRD."""
        for kind, writer in self.writers.items():
            with self._explained(kind):
                writer.write(writer.voxels.values(labels, probability))

    @contextlib.contextmanager
    def _explained(self, kind: str) -> Iterator[None]:
        """Tell which file cannot be written."""
        try:
            yield
        except OSError as error:
            raise explainWriteError(error, self.paths[kind]) from error


@contextlib.contextmanager
def openFiles(paths: dict[str, Path], subject: Subject, count: int) -> Iterator[Files]:
    """Begin the results that have a value for every voxel; they get their names when the block ends well.

    Parameters
    ----------
    paths : dict
        {kind: path} of one format; kinds without voxels are none of this function's business.
    subject : Subject
        What they are of.
    count : int
        Particles.
    """
    outputFormat = formatOf(paths)
    forms = FORMS.get(outputFormat, {})
    files = Files(paths, {}, {})
    with contextlib.ExitStack() as stack:
        for kind in [kind for kind in paths if BY_KIND[kind].voxels and kind not in forms]:
            voxels = BY_KIND[kind].voxels
            header = subject.header | (_describeMask(subject) if voxels.isSegmentation else {})
            member = _openMember(paths[kind], subject.shape, voxels.dtype, header)
            files.members[kind] = stack.enter_context(member)
        if others := {kind: path for kind, path in paths.items() if kind in forms}:
            begin = {TIFF: _openStacks, ZARR: _openFolder}[outputFormat]
            writers = stack.enter_context(begin(others, subject, count))
            for kind, write in writers.items():
                files.writers[kind] = PlaneWriter(forms[kind].voxels, write)
        yield files


@contextlib.contextmanager
def _openStacks(paths: dict[str, Path], subject: Subject, count: int) -> Iterator[dict[str, Callable]]:
    """Begin TIFF stacks."""
    few = "uint16" if count < 1 << 16 else "float32"  # exact up to 16,777,216 particles
    with contextlib.ExitStack() as stack:
        writers = {}
        for kind, path in paths.items():
            dtype = few if kind == "labels" else FORMS[TIFF][kind].voxels.dtype
            writers[kind] = stack.enter_context(openTiff(path, subject.shape, dtype, subject.frame))
        yield writers


@contextlib.contextmanager
def _openFolder(paths: dict[str, Path], subject: Subject, _: int) -> Iterator[dict[str, Callable]]:
    """Begin an OME-Zarr: the probability, and labels of it."""
    forms, target = FORMS[ZARR], subject.target
    notes = {name: value for name, value in subject.header.items() if name in Criteria._fields}
    colour = [*(round(255 * part) for part in target.colour), 255]
    positive = {"colors": [{"label-value": 1, "rgba": colour}]}
    positive |= {"properties": [{"label-value": 1, "name": target.name}]}
    with openZarr(paths["probability"], subject.shape, subject.frame, notes) as folder:
        writers = {"probability": folder.addImage("probability", forms["probability"].voxels.dtype)}
        for kind in [kind for kind in paths if kind not in writers]:
            described = positive if kind == "mask" else {}
            writers[kind] = folder.addLabels(paths[kind].name, forms[kind].voxels.dtype, described)
        yield writers


@contextlib.contextmanager
def _openMember(path: Path, shape: tuple[int, int, int], dtype: str, header: dict) -> Iterator[Member]:
    """Write an NRRD file of which the voxels come as pieces."""
    described = describeData(header, shape, _nrrdType(dtype)) | {"encoding": "gzip"}
    with writeAtomically(path) as temporary, open(temporary, "wb") as file:
        file.write(formatHeader(described))
        member = Member(file)
        yield member
        member.finish()


def _describeMask(subject: Subject) -> dict[str, str]:
    """Give the header fields of a mask of 0 and 1 as a segmentation."""
    segment = Segment(subject.target.name, value=1, layer=0)
    return describeSegments(subject.shape, [segment], subject.target.colour)


def _nrrdType(dtype: str) -> np.dtype:
    """Give the type of the voxels of a file."""
    return np.dtype(dtype).newbyteorder("<")


def nameColumn(name: str, unit: str) -> str:
    """Add the unit, micrometres in ASCII, to a column of `describeParticles` where it has a known one."""
    unit = "um" if unit in MICROMETRES else unit
    return f"{name}_{unit}{POWERS[name]}" if unit and name in POWERS else name


def writeTable(table: dict[str, np.ndarray], unit: str, path: Path) -> None:
    """Write the table of particles as CSV; a number that is not known is left empty.

    It is plain ASCII, or begins with a mark of UTF-8 where a unit is not: Excel would misread it else.
    """
    named = {}
    for name, column in table.items():
        named.setdefault(nameColumn(name, unit), column)  # places in voxels are the indices: once is enough
    columns, count = [*named.values()], len(next(iter(table.values())))
    formats = {"f": "%.9g", "U": "%s"}  # the rest: whole numbers
    line = ",".join(formats.get(column.dtype.kind, "%d") for column in columns) + "\n"
    coding = {"encoding": "utf-8" if "".join(named).isascii() else "utf-8-sig", "errors": "backslashreplace"}
    with writeAtomically(path) as temporary, open(temporary, "w", **coding, newline="") as file:
        csv.writer(file, lineterminator="\n").writerow(named)
        for start in range(0, count, CHUNK_ROWS):
            parts = [column[start : start + CHUNK_ROWS].tolist() for column in columns]
            rows = zip(*parts, strict=True)  # one format a row: three times as fast as one a number
            file.writelines((line % row).replace("nan", "") for row in rows)


def summarise(
    table: dict[str, np.ndarray],
    labels: Labels,
    frame: Frame,
    shape: tuple[int, int, int],
    noDataCount: int = 0,
) -> dict:
    """Sum up a volume: fractions, densities, quartiles of the diameter.

    Every figure is given for all particles and without those that touch the border of the volume, which are
    cut there; densities and fractions refer to the whole volume in both cases, but for voxels without data.
    """
    size = int(np.prod(shape)) - noDataCount
    parts = {"all": np.ones(len(table["label"]), bool), "withoutBorder": ~table["touchesBorder"]}
    summary = {
        "unit": frame.unit,
        "voxels": size,
        "volume": size * frame.voxelVolume,
        **({"noDataVoxels": noDataCount} if noDataCount else {}),
        "droppedParticles": labels.droppedCount,
        "droppedVoxels": labels.droppedVoxels,
    }
    for name, chosen in parts.items():
        diameters = table["equivalentDiameter"][chosen]
        voxels = int(table["voxelCount"][chosen].sum())
        summary[name] = {
            "particles": int(chosen.sum()),
            "voxels": voxels,
            "volumeFraction": voxels / max(size, 1),
            "numberDensity": float(chosen.sum() / (max(size, 1) * frame.voxelVolume)),
            "diameterQuartiles": np.quantile(diameters, (0.25, 0.5, 0.75)).tolist() if chosen.any() else None,
        }
    return summary
