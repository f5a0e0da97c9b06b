"""A run that was stopped on one device goes on on another: weights, momentum, schedule and draws go with it."""
import json

import pytest
from device.pretend import NAME, pretend
from helpers.runs import filled, main_of, short_words

from engine.catalogue import SCRIPTS
from engine.runs import run

pytestmark = pytest.mark.long

RESUMABLE = [script.module for script in SCRIPTS if script.resumes and script.lasting]  # the others have one epoch


def epochs_in(folder):
    """How many epochs a run has recorded."""
    return len((folder / "metrics.jsonl").read_text().splitlines())


def stop_in_epoch(number, patch):
    """From now on Ctrl-C comes in the epoch of that number, before it is saved."""
    real, recorded = run.Run.record, []

    def record(self, row):
        recorded.append(row)
        if len(recorded) == number:
            raise KeyboardInterrupt
        real(self, row)
    patch.setattr(run.Run, "record", record)


@pytest.mark.parametrize("first, second", [("cpu", "cuda"), ("cuda", "cpu")])
@pytest.mark.parametrize("module", RESUMABLE)
def test_a_run_goes_on_on_another_device(module, first, second, made, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "MAX_SAVING_SHARE", 1e9)  # every epoch is saved, on a GPU too

    def call(device, folder, *more):
        words = [*filled(made, short_words(module)), "--output-dir", str(tmp_path / folder), "--device", device, *more]
        with pretend():
            main_of(module)(words)
    call("cpu", "whole")
    epochs = epochs_in(tmp_path / "whole")
    with monkeypatch.context() as patch, pytest.raises(SystemExit) as stopped:
        stop_in_epoch(epochs, patch)
        call(first, "run")
    assert stopped.value.code == 130 and epochs_in(tmp_path / "run") == epochs - 1

    call(second, "run", "--resume")
    results, config = (json.loads((tmp_path / f"run/{file}.json").read_text()) for file in ("results", "config"))
    assert (results["device"] == NAME) == (second == "cuda")
    assert [resumed["device"] for resumed in config["resumed"]] == [results["device"]]
    assert epochs_in(tmp_path / "run") == epochs
