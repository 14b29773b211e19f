"""A report in one HTML file that opens from disk: slices, table of particles, curves."""

import base64
import gzip
import html
import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from engine.base.files import writeAtomically
from engine.base.records import finite
from engine.base.words import SURROGATES, printable
from engine.results.looks import Preview, chooseFactor
from engine.volumes.frame import METRES, Frame

TEMPLATE = Path(__file__).with_name("report.html")
ROW_LIMIT = 3000  # particles in its table
BIN_LIMIT = 40  # of the histogram
SHOWN_RANGE = (0.2, 99.8)  # percentiles of the grey values between black and white
COLUMNS = {
    "label": "number",
    "voxelCount": "voxels",
    "equivalentDiameter": "diameter",
    "volume": "volume",
    "elongation": "elongation",
    "sphericity": "sphericity",
    "meanProbability": "mean probability",
    "nearestNeighbour": "nearest neighbour",
    "touchesBorder": "at the border",
}
HIDDEN = ("x_voxel", "y_voxel", "z_voxel", "x1", "y1", "z1", "x2", "y2", "z2")


def packVolumes(previews: dict[str, Preview]) -> dict[str, np.ndarray]:
    """Turn previews of grey values, probability and masks into what the page reads: (z, y, x) uint8."""
    volumes = {}
    for name, preview in previews.items():
        values = preview.finish()
        if name == "grey":
            volumes[name] = scaleGrey(values)
        elif name == "probability":
            volumes[name] = np.rint(values * 255).astype(np.uint8)
        else:
            volumes[name] = (values >= 0.5).astype(np.uint8)
    return volumes


def scaleGrey(grey: np.ndarray) -> np.ndarray:
    """Scale grey values to 0..255, a few outliers cut off."""
    low, high = np.percentile(grey, SHOWN_RANGE)
    return np.clip((grey - low) / max(high - low, 1e-30) * 255, 0, 255).astype(np.uint8)


def listRows(
    table: dict[str, np.ndarray], truth: dict[str, np.ndarray] | None, errors: dict[str, np.ndarray] | None
) -> tuple[list[dict[str, Any]], int]:
    """List the largest of the predicted and the missed particles as rows; gives also how many there are.

    Only predicted particles have a number: no file holds those of the manual mask.
    """
    names, count = (*COLUMNS, *HIDDEN), len(table["label"])
    parts, kinds = [table], np.full(count, "found", object)
    if errors is not None:
        kinds[errors["label"][errors["kind"] == "false positive"] - 1] = "false positive"
        missed = errors["label"][errors["kind"] == "miss"] - 1
        parts.append({name: truth[name][missed] for name in names})
        kinds = np.concatenate([kinds, np.full(len(missed), "miss", object)])
    columns = {name: np.concatenate([part[name] for part in parts]) for name in names}
    chosen = np.argsort(-columns["voxelCount"], kind="stable")[:ROW_LIMIT]
    rows = zip(*(columns[name][chosen].tolist() for name in names), strict=True)
    shortened = [dict(zip(names, map(_shorten, row), strict=True)) for row in rows]
    found = [{"kind": kind} | row for kind, row in zip(kinds[chosen], shortened, strict=True)]
    return [row | {"label": ""} if row["kind"] == "miss" else row for row in found], len(kinds)


def _shorten(value: float | int | bool) -> float | int:
    """Six digits are enough for a report."""
    return float(f"{value:.6g}") if isinstance(value, float) else int(value)


def describeHistogram(diameters: np.ndarray) -> dict[str, list]:
    """Count the particles by size."""
    if not len(diameters):
        return {"edges": [0.0, 1.0], "counts": [0]}
    ends = diameters.min(), diameters.max()
    if ends[0] == ends[1]:
        ends = ends[0] / 2, ends[1] * 1.5
    counts, edges = np.histogram(diameters, min(BIN_LIMIT, max(5, int(2 * len(diameters) ** 0.5))), ends)
    return {"edges": edges.tolist(), "counts": counts.tolist()}


def scaleDensity(density: float, unit: str) -> tuple[float, str]:
    """Give a number per unit³ in the smallest unit of length in which it is no tiny number."""
    known = METRES.get(unit)
    for name in ("nm", "µm", "mm") if known else ():
        scaled = density * (METRES[name] / known) ** 3
        if scaled >= 0.1:
            return scaled, name
    return density, unit


def describeFigures(summary: dict, scores: dict | None, part: str) -> list[tuple[str, str, str]]:
    """Name, value and remark of the key figures."""
    whole, inner, unit = summary["all"], summary["withoutBorder"], summary["unit"]
    density, length = scaleDensity(whole["numberDensity"], unit)
    figures = [
        ("particles", f"{whole['particles']}", f"{inner['particles']} do not touch the border"),
        ("volume fraction", f"{whole['volumeFraction']:.3%}", f"of the {part}"),
        ("number density", f"{density:.3g}", f"per {length}³" if length else "per cube of the header's unit"),
    ]
    if whole["particles"]:
        low, middle, high = whole["diameterQuartiles"]
        quartiles = f"quartiles {low:.4g} and {high:.4g}"
        figures.append(("median diameter", f"{middle:.4g} {unit}".strip(), quartiles))
    if scores:
        voxels, particles = scores["voxels"], scores["particles"]["anyOverlap"]
        figures += [
            (
                "Dice",
                f"{voxels['dice']:.3f}",
                f"voxels: precision {voxels['precision']:.3f}, recall {voxels['recall']:.3f}",
            ),
            (
                "particles found",
                f"{particles['recall']:.1%}",
                f"{particles['precision']:.1%} of ours are real",
            ),
        ]
    return figures


def writeReport(path: Path, content: dict[str, Any], volumes: dict[str, np.ndarray]) -> None:
    """Write the report.

    Parameters
    ----------
    path : Path
        The HTML file.
    content : dict
        What the page shows, see `describeContent`.
    volumes : dict
        {"grey", "probability", "mask", "manual": (z, y, x) uint8}; the last one only with a manual mask.
    """
    with ThreadPoolExecutor() as threads:
        packed = zip(volumes, threads.map(_encodeVolume, volumes.values()), strict=True)
        parts = [
            f'<script type="application/octet-stream" id="volume-{name}">{text}</script>'
            for name, text in packed
        ]
    text = json.dumps(finite(content), ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")
    text = SURROGATES.sub(lambda found: f"\\{printable(found[0])}", text)  # shown as text: \udce4
    page = TEMPLATE.read_text(encoding="utf-8")
    places = {
        "@TITLE@": html.escape(printable(content["title"])),
        "@DATA@": text,
        "@VOLUMES@": "\n".join(parts),
    }
    page = re.sub("|".join(places), lambda found: places[found[0]], page)
    with writeAtomically(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _encodeVolume(volume: np.ndarray) -> str:
    """Write a volume as text that the page unpacks."""
    return base64.b64encode(gzip.compress(np.ascontiguousarray(volume).tobytes(), 6, mtime=0)).decode()


def describeContent(
    shape: tuple[int, int, int],
    frame: Frame,
    table: dict[str, np.ndarray],
    truth: dict[str, np.ndarray] | None,
    errors: dict[str, np.ndarray] | None,
    summary: dict,
    scores: dict | None,
    part: str = "whole volume",
) -> dict[str, Any]:
    """Collect what the page shows, but for its title, facts and parameters.

    Parameters
    ----------
    shape : (int, int, int)
        Of the result, (x, y, z).
    frame : Frame
        Of its voxels.
    table, truth, errors
        Particles found, particles of the manual mask, and the list of what is wrong.
    summary, scores : dict
        Of `summarise` and `describeScores`.
    part : str
        What the fractions are of: "whole volume" or "region".
    """
    factor, (rows, count) = chooseFactor(shape), listRows(table, truth, errors)
    sampling = f"Blocks of {factor} x {factor} x {factor} voxels are averaged to fit into this file."
    unit = frame.unit
    powers = {"equivalentDiameter": "", "volume": "³", "nearestNeighbour": ""} if unit else {}
    titles = COLUMNS | {name: f"{COLUMNS[name]}, {unit}{power}" for name, power in powers.items()}
    return {
        "shape": [-(-side // factor) for side in shape],
        "fullShape": list(shape),
        "factor": factor,
        "voxelSize": np.linalg.norm(frame.directions, axis=1).tolist(),
        "origin": frame.origin.tolist(),
        "directions": frame.directions.tolist(),
        "unit": unit,
        "sampling": sampling if factor > 1 else "Every voxel is shown.",
        "columns": list(titles.items()),
        "particles": rows,
        "leftOut": count - len(rows),
        "histogram": describeHistogram(table["equivalentDiameter"]),
        "figures": describeFigures(summary, scores, part),
        "scores": scores,
    }
