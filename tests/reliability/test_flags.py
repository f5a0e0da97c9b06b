"""Every flag of every script changes what the run leaves; those that are not to change anything leave it as it was."""
import importlib

import pytest
from reliability.kill import compare
from reliability.short_runs import FOLDER, SCRIPTS, SEEDLESS, filled

from common.errors import UserError
from engine import flags

pytestmark = pytest.mark.long

# What another value is: words, or (more words for the run it is compared with, words); all of its words after a "=".
OTHER = {
    "poison_target": "1", "trigger_alpha": "0.5", "trigger_image": "{png}", "poison_type": "blend",
    "poison_rate": "0.4", "issba_encoder": ("--poison-type issba --encoder {encoder}", "{encoder2}"),
    "clb_dir": ("--poison-type clean-label --clb-dir {clb}", "{clb2}"),
    "eval_trigger": ("--poison-type benign", "blend"), "data_dir": (" ".join(FOLDER), "{pictures2}"),
    "dataset": ("--data-dir {pictures}", "cifar10"), "width": "5", "epochs": "3", "batch_size": "48", "lr": "0.03",
    "momentum": "0.5", "weight_decay": "0.05", "test_every": "2", "milestones": ("--epochs 3 --milestones 1 2", "1"),
    "crop_padding": "0", "seed": "1", "checkpoint": "{model2}", "trigger_info": "{trigger2}", "seeds": "2",
    "max_drop": "0.5", "val_frac": "0.06",
    # ABL
    "flooding": ("--gamma 5", ""), "recipe": "fast",
    "gamma": "5", "lga": "sample", "unlearn_epochs": "1", "unlearn_lr": "0.1", "isolation_epochs": "1",
    "isolation_rate": "0.02", "poison_rates": "0.3", "isolation_rates": "0.02",
    # pruning and ANP
    "clean_epochs": "1", "prune_fraction": "0.4", "margin": "3", "nb_iter": "9", "print_every": "2", "anp_eps": "0.1",
    "anp_steps": "2", "anp_alpha": "0.9", "alphas": "0.9", "mask_file": "{masks2}", "pruning_by": "number",
    "threshold": "0.5", "pruning_max": "0.5", "pruning_step": "0.2", "layer": "layer3", "mode": "prune",
    # clean-label and ISSBA
    "epsilon": "3/255", "step": "1/255", "iterations": "5", "restarts": "0", "bits": "5", "bit_epochs": "0",
    "ramp_epochs": "2", "cross_weight": "0", "pixel_weight": "30", "feature_weight": "5",
    # Neural Cleanse, STRIP and the others
    "budget": "30", "batches": "3", "success": "0.2", "patience": ("--success 0.1 --budget 60", "1"),
    "patch_with": ("--patch-with original", "clean"), "reversed_trigger": "{trigger2}", "stamp_share": "0.8",
    "overlays": "5", "superimpose": "average", "calibration": "90", "frr": "0.2", "boundary": "normal",
    "inspect": "60", "benign": "{model2}", "epsilons": "0.5", "steps": "4"}
OTHER_OF = {
    ("fine_prune", "trigger_info"): "{trigger2}", ("fine_prune", "epochs"): "2",
    ("fine_prune", "max_drop"): "0.9", ("fine_prune", "prune_fraction"): "0.9",
    ("abl", "max_drop"): ("--unlearn-lr 1", "0"), ("prune_network", "checkpoint"): ("--mask-file {bare-masks} --dataset digits "
                                                                            "--checkpoint {model}", "{model2}"),
    ("prune_network", "dataset"): ("--mask-file {bare-masks} --checkpoint {model} --data-dir {pictures} --val-frac 0.05 "
                           "--dataset digits", "cifar10"),
    ("prune_network", "data_dir"): (f"--mask-file {{bare-masks}} --checkpoint {{model}} --val-frac 0.05 {' '.join(FOLDER)}",
                            "{pictures2}"),
    ("prune_network", "max_drop"): "0.9", ("audit", "checkpoint"): "{audited2}", ("generate_clb_attack", "batch_size"): "7",
    ("prune_network", "pruning_step"): "0.4", ("issba_encoder", "epochs"): "2", ("fine_prune", "mode"): "fine-tune",
    ("pruning_aware", "checkpoint"): ("= --dataset digits --epochs 1 --checkpoint {model}", "{model2}"),
    ("unlearn_trigger", "patch_with"): ("= --dataset digits --checkpoint {model} --patch-with original", "clean"),
    ("strip", "boundary"): ("--frr 0.3", "normal"),
}
SWITCHES = {"amp": "--amp", "flip": "--no-flip", "track_losses": "--track-losses", "flooding": "--flooding",
            "project": "--no-project", "no_pgd": "--no-pgd", "freeze_fooled": "--no-freeze-fooled"}
SAME = {"device": ["--device", "cpu"], "compile": ["--compile"], "deterministic": ["--deterministic"]}
ELSEWHERE = {  # flags that other tests have, and why not this one
    "help", "output_dir", "overwrite", "resume",  # where a run lies, and whether it goes on: tests/engine/test_run.py
    "arch",  # there is one
    "image_size",  # a trigger and a model of another size go with it: tests/test_image_size.py
    "graph",  # for a CUDA device: tests/engine/test_graphs.py
    "task", "images", "calibration_file",  # screening: tests/test_detect_strip.py
    "min_bit_accuracy", "min_psnr",  # the exit status: tests/test_generate_issba_encoder.py
}


def parser_of(name, monkeypatch):
    """The parser of a script, or of its task."""
    module, words = SCRIPTS[name]
    seen = []
    with monkeypatch.context() as patch:
        patch.setattr(flags.Parser, "parse_args", lambda self, argv=None: seen.append(self) or 1 / 0)
        with pytest.raises(ZeroDivisionError):
            importlib.import_module(module).parse_args([])
    tasks = [action for action in seen[0]._actions if action.dest == "task"]
    return tasks[0].choices[words[0]] if tasks else seen[0]


@pytest.fixture(scope="module")
def left(made, tmp_path_factory):
    """left(name, *words): the folder of a run with the words at the end, made once."""
    before = {}

    def run(name, *words):
        module, usual = SCRIPTS[name]
        words = filled(made, words[1:] if words[:1] == ("=",) else (*usual, *words))
        called = (name, *words)
        if called not in before:
            before[called] = tmp_path_factory.mktemp(name) / "run"
            importlib.import_module(module).main([*words, "--output-dir", str(before[called])])
        return before[called]
    return run


def calls_of(name, made, tmp_path, monkeypatch, *words):
    """What a sweep would run: the arguments of every cell."""
    module, usual = importlib.import_module(SCRIPTS[name][0]), SCRIPTS[name][1]
    words = filled(made, (*usual, *words))
    calls = []

    def stop(folder, *arguments):
        calls.append(arguments)
        if name == "sweep_anp":
            raise UserError("not run")
        return {}, ""  # as if it had left nothing, which ends the cell
    monkeypatch.setattr(module, "run_cell", stop)
    with pytest.raises(SystemExit):
        module.main([*words, "--output-dir", str(tmp_path / "sweep")])
    return calls


def other_words(name, dest):
    """(more words for the run to compare with, the words that change it)."""
    before, value = "", OTHER_OF.get((name, dest), OTHER.get(dest))
    if isinstance(value, tuple):
        before, value = value
    return before.split(), [SWITCHES[dest]] if dest in SWITCHES else ["--" + dest.replace("_", "-"), *value.split()]


def flags_of(name):
    with pytest.MonkeyPatch.context() as patch:
        return [action.dest for action in parser_of(name, patch)._actions if action.dest not in ELSEWHERE]


def differing(one, other, dest):
    """What differs between two runs' files, where the flag's own value is not looked at."""
    return [line for line in compare(one, other, aside={dest, "command", "parent"}) if "output.log" not in line]


@pytest.mark.parametrize("name, dest", [
    (name, dest) for name in SCRIPTS if not name.startswith("sweep_") for dest in flags_of(name) if dest not in SAME
    and not (dest == "seed" and name in SEEDLESS)])
def test_a_flag_changes_what_the_run_leaves(name, dest, left):
    before, words = other_words(name, dest)
    if dest == "print_every":  # how often the log says it
        assert len((left(name, *words) / "metrics.jsonl").read_text()) > len(
            (left(name) / "metrics.jsonl").read_text())
    assert differing(left(name, *before), left(name, *before, *words), dest)


@pytest.mark.parametrize("name, dest", [
    (name, dest) for name in SCRIPTS if not name.startswith("sweep_") for dest in flags_of(name)
    if (dest in SAME and dest != "compile") or (dest == "seed" and name in SEEDLESS)])
def test_a_flag_that_is_to_change_nothing_changes_nothing(name, dest, left):
    assert differing(left(name), left(name, *SAME.get(dest, ["--seed", "1"])), dest) == []


@pytest.mark.parametrize("name, dest", [(name, dest) for name in ("sweep_anp", "sweep_abl") for dest in flags_of(name)])
def test_a_flag_of_a_sweep_reaches_its_cells(name, dest, made, tmp_path, monkeypatch):
    before, words = ([], SAME[dest]) if dest in SAME else other_words(name, dest)
    calls = [calls_of(name, made, tmp_path, monkeypatch, *before, *more) for more in ([], words)]
    assert calls[0] and calls[0] != calls[1]
