"""Labels, particles and scores of a volume: ours slab by slab beside scikit-image in memory.

    pip install -r benchmarks/requirements.txt
    python3 benchmarks/results.py

From a probability on the disk and a manual mask to labels on the disk, a table of particles and scores. The
peer reads everything, labels with skimage.measure.label, measures with regionprops_table and matches by the
overlap table, as one would write it in a notebook; this gives neither surfaces nor neighbours, so a second
peer adds them (marching cubes, a tree of the centroids). Neither draws the curves over all thresholds that
are part of ours. All run as processes of their own, in turn.
"""

import argparse
import functools
import json
import sys
import tempfile
import time
from pathlib import Path

import measure
import numpy as np

from engine.base.console import Stopwatch, say
from engine.base.workers import openWorkers
from engine.formats.nrrdWriter import openPlanes
from engine.formats.opening import openVolume
from engine.masks.targets import PUBLISHED
from engine.results.evaluation import Criteria, Evaluation, Page
from engine.results.judging import Written, evaluate
from engine.results.looks import Looks

SLAB = 16
RADII = (2.0, 6.0)  # voxels
GEOMETRY = {"spacings": np.full(3, 0.05), "units": ["um"] * 3}
PROPERTIES = ("label", "num_pixels", "area", "centroid", "bbox", "equivalent_diameter_area")
PROPERTIES += ("axis_major_length", "axis_minor_length", "mean_intensity", "min_intensity")


def writeVolumes(folder: Path, side: int, particleCount: int) -> None:
    """Write a probability with so many balls, and a manual mask in which every tenth is missing."""
    generator = np.random.default_rng(1)
    shape = (side,) * 3
    centres = generator.uniform(8, side - 8, (particleCount, 3))
    radii = generator.uniform(*RADII, particleCount)
    order = np.argsort(centres[:, 2])
    centres, radii = centres[order], radii[order]
    header = dict(GEOMETRY)
    with (
        openPlanes(folder / "probability.nrrd", shape, "float32", header, "raw") as writeProbability,
        openPlanes(folder / "mask.nrrd", shape, "uint8", header, "raw") as writeMask,
    ):
        for first in range(0, side, SLAB):
            depth = min(SLAB, side - first)
            probability = generator.uniform(0, 0.2, (depth, side, side)).astype(np.float32)
            mask = np.full((depth, side, side), 255, np.uint8)
            near = np.flatnonzero(np.abs(centres[:, 2] - first - depth / 2) < depth / 2 + RADII[1])
            for number in near:
                paintBall(probability, mask, centres[number] - (0, 0, first), radii[number], number % 10 > 0)
            writeProbability(probability)
            writeMask(mask)


def paintBall(
    probability: np.ndarray, mask: np.ndarray, centre: np.ndarray, radius: float, isLabelled: bool
) -> None:
    """Paint one ball into a slab (z, y, x)."""
    low = np.maximum(np.floor(centre - radius).astype(int), 0)
    high = np.minimum(np.ceil(centre + radius).astype(int) + 1, probability.shape[::-1])
    if (low >= high).any():
        return
    z, y, x = (np.arange(a, b) for a, b in zip(low[::-1], high[::-1], strict=True))
    squares = (z - centre[2])[:, None, None] ** 2 + (y - centre[1])[:, None] ** 2 + (x - centre[0]) ** 2
    box = tuple(slice(a, b) for a, b in zip(low[::-1], high[::-1], strict=True))
    probability[box][squares <= radius**2] = 0.9
    if isLabelled:
        mask[box][squares <= (radius - 0.3) ** 2] = 0


def runOurs(folder: Path, processCount: int = 1) -> dict:
    """Do what predictData.py does after the prediction."""
    result, reference = openVolume(folder / "probability.nrrd"), openVolume(folder / "mask.nrrd")
    region = tuple((0, side) for side in result.shape)
    ends = {"labels": "nrrd", "particles": "csv", "summary": "json", "scores": "scores", "errors": "errors"}
    paths = {kind: folder / f"ours.{ending}" for kind, ending in ends.items()}
    written = Written(result.path, result, region, {}, 0, {})
    looks, page = Looks(result.shape, (), True), Page("probability.nrrd", "", {})
    evaluation = Evaluation(PUBLISHED, Criteria(0.5, 26, 1), reference, paths, looks, page)
    with openWorkers(processCount) as workers:
        counts = evaluate(written, evaluation, workers, say, Stopwatch())
    summary, scores = (json.loads(paths[kind].read_text()) for kind in ("summary", "scores"))
    iou = {f"{row['threshold']:g}": row["matched"] for row in scores["particles"]["iou"]}
    return {"particles": summary["all"]["particles"], "dice": counts["dice"], "matched": iou["0.5"]}


def runPeer(folder: Path, hasSurfaces: bool = False) -> dict:
    """Do the same in memory with scikit-image."""
    import csv

    import nrrd
    from skimage.measure import label, regionprops_table

    probability, header = nrrd.read(str(folder / "probability.nrrd"))
    mask, _ = nrrd.read(str(folder / "mask.nrrd"))
    positive, truth = probability >= 0.5, mask == 0
    labels, others = label(positive, connectivity=3), label(truth, connectivity=3)
    spacing = tuple(header["spacings"])
    table = regionprops_table(labels, probability, properties=PROPERTIES, spacing=spacing)
    if hasSurfaces:
        table |= measureSurfaces(labels, table, spacing)
    manual = regionprops_table(others, properties=PROPERTIES[:6], spacing=spacing)
    nrrd.write(str(folder / "peer.nrrd"), labels.astype(np.uint32), header, compression_level=1)
    with open(folder / "peer.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(table)
        writer.writerows(zip(*table.values(), strict=True))
    both = np.count_nonzero(positive & truth)
    dice = 2 * both / (np.count_nonzero(positive) + np.count_nonzero(truth))
    keys = labels[positive & truth].astype(np.int64) * (others.max() + 1) + others[positive & truth]
    pairs, voxels = np.unique(keys, return_counts=True)
    first, second = np.divmod(pairs, others.max() + 1)
    union = table["num_pixels"][first - 1] + manual["num_pixels"][second - 1] - voxels
    matched = int(np.count_nonzero(voxels / union >= 0.5))  # nearly always the only one
    return {"particles": int(labels.max()), "dice": dice, "matched": matched}


def measureSurfaces(labels: np.ndarray, table: dict, spacing: tuple) -> dict:
    """Measure what regionprops_table does not: surfaces, and distances to the nearest neighbour."""
    from scipy.spatial import cKDTree
    from skimage.measure import marching_cubes, mesh_surface_area, regionprops

    areas = []
    for region in regionprops(labels):
        vertices, faces, _, _ = marching_cubes(np.pad(region.image, 1), 0.5, spacing=spacing)
        areas.append(mesh_surface_area(vertices, faces))
    centroids = np.stack([table[f"centroid-{axis}"] for axis in range(3)], axis=1)
    distances, _ = cKDTree(centroids).query(centroids, k=2)
    return {"surface": np.array(areas), "neighbour": distances[:, 1]}


SIDES = {
    "scikit-image in memory": runPeer,
    "the same with surfaces": functools.partial(runPeer, hasSurfaces=True),
    "slab by slab": runOurs,
    "by two processes": functools.partial(runOurs, processCount=2),
}
OURS = "slab by slab", "by two processes"


def parseArguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[512, 1024], help="side of the volume")
    parser.add_argument("--peerLimit", type=int, default=512, help="largest side that the peer gets")
    parser.add_argument("--density", type=float, default=20000 / 512**3, help="particles per voxel")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--task", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help="of the volumes; default: a temporary one")
    return parser.parse_args(argv)


def compare(folder: Path, side: int, arguments: argparse.Namespace) -> None:
    """Print the rows of one size."""
    particleCount = round(arguments.density * side**3)
    writeVolumes(folder, side, particleCount)
    script = [sys.executable, __file__, "--folder", str(folder), "--task"]
    names = [name for name in SIDES if side <= arguments.peerLimit or name in OURS]
    runs = measure.runInTurn({name: [*script, name] for name in names}, folder, arguments.repeats)
    answers = {name: json.loads((folder / f"{name}.json").read_text()) for name in names}
    first = measure.median(runs[names[0]], "seconds")
    for name in names:
        seconds, answer = measure.median(runs[name], "seconds"), answers[name]
        ratio = f"{first / seconds:.1f}" if len(names) > 1 else ""
        cells = [f"{side}^3", name, f"{answer['particles']}", f"{answer['matched']}", f"{answer['dice']:.6f}"]
        cells += [
            f"{seconds:.1f}",
            f"{side**3 / 1e6 / seconds:.1f}",
            f"{measure.median(runs[name], 'peakGiB'):.2f}",
        ]
        print(f"| {' | '.join([*cells, ratio])} |", flush=True)


def main(arguments: argparse.Namespace) -> None:
    """Print the table, or do the task of one side."""
    if arguments.task:
        begin = time.perf_counter()
        answer = SIDES[arguments.task](arguments.folder)
        answer["seconds"] = time.perf_counter() - begin
        (arguments.folder / f"{arguments.task}.json").write_text(json.dumps(answer))
        return
    print(f"{measure.describeMachine()}; median of {arguments.repeats} after a warm-up\n")
    names = "particles | matched at IoU 0.5 | Dice | seconds | Mvoxel/s | peak GiB | speed ratio"
    print(f"| volume | side | {names} |\n{'|---' * 9}|")
    for side in arguments.sizes:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            compare(Path(folder), side, arguments)


if __name__ == "__main__":
    main(parseArguments())
