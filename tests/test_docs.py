"""The pages: every relative link leads somewhere, and every quoted figure is that of its run.

In results/README.md `[ACC / ASR](run)` is one run, `ACC / ASR ([0](run), [1](run))` the mean of several, and
`low to high / low to high` in the cell after a linked pair its intervals. STRIP's pairs are FRR / FAR. In the sections
of WITH_CA9 a linked pair is followed by CA-9, and that by the published `(CA / ASR)`.
"""
import json
import re
from functools import cache
from statistics import mean, median

import numpy as np
import pytest
from helpers.paths import ROOT

from docs.make_pictures import read_examples
from engine.measuring.scores import last_within
from methods.calibration import SUSPECT
from methods.measured import BENIGN
from methods.populations import missed_of, populations_of
from methods.rates import TABLE, read_rows
from methods.trust import interval
from methods.witnesses import CHANNELS, MARGINS, TITLES, WITNESSES
from reporting.found import find_runs
from reporting.published import averages, means, measured, published

PAGES = ["README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")), "results/README.md",
         "benchmarks/README.md"]
FIGURES = "results/README.md"
LINK = re.compile(r"\]\(([^)\s]+)\)")
NUMBER = r"(\d+\.\d+)"
PAIR = rf"{NUMBER} / {NUMBER}"
ONE = re.compile(rf"\[{PAIR}\]\(([^)\s]+)\)(?: \| {NUMBER} to {NUMBER} / {NUMBER} to {NUMBER})?")
PUBLISHED = r"\((\d+(?:\.\d+)?) / (\d+(?:\.\d+)?)\)"
BESIDE = re.compile(rf"\[{PAIR}\]\(([^)\s]+)\)(?:,| \|) {NUMBER}(?: {PUBLISHED})?")
# {section: how many pairs it has at least with CA-9 beside them}
WITH_CA9 = {"The lecture's table on WRN-16-1": 55, "Other repairs": 50, "The same repairs on ResNet-18 of width 16": 24}
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


def section_of(heading):
    """The text of a section of results/README.md without those below it."""
    return re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#)", text_of(FIGURES), re.DOTALL | re.MULTILINE).group(1)


@cache
def lecture_cells():
    """{folder in results/: Measured} of the lecture's table."""
    return {f"lecture-abl/{one.folder}": one for one in measured(find_runs(ROOT / "results/lecture-abl"))}


def wrong_beside(text):
    """[each linked pair of a text beside which is not CA-9 of its run, or not the published pair of its cell]."""
    wrong = []
    for match in BESIDE.finditer(text):
        _, _, folder, ca9, *printed = match.groups()
        share = json.loads((ROOT / "results" / folder / "results.json").read_text())["acc_outside_target"]
        asr, ca = lecture_cells()[folder].published if printed[0] else (None, None)
        if not agrees(ca9, share["value"]) or (printed[0] and [float(one) for one in printed] != [ca, asr]):
            wrong.append(match.group())
    return wrong


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


@pytest.mark.parametrize("heading", WITH_CA9)
def test_what_stands_beside_a_pair_is_ca9_of_its_run_and_the_published_pair(heading):
    text = section_of(heading)
    assert len(BESIDE.findall(text)) >= WITH_CA9[heading]
    assert wrong_beside(text) == []


def test_every_cell_of_the_lecture_s_table_has_its_published_pair():
    found = {match[3] for match in BESIDE.finditer(section_of("The lecture's table on WRN-16-1")) if match[5]}
    assert found == lecture_cells().keys()


@pytest.mark.parametrize("right, wrong", [("82.93 (85.43 / 100)", "82.94 (85.43 / 100)"),
                                          ("82.93 (85.43 / 100)", "82.93 (85.44 / 100)"),
                                          ("78.57 (86.11 / 3.04)", "78.57 (86.11 / 3.4)"),
                                          ("78.57 (86.11 / 3.04)", "78.57 (3.04 / 86.11)")])
def test_a_wrong_figure_beside_a_pair_is_found(right, wrong):
    text = section_of("The lecture's table on WRN-16-1")
    assert right in text and len(wrong_beside(text.replace(right, wrong))) == 1


def rows_of(text):
    """The cells of each row of a text's tables."""
    return [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in text.splitlines() if line[:1] == "|"]


def fine_tuned():
    """(cell without a link, the attack's cell beside or above it, the run and the part of it that has its figures) of
    the models that MCR and NAD fine-tuned on their way."""
    for _, none, tuned, *_ in (row for row in rows_of(section_of("Other repairs")) if len(row) == 6):
        if re.match(NUMBER, tuned):
            yield tuned, none, "mcr", "at_second"
    rows = {row[0]: row[1:5] for row in rows_of(section_of("The same repairs on ResNet-18 of width 16"))}
    for title, run, part in (("fine-tuning, rate 0.01 (MCR's second end)", "mcr", "at_second"),
                             ("fine-tuning, rate 0.1 (NAD's control)", "nad", "teacher")):
        yield from ((*cells, run, part) for cells in zip(rows[title], rows["none"], strict=True))


def test_the_fine_tuned_models_are_those_that_mcr_and_nad_made():
    found = list(fine_tuned())
    assert len(found) >= 16
    for tuned, none, run, part in found:
        folder, = LINK.findall(none)
        end = json.loads((ROOT / "results" / folder / run / "results.json").read_text())["method"][part]
        shares = [end[name]["value"] for name in ("acc", "asr", "acc_outside_target")]
        assert all(map(agrees, re.fullmatch(rf"{PAIR}, {NUMBER}", tuned).groups(), shares)), (folder, run)


def test_the_means_of_the_lecture_s_table_are_those_of_its_cells_that_count():
    found = [one for one in lecture_cells().values() if not one.left_out]
    ours = means(found)
    theirs = averages({key: published()[key] for key in ours})
    row, = re.findall(r"^\| mean of the attacks, .*$", section_of("The lecture's table on WRN-16-1"), re.MULTILINE)
    printed = re.findall(rf"{PAIR} {PUBLISHED}", row)
    assert [tuple(map(float, cell)) for cell in printed] == [
        tuple(round(value, 2) for value in (ca9, asr, theirs[name][1], theirs[name][0]))
        for name, (asr, ca9) in averages(ours).items()]


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
    return f"{row['wrong']} missed ({interval(row['wrong'], row['models'])}){undecided}, {row['named']} named"


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
    assert len(tested) == 26 and len(population.reference) == 9
    for row in tested:
        weighed = population.weigh(row)
        judgment, own = weighed.judgment, " | ".join(f"{weighed.p_values[name]:.2g}" for name in WITNESSES)
        named = "" if judgment.verdict != SUSPECT else (
            f", {'target' if judgment.target == row.target else 'wrong label'} {judgment.target}")
        alone = "no sign" if row.flagged is None else f"target {row.flagged}"
        asr = "–" if row.asr is None else f"{100 * row.asr:.2f}"
        line = (f"{100 * row.acc:.2f} / {asr} | {own} | "
                f"{judgment.verdict.removesuffix(' of a backdoor')}{named} | {alone} |")
        assert re.search(rf"^\| {row.attack} \| [^|]+ \| {re.escape(line)}$", text, re.MULTILINE), line


def sum_cell(errors):
    """What the page says of all backdoored models, and of all benign ones, in Population.errors; a dash for none."""
    missed, backdoored = missed_of(errors)
    alarms, benign = next(((row["wrong"], row["models"]) for row in errors if row["attack"] == BENIGN), (0, 0))
    return (f"{missed} of {backdoored} missed ({interval(missed, backdoored)})" if backdoored else "–",
            f"{alarms} of {benign} suspected ({interval(alarms, benign)})" if benign else "–")


def error_lines(population):
    """The lines of the page's table of an audit's errors: each attack, all backdoored models, all benign ones."""
    ways = [population.errors(), population.unseen().errors(), population.errors((CHANNELS, MARGINS)),
            population.errors_of_cleanse_alone()]
    by_attack = [{row["attack"]: row for row in way} for way in ways]
    for attack in by_attack[0]:
        cells = [error_cell(way[attack]) if attack in way else "–" for way in by_attack]
        if attack in by_attack[1]:
            cells[1] = f"{by_attack[1][attack]['models']}: {cells[1]}"
        yield " | ".join([attack, str(by_attack[0][attack]["models"]), *cells])
    for title, cells in zip(("all backdoored", "all benign"), zip(*map(sum_cell, ways), strict=True), strict=True):
        yield " | ".join([title, "", *cells])


def witness_lines(population):
    """The lines of the page's table of what each witness says by itself, and all together."""
    for title, chosen in (*((TITLES[name], (name,)) for name in WITNESSES), ("all three", WITNESSES)):
        yield " | ".join([title, *sum_cell(population.errors(chosen))[::-1]])


@pytest.mark.parametrize("dataset", ["digits", "cifar10-jpeg"])
def test_the_audits_errors_are_those_of_its_table(dataset):
    text = (ROOT / FIGURES).read_text()
    for line in (*error_lines(population_of(dataset)), *witness_lines(population_of(dataset))):
        assert f"\n| {line} |\n" in text, line


def test_the_audits_page_has_the_sums_of_both_populations():
    text = (ROOT / "docs/audit.md").read_text()
    for title, dataset in (("digits, ResNet-18 of width 16", "digits"), ("CIFAR-10, WRN-16-1", "cifar10-jpeg")):
        population = population_of(dataset)
        missed, suspected = sum_cell(population.errors())
        assert f"\n| {title} | {len(population.reference)} benign models | {suspected} | {missed} |\n" in text
