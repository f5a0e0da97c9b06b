"""Adversarial Neuron Pruning."""
from reporting.charts import picture_of, pictures_of
from reporting.criteria import BACKDOORED
from reporting.document import Cell, Section, Table, Text, cell
from reporting.found import folders
from reporting.groups import settings
from reporting.tables import conditions, share_cell, shares
from reporting.words import words

ORDER = 60


def section(report):
    own = report.with_method("ANP")
    if not own:
        return None
    columns = ("run", "alpha", "iterations", "max drop", "threshold", "pruned", "ASR before", "ASR", "ACC")
    swept = [picture for run in own for picture in pictures_of(
        [run], f"pruning_by_{run.arguments.get('pruning_by') or 'threshold'}.png", "ACC and ASR over what is pruned")]
    noise = pictures_of(report.with_method("neuron noise"), "neuron_noise.png", "errors under neuron noise")
    return Section("Adversarial Neuron Pruning", (
        *words("anp"), Text(conditions(own)), Table(columns, tuple(map(row, own))),
        *map(Text, (*seen_over_thresholds(own), *seen_over_alphas(report.effects))), *sweeps(report.root), *swept,
        *noise))


def row(run):
    """A pruned model: how its masks were made, what was kept, and what it does."""
    masks, chosen = run.above.arguments if run.above else {}, run.method.get("chosen") or {}
    return (Cell(run.name), cell(masks.get("anp_alpha")), cell(masks.get("nb_iter")),
            cell(run.arguments.get("max_drop")), cell(chosen.get("threshold")),
            cell(chosen.get("pruned"), "{:.0f}"), share_cell((run.method.get("before") or {}).get("asr")),
            *shares(run, "asr", "acc"))


def sweeps(root):
    """The pictures that sweeps over thresholds and alphas left in folders of no run."""
    found = [picture_of(folder / file, f"{name}: what {what} does", wide)
             for folder, name in folders(root) for file, what, wide in (
                 ("threshold.png", "the threshold", True), ("alpha.png", "alpha", False))]
    return list(filter(None, found))


def seen_over_thresholds(runs):
    """What the sweeps over thresholds of backdoored models show, in a sentence."""
    told = []
    for run in runs:
        before = run.method.get("before") or {}
        if run.share("asr", before) >= BACKDOORED:
            swept = [row for row in run.method.get("sweep") or [] if row.get("threshold") is not None]
            gone = [row["threshold"] for row in swept if run.share("asr", row) < 0.1]
            lost = [row["threshold"] for row in swept if run.share("acc", row) < run.share("acc", before) - 0.05]
            if len({row["threshold"] for row in swept}) < 2:  # by number, or at one threshold
                continue
            told.append((min(gone, default=None), min(lost, default=2)))
    fallen = [(gone, lost) for gone, lost in told if gone is not None]
    sooner = sum(gone < lost for gone, lost in fallen)
    return [f"Threshold: in {len(fallen)} of {len(told)} sweeps over a backdoored model ASR falls below 10 % "
            f"somewhere, in {sooner} of them at a lower threshold than the one that first costs 5 points of ACC."
            ] if told else []


def seen_over_alphas(effects):
    """What alpha does where all else is equal, a sentence for each attack and setting with several alphas."""
    found = {}
    for effect in effects:
        if effect.kind == "ANP" and effect.runs[0].above:
            own = settings(effect.runs[0])
            alpha = own.pop("anp_alpha", None)
            key = (effect.attack, repr(sorted(own.items(), key=lambda item: item[0])))
            found.setdefault(key, (own, {}))[1][alpha] = effect
    sentences = []
    for (attack, _), (own, by_alpha) in found.items():
        if len(by_alpha) > 1 and None not in by_alpha:
            parts = "; ".join("{:g}: {:.2f} / {:.2f}".format(alpha, *by_alpha[alpha].after)
                              for alpha in sorted(by_alpha))
            sentences.append(f"Alpha on {attack} ({own.get('nb_iter')} iterations, max drop {own.get('max_drop')}), "
                             f"ACC / ASR at the threshold kept, means over seeds: {parts}.")
    return sentences
