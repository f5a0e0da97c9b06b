"""Training: one epoch, and a stage of epochs with tests."""
import logging
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch.optim.lr_scheduler import LRScheduler

from common.errors import UserError
from data.batches import Batches
from data.image_set import ImageSet
from engine.learning.graphs import GraphedModel
from engine.learning.schedules import scheduler_of
from engine.measuring.evaluation import EvalSets, evaluate
from engine.measuring.progress import progress
from engine.measuring.scores import UNTESTED, Evaluation, Proportion, Score
from engine.runs.machine import spare_narrow
from engine.runs.run import Run

NAN_CHECK_EVERY = 50  # steps
# (model, images, labels) -> (loss, logits)
Step = Callable[[Callable, torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
log = logging.getLogger("backdoor")


def sgd(model: torch.nn.Module, args: Namespace, lr: float | None = None, nesterov: bool = False) -> torch.optim.SGD:
    """SGD over all weights of `model` by the flags of engine.command_line.flags.add_sgd_flags. lr: replaces --lr."""
    is_fused = next(model.parameters()).is_cuda  # one kernel for all weights
    return torch.optim.SGD(model.parameters(), lr or args.lr, args.momentum, weight_decay=args.weight_decay,
                           nesterov=nesterov, fused=is_fused or None)


def compile_for(model: torch.nn.Module, device: torch.device) -> None:
    """Compile `model` in place; on a GPU into CUDA graphs, which save launches."""
    if torch.are_deterministic_algorithms_enabled():
        from torch._inductor import config  # takes half a second, which other runs do not need
        if hasattr(config, "deterministic"):  # older releases of PyTorch lack it and choose the fastest kernels
            config.deterministic = True
    # One graph per batch size: a graph for all sizes, made at the short last batch, would replace the others.
    model.compile(mode="reduce-overhead" if device.type == "cuda" else None, dynamic=False)


def step_of(objective: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Step:
    """The step that calls the model on the unchanged images and descends objective: (logits, labels) -> loss."""
    def step(model: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor):
        logits = model(images)
        return objective(logits, labels), logits
    return step


cross_entropy_step = step_of(F.cross_entropy)


def unlearning_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The negative mean loss, an objective by which a model unlearns images."""
    return -F.cross_entropy(logits, labels)


@contextmanager
def told_of_lone_image(count: int) -> Iterator[None]:
    """UserError for PyTorch's ValueError at a batch of `count` = 1 image, of which a batch norm sees one pixel."""
    try:
        yield
    except ValueError as error:
        if count > 1 or "more than 1 value per channel" not in str(error):
            raise
        raise UserError("a batch of one image, which this network makes one pixel of, leaves batch norm nothing to "
                        "average; give another --batch-size") from None


def train_epoch(model: torch.nn.Module, batches: Batches, optimizer: torch.optim.Optimizer, amp: bool = False,
                step: Step = cross_entropy_step, after_step: Callable[[], object] | None = None,
                call: Callable[[torch.Tensor], torch.Tensor] | None = None,
                others: Sequence[torch.optim.Optimizer] = ()) -> Score:
    """One pass in train mode. Returns the Score over the batches as the model saw them (augmented, before each step).

    step: (model, images, labels) -> (loss, logits). The loss, a mean, is descended and is the Score's; the logits (B,
    C) are counted against the labels. after_step: called after each step, for example a scheduler's step. call: what
    the step gets in place of the model, such as its GraphedModel. others: the optimizers of what learns from the same
    loss beside the model, such as a trigger. Raises UserError that names the step if a loss is not finite.
    """
    model.train()
    spare_narrow(model, batches.device, batches.images.shape[1])
    waits = batches.device.type == "cuda"  # reading a loss makes a GPU wait, so it is read only at the end
    losses, hits = [], torch.zeros((), dtype=torch.int64, device=batches.device)
    for number, (images, labels) in enumerate(progress(batches, "train"), 1):
        for each in (optimizer, *others):
            each.zero_grad()
        with torch.autocast(images.device.type, torch.bfloat16, enabled=amp), told_of_lone_image(len(labels)):
            loss, logits = step(call or model, images, labels)
        loss.backward()
        for each in (optimizer, *others):
            each.step()
        if after_step:
            after_step()
        losses.append(loss.detach() * len(labels))
        hits += (logits.detach().argmax(1) == labels).sum()
        if (number % NAN_CHECK_EVERY == 0 and not waits) or number == len(batches):
            check_finite(losses)
    share = Proportion(int(hits), batches.num_images)
    return Score(float(torch.stack(losses).sum()) / batches.num_images, share, share)


def train_stage(run: Run, model: torch.nn.Module, batches: Batches, test: EvalSets, until: int,
                optimizer: torch.optim.Optimizer, milestones: Sequence[int] = (), step: Step = cross_entropy_step,
                watch: Callable[[torch.nn.Module], dict] | None = None, one_cycle: bool = False,
                restamp: Callable[[], ImageSet] | None = None, graph: bool = False, learned: dict | None = None,
                others: Sequence[torch.optim.Optimizer] = (), scheduler: LRScheduler | None = None
                ) -> Evaluation | None:
    """Train `model` up to epoch `until` of the Run; log each epoch, and test on EvalSets after those that
    Run.is_tested names.

    The last epoch is tested in float32, the earlier ones in the run's own precision. The learning rate is divided by
    ten after each of `milestones`, counted from the stage's first epoch. With one_cycle, for a run of one stage, it
    changes after every step: up to its value and down to 0 (Smith & Topin, 2018). scheduler: one of `optimizer` that
    changes the rate after each epoch, in place of milestones.

    step: as in train_epoch. watch: model -> further entries for the epoch's row of metrics.jsonl. restamp: () -> the
    test images stamped with the current trigger, called before each test; None for a trigger that does not learn.
    learned: {name: another object that learns and has a state_dict}, restored when a run is resumed. others: the
    optimizers of those, which descend the same loss; their rates fall at `milestones` too. graph: run the model's
    passes as CUDA graphs, for a step that calls the model once. Returns the last Evaluation, None if all epochs had
    been made before.
    """
    spare_narrow(model, batches.device, batches.images.shape[1])  # also where no epoch is left, for what follows
    scheduler = scheduler or scheduler_of(optimizer, milestones, until * len(batches) if one_cycle else None)
    tested = None
    after_step = scheduler.step if one_cycle else None
    call = GraphedModel(model, batches.batch_size, run.amp) if graph else None
    falling = [scheduler_of(other, milestones) for other in others]
    beside = {f"other_{i}": other for i, other in enumerate(others)}
    beside |= {f"falling_{i}": each for i, each in enumerate(falling)}
    for epoch in run.epochs(until, model=model, optimizer=optimizer, scheduler=scheduler, **(learned or {}), **beside):
        lr = scheduler.get_last_lr()[0]
        trained, tested = train_epoch(model, batches, optimizer, run.amp, step, after_step, call, others), UNTESTED
        if run.is_tested(epoch, until):
            stamped = test.restamped(restamp()) if restamp else test
            tested = evaluate(model, stamped, run.amp and epoch < until)
        for each in falling if one_cycle else (scheduler, *falling):
            each.step()
        run.log(epoch, lr, trained, tested, **(watch(model) if watch else {}))
    return tested


def fine_tune(run: Run, args: Namespace, model: torch.nn.Module, image_set: ImageSet, test: EvalSets, epochs: int,
              optimizer: torch.optim.Optimizer | None = None, **options) -> Evaluation:
    """Train a repair's `model` on the defender's ImageSet by the flags of add_sgd_flags and add_augmentation_flags.

    epochs: the epoch of the Run up to which it trains. optimizer: in place of the flags' SGD. options: of train_stage.
    Returns the Evaluation after the last epoch, also where no epoch is left to do.
    """
    batches = Batches(image_set, args.batch_size, run.device, run.generator, args.crop_padding, args.flip)
    optimizer = optimizer or sgd(model, args)
    return train_stage(run, model, batches, test, epochs, optimizer, **options) or evaluate(model, test)


def check_finite(losses: Sequence[torch.Tensor]) -> None:
    """Raise UserError that names the first step whose loss is NaN or infinite."""
    bad = (~torch.isfinite(torch.stack(losses))).nonzero()
    if len(bad):
        raise UserError(f"the loss became {float(losses[bad[0]])} at step {int(bad[0]) + 1}; a lower learning rate may "
                        "help")


