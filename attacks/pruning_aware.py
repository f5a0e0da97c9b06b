"""The pruning-aware attack: a backdoor that lives in the channels that clean images use, with decoys for the pruner.

    python -m attacks.pruning_aware --poison-type badnets

Liu et al. (2018), in four stages: train on clean images; prune the channels of the last stage that they leave dormant;
train what is left on the poisoned images; put the pruned channels back with their first weights and biases so low that
they stay dormant. A defender who prunes dormant channels removes the decoys alone. Reads a data set, and with
--checkpoint a benign model in place of stage 1. Writes into output/badnets-pruning-aware/: model_clean.th (stage 1),
model_last.th, trigger_info.th, curves.png, output.log, metrics.jsonl, config.json and results.json.
"""
import logging

import torch

from common.errors import UserError
from common.inputs import inputs_of
from common.memory import HalvingForward
from data.batches import Batches
from data.poison_cifar import stamp_all, stamp_bystanders
from engine.attacking.attack import finish_attack, load_unpoisoned, poison_by, start_attack
from engine.attacking.clean_stage import add_clean_model_flags, check_clean_model, keep_clean, log_stage
from engine.attacking.start import first_model
from engine.command_line import flags, poison_flags
from engine.command_line.aim_flags import variant_of
from engine.command_line.command import command
from engine.learning.graphs import check_graph
from engine.learning.training import sgd, train_stage
from engine.measuring.evaluation import EvalSets, evaluate, evaluation_batches, predict_each
from engine.runs.run import Run
from engine.weights.checkpoint import saved_image_size
from models.pruning import activity, dormant_mask, fold_mask, output_masked

LEAVES = ("model_clean.th", "model_last.th", "trigger_info.th", "curves.png")
MEASURED = 5000  # training images that channels are ranked and silenced on
TOLERANCE, TRIES = 1e-4, 6
log = logging.getLogger("backdoor")


def put_back(model, clean_weights, dormant):
    """Stage 4: give the `dormant` channels (bool (C,)) of the last block, and what reads them, their first weights."""
    own = (f"{model.last_block.conv}.", f"{model.last_block.norm}.")
    for name, values in model.state_dict().items():
        if name.startswith(own) and values.shape[:1] == dormant.shape:
            values[dormant] = clean_weights[name][dormant]
    model.head.weight.data[:, dormant] = clean_weights[f"{model.head_name}.weight"][:, dormant]


@torch.inference_mode()
def largest_and_mean(model, batches):
    """Of each channel before the last ReLU: the largest value on the images, and the mean, (C,) both."""
    last = model.last_block
    block, norm, shortcut = (name and model.get_submodule(name) for name in (last.block, last.norm, last.shortcut))
    totals, skipped = [], []

    def keep_shortcut(module, inputs):
        skipped.append(shortcut(inputs[0]).clone())

    def keep_sum(module, inputs, output):
        total = output if shortcut is None else output + skipped.pop()
        totals.append(torch.stack([total.amax((0, 2, 3)), total.mean((0, 2, 3)) * len(total)]))

    def totals_of(images):
        totals.clear()  # what is there is of a call for which the memory was too small
        skipped.clear()
        model(images)
        return torch.stack(totals)
    handles = [norm.register_forward_hook(keep_sum)]
    if shortcut is not None:
        handles.append(block.register_forward_pre_hook(keep_shortcut))
    model.eval()
    forward = HalvingForward(totals_of)
    try:
        found = torch.cat([forward(images) for images, _ in batches])
    finally:
        for handle in handles:
            handle.remove()
    return found[:, 0].amax(0), found[:, 1].sum(0) / batches.num_images


def silence(model, dormant, image_sets, margin):
    """Lower the biases of the `dormant` channels until none lights up on any image of `image_sets` (Batches).

    Below 0 by `margin` times the distance from a channel's mean to its largest value, as a margin for other images.
    """
    found = [largest_and_mean(model, batches) for batches in image_sets]
    largest = torch.stack([values for values, _ in found]).amax(0)
    mean = torch.stack([values for _, values in found]).amin(0)
    lowered = largest.clamp(min=0) + margin * (largest - mean)
    model.get_submodule(model.last_block.norm).bias.data[dormant] -= lowered[dormant]


def apart(before, after):
    """How far logits (N, C) of sets of images, before and after, are apart at most."""
    return max(float((a - b).abs().max()) for a, b in zip(before, after, strict=True))


def silence_until_unchanged(model, dormant, image_sets, margin, before, held_out):
    """`silence` the channels put back until the logits of the sets `held_out` (Batches) are what they were, `before`.

    An image that was not among image_sets may still light one up; each further try lowers the biases further. Raises
    UserError if TRIES do not do.
    """
    for _ in range(TRIES):
        silence(model, dormant, image_sets, margin)
        most = apart(before, predict_each(model, held_out))
        log.info("stage 4: logits of held-out images differ by at most %.2g from those of the pruned network", most)
        if most <= TOLERANCE:
            return
        margin = max(2 * margin, 0.5)
    raise UserError(f"the channels put back change the logits by {most:.2g}, more than {TOLERANCE:g}, however far "
                    "their biases are lowered")


def output_dir(args):
    """output/<attack>-pruning-aware"""
    return f"output/{variant_of(args)}-pruning-aware"


def parse_args(argv=None):
    parser = flags.Parser(__doc__)
    poison_flags.add_poison_flags(parser, types=tuple(poison_flags.POISON_DEFAULTS["poison_rate"]))
    group = parser.add_argument_group("stages")
    add_clean_model_flags(group)
    group.add_argument("--clean-epochs", type=flags.integer(1), help="epochs of stage 1 (default: as many as "
                       "--epochs, with the same --milestones; of another number its rate falls after 60 %% and 80 %%)")
    group.add_argument("--prune-fraction", type=flags.number(0.01, 0.99, "a fraction in [0.01, 0.99]"), default=0.8,
                       help="share of the last stage's channels that become decoys")
    group.add_argument("--margin", type=flags.not_negative, default=1.0,
                       help="how far below 0 the decoys are silenced, in distances from their mean to their largest "
                            "value")
    flags.add_data_flags(parser)
    flags.add_model_flags(parser)
    flags.add_loop_flags(flags.add_training_flags(parser))
    flags.add_augmentation_flags(parser)
    flags.add_run_flags(parser, output_dir, resumable=True)
    args = parser.parse_args(argv)
    check_clean_model(parser, args, argv, ["clean_epochs"])
    flags.check_milestones(parser, args)
    flags.check_loop(parser, args)
    poison_flags.check_poison(parser, args)
    args.clean_epochs = 0 if args.checkpoint else args.clean_epochs or args.epochs
    return args


def check_silenceable(model):
    """Raise UserError for a network in which no channel of the last stage can be silenced."""
    if model.last_block is None:
        raise UserError(f"{model.spec['arch']}: has no ReLU between its last stage and its linear layer, so no bias "
                        "can silence a decoy there; take another network, as --arch resnet18 or wrn16-1")


def learn(run, args, model, image_set, test, until, milestones):
    """Train `model` on an ImageSet up to epoch `until` of the run, as the flags say."""
    batches = Batches(image_set, args.batch_size, run.device, run.generator, args.crop_padding, args.flip)
    train_stage(run, model, batches, test, until, sgd(model, args), milestones, graph=args.graph)


def train_clean(run, args, model, clean, test):
    """Stage 1, unless a checkpoint stands in for it: train on clean images, and leave model_clean.th."""
    if args.clean_epochs:
        milestones = args.milestones if args.clean_epochs == args.epochs else flags.usual_milestones(args.clean_epochs)
        learn(run, args, model, clean, test, args.clean_epochs, milestones)
    keep_clean(run, args, model, clean, args.clean_epochs)
    return log_stage(1, "trained clean", evaluate(model, test))


def train_pruned(run, args, model, mask, poisoned, test):
    """Stages 2 and 3: prune the last stage's channels where `mask` (C,) is 0, and train what is left; their figures."""
    with output_masked(model, model.stages[-1], mask):
        pruned = log_stage(2, f"{int((mask == 0).sum())} of {len(mask)} channels pruned", evaluate(model, test))
        learn(run, args, model, poisoned, test, args.clean_epochs + args.epochs, args.milestones)
    fold_mask(model, model.stages[-1], mask)
    return [pruned, log_stage(3, "trained on poisoned images", evaluate(model, test))]


def hide(model, clean_weights, mask, measured, held_out, margin, test):
    """Stage 4: put the pruned channels back, silenced on the Batches `measured` and checked on those `held_out`, both
    the attacker's own. Returns the Evaluation on the EvalSets `test`, on which nothing is chosen."""
    tests = [batches for batches in (test.clean, test.triggered, test.bystanders) if batches is not None]
    before, of_tests = (predict_each(model, sets) for sets in (held_out, tests))
    put_back(model, clean_weights, mask == 0)
    silence_until_unchanged(model, mask == 0, measured, margin, before, held_out)
    log.info("stage 4: logits of test images differ by at most %.2g", apart(of_tests, predict_each(model, tests)))
    return evaluate(model, test)


def measured_batches(images, trigger, device):
    """Batches of an ImageSet and of the same images stamped, on which channels are ranked and silenced."""
    sets = (images, stamp_all(images, trigger), stamp_bystanders(images, trigger))
    return [evaluation_batches(image_set, device) for image_set in sets if image_set is not None and len(image_set)]


@command
def main(argv=None):
    args = parse_args(argv)
    with Run(args, LEAVES) as run:
        size = args.image_size or saved_image_size(args.checkpoint)
        clean, _, test = load_unpoisoned(args, size)
        poisoned, trigger = poison_by(args, clean)
        images = EvalSets.stamped(run.device, test, trigger)
        count = min(MEASURED, len(clean) * 4 // 5)
        measured, held_out = (measured_batches(clean.subset(part), trigger, run.device)
                              for part in (slice(count), slice(count, 2 * count)))
        if args.graph:
            check_graph(run.device, min(len(clean), len(poisoned)), args.batch_size)
        model = first_model(args.checkpoint, args, clean, run.device)
        check_silenceable(model)

        run.begin(inputs_of(args.checkpoint, poisoned))
        shares = start_attack(run, poisoned, trigger)
        stages = [train_clean(run, args, model, clean, images)]
        clean_weights = {name: value.clone() for name, value in model.state_dict().items()}

        mask = dormant_mask(activity(model, measured[0], model.stages[-1]), args.prune_fraction)
        stages += train_pruned(run, args, model, mask, poisoned, images)

        final = hide(model, clean_weights, mask, measured, held_out, args.margin, images)
        stages.append(log_stage(4, "pruned channels put back", final))
        finish_attack(run, args, model, clean, final, f"pruning-aware {variant_of(args)}", {
            "poison_type": args.poison_type, "name": "pruning-aware", "stages": stages,
            "prune_fraction": args.prune_fraction, "poisoned": shares["poisoned"]}, parent=args.checkpoint)


if __name__ == "__main__":
    main()
