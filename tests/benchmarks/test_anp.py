import re


def test_it_prints_a_ratio_for_each_comparison(capsys):
    from benchmarks.anp import main
    main(["--width", "2", "--rounds", "1", "--iterations", "1", "--batch-size", "4", "--test-images", "8"])
    lines = capsys.readouterr().out.splitlines()[1:]
    assert [line.split("  ")[0] for line in lines] == ["1 mask iterations", "20 thresholds, pruning alone",
                                                       "20 thresholds with their tests"]
    for line in lines:
        plain, ours, ratio = (float(number) for number in re.findall(r"(\d+\.\d+) ?[sx]", line))
        assert plain > 0 and ours > 0
        assert 0.8 < ratio / (plain / ours) < 1.25 or min(plain, ours) < 0.01
