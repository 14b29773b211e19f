"""Pieces that were compressed apart are one gzip member, which every reader takes."""

import gzip
import io
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.base.deflated import Deflating, Member, joinChecksums


def compress(blocks):
    """Compress lists of bytes, a piece each."""
    file = io.BytesIO()
    member = Member(file)
    for parts in blocks:
        deflating = Deflating()
        for part in parts:
            deflating.add(memoryview(part))
        member.append(deflating.finish())
    member.finish()
    return file.getvalue()


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
