"""A scheduler of Dask and its workers, started by their own commands, for the tests."""

import contextlib
import os
import signal
import socket
import subprocess
import sys


class Cluster:
    """A scheduler on loopback; `start` gives it workers, `stop` ends them all."""

    def __init__(self, folder):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.address, self.folder, self.processes = f"tcp://127.0.0.1:{self.port}", folder, []
        self.scheduler = self.startScheduler()

    def startScheduler(self):
        where = ["--host", "127.0.0.1", "--port", str(self.port), "--dashboard-address", "127.0.0.1:0"]
        return self._start([], "scheduler", *where)

    def start(self, *words, before=(), **environment):
        """Start a worker with its nanny; `before` is a command that starts it in turn."""
        command = ["worker", self.address, "--nthreads", "1", "--no-dashboard", *words]
        return self._start(before, *command, **environment)

    def _start(self, before, kind, *words, **environment):
        command = [*before, sys.executable, "-m", f"distributed.cli.dask_{kind}", *words]
        own = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | environment
        with open(self.folder / "dask.log", "ab") as log:
            process = subprocess.Popen(
                command, cwd=self.folder, env=own, stdout=log, stderr=log, start_new_session=True
            )
        self.processes.append(process)
        return process

    def stop(self):
        """Kill all that was started, with what that has started."""
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
