import pytest

from benchmarks import bounds, networks
from models import ARCHITECTURES

pytestmark = pytest.mark.slow


def test_multiply_adds_are_those_of_the_network():
    wide = networks.Network.of("wrn16-1", 64, 128)
    assert (wide.width, wide.size, wide.batch) == (None, 32, 128)
    assert wide.operations(backward=False) / 2e6 == 26_657_408 / 1e6  # by hand
    deep = networks.Network.of("torchvision-resnet18", 64, 128)
    assert (deep.width, deep.size, deep.batch) == (64, 224, 8)
    assert networks.Network.of("torchvision-resnet18", 64, 128, 64).batch == 32
    assert deep.operations(backward=False) / 2e9 == pytest.approx(1.81, abs=0.01)  # as torchvision says


def test_what_a_wide_resnet_moves_is_counted_by_its_layers():
    stem, stages = 16 * 32 * 32, [16 * 32 * 32, 32 * 16 * 16, 64 * 8 * 8]
    # Two norms and two ReLUs in each of a stage's two blocks, of which the first block's first sees the stage before.
    normed = stem + stages[0] + stages[1] + 3 * sum(stages) + stages[2]
    assert bounds.bytes_per_image(None, 4, "wrn16-1") == 4 * ((8 + 5) * normed + 3 * 2 * sum(stages))


def test_every_network_has_a_line(capsys):
    networks.main(["--width", "2", "--rounds", "1", "--batch-size", "8", "--image-size", "32", "--matrix", "64",
                   "--device", "cpu"])
    lines = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines() if line.startswith("| `")]
    assert [line[0].strip(" `") for line in lines] == list(ARCHITECTURES)
    assert all(float(line[place]) > 0 for line in lines for place in (3, 4, 6))
