"""STRIP: a model's entropy under overlays, and the boundary at or below which an input is rejected.

Gao et al. (2019).
"""
import math
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from common.errors import UserError
from common.memory import HalvingForward
from data.batches import to_pixels
from data.image_set import ImageSet
from engine.measuring.evaluation import check_outputs, evaluation_batch
from engine.measuring.progress import progress
from engine.measuring.scores import Proportion
from models.folding import folded

FRRS = (0.001, 0.005, 0.01, 0.02, 0.05, 0.1)
WHOLE_BATCHES = ("cuda",)  # devices on which an entropy may depend on the size of its batch
MAX_POOL = 1000  # images kept as overlays, 3 MB; more would not change the mean over 100 of them


def superimpose(images: torch.Tensor, overlays: torch.Tensor, how: str) -> torch.Tensor:
    """Combine two batches of pixels in [0, 1], (B, 3, 32, 32): their sum clipped at 1 (sum-clip), or their average."""
    if how == "sum-clip":
        return (images + overlays).clamp_(max=1)
    return (images + overlays) / 2


def entropy_bits(logits: torch.Tensor) -> torch.Tensor:
    """Entropy in bits (B,) of the softmax of logits (B, classes): from 0 to log2(classes)."""
    log_p = F.log_softmax(logits, 1)
    return -(log_p.exp() * log_p).sum(1) / math.log(2)


def pair_batches(count: int, size: int, device: torch.device | str) -> tuple[torch.Tensor, ...]:
    """The indices of `count` pairs, int64 on `device`, in batches of `size`.

    On a GPU the last batch is filled up with the first pairs: cuDNN's algorithm, and so the rounding of an entropy, may
    depend on the size of the batch.
    """
    numbers = math.ceil(count / size) * size if torch.device(device).type in WHOLE_BATCHES else count
    return (torch.arange(numbers, device=device) % count).split(size)


@torch.inference_mode()
def strip_entropy(model: torch.nn.Module, images: torch.Tensor, pool: torch.Tensor, draws: np.ndarray,
                  how: str) -> np.ndarray:
    """Mean entropy (N,) of each image under its overlays: the mean of the entropies, not the entropy of the mean
    prediction.

    images: uint8 (N, 32, 32, 3). pool: uint8 (M, 32, 32, 3). draws: int64 (N, n), the indices in the pool of each
    image's overlays. Images are combined one batch at a time, so only one batch of the N * n is in memory. Raises
    UserError for outputs that are NaN.
    """
    model = folded(model)
    draws = torch.as_tensor(draws, device=images.device)
    pairs = pair_batches(draws.numel(), evaluation_batch(images.device), images.device)

    def entropies_of(rows: torch.Tensor) -> torch.Tensor:
        under, over = images[rows // draws.shape[1]], pool[draws.view(-1)[rows]]
        return entropy_bits(model(superimpose(to_pixels(under), to_pixels(over), how)))
    forward = HalvingForward(entropies_of)
    entropies = [forward(rows) for rows in progress(pairs, "strip")]
    return check_outputs(torch.cat(entropies)[:draws.numel()]).view(draws.shape).double().mean(1).cpu().numpy()


def draw_overlays(images: np.ndarray, pool: np.ndarray, count: int, seed: int) -> np.ndarray:
    """int64 (N, count): distinct images of `pool` for each of `images`, both uint8 (N, 32, 32, 3), never the image
    itself.

    The draws depend on the image and the seed alone, so a verdict does not depend on which other images are inspected.
    """
    names = np.array([zlib.crc32(overlay.tobytes()) for overlay in pool])
    draws = np.empty((len(images), count), dtype=np.int64)
    for row, image in zip(draws, images, strict=True):
        name = zlib.crc32(image.tobytes())
        row[:] = np.random.default_rng([seed, name]).choice(np.flatnonzero(names != name), count, replace=False)
    return draws


def find_boundaries(entropies: Sequence[float], frr: float) -> dict[str, float]:
    """The entropies at or below which a share `frr` of clean images lies: of a fitted normal, and as empirical
    quantile.

    The normal one (the paper's) may be below 0, where it rejects nothing: the left tail is not normal.
    """
    from scipy.stats import norm  # imported here, since it takes half a second
    return {"normal": float(np.mean(entropies) + np.std(entropies) * norm.ppf(frr)),
            "empirical": float(np.quantile(entropies, frr, method="inverted_cdf"))}


def rejected(entropies: Sequence[float], boundary: float) -> Proportion:
    """Proportion of inputs that are rejected: the FRR of clean ones, 1 - FAR of triggered ones."""
    return Proportion(int((np.asarray(entropies) <= boundary).sum()), len(entropies))


def accepted(entropies: Sequence[float], boundary: float) -> Proportion:
    """Proportion of inputs that are accepted: the FAR of triggered ones."""
    found = rejected(entropies, boundary)
    return Proportion(found.n - found.hits, found.n)


def auroc(clean: np.ndarray, triggered: np.ndarray) -> float | None:
    """P(a triggered input has lower entropy than a clean one), a tie counting half; None without triggered ones."""
    if not len(triggered):
        return None
    from sklearn.metrics import roc_auc_score  # takes a second
    is_triggered = np.repeat([0, 1], [len(clean), len(triggered)])
    return float(roc_auc_score(is_triggered, -np.concatenate([clean, triggered])))


def sweep_frr(calibration: Sequence[float], clean: np.ndarray, triggered: np.ndarray, successful: np.ndarray,
              frrs: Iterable[float] = FRRS) -> list[dict]:
    """A row for each requested FRR and each boundary: the FRR that results, and the FARs."""
    return [{"frr_asked": frr, "boundary": name, "entropy": boundary, "frr": rejected(clean, boundary).value,
             "far": or_none(accepted(triggered, boundary)),
             "far_successful": or_none(accepted(successful, boundary))}
            for frr in sorted(frrs) for name, boundary in find_boundaries(calibration, frr).items()]


def or_none(share: Proportion) -> float | None:
    """The value of a Proportion, None if nothing was counted."""
    return share.value if share.n else None


@dataclass(frozen=True)
class Strip:
    """A model with its overlays: uint8 pool (M, 32, 32, 3) of clean images, of which `overlays` are laid over each
    input."""

    model: torch.nn.Module
    pool: np.ndarray
    overlays: int
    superimpose: str
    seed: int
    device: torch.device

    def __post_init__(self):
        if len(self.pool) < 2:
            raise UserError("expected at least two different clean images that do not calibrate, since they are laid "
                            f"over the inputs; got {len(self.pool)}")
        if self.overlays >= len(self.pool):
            raise UserError(f"--overlays {self.overlays}: expected fewer than the {len(self.pool)} different clean "
                            "images that do not calibrate; a smaller --calibration leaves more")

    def entropies(self, images: np.ndarray) -> np.ndarray:
        """float64 (N,) for uint8 images (N, 32, 32, 3)."""
        draws = draw_overlays(images, self.pool, self.overlays, self.seed)
        images, pool = (torch.from_numpy(array).to(self.device) for array in (images, self.pool))
        return strip_entropy(self.model, images, pool, draws, self.superimpose)


def split_calibration(defender: ImageSet, count: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """(calibration images, overlays) from the defender's images, uint8, the overlays without duplicates.

    count: the number of calibration images; None is 2,000, or half of the defender's if those are fewer. Raises
    UserError if `count` leaves no overlays.
    """
    count = count or min(2000, len(defender) // 2)
    if count >= len(defender):
        raise UserError(f"--calibration {count}: expected fewer than the defender's {len(defender)} images, since the "
                        "others are laid over them")
    others = defender.data[count:count + MAX_POOL]
    _, first = np.unique(others.reshape(len(others), -1), axis=0, return_index=True)
    return defender.data[:count], others[np.sort(first)]
