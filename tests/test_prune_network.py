import json

import numpy as np
import pytest
import torch

from common.errors import UserError
from data.image_set import ImageSet
from engine.catalogue import BY_MODULE
from engine.command_line.inherit import inherit
from engine.measuring.scores import UNKNOWN, Evaluation, Proportion, Score
from engine.weights import checkpoint
from methods.mask_pruning import Row, choose, larger_drops, make_choice, prune_first, rank_neurons
from models import build_model
from prune_network import (
    HOMEWORK_HEADER,
    check_masks,
    evaluate_by_number,
    evaluate_by_threshold,
    homework_row,
    main,
    norm_layers,
    oracle,
    parse_args,
    pruning,
    read_data,
    recalibration_batches,
)


@pytest.fixture
def net():
    torch.manual_seed(0)
    return build_model("resnet18", 4, 10)


@pytest.fixture
def masks(net):
    """A mask value in hundredths for every neuron of `net`."""
    generator = torch.Generator().manual_seed(0)
    return [(name, i, round(torch.randint(101, (), generator=generator).item() / 100, 2))
            for name, layer in norm_layers(net).items() for i in range(layer.num_features)]


def pruned_set(model):
    return {(name, i) for name, layer in norm_layers(model).items() for i in range(layer.num_features)
            if layer.weight[i] == 0}


def test_a_threshold_prunes_what_is_at_most_it_and_names_the_last(net, masks):
    sets = []
    rows = evaluate_by_threshold(net, masks, [0.0, 0.2, 0.2001, 0.5],
                                 lambda model: sets.append(pruned_set(model)) or (None, None))
    assert rows[0].count == 0 and rows[0].threshold is None
    for row, threshold in zip(rows[1:], (0.0, 0.2, 0.2001, 0.5), strict=True):
        expected = [value for _, _, value in masks if value <= threshold]
        assert row.count == len(expected) and row.threshold == threshold
        assert row.neuron[2] == max(expected)
    assert len(sets) == 4  # 0.2001 prunes no more than 0.2, so nothing is measured anew
    assert sets[1] < sets[2] < sets[3]
    assert sets[3] == {(layer, i) for layer, i, value in masks if value <= 0.5}


def test_sets_by_number_are_nested_and_exact(net, masks):
    sets = []
    rows = evaluate_by_number(net, masks, [0, 20, 40, 10_000],
                              lambda model: sets.append(pruned_set(model)) or (None, None))
    assert [row.count for row in rows] == [0, 0, 20, 40, 300]
    assert [len(one) for one in sets] == [0, 20, 40, 300] and sets[1] < sets[2] < sets[3]


def test_pruning_all_at_once_is_pruning_one_by_one(net, masks):
    twin = build_model("resnet18", 4, 10)
    twin.load_state_dict(net.state_dict())
    ranks, order = rank_neurons(net, masks)
    weights = {name: layer.weight.detach().clone() for name, layer in norm_layers(net).items()}
    prune_first(net, weights, ranks, 100)
    prune_first(net, weights, ranks, 37)  # fewer again: the others get their scale back
    for neuron in order[:37]:
        pruning(twin, neuron)
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), twin.state_dict().values(), strict=True))


def row(count, held_out, acc, asr, threshold=None):
    def score(value):
        share = Proportion(round(1000 * value), 1000)
        return Score(0.5, share, share)
    return Row(count, ("layer1.0.bn1", count, 0.25), threshold, Evaluation(score(acc), score(asr)), score(held_out))


def test_the_choice_looks_at_held_out_images_alone():
    rows = [row(0, 0.90, 0.90, 1.0), row(1, 0.89, 0.80, 0.9), row(2, 0.88, 0.89, 0.5), row(3, 0.87, 0.90, 0.0)]
    assert choose(rows, 0.02).count == 2
    assert choose(rows, 0).count == 0
    assert oracle(rows, 0.02).count == 3


def test_larger_drops_are_named_where_they_prune_more():
    held_out = [row(0, 0.90, 0.9, 1), row(1, 0.865, 0.9, 1), row(2, 0.862, 0.9, 1), row(3, 0.79, 0.9, 1)]
    assert [(drop, found.count) for drop, found in larger_drops(held_out, 0.02)] == [(0.05, 2)]
    assert [(drop, found.count) for drop, found in larger_drops([*held_out, row(4, 0.8, 0, 0)], 0.05)] == [(0.1, 4)]
    assert larger_drops(held_out[:3], 0.05) == []


def test_where_nothing_may_be_pruned_the_log_says_what_the_least_would_cost(caplog):
    caplog.set_level("INFO", "backdoor")
    rows = [row(0, 0.9, 0.9, 1), row(0, 0.9, 0.9, 1, 0.0), row(5, 0.7, 0.7, 0.2, 0.05), row(9, 0.6, 0.6, 0, 0.1)]
    assert make_choice(rows, 0.02).count == 0
    assert [record.getMessage() for record in caplog.records] == [
        "chosen on held-out images: 0 neurons pruned, threshold 0.0, ASR 1.0000, ACC 0.9000, held-out ACC 0.9000",
        "nothing is pruned; the least that could be: 5 neurons pruned, threshold 0.05, ASR 0.2000, ACC 0.7000, "
        "held-out ACC 0.7000"]


def test_statistics_of_too_few_images_are_refused():
    images = ImageSet(np.zeros((31, 8, 8, 3), dtype=np.uint8), np.zeros(31, dtype=np.int64), ("a",))
    with pytest.raises(UserError, match="expected at least 32 images that made the masks, got 31"):
        recalibration_batches(images, None, "cpu")


def test_a_recalibrated_sweep_measures_what_it_leaves(masked, tmp_path):
    flags = ["--mask-file", str(masked / "mask_values.txt"), "--pruning-by", "number", "--pruning-step",
             "130", "--max-drop", "1"]
    main([*flags, "--output-dir", str(tmp_path / "p")])
    main([*flags, "--recalibrate", "--output-dir", str(tmp_path / "r")])
    plain, anew = (json.loads((tmp_path / name / "results.json").read_text())["method"]["sweep"] for name in "pr")
    assert [row["pruned"] for row in plain] == [row["pruned"] for row in anew] == [0, 0, 130, 260, 300]
    assert plain[:2] == anew[:2] and plain[2]["held_out_acc"] != anew[2]["held_out_acc"]
    said = [json.loads((tmp_path / name / "results.json").read_text())["method"]["recalibrated"] for name in "pr"]
    assert said == [False, True]
    models = [checkpoint.load_model(tmp_path / name / "model_last.th").model for name in "pr"]
    assert pruned_set(models[0]) == pruned_set(models[1])
    assert not torch.equal(*(norm_layers(model)["bn1"].running_mean for model in models))


@pytest.mark.parametrize(("said", "taken"), [
    ({"crop_padding": 2, "flip": False}, (2, False)), ({}, (4, True)), ({"crop_padding": "2", "flip": 3}, (4, True)),
    ({"crop_padding": 2.0, "flip": "no"}, (4, True)), ({"crop_padding": True, "flip": None}, (4, True))])
def test_statistics_come_from_images_augmented_as_when_the_masks_were_made(tmp_path, said, taken):
    (tmp_path / "config.json").write_text(json.dumps({"arguments": said}))
    flags = ["--mask-file", str(tmp_path / "mask_values.txt"), "--recalibrate"]
    args = inherit(parse_args(flags))
    assert (args.crop_padding, args.flip) == taken
    images = ImageSet(np.full((32, 8, 8, 3), 255, dtype=np.uint8), np.zeros(32, dtype=np.int64), ("a",))
    assert next(iter(recalibration_batches(images, args, "cpu")))[0].min() == 0  # a crop's border
    args = inherit(parse_args([*flags, "--crop-padding", "0"]))
    assert next(iter(recalibration_batches(images, args, "cpu")))[0].min() == 1


@pytest.mark.parametrize("flag", ["--crop-padding=2", "--no-flip"])
def test_augmentation_without_recalibrate_is_refused(masked, refused, flag):
    assert "has no effect without --recalibrate" in refused(
        main, "--mask-file", masked / "mask_values.txt", flag)


def test_the_homeworks_row_to_the_tab():
    assert HOMEWORK_HEADER.split(" \t ") == ["No", "Layer Name", "Neuron Idx", "Mask", "PoisonLoss", "PoisonACC",
                                             "CleanLoss", "CleanACC"]
    assert homework_row(row(7, 0.9, 0.8, 0.1, threshold=0.3)) == (
        "7.00 \t layer1.0.bn1 \t 7 \t 0.3 \t 0.5000 \t 0.1000 \t 0.5000 \t 0.8000")
    unknown = Row(0, (None, None, None), None, Evaluation(row(0, 1, 1, 1).test.clean, UNKNOWN), UNKNOWN)
    assert "nan \t nan" in homework_row(unknown)


HEADER = "No \t Layer Name \t Neuron Idx \t Mask Score \n"


@pytest.mark.parametrize("text, named", [
    ("", "expected masks, got none"), (HEADER, "expected masks, got none"),
    (HEADER + "0 \t bn1 \t 0 \n", ":2: expected number, layer"),
    (HEADER + "0 \t bn1 \t 0 \t 1.0\n1 \t bn1 \t 1 \t big\n", ":3: expected number"),
    (HEADER + "0 \t bn1 \t 0 \t 1.5\n", r":2: expected a mask value in \[0, 1\], got 1.5"),
    (HEADER + "0 \t bn1 \t 0 \t nan\n", r":2: expected a mask value in \[0, 1\]"),
    (HEADER + "0 \t bn1 \t 0 \t 1\n\n1 \t bn1 \t 0 \t 1\n", ":4: bn1 0 is already in line 2")])
def test_a_bad_mask_file_is_named_with_its_line(tmp_path, text, named):
    (tmp_path / "m.txt").write_text(text)
    with pytest.raises(UserError, match=named):
        read_data(tmp_path / "m.txt")


def test_masks_of_a_dataparallel_model_are_read(tmp_path):
    (tmp_path / "m.txt").write_text(HEADER + "0 \t module.layer1.0.bn1 \t 3 \t 0.5\n")
    assert read_data(tmp_path / "m.txt") == [("layer1.0.bn1", 3, 0.5)]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_mask_file_that_went_through_powershell_is_read(tmp_path, encoding):
    (tmp_path / "m.txt").write_bytes((HEADER + "0 \t bn1 \t 0 \t 0.5\n").replace("\n", "\r\n").encode(encoding))
    assert read_data(tmp_path / "m.txt") == [("bn1", 0, 0.5)]


def test_a_mask_file_without_its_header_is_refused(tmp_path):
    (tmp_path / "m.txt").write_text("0 \t bn1 \t 0 \t 1.0\n")
    with pytest.raises(UserError, match=":1: expected the header"):
        read_data(tmp_path / "m.txt")


@pytest.mark.parametrize("change, named", [
    (lambda rows: rows[:-1], "holds 299 of the model's 300"), (lambda rows: [*rows[:-1], ("fc", 0, 1.0)], "fc 0"),
    (lambda rows: [*rows[:-1], ("bn1", 4, 1.0)], "bn1 4")])
def test_masks_of_another_model_are_refused(net, masks, change, named):
    with pytest.raises(UserError, match=named):
        check_masks(net, change(masks), "m.txt")


def test_a_sweep_leaves_a_pruned_checkpoint_and_tables(masked, small_run, tmp_path):
    main(["--mask-file", str(masked / "mask_values.txt"), "--dataset", "digits", "--output-dir", str(tmp_path / "p")])
    results = json.loads((tmp_path / "p/results.json").read_text())
    chosen = results["method"]["chosen"]
    assert results["parent"] == str(small_run / "model_last.th")  # found through the masks' own config
    assert results["asr"] == chosen["asr"] and len(results["method"]["sweep"]) == 21
    assert chosen["held_out_acc"]["n"] == 143 - 72  # what the masks did not see
    counts = [point["pruned"] for point in results["method"]["sweep"]]
    assert counts == sorted(counts)
    saved = checkpoint.load_model(tmp_path / "p/model_last.th").model
    assert len(pruned_set(saved)) == chosen["pruned"]
    table = (tmp_path / "p/pruning_by_threshold.txt").read_text().splitlines()
    assert table[0] == HOMEWORK_HEADER and len(table) == 22
    assert "oracle" in (tmp_path / "p/output.log").read_text()
    assert (tmp_path / "p/pruning_by_threshold.png").stat().st_size > 10_000


def test_a_given_threshold_and_no_trigger(masked, small_run, tmp_path):
    weights = torch.load(small_run / "model_last.th", weights_only=True)["state_dict"]
    torch.save(weights, tmp_path / "stranger.th")
    (tmp_path / "mask_values.txt").write_bytes((masked / "mask_values.txt").read_bytes())  # without what made them
    main(["--mask-file", str(tmp_path / "mask_values.txt"), "--val-frac", "0.05", "--checkpoint",
          str(tmp_path / "stranger.th"), "--dataset", "digits", "--threshold", "0.5",
          "--output-dir", str(tmp_path / "p")])
    results = json.loads((tmp_path / "p/results.json").read_text())
    assert results["asr"] is None and results["method"]["chosen"]["threshold"] == 0.5
    assert results["method"]["oracle"] is None


def test_by_number_to_the_last_neuron(masked, tmp_path):
    main(["--mask-file", str(masked / "mask_values.txt"), "--dataset", "digits", "--pruning-by", "number",
          "--pruning-step", "130", "--output-dir", str(tmp_path / "p")])
    sweep = json.loads((tmp_path / "p/results.json").read_text())["method"]["sweep"]
    assert [row["pruned"] for row in sweep] == [0, 0, 130, 260, 300]
    assert (tmp_path / "p/pruning_by_number.txt").exists()


def test_masks_of_other_weights_and_images_that_made_them_are_refused(masked, small_run, refused, tmp_path):
    flags = ["--mask-file", masked / "mask_values.txt", "--output-dir", tmp_path / "p"]
    error = refused(main, *flags, "--checkpoint", small_run / "model_init.th")
    assert "expected the weights that the masks" in error
    assert "which may not choose" in refused(main, *flags, "--val-frac", "0.01")
    once = ["--threshold", "0.5", "--max-drop", "1"]
    assert "--max-drop: has no effect with --threshold" in refused(main, *flags, *once)
    for wrong in (["--threshold", "0.5", "--pruning-by", "number"], ["--pruning-step", "1e-9"],
                  ["--pruning-max", "3"]):
        assert wrong[0] in refused(main, *flags, *wrong)
    assert not (tmp_path / "p").exists()


def test_a_sweep_may_go_up_to_the_largest_mask_in_steps_of_a_thousandth():
    args = parse_args(["--pruning-max", "1", "--pruning-step", "0.001"])
    assert (args.pruning_max, args.pruning_step) == (1, 0.001)


def test_flags_are_parsed_without_a_look_into_the_masks_folder(masked):
    args = parse_args(["--mask-file", str(masked / "mask_values.txt")])
    assert (args.checkpoint, args.dataset, args.data_dir, args.val_frac) == (None, None, None, None)
    assert args.output_dir == str(masked / "pruned")
    filled = inherit(args)
    assert (filled.dataset, filled.val_frac) == ("digits", 0.05) and args.dataset is None
    assert inherit(parse_args(["--mask-file", args.mask_file, "--val-frac", "0.07"])).val_frac == 0.07


@pytest.mark.parametrize(("said", "taken"), [(40, 40), (None, None), ("40", None), (7, None), (True, None)])
def test_the_size_of_the_images_that_made_the_masks_is_inherited(tmp_path, said, taken):
    (tmp_path / "config.json").write_text(json.dumps({"arguments": {"image_size": said}}))
    args = parse_args(["--mask-file", str(tmp_path / "mask_values.txt")])
    assert inherit(args).image_size == taken
    assert inherit(parse_args(["--mask-file", args.mask_file, "--image-size", "64"])).image_size == 64


def test_the_workflow_knows_a_finished_pruning_again_by_the_flags_that_were_given(masked, tmp_path):
    pytest.importorskip("yaml")
    from workflow.steps import Step, check_made_alike, parse
    words = ("--mask-file", str(masked / "mask_values.txt"), "--threshold", "0.5")
    main([*words, "--output-dir", str(tmp_path / "p")])

    def check(*flags):
        step = Step(str(tmp_path / "p"), BY_MODULE["prune_network"], (*words[:2], *flags), (), "ANP", False)
        check_made_alike(step, parse(step))
    check("--threshold", "0.5")
    check("--threshold", "0.5", "--val-frac", "0.05")
    config = json.loads((tmp_path / "p/config.json").read_text())
    assert config["seed"] is None and "seed" not in config["arguments"]
    config["arguments"]["seed"] = 1  # as pruning recorded it while it had the flag
    (tmp_path / "p/config.json").write_text(json.dumps(config))
    check("--threshold", "0.5")
    for flags in ((), ("--threshold", "0.4"), ("--threshold", "0.5", "--val-frac", "0.06")):
        with pytest.raises(UserError, match="holds a run made with"):
            check(*flags)
