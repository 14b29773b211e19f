"""Pieces that were compressed apart are one gzip member, which every reader takes."""

import gzip
import io
import random
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

import engine.base.deflated
from engine.base.deflated import Deflating, Member, joinChecksums
from engine.base.errors import PipelineError


def compress(blocks, folder=None):
    """Compress lists of bytes, a piece each, which lies in the folder if there is one and it is large."""
    file = io.BytesIO()
    member = Member(file)
    for piece in [compressPiece(parts, folder and folder / str(n)) for n, parts in enumerate(blocks)]:
        member.append(piece)
    member.finish()
    return file.getvalue()


def compressPiece(parts, spill):
    """Compress bytes to one piece."""
    deflating = Deflating(spill)
    for part in parts:
        deflating.add(memoryview(part))
    return deflating.finish()


@given(st.lists(st.lists(st.binary(max_size=40), max_size=4), max_size=5))
def testPiecesAreOneMember(blocks):
    written, expected = compress(blocks), b"".join(map(b"".join, blocks))
    assert gzip.decompress(written) == expected
    reader = zlib.decompressobj(31)
    assert reader.decompress(written) == expected and reader.eof and not reader.unused_data


def testLargePiecesShrink():
    blocks = [[bytes(3_000_000)], [b"ab" * 500_000, bytes(1_000_001)], []]
    written = compress(blocks)
    assert len(written) < 50_000 and gzip.decompress(written) == b"".join(map(b"".join, blocks))


def testLargePiecesLieInFilesUntilTheyAreWritten(tmp_path, monkeypatch):
    generator = random.Random(1)
    blocks = [[generator.randbytes(30_000) for _ in range(5)], [b"few"], [generator.randbytes(200_000)]]
    expected = compress(blocks)
    monkeypatch.setattr(engine.base.deflated, "HELD_BYTES", 70_000)
    (tmp_path / "0").write_bytes(b"of a call that was done before")
    assert [type(compressPiece(parts, tmp_path / "0").deflated) for parts in blocks] == [
        type(tmp_path),
        bytes,
        type(tmp_path),
    ]
    assert compress(blocks, tmp_path) == expected and not list(tmp_path.iterdir())


def testAPieceThatIsNotWholeOrCannotBeWrittenIsTold(tmp_path, monkeypatch):
    monkeypatch.setattr(engine.base.deflated, "HELD_BYTES", 0)
    piece = compressPiece([b"some bytes"], tmp_path / "0")
    piece.deflated.write_bytes(piece.deflated.read_bytes()[:-1])
    with pytest.raises(PipelineError, match=r"is not whole \(expected \d+ bytes, received \d+ bytes\)"):
        Member(io.BytesIO()).append(piece)
    with pytest.raises(PipelineError, match="cannot be written"):
        compressPiece([b"some bytes"], tmp_path / "absent" / "0")


@given(st.binary(max_size=300), st.binary(max_size=300))
def testChecksumsJoinAsThatOfBoth(first, second):
    joined = joinChecksums(zlib.crc32(first), zlib.crc32(second), len(second))
    assert joined == zlib.crc32(first + second)


@pytest.mark.parametrize("change", [0, 30, -5])
def testDamageIsNoticed(change):
    written = bytearray(compress([[bytes(range(256))], [bytes(range(100, 200))]]))
    written[change] ^= 1
    with pytest.raises((OSError, zlib.error, EOFError)):
        gzip.decompress(bytes(written))
