import json
import math

import pytest
from helpers.reporting import share

from engine.catalogue import BY_MODULE
from engine.measuring import doubt
from engine.rows import ATTACK, Script
from reporting import charts, groups
from reporting.candidates import attack_of
from reporting.effects import IMPLAUSIBLE, defense_effect, effects, is_plausible, value_range
from reporting.found import find_runs
from reporting.groups import attacks, name_apart
from reporting.tables import effect_table


def test_der_by_hand():
    assert defense_effect((93, 100), (92, 0)) == pytest.approx((100 - 1 + 100) / 2)
    assert defense_effect((93, 100), (93, 100)) == 50  # nothing done
    assert defense_effect((93, 50), (94, 60)) == 50  # what rises instead of falling counts for nothing
    assert defense_effect((93, 100), (10, 100)) == pytest.approx((100 - 83) / 2)
    assert math.isnan(defense_effect((93, math.nan), (92, 1)))


def test_a_range_is_from_the_lowest_to_the_highest_known_value():
    assert value_range([30, 10, math.nan, 20]) == "10.00 to 30.00"
    assert value_range([10, math.nan]) == value_range([]) == ""


def found(tree):
    return {(effect.attack, effect.name): effect for effect in effects(find_runs(tree.root))}


def defended(tree, name, script, method, acc, asr, before=None, arguments=None, **more):
    before = before and {"acc": {"value": before[0], "interval": [0, 1], "n": 10},
                         "asr": {"value": before[1], "interval": [0, 1], "n": 10}}
    return tree.run(name, script, arguments, acc=acc, asr=asr, method={"name": method, "before": before}, **more)


def test_a_defense_is_set_against_the_attack_above_it(tree):
    tree.attack("badnets", "badnets", 0.93, 1.0)
    defended(tree, "badnets/fine-prune", "defenses.fine_prune", "Fine-Pruning", 0.90, 0.1, (0.93, 1.0))
    effect = found(tree)["badnets", "Fine-Pruning"]
    assert effect.before == ((93, 100),) and effect.after == pytest.approx((90, 10))
    assert effect.ratings == pytest.approx([(90 - 3 + 100) / 2])
    assert found(tree)["badnets", "none"].after == (93, 100)


def test_what_was_run_on_an_outdated_repair_is_still_not_a_repair_of_the_attack(tree):
    tree.attack("badnets", "badnets", 0.93, 1.0)
    (tree.root / "badnets/model_last.th").write_bytes(b"trained anew")
    nad = defended(tree, "badnets/nad", "defenses.nad", "NAD", 0.92, 0.5, parent="output/badnets/model_last.th")
    config = json.loads((nad / "config.json").read_text())
    (nad / "config.json").write_text(json.dumps({**config, "inputs": "other images"}))
    for place, asr in (("badnets/nad/fine-prune", 0.01), ("badnets/fine-prune", 0.9)):
        defended(tree, place, "defenses.fine_prune", "Fine-Pruning", 0.9, asr)
    names = found(tree)
    assert ("badnets", "NAD") not in names
    assert len(names["badnets", "Fine-Pruning"].runs) == len(names["badnets", "Fine-Pruning after NAD"].runs) == 1


@pytest.mark.parametrize(("acc", "rated"), [(0.11, False), (0.39, False), (0.41, True)])
def test_a_model_that_knew_nothing_of_the_images_has_no_rating(tree, acc, rated):
    defended(tree, "mnist", "defenses.nad", "NAD", 0.15, 0.0, (acc, 1.0), parent="elsewhere/model_last.th",
             spec={"arch": "resnet18", "num_classes": 10})
    effect, = effects(find_runs(tree.root))
    assert math.isnan(effect.ratings[0]) != rated


def test_a_third_of_the_way_is_what_the_defenses_log_calls_too_little():
    assert doubt.IMPLAUSIBLE == IMPLAUSIBLE and is_plausible(40, 10) and not is_plausible(39.9, 10)
    assert is_plausible(1, None)


def test_seeds_are_one_row_with_their_mean(tree):
    for seed, asr in enumerate((0.1, 0.2, 0.6)):
        tree.attack(f"badnets/seed-{seed}", "badnets", 0.93, 1.0, seed=seed)
        defended(tree, f"badnets/seed-{seed}/fp", "defenses.fine_prune", "Fine-Pruning", 0.9, asr, (0.93, 1.0),
                 {"seed": seed, "lr": 0.01})
    effect = found(tree)["badnets", "Fine-Pruning"]
    assert len(effect.runs) == 3 and effect.after[1] == pytest.approx(30)
    assert len(found(tree)["badnets", "none"].runs) == 3


def test_the_seconds_of_several_seeds_are_those_of_one_run_on_average(tree):
    for seed, seconds in enumerate((10.0, 30.0)):
        tree.run(f"badnets/seed-{seed}", arguments={"poison_type": "badnets"}, seed=seed, seconds=seconds)
    assert found(tree)["badnets", "none"].seconds == 20


def test_a_defense_that_measured_one_figure_alone_before_is_set_against_both_of_the_attacks(tree):
    tree.attack("badnets", "badnets", 0.93, 1.0)
    tree.run("badnets/fp", "defenses.fine_prune", method={
        "name": "Fine-Pruning", "before": {"acc": share(0.5), "asr": None}})
    assert found(tree)["badnets", "Fine-Pruning"].before == ((93, 100),)


def test_each_seed_is_rated_against_its_own_model(tree):
    befores = [(0.93, 1.0), (0.90, 0.6)]
    for seed, before in enumerate(befores):
        tree.attack(f"badnets/seed-{seed}", "badnets", *before, seed=seed)
        defended(tree, f"badnets/seed-{seed}/fp", "defenses.fine_prune", "Fine-Pruning", 0.9, 0.2, before,
                 {"seed": seed, "lr": 0.01})
    effect = found(tree)["badnets", "Fine-Pruning"]
    assert effect.ratings == pytest.approx([(80 - 3 + 100) / 2, (40 - 0 + 100) / 2])


def test_a_training_that_leaves_out_what_is_suspected_is_a_defense_on_the_attack_of_the_same_data(tree):
    tree.attack("badnets", "badnets", 0.93, 1.0, poison_rate=0.1)
    tree.attack("blend", "blend", 0.93, 1.0, poison_rate=0.1)
    for detector, asr in (("activation-clustering", 0.02), ("spectral-signatures", 0.5)):
        tree.run(f"again/{detector}", "train_backdoor", acc=0.92, asr=asr, method={"name": "retraining"}, arguments={
            "poison_type": "badnets", "poison_rate": 0.1, "leave_out": f"output/badnets/{detector}/suspected.npy"})
    effects = found(tree)
    assert set(effects) == {("badnets", "none"), ("blend", "none"),
                            ("badnets", "retraining (leave out activation-clustering)"),
                            ("badnets", "retraining (leave out spectral-signatures)")}
    effect = effects["badnets", "retraining (leave out activation-clustering)"]
    assert effect.before == ((93, 100),) and effect.after == pytest.approx((92, 2))
    assert grade_of(tree)["badnets"] == "badnets"


def grade_of(tree):
    """{the homework's attack: the run that it is graded by}."""
    runs = find_runs(tree.root)
    return {attack_of(run): run.name for run in runs if attack_of(run)}


def test_robust_acc_stands_in_its_own_column(tree):
    tree.attack("badnets", "badnets", 0.93, 1.0)
    defended(tree, "badnets/fp", "defenses.fine_prune", "Fine-Pruning", 0.9, 0.1, (0.93, 1.0), robust_acc=share(0.8))
    table = effect_table(found(tree).values())
    last = dict(zip(table.columns, (cell.text for cell in table.rows[-1]), strict=True))
    assert [last[name] for name in ("ACC", "ASR", "robust ACC", "DER")] == ["90.00", "10.00", "80.00", "93.5"]


def test_other_settings_are_other_rows_named_by_what_differs(tree):
    tree.attack("badnets", "badnets", 0.93, 1.0)
    for lr in (0.01, 0.1):
        defended(tree, f"badnets/fp-{lr}", "defenses.fine_prune", "Fine-Pruning", 0.9, 0.1, (0.93, 1.0),
                 {"lr": lr, "epochs": 10})
    assert {name for _, name in found(tree)} == {"none", "Fine-Pruning (lr 0.01)", "Fine-Pruning (lr 0.1)"}
    assert name_apart([("a", {"x": 1}), ("b", {"x": 2})]) == ["a", "b"]


def test_a_pruned_model_is_told_by_the_alpha_of_its_masks(tree):
    tree.attack("badnets", "badnets", 0.93, 1.0)
    tree.pruned("badnets/anp-a", 0.01, 0.92, alpha=0.2)
    tree.pruned("badnets/anp-b", 0.5, 0.92, alpha=0.9)
    assert {name for _, name in found(tree)} == {"none", "ANP (anp alpha 0.2)", "ANP (anp alpha 0.9)"}


def test_a_model_of_the_zoo_is_known_by_its_folders_name(tree):
    tree.attack("blend", "blend", 0.93, 1.0)
    defended(tree, "zoo/blend/fp", "defenses.fine_prune", "Fine-Pruning", 0.9, 0.1, (0.93, 1.0),
             parent="zoo/blend/model_last.th")
    defended(tree, "x/fp", "defenses.fine_prune", "Fine-Pruning", 0.9, 0.1, (0.93, 1.0), parent="strange/model.th")
    assert set(found(tree)) == {("blend", "none"), ("blend", "Fine-Pruning"), ("model in strange", "Fine-Pruning")}


def test_abl_is_set_against_the_undefended_training_with_the_same_poison(tree):
    tree.attack("badnets", "badnets", 0.94, 1.0, poison_rate=0.05)
    tree.attack("badnets-10", "badnets", 0.93, 0.99, poison_rate=0.1)
    defended(tree, "abl", "defenses.abl", "ABL", 0.88, 0.03,
             arguments={"poison_type": "badnets", "poison_rate": 0.1, "epochs": 2})
    effect = found(tree)["badnets-10", "ABL"]
    assert effect.before[0] == pytest.approx((93, 99)) and effect.ratings == pytest.approx([(96 - 5 + 100) / 2])


def abl(tree, name, rate=0.1, **results):
    arguments = {"poison_type": "badnets", "poison_rate": rate, "crop_padding": 4, "epochs": 2}
    defended(tree, name, "defenses.abl", "ABL", 0.88, 0.03, arguments=arguments, **results)


def test_abl_is_set_against_the_attack_above_it_with_the_same_poison_though_it_was_trained_otherwise(tree):
    tree.attack("a", "badnets", 0.93, 0.99, poison_rate=0.1, crop_padding=1)
    tree.attack("b", "badnets", 0.91, 1.0, poison_rate=0.1, crop_padding=4)
    abl(tree, "a/abl")
    abl(tree, "a/abl-0.2", 0.2)
    effect = found(tree)["a", "ABL"]
    assert [run.name for run in effect.runs] == ["a/abl"] and effect.before[0] == pytest.approx((93, 99))
    assert sum(kind == "ABL" for _, kind in found(tree)) == 2  # that of another rate is of no attack here


def test_abl_is_set_against_the_training_of_its_own_seed(tree):
    for seed, acc in enumerate((0.94, 0.92)):
        tree.attack(f"badnets/seed-{seed}", "badnets", acc, 1.0, seed=seed, poison_rate=0.1, crop_padding=4)
    abl(tree, "x/abl", seed=1)
    assert found(tree)["badnets", "ABL"].before[0] == pytest.approx((92, 100))


def test_abl_is_set_against_the_training_whose_number_of_epochs_is_nearest(tree):
    for name, acc, epochs in (("long", 0.94, 50), ("short", 0.92, 3)):
        tree.run(name, arguments={"poison_type": "badnets", "poison_rate": 0.1, "crop_padding": 4}, acc=acc,
                 epochs=epochs)
    abl(tree, "x/abl")
    assert found(tree)["short", "ABL"].before[0] == pytest.approx((92, 100))


def test_abl_is_not_set_against_other_images_another_recipe_or_a_fine_tuning(tree):
    tree.attack("strong", "badnets", 0.95, 1.0, poison_rate=0.1, crop_padding=4, cutout=8, label_smoothing=0.1)
    tree.attack("tuned", "badnets", 0.9, 0.1, poison_rate=0.1, crop_padding=4, start_from="benign/model_last.th")
    abl(tree, "strong/wide", width=8)
    abl(tree, "x/abl")
    assert not {"strong", "tuned"} & {attack for attack, kind in found(tree) if kind == "ABL"}


def test_abl_on_a_stored_trigger_is_set_against_the_attack_above_it_or_a_training_on_the_same_images(tree):
    arguments = {"poison_type": "stored", "poison_rate": 0.1, "trigger_file": "w/trigger_info.th", "epochs": 2}
    tree.run("w", "attacks.wanet", method={"name": "WaNet"}, acc=0.94, asr=0.97)
    defended(tree, "w/abl", "defenses.abl", "ABL", 0.88, 0.03, arguments=arguments)
    assert found(tree)["w", "ABL"].before[0] == pytest.approx((94, 97))
    tree.run("images", "train_backdoor", arguments, method={"poison_type": "stored"}, acc=0.93, asr=0.5)
    assert found(tree)["images", "ABL"].before[0] == pytest.approx((93, 50))


def test_der_is_the_mean_of_each_seeds_own_not_of_the_means(tree):
    for seed, acc in enumerate((0.91, 0.95)):  # 2 points lost, 2 won: half the first's cost stays
        tree.attack(f"badnets/seed-{seed}", "badnets", 0.93, 1.0, seed=seed)
        defended(tree, f"badnets/seed-{seed}/fp", "defenses.fine_prune", "Fine-Pruning", acc, 0.0, (0.93, 1.0))
    assert found(tree)["badnets", "Fine-Pruning"].ratings == pytest.approx([(100 - 2 + 100) / 2, 100])


def test_attacks_of_one_name_are_all_there(tree):
    tree.attack("a/seed-0", "badnets", 0.93, 1.0, trigger_image="x/trigger.png")
    tree.attack("a/seed-1", "badnets", 0.93, 1.0, trigger_image="y/trigger.png")
    tree.attack("b/seed-0", "badnets", 0.93, 1.0)
    tree.attack("b/seed-1", "blend", 0.93, 1.0)
    assert sorted(run.name for effect in found(tree).values() for run in effect.runs) == [
        "a/seed-0", "a/seed-1", "b/seed-0", "b/seed-1"]
    assert len(found(tree)) == 4


def test_seeds_are_told_by_a_folders_end_too(tree):
    for seed in range(2):
        tree.attack(f"badnets-seed-{seed}", "badnets", 0.93, 1.0, seed=seed)
    assert len(found(tree)["badnets", "none"].runs) == 2


def test_a_defense_of_a_repaired_model_is_no_seed_of_the_models_own(tree):
    tree.attack("badnets", "badnets", 0.93, 1.0)
    tree.pruned("badnets/anp", 0.5, 0.92)
    defended(tree, "badnets/fp", "defenses.fine_prune", "Fine-Pruning", 0.9, 0.1, (0.93, 1.0))
    tree.pruned("badnets/fp/anp", 0.01, 0.92)
    assert {name for _, name in found(tree)} == {"none", "ANP", "Fine-Pruning", "ANP after Fine-Pruning"}


def test_a_checkpoint_is_matched_by_its_path_and_by_nothing_if_two_fit(tree):
    for name in ("badnets", "blend"):
        tree.attack(f"{name}/seed-1", name, 0.93, 1.0)
    defended(tree, "x/fp", "defenses.fine_prune", "Fine-Pruning", 0.9, 0.1, (0.93, 1.0),
             parent="output/blend/seed-1/model_last.th")
    defended(tree, "y/fp", "defenses.fine_prune", "Fine-Pruning", 0.9, 0.2, (0.93, 1.0),
             parent="output/seed-1/model_last.th")
    defended(tree, "z/fp", "defenses.fine_prune", "Fine-Pruning", 0.9, 0.3, (0.93, 1.0), width=16,
             parent="output/blend/seed-1/model_last.th")
    effects = found(tree)
    assert effects["blend", "Fine-Pruning"].after[1] == pytest.approx(10)
    assert ("model in output/seed-1", "Fine-Pruning") in effects
    assert effects["model in output/blend/seed-1", "Fine-Pruning"].after[1] == pytest.approx(30)


def test_unlearnings_controls_are_kinds_of_their_own(tree):
    tree.attack("badnets", "badnets", 0.93, 1.0)
    for patch in ("reversed", "clean", "original"):
        folder = defended(tree, f"badnets/unlearn-{patch}", "defenses.unlearn_trigger", "unlearning", 0.9, 0.1,
                          (0.93, 1.0))
        path = folder / "results.json"
        path.write_text(path.read_text().replace('"unlearning"', f'"unlearning", "patch_with": "{patch}"'))
    assert {effect.kind for effect in found(tree).values()} == {
        "none", "NC unlearning", "NC control, no trigger", "NC control, true trigger"}


def test_clean_label_runs_whose_images_were_crafted_for_each_seed_are_one_attack(tree):
    for seed in (0, 1):
        tree.attack(f"clean-label/seed-{seed}", "clean-label", 0.9, 0.8, seed, clb_dir=f"output/m/crafted/seed-{seed}")
    tree.attack("clean-label-other", "clean-label", 0.9, 0.8, 0, clb_dir="output/m/others/seed-0")
    assert sorted(map(len, attacks(find_runs(tree.root)).values())) == [1, 2]


def test_two_networks_are_never_averaged(tree):
    tree.attack("badnets-a", "badnets", 0.93, 1.0, arch="resnet18")
    tree.attack("badnets-b", "badnets", 0.83, 0.5, arch="vgg16")
    for name in ("a", "b"):
        tree.attack(f"same/seed-{'ab'.index(name)}", "badnets", 0.9, 1.0, arch="resnet18" if name == "a" else "vgg16")
    by_name = attacks(find_runs(tree.root))
    assert sorted(map(len, by_name.values())) == [1, 1, 1, 1]
    assert {"same (data cifar10, width 64)", "same (data cifar10, vgg16, width 64)"} <= by_name.keys()


def test_a_result_names_its_network_and_a_defense_has_that_of_the_model_above(tree):
    tree.attack("told", "badnets", 0.93, 1.0, arch="resnet18")
    path = tree.root / "told/results.json"
    path.write_text(path.read_text().replace('"width": 64', '"spec": {"arch": "vgg16", "width": 8, "num_classes": 10}'))
    defended(tree, "told/fp", "defenses.fine_prune", "Fine-Pruning", 0.9, 0.1, (0.93, 1.0), width=8)
    tree.attack("silent", "blend", 0.93, 1.0)
    assert {run.name: run.setting for run in find_runs(tree.root)} == {
        "told": ("cifar10", "vgg16", 8), "told/fp": ("cifar10", "vgg16", 8), "silent": ("cifar10", "resnet18", 64)}


@pytest.mark.parametrize("old, new, task", [
    ("detect_strip.py", "defenses.strip", None), ("neural_cleanse.py", "defenses.neural_cleanse", "detect"),
    ("neural_cleanse.py", "defenses.unlearn_trigger", "unlearn"),
    ("train_pruning_aware.py", "attacks.pruning_aware", None)])
def test_a_script_that_moved_is_the_same_script(tree, old, new, task):
    tree.run("old", old, {"task": task})
    tree.run("new", new)
    assert len({run.script for run in find_runs(tree.root)}) == 1


def test_an_attack_of_a_new_script_is_an_attack_and_an_ingredient_is_none(tree, monkeypatch):
    monkeypatch.setitem(BY_MODULE, "attacks.bent", Script("attacks.bent", "Bent", ATTACK))
    tree.run("warped", "attacks.bent", method={"name": "Bent"})
    tree.run("encoder", "attacks.issba_encoder", acc=0.5, method={"name": "ISSBA encoder"})
    path = tree.root / "encoder/results.json"
    path.write_text(json.dumps({name: value for name, value in json.loads(path.read_text()).items() if name != "acc"}))
    defended(tree, "warped/fp", "defenses.fine_prune", "Fine-Pruning", 0.9, 0.1, (0.93, 1.0))
    assert set(found(tree)) == {("warped", "none"), ("warped", "Fine-Pruning")}


@pytest.mark.parametrize(("own", "said"), [
    ({"spec": {"arch": "wrn16-1", "width": None}, "width": None}, "cifar10, wrn16-1"),
    ({"spec": {"arch": "resnet18", "width": 16}, "width": 16}, "cifar10, width 16"),
    ({"width": None}, "cifar10, width ?")])
def test_a_network_of_one_size_is_named_without_a_width(tree, own, said):
    tree.run("nad", "defenses.nad", **own)
    assert groups.run_setting(find_runs(tree.root)[0]) == said


def test_a_repair_of_an_attack_that_is_being_trained_anew_is_no_other_attacks(tree):
    tree.attack("badnets/seed-0", "badnets", 0.93, 1.0)
    tree.begin("blend/seed-0", arguments={"poison_type": "blend"})
    defended(tree, "blend/seed-0/fine-tune", "defenses.fine_prune", "fine-tuning", 0.9, 0.5,
             parent="output/blend/seed-0/model_last.th")
    assert {attack for attack, _ in found(tree)} == {"badnets", "model in output/blend/seed-0"}


def test_a_repair_of_a_model_trained_without_what_is_suspected_is_still_of_the_attack(tree):
    tree.attack("badnets", "badnets", 0.93, 1.0)
    tree.run("badnets/retrained", arguments={"poison_type": "badnets", "leave_out": "badnets/ac/suspected.npy"},
             asr=0.1, method={"poison_type": "badnets"})
    defended(tree, "badnets/retrained/fp", "defenses.fine_prune", "Fine-Pruning", 0.9, 0.0)
    assert {attack for attack, _ in found(tree)} == {"badnets"}


def test_a_seeds_folder_alone_matches_nothing_and_other_weights_of_the_same_name_neither(tree):
    tree.attack("badnets/seed-0", "badnets", 0.93, 1.0)
    defended(tree, "x/fp", "defenses.fine_prune", "Fine-Pruning", 0.9, 0.1, parent="output/sig/seed-0/model_last.th")
    blend = tree.attack("blend", "blend", 0.93, 1.0)
    (blend / "model_last.th").write_bytes(b"mine")
    folder = defended(tree, "y/fp", "defenses.fine_prune", "Fine-Pruning", 0.9, 0.2, parent="zoo/blend/model_last.th")
    assert {attack for attack, name in found(tree) if name == "Fine-Pruning"} == {"model in output/sig/seed-0", "blend"}
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "inputs": "of other weights"}))
    assert {attack for attack, name in found(tree) if name == "Fine-Pruning"} == {
        "model in output/sig/seed-0", "model in zoo/blend"}


def test_seeds_whose_second_model_is_of_their_own_seed_are_seeds_of_one_thing(tree):
    for seed in range(2):
        tree.attack(f"badnets/seed-{seed}", "badnets", 0.93, 1.0, seed=seed)
        defended(tree, f"badnets/seed-{seed}/mcr", "defenses.mcr", "MCR", 0.9, 0.1, arguments={
            "second": f"output/blend/seed-{seed}/model_last.th"}, seed=seed)
    assert [len(effect.runs) for (_, name), effect in found(tree).items() if "MCR" in name] == [2]


def test_the_map_is_colored_by_asr_and_has_of_several_settings_the_one_with_most_runs(tree, monkeypatch):
    for seed in range(2):
        tree.attack(f"badnets/seed-{seed}", "badnets", 0.5, 1.0, seed=seed)
        defended(tree, f"badnets/seed-{seed}/fp-slow", "defenses.fine_prune", "Fine-Pruning", 0.75, 0.25,
                 arguments={"lr": 0.1})
    defended(tree, "badnets/seed-0/fp-fast", "defenses.fine_prune", "Fine-Pruning", 0.25, 0.75, arguments={"lr": 1})
    monkeypatch.setattr(charts, "drawn", lambda figure, *words, **how: figure)
    figure, = charts.attack_map(effects(find_runs(tree.root)))
    axis, = figure.axes
    assert axis.images[0].get_array().tolist() == [[100, 25]]
    assert [text.get_text() for text in axis.texts] == ["50.0 / 100.0", "75.0 / 25.0"]


def test_the_map_has_of_settings_with_as_many_runs_the_first_by_path_and_no_attack_without_a_defense(tree, monkeypatch):
    for name in ("badnets", "blend"):
        tree.attack(name, name, 0.5, 1.0)
    for name, lr, asr in (("fp-a", 0.1, 0.25), ("fp-b", 1, 0.75)):
        defended(tree, f"badnets/{name}", "defenses.fine_prune", "Fine-Pruning", 0.75, asr, arguments={"lr": lr})
    monkeypatch.setattr(charts, "drawn", lambda figure, *words, **how: figure)
    figure, = charts.attack_map(effects(find_runs(tree.root)))
    assert figure.axes[0].images[0].get_array().tolist() == [[100, 25]]
