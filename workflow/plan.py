"""A matrix of attacks, defences and seeds as steps: calls of the suite's scripts, each with what it needs."""
import contextlib
import importlib
import io
from dataclasses import dataclass
from pathlib import Path

import yaml

from data.files import UserError, read_text
from engine.cells import as_flags

ROOT = Path(__file__).resolve().parent.parent
ATTACKS = ("benign", "badnets", "blend", "clean-label", "issba", "pruning-aware-badnets")
DEFENCES = ("fine-tuning", "pruning", "fine-pruning", "anp", "nc-unlearning", "abl", "strip")
KEYS = {"output", "seeds", "data", "training", "attacks", "defences", "prepare"}
# What an attack needs before it, made with the benign model's help: (its name
# under `prepare`, script, folder, the flag that takes it, file there).
CRAFTED = {"clean-label": ("clean-label", "generate_clb_attack", "crafted", "clb_dir", ""),
           "issba": ("issba-encoder", "generate_issba_encoder", "issba-encoder", "encoder", "/encoder.th")}
PREPARED = ("clean-label", "issba-encoder", "anp-masks", "nc-detect")  # what `prepare` has flags for
SWITCHES = ("flooding", "no_pgd")  # flags that have no --no- form
RESUMABLE = ("train_backdoor", "train_abl", "train_pruning_aware", "generate_mask", "generate_issba_encoder",
             "fine_prune", "neural_cleanse unlearn")
TRAINING = ("train_backdoor", "train_abl", "train_pruning_aware", "generate_issba_encoder", "generate_clb_attack")
MAX_FILE = 2**20  # bytes


@dataclass(frozen=True)
class Step:
    """One call of a script. `folder` is what it leaves results.json in, `needs` the folders of the steps before it.

    `cell` names what fails if it fails: attack, defence and seed.
    """

    folder: str
    script: str  # with the task of a script that has two: "neural_cleanse detect"
    flags: tuple
    needs: tuple
    cell: str

    @property
    def trains(self):
        """Whether it is worth a GPU of its own."""
        return self.script in TRAINING

    def words(self):
        """The words after `python`."""
        name, *task = self.script.split()
        again = "--resume" if self.script in RESUMABLE else "--overwrite"
        return [f"{name}.py", *task, *self.flags, "--output-dir", self.folder, again]


def read_matrix(path):
    """The dict of a YAML file of a matrix. Raises UserError, naming the file, if it is none."""
    try:
        content = yaml.safe_load(read_text(path, MAX_FILE))
    except OSError as error:
        known = ", ".join(sorted(file.stem for file in (ROOT / "workflow/matrices").glob("*.yaml")))
        raise UserError(f"{path}: {error.strerror}; the suite has {known}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not YAML ({' '.join(str(error).split())})") from None
    check_matrix(path, content)
    return content


def check_matrix(path, content):
    """Raise UserError unless `content` has the keys and types of a matrix."""
    if not isinstance(content, dict) or not KEYS >= content.keys() >= {"output", "seeds", "attacks", "defences"}:
        raise UserError(f"{path}: expected output, seeds, attacks and defences, and at most {', '.join(sorted(KEYS))}")
    if not isinstance(content["output"], str):
        raise UserError(f"{path}: output: expected a folder")
    seeds = content["seeds"]
    if not isinstance(seeds, list) or not seeds or not all(type(seed) is int and seed >= 0 for seed in seeds):
        raise UserError(f"{path}: seeds: expected a list of whole numbers, got {seeds}")
    for key, known in (("attacks", ATTACKS), ("defences", DEFENCES), ("prepare", PREPARED), ("data", None),
                       ("training", None)):
        own = content.get(key)
        if own is not None and not isinstance(own, dict):
            raise UserError(f"{path}: {key}: expected names with their flags, got {own}")
        for name, flags in (own or {}).items():
            if known and name not in known:
                raise UserError(f"{path}: {key}: no such {key.rstrip('s')}: {name}; there are {', '.join(known)}")
            if known and not isinstance(flags, (dict, type(None))):
                raise UserError(f"{path}: {key}: {name}: expected flags, got {flags}")


class Planner:
    """Collects the Steps of a matrix; `steps` is {folder: Step} in an order in which each comes after its needs."""

    def __init__(self, matrix):
        self.matrix, self.steps = matrix, {}
        self.data, self.training = (matrix.get(key) or {} for key in ("data", "training"))

    def flags_of(self, key, name):
        """The flags that the matrix has for a name under attacks, defences or prepare."""
        return (self.matrix.get(key) or {}).get(name) or {}

    def add(self, folder, script, settings, needs, cell, seed):
        """Plan a Step unless it is planned already; returns its folder."""
        if folder not in self.steps:
            flags = as_flags({**self.data, **settings, "seed": seed}, SWITCHES)
            self.steps[folder] = Step(folder, script, tuple(map(str, flags)), tuple(needs), cell)
        return folder

    def attack(self, name, seed):
        """The model of an attack, and before it whatever it needs; returns its folder."""
        folder, cell = f"{self.matrix['output']}/{name}/seed-{seed}", f"{name}, seed {seed}"
        script, needs = "train_pruning_aware" if name == "pruning-aware-badnets" else "train_backdoor", []
        return self.add(folder, script, {**self.training, **self.poison(name, seed, needs)}, needs, cell, seed)

    def poison(self, name, seed, needs):
        """The flags that say what an attack poisons, and the matrix's own; appends to `needs` the folders they name."""
        own = {"poison_type": name.removeprefix("pruning-aware-"), **self.flags_of("attacks", name)}
        if name in CRAFTED:
            prepare, script, kind, flag, file = CRAFTED[name]
            benign = self.attack("benign", seed)
            settings = {"checkpoint": f"{benign}/model_last.th", **self.flags_of("prepare", prepare)}
            needs.append(self.add(f"{self.matrix['output']}/{kind}/seed-{seed}", script, settings, [benign],
                                  f"{name}, seed {seed}", seed))
            own = {flag: needs[-1] + file, **own}
        return own

    def defence(self, name, attack, seed):
        """A defence on an attack's model, and before it whatever it needs; returns its folder."""
        model, cell = self.attack(attack, seed), f"{name} on {attack}, seed {seed}"
        own = self.flags_of("defences", name)
        suspect = {"checkpoint": f"{model}/model_last.th"}
        if name in ("fine-tuning", "pruning", "fine-pruning"):
            mode = {"fine-tuning": "fine-tune", "pruning": "prune", "fine-pruning": "fine-prune"}[name]
            return self.add(f"{model}/{mode}", "fine_prune", {**suspect, "mode": mode, **own}, [model], cell,
                            None if mode == "prune" else seed)  # that trains nothing
        if name == "strip":
            return self.add(f"{model}/strip", "detect_strip", {**suspect, **own}, [model], cell, seed)
        if name == "anp":
            masks = self.add(f"{model}/anp", "generate_mask", {
                **suspect, **self.flags_of("prepare", "anp-masks")}, [model], cell, seed)
            return self.add(f"{masks}/pruned", "prune_network", {"mask_file": f"{masks}/mask_values.txt", **own},
                            [masks], cell, seed)
        if name == "nc-unlearning":
            found = self.add(f"{model}/neural-cleanse", "neural_cleanse detect", {
                **suspect, **self.flags_of("prepare", "nc-detect")}, [model], cell, seed)
            return self.add(f"{model}/unlearn-reversed", "neural_cleanse unlearn", {**suspect, **own}, [found], cell,
                            seed)
        needs = []
        settings = {**self.training, **self.poison(attack, seed, needs), **own}
        return self.add(f"{model}/abl", "train_abl", settings, needs, cell, seed)


def plan(matrix):
    """{folder: Step} of a matrix as `read_matrix` returns it. Raises UserError for a step that its script refuses."""
    planner = Planner(matrix)
    for seed in matrix["seeds"]:
        for attack in matrix["attacks"] or {}:
            planner.attack(attack, seed)
            for defence in matrix["defences"] or {}:
                if defence != "abl" or not attack.startswith("pruning-aware"):  # whose attacker trains
                    planner.defence(defence, attack, seed)
    for step in planner.steps.values():
        check_flags(step)
    return planner.steps


def check_flags(step):
    """Let the step's script parse its words. Raises UserError with the script's own line if it refuses them."""
    script, *words = step.words()
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            importlib.import_module(script.removesuffix(".py")).parse_args(words)
    except SystemExit:
        raise UserError(f"{step.cell}: {complaint.getvalue().strip()}") from None
    except UserError as error:
        raise UserError(f"{step.cell}: {script}: {error}") from None
