"""Put every run that lies in a folder on one page and into a short PDF; grade it by the homework's criteria.

    python report.py output
    python report.py output --grade

Reads what the other scripts left beneath the folder: results, logs, tables and pictures, finished or not. Writes
report.html, one file that needs no network, and report.pdf, of at most 8 pages, into it (or into --output-dir), and
table.csv where runs repeat cells of the lecture's table.
--grade writes nothing: it prints every criterion of the homework with what was required, what was measured, and the
line of which log says so; exit status 0 if all pass, 1 otherwise. Logs of another implementation in the homework's
format (output.log, pruning_by_threshold.txt) are graded too.
"""
import engine.command_line.quick_help  # noqa: F401 -- before all others, so that --help waits for no PyTorch

import sys
from pathlib import Path

from engine.command_line import flags
from engine.command_line.command import command
from reporting.found import FINISHED, find_runs
from reporting.grade import as_text, grade
from reporting.page import write_page
from reporting.pdf import write_pdf
from reporting.published import leave_table
from reporting.sections import write_report


def parse_args(argv=None):
    parser = flags.Parser(__doc__)
    parser.add_argument("folder", nargs="?", default="output", help="where the runs lie")
    parser.add_argument("--grade", action="store_true", help="print the homework's criteria, and write nothing")
    parser.add_argument("--title", default="Backdoor attacks and defenses", help="what the report is headed")
    parser.add_argument("--max-pages", type=flags.integer(1), default=8, help="of the PDF; the homework allows 8")
    parser.add_argument("--output-dir", help="where to write; by default into the folder itself")
    args = parser.parse_args(argv)
    if args.grade:
        parser.refuse(argv, ("title", "max_pages", "output_dir"), "with --grade, which writes nothing")
    args.output_dir = args.output_dir or args.folder
    return args


@command
def main(argv=None):
    args = parse_args(argv)
    runs = find_runs(args.folder)
    lines = grade(args.folder, runs)
    if args.grade:
        print("\n".join(as_text(lines)))
        raise SystemExit(0 if all(line.passed for line in lines) else 1)
    sections = write_report(runs, lines, args.folder)
    folder = Path(args.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    finished = sum(run.state == FINISHED for run in runs)
    subtitle = f"{finished} finished runs of {len(runs)} found. Made by python report.py."
    leave_table(folder / "table.csv", runs)
    write_page(folder / "report.html", args.title, subtitle, sections)
    pages = write_pdf(folder / "report.pdf", args.title, subtitle, sections, args.max_pages)
    for run in runs:
        if run.state != FINISHED:
            print(f"{run.name}: {run.state}: {run.why}", file=sys.stderr)
    print(f"{finished} finished runs of {len(runs)}: {folder / 'report.html'}, and {folder / 'report.pdf'} "
          f"({pages} pages)")


if __name__ == "__main__":
    main()
