"""Which of the processes of a training this one is: as flags say, or SLURM."""

import os
import re
from collections.abc import Mapping
from typing import NamedTuple

from engine.base.errors import PipelineError

FIRST_PORT, PORT_COUNT = 15000, 15000  # of the coordinator in SLURM; below those that systems hand out
BY_HAND = "--processIndex, --processCount and --coordinator belong together"


class Process(NamedTuple):
    """One of the processes of a training."""

    index: int = 0  # process 0 coordinates the others and alone writes
    count: int = 1
    host: str = ""  # of process 0, as the others reach it; empty: there are no others
    port: int = 0

    @property
    def isFirst(self) -> bool:
        """Whether this one writes the results."""
        return self.index == 0

    @property
    def address(self) -> str:
        """Host and port of process 0."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def findProcess(
    index: int | None,
    count: int | None,
    coordinator: str | None,
    environment: Mapping[str, str] = os.environ,
) -> Process:
    """Find out which process this is; what no flag says, SLURM may tell.

    Parameters
    ----------
    index, count : int, optional
        Number of this process, from 0, and of all.
    coordinator : str, optional
        host:port of process 0.
    environment : mapping
        Of this process. SLURM tells of the tasks of a step, which srun started; the script of a job is none.

    Returns
    -------
    Process
        Alone where neither flags nor SLURM speak of several.

    Raises
    ------
    PipelineError
        A flag is missing, or one of them cannot be.
    """
    told = _askSlurm(environment)
    if count is None and told is None:
        if index is None and coordinator is None:
            return Process()
        raise PipelineError(BY_HAND, received="no --processCount")
    count = told.count if count is None else count
    if count < 1:
        raise PipelineError("processCount must be above 0", received=count)
    if count == 1:
        if index:
            raise PipelineError("processIndex counts from 0", expected="0 of 1 process", received=index)
        return Process()
    if index is None:
        if told is None:
            raise PipelineError(BY_HAND, received="no --processIndex")
        index = told.index
    if not 0 <= index < count:
        raise PipelineError("processIndex counts from 0", expected=f"0 to {count - 1}", received=index)
    if coordinator:
        return Process(index, count, *_readAddress(coordinator))
    if told is None or not told.host:
        remedy = "--coordinator names the machine of process 0 and a free port there, such as node1:29400"
        raise PipelineError("several processes need a --coordinator", remedy=remedy)
    return Process(index, count, told.host, told.port)


def _readAddress(text: str) -> tuple[str, int]:
    """Read host:port."""
    host, _, port = text.strip().rpartition(":")
    host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not (host and port.isdecimal() and port.isascii() and 0 < int(port) < 65536):
        expected = "host:port, a port of 1 to 65535"
        raise PipelineError("coordinator is no address", expected=expected, received=repr(text))
    return host, int(port)


def _askSlurm(environment: Mapping[str, str]) -> Process | None:
    """Read what SLURM tells of a step of several tasks; None outside of such a one."""
    try:
        count, index = (int(environment[f"SLURM_{name}"]) for name in ("STEP_NUM_TASKS", "PROCID"))
        job, step = (int(environment[f"SLURM_{name}"]) for name in ("JOB_ID", "STEP_ID"))
    except (KeyError, ValueError):
        return None
    if count < 2:
        return None
    nodes = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST") or ""
    return Process(index, count, firstHost(nodes), FIRST_PORT + (16 * job + step) % PORT_COUNT)


def firstHost(nodes: str) -> str:
    """Give the first host of a list of SLURM: node03 of `node[03-07,12],big1`."""
    first = re.match(r"(?:\[[^\]]*\]|[^,\[])*", nodes)[0]
    return re.sub(r"\[([^\],-]+)[^\]]*\]", r"\1", first)
