"""Volumes on the disk."""

import numpy as np

from engine.volumes.nrrdHeaders import describeData, formatHeader


def writeVolume(path, array, header):
    """Write an array (x, y, z) as raw NRRD with the header that the engine gives its results."""
    text = formatHeader(describeData(header, array.shape, array.dtype))
    path.write_bytes(text + array.astype(np.dtype(array.dtype).newbyteorder("<")).tobytes("F"))
