"""Scans that are not as in the demonstration: what is drawn, and that no result is wrong without a word."""

import numpy as np
import pytest
import surprises
from surprises import FLAGS, GOOD, Outcome, Scan, addAir, cropInside, drawScan, predictScan, tryScans

DRAWS = 40  # the whole number is in the benchmark: python3 benchmarks/surprises.py --count 500


def testScansAreAsVariedAsTheySay():
    scans = [drawScan(np.random.default_rng((1, number))) for number in range(40)]
    assert all(scan.grey.shape == scan.isParticle.shape for scan in scans)
    assert all(scan.isParticle.any() and np.isfinite(scan.grey).all() for scan in scans)
    sides = {scan.grey.shape[0] for scan in scans}
    assert min(sides) < 40 and max(sides) > 80
    for words in ("hot voxels", "no data outside a circle", "no data in planes", "no data in a corner"):
        assert any(words in scan.words for scan in scans)
    again = drawScan(np.random.default_rng((1, 7)))
    np.testing.assert_array_equal(again.grey, scans[7].grey)


def testACropHasNoAirAndAFrameOfAirTwiceAsMuch():
    x, y = np.mgrid[:80, :80]
    isInside = np.repeat((np.hypot(x - 39.5, y - 39.5) < 32)[:, :, np.newaxis], 4, axis=2)
    grey = np.where(isInside, 100, 7)
    assert (cropInside(grey) == 100).all()
    wide, isParticle = addAir(np.random.default_rng(1), grey, isInside)
    assert (wide == 7).sum() == pytest.approx(2 * (grey == 7).sum(), rel=0.05)
    np.testing.assert_array_equal(isParticle, wide == 100)


def testOnlyWrongResultsWithoutAWordAreSilent():
    assert Outcome(GOOD - 0.01, []).isSilent and Outcome(float("nan"), []).isSilent
    assert not Outcome(GOOD - 0.01, ["Warning: noise"]).isSilent and not Outcome(GOOD, []).isSilent


def testAScanThatIsRefusedIsNotSilent(tmp_path):
    grey = np.full((16, 16, 16), np.nan, np.float32)
    outcome = predictScan(Scan(grey, np.zeros(grey.shape, bool), "nothing"), tmp_path, FLAGS)
    assert "NaN" in outcome.warnings[0] and not outcome.isSilent


@pytest.mark.slow
def testNoScanIsWrongWithoutAWord():
    outcomes = list(tryScans(DRAWS, seed=2))
    assert [scan.words for scan, outcome in outcomes if outcome.isSilent] == []
    assert np.nanmedian([outcome.dice for _, outcome in outcomes]) > 0.9


@pytest.mark.slow
def testThePictureShowsEveryGuise(tmp_path, capsys, monkeypatch):
    guises = list(surprises.listGuises())[:2]
    monkeypatch.setattr(surprises, "listGuises", lambda: iter(guises))
    surprises.main(surprises.parseArguments(["--picture", str(tmp_path / "scans.png")]))
    assert (tmp_path / "scans.png").stat().st_size > 10_000
    assert all(guise.words in capsys.readouterr().out for guise in guises[:1])
