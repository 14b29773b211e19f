"""A gzip file whose pieces are compressed apart, by any process, and put together in their order.

A piece ends at a whole byte and refers to nothing before it, so pieces in a row are one member, which every
reader takes; its bytes depend on where the pieces begin, not on who has made them.
"""

import shutil
import struct
import zlib
from pathlib import Path
from typing import BinaryIO, NamedTuple

from engine.base.errors import PipelineError
from engine.base.files import CHUNK_BYTES, explainWriteError

LEVEL = 1  # masks and labels shrink a hundredfold even so
HEADER = b"\x1f\x8b\x08\0\0\0\0\0\x04\xff"  # deflate, no name, no date, fast, any system
END = b"\x03\0"  # the last block: empty
POLYNOMIAL = 0xEDB88320  # of the CRC-32, the bit of the highest power first
ONE = 1 << 31  # the polynomial 1
HELD_BYTES = 1 << 22  # of a piece, at most, where it may lie in a file


class Piece(NamedTuple):
    """Bytes that were compressed apart."""

    deflated: bytes | Path  # or the file that holds them
    deflatedCount: int
    checksum: int  # CRC-32 of the bytes
    byteCount: int  # of them


class Deflating:
    """Compresses bytes to a piece: `add` them in order, then `finish`.

    Parameters
    ----------
    spill : Path, optional
        File, written by nobody else, for a piece of more than HELD_BYTES; None: all of it is held.

    Raises
    ------
    PipelineError
        That file cannot be written.
    """

    def __init__(self, spill: Path | None = None) -> None:
        self._stream = zlib.compressobj(LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)  # without a frame of its own
        self._parts: list[bytes] = []
        self._spill, self._heldCount, self._spilledCount = spill, 0, 0
        self._checksum, self._byteCount = 0, 0

    def add(self, values: memoryview) -> None:
        """Compress the next bytes."""
        self._checksum = zlib.crc32(values, self._checksum)
        self._byteCount += values.nbytes
        self._hold(self._stream.compress(values))

    def finish(self) -> Piece:
        """Give the piece."""
        self._hold(self._stream.flush(zlib.Z_FULL_FLUSH))
        if not self._spilledCount:
            return Piece(b"".join(self._parts), self._heldCount, self._checksum, self._byteCount)
        self._write()
        return Piece(self._spill, self._spilledCount, self._checksum, self._byteCount)

    def _hold(self, part: bytes) -> None:
        """Take the next compressed bytes."""
        self._parts.append(part)
        self._heldCount += len(part)
        if self._spill and self._heldCount > HELD_BYTES:
            self._write()

    def _write(self) -> None:
        """Move what is held to the file."""
        try:
            with open(self._spill, "ab" if self._spilledCount else "wb") as file:
                file.writelines(self._parts)
        except OSError as error:
            raise explainWriteError(error, self._spill) from error
        self._spilledCount += self._heldCount
        self._parts, self._heldCount = [], 0


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
        """Write the next piece; the file that holds one is removed.

        Raises
        ------
        PipelineError
            That file is not whole.
        """
        if isinstance(piece.deflated, Path):
            self._copy(piece)
        else:
            self._file.write(piece.deflated)
        self._checksum = joinChecksums(self._checksum, piece.checksum, piece.byteCount)
        self._byteCount += piece.byteCount

    def _copy(self, piece: Piece) -> None:
        """Write a piece that lies in a file."""
        with open(piece.deflated, "rb") as source:
            found = source.seek(0, 2)
            if found != piece.deflatedCount:
                counts = {"expected": f"{piece.deflatedCount} bytes", "received": f"{found} bytes"}
                raise PipelineError("is not whole", file=piece.deflated, **counts, remedy="repeat")
            source.seek(0)
            shutil.copyfileobj(source, self._file, CHUNK_BYTES)
        piece.deflated.unlink(missing_ok=True)

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
