"""What a report says: runs to sections."""
from reporting import words
from reporting.audit import audit_section, audits_section, own_audit
from reporting.charts import attack_map, read_picture, training_curves_of
from reporting.defenses import abl_section, anp_section, cleanse_section, fine_pruning_section, strip_section
from reporting.document import Cell, Section, Table, Text, cell
from reporting.found import FINISHED
from reporting.grade import CRITERIA, percent
from reporting.groups import effects
from reporting.tables import EFFECT_COLUMNS, PERCENT, conditions, effect_row, share_cell, shares, with_method


def overview(runs):
    finished = [run for run in runs if run.state == FINISHED]
    others = [run for run in runs if run.state != FINISHED]
    blocks = [Text(f"{len(finished)} finished runs. {conditions(finished)} ASR (triggered images given the target), "
                   "ACC (clean images given their label) and robust ACC (triggered images still given their own "
                   "label) are in %, in brackets their 95 % Wilson intervals. What our scripts choose (thresholds, "
                   "stopping points) is chosen on the defender's clean images; a figure that looked at the test "
                   "set is called oracle.")]
    if others:
        blocks.append(Text(f"{len(others)} of the {len(runs)} runs found are not finished or cannot be read; no "
                           "figure of theirs stands below, but for logs that are graded:"))
        blocks.append(Table(("run", "state", "why"), tuple(
            (Cell(run.name), Cell(run.state, mark="bad"), Cell(run.why)) for run in others)))
    damaged = [run.name for run in finished if run.has_damaged_metrics]
    if damaged:
        blocks.append(Text(f"Without their curves, since metrics.jsonl is damaged: {', '.join(damaged)}."))
    return Section("What lies here", tuple(blocks))


def graded(lines):
    rows = tuple((Cell(f"{line.criterion} {line.figure}"), Cell(line.required),
                  Cell(percent(line.measured), line.measured["value"] if line.measured else None),
                  Cell("pass", 1, "good") if line.passed else Cell("fail", 0, "bad"), Cell(line.source or "–"),
                  Cell(line.note)) for line in lines)
    return Section("Against the homework's criteria", (
        Text("The criteria are for ResNet-18 at its full width and 50 epochs on CIFAR-10. A run on other images cannot "
             "pass; one of another width can, and says so."),
        Table(("criterion", "required, %", "measured, %", "", "where it is logged", "note"), rows)))


def attack_section(runs):
    own = [run for run in runs if run.is_attack]
    if not own:
        return None
    targets = {name: f"{asr.text} / {acc.text}" for name, (asr, acc) in CRITERIA.items()}
    rows = tuple((Cell(run.name), *shares(run, "asr", "acc", "robust_acc"),
                  cell(run.method.get("poisoned")), Cell(targets.get(run.arguments.get("poison_type"), "–")),
                  cell(run.results.get("epochs"), "{:.0f}")) for run in own)
    examples = [read_picture(run, "poisoned_examples.png", f"{run.name}: originals and what the attack makes of them")
                for run in own if run.arguments.get("poison_type") != "benign"]
    examples += [read_picture(run, "clean_label_examples.png", f"{run.name}: original, perturbed, stamped")
                 for run in runs if run.state == FINISHED]
    blocks = [*words.ATTACKS, Text(conditions(own)),
              Table(("attack", "ASR", "ACC", "robust ACC", "poisoned", "homework's ASR / ACC", "epochs"), rows),
              *training_curves_of(own), *filter(None, examples)]
    return Section("Attacks", tuple(blocks))


def issba_section(runs):
    own = with_method(runs, "ISSBA encoder")
    measured = with_method(runs, "sample specificity")
    if not own and not measured:
        return None
    blocks = list(words.ISSBA)
    if own:
        columns = ("encoder", "bits", "bit accuracy", "from another's residual", "PSNR, dB", "accepted")
        blocks.append(Table(columns, tuple(
            (Cell(run.name), cell(run.method.get("bits")), cell(run.method.get("bit_accuracy"), "{:.4f}"),
             cell(run.method.get("bit_accuracy_swapped"), "{:.4f}"),
             cell(run.method.get("psnr"), PERCENT), Cell("yes" if run.method.get("accepted") else "no"))
            for run in own)))
    if measured:
        blocks.append(Table(("run", "with this residual", "ASR", "shared energy"), tuple(
            (Cell(run.name), Cell(name), share_cell(share), cell(run.method.get("shared_energy"), "{:.3f}"))
            for run in measured for name, share in (run.method.get("asr_with_residual") or {}).items()),
            "Shared energy: of the mean residual, over the residuals' mean energy; 1 is one fixed picture."))
    pictures = [read_picture(run, "encoded_examples.png", f"{run.name}: original, encoded, difference") for run in own]
    pictures += [read_picture(run, "specificity.png", f"{run.name}: whose residual") for run in measured]
    return Section("ISSBA", (*blocks, *filter(None, pictures)))


def matrix_section(found):
    if not found:
        return None
    return Section("Attacks against defenses", (
        *words.DER, *attack_map(found), Table(
            EFFECT_COLUMNS, tuple(map(effect_row, found)),
            "Means over runs that differ in their seeds alone, and the lowest and highest of them; DER of each run "
            "against its own model; in seconds a run's whole time.")))


def runs_section(runs):
    rows = tuple((Cell(run.name), Cell(run.script or "?"), Cell(run.state, mark="" if run.state == FINISHED else "bad"),
                  cell(run.results.get("dataset")), cell(run.results.get("width")), cell(run.results.get("epochs")),
                  cell(run.results.get("seed")), cell(run.results.get("device")),
                  cell(run.results.get("seconds"), "{:.0f}")) for run in runs)
    return Section("All runs", (Table(("run", "script", "state", "data set", "width", "epochs", "seed", "device",
                                       "seconds"), rows),))


def write_report(runs, lines, root):
    """All Sections that the runs have something for; `lines` is the grade."""
    found, audit = effects(runs), own_audit(runs, root)
    first = (audit_section(audit, runs), overview(runs)) if audit else (overview(runs), graded(lines), audits_section(
        runs))
    sections = (*first, attack_section(runs), matrix_section(found),
                anp_section(runs, found, root), strip_section(runs), fine_pruning_section(runs, found),
                cleanse_section(runs), abl_section(runs), issba_section(runs), runs_section(runs))
    return [section for section in sections if section]
