"""A stand-in for SLURM on one machine: sbatch and scontrol that start the processes of jobs as SLURM does."""

import json
import subprocess
import sys
import time
from pathlib import Path

LAUNCHER = """#!/bin/bash
exec {python} {program} {name} {folder} "$@"
"""
PROGRAM = r'''
import json, os, re, shlex, signal, subprocess, sys, time
from pathlib import Path

name, folder, *words = sys.argv[1:]
folder = Path(folder)
WARNING = json.loads((folder / "warning.json").read_text())  # or null


def readOptions(text):
    lines = re.findall(r"^#SBATCH (.+)$", text, re.MULTILINE)
    words = [word for line in lines for word in shlex.split(line)] + sys.argv[3:]  # the command line is later
    return dict(word.removeprefix("--").split("=", 1) if "=" in word else (word[2:], "") for word in words)


def runTask(job, index, script, options):
    """Run a task of a job until it ends without being queued again; gives its exit code."""
    task = job if index is None else f"{job}_{index}"
    number = job if index is None else str(int(job) * 100 + 1 + index)
    log = options["output"].replace("%%", "\0").replace("%a", str(index)).replace("\0", "%")
    for restarts in range(100):
        environment = os.environ | {"SLURM_JOB_ID": number}
        if index is not None:
            environment |= {"SLURM_ARRAY_JOB_ID": job, "SLURM_ARRAY_TASK_ID": str(index)}
        if restarts:
            environment["SLURM_RESTART_COUNT"] = str(restarts)
        assert options["open-mode"] == "append"
        with open(log, "a") as output:
            begin = output.tell()
            streams = {"stdout": output, "stderr": output, "env": environment, "start_new_session": True}
            shell = subprocess.Popen(["bash", script], **streams)
        if WARNING and WARNING["task"] == index and restarts < WARNING["times"]:
            _, signalName, _ = re.split("[:@]", options["signal"])
            while shell.poll() is None and not isWarned(log, begin):
                time.sleep(0.002)
            if WARNING["isCancelled"]:
                os.killpg(shell.pid, signal.SIGTERM)  # all of its processes
            else:
                shell.send_signal(signal.Signals["SIG" + signalName])
        code = shell.wait()
        flag = folder / f"requeue-{task if index is not None else number}"
        if not flag.exists():
            return code
        flag.unlink()
        assert "requeue" in options


def isWarned(log, begin):
    """Whether a task is where it is to be warned of its time limit."""
    return Path(WARNING["file"]).exists() and WARNING["words"] in Path(log).read_bytes()[begin:].decode()


def submit():
    text = sys.stdin.read()
    assert text.startswith("#!/bin/bash\n")
    options = readOptions(text)
    job = str(1 + len(list(folder.glob("job-*.sh"))))
    script = folder / f"job-{job}.sh"
    script.write_text(text)
    (folder / f"options-{job}.json").write_text(json.dumps(options))
    if os.fork() == 0:
        os.setsid()
        nothing = os.open(os.devnull, os.O_RDWR)
        for number in range(3):
            os.dup2(nothing, number)
        codes = carryOut(job, script, options)
        (folder / f"new-{job}").write_text(json.dumps(codes))
        os.rename(folder / f"new-{job}", folder / f"codes-{job}.json")
        os._exit(0)
    print(job)


def carryOut(job, script, options):
    """Run a job, after what it depends on; gives the exit code of each task."""
    if after := options.get("dependency"):
        kind, number = after.split(":")
        assert kind == "afterok"
        while not (folder / f"codes-{number}.json").exists():
            time.sleep(0.01)
        if any(json.loads((folder / f"codes-{number}.json").read_text())):
            return ["dependency never satisfied"]
    if "array" not in options:
        return [runTask(job, None, script, options)]
    first, last = map(int, options["array"].split("-"))
    return [runTask(job, index, script, options) for index in reversed(range(first, last + 1))]


if name == "sbatch":
    submit()
else:
    assert name == "scontrol" and words[0] == "requeue", words
    (folder / f"requeue-{words[1]}").touch()
'''


class Queue:
    """Jobs of the stand-in.

    Parameters
    ----------
    folder : Path
        Of its programs and notes; made here.
    warning : dict or None
        Warn one task of its time limit so many times: task, times; once a file is there and words are said;
        or cancel it (isCancelled).
    """

    def __init__(self, folder: Path, warning: dict | None = None) -> None:
        folder.mkdir()
        self.folder = folder
        (folder / "warning.json").write_text(json.dumps(warning))
        (folder / "program.py").write_text(PROGRAM)
        for name in ("sbatch", "scontrol"):
            program = folder / name
            words = {"python": sys.executable, "program": folder / "program.py", "folder": folder}
            program.write_text(LAUNCHER.format(name=name, **words))
            program.chmod(0o755)

    def submit(self, script: Path, *options: str) -> str:
        """Run a script that submits jobs; gives what it says."""
        command = ["bash", "-c", 'PATH="$0:$PATH" exec bash "$@"', str(self.folder), str(script), *options]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout

    def options(self, job: int) -> dict[str, str]:
        """Give what a job has asked for."""
        return json.loads((self.folder / f"options-{job}.json").read_text())

    def codes(self, job: int) -> list:
        """Wait for a job; gives the exit codes of its tasks."""
        path, end = self.folder / f"codes-{job}.json", time.monotonic() + 300
        while not path.exists() and time.monotonic() < end:
            time.sleep(0.02)
        return json.loads(path.read_text())
