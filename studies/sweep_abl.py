"""ABL over poisoning rate, isolation rate and the length of stage 1: the lecture's tables, with both shortcuts.

    python -m studies.sweep_abl --poison-type badnets --isolation-rates 0.01 0.05 0.1 0.2

Trains, for each poisoning rate and seed, a model without any defense (train_backdoor.py, as many epochs as stage 2
has), and runs defenses.abl for each isolation rate and length of stage 1, in output/badnets-abl-sweep/poison-<p>/. The
shortcut of leaving low losses out without unlearning is the `filtered` columns; that of leaving them out late is a
larger --isolation-epochs. `--poison-type benign` is ABL on clean data. Finished cells are not run again, and a stopped
one is resumed by the same command. A cell that fails is named at the end and does not stop the others. Writes
sweep.csv and, for each axis with more than one value, a picture of ASR and ACC against it.
"""
from functools import partial
from itertools import product
from pathlib import Path

from common.errors import UserError
from common.untrusted import read_json
from engine.cells import as_flags, call, check_folder, finished, name_failed, run_cells
from engine.command_line import abl_flags, flags, poison_flags
from engine.command_line.aim_flags import variant_of
from engine.command_line.command import command
from engine.drawing.curves import spread_curves

TRAINING = (*(name for name in poison_flags.POISON_FLAGS if name != "poison_rate"), "dataset", "data_dir", "image_size",
            "arch", "width", *flags.SGD_FLAGS, "milestones", "crop_padding", "flip")
ABL = ("gamma", "lga", "flooding", "unlearn_epochs", "unlearn_lr", "even_steps", "unlearn_length", "max_drop")
MACHINE = ("device", "deterministic", "test_every")  # which a cell that is finished need not share
AXES = {"poison_rate": "poisoning rate", "isolation_epochs": "epochs of isolation", "isolation_rate": "isolation rate"}
COLUMNS = (*AXES, "seed", "precision", "recall", "none_acc", "none_asr", "filtered_acc", "filtered_asr", "acc", "asr",
           "unlearning_epochs")


def run_cell(folder, script, settings, machine):
    """(results, fingerprint of its training images) of `script` with the flags {name: value} in `folder`.

    machine: the flags MACHINE, which a finished run need not match. A finished run is not repeated. Raises
    UserError.
    """
    if not finished(folder, settings):
        call(script, *as_flags({**settings, **machine}, ("flooding", "deterministic")), "--output-dir", folder,
             "--resume")
    try:
        return read_json(folder / "results.json"), read_json(folder / "config.json")["inputs"]
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{folder}: damaged; remove it to have it made again") from None


def make_row(cell, undefended, results):
    """The row of sweep.csv of a cell {axis or seed: value} from results.json of both scripts. Raises UserError."""
    try:
        method = results["method"]
        shares = {"precision": method["precision"], "recall": method["recall"]}
        for name, figures in (("none_", undefended), ("filtered_", method["filtered"]), ("", results)):
            shares |= {f"{name}acc": figures["acc"], f"{name}asr": figures["asr"]}
        return {**cell, **{name: share and share["value"] for name, share in shares.items()},
                "unlearning_epochs": method["unlearning_epochs"]}
    except (KeyError, TypeError):
        raise UserError("results.json does not hold what the script writes; remove the cell to have it made again"
                        ) from None


def draw(folder, rows):
    """A picture for each axis that has more than one value, of the rows that are at the first value of the others."""
    for axis, label in AXES.items():
        others = [name for name in AXES if name != axis]
        shown = [row for row in rows if all(row[name] == rows[0][name] for name in others)]
        if len({row[axis] for row in shown}) > 1:
            panels = [{f"{kind.upper()}, {name}": [(row[axis], row[key + kind]) for row in shown]
                       for name, key in (("none", "none_"), ("filtered", "filtered_"), ("ABL", ""))}
                      for kind in ("asr", "acc")]
            spread_curves(folder / f"{axis}.png", panels, label,
                          ", ".join(f"{AXES[name]} {rows[0][name]}" for name in others))


def output_dir(args):
    """output/<attack>-abl-sweep"""
    return f"output/{variant_of(args)}-abl-sweep"


def parse_args(argv=None):
    parser = flags.Parser(__doc__)
    poison_flags.add_poison_flags(parser, rate=False)
    flags.add_data_flags(parser)
    flags.add_model_flags(parser)
    users = poison_flags.in_words(poison_flags.POISON_DEFAULTS["poison_rate"])
    group = parser.add_argument_group("sweep")
    group.add_argument("--poison-rates", type=flags.fraction, nargs="+", metavar="RATE",
                       help=f"values of --poison-rate, for {users} (default: 0.1)")
    group.add_argument("--isolation-rates", type=flags.isolation_rate, nargs="+", metavar="RATE", default=[0.01],
                       help="values of --isolation-rate")
    group.add_argument("--isolation-epochs", type=flags.integer(1), nargs="+", metavar="EPOCHS", default=[20],
                       help="values of --isolation-epochs")
    group.add_argument("--seeds", type=flags.integer(1), default=1, help="how many seeds, from 0 up")
    abl_flags.add_abl_flags(parser)
    flags.add_test_every_flag(flags.add_training_flags(parser, 60))
    flags.add_augmentation_flags(parser)
    group = parser.add_argument_group("run")
    flags.add_device_flags(group)
    flags.add_folder_flag(group, output_dir)
    args = parser.parse_args(argv)
    if args.poison_type not in poison_flags.POISON_DEFAULTS["poison_rate"]:
        parser.refuse(argv, ["poison_rates"], f"with --poison-type {args.poison_type}")
        args.poison_rates = [None]
    abl_flags.check_abl(parser, args, argv)
    flags.check_milestones(parser, args)
    args.poison_rates = args.poison_rates or [0.1]
    poison_flags.check_poison(parser, args)
    return args


def plan_cells(args, folder):
    """{name: function that runs a cell beneath `folder` and returns its rows} of all that the flags ask for."""
    training, abl, machine = ({name: getattr(args, name) for name in names} for names in (
        TRAINING, ABL, MACHINE))

    def make(beneath, attack, cell):
        undefended, images = run_cell(beneath / "none", "train_backdoor", attack, machine)
        own = beneath / f"isolation-{cell['isolation_rate']}-after-{cell['isolation_epochs']}"
        results, same_images = run_cell(own, "defenses.abl", {**attack, **abl, **cell}, machine)
        if same_images != images:
            raise UserError("trained on other images than the model without a defense; a file that was read has "
                            "changed, so name another --output-dir")
        return [make_row({"poison_rate": attack["poison_rate"], "seed": attack["seed"], **cell}, undefended, results)]

    cells = {}
    for seed, poison_rate in product(range(args.seeds), args.poison_rates):
        beneath = folder / f"poison-{poison_rate}" / f"seed-{seed}"
        attack = {**training, "poison_rate": poison_rate, "seed": seed}
        for epochs, rate in product(args.isolation_epochs, args.isolation_rates):
            cells[f"{beneath.relative_to(folder)}, isolation rate {rate} after {epochs} epochs"] = partial(
                make, beneath, attack, {"isolation_epochs": epochs, "isolation_rate": rate})
    return cells


@command
def main(argv=None):
    args = parse_args(argv)
    folder = Path(args.output_dir)
    check_folder(folder)

    cells = plan_cells(args, folder)
    rows, failed = run_cells(folder / "sweep.csv", COLUMNS, cells)

    if rows:
        draw(folder, rows)
        print(f"{len(rows)} rows in {folder / 'sweep.csv'}")
    name_failed(failed, len(cells))


if __name__ == "__main__":
    main()
