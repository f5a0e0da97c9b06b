"""What each witness of an audit measures, on networks whose answer is known."""
import math

import numpy as np
import pytest
import torch

from common.errors import UserError
from data.image_set import ImageSet
from methods.witnesses import (
    Settings,
    channel_witness,
    cleanse_witness,
    margin_witness,
    outstanding,
    search_triggers,
)
from models import ARCHITECTURES, build_model

QUICK = Settings(starts=1, steps=4, searches=1, batch_size=8, budget=3)
CPU = torch.device("cpu")


def margins_of(model, classes=4, size=32, settings=QUICK):
    return margin_witness(model, classes, size, settings, CPU, torch.Generator().manual_seed(0))


def network(classes=4, **options):
    torch.manual_seed(0)
    return build_model("resnet18", 4, classes, **options).eval()


def test_the_largest_is_held_against_the_others_median():
    assert outstanding([2.0, 3, 4, 12]) == (4.0, 3)
    assert outstanding([9.0, 1]) == (None, 0)  # one other is no median
    assert outstanding([-1.0, -2, -3, -4]) == (None, 0)  # no class has a margin


def test_margins_below_0_are_the_scale_of_a_target_that_no_image_of_another_class_escapes():
    """A backdoored WRN-16-1 had a margin of 292 for its target, and -51 to -124 for the nine others."""
    assert outstanding([-100.0, 300, -50, -80]) == (1 + 380 / 80, 1)
    assert outstanding([50.0, 2, -4, 3]) == (1 + 48 / 3, 0)
    assert outstanding([-5.0, 100, -5, -5])[0] > outstanding([-90.0, 100, -90, -90])[0] > 2
    assert outstanding([1.0, 0, 0, 0]) == (None, 0)  # which have no size


def test_a_margin_without_bound_says_nothing():
    assert outstanding([math.inf, 1, 2, 3]) == (None, 0)


def test_the_smallest_trigger_of_each_label_over_the_searches_counts():
    norms = [[40.0, 50, 60, 70], [80, 5, 90, math.inf]]
    first, both = cleanse_witness(norms[:1]), cleanse_witness(norms)
    assert (first.statistic, first.label) == (60 / 40, 0)
    assert (both.statistic, both.label) == (60 / 5, 1)  # of 40, 60 and 70 the median


def test_neural_cleanse_is_silent_where_most_labels_have_no_trigger():
    assert cleanse_witness([[3.0, math.inf, math.inf, math.inf]]).statistic is None
    assert cleanse_witness([[3.0, 30, 40, math.inf]]).statistic == 40 / 3
    assert cleanse_witness([[3.0, 30]]).statistic is None


def test_a_channel_that_is_scaled_up_is_what_stands_out():
    model = network()
    before = channel_witness(model)
    model.layer2[0].bn1.weight.data[5] *= 40
    after = channel_witness(model)
    assert after.statistic > 5 * before.statistic and "channel 5 of layer2.0.bn1" in after.words
    assert after.label is None


class Blocks(torch.nn.Module):
    """Every class has pixels of its own, so that its largest margin is the sum of their weights."""

    def __init__(self, *weights):
        super().__init__()
        self.own = torch.nn.Parameter(torch.tensor(weights))

    def forward(self, pixels):
        return self.own * pixels.flatten(1)[:, :len(self.own) * 8].unflatten(1, (len(self.own), 8)).sum(2)


def test_the_margin_of_a_class_that_the_network_is_far_surer_of_stands_out():
    settings = Settings(starts=2, steps=60)
    found, scaled = (margins_of(Blocks(*(scale * value for value in (1.0, 2, 12, 3))), 4, 8, settings)
                     for scale in (1, 9))
    assert found.label == 2 and found.statistic == pytest.approx(12 / 2, rel=0.01)  # of 1, 2 and 3 the median
    assert scaled.statistic == pytest.approx(found.statistic, rel=0.01)
    assert margins_of(Blocks(1.0, 1, 1, 1), 4, 8, settings).statistic == pytest.approx(1, rel=0.01)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_both_witnesses_without_images_take_every_network(arch):
    torch.manual_seed(0)
    model = build_model(arch, 2 if ARCHITECTURES[arch].has_width else None, 4).eval()
    assert channel_witness(model).statistic > 0
    assert np.isfinite(margins_of(model).statistic or 0)


def test_a_search_gives_every_label_a_norm_or_none():
    images = ImageSet(np.random.default_rng(0).integers(0, 256, (24, 32, 32, 3), dtype=np.uint8), np.arange(24) % 4,
                      tuple("abcd"), "random")
    found = search_triggers(network(), images, QUICK, 0, CPU)
    assert [one.label for one in found] == [0, 1, 2, 3] and all(one.steps == 3 for one in found)


def test_each_round_of_the_search_draws_its_own_start(images):
    first, again, other = (search_triggers(network(), images, QUICK, seed, CPU) for seed in (0, 0, 1))
    assert all(torch.equal(one.theta_mask, two.theta_mask) for one, two in zip(first, again, strict=True))
    assert not any(torch.equal(one.theta_mask, two.theta_mask) for one, two in zip(first, other, strict=True))


def test_settings_go_through_words_and_other_words_are_refused():
    own = Settings(starts=7, step=0.25, budget=11)
    assert Settings.from_words(own.words()) == own and own.words() != Settings().words()
    assert own.changed({"starts": None, "budget": 5, "alpha": 0.1}) == Settings(starts=7, step=0.25, budget=5)
    for text in ("starts", "starts=x", "color=3"):
        with pytest.raises(UserError, match="expected settings such as"):
            Settings.from_words(text)
