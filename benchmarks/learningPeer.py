"""The peer of benchmarks/learning.py: BasicUNet, crops, loss and inference of MONAI."""

import time
from pathlib import Path

import numpy as np
from measure import ROOT

import functions
from engine.formats.opening import openVolume
from engine.measures.thresholds import ThresholdScores
from engine.preparation.samples import Samples

FEATURES = (8, 8, 16, 32, 64, 8)
PATCH, BATCH = 64, 2
STEPS = 10  # of what is counted as an epoch
LEARNING_RATE, POWER = 1e-3, 0.9


def readSet(data: Path, part: str) -> list[dict]:
    """Read a set as MONAI takes it: channel first."""
    samples = Samples(data / f"{part}DataImage.npy", data / f"{part}DataMask.npy")
    pairs = [samples.read(index) for index in range(samples.count)]
    return [{"image": image[None], "label": mask[None].astype(np.float32)} for image, mask in pairs]


def makeTraining(data: Path, seed: int, stepCount: int):
    """Build network, crops and step; gives the network and a function that does a step."""
    import torch
    from monai.losses import DiceCELoss
    from monai.networks.nets import BasicUNet
    from monai.transforms import (
        Compose,
        RandCropByPosNegLabeld,
        RandFlipd,
        RandRotate90d,
        RandScaleIntensityd,
        RandShiftIntensityd,
    )
    from monai.utils import set_determinism

    set_determinism(seed)
    keys = ["image", "label"]
    turns = [RandRotate90d(keys, prob=0.5, spatial_axes=axes) for axes in ((0, 1), (1, 2), (0, 2))]
    draw = Compose(
        [
            RandCropByPosNegLabeld(keys, "label", (PATCH,) * 3, pos=1, neg=1, num_samples=BATCH),
            *(RandFlipd(keys, prob=0.5, spatial_axis=axis) for axis in range(3)),
            *turns,
            RandScaleIntensityd("image", factors=0.1, prob=0.5),
            RandShiftIntensityd("image", offsets=0.1, prob=0.5),
        ]
    )
    volumes = readSet(data, "training")
    network = BasicUNet(spatial_dims=3, in_channels=1, out_channels=2, features=FEATURES).train()
    network = network.to(memory_format=torch.channels_last_3d)
    loss = DiceCELoss(to_onehot_y=True, softmax=True)
    optimiser = torch.optim.AdamW(network.parameters(), LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.PolynomialLR(optimiser, stepCount, POWER)
    generator = np.random.default_rng(seed)

    def doStep() -> None:
        patches = draw(volumes[generator.integers(len(volumes))])
        images = torch.stack([torch.as_tensor(patch["image"]) for patch in patches])
        labels = torch.stack([torch.as_tensor(patch["label"]) for patch in patches])
        optimiser.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            answer = network(images.contiguous(memory_format=torch.channels_last_3d))
        loss(answer.float(), labels).backward()
        optimiser.step()
        schedule.step()

    return network, doStep


def calibrate(data: Path) -> float:
    """Measure the seconds of STEPS steps."""
    _, doStep = makeTraining(data, 1, 1000)
    doStep()
    begin = time.perf_counter()
    for _ in range(STEPS):
        doStep()
    return time.perf_counter() - begin


def predict(network, image: np.ndarray) -> np.ndarray:
    """Predict a normalised volume (x, y, z) by MONAI's sliding window."""
    import torch
    from monai.inferers import SlidingWindowInferer

    inferer = SlidingWindowInferer((PATCH,) * 3, sw_batch_size=2, overlap=0.25, mode="gaussian")
    with torch.no_grad():
        answer = inferer(torch.as_tensor(image[None, None]), network.eval())
    return torch.softmax(answer, 1)[0, 1].numpy()


def trainAndPredict(data: Path, seed: int, epochCount: int) -> tuple[np.ndarray, dict]:
    """Train, choose the threshold on the validation set, predict test-file."""
    begin, stepCount = time.perf_counter(), epochCount * STEPS
    network, doStep = makeTraining(data, seed, stepCount)
    for _ in range(stepCount):
        doStep()
    seconds, scores = time.perf_counter() - begin, ThresholdScores()
    for pair in readSet(data, "validation"):
        scores.add(predict(network, pair["image"][0]), pair["label"][0] > 0)
    threshold, dice = scores.choose()
    volume = openVolume(ROOT / "test-file" / "test-file_data.nrrd").read()
    notes = {"validationDice": dice, "threshold": threshold, "seconds": seconds, "steps": STEPS}
    return predict(network, functions.prep_img(volume)), notes
