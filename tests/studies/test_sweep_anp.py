import csv
import json
import shutil

import pytest
from helpers.in_process import stay

from studies import sweep_anp
from studies.sweep_anp import draw, main


@pytest.fixture(scope="module")
def swept(small_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep") / "anp-sweep"
    flags = ["--checkpoint", str(small_run / "model_last.th"), "--dataset", "digits", "--val-frac", "0.05", "--alphas",
             "0", "1", "--seeds", "1", "--nb-iter", "1", "--pruning-step", "0.1", "--pruning-max", "0.8",
             "--output-dir", str(folder)]
    with pytest.MonkeyPatch.context() as patch:
        stay(patch)
        main(flags)
    return folder, flags


def test_every_cell_is_in_the_table_with_one_chosen_row(swept):
    folder, _ = swept
    rows = list(csv.DictReader((folder / "sweep.csv").open()))
    assert len(rows) == 2 * 10
    for alpha in ("0.0", "1.0"):
        cell = [row for row in rows if row["alpha"] == alpha]
        assert [row["threshold"] for row in cell] == ["", *(str(step / 10) for step in range(9))]
        assert len({row["pruned"] for row in cell if row["chosen"] == "1"}) == 1
        pruned = [int(row["pruned"]) for row in cell]
        assert pruned == sorted(pruned)
    assert (folder / "alpha.png").stat().st_size > 5000 and (folder / "threshold.png").stat().st_size > 5000


def test_the_curves_over_alpha_are_of_what_was_kept_and_those_over_the_threshold_of_all(tmp_path, monkeypatch):
    drawn = {}
    monkeypatch.setattr(sweep_anp, "spread_curves", lambda path, panels, *words: drawn.update({path.name: panels}))
    draw(tmp_path, [{"alpha": 0.2, "threshold": threshold, "acc": acc, "asr": asr, "chosen": int(threshold == 0.5)}
                    for threshold, acc, asr in ((None, 0.9, 1.0), (0.0, 0.8, 0.7), (0.5, 0.6, 0.1))])
    assert drawn["alpha.png"] == [{"ACC": [(0.2, 0.6)], "ASR": [(0.2, 0.1)]}]
    assert drawn["threshold.png"] == [{"ASR, alpha 0.2": [(0.0, 0.7), (0.5, 0.1)]},
                                      {"ACC, alpha 0.2": [(0.0, 0.8), (0.5, 0.6)]}]


@pytest.mark.slow
def test_a_second_call_runs_only_what_is_not_there(swept, capfd, monkeypatch):
    stay(monkeypatch)
    folder, flags = swept
    before = (folder / "alpha-0.0/seed-0/mask_values.txt").stat().st_mtime_ns
    (folder / "alpha-1.0/seed-0/pruned/results.json").unlink()
    main(flags)
    assert (folder / "alpha-0.0/seed-0/mask_values.txt").stat().st_mtime_ns == before
    assert (folder / "alpha-1.0/seed-0/pruned/results.json").exists()
    assert capfd.readouterr().out.count("Namespace(") == 1


def test_cells_of_other_images_are_not_put_into_one_table(swept, tmp_path, refused):
    folder, flags = swept
    shutil.copytree(folder, tmp_path / "moved")
    path = tmp_path / "moved/alpha-1.0/seed-0/config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "inputs": config["inputs"].split()[0] + " other-images"}))
    error = refused(main, *flags[:-1], tmp_path / "moved")
    assert "1 of 2 cells failed: alpha 1, seed 0" in error and "made from other images than the cells before" in error


def test_cells_made_with_other_arguments_are_refused(swept, refused):
    _, flags = swept
    assert "holds a cell made with nb_iter 1" in refused(main, *flags, "--nb-iter", "2")
    assert "holds a cell made with pruning_step 0.1" in refused(main, *flags, "--pruning-step", "0.2")


@pytest.mark.parametrize("flag, value, wanted", [("--pruning-step", "0.0001", "expected at least 0.001"),
                                                 ("--pruning-max", "1.5", "expected a threshold in [0, 1]")])
def test_thresholds_that_pruning_would_refuse_are_refused_before_a_mask_is_made(flag, value, wanted, small_run,
                                                                                tmp_path, refused):
    assert wanted in refused(main, "--checkpoint", small_run / "model_last.th", "--dataset", "digits", flag, value,
                             "--output-dir", tmp_path / "sweep")
    assert not (tmp_path / "sweep").exists()


@pytest.mark.slow
def test_a_cell_that_fails_is_named_and_leaves_the_others(swept, refused):
    folder, flags = swept
    (folder / "alpha-0.0/seed-0/mask_values.txt").write_text("junk\njunk\n")
    (folder / "alpha-0.0/seed-0/pruned/results.json").unlink()
    error = refused(main, *flags)
    assert "1 of 2 cells failed: alpha 0, seed 0" in error and "mask_values.txt:1: expected the header" in error
    assert {row["alpha"] for row in csv.DictReader((folder / "sweep.csv").open())} == {"1.0"}


@pytest.mark.long
def test_flags_reach_the_cells(small_run, tmp_path):
    main(["--checkpoint", str(small_run / "model_last.th"), "--dataset", "digits", "--val-frac", "0.05", "--alphas",
          "1", "--seeds", "1", "--nb-iter", "1", "--lr", "0.5", "--batch-size", "16", "--no-project", "--no-flip",
          "--deterministic", "--output-dir", str(tmp_path / "sweep")])
    used = json.loads((tmp_path / "sweep/alpha-1.0/seed-0/config.json").read_text())["arguments"]
    assert (used["lr"], used["batch_size"], used["project"], used["flip"]) == (0.5, 16, False, False)
    assert used["deterministic"]


def test_a_folder_with_a_run_is_refused(small_run, refused):
    assert "holds a run" in refused(main, "--checkpoint", small_run / "model_last.th", "--dataset", "digits",
                                    "--output-dir", small_run)


@pytest.mark.long
def test_cells_of_other_weights_are_refused(small_run, learned_run, tmp_path, refused, monkeypatch):
    stay(monkeypatch)
    model = tmp_path / "model_last.th"
    model.write_bytes((small_run / "model_last.th").read_bytes())
    flags = ["--checkpoint", model, "--dataset", "digits", "--val-frac", "0.05", "--alphas", "1", "--seeds", "1",
             "--nb-iter", "1", "--output-dir", tmp_path / "sweep"]
    main(list(map(str, flags)))
    model.write_bytes((learned_run / "model_last.th").read_bytes())
    assert "made from other weights" in refused(main, *flags)
    (tmp_path / "sweep/alpha-1.0/seed-0/pruned/results.json").write_text("{}")
    model.write_bytes((small_run / "model_last.th").read_bytes())
    assert "damaged" in refused(main, *flags)
