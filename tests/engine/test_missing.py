"""What is said of a file that is not there and that a script of the suite would have left."""
import importlib
import shlex
from pathlib import Path

import pytest

from common.errors import UserError
from engine.attacking.attack import load_encoder
from engine.attacking.indices import read_indices
from engine.catalogue import BY_MODULE, attack_cells
from engine.missing import first_runs, run_on
from engine.rows import Cell
from engine.weights.checkpoint import load_model, load_trigger
from prune_network import read_data

TRAIN = "python train_backdoor.py --poison-type"
MASK = "python generate_mask.py --checkpoint"
DETECT = "python -m defenses.activation_clustering --poison-type badnets"


def load_suspected(path):
    return read_indices(path, 9)


COMMANDS = [
    (load_model, "output/benign/model_last.th", [f"{TRAIN} benign"]),
    (load_model, "my/run/model_last.th", ["python train_backdoor.py --output-dir my/run"]),
    (load_model, "my/blend/model_last.th", [f"{TRAIN} blend --output-dir my/blend"]),
    (load_model, "output/clean-label/model_init.th",
     [f"{TRAIN} benign", "python generate_clb_attack.py", f"{TRAIN} clean-label"]),
    (load_model, "output/trojan-abl/model_last.th",
     [f"{TRAIN} benign", "python -m attacks.trojan_patch", "python -m defenses.abl --poison-type trojan"]),
    (load_model, "output/blend/abl/model_last.th",
     ["python -m defenses.abl --poison-type blend --output-dir output/blend/abl"]),
    (load_model, "output/issba/abl-even/model_last.th",
     [f"{TRAIN} benign", "python -m attacks.issba_encoder",
      "python -m defenses.abl --poison-type issba --even-steps --output-dir output/issba/abl-even"]),
    (load_model, "output/badnets/activation-clustering/retrained/model_last.th",
     [f"{TRAIN} badnets", DETECT,
      f"{TRAIN} badnets --leave-out output/badnets/activation-clustering/suspected.npy --output-dir "
      "output/badnets/activation-clustering/retrained"]),
    (load_model, "output/badnets-pruning-aware/model_last.th",
     ["python -m attacks.pruning_aware --poison-type badnets"]),
    (load_encoder, "output/issba-encoder/encoder.th", [f"{TRAIN} benign", "python -m attacks.issba_encoder"]),
    (read_data, "output/badnets/anp/mask_values.txt", [f"{TRAIN} badnets", f"{MASK} output/badnets/model_last.th"]),
    (load_model, "output/blend/fine-tune/model_last.th",
     [f"{TRAIN} blend", "python -m defenses.fine_prune --mode fine-tune --checkpoint output/blend/model_last.th"]),
    (load_model, "output/blend/anp/pruned/model_last.th",
     [f"{TRAIN} blend", f"{MASK} output/blend/model_last.th",
      "python prune_network.py --mask-file output/blend/anp/mask_values.txt"]),
    (read_data, "my/run/anp/mask_values.txt", ["python train_backdoor.py --output-dir my/run",
                                               f"{MASK} my/run/model_last.th --output-dir my/run/anp"]),
    (load_trigger, "output/blend/trigger_info.th", [f"{TRAIN} blend"]),
    (load_trigger, "output/wanet/trigger_info.th", ["python -m attacks.wanet"]),
    (load_model, "my/input-aware/model_last.th", ["python -m attacks.input_aware --output-dir my/input-aware"]),
    (load_model, "my run/model_last.th", ["python train_backdoor.py --output-dir 'my run'"]),
    (load_model, "output/my-pruning-aware/model_last.th",
     ["python train_backdoor.py --output-dir output/my-pruning-aware"]),
    (load_suspected, "output/badnets/activation-clustering/suspected.npy", [f"{TRAIN} badnets", DETECT]),
    (load_suspected, "my/badnets/activation-clustering/suspected.npy",
     [f"{TRAIN} badnets --output-dir my/badnets", f"{DETECT} --checkpoint my/badnets/model_last.th --output-dir "
                                                  "my/badnets/activation-clustering"]),
    (load_trigger, "output/blend/neural-cleanse/reversed_trigger_3.th",
     [f"{TRAIN} blend", "python -m defenses.neural_cleanse --checkpoint output/blend/model_last.th"])]


@pytest.mark.parametrize("load, path, commands", COMMANDS, ids=[path for _, path, _ in COMMANDS])
def test_a_missing_file_names_the_commands_that_leave_it(tmp_path, monkeypatch, load, path, commands):
    """The kind: a file that an earlier script leaves.

    The users met an encoder, a model and masks; a repaired model, a trigger and a reversed one are siblings. Each
    command is one that its script takes, and writes where the file is looked for.
    """
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as told:
        load(path)
    assert str(told.value) == f"{path}: no such file; first run: {' && '.join(commands)}"
    folders = []
    for command in commands:
        _, *words = shlex.split(command)
        module, argv = (words[1], words[2:]) if words[0] == "-m" else (words[0].removesuffix(".py"), words[1:])
        args = importlib.import_module(module).parse_args(argv)
        folders.append(args.output_dir)
    assert len({*folders}) == len(commands)  # none would refuse what another has left
    assert Path(args.output_dir or str(Path(path).parent)) == Path(path).parent


def test_a_slip_in_a_folders_name_is_told_from_a_run_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("badnets", "benign"):
        Path("output", name).mkdir(parents=True)
        Path("output", name, "model_last.th").touch()
    with pytest.raises(UserError, match=r"no such file; is output/badnets/model_last\.th meant\?"):
        load_model("output/bdnets/model_last.th", "cpu")
    with pytest.raises(UserError, match=r"first run: python train_backdoor\.py --poison-type blend"):
        load_model("output/blend/model_last.th", "cpu")
    for other in ("benign-2", "badnets/seed-1", "benign2", "benigns", "be"):
        Path("output/badnets/seed-0").mkdir(exist_ok=True)
        Path("output/badnets/seed-0/model_last.th").touch()
        with pytest.raises(UserError, match="no such file; first run"):
            load_model(f"output/{other}/model_last.th", "cpu")


def test_a_run_that_the_suite_names_is_not_taken_for_a_slip_in_the_name_of_another(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("output/badnetz").mkdir(parents=True)
    Path("output/badnetz/model_last.th").touch()
    with pytest.raises(UserError, match=r"first run: python train_backdoor\.py --poison-type badnets$"):
        load_model("output/badnets/model_last.th")


def test_masks_that_are_looked_for_in_the_models_own_folder_lie_beneath_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as told:
        read_data("my/run/mask_values.txt")
    commands = f"python train_backdoor.py --output-dir my/run && {MASK} my/run/model_last.th --output-dir my/run/anp"
    assert str(told.value) == (f"my/run/mask_values.txt: no such file; first run: {commands}, which leaves "
                               "my/run/anp/mask_values.txt")
    Path("my/run/anp").mkdir(parents=True)
    Path("my/run/anp/mask_values.txt").touch()
    with pytest.raises(UserError, match=r"no such file; is my/run/anp/mask_values\.txt meant\?$"):
        read_data("my/run/mask_values.txt")


def test_a_run_that_is_not_finished_is_told_from_one_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("output/blend").mkdir(parents=True)
    Path("output/blend/config.json").touch()
    with pytest.raises(UserError, match=r"the run in output/blend is not finished: its command with --resume"):
        load_model("output/blend/model_last.th")
    Path("output/blend/results.json").touch()
    with pytest.raises(UserError, match=r"first run: python train_backdoor\.py --poison-type blend"):
        load_model("output/blend/model_last.th")


def test_the_training_of_a_folder_of_any_name_is_the_one_of_the_benign_model(monkeypatch):
    first = {"late": (BY_MODULE["attacks.wanet"], Cell("late"))}
    monkeypatch.setattr("engine.missing.attack_cells", lambda: first | attack_cells())
    assert first_runs(Path("my/run/model_last.th")) == ["python train_backdoor.py --output-dir my/run"]


def test_a_defense_that_has_not_run_is_named_with_its_command():
    assert run_on("my/model.th", "nc-detect") == (
        "; first run: python -m defenses.neural_cleanse --checkpoint my/model.th")


def test_what_is_there_is_not_made_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("output/blend").mkdir(parents=True)
    Path("output/blend/model_last.th").touch()
    assert first_runs(Path("output/blend/anp/mask_values.txt")) == [f"{MASK} output/blend/model_last.th"]


def test_a_strangers_file_is_only_called_missing():
    with pytest.raises(UserError, match=r"^weights\.pt: no such file$"):
        load_model("weights.pt")


@pytest.mark.parametrize("path", [
    "output/badnets/strip/model_last.th", "output/badnets/anp/model_last.th", "output/stored/model_last.th",
    "output/stored-abl/model_last.th", "my/abl/model_last.th", "output/badnets/fine-prune/trigger_info.th"])
def test_no_command_is_named_for_a_file_that_none_leaves(path):
    """Scripts that leave no model, an attack whose trigger only the user knows, and a folder that names no attack."""
    assert first_runs(Path(path)) == []


def test_what_an_attack_reads_is_made_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("data/clean-label/0.1").mkdir(parents=True)
    assert first_runs(Path("output/clean-label/model_last.th")) == [f"{TRAIN} clean-label"]
