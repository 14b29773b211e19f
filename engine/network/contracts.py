"""What a model's training tells its prediction: the JSON beside the model."""

import types
from pathlib import Path
from typing import Any, NamedTuple, get_args

from engine.base.errors import PipelineError
from engine.base.records import digestFile, readJson, writeJson

PUBLISHED_THRESHOLD = 0.5


class Contract(NamedTuple):
    """What is known of the models of a training; None or empty where its file does not tell."""

    architecture: dict[str, int] = {}  # base_depth, levelCount, parameterCount
    normalization: str | None = None  # of the training data: subVolume or volume
    moments: str | None = None  # plain or robust
    positiveLabel: list[int] | str | int | None = None  # in the manual masks; str: ranges, or all but some
    thresholds: dict[str, float] | None = None  # {file: best one}; empty: unfinished
    diceAtThreshold: dict[str, float] = {}  # {file: Dice of the validation data there}
    sureness: dict[str, list] = {}  # {file: sureness and Dice of every validation sample}
    bestValidation: dict[str, dict] = {}  # {metric: epoch and scores}
    greys: dict[str, list] = {}  # features and squares of what was drawn, as `engine.base.squares` has them
    training: dict[str, Any] = {}  # command, parameters, identity, devices, times
    data: dict[str, Any] = {}  # parameters.json of the training data
    files: dict[str, str] = {}  # {file: SHA-256}

    @classmethod
    def of(cls, content: dict[str, Any]) -> "Contract":
        """Take what is ours out of a JSON object; an entry of another type is left out."""
        kinds = {name: _typesOf(kind) for name, kind in cls.__annotations__.items()}
        known = {name: content[name] for name in cls._fields if name in content}
        return cls(**{name: value for name, value in known.items() if isinstance(value, kinds[name])})

    @property
    def identity(self) -> dict[str, Any] | None:
        """What the training depended on; None where none of ours tells."""
        identity = self.training.get("identity")
        return identity if isinstance(identity, dict) else None

    @property
    def ignoreLabel(self) -> str | int | None:
        """Values of the manual masks that count nowhere; None where none of ours tells."""
        parameters = self.data.get("parameters")
        known = parameters.get("ignoreLabel") if isinstance(parameters, dict) else None
        return known if isinstance(known, str | int) else None

    def learntBy(self, weightFile: Path) -> dict[str, Any]:
        """Give what a scan is compared with: `greys`, sizes of a voxel, sureness, threshold."""
        digest = digestFile(weightFile)
        name = next((name for name, known in self.files.items() if known == digest), "")
        threshold = {"threshold": self.thresholds[name]} if name in (self.thresholds or {}) else {}
        volumes = self.data.get("greys", {}).get("training", {}).values()
        sizes = [volume["voxelSize"] for volume in volumes if volume.get("voxelSize")]
        unequal = [size for i, size in enumerate(sizes) if size not in sizes[:i]]
        sureness = self.sureness.get(name) or []
        return self.greys | threshold | {"voxelSizes": unequal, "sureness": sureness}

    def knows(self, file: Path) -> bool:
        """Whether a file is as the training wrote it."""
        return file.is_file() and digestFile(file) == self.files.get(file.name)

    def write(self, path: str | Path) -> None:
        """Write it, atomically."""
        writeJson(path, self._asdict())


def _typesOf(annotation: Any) -> tuple[type, ...]:
    """List the classes of an annotation: `dict[str, int] | None` means dict, and None."""
    parts = get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
    return tuple(getattr(part, "__origin__", part) for part in parts)


# ---------------------------------------------------------------------------------------------- from files


def readContract(path: str | Path) -> Contract | None:
    """Read a contract; None if there is no such file.

    Raises
    ------
    PipelineError
        The file is no JSON object.
    """
    content = readJson(path)
    return None if content is None else Contract.of(content)


def findContract(weightFile: str | Path) -> Contract | None:
    """Find the contract that names the digest of a weight file, whatever the file is called.

    Parameters
    ----------
    weightFile : path
        Model or weight file; the .json files of its folder are searched.

    Returns
    -------
    Contract or None
        None where no training of this pipeline describes these weights.
    """
    content = findContent(weightFile)
    return None if content is None else Contract.of(content)


def findContent(weightFile: str | Path) -> dict[str, Any] | None:
    """Find what `findContract` does, as it stands in the file."""
    digest = digestFile(weightFile)
    for path in sorted(Path(weightFile).parent.glob("*.json")):
        try:
            content = readJson(path) or {}
        except PipelineError:  # a foreign file that happens to lie there
            continue
        if digest in Contract.of(content).files.values():
            return content
    return None


# --------------------------------------------------------------------------------- what a prediction follows


def chooseScope(wanted: str, contract: Contract | None, shape: tuple[int, ...], region: tuple) -> str:
    """Choose whose mean and standard deviation a prediction is z-scored with.

    Parameters
    ----------
    wanted : str
        "region" (published), "volume", or "" for the volume where the training z-scored whole volumes.
    contract : Contract or None
        Of the weights.
    shape, region : tuple
        Of the volume, and what of it is predicted: half-open ranges.

    Returns
    -------
    str
        "region" or "volume"; "volume" where they are the same.
    """
    if all(stop - start == side for (start, stop), side in zip(region, shape, strict=True)):
        return "volume"
    return wanted or ("volume" if contract and contract.normalization == "volume" else "region")


def chooseMoments(wanted: str, contract: Contract | None) -> str:
    """Choose which mean and standard deviation: plain (published) or robust; where nothing tells, robust."""
    return wanted or (contract.moments if contract else None) or "robust"


def describeNormalization(contract: Contract | None, scope: str, momentsOf: str = "") -> str:
    """Tell in one line how the normalisation of a prediction relates to that of the training.

    A prediction is z-scored over the whole volume or its region, the training over sub-volumes or volumes.
    """
    if momentsOf:
        return f"z-score with mean and deviation of {momentsOf}"
    scheme = contract.normalization if contract else None
    applied = {"volume": "whole volume", "region": "region of interest"}[scope]
    if scheme == scope == "volume":
        return "z-score over the whole volume, as in the training"
    if scheme is None:
        return f"z-score over the {applied}; no contract beside the model tells how it was trained"
    trained = {"subVolume": "each sub-volume", "volume": "each whole volume"}.get(scheme, scheme)
    return f"z-score over the {applied}; the training used another scheme: {trained} by itself"


def chooseThreshold(
    wanted: float | None, contract: Contract | None, weightFile: str | Path
) -> tuple[float, str]:
    """Choose the probability from which on a voxel counts as positive, and tell where it comes from.

    Raises
    ------
    PipelineError
        The wanted one does not lie in 0 to 1.
    """
    if wanted is not None:
        if not 0 <= wanted <= 1:
            raise PipelineError("threshold must lie in 0 to 1", received=wanted)
        return wanted, "as asked for"
    thresholds = contract.thresholds if contract else None
    digest = digestFile(weightFile) if thresholds else None
    for name, threshold in (thresholds or {}).items():
        if contract.files.get(name) == digest:
            isBlind = contract.diceAtThreshold.get(name) == 0
            found = "as no threshold found anything in" if isBlind else "chosen by the Dice on"
            return float(threshold), f"{found} the validation data"
    isUnfinished = thresholds == {}
    return PUBLISHED_THRESHOLD, "the published one" + " (the training is unfinished)" * isUnfinished
