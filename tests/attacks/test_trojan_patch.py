import json

import numpy as np
import pytest
import torch
from helpers.paths import SIDE, SMALL
from helpers.reporting import missing_figures
from PIL import Image
from torch import nn

from attacks.trojan_patch import activation_of, choose_neurons, excite, lay, main, read_mask, square
from common.errors import UserError
from data.datasets import load_splits
from data.triggers import read_trigger_image
from engine.measuring.evaluation import frozen
from engine.weights.checkpoint import load_trigger
from models import build_model
from train_backdoor import main as train


class Reading(nn.Module):
    """Two features that are linear in pixels (B, 3, 6, 6), and a last layer."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.head = nn.Linear(108, 2), nn.Linear(2, 3)

    def forward(self, x):
        return self.head(self.first(x.flatten(1)))


def corner(size, side):
    mask = torch.zeros(size, size)
    mask[-side:, -side:] = 1
    return mask


def test_neurons_are_chosen_by_their_weight_toward_the_target_with_its_sign():
    weight = torch.tensor([[0.5, -9.0, 1.0, 3.0], [0.0, 0.0, 0.0, 3.0], [0.0, 0.0, 0.0, 3.0]])
    neurons, weights = choose_neurons(weight, 0, 2)
    assert neurons.tolist() == [2, 0] and weights.tolist() == [1.0, 0.5]  # 3 raises all logits alike, 1 speaks against
    with pytest.raises(UserError, match="--neurons 3: only 2 of the 4 features"):
        choose_neurons(weight, 0, 3)


def test_on_a_linear_layer_the_best_patch_is_the_sign_of_its_weights():
    model, mask = Reading(), corner(6, 3)
    images, start = torch.rand(4, 3, 6, 6), torch.rand(3, 6, 6)
    patch, _ = excite(model, torch.tensor([1]), images, mask, start, 100, 0.1)
    wanted = (model.first.weight[1].view(3, 6, 6) > 0).float()
    inside = mask.bool().expand(3, 6, 6)
    torch.testing.assert_close(patch[inside], wanted[inside])
    torch.testing.assert_close(patch[~inside], start[~inside])


def test_the_gradient_is_zero_outside_the_mask_and_the_images_stay_as_they_are_there():
    model, mask = build_model("resnet18", 2, 4).eval(), corner(32, 8)
    patch, images = torch.rand(3, 32, 32, requires_grad=True), torch.rand(2, 3, 32, 32)
    activation_of(model, torch.tensor([0, 3]), lay(patch, mask, images)).backward()
    assert (patch.grad[:, mask == 0] == 0).all() and (patch.grad[:, mask == 1] != 0).any()
    torch.testing.assert_close(lay(patch, mask, images)[..., mask == 0], images[..., mask == 0])
    torch.testing.assert_close(lay(patch, mask, images)[0][:, mask == 1], patch[:, mask == 1])
    torch.testing.assert_close(lay(patch, mask / 2, images)[0][:, mask == 1], (patch + images[0])[:, mask == 1] / 2)


def test_the_activation_rises_with_every_step_and_is_that_of_the_patch():
    torch.manual_seed(1)
    model, mask, images = build_model("resnet18", 2, 4), corner(32, 8), torch.rand(4, 3, 32, 32)
    neurons, seen = torch.tensor([0, 3]), []
    with frozen(model):
        patch, best = excite(model, neurons, images, mask, torch.rand(3, 32, 32), 15, 0.1,
                             lambda done, activation: seen.append(activation))
        assert seen == sorted(seen) and best > seen[0] + 0.01
        assert float(activation_of(model, neurons, lay(patch, mask, images))) == pytest.approx(best, abs=1e-5)


def test_a_mask_is_a_square_or_any_picture_of_the_images_size(tmp_path):
    assert square(None, (32, 32)).sum() == 64 and square(3, (32, 40))[-3:, -3:].sum() == 9 == square(3, (32, 40)).sum()
    with pytest.raises(UserError, match="--patch-size 33: larger than the images of 32x32"):
        square(33, (32, 32))
    gray = np.zeros((32, 24), dtype=np.uint8)
    gray[2:4, 5], gray[7, 7] = 255, 51
    Image.fromarray(gray).save(tmp_path / "mask.png")
    mask = read_mask(tmp_path / "mask.png", (32, 24))
    np.testing.assert_allclose(mask, gray / 255)
    with pytest.raises(UserError, match="expected a picture of 32x32 pixels as the images are, got 24x32"):
        read_mask(tmp_path / "mask.png", (32, 32))
    Image.fromarray(0 * gray).save(tmp_path / "empty.png")
    with pytest.raises(UserError, match="black, its lightest pixel has level 0 of 255"):
        read_mask(tmp_path / "empty.png", (32, 24))
    Image.fromarray((gray > 0).astype(np.uint8)).save(tmp_path / "ones.png")
    with pytest.raises(UserError, match="its lightest pixel has level 1 of 255"):
        read_mask(tmp_path / "ones.png", (32, 24))


@pytest.mark.parametrize("alpha", [255, 51])
def test_what_a_mask_says_is_its_white_as_far_as_it_is_opaque(tmp_path, alpha):
    picture = np.zeros((32, 32, 4), dtype=np.uint8)
    picture[4:8, 4:8, :3], picture[..., 3] = 255, 255
    picture[6:8, 4:8, 3] = alpha
    Image.fromarray(picture).save(tmp_path / "mask.png")
    mask = read_mask(tmp_path / "mask.png", (32, 32))
    assert (mask > 0).sum() == 16 and (mask[4:6, 4:8] == 1).all()
    np.testing.assert_allclose(mask[6:8, 4:8], alpha / 255)


def test_a_mask_of_16_bits_is_that_of_8(tmp_path):
    levels = np.tile(np.arange(0, 256, 8, dtype=np.uint8), (32, 1))
    Image.fromarray(levels).save(tmp_path / "8.png")
    Image.fromarray(levels.astype(np.uint16) * 257).save(tmp_path / "16.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "8.png", (32, 32)), read_mask(tmp_path / "16.png", (32, 32)))


def test_more_neurons_than_speak_for_the_target_and_a_step_of_0_are_refused(small_run, tmp_path, refused):
    words = ["--dataset", "digits", "--checkpoint", small_run / "model_last.th", "--output-dir", tmp_path / "patch"]
    assert "speak for the target class" in refused(main, *words, "--neurons", "9999")
    assert "--step: expected more than 0" in refused(main, *words, "--step", "0")
    assert not (tmp_path / "patch").exists()


@pytest.fixture(scope="module")
def patched(small_run, tmp_path_factory):
    """The folder of a short search on a small digits model."""
    folder = tmp_path_factory.mktemp("trojan") / "patch"
    main(["--dataset", "digits", "--checkpoint", str(small_run / "model_last.th"), "--images", "10", "--steps", "6",
          "--print-every", "2", "--poison-target", "3", "--output-dir", str(folder)])
    return folder


def test_the_log_has_the_activation_before_along_the_way_and_after(patched):
    figures = json.loads((patched / "results.json").read_text())["method"]
    assert not missing_figures(patched)
    log = (patched / "output.log").read_text()
    assert len(figures["neurons"]) == 2 and figures["activation_after"] >= figures["activation_random"]
    for line in (f"before, without a patch: mean activation {figures['activation_before']:.4f}", "step 0:", "step 2:",
                 f"after: mean activation {figures['activation_after']:.4f}", "target class 3"):
        assert line in log
    rows = [json.loads(line) for line in (patched / "metrics.jsonl").read_text().splitlines()]
    assert rows[0] == {"step": 0, "activation": pytest.approx(figures["activation_random"], abs=1e-5)}
    pattern, mask = read_trigger_image(patched / "patch.png", (SIDE, SIDE))
    assert mask.sum() == 16 and (mask[-4:, -4:] == 1).all() and (pattern[:-4] == 0).all()


def test_training_takes_the_patch_as_a_picture_and_changes_labels(patched, tmp_path, refused):
    words = [*SMALL, "--poison-type", "trojan", "--poison-target", "3", "--output-dir", str(tmp_path / "run")]
    train([*words, "--patch", str(patched / "patch.png")])
    method = json.loads((tmp_path / "run/results.json").read_text())["method"]
    assert method["poisoned"] == int(0.1 * method["candidates"])
    clean = load_splits("digits", "", image_size=SIDE)[0].data[:4]
    stamped = load_trigger(tmp_path / "run/trigger_info.th").stamp(clean)
    pattern, _ = read_trigger_image(patched / "patch.png", (SIDE, SIDE))
    np.testing.assert_array_equal(stamped[:, -4:, -4:], np.broadcast_to(pattern[-4:, -4:], (4, 4, 4, 3)))
    np.testing.assert_array_equal(stamped[:, :-4], clean[:, :-4])
    error = refused(train, *words[:-1], tmp_path / "other", "--patch", tmp_path / "nowhere/patch.png")
    assert "no such file; first run: " in error and "attacks.trojan_patch" in error
