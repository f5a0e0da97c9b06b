import re

import numpy as np
import pytest
import torch

from benchmarks.plain import random_images
from benchmarks.strip import main, plain_entropies
from detect_strip import Strip
from models import build_model


def test_both_sides_measure_the_same_thing():
    model, cpu = build_model("resnet18", 2, 10), torch.device("cpu")
    for layer in model.modules():  # an untrained network is equally unsure of everything
        if isinstance(layer, torch.nn.Linear):
            layer.weight.data *= 20
    images, pool = random_images(4).data, random_images(60, seed=1).data
    ours = Strip(model, pool, 40, "sum-clip", 0, cpu).entropies(images)
    plain = plain_entropies(model, images, pool, 40, cpu, np.random.default_rng(0))
    assert ours == pytest.approx(plain, abs=0.1) and plain.min() > 0.05


def test_it_prints_a_ratio_and_the_memory(capsys):
    main(["--width", "2", "--rounds", "1", "--images", "2", "--overlays", "4"])
    _, ratio, memory = capsys.readouterr().out.splitlines()
    assert re.search(r"2 images, 4 overlays each .* s plain .* s here +\d+\.\d\dx$", ratio)
    assert re.fullmatch(r"peak memory \d+ MB", memory)
