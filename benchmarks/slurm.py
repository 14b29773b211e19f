"""The script of `predictData.py --slurm` on a real SLURM: nodes in one machine, and what may go wrong.

    apt-get install slurm-wlm munge     # as root; on Debian, whose build allows several nodes in a machine
    python3 benchmarks/slurm.py

Everything else is made here, in a temporary folder, and is gone at the end: keys, configuration, slurmctld, a
slurmd for each node. A synthetic volume is predicted by one process, by the printed script left in peace, and
by the same script with `--time=3`, in which parts meet their time limit; meanwhile a node dies with all of
its processes (SIGKILL), is missed, and comes back, and a part is queued again by `scontrol requeue`. What
comes out is compared by its digests. Parts are in float32 by default, in which they last long enough.
"""

import argparse
import contextlib
import hashlib
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import measure
import peers

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol", "squeue")
CONFIGURATION = """ClusterName=benchmark
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire={requeueSeconds}
SlurmctldPort={port}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
ReturnToService=2
SlurmdTimeout={missedSeconds}
MinJobAge=86400
NodeName=n[1-{nodeCount}] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{first}-{last}] CPUs={cores} {memory}
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
REQUEUE_SECONDS = 10  # after which a job that was queued again may begin; 120 where nothing is set
MISSED_SECONDS = 20  # without an answer, after which a node is down; 300 where nothing is set
NODE_MEMORY = 8000  # MiB
KINDS = (".nrrd", "_mask.nrrd", "_mask.seg.nrrd", "_labels.nrrd", "_particles.csv")
POLL_SECONDS = 0.5
MINUTES = 3  # of the disturbed run; SLURM warns after half of it


class Task(NamedTuple):
    """What SLURM tells of a finished job or task of an array."""

    name: str
    state: str
    restarts: int
    exitCode: str


class Outcome(NamedTuple):
    """One prediction."""

    name: str
    seconds: float  # from its start, or its submission, to the end of the results
    tasks: list[Task]
    warnings: int  # ends that a time limit asked for
    digests: dict[str, str]


# ------------------------------------------------------------------------------------------ the cluster


class Cluster:
    """A SLURM of several nodes in this machine; its processes end with the block.

    Parameters
    ----------
    folder : Path
        For keys, configuration, states and logs.
    nodeCount : int
    """

    def __init__(self, folder: Path, nodeCount: int) -> None:
        self.folder, self.nodes = folder, [f"n{number}" for number in range(1, nodeCount + 1)]
        self.environment = os.environ | {"SLURM_CONF": str(folder / "slurm.conf")}
        self._processes: dict[str, subprocess.Popen] = {}
        port = _findPorts(nodeCount + 1)
        host, user = socket.gethostname().split(".")[0], pwd.getpwuid(os.getuid()).pw_name
        text = CONFIGURATION.format(
            **{"host": host, "user": user, "folder": folder, "port": port, "nodeCount": nodeCount},
            **{"first": port + 1, "last": port + nodeCount, "cores": os.cpu_count()},
            **{"requeueSeconds": REQUEUE_SECONDS, "missedSeconds": MISSED_SECONDS},
            memory=f"RealMemory={NODE_MEMORY}",
        )
        (folder / "slurm.conf").write_text(text)
        (folder / "state").mkdir()

    def __enter__(self) -> "Cluster":
        """Start everything and wait until all nodes are there."""
        key = self.folder / "munge.key"
        key.touch(0o600)
        key.write_bytes(os.urandom(1024))
        files = {
            "key-file": key,
            "socket": self.folder / "munge.socket",
            "pid-file": self.folder / "munge.pid",
        }
        files |= {"log-file": self.folder / "munge.log", "seed-file": self.folder / "munge.seed"}
        try:
            self._start(
                "munged", "--foreground", "--force", *(f"--{name}={file}" for name, file in files.items())
            )
            waitFor(files["socket"].exists, 20, "munged")
            self._start("slurmctld", "-D")
            for node in self.nodes:
                self.startNode(node)
            waitFor(
                lambda: self.ask("sinfo", "-h", "-N", "-o", "%T").split() == ["idle"] * len(self.nodes),
                60,
                "nodes",
            )
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """End all jobs and all processes that were started here."""
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            if "slurmctld" in self._processes:
                subprocess.run(
                    ["scancel", "--user", str(os.getuid())], env=self.environment, timeout=20, check=False
                )
                waitFor(lambda: not self.ask("squeue", "-h").strip(), 40, "jobs")
        for process in reversed(self._processes.values()):
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _start(self, name: str, *words: str, called: str = "") -> None:
        """Start a process that stays."""
        program = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
        with open(self.folder / f"{called or name}.out", "ab") as log:
            streams = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
            self._processes[called or name] = subprocess.Popen(
                [program, *words], env=self.environment, **streams
            )

    def startNode(self, node: str) -> None:
        """Start a node."""
        self._start("slurmd", "-D", "-N", node, called=node)

    def killNode(self, node: str) -> int:
        """Kill a node with all that runs on it, as by a loss of power; gives the number of processes."""
        doomed = [self._processes[node].pid, *_processesOf(node, self.environment["SLURM_CONF"])]
        for number in doomed:
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        self._processes[node].wait()
        return len(doomed)

    def ask(self, *words: str) -> str:
        """Run a command of SLURM; gives what it says."""
        return subprocess.run(
            words, env=self.environment, capture_output=True, text=True, check=True, timeout=60
        ).stdout

    def nodeOf(self, task: str) -> str:
        """Name the node on which a task runs; empty: it does not."""
        return self.ask("squeue", "-h", "-t", "R", "-j", task, "-o", "%N").strip()

    def listTasks(self, job: str) -> list[Task]:
        """Tell of all tasks of a job."""
        tasks = []
        for line in self.ask("scontrol", "-o", "show", "job", job).splitlines():
            fields = dict(re.findall(r"(\w+)=(\S+)", line))
            name = f"part {fields['ArrayTaskId']}" if "ArrayTaskId" in fields else "results"
            tasks.append(Task(name, fields["JobState"], int(fields["Restarts"]), fields["ExitCode"]))
        return sorted(tasks)


def _findPorts(count: int) -> int:
    """Find so many free ports in a row; gives the first one."""
    for first in range(17820, 60000, 97):
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            for port in range(first, first + count):
                stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            return first
    raise RuntimeError("no free ports")


def _processesOf(node: str, configuration: str) -> list[int]:
    """List the processes of the jobs on a node of this cluster, with the one that watches them."""
    words = {f"SLURMD_NODENAME={node}".encode(), f"SLURM_CONF={configuration}".encode()}
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if words <= set((path / "environ").read_bytes().split(b"\0")):
                parent = int((path / "stat").read_text().rpartition(") ")[2].split()[1])
                watcher = (Path("/proc") / str(parent) / "comm").read_text()
                found += [int(path.name), *([parent] if watcher.startswith("slurmstepd") else [])]
    return found


def waitFor(isThere: Callable[[], bool], seconds: float, what: str) -> None:
    """Wait until something is there."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(subprocess.SubprocessError):
            if isThere():
                return
        time.sleep(POLL_SECONDS)
    raise RuntimeError(f"{what}: nothing within {seconds:g} s")


# -------------------------------------------------------------------------------------- the predictions


def digestResults(folder: Path) -> dict[str, str]:
    """Digest what must not depend on who has made it; nothing unfinished may lie there."""
    left = [path.name for path in folder.glob(".*")]
    if left:
        raise RuntimeError(f"unfinished: {left}")
    digests = {}
    for kind in KINDS:
        with open(folder / f"scan_segmented{kind}", "rb") as file:
            digests[kind] = hashlib.file_digest(file, "sha256").hexdigest()
    return digests


def commandFor(folder: Path, volume: Path, precision: str) -> list[str]:
    """Give the command of the user."""
    words = [sys.executable, measure.ROOT / "predictData.py", "--nameInput", volume, "--precision", precision]
    return list(map(str, [*words, "--nameReference", "none", "--nameOutput", folder / "scan_segmented.nrrd"]))


def predictAlone(folder: Path, command: list[str]) -> Outcome:
    """Predict by one process."""
    begin = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)  # which ends with this process
    return Outcome("one process", time.monotonic() - begin, [], 0, digestResults(folder))


def predictByJobs(
    name: str,
    cluster: Cluster,
    folder: Path,
    command: list[str],
    parts: int,
    disturb: Callable | None,
    *options: str,
) -> Outcome:
    """Submit the printed script, and wait for the results."""
    script = folder / "job.sh"
    with open(script, "wb") as file:
        subprocess.run([*command, "--slurm", str(parts)], stdout=file, check=True)
    begin = time.monotonic()
    text = cluster.ask("bash", str(script), *options)
    print(text, end="", file=sys.stderr, flush=True)
    array, results = re.findall(r"job (\d+)", text)
    if disturb:
        disturb(cluster, array)
    waitFor(lambda: not cluster.ask("squeue", "-h").strip(), 3600, "end of the jobs")
    seconds = time.monotonic() - begin
    tasks = [*cluster.listTasks(array), *cluster.listTasks(results)]
    logs = "".join(path.read_text(errors="replace") for path in folder.glob("*.log"))
    failed = [task for task in tasks if task.state != "COMPLETED"]
    if failed:
        raise RuntimeError("\n".join([str(failed), *re.findall("^Error: .*$", logs, re.MULTILINE)]))
    return Outcome(name, seconds, tasks, logs.count("Stopped: "), digestResults(folder))


def disturb(cluster: Cluster, array: str) -> None:
    """Kill the node of a part, let it be missed and come back; queue another part again."""
    told = lambda words: print(f"{time.strftime('%H:%M:%S')} {words}", file=sys.stderr, flush=True)  # noqa: E731
    waitFor(lambda: cluster.nodeOf(f"{array}_1"), 120, "part 1")
    time.sleep(10)
    if not (node := cluster.nodeOf(f"{array}_1")):
        raise RuntimeError("a part is too short to be disturbed: give a larger --shape")
    told(f"{node} with part 1 is killed: {cluster.killNode(node)} processes")
    waitFor(
        lambda: "down" in cluster.ask("sinfo", "-h", "-n", node, "-o", "%T"), 300, "the node that is missed"
    )
    told(f"{node} is down")
    cluster.startNode(node)
    waitFor(lambda: cluster.nodeOf(f"{array}_2"), 600, "part 2")
    time.sleep(8)
    cluster.ask("scontrol", "requeue", f"{array}_2")
    told("part 2 is queued again by hand")


def printOutcomes(outcomes: list[Outcome]) -> None:
    """Print both tables."""
    expected = outcomes[0].digests
    print(
        "| run | seconds to the results | ends by a time limit | queued again | voxels, mask, labels, table |"
    )
    print("|---|---|---|---|---|")
    for name, seconds, tasks, warnings, digests in outcomes:
        different = [kind for kind in KINDS if digests[kind] != expected[kind]]
        same = f"different: {', '.join(different)}" if different else f"the same ({digests['.nrrd'][:12]}...)"
        restarts = sum(task.restarts for task in tasks)
        print(f"| {name} | {seconds:.1f} | {warnings} | {restarts} | {same} |")
    print("\n| run | job | state | queued again | exit code |\n|---|---|---|---|---|")
    for outcome in outcomes:
        for name, state, restarts, exitCode in outcome.tasks:
            print(f"| {outcome.name} | {name} | {state} | {restarts} | {exitCode} |")
    if any(outcome.digests != expected for outcome in outcomes):
        sys.exit("the results differ")


@contextlib.contextmanager
def emptyFolder(folder: Path) -> Iterator[Path]:
    """Make a folder that goes with the block."""
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)


def parseArguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--shape", type=int, nargs=3, default=[512, 512, 2048], help="voxels along x, y, z")
    parser.add_argument("--parts", type=int, default=4)
    parser.add_argument("--nodes", type=int, default=2)
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--folder", type=Path, help="for a temporary folder; default: that of the system")
    return parser.parse_args(argv)


def main(arguments: argparse.Namespace) -> None:
    """Start a cluster, predict three times, print the tables."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that nothing is left running
    if missing := [
        name for name in PROGRAMS if not shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")
    ]:
        sys.exit(f"not installed: {', '.join(missing)}; as root: apt-get install slurm-wlm munge")
    program = shutil.which("slurmctld", path=f"{os.environ['PATH']}:/usr/sbin")
    version = subprocess.run([program, "-V"], capture_output=True, text=True, check=True).stdout.strip()
    with tempfile.TemporaryDirectory(prefix="slurm-", dir=arguments.folder) as name:
        folder = Path(name)
        peers.makeNrrd(str(folder / "scan.nrrd"), arguments.shape)
        (folder / "cluster").mkdir()
        with emptyFolder(folder / "one") as own:
            command = commandFor(own, folder / "scan.nrrd", arguments.precision)
            outcomes = [predictAlone(own, command)]
        with Cluster(folder / "cluster", arguments.nodes) as cluster:
            runs = {"left in peace": (None,), "disturbed": (disturb, f"--time={MINUTES}")}
            for label, settings in runs.items():
                with emptyFolder(folder / label.replace(" ", "")) as own:
                    command = commandFor(own, folder / "scan.nrrd", arguments.precision)
                    outcomes.append(predictByJobs(label, cluster, own, command, arguments.parts, *settings))
    shape = "x".join(map(str, arguments.shape))
    print(f"{measure.describeMachine()}; {version}, {arguments.nodes} nodes in this machine")
    print(f"{shape} voxels, uint16, {arguments.precision}, {arguments.parts} parts\n")
    printOutcomes(outcomes)


if __name__ == "__main__":
    main(parseArguments())
