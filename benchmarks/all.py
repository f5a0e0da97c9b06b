"""Every benchmark in turn, as the table of the README: what the plain way takes over what ours takes.

    python -m benchmarks.all

Each runs the two sides in turn and takes medians; the share is of the machine's own rate of large matrix products, a
target on a CPU alone (benchmarks/breakdown.py gives both bounds of a GPU). On two CPU cores some ten minutes. Reads and
writes nothing.
"""
import contextlib
import io

from benchmarks import abl, anp, neural_cleanse, strip, training
from benchmarks.plain import add_timing_flags, heading, measured_device
from engine.command_line import flags
from engine.command_line.command import command
from engine.runs import machine

RUNS = (("train_backdoor.py", training, ("--steps", "2")), ("generate_mask.py, prune_network.py", anp, (
    "--iterations", "2", "--test-images", "500")), ("defenses.strip", strip, ("--images", "20")),
    ("defenses.abl", abl, ("--images", "1280")), ("defenses.neural_cleanse", neural_cleanse, ("--labels", "5")))
OWN = {neural_cleanse: ["--rounds", "1"]}  # a model of its own, so no --width; a round takes minutes


def parse_args(argv=None):
    parser = flags.Parser(__doc__)
    parser.add_argument("--width", type=flags.integer(1), default=16, help="of the network")
    add_timing_flags(parser, 5)
    return parser.parse_args(argv)


def measure(args):
    """Yield (script, Row) of every benchmark, whose own lines are left out."""
    common = ["--width", str(args.width), "--rounds", str(args.rounds)]
    device = measured_device(args.device)
    has_bfloat16 = device.type == "cpu" and machine.multiplies_bfloat16(device)  # a GPU trains in it anyway
    runs = list(RUNS)
    if has_bfloat16:
        runs.insert(1, ("train_backdoor.py --amp", training, ("--steps", "2", "--amp")))
    for script, module, words in runs:
        with contextlib.redirect_stdout(io.StringIO()):
            rows = module.main([*words, *OWN.get(module, common), "--device", args.device])
        yield from ((script, row) for row in rows)


@command
def main(argv=None):
    args = parse_args(argv)
    print(heading(args.width, measured_device(args.device)))
    print("\n| script | what | ours, s | plain, s | plain / ours | share of the matrix rate |")
    print("|---|---|---|---|---|---|")
    for script, row in measure(args):
        share = "" if row.share is None else f"{100 * row.share:.0f} %"
        print(f"| `{script}` | {row.what} | {row.ours:.3f} | {row.plain:.3f} | {row.plain / row.ours:.2f} | {share} |",
              flush=True)


if __name__ == "__main__":
    main()
