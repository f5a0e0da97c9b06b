"""Screening of a user's own images with a stored calibration: each is accepted or rejected."""
import csv
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from common.errors import UserError
from common.files import hash_file, write_array, write_json
from common.untrusted import is_count, is_number, is_text, read_array, read_object, sound_fields
from data.image_folder import read_image

AT_ONCE = 1000  # images in memory
OVERLAYS = "overlays.npy"


@dataclass(frozen=True)
class Calibration:
    """What screening needs: strip.json, and beside it the pool of overlays."""

    checkpoint: str  # hash of the model's file
    overlays: int
    superimpose: str
    seed: int
    frr: float
    boundary: str
    entropies: list  # of its clean images, so that another FRR can be chosen later
    input: dict  # {flag: value or None}: how the model was fed, where its file does not say it
    pool: np.ndarray  # uint8 (M, S, S, 3)


# The fields of strip.json with the type and range of each, so that a damaged file is an error and not a verdict
FIELDS = {"checkpoint": is_text,
          "overlays": lambda value: is_count(value) and value >= 1,
          "superimpose": lambda value: value in ("sum-clip", "average"),
          "seed": is_count,
          "frr": lambda value: isinstance(value, float) and 0 < value <= 0.5,
          "boundary": lambda value: value in ("empirical", "normal"),
          "input": lambda value: isinstance(value, dict),
          "entropies": lambda value: isinstance(value, list) and len(value) > 0 and all(map(is_number, value))}


def write_calibration(folder: Path, calibration: Calibration) -> None:
    """Write overlays.npy and strip.json into `folder`."""
    write_array(folder / OVERLAYS, calibration.pool)
    stored = asdict(calibration)
    write_json(folder / "strip.json", {name: stored[name] for name in FIELDS})


def read_calibration(path: str, checkpoint: str) -> Calibration:
    """The Calibration in strip.json at `path`. Raises UserError if it is missing, damaged, or of another model."""
    try:
        found = {"input": {}, **read_object(path)}  # which older ones do not have
        found = {name: found[name] for name in FIELDS}
    except (OSError, ValueError, KeyError) as error:
        why = getattr(error, "strerror", None) or str(error)[:200]
        raise UserError(f"{path}: expected a calibration ({why}); defenses.strip without --images makes "
                        "one") from None
    stored = sound_fields(found, FIELDS)
    if stored != found:
        bad = [name for name in found if name not in stored]
        raise UserError(f"{path}: damaged ({', '.join(bad)}); defenses.strip without --images makes a new one")
    pool = read_array(Path(path).with_name(OVERLAYS))
    if stored["checkpoint"] != hash_file(checkpoint):
        raise UserError(f"{path}: expected a calibration of {checkpoint}, got one of another model")
    is_square = pool.ndim == 4 and pool.shape[1] == pool.shape[2] > 0 and pool.shape[3] == 3
    if pool.dtype != np.uint8 or not is_square or len(pool) <= stored["overlays"]:
        raise UserError(f"{path}: its {OVERLAYS} is damaged; defenses.strip without --images makes both again")
    return Calibration(**stored, pool=pool)


def screen(paths: Iterable[Path], entropies_of: Callable[[np.ndarray], np.ndarray], boundary: float,
           image_size: int) -> int:
    """Print a CSV row for each image file: path, entropy, verdict and, if it cannot be read, the reason.

    entropies_of: uint8 images (N, S, S, 3) -> entropies (N,). image_size: S, to which images are resized. An entropy of
    at most `boundary` is rejected. Returns the exit status: 1 if any image is rejected, otherwise 2 if any cannot be
    read, otherwise 0.
    """
    sys.stdout.reconfigure(errors="surrogateescape")  # a file name may not be valid text
    writer, counts = csv.writer(sys.stdout, lineterminator="\n"), {"accepted": 0, "rejected": 0, "error": 0}
    resized = 0
    writer.writerow(["path", "entropy", "verdict", "error"])
    remaining = iter(paths)
    while chunk := list(islice(remaining, AT_ONCE)):
        images, errors, of_other_size = read_images(chunk, image_size)
        resized += of_other_size
        entropies = dict(zip(images, entropies_of(np.stack(list(images.values()))), strict=True)) if images else {}
        for path in chunk:
            verdict = "error" if path in errors else "rejected" if entropies[path] <= boundary else "accepted"
            counts[verdict] += 1
            writer.writerow([path, f"{entropies[path]:.6f}" if path in entropies else "", verdict,
                             errors.get(path, "")])
    print(f"boundary {boundary:.4f}: {', '.join(f'{count} {name}' for name, count in counts.items())}; {resized} "
          f"resized to {image_size}x{image_size}", file=sys.stderr)
    if boundary < 0:
        print("warning: the boundary is below 0, so it rejects nothing", file=sys.stderr)
    return 1 if counts["rejected"] else 2 if counts["error"] else 0


def read_images(paths: Sequence[Path], image_size: int) -> tuple[dict, dict, int]:
    """({path: uint8 (S, S, 3)}, {path: why it cannot be read}, the number resized to image_size, S)."""
    images, errors, resized = {}, {}, 0
    for path in paths:
        try:
            images[path], had_other_size = read_image(path, image_size)
            resized += had_other_size
        except UserError as error:
            errors[path] = str(error)
    return images, errors, resized
