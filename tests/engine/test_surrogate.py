import logging

import numpy as np
import pytest
import torch
from helpers.readers import digits
from torch import nn

import generate_clb_attack
import train_backdoor
from attacks import feature_collision, issba_encoder, trojan_patch
from engine.measuring.surrogate import check_surrogate


class Always(nn.Module):
    """Calls every image `label`."""

    def __init__(self, label):
        super().__init__()
        self.label, self.nothing = label, nn.Parameter(torch.zeros(1))

    def forward(self, x):
        return nn.functional.one_hot(torch.full((len(x),), self.label), 10).float()


@pytest.mark.parametrize("label, warned", [(3, True), (0, False)])
def test_a_surrogate_that_is_right_on_none_of_the_images_is_warned_of(caplog, monkeypatch, label, warned):
    """The kind: a model that helps an attack with images that it does not know. One of another class for all of them,
    and one of one class for all classes, are no better than guessing."""
    monkeypatch.setattr(logging.getLogger("backdoor"), "propagate", True)
    images = digits()
    zeros = images.subset(images.targets == 0)
    caplog.clear()  # of what was read
    check_surrogate("benign.th", Always(label), zeros, "cpu")
    assert (f"benign.th: right on 0 of {len(zeros)} training images" in caplog.text) == warned
    assert {record.levelname for record in caplog.records} == ({"WARNING"} if warned else set())


def test_right_on_as_many_as_by_guessing_is_warned_of_and_on_one_more_is_not(caplog):
    images = digits()
    places = [np.flatnonzero(images.targets == label) for label in range(10)]
    even = np.concatenate([rows[:3] for rows in places])
    for rows, warned in ((even, True), (np.append(even, places[0][3]), False)):
        caplog.clear()
        check_surrogate("benign.th", Always(0), images.subset(rows), "cpu")
        assert bool(caplog.records) == warned


def test_every_script_that_takes_a_surrogate_warns_of_a_useless_one(learned_run, tmp_path):
    saved = torch.load(learned_run / "model_last.th", weights_only=True)
    for name in ("linear.weight", "linear.bias"):
        saved["state_dict"][name] *= -1  # the least likely class comes out first
    torch.save(saved, tmp_path / "model.th")
    flags = ["--checkpoint", str(tmp_path / "model.th"), "--dataset", "digits"]
    generate_clb_attack.main([*flags, "--no-pgd", "--output-dir", str(tmp_path / "clb")])
    trojan_patch.main([*flags, "--steps", "1", "--images", "4", "--output-dir", str(tmp_path / "patch")])
    feature_collision.main([*flags, "--iterations", "0", "--poison-rate", "0.1", "--output-dir", str(tmp_path / "fc")])
    with pytest.raises(SystemExit):
        issba_encoder.main([*flags, "--bits", "4", "--width", "2", "--epochs", "1", "--batch-size", "256",
                            "--output-dir", str(tmp_path / "encoder")])
    train_backdoor.main(["--start-from", *flags[1:], "--epochs", "1", "--output-dir", str(tmp_path / "tuned")])
    for run in ("clb", "patch", "fc", "encoder", "tuned"):
        assert "model.th: right on " in (tmp_path / run / "output.log").read_text()
