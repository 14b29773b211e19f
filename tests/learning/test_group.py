"""Processes come together, give each other what they have, and notice when one is gone; threads here."""

import contextlib
import re
import socket
import threading
import time

import numpy as np
import pytest

import engine.learning.group
import engine.learning.messages
from engine.base.errors import PipelineError
from engine.learning.group import ALONE, Several, describeProcess
from engine.learning.messages import HELLO, Line, openPort, packParts, tie, unpackParts
from engine.learning.processes import Process

SAME = {"seed": 1, "trainingDataImage.npy": "a" * 64}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Everything that takes seconds takes less; nobody ends this process."""
    monkeypatch.setattr(engine.learning.messages, "BEAT_SECONDS", 0.05)
    monkeypatch.setattr(engine.learning.messages, "RETRY_SECONDS", 0.05)
    monkeypatch.setattr(engine.learning.group, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(engine.learning.group, "GRACE_SECONDS", 0.1)
    monkeypatch.setattr(engine.learning.group, "LATE_SECONDS", 0.3)


@pytest.fixture
def port():
    with socket.create_server(("127.0.0.1", 0)) as found:
        return found.getsockname()[1]


def inThreads(count, work):
    """Call work(index) in threads; gives what each returned or raised."""
    results = [None] * count

    def keep(index):
        try:
            results[index] = work(index)
        except PipelineError as error:
            results[index] = str(error)

    threads = [threading.Thread(target=keep, args=(index,), daemon=True) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    return results


def meet(port, count, descriptions=None, seconds=5.0, end=None, processes=None):
    """Bring processes together; gives the groups, or why there are none."""
    descriptions = descriptions or [SAME] * count

    def join(index):
        process = processes[index] if processes else Process(index, count, "127.0.0.1", port)
        return Several(process, descriptions[index], seconds, end or (lambda code, line: None))

    return inThreads(len(descriptions), join)


def testOneProcessIsAGroupToo():
    array = np.arange(3.0)
    assert ALONE.isFirst and ALONE.exchange(b"x") == [b"x"] and ALONE.gather({"a": 1}) == [{"a": 1}]
    assert ALONE.first(7) == 7 and ALONE.gatherArrays(array)[0] is array


@pytest.mark.parametrize("count", [2, 4])
def testEveryProcessGetsWhatAllHave(port, count):
    groups = meet(port, count)
    large = np.random.default_rng(1).normal(size=(300, 1000))  # more than a socket takes at once
    for _ in range(3):
        found = inThreads(count, lambda index: groups[index].gather({"index": index}))
        assert found == [[{"index": index} for index in range(count)]] * count
    assert inThreads(count, lambda index: groups[index].first(float(index))) == [0.0] * count
    for arrays in inThreads(count, lambda index: groups[index].gatherArrays(large + index)):
        assert all(np.array_equal(array, large + index) for index, array in enumerate(arrays))
    assert inThreads(count, lambda index: groups[index].finish()) == [None] * count


def testPartsComeApartAsTheyWerePutTogether():
    for parts in ([], [b""], [b"a", b"", b"bcd" * 1000]):
        assert unpackParts(packParts(parts)) == parts


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"seed": 2}, "process 1 on .* differs in seed 1 -> 2"),
        ({"trainingDataImage.npy": "b" * 64}, "process 1 on .* differs in trainingDataImage.npy;"),
    ],
)
def testProcessesThatDifferAreRefusedAndAllOfThemKnowWhy(port, other, words):
    found = meet(port, 3, [SAME, SAME | other, SAME])
    assert all(isinstance(line, str) and re.search(words, line) for line in found), found
    assert all("all of them need the same code, parameters and data" in line for line in found)


def testAnotherNumberOfProcessesIsRefused(port):
    processes = [Process(0, 2, "127.0.0.1", port), Process(1, 3, "127.0.0.1", port)]
    for line in meet(port, 2, processes=processes):
        assert "process 1 on" in line and "differs in processCount 2 -> 3" in line


def testANumberThatIsThereTwiceIsRefused(port):
    processes = [Process(0, 3, "127.0.0.1", port), *[Process(1, 3, "127.0.0.1", port)] * 2]
    for line in meet(port, 3, processes=processes):
        assert "process 1 on" in line and "is one too many; the 3 processes have the numbers 0 to 2" in line


def testAnUnreachableProcessIsToldAfterTheStatedTime(port):
    begin = time.monotonic()
    with pytest.raises(PipelineError, match=f"process 0 could not be reached at 127.0.0.1:{port} for 1 s"):
        Several(Process(1, 2, "127.0.0.1", port), SAME, 1.0)
    assert time.monotonic() - begin < 5


def testProcessesThatDoNotComeAreNamed(port):
    with pytest.raises(PipelineError, match="not all processes came within 0 s: 1, 2 of 3 missing"):
        Several(Process(0, 3, "127.0.0.1", port), SAME, 0.2)


def testWhatIsNoProcessOfATrainingIsNotListenedTo(port):
    strangers = [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"", b"\0" * 100]

    def disturb():
        for content in strangers:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 2) as stranger:
                stranger.sendall(content)
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 2) as stranger:
            Line(stranger).send(HELLO, b"[1, 2]")
            stranger.recv(1)

    def work(index):
        if index == 2:
            time.sleep(0.3)
            disturb()
            return None
        time.sleep(1.0 * index)
        return Several(Process(index, 2, "127.0.0.1", port), SAME, 5.0)

    groups = inThreads(3, work)[:2]
    assert inThreads(2, lambda index: groups[index].gather(index)) == [[0, 1], [0, 1]]


def testAnAddressOfAnotherMachineIsRefused():
    with pytest.raises(PipelineError, match="coordinator 192.0.2.1 is no address of this machine; process 0"):
        openPort("192.0.2.1", 29400)
    with pytest.raises(PipelineError, match="coordinator nowhere.invalid is unknown"):
        openPort("nowhere.invalid", 29400)


def testAPortThatIsTakenIsRefused():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PipelineError, match=f"port {port} of the coordinator cannot be used .*another"):
            openPort("127.0.0.1", port)


def testTheOthersLearnThatOneHasDied(port):
    ended = []
    groups = meet(port, 3, end=lambda code, line: ended.append((code, line)))
    groups[1]._watches[0].line.close()  # as the system does it for a process that was killed
    found = inThreads(3, lambda index: index == 1 or groups[index].gather(index))
    for line in (found[0], found[2]):
        assert line.startswith("process 1 on") and "has ended; the same commands, repeated on all" in line
    time.sleep(0.5)  # whoever does not end by itself is ended
    assert len(ended) == 3 and all(code == 2 and "Error: process" in line for code, line in ended)


def testTheOthersLearnWhyOneHasEnded(port):
    groups = meet(port, 3)
    groups[2].leave(PipelineError("the disk is full"))
    found = inThreads(3, lambda index: index == 2 or groups[index].gather(index))
    for line in (found[0], found[1]):
        assert line.startswith("process 2 on") and "has ended: the disk is full;" in line


def testAnErrorThatFollowsFromAnEndIsExplainedByIt(port):
    groups = meet(port, 2)
    consequence = RuntimeError("connection reset")
    assert groups[0].explain(consequence) is consequence  # nobody is gone
    threading.Timer(0.1, groups[1].leave, (KeyboardInterrupt(),)).start()
    assert "was stopped; the same commands" in str(groups[0].explain(consequence))
    own = PipelineError("its own")
    assert groups[0].explain(own) is own


def testAProcessThatIsSilentIsGone(port, monkeypatch):
    monkeypatch.setattr(Line.__init__, "__defaults__", (0.5,))
    groups = meet(port, 2)
    time.sleep(1.0)
    assert inThreads(2, lambda index: groups[index].gather(index)) == [
        [0, 1],
        [0, 1],
    ]  # both give signs of life
    monkeypatch.setattr(Line, "send", lambda *_: None)
    time.sleep(1.0)
    for line in inThreads(2, lambda index: groups[index].gather(index)):
        assert "has not been heard of for 0 s" in line or "has ended" in line


def testNobodyIsMissedAfterTheEnd(port):
    ended = []
    groups = meet(port, 2, end=lambda code, line: ended.append(line))
    inThreads(2, lambda index: groups[index].finish())
    groups[0]._watches[1].line.close()
    time.sleep(0.5)
    assert not ended and not groups[1].lost


def testAHeldConnectionStaysOpenWhenTheOtherEndBreaks():
    inner, one = socket.socketpair()
    outer, other = socket.socketpair()
    tie(one, outer, isHeldOpen=True)
    inner.sendall(b"there")
    assert other.recv(5) == b"there"
    other.sendall(b"back")
    assert inner.recv(4) == b"back"
    other.close()
    inner.settimeout(0.3)
    with pytest.raises(TimeoutError):  # and not b"", the end
        inner.recv(1)


def testCodeVersionsAndParametersDescribeAProcess():
    described = describeProcess({"seed": 3})
    assert described["seed"] == 3 and len(described["code"]) == 12 and {"python", "numpy"} <= described.keys()
    assert described == describeProcess({"seed": 3})
