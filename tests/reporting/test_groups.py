import math

import pytest

from reporting.found import find_runs
from reporting.groups import defence_effect, effects, name_apart


def test_der_by_hand():
    assert defence_effect((93, 100), (92, 0)) == pytest.approx((100 - 1 + 100) / 2)
    assert defence_effect((93, 100), (93, 100)) == 50  # nothing done
    assert defence_effect((93, 50), (94, 60)) == 50  # what rises instead of falling counts for nothing
    assert defence_effect((93, 100), (10, 100)) == pytest.approx((100 - 83) / 2)
    assert math.isnan(defence_effect((93, math.nan), (92, 1)))


def found(tree):
    return {(effect.attack, effect.defence): effect for effect in effects(find_runs(tree.root))}


def defended(tree, name, script, method, acc, asr, before=None, arguments=None, **more):
    before = before and {"acc": {"value": before[0], "interval": [0, 1], "n": 10},
                         "asr": {"value": before[1], "interval": [0, 1], "n": 10}}
    return tree.run(name, script, arguments, acc=acc, asr=asr, method={"name": method, "before": before}, **more)


def test_a_defence_is_set_against_the_attack_above_it(tree):
    tree.attack("badnets", "badnets", 0.93, 1.0)
    defended(tree, "badnets/fine-prune", "fine_prune.py", "Fine-Pruning", 0.90, 0.1, (0.93, 1.0))
    effect = found(tree)["badnets", "Fine-Pruning"]
    assert effect.before == (93, 100) and effect.after == pytest.approx((90, 10))
    assert effect.rating == pytest.approx((90 - 3 + 100) / 2)
    assert found(tree)["badnets", "none"].after == (93, 100)


def test_seeds_are_one_row_with_their_mean(tree):
    for seed, asr in enumerate((0.1, 0.2, 0.6)):
        tree.attack(f"badnets/seed-{seed}", "badnets", 0.93, 1.0, seed=seed)
        defended(tree, f"badnets/seed-{seed}/fp", "fine_prune.py", "Fine-Pruning", 0.9, asr, (0.93, 1.0),
                 {"seed": seed, "lr": 0.01})
    effect = found(tree)["badnets", "Fine-Pruning"]
    assert len(effect.group.runs) == 3 and effect.after[1] == pytest.approx(30)
    assert len(found(tree)["badnets", "none"].group.runs) == 3


def test_other_settings_are_other_rows_named_by_what_differs(tree):
    tree.attack("badnets", "badnets", 0.93, 1.0)
    for lr in (0.01, 0.1):
        defended(tree, f"badnets/fp-{lr}", "fine_prune.py", "Fine-Pruning", 0.9, 0.1, (0.93, 1.0),
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
    defended(tree, "zoo/blend/fp", "fine_prune.py", "Fine-Pruning", 0.9, 0.1, (0.93, 1.0),
             parent="zoo/blend/model_last.th")
    defended(tree, "x/fp", "fine_prune.py", "Fine-Pruning", 0.9, 0.1, (0.93, 1.0), parent="strange/model.th")
    assert set(found(tree)) == {("blend", "none"), ("blend", "Fine-Pruning"), ("model in strange", "Fine-Pruning")}


def test_abl_is_set_against_the_undefended_training_with_the_same_poison(tree):
    tree.attack("badnets", "badnets", 0.94, 1.0, poison_rate=0.05)
    tree.attack("badnets-10", "badnets", 0.93, 0.99, poison_rate=0.1)
    defended(tree, "abl", "train_abl.py", "ABL", 0.88, 0.03,
             arguments={"poison_type": "badnets", "poison_rate": 0.1, "epochs": 2})
    effect = found(tree)["badnets-10", "ABL"]
    assert effect.before == pytest.approx((93, 99)) and effect.rating == pytest.approx((96 - 5 + 100) / 2)
