"""Unlearn a trigger: fine-tune a model on clean images, a fifth of them stamped with it under their own labels.

    python -m defenses.unlearn_trigger --checkpoint output/badnets/model_last.th

The repair of Neural Cleanse (Wang et al., 2019): what is stamped no longer says anything about the label. Reads a
model, the defender's clean images, and what defenses.neural_cleanse flagged; where it flagged nothing, the model stays
as it is. --patch-with original stamps the true trigger and --patch-with clean nothing: the two controls. Writes into
output/badnets/unlearn-reversed/: model_last.th, output.log, metrics.jsonl, config.json and results.json.
"""
import logging

from common.errors import UserError
from common.files import hash_file
from common.inputs import are_of, inputs_of
from common.untrusted import read_json
from data.poison_cifar import stamp_share
from engine.command_line import flags
from engine.command_line.command import command
from engine.defending.control import find_control
from engine.defending.suspect import asr_of, default_folder, find_run, load_suspect
from engine.learning.training import fine_tune
from engine.measuring.evaluation import evaluate
from engine.measuring.scores import log_figures
from engine.missing import run_on
from engine.runs.run import Run
from engine.weights.checkpoint import load_trigger, save_model

NOTHING_FLAGGED = ("Neural Cleanse flagged no label, so there is nothing to unlearn: the model is left as it is; "
                   "name one with --reversed-trigger to unlearn it anyway")
log = logging.getLogger("backdoor")


def flagged_triggers(checkpoint):
    """The files of the triggers that detect flagged in this very model, none where it flagged none.

    Raises UserError where detect has not been run on it.
    """
    folder = find_run(checkpoint, "neural-cleanse")
    try:
        targets = read_json(folder / "results.json")["method"]["targets"]
        inputs = read_json(folder / "config.json")["inputs"]
        names = [f"reversed_trigger_{int(target)}.th" for target in list(targets)]
        is_same = are_of(inputs, hash_file(checkpoint))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{folder}: expected a finished run of defenses.neural_cleanse, or a --reversed-trigger"
                        f"{run_on(checkpoint, 'nc-detect')}") from None
    if not is_same:
        raise UserError(f"{folder}: Neural Cleanse examined other weights than {checkpoint}; run it again")
    return [str(folder / name) for name in names]


def triggers_to_unlearn(patch_with, files, checkpoint, true, num_classes):
    """(the files of reversed triggers, the triggers to stamp): what the flags name, or what Neural Cleanse flagged.

    true: the trigger that is known, None where none is. Raises UserError where it is asked for and not known or of no
    use, and for a trigger of other classes than the model's.
    """
    if patch_with == "clean":
        return [], []
    if patch_with == "original":
        if true is None:
            raise UserError("--patch-with original: no trigger is known; name one with --trigger-info")
        if true.is_one_picture:
            raise UserError("--patch-with original: the trigger replaces the whole image, so the labels that the "
                            "stamped images keep say nothing of it")
        return [], [true]
    files = files or flagged_triggers(checkpoint)
    triggers = [load_trigger(file) for file in files]
    for trigger, file in zip(triggers, files, strict=True):
        trigger.check_classes(num_classes, file)
    return files, triggers


def log_own_asr(triggers, before, after):
    """The ASR of each stamped trigger itself, as a line of the log."""
    for trigger, a, b in zip(triggers, before, after, strict=True):
        which = "all-to-all trigger" if trigger.target is None else f"trigger of label {trigger.target}"
        log.info("the ASR of the stamped %s is %.4f before, %.4f after", which, a["value"], b["value"])


def output_dir(args):
    """unlearn-<patch>/ beneath the model's run"""
    return default_folder(args.checkpoint, f"unlearn-{args.patch_with}")


def parse_args(argv=None):
    parser = flags.Parser(__doc__)
    flags.add_suspect_flags(parser)
    flags.add_data_flags(parser)
    group = parser.add_argument_group("patch")
    group.add_argument("--patch-with", choices=("reversed", "original", "clean"), default="reversed",
                       help="what is stamped on a share of the images: what Neural Cleanse flagged, the true "
                            "trigger (a control), or nothing (another control)")
    group.add_argument("--reversed-trigger", metavar="FILE.th", nargs="+",
                       help="what to unlearn (default: what defenses.neural_cleanse flagged)")
    group.add_argument("--stamp-share", type=flags.fraction, default=0.2, help="share of the images that is stamped")
    flags.add_sgd_flags(parser, 1, 0.01)
    flags.add_augmentation_flags(parser)
    flags.add_run_flags(parser, output_dir, resumable=True)
    args = parser.parse_args(argv)
    if args.patch_with != "reversed":
        parser.refuse(argv, ["reversed_trigger"], f"with --patch-with {args.patch_with}")
    if args.patch_with == "clean":
        parser.refuse(argv, ["stamp_share"], "with --patch-with clean")
    return args


@command
def main(argv=None):
    args = parse_args(argv)
    with Run(args, ("model_last.th",)) as run:
        suspect = load_suspect(args, run)
        model, test = suspect.model, suspect.test
        files, triggers = triggers_to_unlearn(args.patch_with, args.reversed_trigger, args.checkpoint, suspect.trigger,
                                              suspect.defender.num_classes)
        patched = stamp_share(suspect.defender, triggers, args.stamp_share, args.seed)

        run.begin(inputs_of(args.checkpoint, patched))
        log.info("%d clean images, %d of them stamped under their own label", len(patched), patched.poisoned.sum())
        epochs = args.epochs if triggers or args.patch_with == "clean" else 0
        if epochs == 0:
            log.info(NOTHING_FLAGGED)
        before = evaluate(model, test)
        log_figures("before", before)
        own = {"before": [asr_of(model, test, trigger) for trigger in triggers]}
        after = fine_tune(run, args, model, patched, test, epochs)
        own["after"] = [asr_of(model, test, trigger) for trigger in triggers]
        log_own_asr(triggers, own["before"], own["after"])
        is_control = args.patch_with == "clean"
        control = None if is_control else find_control(args, "unlearn-clean", "--patch-with clean")

        save_model(run.folder / "model_last.th", model, vars(args), after.figures(), suspect.classes)
        run.finish(after, model=model, parent=args.checkpoint, data=suspect.defender, epochs=epochs, method={
            "name": "unlearning", "patch_with": args.patch_with, "before": before.figures(), "images": len(patched),
            "stamped": int(patched.poisoned.sum()), "triggers": files, "asr_of_stamped_triggers": own,
            "control": control})


if __name__ == "__main__":
    main()
