"""Zarr folders as ome-zarr-py, nabu and zarr itself write them, against the arrays they were given."""

import importlib.util
import json
import logging
import os
import pickle
import shutil
import sys
import types
from dataclasses import replace

import numpy as np
import pytest
from sampleVolumes import checkVolume, refuse

from engine.base.errors import PipelineError
from engine.formats.opening import isVolumeName, openVolume, stemOf
from engine.masks.place import describePlaces, putInPlace
from engine.preparation.samples import _digestVolume

zarr = pytest.importorskip("zarr")
SHAPE = (11, 7, 6)  # (z, y, x)
AXES = [{"name": name, "type": "space", "unit": "micrometer"} for name in "zyx"]
SCALE = [1.3, 0.5, 0.65]
SHIFT = [20.0, -3.0, 7.0]


def makePlanes(dtype="uint16", shape=SHAPE):
    return np.random.default_rng(3).integers(0, 120, shape).astype(dtype)


def check(volume, planes):
    """Compare a volume with its planes (z, y, x)."""
    checkVolume(volume, planes.T)


def writeArray(path, planes, name=None, **options):
    """Write an array as the package zarr does."""
    options = {"chunks": (4, 3, 5)[-planes.ndim :]} | options if planes.ndim <= 3 else options
    return zarr.create_array(store=str(path), name=name, data=planes, **options)


def writeOme(path, planes, version=3, axes=AXES, steps=(), whole=(), chunks=(4, 3, 5)):
    """Write one level with the metadata given: transformations of the level and of the whole image."""
    dataset = {"path": "0"} | ({"coordinateTransformations": list(steps)} if steps else {})
    scales = {"axes": axes, "datasets": [dataset], "name": "image"}
    scales |= {"coordinateTransformations": list(whole)} if whole else {}
    attributes = {"multiscales": [scales | ({"version": "0.4"} if version == 2 else {})]}
    attributes = {"ome": {"version": "0.5"} | attributes} if version == 3 else attributes
    group = zarr.create_group(store=str(path), zarr_format=version, attributes=attributes)
    group.create_array("0", data=planes, chunks=(*(1,) * (planes.ndim - 3), *chunks))
    return path


def scaleBy(*values):
    return {"type": "scale", "scale": list(values)}


def shiftBy(*values):
    return {"type": "translation", "translation": list(values)}


# ------------------------------------------------------------------------------------------- plain arrays

FORMS = {
    "2": {"zarr_format": 2},
    "2, folders": {"zarr_format": 2, "chunk_key_encoding": {"name": "v2", "separator": "/"}},
    "2, columns": {"zarr_format": 2, "order": "F"},
    "2, raw": {"zarr_format": 2, "compressors": None},
    "3": {"zarr_format": 3},
    "3, raw": {"zarr_format": 3, "compressors": None},
    "3, dots": {"zarr_format": 3, "chunk_key_encoding": {"name": "default", "separator": "."}},
    "3, names of 2": {"zarr_format": 3, "chunk_key_encoding": {"name": "v2", "separator": "."}},
    "3, shards": {"zarr_format": 3, "chunks": (2, 3, 5), "shards": (4, 6, 5)},
    "3, raw shards": {"zarr_format": 3, "chunks": (2, 3, 5), "shards": (4, 6, 5), "compressors": None},
}


@pytest.mark.parametrize("dtype", ["uint8", "uint16", ">u2", "int16", "float32", ">f4", "float64", "int64"])
@pytest.mark.parametrize("form", FORMS)
def testPlainArrayIsReadAsItIs(tmp_path, form, dtype):
    planes = makePlanes(dtype)
    writeArray(tmp_path / "a.zarr", planes, **FORMS[form])
    volume = openVolume(tmp_path / "a.zarr")
    check(volume, planes)
    assert (volume.path, volume.header, volume.inner) == (tmp_path / "a.zarr", {}, "")
    assert volume.frame.unit == "voxel" and "--voxelSize" in volume.frame.why
    check(pickle.loads(pickle.dumps(volume)), planes)


@pytest.mark.parametrize("version", [2, 3])
def testTruthValuesOfMasksCountAsZeroAndOne(tmp_path, version):
    planes = makePlanes() > 60
    writeArray(tmp_path / "a.zarr", planes, zarr_format=version)
    check(openVolume(tmp_path / "a.zarr"), planes.astype("uint8"))


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("name", ["scan", "scan.tif", "scan.2", "scan.zarr", "scan.ome.zarr", "SCAN.ZARR"])
def testFolderIsZarrByItsContentWhateverItIsCalled(tmp_path, name, version):
    writeArray(tmp_path / name, makePlanes(), zarr_format=version)
    check(openVolume(tmp_path / name), makePlanes())
    link = tmp_path / "link"
    link.symlink_to(tmp_path / name)
    check(openVolume(link), makePlanes())


def testNamesOfZarrFolders(tmp_path):
    assert isVolumeName(tmp_path / "a.ome.zarr") and isVolumeName(tmp_path / "a.zarr")
    assert stemOf(tmp_path / "a.ome.zarr") == stemOf(tmp_path / "a.zarr") == "a"
    assert stemOf("a.zarr::labels/pores") == "a"


def testOneArrayOfAGroupIsFoundAndOthersAreNamed(tmp_path):
    path, planes = tmp_path / "a.zarr", makePlanes()
    zarr.create_group(store=str(path))
    writeArray(path, planes, "entry/deep/data")
    writeArray(path, np.arange(6.0), "entry/x", chunks=(6,))
    check(openVolume(path), planes)
    writeArray(path, planes[:, :5] + 1, "entry/other10")
    writeArray(path, planes[:5] + 2, "entry/other9")
    listed = "entry/deep/data (11 x 7 x 6 uint16), entry/other9 (5 x 7 x 6 uint16), entry/other10 "
    line = refuse(path)
    assert line.startswith(f"{path}: holds several volumes; name one of {listed}")
    assert line.endswith(f"as in {path}::entry/deep/data")
    for name in ("entry/other10", "/entry/other10/", "entry//other10"):
        volume = openVolume(f"{path}::{name}")
        np.testing.assert_array_equal(volume.read(), (planes[:, :5] + 1).T)
        assert volume.path == path
    assert "name one of" in refuse(f"{path}::entry")
    line = refuse(f"{path}::entry/none")
    assert line.startswith(f"{path}: has nothing of this name (received entry/none); name one of {listed}")


# ------------------------------------------------------------------------------------------------ OME-Zarr


def writeByOme(path, planes, version, label="", shift=SHIFT):
    """Write an image, or labels in it, by ome-zarr-py, with a level of half the size."""
    from ome_zarr import format as formats
    from ome_zarr import writer

    fmt = {"0.4": formats.FormatV04, "0.5": formats.FormatV05}[version]()
    number = {"0.4": 2, "0.5": 3}[version]
    group = zarr.open_group(str(path), mode="a" if label else "w", zarr_format=number)
    half = np.add(shift, np.divide(SCALE, 2)).tolist(), np.multiply(SCALE, 2).tolist()
    steps = [[scaleBy(*SCALE), shiftBy(*shift)], [scaleBy(*half[1]), shiftBy(*half[0])]]
    pyramid, options = [planes, planes[::2, ::2, ::2]], {"coordinate_transformations": steps, "axes": AXES}
    if label:
        writer.write_multiscale_labels(pyramid, group, label, fmt=fmt, **options)
    else:
        writer.write_multiscale(pyramid, group, fmt=fmt, **options)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def testImageOfOmeZarrPyIsReadInItsPlace(tmp_path, version):
    pytest.importorskip("ome_zarr")
    path, planes = tmp_path / "scan.ome.zarr", makePlanes()
    writeByOme(path, planes, version)
    volume = openVolume(path)
    check(volume, planes)
    frame = volume.frame
    np.testing.assert_allclose(frame.directions, np.diag(SCALE[::-1]))
    np.testing.assert_allclose(frame.origin, SHIFT[::-1])
    assert (frame.unit, frame.why, frame.space, frame.hasOrigin) == ("um", "", "", True)
    check(pickle.loads(pickle.dumps(volume)), planes)
    name = json.loads((path / {"0.4": ".zattrs", "0.5": "zarr.json"}[version]).read_text())
    name = name.get("attributes", {}).get("ome", name)["multiscales"][0]["datasets"][1]["path"]
    assert f", {name} (6 x 4 x 3 " in refuse(f"{path}::none")
    coarse = openVolume(f"{path}::{name}")
    np.testing.assert_array_equal(coarse.read(), planes[::2, ::2, ::2].T)
    np.testing.assert_allclose(coarse.frame.sides, np.multiply(SCALE[::-1], 2))
    np.testing.assert_allclose(coarse.frame.origin, np.add(SHIFT, np.divide(SCALE, 2))[::-1])


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def testLabelsOfOmeZarrPyLieOnTheirImage(tmp_path, version):
    pytest.importorskip("ome_zarr")
    path, planes = tmp_path / "scan.ome.zarr", makePlanes()
    writeByOme(path, planes, version)
    writeByOme(path, (planes > 60).astype("uint8"), version, label="pores")
    writeByOme(path, planes, version, label="moved", shift=[21.3, -3.0, 7.0])
    image, mask = openVolume(path), openVolume(f"{path}::labels/pores")
    check(image, planes)
    check(mask, (planes > 60).astype("uint8"))
    assert mask.path == path and mask.inner == "labels/pores"
    assert putInPlace(image, mask, "") is mask and describePlaces([(image, mask)]) == []
    with pytest.raises(PipelineError, match=r"differ in the space origin .expected \[7.0, -3.0, 20.0\]"):
        putInPlace(image, openVolume(f"{path}::labels/moved"), "")
    line = refuse(f"{path}::labels").replace("<u2", "uint16").replace("|u1", "uint8")
    assert "name one of labels/moved (11 x 7 x 6 uint16), labels/pores (11 x 7 x 6 uint8), as in" in line


@pytest.fixture
def nabuWriter(monkeypatch):
    """Give nabu's writer; where tensorstore is not installed it writes with zarr, as it can be told to."""
    pytest.importorskip("nabu")
    if importlib.util.find_spec("tensorstore") is None:
        absent = types.ModuleType("tensorstore")
        absent.TensorStore = type("TensorStore", (), {})
        monkeypatch.setitem(sys.modules, "tensorstore", absent)
        ome = pytest.importorskip("nabu.io.ome_zarr")
        monkeypatch.setattr(ome, "USE_TENSORSTORE", False)
    return pytest.importorskip("nabu.io.writer_zarr")


def writeByNabu(writer, path, planes, isReversed):
    path.mkdir()
    options = {"translation": (2e-5, -3e-6, 7e-6), "scale": (1.3e-6, 5e-7, 6.5e-7), "overwrite": True}
    options |= {"chunks_shape": (4, 4, 4), "shards_shape": (8, 8, 8), "atleast_size": 4}
    made = writer.OmeZarrWriter(
        str(path), "scan", planes.shape, planes.dtype, reverse_order=isReversed, **options
    )
    made.data = planes
    made.save()


@pytest.mark.parametrize("dtype", ["uint16", "float16"])
@pytest.mark.parametrize("isReversed", [False, True])
def testImageOfNabuIsReadInItsPlace(tmp_path, nabuWriter, dtype, isReversed):
    planes = makePlanes(dtype, (17, 9, 13))  # with an incomplete chunk, or else it goes on writing
    writeByNabu(nabuWriter, tmp_path / "output", planes, isReversed)
    volume = openVolume(tmp_path / "output" / "scan")
    check(volume, planes.astype("float32") if dtype == "float16" else planes)
    sign = -1 if isReversed else 1
    np.testing.assert_allclose(volume.frame.directions, np.diag([6.5e-7, 5e-7, sign * 1.3e-6]))
    np.testing.assert_allclose(volume.frame.origin, (7e-6, -3e-6, 2e-5))
    assert (volume.frame.unit, volume.frame.hasOrigin) == ("m", True)
    np.testing.assert_allclose(openVolume(f"{tmp_path}/output/scan::1").frame.sides, (1.3e-6, 1e-6, 2.6e-6))


def writeAsNabu(path, planes, isReversed):
    """Write as nabu does, without it: metres of the whole image, 2^n of its levels, unpacked shards."""
    axes = [axis | {"unit": "meter"} for axis in AXES]
    scale, shift = [1.3e-6, 5e-7, 6.5e-7], [2e-5, -3e-6, 7e-6]
    if isReversed:
        scale[0], shift[0] = -scale[0], shift[0] + (len(planes) - 1) * scale[0]
    levels = [
        {"path": str(level), "coordinateTransformations": [scaleBy(*[2.0**level] * 3)]} for level in (0, 1)
    ]
    scales = {"axes": axes, "datasets": levels, "name": "scan"}
    scales["coordinateTransformations"] = [scaleBy(*scale), shiftBy(*shift)]
    attributes = {"ome": {"version": "0.5", "multiscales": [scales]}}
    group = zarr.create_group(store=str(path), zarr_format=3, attributes=attributes)
    for level, step in enumerate((1, 2)):
        part = planes[::step, ::step, ::step]
        group.create_array(str(level), data=part, chunks=(2, 2, 2), shards=(4, 4, 4), compressors=None)
    return path


@pytest.mark.parametrize("isReversed", [False, True])
def testPlaceOfNabuIsThatInMetresAndItsMaskInMicrometresLiesOnIt(tmp_path, isReversed):
    planes = makePlanes()
    stored = planes[::-1] if isReversed else planes
    image = openVolume(writeAsNabu(tmp_path / "a", stored, isReversed))
    check(image, stored)
    sign, first = (-1, 2e-5 + 10 * 1.3e-6) if isReversed else (1, 2e-5)
    np.testing.assert_allclose(image.frame.directions, np.diag([6.5e-7, 5e-7, sign * 1.3e-6]))
    np.testing.assert_allclose(image.frame.origin, (7e-6, -3e-6, first))
    assert (image.frame.unit, image.frame.hasOrigin) == ("m", True)
    small = openVolume(f"{tmp_path / 'a'}::1")
    np.testing.assert_array_equal(small.read(), stored[::2, ::2, ::2].T)
    np.testing.assert_allclose(small.frame.sides, (1.3e-6, 1e-6, 2.6e-6))
    steps = [scaleBy(*SCALE), shiftBy(*SHIFT)]  # the same grid in micrometres, z upwards
    mask = openVolume(writeOme(tmp_path / "mask.zarr", planes, steps=steps))
    np.testing.assert_array_equal(putInPlace(image, mask, "").read(), image.read())
    steps = [scaleBy(*SCALE), shiftBy(SHIFT[0] + 0.4, *SHIFT[1:])]
    moved = openVolume(writeOme(tmp_path / "moved.zarr", planes, steps=steps))
    with pytest.raises(PipelineError, match="differ in the space (origin|directions)"):
        putInPlace(image, moved, "")


# --------------------------------------------------------------------------------------- which array is meant


@pytest.mark.parametrize("version", [2, 3])
def testTheLargestLevelCountsWhateverItsPlaceInTheList(tmp_path, version):
    planes = makePlanes()
    group = zarr.create_group(store=str(tmp_path / "a.zarr"), zarr_format=version)
    group.create_array("s/a", data=planes[:5])
    group.create_array("s/b", data=planes)
    named = [{"path": "s/a", "coordinateTransformations": [scaleBy(2, 2, 2)]}]
    named += [{"path": "s/b", "coordinateTransformations": [scaleBy(*SCALE)]}, {"path": "s/gone"}]
    scales = {"multiscales": [{"axes": AXES, "datasets": named}]}
    group.attrs.update({"ome": scales} if version == 3 else scales)
    volume = openVolume(tmp_path / "a.zarr")
    check(volume, planes)
    np.testing.assert_allclose(volume.frame.sides, SCALE[::-1])
    assert openVolume(tmp_path / "a.zarr::s/a").frame.sides.tolist() == [2, 2, 2]
    shutil.rmtree(tmp_path / "a.zarr/s/a")
    assert refuse(tmp_path / "a.zarr").endswith(
        "the level s/a of its multiscales is missing (expected an array)"
    )


@pytest.mark.parametrize("version", [2, 3])
def testOneImageOfABioformats2rawFolderIsFoundAndOthersAreNamed(tmp_path, version):
    path, planes = tmp_path / "a.zarr", makePlanes()
    zarr.create_group(store=str(path), zarr_format=version, attributes={"bioformats2raw.layout": 3})
    zarr.create_group(store=str(path / "OME"), zarr_format=version, attributes={"series": ["0"]})
    (path / "OME" / "METADATA.ome.xml").write_text("<OME/>")
    writeOme(path / "0", planes, version, steps=[scaleBy(*SCALE)])
    volume = openVolume(path)
    check(volume, planes)
    np.testing.assert_allclose(volume.frame.sides, SCALE[::-1])
    writeOme(path / "1", planes[:5], version)
    assert "holds several volumes; name one of 0 (11 x 7 x 6 " in refuse(path)
    assert refuse(path).endswith(f"as in {path}::0")
    check(openVolume(f"{path}::0"), planes)


def testWellOfAPlateIsNamed(tmp_path):
    path = tmp_path / "a.zarr"
    zarr.create_group(store=str(path), attributes={"ome": {"version": "0.5", "plate": {}}})
    for well in ("A/1", "A/2", "B/1"):
        writeOme(path / well / "0", makePlanes(), steps=[scaleBy(*SCALE)])
    assert "A/1/0 (11 x 7 x 6 uint16), A/2/0 (11 x 7 x 6 uint16), B/1/0 (" in refuse(path)
    check(openVolume(f"{path}::B"), makePlanes())


def testManyVolumesAreNotAllListed(tmp_path):
    for number in range(30):
        writeArray(tmp_path / "a.zarr", makePlanes(), f"a{number}")
    line = refuse(tmp_path / "a.zarr")
    assert "a0 (11 x 7 x 6 uint16), a1 (" in line and ", a11 (" in line and "a12" not in line
    assert line.endswith("..., as in {}::a0".format(tmp_path / "a.zarr"))


def testSeveralPyramidsOfOneGroupAreNamedByTheirLevels(tmp_path):
    group = zarr.create_group(store=str(tmp_path / "a.zarr"))
    for name in ("one", "two"):
        group.create_array(name, data=makePlanes())
    step = [scaleBy(*SCALE)]
    scales = [
        {"axes": AXES, "datasets": [{"path": name, "coordinateTransformations": step}]}
        for name in ("one", "two")
    ]
    group.attrs["ome"] = {"version": "0.5", "multiscales": scales}
    assert "name one of one (11 x 7 x 6 uint16), two (" in refuse(tmp_path / "a.zarr")
    np.testing.assert_allclose(openVolume(tmp_path / "a.zarr::two").frame.sides, SCALE[::-1])


# ----------------------------------------------------------------------------------------------------- axes


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("names", ["zyx", "xyz", "yzx", "xzy", "zxy", "tczyx", "czyx", "xyzc"])
def testAxesAreReadInAnyOrder(tmp_path, names, version):
    planes, lengths = makePlanes(), dict(zip("zyx", SHAPE, strict=True))
    letters = [name for name in names if name in "zyx"]
    stored = planes.transpose(["zyx".index(letter) for letter in letters])
    stored = stored.reshape([lengths.get(name, 1) for name in names])
    kinds = {"t": "time", "c": "channel"}
    axes = [{"name": name, "type": kinds.get(name, "space")} for name in names]
    axes = [axis | ({"unit": "micrometer"} if axis["type"] == "space" else {}) for axis in axes]
    scale = dict(zip("zyxtc", (*SCALE, 9, 1), strict=True))
    shift = dict(zip("zyxtc", (*SHIFT, 5, 0), strict=True))
    steps = [scaleBy(*(scale[name] for name in names)), shiftBy(*(shift[name] for name in names))]
    chunks = [{"z": 4, "y": 3, "x": 5}[letter] for letter in names[-3:] if letter in "zyx"]
    chunks = chunks if len(chunks) == 3 else (3, 4, 1)
    writeOme(tmp_path / "a.zarr", stored, version, axes, steps, chunks=chunks)
    volume = openVolume(tmp_path / "a.zarr")
    check(volume, planes)
    np.testing.assert_allclose(volume.frame.directions, np.diag(SCALE[::-1]))
    np.testing.assert_allclose(volume.frame.origin, SHIFT[::-1])
    assert volume.depth == 4 or names == "xyzc"


@pytest.mark.parametrize("axes", [list("tczyx"), None])
def testAxesOfOldVersionsAreNames(tmp_path, axes):
    planes = makePlanes()
    path = writeOme(tmp_path / "a.zarr", planes[np.newaxis, np.newaxis], 2)
    content = json.loads((path / ".zattrs").read_text())
    del content["multiscales"][0]["axes"]
    content["multiscales"][0] |= {"axes": axes, "version": "0.3"} if axes else {"version": "0.2"}
    (path / ".zattrs").write_text(json.dumps(content))
    check(openVolume(path), planes)


@pytest.mark.parametrize(("version", "options"), [(3, {"dimension_names": list("xzy")}), (2, {})])
def testAxesOfPlainArraysAreThoseTheyName(tmp_path, version, options):
    planes = makePlanes()
    stored = planes.transpose(2, 0, 1)
    array = writeArray(tmp_path / "a.zarr", stored, zarr_format=version, **options)
    if version == 2:
        array.attrs["_ARRAY_DIMENSIONS"] = list("xzy")
    check(openVolume(tmp_path / "a.zarr"), planes)


@pytest.mark.parametrize("names", [["depth", "y", "x"], ["plane", "row", "column"]])
def testOtherNamesOfAxesInSpaceAreTakenInTheirOrder(tmp_path, names):
    axes = [{"name": name, "type": "space"} for name in names]
    check(openVolume(writeOme(tmp_path / "a.zarr", makePlanes(), axes=axes)), makePlanes())


@pytest.mark.parametrize(
    ("names", "shape", "words"),
    [
        ("czyx", (2, *SHAPE), "has several channels (expected one, received 2); save one of them as"),
        ("tzyx", (3, *SHAPE), "has several points in time (expected one, received 3); save one of them as"),
        ("zyxc", (*SHAPE, 3), "has several channels (expected one, received 3); save one of them as"),
        ("yx", SHAPE[1:], "is no volume (expected axes z, y and x, received y x)"),
        ("cyx", (1, *SHAPE[1:]), "is no volume (expected axes z, y and x, received c y x)"),
        ("zzyx", (1, *SHAPE), "its multiscales name two axes z (expected axes z, y and x)"),
        (
            "zyx",
            (1, *SHAPE),
            "its multiscales name other axes than the array has (expected 4 axes, received z y x)",
        ),
    ],
)
def testArraysOfOtherAxesAreRefused(tmp_path, names, shape, words):
    kinds = {"t": "time", "c": "channel"}
    axes = [{"name": name, "type": kinds.get(name, "space")} for name in names]
    path = writeOme(
        tmp_path / "a.zarr", makePlanes(shape=shape), axes=axes, chunks=shape[-min(len(shape), 3) :]
    )
    assert refuse(path).startswith(f"{path}/0: {words}")


def testSeveralEntriesOfAPlainArrayAreRefused(tmp_path):
    writeArray(tmp_path / "a.zarr", makePlanes(shape=(2, *SHAPE)), chunks=(1, 4, 3, 5))
    assert ": has several entries along axis 0 (expected one, received 2)" in refuse(tmp_path / "a.zarr")
    writeArray(tmp_path / "b.zarr", makePlanes(shape=(1, *SHAPE)), chunks=(1, 4, 3, 5))
    check(openVolume(tmp_path / "b.zarr"), makePlanes(shape=(1, *SHAPE))[0])


# ----------------------------------------------------------------------------------------- size and place


@pytest.mark.parametrize("version", [2, 3])
def testTransformationsOfTheImageActAfterThoseOfTheLevel(tmp_path, version):
    steps, whole = [scaleBy(2, 3, 4), shiftBy(1, 2, 3)], [scaleBy(10, 20, 30), shiftBy(100, 200, 300)]
    frame = openVolume(writeOme(tmp_path / "a.zarr", makePlanes(), version, AXES, steps, whole)).frame
    np.testing.assert_allclose(frame.directions, np.diag([120, 60, 20]))
    np.testing.assert_allclose(frame.origin, (3 * 30 + 300, 2 * 20 + 200, 10 + 100))
    assert (frame.unit, frame.space, frame.hasOrigin) == ("um", "", True)


def testPlaceCountsOnlyWhereItIsGiven(tmp_path):
    frame = openVolume(writeOme(tmp_path / "a.zarr", makePlanes(), steps=[scaleBy(*SCALE)])).frame
    assert (frame.space, frame.hasOrigin, frame.origin.tolist()) == ("", False, [0, 0, 0])


def testMaskThatRunsTheOtherWayIsTurnedOntoItsImage(tmp_path):
    planes, last = makePlanes(), SHIFT[0] + (SHAPE[0] - 1) * SCALE[0]
    image = writeOme(tmp_path / "a.zarr", planes, steps=[scaleBy(*SCALE), shiftBy(*SHIFT)])
    steps = [scaleBy(-SCALE[0], *SCALE[1:]), shiftBy(last, *SHIFT[1:])]
    mask = writeOme(tmp_path / "b.zarr", planes[::-1], steps=steps)
    turned = putInPlace(openVolume(image), openVolume(mask), "")
    np.testing.assert_array_equal(turned.read(), planes.T)
    assert openVolume(mask).frame.directions[2].tolist() == [0, 0, -SCALE[0]]


UNITS = [
    ("nanometer", 1, "nm"),
    ("micrometer", 1, "um"),
    ("millimeter", 1, "mm"),
    ("centimeter", 1, "cm"),
    ("meter", 1, "m"),
    ("metre", 1, "m"),
    ("angstrom", 0.1, "nm"),
    ("picometer", 1e-3, "nm"),
    ("decimeter", 10, "cm"),
    ("kilometer", 1000, "m"),
    ("inch", 2.54, "cm"),
    ("µm", 1, "um"),
    ("microns", 1, "um"),
    ("parrot", 1, "parrot"),
    (None, 1, ""),
]


@pytest.mark.parametrize(("name", "factor", "unit"), UNITS)
def testUnitsOfOmeZarrBecomeThoseOfTheProject(tmp_path, name, factor, unit):
    axes = [axis | {"unit": name} for axis in AXES]
    steps = [scaleBy(*SCALE), shiftBy(*SHIFT)]
    frame = openVolume(writeOme(tmp_path / "a.zarr", makePlanes(), axes=axes, steps=steps)).frame
    np.testing.assert_allclose(frame.sides, np.multiply(SCALE[::-1], factor), rtol=1e-12)
    np.testing.assert_allclose(frame.origin, np.multiply(SHIFT[::-1], factor), rtol=1e-12)
    assert (frame.unit, frame.why) == (unit, "")


def testUnitsMayDifferBetweenTheAxes(tmp_path):
    units = ("micrometer", "nanometer", "nanometer")
    axes = [axis | {"unit": unit} for axis, unit in zip(AXES, units, strict=True)]
    steps = [scaleBy(1.3, 500, 650)]
    frame = openVolume(writeOme(tmp_path / "a.zarr", makePlanes(), axes=axes, steps=steps)).frame
    np.testing.assert_allclose(frame.sides, (650, 500, 1300), rtol=1e-12)
    assert frame.unit == "nm"
    axes[0]["unit"] = ""
    frame = openVolume(writeOme(tmp_path / "b.zarr", makePlanes(), axes=axes, steps=steps)).frame
    assert frame.why == "the axes have different units: 'nanometer', 'nanometer', ''"


BAD_STEPS = [
    ([], [], "the Zarr metadata give no size of a voxel; --voxelSize does"),
    ([scaleBy(1, 1, 1)], [], "the Zarr metadata give no size of a voxel; --voxelSize does"),
    ([shiftBy(1, 1, 1)], [], "the Zarr metadata give no size of a voxel; --voxelSize does"),
    ([scaleBy(0, 1, 2)], [], "the Zarr metadata give a voxel the size (2.0, 1.0, 0.0)"),
    ([scaleBy(1, 2)], [], "a transformation (scale) that cannot be read"),
    ([scaleBy(1, "2", 3)], [], "a transformation (scale) that cannot be read"),
    ([scaleBy(1, 10**400, 3)], [], "a transformation (scale) that cannot be read"),
    ([scaleBy(1, float("nan"), 3)], [], "a transformation (scale) that cannot be read"),
    ([{"type": "scale", "path": "a"}], [], "a transformation (scale) that cannot be read"),
    ([scaleBy(2, 2, 2)], [{"type": "affine"}], "a transformation (affine) that cannot be read"),
    (["scale"], [], "a transformation (None) that cannot be read"),
]


@pytest.mark.parametrize(("steps", "whole", "why"), BAD_STEPS)
def testLengthsAreInVoxelsWhereTheMetadataDoNotTell(tmp_path, steps, whole, why):
    axes = [{"name": name, "type": "space"} for name in "zyx"]
    volume = openVolume(writeOme(tmp_path / "a.zarr", makePlanes(), 3, axes, steps, whole))
    assert volume.frame.unit == "voxel" and why in volume.frame.why
    check(volume, makePlanes())


# ----------------------------------------------------------------------------------- files, chunks and codecs


@pytest.mark.parametrize("form", FORMS)
def testFilesAreThoseOfTheArrayAndOfTheMetadataAboveIt(tmp_path, form):
    path, options = tmp_path / "a.zarr", FORMS[form]
    zarr.create_group(store=str(path), zarr_format=options["zarr_format"], attributes={"a": 1})
    writeArray(path, makePlanes(), "g/data", **options)
    expected = {file for file in path.rglob("*") if file.is_file()}
    writeArray(
        path, makePlanes(shape=(3, 4, 5)), "g/other", **{"chunks": (3, 4, 5)} | options | {"shards": None}
    )
    for name in (".DS_Store", "99", "c.0.0.99", "0.0", "a.0.0", "01.0.0"):
        (path / "g/data" / name).write_text("no chunk")
    volume = openVolume(f"{path}::g/data")
    names = [file.relative_to(path).as_posix() for file in volume.files]
    assert set(volume.files) == {file for file in expected if file.parts[-2] != "other"}
    chunks = [name for name in names if name.startswith("g/data/") and not name.endswith(("json", "y", "s"))]
    numbers = [[int(part) for part in name.replace(".", "/").split("/") if part.isdigit()] for name in chunks]
    assert numbers == sorted(numbers) and len(numbers) in (3 * 3 * 2, 3 * 2 * 2) and names[-1] == chunks[-1]


def testDigestFollowsFromEveryChunkAndNotFromTheFolderAboveIt(tmp_path):
    (tmp_path / "there").mkdir()
    writeArray(tmp_path / "a.zarr", makePlanes())
    shutil.copytree(tmp_path / "a.zarr", tmp_path / "there" / "a.zarr")
    ((name, digest),) = _digestVolume(openVolume(tmp_path / "a.zarr"))
    ((other, same),) = _digestVolume(openVolume(tmp_path / "there" / "a.zarr"))
    assert (name, digest) == (other, same)
    writeArray(tmp_path / "there" / "a.zarr", np.maximum(makePlanes(), 1), overwrite=True)
    assert digest != dict(_digestVolume(openVolume(tmp_path / "there" / "a.zarr")))["a.zarr"]


@pytest.mark.parametrize("value", [0, 7, None])
@pytest.mark.parametrize("form", ["2", "2, folders", "3", "3, dots"])
def testAbsentChunksAreFilledAndCounted(tmp_path, form, value, caplog):
    if value is None and form.startswith("3"):
        pytest.skip("Zarr 3 always has a fill value")
    planes = makePlanes()
    writeArray(tmp_path / "a.zarr", planes, fill_value=value, **FORMS[form])
    with caplog.at_level(logging.WARNING):
        volume = openVolume(tmp_path / "a.zarr")
        assert not caplog.records
        for file in volume.files[-2:]:
            file.unlink()
        volume = openVolume(tmp_path / "a.zarr")
        words = (
            f"a.zarr: 2 of 18 chunk files are not there; their voxels count as the fill value {value or 0}"
        )
        assert caplog.messages == [f"{tmp_path}/{words}"]
    planes[8:, 6:] = value or 0
    check(volume, planes)


def testAnArrayWithoutAnyChunkIsReadAndDoubted(tmp_path, caplog):
    zarr.create_array(
        store=str(tmp_path / "a.zarr"), shape=SHAPE, chunks=(4, 3, 5), dtype="uint8", fill_value=3
    )
    with caplog.at_level(logging.WARNING):
        check(openVolume(tmp_path / "a.zarr"), np.full(SHAPE, 3, "uint8"))
    assert "18 of 18 chunk files are not there" in caplog.text


@pytest.mark.parametrize(("form", "depth"), [("2", 4), ("3", 4), ("3, shards", 2), ("3, raw shards", 2)])
def testEachChunkIsDecodedOnceInAWalk(tmp_path, monkeypatch, form, depth):
    monkeypatch.setattr("engine.formats.chunked.GROUP_BYTES", 1)
    planes, read = makePlanes(), []
    writeArray(tmp_path / "a.zarr", planes, **FORMS[form])
    volume = openVolume(tmp_path / "a.zarr")
    assert volume.depth == depth

    def readBlock(region):
        read.append(region[2])
        return volume.readBlock(region)

    counted = replace(volume, readBlock=readBlock)
    for count in (1, 3, 16):
        read.clear()
        np.testing.assert_array_equal(np.concatenate([*counted.slabs(None, count)], axis=2), planes.T)
        assert read == [(z, min(z + depth, SHAPE[0])) for z in range(0, SHAPE[0], depth)]


def testShardsThatAreCompressedAsAWholeAreDecodedTogether(tmp_path):
    from zarr.codecs import GzipCodec, ShardingCodec

    whole = {
        "chunks": (4, 6, 5),
        "serializer": ShardingCodec(chunk_shape=(2, 3, 5)),
        "compressors": [GzipCodec()],
    }
    writeArray(tmp_path / "a.zarr", makePlanes(), **whole)
    volume = openVolume(tmp_path / "a.zarr")
    assert volume.depth == 4
    check(volume, makePlanes())


CODECS = [
    (
        "compressor",
        {"id": "zfpy"},
        'its codec zfpy cannot be read; pip install "numcodecs[zfpy]", or save it',
    ),
    (
        "compressor",
        {"id": "imagecodecs_jpegxl"},
        "its codec imagecodecs_jpegxl cannot be read; pip install imagecodecs",
    ),
    (
        "filters",
        [{"id": "parrot"}],
        "its codec parrot cannot be read; pip install -U zarr numcodecs, or save it",
    ),
    ("compressor", {"id": "pickle"}, "its codec pickle runs whatever program its files hold; save it"),
    ("filters", [{"id": "pickle"}], "its codec pickle runs whatever program its files hold; save it"),
]


@pytest.mark.parametrize(("field", "codec", "words"), CODECS)
def testCodecsThatCannotBeReadAreNamed(tmp_path, field, codec, words):
    writeArray(tmp_path / "a.zarr", makePlanes(), zarr_format=2)
    file = tmp_path / "a.zarr" / ".zarray"
    file.write_text(json.dumps(json.loads(file.read_text()) | {field: codec}))
    assert refuse(tmp_path / "a.zarr").startswith(f"{tmp_path}/a.zarr: {words}")


@pytest.mark.parametrize("isSharded", [False, True])
@pytest.mark.parametrize("name", ["parrot", "imagecodecs_jpegxl", "numcodecs.pickle"])
def testCodecsOfVersion3ThatCannotBeReadAreNamed(tmp_path, name, isSharded):
    writeArray(tmp_path / "a.zarr", makePlanes(), **FORMS["3, shards" if isSharded else "3"])
    file = tmp_path / "a.zarr" / "zarr.json"
    content = json.loads(file.read_text())
    codecs = content["codecs"][0]["configuration"]["codecs"] if isSharded else content["codecs"]
    codecs.append({"name": name, "configuration": {}})
    file.write_text(json.dumps(content))
    assert refuse(tmp_path / "a.zarr").startswith(f"{tmp_path}/a.zarr: its codec {name} ")


# ------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda p: None, "there is no such folder"),
        (lambda p: p.write_text("no"), "is no Zarr (expected a folder, received a file)"),
        (
            lambda p: p.mkdir(),
            "is no Zarr: it holds no zarr.json, .zgroup or .zarray (expected an array of three",
        ),
        (lambda p: zarr.create_group(store=str(p)), "holds no volume (expected an array of three axes)"),
        (lambda p: writeArray(p, makePlanes()[0]), "is no volume (expected axes z, y and x, received y x)"),
        (
            lambda p: writeArray(p, makePlanes("complex64")),
            "this type of voxel cannot be read (expected integers",
        ),
    ],
)
def testWhatIsNoVolumeIsToldInOneLine(tmp_path, write, words):
    write(tmp_path / "a.zarr")
    assert refuse(tmp_path / "a.zarr").startswith(f"{tmp_path}/a.zarr: {words}")


def testZippedAndRemoteZarrIsRefusedWithARemedy(tmp_path):
    (tmp_path / "a.zarr.zip").write_bytes(b"PK")
    assert refuse(tmp_path / "a.zarr.zip").endswith("is a zipped Zarr (expected a folder); unzip it first")
    for address in ("s3://bucket/a.zarr", "https://host/a.ome.zarr", "gs://bucket/a.zarr::0"):
        assert "is an address, no file or folder; copy it to this computer" in refuse(address)


def testWithoutThePackageTheLineSaysWhatToInstall(tmp_path, monkeypatch):
    writeArray(tmp_path / "a.zarr", makePlanes())
    for name in [name for name in sys.modules if name == "zarr" or name.startswith("zarr.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "zarr", None)
    assert refuse(tmp_path / "a.zarr").endswith('Zarr needs the package zarr; pip install "zarr>=3,<4"')


def testNothingOutsideOfTheFolderIsRead(tmp_path):
    writeArray(tmp_path / "other", makePlanes(), "g/data")
    path = tmp_path / "a.zarr"
    for name in ("../other/g/data", "g/../../other/g/data"):
        writeArray(path, makePlanes(), "g/data", overwrite=True)
        assert "names something outside of the folder" in refuse(f"{path}::{name}")
    scales = {"axes": AXES, "datasets": [{"path": "../other/g/data"}]}
    zarr.create_group(store=str(tmp_path / "b.zarr"), attributes={"ome": {"multiscales": [scales]}})
    assert "names something outside of the folder" in refuse(tmp_path / "b.zarr")


@pytest.mark.parametrize(
    "name", ["g/data/c/1/0/1", "g/data/c/1", "g/data/c", "g/data/zarr.json", "g/data", "g"]
)
def testLinksMustStayInTheFolder(tmp_path, name):
    path = tmp_path / "a.zarr"
    zarr.create_group(store=str(path))
    writeArray(path, makePlanes(), "g/data")
    moved = path / "moved"
    os.rename(path / name, moved)
    (path / name).symlink_to(moved)
    check(openVolume(f"{path}::g/data"), makePlanes())
    os.rename(moved, tmp_path / "moved")
    (path / name).unlink()
    (path / name).symlink_to(tmp_path / "moved")
    line = refuse(f"{path}::g/data")
    assert line.startswith(f"{path / name}")
    assert f": is a link that leads out of the folder (received {tmp_path}/moved" in line


@pytest.mark.parametrize("form", FORMS)
def testCutChunksEndInOneLine(tmp_path, monkeypatch, form):
    monkeypatch.setattr("engine.formats.chunked.GROUP_BYTES", 1)
    planes, path = makePlanes(), tmp_path / "a.zarr"
    writeArray(path, planes, **FORMS[form])
    chunk = openVolume(path).files[-1]
    content = chunk.read_bytes()
    for length in {*range(0, len(content), 7), len(content) - 1}:
        chunk.write_bytes(content[:length])
        with pytest.raises(PipelineError) as caught:
            openVolume(path).read()
        line = str(caught.value)
        last = 9 if "shards" in form else 10
        assert line.startswith(f"{path}: the data are truncated or damaged somewhere in planes 8 to {last}: ")
        assert "\n" not in line
    chunk.write_bytes(content)
    check(openVolume(path), planes)


@pytest.mark.parametrize("version", [2, 3])
def testCutMetadataNeverEndInATraceback(tmp_path, version):
    path = writeOme(tmp_path / "a.zarr", makePlanes(), version, steps=[scaleBy(*SCALE)])
    failed = 0
    for name in ("zarr.json", "0/zarr.json") if version == 3 else (".zattrs", "0/.zarray"):
        content = (path / name).read_bytes()
        for length in range(0, len(content), 37):
            (path / name).write_bytes(content[:length])
            with pytest.raises(PipelineError):
                openVolume(path)
            failed += 1
        (path / name).write_bytes(content)
    assert failed > 10


VALUES = [None, 0, -1, 1.5, "a", [], {}, [0, 0, 0], [1, 1], ["a", "b", "c"], [{}], 10**30, True]


@pytest.mark.parametrize("version", [2, 3])
def testOddMetadataNeverEndInATraceback(tmp_path, version):
    path = writeOme(tmp_path / "a.zarr", makePlanes(), version, steps=[scaleBy(*SCALE)])
    for name in ("zarr.json", "0/zarr.json") if version == 3 else (".zattrs", "0/.zarray"):
        content = json.loads((path / name).read_text())
        for place in listPlaces(content):
            for value in VALUES:
                (path / name).write_text(json.dumps(replaced(content, place, value)))
                try:
                    openVolume(path).read()
                except PipelineError as error:
                    assert "\n" not in str(error)
        (path / name).write_text(json.dumps(content))


def listPlaces(content, place=()):
    """List where values stand in nested metadata."""
    items = content.items() if isinstance(content, dict) else enumerate(content)
    for key, value in items:
        yield (*place, key)
        if isinstance(value, dict | list):
            yield from listPlaces(value, (*place, key))


def replaced(content, place, value):
    """Give metadata with another value at a place."""
    copy = json.loads(json.dumps(content))
    holder = copy
    for key in place[:-1]:
        holder = holder[key]
    holder[place[-1]] = value
    return copy
