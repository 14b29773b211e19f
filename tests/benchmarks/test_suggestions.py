"""The benchmark of suggested boxes: what it draws, and its table at a tiny size."""

import itertools

import nrrd
import numpy as np
import pytest
import suggestions

from engine.volumes.scale import MOMENTS_FIELD


def testRandomBoxesDoNotOverlapAndFollowFromTheSeed():
    shape = (192, 192, 128)
    boxes = suggestions.drawBoxes(3, shape, 8)
    assert len(boxes) == 8 and boxes == suggestions.drawBoxes(3, shape, 8) != suggestions.drawBoxes(
        4, shape, 8
    )
    assert not any(suggestions.overlap(*pair) for pair in itertools.combinations(boxes, 2))
    for box in boxes:
        for (first, last), side in zip(box, shape, strict=True):
            assert 0 <= first and last <= side and last - first == 64
    with pytest.raises(SystemExit, match="2 boxes do not fit"):
        suggestions.drawBoxes(1, (100, 100, 100), 2)


def testABoxIsWrittenWithItsTruthAndTheMomentsOfItsScan(tmp_path):
    generator = np.random.default_rng(1)
    grey = generator.integers(0, 60000, (20, 18, 16)).astype(np.uint16)
    mask = np.where(grey < 9000, 0, 255).astype(np.uint8)
    scan = suggestions.Scan.of(tmp_path, "pool")
    for path, array in zip(scan, (grey, mask), strict=True):
        nrrd.write(str(path), array)
    scan.writeBox(((4, 12), (0, 8), (8, 16)), "one", tmp_path / "side")
    (image, header), (labels, _) = (
        nrrd.read(str(tmp_path / "side" / f"training{kind}" / "one.nrrd")) for kind in ("Images", "Masks")
    )
    np.testing.assert_array_equal(image, grey[4:12, :8, 8:])
    np.testing.assert_array_equal(labels, mask[4:12, :8, 8:])
    assert [*map(float, header[MOMENTS_FIELD].split())] == pytest.approx([grey.mean(), grey.std()])


def testTheBoxOfTheStartLiesInTheMiddle():
    assert suggestions.middleBox((192, 144, 40)) == ((64, 128), (40, 104), (0, 40))


def testTableGivesMediansAndEverySeed(capsys):
    names = ("dice", "precision", "recall", "validationDice", "positiveShare")
    results = {seed: {"side": dict.fromkeys(names, seed / 10) | {"boxes": [1] * seed}} for seed in (1, 2, 5)}
    suggestions.printTable(results)
    head, _, row = capsys.readouterr().out.splitlines()
    assert head.endswith("| Dice, seed 1 | Dice, seed 2 | Dice, seed 5 |")
    assert row == "| side | 2 | 20.00% | 0.200 | 0.200 | 0.200 | 0.200 | 0.100 | 0.200 | 0.500 |"


@pytest.mark.slow
def testEverySideLearnsOnAndIsKept(tmp_path, monkeypatch, capsys):
    tiny = ["--recipe", "published", "--base_depth", "2", "--levelCount", "2", "--batchSize", "1"]
    monkeypatch.setattr(suggestions, "SHAPE", (136, 136, 16))
    monkeypatch.setattr(suggestions, "FLAGS", tiny)
    flags = ["--folder", str(tmp_path), "--count", "2", "--seeds", "1", "2", "--processCount", "1"]
    arguments = suggestions.parseArguments([*flags, "--startEpochs", "1", "--epochs", "1"])
    suggestions.main(arguments)
    names = ["before", *(side.name for side in suggestions.SIDES)]
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines()[-len(names) :]]
    assert [row[0].removeprefix("| ") for row in rows] == names
    assert [row[1] for row in rows] == ["0", "0", "2", "2", "4"]
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.h5")}
    assert len(kept) == 4 * 2 * len(names)
    suggestions.main(arguments)
    assert kept == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.h5")}
