import re

import pytest
import torch

from benchmarks.plain import random_images
from benchmarks.strip import main, plain_entropies
from methods.strip import Strip, draw_overlays
from models import build_model

pytestmark = pytest.mark.slow


def test_both_sides_measure_the_same_thing():
    torch.manual_seed(0)
    model, cpu = build_model("resnet18", 2, 10), torch.device("cpu")
    for layer in model.modules():  # an untrained network is equally unsure of everything
        if isinstance(layer, torch.nn.Linear):
            layer.weight.data *= 20
    images, pool = random_images(4).data, random_images(60, seed=1).data
    ours = Strip(model, pool, 40, "sum-clip", 0, cpu).entropies(images)
    plain = plain_entropies(model, images, pool, draw_overlays(images, pool, 40, 0), cpu)
    assert ours == pytest.approx(plain, abs=1e-4) and plain.min() > 0.05 and plain.std() > 1e-5


def test_it_prints_a_ratio_and_the_memory(capsys):
    main(["--width", "2", "--rounds", "1", "--images", "2", "--overlays", "4"])
    _, apart, ratio, memory = capsys.readouterr().out.splitlines()
    assert float(apart.split()[-1]) < 1e-4
    assert re.search(r"2 images, 4 overlays each .* s plain .* s here +\d+\.\d\dx$", ratio)
    assert re.fullmatch(r"peak memory \d+ MB", memory)
