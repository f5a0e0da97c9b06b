"""Train for an epoch; count what a model gets right on clean and on triggered images."""
import logging
import math
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import binomtest

from data.batches import Batches
from data.files import UserError
from engine.graphs import GraphedModel
from engine.memory import HalvingForward
from engine.progress import progress
from engine.schedules import scheduler_of
from models.folding import folded

# Large batches feed a GPU; on a CPU they fall out of the cache (at width 16, 1,000 images at a time take almost twice
# as long an image as 128 do).
EVALUATION_BATCH = {"cuda": 2000, "cpu": 128}
NAN_CHECK_EVERY = 50  # steps
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


UNTESTED = TestScore(UNKNOWN, UNKNOWN)


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

    def restamped(self, triggered):
        """The same clean images with an ImageSet of newly triggered ones, for a trigger that has moved."""
        return replace(self, triggered=Batches(triggered, self.clean.batch_size, self.clean.device))


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


def step_of(objective):
    """The step that calls the model on the images as they are and descends objective: (logits, labels) -> loss."""
    def step(model, images, labels):
        logits = model(images)
        return objective(logits, labels), logits
    return step


cross_entropy_step = step_of(F.cross_entropy)


def train_epoch(model, batches, optimizer, amp=False, step=cross_entropy_step, after_step=None, call=None):
    """One pass in train mode. Returns the Score over the batches as they were seen (augmented, before each step).

    step: (model, images, labels) -> (loss, logits); the loss, a mean, is descended and is the Score's, the logits
    (B, C) are counted against the labels. after_step: called after each step, such as a scheduler's own. call: what
    the step gets in place of the model, such as a GraphedModel of it. Raises UserError naming the step if a loss is
    not finite.
    """
    model.train()
    waits = batches.device.type == "cuda"  # to look at a loss makes a GPU wait, so that it is looked at in the end
    losses, hits = [], torch.zeros((), dtype=torch.int64, device=batches.device)
    for number, (images, labels) in enumerate(progress(batches, "train"), 1):
        optimizer.zero_grad()
        with torch.autocast(images.device.type, torch.bfloat16, enabled=amp):
            loss, logits = step(call or model, images, labels)
        loss.backward()
        optimizer.step()
        if after_step:
            after_step()
        losses.append(loss.detach() * len(labels))
        hits += (logits.detach().argmax(1) == labels).sum()
        if (number % NAN_CHECK_EVERY == 0 and not waits) or number == len(batches):
            check_finite(losses)
    share = Share(int(hits), batches.num_images)
    return Score(float(torch.stack(losses).sum()) / batches.num_images, share, share)


def is_tested(epoch, until, every):
    """Whether a stage that ends with epoch `until` is tested after `epoch`: each `every`th of the run, and the last."""
    return epoch == until or epoch % every == 0


def train_stage(run, model, batches, test, until, optimizer, milestones=(), step=cross_entropy_step, watch=None,
                one_cycle=False, test_every=1, restamp=None, graph=False, learned=None):
    """Train `model` up to epoch `until` of the Run and log each epoch, tested on TestImages as is_tested says.

    The last epoch is tested in float32, those before it in the run's own arithmetic. The learning rate falls to a
    tenth after each of `milestones`, counted from the stage's first epoch; with one_cycle, for a run of one stage, it
    moves after every step, up to its value and down to nothing (Smith & Topin, 2018).

    step: as in train_epoch. watch: model -> more entries for the epoch's row of metrics.jsonl. restamp: () -> the test
    images as the trigger stamps them by now, called before each test; None for a trigger that does not learn. learned:
    {name: what else has a state_dict and learns}, which a stopped run goes on with. graph: the model's passes as CUDA
    graphs, for a step that calls it once. Returns the last TestScore, None where no epoch was left to do.
    """
    scheduler, tested = scheduler_of(optimizer, milestones, until * len(batches) if one_cycle else None), None
    after_step = scheduler.step if one_cycle else None
    call = GraphedModel(model, batches.batch_size, run.amp) if graph else None
    for epoch in run.epochs(until, model=model, optimizer=optimizer, scheduler=scheduler, **(learned or {})):
        lr = scheduler.get_last_lr()[0]
        trained, tested = train_epoch(model, batches, optimizer, run.amp, step, after_step, call), UNTESTED
        if is_tested(epoch, until, test_every):
            stamped = test.restamped(restamp()) if restamp else test
            tested = evaluate(model, stamped, run.amp and epoch < until)
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


def predict(model, batches, amp=False):
    """Logits float32 (N, num_classes) of all images, in eval mode.

    Not in bfloat16 unless `amp` says so: a figure that is kept is float32's, so that every script agrees. On a GPU
    convolutions of float32 are TF32's, as PyTorch has them: a CPU's logits differ in the fourth digit. Where a GPU's
    memory does not hold a batch, `batches` is left with the size that it does hold. Raises UserError for no images,
    and for outputs that are NaN, whose argmax would pass for class 0.
    """
    return predict_each(model, [batches], amp)[0]


def predict_each(model, sets, amp=False):
    """The logits of several sets of Batches, as `predict` gives those of one, in one pass over all.

    Nothing is looked at in between, so that a GPU is not made to wait before all of it is under way.
    """
    if not all(batches.num_images for batches in sets):
        raise UserError("no images to predict, so nothing can be counted")
    amp = amp and not is_compiled(model)  # which would be compiled once more for it, for each size of batch
    with without_gradients(model):
        logits = check_outputs(torch.cat(forward_each(folded(model), sets, amp)))
        return logits.split([batches.num_images for batches in sets])


def is_compiled(model):
    return model._compiled_call_impl is not None


def without_gradients(model):
    """A context without autograd: torch.inference_mode, but torch.no_grad for a compiled model.

    Where the first CUDA graph of a process is captured in inference mode, releases of PyTorch from before 2026 cannot
    capture a later one, of a training step ("Inplace update to inference tensor outside InferenceMode").
    """
    return torch.no_grad() if is_compiled(model) else torch.inference_mode()


def forward_each(model, sets, amp):
    """[float32 (B, C)] of each batch of all `sets`, in eval mode."""
    forward, logits = HalvingForward(model.eval()), []
    for batches in sets:
        with torch.autocast(batches.device.type, torch.bfloat16, enabled=amp):
            logits += [forward(images).float() for images, _ in progress(batches, "test")]
    for batches in sets:  # not before all are done: a pass under way counts on its size
        batches.batch_size = min(batches.batch_size, forward.size or batches.batch_size)
    return logits


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


def evaluate(model, test, amp=False):
    """The TestScore of a model on TestImages; amp: in bfloat16, for a look at a training under way.

    ASR is the share of triggered images, their own label not the target, that are called the target; robust
    accuracy the share of them that still get their own label.
    """
    sets = [batches for batches in (test.clean, test.triggered) if batches is not None]
    scores = list(map(score_logits, predict_each(model, sets, amp), sets))
    return TestScore(scores[0], UNKNOWN if test.triggered is None else scores[1])
