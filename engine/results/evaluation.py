"""What is made of a probability: the nouns, without anything that loads slowly."""

from pathlib import Path
from typing import Any, NamedTuple

from engine.results.looks import Looks
from engine.volumes.formats import openVolume
from engine.volumes.targets import Target
from engine.volumes.volume import Volume, requireSamePlace


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


class Evaluation(NamedTuple):
    """What is looked for in a probability, by which rules, and what becomes of it."""

    target: Target
    criteria: Criteria
    reference: Volume | None
    paths: dict[str, Path]  # {kind of result: file}
    looks: Looks
    page: Page


def openReference(nameReference: Path, volume: Volume) -> Volume | None:
    """Open the manual mask of a volume, if there is one."""
    if str(nameReference) == "none":
        return None
    reference = openVolume(nameReference)
    remedy = "give it the geometry of its volume, or predict without it (--nameReference none)"
    requireSamePlace(volume, reference, remedy)
    return reference
