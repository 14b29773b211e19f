"""What a run notes of itself and compares with an earlier one: JSON, digests, versions, differences."""

import contextlib
import hashlib
import json
import math
import os
import platform
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from engine.base.errors import PipelineError
from engine.base.files import publish, temporaryName, writeAtomically
from engine.base.words import joinWords

PACKAGES = (
    *("keras", "tensorflow", "jax", "openvino"),
    *("numpy", "scipy", "pynrrd", "h5py", "connected-components-3d"),
)
DIGEST_LENGTH = 64
SAMPLE_BYTES, SAMPLE_COUNT = 1 << 14, 64  # of a large file: a megabyte in all
SAMPLE_FILES = 16  # of the files of a folder


def packageVersions() -> dict[str, str]:
    """Versions of Python and of those packages of the pipeline that are installed."""
    import importlib.metadata  # loads slowly

    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


def commandLine() -> str:
    """Command that started this script, without the folder of the interpreter."""
    return joinWords(["python3", Path(sys.argv[0]).name, *sys.argv[1:]])


def digestFile(path: str | Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digestFiles(paths: Sequence[Path], folder: Path) -> str:
    """SHA-256 of the names in a folder and the contents of several files, in their order."""
    text = "".join(f"{os.path.relpath(path, folder)} {digestFile(path)}\n" for path in paths)
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()  # names can hold any bytes


def sketchFile(path: str | Path) -> dict[str, int | str]:
    """Tell a file from another one without reading all of it: bytes, and a digest of spread samples."""
    with open(path, "rb") as file:
        byteCount = file.seek(0, os.SEEK_END)
        last = max(byteCount - SAMPLE_BYTES, 0)
        digest = hashlib.sha256()
        for place in sorted({number * last // (SAMPLE_COUNT - 1) for number in range(SAMPLE_COUNT)}):
            file.seek(place)
            digest.update(file.read(SAMPLE_BYTES))
    return {"bytes": byteCount, "sample": digest.hexdigest()}


def spreadOver(paths: Sequence[Path]) -> tuple[Path, ...]:
    """Choose some files of many, the first and the last among them."""
    last, count = len(paths) - 1, min(len(paths), SAMPLE_FILES)
    return tuple(paths[number * last // max(count - 1, 1)] for number in range(count))


def sketchFiles(paths: Sequence[Path]) -> dict[str, int | str]:
    """Tell files from others without reading all of them: as `sketchFile` one, of several their sketches."""
    sketches = [sketchFile(path) for path in paths]
    if len(sketches) == 1:
        return sketches[0]
    digest = hashlib.sha256("".join(str(sketch["sample"]) for sketch in sketches).encode())
    return {"bytes": sum(int(sketch["bytes"]) for sketch in sketches), "sample": digest.hexdigest()}


def digestProgram() -> str:
    """SHA-256 of the pipeline itself: its functions and its engine."""
    engine = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256()
    for path in [engine.parent / "functions.py", *sorted(engine.rglob("*.py"))]:
        digest.update(f"{path.relative_to(engine.parent)}\n".encode())
        digest.update(path.read_bytes().replace(b"\r\n", b"\n"))
    return digest.hexdigest()


def writeJson(path: str | Path, content: dict) -> None:
    r"""Write a JSON file, atomically; JSON knows no NaN and no infinity, they become null.

    Bytes of a name that are no text become \udc80 to \udcff, which is read back as the same name.
    """
    with writeAtomically(path) as temporary:
        temporary.write_bytes(_encodeJson(content))


def publishJson(path: Path, content: dict) -> bool:
    """Write a JSON file if there is none of this name yet; of several processes, one does."""
    temporary = temporaryName(path)
    temporary.write_bytes(_encodeJson(content))
    return publish(temporary, path)


def _encodeJson(content: dict) -> bytes:
    """Write JSON as bytes."""
    text = json.dumps(finite(content), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    return text.encode("utf-8", "backslashreplace")


def finite(content: object) -> object:
    """Replace numbers that JSON does not know by None, at any depth."""
    if isinstance(content, dict):
        return {key: finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def readJson(path: str | Path) -> dict | None:
    """Read a JSON object; None if there is no such file.

    Raises
    ------
    PipelineError
        The file is no JSON object.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise PipelineError(f"is no readable JSON file: {error}", file=path) from error
    if not isinstance(content, dict):
        raise PipelineError("is no JSON object", file=path, received=type(content).__name__)
    return content


# ------------------------------------------------------------------------------------------ what differs


def stampOf(path: Path) -> list[int]:
    """Tell a file from a later one of the same name: bytes and time of the last change."""
    state = path.stat()
    return [state.st_size, state.st_mtime_ns]


def changedNames(old: dict[str, Any], new: dict[str, Any], free: Collection[str] = ()) -> list[str]:
    """List the entries that are not the same in two identities; what is `free` may differ."""
    return [name for name in {**old, **new} if name not in free and old.get(name) != new.get(name)]


def listDifferences(old: dict[str, Any], new: dict[str, Any], free: Collection[str] = ()) -> list[str]:
    """Tell in words what is not the same in two identities; what is `free` may differ."""
    return [
        f"{name} was {_shorten(old.get(name))}, is {_shorten(new.get(name))}"
        for name in sorted(changedNames(old, new, free))
    ]


def _shorten(value: object) -> str:
    """Write a value of an identity in a message; of a digest, the beginning."""
    if isinstance(value, dict) and value.keys() == {"bytes", "sample"}:
        return f"{value['sample'][:12]}... of {value['bytes']} bytes"
    return f"{value[:12]}..." if isinstance(value, str) and len(value) == DIGEST_LENGTH else str(value)


def refuseAnother(saved: dict[str, Any], wanted: dict[str, Any], what: str, remedy: str) -> None:
    """Refuse to go on where a parameter or the data differ from those of another training."""
    differences = [
        name if name.endswith(".npy") else f"{name} {saved.get(name)} -> {wanted.get(name)}"
        for name in changedNames(saved, wanted)
    ]
    if differences:
        raise PipelineError(f"{what} differs in {', '.join(differences)}", remedy=remedy)
