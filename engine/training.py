"""Train for an epoch; count what a model gets right on clean and on triggered images."""
import logging
import math
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import binomtest

from data.batches import Batches
from data.files import UserError
from engine.progress import progress
from models.folding import folded

# Large batches feed a GPU; on a CPU they fall out of the cache (at width 16, 1,000 images at a time take almost twice
# as long an image as 128 do).
EVALUATION_BATCH = {"cuda": 2000, "cpu": 128}
NAN_CHECK_EVERY = 50  # steps
WARM_UP = 0.25  # of a cycle: the share in which its rate rises
log = logging.getLogger("backdoor")


@dataclass(frozen=True)
class Share:
    """`hits` out of `n`, with its 95 % Wilson interval."""

    hits: int
    n: int

    @property
    def value(self):
        return self.hits / self.n if self.n else math.nan

    def as_dict(self):
        """{"value", "interval": [low, high], "n"}; None where nothing was counted."""
        if not self.n:
            return None
        low, high = binomtest(self.hits, self.n).proportion_ci(0.95, method="wilson")
        return {"value": self.value, "interval": [float(low), float(high)], "n": self.n}


@dataclass(frozen=True)
class Score:
    """Mean loss and accuracy against the targets of a set, and accuracy against its labels before poisoning."""

    loss: float
    accuracy: Share
    original_accuracy: Share


UNKNOWN = Score(math.nan, Share(0, 0), Share(0, 0))


@dataclass(frozen=True)
class TestScore:
    """Clean test images and triggered ones: ACC, ASR and robust accuracy; UNKNOWN where no trigger is known."""

    __test__ = False  # not a test case, whatever pytest makes of its name

    clean: Score
    triggered: Score

    def figures(self):
        """acc, asr and robust_acc as results.json has them."""
        return {"acc": self.clean.accuracy.as_dict(), "asr": self.triggered.accuracy.as_dict(),
                "robust_acc": self.triggered.original_accuracy.as_dict()}


@dataclass(frozen=True)
class TestImages:
    """Clean and triggered test images on the device, stamped once for all epochs; triggered None without a trigger."""

    __test__ = False

    clean: Batches
    triggered: Batches | None

    @classmethod
    def on(cls, device, clean, triggered=None):
        """Of ImageSets; `triggered` as stamp_all makes it of `clean`. Raises UserError for a set of no images."""
        if not len(clean) or (triggered is not None and not len(triggered)):
            others = " of other classes than the target" * bool(len(clean))
            raise UserError(f"{clean.name or 'the data set'}: no test images{others}, so nothing can be counted")
        if triggered is not None and np.array_equal(triggered.data, clean.data[clean.targets != triggered.targets[0]]):
            log.info("notice: the trigger changes no pixel of any test image")
        return cls(evaluation_batches(clean, device),
                   None if triggered is None else evaluation_batches(triggered, device))


def evaluation_batch(device):
    """The number of images at a time that `device` predicts fastest."""
    return EVALUATION_BATCH.get(torch.device(device).type, 128)


def evaluation_batches(image_set, device):
    """All of an ImageSet in order, in batches of the size that `device` predicts fastest."""
    return Batches(image_set, evaluation_batch(device), device)


@contextmanager
def frozen(model):
    """`model` in eval mode, its parameters needing no gradients, for as long as the block lasts."""
    modes = {module: module.training for module in model.modules()}
    needing = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.eval().requires_grad_(False)
    try:
        yield model
    finally:
        for module, training in modes.items():
            module.training = training
        for parameter in needing:
            parameter.requires_grad_(True)


def sgd(model, args, lr=None, nesterov=False):
    """SGD over all weights of `model` by the flags of engine.flags.add_sgd_flags; `lr` in place of their own."""
    is_fused = next(model.parameters()).is_cuda  # one kernel for all weights
    return torch.optim.SGD(model.parameters(), lr or args.lr, args.momentum, weight_decay=args.weight_decay,
                           nesterov=nesterov, fused=is_fused or None)


def compile_for(model, device):
    """Compile `model` in place; on a GPU into CUDA graphs, which spare the launches."""
    if torch.are_deterministic_algorithms_enabled():
        from torch._inductor import config  # half a second, which other runs need not wait
        if hasattr(config, "deterministic"):  # not in every PyTorch: kernels are then chosen by what was fastest
            config.deterministic = True
    # One graph for each batch size: a graph for all sizes, made at the short last batch, would take the others' place.
    model.compile(mode="reduce-overhead" if device.type == "cuda" else None, dynamic=False)


def train_epoch(model, batches, optimizer, amp=False, objective=F.cross_entropy, after_step=None):
    """One pass in train mode. Returns the Score over the batches as they were seen (augmented, before each step).

    objective: (logits, labels) -> what is descended, and what the Score has as its loss. after_step: called after each
    step, such as a scheduler's own. Raises UserError naming the step if a loss is not finite.
    """
    model.train()
    waits = batches.device.type == "cuda"  # to look at a loss makes a GPU wait, so that it is looked at in the end
    losses, hits = [], torch.zeros((), dtype=torch.int64, device=batches.device)
    for step, (images, labels) in enumerate(progress(batches, "train"), 1):
        optimizer.zero_grad()
        with torch.autocast(images.device.type, torch.bfloat16, enabled=amp):
            logits = model(images)
            loss = objective(logits, labels)
        loss.backward()
        optimizer.step()
        if after_step:
            after_step()
        losses.append(loss.detach() * len(labels))
        hits += (logits.detach().argmax(1) == labels).sum()
        if (step % NAN_CHECK_EVERY == 0 and not waits) or step == len(batches):
            check_finite(losses)
    share = Share(int(hits), batches.num_images)
    return Score(float(torch.stack(losses).sum()) / batches.num_images, share, share)


def check_one_cycle(steps):
    """Raise UserError unless there are steps enough for the rate to rise and to fall."""
    if steps < 2 / WARM_UP:
        raise UserError(f"--recipe fast: {steps} steps in all; expected at least {2 / WARM_UP:.0f}, in which the "
                        "rate rises and falls; take more --epochs or a smaller --batch-size")


def one_cycle_of(optimizer, steps):
    """A scheduler that lets the rate of `optimizer` rise to its value and fall to nothing in so many steps."""
    check_one_cycle(steps)
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, optimizer.defaults["lr"], steps, pct_start=WARM_UP,
                                               anneal_strategy="linear", cycle_momentum=False)


def train_stage(run, model, batches, test, until, optimizer, milestones=(), objective=F.cross_entropy,
                watch=None, one_cycle=False):
    """Train `model` up to epoch `until` of the Run, tested on TestImages and logged after each epoch.

    The learning rate falls to a tenth after each of `milestones`, counted from the stage's first epoch; with one_cycle,
    for a run of one stage, it moves after every step, up to its value and down to nothing (Smith & Topin, 2018).
    watch: model -> more entries for the epoch's row of metrics.jsonl. Returns the last TestScore, None where no epoch
    was left to do.
    """
    schedulers, tested = torch.optim.lr_scheduler, None
    if one_cycle:
        scheduler = one_cycle_of(optimizer, until * len(batches))
    else:
        scheduler = schedulers.MultiStepLR(optimizer, milestones)
    for epoch in run.epochs(until, model=model, optimizer=optimizer, scheduler=scheduler):
        lr = scheduler.get_last_lr()[0]
        after_step = scheduler.step if one_cycle else None
        trained, tested = train_epoch(model, batches, optimizer, run.amp, objective, after_step), evaluate(model, test)
        if not one_cycle:
            scheduler.step()
        run.log(epoch, lr, trained, tested, **(watch(model) if watch else {}))
    return tested


def warn_of_chance(tested, num_classes, is_attacked):
    """Log a notice if the accuracy in a TestScore, or an attack's success rate, is not above what guessing gives."""
    shares = [("ACC", tested.clean.accuracy)] + [("ASR", tested.triggered.accuracy)] * is_attacked
    for name, share in shares:
        known = share.as_dict()
        if known and known["interval"][0] <= 1 / num_classes:
            log.info("notice: %s %.4f is no more than chance (%.4f of %d classes): nothing was learned", name,
                     share.value, 1 / num_classes, num_classes)


def check_finite(losses):
    """Raise UserError naming the first step whose loss is NaN or infinite."""
    bad = (~torch.isfinite(torch.stack(losses))).nonzero()
    if len(bad):
        raise UserError(f"the loss became {float(losses[bad[0]])} at step {int(bad[0]) + 1}; a lower --lr may help")


def predict(model, batches):
    """Logits float32 (N, num_classes) of all images, in eval mode; never in bfloat16, so that every script agrees.

    On a GPU convolutions of float32 are TF32's, as PyTorch has them: a CPU's logits differ in the fourth digit.
    Raises UserError for no images, and for outputs that are NaN, whose argmax would pass for class 0.
    """
    return predict_each(model, [batches])[0]


@torch.inference_mode()
def predict_each(model, sets):
    """The logits of several sets of Batches, as `predict` gives those of one, in one pass over all.

    Nothing is looked at in between, so that a GPU is not made to wait before all of it is under way.
    """
    if not all(batches.num_images for batches in sets):
        raise UserError("no images to predict, so nothing can be counted")
    model.eval()
    quick = folded(model)
    # clone: the next batch writes into what a compiled model's graph has returned
    logits = [quick(images).clone() for batches in sets for images, _ in progress(batches, "test")]
    logits = check_outputs(torch.cat(logits))
    return logits.split([batches.num_images for batches in sets])


def check_outputs(values):
    """The model's outputs, or what was made of them; UserError if any is NaN."""
    if torch.isnan(values).any():
        raise UserError("the model's outputs are no numbers (nan), so nothing can be counted")
    return values


def sample_losses(model, image_set, device):
    """Cross-entropy float32 (N,) of every image of an ImageSet as it is, not augmented, in eval mode."""
    batches = evaluation_batches(image_set, device)
    return F.cross_entropy(predict(model, batches), batches.labels, reduction="none").cpu().numpy()


def score(model, batches):
    """The Score of a model on the image set of `batches`."""
    return score_logits(predict(model, batches), batches)


def score_logits(logits, batches):
    """The Score of logits (N, num_classes) that were found for the images of `batches`."""
    guesses, n = logits.argmax(1), batches.num_images
    return Score(float(F.cross_entropy(logits, batches.labels)), Share(int((guesses == batches.labels).sum()), n),
                 Share(int((guesses == batches.originals).sum()), n))


def evaluate(model, test):
    """The TestScore of a model on TestImages.

    ASR is the share of triggered images, their own label not the target, that are called the target; robust
    accuracy the share of them that still get their own label.
    """
    sets = [batches for batches in (test.clean, test.triggered) if batches is not None]
    scores = [score_logits(logits, batches) for logits, batches in zip(predict_each(model, sets), sets, strict=True)]
    return TestScore(scores[0], UNKNOWN if test.triggered is None else scores[1])
