"""What grey values look like from near: quantiles and noise of small squares of planes.

A network sees no scan as a whole but its neighbourhoods. So what it has learnt on, and what it is shown, are
compared square by square: that does not depend on how much air is in the picture.
"""

import numpy as np

SIDE = 64  # voxels, or fewer where a plane is smaller
MOST = 64  # squares of a block of planes, evenly spread
SHARES = (0.05, 0.25, 0.5, 0.75, 0.95)  # of the voxels of a square that lie below its quantiles
EDGES = np.linspace(-6, 6, 121)  # of the histogram beside the squares, z-scored grey values
FEATURES = (*(f"q{share:.0%}" for share in SHARES), "noise")
NOISE_FACTOR = 1 / (0.67449 * 2**0.5)  # from the median difference of two normal values to their deviation


class Squares:
    """Describes squares of the middle plane of every block: an observer."""

    STATE = ("found",)

    def __init__(self) -> None:
        self._found: list[np.ndarray] = []

    @property
    def found(self) -> np.ndarray:
        """Features of all squares so far: (square, feature) float64."""
        return self.finish()

    @found.setter
    def found(self, squares: np.ndarray) -> None:
        self._found = [squares]

    def join(self, other: "Squares") -> None:
        """Take the squares of another one."""
        self._found += other._found

    def add(self, z: int, planes: np.ndarray) -> None:
        """Take planes (z, y, x)."""
        self._found.append(describeSquares(planes[len(planes) // 2]))

    def finish(self) -> np.ndarray:
        """Give the features of all squares: (square, feature) float64, grey values."""
        return np.concatenate(self._found) if self._found else np.zeros((0, len(FEATURES)))


def describeSquares(plane: np.ndarray) -> np.ndarray:
    """Describe squares of a plane (y, x): (square, feature) float64, in the unit of its values."""
    sides = [min(SIDE, length) for length in plane.shape]
    rows, columns = (length // side for length, side in zip(plane.shape, sides, strict=True))
    corners = np.stack(
        np.meshgrid(np.arange(rows) * sides[0], np.arange(columns) * sides[1], indexing="ij"), -1
    )
    corners = corners.reshape(-1, 2)
    if len(corners) > MOST:
        corners = corners[np.linspace(0, len(corners) - 1, MOST).round().astype(int)]
    squares = np.stack([plane[y : y + sides[0], x : x + sides[1]] for y, x in corners]).astype(np.float64)
    values = np.sort(squares.reshape(len(squares), -1))
    quantiles = values[:, [round(share * (values.shape[1] - 1)) for share in SHARES]]
    with np.errstate(invalid="ignore"):  # of infinite values, where these mean "no data"
        steps = np.abs(np.diff(squares, axis=2)).reshape(len(squares), -1)
    noise = np.median(steps, axis=1) * NOISE_FACTOR if steps.size else np.zeros(len(squares))
    return np.column_stack([quantiles, noise])
