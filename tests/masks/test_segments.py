"""Segments of 3D Slicer, against slicerio's own reading of the same files."""

import pickle

import nrrd
import numpy as np
import pytest
import slicerio
from sampleVolumes import writeVolume
from segmentations import drawSegments, writeSegmentation

from engine.base.errors import PipelineError
from engine.formats.opening import openMask, openVolume
from engine.masks.segments import (
    LayeredVolume,
    decodeLayers,
    ignoredLabels,
    namedLabels,
    readSegments,
    resolveLabels,
)
from engine.masks.targets import parseLabels, selectPositive

SHAPE = (14, 11, 9)
DRAWN = drawSegments(SHAPE)
APART = {name: DRAWN[name] for name in ("Precipitate", "pore")}
SAMPLES = ("Segmentation", "SegmentationOverlapping")


@pytest.fixture
def apart(tmp_path):
    """Write two segments that do not overlap."""
    writeSegmentation(tmp_path / "a.seg.nrrd", APART)
    return tmp_path / "a.seg.nrrd"


@pytest.fixture
def overlapping(tmp_path):
    """Write segments that overlap."""
    writeSegmentation(tmp_path / "a.seg.nrrd", DRAWN)
    return tmp_path / "a.seg.nrrd"


def select(path, text, ignoreLabel=()):
    """Give where a mask is positive, and where it is ignored, of the whole and of slabs."""
    labels = parseLabels(text)
    mask = decodeLayers(openMask(path), labels, ignoreLabel)
    positive, ignored = resolveLabels(labels, mask), ignoredLabels(mask, ignoreLabel)
    whole = mask.read()
    np.testing.assert_array_equal(np.concatenate([*mask.slabs(planeCount=2)], axis=2), whole)
    return selectPositive(whole, positive), selectPositive(whole, ignored)


def refusal(path, text):
    """Give the line that labels get."""
    with pytest.raises(PipelineError) as caught:
        select(path, text)
    line = str(caught.value)
    assert line.startswith(f"{path}: ") and "\n" not in line
    return line


def change(path, **fields):
    """Write a segmentation again with other fields of its header; None drops one."""
    voxels, header = nrrd.read(str(path))
    header = {name: value for name, value in (header | fields).items() if value is not None}
    nrrd.write(str(path), voxels, header)
    return path


# ----------------------------------------------------------------------------------------- tables of segments


@pytest.mark.parametrize("name", SAMPLES)
def testTableIsThatOfSlicerio(name):
    path = slicerio.get_testdata_file(f"{name}.seg.nrrd")
    expected = slicerio.read_segmentation(path)
    keys = "name", "labelValue", "layer"
    rows = [tuple(segment[key] for key in keys) for segment in expected["segments"]]
    assert [tuple(segment[:3]) for segment in readSegments(openMask(path))] == rows and len(rows) > 5


@pytest.mark.parametrize("name", SAMPLES)
def testEverySegmentOfSlicersOwnFilesIsFoundByItsName(name):
    path = slicerio.get_testdata_file(f"{name}.seg.nrrd")
    known = slicerio.read_segmentation(path)
    for segment in known["segments"]:
        expected = slicerio.segment_mask(known, segment)
        positive, ignored = select(path, f" {segment['name'].upper()} ")
        np.testing.assert_array_equal(positive, expected)
        assert not ignored.any()
    whole = np.any([slicerio.segment_mask(known, segment) for segment in known["segments"]], axis=0)
    np.testing.assert_array_equal(select(path, "!0")[0], whole)


def testPlainMasksHaveNoSegmentsAndKeepTheirLabels(tmp_path):
    writeVolume(tmp_path / "a.nrrd", np.zeros(SHAPE, np.uint8), {})
    mask = openMask(tmp_path / "a.nrrd")
    assert readSegments(mask) == [] and decodeLayers(mask, [0]) is mask and namedLabels(mask) == ()
    for labels in ([0], "!0", "1-3"):
        assert resolveLabels(labels, mask) is labels and ignoredLabels(mask, labels) is labels
    assert ignoredLabels(mask) == ()


# ---------------------------------------------------------------------------------------------- what is meant


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("precipitate", ["Precipitate"]),
        ("PORE", ["pore"]),
        ("precipitate, Pore", ["Precipitate", "pore"]),
        ("pore,1", ["Precipitate", "pore"]),
        ("2", ["pore"]),
        ("1-9", ["Precipitate", "pore"]),
        ("!0", ["Precipitate", "pore"]),
        ("!pore", ["Precipitate"]),
        ("!1", ["pore"]),
    ],
)
def testSegmentsAreChosenByNamesAndNumbers(apart, text, names):
    positive, _ = select(apart, text)
    np.testing.assert_array_equal(positive, np.any([APART[name] for name in names], axis=0))
    assert namedLabels(openMask(apart)) == "1-2"


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("precipitate", ["Precipitate"]),
        ("halo", ["halo"]),
        ("halo,pore", ["halo", "pore"]),
        ("!0", ["Precipitate", "pore", "halo"]),
        ("!precipitate,pore", ["halo"]),
    ],
)
def testOverlappingSegmentsAreChosenOneByOne(overlapping, text, names):
    assert nrrd.read_header(str(overlapping))["dimension"] == 4
    positive, ignored = select(overlapping, text)
    np.testing.assert_array_equal(ignored, DRAWN["IGNORE"])
    expected = np.any([DRAWN[name] for name in names], axis=0)
    np.testing.assert_array_equal(positive, expected & ~DRAWN["IGNORE"])
    assert (DRAWN["halo"] & DRAWN["pore"]).any() and (expected & DRAWN["IGNORE"]).any()


@pytest.mark.parametrize("encoding", ["raw", "gzip", "bzip2"])
@pytest.mark.parametrize("dtype", ["uint8", "int16", ">u2", "float32"])
def testLayersAreReadInPartsFromAnyEncodingAndType(tmp_path, encoding, dtype):
    layers = np.random.default_rng(1).integers(0, 4, (3, *SHAPE))
    fields = {"kinds": ["list", *["domain"] * 3], "encoding": encoding, "space": "left-posterior-superior"}
    fields["space directions"] = np.vstack([np.full((1, 3), np.nan), np.diag([1.0, 2.0, 3.0])])
    for number, (value, layer) in enumerate([(1, 0), (3, 0), (2, 1), (1, 2), (3, 2)]):
        row = {"Name": f"s{value}in{layer}", "LabelValue": value, "Layer": layer}
        fields |= {f"Segment{number}_{key}": str(entry) for key, entry in row.items()}
    if dtype == ">u2":
        fields["endian"] = "big"
    nrrd.write(str(tmp_path / "a.seg.nrrd"), layers.astype(dtype), fields)
    mask = decodeLayers(openMask(tmp_path / "a.seg.nrrd"), "s3in0,s2in1", "s1in2")
    assert isinstance(mask, LayeredVolume) and (mask.shape, mask.dtype) == (SHAPE, np.uint8)
    expected = ((layers[0] == 3) | (layers[1] == 2)).astype(np.uint8)
    expected[layers[2] == 1] = 2
    region = (2, 9), (0, 11), (3, 8)
    part = expected[2:9, :, 3:8]
    for volume in (mask, pickle.loads(pickle.dumps(mask))):
        np.testing.assert_array_equal(volume.read(), expected)
        np.testing.assert_array_equal(volume.read(region), part)
        for count in (1, 2, 99):
            blocks = list(volume.slabs(region, count))
            assert all(block.flags.f_contiguous and block.flags.owndata for block in blocks)
            np.testing.assert_array_equal(np.concatenate(blocks, axis=2), part)
    np.testing.assert_allclose(mask.frame.sides, [1, 2, 3])
    with pytest.raises(PipelineError, match="leaves the volume"):
        mask.slabs(((0, 99), (0, 1), (0, 1)))


def testOldFilesHaveALayerForEverySegment(tmp_path):
    layers = np.random.default_rng(2).integers(0, 2, (2, *SHAPE)).astype(np.uint8)
    fields = {"kinds": ["list", *["domain"] * 3], "Segment0_Name": "wall", "Segment1_Name": "pore"}
    nrrd.write(str(tmp_path / "a.seg.nrrd"), layers, fields)
    np.testing.assert_array_equal(select(tmp_path / "a.seg.nrrd", "pore")[0], layers[1] == 1)


def testIgnoredVoxelsAreThoseOfTheSegmentOfThatNameAndOfTheLabelThatIsGiven(tmp_path, overlapping):
    mask = decodeLayers(openMask(overlapping), "pore", "halo")
    np.testing.assert_array_equal(mask.read() == 2, DRAWN["halo"] | DRAWN["IGNORE"])
    assert list(ignoredLabels(mask, "halo")) == [2]
    writeSegmentation(tmp_path / "b.seg.nrrd", {**APART, "Ignore": ~(APART["pore"] | APART["Precipitate"])})
    for ignoreLabel, expected in (((), {3}), ("pore", {2, 3}), ([2], {2, 3}), ([255], {3}), ("2-9", {2, 3})):
        found = ignoredLabels(openMask(tmp_path / "b.seg.nrrd"), ignoreLabel)
        selected = selectPositive(np.arange(256), found)
        assert set(np.flatnonzero(selected)) == expected
    np.testing.assert_array_equal(select(tmp_path / "b.seg.nrrd", "!1")[0], APART["pore"])


def testAnEmptySegmentMayShareTheLabelOfAnotherOne(apart):
    fields = {"Segment2_Name": "scratch", "Segment2_LabelValue": "2", "Segment2_Layer": "0"}
    path = change(apart, **fields, Segment2_Extent="0 -1 0 -1 0 -1")
    np.testing.assert_array_equal(select(path, "2")[0], APART["pore"])
    assert not select(path, "scratch")[0].any()
    change(path, Segment2_Extent="0 3 0 3 0 3")
    assert "the segments 'pore' and 'scratch' have one label, 2 (expected a label each)" in refusal(
        path, "pore"
    )


def testManySegmentsAreSelectedAsARange(tmp_path):
    values = np.arange(np.prod(SHAPE)).reshape(SHAPE) % 301
    fields = {f"Segment{n}_Name": f"grain {n}" for n in range(300)}
    fields |= {f"Segment{n}_LabelValue": str(n + 1) for n in range(300)}
    nrrd.write(str(tmp_path / "a.seg.nrrd"), values.astype(np.uint16), fields)
    assert resolveLabels("!0", openMask(tmp_path / "a.seg.nrrd")) == "1-300"
    np.testing.assert_array_equal(
        select(tmp_path / "a.seg.nrrd", "!grain 7")[0], (values != 0) & (values != 8)
    )
    assert "grain 0 = 1" in (line := refusal(tmp_path / "a.seg.nrrd", "x")) and "280 more" in line


# -------------------------------------------------------------------------------------------------- bad input


def testANameThatIsInNoSegmentIsRefusedWithThoseThatThereAre(apart, overlapping):
    line = refusal(apart, "pores")
    assert "no segment has this name (expected Precipitate = 1, pore = " in line and "'pores'" in line


@pytest.mark.parametrize("text", ["0", "7", "3-9", "!1-2"])
def testNumbersThatNoSegmentHasAreRefusedWithTheSegments(apart, text):
    line = refusal(apart, text)
    assert "positiveLabel is that of no segment (expected Precipitate = 1, pore = 2, received" in line
    assert f"received {text})" in line and line.endswith("--positiveLabel Precipitate")


def testTwoSegmentsOfOneNameAreRefusedWhereTheNameIsMeant(apart):
    path = change(apart, Segment0_Name="Pore")
    assert "2 segments are called 'pore' (expected one); rename" in refusal(path, "pore")
    np.testing.assert_array_equal(select(path, "1")[0], APART["Precipitate"])


def testANumberThatSeveralLayersHaveIsRefused(overlapping):
    segments = readSegments(openMask(overlapping))
    (number,) = (
        {part.value for part in segments if part.layer == 1}
        & {part.value for part in segments if part.layer == 0}
        & {1}
    )
    line = refusal(overlapping, str(number))
    assert f"segments that overlap have the label {number}" in line and line.endswith("give their names")


@pytest.mark.parametrize("text", ["ignore", "halo,IGNORE"])
def testTheIgnoredSegmentIsNotPositive(overlapping, text):
    assert "the segment 'IGNORE' is ignored, it cannot be positive" in refusal(overlapping, text)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"Segment1_Layer": "1"}, "'pore' lies in layer 1 (expected 0, the only one); save the segmentation"),
        ({"Segment1_Layer": "-1"}, "'pore' lies in layer -1"),
        ({"Segment1_Layer": "top"}, "the layer of segment 'pore' is no whole number (received 'top')"),
        ({"Segment1_LabelValue": "2.5"}, "the label value of segment 'pore' is no whole number"),
        ({"Segment1_LabelValue": "1"}, "the segments 'Precipitate' and 'pore' have one label, 1"),
        ({"Segmentation_MasterRepresentation": "Fractional labelmap"}, "is a fractional labelmap"),
    ],
)
def testATableThatDoesNotFitIsRefused(apart, fields, words):
    assert words in refusal(change(apart, **fields), "precipitate")


def testALayerThatTheFileDoesNotHaveIsRefused(overlapping):
    path = change(overlapping, Segment2_Layer="9")
    assert "the table of segments does not fit: 'halo' lies in layer 9 (expected 0 to" in refusal(
        path, "pore"
    )


def testLayersWithoutATableAndLayersAsAnImageAreRefused(overlapping):
    with pytest.raises(PipelineError, match="is a 4D data set"):
        openVolume(overlapping)
    voxels, header = nrrd.read(str(overlapping))
    nrrd.write(str(overlapping), voxels, {"kinds": header["kinds"]})
    with pytest.raises(PipelineError, match="is a 4D data set"):
        openMask(overlapping)


def testTruncatedLayersAreRefused(overlapping):
    content = overlapping.read_bytes()
    overlapping.write_bytes(content[: len(content) - 40])
    mask = decodeLayers(openMask(overlapping), "pore")
    with pytest.raises(PipelineError, match="truncated or damaged"):
        mask.read()


def testNamesAreRefusedForAMaskWithoutSegments(tmp_path):
    writeVolume(tmp_path / "a.nrrd", np.zeros(SHAPE, np.uint8), {})
    line = refusal(tmp_path / "a.nrrd", "pore")
    assert "positiveLabel cannot be read (expected whole numbers or ranges" in line
    assert "received 'pore'); this mask has no named segments" in line and line.endswith("as .seg.nrrd")
