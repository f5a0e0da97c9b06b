"""A matrix of attacks, defenses and seeds as a Plan."""
from common.errors import UserError
from common.untrusted import read_yaml
from engine.catalogue import attack_cells, defense_cells, gifts
from engine.command_line.flags import POISON_FLAGS
from workflow.steps import Plan, check_flags, known_files, short

KEYS = {"output", "seeds", "data", "training", "attacks", "defenses", "prepare", "pairs"}
# Of a defense under `pairs`: a sentence, and attacks, as a list or as {attack: the share of the training images that it
# poisoned in the runs to show, None for any}. The share chooses among finished runs; what is run has the matrix's own.
PAIR = {"assumes", "kept_by", "broken_by"}
CHOOSING = ("poison_target", "poison_rate")  # flags that say which images a trigger poisons, and as what
GIVEN = {"output_dir", "overwrite", "resume", "seed"}  # flags that a matrix may not set


def defense_names() -> list[str]:
    """What a matrix may have under `defenses`."""
    return [name for name, (_, cell) in defense_cells().items() if not cell.is_prepared]


def prepared_names() -> list[str]:
    """What a matrix may have flags for under `prepare`: ingredients, cells that others need, and the data sets that the
    triggers of attacks that control training poison."""
    cells = defense_cells()
    needed = {cell.needs for _, cell in cells.values()}
    return [gift.name for _, gift in gifts().values()] + [name for name in cells if name in needed] + stored_names()


def stored_names() -> list[str]:
    """The attacks that control training: ABL gets what their trigger poisons of a training set."""
    return [name for name, (script, _) in attack_cells().items() if script.controls_training]


def read_matrix(path):
    """The dict of a YAML file of a matrix. Raises UserError, naming the file, if it is not one."""
    try:
        content = read_yaml(path)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; the suite has {known_files('matrices')}") from None
    check_matrix(path, content)
    return content


def check_matrix(path, content):
    """Raise UserError unless `content` has the keys and types of a matrix."""
    if not isinstance(content, dict) or not KEYS >= content.keys() >= {"output", "seeds", "attacks", "defenses"}:
        raise UserError(f"{path}: expected output, seeds, attacks and defenses, and at most {', '.join(sorted(KEYS))}")
    if not isinstance(content["output"], str) or not content["output"].strip():
        raise UserError(f"{path}: output: expected a folder")
    attacks = list(attack_cells())
    if not content["attacks"]:
        raise UserError(f"{path}: attacks: expected at least one of {', '.join(attacks)}")
    seeds = content["seeds"]
    if not isinstance(seeds, list) or not seeds or not all(type(seed) is int and seed >= 0 for seed in seeds):
        raise UserError(f"{path}: seeds: expected a list of whole numbers, got {short(seeds)}")
    for key, known in (("attacks", attacks), ("defenses", defense_names()), ("prepare", prepared_names()),
                       ("data", None), ("training", None)):
        check_part(path, key, content.get(key), known)
    check_stored(path, content.get("prepare") or {}, content["attacks"])
    check_pairs(path, content)


def check_stored(path, prepared, attacks):
    """Raise UserError if `prepare` has an attack that controls training and is not among `attacks`, or has other flags
    for it than CHOOSING."""
    for name in stored_names():
        if name in prepared and name not in attacks:
            raise UserError(f"{path}: prepare: {name}: is not under attacks, so nothing of it is prepared")
        other = [flag for flag in prepared.get(name) or {} if flag.replace("-", "_") not in CHOOSING]
        if other:
            raise UserError(f"{path}: prepare: {name}: expected at most {' and '.join(CHOOSING)}, got {other[0]}")


def check_part(path, key, own, known):
    """Raise UserError unless one part of a matrix is flags, or names of `known` with their flags."""
    if own is not None and not isinstance(own, dict):
        raise UserError(f"{path}: {key}: expected names with their flags, got {short(own)}")
    if not known:
        check_flags(f"{path}: {key}", own, GIVEN)
        return
    for name, flags in (own or {}).items():
        if name not in known:
            raise UserError(f"{path}: {key}: no such {key.rstrip('s')}: {short(name)}; there are {', '.join(known)}")
        check_flags(f"{path}: {key}: {name}", flags, GIVEN)


def check_pairs(path, content):
    """Raise UserError unless `pairs`, if there are any, name defenses and attacks of the matrix."""
    pairs = content.get("pairs")
    if not isinstance(pairs, (dict, type(None))):
        raise UserError(f"{path}: pairs: expected defenses with their attacks, got {short(pairs)}")
    for defense, entry in (pairs or {}).items():
        if not isinstance(entry, dict) or not PAIR >= entry.keys() >= PAIR - {"broken_by"}:
            raise UserError(f"{path}: pairs: {short(defense)}: expected {', '.join(sorted(PAIR))}, got {short(entry)}")
        kept_by, broken_by = entry["kept_by"], entry.get("broken_by", [])
        if not (isinstance(entry["assumes"], str) and kept_by and isinstance(kept_by, (list, dict))
                and isinstance(broken_by, (list, dict))):
            raise UserError(f"{path}: pairs: {short(defense)}: expected a sentence and two lists of attacks")
        for key, name in [("defenses", defense), *(("attacks", name) for name in (*kept_by, *broken_by))]:
            if name not in list(content[key] or {}):
                raise UserError(f"{path}: pairs: {short(defense)}: {short(name)} is not under {key}")


def is_asked_for(pairs, defense, attack):
    """Whether a matrix with these `pairs` wants a defense on an attack: without pairs, and for a defense whose pair
    names no attack that breaks it, on all."""
    if not pairs:
        return True
    entry = pairs.get(defense)
    return entry is not None and ("broken_by" not in entry or attack in (*entry["kept_by"], *entry["broken_by"]))


class Planner:
    """Collects the Steps of a matrix in `plan`."""

    def __init__(self, matrix):
        self.matrix, self.plan = matrix, Plan(matrix["output"], "Attacks against defenses")
        self.data, self.training = (matrix.get(key) or {} for key in ("data", "training"))
        self.attacks, self.defenses = attack_cells(), defense_cells()

    def flags_of(self, key, name):
        """The flags that the matrix has for a name under attacks, defenses or prepare."""
        return (self.matrix.get(key) or {}).get(name) or {}

    def add(self, folder, script, settings, needs, cell, seed, is_heavy=True):
        return self.plan.add(folder, script, {**self.data, **settings, "seed": seed}, needs, cell, is_heavy)

    def attack(self, name, seed):
        """The Step that makes the model of an attack, and before it whatever it needs."""
        script, _ = self.attacks[name]
        needs = []
        settings = {**self.training, **self.poison(name, seed, needs)}
        return self.add(f"{self.matrix['output']}/{name}/seed-{seed}", script, settings, needs, f"{name}, seed {seed}",
                        seed)

    def poison(self, name, seed, needs):
        """The flags that say what an attack poisons, and the matrix's own; appends to `needs` what they name."""
        _, cell = self.attacks[name]
        own = {**cell.flags, **self.flags_of("attacks", name)}
        if name in gifts():
            script, gift = gifts()[name]
            benign = self.attack("benign", seed)
            settings = {"checkpoint": f"{benign.folder}/model_last.th", **self.flags_of("prepare", gift.name)}
            crafted = self.add(f"{self.matrix['output']}/{gift.folder}/seed-{seed}", script, settings,
                               [benign.results], f"{name}, seed {seed}", seed)
            needs.append(crafted.results)
            own = {gift.flag: crafted.folder + gift.file, **own}
        return own

    def stored(self, name, seed, needs):
        """The flags that poison a data set with the trigger of an attack that controls training, and so has none."""
        model, own = self.attack(name, seed), self.flags_of("attacks", name)
        needs.append(model.results)
        given = {flag: value for flag, value in own.items() if flag.replace("-", "_") in CHOOSING}
        return {"poison_type": "stored", "trigger_file": f"{model.folder}/trigger_info.th", **given,
                **self.flags_of("prepare", name)}

    def data_of(self, script, attack, seed, needs):
        """The flags that give a Script the data of an attack; where it is the attack's own, also how that trains."""
        made, _ = self.attacks[attack]
        if made.controls_training:
            return self.stored(attack, seed, needs)
        flags = self.poison(attack, seed, needs)
        if script.module == made.module:
            return flags
        return {flag: value for flag, value in flags.items() if flag.replace("-", "_") in POISON_FLAGS}

    def defense(self, name, attack, seed):
        """Plan a defense on an attack, and before it whatever it needs; returns its Step."""
        script, cell = self.defenses[name]
        own = {**cell.flags, **self.flags_of("prepare", name), **self.flags_of("defenses", name)}
        title, needs = f"{name} on {attack}, seed {seed}", []
        folder = f"{self.matrix['output']}/{attack}/seed-{seed}/{cell.folder}"
        if script.trains:  # on the attack's data, without a model of it
            settings = {**self.training, **self.data_of(script, attack, seed, needs), **own,
                        **self.taken(cell, attack, seed, needs)}
            return self.add(folder, script, settings, needs, title, seed)
        model = self.attack(attack, seed)
        if script.inspects:  # both
            data = self.data_of(script, attack, seed, needs)
            settings = {"checkpoint": f"{model.folder}/model_last.th", **data, **own}
            return self.add(folder, script, settings, [model.results, *needs], title, seed)
        given = self.taken(cell, attack, seed, needs) or {"checkpoint": f"{model.folder}/model_last.th"}
        return self.add(folder, script, {**given, **own}, needs or [model.results], title,
                        seed if script.draws and cell.draws else None, cell.is_heavy)

    def taken(self, cell, attack, seed, needs):
        """The flags with the files that the cell which another needs leaves, planned before it; appends it to `needs`.
        """
        if not cell.needs:
            return {}
        before = self.defense(cell.needs, attack, seed)
        needs.append(before.results)
        return {flag: f"{before.folder}/{file}" for flag, file in cell.takes.items()}

    def is_possible(self, defense, attack):
        """Whether a defense can be run on an attack: one that trains needs the data, which train_backdoor makes, or a
        trigger to poison it with; one that inspects data needs a model that was trained on it."""
        (script, cell), made = self.defenses[defense], self.attacks[attack][0]
        if cell.needs and not self.is_possible(cell.needs, attack):
            return False
        if script.inspects:
            return made.trains
        return not script.trains or made.module == "train_backdoor" or made.controls_training


def plan(matrix):
    """The Plan of a matrix as `read_matrix` returns it. Raises UserError for a step that its script refuses."""
    planner = Planner(matrix)
    for seed in matrix["seeds"]:
        for attack in matrix["attacks"] or {}:
            planner.attack(attack, seed)
            for defense in matrix["defenses"] or {}:
                if planner.is_possible(defense, attack) and is_asked_for(matrix.get("pairs"), defense, attack):
                    planner.defense(defense, attack, seed)
    planner.plan.check()
    return planner.plan
