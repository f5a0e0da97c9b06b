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
from reporting.found import FINISHED, find_runs
from reporting.grade import has_usual_aim
from reporting.groups import attack_behind, attacks, mean, without_seed
from reporting.published import ARCH, POISONED, cell_name, share_behind

ROOT = Path(__file__).resolve().parent.parent
TABLE, PAGE = ROOT / "workflow/matrices/arms-race.yaml", ROOT / "docs/arms-race.md"
STOPPED, PASSES = 10, 50  # % of triggered images that get through
APART = 0.005  # two shares of the training images that differ by less are one
NOT_RUN = "not run yet"
INTRO = f"""# The arms race

An attack passes a defense by breaking what the defense assumes. Each row has the assumption, an attack that keeps to it
and those that are said to break it, with what was measured here. Where no such attack is known, or none of them took
hold here, the last column has, of the attacks that the defense was run on, the one that it stopped least.

*Stopped* means that at most {STOPPED} % of triggered images get through, *passes* that {PASSES} % or more do, and
*partly* what lies between. For a repair that is the ASR afterwards, for STRIP the FAR, for a detector of poisoned
images the share of those that it misses, for one of backdoored models the share of models whose target it does not
name. All figures are in %, means over seeds where there are several; each links to its first run, with the share of the
training images that was poisoned where the run says it. Of several shares the one nearest to {100 * POISONED:g} % is
shown, unless a row names another. `make arms-race` runs the cells that are missing, on a WRN-16-1, and
`python -m reporting.arms_race` writes this page from `results/`.
"""


@dataclass(frozen=True)
class Tried:
    """Runs of a defense on an attack that differ in their seeds alone, and the attack's run behind each.

    poisoned: share of the training images; nan where no run says it.
    """

    attack: str
    poisoned: float
    runs: tuple
    attacked: tuple

    @property
    def before(self):
        """(ASR, ACC) in % of the attacked models."""
        return tuple(mean(100 * run.share(name) for run in self.attacked) for name in ("asr", "acc"))

    @property
    def setting(self):
        return self.attacked[0].setting

    @property
    def through(self):
        """% of what the defense is to stop that gets through."""
        return mean(through(run, attack) for run, attack in zip(self.runs, self.attacked, strict=True))

    @property
    def has_backdoor(self):
        """Whether the attack itself had worked."""
        return self.before[0] >= PASSES

    @property
    def verdict(self):
        if not self.has_backdoor:
            return "no backdoor to begin with"
        return "stopped" if self.through <= STOPPED else "passes" if self.through >= PASSES else "partly"


def through(run, attack):
    """% of what the defense is to stop that gets through one run: of triggered or poisoned images, or of one model."""
    method = run.method
    if run.is_repair:
        return 100 * run.share("asr")
    if "far" in method:
        return 100 * run.share("far", method)
    if "recall" in method:
        return 100 - 100 * run.share("recall", method)
    return 0 if attack.arguments.get("poison_target") in (method.get("targets") or []) else 100


def figures(tried):
    """What was measured, in words."""
    first, count = tried.runs[0], len(tried.runs)
    (asr, acc), after = tried.before, {
        name: mean(100 * run.share(name) for run in tried.runs) for name in ("asr", "acc")}
    if first.is_repair:
        pairs = [(f"{asr:.1f}", f"{after['asr']:.1f}"), (f"{acc:.1f}", f"{after['acc']:.1f}")]
        unchanged = ", unchanged" if all(old == new for old, new in pairs) else ""
        return "ASR {} to {}, ACC {} to {}".format(*pairs[0], *pairs[1]) + unchanged
    shares = [name for name in ("far", "frr", "recall", "precision") if name in first.method]
    if shares:
        means = {name: mean(100 * run.share(name, run.method) for run in tried.runs) for name in shares}
        return ", ".join(f"{name.upper() if name in ('far', 'frr') else name} {value:.1f}"
                         for name, value in means.items() if not math.isnan(value))
    named = round(count * (1 - tried.through / 100))
    if count > 1:
        return f"target named in {named} of {count}"
    return "target named" if named else "another class named" if first.method.get("targets") else "target not named"


def attack_under(run, groups):
    """The attack's run that `run` defends: the nearest above, or else as reporting.groups finds it; None if unsure."""
    above = run.above
    while above and not above.is_attack:
        above = above.above
    return above or attack_behind(run, groups)


def has_own_aim(attack):
    """Whether an attack's run aims as the attack does by itself: at all other classes, or as a trigger made of classes
    has to."""
    return has_usual_aim(attack) or bool(attack.method.get("sources"))


def tried_cells(runs):
    """{(attack, defense): [Tried, one for each setting and poisoned share]} of finished `runs`. Of several in a place
    those with the shortest path are taken, which is the one without a suffix for its flags."""
    groups, found = attacks(runs), {}
    for run in runs:
        attack = attack_under(run, groups) if run.state == FINISHED and not run.is_attack else None
        if attack and cell_name(run) and has_own_aim(attack):
            share = round(share_behind(run, attack), 3)
            own = found.setdefault((cell_name(attack), cell_name(run)), {})
            place = own.setdefault((attack.setting, str(share)), {})  # as a text, since nan is not equal to nan
            place.setdefault(without_seed(run.name), []).append((run, attack))
    return {key: [Tried(key[0], float(share), *zip(*named[min(named, key=lambda name: (len(name), name))], strict=True))
                  for (_, share), named in places.items()] for key, places in found.items()}


def at_share(cells, attack, poisoned):
    """The Tried of an attack, only those with a share of its training images poisoned where `poisoned` names one."""
    return [tried for tried in cells.get(attack, []) if poisoned is None or abs(tried.poisoned - poisoned) < APART]


def ranked_settings(cells, named):
    """The settings of a defense's cells, {attack: [Tried]}, the best first: with the attack that keeps to the
    assumption, the first of `named`, [(attack, share poisoned or None)], with most of those named, with most attacks
    that worked, the published network, the widest."""
    having = [{tried.setting for tried in at_share(cells, *one)} for one in named]
    worked = {}  # {setting: the attacks that had worked there}
    for attack, own in cells.items():
        for tried in own:
            worked.setdefault(tried.setting, set()).update({attack} if tried.has_backdoor else ())
    return sorted(worked, key=lambda setting: (
        setting in having[0], sum(setting in own for own in having), len(worked[setting]), setting[1] == ARCH,
        setting[2] or 0, str(setting)), reverse=True)


def best(tried, settings):
    """Of a list of Tried the one in the first of `settings` that has one, with the poisoned share nearest to the
    published; None if there is none."""
    return min(tried, default=None, key=lambda one: (
        settings.index(one.setting), math.isnan(one.poisoned), abs(one.poisoned - POISONED)))


def least_stopped(cells, keeper, settings):
    """[the Tried of the attack that gets through most, each in the first setting in which it had worked], but for the
    one that keeps to the assumption; [] for none."""
    working = {attack: [tried for tried in own if tried.has_backdoor] for attack, own in cells.items()}
    tried = [best(own, settings) for attack, own in working.items() if own and attack != keeper]
    return [max(tried, key=lambda one: (one.through, one.attack))] if tried else []


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
    named = [named] if isinstance(named, str) else named
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
        return cls(defense, entry["assumes"], kept, broken, cells)

    def text(self, folder):
        """The row of the table on a page in `folder`."""
        columns = ["<br>".join(in_words(tried, folder) if tried else f"{attack}: {NOT_RUN}" for attack, tried in
                               column.items()) or NOT_RUN for column in (self.kept, self.broken)]
        return f"| {self.defense} | {self.assumes} | {columns[0]} | {columns[1]} |"

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
    others = "; ".join(said for row in rows for said in row.surprises())
    elsewhere = "; ".join(said for row in rows for said in row.elsewhere())
    return "\n".join([INTRO, "| defense | it assumes | an attack that keeps to it | an attack that breaks it |",
                      "|---|---|---|---|", *(row.text(folder) for row in rows),
                      *(["", f"Measured otherwise than the columns say: {others}."] if others else []),
                      *(["", f"Another verdict on other images or networks, or at another share: {elsewhere}."]
                        if elsewhere else []),
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
