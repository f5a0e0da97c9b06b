import pytest

from benchmarks import bounds
from benchmarks import training as benchmark

pytestmark = pytest.mark.slow


def test_operations_are_those_of_the_network():
    # 0.556 G multiply-adds forward at width 64; backward costs twice that, less the first layer's input gradient.
    forward, stem = 555_422_720, 3 * 9 * 64 * 32 * 32
    expected = 2 * (3 * forward - stem)
    assert bounds.operations_per_image(64, count=2) == pytest.approx(expected, rel=2e-3)


def test_it_prints_every_figure(capsys):
    benchmark.main(["--width", "2", "--rounds", "1", "--steps", "1", "--batch-size", "4", "--matrix", "64"])
    lines = capsys.readouterr().out.splitlines()
    assert [line[:22].strip() for line in lines[1:]] == [
        "plain pipeline", "this pipeline", "ratio", "matrix products", "share of that rate", "memory's bound",
        "making the batches", "predictions", "share of that rate"]
    figures = {line[:22].strip(): float(line[22:].strip().split()[0].rstrip("x")) for line in lines[1:]}
    assert figures["ratio"] == pytest.approx(figures["this pipeline"] / figures["plain pipeline"], rel=0.1)
    assert 0 < figures["making the batches"] < 100
