"""Regions of a volume: completed, or refused."""

import numpy as np
import pytest
from sampleVolumes import (
    DATA,
    headerLines,
    refusal,
    writeText,
)

from engine.base.errors import PipelineError
from engine.formats.nrrdFiles import openVolume
from engine.volumes.volume import checkRegion


@pytest.mark.parametrize(
    "region, text",
    [
        (
            ((0, 6), (0, 4), (0, 3)),
            "the range along x leaves the volume (expected a part of 0:5, received 0:6)",
        ),
        (
            ((0, 5), (-1, 4), (0, 3)),
            "the range along y leaves the volume (expected a part of 0:4, received -1:4)",
        ),
        (((0, 5), (0, 4), (2, 2)), "the range along z is empty (expected a part of 0:3, received 2:2)"),
        (((0, 5), (3, 1), (0, 3)), "the range along y is empty (expected a part of 0:4, received 3:1)"),
        (((0, 5), (0, 4), (3, None)), "the range along z is empty (expected a part of 0:3, received 3:3)"),
        (((9, 12), (0, 4), (0, 3)), "the range along x leaves the volume"),
    ],
)
def testRegionOutsideOrEmptyIsRefused(tmp_path, region, text):
    path = writeText(tmp_path / "a.nrrd", headerLines(), DATA)
    assert refusal(path, region).startswith(f"{path}: {text}")
    with pytest.raises(PipelineError, match="range along"):
        checkRegion(openVolume(path), region)


def testRegionIsCompleted(tmp_path):
    volume = openVolume(writeText(tmp_path / "a.nrrd", headerLines(), DATA))
    assert checkRegion(volume, None) == ((0, 5), (0, 4), (0, 3))
    assert checkRegion(volume, [(None, np.int64(2)), (1, None), (None, None)]) == ((0, 2), (1, 4), (0, 3))
