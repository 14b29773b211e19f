"""Slabs, and data spread over several files, against plain NumPy cuts and SimpleITK."""

import bz2
import gzip
import itertools
import json
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import nrrd
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from places import ROOT
from sampleVolumes import headerLines, refusal, sampleArray, writeText

from engine.base.errors import PipelineError
from engine.formats import rawData
from engine.formats.nrrdFiles import openVolume
from engine.formats.nrrdGeometry import cropHeader
from engine.formats.nrrdHeaders import TYPES

SHAPE = (5, 4, 6)
ENCODINGS = ("raw", "gzip", "bzip2", "text")
REGIONS = [None, ((0, 5), (0, 4), (2, 3)), ((1, 3), (0, 4), (1, 6)), ((0, 5), (1, 3), (0, 5))]
REGIONS += [((4, 5), (3, 4), (5, 6)), ((2, 5), (1, 4), (1, 5))]


def encode(encoding, array):
    """Bytes of a data file."""
    if encoding == "text":
        return " ".join(map(str, array.ravel(order="F"))).encode()
    compress = {"gzip": gzip.compress, "bzip2": bz2.compress}.get(encoding, bytes)
    return compress(array.tobytes(order="F"))


def cut(array, region):
    """Plain index of a region."""
    return array[tuple(slice(*ends) for ends in region)] if region else array


def splitIntoFiles(folder, array, encoding, count, lineCount):
    """Write equal parts as part0.raw, part1.raw, ... below lines of different lengths; return their names."""
    names = [f"part{index}.raw" for index in range(count)]
    for index, part in enumerate(np.split(array.ravel(order="F"), count)):
        lines = lineCount * (index * b"x" + b"\n")
        (folder / names[index]).write_bytes(lines + encode(encoding, part))
    return names


def writeVolumeIn(folder, array, encoding, count=1, names=True, **fields):
    """Write a header and its data files (attached for 0 files), by LIST or by number."""
    order = {">": "big"}.get(array.dtype.byteorder, "little")
    fields |= {"type": TYPES[array.dtype.str[1:]][0], "encoding": encoding, "endian": order}
    lines = headerLines(sizes=" ".join(map(str, array.shape)), **fields)
    if count == 0:
        return writeText(folder / "a.nrrd", lines, encode(encoding, array))
    files = splitIntoFiles(folder, array, encoding, count, int(fields.get("line_skip", 0)))
    rows, planes = array.shape[1] * array.shape[2], array.shape[2]
    dimension = {rows: 1, planes: 2}.get(count, 3)
    if names:
        return writeText(folder / "a.nhdr", [*lines, f"data file: LIST {dimension}", *files])
    return writeText(folder / "a.nhdr", [*lines, f"data file: part%d.raw 0 {count - 1} 1 {dimension}"])


@pytest.fixture
def openedFiles(monkeypatch):
    """Every data file that was opened, in order; never two at a time."""
    files = []

    def openAlone(*arguments):
        assert all(file.closed for file in files)
        files.append(open(*arguments))
        return files[-1]

    monkeypatch.setattr(rawData, "open", openAlone, raising=False)
    return files


# -------------------------------------------------- slabs are cuts of the whole


@pytest.mark.parametrize("chunkBytes", [7, 1 << 22])
@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("dtype", ["u1", "<i2", ">i2", ">f4", "<f8", ">u8"])
def testSlabsAreConsecutiveCuts(tmp_path, monkeypatch, dtype, encoding, chunkBytes):
    monkeypatch.setattr(rawData, "CHUNK_BYTES", chunkBytes)
    array = sampleArray(dtype, SHAPE)
    volume = openVolume(writeVolumeIn(tmp_path, array, encoding, count=0))
    for region, planeCount in itertools.product(REGIONS, (1, 2, 4, 16)):
        blocks = list(volume.slabs(region, planeCount))
        expected = cut(array, region)
        depths = [min(planeCount, expected.shape[2] - z) for z in range(0, expected.shape[2], planeCount)]
        assert [block.shape for block in blocks] == [(*expected.shape[:2], depth) for depth in depths]
        assert {block.dtype for block in blocks} == {volume.dtype}
        np.testing.assert_array_equal(np.concatenate(blocks, axis=2), expected)
        np.testing.assert_array_equal(volume.read(region), expected)


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("region", REGIONS)
def testEachSlabIsAnArrayOfItsOwnWithXFastest(tmp_path, encoding, region):
    array = sampleArray(">i2", SHAPE)
    volume = openVolume(writeVolumeIn(tmp_path, array, encoding, count=0))
    kept = []
    for block in volume.slabs(region, 2):
        assert block.T.flags.c_contiguous and block.flags.owndata and block.flags.writeable
        kept.append(block.copy())
        block[...] = 77  # neither the file nor a later block sees it
    np.testing.assert_array_equal(np.concatenate(kept, axis=2), cut(array, region))
    np.testing.assert_array_equal(volume.read(region), cut(array, region))


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(choice=st.data())
def testSlabsOfAnyVolumeInAnyFiles(tmp_path, choice):
    shape = choice.draw(st.tuples(*[st.integers(1, 6)] * 3))
    dtype = choice.draw(st.sampled_from(["u1", ">u2", "<i4", ">f8"]))
    encoding = choice.draw(st.sampled_from(ENCODINGS))
    divisors = [count for count in range(1, shape[2] + 1) if shape[2] % count == 0]
    count = choice.draw(st.sampled_from([0, shape[1] * shape[2], *divisors]))
    starts = [choice.draw(st.integers(0, size - 1)) for size in shape]
    region = [
        (start, choice.draw(st.integers(start + 1, size))) for start, size in zip(starts, shape, strict=True)
    ]
    array = sampleArray(dtype, shape)
    volume = openVolume(writeVolumeIn(tmp_path, array, encoding, count, names=choice.draw(st.booleans())))
    blocks = list(volume.slabs(region, choice.draw(st.integers(1, 7))))
    np.testing.assert_array_equal(np.concatenate(blocks, axis=2), cut(array, region))
    np.testing.assert_array_equal(volume.read(region), cut(array, region))


def testSlabsReadNoRawBytesBesideTheRows(tmp_path, monkeypatch):
    array, fill, read = sampleArray("<i2", SHAPE), rawData._fill, []
    monkeypatch.setattr(rawData, "_fill", lambda file, part: (read.append(len(part)), fill(file, part)))
    volume = openVolume(writeVolumeIn(tmp_path, array, "raw", count=0))
    for region, reads in (
        (((0, 5), (0, 4), (1, 5)), [3 * 4 * 5 * 2, 1 * 4 * 5 * 2]),  # y is whole: one a block
        (((0, 5), (1, 3), (1, 5)), [2 * 5 * 2] * 4),  # else one a plane
        (((2, 3), (1, 3), (1, 5)), [2 * 5 * 2] * 4),
    ):
        read.clear()
        assert len(list(volume.slabs(region, 3))) == 2
        assert read == reads


def testSlabsCheckTheRegionAtTheCall(tmp_path):
    volume = openVolume(writeVolumeIn(tmp_path, sampleArray("u1", SHAPE), "raw", count=0))
    with pytest.raises(PipelineError, match="the range along z leaves the volume"):
        volume.slabs(((0, 5), (0, 4), (0, 7)))
    with pytest.raises(ValueError, match="planeCount must be 1 or more, not 0"):
        volume.slabs(None, 0)


# -------------------------------------------------- memory


@pytest.mark.parametrize("count", [0, 4])
@pytest.mark.parametrize("encoding", ["raw", "gzip", "bzip2"])
@pytest.mark.parametrize("region", [None, ((3, 9), (0, 512), (5, 32)), ((0, 512), (10, 20), (5, 32))])
def testSlabsHoldTwoBlocksAndLittleMore(tmp_path, monkeypatch, encoding, count, region):
    monkeypatch.setattr(rawData, "CHUNK_BYTES", 1 << 16)
    array = np.zeros((512, 512, 32), np.uint8)
    volume = openVolume(writeVolumeIn(tmp_path, array, encoding, count))
    tracemalloc.start()
    blocks = volume.slabs(region, 4)
    largest = max(block.nbytes for block in blocks)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * largest + 4 * rawData.CHUNK_BYTES + (1 << 18) < array.nbytes / 3


WATCHED = """
import sys
from pathlib import Path
from engine.formats.opening import openVolume

def peakMiB():
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024

volume, before = openVolume(sys.argv[1]), peakMiB()
total = 0
for block in [volume.read()] if sys.argv[2] == "mapped" else volume.slabs(None, 8):
    total += sum(int(block[:, :, z].max()) for z in range(block.shape[2]))
print(total, peakMiB() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="ru_maxrss inherits the parent's peak")
@pytest.mark.parametrize("way", ["raw", "mapped", "gzip", "files"])
def testResidentMemoryOfALargeVolume(tmp_path, way):
    array = np.ones((1024, 1024, 300), np.uint8)  # blocks of 8 MiB
    encoding = "gzip" if way == "gzip" else "raw"
    path = writeVolumeIn(tmp_path, array, encoding, count=300 if way == "files" else 0)
    command = [sys.executable, "-c", WATCHED, str(path), way]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    total, growth = result.stdout.split()
    assert total == "300"
    if way == "mapped":
        assert float(growth) > 250  # the measurement sees mapped pages
    else:
        assert float(growth) < 2 * 8 + 24


# -------------------------------------------------- bad data, and files that stay open


@pytest.mark.parametrize("encoding, compress", [("gzip", gzip.compress), ("bzip2", bz2.compress)])
@pytest.mark.parametrize("region", [None, ((0, 5), (0, 4), (0, 1)), ((1, 2), (2, 3), (1, 2))])
def testDamagedCompressedDataAreRefusedBySlabs(tmp_path, encoding, compress, region):
    data = sampleArray("u1", (5, 4, 3)).tobytes(order="F")
    good = compress(data)
    flipped = bytearray(good)
    flipped[-6] ^= 0xFF
    for bad, text in (
        (good[:-5], "truncated or damaged"),
        (bytes(flipped), "truncated or damaged"),
        (compress(data[:-1]), "there are fewer bytes than the sizes say"),
        (compress(data + b"0"), "the data are longer than the sizes say; correct the sizes, or"),
        (good + compress(b"0"), "the data are longer than the sizes say"),
    ):
        volume = openVolume(writeText(tmp_path / "a.nrrd", headerLines(encoding=encoding), bad))
        with pytest.raises(PipelineError, match=text) as caught:
            list(volume.slabs(region, 1))
        assert str(caught.value).startswith(f"{tmp_path / 'a.nrrd'}: ")


@pytest.mark.parametrize("encoding, compress", [("gzip", gzip.compress), ("bzip2", bz2.compress)])
@pytest.mark.parametrize("skip, before", [("3", b"xyz"), ("-1", b"xyz"), ("-1", b"")])
def testByteSkipAndSeveralMembersInSlabs(tmp_path, encoding, compress, skip, before):
    array = sampleArray("u1", (5, 4, 3))
    data = before + array.tobytes(order="F")
    lines = headerLines(encoding=encoding, line_skip="1", byte_skip=skip)
    volume = openVolume(
        writeText(tmp_path / "a.nrrd", lines, b"line\n" + compress(data[:29]) + compress(data[29:]))
    )
    np.testing.assert_array_equal(np.concatenate(list(volume.slabs(None, 2)), axis=2), array)
    np.testing.assert_array_equal(
        next(volume.slabs(((1, 4), (0, 2), (2, 3)))), cut(array, ((1, 4), (0, 2), (2, 3)))
    )


def testRawFileThatShrinksAfterOpeningIsTold(tmp_path):
    array = sampleArray("u1", SHAPE)
    path = writeVolumeIn(tmp_path, array, "raw", count=0)
    volume = openVolume(path)
    os.truncate(path, path.stat().st_size - 1)
    blocks = volume.slabs(None, 3)
    np.testing.assert_array_equal(next(blocks), array[:, :, :3])
    with pytest.raises(PipelineError, match="truncated or damaged: there are fewer bytes") as caught:
        next(blocks)
    assert str(caught.value).startswith(f"{path}: ")
    with pytest.raises(PipelineError, match="truncated or damaged"):
        volume.read()


def testTooLittleMemoryForABlockIsTold(tmp_path, monkeypatch):
    volume = openVolume(writeVolumeIn(tmp_path, sampleArray("u1", SHAPE), "raw", count=0))
    monkeypatch.setattr(rawData.np, "empty", lambda *a, **k: (_ for _ in ()).throw(MemoryError))
    with pytest.raises(PipelineError, match="does not fit in memory"):
        list(volume.slabs())


@pytest.mark.parametrize("count", [0, 1, 6, 24])
@pytest.mark.parametrize("encoding", ENCODINGS)
def testFilesAreClosedHoweverTheSlabsEnd(tmp_path, openedFiles, encoding, count):
    volume = openVolume(writeVolumeIn(tmp_path, sampleArray("u1", SHAPE), encoding, count))
    blocks = volume.slabs(None, 2)
    assert not openedFiles  # nothing happens before the first block
    next(blocks)
    if encoding != "text" and count < 2:
        assert not openedFiles[-1].closed
    blocks.close()
    assert openedFiles and all(file.closed for file in openedFiles)
    opened = len(openedFiles)
    for _ in volume.slabs(None, 2):
        pass
    assert len(openedFiles) > opened and all(file.closed for file in openedFiles)
    volume.dataPaths[-1].write_bytes(b"")
    with pytest.raises(PipelineError):
        list(volume.slabs(None, 2))
    assert all(file.closed for file in openedFiles)


# -------------------------------------------------- several data files


def readBySimpleItk(path):
    """Volume as Teem, inside SimpleITK, reads it; Teem takes an empty line for one more file name."""
    text = path.read_bytes().rstrip(b"\n") + b"\n"
    copy = path.with_name("teem.nhdr")
    copy.write_bytes(text)
    return sitk.GetArrayFromImage(sitk.ReadImage(str(copy))).T


@pytest.mark.parametrize("names", [True, False])
@pytest.mark.parametrize("count", [1, 2, 3, 6, 24])
@pytest.mark.parametrize("encoding", ["raw", "gzip"])
@pytest.mark.parametrize("dtype", ["u1", "<i2", ">f4"])
def testSeveralFilesAreReadAsSimpleItkReadsThem(tmp_path, dtype, encoding, count, names):
    array = sampleArray(dtype, SHAPE)
    path = writeVolumeIn(tmp_path, array, encoding, count, names)
    volume = openVolume(path)
    assert volume.dataPaths == tuple(tmp_path / f"part{index}.raw" for index in range(count))
    assert volume.dataPath == volume.dataPaths[0] and volume.dtype == array.dtype
    np.testing.assert_array_equal(volume.read(), readBySimpleItk(path))
    np.testing.assert_array_equal(volume.read(), array)


@pytest.mark.parametrize("chunkBytes", [1, 1 << 22])
@pytest.mark.parametrize("count", [2, 6, 24])
@pytest.mark.parametrize("encoding", ENCODINGS)
def testRegionsOfSeveralFiles(tmp_path, monkeypatch, encoding, count, chunkBytes):
    monkeypatch.setattr(rawData, "CHUNK_BYTES", chunkBytes)
    array = sampleArray("<i2", SHAPE)
    volume = openVolume(writeVolumeIn(tmp_path, array, encoding, count))
    for region, planeCount in itertools.product(REGIONS, (1, 4, 16)):
        blocks = list(volume.slabs(region, planeCount))
        np.testing.assert_array_equal(np.concatenate(blocks, axis=2), cut(array, region))
        np.testing.assert_array_equal(volume.read(region), cut(array, region))


@pytest.mark.parametrize(
    "name", ["s%d.raw", "s%3d.raw", "s%03d.raw", "s%0d.raw", "%d", "sub/%02d.x", "%05d_s"]
)
@pytest.mark.parametrize("limits", ["8 10 1", "10 8 -1", "+99 -101 -100", "-1 1 1", "1 6 2", "1 3 1 2"])
def testNumberedNamesAreThoseOfPrintf(tmp_path, name, limits):
    array = sampleArray("u1", (5, 4, 3))
    first, last, step = (int(word) for word in limits.split()[:3])
    numbers = list(range(first, last + step, step))[:3]
    (tmp_path / "sub").mkdir()
    for z, number in enumerate(numbers):
        (tmp_path / (name % number)).write_bytes(array[:, :, z].tobytes(order="F"))
    path = writeText(tmp_path / "a.nhdr", headerLines(data_file=f"{name}  {limits}"))
    np.testing.assert_array_equal(openVolume(path).read(), array)
    np.testing.assert_array_equal(readBySimpleItk(path), array)


def testListedNamesAreTakenAsTheyStand(tmp_path):
    array = sampleArray("u1", (5, 4, 3))
    names = ["type: float", "#2 of %d.raw", "sub/b.raw"]
    (tmp_path / "sub").mkdir()
    for name, part in zip(names, array.T, strict=True):
        (tmp_path / name).write_bytes(part.tobytes())
    path = writeText(tmp_path / "a.nhdr", [*headerLines(datafile="LIST"), *names])
    volume = openVolume(path)
    assert volume.header["data file"] == ["LIST", *names]
    assert volume.header["type"] == "uint8" and volume.dataPaths == tuple(tmp_path / name for name in names)
    assert "data file" not in cropHeader(volume.header, None, np.uint8)
    np.testing.assert_array_equal(volume.read(), array)
    np.testing.assert_array_equal(readBySimpleItk(path), array)


@pytest.mark.parametrize("name", ["LISTING.raw", "a%d.raw", "50%.raw", "a 1 2 3", "%"])
def testOneFileWithAPeculiarName(tmp_path, name):
    array = sampleArray("u1", (5, 4, 3))
    (tmp_path / name).write_bytes(array.tobytes(order="F"))
    lines = ["NRRD0005", f"data file: {name}", *headerLines()[1:]]
    volume = openVolume(writeText(tmp_path / "a.nhdr", lines))
    assert volume.dataPaths == (tmp_path / name,) and volume.header["data file"] == name
    np.testing.assert_array_equal(volume.read(), array)


def testAttachedDataAreInTheFileItself(tmp_path):
    path = writeVolumeIn(tmp_path, sampleArray("u1", SHAPE), "raw", count=0)
    assert openVolume(path).dataPaths == (path,) and openVolume(path).dataPath == path


def testOneFileByListIsMapped(tmp_path):
    array = sampleArray("u1", SHAPE)
    part = openVolume(writeVolumeIn(tmp_path, array, "raw", count=1)).read()
    assert not part.flags.owndata and not part.flags.writeable
    np.testing.assert_array_equal(part, array)


@pytest.mark.parametrize("encoding", ENCODINGS)
def testLinesAreSkippedInEachFile(tmp_path, encoding):
    array = sampleArray("<i2", SHAPE)
    path = writeVolumeIn(tmp_path, array, encoding, count=6, line_skip="2")
    np.testing.assert_array_equal(openVolume(path).read(), array)


@pytest.mark.parametrize("encoding", ["raw", "gzip", "bzip2"])
@pytest.mark.parametrize("skip", ["3", "-1"])
def testBytesAreSkippedInEachFile(tmp_path, encoding, skip):
    array = sampleArray("u1", SHAPE)
    path = writeVolumeIn(tmp_path, array, encoding, count=6, byte_skip=skip)
    for z, part in enumerate(array.T):  # skips of one length for 3, of any for -1
        content = b"x" * (3 if skip == "3" else z) + part.tobytes()
        (tmp_path / f"part{z}.raw").write_bytes(encode(encoding, np.frombuffer(content, np.uint8)))
    volume = openVolume(path)
    np.testing.assert_array_equal(volume.read(), array)
    np.testing.assert_array_equal(next(volume.slabs(REGIONS[-1])), cut(array, REGIONS[-1]))


def testManyFilesOpenOneAtATime(tmp_path, openedFiles):
    array = sampleArray("u1", (3, 2, 1200))
    for encoding in ("raw", "gzip"):
        volume = openVolume(writeVolumeIn(tmp_path, array, encoding, 1200, names=encoding == "raw"))
        openedFiles.clear()
        np.testing.assert_array_equal(np.concatenate(list(volume.slabs()), axis=2), array)
        assert [Path(file.name) for file in openedFiles] == list(volume.dataPaths)


@pytest.mark.parametrize("encoding", ENCODINGS)
def testFilesWithoutAVoxelOfTheRegionAreNotOpened(tmp_path, openedFiles, encoding):
    array = sampleArray("u1", SHAPE)
    volume = openVolume(writeVolumeIn(tmp_path, array, encoding, count=6))
    (block,) = volume.slabs(((0, 5), (0, 4), (2, 4)))
    np.testing.assert_array_equal(block, array[:, :, 2:4])
    assert [Path(file.name).name for file in openedFiles] == ["part2.raw", "part3.raw"]


@pytest.mark.parametrize("encoding", ENCODINGS)
def testDamageNamesTheFileOfSeveral(tmp_path, encoding):
    array = sampleArray("u1", SHAPE)
    path = writeVolumeIn(tmp_path, array, encoding, count=6)
    volume = openVolume(path)
    for bad in (array[:, :, 4].ravel()[:-1], np.append(array[:, :, 4].ravel(), np.uint8(0))):
        (tmp_path / "part4.raw").write_bytes(encode(encoding, bad))
        for planes in ((3, 5), (4, 6)):  # last of the files, and not
            with pytest.raises(PipelineError) as caught:
                openVolume(path).read(((0, 1), (0, 1), planes))
            assert str(caught.value).startswith(f"{tmp_path / 'part4.raw'}: ")
    (tmp_path / "part4.raw").unlink()
    with pytest.raises(PipelineError, match="part4.raw: the data are truncated or damaged: .*No such file"):
        volume.read()


def testLengthOfEachFileIsCheckedAtOpening(tmp_path, caplog):
    array = sampleArray("u1", SHAPE)
    path = writeVolumeIn(tmp_path, array, "raw", count=6)
    (tmp_path / "part4.raw").write_bytes(bytes(19))
    with pytest.raises(PipelineError, match="part4.raw: .* for 1/6 of 5 x 4 x 6 voxels .*received 19"):
        openVolume(path)
    (tmp_path / "part4.raw").write_bytes(bytes(21))
    with pytest.raises(PipelineError, match=r"part4.raw: .* longer than .*expected 20 bytes, received 21"):
        openVolume(path)
    path.write_bytes(path.read_bytes().replace(b"data file", b"byte skip: 0\ndata file"))
    (tmp_path / "part5.raw").write_bytes(bytes(22))
    openVolume(path)
    assert [record.getMessage() for record in caplog.records] == [
        f"{path}: 3 bytes after the voxels are not used"
    ]


SEVERAL_REFUSALS = [
    ("LIST", "number of data files does not fit the sizes (expected 3, one a plane, received 0)"),
    ("LIST\n0.raw\n1.raw", "does not fit the sizes (expected 3, one a plane, received 2)"),
    ("LIST 2\n0.raw\n1.raw\n2.raw\n0.raw", "(expected 3, one a plane, received 4)"),
    ("LIST 1\n0.raw\n1.raw\n2.raw", "(expected 12, one a row, received 3)"),
    ("LIST 3\n0.raw\n1.raw", "(expected a number that divides 3 planes, received 2)"),
    ("LIST 3", "(expected a number that divides 3 planes, received 0)"),
    ("LIST 0\n0.raw", "the sub-dimension of the data files is not that of"),
    ("LIST 4\n0.raw", "(expected 1, 2 or 3, received 4)"),
    ("LIST two\n0.raw", "(expected 1, 2 or 3, received two)"),
    ("LIST\n0.raw\n1.raw\nabsent.raw", "the data file is missing (received absent.raw)"),
    ("LIST\n0.raw\n1.raw\n../2.raw", "the data file must lie in the folder of its header"),
    ("LIST\n0.raw\n1.raw\n/etc/passwd", "must lie in the folder of its header (received /etc/passwd)"),
    ("LIST\n0.raw\n1.raw\nlong.raw", "the data file is longer than the sizes say"),
    ("LIST\n0.raw\n1.raw\nshort.raw", "the data are truncated: too few bytes for 1/3 of 5 x 4 x 3 voxels"),
    ("%d.raw 0 3 1", "does not fit the sizes (expected 3, one a plane, received 4)"),
    ("%d.raw 0 2 -1", "received 0"),
    ("%d.raw 0 999999999 1", "received 1000000000"),
    ("%d.raw 0 2 0", "the step of the numbered data files is 0"),
    ("%d.raw 0 2 1 4", "(expected 1, 2 or 3, received 4)"),
    ("%d.raw 0 2 1 x", "(expected 1, 2 or 3, received x)"),
    ("%d.raw 1 3 1", "the data file is missing (received 3.raw)"),
    ("../%d.raw 0 2 1", "must lie in the folder of its header (received ../0.raw)"),
    ("/%d.raw 0 2 1", "must lie in the folder of its header (received /0.raw)"),
    ("%d.raw", "the data file is missing (received %d.raw)"),
    *(
        (field, f"cannot be understood (expected like slice%03d.raw 1 60 1, received {field})")
        for field in (
            "%d.raw 0 2",
            "%d.raw 0 2 1 2 2",
            "%d.raw 0 2 x",
            "%d.raw 0 2 1.5",
            "%d.raw 0 2 9999999999",
            "%s.raw 0 2 1",
            "%n.raw 0 2 1",
            "%*d.raw 0 2 1",
            "%999d.raw 0 2 1",
            "%-3d.raw 0 2 1",
            "%ld.raw 0 2 1",
            "%d%d.raw 0 2 1",
            "%d%s.raw 0 2 1",
            "%%%d.raw 0 2 1",
            "%(a)d.raw 0 2 1",
            "a %d.raw 0 2 1",
            "%d.raw 0 ٢ 1",
        )
    ),
]  # fmt: skip


@pytest.mark.parametrize("field, text", SEVERAL_REFUSALS, ids=[field for field, _ in SEVERAL_REFUSALS])
def testSeveralFilesAreRefused(tmp_path, field, text):
    folder = tmp_path / "volumes"
    folder.mkdir()
    for name, length in {"0": 20, "1": 20, "2": 20, "long": 21, "short": 19, "../0": 20, "../2": 20}.items():
        (folder / f"{name}.raw").write_bytes(bytes(length))
    message = refusal(writeText(folder / "a.nhdr", headerLines(data_file=field)))
    assert text in message and message.startswith(str(folder))


def testListMustBeTheLastField(tmp_path):
    lines = ["NRRD0005", "type: uint8", "dimension: 3", "encoding: raw", "data file: LIST", "sizes: 5 4 3"]
    message = refusal(writeText(tmp_path / "a.nhdr", lines))
    assert message.endswith("no field 'sizes'; 'data file: LIST' must be the last field")


def testOtherFieldsOfAListedHeaderAreThoseOfPynrrd(tmp_path):
    path = writeVolumeIn(tmp_path, sampleArray("u1", SHAPE), "raw", 6, space="RAS", spacings="1 2 3")
    header = dict(openVolume(path).header)
    assert header.pop("data file") == ["LIST 2", *(f"part{z}.raw" for z in range(6))]
    reference = nrrd.read_header(path.read_text().partition("data file")[0].splitlines())
    assert json.dumps(header, default=str) == json.dumps(reference, default=str)
