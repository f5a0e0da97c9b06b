"""ANP over alpha, threshold and seed: what each does to ASR and ACC, as a table and two pictures.

    python -m studies.sweep_anp --checkpoint output/badnets/model_last.th --alphas 0 0.2 0.4 0.6 0.8 1 --seeds 3

Runs generate_mask.py and prune_network.py for each alpha and seed, in output/badnets/anp-sweep/alpha-<a>/seed-<s>/.
Finished cells are not run again, so a stopped sweep is resumed by the same command. A cell that fails is named at the
end and does not stop the others. Writes sweep.csv (a line for each alpha, seed and threshold), alpha.png (ASR and
ACC against alpha at the threshold chosen on held-out images) and threshold.png (against the threshold, for each alpha).
"""
import logging
from functools import partial
from pathlib import Path

from common.errors import UserError
from common.files import hash_file
from common.untrusted import read_json
from engine.cells import as_flags, call, check_folder, finished, name_failed, run_cells
from engine.command_line import anp_flags, flags
from engine.command_line.command import command
from engine.command_line.normalization import INPUT_FLAGS
from engine.defending.suspect import beneath_model, load_given
from engine.drawing.curves import spread_curves

DATA_SETTINGS = ("dataset", "data_dir", "image_size")
MASK_SETTINGS = ("val_frac", "lr", "nb_iter", "print_every", "batch_size", "anp_eps", "anp_steps", "project",
                 "crop_padding", "flip")
PRUNING_SETTINGS = ("pruning_max", "pruning_step", "max_drop")
COLUMNS = ("alpha", "seed", "threshold", "pruned", "acc", "asr", "robust_acc", "held_out_acc", "chosen")
log = logging.getLogger("backdoor")


def run_cell(folder, made, both, pruned, shared):
    """Masks and pruning of one cell in `folder`, unless they are finished. Raises UserError.

    made, pruned: {flag: value} of generate_mask.py and of prune_network.py; both: that of both, which `shared` has as
    words of a command line.
    """
    if not finished(folder, {**made, **both}, hash_file(made["checkpoint"])):
        call("generate_mask", *as_flags(made), "--output-dir", folder, "--resume", *shared)
    if not finished(folder / "pruned", pruned):
        call("prune_network", "--mask-file", folder / "mask_values.txt", *as_flags(pruned), "--overwrite", *shared)


def read_cell(folder, alpha, seed):
    """The rows of sweep.csv of one finished cell. Raises UserError if it is damaged."""
    try:
        method = read_json(folder / "pruned/results.json")["method"]
        return _rows(method, method["chosen"], alpha, seed)
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{folder / 'pruned'}: damaged; remove it to have it made again") from None


def inputs_of_cell(folder):
    """What a finished cell's masks were made from: hashes of weights and images. Raises UserError if it is damaged."""
    try:
        return read_json(folder / "config.json")["inputs"]
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{folder}: damaged; remove it to have it made again") from None


def _rows(method, chosen, alpha, seed):
    return [{"alpha": alpha, "seed": seed, "threshold": row["threshold"], "pruned": row["pruned"],
             **{name: row[name] and row[name]["value"] for name in ("acc", "asr", "robust_acc", "held_out_acc")},
             "chosen": int(row["threshold"] == chosen["threshold"] and row["pruned"] == chosen["pruned"])}
            for row in method["sweep"]]


def draw(folder, rows):
    """alpha.png and threshold.png: means over seeds, with a band from the lowest to the highest."""
    chosen = [row for row in rows if row["chosen"]]
    swept = [row for row in rows if row["threshold"] is not None]
    curves = {"ACC": [(row["alpha"], row["acc"]) for row in chosen]}
    by_alpha = {f"ACC, alpha {alpha:g}": [(row["threshold"], row["acc"]) for row in swept if row["alpha"] == alpha]
                for alpha in sorted({row["alpha"] for row in rows})}
    if rows[0]["asr"] is not None:
        curves["ASR"] = [(row["alpha"], row["asr"]) for row in chosen]
        by_alpha |= {f"ASR, alpha {alpha:g}": [(row["threshold"], row["asr"]) for row in swept if row["alpha"] == alpha]
                     for alpha in sorted({row["alpha"] for row in rows})}
    spread_curves(folder / "alpha.png", [curves], "alpha", "at the threshold chosen on held-out images")
    panels = [{name: points for name, points in by_alpha.items() if name.startswith(kind)} for kind in ("ASR", "ACC")]
    spread_curves(folder / "threshold.png", [panel for panel in panels if panel], "threshold on the mask", "")


def parse_args(argv=None):
    parser = flags.Parser(__doc__)
    flags.add_suspect_flags(parser)
    flags.add_data_flags(parser)
    group = parser.add_argument_group("sweep")
    group.add_argument("--alphas", type=flags.fraction, nargs="+", default=[0, 0.2, 0.4, 0.6, 0.8, 1],
                       help="values of --anp-alpha")
    group.add_argument("--seeds", type=flags.integer(1), default=3, help="how many seeds, from 0 up")
    anp_flags.add_pruning_flags(group)
    anp_flags.add_mask_flags(parser)
    flags.add_augmentation_flags(parser)
    group = parser.add_argument_group("run")
    flags.add_device_flags(group)
    flags.add_folder_flag(group, beneath_model("anp-sweep"))
    args = parser.parse_args(argv)
    anp_flags.check_thresholds(parser, args)
    args.alphas = sorted(set(args.alphas))
    return args


def plan_cells(args, folder):
    """{name: function that runs a cell beneath `folder` and returns its rows} of all that the flags ask for."""
    data, mask, pruned = ({name: getattr(args, name) for name in names}
                          for names in (DATA_SETTINGS, MASK_SETTINGS, PRUNING_SETTINGS))
    suspect = {"trigger_info": args.trigger_info, "classes": args.classes,
               **{name: getattr(args, name) for name in INPUT_FLAGS}}
    both = {**data, **suspect}
    shared = as_flags({**both, "device": args.device, "deterministic": args.deterministic}, ("deterministic",))
    known = set()

    def make(alpha, seed):
        cell = folder / f"alpha-{float(alpha)}" / f"seed-{seed}"
        if len(known) > 1:
            raise UserError(f"{cell}: not made, since the cells before it are of different images")
        run_cell(cell, {"checkpoint": args.checkpoint, "anp_alpha": alpha, "seed": seed, **mask}, both, pruned, shared)
        known.add(inputs_of_cell(cell))
        if len(known) > 1:  # the images in --data-dir have changed since
            raise UserError(f"{cell}: made from other images than the cells before it; name another --output-dir")
        return read_cell(cell, alpha, seed)

    return {f"alpha {alpha:g}, seed {seed}": partial(make, alpha, seed)
            for alpha in args.alphas for seed in range(args.seeds)}


@command
def main(argv=None):
    args = parse_args(argv)
    folder = Path(args.output_dir)
    load_given(args)  # a mistake here would fail every cell
    check_folder(folder)

    cells = plan_cells(args, folder)
    rows, failed = run_cells(folder / "sweep.csv", COLUMNS, cells)

    if rows:
        draw(folder, rows)
        print(f"{len(rows)} rows in {folder / 'sweep.csv'}; alpha.png and threshold.png beside it")
    name_failed(failed, len(cells))


if __name__ == "__main__":
    main()
