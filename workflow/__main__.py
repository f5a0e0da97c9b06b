"""Run a matrix, or audit a model, with Snakemake; a mistake ends in one line before anything starts.

    python -m workflow matrix workflow/matrices/digits.yaml
    python -m workflow audit stranger.th clean-images

The same call resumes a call that was stopped or killed. Flags after -- go to Snakemake.
"""
import argparse
import os
import sys
from pathlib import Path

from common.errors import UserError
from common.files import write_json
from common.locks import lock_folder
from engine.command_line import flags
from engine.command_line.command import command
from engine.command_line.normalization import add_input_flags
from workflow.request import pack, read_plan
from workflow.steps import ROOT, known_files

PROFILES = ROOT / "workflow/profiles"
DRY = {"-n", "--dry-run", "--dryrun"}


def parse_args(argv=None):
    parser = flags.Parser(__doc__, prog="python -m workflow")
    tasks = parser.add_subparsers(dest="task", required=True, metavar="matrix|audit")
    matrix = tasks.add_parser("matrix", docstring=__doc__, help="attacks against defenses")
    matrix.add_argument("matrix", metavar="FILE.yaml", help=f"one of your own, or of the suite's in workflow/matrices: "
                                                            f"{known_files('matrices')}")
    matrix.add_argument("--data-dir", help="where the images are, in place of the matrix's own data_dir")
    audit = tasks.add_parser("audit", docstring=__doc__, help="is a model backdoored, and what repairs it")
    audit.add_argument("checkpoint", metavar="CHECKPOINT", help="weights of a network that is known here "
                                                                "(docs/networks.md): .th, .pt, .safetensors")
    audit.add_argument("images", metavar="IMAGES", help="folder <class>/* of clean images, the classes in "
                                                        "sorted order; or one with train/ and test/")
    audit.add_argument("--settings", metavar="FILE.yaml", default="workflow/audits/usual.yaml",
                       help="flags of the steps")
    audit.add_argument("--output-dir", help="(default: output/audits/ and the model's name)")
    add_input_flags(audit)
    flags.add_size_flag(audit)
    audit.add_argument("--classes", **flags.CLASSES)
    for task in (matrix, audit):
        task.add_argument("--gpu", action=argparse.BooleanOptionalAction,
                          help="whether heavy steps ask for a GPU (default: where this machine has one)")
        task.add_argument("--profile", default="laptop", help="folder in workflow/profiles, or one of your own")
    words = sys.argv[1:] if argv is None else argv
    end = words.index("--") if "--" in words else len(words)
    args = parser.parse_args(words[:end])
    args.more = words[end + 1:]  # argparse would take -n for a flag of its own
    return args


def find_profile(name):
    """The folder of a profile by its name or path. Raises UserError if there is none."""
    for folder in (PROFILES / name, Path(name)):
        if name and (folder / "config.yaml").is_file():
            return folder
    raise UserError(f"--profile {name}: no such profile; there are "
                    f"{', '.join(sorted(path.name for path in PROFILES.iterdir()))}, or a folder with a config.yaml")


def hold(folder):
    """Take the output folder for as long as this process lives. Raises UserError if another one has it."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    lock = lock_folder(folder, "a workflow")
    if lock is not None:
        os.set_inheritable(lock, True)  # Snakemake takes this process's place


@command
def main(argv=None):
    args = parse_args(argv)
    profile, snakemake = find_profile(args.profile), Path(sys.executable).with_name("snakemake")
    request = {name: value for name, value in vars(args).items() if name not in ("profile", "more")}
    planned = read_plan(request)
    if not snakemake.exists():
        raise UserError("Snakemake is missing; pip install -r requirements-workflow.txt brings it")
    if not DRY & set(args.more):
        hold(planned.output)
        if planned.stamp:
            name, content = planned.stamp
            write_json(Path(planned.output) / name, content)
    os.execv(snakemake, [str(word) for word in (
        snakemake, "--snakefile", ROOT / "workflow/Snakefile", "--workflow-profile", profile, "--nolock", *args.more,
        "--config", f"request={pack(request)}")])


if __name__ == "__main__":
    main()
