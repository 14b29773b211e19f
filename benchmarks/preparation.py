"""Time and memory of prepareData.py against the published procedure, whole commands on the same volume.

    python3 benchmarks/preparation.py

Input: a synthetic 1024x1024x128 uint16 volume (raw NRRD) with its mask. Published procedure, written plainly:
read everything, cut 5x5 sub-volumes of 192x192x128, z-score each, turn it through spline interpolation, keep
all in memory, save. Ours without a turned copy (the published default as its comment means it) and with one
(`nb_rotation` 2: twice the sub-volumes).
"""

import argparse
import sys
import tempfile
from pathlib import Path

import measure
import nrrd
import numpy as np

SHAPE = (1024, 1024, 128)
LENGTH, COUNT = 192, 5  # published side and number of the sub-volumes along x and y


def preparePublished(folder: Path) -> None:
    """Do what the published code does: everything in memory, spline rotation of every sub-volume."""
    from scipy.ndimage import rotate

    for part in ("training", "validation"):
        image = nrrd.read(str(folder / f"{part}Images" / "data.nrrd"))[0]
        mask = nrrd.read(str(folder / f"{part}Masks" / "segm.nrrd"))[0] == 0
        images, masks = [], []
        for x in range(0, image.shape[0] - LENGTH + 1, LENGTH):
            for y in range(0, image.shape[1] - LENGTH + 1, LENGTH):
                cut = image[x : x + LENGTH, y : y + LENGTH]
                cut = ((cut - np.mean(cut)) / np.std(cut)).astype(np.float32)
                images.append(rotate(cut, 90, axes=(0, 1))[..., np.newaxis])
                label = mask[x : x + LENGTH, y : y + LENGTH].astype(np.float32)
                masks.append(rotate(label, 90, axes=(0, 1))[..., np.newaxis] > 0.5)
        np.save(folder / "published" / f"{part}DataImage.npy", np.array(images))
        np.save(folder / "published" / f"{part}DataMask.npy", np.array(masks))


def makeInput(folder: Path) -> None:
    """Write the volume, and a thin one for validation so that it hardly counts."""
    generator = np.random.default_rng(0)
    for part, shape in (("training", SHAPE), ("validation", (LENGTH, LENGTH, 8))):
        for kind in ("Images", "Masks"):
            (folder / f"{part}{kind}").mkdir()
        image = generator.integers(20000, 40000, shape, np.uint16)
        header = {"encoding": "raw"}
        nrrd.write(str(folder / f"{part}Images" / "data.nrrd"), np.asfortranarray(image), header)
        mask = np.asfortranarray(np.where(image < 20200, 0, 255).astype(np.uint8))
        nrrd.write(str(folder / f"{part}Masks" / "segm.nrrd"), mask, header)
    for name in ("published", "ours", "turned"):
        (folder / name).mkdir()


def listCommands(folder: Path) -> dict[str, list[str]]:
    """List what is compared."""
    ours = [sys.executable, str(measure.ROOT / "prepareData.py"), "--force"]
    for part in ("training", "validation"):
        for kind in ("Images", "Masks"):
            ours += [f"--{part}{kind}", str(folder / f"{part}{kind}")]
    return {
        "published procedure": [sys.executable, __file__, "--published", str(folder)],
        "prepareData.py": [*ours, "--learningData", str(folder / "ours")],
        "prepareData.py --nb_rotation 2": [
            *ours,
            "--nb_rotation",
            "2",
            "--learningData",
            str(folder / "turned"),
        ],
    }


def main(arguments: argparse.Namespace) -> None:
    """Measure and print the table."""
    if arguments.published:
        preparePublished(arguments.published)
        return
    if arguments.makeInput:
        makeInput(arguments.makeInput)
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        # in a process of its own: a child's peak memory starts at that of its parent
        measure.runCommand([sys.executable, __file__, "--makeInput", str(folder)], folder)
        runs = measure.runInTurn(listCommands(folder), folder, arguments.repeats)
    print(f"{measure.describeMachine()}; median of {arguments.repeats} after a warm-up\n")
    print("| command | sub-volumes | seconds | sub-volumes/s | Mvoxel/s | peak GiB | speed ratio |")
    print("|---|---|---|---|---|---|---|")
    base = None
    for command, results in runs.items():
        count = COUNT**2 * (2 if "nb_rotation" in command else 1)
        seconds = measure.median(results, "seconds")
        speed = count * LENGTH**2 * SHAPE[2] / seconds / 1e6
        base = base or speed
        print(
            f"| {command} | {count} | {seconds:.2f} | {count / seconds:.2f} | {speed:.1f} | "
            f"{measure.median(results, 'peakGiB'):.2f} | {speed / base:.1f} |"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=None, help="for the 2 GB of temporary files")
    parser.add_argument("--published", type=Path, default=None, help=argparse.SUPPRESS)
    parser.add_argument("--makeInput", type=Path, default=None, help=argparse.SUPPRESS)
    main(parser.parse_args())
