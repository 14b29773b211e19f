"""Names of files that belong to a volume: the line tells which one is to be named instead."""

import gzip
import zlib

import numpy as np
import pytest
import tifffile
from sampleVolumes import checkVolume, refuse, sampleArray

from engine.base.errors import PipelineError
from engine.formats.opening import openVolume
from engine.preparation.pairs import listVolumes

SHAPE = (7, 5, 4)  # (x, y, z)
ARRAY = sampleArray("<u2", SHAPE)
META = """ObjectType = Image
NDims = 3
DimSize = 7 5 4
ElementType = MET_USHORT
ElementSpacing = 0.65 0.5 1.3
{packed}ElementDataFile = {name}
"""
NRRD = """NRRD0004
type: uint16
dimension: 3
sizes: 7 5 4
endian: little
encoding: {encoding}
data file: {name}
"""


def writeMeta(path, name, packed=""):
    path.write_text(META.format(name=name, packed=packed))


def said(path):
    """Give the line for a file without its name."""
    return refuse(path).removeprefix(f"{path}: ")


VOXELS = "holds the voxels of another file, which tells their sides and type"
RAW = "a raw file does not tell its sides and type"
TEXT = "describes a volume and holds no voxels"
KNOWN = "is no volume of a known format (.nrrd, .tif, .h5, .zarr, .mhd, .nii, .vol, .raw, "
KNOWN += "or a folder of slices)"


@pytest.mark.parametrize("header", ["scan.mhd", "other.MHD"])
def testCompressedVoxelsOfAMetaImageNameTheirHeader(tmp_path, header):
    path = tmp_path / "scan.zraw"
    path.write_bytes(zlib.compress(ARRAY.tobytes("F")))
    assert said(path) == f"{VOXELS}; name its header, an .mhd file"
    writeMeta(tmp_path / "another.mhd", "gone.zraw", "CompressedData = True\n")
    writeMeta(tmp_path / header, "scan.zraw", "CompressedData = True\n")
    checkVolume(openVolume(tmp_path / header), ARRAY)
    assert said(path) == f"{VOXELS}; name {header}"


def testCompressedVoxelsOfAnNrrdNameTheirHeader(tmp_path):
    path = tmp_path / "scan.raw.gz"
    path.write_bytes(gzip.compress(ARRAY.tobytes("F")))
    assert said(path) == KNOWN
    (tmp_path / "scan.nhdr").write_text(NRRD.format(encoding="gzip", name=path.name))
    assert said(path) == f"{VOXELS}; name scan.nhdr"


@pytest.mark.parametrize("ending", ["raw", "dat", "bin"])
@pytest.mark.parametrize("header", ["scan.mhd", "other.mhd", "scan.nhdr", "other.nhdr"])
def testRawVoxelsNameTheHeaderThatPointsToThem(tmp_path, ending, header):
    path = tmp_path / f"scan.{ending}"
    path.write_bytes(ARRAY.tobytes("F"))
    assert said(path).startswith(f"{RAW}: write them behind its name (expected 'scan.{ending}::512x512x300")
    if header.endswith("mhd"):
        writeMeta(tmp_path / header, path.name)
    else:
        (tmp_path / header).write_text(NRRD.format(encoding="raw", name=path.name))
    assert said(path) == f"{RAW}; give {header}, which describes it"
    checkVolume(openVolume(f"{path}::7x5x4 uint16"), ARRAY)


def testTheHeaderThatPointsToRawVoxelsBeatsOneThatIsNamedLikeThem(tmp_path):
    path = tmp_path / "scan.raw"
    path.write_bytes(ARRAY.tobytes("F"))
    (tmp_path / "else.raw").write_bytes(ARRAY.tobytes("F"))
    writeMeta(tmp_path / "scan.mhd", "else.raw")
    assert said(path) == f"{RAW}; give scan.mhd, which describes it"  # the only one
    writeMeta(tmp_path / "z.mhd", "scan.raw")
    assert said(path) == f"{RAW}; give z.mhd, which describes it"


def testAHeaderOfNiftiOrEnviIsNoneOfARawFile(tmp_path):
    (tmp_path / "scan.raw").write_bytes(ARRAY.tobytes("F"))
    (tmp_path / "scan.hdr").write_text("ENVI\nsamples = 7\n")
    assert "write them behind its name" in said(tmp_path / "scan.raw")


def testAnImgThatAMetaImageDescribesNamesIt(tmp_path):
    path = tmp_path / "scan.img"
    path.write_bytes(ARRAY.tobytes("F"))
    assert said(path) == "the header scan.hdr is missing beside it; save it as .nii or .nii.gz"
    writeMeta(tmp_path / "other.mhd", "scan.img")
    assert said(path) == "the header scan.hdr is missing beside it; give other.mhd, which describes it"


@pytest.mark.parametrize(
    ("name", "volume"),
    [
        ("scan.vol.info", "scan.vol"),
        ("scan.info", "scan.vol"),
        ("scan.vol.xml", "scan.vol"),
        ("scan.raw.info", "scan.raw"),
    ],
)
def testDescriptionsOfVolNameTheVolume(tmp_path, name, volume):
    (tmp_path / name).write_text("NUM_X = 7\nNUM_Y = 5\nNUM_Z = 4\n")
    assert said(tmp_path / name) == KNOWN
    (tmp_path / volume).write_bytes(ARRAY.tobytes("F"))
    assert said(tmp_path / name) == f"{TEXT}; name {volume}"


@pytest.mark.parametrize("ending", ["", ".tiff", ".tif", ".hdf5", ".vol"])
def testTextsOfNabuNameTheVolume(tmp_path, ending):
    path = tmp_path / "scan_infos.txt"
    path.write_text("[a]\n")
    assert said(path) == f"{TEXT}; name the volume itself, or its folder"
    (tmp_path / f"scan{ending}").touch() if ending else (tmp_path / "scan").mkdir()
    assert said(path) == f"{TEXT}; name scan{ending}"


@pytest.mark.parametrize("version", [2, 3])
def testMetadataOfZarrNameTheFolder(tmp_path, version):
    zarr = pytest.importorskip("zarr")
    zarr.create_array(store=str(tmp_path / "scan.zarr"), data=ARRAY.T, zarr_format=version)
    names = {2: (".zarray", ".zattrs"), 3: ("zarr.json",)}[version]
    for path in (tmp_path / "scan.zarr" / name for name in names):
        assert said(path) == f"is a part of a Zarr folder; name the folder, such as {tmp_path / 'scan.zarr'}"


def testACompanionOfOmeTiffNamesOneOfItsFiles(tmp_path):
    path, rule = tmp_path / "scan.companion.ome", "describes an OME-TIFF and holds no voxels"
    path.write_text('<OME><UUID FileName="s_0.ome.tif">urn:uuid:1</UUID></OME>')
    assert said(path) == f"{rule}; name one of its TIFF files, or their folder"
    tifffile.imwrite(tmp_path / "s_0.ome.tif", np.zeros((4, 5), "u1"), photometric="minisblack")
    assert said(path) == f"{rule}; name s_0.ome.tif"
    path.write_text('<OME><UUID FileName="../s_0.ome.tif">urn:uuid:1</UUID></OME>')
    assert said(path) == f"{rule}; name one of its TIFF files, or their folder"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.png", b"\x89PNG\r\n\x1a\n"),
        ("a.dcm", bytes(128) + b"DICM"),
        ("a.npy", b"\x93NUMPY"),
        ("a.nrrd.gz", b"\x1f\x8b\x08"),
        ("a.json", b"{}"),
        ("a.xml", b"<a/>"),
        ("a", b""),
    ],
)
def testOtherFilesAreOfNoKnownFormat(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert said(tmp_path / name) == KNOWN


def testAFileThatIsNotThereIsNoOtherFormat(tmp_path):
    assert said(tmp_path / "a.zraw") == "there is no such file"


def testAFolderOfATrainingTellsWhatBelongsToNothing(tmp_path):
    (tmp_path / "scan.zraw").write_bytes(zlib.compress(ARRAY.tobytes("F")))
    with pytest.raises(PipelineError, match="scan.zraw: is no volume of a known format"):
        listVolumes(tmp_path)
    writeMeta(tmp_path / "scan.mhd", "scan.zraw", "CompressedData = True\n")
    assert listVolumes(tmp_path) == [tmp_path / "scan.mhd"]
