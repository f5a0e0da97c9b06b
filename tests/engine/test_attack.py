import logging
from argparse import Namespace

import numpy as np
import pytest

from common.errors import UserError
from common.untrusted.weights import read_tensors
from data.poison_cifar import poison
from data.triggers import COVERS_IMAGE, build_trigger
from engine.attacking.attack import check_batch_shares, load_accepted, poisoned_shares, start_attack
from engine.weights.checkpoint import save


@pytest.mark.parametrize("attack, alpha, covers", [("badnets", None, False), ("blend", 1.0, True)])
def test_an_attack_starts_with_its_trigger_on_disk_and_the_number_of_poisoned_images_in_the_log(
        attack, alpha, covers, images, tmp_path, caplog):
    trigger = build_trigger(attack, 1, alpha)
    poisoned, chosen = poison(images, trigger, 0.5, seed=3)
    with caplog.at_level(logging.INFO, "backdoor"):
        shares = start_attack(Namespace(folder=tmp_path), poisoned, trigger)
    assert shares == poisoned_shares(poisoned, trigger)
    assert "target class 1 (b)" in caplog.text
    assert "poisoned 15 images: 0.3750 of the 40 training images, 0.5000 of the 30 candidates" in caplog.text
    warned = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warned == ([COVERS_IMAGE] if covers else [])
    info = read_tensors(tmp_path / "trigger_info.th")
    assert np.array_equal(info["data_index"], np.sort(chosen)) and info["poison_target"] == 1


def test_a_share_of_a_batch_is_of_the_whole_set_where_that_is_smaller_than_a_batch():
    args = Namespace(batch_size=128, poison_rate=0.1, noise_rate=0.0)
    check_batch_shares(args, 10, ("poison_rate", "noise_rate"))
    with pytest.raises(UserError, match=r"--poison-rate 0\.1: not one image of a batch of 9$"):
        check_batch_shares(args, 9, ("poison_rate", "noise_rate"))


@pytest.mark.parametrize(("said", "warned"), [({"accepted": True}, False), ({"accepted": False}, True), ({}, True)])
def test_an_encoder_that_does_not_say_that_it_was_accepted_is_warned_of(said, warned, tmp_path, caplog):
    save(tmp_path / "encoder.th", {"encoder": {}, "decoder": {}, **said})
    assert load_accepted(tmp_path / "encoder.th").get("accepted") is said.get("accepted")
    assert ("was not accepted when it was trained" in caplog.text) == warned
