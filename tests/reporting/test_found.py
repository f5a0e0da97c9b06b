import json

import pytest

from common.errors import UserError
from common.files import hash_file
from reporting.found import find_runs


def states(tree):
    return {run.name: run.state for run in find_runs(tree.root)}


def test_every_run_is_found_with_its_state_and_what_is_above_it(tree):
    tree.homework()
    tree.begin("stopped")
    tree.log("foreign", [(1, 1.0, 0.9)])
    (tree.root / "empty").mkdir()
    found = {run.name: run for run in find_runs(tree.root)}
    assert {name: run.state for name, run in found.items()} == {
        "badnets": "finished", "badnets/anp": "finished", "badnets/anp/pruned": "finished", "blend": "finished",
        "clean-label": "finished", "stopped": "unfinished", "foreign": "log only"}
    assert found["badnets/anp/pruned"].above.name == "badnets/anp" and found["badnets"].above is None


def test_a_repair_of_a_model_that_was_trained_anew_since_is_outdated(tree):
    tree.attack("badnets", "badnets", 0.93, 1.0)
    model = tree.root / "badnets/model_last.th"
    model.write_bytes(b"weights")
    names = ("badnets/nad", "badnets/anp/pruned", "badnets/nad/strip")
    for name in names:
        parent = "output/badnets/nad/model_last.th" if name.endswith("strip") else "output/badnets/model_last.th"
        folder = tree.run(name, "defenses.nad", method={"name": "NAD"}, parent=parent)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "inputs": f"{hash_file(model)} images"}))
    assert set(states(tree).values()) == {"finished"}  # where a model is not there, it may be the one
    (tree.root / "badnets/nad/model_last.th").write_bytes(b"weights")
    assert set(states(tree).values()) == {"finished"}
    model.write_bytes(b"other weights")
    assert states(tree) == {"badnets": "finished", "badnets/nad": "outdated", "badnets/anp/pruned": "outdated",
                            "badnets/nad/strip": "finished"}
    run = next(run for run in find_runs(tree.root) if run.name == "badnets/nad")
    assert run.why == "badnets/model_last.th holds other weights than those that it was run on; run it again"
    assert not run.is_repair and run.leaves_repaired


@pytest.mark.parametrize("parent", ["{whole}/badnets/model_last.th", "badnets/model_last.th"])
def test_a_model_named_by_an_absolute_path_or_by_its_folder_alone_may_be_outdated_too(tree, parent):
    tree.attack("badnets", "badnets", 0.93, 1.0)
    (tree.root / "badnets/model_last.th").write_bytes(b"weights")
    folder = tree.run("badnets/strip", "defenses.strip", parent=parent.format(whole=tree.root.resolve()))
    (folder / "config.json").write_text(json.dumps({"script": "defenses.strip", "arguments": {}, "inputs": "a hash"}))
    assert states(tree) == {"badnets": "finished", "badnets/strip": "outdated"}


@pytest.mark.parametrize("parent", ["/home/x/zoo/badnets/model_last.th", "../zoo/badnets/model_last.th",
                                    "output/other/badnets/model_last.th"])
def test_a_model_elsewhere_in_a_folder_of_the_same_name_is_another(tree, parent):
    tree.attack("badnets", "badnets", 0.93, 1.0)
    (tree.root / "badnets/model_last.th").write_bytes(b"weights")
    folder = tree.run("badnets/strip", "defenses.strip", parent=parent)
    (folder / "config.json").write_text(json.dumps({"script": "defenses.strip", "arguments": {}, "inputs": "a hash"}))
    assert states(tree) == {"badnets": "finished", "badnets/strip": "finished"}


@pytest.mark.parametrize("content", [
    "", "{", "[]", "null", '{"script": 3}', '{"script": "a.py", "seconds": "x"}', '{"script": "a.py"}',
    '{"script": "a.py", "seconds": 1, "acc": 0.5}',
    '{"script": "a.py", "seconds": 1, "acc": {"value": 2, "interval": [0, 1], "n": 1}}',
    '{"script": "a.py", "seconds": 1, "acc": {"value": NaN, "interval": [0, 1], "n": 1}}',
    '{"script": "a.py", "seconds": 1, "method": []}', "[" * 100_000,
    '{"script": "a.py", "seconds": 1, "acc": {"value": 0.5, "interval": [0, 1], "n": 0.5}}',
    '{"script": "a.py", "seconds": 1, "method": {"labels": [{"norm": [1.0, null]}]}}',
    '{"script": "a.py", "seconds": 1, "method": {"labels": [{"index": [null, 2.0]}]}}'])
def test_a_damaged_result_is_a_broken_run_and_the_others_are_read(tree, content):
    tree.attack("good", "blend", 0.9, 1.0)
    (tree.begin("bad") / "results.json").write_text(content)
    assert states(tree) == {"good": "finished", "bad": "broken"}
    assert next(run for run in find_runs(tree.root) if run.name == "bad").why.startswith("results.json: ")


def test_bytes_that_are_no_text_are_broken_too(tree):
    (tree.begin("bad") / "results.json").write_bytes(b"\xff\xfe\x00")
    (tree.begin("worse") / "config.json").write_bytes(b"\x00" * 100)
    assert states(tree) == {"bad": "broken", "worse": "broken"}


def test_a_folder_without_runs_is_refused(tmp_path):
    with pytest.raises(UserError, match="no run lies here"):
        find_runs(tmp_path)
    with pytest.raises(UserError, match="no such folder"):
        find_runs(tmp_path / "none")


def test_links_to_folders_are_not_followed(tree, tmp_path):
    tree.attack("good", "blend", 0.9, 1.0)
    (tree.root / "loop").symlink_to(tree.root)
    assert list(states(tree)) == ["good"]


def test_damaged_metrics_are_no_rows(tree):
    folder = tree.attack("good", "blend", 0.9, 1.0)
    (folder / "metrics.jsonl").write_text("{\n")
    assert find_runs(tree.root)[0].rows == []
    (folder / "metrics.jsonl").write_text(json.dumps([1]) + "\n")
    assert find_runs(tree.root)[0].rows == []


def test_a_result_without_its_config_is_broken_since_nobody_knows_what_it_did(tree):
    folder = tree.attack("good", "blend", 0.9, 1.0)
    (folder / "config.json").unlink()
    run, = find_runs(tree.root)
    assert run.state == "broken" and "config.json is missing" in run.why


def test_a_log_in_percent_is_listed_as_broken(tree):
    tree.log("foreign", [(1, 99.9, 93.0)])
    run, = find_runs(tree.root)
    assert run.state == "broken" and "0.999" in run.why


def test_names_cannot_forge_lines_or_break_fonts(tree):
    tree.attack("evil\n\x1b[32mpass\udcff", "blend", 0.9, 1.0)
    name = find_runs(tree.root)[0].name
    assert name.isprintable() and name.encode() and "pass" in name


def test_a_pruned_model_whose_masks_were_made_anew_since_is_outdated(tree):
    folder = tree.pruned("badnets/anp", 0.01, 0.92)
    masks = folder.parent / "mask_values.txt"
    masks.write_text("first")
    for name in ("results.json", "config.json"):
        content = json.loads((folder / name).read_text())
        content.setdefault("arguments", {})["mask_file"] = "output/badnets/anp/mask_values.txt"
        content.setdefault("method", {})["masks"] = hash_file(masks)
        (folder / name).write_text(json.dumps(content))
    assert states(tree)["badnets/anp/pruned"] == "finished"
    masks.write_text("second")
    assert states(tree)["badnets/anp/pruned"] == "outdated"
    config = json.loads((folder / "config.json").read_text())
    config["arguments"]["mask_file"] = "output/badnets/anp-2/mask_values.txt"  # other masks, which are not there
    (folder / "config.json").write_text(json.dumps(config))
    assert states(tree)["badnets/anp/pruned"] == "finished"
