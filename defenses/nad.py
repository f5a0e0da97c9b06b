"""Neural Attention Distillation: fine-tune a model while its attention is drawn to that of a fine-tuned teacher.

    python -m defenses.nad --checkpoint output/badnets/model_last.th

NAD (Li et al., 2021c). Reads a model, the defender's clean images, and the trigger beside the model, if there is one,
for ASR alone. The teacher is the same model, fine-tuned: its ACC and ASR are also the control, what fine-tuning does by
itself. Writes into output/badnets/nad/: model_last.th (the student), teacher.th, output.log, metrics.jsonl, config.json
and results.json.
"""
import copy
import logging
from contextlib import contextmanager

import torch
import torch.nn.functional as F

from common.errors import UserError
from engine.command_line import flags
from engine.command_line.command import command
from engine.defending.control import log_control
from engine.defending.repair import Repair, add_share_flag
from engine.defending.suspect import beneath_model, load_suspect
from engine.learning.training import fine_tune, sgd
from engine.measuring.evaluation import evaluate, frozen
from engine.runs.run import Run
from engine.weights.checkpoint import load_weights, save_model

BETA, DEEPEST = 500.0, 3  # the default: this weight for each of so many last stages that have more than one place
FAST = 2  # epochs at the first learning rate, as the authors have it
log = logging.getLogger("backdoor")


def attention(features, power=2):
    """Attention maps (B, H * W) of features (B, C, H, W): sum over channels of |F|**power, scaled to an L2 norm of 1.

    In float32, whatever the features were computed in. Maps of one place are all 1 and say nothing.
    """
    maps = features.float().abs().pow(power).sum(1).flatten(1)
    return F.normalize(maps, eps=1e-6)


def distance(features, taught):
    """Mean squared difference of two attention maps, over images and places."""
    return F.mse_loss(attention(features), attention(taught))


@contextmanager
def stages_seen(model, stages):
    """{stage: its output (B, C, H, W)} of the model's next pass, filled in by that pass; gradients flow back."""
    seen, handles = {}, []
    for stage in stages:
        handles.append(model.get_submodule(stage).register_forward_hook(
            lambda module, inputs, output, stage=stage: seen.__setitem__(stage, output)))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def distillation_step(teacher, betas):
    """A step for train_epoch: cross-entropy plus the sum of beta times the distance to the teacher's attention.

    betas: {stage: beta}; a beta of 0 costs nothing. teacher: in eval mode, frozen.
    """
    betas = {stage: beta for stage, beta in betas.items() if beta}

    def step(model, images, labels):
        with stages_seen(model, betas) as seen:
            logits = model(images)
        loss = F.cross_entropy(logits, labels)
        if betas:
            with stages_seen(teacher, betas) as taught, torch.no_grad():
                teacher(images)
            for stage, beta in betas.items():
                loss = loss + beta * distance(seen[stage], taught[stage])
        return loss, logits
    return step


def count_places(model, size):
    """{stage: places H * W of its output} for images of `size` pixels a side; the model stays as it is."""
    weight = next(model.parameters())
    with frozen(model), torch.no_grad():  # in train mode batch norms would count the black image
        outputs = model.stage_outputs(weight.new_zeros(1, 3, size, size), len(model.stages))
    return {stage: output[0, 0].numel() for stage, output in zip(model.stages, outputs, strict=True)}


def betas_of(places, betas):
    """{stage: beta} of all stages, from {stage: places}; `betas` are those of the last ones, None for the default.

    The default leaves out stages of one place, whose attention is 1 for every image; given weights of such stages are
    a warning. UserError if there are more weights than stages.
    """
    stages = list(places)
    if betas is None:
        taken = [stage for stage in stages if places[stage] > 1][-DEEPEST:]
        return {stage: BETA if stage in taken else 0.0 for stage in stages}
    if len(betas) > len(stages):
        raise UserError(f"--betas: expected at most one for each of the {len(stages)} stages ({', '.join(stages)}), "
                        f"got {len(betas)}")
    found = dict(zip(stages, [0.0] * (len(stages) - len(betas)) + betas, strict=True))
    idle = [stage for stage in stages if found[stage] and places[stage] == 1]
    if idle:
        log.warning("--betas: the weight of %s has no effect, since the attention of one place is 1 for every image",
                    ", ".join(idle))
    return found


def train_teacher(repair, args):
    """Stage 1: a copy of the model, fine-tuned; leaves teacher.th. Returns (teacher, its Evaluation)."""
    run, suspect, teacher = repair.run, repair.suspect, copy.deepcopy(repair.suspect.model)
    fine_tune(run, args, teacher, repair.own, suspect.test, args.teacher_epochs,
              sgd(teacher, args, nesterov=True), milestones=args.milestones)
    path = run.folder / "teacher.th"
    run.check_left(path.name, args.teacher_epochs)
    if path.exists():  # the run resumes in stage 2
        load_weights(path, teacher)
    tested = evaluate(teacher, suspect.test)
    save_model(path, teacher, vars(args), tested.figures(), suspect.classes)
    return teacher.eval().requires_grad_(False), tested


def train_student(repair, args, teacher, betas):
    """Stage 2: train the model itself under the teacher; returns its Evaluation."""
    model, until = repair.suspect.model, args.teacher_epochs + args.epochs
    return fine_tune(repair.run, args, model, repair.own, repair.suspect.test, until, sgd(model, args, nesterov=True),
                     milestones=args.milestones,
                     step=distillation_step(teacher, betas))


def parse_args(argv=None):
    parser = flags.Parser(__doc__)
    flags.add_suspect_flags(parser)
    flags.add_data_flags(parser)
    group = parser.add_argument_group("distillation")
    group.add_argument("--betas", type=flags.not_negative, nargs="+", metavar="BETA",
                       help="weights of the attention of the last stages, as many as are given (default: "
                            f"{BETA:g} for each of the last {DEEPEST} that have more than one place)")
    group.add_argument("--teacher-epochs", type=flags.integer(1), default=10, help="epochs that make the teacher")
    add_share_flag(group)
    group = flags.add_sgd_flags(parser, 20, 0.1)
    flags.add_test_every_flag(group)
    group.add_argument("--milestones", type=flags.integer(1), nargs="*", metavar="EPOCH",
                       help="epochs of the teacher, and of the student, after which the learning rate is divided by "
                            f"ten (default: {FAST}, where there are more epochs)")
    parser.set_defaults(batch_size=64, weight_decay=1e-4)  # as the authors have them
    flags.add_augmentation_flags(parser)
    flags.add_run_flags(parser, beneath_model("nad"), resumable=True)
    args = parser.parse_args(argv)
    if not args.momentum:
        parser.error("--momentum: expected more than 0, since NAD uses Nesterov's momentum")
    longest = max(args.epochs, args.teacher_epochs)
    if args.milestones is None:
        args.milestones = [FAST] if longest > FAST else []
    flags.check_milestones(parser, args, longest)
    return args


@command
def main(argv=None):
    args = parse_args(argv)
    with Run(args, ("model_last.th", "teacher.th")) as run:
        suspect = load_suspect(args, run)
        places = count_places(suspect.model, suspect.defender.image_size)
        betas = betas_of(places, args.betas)

        repair = Repair.begin(run, args, suspect)
        teacher, taught = train_teacher(repair, args)
        after = train_student(repair, args, teacher, betas)
        control = {name: taught.figures()[name] for name in ("acc", "asr")}
        log_control(control)

        repair.finish(suspect.model, after, epochs=args.teacher_epochs + args.epochs, method={
            "name": "NAD", "betas": betas, "control": control, "teacher": taught.figures()})


if __name__ == "__main__":
    main()
