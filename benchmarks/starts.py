"""CPU seconds that each script takes to start: to print its help, and to import what it works with.

    python -m benchmarks.starts

Beside them `import torch` alone, which no script can do without. One process after the other, each of all commands in
turn, so that a slow minute of the machine falls on all alike; medians. Processes of one thread, and CPU time rather
than the clock's, since other work on the machine changes it less. Reads and writes nothing.
"""
import os
import resource
import subprocess
import sys
from pathlib import Path
from statistics import median

from common.errors import UserError
from engine.catalogue import BY_MODULE
from engine.command_line import flags
from engine.command_line.command import command

ROOT = Path(__file__).resolve().parent.parent
TORCH = "import torch"


def cpu_seconds(words):
    """User and system time of a process of Python, in the suite's folder. Raises CalledProcessError if it fails."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *words], cwd=ROOT, check=True, stdout=subprocess.DEVNULL,
                   env={**os.environ, "OMP_NUM_THREADS": "1"})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def starts(scripts):
    """{(script, what is done): the words that Python is called with}; TORCH stands for itself."""
    found = {(TORCH, "import"): ["-c", TORCH]}
    for module in scripts:
        found[module, "--help"] = [*BY_MODULE[module].words(), "--help"]
        found[module, "import"] = ["-c", f"import {module}"]
    return found


def measure(scripts, rounds):
    """{(script, what is done): median of its CPU seconds}, after a round to warm up the disk's cache."""
    commands = starts(scripts)
    times = [{name: cpu_seconds(words) for name, words in commands.items()} for _ in range(rounds + 1)][1:]
    return {name: median(row[name] for row in times) for name in commands}


def parse_args(argv=None):
    parser = flags.Parser(__doc__)
    parser.add_argument("scripts", nargs="*", metavar="MODULE", help="as train_backdoor, defenses.strip (default: all)")
    parser.add_argument("--rounds", type=flags.integer(1), default=5, help="rounds after one to warm up")
    return parser.parse_args(argv)


@command
def main(argv=None):
    args = parse_args(argv)
    scripts = args.scripts or list(BY_MODULE)
    if unknown := set(scripts) - set(BY_MODULE):
        raise UserError(f"{min(unknown)}: not a script of the suite, as {', '.join(list(BY_MODULE)[:3])}")
    found = measure(scripts, args.rounds)
    alone = found[TORCH, "import"]
    print(f"CPU seconds, medians of {args.rounds}; `{TORCH}` alone takes {alone:.2f}\n")
    print("| script | `--help` | import | import without PyTorch's own |\n|---|---|---|---|")
    for script in scripts:
        whole = found[script, "import"]
        print(f"| `{script}` | {found[script, '--help']:.2f} | {whole:.2f} | {whole - alone:.2f} |")


if __name__ == "__main__":
    main()
