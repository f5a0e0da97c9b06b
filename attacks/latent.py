"""The latent backdoor: a teacher whose features, not its answers, carry the trigger, so that students inherit it.

    python -m attacks.latent --student

LBA (Yao et al., 2019), in three stages: train a benign teacher; optimize a patch that moves the teacher's features of
any image toward the mean features of the target class; train the teacher on with a term that holds the features of
patched images there. No patched image is ever given the target label. With --student a user then keeps all layers but
the last, which is trained anew on the defender's clean images, and ASR is measured before and after, beside the same
for the benign teacher. Reads a data set, and with --checkpoint a benign model in place of stage 1. Writes into
output/latent/: model_clean.th (stage 1), model_last.th, trigger_info.th, poisoned_examples.png, curves.png, output.log,
metrics.jsonl, config.json and results.json; with --student also model_student.th.
"""
import copy
import logging

import numpy as np
import torch
import torch.nn.functional as F

from common.errors import UserError
from common.inputs import inputs_of
from data.batches import Batches
from data.poison_cifar import stamp_all
from data.triggers import PatternTrigger
from engine.attacking.attack import add_attack_training_flags, draw_examples, finish_attack, load_unpoisoned, log_target
from engine.attacking.clean_stage import LEFT, add_clean_model_flags, check_clean_model, keep_clean, log_stage
from engine.attacking.start import first_model
from engine.command_line import aim_flags, flags
from engine.command_line.command import command
from engine.learning.training import check_finite, cross_entropy_step, sgd, train_stage
from engine.measuring.evaluation import EvalSets, evaluate, frozen
from engine.measuring.progress import progress
from engine.measuring.scores import log_figures
from engine.runs.run import Run
from engine.weights.checkpoint import load_model, load_trigger, save_model, save_trigger, saved_image_size
from methods.features import features_of
from models.folding import folded
from models.penultimate import penultimate

LEAVES = (LEFT, "model_last.th", "trigger_info.th", "poisoned_examples.png", "curves.png")
STUDENT_LEAVES = ("model_student.th",)
PATCH_RATE, PATCH_BETAS, PATCH_BATCH = 0.1, (0.5, 0.9), 64  # Adam's, as published
MEASURED = 2000  # test images at most, patched ones and the target's own, by which features are compared
STUDENT_STEPS, STUDENT_DECAY = 100, 1e-4  # of L-BFGS, and of the weights of the new last layer
log = logging.getLogger("backdoor")


def away(features, wanted):
    """Mean squared distance of features (B, D) to the features `wanted` (D,), in units of their mean square."""
    return (features.float() - wanted).square().mean() / wanted.square().mean().clamp(min=1e-6)


def corner(side, height, width):
    """A mask uint8 (H, W, 1) of 1 in a square of `side` pixels in the bottom right corner."""
    mask = np.zeros((height, width, 1), dtype=np.uint8)
    mask[-side:, -side:] = 1
    return mask


def optimize_patch(model, clean, target, side, steps, seed, device):
    """The PatternTrigger whose patch moves the features of images of other classes toward those of the target class.

    Stage 2: `steps` steps of Adam on the patch alone, by images of the ImageSet `clean`. Raises UserError for a loss
    that is not finite.
    """
    generator = torch.Generator().manual_seed(seed)
    mask = corner(side, *clean.data.shape[1:3])
    opaque = torch.from_numpy(mask).permute(2, 0, 1).to(device)
    others = Batches(clean.subset(clean.targets != target), PATCH_BATCH, device, generator, draws=steps * PATCH_BATCH)
    theta = torch.randn((3, *mask.shape[:2]), generator=generator).to(device).requires_grad_()
    optimizer, losses = torch.optim.Adam([theta], PATCH_RATE, PATCH_BETAS), []
    with frozen(folded(model)) as quick:
        wanted = features_of(model, clean.subset(clean.targets == target), device).mean(0)
        for pixels, _ in progress(others, "patch"):
            loss = away(penultimate(quick, torch.where(opaque > 0, torch.tanh(theta) / 2 + 0.5, pixels))[0], wanted)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
    check_finite(losses)
    log.info("stage 2: the patch moved features from %.3f to %.3f of their mean square away from the target's",
             losses[0], losses[-1])
    pattern = (255 * (torch.tanh(theta.detach()) / 2 + 0.5)).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    return PatternTrigger(pattern * mask, mask, 1.0, target)


def step_of(trigger, poison_rate, feature_weight, device):
    """The step of engine.learning.training in stage 3: cross-entropy on clean images, the feature term on patched ones.

    Of each batch a share `poison_rate` of images of other classes is patched, and goes through the network with the
    clean batch, so that batch norm sees both as one. The features wanted are the mean over the batch's own images of
    the target class; a batch without one has no such term.
    """
    pattern = torch.from_numpy(trigger.pattern).permute(2, 0, 1).to(device) / 255
    mask = torch.from_numpy(trigger.mask).permute(2, 0, 1).to(device)

    def step(model, images, labels):
        if not poison_rate:
            return cross_entropy_step(model, images, labels)
        count, is_target = len(labels), (labels == trigger.target).float()
        rows = torch.argsort(is_target, stable=True)[:max(1, round(poison_rate * count))]  # the others are first
        patched = torch.where(mask > 0, pattern, images[rows])
        features, logits = penultimate(model, torch.cat([images, patched]))
        own = features[:count].detach().float()
        wanted = (is_target[:, None] * own).sum(0) / is_target.sum().clamp(min=1)
        term = away(features[count:], wanted) * (is_target.sum() > 0)
        return F.cross_entropy(logits[:count], labels) + feature_weight * term, logits[:count]
    return step


def closeness(model, test, trigger, device):
    """How close patched test images of an ImageSet come to the target class in feature space; logs it.

    distance: mean squared distance of their features to the class's mean. spread: that of the class's own images. In
    units of the square of the mean; below 1 for distance / spread, patched images lie among those of the class.
    """
    is_target = test.targets == trigger.target
    own = features_of(model, test.subset(is_target).spread(MEASURED), device)
    wanted, others = own.mean(0), test.subset(~is_target).spread(MEASURED)
    found = {"distance": float(away(features_of(model, stamp_all(others, trigger), device), wanted)),
             "spread": float(away(own, wanted))}
    log.info("features of patched images lie %.4f from the target's mean, those of its own images %.4f",
             found["distance"], found["spread"])
    return found


def student_of(model, images, seed, device):
    """A copy of `model` with a new last layer, trained on an ImageSet; all other layers stay as they are.

    Logistic regression on the features, by L-BFGS. Raises UserError for a loss that is not finite.
    """
    features, labels = features_of(model, images, device).clone(), torch.from_numpy(images.targets).to(device)
    student = copy.deepcopy(model).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        student.head.weight.copy_(0.01 * torch.randn(student.head.weight.shape, generator=generator))
        student.head.bias.zero_()
    optimizer = torch.optim.LBFGS(student.head.parameters(), max_iter=STUDENT_STEPS, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = (F.cross_entropy(student.head(features), labels)
                + STUDENT_DECAY * student.head.weight.square().sum())
        loss.backward()
        return loss
    check_finite([optimizer.step(closure).detach(), closure().detach()])
    return student


def teach_students(run, model, defender, images, args, clean):
    """Train and measure a student of the infected `model` and one of the benign teacher; results.json's entry.

    images: EvalSets. Leaves model_student.th.
    """
    benign = load_model(run.folder / LEFT, run.device).model
    student, control = (student_of(teacher, defender, args.seed, run.device) for teacher in (model, benign))
    save_model(run.folder / STUDENT_LEAVES[0], student, vars(args), {}, clean.classes)
    found = {"before": evaluate(model, images).figures()}
    for name, network in (("after", student), ("of_benign_teacher", control)):
        found[name] = log_figures(f"student, {name.replace('_', ' ')}", evaluate(network, images)).figures()
    return found


def parse_args(argv=None):
    parser = flags.Parser(__doc__)
    group = parser.add_argument_group("trigger")
    aim_flags.add_target_flag(group)
    group.add_argument("--patch-size", type=flags.integer(1), metavar="PIXELS",
                       help="side of the patch (default: a fifth of the image's)")
    group.add_argument("--patch-steps", type=flags.integer(1), default=300, help=f"of {PATCH_BATCH} images each")
    group = parser.add_argument_group("injection")
    add_clean_model_flags(group)
    group.add_argument("--inject-epochs", type=flags.integer(1), default=10, help="epochs of stage 3")
    group.add_argument("--inject-lr", type=flags.positive, default=0.02,
                       help="learning rate of stage 3, divided by ten after 60 %% and 80 %% of it")
    group.add_argument("--poison-rate", type=flags.fraction, default=0.1,
                       help="share of each batch of which a patched copy is added")
    group.add_argument("--feature-weight", type=flags.not_negative, default=1.0,
                       help="of the squared distance of patched images' features to the target's, in units of their "
                            "mean square")
    group.add_argument("--student", action="store_true",
                       help="train a student's last layer on the defender's images, and measure ASR again")
    add_attack_training_flags(parser, "output/latent")
    args = parser.parse_args(argv)
    check_clean_model(parser, args, argv, ["epochs", "milestones", "lr"])
    flags.check_milestones(parser, args)
    if not args.poison_rate:
        parser.refuse(argv, ["feature_weight"], "with --poison-rate 0, which injects nothing")
    if args.checkpoint:
        args.epochs, args.milestones = 0, []
    return args


def train_teacher(run, args, model, batches, clean, test):
    """Stage 1, unless a checkpoint stands in for it: train on clean images, and leave model_clean.th."""
    if not args.checkpoint:
        train_stage(run, model, batches, test, args.epochs, sgd(model, args), args.milestones)
    keep_clean(run, args, model, clean, args.epochs)


def find_trigger(run, args, model, clean):
    """Stage 2's trigger; where the run resumes in stage 3, the one that was left."""
    kept, reached = run.folder / "trigger_info.th", run.saved["epoch"] if run.saved else run.epoch
    if reached > args.epochs:
        run.check_left(kept.name, args.epochs)
        return load_trigger(kept)
    side = args.patch_size or max(1, round(clean.image_size / 5))
    trigger = optimize_patch(model, clean, args.poison_target, side, args.patch_steps, args.seed, run.device)
    save_trigger(kept, trigger)
    return trigger


def check_images(args, clean, defender, test):
    """UserError for a target that is not there, a patch that leaves nothing of the image, and students of no images."""
    aim_flags.check_target(args.poison_target, clean.classes)
    if (args.patch_size or 0) >= min(clean.data.shape[1:3]):
        raise UserError(f"--patch-size {args.patch_size}: covers images of {clean.image_size} pixels")
    if args.poison_target not in test.targets:
        raise UserError(f"--poison-target {args.poison_target}: expected test images of that class, with whose "
                        "features those of patched ones are compared; there are none")
    if args.student and not len(defender):
        raise UserError("--student: learns from the defender's tenth of the training images, which is none here")


def inject(run, args, model, batches, trigger, images):
    """Stage 3; the Evaluation on the EvalSets `images`."""
    tested = train_stage(run, model, batches, images, args.epochs + args.inject_epochs,
                         sgd(model, args, args.inject_lr), flags.usual_milestones(args.inject_epochs),
                         step_of(trigger, args.poison_rate, args.feature_weight, run.device))
    return tested or evaluate(model, images)


@command
def main(argv=None):
    args = parse_args(argv)
    with Run(args, LEAVES if not args.student else LEAVES + STUDENT_LEAVES, STUDENT_LEAVES) as run:
        clean, defender, test = load_unpoisoned(args, args.image_size or saved_image_size(args.checkpoint))
        check_images(args, clean, defender, test)
        batches = Batches(clean, args.batch_size, run.device, run.generator, args.crop_padding, args.flip)
        model = first_model(args.checkpoint, args, clean, run.device)

        run.begin(inputs_of(args.checkpoint, clean))
        log_target(args.poison_target, clean.classes)
        train_teacher(run, args, model, batches, clean, EvalSets.on(run.device, test))
        trigger = find_trigger(run, args, model, clean)
        draw_examples(run.folder / "poisoned_examples.png", test, trigger)
        images = EvalSets.stamped(run.device, test, trigger)

        stages = [log_stage(2, "the benign teacher with the patch", evaluate(model, images))]
        before = closeness(model, test, trigger, run.device)
        final = inject(run, args, model, batches, trigger, images)
        stages.append(log_stage(3, "the infected teacher", final))
        after = closeness(model, test, trigger, run.device)

        # Before the students, so that a stop among them leaves the teacher.
        save_model(run.folder / "model_last.th", model, vars(args), run.rows[-1], clean.classes)
        student = teach_students(run, model, defender, images, args, clean) if args.student else None
        finish_attack(run, args, model, clean, final, "latent backdoor", {
            "name": "latent", "stages": stages, "closeness": {"before": before, "after": after}, "student": student},
            parent=args.checkpoint, epochs=run.epoch)


if __name__ == "__main__":
    main()
