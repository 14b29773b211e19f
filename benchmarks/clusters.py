"""Several workers: how much faster, and what happens when they, their scheduler or their network die.

    python3 benchmarks/clusters.py workers   # 1, 2 and 4 workers of one core each, and one process
    python3 benchmarks/clusters.py chaos     # kills, stops, a full disk, a worker that sees another input
    python3 benchmarks/clusters.py hosts     # network namespaces as hosts, one cut off in the middle (root)

Every run ends with the bytes of one process, or the table says what it ended with.
"""

import argparse
import contextlib
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from measure import ROOT, describeMachine, median, runInTurn

from engine.formats.nrrdHeaders import describeData, formatHeader
from engine.formats.opening import openVolume

PYTHON, DASK = sys.executable, "distributed.cli.dask_"
NOTHING = [f"--no-{name}" for name in ("mask", "segmentation", "labels", "particles", "report", "overview")]
SHORT = {"DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "5s", "DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": "15s"}
STOP_SECONDS = 60.0  # that a worker is stopped for
FULL_SECONDS = 8.0  # that the disk is full
BRIDGE = "10.77.0"


def makeScan(path: Path, shape: tuple[int, int, int]) -> None:
    """Write a scan as large as wanted, made of mirrored copies of the one that comes with the project."""
    tile = openVolume(ROOT / "test-file" / "test-file_data.nrrd").read(((0, 160), (0, 160), (0, 128)))
    xs, ys, zs = (
        np.pad(np.arange(own), (0, max(side - own, 0)), mode="symmetric")[:side]
        for side, own in zip(shape, tile.shape, strict=True)
    )
    section = tile[np.ix_(xs, ys)]  # (x, y, planes of the tile)
    with open(path, "wb") as file:
        file.write(formatHeader(describeData({"spacings": np.full(3, 0.65)}, shape, tile.dtype)))
        for z in zs:
            file.write(section[:, :, z].tobytes("F"))


def predictCommand(scan: Path, output: Path, *words: object) -> list[str]:
    """Give the command of a prediction without other results."""
    command = [PYTHON, ROOT / "predictData.py", "--nameInput", scan, "--nameOutput", output]
    return list(map(str, [*command, "--nameReference", "none", *words]))


def digestOf(path: Path) -> str:
    """Give the beginning of the SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


# ------------------------------------------------------------------------------------------------- workers


def compareWorkers(folder: Path, shape: tuple[int, int, int], repeats: int) -> None:
    """Time whole commands with one process and with workers of one core each."""
    scan = folder / "scan.nrrd"
    makeScan(scan, shape)
    sides = {"one process, 1 core": (["taskset", "-c", "0"], [])}
    for count in (1, 2, 4):
        words = ["--scheduler", "local", "--workerCount", count, "--coresPerWorker", 1]
        sides[f"{count} worker{'s' if count > 1 else ''}, 1 core each"] = ([], words)
    commands = {}
    for number, (name, (before, words)) in enumerate(sides.items()):
        output = folder / f"side{number}.nrrd"
        command = [*before, *predictCommand(scan, output, *NOTHING, *words)]
        commands[name] = ["bash", "-c", f'rm -f {output} && exec "$@"', "bash", *command]
    runs = runInTurn(commands, folder, repeats)
    digests = [digestOf(folder / f"side{number}.nrrd") for number in range(len(sides))]
    first = median(runs["1 worker, 1 core each"], "seconds")
    print(f"\n{'x'.join(map(str, shape))} voxels, whole commands, median of {repeats}\n")
    print("| | seconds | against 1 worker | digest |\n|---|---:|---:|---|")
    for (name, side), digest in zip(runs.items(), digests, strict=True):
        seconds = median(side, "seconds")
        print(f"| {name} | {seconds:.1f} | {first / seconds:.2f} | {digest} |")
    print(f"\nBytes are {'equal' if len(set(digests)) == 1 else 'NOT EQUAL'}.")


# --------------------------------------------------------------------------------------------------- chaos


class Actors:
    """Scheduler, workers and driver, each a process group that can be killed and started again."""

    def __init__(
        self, folder: Path, scan: Path, output: Path, before: dict[str, list[str]], host: str
    ) -> None:
        self.folder, self.before, self.host, self.port = folder, before, host, freePort()
        self.address = f"tcp://{host}:{self.port}"
        self.driver = predictCommand(scan, output, *NOTHING, "--scheduler", self.address)
        self.running: dict[str, subprocess.Popen] = {}
        self.starts: dict[str, int] = {}

    def start(self, name: str) -> None:
        """Start one; a worker joins the scheduler at its address."""
        if name == "scheduler":
            where = ["--host", self.host, "--port", self.port, "--dashboard-address", "127.0.0.1:0"]
            command = [PYTHON, "-m", f"{DASK}scheduler", *where]
        elif name == "driver":
            command = self.driver
        else:
            worker = [
                f"{DASK}worker",
                self.address,
                "--nthreads",
                1,
                "--no-dashboard",
                "--death-timeout",
                600,
            ]
            command = [PYTHON, "-m", *worker]
        command = [*self.before.get(name, []), *map(str, command)]
        with open(self.folder / f"{name}.log", "ab") as log:
            self.running[name] = subprocess.Popen(
                command,
                cwd=self.folder,
                env=os.environ | SHORT,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.starts[name] = self.starts.get(name, 0) + 1

    def send(self, name: str, number: int) -> None:
        """Send a signal to a process and all that it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.running[name].pid, number)

    def kill(self, name: str) -> None:
        """Kill one, with its children, at once."""
        self.send(name, signal.SIGKILL)
        self.running[name].wait()

    def revive(self) -> None:
        """Start again what has ended, but for the driver."""
        for name, process in list(self.running.items()):
            if name != "driver" and process.poll() is not None:
                self.start(name)

    def stop(self) -> None:
        """Kill all."""
        for name in self.running:
            self.kill(name)


def freePort() -> int:
    """Find a port that nobody listens to."""
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


class Log:
    """What was done to whom, and when; printed at once."""

    def __init__(self) -> None:
        self.begin, self.counts = time.monotonic(), {}

    def note(self, what: str, text: str = "") -> None:
        """Print a line, and count it."""
        self.counts[what] = self.counts.get(what, 0) + 1
        print(f"{time.monotonic() - self.begin:7.1f} s  {what}{': ' + text if text else ''}", flush=True)


def unleashChaos(folder: Path, shape: tuple[int, int, int], killCount: int, seed: int) -> None:
    """Predict again and again while processes are killed, until there were enough kills."""
    scan, log, choose = folder / "scan.nrrd", Log(), random.Random(seed)
    makeScan(scan, shape)
    subprocess.run(
        predictCommand(scan, folder / "whole.nrrd", *NOTHING), check=True, stdout=subprocess.DEVNULL
    )
    expected, outcomes = digestOf(folder / "whole.nrrd"), []
    disk = Disk(folder / "disk", 2 * (folder / "whole.nrrd").stat().st_size)
    specials = ["stop", "full", "other"]
    with disk:
        while (
            sum(log.counts.get(f"SIGKILL {name}", 0) for name in ("worker", "scheduler", "driver"))
            < killCount
        ):
            output = disk.path / f"round{len(outcomes)}.nrrd"
            found = surviveRound(folder, scan, output, log, choose, disk, specials[:1])
            specials = specials[1:]
            outcomes.append(found)
            log.note("round ends", f"{found}, {'right' if found == expected else 'WRONG'}")
            output.unlink()
    print(f"\n{'x'.join(map(str, shape))} voxels, seed {seed}\n\n| event | count |\n|---|---:|")
    for what, count in sorted(log.counts.items()):
        print(f"| {what} | {count} |")
    right = outcomes.count(expected)
    print(f"\nDigest of one process {expected}: {right} of {len(outcomes)} rounds ended with it.")


class Disk:
    """A small file system, to be filled up; without the rights to mount one it is a folder."""

    def __init__(self, path: Path, byteCount: int) -> None:
        self.path, self.byteCount, self.isMounted = path, byteCount, False

    def __enter__(self) -> "Disk":
        """Mount it."""
        self.path.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={self.byteCount}", "none", str(self.path)]
        self.isMounted = subprocess.run(command, check=False, capture_output=True).returncode == 0
        return self

    def __exit__(self, *_: object) -> None:
        """Unmount it."""
        if self.isMounted:
            subprocess.run(["umount", "-l", str(self.path)], check=False)

    def fill(self) -> bool:
        """Leave nothing free; tells whether it could."""
        if self.isMounted:
            with contextlib.suppress(OSError), open(self.path / "filling", "wb") as file:
                while True:
                    file.write(bytes(1 << 12))
        return self.isMounted

    def free(self) -> None:
        """Give the room back."""
        (self.path / "filling").unlink(missing_ok=True)


def surviveRound(
    folder: Path, scan: Path, output: Path, log: Log, choose: random.Random, disk: Disk, special: list[str]
) -> str:
    """Predict once while processes die; gives the digest of the result, or what is wrong."""
    actors = Actors(folder, scan, output, {}, "127.0.0.1")
    for name in ("scheduler", "worker1", "worker2", "worker3", "driver"):
        actors.start(name)
    due, isSpecialDone = time.monotonic() + 4, not special
    try:
        while (code := actors.running["driver"].poll()) != 0:
            if code is not None:
                log.note("driver ends", lastLine(folder / "driver.log"))
                actors.start("driver")
            if not isSpecialDone and output.with_name(f".partial-{output.name}.json").exists():
                isSpecialDone = True
                doSpecial(special[0], actors, disk, log, scan, folder)
            if time.monotonic() > due:
                name = choose.choices(
                    list(actors.running), [1 if "worker" in n else 0.6 for n in actors.running]
                )[0]
                log.note(f"SIGKILL {name.rstrip('123')}", name)
                actors.kill(name)
                due = time.monotonic() + choose.uniform(1.5, 4)
                if name == "driver":
                    actors.start("driver")
            actors.revive()
            time.sleep(0.1)
        return digestOf(output)
    finally:
        actors.stop()


def doSpecial(kind: str, actors: Actors, disk: Disk, log: Log, scan: Path, folder: Path) -> None:
    """Stop a worker for a minute, fill the disk, or let a worker see another input."""
    if kind == "stop":
        log.note("SIGSTOP worker", "worker1")
        actors.send("worker1", signal.SIGSTOP)
        time.sleep(STOP_SECONDS)
        actors.send("worker1", signal.SIGCONT)
        log.note("SIGCONT worker", "worker1")
    elif kind == "full" and disk.fill():
        log.note("the disk is full")
        for name in ("worker1", "worker2", "worker3"):  # what they note now finds no room
            actors.kill(name)
        actors.revive()
        time.sleep(FULL_SECONDS)
        disk.free()
        log.note("the disk has room again")
    elif kind == "other":
        other = folder / "other.nrrd"
        other.write_bytes(scan.read_bytes()[:-64] + bytes(64))
        actors.before["worker1"] = [
            "unshare",
            "-m",
            "sh",
            "-c",
            f'mount --bind {other} {scan} && exec "$@"',
            "sh",
        ]
        actors.kill("worker1")
        actors.start("worker1")
        log.note("worker sees another input", "worker1")
        end = time.monotonic() + 60
        while actors.running["driver"].poll() is None and time.monotonic() < end:
            time.sleep(0.1)
        log.note("driver ends", lastLine(folder / "driver.log"))
        del actors.before["worker1"]
        actors.kill("worker1")
        actors.start("worker1")
        actors.start("driver")


def lastLine(path: Path) -> str:
    """Give the last line of a log."""
    return (path.read_text(errors="replace").strip().splitlines() or ["nothing"])[-1].strip()


# --------------------------------------------------------------------------------------------------- hosts


def cutOffAHost(folder: Path, shape: tuple[int, int, int]) -> None:
    """Predict with workers in network namespaces, and take one of them off the network for good."""
    scan, output, log = folder / "scan.nrrd", folder / "result.nrrd", Log()
    makeScan(scan, shape)
    subprocess.run(
        predictCommand(scan, folder / "whole.nrrd", *NOTHING), check=True, stdout=subprocess.DEVNULL
    )
    names = ["scheduler", "driver", "worker1", "worker2", "worker3"]
    hosts = {name: ("head" if name in ("scheduler", "driver") else name) for name in names}
    with namespaces(sorted(set(hosts.values()))):
        before = {name: ["ip", "netns", "exec", f"bench-{host}"] for name, host in hosts.items()}
        actors = Actors(folder, scan, output, before, f"{BRIDGE}.1")
        try:
            for name in names:
                actors.start(name)
            while not list(folder.glob(f".partial-{output.name}.tasks-*")):
                time.sleep(0.1)
                if actors.running["driver"].poll() is not None:
                    raise RuntimeError(lastLine(folder / "driver.log"))
            subprocess.run("ip netns exec bench-worker1 ip link set eth0 down".split(), check=True)
            log.note("worker1 is cut off")
            code = actors.running["driver"].wait(900)
            log.note("driver ends", f"code {code}")
        finally:
            actors.stop()
    isRight = digestOf(output) == digestOf(folder / "whole.nrrd")
    print(f"\nDigest {digestOf(output)}, {'that of one process' if isRight else 'WRONG'}.")


@contextlib.contextmanager
def namespaces(names: list[str]):
    """Make hosts that are joined by a bridge, and remove them afterwards."""

    def call(line: str) -> None:
        subprocess.run(line.split(), check=True)

    call("ip link add bench-bridge type bridge")
    try:
        call("ip link set bench-bridge up")
        for number, name in enumerate(names, 1):
            call(f"ip netns add bench-{name}")
            call(f"ip link add bench-v{number} type veth peer name eth0 netns bench-{name}")
            call(f"ip link set bench-v{number} master bench-bridge up")
            call(f"ip -n bench-{name} addr add {BRIDGE}.{number}/24 dev eth0")
            call(f"ip -n bench-{name} link set eth0 up")
            call(f"ip -n bench-{name} link set lo up")
        yield
    finally:
        for name in names:
            subprocess.run(f"ip netns del bench-{name}".split(), check=False, stderr=subprocess.DEVNULL)
        call("ip link del bench-bridge")


def main() -> None:
    """Run the table that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", choices=("workers", "chaos", "hosts"))
    parser.add_argument("--shape", type=int, nargs=3, default=(192, 192, 2048), metavar=("X", "Y", "Z"))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    shape, folder = tuple(arguments.shape), Path(tempfile.mkdtemp(prefix="clusters-"))
    print(describeMachine())
    try:
        if arguments.table == "workers":
            compareWorkers(folder, shape, arguments.repeats)
        elif arguments.table == "chaos":
            unleashChaos(folder, shape, arguments.kills, arguments.seed)
        else:
            cutOffAHost(folder, shape)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
