"""Model files that the training writes."""

import networks
import numpy as np


def testSavedModelIsAnOrdinaryFileOfKeras(tmp_path):
    import keras

    from engine.network.modelWriter import saveModel

    model = networks.smallModel(4)
    volume = networks.randomVolume(8, 6, 4)
    saveModel(model, tmp_path / "model.h5")
    received = networks.passOnce(keras.models.load_model(tmp_path / "model.h5"), volume)
    np.testing.assert_array_equal(received, networks.passOnce(model, volume))
    assert [item.name for item in tmp_path.iterdir()] == ["model.h5"]
