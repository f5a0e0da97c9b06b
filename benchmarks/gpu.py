"""The homework's table and as many defenses as a time limit holds, side by side on one GPU.

    python -m benchmarks.gpu --rehearsal --only badnets/anp
    python -m benchmarks.gpu --limit 510 --pack output/gpu.tar.xz

Must-haves come first: benign, BadNets, clean-label and Blend at full width, then ANP on each; STRIP, Neural Cleanse,
Fine-Pruning, ABL, ISSBA and others follow as they fit. No job begins that cannot end before the limit; what runs at
the limit is stopped, and the same command goes on from there and keeps finished runs. Reads the images; writes every
run into --output-dir, and there logs/, summary.txt and jobs.json. Times are estimates for an H100 or
H200; --scale adapts them.
"""
import argparse
import concurrent.futures
import multiprocessing
import os
import shlex
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import torch

from benchmarks import gpu_files, gpu_summary
from benchmarks.gpu_jobs import chosen, homework
from benchmarks.gpu_schedule import Schedule
from common.errors import UserError
from common.files import write_json
from common.untrusted import read_object
from engine.cells import ROOT
from engine.command_line import flags
from engine.command_line.command import command
from engine.runs import machine

CLEAN_STEP = ("-m", "benchmarks.training", "--width", "64", "--rounds", "5", "--steps", "20")
CLEAN_STEP_SECONDS = 45  # on an H100, at most


def parse_args(argv=None):
    parser = flags.Parser(__doc__)
    parser.add_argument("--data-dir", default="data", help="an image folder, or where CIFAR-10 is or is downloaded to")
    parser.add_argument("--archive", metavar="FILE.tar.xz",
                        help="unpack train/ and test/ from it into --data-dir first, if nothing is there")
    parser.add_argument("--output-dir", help="folder of all runs (default: output/gpu, output/gpu-rehearsal)")
    parser.add_argument("--limit", type=flags.positive, default=3600, metavar="SECONDS",
                        help="what runs then is stopped; a summary follows")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these jobs and what they need (default: all)")
    parser.add_argument("--jobs", type=flags.integer(1), help="how many at once (default: 2 until the benign model is "
                                                              "there, then 3, or 4 where the card idles)")
    parser.add_argument("--scale", type=flags.positive, default=1.0,
                        help="how much slower than an H100 or H200 the card is")
    parser.add_argument("--pack", metavar="FILE.tar.xz", help="pack logs, results and pictures, without weights")
    parser.add_argument("--pack-size", type=flags.positive, default=15, metavar="MB",
                        help="above it pictures get an archive of their own")
    parser.add_argument("--in-memory", action=argparse.BooleanOptionalAction,
                        help="work in /dev/shm until the end (default: where 20 GB are free there)")
    parser.add_argument("--rehearsal", action="store_true", help="the same jobs in small, on digits on a CPU")
    parser.add_argument("--plan", action="store_true", help="print the commands and end")
    args = parser.parse_args(argv)
    args.output_dir = args.output_dir or f"output/gpu{'-rehearsal' if args.rehearsal else ''}"
    args.in_memory = gpu_files.has_room() if args.in_memory is None else args.in_memory
    return args


def from_root(path):
    """A path as the jobs write it, which run in the repository's root."""
    path = Path(path).absolute()
    return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)


def planned(args):
    """{name: Job} that the flags ask for."""
    data_dir = None if args.rehearsal else from_root(args.data_dir)
    return chosen(homework(from_root(args.output_dir), data_dir, args.scale), args.only or ())


def check_same(path, jobs):
    """Raise UserError if the file `path` of an earlier call has other commands for these jobs; then renew it."""
    try:
        before = read_object(path)
    except FileNotFoundError:
        before = {}
    now = {name: shlex.join(job.words) for name, job in jobs.items()}
    other = [name for name in now if before.get(name, now[name]) != now[name]]
    if other:
        raise UserError(f"{path.parent}: holds {other[0]} made by another command ({before[other[0]]}); name another "
                        "--output-dir")
    write_json(path, before | now)


def environment(places):
    """The variables of the jobs: cores shared out among them, and output that reaches its log at once."""
    threads = max(1, min(4, (os.cpu_count() or 1) // places))
    return {**os.environ, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads))}


def write_machine(path):
    """Note what the figures are measured on."""
    card = subprocess.run(["nvidia-smi"], capture_output=True, text=True).stdout if shutil.which("nvidia-smi") else ""
    write_json(path, {**machine.versions(), "cudnn": torch.backends.cudnn.version(), "cores": os.cpu_count(),
                      "commit": machine.commit(), "nvidia-smi": card.splitlines()})


def measure_clean_step(log, seconds):
    """Run the benchmark of a training step, which then has the card to itself; returns its output."""
    with open(log, "w") as file, suppress(subprocess.TimeoutExpired):
        subprocess.run([sys.executable, *CLEAN_STEP], cwd=ROOT, stdout=file, stderr=file, timeout=seconds)
    return Path(log).read_text()


def prepare(args, logs, tell):
    """Unpack and decode the images; meanwhile the card is measured. Raises UserError if the images cannot be had."""
    if args.archive:
        gpu_files.unpack(args.archive, args.data_dir, args.in_memory)
    spawn, log = multiprocessing.get_context("spawn"), logs / "clean-step.txt"
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=spawn) as pool:
        sizes = pool.submit(gpu_files.decode, args.data_dir)
        if not log.exists():  # by an earlier call
            tell(measure_clean_step(log, args.scale * CLEAN_STEP_SECONDS))
        tell(f"images for the attacker, the defender and testing: {sizes.result()}")


def work(args, jobs, started):
    """Run the jobs, and write the summary and the archive; returns the Schedule."""
    output = Path(args.output_dir)
    logs = output / "logs"
    logs.mkdir(exist_ok=True)
    check_same(output / "jobs.json", jobs)
    write_machine(logs / "machine.json")

    def tell(line):
        print(line, flush=True)
    if not args.rehearsal:
        prepare(args, logs, tell)
    with gpu_files.CardWatch(logs / "card.csv") as watch:
        schedule = Schedule(jobs, args.limit, started, logs, tell, args.jobs, watch.busy, environment(args.jobs or 3))
        schedule.run()

    lines = gpu_summary.lines_of(schedule, output)
    (output / "summary.txt").write_text("\n".join(lines) + "\n")
    tell("\n" + "\n".join(lines))
    for path in gpu_files.pack(args.pack, output, args.pack_size * 2**20) if args.pack else ():
        tell(f"packed: {path}, {path.stat().st_size / 2**20:.1f} MB")
    return schedule


@command
def main(argv=None):
    args, started = parse_args(argv), time.monotonic()
    jobs = planned(args)
    if args.plan:
        for job in jobs.values():
            print(shlex.join(["python", *job.words]))
        return
    if not args.rehearsal and not torch.cuda.is_available():
        raise UserError("no CUDA device is here; --rehearsal runs the same jobs in small on a CPU")

    with gpu_files.worked_on_in_memory(args.output_dir, args.in_memory):
        schedule = work(args, jobs, started)
    failed = schedule.in_state("failed")
    if failed:
        raise UserError(f"{len(failed)} of {len(jobs)} jobs failed: {', '.join(failed)}; see {args.output_dir}/logs/")


if __name__ == "__main__":
    main()
