"""What a report says of each defense."""
from reporting import words
from reporting.charts import losses_of, picture_of, read_picture, strip_bars
from reporting.document import Cell, Section, Table, Text, cell
from reporting.found import folders
from reporting.grade import BACKDOORED
from reporting.groups import NONE, settings
from reporting.tables import EFFECT_COLUMNS, conditions, effect_row, share_cell, shares, with_method


def anp_section(runs, found, root):
    own = with_method(runs, "ANP")
    if not own:
        return None
    rows = []
    for run in own:
        masks, chosen = run.above.arguments if run.above else {}, run.method.get("chosen") or {}
        rows.append((Cell(run.name), cell(masks.get("anp_alpha")), cell(masks.get("nb_iter")),
                     cell(run.arguments.get("max_drop")), cell(chosen.get("threshold")),
                     cell(chosen.get("pruned"), "{:.0f}"), share_cell((run.method.get("before") or {}).get("asr")),
                     *shares(run, "asr", "acc")))
    columns = ("run", "alpha", "iterations", "max drop", "threshold", "pruned", "ASR before", "ASR", "ACC")
    pictures = []
    for folder, name in folders(root):
        pictures += [picture_of(folder / file, f"{name}: what {what} does", wide) for file, what, wide in (
            ("threshold.png", "the threshold", True), ("alpha.png", "alpha", False))]
    pictures += [read_picture(run, f"pruning_by_{run.arguments.get('pruning_by') or 'threshold'}.png",
                              f"{run.name}: ACC and ASR over what is pruned") for run in own]
    noise = [read_picture(run, "neuron_noise.png", f"{run.name}: errors under neuron noise")
             for run in with_method(runs, "neuron noise")]
    return Section("Adversarial Neuron Pruning", (
        *words.ANP, Text(conditions(own)), Table(columns, tuple(rows)),
        *map(Text, (*seen_over_thresholds(own), *seen_over_alphas(found))), *filter(None, pictures),
        *filter(None, noise)))


def seen_over_thresholds(runs):
    """What the sweeps over thresholds of backdoored models show, in a sentence."""
    told = []
    for run in runs:
        before = run.method.get("before") or {}
        if run.share("asr", before) >= BACKDOORED:
            swept = [row for row in run.method.get("sweep") or [] if row.get("threshold") is not None]
            gone = [row["threshold"] for row in swept if run.share("asr", row) < 0.1]
            lost = [row["threshold"] for row in swept if run.share("acc", row) < run.share("acc", before) - 0.05]
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


def strip_section(runs):
    own = with_method(runs, "STRIP")
    if not own:
        return None
    rows = []
    for run in own:
        entropy = run.method.get("mean_entropy") or {}
        rows.append((Cell(run.name), cell(run.method.get("superimpose")), cell(run.method.get("overlays")),
                     cell(run.method.get("boundary")),
                     cell(entropy.get("clean"), "{:.3f}"), cell(entropy.get("triggered"), "{:.3f}"),
                     share_cell(run.method.get("frr")), share_cell(run.method.get("far")),
                     cell(run.method.get("auroc"), "{:.3f}")))
    columns = ("run", "superimposed by", "overlays", "boundary", "entropy, clean", "entropy, triggered", "FRR", "FAR",
               "AUROC")
    pictures = [read_picture(run, "entropy.png", f"{run.name}: entropies of clean and triggered images") for run in own]
    return Section("STRIP", (*words.STRIP, Text(conditions(own)), Table(columns, tuple(rows)), *strip_bars(own),
                             *filter(None, pictures)))


def fine_pruning_section(runs, found):
    kinds = ("Fine-Pruning", "fine-tuning", "pruning")
    own = with_method(runs, *kinds)
    if not own:
        return None
    repaired = [effect for effect in found if effect.kind.split(" after ")[0] in kinds]
    attacked = {effect.attack for effect in repaired}
    rows = tuple(effect_row(effect) for effect in found
                 if effect in repaired or (effect.kind == NONE and effect.attack in attacked))
    pictures = [read_picture(run, "pruning_curve.png", f"{run.name}: over channels pruned") for run in own]
    return Section("Fine-Pruning", (*words.FINE_PRUNING, Text(conditions(own)), Table(EFFECT_COLUMNS, rows),
                                    *filter(None, pictures)))


def verdict(method):
    """What Neural Cleanse found, in words."""
    if method.get("infected") is None:
        return "no verdict"
    if not method["infected"]:
        return "clean"
    return f"infected, target {', '.join(map(str, method.get('targets') or []))}"


def cleanse_section(runs):
    own, unlearned = with_method(runs, "Neural Cleanse"), with_method(runs, "unlearning")
    if not own and not unlearned:
        return None
    rows = []
    for run in own:
        for label in run.method.get("labels") or []:
            low, high = label.get("norm") or (None, None)
            index = label.get("index") or (None, None)
            rows.append((Cell(run.name), Cell(f"{label.get('label')} {label.get('class')}"),
                         Cell("–" if low is None else f"{low:.1f} to {high:.1f}", low),
                         Cell("–" if index[0] is None else f"{index[0]:.2f} to {index[1]:.2f}", index[1]),
                         Cell(f"{label.get('flagged_in')} of {label.get('seeds')}", label.get("flagged_in"))))
    verdicts = [f"{run.name}: {verdict(run.method)}" for run in own]
    blocks = [*words.NEURAL_CLEANSE, Text(conditions(own or unlearned))]
    if own:
        blocks += [Text(f"Verdicts. {'; '.join(verdicts)}."),
                   Table(("run", "label", "norm over seeds", "anomaly index", "flagged"), tuple(rows))]
    if unlearned:
        blocks.append(Table(("unlearning", "patched with", "ASR before", "ASR", "ACC"), tuple(
            (Cell(run.name), Cell(str(run.method.get("patch_with"))),
             share_cell((run.method.get("before") or {}).get("asr")), *shares(run, "asr", "acc"))
            for run in unlearned)))
    pictures = [read_picture(run, file, f"{run.name}: {what}")
                for file, what in (("reversed_triggers.png", "reversed triggers, and the true one"),
                                   ("norms.png", "norms of the reversed masks")) for run in own]
    return Section("Neural Cleanse", (*blocks, *filter(None, pictures)))


def abl_section(runs):
    own = with_method(runs, "ABL")
    tracked = losses_of(runs)
    if not own and not tracked:
        return None
    rows = tuple((Cell(run.name), Cell(str(run.arguments.get("lga") or "flooding")), cell(run.method.get("isolated")),
                  share_cell(run.method.get("precision")), *(share_cell((run.method.get("filtered") or {}).get(name))
                                                             for name in ("asr", "acc")), *shares(run, "asr", "acc"))
                 for run in own)
    columns = ("run", "held", "isolated", "of them poisoned", "ASR, filtered only", "ACC, filtered only", "ASR", "ACC")
    table = [Table(columns, rows)] if rows else []
    return Section("Anti-Backdoor Learning", (*words.ABL, *([Text(conditions(own))] if own else []), *table, *tracked))
