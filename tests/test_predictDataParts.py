"""predictData.py --part: several processes make one result, each its part, and nobody makes a wrong one."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from places import ROOT
from predictions import predict, readBytes, refused, resultOf
from sampleVolumes import writeVolume

import engine.base.records
import engine.results.ranges
import engine.results.reading
from engine.formats.growing import partialName
from engine.formats.opening import openVolume
from engine.prediction.journal import GrowingResult, Journal


def recordOf(scan):
    return Journal(resultOf(scan)).record


def startPart(scan, part, *flags):
    """Start a process that does a part."""
    command = [sys.executable, ROOT / "predictData.py", "--nameInput", scan, "--part", part, *flags]
    return subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


# -------------------------------------------------------------------------------------------- the same bytes


@pytest.mark.parametrize(
    "flags", [(), ("--outputType", "uint8", "--outputEncoding", "gzip")], ids=["float32", "uint8, gzip"]
)
def testPartsInAnyOrderGiveTheBytesOfOneProcess(whole, scan, tmp_path, capfd, flags):
    expected = readBytes(whole)
    if flags:
        predict(scan, *flags)
        expected = readBytes(tmp_path)
        for path in tmp_path.glob("scan_segmented*"):
            path.unlink()
    for part, told in ((2, "1 of 3"), (0, "2 of 3"), (2, "2 of 3"), (1, "3 of 3")):
        capfd.readouterr()
        predict(scan, "--part", f"{part}/3", *flags)
        text = capfd.readouterr().out
        assert f"Part {part}/3: planes {part * 32}:{part * 32 + 32}" in text
        assert f"{told} parts are predicted" in text
    assert "the same command without --part makes the results" in text
    assert not resultOf(scan).exists()
    predict(scan, *flags)
    assert "all is predicted" in capfd.readouterr().out
    assert readBytes(tmp_path) == expected


def testTheCommandWithoutPartDoesWhatIsMissing(whole, scan, tmp_path, capfd):
    predict(scan, "--part", "1/3")
    predict(scan)
    assert "Going on with an unfinished result: tile 1, plane 0" in capfd.readouterr().out
    assert readBytes(tmp_path) == readBytes(whole)


@pytest.mark.parametrize("connectivity", [6, 26])
def testPartsLeaveWhatTheyMeasureForTheResults(scan, tmp_path, monkeypatch, capfd, connectivity):
    """Ranges of planes are measured by the part that completes them, and taken as they are."""
    monkeypatch.setattr(engine.results.ranges, "LEAST_VOXELS", 64 * 48 * 16)
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy2(scan, alone)
    positive = np.roll(openVolume(scan).read() < 24000, 1, axis=2)
    writeVolume(tmp_path / "manual.nrrd", np.where(positive, 0, 255).astype(np.uint8), {})
    flags = [
        "--nameReference",
        tmp_path / "manual.nrrd",
        "--connectivity",
        connectivity,
        "--minimumVoxels",
        3,
    ]
    predict(alone / "scan.nrrd", *flags)
    measured = []
    for part in (1, 0, 2):
        predict(scan, "--part", f"{part}/3", *flags)
        measured += re.findall(r"(\d) of 6 ranges of planes are measured", capfd.readouterr().out)
    assert measured == ["2", "4", "6"]
    monkeypatch.setattr(engine.results.reading, "readRange", pytest.fail)
    predict(scan, *flags)
    assert readBytes(tmp_path, "_errors.csv") == readBytes(alone, "_errors.csv")
    for ending in ("_scores.json", "_summary.json"):
        found, expected = (
            json.loads((folder / f"scan_segmented{ending}").read_text()) for folder in (tmp_path, alone)
        )
        for content in (found, expected):  # names with folders, and their digests
            assert content["settings"].pop("inputs")
        assert found == expected


def testSumsThatLackOrAreOfOtherRulesAreMadeAnew(scan, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(engine.results.ranges, "LEAST_VOXELS", 64 * 48 * 16)
    predict(scan, "--part", "0/2")
    predict(scan, "--part", "1/2")
    left = sorted(tmp_path.glob(".*.seen-*"))
    assert len(left) == 6
    left[2].unlink()
    left[4].write_bytes(left[4].read_bytes()[:-40])
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy2(scan, alone)
    for flags in ((), ("--threshold", 0.8)):  # other rules: none of them is taken
        predict(scan, *flags)
        predict(alone / "scan.nrrd", *flags)
        assert readBytes(tmp_path) == readBytes(alone)


def testAPartOfAFinishedResultIsDone(scan, capfd):
    predict(scan, "--part", "0/2")
    predict(scan)
    state = resultOf(scan).stat()
    for part in ("0/2", "3/7"):
        predict(scan, "--part", part)
        assert "scan_segmented.nrrd is finished" in capfd.readouterr().out
    predict(scan, "--no-mask")  # writes its record anew
    predict(scan, "--part", "0/2")
    assert resultOf(scan).stat().st_mtime_ns == state.st_mtime_ns and not list(scan.parent.glob(".*"))


def testAPartKnowsAResultThatOneProcessHasFinished(scan, capfd):
    predict(scan)
    predict(scan, "--part", "0/2")
    assert capfd.readouterr().out.count("scan_segmented.nrrd is finished") == 1
    predict(scan, "--part", "0/2", "--noData", "none")  # another result
    assert Journal(resultOf(scan)).finished()


def testAPartThatIsDoneTwiceAtOnceGivesTheSameBytes(whole, scan, tmp_path):
    workers = [startPart(scan, part) for part in ("0/2", "0/2", "1/2", "1/2")]
    texts = [worker.communicate(timeout=300)[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0] * 4, texts
    predict(scan)
    assert readBytes(tmp_path) == readBytes(whole)


def testAPartThatIsKilledIsDoneAgain(whole, scan, tmp_path):
    for delay in (0.3, 1.0, 1.6):
        with startPart(scan, "0/2") as worker:
            time.sleep(delay)
            worker.send_signal(signal.SIGKILL)
    for part in ("0/2", "1/2"):
        predict(scan, "--part", part)
    predict(scan)
    assert readBytes(tmp_path) == readBytes(whole)


def testSigtermKeepsWhatIsFinishedAndThePartGoesOn(whole, scan, tmp_path, monkeypatch, capfd):
    commit = GrowingResult.commit

    def stopAfterwards(self, task):
        commit(self, task)
        signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patched, pytest.raises(SystemExit) as caught:
        patched.setattr(GrowingResult, "commit", stopAfterwards)
        predict(scan, "--part", "0/2")
    assert caught.value.code == 143 and capfd.readouterr().err.startswith("\rStopped: ")
    ((_, (first, last)),) = Journal(resultOf(scan)).finished()
    assert (first, last) < (0, 48) and last > 0
    predict(scan, "--part", "0/2")
    assert "1 of 2 parts are predicted" in capfd.readouterr().out
    predict(scan)
    assert readBytes(tmp_path) == readBytes(whole)


# --------------------------------------------------------------------------------------- what is not the same


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--part", "32/32"), "there is no such part (expected 0/32 to 31/32, received 32/32)"),
        (("--part", "-1/4"), "there is no such part (expected 0/4 to 3/4, received -1/4)"),
        (("--part", "three"), "part must be like 3/32 (received 'three')"),
        (("--part", "0/999"), "more parts than tasks (expected at most "),
    ],
)
def testPartsThatCannotBeAreRefused(scan, capfd, flags, words):
    assert words in refused(capfd, scan, *flags)
    assert {path.name for path in scan.parent.iterdir()} == {"scan.nrrd"}


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--part", "1/4"), "begun in another number of parts (expected --part .../3, received 4 parts)"),
        (("--part", "1/3", "--noData", "none"), "noData was auto, is none"),
        (("--part", "1/3", "--z1", 8), "region was"),
        (("--part", "1/3", "--outputType", "uint8"), "outputType was float32, is uint8"),
        (("--part", "1/3", "--weightFile", "other.h5"), "weightFile was"),
        (("--part", "1/3", "--memoryBudget", 0.3), "memoryBudget is smaller than what the first part"),
        (("--outputType", "uint8"), "outputType was float32, is uint8"),
    ],
)
def testAnotherJobIsRefused(scan, capfd, flags, words):
    predict(scan, "--part", "0/3", "--memoryBudget", 3)
    before = recordOf(scan).read_bytes()
    if "other.h5" in flags:
        other = scan.with_name("other.h5")
        shutil.copy(ROOT / "modelAndWeights" / "final-trained-weights.h5", other)
        with open(other, "r+b") as file:
            file.seek(-40000, os.SEEK_END)
            file.write(bytes(64))
        flags = [other if flag == "other.h5" else flag for flag in flags]
        flags += ["--modelFile", ROOT / "modelAndWeights" / "final-uNet_model.h5"]
    assert words in refused(capfd, scan, *flags)
    assert recordOf(scan).read_bytes() == before
    predict(scan, "--part", "1/3")  # the first job is as it was
    assert "2 of 3 parts are predicted" in capfd.readouterr().out


def testAnotherInputIsRefused(scan, capfd):
    predict(scan, "--part", "0/3")
    with open(scan, "r+b") as file:
        file.seek(-1000, os.SEEK_END)
        file.write(bytes(8))
    text = refused(capfd, scan, "--part", "1/3")
    assert "another job has begun this result" in text and "nameInput was" in text


@pytest.mark.parametrize("name", ["program", "version of numpy"])
def testAnotherVersionIsRefused(scan, capfd, name):
    predict(scan, "--part", "0/3")
    record = json.loads(recordOf(scan).read_text())
    record["identity"][name] = "1.2.3"
    recordOf(scan).write_text(json.dumps(record))
    assert f"{name} was 1.2.3, is" in refused(capfd, scan, "--part", "1/3")
    assert f"{name} was 1.2.3, is" in refused(capfd, scan)


def changeUnseen(scan, monkeypatch):
    """Change a voxel that no sample holds, and keep the date."""
    monkeypatch.setattr(engine.base.records, "SAMPLE_COUNT", 3)
    monkeypatch.setattr(engine.base.records, "SAMPLE_BYTES", 512)
    state = scan.stat()

    def change():
        with open(scan, "r+b") as file:
            file.seek(state.st_size // 4)
            file.write(bytes(8))
        os.utime(scan, ns=(state.st_atime_ns, state.st_mtime_ns))

    return change


def testVerifyComparesWholeFiles(scan, monkeypatch, capfd):
    change = changeUnseen(scan, monkeypatch)
    predict(scan, "--part", "0/3")
    change()
    predict(scan, "--part", "1/3")  # nobody can tell it by samples
    text = refused(capfd, scan, "--part", "2/3", "--verify")
    assert "this process sees another file than the one that has begun" in text and "nameInput was" in text


def testAnotherDateIsReasonToCompareWholeFiles(scan, monkeypatch, capfd):
    change = changeUnseen(scan, monkeypatch)
    predict(scan, "--part", "0/3")
    os.utime(scan, (1, 1))
    predict(scan, "--part", "1/3")  # the same file
    change()
    os.utime(scan, (2, 2))
    assert "this process sees another file" in refused(capfd, scan, "--part", "2/3")
    assert "this process sees another file" in refused(capfd, scan)


def testAnotherDateIsRefusedWhereNothingVouchesForTheFile(scan, capfd):
    predict(scan, "--part", "0/3")
    Journal(resultOf(scan)).digests.unlink()  # as if the first part had been killed
    os.utime(scan, (1, 1))
    text = refused(capfd, scan, "--part", "1/3")
    assert "was written after parts of this result were predicted" in text


@pytest.fixture
def slices(scan):
    """Write the volume as a folder of TIFF slices."""
    tifffile = pytest.importorskip("tifffile")
    folder = scan.with_name("scan")
    folder.mkdir()
    for z, plane in enumerate(openVolume(scan).read().T):
        tifffile.imwrite(folder / f"slice_{z:03d}.tif", plane)
    return folder


def testAFolderIsOneInputHoweverManyFilesItHas(slices, capfd):
    predict(slices)
    record = json.loads(resultOf(slices).with_suffix(".json").read_text())
    assert len(record["inputs"]) == 3 and str(slices) in record["inputs"]
    summary = json.loads((slices.parent / "scan_segmented_summary.json").read_text())
    assert summary["settings"]["inputs"] == record["inputs"]
    capfd.readouterr()
    predict(slices)
    assert "scan_segmented.nrrd is finished" in capfd.readouterr().out
    changePlane(slices / "slice_047.tif")
    predict(slices)
    assert "An earlier result is begun anew: nameInput was " in capfd.readouterr().out


def changePlane(path):
    """Change a voxel of a slice and keep its date."""
    state = path.stat()
    with open(path, "r+b") as file:
        file.seek(-2, os.SEEK_END)
        file.write(bytes(2) if path.read_bytes()[-2:] != bytes(2) else b"\1\1")
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


def testPartsOfAFolderLookAtSomeOfItsFilesAndAtAllDates(slices, capfd):
    predict(slices, "--part", "0/3")
    record = json.loads(Journal(resultOf(slices)).record.read_text())
    assert "nameInput" in record["identity"] and not [name for name in record["identity"] if "data" in name]
    changePlane(slices / "slice_047.tif")
    predict(slices, "--part", "1/3")  # no sample holds it
    os.utime(slices / "slice_047.tif", (2, 2))
    assert "this process sees another file" in refused(capfd, slices, "--part", "2/3")
    changePlane(slices / "slice_095.tif")  # the last one is looked at
    text = refused(capfd, slices, "--part", "2/3")
    assert "another job has begun this result" in text and "nameInput was" in text


def testAResultOfOneProcessIsNotJoined(scan, monkeypatch, capfd):
    import engine.prediction.journal

    monkeypatch.setattr(engine.prediction.journal, "COMMIT_SECONDS", 0.0)
    monkeypatch.setattr("engine.prediction.making.execute", interruptAfter(1))
    with pytest.raises(SystemExit):
        predict(scan)
    assert "one process alone has begun this result" in refused(capfd, scan, "--part", "0/3")


def interruptAfter(count):
    """Give an execute that is interrupted when so many tasks are committed."""
    from engine.prediction.execute import execute

    def interrupted(method, volume, job, result, stream):
        left, commit = [count], result.commit

        def committed(task):
            commit(task)
            left[0] -= 1
            if not left[0]:
                raise KeyboardInterrupt

        result.commit = committed
        execute(method, volume, job, result, stream)

    return interrupted


def testPartsThatBeginWhileOneProcessReadsDigestsAreKept(scan, monkeypatch, capfd):
    """One process alone has decided to begin when another one publishes its record."""
    import engine.prediction.run

    digestInputs = engine.prediction.run.digestInputs

    def beginMeanwhile(request):
        with startPart(scan, "0/3") as worker:
            assert worker.wait(300) == 0
        return digestInputs(request)

    monkeypatch.setattr(engine.prediction.run, "digestInputs", beginMeanwhile)
    text = refused(capfd, scan)
    assert "several processes have begun this result meanwhile" in text
    assert Journal(resultOf(scan)).finished()


def testAResultThatIsFinishedMeanwhileStaysAsItIs(scan, monkeypatch, capfd):
    predict(scan, "--part", "0/2")
    from engine.prediction import making

    original = making.executeTasks

    def finishBefore(*arguments):
        making.executeTasks = original
        command = [sys.executable, ROOT / "predictData.py", "--nameInput", scan, "--nameReference", "none"]
        subprocess.run(list(map(str, command)), check=True, stdout=subprocess.DEVNULL)
        shutil.copy2(resultOf(scan), partialName(resultOf(scan)))  # what a slow client may still see
        original(*arguments)

    monkeypatch.setattr(making, "executeTasks", finishBefore)
    text = refused(capfd, scan, "--part", "1/2")
    assert "another process has finished this result meanwhile" in text
    capfd.readouterr()
    partialName(resultOf(scan)).unlink()
    predict(scan)
    assert "scan_segmented.nrrd is finished" in capfd.readouterr().out


def testAFullDiskEndsAPartAndLeavesTheOthers(whole, scan, tmp_path, monkeypatch, capfd):
    from engine.formats.growing import GrowingVolume

    predict(scan, "--part", "0/2")
    with monkeypatch.context() as patched:
        patched.setattr(GrowingVolume, "_writeAt", raiseFull)
        assert "the disk is full" in refused(capfd, scan, "--part", "1/2")
    predict(scan)
    assert readBytes(tmp_path) == readBytes(whole)


def raiseFull(*_):
    raise OSError(28, "No space left on device")


def testADryRunBeginsNothing(scan, capfd):
    predict(scan, "--part", "1/3", "--dryRun")
    text = capfd.readouterr().out
    assert "Cut: 3 parts of at most 32 planes" in text and "Part 1/3: planes 32:64" in text
    assert {path.name for path in scan.parent.iterdir()} == {"scan.nrrd"}


def testTheRecordNamesAllDevices(scan):
    predict(scan, "--part", "0/2")
    journal = next(scan.parent.glob(".partial-*.tasks-*"))
    journal.write_text(journal.read_text().replace("# CPU", "# another CPU"))
    predict(scan)
    record = json.loads(resultOf(scan).with_suffix(".json").read_text())
    assert len(record["devices"]) == 2 and record["devices"][1].startswith("another CPU")
    assert np.isclose(record["identity"]["region"][2][1], 96)
