"""Particles in noise, and what is measured of them."""

import numpy as np
from scipy import ndimage

from engine.measures.labelling import Joining, Relabelling
from engine.measures.particles import Sums, describeParticles, directionWeights
from engine.volumes.frame import Frame


def measure(positive, probability, directions, origin=(0, 0, 0), connectivity=26, slab=7, minimumVoxels=1):
    """Measure by our own two passes; gives the table and the labels (z, y, x)."""
    frame, shape = Frame(directions, np.array(origin, float), "um"), positive.shape[::-1]
    joining, starts = Joining(connectivity), range(0, len(positive), slab)
    sums = Sums(shape, directionWeights(directions), connectivity)
    for z in starts:
        sums.add(joining.add(positive[z : z + slab]), probability[z : z + slab])
    found = joining.finish(minimumVoxels)
    again = Relabelling(found, connectivity)
    labels = np.concatenate([again.label(positive[z : z + slab]) for z in starts])
    return describeParticles(sums.finish(found), frame), labels


def blobs(shape=(30, 26, 34), seed=0, share=0.08):
    """Draw smooth noise; gives what is above a threshold, and a probability."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 1.3)
    probability = ((noise - noise.min()) / np.ptp(noise)).astype(np.float32)
    return noise > np.quantile(noise, 1 - share), probability
