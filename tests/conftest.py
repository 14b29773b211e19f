"""Quiet and fast back ends, and a heard Ctrl-C, for every test."""

import os
import signal

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")  # the tests compare with one another on the CPU
os.environ.setdefault(
    "TF_ENABLE_ONEDNN_OPTS", "1"
)  # as engine.network.devices.loadKeras, which not every test calls
os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "DEFAULT")  # oneDNN asks once, and bfloat16 may follow
signal.signal(
    signal.SIGINT, signal.default_int_handler
)  # a shell's background jobs ignore it, their children too
