"""The search for the smallest trigger that sends clean images to a label, by gradient descent (Wang et al., 2019)."""
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice

import torch
import torch.nn.functional as F

from common.errors import UserError
from data.batches import Batches, send
from data.image_set import ImageSet
from data.triggers import PatternTrigger
from engine.measuring.evaluation import evaluation_batch, frozen
from engine.measuring.progress import progress
from models.folding import folded

SUCCESS, PATIENCE, LR = 0.99, 25, 0.1  # of a search, unless others are given


@dataclass
class NormWeight:
    """lambda, the weight of the mask's norm: 0 until the trigger works, then raised while it works, lowered while it
    does not.

    After `patience` successes in a row it becomes `initial`. From then on every `patience` successes in a row multiply
    it by `factor`, and every `patience` failures in a row divide it by factor**1.5.
    """

    initial: float = 1e-3
    factor: float = 2.0
    patience: int = 5
    value: float = 0.0
    successes: int = 0
    failures: int = 0
    was_raised: bool = False
    was_lowered: bool = False

    def update(self, success: bool) -> None:
        """Record whether one more step reached the success threshold."""
        self.successes, self.failures = (self.successes + 1, 0) if success else (0, self.failures + 1)
        if self.successes == self.patience:
            self.was_raised = self.was_raised or self.value > 0
            self.value, self.successes = self.value * self.factor or self.initial, 0
        elif self.failures == self.patience:
            self.was_lowered = self.was_lowered or self.value > 0
            self.value, self.failures = self.value / self.factor**1.5, 0


@dataclass
class Search:
    """The search for one label's trigger: the optimized parameters, and the smallest mask that has worked so far."""

    label: int
    theta_mask: torch.Tensor  # (1, H, W)
    theta_pattern: torch.Tensor  # (3, H, W)
    weight: NormWeight = field(default_factory=NormWeight)
    norm: float = math.inf
    mask: torch.Tensor | None = None
    pattern: torch.Tensor | None = None
    success: float = math.nan
    steps: int = 0
    stale: int = 0  # steps since the norm last fell

    @classmethod
    def start(cls, label: int, size: Sequence[int], generator: torch.Generator | None,
              device: torch.device) -> "Search":
        """Start from a mask and a pattern of uniform noise. size: (H, W) of the images."""
        thetas = (torch.rand(channels, *size, generator=generator) for channels in (1, 3))
        return cls(label, *(torch.atanh((2 * theta - 1) * (1 - 1e-6)).to(device).requires_grad_() for theta in thetas))

    def trigger(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(mask (1, H, W), pattern (3, H, W)) in [0, 1]."""
        return torch.tanh(self.theta_mask) / 2 + 0.5, torch.tanh(self.theta_pattern) / 2 + 0.5

    def note(self, success: float, threshold: float, ends: Sequence[tuple], norms: Sequence[float]) -> None:
        """Record a step in which a share `success` of the images reached the label.

        ends: the (mask, pattern) at the beginning and at the end of the step. norms: of the two masks, as floats.
        """
        norm, (mask, pattern) = max(zip(norms, ends, strict=True), key=lambda end: end[0])
        self.steps, self.stale = self.steps + 1, self.stale + 1
        if success >= threshold and norm < self.norm:
            self.norm, self.mask, self.pattern, self.success, self.stale = norm, mask, pattern, success, 0
        self.weight.update(success >= threshold)

    def is_done(self, patience: int) -> bool:
        """Whether the weight has been raised and lowered and the norm has not fallen for `patience` steps."""
        return self.weight.was_raised and self.weight.was_lowered and self.stale >= patience


def snapshot(searches: Sequence[Search]) -> tuple[list, torch.Tensor]:
    """[(mask, pattern)] of the searches at this moment, and the norms of their masks (L,), all on the device."""
    triggers = [[part.detach().clone() for part in search.trigger()] for search in searches]
    return triggers, torch.stack([mask for mask, _ in triggers]).sum((1, 2, 3))


def loss_and_hits(model: torch.nn.Module, images: torch.Tensor,
                  searches: Sequence[Search]) -> tuple[torch.Tensor, torch.Tensor]:
    """Summed loss of the searches on `images` (B, 3, H, W), and how many images each sends to its label (L,).

    The loss of a search is the mean cross-entropy to its label plus lambda times its mask's L1 norm. The sum gives each
    search its own gradients, since the searches share no parameters.
    """
    masks, patterns = (torch.stack(parts)[:, None] for parts in zip(*(search.trigger() for search in searches),
                                                                   strict=True))
    stamped = ((1 - masks) * images + masks * patterns).flatten(0, 1).contiguous(memory_format=torch.channels_last)
    labels = send(torch.tensor([search.label for search in searches]), images.device).repeat_interleave(len(images))
    logits = model(stamped)
    weights = send(torch.tensor([search.weight.value for search in searches]), images.device)
    loss = F.cross_entropy(logits, labels, reduction="sum") / len(images) + (weights * masks.sum((1, 2, 3, 4))).sum()
    return loss, (logits.argmax(1) == labels).view(len(searches), -1).sum(1)


def reverse_triggers(model: torch.nn.Module, batches: Batches, in_a_step: int, labels: Iterable[int], budget: int,
                     threshold: float = SUCCESS, patience: int = PATIENCE, lr: float = LR,
                     generator: torch.Generator | None = None) -> list[Search]:
    """The Search of each label (Wang et al., 2019, eq. 3), optimized together on the same clean images.

    A step is the first `in_a_step` batches of a shuffled pass over `batches`; at most `budget` steps are made. Of each
    step's first and last mask the larger is kept, since the success is counted over all masks between them. As many
    labels go through the network at once as is fastest on the device; a finished label does not stop the others. The
    model's weights get no gradients, and its batch norms are folded. Raises UserError for a loss that is not finite.
    """
    device, size = batches.device, batches.images.shape[1:3]
    searches = [Search.start(label, size, generator, device) for label in labels]
    optimizer = torch.optim.Adam([theta for s in searches for theta in (s.theta_mask, s.theta_pattern)], lr, (0.5, 0.9))
    at_once = max(1, evaluation_batch(device) // batches.batch_size)
    with frozen(folded(model)) as quick:
        for _ in progress(range(budget), "reverse"):
            active = [search for search in searches if not search.is_done(patience)]
            if not active:
                break
            began, norms_before = snapshot(active)
            hits = torch.zeros(len(active), dtype=torch.int64, device=device)
            seen, is_finite = 0, torch.ones((), dtype=torch.bool, device=device)
            for images, _ in islice(batches, in_a_step):
                seen += len(images)
                optimizer.zero_grad()
                for start in range(0, len(active), at_once):
                    loss, own = loss_and_hits(quick, images, active[start:start + at_once])
                    loss.backward()
                    hits[start:start + at_once] += own
                    is_finite &= torch.isfinite(loss.detach())
                optimizer.step()
            ended, norms_after = snapshot(active)
            columns = [hits, norms_before, norms_after, is_finite.expand(len(active))]
            # One table: each separate read would make a GPU wait.
            rows = torch.stack([column.double() for column in columns], 1).tolist()
            if not rows[0][-1]:
                raise UserError("the model returned NaN; its weights may be damaged")
            for search, (count, *norms, _), *ends in zip(active, rows, began, ended, strict=True):
                search.note(count / seen, threshold, ends, norms)
    return searches


def smallest(by_seed: Iterable[Iterable[Search]]) -> dict[int, Search]:
    """{label: the Search of smallest norm over the seeds}, of the labels that any seed found a trigger for."""
    best = {}
    for search in (search for searches in by_seed for search in searches if math.isfinite(search.norm)):
        if search.label not in best or search.norm < best[search.label].norm:
            best[search.label] = search
    return best


def as_trigger(search: Search) -> PatternTrigger:
    """A Search's result as a PatternTrigger with unrounded mask and pattern."""
    mask, pattern = (part.permute(1, 2, 0).cpu().numpy().clip(0, 1) for part in (search.mask, search.pattern))
    return PatternTrigger(255 * pattern, mask, 1.0, search.label)


def check_clean_images(defender: ImageSet, least: int = 0) -> None:
    """UserError unless Neural Cleanse can work: three labels, clean images of every one, and at least `least`."""
    if defender.num_classes < 3:
        raise UserError(f"{defender.num_classes} classes: the outlier test has no meaning for fewer than 3 labels")
    if len(defender) < least:
        raise UserError(f"{len(defender)} clean images to search on, and a step takes {least}")
    missing = sorted(set(range(defender.num_classes)) - set(defender.targets.tolist()))
    if missing:
        raise UserError(f"no clean image of the class {defender.classes[missing[0]]} among the defender's "
                        f"{len(defender)}: Neural Cleanse needs some of every class")
