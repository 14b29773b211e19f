"""HDF5 volumes whose voxels lie in several files: virtual datasets, external links, raw files."""

import logging
import os
import pickle
import shutil

import h5py
import numpy as np
import pytest

from engine.base.errors import PipelineError
from engine.formats.chunked import ChunkedVolume
from engine.formats.opening import openVolume
from engine.formats.rawData import RawVolume

SHAPE = (9, 7, 8)  # (z, y, x)
SEAMS = (0, 4, 7, 9)


def makePlanes(kind="u2"):
    return np.random.default_rng(2).integers(1, 120, SHAPE).astype(kind)


def writeParts(folder, kind="u2", name="entry/data", **options):
    """Write the planes in three files; gives their names from the folder's own one on."""
    folder.mkdir(exist_ok=True)
    names = []
    for number, (start, stop) in enumerate(zip(SEAMS, SEAMS[1:], strict=False)):
        with h5py.File(folder / f"p{number}.h5", "w") as file:
            file.create_dataset(name, data=makePlanes(kind)[start:stop], **options)
        names.append(f"{folder.name}/p{number}.h5")
    return names


def writeMaster(path, names, kind="u2", shape=SHAPE, name="entry/data", fill=None):
    """Write a virtual dataset of the three parts."""
    layout = h5py.VirtualLayout(shape, kind)
    for part, start, stop in zip(names, SEAMS, SEAMS[1:], strict=False):
        layout[start:stop] = h5py.VirtualSource(part, name, (stop - start, *SHAPE[1:]))
    with h5py.File(path, "w") as file:
        file.create_virtual_dataset("data", layout, fillvalue=fill)
    return path


def check(volume, planes):
    """Compare a volume with its planes, whole and slab by slab, also as another process gets it."""
    np.testing.assert_array_equal(volume.read(), planes.T)
    region = (1, 6), (2, 7), (2, 8)
    for count in (1, 3, 99):
        blocks = list(pickle.loads(pickle.dumps(volume)).slabs(region, count))
        np.testing.assert_array_equal(np.concatenate(blocks, axis=2), planes.T[1:6, 2:, 2:8])


def refuse(path) -> str:
    """Give the one line with which a volume is refused when it is opened."""
    with pytest.raises(PipelineError) as caught:
        openVolume(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ------------------------------------------------------------------------------------------ virtual datasets


@pytest.mark.parametrize("kind", ["u1", "u2", "f4", ">u2"])
@pytest.mark.parametrize("options", [{}, {"chunks": (2, 7, 8), "compression": "gzip"}])
def testPartsBelowTheMasterAreReadAndCountAsItsFiles(tmp_path, options, kind):
    names = writeParts(tmp_path / "parts", kind, **options)
    path = writeMaster(tmp_path / "scan.h5", names, kind)
    volume = openVolume(path)
    check(volume, makePlanes(kind))
    assert volume.files == (path, *(tmp_path / name for name in names))
    assert isinstance(volume, ChunkedVolume) and volume.depth == (2 if options else 1)


@pytest.mark.parametrize("isAbsolute", [True, False])
@pytest.mark.parametrize("folder", [".", "elsewhere"])
def testPartsAreFoundFromAnyFolder(tmp_path, monkeypatch, isAbsolute, folder):
    names = writeParts(tmp_path / "parts")
    named = [str(tmp_path / name) for name in names] if isAbsolute else names
    writeMaster(tmp_path / "scan.h5", named)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / folder)
    check(openVolume(os.path.relpath(tmp_path / "scan.h5")), makePlanes())


def testAMasterBehindALinkIsRead(tmp_path):
    writeMaster(tmp_path / "scan.h5", writeParts(tmp_path / "parts"))
    (tmp_path / "other").mkdir()
    (tmp_path / "other/link.h5").symlink_to(tmp_path / "scan.h5")
    check(openVolume(tmp_path / "other/link.h5"), makePlanes())


def testPartsThatWereCopiedBesideTheMasterAreFound(tmp_path):
    writeParts(tmp_path)
    path = writeMaster(tmp_path / "scan.h5", [f"/nowhere/beamline/p{number}.h5" for number in range(3)])
    check(openVolume(path), makePlanes())


NABU = "entry/reconstruction/configuration/processing_options/reconstruction"


@pytest.mark.parametrize("key", ["voxel_size_cm", "pixel_size_cm"])
def testMasterOfNabuGivesVoxelsAndTheirSize(tmp_path, key):
    """The parts hold the voxels, the master their size, along z, y and x."""
    results = "entry/reconstruction/results/data"
    names = writeParts(tmp_path / "scan", "f4", results)
    layout = h5py.VirtualLayout(SHAPE, "f4")
    for part, start, stop in zip(names, SEAMS, SEAMS[1:], strict=False):
        layout[start:stop] = h5py.VirtualSource(part, results, (stop - start, *SHAPE[1:]))
    with h5py.File(tmp_path / "scan.hdf5", "w") as file:
        file.create_virtual_dataset(results, layout)
        file[f"{NABU}/{key}"] = np.array([1.3e-4, 5e-5, 6.5e-5])
    volume = openVolume(tmp_path / "scan.hdf5")
    check(volume, makePlanes("f4"))
    np.testing.assert_allclose(volume.frame.sides, (0.65, 0.5, 1.3))
    assert (volume.frame.unit, volume.inner) == ("um", f"/{results}")


def writeTomocupy(folder, monkeypatch, isAbsolute, name="rec/scan.h5"):
    """Write as tomocupy does: parts are named as seen from where it was started, or absolutely."""
    folder.mkdir(exist_ok=True)
    monkeypatch.chdir(folder)
    stem = str(folder / name[:-3]) if isAbsolute else name[:-3]
    os.makedirs(f"{stem}_parts")
    layout = h5py.VirtualLayout(SHAPE, "f4")
    for number, (start, stop) in enumerate(zip(SEAMS, SEAMS[1:], strict=False)):
        part = f"{stem}_parts/p{number:04d}.h5"
        with h5py.File(part, "w") as file:
            file.create_dataset("exchange/data", data=makePlanes("f4")[start:stop], chunks=(1, *SHAPE[1:]))
        layout[start:stop] = h5py.VirtualSource(part, "/exchange/data", (stop - start, *SHAPE[1:]), "f4")
    with h5py.File(f"{stem}.h5", "w") as file:
        dataset = file.create_virtual_dataset("exchange/data", layout)
        dataset.attrs.update({"axes": "z:y:x", "description": "ReconData", "units": "counts"})
    return folder / name


@pytest.mark.parametrize("isAbsolute", [True, False])
@pytest.mark.parametrize("isMoved", [True, False])
@pytest.mark.parametrize("name", ["rec/scan.h5", "a/b/scan.h5"])
def testPartsOfTomocupyAreFoundFromAnyFolder(tmp_path, monkeypatch, isAbsolute, isMoved, name):
    path = writeTomocupy(tmp_path / "beamline", monkeypatch, isAbsolute, name)
    if isMoved:
        (tmp_path / "beamline").rename(tmp_path / "home")
        path = tmp_path / "home" / name
    for folder in (path.parent, path.parents[1], tmp_path):
        monkeypatch.chdir(folder)
        volume = openVolume(os.path.relpath(path))
        check(volume, makePlanes("f4"))
        assert (volume.frame.unit, volume.frame.hasOrigin) == ("voxel", False)
    parts = [path.parent / "scan_parts" / f"p{number:04d}.h5" for number in range(3)]
    assert openVolume(path).files == (path, *parts)
    parts[1].unlink()
    assert "a part of /exchange/data is missing (received " in refuse(path) and "p0001.h5::" in refuse(path)


def testFolderOfPartsThatIsCalledOtherwiseIsToldByItsName(tmp_path, monkeypatch):
    path = writeTomocupy(tmp_path, monkeypatch, isAbsolute=False)
    path.parent.rename(tmp_path / "other")
    line = refuse(tmp_path / "other" / "scan.h5")
    assert line.endswith("put the dataset into a folder called rec, as it was")


def testPartsOutsideOfTheFolderAreNotReadByTheirOldPlaceEither(tmp_path, monkeypatch):
    """One lies where it was written, the others beside their master: HDF5 would read that one."""
    path = writeTomocupy(tmp_path / "beamline", monkeypatch, isAbsolute=True)
    home = tmp_path / "home"
    shutil.copytree(path.parent, home)
    (path.parent / "scan_parts" / "p0000.h5").unlink()
    line = refuse(home / "scan.h5")
    assert (
        "a part of /exchange/data is not in the folder of scan.h5 (received " in line and "p0001.h5" in line
    )


def testMovedPartsThatSomethingElseHoldsOpenAreNeverZeros(tmp_path, monkeypatch):
    """HDF5 keeps the first way in which a process opens a dataset, and reads zeros without a word."""
    path = writeTomocupy(tmp_path, monkeypatch, isAbsolute=False)
    monkeypatch.chdir("/")
    volume = openVolume(path)
    with h5py.File(path, "r", locking=False) as file:
        held = file["exchange/data"]
        assert not held[:].any()
        with pytest.raises(PipelineError, match="is being opened and read at the same time"):
            volume.read()
    check(volume, makePlanes("f4"))


def testAMasterAmongPartsThatWereMovedIsRefused(tmp_path, monkeypatch):
    path = writeTomocupy(tmp_path, monkeypatch, isAbsolute=False)
    part = path.parent / "scan_parts" / "p0000.h5"
    part.rename(part.with_name("real.h5"))
    layout = h5py.VirtualLayout((4, *SHAPE[1:]), "f4")
    layout[:] = h5py.VirtualSource("real.h5", "exchange/data", (4, *SHAPE[1:]))
    with h5py.File(part, "w") as file:
        file.create_virtual_dataset("exchange/data", layout)
    assert "is made of parts itself, and the dataset was moved" in refuse(path)


def testAPartInTheMasterItselfIsRead(tmp_path):
    path = writeMaster(tmp_path / "scan.h5", ["."] * 3, name="whole")
    with h5py.File(path, "a") as file:
        del file["data"]
        file["whole"] = makePlanes()
        layout = h5py.VirtualLayout(SHAPE, "u2")
        layout[:4], layout[4:] = (
            h5py.VirtualSource(".", "whole", SHAPE)[5:],
            h5py.VirtualSource(".", "whole", SHAPE)[:5],
        )
        file.create_virtual_dataset("data", layout)
    volume = openVolume(f"{path}::/data")
    check(volume, np.concatenate([makePlanes()[5:], makePlanes()[:5]]))
    assert volume.files == (path,)


@pytest.mark.parametrize("damage", ["missing", "unnamed", "small", "flat", "noHdf5", "group", "cut"])
def testAPartThatDoesNotFitIsNamed(tmp_path, damage):
    names = writeParts(tmp_path / "parts")
    path, part = writeMaster(tmp_path / "scan.h5", names), tmp_path / names[1]
    arrays = {"small": makePlanes()[:2], "flat": makePlanes()[0], "cut": makePlanes("f8")[4:7]}
    if damage == "noHdf5":
        part.write_bytes(b"nothing")
    elif damage == "missing":
        part.unlink()
    else:
        with h5py.File(part, "a") as file:
            del file["entry/data"]
            if damage == "group":
                file.create_group("entry/data")
            elif damage in arrays:
                file["entry/data"] = arrays[damage]
    unfit = f"{path}: /entry/data in parts/p1.h5 does not fit into /data"
    words = {
        "missing": f"{path}: a part of /data is missing (received parts/p1.h5::/entry/data); copy all files",
        "unnamed": f"{path}: a part of /data is missing (received parts/p1.h5::/entry/data); copy all files",
        "small": f"{unfit} (expected 3 x 7 x 8, received 2 x 7 x 8); copy",
        "flat": f"{unfit} (expected 3 x 7 x 8, received 7 x 8); copy",
        "noHdf5": f"{part}: is no HDF5 file",
        "group": f"{part}: /entry/data, a part of /data, is no dataset",
        "cut": f"{part}: the values of /entry/data, a part of /data, are cut off when they are read "
        "(expected uint16, received float64)",
    }
    line = refuse(path).replace(": entry/data in", ": /entry/data in").replace("::entry", "::/entry")
    assert line.startswith(words[damage])


def testAPartThatGoesAfterOpeningIsNamedInsteadOfReadAsZeros(tmp_path):
    names = writeParts(tmp_path / "parts")
    volume = openVolume(writeMaster(tmp_path / "scan.h5", names))
    (tmp_path / names[2]).unlink()
    with pytest.raises(PipelineError) as caught:
        volume.read()
    assert str(caught.value) == f"{tmp_path / names[2]}: the file of a part of /data has gone"


def testAPartThatCannotBeDecodedIsToldByItsPlanes(tmp_path):
    names = writeParts(tmp_path / "parts", chunks=(2, 7, 8), compression="gzip")
    with h5py.File(tmp_path / names[1]) as file:
        place = file["entry/data"].id.get_chunk_info(0).byte_offset
    content = bytearray((tmp_path / names[1]).read_bytes())
    content[place : place + 20] = b"\xff" * 20
    (tmp_path / names[1]).write_bytes(content)
    path = writeMaster(tmp_path / "scan.h5", names)
    volume = openVolume(path)
    np.testing.assert_array_equal(volume.read(((0, 8), (0, 7), (0, 4))), makePlanes()[:4].T)
    with pytest.raises(PipelineError) as caught:
        volume.read(((0, 8), (0, 7), (4, 6)))
    assert str(caught.value).startswith(f"{path}: planes 4:6 of /data are damaged: ")


@pytest.mark.parametrize("sides", [(5, 7, 8), (4, 8, 7), (4, 56), (1, 4, 7, 9)])
def testAPartWithOtherSidesThanItsPlaceIsRefused(tmp_path, sides):
    names = writeParts(tmp_path / "parts")
    path = writeMaster(tmp_path / "scan.h5", names)
    with h5py.File(tmp_path / names[0], "w") as file:
        file["entry/data"] = np.ones(sides, "u2")
    received = " x ".join(map(str, sides))
    assert f"does not fit into /data (expected 4 x 7 x 8, received {received})" in refuse(path)


@pytest.mark.parametrize("isAbsolute", [True, False])
def testPartsOutsideOfTheFolderAreRefused(tmp_path, isAbsolute):
    names = writeParts(tmp_path / "parts")
    (tmp_path / "inner").mkdir()
    named = [str(tmp_path / name) if isAbsolute else f"../{name}" for name in names]
    path = writeMaster(tmp_path / "inner/scan.h5", named)
    rule = f"a part of /data is not in the folder of scan.h5 (received {named[0]}); copy it there"
    assert refuse(path) == f"{path}: {rule}"


@pytest.mark.parametrize("name", ["HDF5_VDS_PREFIX", "HDF5_EXT_PREFIX"])
def testOtherFoldersOfTheEnvironmentAreRefused(tmp_path, monkeypatch, name):
    path = writeMaster(tmp_path / "scan.h5", writeParts(tmp_path / "parts"))
    monkeypatch.setenv(name, str(tmp_path / "parts"))
    assert refuse(path).endswith(f"(received {name} is set); unset {name}")


def testVoxelsThatAreInNoPartAreTold(tmp_path, caplog):
    names = writeParts(tmp_path / "parts")
    path = writeMaster(tmp_path / "scan.h5", names[:2], fill=5)
    with caplog.at_level(logging.WARNING):
        volume = openVolume(path)
    assert "112 voxels of /data are in none of its parts (indices 7:9 of its first axis); they read as 5" in (
        caplog.text
    )
    expected = makePlanes()
    expected[7:] = 5
    check(volume, expected)
    text = refuse(writeMaster(tmp_path / "none.h5", []))  # h5py before 3.14 writes it as a plain dataset
    assert "no part of /data is there" in text or "no voxel of /data was ever written" in text


def testAWholeVirtualDatasetIsOpenedWithoutAWord(tmp_path, caplog):
    path = writeMaster(tmp_path / "scan.h5", writeParts(tmp_path / "parts"))
    with caplog.at_level(logging.WARNING):
        openVolume(path)
    assert not caplog.records


def testInterleavedPartsAreWhole(tmp_path, caplog):
    planes = makePlanes()
    layout = h5py.VirtualLayout(SHAPE, "u2")
    for number in range(2):
        with h5py.File(tmp_path / f"p{number}.h5", "w") as file:
            file["d"] = planes[number::2]
        layout[number::2] = h5py.VirtualSource(f"p{number}.h5", "d", planes[number::2].shape)
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file.create_virtual_dataset("data", layout)
    with caplog.at_level(logging.WARNING):
        check(openVolume(tmp_path / "scan.h5"), planes)
    assert not caplog.records


def testMastersOfMastersAreRead(tmp_path):
    (tmp_path / "deep").mkdir()
    names = writeParts(tmp_path / "deep/parts")
    writeMaster(tmp_path / "deep/scan.h5", names)
    layout = h5py.VirtualLayout((1, *SHAPE), "f4")
    layout[0] = h5py.VirtualSource("deep/scan.h5", "data", SHAPE)
    with h5py.File(tmp_path / "top.h5", "w") as file:
        file.create_virtual_dataset("data", layout)
    volume = openVolume(tmp_path / "top.h5")
    check(volume, makePlanes("f4"))
    assert volume.files == tuple(
        tmp_path / name for name in ("top.h5", "deep/scan.h5", *(f"deep/{name}" for name in names))
    )
    (tmp_path / "deep" / names[0]).unlink()
    assert f"{tmp_path / 'deep/scan.h5'}: a part of /data is missing" in refuse(tmp_path / "top.h5")


def testPartsInACircleAreRefused(tmp_path):
    for name, other in (("a.h5", "b.h5"), ("b.h5", "a.h5"), ("c.h5", ".")):
        layout = h5py.VirtualLayout(SHAPE, "u2")
        layout[:] = h5py.VirtualSource(other, "data", SHAPE)
        with h5py.File(tmp_path / name, "w") as file:
            file.create_virtual_dataset("data", layout)
    assert "the parts of /data lead in a circle" in refuse(tmp_path / "a.h5")
    assert "the parts of /data lead in a circle" in refuse(tmp_path / "c.h5")


# -------------------------------------------------------------------------- names with numbers, growing parts


def writeNumbered(path, pattern, count):
    """Write a virtual dataset of numbered files with three planes each, as many as there are."""
    with h5py.File(path, "w") as file:
        properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        space = h5py.h5s.create_simple((0, *SHAPE[1:]), (h5py.h5s.UNLIMITED, *SHAPE[1:]))
        space.select_hyperslab((0, 0, 0), (h5py.h5s.UNLIMITED, 1, 1), stride=(3, 1, 1), block=(3, *SHAPE[1:]))
        source = h5py.h5s.create_simple((3, *SHAPE[1:]))
        source.select_all()
        properties.set_virtual(space, pattern.encode(), b"d", source)
        h5py.h5d.create(file.id, b"data", h5py.h5t.NATIVE_UINT16, space, properties)
    for number in range(count):
        name = pattern.replace("%b", str(number))
        with h5py.File(path.parent / name, "w") as file:
            file["d"] = makePlanes()[3 * number : 3 * number + 3]


def testNumberedPartsAreFoundToTheLast(tmp_path, caplog):
    writeNumbered(tmp_path / "scan.h5", "p%b.h5", 3)
    with caplog.at_level(logging.WARNING):
        volume = openVolume(tmp_path / "scan.h5")
    assert not caplog.records
    check(volume, makePlanes())
    assert volume.files == tuple(tmp_path / name for name in ("scan.h5", "p0.h5", "p1.h5", "p2.h5"))
    (tmp_path / "p1.h5").unlink()
    assert "a part of /data is missing (received p1.h5::d)" in refuse(tmp_path / "scan.h5")
    (tmp_path / "p0.h5").unlink()
    (tmp_path / "p2.h5").unlink()
    refuse(tmp_path / "scan.h5")


@pytest.mark.parametrize("counts", [(4, 3), (4, 2)])  # planes of either part, of which every second one is
def testPartsThatGrewUnequallyAreTold(tmp_path, caplog, counts):
    layout = h5py.VirtualLayout((8, *SHAPE[1:]), "u2", maxshape=(None, *SHAPE[1:]))
    for number, count in enumerate(counts):
        with h5py.File(tmp_path / f"p{number}.h5", "w") as file:
            file.create_dataset("d", data=makePlanes()[number::2][:count], maxshape=(None, *SHAPE[1:]))
        source = h5py.VirtualSource(f"p{number}.h5", "d", (4, *SHAPE[1:]), maxshape=(None, *SHAPE[1:]))
        layout[number : h5py.h5s.UNLIMITED : 2] = source[0 : h5py.h5s.UNLIMITED]
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file.create_virtual_dataset("data", layout)
    with caplog.at_level(logging.WARNING):
        volume = openVolume(tmp_path / "scan.h5")
    expected = makePlanes()[:7]
    expected[5] *= counts[1] == 3
    np.testing.assert_array_equal(volume.read(), expected.T)
    told = "56 voxels of /data are in none of its parts (indices 5:6 of its first axis); they read as 0"
    assert (told in caplog.text) == (counts[1] == 2) and len(caplog.records) == (counts[1] == 2)


# ------------------------------------------------------------------------------------- links and raw files


@pytest.mark.parametrize("options", [{}, {"chunks": (2, 7, 8), "compression": "gzip"}])
def testLinksToFilesOfTheFolderAreFollowed(tmp_path, options):
    name = writeParts(tmp_path / "parts", **options)[0]
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file["scan/volume"] = h5py.ExternalLink(name, "/entry")
    for inner in ("", "::/scan/volume/data", "::scan"):
        volume = openVolume(f"{tmp_path / 'scan.h5'}{inner}")
        np.testing.assert_array_equal(volume.read(), makePlanes()[:4].T)
        assert volume.inner == "/scan/volume/data"
        assert volume.files == (tmp_path / "scan.h5", tmp_path / name)
    assert isinstance(volume, ChunkedVolume if options else RawVolume)


def testLinksThroughSeveralFilesAreFollowedAndAllFilesCount(tmp_path):
    name = writeParts(tmp_path / "parts")[0]
    with h5py.File(tmp_path / "middle.h5", "w") as file:
        file["there"] = h5py.ExternalLink(name, "/entry/data")
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file["volume"] = h5py.ExternalLink("middle.h5", "/there")
    volume = openVolume(tmp_path / "scan.h5")
    np.testing.assert_array_equal(volume.read(), makePlanes()[:4].T)
    assert volume.files == tuple(tmp_path / file for file in ("scan.h5", "middle.h5", name))


@pytest.mark.parametrize("inner", ["", "::/volume"])
def testLinksOutOfTheFolderAreRefused(tmp_path, inner):
    writeParts(tmp_path / "parts")
    (tmp_path / "inner").mkdir()
    path = tmp_path / "inner/scan.h5"
    with h5py.File(path, "w") as file:
        file["volume"] = h5py.ExternalLink("../parts/p0.h5", "/entry/data")
    rule = "the file of the link /volume is not in the folder of scan.h5 (received ../parts/p0.h5); copy it"
    assert refuse(f"{path}{inner}").startswith(f"{path}: {rule}")


def testLinksToNothingAreRefusedWhereTheyAreMeant(tmp_path):
    path = tmp_path / "scan.h5"
    with h5py.File(path, "w") as file:
        file["volume"] = h5py.ExternalLink("gone.h5", "/entry/data")
    assert "the file of the link /volume is missing (received gone.h5)" in refuse(path)
    with h5py.File(path, "a") as file:
        file["loop"] = h5py.ExternalLink("scan.h5", "/loop")
        file["data"] = makePlanes()
    assert "its links lead in a circle" in refuse(f"{path}::/loop")
    check(openVolume(path), makePlanes())


def testAPartBehindALinkOutOfTheFolderIsRefused(tmp_path):
    writeParts(tmp_path / "parts")
    (tmp_path / "inner").mkdir()
    with h5py.File(tmp_path / "inner/link.h5", "w") as file:
        file["entry"] = h5py.ExternalLink("../parts/p0.h5", "/entry")
    path = writeMaster(tmp_path / "inner/scan.h5", ["link.h5"])
    assert "is not in the folder of scan.h5 (received ../parts/p0.h5)" in refuse(path)


@pytest.mark.parametrize("isPart", [False, True])
def testVoxelsInRawFilesAreRefused(tmp_path, isPart):
    path = tmp_path / "scan.h5"
    (tmp_path / "voxels.raw").write_bytes(makePlanes().tobytes())
    with h5py.File(path, "w") as file:
        external = [("voxels.raw", 0, h5py.h5f.UNLIMITED)]
        file.create_dataset("data", SHAPE, "u2", external=external)
    if isPart:
        layout = h5py.VirtualLayout(SHAPE, "u2")
        layout[:] = h5py.VirtualSource("scan.h5", "data", SHAPE)
        with h5py.File(tmp_path / "top.h5", "w") as file:
            file.create_virtual_dataset("v", layout)
    rule = "/data keeps its voxels in raw files elsewhere; h5repack of HDF5 puts them into one file"
    assert refuse(tmp_path / "top.h5" if isPart else path) == f"{path}: {rule}"
