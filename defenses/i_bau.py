"""I-BAU: unlearn the perturbation that fools a model on all images at once, with the gradient of that game's leader.

    python -m defenses.i_bau --checkpoint output/badnets/model_last.th

Implicit Backdoor Adversarial Unlearning (Zeng et al., 2022). Reads a model, the defender's clean images, and the
trigger beside the model, if there is one, for ASR alone. Writes into output/badnets/i-bau/: model_last.th, output.log,
metrics.jsonl, config.json and results.json. --steps 0 is adversarial training against the same perturbation.
"""
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from data.batches import Batches, send
from engine.command_line import flags
from engine.command_line.command import command
from engine.defending.repair import Repair, add_share_flag
from engine.defending.suspect import beneath_model, load_suspect
from engine.learning.training import check_finite
from engine.measuring.evaluation import evaluate, frozen
from engine.measuring.progress import progress
from engine.measuring.scores import Proportion, Score
from engine.runs.run import Run


def hypergradient(outer, inner, perturbation, weights, steps, rate):
    """[gradient of each of `weights`] of outer(d(w), w), where d(w) maximizes inner(d, w).

    outer, inner: perturbation -> scalar, which depend on `weights` too. perturbation: d, near its maximum. The maximum
    is a fixed point of Phi(d) = d + rate * grad inner(d), so its derivative by w is a Neumann series, of which `steps`
    terms are taken: v = sum over k < steps of (dPhi/dd)^k d outer/dd, and the gradient is
    d outer/dw + v dPhi/dw. With steps 0 it is d outer/dw alone, as if d did not depend on w.
    """
    perturbation = perturbation.detach().requires_grad_(True)
    pull, *direct = torch.autograd.grad(outer(perturbation), [perturbation, *weights])
    if not steps:
        return direct
    slope, = torch.autograd.grad(inner(perturbation), perturbation, create_graph=True)
    mapped, v = perturbation + rate * slope, pull
    for _ in range(steps - 1):
        v = torch.autograd.grad(mapped, perturbation, v, retain_graph=True)[0] + pull
    implicit = torch.autograd.grad(mapped, weights, v, allow_unused=True)
    return [own if more is None else own + more for own, more in zip(direct, implicit, strict=True)]


def damage(model, images, labels, perturbation, penalty):
    """What the perturbation (1, 3, H, W) maximizes: the loss of all images with it added, minus penalty * ||d||^2.

    perturbation: in pixels from 0 to 1, as the authors' rates are for.
    """
    return F.cross_entropy(model(images + perturbation), labels) - penalty * perturbation.square().sum()


@torch.no_grad()
def keep_within(perturbation, max_norm):
    """Scale the perturbation, in place, to an L2 norm of at most max_norm."""
    perturbation *= (max_norm / perturbation.norm()).clamp(max=1)


def find_perturbation(model, batches, lr, penalty, max_norm):
    """The perturbation (1, 3, H, W) of `damage` after one pass of gradient ascent from 0, and of at most max_norm.

    Labels are the model's own predictions. As published no pixel is clipped, so that an image with it added may leave
    [0, 1]. `model` in eval mode.
    """
    perturbation = torch.zeros_like(next(iter(batches))[0][:1], requires_grad=True)
    optimizer = torch.optim.SGD([perturbation], lr, maximize=True)
    with frozen(model):
        for images, _ in progress(batches, "perturb"):
            own = model(images).argmax(1)
            optimizer.zero_grad()
            damage(model, images, own, perturbation, penalty).backward()
            optimizer.step()
            keep_within(perturbation, max_norm)
    return perturbation.detach()


@dataclass(frozen=True)
class Game:
    """What the two players optimize: the flags of the same names."""

    penalty: float
    steps: int
    rate: float
    perturbed_share: float


def added_to(images, share, generator):
    """float (B, 1, 1, 1): 1 for the images of a batch that get the perturbation, a random `share`, at least one."""
    count = max(1, round(share * len(images)))
    if count == len(images):
        return torch.ones_like(images[:, :1, :1, :1])
    chosen = torch.randperm(len(images), generator=generator) < count
    return send(chosen.to(images.dtype), images.device).view(-1, 1, 1, 1)


def gradients_against(game, model, images, labels, perturbation, weights, generator=None):
    """(the hypergradient of one batch's loss with the perturbation added, the logits (B, C) of that batch)."""
    with torch.no_grad():
        own, seen = model(images).argmax(1), []
    places = added_to(images, game.perturbed_share, generator)

    def outer(perturbation):
        seen.append(model(images + places * perturbation))
        return F.cross_entropy(seen[0], labels)

    def inner(perturbation):
        return damage(model, images, own, perturbation, game.penalty)
    return hypergradient(outer, inner, perturbation, weights, game.steps, game.rate), seen[0].detach()


def unlearn(game, model, batches, perturbation, optimizer, generator=None):
    """One pass of steps against the perturbation, by `hypergradient`, in eval mode; returns the Score of what was seen.
    """
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    losses, hits = [], torch.zeros((), dtype=torch.int64, device=batches.device)
    model.eval()
    for images, labels in progress(batches, "unlearn"):
        gradients, logits = gradients_against(game, model, images, labels, perturbation, weights, generator)
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.grad = gradient
        optimizer.step()
        losses.append(F.cross_entropy(logits, labels) * len(labels))
        hits += (logits.argmax(1) == labels).sum()
    check_finite(losses)
    share = Proportion(int(hits), batches.num_images)
    return Score(float(torch.stack(losses).sum()) / batches.num_images, share, share)


def play(repair, args):
    """All rounds of the game; returns the last Evaluation."""
    run, model, test = repair.run, repair.suspect.model, repair.suspect.test
    game = Game(args.penalty, args.steps, args.rate, args.perturbed_share)
    batches = Batches(repair.own, args.batch_size, run.device, run.generator)
    optimizer, tested = torch.optim.Adam(model.parameters(), args.lr), None
    for number in run.epochs(args.rounds, model=model, optimizer=optimizer):
        perturbation = find_perturbation(model.eval(), batches, args.inner_lr, args.penalty, args.max_norm)
        trained = unlearn(game, model, batches, perturbation, optimizer, run.generator)
        tested = evaluate(model, test)
        run.log(number, args.lr, trained, tested, perturbation_norm=float(perturbation.norm()))
    return tested or evaluate(model, test)


def parse_args(argv=None):
    parser = flags.Parser(__doc__)
    flags.add_suspect_flags(parser)
    flags.add_data_flags(parser)
    group = parser.add_argument_group("game")
    group.add_argument("--rounds", type=flags.integer(1), default=5,
                       help="rounds, each of one pass that finds the perturbation and one that unlearns it")
    group.add_argument("--batch-size", type=flags.integer(1), default=100, help="images per step")
    group.add_argument("--lr", type=flags.positive, default=1e-3, help="learning rate of the weights, by Adam")
    group.add_argument("--inner-lr", type=flags.positive, default=10.0, help="step of the perturbation's ascent")
    group.add_argument("--penalty", type=flags.not_negative, default=1e-3,
                       help="weight of the perturbation's squared norm")
    group.add_argument("--max-norm", type=flags.positive, default=10.0,
                       help="largest L2 norm of the perturbation, over all pixels from 0 to 1")
    group.add_argument("--steps", type=flags.integer(0), default=5,
                       help="terms of the implicit gradient; 0 for plain adversarial training")
    group.add_argument("--perturbed-share", type=flags.fraction, default=0.01,
                       help="share of a step's images, at least one, to which the perturbation is added when it is "
                            "unlearned")
    group.add_argument("--rate", type=flags.positive, default=0.1, help="rate of the map whose fixed point is meant")
    add_share_flag(group)
    flags.add_run_flags(parser, beneath_model("i-bau"), resumable=True)
    args = parser.parse_args(argv)
    if not args.steps:
        parser.refuse(argv, ["rate"], "with --steps 0")
    return args


@command
def main(argv=None):
    args = parse_args(argv)
    with Run(args, ("model_last.th",)) as run:
        suspect = load_suspect(args, run)

        repair = Repair.begin(run, args, suspect)
        after = play(repair, args)

        repair.finish(suspect.model, after, epochs=args.rounds, method={
            "name": "I-BAU", "steps": args.steps, "perturbed_share": args.perturbed_share})


if __name__ == "__main__":
    main()
