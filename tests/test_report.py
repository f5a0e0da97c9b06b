import json
import re
import shutil
import time
from pathlib import Path

import pytest
from helpers.paths import ROOT
from pypdf import PdfReader

from report import main

RESULTS = ROOT / "tests/fixtures/runs"  # real runs, cut to what the report reads
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
BROWSER = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
           "--disable-background-networking", "--disable-component-update", "--disable-sync")


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The folder with the report of a third of the committed runs."""
    folder = tmp_path_factory.mktemp("report")
    root = folder / "runs"
    for name in ("badnets", "benign", "badnets-abl", "badnets-10", "clean-label-0.8"):
        shutil.copytree(RESULTS / name, root / name)
    shutil.copy(root / "badnets/poisoned_examples.png", root / "badnets-10")  # the fixture has the picture once
    (root / "stopped").mkdir()
    (root / "stopped/config.json").write_text('{"script": "train_backdoor.py", "arguments": {}}')
    (root / "broken").mkdir()
    (root / "broken/results.json").write_text("{")
    main([str(root), "--output-dir", str(folder / "out")])
    return folder / "out"


def text_of(page):
    return re.sub(r"<[^>]*>", " ", re.sub(r"<(script|style)>.*?</\1>", "", page.read_text(), flags=re.S))


def test_the_page_has_the_figures_that_the_runs_have(report):
    text = text_of(report / "report.html")
    logged = json.loads((RESULTS / "badnets/results.json").read_text())
    assert f"{100 * logged['acc']['value']:.2f}" in text and f"{100 * logged['asr']['value']:.2f}" in text
    for title in ("Attacks", "Attacks against defenses", "Adversarial Neuron Pruning", "STRIP", "Fine-Pruning",
                  "Neural Cleanse", "Anti-Backdoor Learning", "All runs"):
        assert title in text


def test_unfinished_and_broken_runs_are_named(report):
    text = text_of(report / "report.html")
    assert re.search(r"stopped\s+unfinished", text) and re.search(r"broken\s+broken\s+results\.json", text)


def test_der_on_the_page_is_that_of_the_committed_runs(report):
    """Unlearning with the reversed trigger took BadNets from 82.36 / 99.98 to 81.05 / 1.84."""
    page = (report / "report.html").read_text()
    row = re.search(r">NC unlearning<.*?</tr>", page, re.S).group()
    der = (99.97778 - 1.84444 - (82.36 - 81.05) + 100) / 2
    assert f">{der:.1f}<" in row


def test_the_pdf_has_at_most_eight_pages_and_says_how_things_work(report):
    pages = PdfReader(report / "report.pdf").pages
    text = "\n".join(page.extract_text() for page in pages)
    assert len(pages) <= 8 and "Adversarial Neuron Pruning" in text and "STRIP" in text


def test_the_grade_fails_on_short_runs_and_writes_nothing(capsys, tmp_path):
    shutil.copytree(RESULTS / "badnets", tmp_path / "badnets")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SystemExit) as stopped:
        main([str(tmp_path), "--grade"])
    assert stopped.value.code == 1 and "FAIL" in capsys.readouterr().out and sorted(tmp_path.rglob("*")) == before


def test_the_grade_passes_where_all_is_met(capsys, tmp_path):
    for name, asr, acc in (("badnets", 1, 0.93), ("blend", 1, 0.92), ("clean-label", 0.85, 0.92)):
        (tmp_path / name).mkdir()
        row = (49, 0.001, 9, 0.1, 0.99, 0.1, asr, 0.3, acc)
        (tmp_path / name / "output.log").write_text(" \t ".join(map(str, row)) + "\n")
    (tmp_path / "anp").mkdir()
    (tmp_path / "anp/pruning_by_threshold.txt").write_text("40.00 \t bn1 \t 3 \t 0.2 \t 4 \t 0.02 \t 0.3 \t 0.925\n")
    with pytest.raises(SystemExit) as stopped:
        main([str(tmp_path), "--grade"])
    assert stopped.value.code == 0 and capsys.readouterr().out.count("pass") == 8


def test_what_is_refused(tmp_path, refused):
    assert "no such folder" in refused(main, tmp_path / "none")
    assert "no run lies here" in refused(main, tmp_path)
    assert "has no effect with --grade" in refused(main, tmp_path, "--grade", "--max-pages", "3")
    assert "expected a whole number" in refused(main, tmp_path, "--max-pages", "0")


@pytest.fixture(scope="module")
def browser():
    if not (CHROMIUM and DRIVER):
        pytest.skip("needs chromium and chromedriver (Debian's packages chromium and chromium-driver)")
    from selenium import webdriver
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for flag in BROWSER:
        options.add_argument(flag)
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


def opened(browser, report, width=1280, scheme="light"):
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia",
                            {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride",
                            {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False})
    browser.get(Path(report / "report.html").as_uri())
    while browser.execute_script("return document.readyState") != "complete":  # a busy machine is still reading it
        time.sleep(0.05)
    return browser


@pytest.mark.parametrize("width", [1280, 400])
def test_the_page_fits_its_window_and_complains_of_nothing(browser, report, width):
    page = opened(browser, report, width)
    assert page.execute_script("return document.documentElement.scrollWidth") <= width
    assert page.execute_script("return [...document.images].every(i => i.decode && i.naturalWidth > 0 || !i.complete)")
    assert [line for line in page.get_log("browser") if line["level"] == "SEVERE"] == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_in_both_schemes(browser, report, scheme):
    """WCAG's contrast of text and ground is at least 4.5, of soft text too."""
    page = opened(browser, report, scheme=scheme)
    ratio = page.execute_script("""
        const light = color => color.match(/[\\d.]+/g).slice(0, 3).map(c => c / 255)
            .map(c => c <= .04045 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4)
            .reduce((sum, c, i) => sum + c * [.2126, .7152, .0722][i], 0);
        const ground = light(getComputedStyle(document.body).backgroundColor);
        return ['body', '.soft', 'a', '.bad', '.good']
            .map(name => light(getComputedStyle(document.querySelector(name)).color))
            .map(text => (Math.max(text, ground) + .05) / (Math.min(text, ground) + .05));""")
    assert min(ratio) >= 4.5
    assert (page.execute_script("return getComputedStyle(document.body).backgroundColor") == "rgb(22, 24, 27)") == (
        scheme == "dark")


def test_a_click_on_a_heading_sorts_the_table_and_a_second_turns_it_round(browser, report):
    page = opened(browser, report)
    column = """
        const table = [...document.querySelectorAll('table')].find(t => t.tHead.textContent.includes('DER'));
        const heading = [...table.tHead.rows[0].cells].find(c => c.textContent === 'ASR');
        heading.firstChild.click();
        return [heading.getAttribute('aria-sort'),
                [...table.tBodies[0].rows].map(r => Number(r.cells[heading.cellIndex].dataset.value))];"""
    order, rising = page.execute_script(column)
    assert order == "ascending" and rising == sorted(rising) and len(set(rising)) > 5
    order, falling = page.execute_script(column)
    assert order == "descending" and falling == rising[::-1]


@pytest.mark.parametrize("width", [1280, 400])
def test_every_image_of_an_example_is_large_enough_to_see(browser, report, width):
    """engine.drawing.grids.image_grid gives an image some 1.15 inches, at 150 dots an inch."""
    page = opened(browser, report, width)
    images = page.execute_script("""
        return [...document.querySelectorAll('img')].filter(i => i.alt.includes('what the attack makes of them'))
            .map(i => i.getBoundingClientRect().width / (i.getAttribute('width') / 150) * 1.15);""")
    assert len(images) >= 2 and min(images) >= 64


def test_formulas_are_as_large_as_the_text(browser, report):
    page = opened(browser, report)
    lines = page.execute_script("""
        const text = parseFloat(getComputedStyle(document.querySelector('p')).fontSize);
        return [...document.querySelectorAll('.formula svg')].map(s => s.getBoundingClientRect().height / text);""")
    assert len(lines) >= 5 and 0.8 < min(lines) < 1.6 and max(lines) < 4


def test_numbers_stand_beneath_their_headings_side(browser, report):
    page = opened(browser, report)
    off = page.execute_script("""
        const side = cell => getComputedStyle(cell).textAlign.replace('start', 'left');
        return [...document.querySelectorAll('table')].flatMap(table => [...table.tHead.rows[0].cells].flatMap(
            head => [...table.tBodies[0].rows].slice(0, 5).map(row => [head.textContent, side(head.firstChild),
                                                                       side(row.cells[head.cellIndex])])))
            .filter(([, heading, cell]) => heading !== cell);""")
    assert off == []
