"""Values of a manual mask that are neither what is looked for nor the rest, as interpolation makes them."""

from collections import Counter

import numpy as np

from engine.masks.targets import Labels, describeLabels, meansAllBut, selectPositive

MOST_VALUES = 4096  # that are told apart; an interpolated mask of floats holds millions
EXAMPLES = 3
REMEDY = "resample labels with nearest neighbour"


class OtherValues:
    """Counts the values of a mask that are neither positive nor the most frequent one of the rest.

    Where all labels but some are positive, the rest is named: only fractions are unclear then.
    Memory stays small whatever the mask holds: of very many values the rare ones are counted together.

    Parameters
    ----------
    labels : sequence of int or str
        The positive ones, as `segments.resolveLabels` gives them.
    named : sequence of int or str
        Others that mean something, such as segments with a name, and are not counted.
    """

    def __init__(self, labels: Labels, named: Labels = ()) -> None:
        self._labels, self._named, self._isRestNamed = labels, named, meansAllBut(labels)
        self._size, self._rare, self._counts = 0, 0, Counter()

    def add(self, mask: np.ndarray, positive: np.ndarray) -> None:
        """Take a block of a mask, and which of its voxels are positive."""
        self._size += mask.size
        if np.size(self._named):
            positive = positive | selectPositive(mask, self._named)
        if self._isRestNamed:
            if mask.dtype.kind == "f":
                self._take(mask[positive & (mask != np.rint(mask))])
            return
        left = mask.size - int(np.count_nonzero(positive))
        if self._counts:  # nearly always the block holds this value and no other one
            usual = self.usual
            isUsual = mask == usual
            count = int(np.count_nonzero(isUsual))
            self._counts[usual] += count
            if count == left:
                return
            self._take(mask[~(positive | isUsual)])
        elif left:
            self._take(mask[~positive])

    def _take(self, values: np.ndarray) -> None:
        """Count values, and forget which ones the rarest are where they become too many."""
        kinds, counts = np.unique(values, return_counts=True)
        frequent = np.argsort(-counts, kind="stable")[:MOST_VALUES]
        self._counts.update(dict(zip(kinds[frequent].tolist(), counts[frequent].tolist(), strict=True)))
        self._rare += int(counts.sum() - counts[frequent].sum())
        if len(self._counts) > MOST_VALUES:
            kept = Counter(dict(self._counts.most_common(MOST_VALUES // 2)))
            self._rare += self._counts.total() - kept.total()
            self._counts = kept

    @property
    def usual(self) -> float | None:
        """The most frequent value that is not positive; None where there is none."""
        return max(self._counts, key=self._counts.__getitem__, default=None)

    @property
    def count(self) -> int:
        """Voxels with such values."""
        usual = 0 if self._isRestNamed else self._counts.get(self.usual, 0)
        return self._counts.total() + self._rare - usual

    def describe(self) -> str:
        """Tell how many voxels hold such values, the likely cause and what helps; empty: none does."""
        if not self.count:
            return ""
        usual = None if self._isRestNamed else self.usual
        examples = [value for value, _ in self._counts.most_common(EXAMPLES + 1) if value != usual]
        amount = f"{self.count} voxels ({self.count / self._size:.2%})"
        such = f"such as {', '.join(f'{value:.10g}' for value in examples[:EXAMPLES])}"
        if self._isRestNamed:
            return f"{amount} hold no whole number, {such}: an interpolated mask? Then {REMEDY}"
        named = f"neither a positive label ({describeLabels(self._labels)}) nor {usual:.10g}"
        return (
            f"{amount} hold {named}, {such}, and count as not positive: an interpolated mask? Then {REMEDY}; "
            "otherwise list in --positiveLabel all labels that are positive"
        )
