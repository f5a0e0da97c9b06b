"""Train models whose attack is known and measure them as an audit does: what its p-values and its error rates rest on.

    python -m studies.calibrate_audit --dataset digits --width 16 --count 2 --first-seed 100

Trains --count models, one seed each from --first-seed up, benign ones or by one attack, and asks the audit's witnesses
of each. `--population calibrate` (benign models) says what is usual, `--population test` how often the verdict is
wrong. --training has the training script's own flags. Adds a line a model to rates.csv in results/audit/ (or
--output-dir) as soon as it is measured, and works out all p-values and verdicts there anew. The same command, called
again after a stop, goes on. Models are thrown away unless --keep. --show trains nothing: it prints the false-alarm and
miss rates of the table, of the audit and of Neural Cleanse alone, with 95 % Wilson intervals.
"""
import hashlib
import shlex
import shutil
import time
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

import torch

from common.errors import UserError
from common.locks import alone_in
from common.untrusted import read_json
from data.datasets import load_clean
from data.image_set import ImageSet
from engine.catalogue import attack_cells
from engine.cells import as_flags, call
from engine.command_line import flags
from engine.command_line.command import command
from engine.command_line.witness_flags import add_witness_flags
from engine.runs import machine
from engine.weights.checkpoint import load_model, load_trigger
from methods.calibration import ALPHA, MOST
from methods.measured import BENIGN, CALIBRATE, TEST, Kind, Measured, digest_classes
from methods.outliers import anomaly_indices, majority_labels
from methods.populations import missed_of, populations_of
from methods.rates import read_rows, write_rows
from methods.trust import error_in_words, interval
from methods.witnesses import (
    CHANNELS,
    MARGINS,
    TITLES,
    WITNESSES,
    Settings,
    channel_witness,
    cleanse_witness,
    margin_witness,
    search_triggers,
)

TABLE = "rates.csv"
MODELS = "models"  # folder of the models that are being made
IDENTITY = ("dataset", "data_dir", "image_size", "arch", "width", "device")  # what a training is told besides
OWN = {f"--{name.replace('_', '-')}" for name in IDENTITY}  # which this script takes itself
FIXED = OWN | {"--seed", "--poison-type", "--poison-target", "--output-dir", "--resume", "--overwrite"}
SAME_MODEL = ("population", "settings", "dataset", "kind", "attack", "target", "training", "seed")  # of a model's row


def train(args: Namespace, seed: int, target: int | None, folder: Path) -> dict:
    """Train one model in `folder`, or go on there; returns its results.json. Raises UserError."""
    script, cell = attack_cells()[args.attack]
    own = {name: getattr(args, name) for name in IDENTITY}
    aim = {} if target is None else {"poison_target": target}
    call(script.module, *as_flags({**cell.flags, **own, **aim, "seed": seed}), *shlex.split(args.training),
         "--output-dir", folder, "--resume")
    return read_json(folder / "results.json")


def flagged_label(norms: list[list[float]]) -> int | None:
    """The label that Neural Cleanse by itself calls the target: flagged by most searches, the first of several."""
    labels = majority_labels([anomaly_indices(own)[1] for own in norms])
    return labels[0] if labels else None


def measure(folder: Path, images: ImageSet, settings: Settings, seed: int, device: torch.device) -> dict:
    """What all witnesses say of the model in `folder`, as fields of a Measured."""
    started = time.perf_counter()
    model = load_model(folder / "model_last.th", device, images.classes).model.eval()
    channels = channel_witness(model)
    margins = margin_witness(model, images.num_classes, images.image_size, settings, device,
                             torch.Generator().manual_seed(seed))
    norms = [[search.norm for search in search_triggers(model, images, settings, seed + number, device)]
             for number in range(settings.searches)]
    rounds = [cleanse_witness(norms[:count]) for count in range(1, len(norms) + 1)]
    return {"kind": Kind.of(model.spec, images.image_size, images.classes), "settings": settings.words(),
            "channels": channels.statistic, "margins": margins.statistic, "margins_label": margins.label,
            "cleanse": tuple(found.statistic for found in rounds),
            "cleanse_labels": tuple(found.label for found in rounds), "flagged": flagged_label(norms),
            "seconds": round(time.perf_counter() - started, 1)}


def make_row(args: Namespace, seed: int, target: int | None, folder: Path, images: ImageSet) -> Measured:
    """Train and measure one model. Raises UserError."""
    results = train(args, seed, target, folder)
    trigger = None if args.attack == BENIGN else load_trigger(folder / "trigger_info.th")
    shares = {name: results[name]["value"] if results.get(name) else None for name in ("acc", "asr")}
    device = machine.find_device(args.device)
    return Measured(args.population, images.name, attack=args.attack, target=trigger and trigger.target,
                    training=args.training, seed=seed, acc=shares["acc"],
                    asr=None if trigger is None else shares["asr"], seconds_training=results["seconds"],
                    **measure(folder, images, Settings().changed(vars(args)), seed, device))


def add_row(folder: Path, row: Measured) -> None:
    """Add a line to the table in `folder`, unless another process has added that of the same model meanwhile."""
    def of_same_model(other):
        return all(getattr(other, name) == getattr(row, name) for name in SAME_MODEL)
    with alone_in(folder):
        rows = read_rows(folder / TABLE)
        if not any(map(of_same_model, rows)):
            write_rows(folder / TABLE, [*rows, row])


def folder_of(args: Namespace, seed: int, target: int | None) -> Path:
    """Where a model is made; models that differ in anything have folders of their own."""
    name = "-".join(map(str, filter(None, (args.population, args.dataset, args.arch, args.width, args.attack))))
    rest = repr((args.training, args.data_dir, args.image_size, target)).encode()
    return Path(args.output_dir) / MODELS / f"{name}-{hashlib.sha256(rest).hexdigest()[:6]}-seed-{seed}"


def same_training(row: Measured, args: Namespace, seed: int, target: int | None, images: ImageSet) -> bool:
    """Whether a row's model was trained by the very flags, on images of the same name, size and classes."""
    kind = Kind(args.arch, args.width, images.image_size, digest_classes(images.classes))
    if args.attack != BENIGN and target is None:
        target = 0  # of all attacks without --poison-target
    return (row.dataset, row.kind, row.attack, row.training, row.seed) == (
        images.name, kind, args.attack, args.training, seed) and row.target in (None, target)


def is_made(rows: list[Measured], args: Namespace, seed: int, target: int | None, images: ImageSet) -> bool:
    """Whether the table has this model already."""
    settings = Settings().changed(vars(args)).words()
    return any((row.population, row.settings) == (args.population, settings)
               and same_training(row, args, seed, target, images) for row in rows)


def check_untwinned(rows: list[Measured], args: Namespace, seed: int, images: ImageSet) -> None:
    """Raise UserError for a benign model that stands in the table as one of the other population: held against itself,
    no model looks suspicious."""
    twins = [row for row in rows if args.attack == BENIGN and row.population != args.population
             and same_training(row, args, seed, None, images)]
    if twins:
        raise UserError(f"seed {seed}: that benign model is of --population {twins[0].population} already; give "
                        "another --first-seed")


def make_all(args: Namespace) -> None:
    """Train and measure the models that the table lacks, one after another. Raises UserError."""
    folder = Path(args.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    images, _ = load_clean(args.dataset, args.data_dir, args.image_size)
    rows = read_rows(folder / TABLE)
    for seed in range(args.first_seed, args.first_seed + args.count):
        check_untwinned(rows, args, seed, images)
    for number in range(args.count):
        seed = args.first_seed + number
        target = args.targets[number % len(args.targets)] if args.targets else None
        own = folder_of(args, seed, target)
        if is_made(read_rows(folder / TABLE), args, seed, target, images):
            print(f"{own.name}: in the table already", flush=True)
            continue
        row = make_row(args, seed, target, own, images)
        add_row(folder, row)
        print(f"{own.name}: trained in {row.seconds_training:.0f} s (ACC {row.acc:.4f}"
              f"{'' if row.asr is None else f', ASR {row.asr:.4f}'}), measured in {row.seconds:.0f} s", flush=True)
        if not args.keep:
            shutil.rmtree(own)


def show(table: Path, alpha: float) -> None:
    """Print the rates of each population of the table. Raises UserError if there is none."""
    populations = populations_of(read_rows(table))
    if not populations:
        raise UserError(f"{table}: no model has been measured yet")
    for population in populations:
        print(f"{population.dataset}, {population.kind.words()}, {len(population.reference)} benign models to compare "
              f"with ({population.settings})")
        audit, unseen = f"audit at a false-alarm rate of {100 * alpha:g} %", population.unseen()
        for title, errors in ((audit, population.errors(alpha=alpha)),
                              ("without images", population.errors((CHANNELS, MARGINS), alpha)),
                              ("Neural Cleanse alone, by anomaly index and majority",
                               population.errors_of_cleanse_alone())):
            for row in errors:
                print(f"  {title}: {error_in_words(row)}")
            show_sum(title, errors)
        for witness in WITNESSES:
            show_sum(f"{TITLES[witness]} alone, calibrated", population.errors((witness,), alpha), with_benign=True)
        if unseen.rows != population.rows:
            show_sum(f"{audit}, models measured after it was settled", unseen.errors(alpha=alpha), with_benign=True)


def show_sum(title: str, errors: Sequence[dict], with_benign: bool = False) -> None:
    """Print an entry of Population.errors for all attacks together, and that of benign models too."""
    for row in errors:
        if with_benign and row["attack"] == BENIGN:
            print(f"  {title}: {error_in_words(row)}")
    wrong, models = missed_of(errors)
    if models:
        print(f"  {title}: of all {models} backdoored ones it missed {wrong} ({interval(wrong, models)})")


def parse_args(argv=None):
    parser = flags.Parser(__doc__)
    group = parser.add_argument_group("models")
    group.add_argument("--population", choices=(CALIBRATE, TEST), default=CALIBRATE,
                       help="whether the models say what is usual, or count the errors")
    group.add_argument("--attack", choices=tuple(attack_cells()), default=BENIGN, metavar="NAME",
                       help=f"what is trained: {', '.join(attack_cells())}")
    group.add_argument("--count", type=flags.integer(1), default=20, help="number of models")
    group.add_argument("--first-seed", type=flags.integer(0), default=0, help="seed of the first; then one more each")
    group.add_argument("--targets", type=flags.integer(0), nargs="+", metavar="CLASS",
                       help="values of --poison-target, which the models take in turn (default: the attack's own)")
    group.add_argument("--training", metavar="FLAGS",
                       help='flags of the training script in one word, as "--epochs 20 --batch-size 32"')
    group.add_argument("--keep", action="store_true", help="leave the models beneath the table's folder")
    flags.add_data_flags(parser)
    flags.add_model_flags(parser)
    add_witness_flags(parser, f"Default: {Settings().words()}")
    group = parser.add_argument_group("run")
    group.add_argument("--show", action="store_true", help="train nothing, and print the rates of the table")
    group.add_argument("--alpha", type=flags.number(0.001, MOST, f"a rate from 0.001 to {MOST}"), default=ALPHA,
                       help="false-alarm rate at which --show counts")
    flags.add_folder_flag(group, "results/audit", "folder of the table rates.csv ")
    group.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...")
    args = parser.parse_args(argv)
    if args.population == CALIBRATE and args.attack != BENIGN:
        parser.error(f"--attack {args.attack}: the models to calibrate with are benign; give --population test")
    args.training = args.training or ""
    try:
        words = shlex.split(args.training)
    except ValueError as error:
        parser.error(f"--training: {error}")
    taken = sorted({word.partition("=")[0] for word in words} & FIXED)
    if taken:
        parser.error(f"--training: {', '.join(taken)} would contradict the table; this script gives these to the "
                     "training, as its own flags say")
    if args.attack == BENIGN and args.targets:
        parser.error("--targets: has no effect on benign models")
    return args


@command
def main(argv=None):
    args = parse_args(argv)
    if args.show:
        show(Path(args.output_dir) / TABLE, args.alpha)
    else:
        make_all(args)


if __name__ == "__main__":
    main()
