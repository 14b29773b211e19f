"""Quiet and fast back ends, a heard Ctrl-C and no thread of progress bars, for every test."""

import os
import shutil
import signal

import pytest
import tqdm

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")  # the tests compare with one another on the CPU
os.environ.setdefault(
    "TF_ENABLE_ONEDNN_OPTS", "1"
)  # as engine.network.devices.loadKeras, which not every test calls
os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_FP16")  # AMX would make bfloat16 the default
signal.signal(
    signal.SIGINT, signal.default_int_handler
)  # a shell's background jobs ignore it, their children too
tqdm.tqdm.monitor_interval = 0  # a progress bar begins no thread of its own: tests compare the threads


@pytest.fixture(scope="module")
def keras():
    """Keras in this process, loaded as quietly as the scripts do it."""
    from engine.network.devices import loadKeras

    return loadKeras()


@pytest.fixture
def data(tmp_path):
    """Folders of a project with tiny pairs, without code."""
    from projects import writeData

    writeData(tmp_path)
    (tmp_path / "pythonFiles").mkdir()
    return tmp_path


@pytest.fixture
def prepared(data, capfd):
    """Folders of a project after prepareData.py."""
    from projects import callMain, prepareFlags

    import prepareData

    callMain(prepareData, prepareFlags(data))
    return data


@pytest.fixture(scope="module")
def models(tmp_path_factory, keras):
    """Model files: a good one of two levels, and some that must be refused."""
    from projects import writeModels

    return writeModels(tmp_path_factory.mktemp("models"), keras)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Predict a volume of 64x48x96 voxels by one process; its folder."""
    import numpy as np
    from places import ROOT
    from predictions import predict
    from sampleVolumes import writeVolume

    from engine.formats.opening import openVolume

    folder = tmp_path_factory.mktemp("whole")
    grey = openVolume(ROOT / "test-file" / "test-file_data.nrrd").read(((0, 64), (20, 68), (24, 120)))
    writeVolume(folder / "scan.nrrd", grey, {"spacings": np.full(3, 0.5)})
    predict(folder / "scan.nrrd")
    return folder


@pytest.fixture
def scan(whole, tmp_path):
    """Copy the volume of `whole`, with its date, into a folder of its own."""
    return shutil.copy2(whole / "scan.nrrd", tmp_path / "scan.nrrd")


@pytest.fixture
def cluster(tmp_path_factory):
    """Start a scheduler of Dask by its own command."""
    from schedulers import Cluster

    started = Cluster(tmp_path_factory.mktemp("cluster"))
    yield started
    started.stop()
