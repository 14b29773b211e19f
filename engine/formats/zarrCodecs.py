"""The codecs of a Zarr array: whether they are installed, and safe to use."""

from collections.abc import Iterator
from typing import Any

from engine.base.errors import PipelineError
from engine.formats.zarrNodes import Node

UNSAFE = ("pickle",)  # decoding it runs what a file says
EXTRAS = ("zfpy", "pcodec", "crc32c", "msgpack2")  # of numcodecs; each needs another package
OTHER = "save it with another one"


def requireCodecs(node: Node) -> None:
    """Refuse an array whose codecs would run code of its files, or are not installed.

    Raises
    ------
    PipelineError
        There is such a codec.
    """
    for name in _listCodecs(node):
        if name.rpartition(".")[2] in UNSAFE:
            rule = f"its codec {name} runs whatever program its files hold"
            raise PipelineError(rule, file=node.folder, remedy=OTHER)
        if not _isInstalled(name, node.version):
            remedy = f"{_packageOf(name, node.version)}, or {OTHER}"
            raise PipelineError(f"its codec {name} cannot be read", file=node.folder, remedy=remedy)


def splitCodec(codec: object) -> tuple[str, dict[str, Any]]:
    """Give the name of a part of the metadata of Zarr 3, such as a codec, and how it is set."""
    if not isinstance(codec, dict):
        return str(codec), {}
    settings = codec.get("configuration")
    return str(codec.get("name")), settings if isinstance(settings, dict) else {}


def _listCodecs(node: Node) -> Iterator[str]:
    """List the names of all codecs of an array, those inside of shards too."""
    if node.version == 3:
        yield from _namesOf(node.content.get("codecs"))
        return
    filters = node.content.get("filters")
    for codec in (*(filters if isinstance(filters, list) else ()), node.content.get("compressor")):
        if isinstance(codec, dict):
            yield str(codec.get("id"))


def _namesOf(codecs: object) -> Iterator[str]:
    """List the names of codecs of Zarr 3."""
    for codec in codecs if isinstance(codecs, list) else ():
        name, settings = splitCodec(codec)
        yield name
        for inside in ("codecs", "index_codecs"):
            yield from _namesOf(settings.get(inside))


def _isInstalled(name: str, version: int) -> bool:
    """Whether a codec is there."""
    try:
        import numcodecs.registry
        from zarr.registry import get_codec_class
    except ImportError:
        return True  # told when the array is opened
    try:
        if version == 3 and not name.startswith("numcodecs."):
            return bool(get_codec_class(name))
        return bool(numcodecs.registry.get_codec({"id": name.removeprefix("numcodecs.")}))
    except (KeyError, ValueError):
        return False
    except Exception:  # it is there, and has to be set
        return True


def _packageOf(name: str, version: int) -> str:
    """Tell what brings a codec."""
    plain = name.removeprefix("numcodecs.")
    if plain.startswith("imagecodecs"):
        return f"pip install imagecodecs-{'zarr' if version == 3 else 'numcodecs'}"
    return f'pip install "numcodecs[{plain}]"' if plain in EXTRAS else "pip install -U zarr numcodecs"
