"""Which module opens what, and what is loaded for it."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from places import ROOT
from sampleVolumes import EXPECTED, writeVolume

from engine.base.errors import PipelineError
from engine.base.words import printable
from engine.formats.opening import FORMATS, findBeside, isVolumeName, openMask, openVolume, stemOf
from engine.formats.planes import PlaneVolume
from engine.formats.rawData import RawVolume
from engine.results.kinds import nameProbability

GREY = {"photometric": "minisblack"}


@pytest.mark.parametrize("name", ["a.nrrd", "a.nhdr", "a.tif", "a.tiff", "A.NRRD", "A.TIF", "a.b.tiff"])
def testNamesOfVolumesAreKnown(name):
    assert isVolumeName(Path(name))


@pytest.mark.parametrize("name", ["a", "a.txt", "a.nrrd.gz", "tif", ".tif", "a.tif_infos.txt"])
def testOtherNamesAreNoVolumes(name):
    assert not isVolumeName(Path(name))


@pytest.mark.parametrize("name", ["a.nrrd", "a.NRRD"])
def testNrrdIsOpenedByItsEnding(tmp_path, name):
    writeVolume(tmp_path / name, EXPECTED, {})
    volume = openVolume(str(tmp_path / name))
    assert isinstance(volume, RawVolume) and volume.header
    np.testing.assert_array_equal(volume.read(), EXPECTED)


@pytest.mark.parametrize("name", ["a.tif", "a.TIFF"])
@pytest.mark.parametrize(("compression", "kind"), [(None, RawVolume), ("zlib", PlaneVolume)])
def testTiffIsOpenedByItsEnding(tmp_path, name, compression, kind):
    tifffile.imwrite(tmp_path / name, EXPECTED.T, compression=compression, **GREY)
    volume = openVolume(tmp_path / name)
    assert isinstance(volume, kind) and volume.header == {}
    np.testing.assert_array_equal(volume.read(), EXPECTED)


@pytest.mark.parametrize("name", ["scan", "scan.tif", "scan.2"])
def testFolderIsAStackWhateverItIsCalled(tmp_path, name):
    (tmp_path / name).mkdir()
    for z, plane in enumerate(EXPECTED.T):
        tifffile.imwrite(tmp_path / name / f"{z}.tif", plane, **GREY)
    np.testing.assert_array_equal(openVolume(tmp_path / name).read(), EXPECTED)


def testContentThatIsNotThatOfTheEndingIsRefusedInOneLine(tmp_path):
    writeVolume(tmp_path / "a.tif", EXPECTED, {})
    tifffile.imwrite(tmp_path / "a.nrrd", EXPECTED.T, **GREY)
    for name, words in (("a.tif", "is no readable TIFF file"), ("a.nrrd", "is no NRRD file")):
        with pytest.raises(PipelineError) as caught:
            openVolume(tmp_path / name)
        assert words in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("ending", [*FORMATS, "", ".scan"])
def testWhatIsNoFileIsToldInOneLine(tmp_path, ending):
    """Names that are too long, or hold a zero, links that lead to themselves or to nothing, pipes."""
    (tmp_path / f"circle{ending}").symlink_to(tmp_path / f"circle{ending}")
    (tmp_path / f"link{ending}").symlink_to(tmp_path / "nothing")
    os.mkfifo(tmp_path / f"pipe{ending}")  # to open it would never end
    nothing = "there is no such folder" if "zarr" in ending else "there is no such file"
    expected = {
        "a" * 300: "cannot be read: File name too long",
        "a\0b": "there is no such file",
        "circle": "cannot be read: Too many levels of symbolic links",
        "pipe": "is neither a file nor a folder",
        "link": nothing,
        "none": nothing,
    }
    for stem, words in expected.items():
        path = tmp_path / f"{stem}{ending}"
        for openAny in (openVolume, openMask):
            with pytest.raises(PipelineError) as caught:
                openAny(path)
            assert str(caught.value) == f"{printable(path)}: {words}"


@pytest.mark.parametrize("content", [b"", b"N", b"words\n" * 200, bytes(2000), b"\xff" * 2000, b"PK\3\4"])
@pytest.mark.parametrize("ending", FORMATS)
def testOtherContentIsToldInOneLine(tmp_path, ending, content):
    path = tmp_path / f"a{ending}"
    path.write_bytes(content)
    (tmp_path / f"folder{ending}").mkdir()
    for name in (path, tmp_path / f"folder{ending}"):
        for openAny in (openVolume, openMask):
            with pytest.raises(PipelineError) as caught:
                openAny(name)
            assert str(caught.value).startswith(f"{name}: ") and "\n" not in str(caught.value)


def testEveryFormatHasItsModule():
    for module in set(FORMATS.values()):
        assert (ROOT / "engine" / "formats" / f"{module}.py").is_file()


@pytest.mark.parametrize(("name", "isLoaded"), [("a.nrrd", False), ("a.tif", True)])
def testTifffileIsLoadedForTiffAlone(tmp_path, name, isLoaded):
    writeVolume(tmp_path / "a.nrrd", EXPECTED, {})
    tifffile.imwrite(tmp_path / "a.tif", EXPECTED.T, **GREY)
    code = "import sys; from engine.formats.opening import openVolume; openVolume(sys.argv[1])"
    code += "; print('tifffile' in sys.modules)"
    command = [sys.executable, "-c", code, str(tmp_path / name)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(isLoaded)


@pytest.mark.parametrize("script", ["prepareData", "predictData"])
def testHelpLoadsNoTifffile(script):
    command = [sys.executable, "-X", "importtime", f"{script}.py", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "engine.formats.opening" in done.stderr and "tifffile" not in done.stderr


def testADotInTheNameOfAFolderIsNoEnding(tmp_path):
    for name in ("scan_0.65um", "scan_0.70um_mask", "scan.tif"):
        (tmp_path / name).mkdir()
    assert stemOf(tmp_path / "scan_0.65um") == "scan_0.65um"
    assert stemOf(tmp_path / "scan_0.65um.nrrd") == "scan_0.65um" and stemOf(tmp_path / "scan.tif") == "scan"
    assert findBeside(tmp_path / "scan_0.70um", "scan_0.70um_mask").name == "scan_0.70um_mask"
    assert findBeside(tmp_path / "a", "a_mask").name == "a_mask.nrrd"
    (tmp_path / "a_mask.tiff").touch()
    assert findBeside(tmp_path / "a", "a_mask").name == "a_mask.tiff"
    assert nameProbability(tmp_path / "scan_0.65um").name == "scan_0.65um_segmented.nrrd"


def testSegmentationBesideAVolumeIsFoundAfterPlainMasks(tmp_path):
    assert stemOf(tmp_path / "scan.seg.nrrd") == "scan" and isVolumeName(Path("scan.SEG.nrrd"))
    for name in ("scan_mask.seg.nrrd", "scan_mask.tif", "scan_mask.nrrd"):
        (tmp_path / name).touch()
        assert findBeside(tmp_path / "scan.nrrd", "scan_mask") == tmp_path / name
