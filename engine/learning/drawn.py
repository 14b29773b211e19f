"""What a network sees while it learns, as its contract keeps it: scans are compared with that."""

import numpy as np

from engine.base.squares import EDGES, FEATURES, describeSquares
from engine.learning.steps import Steps

MOST_STEPS = 64  # that are looked at
MOST_VOXELS = 1 << 26  # that are drawn for it, but for one step
MOST_SQUARES = 256  # that the contract keeps


def describeDrawn(steps: Steps) -> dict[str, list]:
    """Describe squares of the samples of the first steps, with all that varies them.

    Returns
    -------
    dict
        features: their names; squares: (square, feature), z-scored grey values as they are learnt on;
        histogram: share of the voxels of these planes in the bins of `EDGES`.
    """
    found, counts = [], np.zeros(len(EDGES) - 1)
    for number in range(min(steps.total, MOST_STEPS)):
        images, _ = steps.read(*divmod(number, steps.count))
        for image in images[..., 0]:
            planes = image[:, :, image.shape[2] // 2].T, image[image.shape[0] // 2]
            found += map(describeSquares, planes)
            counts += sum(np.histogram(plane, EDGES)[0] for plane in planes)
        if (number + 1) * images.size > MOST_VOXELS:
            break
    shares = (counts / max(counts.sum(), 1)).round(6).tolist()
    squares = np.concatenate(found)
    if len(squares) > MOST_SQUARES:
        squares = squares[np.linspace(0, len(squares) - 1, MOST_SQUARES).round().astype(int)]
    return {"features": list(FEATURES), "squares": squares.round(3).tolist(), "histogram": shares}
