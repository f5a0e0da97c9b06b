"""Is there a sign of a backdoor in a model that nobody vouches for, at a known rate of false alarms?

    python -m studies.audit output/badnets/model_last.th my/images

MODEL holds the weights of any network of the suite; IMAGES is a folder of clean images, <class>/* or the data set's
own. No trigger is looked at. Three witnesses speak, the cheap ones first: CLP's channel bounds, MM-BD and, where there
are images, Neural Cleanse, whose later searches are only made while the verdict depends on them. Each statistic is held
against benign models of the same kind (results/audit/rates.csv, made by studies.calibrate_audit); without such models
the verdict is undecided. The verdict comes with how often it was wrong on other models of that kind. Writes into
output/<model's folder>/audit/: witnesses.csv, the smallest trigger found (reversed_trigger_<label>.th), output.log,
config.json and results.json. `make audit` also tries repairs; its last step is studies.verdict.
"""
import argparse
import logging
import sys
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from common.errors import UserError
from common.files import write_table
from common.untrusted.images import IN_WORDS, is_hidden
from engine.command_line import flags
from engine.command_line.aim_flags import called
from engine.command_line.command import command
from engine.command_line.inherit import behind_model
from engine.command_line.normalization import add_input_flags
from engine.command_line.witness_flags import add_witness_flags
from engine.defending.suspect import beneath_model
from engine.defending.without_images import Subject, add_optional_data_flags, load_subject
from engine.runs.run import Run
from engine.weights.checkpoint import save_trigger
from methods.calibration import ALPHA, GRAY, MOST, UNDECIDED, Judgment
from methods.hearing import COLUMNS, Hearing, hear
from methods.measured import Kind
from methods.populations import Population, populations_of
from methods.rates import TABLE, read_rows
from methods.reference import Reference, find_reference
from methods.trigger_search import Search, as_trigger
from methods.trust import in_words
from methods.witnesses import CLEANSE, Settings

log = logging.getLogger("backdoor")


class Place(argparse.Action):
    """Store a word without a flag as --checkpoint, or where that is given or has its word, as --data-dir."""

    def __call__(self, parser: flags.Parser, namespace: Namespace, word: str, option_string: str | None = None):
        for name in parser.free:
            if name not in parser.flagged or getattr(namespace, name) == word:
                parser.free = parser.free[parser.free.index(name) + 1:]
                setattr(namespace, name, word)
                return
        parser.error(f"{word}: a model and a folder of images are given already")


def parse_args(argv=None):
    parser = flags.Parser(__doc__)
    for name, flag in (("MODEL", "--checkpoint"), ("IMAGES", "--data-dir")):
        parser.add_argument(name, nargs="?", action=Place, default=argparse.SUPPRESS, help=f"the same as {flag}")
    group = parser.add_argument_group("model under suspicion")
    group.add_argument("--checkpoint", default="output/badnets/model_last.th",
                       help="weights of a known network from anywhere (.th, .safetensors)")
    add_input_flags(group)
    group.add_argument("--classes", **flags.CLASSES)
    add_optional_data_flags(parser, "two of the three witnesses need no images, and Neural Cleanse speaks")
    group = parser.add_argument_group("verdict")
    group.add_argument("--alpha", type=flags.number(0.001, MOST, f"a rate from 0.001 to {MOST}"), default=ALPHA,
                       help="rate of false alarms")
    group.add_argument("--population", metavar="DATASET",
                       help="compare with benign models of this data set, whatever the classes are called (default: "
                            "the models of the same network, image size and classes)")
    group.add_argument("--rates", metavar="FILE.csv",
                       help="table of studies.calibrate_audit (default: the suite's own, results/audit/rates.csv)")
    add_witness_flags(parser, "Default: as the population was measured. With other values there is no p-value.")
    flags.add_run_flags(parser, beneath_model("audit"))
    parser.free, parser.flagged = ("checkpoint", "data_dir"), parser.given(argv)
    return parser.parse_intermixed_args(argv)


def check_folder(args: Namespace, argv: Sequence[str] | None) -> None:
    """UserError for IMAGES that are not there, or a folder with nothing in it: without a --dataset on the command line
    `argv` CIFAR-10 would be downloaded into it."""
    words = sys.argv[1:] if argv is None else argv
    if not args.data_dir or any(word.partition("=")[0] == "--dataset" for word in words):
        return
    path = Path(args.data_dir)
    if not path.is_dir() or all(is_hidden(entry.name) for entry in path.iterdir()):
        raise UserError(f"{path}: expected a folder <class>/* of {IN_WORDS} files; "
                        f"{'it is empty' if path.is_dir() else 'there is no such folder'}")


def is_measured_so(population: Population, args: Namespace) -> bool:
    """Whether the witnesses' settings of the flags are those of the population."""
    measured = Settings.from_words(population.settings)
    return measured.changed(vars(args)) == measured


def choose(args: Namespace, subject: Subject) -> tuple[Reference, Settings]:
    """The Reference for a model, and the Settings that it was measured with, or those of the flags."""
    kind = Kind.of(subject.model.spec, subject.image_size, subject.classes)
    if args.rates and not Path(args.rates).is_file():
        raise UserError(f"{args.rates}: no such file; studies.calibrate_audit makes one")
    populations = populations_of(read_rows(args.rates or TABLE))
    has_names = subject.has_names and not all(map(str.isdecimal, subject.classes))  # digits of which data set?
    dataset, known, own = args.population, {one.dataset for one in populations}, subject.images
    if dataset and dataset not in known:
        raise UserError(f"--population {dataset}: no models of it in the table, which has "
                        f"{', '.join(sorted(known)) or 'none'}")
    if not dataset and not has_names:
        # A folder of images is called after itself, which says nothing.
        said = own.name if own and own.name == args.dataset else behind_model(args, "dataset", None)
        dataset = said if said in known else None
    fitting = [one for one in populations if is_measured_so(one, args)]
    reference = find_reference(fitting, kind, has_names, dataset)
    if not reference.population:
        reference = find_reference(populations, kind, has_names, dataset)
    measured = Settings.from_words(reference.population.settings) if reference.population else Settings()
    settings = measured.changed(vars(args))
    if settings != measured and reference.population:
        reference = Reference(None, "; ".join(filter(None, (reference.doubt, (
            f"benign models were measured with other settings of the witnesses ({measured.apart_from(settings)})")))))
    return reference, settings


def report(judgment: Judgment, trust: str, doubt: str | None, args: Namespace, classes: Sequence[str]) -> None:
    """The verdict as lines of the log."""
    if doubt:
        log.info("no verdict can be given: %s", doubt)
    log.info("%s", trust)
    target = f", target {called(judgment.target, classes)}" if judgment.target is not None else ""
    combined = "" if judgment.combined is None else f", combined p-value {judgment.combined:.2g}"
    if combined and doubt:
        combined = f" ({combined.removeprefix(', ')} if that did not matter)"
    elif combined and judgment.verdict == UNDECIDED:
        combined += f", between {args.alpha:g} and {GRAY * args.alpha:g}: rare among benign models, but not rare enough"
    log.info("verdict: %s%s%s", judgment.verdict, target, combined)


def find_doubt(hearing: Hearing, subject: Subject) -> str | None:
    """Why no verdict can rest on what was heard, in words; None if one can."""
    guess = None if subject.knows_input else ("nothing says how pixels enter this model, and without images the usual "
                                              "way cannot be tried; give --mean and --std, or images")
    unsound = subject.suspect and subject.suspect.doubt and subject.suspect.doubt.words()
    return "; ".join(filter(None, (unsound, guess, hearing.reference.doubt, hearing.silence()))) or None


def leave_triggers(folder: Path, best: dict[int, Search], label: int | None) -> list[str]:
    """Write the smallest trigger of `label`, if one was found; returns the file's name in a list."""
    if label not in best:
        return []
    name = f"reversed_trigger_{label}.th"
    save_trigger(folder / name, as_trigger(best[label]))
    return [name]


@command
def main(argv=None):
    args = parse_args(argv)
    before = [path.name for path in Path(args.output_dir).glob("reversed_trigger_[0-9]*.th")]
    with Run(args, ("witnesses.csv",), before) as run:
        check_folder(args, argv)
        subject = load_subject(args, run, find=False)
        reference, settings = choose(args, subject)
        hearing = Hearing(reference, args.alpha, subject.classes)

        run.begin(subject)
        best = hear(hearing, subject, settings, args.seed, run.device)
        doubt = find_doubt(hearing, subject)
        judgment, population = hearing.judge(doubt), hearing.reference.population
        trust, errors = in_words(population, tuple(hearing.findings), args.alpha, hearing.statistics(),
                                 of_its_kind=not reference.doubt)
        report(judgment, trust, doubt, args, subject.classes)

        write_table(run.folder / "witnesses.csv", COLUMNS, hearing.rows(judgment))
        cleanse = hearing.findings.get(CLEANSE)
        triggers = leave_triggers(run.folder, best, cleanse.label if cleanse else None)
        run.finish(subject.evaluate(), model=subject.model, parent=args.checkpoint, data=subject.images, method={
            "name": "calibrated audit", **asdict(judgment), "speaking": list(judgment.speaking), "alpha": args.alpha,
            "target_class": None if judgment.target is None else subject.classes[judgment.target],
            "witnesses": hearing.rows(judgment), "seconds": hearing.seconds, "settings": settings.words(),
            "doubt": doubt, "trust": trust, "errors": errors, "reversed_triggers": triggers,
            "population": population and population.dataset})


if __name__ == "__main__":
    main()
