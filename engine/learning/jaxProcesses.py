"""Several processes that JAX computes with as if their devices were those of one."""

import atexit
import contextlib
import importlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator

from engine.base.console import say
from engine.base.errors import PipelineError, StoppedBySignal
from engine.learning.group import WAIT_SECONDS, Group, Several, describeProcess
from engine.learning.messages import LOOPBACK, TUNNEL, Line, connect, tie
from engine.learning.processes import Process
from engine.network.devices import backendName, silenced

JAX_SECONDS = 3600  # of silence after which JAX ends processes by itself; the group notices earlier


@contextlib.contextmanager
def joinGroup(process: Process, identity: dict) -> Iterator[Group]:
    """Bring the processes of a training together for this block; only the first one prints in it.

    Parameters
    ----------
    process : Process
        Which one this is.
    identity : dict
        What the training follows from; must be the same in all of them.

    Raises
    ------
    PipelineError
        The back end knows one machine only; not all processes come, they differ, or one is gone.
    """
    if process.count == 1:
        yield Group()
        return
    _requireJax()
    before = "listens" if process.isFirst else "looks for process 0"
    where = f"at {process.address}, for at most {WAIT_SECONDS:.0f} s"
    say(f"Process {process.index} of {process.count} on {socket.gethostname()} {before} {where}")
    group = Several(process, describeProcess(identity))
    with contextlib.ExitStack() as stack:
        if not process.isFirst:
            say("Process 0 tells of the training")
            nothing = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
            stack.enter_context(contextlib.redirect_stdout(nothing))
        try:
            _startJax(group)
            yield group
            group.finish()
            importlib.import_module("jax").distributed.shutdown()
        except BaseException as error:
            reason = group.explain(error)
            group.leave(reason)
            atexit.register(_endNow, _codeOf(reason))  # the last one is the first that is called
            if reason is error:
                raise
            raise reason from error


def _requireJax() -> None:
    """Refuse back ends with which Keras trains on one machine only."""
    if backendName() != "jax":
        rule = "keras.distribution shares a training among processes with JAX only"
        remedy = "set KERAS_BACKEND=jax (pip install jax), or train in one process"
        raise PipelineError(rule, expected="jax", received=backendName(), remedy=remedy)


def _startJax(group: Several) -> None:
    """Have JAX see the devices of all processes.

    JAX ends every process, with a dump, as soon as the connection to its service in process 0 breaks. The
    others therefore reach it through this group's port and hold their end of that connection open.
    """
    jax = importlib.import_module("jax")
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    port = _openTunnel(group)
    os.environ["no_grpc_proxy"] = LOOPBACK
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    with contextlib.suppress(AttributeError):  # an older JAX
        jax.config.update("jax_check_proxy_envs", False)
    with contextlib.suppress(AttributeError):
        jax.config.update("jax_enable_preemption_service", False)  # takes SIGTERM for itself
    patience = {"initialization_timeout": int(WAIT_SECONDS), "heartbeat_timeout_seconds": JAX_SECONDS}
    jax.distributed.initialize(
        f"{LOOPBACK}:{port}",
        group.count,
        group.index,
        coordinator_bind_address=f"{LOOPBACK}:{port}",
        cluster_detection_method="deactivate",
        **patience,
    )
    for number, handler in handlers.items():
        signal.signal(number, handler)
    with silenced(sys.stdout):  # Gloo tells of every connection
        utilities = importlib.import_module("jax.experimental.multihost_utils")
        utilities.sync_global_devices("begin")


def _openTunnel(group: Several) -> int:
    """Choose the port of JAX's service; in other processes one that leads there."""
    with socket.create_server((LOOPBACK, 0)) as found:
        port = group.first(found.getsockname()[1])
    if group.isFirst:
        group.onTunnel = lambda outer: tie(outer, connect(LOOPBACK, port, WAIT_SECONDS))
        return port
    listener = socket.create_server((LOOPBACK, 0))

    def serve() -> None:
        while True:
            inner, _ = listener.accept()
            outer = connect(group.process.host, group.process.port, WAIT_SECONDS)
            Line(outer).send(TUNNEL)
            tie(inner, outer, isHeldOpen=True)

    threading.Thread(target=serve, daemon=True).start()
    return listener.getsockname()[1]


def _codeOf(error: BaseException) -> int:
    """Code with which the scripts leave after an error."""
    if isinstance(error, PipelineError):
        return 2
    codes = {KeyboardInterrupt: 130}
    return error.code if isinstance(error, StoppedBySignal) else codes.get(type(error), 1)


def _endNow(code: int) -> None:
    """End this process: JAX would wait for others, which may be gone, and then dump."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)
