import re

import pytest
import torch

from benchmarks import all as everything
from benchmarks import scaling

pytestmark = pytest.mark.slow


def rows_of(text):
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")][1:]


def test_the_table_has_every_benchmark_with_its_own_ratio(monkeypatch, capsys):
    small = {"training": ("--steps", "1", "--batch-size", "4", "--matrix", "64"), "abl": ("--images", "8"),
             "anp": ("--iterations", "1", "--batch-size", "4", "--test-images", "8"), "strip": (
                 "--images", "2", "--overlays", "4")}
    runs = [(script, module, small[module.__name__.split(".")[1]]) for script, module, _ in everything.RUNS
            if module.__name__.split(".")[1] in small]
    monkeypatch.setattr(everything, "RUNS", runs)
    monkeypatch.setattr(everything.machine, "multiplies_bfloat16", lambda device: False)
    everything.main(["--width", "2", "--rounds", "1", "--device", "cpu"])
    rows = rows_of(capsys.readouterr().out)
    assert [row[0].strip("`") for row in rows] == ["train_backdoor.py"] * 2 + [runs[1][0]] * 3 + ["defenses.strip"] + [
        "defenses.abl"] * 3
    for row in rows:
        ours, plain, ratio = map(float, row[2:5])
        assert (plain - 5e-4) / (ours + 5e-4) - 0.006 <= ratio <= (plain + 5e-4) / max(ours - 5e-4, 1e-9) + 0.006
    assert [bool(row[5]) for row in rows] == [True, True] + [False] * 7


def test_each_axis_has_a_size_for_each_time(monkeypatch, capsys):
    def small(width, device, folder):
        images = scaling.random_images(8)
        return {"images": ({n: lambda n=n: scaling.train(2, device, n) for n in (4, 8)}, "why"),
                "mapped": ({"resident": lambda: scaling.train(2, device, images=images),
                            "mapped": lambda: scaling.train(2, device, images=scaling.on_disk(images, folder),
                                                            resident=False)}, "why")}
    monkeypatch.setattr(scaling, "axes", small)
    monkeypatch.setattr(scaling, "measure_memory", lambda axis, sizes, *rest: dict.fromkeys(sizes, 2**20))
    scaling.main(["--width", "2", "--rounds", "1", "--device", "cpu"])
    first, second = rows_of(capsys.readouterr().out)
    assert first[3] == "1, 1" and first[1] == "4, 8" and len(first[2].split(", ")) == len(first[3].split(", ")) == 2
    assert re.fullmatch(r"n\^-?\d+\.\d\d", first[4]) and re.fullmatch(r"\d+\.\d\dx", second[4])


@pytest.mark.long
def test_more_images_at_a_time_take_more_memory():
    cpu = torch.device("cpu")
    one, two = scaling.measure_memory("training, width", (2, 8), 4, cpu, "").values()
    assert 0 < one < two


@pytest.mark.parametrize("axis", ["STRIP, overlays", "Neural Cleanse, labels", "ANP, thresholds", "streaming"])
def test_the_work_of_every_axis_can_be_done(axis, tmp_path):
    sizes, _ = scaling.axes(2, torch.device("cpu"), tmp_path)[axis]
    next(iter(sizes.values()))()()
    list(sizes.values())[-1]()
