"""HDF5 files opened for reading: locks, signatures, and the one line for each file that cannot be read."""

import h5py
import pytest

from engine.base.errors import PipelineError
from engine.base.hdf5 import isHdf5, openForReading, openUnlocked


@pytest.fixture
def good(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["data"] = range(5)
    return tmp_path / "a.h5"


def refuse(path):
    with pytest.raises(PipelineError) as caught, openForReading(path):
        pass
    return str(caught.value)


def testAFileIsOpenedAndClosed(good):
    with openForReading(good) as file:
        assert file["data"][3] == 3
    assert not file


@pytest.mark.parametrize("mode", ["r", "r+"])
def testAFileThatThisProcessHasOpenIsOpenedToo(good, mode):
    with h5py.File(good, mode) as other:
        data = other["data"]
        with openForReading(good) as file:
            assert list(file) == ["data"]
        assert data[2] == 2  # the other one stays open


@pytest.mark.parametrize("offset", [0, 512, 1024, 4096])
def testTheSignatureIsFoundBehindAUserBlock(tmp_path, good, offset):
    (tmp_path / "b.h5").write_bytes(bytes(offset) + good.read_bytes())
    assert isHdf5(tmp_path / "b.h5") and h5py.is_hdf5(tmp_path / "b.h5")


def testOtherFilesHaveNoSignature(tmp_path):
    (tmp_path / "b.h5").write_bytes(b"\x89HDF" * 1000)
    assert not isHdf5(tmp_path / "b.h5")


def testWhatIsWrongIsToldByItsCause(tmp_path, good):
    assert refuse(tmp_path / "b.h5") == f"{tmp_path / 'b.h5'}: there is no such file"
    assert refuse(tmp_path) == f"{tmp_path}: is a folder"
    (tmp_path / "c.h5").write_bytes(b"words")
    assert refuse(tmp_path / "c.h5") == f"{tmp_path / 'c.h5'}: is no HDF5 file"
    size = good.stat().st_size
    good.write_bytes(good.read_bytes()[:-7])
    words = f"the file is truncated (expected {size} bytes, received {size - 7}); wait until it is written"
    assert refuse(good).startswith(f"{good}: {words}")


@pytest.mark.parametrize("isOld", [False, True])
def testNothingIsLockedUnlessTheLibraryCannotDoWithout(good, monkeypatch, isOld):
    openFile, asked = h5py.File, []

    def note(name, mode="r", **options):
        asked.append(options)
        if isOld and options:
            raise ValueError("HDF5 version >= 1.12.1 or 1.10.x >= 1.10.7 required for file locking options.")
        return openFile(name, mode, **options)

    monkeypatch.setattr(h5py, "File", note)
    openUnlocked(good).close()
    assert asked == [{"locking": False}, {}][: 1 + isOld]


def testAFileThatCannotBeLeftUnlockedIsToldWithARemedy(good, monkeypatch):
    def refuseLocks(*_, **__):
        raise OSError(37, "Unable to open file (unable to lock file, errno = 37, 'No locks available')")

    monkeypatch.setattr(h5py, "File", refuseLocks)
    words = "its file system cannot lock files; set HDF5_USE_FILE_LOCKING=FALSE and repeat"
    assert refuse(good) == f"{good}: {words}"
