import logging
from argparse import Namespace

import numpy as np
import pytest

from common.untrusted.weights import read_tensors
from data.poison_cifar import poison
from data.triggers import COVERS_IMAGE, build_trigger
from engine.attacking.attack import poisoned_shares, start_attack


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
