"""What is made of a probability: the nouns, without anything that loads slowly."""

from pathlib import Path
from typing import Any, NamedTuple

from engine.base.parameters import NOTHING
from engine.base.ranges import Store
from engine.masks.ignored import chooseIgnored
from engine.masks.place import describePlaces, openOnto
from engine.masks.segments import ignoredLabels
from engine.masks.targets import PUBLISHED, Labels, Target, chooseTargets
from engine.results.fillings import chooseFilling
from engine.results.looks import Looks
from engine.volumes.volume import Region, Volume

LABELS = "positiveLabel", "ignoreLabel"  # parameters, and fields of a contract


class Criteria(NamedTuple):
    """What decides which voxels are a particle."""

    threshold: float  # probability from which on a voxel is positive
    connectivity: int
    minimumVoxels: int  # of a particle


class Page(NamedTuple):
    """What the report says of the run."""

    name: str  # of the volume
    device: str
    parameters: dict[str, Any]
    greys: dict[str, Any] | None = None  # of the scan beside those of the training

    def note(self, lines: list[str]) -> "Page":
        """Give the same page with warnings that stand beside the grey values; other lines are left out."""
        known, warnings = self.greys or {}, [line for line in lines if line.startswith("Warning")]
        return self._replace(greys=known | {"remarks": [*known.get("remarks", ()), *warnings]})


class Written(NamedTuple):
    """A probability on the disk, and what it is of."""

    path: Path
    volume: Volume  # grey values
    region: Region  # of the volume
    learnt: dict[str, Any]  # of the contract of the model
    memoryBudget: float  # GiB; 0: by what is free
    settings: dict[str, Any]  # what the probability follows from
    store: Store | None = None  # of several processes that make the result

    @classmethod
    def of(cls, run: Any, settings: dict[str, Any]) -> "Written":
        """Describe the probability of a `Run` of the prediction."""
        request = run.request
        named = request.nameOutput, request.volume, request.region, request.learnt, request.memoryBudget
        return cls(*named, settings, run.seen)

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels along (x, y, z)."""
        return tuple(stop - start for start, stop in self.region)


class Evaluation(NamedTuple):
    """What is looked for in a probability, by which rules, and what becomes of it."""

    target: Target
    criteria: Criteria
    reference: Volume | None
    paths: dict[str, Path]  # {kind of result: file}
    looks: Looks
    page: Page
    ignored: Labels = ()  # values of the reference that count in no score


def openTargets(
    positive: tuple[Labels, Labels | int | None],
    ignored: tuple[Labels, Labels | int | None],
    nameReference: Path,
    volume: Volume,
    isSuggesting: bool = False,
) -> list[tuple[Target, Volume | None, Labels]]:
    """Choose what is looked for, and open the manual mask to see it there; None where there is no mask.

    Parameters
    ----------
    positive, ignored : tuple
        Labels as the user gives them, and those of the training: see `targets.chooseTargets` and
        `ignored.chooseIgnored`.
    nameReference, volume
        As of `openReference`.
    isSuggesting : bool
        Whether masks with these labels are to be written: then names have a meaning without a manual mask.

    Returns
    -------
    list
        Target; its mask; the numbers of the mask that count in no score.

    Raises
    ------
    PipelineError
        As of these, of `openReference` and, where masks are to be written, of `fillings.chooseFilling`.
    """
    found = []
    for target in chooseTargets(*positive, isSuggesting or str(nameReference) != NOTHING):
        left = chooseIgnored(*ignored, target.labels)
        target = target._replace(ignoreLabel=left)
        mask = openReference(nameReference, volume, target.labels, left)
        if isSuggesting:
            chooseFilling(target)  # while nothing is predicted yet
        found.append((target, mask, ignoredLabels(mask, left) if mask else ()))
    return found


def openReference(
    nameReference: Path, volume: Volume, labels: Labels = PUBLISHED.labels, ignoreLabel: Labels = ()
) -> Volume | None:
    """Open the manual mask of a volume, if there is one, with its voxels in the places of the volume.

    Parameters
    ----------
    nameReference : Path
        The mask; "none" where there is none.
    volume : Volume
        What it was drawn on.
    labels, ignoreLabel : sequence of int or str
        Positive ones, and those that count nowhere: numbers or names of segments.
    """
    if str(nameReference) == NOTHING:
        return None
    remedy = "give it the geometry of its volume, or predict without it (--nameReference none)"
    return openOnto(nameReference, volume, labels, remedy, ignoreLabel)


def describePlace(volume: Volume, reference: Volume | None) -> list[str]:
    """Tell how the manual mask was put into place, and what was assumed of its place."""
    return describePlaces([(volume, reference)]) if reference else []
