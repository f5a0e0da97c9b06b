"""Which run of fine-tuning alone a repair is set against."""
import json
import logging
from argparse import Namespace

import pytest
from helpers.reporting import share

from common.files import hash_file
from engine.defending.control import find_control, log_control

FLAGS = {"dataset": "digits", "val_frac": 0.05, "epochs": 20, "batch_size": 128, "lr": 0.01, "momentum": 0.9,
         "weight_decay": 5e-4, "milestones": [10], "label_smoothing": None, "crop_padding": 4, "flip": True}


@pytest.fixture
def asked(tmp_path):
    """asked(**changes): the control of a repair with FLAGS, where the control itself was run with these changes."""
    model, folder = tmp_path / "model_last.th", tmp_path / "fine-tune"
    model.write_bytes(b"weights")
    folder.mkdir()

    def ask(**changes):
        (folder / "config.json").write_text(json.dumps({
            "arguments": {**FLAGS, "seed": 3, **changes}, "inputs": f"{hash_file(model)} images"}))
        (folder / "results.json").write_text(json.dumps({"acc": share(0.9), "asr": share(0.25)}))
        return find_control(Namespace(checkpoint=str(model), seed=0, rho=2, **FLAGS), "fine-tune", "--rho 0")
    return ask


def test_a_control_has_the_same_flags_but_for_the_seed_and_what_the_repair_alone_has(asked):
    assert asked() == {"acc": share(0.9), "asr": share(0.25)}


@pytest.mark.parametrize(("name", "other"), [
    ("dataset", "mnist"), ("val_frac", 0.01), ("epochs", 10), ("batch_size", 64), ("lr", 0.1), ("momentum", 0.0),
    ("weight_decay", 0.0), ("milestones", []), ("label_smoothing", 0.1), ("crop_padding", 0), ("flip", False)])
def test_a_run_by_another_schedule_or_on_other_images_is_no_control(asked, name, other, caplog):
    with caplog.at_level(logging.INFO, "backdoor"):
        assert asked(**{name: other}) is None
    assert f"was made with --{name.replace('_', '-')} {other}, not {FLAGS[name]}; run it with --rho 0" in caplog.text


def test_the_log_says_asr_and_acc_of_the_control(caplog):
    with caplog.at_level(logging.INFO, "backdoor"):
        log_control({"acc": share(0.9), "asr": share(0.25)})
        log_control({"acc": share(0.9), "asr": None})
    assert caplog.messages == ["control, fine-tuning alone: ASR 0.2500, ACC 0.9000",
                               "control, fine-tuning alone: ASR nan, ACC 0.9000"]
