"""Quiet back ends and a heard Ctrl-C for every test."""

import os
import signal

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")  # the tests compare with one another on the CPU
signal.signal(
    signal.SIGINT, signal.default_int_handler
)  # a shell's background jobs ignore it, their children too
