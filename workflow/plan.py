"""A matrix of attacks, defences and seeds as a Plan."""
from data.files import UserError
from workflow.steps import Plan, check_flags, known_files, read_yaml, short

ATTACKS = ("benign", "badnets", "blend", "clean-label", "issba", "pruning-aware-badnets")
# What each defence that is one call of a script on the model is: script, its folder, and flags of its own.
ONE_CALL = {
    "fine-tuning": ("fine_prune", "fine-tune", {"mode": "fine-tune"}),
    "pruning": ("fine_prune", "prune", {"mode": "prune"}),
    "fine-pruning": ("fine_prune", "fine-prune", {"mode": "fine-prune"}),
    "strip": ("detect_strip", "strip", {}),
    "neuron-noise": ("sweep_neuron_noise", "neuron-noise", {}),
}
DEFENCES = (*ONE_CALL, "anp", "nc-detect", "nc-unlearning", "abl")
KEYS = {"output", "seeds", "data", "training", "attacks", "defences", "prepare"}
# What an attack needs before it, made with the benign model's help: (its name
# under `prepare`, script, folder, the flag that takes it, file there).
CRAFTED = {"clean-label": ("clean-label", "generate_clb_attack", "crafted", "clb_dir", ""),
           "issba": ("issba-encoder", "generate_issba_encoder", "issba-encoder", "encoder", "/encoder.th")}
GIVEN = {"output_dir", "overwrite", "resume", "seed"}  # flags that are no matrix's to give
PREPARED = ("clean-label", "issba-encoder", "anp-masks", "nc-detect")  # what `prepare` has flags for


def read_matrix(path):
    """The dict of a YAML file of a matrix. Raises UserError, naming the file, if it is none."""
    try:
        content = read_yaml(path)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; the suite has {known_files('matrices')}") from None
    check_matrix(path, content)
    return content


def check_matrix(path, content):
    """Raise UserError unless `content` has the keys and types of a matrix."""
    if not isinstance(content, dict) or not KEYS >= content.keys() >= {"output", "seeds", "attacks", "defences"}:
        raise UserError(f"{path}: expected output, seeds, attacks and defences, and at most {', '.join(sorted(KEYS))}")
    if not isinstance(content["output"], str) or not content["output"].strip():
        raise UserError(f"{path}: output: expected a folder")
    if not content["attacks"]:
        raise UserError(f"{path}: attacks: expected at least one of {', '.join(ATTACKS)}")
    seeds = content["seeds"]
    if not isinstance(seeds, list) or not seeds or not all(type(seed) is int and seed >= 0 for seed in seeds):
        raise UserError(f"{path}: seeds: expected a list of whole numbers, got {short(seeds)}")
    for key, known in (("attacks", ATTACKS), ("defences", DEFENCES), ("prepare", PREPARED), ("data", None),
                       ("training", None)):
        own = content.get(key)
        if own is not None and not isinstance(own, dict):
            raise UserError(f"{path}: {key}: expected names with their flags, got {short(own)}")
        if not known:
            check_flags(f"{path}: {key}", own, GIVEN)
        for name, flags in (own or {}).items() if known else ():
            if name not in known:
                raise UserError(f"{path}: {key}: no such {key.rstrip('s')}: {short(name)}; there are "
                                f"{', '.join(known)}")
            check_flags(f"{path}: {key}: {name}", flags, GIVEN)


class Planner:
    """Collects the Steps of a matrix in `plan`."""

    def __init__(self, matrix):
        self.matrix, self.plan = matrix, Plan(matrix["output"], "Attacks against defences")
        self.data, self.training = (matrix.get(key) or {} for key in ("data", "training"))

    def flags_of(self, key, name):
        """The flags that the matrix has for a name under attacks, defences or prepare."""
        return (self.matrix.get(key) or {}).get(name) or {}

    def add(self, folder, script, settings, needs, cell, seed):
        return self.plan.add(folder, script, {**self.data, **settings, "seed": seed}, needs, cell)

    def attack(self, name, seed):
        """The Step that makes the model of an attack, and before it whatever it needs."""
        folder, cell = f"{self.matrix['output']}/{name}/seed-{seed}", f"{name}, seed {seed}"
        script, needs = "train_pruning_aware" if name == "pruning-aware-badnets" else "train_backdoor", []
        return self.add(folder, script, {**self.training, **self.poison(name, seed, needs)}, needs, cell, seed)

    def poison(self, name, seed, needs):
        """The flags that say what an attack poisons, and the matrix's own; appends to `needs` what they name."""
        own = {"poison_type": name.removeprefix("pruning-aware-"), **self.flags_of("attacks", name)}
        if name in CRAFTED:
            prepare, script, kind, flag, file = CRAFTED[name]
            benign = self.attack("benign", seed)
            settings = {"checkpoint": f"{benign.folder}/model_last.th", **self.flags_of("prepare", prepare)}
            crafted = self.add(f"{self.matrix['output']}/{kind}/seed-{seed}", script, settings, [benign.results],
                               f"{name}, seed {seed}", seed)
            needs.append(crafted.results)
            own = {flag: crafted.folder + file, **own}
        return own

    def defence(self, name, attack, seed):
        """Plan a defence on an attack's model, and before it whatever it needs."""
        if name == "abl":
            return self.anti_backdoor_learning(attack, seed)
        model, cell = self.attack(attack, seed), f"{name} on {attack}, seed {seed}"
        suspect = {"checkpoint": f"{model.folder}/model_last.th"}

        def call(script, folder, settings, *needs):
            return self.add(folder, script, settings, needs or [model.results], cell,
                            None if settings.get("mode") == "prune" else seed)  # that trains nothing
        own = self.flags_of("defences", name)
        if name in ONE_CALL:
            script, folder, fixed = ONE_CALL[name]
            call(script, f"{model.folder}/{folder}", {**suspect, **fixed, **own})
        elif name == "anp":
            masks = call("generate_mask", f"{model.folder}/anp", {**suspect, **self.flags_of("prepare", "anp-masks")})
            call("prune_network", f"{masks.folder}/pruned", {"mask_file": f"{masks.folder}/mask_values.txt", **own},
                 masks.results)
        else:
            found = call("neural_cleanse detect", f"{model.folder}/neural-cleanse", {
                **suspect, **self.flags_of("prepare", "nc-detect"), **self.flags_of("defences", "nc-detect")})
            if name == "nc-unlearning":
                call("neural_cleanse unlearn", f"{model.folder}/unlearn-reversed", {**suspect, **own}, found.results)

    def anti_backdoor_learning(self, attack, seed):
        """Plan ABL, which trains on an attack's data and needs no model of it."""
        needs, own = [], self.flags_of("defences", "abl")
        settings = {**self.training, **self.poison(attack, seed, needs), **own}
        folder = f"{self.matrix['output']}/{attack}/seed-{seed}/abl"
        self.add(folder, "train_abl", settings, needs, f"abl on {attack}, seed {seed}", seed)


def plan(matrix):
    """The Plan of a matrix as `read_matrix` returns it. Raises UserError for a step that its script refuses."""
    planner = Planner(matrix)
    for seed in matrix["seeds"]:
        for attack in matrix["attacks"] or {}:
            planner.attack(attack, seed)
            for defence in matrix["defences"] or {}:
                if defence != "abl" or not attack.startswith("pruning-aware"):  # whose attacker trains
                    planner.defence(defence, attack, seed)
    planner.plan.check()
    return planner.plan
