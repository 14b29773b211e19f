"""A gzip file whose pieces are compressed apart, by any process, and put together in their order.

A piece ends at a whole byte and refers to nothing before it, so pieces in a row are one member, which every
reader takes; its bytes depend on where the pieces begin, not on who has made them.
"""

import struct
import zlib
from typing import BinaryIO, NamedTuple

LEVEL = 1  # masks and labels shrink a hundredfold even so
HEADER = b"\x1f\x8b\x08\0\0\0\0\0\x04\xff"  # deflate, no name, no date, fast, any system
END = b"\x03\0"  # the last block: empty
POLYNOMIAL = 0xEDB88320  # of the CRC-32, the bit of the highest power first
ONE = 1 << 31  # the polynomial 1


class Piece(NamedTuple):
    """Bytes that were compressed apart."""

    deflated: bytes
    checksum: int  # CRC-32 of the bytes
    byteCount: int  # of them


class Deflating:
    """Compresses bytes to a piece: `add` them in order, then `finish`."""

    def __init__(self) -> None:
        self._stream = zlib.compressobj(LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)  # without a frame of its own
        self._parts: list[bytes] = []
        self._checksum, self._byteCount = 0, 0

    def add(self, values: memoryview) -> None:
        """Compress the next bytes."""
        self._checksum = zlib.crc32(values, self._checksum)
        self._byteCount += values.nbytes
        self._parts.append(self._stream.compress(values))

    def finish(self) -> Piece:
        """Give the piece."""
        self._parts.append(self._stream.flush(zlib.Z_FULL_FLUSH))
        return Piece(b"".join(self._parts), self._checksum, self._byteCount)


class Member:
    """A member of a gzip file, put together from pieces: `append` them in order, then `finish`.

    Parameters
    ----------
    file : BinaryIO
        Stands where the member begins.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._checksum, self._byteCount = file, 0, 0
        file.write(HEADER)

    def append(self, piece: Piece) -> None:
        """Write the next piece."""
        self._file.write(piece.deflated)
        self._checksum = joinChecksums(self._checksum, piece.checksum, piece.byteCount)
        self._byteCount += piece.byteCount

    def finish(self) -> None:
        """Write the end."""
        self._file.write(END + struct.pack("<LL", self._checksum, self._byteCount & 0xFFFFFFFF))


def joinChecksums(first: int, second: int, byteCount: int) -> int:
    """Give the CRC-32 of bytes that follow one another from those of both; `byteCount` is of the second.

    Source: crc32_combine of zlib. A CRC is a remainder of polynomials: the first one is multiplied by x to
    the power of the bits that follow it.
    """
    power, square, bits = ONE, ONE >> 1, 8 * byteCount
    while bits:
        if bits & 1:
            power = _multiply(square, power)
        square = _multiply(square, square)
        bits >>= 1
    return _multiply(power, first) ^ second


def _multiply(first: int, second: int) -> int:
    """Multiply two polynomials modulo that of the CRC-32."""
    product = 0
    while first:
        if first & ONE:
            product ^= second
        first = first << 1 & 0xFFFFFFFF
        second = second >> 1 ^ (POLYNOMIAL if second & 1 else 0)
    return product
