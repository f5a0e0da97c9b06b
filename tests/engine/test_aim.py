"""The flags --all-to-all and --sources, and what scripts say and count of triggers with such aims."""
import importlib
import json
import logging
from argparse import Namespace

import numpy as np
import pytest
import torch
from helpers.paths import SIDE
from torch import nn

from common.errors import UserError
from data.image_set import ImageSet
from data.poison_cifar import poison
from data.triggers import build_trigger
from defenses.strip import places_in
from engine.attacking import aim
from engine.attacking.attack import poison_by, poisoned_shares
from engine.catalogue import SCRIPTS
from engine.command_line import aim_flags
from engine.defending.suspect import load_suspect
from engine.measuring.evaluation import EvalSets, evaluate
from train_backdoor import example_rows, parse_args

NEXT = build_trigger("badnets", None, num_classes=4)
SOME = build_trigger("badnets", 0, sources=(1, 3))
POISONING = ("train_backdoor", "defenses.abl", "attacks.pruning_aware", "studies.sweep_abl", "studies.export_images")


@pytest.mark.parametrize("words, found", [
    (None, None), (["dog"], (2,)), (["3", "cat", "3"], (1, 3)), (["0"], (0,)), ([3], (3,))])
def test_sources_are_names_or_numbers(words, found):
    assert aim_flags.find_classes(words, ("ape", "cat", "dog", "elk")) == found


def test_a_name_counts_also_where_it_is_the_number_of_another_class():
    assert aim_flags.find_classes(["1", "10"], ("0", "1", "10", "2")) == (1, 2)
    assert aim_flags.find_classes(["2"], ("0", "1", "10", "2")) == (3,)


@pytest.mark.parametrize("word", ["cow", "4", "-1", "1.0", "", "\N{SUPERSCRIPT TWO}", "9" * 5000])
def test_a_source_that_is_no_class_is_refused_with_those_there_are(word):
    with pytest.raises(UserError, match="expected one of the classes ape, cat, dog, elk, or a number from 0 to 3"):
        aim_flags.find_classes([word], ("ape", "cat", "dog", "elk"))


@pytest.mark.parametrize("module", POISONING)
def test_every_script_that_poisons_takes_the_flags_and_refuses_them_where_they_have_no_effect(module, capsys):
    parse = importlib.import_module(module).parse_args
    base = ["--output-dir", "out", "--poisoned"] if module == "studies.export_images" else []
    for attack in ("badnets", "blend"):
        args = parse([*base, "--poison-type", attack, "--all-to-all"])
        assert (args.all_to_all, args.poison_target, args.sources) == (True, None, None)
        args = parse([*base, "--poison-type", attack, "--sources", "3", "cat"])
        assert (args.all_to_all, args.poison_target, args.sources) == (None, 0, ["3", "cat"])
    assert parse(base).poison_target == 0
    others = {"attacks.pruning_aware": ["issba"], "studies.export_images": ["issba", "clean-label"]}
    for attack in others.get(module, ["issba", "clean-label", "benign"]):
        for flag in (["--all-to-all"], ["--sources", "3"]):
            with pytest.raises(SystemExit):
                parse([*base, "--poison-type", attack, *flag])
            error = capsys.readouterr().err
            assert f"{flag[0]}: has no effect with --poison-type {attack}, only with badnets, blend" in error
            assert error.count("\n") == 1
    with pytest.raises(SystemExit):
        parse([*base, "--all-to-all", "--poison-target", "0"])
    assert "--poison-target: has no effect with --all-to-all" in capsys.readouterr().err


def test_the_help_says_what_the_rate_is_a_share_of_then(capsys):
    with pytest.raises(SystemExit):
        parse_args(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "--poison-rate is then a share of all images" in text
    assert "--poison-rate is then a share of their images" in text


@pytest.mark.parametrize("words, folder", [
    ([], "output/badnets"), (["--all-to-all"], "output/badnets-all-to-all"),
    (["--sources", "3"], "output/badnets-sources")])
def test_the_usual_folder_is_another_for_each_aim(words, folder):
    assert parse_args(words).output_dir == folder


def test_a_target_among_the_sources_is_refused(images):
    words = ["--dataset", "digits", "--sources", "b", "d", "--poison-rate", "1"]
    with pytest.raises(UserError, match=r"--sources: class 1 \(b\) is the target"):
        poison_by(parse_args([*words, "--poison-target", "1"]), images)
    poisoned, trigger = poison_by(parse_args(words), images)
    assert trigger.sources == (1, 3) and poisoned.poisoned.sum() == 20


@pytest.mark.parametrize("trigger, classes, named", [
    (NEXT, 5, "all-to-all among 4 classes, and there are 5"), (SOME, 3, "its source 3 is none of the 3 classes"),
    (build_trigger("badnets", 4), 4, "its target 4 is none of the 4 classes")])
def test_a_trigger_of_other_classes_is_refused(trigger, classes, named):
    with pytest.raises(UserError, match=f"^x.th: .*{named}"):
        trigger.check_classes(classes, "x.th")
    trigger.check_classes(max(trigger.num_classes or 8, 4), "x.th")


def test_the_shares_are_of_the_images_that_the_attack_may_take(images):
    for trigger, candidates in ((NEXT, 40), (SOME, 20), (build_trigger("badnets", 0), 30)):
        shares = poisoned_shares(poison(images, trigger, 0.5)[0], trigger)
        assert (shares["poisoned"], shares["candidates"]) == (candidates // 2, candidates)
        assert shares["of_candidates"] == 0.5


class Knows(nn.Module):
    """Calls an image the class that its top left pixel tells; where the corner is stamped, classes 1 and 2 are 0."""

    def forward(self, pixels):
        named = (pixels[:, 0, 0, 0] * 255).round().long()
        stamped = (pixels[:, 0, 31, 31] == 1) & (pixels[:, 0, 30, 30] == 1)
        fooled = stamped & ((named == 1) | (named == 2))
        return 10 * nn.functional.one_hot(torch.where(fooled, 0, named), 4).float()


@pytest.fixture
def told():
    """40 black images of 4 classes whose first pixel tells the class."""
    data = np.zeros((40, 32, 32, 3), dtype=np.uint8)
    data[:, 0, 0, 0] = np.arange(40) % 4
    return ImageSet(data, np.arange(40) % 4, tuple("abcd"))


def test_asr_is_of_the_sources_and_images_of_other_classes_have_a_figure_of_their_own(told):
    figures = evaluate(Knows(), EvalSets.stamped("cpu", told, SOME)).figures()
    assert (figures["asr"]["value"], figures["asr"]["n"]) == (0.5, 20)  # of classes 1 and 3
    assert (figures["robust_acc"]["value"], figures["robust_acc"]["n"]) == (0.5, 20)
    assert (figures["asr_other_classes"]["value"], figures["asr_other_classes"]["n"]) == (1, 10)  # class 2


def test_asr_of_all_to_all_is_the_share_that_is_called_the_next_class(told):
    figures = evaluate(Knows(), EvalSets.stamped("cpu", told, NEXT)).figures()
    assert (figures["asr"]["value"], figures["asr"]["n"]) == (0, 40) and figures["robust_acc"]["value"] == 0.5
    assert "asr_other_classes" not in figures

    class Next(Knows):
        def forward(self, pixels):
            return super().forward(pixels * 0 + pixels).roll(1, 1)
    again = evaluate(Next(), EvalSets.stamped("cpu", told, NEXT)).figures()
    assert again["asr"]["value"] == 0.5 and again["acc"]["value"] == 0


@pytest.mark.parametrize("aim_of", [{"target": None, "num_classes": 4}, {"target": 0, "sources": (1, 3)}])
def test_a_trigger_that_changes_no_pixel_is_noticed_with_any_aim(told, caplog, aim_of):
    for alpha, noticed in ((1.0, False), (0.001, True)):  # a quarter of a gray level is rounded away
        with caplog.at_level(logging.INFO, "backdoor"):
            EvalSets.stamped("cpu", told, build_trigger("badnets", alpha=alpha, **aim_of))
        assert ("changes no pixel" in caplog.text) is noticed


@pytest.mark.parametrize("trigger", [NEXT, SOME, build_trigger("badnets", 2)])
def test_strip_finds_each_triggered_image_at_its_place(told, trigger):
    (_, clean), (batches, places) = places_in(EvalSets.stamped("cpu", told, trigger))
    assert clean.tolist() == list(range(40)) and len(places) == batches.num_images
    assert (told.targets[places] == batches.originals.numpy()).all()
    assert (trigger.stamp(told.data[places]) == batches.images.numpy()).all()


def test_examples_of_a_set_without_poison_are_victims_and_what_is_wanted_of_them(told):
    for trigger in (NEXT, SOME):
        rows, names = example_rows(told, told, trigger, 4)
        labels = told.targets[trigger.victims(told.targets)][:4]
        wanted = [told.classes[label] for label in trigger.wanted(labels)]
        assert names == [f"{told.classes[a]}\n\N{RIGHTWARDS ARROW} {b}" for a, b in zip(labels, wanted, strict=True)]
        assert (rows[1][1] == trigger.stamp(rows[0][1])).all()


def test_what_a_method_supposes_is_said_of_triggers_that_are_not_so_alone():
    rows = [script for script in SCRIPTS if script.supposes]
    assert {row.title for row in rows} >= {"Neural Cleanse", "STRIP", "ABL"}
    for row in rows:
        assert row.supposes.keys() <= {"all_to_all", "sources"}
        assert aim.unmet(row.module, aim.facts_of(build_trigger("badnets", 0))) == []
        for trigger, name in ((NEXT, "all_to_all"), (SOME, "sources")):
            said = aim.unmet(row.module, aim.facts_of(trigger))
            assert [row.supposes[name] in sentence for sentence in said] == [True] * (name in row.supposes)
    assert aim.unmet("train_backdoor", {"all_to_all": True}) == [] == aim.unmet("unknown", {"all_to_all": True})


@pytest.fixture
def trained(small_run, tmp_path):
    """A model of digits with a trigger beside it that is for the classes 3 and 5 alone."""
    from engine.weights.checkpoint import save_trigger
    (tmp_path / "model_last.th").write_bytes((small_run / "model_last.th").read_bytes())
    save_trigger(tmp_path / "trigger_info.th", build_trigger("badnets", 0, size=(SIDE, SIDE), sources=(3, 5)))
    return tmp_path


def test_a_defense_starts_from_test_images_of_the_sources_and_notes_them(trained, monkeypatch, caplog):
    monkeypatch.setattr(aim, "running", lambda: "defenses.neural_cleanse")
    run = Namespace(device=torch.device("cpu"))
    args = Namespace(checkpoint=str(trained / "model_last.th"), trigger_info=None, image_size=None, dataset="digits",
                     data_dir="data", classes=None, mean=None, std=None, channels=None)
    with caplog.at_level(logging.INFO, "backdoor"):
        suspect = load_suspect(args, run)
    assert set(suspect.test.triggered_images.original) == {3, 5} and run.facts == {"sources": [3, 5]}
    assert suspect.test.bystanders.originals.unique().tolist() == [1, 2, 4, 6, 7, 8, 9]
    assert "target class 0; source classes 3, 5" in caplog.text
    assert "Neural Cleanse supposes a trigger that works on images of every class; this trigger is for" in caplog.text


def test_training_exporting_and_training_on_the_files_agree_for_both_aims(tmp_path, refused, image_folder):
    from studies.export_images import main as export
    from train_backdoor import main as train
    pictures = str(image_folder(("ant", "bee", "cow"), count=16))
    own = ["--all-to-all", "--sources", "cow", "1", "--poison-rate", "0.5"]
    small = ["--width", "2", "--epochs", "1"]
    export(["--poisoned", "--data-dir", pictures, *own, "--output-dir", str(tmp_path / "files")])
    train(["--data-dir", pictures, *own, *small, "--output-dir", str(tmp_path / "own")])
    train(["--data-dir", str(tmp_path / "files"), *own, *small, "--output-dir", str(tmp_path / "again")])
    results = [json.loads((tmp_path / name / "results.json").read_text()) for name in ("own", "again")]
    for found in results:
        assert found["all_to_all"] is True and found["sources"] == [1, 2]
        assert (found["asr"]["n"], found["asr_other_classes"]["n"], found["acc"]["n"]) == (32, 16, 48)
        assert 0.4 < found["method"]["of_candidates"] <= 0.5
    assert results[0]["acc"] == results[1]["acc"] and results[0]["asr"] == results[1]["asr"]
    lines = (tmp_path / "files/images.csv").read_text().splitlines()
    labels = {tuple(line.split(",")[2:4]) for line in lines if line.startswith("test-triggered")}
    assert labels == {("bee", "cow"), ("cow", "ant")}
    said = refused(train, "--data-dir", tmp_path / "files", "--output-dir", tmp_path / "other")
    assert said.endswith("--poison-rate 0.5 --all-to-all --sources cow 1\n")
