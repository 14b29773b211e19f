"""Simulate the demonstration data: X-ray tomography of micropillars that hold precipitates and pores.

Goes in: nothing but a seed for each volume. Comes out: pairs of a reconstruction (uint16 .nrrd) and its mask
(uint8 .nrrd, 0 = precipitate or pore, 255 = the rest). The object is known, so the mask is exact.

    python3 benchmarks/makeDemoData.py                                        the shipped set
    python3 benchmarks/makeDemoData.py --outputFolder DIR --trainingCount 10  a larger one, other seeds
    python3 benchmarks/makeDemoData.py --baseline VOLUME MASK                 what a global threshold reaches

The chain is that of a beamline: a pillar with a rough wall is projected over 180 degrees in a parallel beam,
the detector blurs the image and counts photons, its gain errors survive the flat-field correction (rings),
and filtered back projection (scikit-image) reconstructs every slice.
"""

import argparse
import inspect
import io
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import nrrd
import numpy as np
import scipy
from scipy import ndimage, sparse
from tqdm import tqdm

PROJECT_FOLDER = Path(__file__).resolve().parent.parent
if str(PROJECT_FOLDER) not in sys.path:
    sys.path.insert(0, str(PROJECT_FOLDER))

from engine.base.console import runScript  # noqa: E402
from engine.base.errors import PipelineError  # noqa: E402
from engine.base.files import explainWriteError, writeAtomically  # noqa: E402

# ------------------------------------------------------------------------------------------------ parameters
outputFolder = None  # folder of a larger set; None: the shipped set, into the project's folders
trainingCount = 10  # training pairs of a larger set, 0 or more
validationCount = 2  # validation pairs of a larger set, 0 or more
firstSeed = 101  # seed of its first volume, the others follow; shipped seeds are refused
shape = (144, 144, 96)  # voxels along x, y, z; x = y, at least 32
processCount = os.cpu_count() or 1  # volumes simulated at the same time, 1 or more

photonCount = 1000.0  # photons per detector pixel and projection in the flat field, above 0
gainError = 0.02  # standard deviation of the detector's gain after flat-field correction, 0 or more
blurSigma = 0.5  # Gaussian blur of the detector in pixels, 0 or more
angleCountPerWidth = 1.25  # projections over 180 degrees, as a multiple of the width, above 0
opticalThickness = 2.0  # of the nominal pillar along its diameter, above 0
wallRoughness = 0.01  # standard deviation of the pillar's radius, as a share of the width, 0 to 0.015
densityVariation = 0.04  # standard deviation of the matrix absorption, slow in space, 0 to 0.1
precipitateShare = 0.0125  # share of all voxels that precipitates fill, 0 to 0.05
precipitateDiameters = (4.0, 12.0)  # voxels, smallest and largest, log-uniform between
precipitateContrasts = (0.35, 0.65)  # absorption relative to the matrix, uniform between
poreDensity = 2e-6  # pores per voxel of the field of view, rounded, 0 or more
poreDiameters = (5.0, 10.0)  # voxels
# -----------------------------------------------------------------------------------------------------------

GENERATOR = "makeDemoData 1"
SHIPPED_PAIRS = (  # seed, shape, image, mask
    (1, (144, 144, 96), "trainingImages/data_01.nrrd", "trainingMasks/segm_01.nrrd"),
    (2, (144, 144, 96), "trainingImages/data_02.nrrd", "trainingMasks/segm_02.nrrd"),
    (3, (144, 144, 96), "validationImages/data_03.nrrd", "validationMasks/segm_03.nrrd"),
    (4, (160, 160, 128), "test-file/test-file_data.nrrd", "test-file/test-file_mask.nrrd"),
)
VOXEL_NM = 50.0
ORIGIN_NM = (1000.0, -2000.0, 500.0)  # not zero, so that a reader that loses the origin is noticed
GREY_OFFSET = 20000.0  # grey value of air
GREY_SCALE = 8000.0  # grey values between air and the nominal matrix: matrix = 28000
PILLAR_RADIUS = 0.40  # of the width
SUB = 2  # sub-voxels along each edge of a voxel while the object is drawn
# append only: the order is part of the seed
INGREDIENTS = ("wall", "density", "precipitates", "pores", "gain", "photons")


# ---------------------------------------------------------------------------------------------------- object


class Ellipsoid(NamedTuple):
    """Body: `centre` and `semiAxes` in voxels, `rotation` (3, 3), `absorption` relative to the matrix."""

    centre: np.ndarray
    semiAxes: np.ndarray
    rotation: np.ndarray
    absorption: float


def spawnGenerators(seed: int) -> dict[str, np.random.Generator]:
    """Give every ingredient its own stream, so that changing one leaves the others as they are."""
    children = np.random.SeedSequence(seed).spawn(len(INGREDIENTS))
    return {
        name: np.random.Generator(np.random.PCG64(child))
        for name, child in zip(INGREDIENTS, children, strict=True)
    }


def _smoothNoise(generator, size, sigma, mode: str | tuple) -> np.ndarray:
    """Gaussian-smoothed white noise of mean 0 and standard deviation 1."""
    noise = ndimage.gaussian_filter(generator.standard_normal(size), sigma, mode=mode)
    return (noise - noise.mean()) / noise.std()


def drawPillar(shape: tuple[int, int, int], generator: np.random.Generator, roughness: float) -> np.ndarray:
    """Draw the cylinder with its rough wall.

    Returns
    -------
    coverage : (SUB*x, SUB*y, SUB*z) float32
        Share of each sub-voxel inside the pillar, 0 to 1.
    """
    width, _, depth = shape
    centre = width // 2 + generator.uniform(-0.01, 0.01, 2) * width
    noise = _smoothNoise(generator, (256, depth), (10, 0.05 * width), ("wrap", "reflect"))
    # a wall that never leaves the inscribed circle: 3 standard deviations are the most
    radius = width * (PILLAR_RADIUS + roughness * np.clip(noise, -3, 3))  # (angle, z)
    a, b = np.meshgrid(*(_subCoordinates(width) - c for c in centre), indexing="ij")
    distance, angle = np.hypot(a, b), np.arctan2(b, a)
    angles = np.arange(256) * (2 * np.pi / 256)
    coverage = np.empty((SUB * width, SUB * width, SUB * depth), np.float32)
    for z in range(depth):
        wall = np.interp(angle.ravel(), angles, radius[:, z], period=2 * np.pi).reshape(angle.shape)
        coverage[:, :, SUB * z : SUB * (z + 1)] = _coverage(distance - wall)[:, :, None]
    return coverage


def _subCoordinates(size: int) -> np.ndarray:
    """Positions of the sub-voxels' centres along one axis; the centre of voxel i lies at i."""
    return (np.arange(SUB * size) + 0.5) / SUB - 0.5


def _coverage(distance: np.ndarray) -> np.ndarray:
    """Share of a sub-voxel that lies inside a surface at this signed distance (voxels, negative inside)."""
    return np.clip(0.5 - SUB * distance, 0, 1)


def _drawShape(generator, diameters: tuple[float, float], aspect: float) -> tuple[np.ndarray, np.ndarray]:
    """Semi-axes (voxels, log-uniform mean diameter) and orientation of a random ellipsoid."""
    diameter = np.exp(generator.uniform(*np.log(diameters)))
    stretch = np.exp(generator.uniform(-1, 1, 3) * np.log(aspect) / 2)
    semiAxes = diameter / 2 * stretch / np.cbrt(stretch.prod())
    rotation, upper = np.linalg.qr(generator.standard_normal((3, 3)))
    return semiAxes, rotation * np.sign(np.diag(upper))


def _drawCentre(generator, shape: tuple[int, int, int], depthBelowWall: float, overhang: float) -> np.ndarray:
    """Random place in the pillar, `depthBelowWall` under its wall, up to `overhang` beyond its ends."""
    width, _, depth = shape
    radius = max(0.0, PILLAR_RADIUS * width - depthBelowWall) * np.sqrt(generator.uniform())
    angle = generator.uniform(0, 2 * np.pi)
    z = generator.uniform(-overhang, depth - 1 + overhang)
    return np.array([width // 2 + radius * np.cos(angle), width // 2 + radius * np.sin(angle), z])


def drawPrecipitates(
    shape: tuple[int, int, int],
    generator: np.random.Generator,
    share: float,
    diameters: tuple[float, float],
    contrasts: tuple[float, float],
) -> list[Ellipsoid]:
    """Draw ellipsoids until their volume is `share` of the field of view (and of its overhang along z)."""
    overhang = diameters[1] / 2
    missing = share * shape[0] * shape[1] * (shape[2] + 2 * overhang)
    bodies = []
    while missing > 0:
        semiAxes, rotation = _drawShape(generator, diameters, 2.0)
        centre = _drawCentre(generator, shape, 2.0, overhang)
        bodies.append(Ellipsoid(centre, semiAxes, rotation, generator.uniform(*contrasts)))
        missing -= 4 / 3 * np.pi * semiAxes.prod()
    return bodies


def drawPores(
    shape: tuple[int, int, int],
    generator: np.random.Generator,
    density: float,
    diameters: tuple[float, float],
) -> list[Ellipsoid]:
    """Draw irregular pores: each is a big ellipsoid with two smaller ones on its surface."""
    bodies = []
    for _ in range(round(density * np.prod(shape))):
        semiAxes, rotation = _drawShape(generator, diameters, 1.6)
        centre = _drawCentre(generator, shape, diameters[1] + 2, 0.0)
        bodies.append(Ellipsoid(centre, semiAxes, rotation, 0.0))
        for _ in range(2):
            direction = rotation @ (semiAxes * _drawDirection(generator))
            lobe, lobeRotation = _drawShape(generator, diameters, 1.6)
            bodies.append(Ellipsoid(centre + 0.8 * direction, 0.6 * lobe, lobeRotation, 0.0))
    return bodies


def _drawDirection(generator) -> np.ndarray:
    """Random unit vector."""
    vector = generator.standard_normal(3)
    return vector / np.linalg.norm(vector)


def paintEllipsoid(absorption: np.ndarray, coverage: np.ndarray, body: Ellipsoid) -> None:
    """Paint one body into the sub-voxel arrays `absorption` (relative) and `coverage` (0 to 1), in place."""
    reach = body.semiAxes.max() + 1
    low = np.floor(SUB * (body.centre - reach)).astype(int).clip(0)
    high = np.ceil(SUB * (body.centre + reach + 1)).astype(int).clip(0)
    box = tuple(slice(start, stop) for start, stop in zip(low, high, strict=True))
    size = absorption[box].shape
    if 0 in size:
        return
    axes = [
        (start + np.arange(n) + 0.5) / SUB - 0.5 - c
        for start, n, c in zip(low, size, body.centre, strict=True)
    ]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), -1) @ body.rotation  # (x, y, z, 3)
    level = np.linalg.norm(points / body.semiAxes, axis=-1)
    slope = np.linalg.norm(points / body.semiAxes**2, axis=-1)
    # first-order distance to the surface; exact for a sphere, the centre gets a large negative value
    share = _coverage(level * (level - 1) / np.maximum(slope, 1e-9) - (level < 0.1)).astype(np.float32)
    np.minimum(absorption[box], 1 - (1 - np.float32(body.absorption)) * share, out=absorption[box])
    np.maximum(coverage[box], share, out=coverage[box])


def _meanOver(array: np.ndarray, factors: tuple[int, int, int]) -> np.ndarray:
    """Mean over blocks of `factors` sub-voxels, in float64."""
    x, y, z = (size // factor for size, factor in zip(array.shape, factors, strict=True))
    blocks = array.reshape(x, factors[0], y, factors[1], z, factors[2])
    return blocks.mean((1, 3, 5), dtype=np.float64)


def drawObject(
    shape: tuple[int, int, int],
    generators: dict[str, np.random.Generator],
    *,
    wallRoughness: float = wallRoughness,
    densityVariation: float = densityVariation,
    precipitateShare: float = precipitateShare,
    precipitateDiameters: tuple[float, float] = precipitateDiameters,
    precipitateContrasts: tuple[float, float] = precipitateContrasts,
    poreDensity: float = poreDensity,
    poreDiameters: tuple[float, float] = poreDiameters,
) -> tuple[np.ndarray, np.ndarray]:
    """Draw the pillar with its precipitates and pores.

    Returns
    -------
    absorption : (SUB*x, SUB*y, z) float64
        Absorption relative to the nominal matrix (1 = matrix, 0 = air), sub-sampled across the pillar.
    positive : (x, y, z) bool
        Voxels at least half filled by a precipitate or pore inside the pillar.
    """
    pillar = drawPillar(shape, generators["wall"], wallRoughness)
    bodies = drawPrecipitates(
        shape, generators["precipitates"], precipitateShare, precipitateDiameters, precipitateContrasts
    )
    bodies += drawPores(shape, generators["pores"], poreDensity, poreDiameters)
    absorption, covered = np.ones_like(pillar), np.zeros_like(pillar)
    for body in bodies:
        paintEllipsoid(absorption, covered, body)
    positive = _meanOver(covered * pillar, (SUB, SUB, SUB)) >= 0.5
    absorption = _meanOver(absorption * pillar, (1, 1, SUB))  # (SUB*x, SUB*y, z)
    density = 1 + densityVariation * _smoothNoise(generators["density"], shape, 0.07 * shape[0], "reflect")
    absorption *= density.repeat(SUB, axis=0).repeat(SUB, axis=1)
    return absorption, positive


# ------------------------------------------------------------------------------------------------ experiment


def computeAngles(width: int, angleCountPerWidth: float = angleCountPerWidth) -> np.ndarray:
    """Projection angles in degrees, evenly over 180 degrees."""
    return np.linspace(0, 180, max(1, round(angleCountPerWidth * width)), endpoint=False)


def projectObject(absorption: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """Integrate the object along parallel rays across the pillar's axis.

    Every sub-voxel shares its content linearly between the two nearest detector pixels. The geometry is
    that of `skimage.transform.iradon`: rotation axis at voxel width // 2.

    Parameters
    ----------
    absorption : (SUB*x, SUB*x, z) float64
        Absorption in any unit per voxel.
    angles : (angle,) float
        Degrees.

    Returns
    -------
    integrals : (angle, x, z) float64
        Absorption times path length in voxels, per detector pixel.
    """
    width = absorption.shape[0] // SUB
    inside = absorption.any(axis=2)
    rays = absorption[inside] / SUB**2  # (sub-voxel, z)
    positions = _subCoordinates(width) - width // 2
    a, b = (grid[inside] for grid in np.meshgrid(positions, positions, indexing="ij"))
    starts = np.arange(0, 2 * len(rays) + 1, 2)
    integrals = np.empty((len(angles), width, absorption.shape[2]))
    for row, angle in enumerate(np.deg2rad(angles)):
        detector = b * np.cos(angle) - a * np.sin(angle) + width // 2
        pixel = np.floor(detector).astype(np.int32)
        part = detector - pixel
        weights = np.stack([1 - part, part], 1).ravel()
        pixels = np.stack([pixel, pixel + 1], 1).ravel()
        integrals[row] = sparse.csc_matrix((weights, pixels, starts), shape=(width, len(rays))) @ rays
    return integrals


def drawGain(size: tuple[int, int], generator: np.random.Generator, gainError: float) -> np.ndarray:
    """Gain of every detector pixel: a quarter of the variance from single pixels, the rest from spots."""
    pixels = generator.standard_normal(size)
    spots = _smoothNoise(generator, size, 1.5, "nearest")
    return np.maximum(1 + gainError * (0.5 * pixels + np.sqrt(0.75) * spots), 0.1)


def recordProjections(
    integrals: np.ndarray,
    generators: dict[str, np.random.Generator],
    *,
    photonCount: float = photonCount,
    gainError: float = gainError,
    blurSigma: float = blurSigma,
) -> tuple[np.ndarray, int]:
    """Turn ideal optical thicknesses into measured ones: blur, photon noise, gain errors.

    Parameters
    ----------
    integrals : (angle, x, z) float64
        Optical thickness.

    Returns
    -------
    measured : (angle, x, z) float64
        Optical thickness after flat-field correction and logarithm.
    starvedCount : int
        Readings without a single photon; they count as half a photon.
    """
    gain = drawGain(integrals.shape[1:], generators["gain"], gainError)
    # one stream a projection: a rounding difference on another processor cannot shift all later draws
    streams = generators["photons"].spawn(len(integrals))
    measured, starvedCount = np.empty_like(integrals), 0
    for row, stream in enumerate(streams):
        light = ndimage.gaussian_filter(np.exp(-integrals[row]), blurSigma, mode="nearest")
        counts = stream.poisson(photonCount * light).astype(np.float64)
        starvedCount += int(np.count_nonzero(counts == 0))
        measured[row] = -np.log(np.maximum(counts, 0.5) * gain / photonCount)
    return measured, starvedCount


def reconstructSlices(measured: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """Reconstruct by filtered back projection, ramp filter; (angle, x, z) -> (x, x, z) float64 per voxel."""
    iradon = _importIradon()
    _, width, depth = measured.shape
    volume = np.empty((width, width, depth))
    for z in range(depth):
        volume[:, :, z] = iradon(measured[:, :, z].T, theta=angles, output_size=width, circle=True)
    return volume


def _importIradon():
    """`skimage.transform.iradon`, or the line that says how to get it."""
    try:
        from skimage.transform import iradon
    except ImportError as error:
        raise PipelineError(
            "scikit-image is missing", remedy="type: pip install -r benchmarks/requirements.txt"
        ) from error
    return iradon


def simulateVolume(
    seed: int,
    shape: tuple[int, int, int] = shape,
    *,
    photonCount: float = photonCount,
    gainError: float = gainError,
    blurSigma: float = blurSigma,
    angleCountPerWidth: float = angleCountPerWidth,
    opticalThickness: float = opticalThickness,
    **objectParameters,
) -> tuple[np.ndarray, np.ndarray, dict]:
    """Simulate one tomography scan of one pillar.

    Parameters
    ----------
    seed : int
        Names the pillar and its noise.
    shape : (int, int, int)
        Voxels along x, y, z; x = y, z is the rotation axis.
    photonCount, gainError, blurSigma, angleCountPerWidth, opticalThickness : float
        The experiment, as in the parameter block of this file.
    **objectParameters
        Keywords of `drawObject`.

    Returns
    -------
    volume : (x, y, z) uint16
        GREY_OFFSET + GREY_SCALE * absorption relative to the nominal matrix; GREY_OFFSET outside the circle.
    mask : (x, y, z) uint8
        0 = precipitate or pore, 255 = the rest.
    counts : dict
        How many values were clipped to 0..65535, and readings without a photon.

    Raises
    ------
    PipelineError
        Unequal or too few voxels, or scikit-image is missing.
    """
    checkShape(shape)
    _importIradon()
    generators = spawnGenerators(seed)
    absorption, positive = drawObject(shape, generators, **objectParameters)
    angles = computeAngles(shape[0], angleCountPerWidth)
    perVoxel = opticalThickness / (2 * PILLAR_RADIUS * shape[0])
    integrals = projectObject(absorption, angles) * perVoxel
    measured, starvedCount = recordProjections(
        integrals, generators, photonCount=photonCount, gainError=gainError, blurSigma=blurSigma
    )
    grey = np.rint(GREY_OFFSET + GREY_SCALE / perVoxel * reconstructSlices(measured, angles))
    counts = {"clipped": int(np.count_nonzero((grey < 0) | (grey > 65535))), "starved": starvedCount}
    mask = np.where(positive, 0, 255).astype(np.uint8)
    return grey.clip(0, 65535).astype(np.uint16), mask, counts


def checkShape(shape: tuple[int, int, int]) -> None:
    """Refuse a field of view that is no square, or too small for a pillar."""
    if len(shape) != 3 or shape[0] != shape[1] or shape[0] < 32 or shape[2] < 1:
        raise PipelineError(
            "the field of view must be square", expected="X = Y >= 32 and Z >= 1", received=tuple(shape)
        )


# ----------------------------------------------------------------------------------------------------- files


def describeGeometry() -> dict:
    """NRRD header fields that image and mask share."""
    return {
        "space": "3D-right-handed",
        "kinds": ["domain"] * 3,
        "space directions": np.eye(3) * VOXEL_NM,
        "space units": ["nm"] * 3,
        "space origin": np.array(ORIGIN_NM),
    }


def encodeNrrd(array: np.ndarray, encoding: str, notes: dict) -> bytes:
    """Write an NRRD file to memory; the same array gives the same bytes.

    Parameters
    ----------
    array : (x, y, z)
        x is the fastest axis in the file.
    encoding : str
        "raw" or "gzip".
    notes : dict
        Key/value pairs of the header.
    """
    header = describeGeometry() | {"endian": "little", "encoding": encoding}
    header |= {key: str(value) for key, value in notes.items()}
    buffer = io.BytesIO()
    nrrd.write(buffer, array, header, compression_level=9)
    text, data = buffer.getvalue().split(b"\n\n", 1)
    lines = [line for line in text.split(b"\n") if not line.startswith(b"#")]  # pynrrd notes the date there
    return b"\n".join(lines) + b"\n\n" + data


def writePair(pair: "Pair", volume: np.ndarray, mask: np.ndarray, counts: dict) -> None:
    """Write image (raw) and mask (gzip) with the parameters that made them."""
    notes = {"generator": GENERATOR, "seed": pair.seed} | pair.parameters
    notes |= {"greyOffset": GREY_OFFSET, "greyScale": GREY_SCALE}
    thickness = pair.parameters.get("opticalThickness", opticalThickness)
    diameter_um = 2 * PILLAR_RADIUS * pair.shape[0] * VOXEL_NM / 1000
    notes |= {"matrixAbsorption_per_um": f"{thickness / diameter_um:.6g}", "clippedVoxels": counts["clipped"]}
    for path, array, encoding in ((pair.image, volume, "raw"), (pair.mask, mask, "gzip")):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise explainWriteError(error, path.parent) from error
        with writeAtomically(path) as temporary:
            temporary.write_bytes(encodeNrrd(array, encoding, notes))


def checkReplaceable(path: Path) -> None:
    """Refuse to replace a file that this program did not make."""
    if not path.exists():
        return
    try:
        generator = nrrd.read_header(str(path)).get("generator", "")
    except (OSError, nrrd.NRRDError, ValueError, UnicodeDecodeError):
        generator = ""
    if not generator.startswith(GENERATOR.split()[0]):
        raise PipelineError(
            "exists and was not made by makeDemoData.py",
            file=path,
            remedy="move it away or name --outputFolder",
        )


# -------------------------------------------------------------------------------------------------- baseline


def bestGlobalThreshold(volume: np.ndarray, mask: np.ndarray) -> dict[str, tuple[float, float, float]]:
    """Best voxel Dice of `smoothed volume < threshold`, over Gaussian smoothing and all thresholds.

    Both are chosen with the mask in hand: an upper bound for this method.

    Parameters
    ----------
    volume : (x, y, z)
        Reconstruction.
    mask : (x, y, z) uint8
        0 = positive.

    Returns
    -------
    best : dict
        (Dice, sigma, threshold) over the whole volume, inside the pillar (Otsu, holes filled), and inside the
        pillar without the 3 voxels under its wall.
    """
    pillar = findPillar(volume)
    core = np.stack([ndimage.binary_erosion(plane, iterations=3) for plane in np.moveaxis(pillar, 2, 0)], 2)
    regions = {
        "whole volume": np.ones_like(pillar),
        "inside the pillar": pillar,
        "3 voxels under the wall": core,
    }
    best = dict.fromkeys(regions, (0.0, 0.0, 0.0))
    for sigma in (0, 0.5, 1, 1.5, 2, 3):
        smoothed = ndimage.gaussian_filter(volume.astype(np.float32), sigma)
        for name, region in regions.items():
            score, threshold = _bestThreshold(
                smoothed[region], mask[region] == 0, np.count_nonzero(mask == 0)
            )
            if score > best[name][0]:
                best[name] = (score, sigma, threshold)
    return best


def _bestThreshold(values: np.ndarray, positive: np.ndarray, positiveCount: int) -> tuple[float, float]:
    """Best Dice of `values <= threshold`, over every threshold."""
    order = np.argsort(values)
    hits, values = np.cumsum(positive[order]), values[order]
    last = np.flatnonzero(np.append(values[1:] != values[:-1], True))  # equal values are below it together
    scores = 2 * hits[last] / (last + 1 + positiveCount)
    best = int(scores.argmax())
    return float(scores[best]), float(values[last[best]])


def findPillar(volume: np.ndarray) -> np.ndarray:
    """Inside of the pillar: Otsu's threshold on the smoothed volume, holes of every slice filled."""
    try:
        from skimage.filters import threshold_otsu
    except ImportError:
        _importIradon()
        raise
    smoothed = ndimage.gaussian_filter(volume.astype(np.float32), 2)
    solid = smoothed > threshold_otsu(smoothed)
    return np.stack([ndimage.binary_fill_holes(plane) for plane in np.moveaxis(solid, 2, 0)], 2)


def printBaseline(volumeFile: Path, maskFile: Path) -> None:
    """Print the baseline of one pair of files."""
    arrays = []
    for path in (volumeFile, maskFile):
        try:
            arrays.append(nrrd.read(str(path))[0])
        except (OSError, nrrd.NRRDError, ValueError) as error:
            raise PipelineError(f"cannot be read as NRRD: {error}", file=path) from error
    volume, mask = arrays
    if volume.shape != mask.shape or volume.ndim != 3:
        raise PipelineError(
            "mask and volume must have one shape", file=maskFile, expected=volume.shape, received=mask.shape
        )
    print(f"positive share {np.mean(mask == 0):.2%}; best voxel Dice of one global threshold:")
    for name, (score, sigma, threshold) in bestGlobalThreshold(volume, mask).items():
        print(f"  {name:24} {score:.3f}  (sigma {sigma}, grey value below {threshold:.0f})")


# --------------------------------------------------------------------------------------------------- program


class Pair(NamedTuple):
    """One volume to simulate and where its two files go; `parameters` are keywords of `simulateVolume`."""

    seed: int
    shape: tuple[int, int, int]
    image: Path
    mask: Path
    parameters: dict


PHYSICS = tuple(
    name
    for function in (simulateVolume, drawObject)
    for name, parameter in inspect.signature(function).parameters.items()
    if parameter.kind is inspect.Parameter.KEYWORD_ONLY
)


def parseArguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line; every constant of the parameter block is a flag."""
    parser = argparse.ArgumentParser(
        description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--outputFolder", type=Path, default=outputFolder)
    for name in ("trainingCount", "validationCount", "firstSeed", "processCount"):
        parser.add_argument(f"--{name}", type=int, default=globals()[name])
    parser.add_argument("--shape", type=int, nargs=3, metavar=("X", "Y", "Z"), default=shape)
    for name in PHYSICS:
        default = globals()[name]
        span = {"nargs": 2, "metavar": ("LOW", "HIGH")} if isinstance(default, tuple) else {}
        parser.add_argument(f"--{name}", type=float, default=default, **span)
    parser.add_argument("--baseline", type=Path, nargs=2, metavar=("VOLUME", "MASK"))
    arguments = parser.parse_args(argv)
    for name, value in vars(arguments).items():
        if isinstance(value, list):
            setattr(arguments, name, tuple(value))
    return arguments


def checkArguments(arguments: argparse.Namespace) -> None:
    """Check every value before the first volume is simulated."""
    for name in ("trainingCount", "validationCount", "firstSeed"):
        if getattr(arguments, name) < 0:
            raise PipelineError(f"--{name} must not be negative", received=getattr(arguments, name))
    limits = {"photonCount": 1e12, "wallRoughness": 0.015, "densityVariation": 0.1, "precipitateShare": 0.05}
    positive = {"processCount", "photonCount", "angleCountPerWidth", "opticalThickness"}
    for name in ("processCount", *PHYSICS):
        value = getattr(arguments, name)
        low, high = (min(value), max(value)) if isinstance(value, tuple) else (value, value)
        if not (0 <= low and high <= limits.get(name, 1e6)) or (name in positive and low == 0):
            span = f"{'more than ' if name in positive else ''}0 to {limits.get(name, 1e6):g}"
            raise PipelineError(f"--{name} is out of range", expected=span, received=value)
        if isinstance(value, tuple) and (value[0] > value[1] or (name.endswith("Diameters") and low < 1)):
            raise PipelineError(f"--{name} must be LOW HIGH", expected="LOW <= HIGH", received=value)
    checkShape(arguments.shape)


def listPairs(arguments: argparse.Namespace) -> list[Pair]:
    """Name the volumes to simulate: the shipped set, or a larger one with other seeds."""
    parameters = {name: getattr(arguments, name) for name in PHYSICS}
    if arguments.outputFolder is None:
        for name in ("trainingCount", "validationCount", "firstSeed", "shape", *PHYSICS):
            if getattr(arguments, name) != globals()[name]:
                raise PipelineError(
                    f"--{name} needs --outputFolder", remedy="the shipped set is always the same"
                )
        return [
            Pair(seed, size, PROJECT_FOLDER / image, PROJECT_FOLDER / mask, parameters)
            for seed, size, image, mask in SHIPPED_PAIRS
        ]
    count = arguments.trainingCount + arguments.validationCount
    seeds = range(arguments.firstSeed, arguments.firstSeed + count)
    taken = [entry[0] for entry in SHIPPED_PAIRS if entry[0] in seeds]
    if taken or not count:
        raise PipelineError(
            "no volume asked for" if taken == [] else f"seeds {taken} belong to the shipped set"
        )
    names = ["training"] * arguments.trainingCount + ["validation"] * arguments.validationCount
    folder = arguments.outputFolder.resolve()
    return [
        Pair(
            seed,
            arguments.shape,
            folder / f"{name}Images" / f"data_{number:02d}.nrrd",
            folder / f"{name}Masks" / f"segm_{number:02d}.nrrd",
            parameters,
        )
        for number, (seed, name) in enumerate(zip(seeds, names, strict=True), 1)
    ]


def _simulatePair(pair: Pair) -> tuple[Pair, np.ndarray, np.ndarray, dict]:
    """One task of the process pool."""
    return pair, *simulateVolume(pair.seed, pair.shape, **pair.parameters)


def simulatePairs(
    pairs: list[Pair], processCount: int
) -> Iterator[tuple[Pair, np.ndarray, np.ndarray, dict]]:
    """Simulate all volumes, several at the same time; yields them as they are ready."""
    if min(processCount, len(pairs)) == 1:
        yield from map(_simulatePair, pairs)
        return
    pool = ProcessPoolExecutor(min(processCount, len(pairs)), multiprocessing.get_context("spawn"))
    try:
        # workers inherit that they ignore Ctrl-C; the main process ends them and tells the user
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
        tasks = {pool.submit(_simulatePair, pair) for pair in pairs}
        signal.signal(signal.SIGINT, handler)
        for task in as_completed(tasks):
            tasks.remove(task)  # or all volumes would stay in memory to the end
            yield task.result()
    except BrokenProcessPool as error:
        raise PipelineError(
            "a worker process died, probably for want of memory", remedy="repeat with --processCount 1"
        ) from error
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for worker in multiprocessing.active_children():
            worker.terminate()


def main(arguments: argparse.Namespace) -> None:
    """Simulate and write the pairs, or print a baseline."""
    if arguments.baseline:
        printBaseline(*arguments.baseline)
        return
    checkArguments(arguments)
    pairs = listPairs(arguments)
    for path in (path for pair in pairs for path in (pair.image, pair.mask)):
        checkReplaceable(path)
    _importIradon()
    versions = f"NumPy {np.__version__}, SciPy {scipy.__version__}, scikit-image {version('scikit-image')}"
    print(f"{len(pairs)} volumes, {arguments.processCount} at a time ({versions})", flush=True)
    total = sum(np.prod(pair.shape) for pair in pairs) / 1e6
    bar = tqdm(
        total=total, unit="Mvoxel", disable=None, leave=False, bar_format="{l_bar}{bar}| {elapsed} {rate_fmt}"
    )
    with bar:
        for pair, volume, mask, counts in simulatePairs(pairs, arguments.processCount):
            writePair(pair, volume, mask, counts)
            bar.update(volume.size / 1e6)
            size = (pair.image.stat().st_size + pair.mask.stat().st_size) / 1e6
            line = (
                f"{pair.image}  seed {pair.seed}, {np.mean(mask == 0):.2%} positive, {size:.1f} MB with mask"
            )
            for word in (word for word in counts if counts[word]):
                line += f", {counts[word]} values {word}"
            tqdm.write(line)
    print("next: python3 prepareData.py")


if __name__ == "__main__":
    runScript(main, parseArguments)
