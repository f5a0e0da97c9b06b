"""The evaluation of a model on clean and on triggered images."""
import logging
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F

from common.errors import UserError
from common.memory import HalvingForward
from data.batches import Batches
from data.image_set import ImageSet
from data.poison_cifar import stamp_all, stamp_bystanders
from data.triggers import Trigger
from engine.measuring.progress import progress
from engine.measuring.scores import UNKNOWN, UNTESTED, Evaluation, Proportion, Score
from models.folding import folded

log = logging.getLogger("backdoor")
# Large batches keep a GPU busy; on a CPU they do not fit into the cache (at width 16 an image takes almost twice as
# long in batches of 1,000 as in batches of 128).
EVALUATION_BATCH = {"cuda": 2000, "cpu": 128}


@dataclass(frozen=True)
class EvalSets:
    """Clean and triggered test images on the device, stamped once for all epochs; triggered is None without a trigger.

    clean_images and triggered_images are the ImageSets that they were made from, for code that stamps or shows them.
    bystanders: triggered images of classes that the trigger is not meant for, None if it is meant for all. victims:
    where the triggered images stand among the clean ones, int64 (M,); None without a trigger.
    """

    clean: Batches
    triggered: Batches | None
    clean_images: ImageSet
    triggered_images: ImageSet | None
    bystanders: Batches | None = None
    victims: np.ndarray | None = None

    @classmethod
    def stamped(cls, device: torch.device | str, clean: ImageSet, trigger: Trigger | None) -> "EvalSets":
        """The EvalSets of clean test images and of what a trigger, if one is known, makes of them. Raises UserError as
        `on` does."""
        if trigger is None:
            return cls.on(device, clean)
        return cls.on(device, clean, stamp_all(clean, trigger), stamp_bystanders(clean, trigger),
                      np.flatnonzero(trigger.victims(clean.original)))

    @classmethod
    def on(cls, device: torch.device | str, clean: ImageSet, triggered: ImageSet | None = None,
           bystanders: ImageSet | None = None, victims: np.ndarray | None = None) -> "EvalSets":
        """The EvalSets of ImageSets; `triggered` is made from `clean` by stamp_all, `bystanders` by stamp_bystanders.

        victims: by default all images of the triggered ones' classes, for a trigger that is meant for whole classes.
        Raises UserError for a set without images.
        """
        if not len(clean) or (triggered is not None and not len(triggered)):
            others = " of other classes than the target, or of the trigger's sources" if len(clean) else ""
            raise UserError(f"{clean.name or 'the data set'}: expected test images{others}, got none")
        batches = (None if images is None else evaluation_batches(images, device) for images in (triggered, bystanders))
        if triggered is not None and victims is None:
            victims = np.flatnonzero(np.isin(clean.original, triggered.original))
        if triggered is not None and np.array_equal(triggered.data, clean.data[victims]):
            log.warning("the trigger changes no pixel of any test image")
        return cls(evaluation_batches(clean, device), next(batches), clean, triggered, next(batches), victims)

    @property
    def target(self) -> int | None:
        """The one label that all triggered images are to be given; None without it."""
        wanted = () if self.triggered_images is None else np.unique(self.triggered_images.targets)
        return int(wanted[0]) if len(wanted) == 1 else None

    def restamped(self, triggered: ImageSet) -> "EvalSets":
        """The same clean images with a new ImageSet of triggered ones, for a trigger that has changed."""
        return replace(self, triggered=Batches(triggered, self.clean.batch_size, self.clean.device),
                       triggered_images=triggered)


def evaluation_batch(device: torch.device | str) -> int:
    """The number of images per batch with which `device` predicts fastest."""
    return EVALUATION_BATCH.get(torch.device(device).type, 128)


def evaluation_batches(image_set: ImageSet, device: torch.device | str) -> Batches:
    """All images of an ImageSet in order, in batches of the size with which `device` predicts fastest."""
    return Batches(image_set, evaluation_batch(device), device)


@contextmanager
def frozen(model: torch.nn.Module) -> Iterator[torch.nn.Module]:
    """`model` in eval mode with parameters that need no gradients, for the duration of the block."""
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


def predict(model: torch.nn.Module, batches: Batches, amp: bool = False) -> torch.Tensor:
    """Logits float32 (N, num_classes) of all images, in eval mode.

    Computed in bfloat16 only if `amp` says so: a published figure is float32's, so that all scripts agree. On a GPU
    PyTorch computes float32 convolutions in TF32, so a CPU's logits differ in the fourth digit. If a batch does not fit
    into a GPU's memory, `batches` is left with the size that fits. Raises UserError if there are no images, and for
    outputs that are NaN, whose argmax would count as class 0.
    """
    return predict_each(model, [batches], amp)[0]


def predict_each(model: torch.nn.Module, sets: Sequence[Batches], amp: bool = False) -> tuple[torch.Tensor, ...]:
    """The logits of several sets of Batches, computed as in `predict`, in one pass over all of them.

    No result is read in between, so that a GPU does not wait before all the work is queued.
    """
    if not all(batches.num_images for batches in sets):
        raise UserError("expected images to predict, got none")
    amp = amp and not is_compiled(model)  # it would be compiled again for bfloat16, for each batch size
    with without_gradients(model):
        logits = check_outputs(torch.cat(forward_each(folded(model), sets, amp)))
        return logits.split([batches.num_images for batches in sets])


def is_compiled(model: torch.nn.Module) -> bool:
    return model._compiled_call_impl is not None


def without_gradients(model: torch.nn.Module) -> AbstractContextManager:
    """A context without autograd: torch.inference_mode, or torch.no_grad for a compiled model.

    If the first CUDA graph of a process is captured in inference mode, releases of PyTorch before 2026 cannot capture a
    later graph of a training step ("Inplace update to inference tensor outside InferenceMode").
    """
    return torch.no_grad() if is_compiled(model) else torch.inference_mode()


def forward_each(model: torch.nn.Module, sets: Sequence[Batches], amp: bool) -> list[torch.Tensor]:
    """[float32 (B, C)] for each batch of all `sets`, in eval mode."""
    forward, logits = HalvingForward(model.eval()), []
    for batches in sets:
        with torch.autocast(batches.device.type, torch.bfloat16, enabled=amp):
            logits += [forward(images).float() for images, _ in progress(batches, "test")]
    for batches in sets:  # only now, since a pass that has begun relies on its batch size
        batches.batch_size = min(batches.batch_size, forward.size or batches.batch_size)
    return logits


def check_outputs(values: torch.Tensor) -> torch.Tensor:
    """Return the model's outputs, or values computed from them; raise UserError if any is NaN."""
    if torch.isnan(values).any():
        raise UserError("the model returned NaN; its weights may be damaged")
    return values


def sample_losses(model: torch.nn.Module, image_set: ImageSet, device: torch.device | str) -> np.ndarray:
    """Cross-entropy float32 (N,) of every image of an ImageSet, not augmented, in eval mode."""
    batches = evaluation_batches(image_set, device)
    return F.cross_entropy(predict(model, batches), batches.labels, reduction="none").cpu().numpy()


def score(model: torch.nn.Module, batches: Batches) -> Score:
    """The Score of a model on the image set of `batches`."""
    return score_logits(predict(model, batches), batches)


def score_logits(logits: torch.Tensor, batches: Batches) -> Score:
    """The Score of the logits (N, num_classes) of the images of `batches`."""
    guesses, n = logits.argmax(1), batches.num_images
    hits = [(guesses == labels).sum() for labels in (batches.labels, batches.originals)]
    loss, *hits = torch.stack([F.cross_entropy(logits, batches.labels).double(), *hits]).tolist()  # one wait for a GPU
    return Score(loss, *(Proportion(int(number), n) for number in hits))


def evaluate(model: torch.nn.Module, test: EvalSets, amp: bool = False) -> Evaluation:
    """The Evaluation of a model on EvalSets. amp: compute in bfloat16, for a test during training.

    ASR is the share of triggered images, of those that the trigger is meant for, that are predicted as the label that
    the attacker wants. Robust accuracy is the share of them that are still predicted as their own label.
    """
    own = {"clean": test.clean, "triggered": test.triggered, "bystanders": test.bystanders}
    sets = {name: batches for name, batches in own.items() if batches is not None}
    logits = list(predict_each(model, list(sets.values()), amp))
    scores = dict(zip(sets, map(score_logits, logits, sets.values()), strict=True))
    return replace(UNTESTED, **scores, outside_target=outside_target(logits[0], test))


def outside_target(logits: torch.Tensor, test: EvalSets) -> Proportion:
    """ACC on the clean images outside the target class, by the clean images' logits (N, num_classes); unknown where the
    trigger does not lead to one class: on CIFAR-10 what some publications call clean accuracy, over 9,000 images."""
    if test.target is None:
        return UNKNOWN.accuracy
    labels = test.clean.labels
    hits = ((logits.argmax(1) == labels) & (labels != test.target)).sum()
    return Proportion(int(hits), int((test.clean_images.targets != test.target).sum()))
