"""The pruning-aware attack: a backdoor that lives in the channels that clean images use, with decoys for the pruner.

    python -m attacks.pruning_aware --poison-type badnets

Liu et al. (2018), in four stages: train on clean images; prune the channels of the last stage that they leave dormant;
train what is left on the poisoned images; put the pruned channels back with their first weights and biases so low that
they stay dormant. A defender who prunes dormant channels removes the decoys alone. Reads a data set, and with
--checkpoint a benign model in place of stage 1. Writes into output/badnets-pruning-aware/: model_clean.th (stage 1),
model_last.th, trigger_info.th, curves.png, output.log, metrics.jsonl, config.json and results.json.
"""
import logging

import numpy as np
import torch

from common.errors import UserError
from common.files import hash_file
from data.batches import Batches
from data.datasets import load_splits
from data.poison_cifar import stamp_all
from data.triggers import COVERS_IMAGE
from engine import flags
from engine.attack import poison_by
from engine.checkpoint import load_model, load_weights, save_model, save_trigger, saved_image_size
from engine.command import command
from engine.evaluation import EvalSets, evaluate, evaluation_batches, predict_each, warn_of_chance
from engine.figures import training_curves
from engine.graphs import check_graph
from engine.run import Run
from engine.training import sgd, train_stage
from models import build_model
from models.pruning import dormant_mask, fold_mask, output_masked, stage_means

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
    """Of each channel of the last stage before its ReLU: the largest value on the images, and the mean, (C,) both."""
    last = model.last_block
    block, norm, shortcut = (name and model.get_submodule(name) for name in (last.block, last.norm, last.shortcut))
    largest, means, skipped = [], [], []

    def keep_input(module, inputs):
        skipped.append(0 if shortcut is None else shortcut(inputs[0]).clone())

    def keep_sum(module, inputs, output):
        total = output + skipped.pop()
        largest.append(total.amax((0, 2, 3)))
        means.append(total.mean((0, 2, 3)) * len(total))
    handles = [block.register_forward_pre_hook(keep_input), norm.register_forward_hook(keep_sum)]
    model.eval()
    try:
        for images, _ in batches:
            model(images)
    finally:
        for handle in handles:
            handle.remove()
    return torch.stack(largest).amax(0), torch.stack(means).sum(0) / batches.num_images


def silence(model, dormant, image_sets, margin):
    """Lower the biases of the `dormant` channels until none lights up on any image of `image_sets` (Batches).

    Below 0 by `margin` times the distance from a channel's mean to its largest value, for images that are not there.
    """
    found = [largest_and_mean(model, batches) for batches in image_sets]
    largest = torch.stack([values for values, _ in found]).amax(0)
    mean = torch.stack([values for _, values in found]).amin(0)
    lowered = largest.clamp(min=0) + margin * (largest - mean)
    model.get_submodule(model.last_block.norm).bias.data[dormant] -= lowered[dormant]


def silence_until_unchanged(model, dormant, image_sets, margin, before, test_sets):
    """`silence` the channels put back until the logits of all `test_sets` are what they were, `before`.

    An image that was not among image_sets may still light one up; each further try lowers the biases further. Raises
    UserError if TRIES do not do.
    """
    for _ in range(TRIES):
        silence(model, dormant, image_sets, margin)
        after = predict_each(model, test_sets)
        apart = max(float((a - b).abs().max()) for a, b in zip(before, after, strict=True))
        log.info("stage 4: logits differ by at most %.2g from those of the pruned network", apart)
        if apart <= TOLERANCE:
            return
        margin = max(2 * margin, 0.5)
    raise UserError(f"the channels put back change the logits by {apart:.2g}, more than {TOLERANCE:g}, however far "
                    "their biases are lowered")


def describe(stage, title, score):
    """Log a stage's figures and return them as results.json has them."""
    log.info("stage %d, %s: ASR %.4f, ACC %.4f", stage, title, score.triggered.accuracy.value,
             score.clean.accuracy.value)
    return {"stage": stage, "what": title, **score.figures()}


def parse_args(argv=None):
    parser = flags.Parser(__doc__)
    flags.add_poison_flags(parser, types=tuple(flags.POISON_DEFAULTS["poison_rate"]))  # stage 3 changes labels
    flags.add_data_flags(parser)
    flags.add_model_flags(parser)
    group = parser.add_argument_group("stages")
    group.add_argument("--checkpoint", help="benign model in place of stage 1; it decides --arch and --width")
    group.add_argument("--clean-epochs", type=flags.integer(1), help="epochs of stage 1 (default: as many as --epochs)")
    group.add_argument("--prune-fraction", type=flags.number(0.01, 0.99, "a fraction in [0.01, 0.99]"), default=0.8,
                       help="share of the last stage's channels that become decoys")
    group.add_argument("--margin", type=flags.not_negative, default=1.0,
                       help="how far below 0 the decoys are silenced, in distances from their mean to their largest "
                            "value")
    flags.add_loop_flags(flags.add_training_flags(parser))
    flags.add_augmentation_flags(parser)
    flags.add_run_flags(parser, "output/<attack>-pruning-aware", resumable=True)
    args = parser.parse_args(argv)
    if args.checkpoint:
        parser.refuse(argv, ["arch", "width", "clean_epochs"], "with --checkpoint, which stands in for stage 1")
    flags.check_milestones(parser, args)
    flags.check_loop(parser, args)
    flags.check_poison(parser, args)
    args.clean_epochs = 0 if args.checkpoint else args.clean_epochs or args.epochs
    args.output_dir = args.output_dir or f"output/{args.poison_type}-pruning-aware"
    return args


def start(args, classes, image_size, device):
    """The network that the attack starts with: stage 1's result, or fresh weights for it."""
    if args.checkpoint:
        return load_model(args.checkpoint, device, classes).model
    return build_model(args.arch, args.width, len(classes), image_size=image_size).to(device)


@command
def main(argv=None):
    args = parse_args(argv)
    with Run(args, LEAVES) as run:
        train, _, test = load_splits(
            args.dataset, args.data_dir, image_size=args.image_size or saved_image_size(args.checkpoint))
        poisoned, trigger = poison_by(args, train)
        images = EvalSets.on(run.device, test, stamp_all(test, trigger))
        clean_batches, batches = (
            Batches(image_set, args.batch_size, run.device, run.generator, args.crop_padding, args.flip)
            for image_set in (train, poisoned))
        if args.graph:
            check_graph(run.device, min(len(train), len(poisoned)), args.batch_size)
        measured = train.subset(slice(MEASURED))
        clean_measured, stamped_measured = (evaluation_batches(image_set, run.device)
                                            for image_set in (measured, stamp_all(measured, trigger)))

        model = start(args, train.classes, train.image_size, run.device)
        run.begin(poisoned.fingerprint() + (hash_file(args.checkpoint) if args.checkpoint else ""))
        if trigger.covers_image:
            log.info(COVERS_IMAGE)
        save_trigger(run.folder / "trigger_info.th", trigger, np.flatnonzero(poisoned.poisoned))
        clean_file = run.folder / "model_clean.th"
        if args.clean_epochs:
            train_stage(run, model, clean_batches, images, args.clean_epochs, sgd(model, args),
                        flags.usual_milestones(args.clean_epochs), test_every=args.test_every, graph=args.graph)
            run.check_left("model_clean.th", args.clean_epochs)
        if clean_file.exists():  # the run goes on in stage 3
            load_weights(clean_file, model)
        save_model(clean_file, model, vars(args), {}, train.classes)
        stages = [describe(1, "trained clean", evaluate(model, images))]
        clean_weights = {name: value.clone() for name, value in model.state_dict().items()}

        mask = dormant_mask(stage_means(model, clean_measured, model.stages[-1]).mean(0), args.prune_fraction)
        with output_masked(model, model.stages[-1], mask):
            stages.append(describe(2, f"{int((mask == 0).sum())} of {len(mask)} channels pruned",
                                   evaluate(model, images)))
            train_stage(run, model, batches, images, args.clean_epochs + args.epochs, sgd(model, args),
                        args.milestones, test_every=args.test_every, graph=args.graph)
        fold_mask(model, model.stages[-1], mask)
        pruned_logits = predict_each(model, (images.clean, images.triggered))
        stages.append(describe(3, "trained on poisoned images", evaluate(model, images)))

        put_back(model, clean_weights, mask == 0)
        silence_until_unchanged(model, mask == 0, (clean_measured, stamped_measured), args.margin, pruned_logits,
                                (images.clean, images.triggered))
        final = evaluate(model, images)
        stages.append(describe(4, "pruned channels put back", final))
        warn_of_chance(final, train.num_classes, is_attacked=True)
        save_model(run.folder / "model_last.th", model, vars(args), run.rows[-1], train.classes)
        training_curves(run.folder / "curves.png", run.rows, f"pruning-aware {args.poison_type} on {train.name}")
        run.finish(**final.figures(), parent=args.checkpoint, dataset=train.name, width=model.spec["width"],
                   epochs=args.epochs, seed=args.seed,
                   method={"poison_type": args.poison_type, "name": "pruning-aware", "stages": stages,
                           "prune_fraction": args.prune_fraction, "poisoned": int(poisoned.poisoned.sum())})


if __name__ == "__main__":
    main()
