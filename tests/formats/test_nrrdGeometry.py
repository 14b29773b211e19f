"""Where the voxels of NRRD files lie, of a whole volume and of a crop."""

import nrrd
import numpy as np
import pytest
import SimpleITK as sitk
from sampleVolumes import (
    DATA,
    OBLIQUE,
    SHAPE,
    headerLines,
    sampleArray,
    writeText,
    writeVolume,
)

from engine.formats.nrrdFiles import openVolume
from engine.formats.nrrdGeometry import cropHeader, readFrame, readVoxelSize
from engine.measures.particles import directionWeights


@pytest.mark.parametrize("directions", [np.diag([0.5, 1, 2]), np.diag([-0.5, 1, -2]), OBLIQUE])
@pytest.mark.parametrize("dtype", ["u1", ">i2", "f4"])
def testCropMatchesSimpleItk(tmp_path, directions, dtype):
    array = sampleArray(dtype)
    header = {
        "space": "left-posterior-superior",
        "space directions": directions,
        "space origin": np.array([10.0, -20, 5]),
    }
    header |= {"kinds": ["domain"] * 3, "patient": "none", "encoding": "raw"}
    nrrd.write(str(tmp_path / "whole.nrrd"), array, header)
    region = ((1, 4), (2, 4), (1, 2))
    volume = openVolume(tmp_path / "whole.nrrd")
    writeVolume(tmp_path / "part.nrrd", volume.read(region), cropHeader(volume.header, region, dtype))
    whole, part = (sitk.ReadImage(str(tmp_path / name)) for name in ("whole.nrrd", "part.nrrd"))
    reference = sitk.RegionOfInterest(whole, [3, 2, 1], [1, 2, 1])
    np.testing.assert_array_equal(sitk.GetArrayFromImage(part), sitk.GetArrayFromImage(reference))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(part).T, array[1:4, 2:4, 1:2])
    np.testing.assert_allclose(part.GetOrigin(), reference.GetOrigin(), atol=1e-12)
    np.testing.assert_allclose(part.GetSpacing(), reference.GetSpacing(), atol=1e-12)
    np.testing.assert_allclose(part.GetDirection(), reference.GetDirection(), atol=1e-12)
    assert part.GetMetaData("patient") == "none"
    assert part.GetMetaData("pipeline_region") == "1:4 2:4 1:2"


CROP = ((1, 4), (0, 4), (2, 3))


def cropped(region=CROP, **fields):
    """Header of a crop of a volume with some fields."""
    header = {"type": "uint8", "dimension": 3, "sizes": np.array(SHAPE), "encoding": "raw"}
    header |= {name.replace("_", " "): value for name, value in fields.items()}
    before = str(header)
    result = cropHeader(header, region, np.float32)
    assert str(header) == before  # the input is not changed
    return result


def testCropWithoutSpaceMovesAxisLimits():
    spaced = cropped(spacings=np.array([2.0, 3, 4]))
    assert spaced["axis mins"].tolist() == [2, 0, 8] and spaced["spacings"].tolist() == [2, 3, 4]
    assert "axis mins" not in cropped(((0, 3), (0, 4), (0, 1)), spacings=np.array([2.0, 3, 4]))
    cells = cropped(axis_mins=np.array([10.0, 0, 0]), axis_maxs=np.array([20.0, 4, 6]))
    assert cells["axis mins"].tolist() == [12, 0, 4] and cells["axis maxs"].tolist() == [18, 4, 6]
    nodes = cropped(
        axis_mins=np.array([10.0, 0, 0]), axis_maxs=np.array([14.0, 3, 2]), centerings=["node"] * 3
    )
    assert nodes["axis mins"].tolist() == [11, 0, 2] and nodes["axis maxs"].tolist() == [13, 3, 2]
    partly = cropped(spacings=np.array([np.nan, 3, 4]), axis_mins=np.array([np.nan, 0, 1]))
    np.testing.assert_array_equal(partly["axis mins"], [np.nan, 0, 9])


def testCropOfAVolumeWithoutPlaceInventsNone():
    result = cropped()
    assert set(result) == {"type", "dimension", "sizes", "encoding", "endian", "pipeline_region"}
    assert (
        result["sizes"].tolist() == [3, 4, 1] and result["type"] == "float" and result["endian"] == "little"
    )
    assert "pipeline_region" not in cropped(None) and "endian" not in cropHeader(result, None, np.uint8)


def testCropAddsAnOriginOnlyWhenItMoves():
    assert cropped(space_directions=OBLIQUE)["space origin"].tolist() == pytest.approx([0.8, 0.6, -1.0])
    assert "space origin" not in cropped(((0, 4), (0, 4), (0, 3)), space_directions=OBLIQUE)


@pytest.mark.parametrize("origin", ["none", "(nan,nan,nan)", "( NaN, nan , nan)"])
def testUnknownOriginIsNone(tmp_path, origin):
    lines = headerLines(space="RAS", space_directions="(1,0,0) (0,2,0) (0,0,3)", space_origin=origin)
    volume = openVolume(writeText(tmp_path / "a.nrrd", lines, DATA))
    assert cropHeader(volume.header, CROP, "u1")["space origin"].tolist() == [1, 0, 6]
    writeVolume(tmp_path / "b.nrrd", volume.read(), {**volume.header, "space origin": np.full(3, np.nan)})
    assert b"space origin" not in (tmp_path / "b.nrrd").read_bytes()
    assert nrrd.read_header(str(tmp_path / "b.nrrd"))["space"] == "RAS"


def testCropOfAxesOutsideSpace():
    directions = np.array([[2.0, 0], [0, 3.0], [np.nan, np.nan]])
    result = cropped(
        space_directions=directions, space_origin=np.array([1.0, 1]), spacings=np.array([np.nan, np.nan, 5])
    )
    assert result["space origin"].tolist() == [3, 1]
    np.testing.assert_array_equal(result["axis mins"], [np.nan, np.nan, 10])
    rows = [
        np.array([2.0, 0]),
        np.array([0, 3.0]),
        None,
    ]  # pynrrd with SPACE_DIRECTIONS_TYPE 'double vector list'
    assert cropped(space_directions=rows, space_origin=np.array([1.0, 1]))["space origin"].tolist() == [3, 1]
    nowhere = cropped(space_directions=np.empty((3, 0)), spacings=np.array([2.0, 3, 4]))
    assert nowhere["axis mins"].tolist() == [2, 0, 8]


def testCropKeepsWhatStaysTrueAndDropsTheRest():
    kept = {
        "units": ["mm"] * 3,
        "space_units": ["mm"] * 3,
        "kinds": ["space"] * 3,
        "labels": ["a", "b c", 'd"\\'],
    }
    kept |= {
        "centerings": ["cell"] * 3,
        "thicknesses": np.ones(3),
        "measurement_frame": np.eye(3),
        "owner": "me",
    }
    dropped = {"old_min": 0.0, "old_max": 1.0, "min": 0.0, "max": 9.0, "content": "x", "sample_units": "HU"}
    dropped |= {"data_file": "a.raw", "byte_skip": 3, "line_skip": 1, "block_size": 1, "number": "9"}
    result = cropped(space="RAS", space_directions=np.eye(3), **kept, **dropped)
    assert not {name.replace("_", " ") for name in dropped} & result.keys()
    for name, value in kept.items():
        assert np.array_equal(result[name.replace("_", " ")], value)


def testWrittenHeaderIsReadBackEqual(tmp_path):
    header = cropped(
        space="RAS",
        space_dimension=3,
        space_directions=OBLIQUE,
        labels=["a", "b c", 'd"\\'],
        units=["mm", "µm", ""],
        note="two\nlines",
        thicknesses=np.array([np.nan, 0.1, 1 / 3]),
    )
    array = sampleArray("f4", (3, 4, 1))
    writeVolume(tmp_path / "a.nrrd", array, header)
    again = openVolume(tmp_path / "a.nrrd").header
    assert again.pop("note") == "two\\nlines" and header.pop("note") and "space dimension" not in again
    assert again.keys() == header.keys()
    for name, value in header.items():
        assert np.array_equal(again[name], value, equal_nan=name == "thicknesses"), name
    assert nrrd.read_header(str(tmp_path / "a.nrrd"))["labels"] == ["a", "b c", 'd"\\']


def testVoxelSize():
    lengths, units = readVoxelSize({"space directions": OBLIQUE, "space units": ["mm"] * 3})
    assert lengths == pytest.approx((1, 2, 0.5)) and units == ("mm", "mm", "mm")
    assert readVoxelSize({"spacings": np.array([1.0, 2, 3])}) == ((1.0, 2.0, 3.0), ("", "", ""))
    assert readVoxelSize(
        {"space directions": np.empty((3, 0)), "spacings": [1, 2, 3], "units": ["a", "b", "c"]}
    )[1] == ("a", "b", "c")
    assert readVoxelSize({}) is None
    assert readVoxelSize({"spacings": np.array([1, 2, np.nan])}) is None


# -------------------------------------------------- frames

SKEWED = np.array([[1.0, 0.2, 0.0], [-0.3, 0.8, 0.1], [0.0, 0.3, -1.5]])


def testFrameTakesDirectionsOriginAndUnit():
    header = {"space directions": SKEWED, "space origin": np.array([1.0, 2, 3]), "space units": ["um"] * 3}
    frame = readFrame(header | {"sizes": np.array([4, 5, 6])})
    np.testing.assert_array_equal(frame.directions, SKEWED)
    np.testing.assert_array_equal(frame.origin, (1, 2, 3))
    assert frame.unit == "um" and frame.why == ""
    assert frame.voxelVolume == pytest.approx(abs(np.linalg.det(SKEWED)))
    assert frame._replace(directions=np.diag([50.0, -50.0, 50.0])).voxelVolume == 125000  # exactly


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ({}, "no size"),
        ({"spacings": (1.0, np.nan, 1.0)}, "no size"),
        ({"spacings": (1.0, 0.0, 1.0)}, "(1.0, 0.0, 1.0)"),
        ({"spacings": (1.0, 1.0, 1.0), "units": ["mm", "mm", "um"]}, "different units"),
        ({"space directions": np.array([[1.0, 0, 0], [0, 1, 0], [1, 1, 0]])}, "plane"),
        ({"space directions": np.array([[1.0, 0, 0], [0, 1, 0], [0, 0, 0]])}, "0.0"),
        ({"space directions": np.array([[1.0, 0, 0], [1, 1e-7, 0], [0, 0, 1]])}, "plane"),
        ({"spacings": (1.0, 1.0, 1e-7)}, "1e-07"),
        ({"spacings": (1.0, 2e6, 1.0)}, "2000000.0"),
        ({"spacings": (1e-120, 1e-120, 1e-120)}, "1e-120"),
    ],
)
def testWithoutAUsableSizeLengthsAreInVoxels(header, words):
    frame = readFrame(header)
    assert frame.unit == "voxel" and words in frame.why
    np.testing.assert_array_equal(frame.directions, np.eye(3))


def testVeryUnequalSidesHaveDirectionsInSpace():
    for header in (
        {"spacings": (1.0, 1.0, 2e-5)},
        {"space directions": np.array([[1.0, 0, 0], [1, 2e-5, 0], [0, 0, 1]])},
    ):
        frame = readFrame(header | {"units": ["um"] * 3})
        assert frame.why == "" and (directionWeights(frame.directions) > 0).all()


def testSpacingsWithoutDirectionsAreTaken():
    frame = readFrame({"spacings": (1.0, 2.0, -3.0), "units": ["mm"] * 3})
    assert frame.unit == "voxel" and "-3" in frame.why  # NRRD has no negative spacing
    frame = readFrame({"spacings": (1.0, 2.0, 3.0), "units": ["mm"] * 3})
    assert (np.diag(frame.directions).tolist(), frame.unit) == ([1, 2, 3], "mm")


def testOriginOfAxesWithoutDirectionIsTheirMinimum():
    header = {"spacings": (1.0, 2.0, 4.0), "axis mins": (3.0, np.nan, -8.0)}
    np.testing.assert_array_equal(readFrame(header).origin, (3, 0, -8))
    header["centerings"] = ["cell", "node", "cell"]
    np.testing.assert_array_equal(readFrame(header).origin, (3.5, 0, -6))


@pytest.mark.parametrize(
    ("header", "unit", "words"),
    [
        ({"space directions": np.eye(3)}, "", "The header names no unit"),
        ({"spacings": (0.5, 0.5, 0.5)}, "", "The header names no unit"),
        ({"spacings": (0.5, 0.5, 0.5), "units": ["nm"] * 3}, "nm", ""),
        ({}, "voxel", "Lengths are in voxels: the header gives no size of a voxel"),
    ],
)
def testReadersAreToldWhatTheHeaderLeavesOpen(header, unit, words):
    frame = readFrame(header)
    assert frame.unit == unit and frame.note.startswith(words) and bool(frame.note) == bool(words)
