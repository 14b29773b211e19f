"""The science of the pipeline, in data-flow order: volumes, sub-volumes, the network, prediction, scores.

Arrays are (x, y, z) as pynrrd reads them; batches are (sample, x, y, z, 1). A mask voxel equal to 0 is
positive: precipitate or pore. Method: Gaudez et al., J. Synchrotron Rad. 29 (2022) 1232,
doi 10.1107/S1600577522006816.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from engine.devices import loadKeras
from engine.errors import PipelineError
from engine.layout import Geometry, Layout
from engine.models import Weights, readArchitecture, readWeights
from engine.nrrdFiles import NrrdVolume, openVolume
from engine.plan import VARIABLES, Layer, sideMultiple, weightedLayers
from engine.prediction import Sink, Stream, predictVolume

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


def selectPositive(mask: np.ndarray, positiveLabel: Sequence[int] = (0,)) -> np.ndarray:
    """Select the voxels that a mask labels as precipitate or pore; bool of the mask's shape."""
    positive = mask == positiveLabel[0]
    for label in positiveLabel[1:]:
        positive |= mask == label
    return positive


def parseLabels(labels: str | Sequence[int]) -> list[int]:
    """Read one label or several: "0", "1,2" or a list of numbers; PipelineError for anything else."""
    try:
        return [int(label) for label in (labels.split(",") if isinstance(labels, str) else labels)]
    except ValueError:
        rule = "positiveLabel must be whole numbers separated by commas"
        raise PipelineError(rule, received=repr(labels)) from None


def _stackVolumes(volumes: list[NrrdVolume]) -> np.ndarray:
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


def refuseNonFinite(image: np.ndarray, fileName: str | Path) -> None:
    """Raise PipelineError naming the file and the number of voxels that are NaN or infinite."""
    for _ in countNonFinite(slowestFirst(image), fileName):
        pass


def countNonFinite(blocks: Iterable[np.ndarray], fileName: str | Path) -> Iterator[np.ndarray]:
    """Pass blocks of a volume on; raise PipelineError after the last one if voxels were NaN or infinite."""
    count = 0
    for block in blocks:
        if block.dtype.kind == "f":
            count += block.size - int(np.count_nonzero(np.isfinite(block)))
        yield block
    if count:
        raise PipelineError(
            f"{count} voxels are NaN or infinite",
            file=fileName,
            remedy="replace them by a grey value and repeat",
        )


# -------------------------------------------------------------------------------------------- normalisation


def slowestFirst(image: np.ndarray) -> np.ndarray:
    """View whose first axis has the largest stride, so that a loop over it walks through memory in order."""
    return np.moveaxis(image, int(np.argmax(np.abs(image.strides))), 0)


def copyInOrder(image: np.ndarray) -> np.ndarray:
    """Copy to C order, (x, z) tile by tile: they fit the cache.

    5 times faster than np.ascontiguousarray on a 192x192x128 cut of a uint16 volume in file order, which took
    half of the time of prepareData.py (benchmarks/preparation.py).
    """
    copy = np.empty(image.shape, image.dtype)
    for y in range(image.shape[1]):
        copy[:, y] = image[:, y]
    return copy


def measureMoments(image: np.ndarray) -> tuple[float, float]:
    """Measure mean and standard deviation in float64, plane by plane: no copy of the volume is made."""
    return mergeMoments(slowestFirst(image))


def mergeMoments(blocks: Iterable[np.ndarray]) -> tuple[float, float]:
    """Measure mean and standard deviation of a volume that comes block by block, in one pass.

    Source: Chan, Golub & LeVeque, Am. Stat. 37 (1983) 242, doi 10.1080/00031305.1983.10483115; a sum of
    squares minus the squared mean would cancel.
    """
    count, mean, squares = 0, 0.0, 0.0
    for block in blocks:
        values = block.astype(np.float64).ravel(order="K")
        middle = float(values.mean())
        with np.errstate(invalid="ignore"):  # infinite grey values: refused by `countNonFinite`
            values -= middle
        difference, known = middle - mean, count
        count += values.size
        mean += difference * values.size / count
        squares += float(values @ values) + difference**2 * known * values.size / count
    return mean, (squares / count) ** 0.5


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


def rotateSubVolume(subVolume: np.ndarray, axes: tuple[int, int] | None) -> np.ndarray:
    """Turn a sub-volume exactly: by 90 degrees, or by 180 where the two sides differ and the shape must stay.

    Published: spline interpolation, which invents grey values and frays masks.
    """
    if axes is None:
        return subVolume
    return np.rot90(subVolume, quarterTurns(subVolume.shape, axes), axes)


def quarterTurns(shape: Sequence[int], axes: tuple[int, int]) -> int:
    """Quarter turns that keep the shape: 1 for equal sides, else 2."""
    return 1 if shape[axes[0]] == shape[axes[1]] else 2


# -------------------------------------------------------------------------------------------- learning data


def readLearningData(folder: str | Path, part: str, plan: list[Layer]) -> tuple[np.ndarray, np.ndarray]:
    """Open the sub-volumes that prepareData.py wrote, memory-mapped, and check that they can be learnt.

    Parameters
    ----------
    folder : path
        Usually pythonFiles/.
    part : str
        training or validation.
    plan : list of Layer
        The network to train.

    Returns
    -------
    tuple of array
        Images (sample, x, y, z, 1) float32 and masks, bool, of the same shape.

    Raises
    ------
    PipelineError
        A file is missing, damaged or of another type; shapes differ; sides that the network cannot halve.
    """
    images, masks = (openArray(Path(folder) / f"{part}Data{kind}.npy") for kind in ("Image", "Mask"))
    file, multiple = Path(folder) / f"{part}DataImage.npy", sideMultiple(plan)
    if images.shape != masks.shape:
        raise PipelineError(
            "images and masks differ in shape", file=file, received=f"{images.shape} and {masks.shape}"
        )
    if images.ndim != 5 or images.shape[-1] != 1 or not images.size:
        raise PipelineError(
            "is no set of sub-volumes", file=file, expected="(sample, x, y, z, 1)", received=images.shape
        )
    if images.dtype != np.float32 or masks.dtype != bool:
        raise PipelineError(
            "another type",
            file=file,
            expected="float32 and bool",
            received=f"{images.dtype} and {masks.dtype}",
        )
    if any(side % multiple for side in images.shape[1:4]):
        raise PipelineError(
            f"this network halves every side {multiple.bit_length() - 1} times",
            file=file,
            expected=f"multiples of {multiple}",
            received=images.shape[1:4],
            remedy="prepare other sub-volumes or train with a smaller --levelCount",
        )
    return images, masks


def openArray(path: Path) -> np.ndarray:
    """Memory-map an .npy file; objects in it are never unpickled."""
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise PipelineError("no such file", file=path, remedy="run prepareData.py first") from error
    except (OSError, ValueError, EOFError) as error:
        raise PipelineError(f"is no readable .npy file: {error}", file=path) from error


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
        raise PipelineError(
            "the network needs base_depth >= 1 and 1 to 8 levels", received=(base_depth, levelCount)
        )
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


def buildSpotUNet(base_depth: int = 8, levelCount: int = 4):
    """Build the published 3D U-Net as a Keras model.

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
            layer.filters, layer.kernel, padding="same", activation=layer.activation, name=layer.name
        ),
        "normalisation": lambda layer: keras.layers.BatchNormalization(name=layer.name),
        "relu": lambda layer: keras.layers.ReLU(name=layer.name),
        "pool": lambda layer: keras.layers.MaxPooling3D(2, name=layer.name),
        "upSample": lambda layer: keras.layers.UpSampling3D(2, name=layer.name),
        "concatenate": lambda layer: keras.layers.Concatenate(name=layer.name),
    }
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
    weights = readWeights(modelFile, plan)
    return plan, readWeights(weightFile, plan) if weightFile else weights


def buildModel(plan: list[Layer], weights: Weights):
    """Build the Keras model of a plan and set its weights."""
    width = next(layer.filters for layer in plan if layer.kind == "convolution")
    levelCount = sum(layer.kind == "pool" for layer in plan) + 1
    model = buildSpotUNet(width, levelCount)
    setWeights(model, plan, weights)
    return model


def setWeights(model, plan: list[Layer], weights: Weights) -> None:
    """Set every variable of a Keras model from arrays."""
    for layer in weightedLayers(plan):
        model.get_layer(layer.name).set_weights([weights[layer.name][name] for name in VARIABLES[layer.kind]])


# ----------------------------------------------------------------------------------------------- prediction


def predictProbability(
    volume: NrrdVolume,
    region: Sequence[tuple[int, int]],
    moments: tuple[float, float],
    geometry: Geometry,
    layout: Layout,
    stream: Stream,
    sink: Sink,
) -> None:
    """Predict the probability of every voxel of a region, equal to one pass of the network over all of it.

    Parameters
    ----------
    volume : NrrdVolume
        Grey values, read slab by slab.
    region : three (start, stop) pairs
        Half-open ranges along x, y, z; any side length: sides that the network cannot halve are extended by
        mirroring at the far end, and what was added is left out again.
    moments : tuple of float
        Mean and standard deviation of the region: the published z-score.
    geometry, layout
        The region as (plane z, row y, column x), and how it is cut.
    stream : Stream
        The network on a back end.
    sink : Sink
        Takes float32 probabilities (z, y, x).
    """
    (left, _), (top, _), (first, last) = region

    def readPlanes(
        plane: int, rows: tuple[int, int], columns: tuple[int, int], slab: int
    ) -> Iterator[np.ndarray]:
        part = (left + columns[0], left + columns[1]), (top + rows[0], top + rows[1]), (first + plane, last)
        for block in volume.slabs(part, slab):  # (x, y, z)
            yield prep_img(block.T, *moments)  # (z, y, x)

    predictVolume(readPlanes, geometry, layout, stream, sink)


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
    tp = fp = fn = size = 0
    for probability, reference in blocks:
        positive = probability >= threshold
        tp += int(np.count_nonzero(positive & reference))
        fp += int(np.count_nonzero(positive & ~reference))
        fn += int(np.count_nonzero(~positive & reference))
        size += reference.size
    return {"tp": tp, "fp": fp, "fn": fn, "tn": size - tp - fp - fn} | scoreCounts(tp, fp, fn)


def scoreCounts(tp: float, fp: float, fn: float) -> dict[str, float]:
    """Compute precision, recall, Dice and IoU from counts; NaN where nothing is positive."""

    def share(part: float, whole: float) -> float:
        return part / whole if whole else float("nan")

    return {
        "precision": share(tp, tp + fp),
        "recall": share(tp, tp + fn),
        "dice": share(2 * tp, 2 * tp + fp + fn),
        "iou": share(tp, tp + fp + fn),
    }
