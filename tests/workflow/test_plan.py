import argparse
import json

import pytest
import yaml
from helpers.paths import ROOT
from helpers.runs import flags_of as flags_in_script

from common.errors import UserError
from engine.catalogue import attack_cells, defense_cells
from reporting.published import published
from workflow.matrix import OF, defense_names, flags_of, read_matrix, said_of
from workflow.plan import plan
from workflow.request import read_plan
from workflow.steps import SWITCHES, Plan, parse, rule_name

SMALL = {"output": "out", "seeds": [0, 1], "data": {"dataset": "digits"}, "training": {"width": 4, "epochs": 1},
         "attacks": {"badnets": {}, "issba": {}}, "defenses": {"anp": {"val_frac": 0.05}, "abl": {}}}


@pytest.fixture
def written(tmp_path):
    """Write a matrix, SMALL with changes, as YAML; returns its path."""
    def write(**changes):
        path = tmp_path / "matrix.yaml"
        path.write_text(yaml.safe_dump({**SMALL, **changes}))
        return path
    return write


@pytest.mark.parametrize("module", sorted({script.module for cells in (attack_cells(), defense_cells())
                                           for script, _ in cells.values()}))
def test_a_flag_without_a_no_form_is_known_as_one_and_false_leaves_it_out(module):
    alone = {name for name, action in flags_in_script(module).items() if isinstance(action, argparse._StoreTrueAction)}
    assert alone - {"overwrite", "resume"} <= set(SWITCHES)


@pytest.mark.parametrize("name", [path.stem for path in (ROOT / "workflow/matrices").glob("*.yaml")])
def test_the_suites_own_matrices_are_calls_that_their_scripts_take(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # away from runs that lie in the checkout
    steps = plan(read_matrix(ROOT / f"workflow/matrices/{name}.yaml")).steps
    assert len(steps) > 5


def test_every_step_comes_after_what_it_needs():
    seen = set()
    for folder, step in plan(SMALL).steps.items():
        assert set(step.needs) <= seen, step
        seen.add(f"{folder}/results.json")


def test_each_cell_is_there_for_each_seed_with_what_it_needs():
    steps = plan(SMALL).steps
    assert {step.cell for step in steps.values()} == {
        f"{cell}, seed {seed}" for seed in (0, 1) for cell in (
            "badnets", "issba", "benign", *(f"{defense} on {attack}" for defense in ("anp-masks", "anp", "abl")
                                            for attack in ("badnets", "issba")))}
    pruned = steps["out/badnets/seed-1/anp/pruned"]
    assert pruned.needs == ("out/badnets/seed-1/anp/results.json",)
    assert "out/badnets/seed-1/anp/mask_values.txt" in pruned.flags
    issba = steps["out/issba/seed-1"]
    assert issba.needs == ("out/issba-encoder/seed-1/results.json",)
    assert "out/issba-encoder/seed-1/encoder.th" in issba.flags
    assert steps["out/issba-encoder/seed-1"].needs == ("out/benign/seed-1/results.json",)
    for step in steps.values():
        seed = step.folder.split("seed-")[1].split("/")[0]
        if step.script.draws:
            assert step.flags[step.flags.index("--seed") + 1] == seed
        else:
            assert "--seed" not in step.flags


def test_a_step_asks_for_a_gpu_only_where_its_script_and_its_cell_are_worth_one():
    defenses = dict.fromkeys(("pruning", "fine-pruning", "clp"))
    steps = plan({**SMALL, "seeds": [0], "attacks": {"badnets": {}}, "defenses": defenses}).steps
    assert {folder.removeprefix("out/badnets/seed-0"): step.is_heavy for folder, step in steps.items()} == {
        "": True, "/prune": False, "/fine-prune": True, "/clp": False}


@pytest.mark.parametrize("own, words", [
    ({"all_to_all": True}, ["--all-to-all"]), ({"all_to_all": False, "sources": [3, "5"]}, ["--sources", "3", "5"])])
def test_an_attacks_aim_reaches_its_training_and_what_trains_on_its_data(own, words):
    steps = plan({**SMALL, "seeds": [0], "attacks": {"badnets": own}}).steps
    for folder in ("out/badnets/seed-0", "out/badnets/seed-0/abl"):
        found = list(steps[folder].flags)
        assert " ".join(words) in " ".join(found) and "--no-all-to-all" not in found


def test_flags_of_the_file_reach_their_script_alone():
    steps = plan({**SMALL, "attacks": {"badnets": {"poison_rate": 0.3}}}).steps
    with_rate = {folder for folder, step in steps.items() if "--poison-rate" in step.flags}
    assert with_rate == {f"out/badnets/seed-{seed}{end}" for seed in (0, 1) for end in ("", "/abl")}


def test_a_defense_that_trains_gets_what_the_trigger_of_an_attack_that_controls_training_would_have_poisoned():
    steps = plan({**SMALL, "attacks": {"wanet": {"poison_rate": 0.2, "noise-rate": 0.3}}, "seeds": [0]}).steps
    abl = steps["out/wanet/seed-0/abl"]
    assert abl.needs == ("out/wanet/seed-0/results.json",)
    words = " ".join(abl.flags)
    assert "--poison-type stored --trigger-file out/wanet/seed-0/trigger_info.th --poison-rate 0.2" in words
    prepared = plan({**SMALL, "attacks": {"wanet": {}}, "prepare": {"wanet": {"poison_rate": 0.7}}, "seeds": [0]}).steps
    assert "--poison-rate 0.7" in " ".join(prepared["out/wanet/seed-0/abl"].flags)
    assert "--poison-rate" not in prepared["out/wanet/seed-0"].flags
    both = plan({**SMALL, "attacks": {"wanet": {"poison_rate": 0.2}}, "prepare": {"wanet": {"poison_rate": 0.7}}}).steps
    assert "--poison-rate 0.7" in " ".join(both["out/wanet/seed-0/abl"].flags)
    assert "--poison-rate 0.2" in " ".join(both["out/wanet/seed-0"].flags)
    assert "--noise-rate" not in words and "--noise-rate" in steps["out/wanet/seed-0"].flags
    assert not any("/abl" in folder for folder in plan({**SMALL, "attacks": {"pruning-aware-badnets": {}}}).steps)


def test_a_detector_gets_the_attacks_data_and_its_model_and_training_again_what_it_leaves():
    steps = plan({**SMALL, "seeds": [1], "attacks": {"badnets": {"poison_rate": 0.2, "lr": 0.05}, "clean-label": {}},
                  "defenses": {"spectral-signatures-retraining": {}, "activation-clustering": {"reduce": "pca"}}}).steps
    found = steps["out/badnets/seed-1/spectral-signatures"]
    words = " ".join(found.flags)
    assert "--checkpoint out/badnets/seed-1/model_last.th" in words and "--poison-rate 0.2" in words
    assert "--seed 1" in words and "--lr" not in words and found.needs == ("out/badnets/seed-1/results.json",)
    again = steps["out/badnets/seed-1/spectral-signatures/retrained"]
    assert again.script.module == "train_backdoor" and again.needs == (found.results,)
    assert f"--leave-out {found.folder}/suspected.npy" in " ".join(again.flags) and "--lr 0.05" in " ".join(again.flags)
    crafted = steps["out/clean-label/seed-1/activation-clustering"]
    assert "--reduce pca" in " ".join(crafted.flags) and any("crafted" in word for word in crafted.flags)
    assert {"out/clean-label/seed-1/results.json", "out/crafted/seed-1/results.json"} == set(crafted.needs)


def test_a_detector_runs_only_where_the_model_was_trained_on_the_data():
    steps = plan({**SMALL, "seeds": [0], "attacks": {"wanet": {}, "pruning-aware-badnets": {"clean_epochs": 1}},
                  "defenses": {"activation-clustering-retraining": {}, "activation-clustering": {}}}).steps
    assert set(steps) == {"out/wanet/seed-0", "out/pruning-aware-badnets/seed-0",
                          "out/pruning-aware-badnets/seed-0/activation-clustering"}
    assert "--clean-epochs" not in steps["out/pruning-aware-badnets/seed-0/activation-clustering"].flags


@pytest.mark.parametrize("changes, complaint", [
    ({"attacks": {"badnet": {}}}, "no such attack: 'badnet'; there are benign, badnets"),
    ({"defenses": {"magic": {}}}, f"no such defense: 'magic'; there are {', '.join(defense_names())}"),
    ({"seeds": []}, "seeds: expected a list of whole numbers"),
    ({"seeds": [True]}, "seeds: expected"),
    ({"seeds": [-1]}, "seeds: expected"),
    ({"attacks": {"activation-clustering-retraining": {}}}, "no such attack: 'activation-"),
    ({"data": {"seed": 3}}, "data: seed: is set by the workflow itself"),
    ({"defenses": {"clp": {"overwrite": True}}}, "clp: overwrite: is set by the workflow itself"),
    ({"training": {"lr": "--overwrite"}}, "training: 'lr': expected the name of one flag, and values that are not"),
    ({"training": {"lr 0.1 --width": 8}}, "training: 'lr 0.1 --width': expected the name of one flag"),
    ({"attacks": ["badnets"]}, "attacks: expected names with their flags"),
    ({"attacks": {"badnets": 3}}, "badnets: expected flags, got 3"),
    ({"prepare": {"x": {}}}, "prepare: no such prepare: 'x'"),
    ({"prepare": {"wanet": {}}}, "prepare: wanet: is not under attacks"),
    ({"attacks": {"wanet": {}}, "prepare": {"wanet": {"trigger-file": "x"}}},
     "wanet: expected at most poison_target and poison_rate, got t"),
    ({"attacks": {}}, "attacks: expected at least one of benign"),
    ({"attacks": {"badnets": {"seed": 3}}}, "attacks: badnets: seed: is set by the workflow itself"),
    ({"training": {True: 3}}, "training: expected a flag's name, got True; YAML reads on"),
    ({"output": " "}, "output: expected a folder"),
    ({"training": {"width": {"a": 1}}}, "training: width: expected a value or a list of values"),
    ({"nonsense": 1}, "expected output, seeds, attacks and defenses"),
    ({"output": 3}, "output: expected a folder")])
def test_a_mistake_is_named_before_anything_starts(written, changes, complaint):
    with pytest.raises(UserError, match=r"matrix\.yaml") as error:
        read_matrix(written(**changes))
    assert complaint in str(error.value)


@pytest.mark.parametrize("key", ["output", "seeds", "attacks", "defenses"])
def test_what_a_matrix_cannot_do_without_is_named(tmp_path, key):
    path = tmp_path / "matrix.yaml"
    path.write_text(yaml.safe_dump({name: value for name, value in SMALL.items() if name != key}))
    with pytest.raises(UserError, match=r"matrix\.yaml: expected output, seeds, attacks and defenses"):
        read_matrix(path)


def test_what_is_prepared_for_an_attack_that_controls_training_may_be_for_its_variant_and_wait_for_a_defense(written):
    path = written(attacks={"wanet-b": {"of": "wanet"}}, defenses={"clp": {}}, prepare={"wanet": {"poison-rate": 0.4}})
    assert "out/wanet-b/seed-1/clp" in plan(read_matrix(path)).steps


def test_a_pair_may_name_no_attack_that_breaks_its_defense(written):
    assert plan(read_matrix(written(pairs={"anp": {"assumes": "so", "kept_by": ["badnets"]}}))).steps


def test_flags_of_an_attack_or_a_defense_hold_against_those_of_all_trainings_and_of_what_is_prepared():
    steps = plan({**SMALL, "seeds": [0], "attacks": {"badnets": {"epochs": 3}}, "defenses": {
        "abl": {"width": 8}, "clustering-b": {"of": "activation-clustering", "reduce": "ica"}},
        "prepare": {"activation-clustering": {"reduce": "pca"}}}).steps
    for folder, words in (("", "--epochs 3"), ("/abl", "--width 8"), ("/clustering-b", "--reduce ica")):
        flags = " ".join(steps[f"out/badnets/seed-0{folder}"].flags)
        assert words in flags and flags.count(words.split()[0] + " ") == 1


def test_what_is_prepared_reaches_the_ingredient_that_it_names():
    steps = plan({**SMALL, "attacks": {"issba": {}}, "defenses": {}, "prepare": {"issba-encoder": {"bits": 7}}}).steps
    assert "--bits 7" in " ".join(steps["out/issba-encoder/seed-0"].flags)


def test_a_detector_is_told_what_was_poisoned_also_where_the_file_writes_flags_with_dashes():
    steps = plan({**SMALL, "seeds": [0], "attacks": {"badnets": {"poison-rate": 0.3}},
                  "defenses": {"activation-clustering": {}}}).steps
    assert "--poison-rate 0.3" in " ".join(steps["out/badnets/seed-0/activation-clustering"].flags)


def test_pruning_alone_takes_no_seed_and_every_step_goes_on_where_it_stopped():
    steps = plan({**SMALL, "seeds": [1], "attacks": {"badnets": {}},
                  "defenses": {"pruning": {}, "fine-tuning": {}}}).steps
    assert "--seed" not in steps["out/badnets/seed-1/prune"].flags
    assert "--seed" in steps["out/badnets/seed-1/fine-tune"].flags
    for folder, step in steps.items():
        assert step.own_words()[-3:] == ["--output-dir", folder, "--resume"]


@pytest.mark.parametrize("copied", ["a{b}.th", "a\nb.th", "caf\udce9.th"])
def test_a_file_to_be_copied_has_a_name_that_snakemake_can_take(copied):
    with pytest.raises(UserError, match="expected a name without braces, which Snakemake expands, of printable"):
        Plan("out", "x", copies={"out/model_last.th": copied}).check()


def test_a_run_of_other_flags_is_told_from_one_that_is_older_than_a_flag(tmp_path):
    """An earlier version recorded a default also of a flag that the attack does not use; masks say what was inherited.
    """
    planned = plan({**SMALL, "output": str(tmp_path), "seeds": [0], "attacks": {"badnets": {}},
                    "defenses": {"anp": {}}})
    for folder, arguments in (("badnets/seed-0", {"width": 4, "sig_delta": 0.1, "poison_type": "badnets"}),
                              ("badnets/seed-0/anp/pruned", {"dataset": "digits", "crop_padding": 4})):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "config.json").write_text(json.dumps({"arguments": arguments}))
    planned.check()
    (tmp_path / "badnets/seed-0/config.json").write_text(json.dumps({"arguments": {"width": 8}}))
    with pytest.raises(UserError, match="holds a run made with --width 8, not 4; remove it, or name another output"):
        planned.check()


@pytest.mark.parametrize("changes, complaint", [
    ({"attacks": {"badnets": {"poison_rate": 5}}}, "badnets, seed 0: .*expected a fraction"),
    ({"attacks": {"badnets": {"poison_rat": 0.1}}}, "badnets, seed 0: .*unrecognized arguments: --poison-rat"),
    ({"defenses": {"clp": {}}, "prepare": {"anp-masks": {"nb_iter": 77}}}, "prepare: anp-masks: no attack and no def"),
    ({"attacks": {"blend": {}}, "prepare": {"issba-encoder": {"bits": 7}}}, "prepare: issba-encoder: no attack and no"),
    ({"attacks": {"stored": {}}}, "stored, seed 0: .*--trigger-file: needed with --poison-type stored"),
    ({"defenses": {"anp": {"max_drop": "x"}}}, "anp on badnets, seed 0: .*--max-drop")])
def test_a_flag_that_a_script_refuses_is_named_with_its_cell(written, changes, complaint):
    with pytest.raises(UserError, match=complaint):
        plan(read_matrix(written(**changes)))


LAUGHS = ", ".join(f"&a{i} [{', '.join([f'*a{i - 1}' if i else 'lol'] * 10)}]" for i in range(20))


@pytest.mark.parametrize("key", ["output", "seeds", "attacks", "data", "training"])
def test_a_few_lines_that_stand_for_gigabytes_are_one_short_line(tmp_path, key):
    text = {"seeds": "[0]", "attacks": "{badnets: {}}", "defenses": "{}", "output": "out"}
    text[key] = f"{{badnets: [{LAUGHS}]}}"
    (tmp_path / "matrix.yaml").write_text("\n".join(f"{name}: {value}" for name, value in text.items()))
    with pytest.raises(UserError) as error:
        read_matrix(tmp_path / "matrix.yaml")
    assert len(str(error.value)) < 500


@pytest.mark.parametrize("text", ["{", "- a\n- b", "a: !!python/object/apply:os.system ['true']", "\x00", ""])
def test_what_is_no_matrix_is_one_error_and_runs_nothing(tmp_path, text):
    (tmp_path / "matrix.yaml").write_text(text)
    with pytest.raises(UserError, match=r"matrix\.yaml: "):
        read_matrix(tmp_path / "matrix.yaml")


def test_a_matrix_that_is_not_there_names_those_that_are(tmp_path):
    with pytest.raises(UserError, match="digits, homework, laptop, lecture"):
        read_matrix(tmp_path / "none.yaml")


def test_the_lectures_matrix_has_every_cell_of_the_published_table(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cells = {step.cell for step in plan(read_matrix(ROOT / "workflow/matrices/lecture-abl.yaml")).steps.values()}
    for attack, defense in published():
        assert (f"{attack}, seed 0" if defense == "none" else f"{defense} on {attack}, seed 0") in cells


def test_images_elsewhere_take_the_place_of_the_matrixs_own(written):
    request = {"task": "matrix", "matrix": str(written(data={"data_dir": "here"})), "data_dir": "there"}
    for step in read_plan(request).steps.values():
        assert "there" in step.flags and "here" not in step.flags


def test_pairs_leave_out_all_but_their_cells_and_a_defense_that_nothing_breaks_is_run_on_every_attack():
    own = {"assumes": "so", "kept_by": ["badnets"]}
    steps = plan({**SMALL, "seeds": [0], "attacks": {"badnets": {}, "blend": {}, "sig": {}}, "defenses": {
        "clp": {}, "strip": {}, "abl": {}}, "pairs": {"clp": own, "strip": {**own, "broken_by": {"sig": 0.1}}}}).steps
    assert {folder.removeprefix("out/") for folder in steps} == {
        *(f"{attack}/seed-0{end}" for attack in ("badnets", "blend", "sig") for end in ("", "/clp")),
        "badnets/seed-0/strip", "sig/seed-0/strip"}


VARIANTS = {**SMALL, "seeds": [0], "attacks": {"badnets": {}, "badnets-half": {"of": "badnets", "poison_rate": 0.5}},
            "defenses": {"abl": {}, "abl-5": {"of": "abl", "against": ["badnets-half"], "isolation_rate": 0.05},
                         "clp": {"against": ["badnets"]}}}


def test_a_variant_is_what_it_is_of_with_flags_and_a_folder_of_its_own(written):
    steps = plan(read_matrix(written(**VARIANTS))).steps
    assert {folder.removeprefix("out/") for folder in steps} == {
        "badnets/seed-0", "badnets-half/seed-0", "badnets/seed-0/abl", "badnets-half/seed-0/abl",
        "badnets-half/seed-0/abl-5", "badnets/seed-0/clp"}
    alone, both = (" ".join(steps[f"out/badnets-half/seed-0{end}"].flags) for end in ("", "/abl-5"))
    for words in (alone, both):
        assert "--poison-type badnets" in words and "--poison-rate 0.5" in words
    assert "--isolation-rate 0.05" in both and "--against" not in both and "--of" not in both
    assert "--poison-rate" not in " ".join(steps["out/badnets/seed-0"].flags)


def test_variants_of_an_attack_share_what_was_made_for_it_and_one_that_controls_training_has_its_data_poisoned():
    steps = plan({**SMALL, "seeds": [0], "attacks": {
        "clean-label": {}, "clean-label-b": {"of": "clean-label", "lr": 0.05}, "wanet-b": {"of": "wanet"}},
        "defenses": {"abl": {}}, "prepare": {"clean-label": {"poison_rate": 0.7}, "wanet": {"poison_rate": 0.4}}}).steps
    crafted = [folder for folder, step in steps.items() if step.script.module == "generate_clb_attack"]
    assert crafted == ["out/crafted/seed-0"] and "out/clean-label-b/seed-0" in steps
    words = " ".join(steps["out/wanet-b/seed-0/abl"].flags)
    assert "--trigger-file out/wanet-b/seed-0/trigger_info.th" in words and "--poison-rate 0.4" in words


@pytest.mark.parametrize("key, own, complaint", [
    ("attacks", {"badnets-b": {"of": "badnet"}}, "no such attack: 'badnet'; there are"),
    ("attacks", {"badnets-b": {"of": ["badnets"]}}, "no such attack: ['badnets']; there are"),
    ("attacks", {"blend": {"of": "badnets"}}, "'blend': a variant needs a name of its own"),
    ("attacks", {"issba-encoder": {"of": "issba"}}, "'issba-encoder': a variant needs a name of its own"),
    ("defenses", {"fine-prune": {"of": "fine-pruning"}}, "'fine-prune': a variant needs a name of its own"),
    ("attacks", {"crafted": {"of": "clean-label"}}, "'crafted': a variant needs a name of its own"),
    ("defenses", {"../abl": {"of": "abl"}}, "'../abl': a variant needs a name of its own"),
    ("defenses", {"abl_5": {"of": "abl"}}, "'abl_5': a variant needs a name of its own"),
    ("defenses", {3: {"of": "abl"}}, "3: a variant needs a name of its own"),
    ("defenses", {"masks": {"of": "anp-masks"}}, "no such defense: 'anp-masks'"),
    ("attacks", {"badnets": {"against": ["abl"]}}, "attacks: badnets: against: only a defense is against attacks"),
    ("defenses", {"abl": {"against": "badnets"}}, "abl: against: expected a list of attacks, got 'badnets'"),
    ("defenses", {"abl": {"against": [["badnets"]]}}, "abl: against: ['badnets'] is not under attacks"),
    ("defenses", {"abl": {"against": ["blend"]}}, "abl: against: 'blend' is not under attacks"),
    ("defenses", {"anp": {"of": "anp"}}, "'anp': a variant needs a name of its own"),
    ("attacks", {"badnets": {"of": None}}, "'badnets': a variant needs a name of its own"),
    ("defenses", {"a" * 999: {"of": "anp"}}, "a variant needs a name of its own"),
    ("defenses", {"abl": {"against": []}}, "abl: against: expected a list of attacks, got []"),
    ("prepare", {"anp-masks": {"of": "anp-masks"}}, None)])
def test_a_variant_that_cannot_be_is_named_before_anything_starts(written, key, own, complaint):
    with pytest.raises(UserError) as error:
        plan(read_matrix(written(**{key: own})))
    assert (complaint or "unrecognized arguments: --of") in str(error.value)


def test_a_defense_against_an_attack_that_it_cannot_be_run_on_is_one_error(written):
    path = written(attacks={"pruning-aware-badnets": {}}, defenses={"abl": {"against": ["pruning-aware-badnets"]}})
    with pytest.raises(UserError, match="abl: against: it cannot be run on pruning-aware-badnets"):
        plan(read_matrix(path))


def test_no_two_steps_are_one_rule():
    """Their folders may differ in nothing but where a slash and where a dash stands."""
    steps = plan({**SMALL, "seeds": [0], "attacks": {"badnets": {}, "badnets-seed-0": {"of": "badnets"}}, "defenses": {
        "anp": {}, "anp-anp-pruned": {"of": "anp"}, "seed-0": {"of": "clp"}, "anp-masks-b": {"of": "clp"},
        "activation-clustering": {}, "activation-clustering-b": {"of": "activation-clustering-retraining"},
        "activation-clustering-activation-clustering-b": {"of": "clp"}}}).steps
    names = {rule_name(folder, "out") for folder in steps}
    assert len(names) == len(steps) and all(name.isidentifier() for name in names)


def test_what_is_prepared_for_a_defense_holds_for_its_variants_which_lie_beside_it():
    steps = plan({**SMALL, "seeds": [0], "attacks": {"badnets": {}}, "defenses": {
        "anp": {}, "anp-pruned": {"of": "anp", "max_drop": 0.3}, "clustering-b": {"of": "activation-clustering"}},
        "prepare": {"activation-clustering": {"reduce": "pca"}}}).steps
    assert {"out/badnets/seed-0/anp/pruned", "out/badnets/seed-0/anp/anp-pruned"} < set(steps)
    assert steps["out/badnets/seed-0/anp/anp-pruned"].needs == ("out/badnets/seed-0/anp/results.json",)
    assert "--reduce pca" in " ".join(steps["out/badnets/seed-0/clustering-b"].flags)


def test_pairs_run_no_defense_on_a_variant_that_they_do_not_name():
    own = {"assumes": "so", "kept_by": ["badnets"]}
    steps = plan({**SMALL, "seeds": [0], "attacks": {"badnets": {}, "badnets-b": {"of": "badnets"}}, "defenses": {
        "clp": {}, "rnp": {}}, "pairs": {"clp": own, "rnp": {**own, "kept_by": ["badnets", "badnets-b"]}}}).steps
    assert {folder for folder in steps if "badnets-b" in folder} == {"out/badnets-b/seed-0", "out/badnets-b/seed-0/rnp"}


def test_the_matrix_of_rates_has_the_twelve_cells_of_the_lectures_two_tables(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    steps = plan(read_matrix(ROOT / "workflow/matrices/lecture-rates.yaml")).steps
    flags = [parse(step) for step in steps.values() if step.script.module == "defenses.abl"]
    again = [own for own in flags if own.even_steps]
    flags = [own for own in flags if not own.even_steps]
    assert len(again) == 6 and {own.stages_of for own in again} < {f"{own.output_dir}/" for own in flags}
    cells = {(own.poison_type, own.poison_rate, own.isolation_rate) for own in flags}
    models = [parse(step) for step in steps.values() if step.script.module == "train_backdoor"]
    assert {own.isolation_epochs for own in flags} == {4} and {own.epochs for own in (*flags, *models)} == {12}
    assert {(own.poison_type, own.poison_rate) for own in models} == {cell[:2] for cell in cells} and len(models) == 6
    rates = [(0.1111, 0.01), (0.1111, 0.05), (0.1111, 0.1), (0.1111, 0.2), (0.5556, 0.01), (0.7778, 0.01)]
    assert cells == {(attack, *pair) for attack in ("badnets", "blend") for pair in rates} and len(flags) == 12


@pytest.mark.parametrize("pairs, complaint", [
    ([1], "pairs: expected defenses with their attacks"), ({"anp": 3}, "pairs: 'anp': expected assumes, broken_by"),
    ({"anp": {"kept_by": "badnets"}}, "pairs: 'anp': expected assumes, broken_by, kept_by"),
    ({"anp": {"assumes": "so", "kept_by": ["badnets"], "broken_by": {"badnets": "x"}}},
     "pairs: 'anp': 'badnets': expected a share of the training images above 0 and at most 1, got 'x'"),
    ({"anp": {"assumes": "so", "kept_by": {"badnets": 1.5}}}, "at most 1, got 1.5"),
    ({"anp": {"assumes": "so", "kept_by": {"badnets": True}}}, "at most 1, got True"),
    ({"clp": {"assumes": "so", "kept_by": ["badnets"]}}, "pairs: 'clp': 'clp' is not under defenses"),
    ({"anp": {"assumes": "so", "kept_by": [["badnets"]]}}, "pairs: 'anp': ['badnets'] is not under attacks"),
    ({"anp": {"assumes": "so", "kept_by": ["badnets"], "broken_by": ["sig"]}}, "'sig' is not under attacks"),
    ({"anp": {"assumes": "so", "kept_by": "badnets"}}, "and two lists of attacks"),
    ({"anp": {"assumes": "so", "kept_by": ["badnets"], "broken_by": "issba"}}, "and two lists of attacks")])
def test_pairs_of_what_the_matrix_does_not_have_are_one_error(written, pairs, complaint):
    with pytest.raises(UserError) as error:
        read_matrix(written(pairs=pairs))
    assert complaint in str(error.value)


@pytest.mark.parametrize("name", ["lecture-more", "arms-race"])
def test_the_matrices_on_the_lectures_models_make_them_with_the_same_flags(name):
    """Else the second refuses the folders of the first."""
    first, other = (read_matrix(ROOT / f"workflow/matrices/{one}.yaml") for one in ("lecture-abl", name))
    for key in ("output", "seeds", "training"):
        assert first[key] == other[key]
    assert first["prepare"].items() <= other["prepare"].items()
    for key in ("attacks", "defenses"):
        shared = first[key].keys() & other[key].keys()
        for one in shared:
            assert flags_of(first, key, one) == flags_of(other, key, one)
            assert said_of(first, key, one, OF) == said_of(other, key, one, OF)
    assert first["attacks"].keys() <= other["attacks"].keys()
