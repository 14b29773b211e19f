"""The scripts on volumes and NRRD files that nobody in this project made; skipped where they are absent."""

import json
import math
import os
import shutil
import subprocess
import sys

import nrrd
import numpy as np
import pytest
from places import ROOT, SHARED

import engine.prediction.backends
import predictData
from engine.base.errors import PipelineError

FORMATS = SHARED / "nrrd_format"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not SHARED.is_dir(), reason="the real volumes are not on this computer"),
]
sitk = pytest.importorskip("SimpleITK")

FLAT, COLOUR, SERIES = "is a 2D image", "is no direction in space but 'RGB-color'", "is a 4D data set"
LINE = "is no 3D volume (expected dimension 3, received 1)"
OUTCOMES = {  # of every file in nrrd_format/: "predicts" or the reason for the refusal
    "NRRD.jl/headers/test2d_spu_spacing_labels.nhdr": FLAT,
    "NRRD.jl/headers/test2dfloat.nhdr": FLAT,
    "NRRD.jl/headers/test2drgb.nhdr": COLOUR,
    "NRRD.jl/headers/test2drgb_last.nhdr": COLOUR,
    "NRRD.jl/headers/test2drgb_spu_sd.nhdr": COLOUR,
    "NRRD.jl/headers/test2drgb_spu_spacing.nhdr": COLOUR,
    "NRRD.jl/headers/test2drgb_spu_spacing_labels.nhdr": COLOUR,
    "NRRD.jl/headers/test2duchar.nhdr": FLAT,
    "NRRD.jl/headers/test2dushort.nhdr": FLAT,
    "NRRD.jl/headers/test3d_time.nhdr": SERIES,
    "NRRD.jl/headers/test3d_time_labels.nhdr": SERIES,
    "NRRD.jl/headers/test3d_time_labels_units.nhdr": SERIES,
    "NRRD.jl/headers/test3d_time_labels_units_s.nhdr": SERIES,
    "NRRD.jl/headers/test3d_units_range_axes.nhdr": "the data file is missing (received dummy.raw)",
    "NRRD.jl/headers/test3dlist_origin.nhdr": SERIES,
    "NRRD.jl/io/bswap.nrrd": FLAT,
    "NRRD.jl/io/eltype_gray_u12.nrrd": FLAT,
    "NRRD.jl/io/eltype_gray_u12_hex.nrrd": FLAT,
    "NRRD.jl/io/eltype_gray_u16.nrrd": FLAT,
    "NRRD.jl/io/eltype_gray_u8.nrrd": FLAT,
    "NRRD.jl/io/eltype_rgb_u8.nrrd": COLOUR,
    "NRRD.jl/io/eltype_u8.nrrd": FLAT,
    "NRRD.jl/io/eltype_uint8.nrrd": FLAT,
    "NRRD.jl/io/fiji-stack-microns-16bit.nrrd": "predicts",  # big endian
    "NRRD.jl/io/fiji-stack-pixels-16bit.nrrd": "predicts",
    "NRRD.jl/io/small.nrrd": "predicts",
    "NRRD.jl/io/small_time.nrrd": SERIES,
    "NRRD.jl/io/smallgz.nrrd": "predicts",
    "NRRD.jl/io/test_helix.nrrd": SERIES,
    "NRRD.jl/io/units.nhdr": "predicts",
    "nrrd-js/example1.nrrd": "predicts",  # a colour image that does not say so: 3 x 512 x 512, warned of
    "nrrd-js/example2.nrrd": FLAT,
    "nrrd-js/example3.nrrd": FLAT,
    "nrrd-js/example4.nrrd": SERIES,
    "pynrrd/BallBinary30x30x30.nhdr": "predicts",
    "pynrrd/BallBinary30x30x30.nrrd": "predicts",
    "pynrrd/BallBinary30x30x30_byteskip_minus_five.nhdr": "byte skip is too small",
    "pynrrd/BallBinary30x30x30_byteskip_minus_one.nhdr": "predicts",
    "pynrrd/BallBinary30x30x30_byteskip_minus_one_nifti.nhdr": "predicts",
    "pynrrd/BallBinary30x30x30_bz2.nrrd": "predicts",
    "pynrrd/BallBinary30x30x30_gz.nrrd": "predicts",
    "pynrrd/BallBinary30x30x30_gz_byteskip_minus_one.nrrd": "predicts",
    "pynrrd/BallBinary30x30x30_gz_lineskip.nrrd": "predicts",
    "pynrrd/BallBinary30x30x30_nifti.nhdr": "the data are longer than the sizes say",
    "pynrrd/test1d_ascii.nrrd": LINE,
    "pynrrd/test2d_ascii.nrrd": FLAT,
    "pynrrd/test_customFields.nrrd": LINE,
    "pynrrd/test_simple4d_raw.nrrd": "predicts",  # one voxel, and one channel in a fourth axis
}
REGIONS = {
    "cement": ("--x1", 10, "--x2", 91, "--y2", 64, "--z1", 30, "--z2", 75),
    "shell": ("--y1", 5, "--z1", 101, "--z2", 225),
    "fibers": ("--x1", 1, "--y1", 2, "--z1", 3),
    "bone3155_200": ("--x2", 120, "--y1", 7, "--y2", 171, "--z1", 33, "--z2", 160),
}


# ---------------------------------------------------------------------------------------------------- helpers


@pytest.fixture(scope="module")
def build():
    from functions import buildSpotUNet

    return buildSpotUNet


@pytest.fixture(scope="module")
def published(build, tmp_path_factory):
    """Give flags for the shipped weights, else for random ones of the published size, and the Keras model."""
    import keras

    files = [ROOT / "modelAndWeights" / f"final-{name}.h5" for name in ("uNet_model", "trained-weights")]
    model = build()
    if all(path.is_file() for path in files):
        model = keras.models.load_model(files[1], compile=False)
        return ["--modelFile", files[0], "--weightFile", files[1]], model
    keras.utils.set_random_seed(1)
    path = tmp_path_factory.mktemp("published") / "random.h5"
    model.save(path, include_optimizer=False)
    return ["--modelFile", path], model


def predict(path, output, *flags):
    """Call predictData.py in this process."""
    words = ["--nameInput", path, "--nameOutput", output, *flags]
    predictData.main(predictData.parseArguments([str(word) for word in words]))


def predictPlain(model, image):
    """One pass over the z-scored volume, sides mirrored at the far end to multiples of 8 and cropped."""
    image = image.astype(np.float64)
    padding = [(0, math.ceil(side / 8) * 8 - side) for side in image.shape]
    padded = np.pad((image - image.mean()) / (image.std() or 1), padding, mode="symmetric")
    result = model.predict_on_batch(padded[np.newaxis, ..., np.newaxis].astype(np.float32))[0, ..., 0]
    return result[tuple(slice(side) for side in image.shape)]


@pytest.fixture
def smallProcess(monkeypatch):
    """Leave out of the memory what other tests have loaded."""
    monkeypatch.setattr(engine.prediction.backends, "residentGiB", lambda: 0.05)


def assertSamePlace(result, source):
    """Require equal geometry of two SimpleITK images."""
    assert result.GetSize() == source.GetSize()
    for name in ("GetSpacing", "GetOrigin", "GetDirection"):
        np.testing.assert_allclose(getattr(result, name)(), getattr(source, name)(), rtol=0, atol=1e-9)


def assertProbability(path):
    """Require float32 in 0..1, the same through pynrrd and SimpleITK; return both views."""
    probability, _ = nrrd.read(str(path))
    image = sitk.ReadImage(str(path))
    assert probability.dtype == np.float32 and image.GetPixelID() == sitk.sitkFloat32
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image).T, probability)
    assert probability.min() >= 0 and probability.max() <= 1
    return probability, image


# ---------------------------------------------------------------------------------------------------- volumes


@pytest.mark.usefixtures("smallProcess")
@pytest.mark.parametrize("name", REGIONS)
def testWholeVolume(name, published, tmp_path, capsys):
    flags, model = published
    budget = 0.35 if name.startswith("bone") else 8
    predict(SHARED / f"{name}.nrrd", tmp_path / "whole.nrrd", *flags, "--memoryBudget", budget)
    probability, image = assertProbability(tmp_path / "whole.nrrd")
    assertSamePlace(image, sitk.ReadImage(str(SHARED / f"{name}.nrrd")))
    expected = predictPlain(model, nrrd.read(str(SHARED / f"{name}.nrrd"))[0])
    np.testing.assert_allclose(probability, expected, rtol=0, atol=5e-5)
    assert expected.std() > 1e-4  # a constant would compare equal after any mix-up of places
    text = capsys.readouterr().out
    warnings = [line for line in text.splitlines() if line.startswith("Warning")]
    assert all("is unlike what" in line or "is to be expected" in line for line in warnings), warnings
    assert ("one tile" in text) != name.startswith("bone")


@pytest.mark.usefixtures("smallProcess")
@pytest.mark.parametrize("name", REGIONS)
def testRegion(name, published, tmp_path, capsys):
    flags, model = published
    numbers = dict(zip(REGIONS[name][::2], REGIONS[name][1::2], strict=True))
    budget = 0.25 if name.startswith("bone") else 8
    flags = [*flags, *REGIONS[name], "--normalization", "region", "--memoryBudget", budget]
    predict(SHARED / f"{name}.nrrd", tmp_path / "part.nrrd", *flags)
    volume, _ = nrrd.read(str(SHARED / f"{name}.nrrd"))
    assert ("one tile" in capsys.readouterr().out) != name.startswith("bone")
    starts = [numbers.get(f"--{axis}1", 0) for axis in "xyz"]
    stops = [numbers.get(f"--{axis}2", side) for axis, side in zip("xyz", volume.shape, strict=True)]
    sizes = [stop - start for start, stop in zip(starts, stops, strict=True)]
    probability, image = assertProbability(tmp_path / "part.nrrd")
    source = sitk.ReadImage(str(SHARED / f"{name}.nrrd"))
    if name.startswith("bone"):  # its header says nothing of space, so the result's says where it was cut
        assert image.GetMetaData("pipeline_region") == "0:120 7:171 33:160"
        assert image.GetSize() == tuple(sizes) and image.GetSpacing() == (1, 1, 1)
    else:
        assertSamePlace(image, sitk.RegionOfInterest(source, sizes, starts))
    part = volume[tuple(slice(*limits) for limits in zip(starts, stops, strict=True))]
    np.testing.assert_allclose(probability, predictPlain(model, part), rtol=0, atol=5e-5)
    assert json.loads((tmp_path / "part.json").read_text())["region"] == [
        list(limits) for limits in zip(starts, stops, strict=True)
    ]


# --------------------------------------------------------------------------------------------------- training


def testTrainingOnMagneticResonanceImages(tmp_path, capfd):
    """Train on the brain, validate on the breast, predict the brain; labels are 1 and the sides differ."""
    names = {"training": "brain1", "validation": "breast1"}
    flags = []
    for part, name in names.items():
        for kind, word in (("Images", "image"), ("Masks", "label")):
            (tmp_path / f"{part}{kind}").mkdir()
            source = SHARED / "pyradiomics" / f"{name}_{word}.nrrd"
            (tmp_path / f"{part}{kind}" / source.name).symlink_to(source)
            flags += [f"--{part}{kind}", tmp_path / f"{part}{kind}"]
    for script in ("prepareData.py", "trainingAndValidation.py", "predictData.py", "functions.py"):
        shutil.copy(ROOT / script, tmp_path)
    shutil.copytree(ROOT / "engine", tmp_path / "engine")
    for folder in ("pythonFiles", "modelAndWeights"):
        (tmp_path / folder).mkdir()

    def run(*command):
        words = [sys.executable, *map(str, command)]
        result = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=900, check=False)
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    text = run("prepareData.py", *flags, "--positiveLabel", 1)
    image, mask = (
        nrrd.read(str(SHARED / "pyradiomics" / f"brain1_{word}.nrrd"))[0] for word in ("image", "label")
    )
    assert f"{(mask == 1).mean():.3%} positive, {192 * 192 * 24 / image.size:.1%} of the voxels used" in text
    images = np.load(tmp_path / "pythonFiles" / "trainingDataImage.npy")
    masks = np.load(tmp_path / "pythonFiles" / "trainingDataMask.npy")
    part = image[:192, :192, :24].astype(np.float64)
    np.testing.assert_allclose(images[0, ..., 0], (part - part.mean()) / part.std(), atol=1e-5)
    np.testing.assert_array_equal(masks[0, ..., 0], mask[:192, :192, :24] == 1)
    assert np.load(tmp_path / "pythonFiles" / "validationDataImage.npy").shape == (1, 40, 120, 16, 1)

    run("trainingAndValidation.py", "--Nepochs", 2)
    rows = (tmp_path / "modelAndWeights" / "metrics.log").read_text().splitlines()
    assert len(rows) == 3
    contract = json.loads((tmp_path / "modelAndWeights" / "current-uNet_model.json").read_text())
    assert contract["positiveLabel"] == [1] and contract["architecture"]["parameterCount"] == 366593

    shutil.copy(SHARED / "pyradiomics" / "brain1_label.nrrd", tmp_path / "label.nrrd")
    source = SHARED / "pyradiomics" / "brain1_image.nrrd"
    text = run(
        "predictData.py",
        *(
            "--nameInput",
            source,
            "--nameOutput",
            tmp_path / "brain.nrrd",
            "--modelFile",
            tmp_path / "modelAndWeights" / "current-uNet_model.h5",
        ),
        *("--nameReference", tmp_path / "label.nrrd"),
    )
    _, result = assertProbability(tmp_path / "brain.nrrd")
    assertSamePlace(result, sitk.ReadImage(str(source)))
    scores = json.loads((tmp_path / "brain.json").read_text())["scores"]
    assert scores["tp"] + scores["fn"] == (mask == 1).sum()


# -------------------------------------------------------------------------------------------- files of others


@pytest.fixture(scope="module")
def small(build, tmp_path_factory):
    """Build a network of the published depth and little width: its file and the Keras model."""
    import keras

    keras.utils.set_random_seed(2)
    model = build(2, 4)
    path = tmp_path_factory.mktemp("small") / "small.h5"
    model.save(path, include_optimizer=False)
    return path, model


def testTheTableListsEveryFile():
    files = {str(path.relative_to(FORMATS)) for path in FORMATS.rglob("*.n[rh][rd][dr]")}
    assert files == set(OUTCOMES)


@pytest.mark.parametrize("name", [name for name, outcome in OUTCOMES.items() if outcome != "predicts"])
def testFileIsRefusedWithItsReason(name, small, tmp_path):
    with pytest.raises(PipelineError) as caught:
        predict(FORMATS / name, tmp_path / "out.nrrd", "--modelFile", small[0])
    assert OUTCOMES[name] in str(caught.value) and "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", [name for name, outcome in OUTCOMES.items() if outcome == "predicts"])
def testFileIsPredictedAsPynrrdReadsIt(name, small, tmp_path, capsys):
    path, model = small
    predict(FORMATS / name, tmp_path / "out.nrrd", "--modelFile", path)
    volume, _ = nrrd.read(str(FORMATS / name))
    volume, isScalar = (volume[..., 0], False) if volume.ndim == 4 else (volume, True)  # its only channel
    probability, image = assertProbability(tmp_path / "out.nrrd")
    np.testing.assert_allclose(probability, predictPlain(model, volume), rtol=0, atol=5e-5)
    if isScalar:  # ITK reads a channel as a fourth axis
        assertSamePlace(image, sitk.ReadImage(str(FORMATS / name.replace("_bz2", ""))))  # and no bzip2
    isThin = min(volume.shape) < 8
    assert ("fewer than 8 along a side" in capsys.readouterr().out) == isThin
