"""What a model's training tells its prediction: the JSON beside the model."""

from pathlib import Path

from engine.base.errors import PipelineError
from engine.base.records import digestFile, readJson


def findContract(weightFile: str | Path) -> dict | None:
    """Find the contract that names the digest of a weight file, whatever the file is called.

    Parameters
    ----------
    weightFile : path
        Model or weight file; the .json files of its folder are searched.

    Returns
    -------
    dict or None
        None where no training of this pipeline describes these weights.
    """
    digest = digestFile(weightFile)
    for path in sorted(Path(weightFile).parent.glob("*.json")):
        try:
            contract = readJson(path) or {}
        except PipelineError:  # a foreign file that happens to lie there
            continue
        files = contract.get("files")
        if isinstance(files, dict) and digest in files.values():
            return contract
    return None


def chooseScope(wanted: str, contract: dict | None, shape: tuple[int, ...], region: tuple) -> str:
    """Choose whose mean and standard deviation a prediction is z-scored with.

    Parameters
    ----------
    wanted : str
        "region" (published), "volume", or "" for the volume where the training z-scored whole volumes.
    contract : dict or None
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
    return wanted or ("volume" if (contract or {}).get("normalization") == "volume" else "region")


def describeNormalization(contract: dict | None, scope: str) -> str:
    """Tell in one line how the normalisation of a prediction relates to that of the training.

    A prediction is z-scored over the whole volume or its region, the training over sub-volumes or volumes.
    """
    scheme = (contract or {}).get("normalization")
    applied = {"volume": "whole volume", "region": "region of interest"}[scope]
    if scheme == scope == "volume":
        return "z-score over the whole volume, as in the training"
    if scheme is None:
        return f"z-score over the {applied}; no contract beside the model tells how it was trained"
    trained = {"subVolume": "each sub-volume", "volume": "each whole volume"}.get(scheme, str(scheme))
    return f"z-score over the {applied}; the training used another scheme: {trained} by itself"


def chooseThreshold(wanted: float | None, contract: dict | None, weightFile: str | Path) -> tuple[float, str]:
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
    contract = contract or {}
    digest = digestFile(weightFile) if contract.get("thresholds") else None
    for name, threshold in contract.get("thresholds", {}).items():
        if contract.get("files", {}).get(name) == digest:
            if contract.get("diceAtThreshold", {}).get(name) == 0:
                return float(threshold), "as no threshold found anything in the validation data"
            return float(threshold), "best Dice on the validation data"
    isUnfinished = "thresholds" in contract and not contract["thresholds"]
    return 0.5, "the published one" + " (the training is unfinished)" * isUnfinished
