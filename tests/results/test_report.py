"""The report: what is in the file, and what a browser shows of it."""

import base64
import gzip
import json
import re
import shutil
import time

import nrrd
import numpy as np
import pytest
from particles import blobs, measure
from places import ROOT
from predictions import OBLIQUE, REGION, SHAPE, predict, readTable, writeReference
from scipy import ndimage

import engine.results.looks
import engine.results.report
from engine.base.passes import passOver
from engine.formats.nrrdGeometry import readFrame
from engine.masks.targets import PUBLISHED
from engine.measures.analysis import Judged
from engine.results import outcome
from engine.results.evaluation import Criteria, Evaluation, Page
from engine.results.files import summarise
from engine.results.looks import Looks, Preview
from engine.results.report import describeContent, packVolumes, writeReport
from engine.volumes.frame import Frame
from functions import VoxelScores

HAS_CHROMIUM = shutil.which("chromium") and shutil.which("chromedriver")


def dataOf(page):
    """Read the JSON of a report."""
    return json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])


def volumeOf(page, name):
    """Read a volume of a report: (z, y, x) uint8."""
    text = re.search(rf'id="volume-{name}">(.*?)</script>', page, re.DOTALL)[1]
    values = np.frombuffer(gzip.decompress(base64.b64decode(text)), np.uint8)
    return values.reshape(dataOf(page)["shape"][::-1])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Predict a region of the test volume, with oblique axes and a manual mask."""
    from engine.formats.nrrdFiles import openVolume

    folder = tmp_path_factory.mktemp("run")
    grey = openVolume(ROOT / "test-file" / "test-file_data.nrrd").read(REGION)
    nrrd.write(str(folder / "scan_data.nrrd"), grey, OBLIQUE)
    predict(folder / "scan_data.nrrd", "--threshold", 0.4)
    writeReference(folder, folder)
    predict(folder / "scan_data.nrrd", "--threshold", 0.4, "--nameReference", folder / "scan_mask.nrrd")
    return folder


def testFileStaysUnder20MegabytesForNoiseAndManyParticles(tmp_path, monkeypatch):
    monkeypatch.setattr(engine.results.looks, "VOXEL_LIMIT", engine.results.looks.VOXEL_LIMIT)
    shape = (181, 182, 182)
    assert 0.98 * engine.results.looks.VOXEL_LIMIT < np.prod(shape) <= engine.results.looks.VOXEL_LIMIT
    generator = np.random.default_rng(0)
    volumes = {"grey": generator.integers(0, 256, shape, dtype=np.uint8)}  # cannot be compressed
    volumes["probability"] = np.where(generator.random(shape) < 0.05, volumes["grey"], 0).astype(np.uint8)
    volumes |= {name: (volumes["probability"] > 128).astype(np.uint8) for name in ("mask", "manual")}
    positive, probability = blobs((60, 60, 60), share=0.1)
    table, _ = measure(positive, probability, np.eye(3))
    many = {name: np.tile(column, 100) for name, column in table.items()}
    assert len(many["label"]) > engine.results.report.ROW_LIMIT
    frame = Frame(np.eye(3), np.zeros(3), "nm")
    summary = {
        name: {"particles": 0, "volumeFraction": 0.0, "numberDensity": 0.0}
        for name in ("all", "withoutBorder")
    }
    content = describeContent(shape, frame, many, None, None, summary | {"unit": "nm"}, None)
    assert len(content["particles"]) == engine.results.report.ROW_LIMIT and content["leftOut"] > 0
    writeReport(tmp_path / "a.html", content | {"title": "a"}, volumes)
    assert (tmp_path / "a.html").stat().st_size < 20e6


def testFileHoldsTheVolumesAndParticlesOfTheRun(run):
    page = (run / "scan_segmented_report.html").read_text()
    data = dataOf(page)
    probability, _ = nrrd.read(str(run / "scan_segmented.nrrd"))
    np.testing.assert_array_equal(volumeOf(page, "probability"), np.rint(probability.T * 255))
    np.testing.assert_array_equal(volumeOf(page, "mask"), probability.T >= 0.4)
    reference, _ = nrrd.read(str(run / "scan_mask.nrrd"))
    np.testing.assert_array_equal(volumeOf(page, "manual"), reference.T == 0)
    grey, _ = nrrd.read(str(run / "scan_data.nrrd"))
    shown = volumeOf(page, "grey").astype(float)
    assert np.corrcoef(shown.ravel(), grey.T.ravel())[0, 1] > 0.99 and (shown.min(), shown.max()) == (0, 255)
    summary = json.loads((run / "scan_segmented_summary.json").read_text())
    kinds = [row["kind"] for row in data["particles"]]
    assert len(kinds) - kinds.count("miss") == summary["all"]["particles"]
    errors = (run / "scan_segmented_errors.csv").read_text().splitlines()[1:]
    assert kinds.count("false positive") + kinds.count("miss") == len(errors) > 0
    assert sum(data["histogram"]["counts"]) == summary["all"]["particles"]


def judgeSmall(folder, header, settings, truth=None):
    """Judge a small volume (8, 9, 10) and write all tables and the report; gives what the page holds."""
    positive, probability = blobs((8, 9, 10))
    shape, frame, scores = (10, 9, 8), readFrame(header), VoxelScores(0.5)
    judged = Judged(shape, 0.5, 26, frame, truth is not None)
    blocks = [(np.where(positive, probability, 0), truth)]
    passOver(blocks, judged, *([scores] if truth is not None else []))
    counts = scores.finish() if truth is not None else None
    kinds = ("particles", "summary", "report", *(("scores", "errors") if counts else ()))
    paths = {kind: folder / kind for kind in kinds}
    findings = outcome.Findings(judged, judged.finish(1), counts)
    subject = outcome.Subject(shape, frame, header, PUBLISHED)
    page, looks = Page("scan.nrrd", "CPU", {}), Looks(shape, (), False)
    evaluation = Evaluation(PUBLISHED, Criteria(0.5, 26, 1), None, paths, looks, page)
    print(*outcome.writeTables(findings, subject, evaluation, settings), sep="\n")
    return dataOf(paths["report"].read_text())


def testOnlyPredictedParticlesHaveANumber(tmp_path):
    positive, _ = blobs((8, 9, 10))
    labels, count = ndimage.label(positive, np.ones((3, 3, 3)))
    truth = ~ndimage.binary_dilation(positive, np.ones((3, 3, 3))) | (labels == count)
    page = judgeSmall(tmp_path, {}, {}, truth)
    errors = readTable(tmp_path / "errors")
    isMiss = errors["kind"] == "miss"
    assert isMiss.any() and set(errors["label"][isMiss]) == {""} and set(errors["x_voxel"][isMiss]) != {""}
    assert sorted(errors["label"][~isMiss].astype(int)) == list(range(1, count))
    numbers = {row["label"] for row in page["particles"] if row["kind"] == "miss"}
    assert numbers == {""} and len({row["label"] for row in page["particles"]}) == count + 1


@pytest.mark.parametrize("isRegion", [True, False])
def testRegionIsNamedWhereThereIsOne(tmp_path, isRegion, capfd):
    region = [[2, 12], [0, 9], [30, 38]] if isRegion else [[0, 10], [0, 9], [0, 8]]
    settings = {"region": region, "inputShape": [20, 9, 40] if isRegion else [10, 9, 8]}
    page, printed = judgeSmall(tmp_path, {}, settings), capfd.readouterr().out
    words = "region x 2:12 y 0:9 z 30:38 (half-open) of 20x9x40 voxels"
    assert (words in page["facts"]) == isRegion == any("region" in fact for fact in page["facts"])
    remarks = {name: remark for name, _, remark in page["figures"]}
    assert remarks["volume fraction"] == ("of the region" if isRegion else "of the whole volume")
    assert ("% of the region" in printed) == isRegion == ("% of the volume" not in printed)
    assert json.loads((tmp_path / "summary").read_text())["settings"]["region"] == region


@pytest.mark.parametrize(
    ("header", "fact", "note", "diameter"),
    [
        ({}, "lengths in voxels", "Lengths are in voxels: the header gives no size of a voxel.", " voxel"),
        ({"spacings": (0.5,) * 3}, "voxel 0.5 x 0.5 x 0.5 (unit not given)", "The header names no unit", ""),
        ({"spacings": (0.5,) * 3, "units": ["nm"] * 3}, "voxel 0.5 x 0.5 x 0.5 nm", "", " nm"),
    ],
)
def testPageAndConsoleSayWhatTheHeaderLeavesOpen(tmp_path, header, fact, note, diameter, capfd):
    page, printed = judgeSmall(tmp_path, header, {}), capfd.readouterr().out
    assert fact in page["facts"] and len(page["notes"]) == bool(note)
    assert " ".join(page["notes"]).startswith(note) and note.strip(".") in printed
    number = {name: value for name, value, _ in page["figures"]}["median diameter"]
    assert re.fullmatch(rf"[0-9.]+{diameter}", number) and f"median diameter {number} (quart" in printed
    titles = dict(page["columns"])
    assert titles["equivalentDiameter"] == "diameter" + f",{diameter}" * bool(diameter)
    assert " unit " not in printed and "unit³" not in str(page["figures"] + page["columns"])


def testPageNeedsNoNetworkAndNothingOfTheInputBecomesMarkup(tmp_path, run):
    page = (run / "scan_segmented_report.html").read_text()
    assert not re.search(r"(src|href)\s*=|@import|url\(|https?://", page)
    evil = "</script><script>alert(1)</script>@DATA@@VOLUMES@"
    table, _ = measure(*blobs(), np.eye(3))
    frame = Frame(np.eye(3), np.zeros(3), evil)
    found = type("Labels", (), {"droppedCount": 0, "droppedVoxels": 0})
    summary = summarise(table, found, frame, (34, 26, 30))
    content = describeContent((34, 26, 30), frame, table, None, None, summary, None)
    writeReport(tmp_path / "evil.html", content | {"title": evil, "facts": [evil]}, {})
    text = (tmp_path / "evil.html").read_text()
    assert evil not in text and dataOf(text)["title"] == dataOf(text)["facts"][0] == evil


@pytest.mark.parametrize("diameters", [[6.2e-8] * 50, [0.3], [3.0, 3.0, 9.0]])
def testHistogramHasNoNegativeSizes(diameters):
    histogram = engine.results.report.describeHistogram(np.array(diameters))
    assert 0 < histogram["edges"][0] <= min(diameters) and histogram["edges"][-1] >= max(diameters)
    assert sum(histogram["counts"]) == len(diameters)


@pytest.mark.parametrize(
    ("density", "unit", "expected"),
    [
        (4.59e-10, "nm", (0.459, "µm")),
        (0.3, "nm", (0.3, "nm")),
        (0.02, "um", (2e7, "mm")),
        (5.0, "um", (5.0, "µm")),
        (1e-9, "voxel", (1e-9, "voxel")),
        (0.0, "nm", (0.0, "nm")),
    ],
)
def testDensityIsShownInAUnitThatSuitsIt(density, unit, expected):
    value, length = engine.results.report.scaleDensity(density, unit)
    assert (value, length) == (pytest.approx(expected[0]), expected[1])


def testMasksOfThinnedOutVolumesAreMajorities():
    planes = np.zeros((2, 2, 4), bool)
    planes[:, :, :2] = True
    planes[0, 0, 2] = True
    preview = Preview((4, 2, 2), 2)
    preview.add(0, planes)
    assert packVolumes({"mask": preview})["mask"].tolist() == [[[1, 0]]]


# ---------------------------------------------------------------------------------------------- in a browser


@pytest.fixture(scope="module")
def browser():
    """Start Chromium without a screen."""
    if not HAS_CHROMIUM:
        pytest.skip("Chromium is not installed (Debian: apt-get install chromium chromium-driver)")
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(flag)
    options.add_argument("--window-size=1200,1500")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    driver = webdriver.Chrome(options=options, service=service)
    yield driver
    driver.quit()


def openReport(browser, path):
    """Open a report and wait until it is drawn."""
    browser.get(path.as_uri())
    waitFor(browser, "return document.body.dataset.ready === 'yes'")


def complaints(browser):
    """List what the page's console says, but for advice on how these tests read pixels."""
    return [entry for entry in browser.get_log("browser") if entry["source"] != "rendering"]


def waitFor(browser, script):
    """Wait until a script returns true."""
    end = time.monotonic() + 20
    while not browser.execute_script(script):
        assert time.monotonic() < end, script
        time.sleep(0.02)


def placeOf(browser):
    """Tell the voxel under the cross."""
    return [int(word) for word in browser.execute_script("return document.body.dataset.place").split()]


def pixelsOf(browser, axis):
    """Read the drawn view across an axis: (row, column, red green blue)."""
    script = """const c = document.getElementById(arguments[0]);
    const d = c.getContext("2d").getImageData(0, 0, c.width, c.height);
    return [c.height, c.width, Array.from(d.data)];"""
    height, width, values = browser.execute_script(script, f"view-{axis}")
    return np.array(values, np.uint8).reshape(height, width, 4)[..., :3]


def send(browser, name, value):
    """Move a slider, or tick a box, as a user does."""
    script = """const e = document.getElementById(arguments[0]);
    if (e.type === "checkbox") e.checked = arguments[1]; else e.value = arguments[1];
    e.dispatchEvent(new Event("input"));
    return new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(true))));"""
    browser.execute_script(script, name, value)


def testPageLoadsWithoutAnError(browser, run):
    openReport(browser, run / "scan_segmented_report.html")
    assert complaints(browser) == []
    assert placeOf(browser) == [side // 2 for side in SHAPE]
    assert all(pixelsOf(browser, axis).std() > 5 for axis in "xyz")


def testSliderWheelAndKeysChangeTheSlice(browser, run):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    openReport(browser, run / "scan_segmented_report.html")
    before = pixelsOf(browser, "z")
    send(browser, "slice-z", 5)
    assert placeOf(browser) == [40, 30, 5] and (pixelsOf(browser, "z") != before).any()
    assert "z 5 of 40" in browser.find_element(By.ID, "view-z").get_attribute("aria-label")
    canvas = browser.find_element(By.ID, "view-z")
    canvas.send_keys(Keys.PAGE_DOWN)
    waitFor(browser, "return document.body.dataset.place === '40 30 6'")
    canvas.send_keys(Keys.ARROW_LEFT, Keys.ARROW_DOWN)
    waitFor(browser, "return document.body.dataset.place === '39 31 6'")
    wheel = "new WheelEvent('wheel', {deltaY: 1, cancelable: true})"
    browser.execute_script(f"document.getElementById('view-x').dispatchEvent({wheel})")
    waitFor(browser, "return document.body.dataset.place === '40 31 6'")
    assert complaints(browser) == []


def testRowsOfTheTableJumpToTheirParticle(browser, run):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    openReport(browser, run / "scan_segmented_report.html")
    rows = {row["label"]: row for row in dataOf(browser.page_source)["particles"] if row["kind"] != "miss"}
    lines = browser.find_elements(By.CSS_SELECTOR, "#particles tbody tr")
    assert len(lines) == len(rows)
    for line, act in (
        (lines[0], lambda node: node.click()),
        (lines[2], lambda node: node.send_keys(Keys.ENTER)),
    ):
        act(line)
        row = rows[int(line.get_attribute("data-label"))]
        expected = [round(row[f"{axis}_voxel"]) for axis in "xyz"]
        waitFor(browser, f"return document.body.dataset.place === '{' '.join(map(str, expected))}'")
        assert line.get_attribute("aria-selected") == "true"
        red, green, blue = np.moveaxis(pixelsOf(browser, "z").astype(int), 2, 0)
        assert ((red > 180) & (green > 150) & (blue < red - 60)).any()  # the yellow frame


def testPointUnderTheCrossIsThatOfTheTable(browser, run):
    openReport(browser, run / "scan_segmented_report.html")
    for axis, number in zip("xyz", (7, 50, 11), strict=True):
        send(browser, f"slice-{axis}", number)
    point = np.array([7, 50, 11]) @ OBLIQUE["space directions"] + OBLIQUE["space origin"]
    text = browser.execute_script("return document.getElementById('point').textContent")
    shown = [float(word.replace("\u2212", "-")) for word in re.search(r"\((.*)\) um", text)[1].split(";")]
    np.testing.assert_allclose(shown, point, rtol=1e-3)


def testClickOnTheEdgeStaysInTheVolume(browser, run):
    openReport(browser, run / "scan_segmented_report.html")
    script = """const view = document.getElementById("view-z"), box = view.getBoundingClientRect();
    const at = {clientX: box.left + arguments[0], clientY: box.top + arguments[0]};
    view.dispatchEvent(new MouseEvent("click", at));"""
    browser.execute_script(script, -0.4)
    waitFor(browser, "return document.body.dataset.place === '0 0 20'")
    browser.execute_script(script, 1e4)
    waitFor(browser, f"return document.body.dataset.place === '{SHAPE[0] - 1} {SHAPE[1] - 1} 20'")


def testSortingByKeyboardKeepsFocusAndChoice(browser, run):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    openReport(browser, run / "scan_segmented_report.html")
    browser.find_elements(By.CSS_SELECTOR, "#particles tbody tr")[1].click()
    button = browser.find_elements(By.CSS_SELECTOR, "#particles thead button")[2]
    button.send_keys(Keys.ENTER)
    focused = browser.switch_to.active_element
    assert focused == button and focused.text.endswith("▼")
    assert button.find_element(By.XPATH, "..").get_attribute("aria-sort") == "descending"
    assert len(browser.find_elements(By.CSS_SELECTOR, "tr[aria-selected=true]")) == 1


def testOverlayAndOutlinesAreDrawnWhereTheParticleIs(browser, run):
    page = (run / "scan_segmented_report.html").read_text()
    mask, probability = volumeOf(page, "mask"), volumeOf(page, "probability")
    z = int(mask.sum(axis=(1, 2)).argmax())
    openReport(browser, run / "scan_segmented_report.html")
    for box in ("outline", "manual"):
        send(browser, box, False)
    send(browser, "slice-z", z)
    shown = []
    for opacity in (0, 100):
        send(browser, "opacity", opacity)
        pixels = pixelsOf(browser, "z")
        rows, columns = (
            ((np.arange(count) + 0.5) * size / count).astype(int)
            for count, size in zip(reversed(SHAPE[:2]), pixels.shape, strict=False)
        )
        shown.append(pixels[rows][:, columns].astype(int))
    plain, coloured = shown
    away = np.ones(SHAPE[1::-1], bool)
    away[SHAPE[1] // 2], away[:, SHAPE[0] // 2] = False, False  # the cross
    sure, none = (probability[z] > 250) & away, (probability[z] == 0) & away
    assert sure.sum() > 20 and none.sum() > 20
    assert (np.ptp(plain, axis=2)[away] == 0).all()  # grey
    np.testing.assert_allclose(coloured[sure], np.broadcast_to((213, 94, 0), (sure.sum(), 3)), atol=8)
    np.testing.assert_array_equal(coloured[none], plain[none])
    send(browser, "opacity", 0)
    send(browser, "outline", True)
    drawn = np.ptp(pixelsOf(browser, "z").astype(int), axis=2) > 40
    assert drawn.any()
    send(browser, "slice-z", int(mask.sum(axis=(1, 2)).argmin()))
    assert (np.ptp(pixelsOf(browser, "z").astype(int), axis=2) > 40).sum() < drawn.sum()


def testFilterShowsErrorsOnlyAndSortingTurnsTheTable(browser, run):
    from selenium.webdriver.common.by import By

    openReport(browser, run / "scan_segmented_report.html")
    kinds = [row["kind"] for row in dataOf(browser.page_source)["particles"]]
    script = """const k = document.getElementById("kind");
    k.value = arguments[0];
    k.dispatchEvent(new Event("change"));"""
    for kind in ("false positive", "miss"):
        browser.execute_script(script, kind)
        assert len(browser.find_elements(By.CSS_SELECTOR, "#particles tbody tr")) == kinds.count(kind)
    browser.execute_script(script, "all")
    browser.find_elements(By.CSS_SELECTOR, "#particles thead button")[0].click()
    numbers = [
        int(line.get_attribute("data-label")) for line in browser.find_elements(By.CSS_SELECTOR, "tbody tr")
    ]
    assert numbers == sorted(numbers, reverse=True)


@pytest.mark.parametrize("width", [360, 1200])
def testNothingSticksOutOfAWindow(browser, run, width):
    browser.set_window_size(width, 800)
    openReport(browser, run / "scan_segmented_report.html")
    script = "return document.documentElement.scrollWidth <= document.documentElement.clientWidth + 1"
    assert browser.execute_script(script)
    browser.set_window_size(1200, 1500)


@pytest.mark.parametrize(
    ("fields", "words", "isPlaced"),
    [({}, "Lengths are in voxels", False), ({"spacings": [0.5] * 3}, "The header names no unit", True)],
)
def testReportsWithoutReferenceUnitOrParticlesOpenToo(browser, run, tmp_path, fields, words, isPlaced):
    nrrd.write(str(tmp_path / "scan_data.nrrd"), nrrd.read(str(run / "scan_data.nrrd"))[0], fields)
    for threshold in (0.4, 1, 0):
        predict(tmp_path / "scan_data.nrrd", "--threshold", threshold)
        openReport(browser, tmp_path / "scan_segmented_report.html")
        send(browser, "slice-z", 10)
        assert complaints(browser) == []
        shown = browser.execute_script("return document.querySelector('main').innerText")
        assert words in shown and ("The cross lies at (20; 15; 5)." in shown) == isPlaced
        assert "undefined" not in shown


def testRowsOfAThinnedOutReportJumpToTheirParticleToo(browser, run, tmp_path, monkeypatch):
    from selenium.webdriver.common.by import By

    import engine.results.report

    monkeypatch.setattr(engine.results.looks, "VOXEL_LIMIT", 12_000)  # a factor of 3
    shutil.copy(run / "scan_data.nrrd", tmp_path)
    predict(tmp_path / "scan_data.nrrd", "--threshold", 0.4)
    openReport(browser, tmp_path / "scan_segmented_report.html")
    assert "Blocks of 3 x 3 x 3 voxels are averaged" in browser.page_source
    rows = {row["label"]: row for row in dataOf(browser.page_source)["particles"]}
    line = browser.find_element(By.CSS_SELECTOR, "#particles tbody tr")  # the largest particle
    line.click()
    row = rows[int(line.get_attribute("data-label"))]
    expected = [round((row[f"{axis}_voxel"] - 1) / 3) for axis in "xyz"]
    waitFor(browser, f"return document.body.dataset.place === '{' '.join(map(str, expected))}'")
    x, y, z = expected
    assert volumeOf(browser.page_source, "probability")[z, y, x] > 200
    full = "".join(view.text for view in browser.find_elements(By.CSS_SELECTOR, "#views"))
    assert f"z {3 * z + 1} of 40" in full
    assert complaints(browser) == []
