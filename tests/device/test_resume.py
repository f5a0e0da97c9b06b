"""A run that was stopped on one device goes on on another: weights, momentum, schedule and draws go with it."""
import json

import pytest
from device.pretend import NAME, pretend
from device.small import script_of
from reliability.short_runs import SCRIPTS, filled

from engine import run

pytestmark = pytest.mark.long

EPOCHS = {"train": 2, "anp": 2, "encoder": 3, "abl": 6}  # of the short run; ABL's last stage are its last two


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
@pytest.mark.parametrize("name", EPOCHS)
def test_a_run_goes_on_on_another_device(name, first, second, made, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "KEEPING", 1e9)  # every epoch is saved, on a GPU too

    def call(device, *more):
        words = [*filled(made, SCRIPTS[name][1]), "--output-dir", str(tmp_path), "--device", device, *more]
        with pretend():
            script_of(name).main(words)
    with monkeypatch.context() as patch, pytest.raises(SystemExit) as stopped:
        stop_in_epoch(EPOCHS[name], patch)
        call(first)
    assert stopped.value.code == 130
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == EPOCHS[name] - 1

    call(second, "--resume")
    results, config = (json.loads((tmp_path / f"{file}.json").read_text()) for file in ("results", "config"))
    assert (results["device"] == NAME) == (second == "cuda")
    assert [resumed["device"] for resumed in config["resumed"]] == [results["device"]]
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == EPOCHS[name]
