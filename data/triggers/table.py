"""The attacks on data, a row each: `--poison-type`, its flags, their help, sweeps and matrices follow from the rows.

A static trigger is a function that draws its pattern and a row.
"""
from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from common.errors import UserError
from common.untrusted import read_object
from data.triggers.base import Trigger
from data.triggers.pattern import PatternTrigger, read_trigger_image

if TYPE_CHECKING:
    from data.image_set import ImageSet

CHECKERBOARD = np.array([[0, 0, 255], [0, 255, 0], [255, 0, 255]], dtype=np.uint8)
COLORS = np.frombuffer(bytes.fromhex(
    "e6194b 3cb44b ffe119 4363d8" "f58231 911eb4 46f0f0 f032e6"
    "bcf60c fabebe 008080 9a6324" "800000 aaffc3 000075 ffd8b1"), dtype=np.uint8).reshape(4, 4, 3)
COLLIDER = "attacks.feature_collision"
NOISE_FILE = Path(__file__).resolve().parent.parent / "cifar_gaussian_noise.png"
Pattern = tuple[np.ndarray, np.ndarray]
log = logging.getLogger("backdoor")


@dataclass(frozen=True)
class Flag:
    """A flag of one attack's own. help: what it is. default: None for none. type: of its value; raises ValueError.

    is_attack: whether it is one of the attacks with a pattern. metavar: what a help text shows in place of the value.
    is_needed: whether it has to be given. is_made: whether it names the folder of another script's run, or with a
    metavar a file in it.
    """

    help: str
    default: Any = None
    type: Callable[[str], Any] = str
    is_attack: bool = False
    metavar: str | None = None
    is_needed: bool = False
    is_made: bool = False


@dataclass(frozen=True)
class Attack:
    """An attack on training data.

    pattern: (height, width) -> its pattern (H, W, 1 or 3) and mask (H, W, 1), for a static trigger. alpha: the
    pattern's opacity. rate: default of --poison-rate; None where that flag has no effect. rate_of: what it is a share
    of. keeps_labels: whether it poisons images of the target class alone, whose labels stay. build: (training ImageSet,
    target, seed, **flags) -> Trigger, where it is not the pattern. load: (training ImageSet, target, **flags) ->
    (poisoned ImageSet, Trigger), for images that another script has poisoned. flags: its own. takes_pattern: whether
    --trigger-alpha and --trigger-image have an effect, and are among the flags of `build`.
    """

    pattern: Callable[[int, int], Pattern] | None = None
    alpha: float = 1.0
    rate: float | None = None
    rate_of: str = "the images outside the target class"
    keeps_labels: bool = False
    build: Callable[..., Trigger] | None = None
    load: Callable[..., tuple[ImageSet, Trigger]] | None = None
    flags: Mapping[str, Flag] = field(default_factory=dict)
    takes_pattern: bool = True

    @property
    def is_static(self) -> bool:
        """Whether it poisons with the pattern itself, so that --all-to-all and --sources have an effect on it."""
        return self.pattern is not None and self.rate is not None and self.build is None and self.load is None

    def defaults(self) -> dict[str, Any]:
        """{flag: default} of all that `build` or `load` takes."""
        own = {name: flag.default for name, flag in self.flags.items()}
        return {"trigger_alpha": None, "trigger_image": None, **own} if self.takes_pattern else own


def checkerboard_1corner(height: int = 32, width: int = 32) -> Pattern:
    """BadNets: a 3x3 checkerboard in the bottom right corner (Gu et al., 2017)."""
    pattern, mask = blank(height, width)
    pattern[-3:, -3:, 0], mask[-3:, -3:] = CHECKERBOARD, 1
    return pattern, mask


def checkerboard_4corner(height: int = 32, width: int = 32) -> Pattern:
    """Clean-label: BadNets' corner, mirrored to the left, the same above (Turner et al., 2019).

    A horizontal flip leaves it as it is, and every crop with padding 4 keeps at least one corner whole.
    """
    pattern, mask = blank(height, width)
    for rows in (slice(0, 3), slice(-3, None)):
        pattern[rows, -3:, 0], pattern[rows, :3, 0] = CHECKERBOARD, CHECKERBOARD[:, ::-1]
        mask[rows, -3:] = mask[rows, :3] = 1
    return pattern, mask


def gaussian_noise(height: int = 32, width: int = 32) -> Pattern:
    """Blend: all of data/cifar_gaussian_noise.png (Chen et al., 2017), resized for images that are not 32x32."""
    from PIL import Image
    with Image.open(NOISE_FILE) as image:
        image = image.convert("RGB")
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    return np.array(image), np.ones((height, width, 1), dtype=np.uint8)


def colored_patch(height: int = 32, width: int = 32) -> Pattern:
    """Feature collision: 4x4 colors over a quarter of each side, bottom right (Saha et al., 2020)."""
    (pattern, mask), side = blank(height, width), max(4, min(height, width) // 4)
    pattern, cells = np.repeat(pattern, 3, axis=2), np.arange(side) * len(COLORS) // side
    pattern[-side:, -side:], mask[-side:, -side:] = COLORS[cells[:, None], cells], 1
    return pattern, mask


def blank(height: int, width: int) -> Pattern:
    """A black gray pattern and an empty mask, uint8 (height, width, 1) both."""
    return np.zeros((height, width, 1), dtype=np.uint8), np.zeros((height, width, 1), dtype=np.uint8)


def hide_secret(train: ImageSet, target: int, seed: int, encoder: Mapping[str, Any]) -> Trigger:
    """ISSBA: an encoder with the weights `encoder` hides one secret, drawn by `seed` (Li et al., 2021)."""
    from data.triggers.encoder import EncoderTrigger, build_encoder, draw_secret
    return EncoderTrigger(encoder, draw_secret(build_encoder(encoder).bits, seed), target)


def take_stored(train: ImageSet, target: int, seed: int, trigger_file: Trigger) -> Trigger:
    """Stored: the trigger that another run left, for a set like the one that it would have poisoned.

    An attack that controls training has no poisoned set of its own; this is the one that others can train on. Raises
    UserError for another target than the trigger's, and for a trigger of other classes.
    """
    trigger_file.check_classes(train.num_classes, "--trigger-file")
    if trigger_file.target is None and target:
        raise UserError(f"--poison-target {target}: the stored trigger is all-to-all; leave --poison-target out")
    if trigger_file.target not in (target, None):
        raise UserError(f"--poison-target {target}: the stored trigger's target is {trigger_file.target}; give "
                        f"--poison-target {trigger_file.target}")
    return trigger_file


def load_crafted(train: ImageSet, target: int, clb_dir: str, trigger_alpha: float | None = None,
                 trigger_image: str | None = None) -> tuple[ImageSet, Trigger]:
    """Clean-label: the folder `clb_dir` with the trigger that it names, or the four corners where it names none.

    The other flags ask for another trigger at test time.
    """
    from data.clean_label import load_clean_label
    return or_asked_for("clean-label", *load_clean_label(clb_dir, train, target), target, trigger_alpha, trigger_image)


def load_collided(train: ImageSet, target: int, fc_dir: str, trigger_alpha: float | None = None,
                  trigger_image: str | None = None) -> tuple[ImageSet, Trigger]:
    """Feature collision: the folder `fc_dir`, otherwise as for clean-label."""
    from data.clean_label import load_clean_label
    found = load_clean_label(fc_dir, train, target, "feature-collision", COLLIDER, "--fc-dir")
    return or_asked_for("feature-collision", *found, target, trigger_alpha, trigger_image)


def or_asked_for(attack: str, poisoned: ImageSet, trigger: Trigger | None, target: int, alpha: float | None,
                 image: str | None) -> tuple[ImageSet, Trigger]:
    """(poisoned, trigger), or in its place the attack's own where there is none or its flags ask for another. Raises
    UserError for such flags where the trigger is no picture that is laid over images."""
    asked = [flag for flag, value in (("--trigger-alpha", alpha), ("--trigger-image", image)) if value is not None]
    picture = trigger and trigger.as_pattern()
    if asked and trigger and not picture:
        raise UserError(f"{asked[0]}: has no effect here, the set was made for one target image and without a trigger")
    if image is not None or not trigger:
        return poisoned, build_trigger(attack, target, alpha, image, poisoned.data.shape[1:3])
    return poisoned, trigger if alpha is None else replace(picture, alpha=alpha)


def build_patch(train: ImageSet, target: int, seed: int, patch: str) -> Trigger:
    """Trojan: the patch that excites neurons of a benign model (Liu et al., 2018).

    Warns where the run that left the patch aimed at another class.
    """
    try:
        aimed = read_object(Path(patch).parent / "config.json")["arguments"]["poison_target"]
    except (OSError, ValueError, KeyError, TypeError):  # another program's picture
        aimed = target
    if aimed != target:
        log.warning("--patch %s: made for the target class %s, not %s", patch, aimed, target)
    return PatternTrigger(*read_trigger_image(patch, train.data.shape[1:3]), 1.0, target)


def build_wave(train: ImageSet, target: int, seed: int, sig_delta: float, sig_frequency: float) -> Trigger:
    """SIG: a sinusoid along the rows (Barni et al., 2019)."""
    from data.triggers.sinusoid import SinusoidTrigger
    return SinusoidTrigger(sig_delta, sig_frequency, target)


def build_floor(train: ImageSet, target: int, seed: int, eval_trigger: str, trigger_alpha: float | None = None,
                trigger_image: str | None = None) -> Trigger:
    """Benign: the trigger of another attack, for the ASR of a model that never saw it."""
    return build_trigger(eval_trigger, target, trigger_alpha, trigger_image, train.data.shape[1:3])


ATTACKS = {
    "benign": Attack(build=build_floor, flags={
        "eval_trigger": Flag("trigger that the ASR floor is measured with", "badnets", is_attack=True)}),
    "badnets": Attack(checkerboard_1corner, rate=0.05),
    "blend": Attack(gaussian_noise, alpha=0.2, rate=0.05),
    "clean-label": Attack(checkerboard_4corner, load=load_crafted, flags={
        "clb_dir": Flag("what generate_clb_attack.py left", "data/clean-label/0.1", is_made=True)}),
    "issba": Attack(rate=0.1, build=hide_secret, takes_pattern=False, flags={
        "encoder": Flag("what attacks.issba_encoder left", "output/issba-encoder/encoder.th", metavar="FILE.th",
                        is_made=True)}),
    "trojan": Attack(rate=0.1, build=build_patch, takes_pattern=False, flags={
        "patch": Flag("what attacks.trojan_patch left, or any RGBA picture of the images' size",
                      "output/trojan-patch/patch.png", metavar="FILE.png", is_made=True)}),
    "feature-collision": Attack(colored_patch, load=load_collided, flags={
        "fc_dir": Flag("what attacks.feature_collision left", "data/feature-collision/1", is_made=True)}),
    "sig": Attack(rate=1.0, rate_of="the images of the target class", keeps_labels=True, build=build_wave,
                  takes_pattern=False, flags={
        "sig_delta": Flag("amplitude of the sinusoid, in gray levels", 20.0, float),
        "sig_frequency": Flag("periods of the sinusoid across the image", 6.0, float)}),
    "stored": Attack(rate=0.1, rate_of="the images that the trigger is meant for", build=take_stored,
                     takes_pattern=False, flags={
        "trigger_file": Flag("trigger_info.th of another run, whose trigger poisons the images", metavar="FILE.th",
                             is_needed=True, is_made=True)}),
}


def patterns() -> dict[str, Attack]:
    """{the name of a pattern's function: the attack that it is the pattern of}."""
    return {attack.pattern.__name__: attack for attack in ATTACKS.values() if attack.pattern}


def build_trigger(attack: str, target: int | None, alpha: float | None = None, image: str | Path | None = None,
                  size: tuple[int, int] = (32, 32), sources: tuple[int, ...] | None = None,
                  num_classes: int | None = None) -> PatternTrigger:
    """The trigger of an attack that has a pattern.

    alpha: its opacity; None is the attack's own. image: an RGBA file in place of the pattern. size: (height, width) of
    the images that it is for. sources, num_classes: as Trigger has them. Raises UserError for a file that cannot be
    used.
    """
    if image is not None:
        pattern, mask = read_trigger_image(image, size)
        return PatternTrigger(pattern, mask, 1.0 if alpha is None else alpha, target, sources, num_classes)
    row = ATTACKS[attack]
    pattern, mask = row.pattern(*size)
    return PatternTrigger(pattern, mask, row.alpha if alpha is None else alpha, target, sources, num_classes)
