"""Put together what an audit's steps found: is there a sign of a backdoor, and which repaired model costs least.

    python -m studies.verdict --checkpoint output/badnets/model_last.th --data-dir my/images

The end of `make audit`, which runs the rest. Reads what the other scripts left beside the model (audit/,
neural-cleanse/, neuron-noise/, strip/, and the models of every repair, such as anp/pruned/ and fine-prune/) and clean
images, and no trigger but a reversed one. The verdict is that of studies.audit; the other tests stand beside it.
Writes into verdict/ there: repaired.csv, output.log, config.json and results.json.
"""
import logging
import math
from argparse import Namespace
from dataclasses import asdict

import torch
from torch import nn

from common.errors import UserError
from common.files import hash_file, write_table
from common.inputs import are_of
from data.triggers import Trigger
from engine.catalogue import defense_cells
from engine.command_line import flags
from engine.command_line.aim_flags import called
from engine.command_line.command import command
from engine.command_line.normalization import INPUT_FLAGS, add_input_flags
from engine.defending.suspect import Suspect, asr_of, beneath_model, find_run, load_suspect
from engine.measuring.evaluation import EvalSets, predict
from engine.measuring.scores import Proportion
from engine.missing import run_on
from engine.rows import REPAIR
from engine.runs.run import Run
from engine.weights.checkpoint import load_model, load_trigger
from methods.calibration import UNDECIDED
from reporting.evidence import (
    Evidence,
    cleanse_evidence,
    noise_evidence,
    strip_evidence,
    witness_evidence,
)
from reporting.found import FINISHED, FinishedRun, read_run

AUDIT = "audit"  # the folder of studies.audit
TESTS = (AUDIT, "neural-cleanse", "neuron-noise", "strip")
# {title: folder} of the repairs of a model, without their controls; the audit itself makes those of IN_AUDIT.
REPAIRED = {script.title: cell.folder for script, cell in defense_cells().values()
            if script.kind == REPAIR and not script.trains and (cell.in_audit or not cell.flags)}
IN_AUDIT = [script.title for script, cell in defense_cells().values() if script.kind == REPAIR and cell.in_audit]
USUAL = {"channels": "rgb"}  # what no flag means
COLUMNS = ("model", "changed", "acc", "lost", "lost_low", "lost_high", "asr_of_reversed_trigger")
log = logging.getLogger("backdoor")


def finished_run(args: Namespace, name: str, worked_on: str | None = None) -> FinishedRun | None:
    """The FinishedRun that a script left under `name` of the very model of the flags `args`; None where none is
    finished.

    The same weights that are fed other pixels are another model. worked_on: the inputs that the run must have had,
    where it had images at all; None where those may be other ones.
    """
    run = read_run(find_run(args.checkpoint, name), name)
    if not run or run.state != FINISHED:
        return None
    inputs = run.config.get("inputs")
    if not are_of(inputs, hash_file(args.checkpoint)):
        log.warning("%s: left out, made from other weights than those in %s now", run.folder, args.checkpoint)
        return None
    other = [name for name in INPUT_FLAGS if (run.arguments.get(name) or USUAL.get(name)) != (
        getattr(args, name) or USUAL.get(name))]
    if other:
        log.warning("%s: left out, made with another --%s than this audit", run.folder, ", --".join(other))
        return None
    if worked_on and " " in inputs and inputs != worked_on:
        log.warning("%s: left out, made with other images, or with other --classes or --image-size", run.folder)
        return None
    return run


def has_changed(model: nn.Module, repaired: nn.Module) -> bool:
    """Whether any weight or running statistic of `repaired` is another than the model's."""
    before, after = model.state_dict(), repaired.state_dict()
    return any(not torch.equal(before[name], after[name]) for name in before)


def paired_loss(before: torch.Tensor, after: torch.Tensor, labels: torch.Tensor) -> tuple[float, list[float]]:
    """(loss of accuracy, its 95 % interval [low, high]) of predictions `after` against `before` on the same images.

    All int64 (N,). The interval is the normal approximation for paired proportions.
    """
    lost = ((before == labels) & (after != labels)).sum().item()
    won = ((before != labels) & (after == labels)).sum().item()
    n = len(labels)
    half = 1.96 * math.sqrt(lost + won - (lost - won) ** 2 / n) / n
    loss = (lost - won) / n
    return loss, [loss - half, loss + half]


def compare_repaired(args: Namespace, model: nn.Module, test: EvalSets, triggers: dict[int, Trigger],
                     device: torch.device) -> list[dict]:
    """[{"name", "changed", "acc", "lost", "lost_interval", "asr_of_reversed"}] of the model and of every repaired one.

    lost: points of ACC, as a fraction. asr_of_reversed: {label: ASR of its reversed trigger}. The clean EvalSets are
    those that no repair has seen.
    """
    labels, rows = test.clean.labels, []

    def add(name, net):
        guesses = predict(net, test.clean).argmax(1)
        before = rows[0]["guesses"] if rows else guesses
        lost, interval = paired_loss(before, guesses, labels)
        rows.append({"name": name, "changed": bool(rows) and has_changed(model, net), "guesses": guesses,
                     "acc": Proportion(int((guesses == labels).sum()), len(labels)).as_dict(), "lost": lost,
                     "lost_interval": interval, "asr_of_reversed": {
                         str(label): asr_of(net, test, trigger) for label, trigger in triggers.items()}})
    add("as it is", model)
    for name, folder in REPAIRED.items():
        run = finished_run(args, folder)
        repaired = run and load_model(run.folder / "model_last.th", device).model
        if repaired and repaired.spec["image_size"] != model.spec["image_size"]:
            log.warning("%s: left out, made with another --image-size than this audit", run.folder)
        elif repaired:
            add(name, repaired)
    return [{key: value for key, value in row.items() if key != "guesses"} for row in rows]


def least_lost(rows: list[dict]) -> list[str]:
    """The names of the repaired models that lost least clean accuracy; more than one where they are equal, first the
    one on which the reversed triggers do least. One that changed nothing is not a repair."""
    repaired = sorted((row for row in rows if row["changed"]), key=lambda row: sum(
        share["value"] for share in row["asr_of_reversed"].values() if share))
    least = min((row["lost"] for row in repaired), default=None)
    return [row["name"] for row in repaired if row["lost"] == least]


def report(method: dict, targets: list[int], classes: tuple, evidence: list[Evidence], rows: list[dict],
           least: list[str], missing: list[str]) -> None:
    """The verdict as lines of the log. method: the method entry of the audit's results.json."""
    named = ", ".join(called(label, classes) for label in targets)
    for item in evidence:
        log.info("%s: %s", item.test, item.words)
    for row in rows:
        asr = "".join(f", reversed trigger of {called(int(label), classes)} {share['value']:.4f}"
                      for label, share in row["asr_of_reversed"].items() if share)
        log.info("%s: ACC %.4f, lost %.4f (%.4f to %.4f)%s", row["name"], row["acc"]["value"], row["lost"],
                 *row["lost_interval"], asr)
    if missing:
        log.info("not there: %s", ", ".join(missing))
    tested = any(row["asr_of_reversed"].values() for row in rows if row["name"] in least)
    untested = "" if tested or not least else (
        "; whether a backdoor is left was not tested, since no trigger was reversed for a named target")
    log.info("least clean accuracy lost: %s%s", ", ".join(least) or "no repair changed anything", untested)
    for said in filter(None, (method.get("doubt"), method["trust"])):
        log.info("%s", said)
    log.info("verdict: %s%s", method["verdict"], f", target {named}" if targets else "")


def parse_args(argv=None):
    parser = flags.Parser(__doc__)
    parser.add_argument("--checkpoint", default="output/badnets/model_last.th",
                        help="the model, beside which the other scripts left their runs")
    add_input_flags(parser)
    parser.add_argument("--classes", **flags.CLASSES)
    flags.add_data_flags(parser)
    flags.add_run_flags(parser, beneath_model("verdict"), draws=False)
    return parser.parse_args(argv)


def find_tests(args: Namespace, suspect: Suspect) -> dict[str, FinishedRun | None]:
    """{name: the FinishedRun of a test of this very model, or None}. Raises UserError without that of studies.audit."""
    worked_on = suspect.fingerprint()
    tests = {name: finished_run(args, name, worked_on) for name in TESTS}
    noise, audit = tests["neuron-noise"], tests[AUDIT]
    if noise and not all("leaning" in row for row in noise.method["rows"]):
        tests["neuron-noise"] = None  # from before leanings were counted
    if audit is None or audit.method.get("name") != "calibrated audit":
        raise UserError(f"{find_run(args.checkpoint, AUDIT)}: no finished run of studies.audit with the same --mean, "
                        "--std, --channels, --classes and images, without which there is no verdict"
                        f"{run_on(args.checkpoint, AUDIT)}")
    return tests


def collect_evidence(tests: dict, classes: tuple, checkpoint: str) -> list[Evidence]:
    """[Evidence] of the tests that were made."""
    audit, cleanse, noise, strip = (tests[name] for name in TESTS)
    evidence = witness_evidence(audit.method["witnesses"])
    if cleanse:
        evidence += cleanse_evidence(cleanse.method, classes)
    if noise:
        evidence.append(noise_evidence(noise.method["rows"], classes))
    if strip:
        evidence.append(strip_evidence(strip.method, strip.folder, checkpoint))
    return evidence


def find_triggers(tests: dict, targets: list[int]) -> dict[int, Trigger]:
    """{label: its reversed trigger} of the targets that one was found for: Neural Cleanse's own, or the audit's."""
    paths = {label: [run.folder / f"reversed_trigger_{label}.th" for run in (tests["neural-cleanse"], tests[AUDIT])
                     if run] for label in targets}
    return {label: load_trigger(path) for label, own in paths.items() for path in own[::-1] if path.exists()}


def table_row(row: dict) -> dict:
    """A row of compare_repaired as repaired.csv has it."""
    low, high = row["lost_interval"]
    asr = (f"{label}:{share['value']:.4f}" for label, share in row["asr_of_reversed"].items() if share)
    return {"model": row["name"], "changed": int(row["changed"]), "acc": row["acc"]["value"], "lost": row["lost"],
            "lost_low": low, "lost_high": high, "asr_of_reversed_trigger": " ".join(asr)}


def missing_from(tests: dict, rows: list[dict]) -> list[str]:
    """The names of the tests and of the audit's own repairs that were not made."""
    compared = {row["name"] for row in rows}
    return [name for name, found in tests.items() if found is None] + [
        name for name in IN_AUDIT if name not in compared]


@command
def main(argv=None):
    args = parse_args(argv)
    with Run(args, ("repaired.csv",)) as run:
        suspect = load_suspect(args, run, find=False)
        tests, classes = find_tests(args, suspect), suspect.defender.classes
        method = tests[AUDIT].method
        if suspect.doubt:  # of an audit without images, which could not see it
            method = {**method, "verdict": UNDECIDED, "target": None, "doubt": suspect.doubt.words()}
        targets = [] if method["target"] is None else [int(method["target"])]

        run.begin(suspect)
        evidence = collect_evidence(tests, classes, args.checkpoint)
        rows = compare_repaired(args, suspect.model, suspect.test, find_triggers(tests, targets), run.device)
        missing, least = missing_from(tests, rows), least_lost(rows)
        report(method, targets, classes, evidence, rows, least, missing)

        write_table(run.folder / "repaired.csv", COLUMNS, map(table_row, rows))
        run.finish(acc=rows[0]["acc"], asr=None, robust_acc=None, model=suspect.model, parent=args.checkpoint,
                   data=suspect.defender, method={
                       "name": "audit", "verdict": method["verdict"], "targets": targets,
                       "target_classes": [classes[label] for label in targets],
                       "evidence": [asdict(item) for item in evidence], "repaired": rows, "least_lost": least,
                       "missing": missing, **{name: method[name] for name in ("doubt", "trust", "errors", "combined")}})


if __name__ == "__main__":
    main()
