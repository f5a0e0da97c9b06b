"""STRIP against several attacks side by side: the lecture's bars of mean entropies, and a table.

    python compare_strip.py output/badnets/strip output/blend/strip

Reads results.json of finished detect_strip.py runs. Writes into output/strip-comparison/: comparison.csv (a line for
each: entropies in bits, FRR and FAR at the boundary that decided, AUROC) and comparison.png.
"""
import engine.quick_help  # noqa: F401 -- before all others, so that --help waits for no PyTorch

import math
from pathlib import Path

from data.files import UserError, read_json, write_table
from engine import flags
from engine.command import command
from engine.figures import entropy_bars, write_figure

COLUMNS = ("run", "clean", "triggered", "frr", "far", "auroc")


def read_run(folder):
    """The row of comparison.csv of a detect_strip.py run. Raises UserError if it is none, or unfinished."""
    path = Path(folder) / "results.json"
    try:
        method = read_json(path)["method"]
        entropy = method["mean_entropy"]
        shares = {name: method[name] and method[name]["value"] for name in ("frr", "far")}
        return {"run": folder, "clean": entropy["clean"], "triggered": entropy["triggered"], **shares,
                "auroc": method["auroc"]}
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; expected the folder of a finished detect_strip.py run") from None
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{path}: not what detect_strip.py leaves") from None


def short_names(folders):
    """The parts of the folders' paths that tell them apart, without those that all of them have."""
    parts = [Path(folder).parts for folder in folders]
    shared = set.intersection(*map(set, parts)) if len(parts) > 1 else set()
    return ["/".join(part for part in own if part not in shared) or str(Path(*own)) for own in parts]


def parse_args(argv=None):
    parser = flags.Parser(__doc__)
    parser.add_argument("runs", nargs="+", metavar="FOLDER", help="what detect_strip.py left")
    parser.add_argument("--output-dir", default="output/strip-comparison", help="folder for the table and the picture")
    return parser.parse_args(argv)


@command
def main(argv=None):
    args = parse_args(argv)
    rows, names = [read_run(folder) for folder in args.runs], short_names(args.runs)
    folder = Path(args.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    write_table(folder / "comparison.csv", COLUMNS, rows)
    write_figure(folder / "comparison.png", entropy_bars(names, rows))
    for name, row in zip(names, rows, strict=True):
        figures = (f"{column} {math.nan if row[column] is None else row[column]:.4f}" for column in COLUMNS[1:])
        print(f"{name:30}  {'  '.join(figures)}")


if __name__ == "__main__":
    main()
