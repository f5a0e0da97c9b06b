"""What a report says of each defence."""
from pathlib import Path

from reporting import words
from reporting.charts import acc_and_asr, losses_of, picture_of, read_picture, strip_bars
from reporting.document import Cell, Section, Table, Text, cell
from reporting.grade import BACKDOORED, percent
from reporting.groups import attack_behind, attacks, effects, mean_percent
from reporting.tables import EFFECT_COLUMNS, conditions, effect_row, shares, with_method


def anp_section(runs, root):
    own = with_method(runs, "ANP")
    if not own:
        return None
    rows = []
    for run in own:
        masks = run.above.arguments if run.above else {}
        chosen = run.method.get("chosen") or {}
        rows.append((Cell(run.name), cell(masks.get("anp_alpha")), cell(masks.get("nb_iter")),
                     cell(chosen.get("threshold")), cell(chosen.get("pruned"), "{:.0f}"),
                     Cell(percent((run.method.get("before") or {}).get("asr"))), *shares(run, "asr", "acc")))
    columns = ("run", "alpha", "iterations", "threshold", "pruned", "ASR before", "ASR", "ACC")
    pictures = []
    for folder in sorted(path.parent for path in Path(root).rglob("alpha.png")):
        name = folder.relative_to(root).as_posix()
        pictures += [picture_of(folder / file, f"{name}: what {what} does", wide)
                     for file, what, wide in (("threshold.png", "the threshold", True), ("alpha.png", "alpha", False))]
    pictures += [picture for run in own if (picture := acc_and_asr(run, "threshold", "threshold"))]
    noise = [read_picture(run, "neuron_noise.png", f"{run.name}: errors under neuron noise")
             for run in with_method(runs, "neuron noise")]
    return Section("Adversarial Neuron Pruning", (
        *words.ANP, Text(conditions(own)), Table(columns, tuple(rows)), *map(Text, seen_in(own)),
        *filter(None, pictures), *filter(None, noise)))


def seen_in(runs):
    """What the sweeps of ANP show, in sentences."""
    told, by_alpha = [], {}
    for run in runs:
        before, sweep = run.method.get("before") or {}, run.method.get("sweep") or []
        if not run.share("asr", before) >= BACKDOORED:
            continue
        swept = [row for row in sweep if row.get("threshold") is not None]
        gone = next((row for row in swept if run.share("asr", row) < 0.1), None)
        lost = next((row for row in swept if run.share("acc", row) < run.share("acc", before) - 0.05), None)
        told.append((run.name, gone, lost))
        if run.above and run.above.arguments.get("anp_alpha") is not None:
            by_alpha.setdefault(run.above.arguments["anp_alpha"], []).append(run)
    sentences = []
    first = [(gone["threshold"], lost["threshold"] if lost else 2) for _, gone, lost in told if gone]
    if told:
        sooner = sum(gone < lost for gone, lost in first)
        sentences.append(
            f"Threshold: in {len(first)} of {len(told)} sweeps over a backdoored model ASR falls below 10 % somewhere, "
            f"in {sooner} of them at a lower threshold than the one that first costs 5 points of ACC.")
    if len(by_alpha) > 1:
        def mean(own, name):
            return mean_percent([run.share(name) for run in own])
        parts = [f"{alpha:g}: {mean(own, 'acc'):.2f} / {mean(own, 'asr'):.2f}"
                 for alpha, own in sorted(by_alpha.items())]
        sentences.append(f"Alpha (ACC / ASR at the threshold kept, mean over runs): {'; '.join(parts)}.")
    return sentences


def strip_section(runs):
    own = with_method(runs, "STRIP")
    if not own:
        return None
    rows = []
    for run in own:
        entropy = run.method.get("mean_entropy") or {}
        rows.append((Cell(run.name), Cell(str(run.method.get("superimpose", "–"))), cell(run.method.get("overlays")),
                     cell(entropy.get("clean"), "{:.3f}"), cell(entropy.get("triggered"), "{:.3f}"),
                     Cell(percent(run.method.get("frr"))), Cell(percent(run.method.get("far"))),
                     cell(run.method.get("auroc"), "{:.3f}")))
    columns = ("run", "superimposed by", "overlays", "entropy, clean", "entropy, triggered", "FRR", "FAR", "AUROC")
    pictures = [read_picture(run, "entropy.png", f"{run.name}: entropies of clean and triggered images") for run in own]
    return Section("STRIP", (*words.STRIP, Text(conditions(own)), Table(columns, tuple(rows)), *strip_bars(own),
                             *filter(None, pictures)))


def fine_pruning_section(runs):
    own = with_method(runs, "Fine-Pruning", "fine-tuning", "pruning")
    if not own:
        return None
    groups = attacks(runs)
    attacked = {behind.name for run in own if (behind := attack_behind(run, groups))}
    rows = tuple(effect_row(effect) for effect in effects(runs) if effect.attack in attacked
                 and effect.defence.split(" (")[0] in ("none", "Fine-Pruning", "fine-tuning", "pruning"))
    pictures = [read_picture(run, "pruning_curve.png", f"{run.name}: over channels pruned") for run in own]
    return Section("Fine-Pruning", (*words.FINE_PRUNING, Text(conditions(own)), Table(EFFECT_COLUMNS, rows),
                                    *filter(None, pictures)))


def verdict(method):
    """What Neural Cleanse found, in words."""
    if not method.get("infected"):
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
             Cell(percent((run.method.get("before") or {}).get("asr"))), *shares(run, "asr", "acc"))
            for run in unlearned)))
    pictures = [read_picture(run, file, f"{run.name}: {what}") for run in own
                for file, what in (("reversed_triggers.png", "reversed triggers, and the true one"),
                                   ("norms.png", "norms of the reversed masks"))]
    return Section("Neural Cleanse", (*blocks, *filter(None, pictures)))


def abl_section(runs):
    own = with_method(runs, "ABL")
    tracked = losses_of(runs)
    if not own and not tracked:
        return None
    rows = tuple((Cell(run.name), cell(run.method.get("isolated")), Cell(percent(run.method.get("precision"))),
                  Cell(percent((run.method.get("filtered") or {}).get("asr"))),
                  Cell(percent((run.method.get("filtered") or {}).get("acc"))), *shares(run, "asr", "acc"))
                 for run in own)
    columns = ("run", "isolated", "of them poisoned", "ASR, filtered only", "ACC, filtered only", "ASR", "ACC")
    table = [Table(columns, rows)] if rows else []
    return Section("Anti-Backdoor Learning", (*words.ABL, *([Text(conditions(own))] if own else []), *table, *tracked))
