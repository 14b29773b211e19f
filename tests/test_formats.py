"""The scripts on volumes of any format: the same bytes, whatever they lie in."""

import json

import h5py
import nrrd
import numpy as np
import pytest
import tifffile
from predictions import predict, refused
from projects import CUT, callMain, makeVolume, writeNrrd

import predictData
import prepareData

SHAPE = (40, 32, 24)
QUIET = [f"--no-{name}" for name in ("report", "overview", "particles", "segmentation", "labels")]
QUIET += ["--normalization", "region", "--threshold", 0.5]
LAYOUT = "40x32x24 uint16 big 7"


def writeAll(folder, image):
    """Write a volume (x, y, z) in several formats: {what is typed: flags}."""
    planes = np.ascontiguousarray(image.T)
    nrrd.write(str(folder / "a.nrrd"), image)
    tifffile.imwrite(folder / "b.tif", planes, photometric="minisblack")
    with h5py.File(folder / "c.h5", "w") as file:
        file.create_dataset("entry/data", data=planes, chunks=(5, 8, 16), compression="gzip")
        file["entry/other"] = planes[::-1]
    (folder / "d.raw").write_bytes(bytes(7) + planes.astype(">u2").tobytes())
    typed = {"a.nrrd": (), "b.tif": (), "c.h5::/entry/data": (), "d.raw": ("--rawLayout", LAYOUT)}
    typed |= {f"d.raw::{LAYOUT}": ()}
    try:
        import zarr
    except ImportError:
        return typed
    zarr.create_array(store=str(folder / "e.zarr"), data=planes, chunks=(5, 8, 16))
    return typed | {"e.zarr": ()}


def testProbabilityHasTheSameVoxelsWhateverTheFormat(tmp_path):
    typed = writeAll(tmp_path, makeVolume(5, SHAPE)[0])
    made = []
    for name, flags in typed.items():
        predict(tmp_path / name, *flags, *QUIET, "--nameOutput", tmp_path / "out.nrrd")
        made.append(nrrd.read(str(tmp_path / "out.nrrd"))[0])
        assert made[-1].shape == SHAPE and made[-1].std() > 1e-4
        np.testing.assert_array_equal(made[-1], made[0], err_msg=name)
        (tmp_path / "out.nrrd").unlink()


def testResultLiesBesideTheFileAndAnotherDatasetIsAnotherInput(tmp_path, capfd):
    image, mask = makeVolume(5, SHAPE)
    writeAll(tmp_path, image)
    nrrd.write(str(tmp_path / "c_mask.nrrd"), mask)
    found = {}
    for name in ("data", "data", "other"):
        words = ["--nameInput", f"{tmp_path / 'c.h5'}::/entry/{name}", *map(str, QUIET)]
        capfd.readouterr()
        predictData.main(predictData.parseArguments(words))
        text = capfd.readouterr().out
        assert f"Input: c.h5::/entry/{name} 40x32x24 uint16" in text and "Scores against c_mask.nrrd" in text
        record = json.loads((tmp_path / "c_segmented.json").read_text())
        assert record["identity"]["inner"] == f"/entry/{name}"
        probability = nrrd.read(str(tmp_path / "c_segmented.nrrd"))[0]
        assert ("the network had nothing to do" in text) is (name in found)
        found.setdefault(name, probability)
    nrrd.write(str(tmp_path / "turned.nrrd"), image[:, :, ::-1])
    predict(tmp_path / "turned.nrrd", *QUIET)
    np.testing.assert_array_equal(found["other"], nrrd.read(str(tmp_path / "turned_segmented.nrrd"))[0])
    assert np.abs(found["data"] - found["other"]).max() > 1e-3


def testHeaderOfMetaImageOpensTheVoxelsOfTheResult(tmp_path, capfd):
    sitk = pytest.importorskip("SimpleITK")
    writeNrrd(tmp_path / "a.nrrd", makeVolume(5, SHAPE)[0])
    predict(tmp_path / "a.nrrd", *QUIET, "--x1", 3, "--mhd")
    assert "a_segmented.mhd" in capfd.readouterr().out
    image, same = (sitk.ReadImage(str(tmp_path / f"a_segmented.{ending}")) for ending in ("mhd", "nrrd"))
    assert image.GetSize() == (37, 32, 24) and sitk.GetArrayFromImage(image).std() > 1e-4
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), sitk.GetArrayFromImage(same))
    for name in ("GetSpacing", "GetOrigin", "GetDirection"):
        np.testing.assert_allclose(getattr(image, name)(), getattr(same, name)(), rtol=0, atol=1e-9)
    line = refused(capfd, tmp_path / "a.nrrd", "--mhd", "--outputEncoding", "gzip")
    assert "an .mhd can only point to raw voxels (received outputEncoding gzip); leave out --mhd" in line


@pytest.mark.parametrize("inner", ["/entry/data", "/entry/other"])
def testFoldersOfATrainingMixFormats(tmp_path, inner):
    expected = {}
    for way in ("plain", "mixed"):
        folder = tmp_path / way
        for part, numbers in (("training", (1, 2)), ("validation", (3,))):
            for kind in ("Images", "Masks"):
                (folder / f"{part}{kind}").mkdir(parents=True)
            for number in numbers:
                image, mask = makeVolume(number)
                nrrd.write(str(folder / f"{part}Masks" / f"s{number}.nrrd"), mask)
                path = folder / f"{part}Images" / f"d{number}"
                planes = np.ascontiguousarray(image.T)
                if way == "plain":
                    nrrd.write(f"{path}.nrrd", image)
                elif number == 2:
                    path.with_suffix(".raw").write_bytes(planes.tobytes())
                else:
                    with h5py.File(f"{path}.h5", "w") as file:
                        file[inner] = planes
                        file["/entry/third"] = planes + 1
        (folder / "pythonFiles").mkdir()
        flags = ["--learningData", folder / "pythonFiles", *CUT]
        for part in ("training", "validation"):
            images = folder / f"{part}Images"
            flags += [f"--{part}Images", images if way == "plain" else f"{images}::{inner}"]
            flags += [f"--{part}Masks", folder / f"{part}Masks"]
        callMain(prepareData, [*flags, "--rawLayout", "24x16x16 uint16"])
        for path in sorted((folder / "pythonFiles").glob("*.npy")):
            assert expected.setdefault(path.name, path.read_bytes()) == path.read_bytes()
    assert len(expected) == 4
    record = json.loads((folder / "pythonFiles" / "parameters.json").read_text())
    assert record["parameters"]["inner"]["trainingImages/d1.h5"] == inner
