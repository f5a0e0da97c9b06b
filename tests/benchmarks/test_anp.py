import re

import pytest


@pytest.mark.slow
def test_it_prints_a_ratio_for_each_comparison(capsys):
    from benchmarks.anp import main
    main(["--width", "2", "--rounds", "1", "--iterations", "1", "--batch-size", "4", "--test-images", "8"])
    lines = capsys.readouterr().out.splitlines()[1:]
    assert [line.split("  ")[0] for line in lines] == ["1 mask iterations", "20 thresholds, pruning alone",
                                                       "20 thresholds with their tests"]
    for line in lines:
        plain, ours, ratio = (float(number) for number in re.findall(r"(\d+\.\d+) ?[sx]", line))
        # As far as the printed digits tell: each time is rounded to a millisecond, the ratio to a hundredth.
        assert (plain - 5e-4) / (ours + 5e-4) - 0.006 <= ratio <= (plain + 5e-4) / max(ours - 5e-4, 1e-9) + 0.006
