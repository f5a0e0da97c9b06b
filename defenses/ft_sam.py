"""FT-SAM: fine-tune with steps that look for the worst weights nearby, which moves backdoored neurons the most.

    python -m defenses.ft_sam --checkpoint output/badnets/model_last.th

FT-SAM (Zhu et al., 2023) is fine-tuning by adaptive sharpness-aware minimization (Kwon et al., 2021). --rho 0 is its
control, plain fine-tuning by the same schedule. Reads a model, the defender's clean images, and the trigger beside the
model, if there is one, for ASR alone. Writes into output/badnets/ft-sam/ (ft-sam-control/ for --rho 0): model_last.th,
output.log, metrics.jsonl, config.json and results.json.
"""
from contextlib import contextmanager
from functools import partial

import torch
import torch.nn.functional as F

from engine.command_line import flags
from engine.command_line.command import command
from engine.defending.control import find_control
from engine.defending.repair import Repair, add_share_flag
from engine.defending.suspect import default_folder, load_suspect
from engine.learning.training import fine_tune, sgd, step_of
from engine.runs.run import Run

CONTROL = "ft-sam-control"


@torch.no_grad()
def ascend(weights, gradients, rho):
    """Move each of `weights` w, in place, by rho * T^2 g / ||T g|| over all weights together, with T = |w|.

    The largest increase of the loss, to first order, within ||e / T|| <= rho (Kwon et al., Eq. 8). Returns the old
    weights.
    """
    old = [torch.empty_like(weight) for weight in weights]
    torch._foreach_copy_(old, weights)  # one kernel for all weights, as below: on a GPU each launch costs time
    norm = torch.stack(torch._foreach_norm(torch._foreach_mul(torch._foreach_abs(weights), gradients))).norm()
    moves = torch._foreach_mul(weights, weights)
    torch._foreach_mul_(moves, gradients)
    torch._foreach_mul_(moves, rho / (norm + 1e-12))
    torch._foreach_add_(weights, moves)
    return old


@contextmanager
def statistics_kept(model):
    """Batch norms in train mode neither read nor change their running statistics for as long as the block lasts."""
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)
             and module.track_running_stats]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True


class SharpnessAware:
    """A step for train_epoch: the gradient at the worst weights nearby, while `optimizer` steps from the old ones.

    objective: (logits, labels) -> loss. The step's loss is that of the worst weights, its logits those of the old ones.
    """

    def __init__(self, optimizer, rho, objective):
        self.rho, self.objective, self.old = rho, objective, []
        self.weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        optimizer.register_step_pre_hook(self.return_to_old)

    def __call__(self, model, images, labels):
        logits = model(images)
        gradients = torch.autograd.grad(self.objective(logits, labels), self.weights)
        self.old = ascend(self.weights, gradients, self.rho)
        torch.clear_autocast_cache()  # which has the old weights in bfloat16
        with statistics_kept(model):
            return self.objective(model(images), labels), logits.detach()

    @torch.no_grad()
    def return_to_old(self, *_):
        """Give the weights their values from before the ascent; they are copies, so no bit is lost."""
        torch._foreach_copy_(self.weights, self.old)


def train(repair, args):
    """Fine-tune the model by the flags; returns its Evaluation."""
    model = repair.suspect.model
    objective, optimizer = partial(F.cross_entropy, label_smoothing=args.label_smoothing), sgd(model, args)
    step = SharpnessAware(optimizer, args.rho, objective) if args.rho else step_of(objective)
    return fine_tune(repair.run, args, model, repair.own, repair.suspect.test, args.epochs, optimizer, step=step,
                     scheduler=torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, args.epochs))


def output_dir(args):
    """ft-sam/ beneath the model's run, ft-sam-control/ for --rho 0"""
    return default_folder(args.checkpoint, "ft-sam" if args.rho else CONTROL)


def parse_args(argv=None):
    parser = flags.Parser(__doc__)
    flags.add_suspect_flags(parser)
    flags.add_data_flags(parser)
    group = parser.add_argument_group("sharpness")
    group.add_argument("--rho", type=flags.not_negative, default=2.0,
                       help="how far the ascent moves, relative to each weight's size; 0 for plain fine-tuning")
    flags.add_smoothing_flag(group, 0.1)
    add_share_flag(group)
    flags.add_test_every_flag(flags.add_sgd_flags(parser, 100, 0.01), 10)
    parser.set_defaults(batch_size=256)
    flags.add_augmentation_flags(parser)
    flags.add_run_flags(parser, output_dir, resumable=True)
    return parser.parse_args(argv)


@command
def main(argv=None):
    args = parse_args(argv)
    with Run(args, ("model_last.th",)) as run:
        suspect = load_suspect(args, run)

        repair = Repair.begin(run, args, suspect)
        after = train(repair, args)
        control = find_control(args, CONTROL, "--rho 0") if args.rho else None  # which is the control itself

        repair.finish(suspect.model, after, method={
            "name": "FT-SAM" if args.rho else "fine-tuning as in FT-SAM", "rho": args.rho, "control": control})


if __name__ == "__main__":
    main()
