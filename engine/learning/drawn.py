"""What a network sees while it learns, as its contract keeps it: scans are compared with that."""

import numpy as np

from engine.base.squares import EDGES, FEATURES, describeSquares
from engine.learning.steps import Steps

MOST_STEPS = 64  # that are looked at


def describeDrawn(steps: Steps) -> dict[str, list]:
    """Describe squares of the samples of the first steps, with all that varies them.

    Returns
    -------
    dict
        features: their names; squares: (square, feature), z-scored grey values as they are learnt on;
        histogram: share of their voxels in the bins of `EDGES`.
    """
    found, counts = [], np.zeros(len(EDGES) - 1)
    for number in range(min(steps.total, MOST_STEPS)):
        images, _ = steps.read(*divmod(number, steps.count))
        for image in images[..., 0]:
            middle = image.shape[2] // 2, image.shape[0] // 2
            found += [describeSquares(image[:, :, middle[0]].T), describeSquares(image[middle[1]])]
        counts += np.histogram(images, EDGES)[0]
    shares = (counts / max(counts.sum(), 1)).round(6).tolist()
    squares = np.concatenate(found).round(3).tolist()
    return {"features": list(FEATURES), "squares": squares, "histogram": shares}
