import weakref

import pytest
import torch

from benchmarks import bounds, breakdown

pytestmark = pytest.mark.slow


def test_operators_are_counted_as_what_they_are():
    assert breakdown.kind_of("aten::mkldnn_convolution") == breakdown.kind_of("aten::convolution_backward")
    assert breakdown.kind_of("aten::native_batch_norm") == "batch norm"
    assert breakdown.kind_of("aten::threshold_backward") == "ReLU"
    assert breakdown.kind_of("aten::add_") is None


def test_a_convolution_is_mostly_convolution_and_all_shares_are_one():
    layer, image = torch.nn.Conv2d(32, 32, 3), torch.rand(8, 32, 64, 64)
    found = breakdown.shares(lambda: layer(image), torch.device("cpu"))
    assert found["convolutions"] > 0.5 > found["other operators"] and found["batch norm"] == 0
    assert sum(found.values()) == pytest.approx(1)


def test_what_is_moved_grows_with_the_width_as_the_activations_do():
    assert bounds.bytes_per_image(8) == 2 * bounds.bytes_per_image(4)
    # Width 1: a stage's output has 1024, 512, 256, 128 numbers; five norms act on each but for stage 1's, also five
    # with the stem's; as many ReLUs less the shortcuts' three; two additions.
    outputs = 1024 + 512 + 256 + 128
    assert bounds.bytes_per_image(1) == 4 * (8 * 5 * outputs + 5 * (4 * outputs + 1024) + 3 * 2 * outputs)


@pytest.mark.long
def test_every_script_has_a_row_that_sums_to_all(capsys):
    breakdown.main(["--width", "2", "--matrix", "64", "--device", "cpu"])
    rows = [line.strip("|").split("|") for line in capsys.readouterr().out.splitlines() if line.startswith("| `")]
    assert len(rows) == 7
    for row in rows:
        figures = [float(cell.strip().removesuffix(" %")) for cell in row[1:]]
        assert sum(figures) == pytest.approx(100, abs=0.3) and figures[0] > 0


def test_products_are_let_go_before_the_next_is_made():
    """50 kept products of a GPU's size would not fit many cards."""
    alive, most = weakref.WeakSet(), 0

    class Product:
        pass

    def product():
        nonlocal most
        made = Product()
        alive.add(made)
        most = max(most, len(alive))
        return made
    assert bounds.matrix_rate(product, 64, torch.device("cpu")) > 0
    assert most == 1
