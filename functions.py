"""The science of the pipeline, in data-flow order: volumes, sub-volumes, the network, prediction, scores.

Arrays are (x, y, z) as pynrrd reads them; batches are (sample, x, y, z, 1). A mask voxel equal to 0 is
positive: precipitate or pore. Method: Gaudez et al., J. Synchrotron Rad. 29 (2022) 1232,
doi 10.1107/S1600577522006816.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import permutations
from pathlib import Path
from typing import NamedTuple

import numpy as np

from engine.base.arrays import measureMoments, refuseNonFinite, slowestFirst
from engine.base.errors import PipelineError
from engine.formats.opening import openVolume
from engine.learning.regions import drawMoments
from engine.masks.targets import parseLabels as parseLabels
from engine.masks.targets import selectPositive
from engine.measures.scores import VoxelScores
from engine.measures.scores import dropVoxels as dropVoxels
from engine.measures.scores import scoreCounts as scoreCounts
from engine.network.devices import loadKeras
from engine.network.models import Weights, readArchitecture, readWeights
from engine.network.plan import VARIABLES, Layer, sizeOf, weightedLayers
from engine.prediction.job import Job
from engine.prediction.noData import NoDataSink
from engine.prediction.tasks import Range, Task
from engine.prediction.tiles import Sink, Stream, predictVolume
from engine.preparation.samples import Samples
from engine.volumes.volume import Volume

CUBE = (1.0, 1.0, 1.0)  # edge lengths of a voxel, in any unit
ROTATION_AXES = ((0, 1), (1, 2), (0, 2))  # published order of the axis pairs
SIDE_MULTIPLE = 8  # sides of sub-volumes: the published network halves them three times

# -------------------------------------------------------------------------------------------------- volumes


def readDataImage(fileRoot: str | Path, fileName: Sequence[str]) -> np.ndarray:
    """Read grey-value volumes of one shape.

    Parameters
    ----------
    fileRoot : str
        Folder, with or without a trailing slash.
    fileName : list of str
        Names of NRRD files in it.

    Returns
    -------
    array
        (file, x, y, z) in the files' own type; a single raw file stays on the disk, memory-mapped.

    Raises
    ------
    PipelineError
        A file is no readable 3D scalar NRRD, or the shapes differ.
    """
    return _stackVolumes([openVolume(Path(fileRoot) / name) for name in fileName])


def readDataMask(
    fileRoot: str | Path, fileName: Sequence[str], positiveLabel: Sequence[int] = (0,)
) -> np.ndarray:
    """Read manual masks of one shape.

    Parameters
    ----------
    fileRoot, fileName
        As for `readDataImage`.
    positiveLabel : sequence of int
        Labels that mean precipitate or pore; published: 0.

    Returns
    -------
    array
        (file, x, y, z) bool, True = positive.
    """
    return selectPositive(readDataImage(fileRoot, fileName), positiveLabel)


def _stackVolumes(volumes: list[Volume]) -> np.ndarray:
    """Read volumes into one array; a single one is not copied."""
    for volume in volumes:
        if volume.shape != volumes[0].shape:
            raise PipelineError(
                f"has another shape than {volumes[0].path.name}",
                file=volume.path,
                expected=volumes[0].shape,
                received=volume.shape,
            )
    if len(volumes) == 1:
        return volumes[0].read()[np.newaxis]
    return np.stack([volume.read() for volume in volumes])


def readDataToPredict(
    fileName: str | Path,
    x1: int | None = None,
    x2: int | None = None,
    y1: int | None = None,
    y2: int | None = None,
    z1: int | None = None,
    z2: int | None = None,
) -> np.ndarray:
    """Read a region of interest, z-scored over the whole region as published.

    Returns
    -------
    array
        (1, x, y, z, 1) float32 of mean 0 and standard deviation 1.

    Raises
    ------
    PipelineError
        No readable volume, a region outside it, voxels that are not finite.
    """
    volume = openVolume(fileName)
    region = volume.read(((x1, x2), (y1, y2), (z1, z2)))
    refuseNonFinite(region, fileName)
    return prep_img(region)[np.newaxis, ..., np.newaxis]


# -------------------------------------------------------------------------------------------- normalisation


def prep_img(x: np.ndarray, mean: float | None = None, std: float | None = None) -> np.ndarray:
    """Normalise grey values to (x - mean) / std.

    Parameters
    ----------
    x : array
        (x, y, z), any real type.
    mean, std : float, optional
        Statistics of a larger volume; default: those of x itself (published).

    Returns
    -------
    array
        float32, C order. Zeros where std is 0 (published: NaN).
    """
    if mean is None or std is None:
        mean, std = measureMoments(x)
    scale = np.float32(1 / std) if std > 0 else np.float32(0)
    normalised = np.empty(x.shape, np.float32)
    axis = 0 if x.flags.c_contiguous else 1  # tile by tile, as in copyInOrder: float64 stays in the cache
    for tile, result in zip(np.moveaxis(x, axis, 0), np.moveaxis(normalised, axis, 0), strict=True):
        np.subtract(np.ascontiguousarray(tile), mean, out=result, dtype=np.float64, casting="same_kind")
        result *= scale
    return normalised


# ---------------------------------------------------------------------------------------------- sub-volumes


def chooseSubVolumeSide(sides: Sequence[int], length: int) -> int:
    """Choose the side of the sub-volumes along one axis.

    Parameters
    ----------
    sides : sequence of int
        Side of every volume along the axis, voxels: all sub-volumes of a set share one shape.
    length : int
        Wanted side, a multiple of 8; 0 = as long as the shortest volume allows.

    Returns
    -------
    int
        `length`, or the largest multiple of 8 that fits into the shortest volume.

    Raises
    ------
    PipelineError
        `length` is no multiple of 8, or a volume is thinner than 8 voxels.
    """
    if length < 0 or length % SIDE_MULTIPLE:
        raise PipelineError("the side of a sub-volume must be a multiple of 8, or 0", received=length)
    largest = min(sides) // SIDE_MULTIPLE * SIDE_MULTIPLE
    if not largest:
        raise PipelineError("every side of a volume must have at least 8 voxels", received=min(sides))
    return min(length or largest, largest)


def placeSubVolumes(side: int, length: int, count: int, cover: bool = False) -> list[int]:
    """Place sub-volumes along one axis.

    Parameters
    ----------
    side, length : int
        Side of the volume and of a sub-volume, voxels.
    count : int
        Number of sub-volumes; 0 = as many as fit.
    cover : bool
        Add one anchored at the far edge where voxels would be left out.

    Returns
    -------
    list of int
        First voxel of each sub-volume.

    Raises
    ------
    PipelineError
        More sub-volumes are asked for than fit.
    """
    if count < 0 or count * length > side:
        raise PipelineError(
            f"{count} sub-volumes of {length} voxels do not fit into {side}",
            remedy=f"at most {side // length} fit",
        )
    starts = [index * length for index in range(count or side // length)]
    if cover and starts[-1] + length < side:
        starts.append(side - length)
    return starts


def cutSubVolumes(
    starts: Sequence[Sequence[int]], shape: Sequence[int], rotationCount: int = 1
) -> Iterator[tuple[tuple[slice, slice, slice], tuple[int, int] | None]]:
    """List the sub-volumes of one volume: where each lies and how it is turned (None: not at all)."""
    for corner in np.stack(np.meshgrid(*starts, indexing="ij"), axis=-1).reshape(-1, 3).tolist():
        place = tuple(slice(start, start + length) for start, length in zip(corner, shape, strict=True))
        for axes in (None, *ROTATION_AXES)[:rotationCount]:
            yield place, axes


def rotateSubVolume(
    subVolume: np.ndarray, axes: tuple[int, int] | None, voxel: Sequence[float] = CUBE
) -> np.ndarray:
    """Turn a sub-volume exactly: by 90 degrees, or by 180 where `quarterTurns` says so.

    Published: spline interpolation, which invents grey values and frays masks.
    """
    if axes is None:
        return subVolume
    return np.rot90(subVolume, quarterTurns(subVolume.shape, axes, voxel), axes)


def quarterTurns(shape: Sequence[int], axes: tuple[int, int], voxel: Sequence[float] = CUBE) -> int:
    """Quarter turns that keep the shape and the lengths: 1 for equal sides of array and voxel, else 2."""
    return 1 if shape[axes[0]] == shape[axes[1]] and areAlike(*(voxel[axis] for axis in axes)) else 2


def areAlike(first: float, second: float) -> bool:
    """Whether edge lengths of a voxel differ by at most 5 %: thick slices are not laid on their side."""
    return max(first, second) <= 1.05 * min(first, second)


# -------------------------------------------------------------------------------------------------- patches


def placePatch(
    generator: np.random.Generator,
    samples: Samples,
    patch: Sequence[int],
    isPositive: bool,
    index: int | None = None,
) -> tuple[int, tuple[slice, slice, slice]]:
    """Choose where a patch is cut: anywhere, or around a positive voxel, each of them equally often.

    Where not all voxels are labelled, a labelled one takes the place of any.

    Parameters
    ----------
    generator, samples : Generator, Samples
        Source of chance; sub-volumes to cut from.
    patch : three int
        Sides of the patch, voxels, at most those of a sub-volume.
    isPositive : bool
        Whether a positive voxel has to lie in the middle half of the patch, or as near to it as the edge
        allows. Without any positive voxel the patch lies anywhere (labelled).
    index : int, optional
        The sub-volume; default: any.

    Returns
    -------
    tuple
        Number of the sub-volume, and the patch in it.
    """
    candidates = np.arange(samples.count) if index is None else np.array([index])
    planes, find, isAround = samples.positives, samples.positiveVoxel, isPositive
    if samples.labels is not None and not (isPositive and planes[candidates].any()):
        planes, find, isAround = samples.labels, samples.labelledVoxel, True
    counts = planes[candidates].sum(axis=1)
    sides, patch = np.array(samples.sides), np.array(patch)
    if isAround and counts.any():
        index = int(generator.choice(candidates, p=counts / counts.sum()))
        voxel = find(index, int(generator.integers(planes[index].sum())))
        corner = voxel - generator.integers(patch // 4, -(-3 * patch // 4))
    else:
        index = int(generator.choice(candidates))
        corner = generator.integers(sides - patch + 1)
    corner = np.clip(corner, 0, sides - patch)
    return index, tuple(map(slice, corner.tolist(), (corner + patch).tolist()))


class Drawing(NamedTuple):
    """How a step's samples are drawn; the constants of trainingAndValidation.py."""

    seed: int
    batchSize: int
    stepsPerEpoch: int  # 0: an epoch takes every sub-volume once
    patchSide: int  # 0: whole sub-volumes
    positiveShare: float
    turns: bool
    greyScale: float
    greyOffset: float
    greyNoise: float
    regions: bool = False  # z-score by a random region around the patch
    voxels: tuple[tuple[float, ...], ...] = (CUBE,)  # edge lengths of those of all volumes, each in any unit

    def sidesOf(self, samples: Samples) -> tuple[int, ...]:
        """Sides of what is drawn from the sub-volumes, voxels."""
        return tuple(min(self.patchSide or side, side) for side in samples.sides)


def drawBatch(
    samples: Samples, drawing: Drawing, epoch: int, step: int, deviceCount: int = 1
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Draw the samples of one step; they follow from seed, epoch and step alone.

    Parameters
    ----------
    samples, drawing : Samples, Drawing
        Sub-volumes to draw from, and how.
    epoch, step : int
        Counted from 0.
    deviceCount : int
        Devices that share a step: a smaller last one is filled up with the first samples of the epoch.

    Returns
    -------
    list of (array, array)
        Grey values (x, y, z) float32 and mask, as `Samples.read` gives it.
    """
    generator = np.random.default_rng((drawing.seed, epoch, step))
    first, indices = step * drawing.batchSize, [None] * drawing.batchSize
    if not drawing.stepsPerEpoch:
        order = np.random.default_rng((drawing.seed, epoch)).permutation(samples.count)
        last = min(first + drawing.batchSize, samples.count)
        indices = np.resize(order, -(-last // deviceCount) * deviceCount)[first:]
    isPositive = spread(drawing.positiveShare, len(indices), generator)
    pairs = []
    for index, isAround in zip(indices, isPositive, strict=True):
        place = placePatch(generator, samples, drawing.sidesOf(samples), isAround, index)
        image, mask = samples.read(*place)
        if drawing.regions:
            image = prep_img(image, *drawMoments(generator, samples, *place))
        if drawing.turns:
            image, mask = turnPatch(generator, image, mask, voxels=drawing.voxels)
        image = varyGrey(generator, image, drawing.greyScale, drawing.greyOffset, drawing.greyNoise)
        pairs.append((image, mask))
    return pairs


def spread(share: float, count: int, generator: np.random.Generator) -> np.ndarray:
    """Choose a share of `count` as evenly as whole numbers allow; which ones is left to chance; bool."""
    return np.diff(np.floor(np.arange(count + 1) * share + generator.random())) > 0


def turnPatch(
    generator: np.random.Generator, *arrays: np.ndarray, voxels: Sequence[Sequence[float]] = (CUBE,)
) -> list[np.ndarray]:
    """Turn and reflect patches alike: one of the (at most 48) ways that keep their shape and all voxels'."""

    def isKept(order: tuple[int, ...]) -> bool:
        sides = all(shape[axis] == side for axis, side in zip(order, shape, strict=True))
        pairs = ((voxel[axis], side) for voxel in voxels for axis, side in zip(order, voxel, strict=True))
        return sides and all(areAlike(*pair) for pair in pairs)

    shape = arrays[0].shape
    orders = list(filter(isKept, permutations(range(3))))
    order = orders[generator.integers(len(orders))]
    backwards = tuple(slice(None, None, -1 if flip else 1) for flip in generator.integers(2, size=3))
    return [array.transpose(order)[backwards] for array in arrays]


def varyGrey(
    generator: np.random.Generator, image: np.ndarray, scale: float, offset: float, noise: float
) -> np.ndarray:
    """Vary contrast, brightness and noise of z-scored grey values.

    Parameters
    ----------
    image : array
        (x, y, z) float32.
    scale, offset : float
        Standard deviation of the logarithm of a common factor, and of what is added to all voxels.
    noise : float
        Largest standard deviation of white noise; each patch has its own, up to this one.
    """
    if not (scale or offset or noise):
        return image
    factor, shift, level = np.exp(scale * generator.normal()), offset * generator.normal(), generator.random()
    span = 12**0.5 * noise * level
    varied = np.multiply(image, np.float32(factor), order="C")
    varied += np.float32(shift - span / 2)
    if noise:  # of uniform values, in a fifth of the time of normal ones
        varied += generator.random(image.shape, np.float32) * np.float32(span)
    return varied


# ---------------------------------------------------------------------------------------------- the network


def describeUNet(base_depth: int = 8, levelCount: int = 4) -> list[Layer]:
    """Describe the published 3D U-Net, the one place that knows it.

    Parameters
    ----------
    base_depth : int
        Features of the first level; every level doubles them.
    levelCount : int
        Levels; the input is halved levelCount - 1 times.

    Returns
    -------
    list of Layer
        In data-flow order, so that weights of the published files load by order.

    Raises
    ------
    PipelineError
        No feature, no level, or more than 8 levels.
    """
    if base_depth < 1 or not 1 <= levelCount <= 8:
        rule = "the network needs base_depth >= 1 and 1 to 8 levels"
        raise PipelineError(rule, received=(base_depth, levelCount))
    plan = [Layer("Image_Input", "input")]

    def add(kind: str, name: str, *inputs: str, **sizes) -> str:
        plan.append(Layer(name, kind, inputs or (plan[-1].name,), **sizes))
        return name

    def addDoubleBlock(stage: str, filters: int) -> str:
        for index in (1, 2):
            add("convolution", f"{stage}_convolution{index}", filters=filters, kernel=3)
            add("normalisation", f"{stage}_normalisation{index}")
            add("relu", f"{stage}_relu{index}")
        return plan[-1].name

    skips = []
    for level in range(levelCount):
        if level:
            add("pool", f"pool{level}")
        skips.append(addDoubleBlock(f"down{level + 1}", base_depth << level))
    for level in reversed(range(levelCount - 1)):
        upSampled = add("upSample", f"upSample{level + 1}")
        add("concatenate", f"concatenate{level + 1}", skips[level], upSampled)
        addDoubleBlock(f"up{level + 1}", base_depth << level)
    add("convolution", "probability", filters=1, kernel=1, activation="sigmoid")
    return plan


def buildSpotUNet(base_depth: int = 8, levelCount: int = 4, makers: dict | None = None):
    """Build the published 3D U-Net as a Keras model; `makers` of other layers that do the same, by kind.

    Returns
    -------
    keras.Model
        (sample, x, y, z, 1) -> (sample, x, y, z, 1) probability of precipitate or pore; 366,593 parameters
        for the published base depth of 8. Sides must be multiples of 2 ** (levelCount - 1).
    """
    first, *others = describeUNet(base_depth, levelCount)
    keras = loadKeras()
    build = {
        "convolution": lambda layer: keras.layers.Conv3D(
            layer.filters,
            layer.kernel,
            padding="same",
            activation=layer.activation,
            name=layer.name,
            dtype=None if layer.activation == "linear" else "float32",
        ),
        "normalisation": lambda layer: keras.layers.BatchNormalization(name=layer.name),
        "relu": lambda layer: keras.layers.ReLU(name=layer.name),
        "pool": lambda layer: keras.layers.MaxPooling3D(2, name=layer.name),
        "upSample": lambda layer: keras.layers.UpSampling3D(2, name=layer.name),
        "concatenate": lambda layer: keras.layers.Concatenate(name=layer.name),
    } | (makers or {})
    tensors = {first.name: keras.Input((None, None, None, 1), name=first.name)}
    for layer in others:
        inputs = [tensors[name] for name in layer.inputs]
        tensors[layer.name] = build[layer.kind](layer)(inputs if len(inputs) > 1 else inputs[0])
    return keras.Model(tensors[first.name], tensors[others[-1].name], name="U-net_model")


def readModel(modelFile: str | Path, weightFile: str | Path | None = None) -> tuple[list[Layer], Weights]:
    """Read a network from files of Keras 2 or 3, executing nothing in them.

    Parameters
    ----------
    modelFile : path
        Tells depth and width; full model or weights alone.
    weightFile : path, optional
        Weights that replace those of `modelFile`, as published.

    Raises
    ------
    PipelineError
        A damaged file or another architecture (which layer, which shape).
    """
    plan = describeUNet(*readArchitecture(modelFile))
    weights = readWeights(modelFile, plan)  # refused too where it is another network with the same kernels
    return plan, readWeights(weightFile, plan) if weightFile else weights


def buildModel(plan: list[Layer], weights: Weights):
    """Build the Keras model of a plan and set its weights."""
    model = buildSpotUNet(*sizeOf(plan))
    setWeights(model, plan, weights)
    return model


def setWeights(model, plan: list[Layer], weights: Weights) -> None:
    """Set every variable of a Keras model from arrays."""
    for layer in weightedLayers(plan):
        model.get_layer(layer.name).set_weights([weights[layer.name][name] for name in VARIABLES[layer.kind]])


# ----------------------------------------------------------------------------------------------- prediction


def predictProbability(
    volume: Volume, job: Job, stream: Stream, sink: Sink, tasks: Sequence[Task] | None = None
) -> None:
    """Predict the probability of every voxel of a region, equal to one pass of the network over all of it.

    Parameters
    ----------
    volume : Volume
        Grey values, read slab by slab.
    job : Job
        region: half-open ranges along x, y, z of any length (sides that the network cannot halve are extended
        by mirroring at the far end, and what was added is left out again); moments: mean and standard
        deviation of the z-score, of the region (published) or of the whole volume; geometry and layout: the
        region as (plane z, row y, column x), and how it is cut.
    stream : Stream
        The network on a back end.
    sink : Sink
        Takes float32 probabilities (z, y, x).
    tasks : sequence of Task, optional
        Parts of the region; default: all of it. What the sink has already is left out.
    """
    (left, _), (top, _), (first, last) = job.region
    scale = job.scale
    if scale.noData is not None:
        sink = NoDataSink(sink, volume, job.region, scale.noData)

    def readPlanes(plane: int, rows: Range, columns: Range, slab: int) -> Iterator[np.ndarray]:
        part = (left + columns[0], left + columns[1]), (top + rows[0], top + rows[1]), (first + plane, last)
        for block in volume.slabs(part, slab):  # (x, y, z)
            yield prep_img(scale.mend(block).T, scale.mean, scale.std)  # (z, y, x)

    predictVolume(readPlanes, job.geometry, job.layout, stream, sink, tasks)


# --------------------------------------------------------------------------------------------------- scores


def scoreVoxels(probability: np.ndarray, reference: np.ndarray, threshold: float = 0.5) -> dict[str, float]:
    """Score a prediction against a manual mask, voxel by voxel.

    Parameters
    ----------
    probability : array
        (x, y, z) in 0..1.
    reference : array
        (x, y, z) bool, True = precipitate or pore.
    threshold : float
        Probability from which on a voxel counts as positive.

    Returns
    -------
    dict
        tp, fp, fn, tn (counts), precision, recall, dice, iou.
    """
    references = np.moveaxis(reference, int(np.argmax(np.abs(probability.strides))), 0)
    return scoreBlocks(zip(slowestFirst(probability), references, strict=True), threshold)


def scoreBlocks(blocks: Iterable[tuple[np.ndarray, np.ndarray]], threshold: float = 0.5) -> dict[str, float]:
    """Score a prediction that comes block by block: pairs of probability and reference, as `scoreVoxels`."""
    scores = VoxelScores(threshold)
    for probability, reference in blocks:
        scores.add(0, probability, reference)
    return scores.finish()
