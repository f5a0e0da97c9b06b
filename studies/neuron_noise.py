"""How a backdoored and a benign model break under adversarial noise on their neurons: ANP's two observations.

    python -m studies.neuron_noise --checkpoint output/badnets/model_last.th --benign output/benign/model_last.th

Wu & Wang (2021), Figure 1: a backdoored model errs sooner, and most of its errors are the target class. For each
epsilon the noise that raises the loss most is found on 1 % of the training images, from the defender's part, and
counted on the test images. Writes into output/badnets/neuron-noise/: neuron_noise.csv, neuron_noise.png, output.log,
config.json and results.json.
"""
import logging

import torch
import torch.nn.functional as F

from common.files import write_table
from data.batches import Batches
from engine.command_line import flags
from engine.command_line.command import command
from engine.command_line.normalization import INPUT_FLAGS, add_input_flags
from engine.defending.suspect import beneath_model, load_second, load_suspect, split_defender
from engine.drawing.curves import spread_curves
from engine.measuring.evaluation import frozen, predict
from engine.runs.run import Run
from methods.neuron_noise import ascend_noise, start_noise
from models.noisy_batchnorm import NoisyBatchNorm2d, parameters_named, perturbed

LEAVES = ("neuron_noise.csv", "neuron_noise.png")
COLUMNS = ("model", "epsilon", "seed", "error_rate", "target_share", "target_share_of_errors", "leaning",
           "leaning_share_of_errors")
BATCH = 128
log = logging.getLogger("backdoor")


def worst_noise(model, batches, epsilon, steps, generator):
    """Leave in the model's noises, each at most `epsilon`, a local worst of the loss on `batches`, in eval mode.

    `steps` ascents of 2.5 * epsilon / steps from a random start, each on the next batch.
    """
    noises = parameters_named(model, "neuron_noise")
    optimizer = torch.optim.SGD(noises, 2.5 * epsilon / steps)
    start_noise(noises, epsilon, generator)
    with frozen(model):
        for noise in noises:
            noise.requires_grad_(True)
        for images, labels in batches:
            ascend_noise(model, F.cross_entropy, noises, optimizer, images, labels, epsilon)


def noise_figures(model, batches, target=None):
    """error_rate under noise; the share of all predictions and of the errors that are `target`; and the label that
    most errors are, the leaning, with its share of them.

    The target's shares are None where no target is known, and what is said of errors where there are none.
    """
    with perturbed(model):
        guesses = predict(model, batches).argmax(1)
    wrong, is_target = guesses != batches.labels, guesses == target
    errors = guesses[wrong]
    of_errors = is_target[wrong].float().mean().item() if target is not None and len(errors) else None
    counts = torch.bincount(errors.cpu())
    return {"error_rate": wrong.float().mean().item(),
            "target_share": None if target is None else is_target.float().mean().item(),
            "target_share_of_errors": of_errors,
            "leaning": int(counts.argmax()) if len(errors) else None,
            "leaning_share_of_errors": counts.max().item() / len(errors) if len(errors) else None}


def row_text(row):
    """A row in words; what is not known is left out."""
    text = "{model}, epsilon {epsilon:.2f}, seed {seed}: error rate {error_rate:.4f}".format(**row)
    if row["target_share"] is not None:
        text += f", the target is {row['target_share']:.4f} of all guesses"
    if row["target_share_of_errors"] is not None:
        text += f" and {row['target_share_of_errors']:.4f} of the errors"
    if row["leaning"] is not None:
        text += f", most errors are label {row['leaning']} ({row['leaning_share_of_errors']:.4f})"
    return text


def parse_args(argv=None):
    parser = flags.Parser(__doc__)
    flags.add_suspect_flags(parser)
    flags.add_data_flags(parser)
    group = parser.add_argument_group("noise")
    group.add_argument("--benign", metavar="FILE", help="benign model to draw beside it")
    add_input_flags(group, "benign-", "the benign model's weights", "as for the suspect")
    group.add_argument("--epsilons", type=flags.not_negative, nargs="+",
                       default=[0, 0.01, 0.02, 0.03, 0.04, 0.06, 0.08, 0.1], help="largest relative noise")
    group.add_argument("--steps", type=flags.integer(1), default=20, help="steps that search for the worst noise")
    group.add_argument("--seeds", type=flags.integer(1), default=3, help="random starts for each epsilon")
    group.add_argument("--val-frac", type=flags.fraction, default=0.01, help="share of images to find the noise on")
    flags.add_run_flags(parser, beneath_model("neuron-noise"))
    args = parser.parse_args(argv)
    if not args.benign:
        parser.refuse(argv, [f"benign_{name}" for name in INPUT_FLAGS], "without --benign")
    return args


def starts(name, model, clean, test, epsilons, seeds, steps, target):
    """Yield a row for each epsilon and seed: what the worst noise on the ImageSet `clean` does on `test` (Batches)."""
    for epsilon in epsilons:
        for seed in seeds:
            generator = torch.Generator().manual_seed(seed)
            batches = Batches(clean, BATCH, test.device, generator, draws=BATCH * steps)
            worst_noise(model, batches, epsilon, steps, generator)
            row = {"model": name, "epsilon": epsilon, "seed": seed, **noise_figures(model, test, target)}
            log.info("%s", row_text(row))
            yield row


def draw(path, rows, names, knows_target):
    """The error rate over epsilon of each model in `names`, and the share of the target where it is known."""
    shown = {"error_rate": "error rate"}
    if knows_target:
        shown["target_share"] = "predicted as the target"
    panels = [{f"{name}: {words}": [(row["epsilon"], row[key]) for row in rows if row["model"] == name]
               for name in names} for key, words in shown.items()]
    spread_curves(path, panels, "epsilon of the neuron noise", "")


@command
def main(argv=None):
    args = parse_args(argv)
    with Run(args, LEAVES) as run:
        suspect = load_suspect(args, run, norm_layer=NoisyBatchNorm2d)
        models = {"suspect": suspect.model}
        if args.benign:
            models["benign"] = load_second(args.benign, args, suspect, run.device, "benign_",
                                           norm_layer=NoisyBatchNorm2d)
        clean, _ = split_defender(suspect.defender, args.val_frac)
        target = None if suspect.trigger is None else suspect.trigger.target
        seeds = range(args.seed, args.seed + args.seeds)

        run.begin(suspect)
        rows = []
        for name, model in models.items():
            rows += starts(name, model, clean, suspect.test.clean, args.epsilons, seeds, args.steps, target)

        write_table(run.folder / "neuron_noise.csv", COLUMNS, rows)
        draw(run.folder / "neuron_noise.png", rows, models, target is not None)
        run.finish(model=suspect.model, parent=args.checkpoint, data=suspect.defender,
                   method={"name": "neuron noise", "rows": rows})


if __name__ == "__main__":
    main()
