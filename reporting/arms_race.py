"""The page of the arms race: what each defense assumes, an attack that keeps to it, and an attack that breaks it.

    python -m reporting.arms_race

Reads finished runs, by default those in results/, and the pairs in workflow/matrices/arms-race.yaml, whose cells `make
arms-race` runs. Writes docs/arms-race.md.
"""
import math
import os
from dataclasses import dataclass
from pathlib import Path

from common.files import atomic_file
from common.untrusted import read_yaml
from engine.command_line import flags
from engine.command_line.command import command
from reporting.effects import mean
from reporting.found import find_runs
from reporting.published import POISONED
from reporting.tried import PASSES, STOPPED, at_share, best, least_stopped, most_stopped, ranked_settings, tried_cells

ROOT = Path(__file__).resolve().parent.parent
TABLE, PAGE = ROOT / "workflow/matrices/arms-race.yaml", ROOT / "docs/arms-race.md"
NOT_RUN = "not run yet"
INTRO = f"""# The arms race

An attack passes a defense by breaking what the defense assumes. Each row has, with what was measured here,

- the assumption;
- an attack that keeps to it. Where the defense stopped none of these, another one stands beside them that it stopped:
  the same attack on other images or another network, else the attack that it stopped most. Where it stopped none at
  all, the row says so;
- attacks that break it, by the publications or by the figures of this suite. Where none is known, or none took hold
  here, the one stands there that the defense stopped least.

*Stopped* means that at most {STOPPED} % of triggered images get through, *passes* that {PASSES} % or more do, and
*partly* what lies between. For a repair that is the ASR afterwards, for STRIP the FAR, for a detector of poisoned
images the share of those that it misses, for one of backdoored models the share of models whose target it does not
name. Pruning's figures are also those of Fine-Pruning before it fine-tunes. All figures are in %, means over seeds
where there are several; each links to its first run, with the share of the training images that was poisoned where the
run says it. Of several shares the one nearest to {100 * POISONED:g} % is shown, unless a row names another.
`make arms-race` runs the cells that are missing, on a WRN-16-1, and `python -m reporting.arms_race` writes this page
from `results/`.
"""


def figures(tried):
    """What was measured, in words."""
    first, count = tried.runs[0], len(tried.runs)
    (asr, acc), after = tried.before, {
        name: mean(100 * run.share(name) for run in tried.runs) for name in ("asr", "acc")}
    if first.is_repair:
        pairs = [(f"{asr:.1f}", f"{after['asr']:.1f}"), (f"{acc:.1f}", f"{after['acc']:.1f}")]
        unchanged = ", unchanged" if all(old == new for old, new in pairs) else ""
        return "ASR {} to {}, ACC {} to {}".format(*pairs[0], *pairs[1]) + unchanged + on_isolation(tried.runs)
    shares = [name for name in ("far", "frr", "recall", "precision") if name in first.method]
    if shares:
        means = {name: mean(100 * run.share(name, run.method) for run in tried.runs) for name in shares}
        return ", ".join(f"{name.upper() if name in ('far', 'frr') else name} {value:.1f}"
                         for name, value in means.items() if not math.isnan(value))
    named = round(count * (1 - tried.through / 100))
    if count > 1:
        return f"target named in {named} of {count}"
    return "target named" if named else "another class named" if first.method.get("targets") else "target not named"


def on_isolation(runs):
    """What ABL's runs had isolated, and what was left before they unlearned it, in words; "" for another defense."""
    if not runs[0].method.get("filtered"):
        return ""
    precision, asr = (mean(100 * run.share(name, of) for run, of in zip(runs, own, strict=True)) for name, own in (
        ("precision", [run.method for run in runs]), ("asr", [run.method["filtered"] for run in runs])))
    return f" (of what it isolated {precision:.0f} % was poisoned; ASR {asr:.1f} before it unlearned that)"


def in_words(tried, folder):
    """A Tried in a cell of the table, with a link from a page in `folder`."""
    link = Path(os.path.relpath(tried.runs[0].folder.resolve(), folder)).as_posix()
    return f"{tried.attack}: {figures(tried)}: *{tried.verdict}* ([{place(tried)}]({link}))"


def place(tried):
    """The data set, the network and the poisoned share, in words."""
    dataset, arch, width = tried.setting
    share = "" if math.isnan(tried.poisoned) else f", {100 * tried.poisoned:.3g} % poisoned"
    return f"{dataset}, {arch}{f' of width {width:g}' if width else ''}{share}"


def name_of(attack, poisoned):
    """An attack in words, with the share of the training images that it is to poison where one is named."""
    return attack if poisoned is None else f"{attack} at {100 * poisoned:g} %"


def named_attacks(entry, key):
    """[(attack, share poisoned or None)] that a pair of the file has under a key."""
    named = entry.get(key, ())
    return list(named.items()) if isinstance(named, dict) else [(attack, None) for attack in named]


@dataclass(frozen=True)
class Row:
    """A defense, and {attack, in words: its Tried, or None} of those that keep to what it assumes and of those that
    break it.

    cells: {attack: [Tried]} of the defense in all settings and at all shares.
    """

    defense: str
    assumes: str
    kept: dict
    broken: dict
    cells: dict

    @classmethod
    def of(cls, defense, entry, cells):
        """entry: what the file of pairs has of the defense. cells: {attack: [Tried]} of it."""
        keepers, breakers = named_attacks(entry, "kept_by"), named_attacks(entry, "broken_by")
        settings = ranked_settings(cells, [*keepers, *breakers])
        kept, broken = ({name_of(*one): best(at_share(cells, *one), settings) for one in named}
                        for named in (keepers, breakers))
        if all(tried and not tried.has_backdoor for tried in broken.values()):
            broken |= {one.attack: one for one in least_stopped(cells, keepers[0][0], settings)}
        if not any(tried and tried.verdict == "stopped" for tried in kept.values()):
            kept |= {f"{one.attack}, {place(one)}": one
                     for one in most_stopped(cells, [attack for attack, _ in keepers], settings)}
        return cls(defense, entry["assumes"], kept, broken, cells)

    def text(self, folder):
        """The row of the table on a page in `folder`."""
        kept, broken = ([in_words(tried, folder) if tried else f"{attack}: {NOT_RUN}" for attack, tried in
                         column.items()] for column in (self.kept, self.broken))
        return f"| {self.defense} | {self.assumes} | {'<br>'.join(kept + self.failure())} | " + (
            f"{'<br>'.join(broken) or NOT_RUN} |")

    def failure(self):
        """[a sentence that says so] if the defense stopped no attack that it was run on and that had worked."""
        worked = {attack: own for attack, own in self.cells.items() if any(tried.has_backdoor for tried in own)}
        if not worked or any(tried.verdict == "stopped" for own in worked.values() for tried in own):
            return []
        return [f"*It stopped none of the attacks that it was run on: {', '.join(sorted(worked))}.* So no figure here "
                "shows its assumption hold."]

    def surprises(self):
        """What was measured and is not as the row has it, in words."""
        for column, wanted in ((self.kept, "stopped"), (self.broken, "passes")):
            for attack, tried in column.items():
                if tried and tried.verdict != wanted:
                    yield f"{self.defense} on {attack} ({tried.verdict})"

    def elsewhere(self):
        """What became of the row's attacks in other settings and at other shares where that is another verdict than any
        that the row has of them, in words."""
        verdicts = {}
        for shown in filter(None, (*self.kept.values(), *self.broken.values())):
            verdicts.setdefault(shown.attack, set()).add(shown.verdict)
        for attack, known in verdicts.items():
            for tried in self.cells[attack]:
                if tried.has_backdoor and tried.verdict not in known:
                    yield f"{self.defense} on {attack} ({place(tried)}: {tried.verdict})"


def page(runs, folder):
    """The text of the page on finished `runs`, whose links start from `folder`."""
    tried = tried_cells(runs)
    rows = [Row.of(defense, entry, {attack: own for (attack, name), own in tried.items() if name == defense})
            for defense, entry in read_yaml(TABLE)["pairs"].items()]
    lists = (("Measured otherwise than the columns say:", [said for row in rows for said in row.surprises()]),
             ("Another verdict on other images or networks, or at another share:",
              [said for row in rows for said in row.elsewhere()]))
    return "\n".join([INTRO, "| defense | it assumes | an attack that keeps to it | an attack that breaks it |",
                      "|---|---|---|---|", *(row.text(folder) for row in rows),
                      *(line for title, found in lists if found for line in ("", title, "", *(
                          f"- {said}" for said in found))),
                      ""])


def parse_args(argv=None):
    parser = flags.Parser(__doc__)
    parser.add_argument("folders", nargs="*", default=[str(ROOT / "results")],
                        help="where finished runs lie (default: results)")
    parser.add_argument("--page", default=str(PAGE), help="file to write (default: docs/arms-race.md)")
    return parser.parse_args(argv)


@command
def main(argv=None):
    args = parse_args(argv)
    path = Path(args.page).resolve()
    text = page([run for folder in args.folders for run in find_runs(folder)], path.parent)
    with atomic_file(path) as file:
        file.write(text.encode())
    print(f"{args.page}: {text.count(NOT_RUN)} cells are not run yet")


if __name__ == "__main__":
    main()
