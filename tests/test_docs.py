"""The pages: every relative link leads somewhere, and every quoted figure is that of its run.

In results/README.md `[ACC / ASR](run)` is one run, `ACC / ASR ([0](run), [1](run))` the mean of several, and
`low to high / low to high` in the cell after a linked pair its intervals. STRIP's pairs are FRR / FAR.
"""
import json
import re
from statistics import mean, median

import numpy as np
import pytest
from helpers.paths import ROOT

from docs.make_pictures import read_examples
from engine.kinds.inputs import last_within
from methods.calibration import SUSPECT
from methods.populations import BENIGN, TABLE, missed_of, populations_of, read_rows
from methods.trust import interval
from methods.witnesses import CHANNELS, MARGINS, WITNESSES

PAGES = ["README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")), "results/README.md",
         "benchmarks/README.md"]
FIGURES = "results/README.md"
LINK = re.compile(r"\]\(([^)\s]+)\)")
NUMBER = r"(\d+\.\d+)"
PAIR = rf"{NUMBER} / {NUMBER}"
ONE = re.compile(rf"\[{PAIR}\]\(([^)\s]+)\)(?: \| {NUMBER} to {NUMBER} / {NUMBER} to {NUMBER})?")
MEAN = re.compile(rf"{PAIR} \(((?:\[\d\]\([^)\s]+\)(?:, )?)+)\)")


def text_of(page):
    """The page without blocks of code, and with every paragraph on one line."""
    text = re.sub(r"^```.*?^```", "", (ROOT / page).read_text(), flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"(?<!\n)\n *(?![\n|#-])", " ", text)


def anchors(page):
    """What a # link can name: the headings as GitHub spells them."""
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-")
            for heading in re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)}


def shares_of(folder):
    """The two shares that a linked pair quotes, as results.json has them."""
    results = json.loads((ROOT / "results" / folder / "results.json").read_text())
    method = results["method"]
    return (method["frr"], method["far"]) if method.get("name") == "STRIP" else (results["acc"], results["asr"])


def agrees(printed, fraction):
    """Whether a figure in % is the fraction, at the precision that it is printed with."""
    return abs(float(printed) - 100 * fraction) <= 0.5 * 10 ** -len(printed.split(".")[1]) + 1e-9


def quoted_pairs(page=FIGURES):
    return list(ONE.finditer(text_of(page).replace("**", "")))


def quoted_means():
    return list(MEAN.finditer(text_of(FIGURES).replace("**", "")))


@pytest.mark.parametrize("page", PAGES)
def test_every_relative_link_leads_to_a_file_and_a_heading(page):
    for link in LINK.findall(text_of(page)):
        if "://" in link:
            continue
        target, _, anchor = link.partition("#")
        path = (ROOT / page).parent / target if target else ROOT / page
        assert path.exists(), link
        assert not anchor or anchor in anchors(path), link


def test_every_pair_that_links_a_run_is_that_of_its_results():
    assert len(quoted_pairs()) > 60
    for match in quoted_pairs():
        first, second, folder, *intervals = match.groups()
        shares = shares_of(folder)
        assert agrees(first, shares[0]["value"]) and agrees(second, shares[1]["value"]), match.group()
        if intervals[0]:
            ends = [end for share in shares for end in share["interval"]]
            assert all(map(agrees, intervals, ends)), match.group()


def test_every_pair_in_the_readme_is_that_of_its_results():
    assert len(quoted_pairs("README.md")) > 5
    for match in quoted_pairs("README.md"):
        first, second, folder, *_ = match.groups()
        shares = shares_of(folder.removeprefix("results/"))
        assert agrees(first, shares[0]["value"]) and agrees(second, shares[1]["value"]), match.group()


def test_every_mean_is_that_of_the_runs_it_links():
    assert len(quoted_means()) > 15
    for match in quoted_means():
        *printed, links = match.groups()
        runs = [shares_of(folder) for folder in LINK.findall(links)]
        assert all(agrees(figure, mean(run[place]["value"] for run in runs))
                   for place, figure in enumerate(printed)), match.group()


def test_a_figure_that_is_wrong_in_its_last_digit_is_found():
    share = shares_of("cifar10-jpeg-width16/badnets")[0]["value"]
    assert agrees("82.36", share) and not agrees("82.37", share) and agrees("82.4", share)


def test_the_readme_fits_150_lines_and_shows_two_pictures():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 150 and text.count("![") == 2
    assert all(path.stat().st_size < 200_000 for path in (ROOT / "docs/pictures").glob("*.png"))


def test_every_page_is_linked_from_the_readme():
    linked = LINK.findall((ROOT / "README.md").read_text())
    assert set(PAGES) - {"README.md"} <= set(linked)


def test_the_picture_of_badnets_shows_a_change_in_the_corner_alone():
    examples = read_examples(ROOT / "results/cifar10-jpeg-width16/badnets/poisoned_examples.png")
    changed = np.any([before != after for before, after in examples], axis=(0, 3))
    assert len(examples) == 8 and changed[-3:, -3:].all() and changed.sum() == 9


def error_cell(row):
    """What the page says of one of Population.errors."""
    undecided = f", {row['undecided']} undecided" if row["undecided"] else ""
    if row["attack"] == BENIGN:
        return f"{row['wrong']} suspected{undecided}"
    return f"{row['wrong']} missed{undecided}, {row['named']} named"


def population_of(dataset):
    population, = (one for one in populations_of(read_rows(TABLE)) if one.dataset == dataset)
    return population


def test_what_a_larger_max_drop_buys_is_what_the_sweeps_have():
    sweeps = [results["method"]["sweep"] for results in map(json.loads, (
        path.read_text() for path in (ROOT / "results").glob("**/anp/pruned/results.json")))
        if results["dataset"].startswith("cifar10")]
    attacked = [sweep for sweep in sweeps if sweep[0]["asr"] and sweep[0]["asr"]["value"] >= 0.5]
    table = re.findall(r"^\| (0\.\d+) \| (\d+) of (\d+) \| (.*) \|$", (ROOT / FIGURES).read_text(), re.MULTILINE)
    assert len(table) == 5
    for drop, stopped, models, figures in table:
        chosen = [sweep[last_within([row["held_out_acc"]["value"] for row in sweep], float(drop))]
                  for sweep in attacked]
        asr = [row["asr"]["value"] for row in chosen]
        lost = [sweep[0]["acc"]["value"] - row["acc"]["value"] for sweep, row in zip(attacked, chosen, strict=True)]
        assert (int(stopped), int(models)) == (sum(share <= 0.1 for share in asr), len(attacked))
        assert all(map(agrees, figures.split(" | "), (median(asr), mean(asr), mean(lost)))), drop


def test_recalibrated_statistics_are_what_the_two_sweeps_have():
    folders = (ROOT / "results/recalibrated/trojan" / name for name in ("pruned", "pruned-recalibrated"))
    plain, anew = (json.loads((folder / "results.json").read_text())["method"]["sweep"] for folder in folders)
    rows = re.findall(rf"^\| ([\d.]+), (\d+) \| {PAIR} \| {PAIR} \|$", (ROOT / FIGURES).read_text(), re.MULTILINE)
    assert len(rows) == 6
    for threshold, pruned, *figures in rows:
        found = [row for sweep in (plain, anew) for row in sweep if row["threshold"] == float(threshold)]
        assert [row["pruned"] for row in found] == [int(pruned)] * 2
        assert all(map(agrees, figures, [row[name]["value"] for row in found for name in ("acc", "asr")])), threshold


def test_the_audits_verdicts_on_the_models_of_this_page_are_those_of_its_table():
    population, text = population_of("cifar10-jpeg"), (ROOT / FIGURES).read_text()
    tested = [row for row in population.rows if not row.is_reference]
    assert len(tested) == 19 and len(population.reference) == 9
    for row in tested:
        weighed = population.weigh(row)
        judgement, own = weighed.judgement, " | ".join(f"{weighed.p_values[name]:.2g}" for name in WITNESSES)
        named = "" if judgement.verdict != SUSPECT else (
            f", {'target' if judgement.target == row.target else 'wrong label'} {judgement.target}")
        alone = "no sign" if row.flagged is None else f"target {row.flagged}"
        asr = "–" if row.asr is None else f"{100 * row.asr:.2f}"
        line = (f"{100 * row.acc:.2f} / {asr} | {own} | "
                f"{judgement.verdict.removesuffix(' of a backdoor')}{named} | {alone} |")
        assert re.search(rf"^\| {row.attack} \| [^|]+ \| {re.escape(line)}$", text, re.MULTILINE), line


def test_the_audits_errors_are_those_of_its_table():
    population = population_of("digits")
    ways = (population.errors(), population.errors((CHANNELS, MARGINS)), population.errors_of_cleanse_alone())
    text = (ROOT / FIGURES).read_text()
    for rows in zip(*ways, strict=True):
        cells = " | ".join(map(error_cell, rows))
        assert f"\n| {rows[0]['attack']} | {rows[0]['models']} | {cells} |\n" in text
    for way in ways:
        wrong, models = missed_of(way)
        assert f"{wrong} of {models} missed ({interval(wrong, models)})" in text
        alarms, benign = way[0]["wrong"], way[0]["models"]
        assert f"{alarms} of {benign} suspected ({interval(alarms, benign)})" in text
