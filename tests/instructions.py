"""A training step and a stream, in a process of its own: test_instructions.py limits the instructions of it.

    python3 tests/instructions.py training OUT.npz
    python3 tests/instructions.py stream OUT.npz

Writes the numbers; prints what OpenVINO says of its primitives (oneDNN logs those of TensorFlow by itself).
"""

import os
import sys

from places import ROOT

sys.path[:0] = [str(ROOT)]

import networks
import numpy as np

import trainingAndValidation
from engine.base.parameters import pick
from engine.learning.optimiser import Optimisation
from engine.learning.sharing import Machine, Sharing, buildTrained
from engine.network.devices import ONEDNN, describeDevice, loadKeras
from engine.prediction.stream import describeStream
from functions import buildSpotUNet, describeUNet, setWeights

SIDES = (64, 64, 64)  # which kernel oneDNN takes depends on the sides: those of the default recipe


def train() -> dict[str, np.ndarray]:
    """Compute loss and gradients of a step of the network that trainingAndValidation.py trains."""
    keras = loadKeras()
    import tensorflow as tf

    assert os.environ[ONEDNN] == "1"  # whatever TensorFlow thinks of this processor
    print(f"device {describeDevice()}")
    arguments, plan = trainingAndValidation.parseArguments([]), describeUNet()
    plain = buildSpotUNet()
    setWeights(plain, plan, networks.randomWeights(plan))
    optimisation, sharing = pick(Optimisation, arguments), Sharing(pick(Machine, arguments), 2)
    model = buildTrained(buildSpotUNet, plain, optimisation, sharing, 3)
    images = np.stack([networks.randomVolume(*SIDES, seed=seed) for seed in (1, 2)])[..., np.newaxis]

    @tf.function(autograph=False)
    def step():
        with tf.GradientTape() as tape:
            answer = model(images, training=True)
            loss = keras.ops.mean(model.loss(np.float32(images > 1), answer))
        return loss, tape.gradient(loss, [variable.value for variable in model.trainable_variables])

    loss, gradients = step()
    names = [variable.path for variable in model.trainable_variables]
    return {"loss": np.asarray(loss)} | dict(zip(names, map(np.asarray, gradients), strict=True))


def predict() -> dict[str, np.ndarray]:
    """Predict some slabs with OpenVINO, and print what it takes for every convolution."""
    import openvino

    from engine.prediction.openvinoStream import OpenvinoStream

    compiled, original = [], openvino.Core.compile_model

    def compileModel(*arguments, **options):
        compiled.append(original(*arguments, **options))
        return compiled[-1]

    openvino.Core.compile_model = compileModel
    plan = describeUNet()
    stream = OpenvinoStream(describeStream(plan, networks.randomWeights(plan)), 16, (32, 40), "float32")
    stream.restart(64)
    slabs = [stream.feed(index, networks.randomVolume(16, 32, 40, seed=index)) for index in range(4)]
    for model in compiled:
        for node in model.get_runtime_model().get_ordered_ops():
            facts = node.get_rt_info()
            if "onvolution" in facts["layerType"].value:  # Convolution, Deconvolution
                print(f"openvino,{facts['layerType'].value},{facts['primitiveType'].value}")
    return {"probability": np.concatenate(slabs)[stream.lag :]}


if __name__ == "__main__":
    np.savez(sys.argv[2], **{"training": train, "stream": predict}[sys.argv[1]]())
