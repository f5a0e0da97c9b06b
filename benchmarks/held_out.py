"""Which settings serve --recipe fast or strong best, on images that are neither trained nor tested on.

    python -m benchmarks.held_out --vary lr 0.1 0.2 0.4 -- --width 8
    python -m benchmarks.held_out --vary crop-padding 0 1 2 4 --seeds 2 -- --width 8
    python -m benchmarks.held_out --vary cutout 0 8 -- --recipe strong --poison-type benign

Trains by train_backdoor.py's flags, which stand behind `--`, on the attacker's images with each value of one more flag
and from each seed, and counts on the defender's tenth, which the training never sees: a default must not be fitted to
the test set. Prints a row as soon as it has it. Reads the data set and writes nothing.
"""

import torch

import train_backdoor
from benchmarks.plain import measured_device, setting
from common.errors import UserError
from data.batches import Batches
from data.datasets import load_splits
from engine.attacking.attack import poison_by
from engine.attacking.start import step_for
from engine.command_line import flags
from engine.command_line.command import command
from engine.command_line.recipe_flags import is_one_cycle
from engine.learning.schedules import check_one_cycle, one_cycle_of
from engine.learning.training import sgd, train_epoch
from engine.measuring.evaluation import EvalSets, evaluate
from engine.runs import machine
from models import build_model


def parse_args(argv=None):
    parser = flags.Parser(__doc__)
    parser.add_argument("--vary", nargs="+", metavar=("FLAG", "VALUE"), default=["lr", "0.1", "0.2", "0.4"],
                        help="a flag without its --, and the values to try")
    parser.add_argument("--seeds", type=flags.integer(1), default=1, help="how many seeds, from 0 up")
    parser.add_argument("words", nargs="*", metavar="FLAG", help="behind --, flags of train_backdoor.py")
    args = parser.parse_args(argv)
    if len(args.vary) < 2:
        parser.error("--vary: expected a flag and its values")
    return args


def held_out_score(args, attacker, defender):
    """(Evaluation on the defender's images, name of the arithmetic) of a model trained by train_backdoor's `args`."""
    device, generator = measured_device(args.device), torch.Generator().manual_seed(args.seed)
    torch.manual_seed(args.seed)
    poisoned, trigger = poison_by(args, attacker)
    batches = Batches(poisoned, args.batch_size, device, generator, args.crop_padding, args.flip,
                      cutout=args.cutout)
    model = build_model(args.arch, args.width, attacker.num_classes).to(device)
    optimizer = sgd(model, args, nesterov=True)
    steps = args.epochs * len(batches)
    check_one_cycle(steps, args.recipe)
    scheduler = one_cycle_of(optimizer, steps)
    amp = machine.trains_in_bfloat16(args, device)
    for _ in range(args.epochs):
        train_epoch(model, batches, optimizer, amp, step_for(args), scheduler.step)
    held_out = EvalSets.stamped(device, defender, trigger)
    return evaluate(model, held_out), "bfloat16" if amp else "float32"


@command
def main(argv=None):
    args = parse_args(argv)

    def parse(*more):
        return train_backdoor.parse_args(["--recipe", "fast", *args.words, *map(str, more)])
    plain, (flag, *values) = parse(), args.vary
    trials = [[(value, parse(f"--{flag}", value, "--seed", seed)) for value in values] for seed in range(args.seeds)]
    if any(not is_one_cycle(words) for tried in trials for _, words in tried):
        raise UserError("--recipe: expected fast or strong, which this benchmark is of")
    attacker, defender, _ = load_splits(plain.dataset, plain.data_dir)
    print(setting(plain.width, measured_device(plain.device), plain.arch))
    epochs = "" if flag == "epochs" else f", {plain.epochs} epochs"
    print(f"\n{plain.poison_type} on {attacker.name}{epochs}; counted on {len(defender)} held-out images")
    print(f"\n| {flag} | seed | ACC | ASR | arithmetic |\n|---|---|---|---|---|")
    for seed, tried in enumerate(trials):
        for value, words in tried:
            try:
                found, arithmetic = held_out_score(words, attacker, defender)
                acc, asr = (100 * part.accuracy.value for part in (found.clean, found.triggered))
                print(f"| {value} | {seed} | {acc:.2f} | {asr:.2f} | {arithmetic} |", flush=True)
            except UserError as error:
                print(f"| {value} | {seed} | {error} | | |", flush=True)


if __name__ == "__main__":
    main()
