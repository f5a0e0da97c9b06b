"""A matrix of attacks, defenses and seeds as a Plan."""
from common.errors import UserError
from engine.catalogue import gifts
from engine.command_line.poison_flags import POISON_FLAGS
from workflow.matrix import AGAINST, CHOOSING, OF, cells_of, flags_of, said_of, stored_names
from workflow.steps import Plan


def is_asked_for(matrix, defense, attack):
    """Whether a matrix wants a defense on an attack: those that it is `against`, or else those of its pair. Without
    pairs on all, and for a defense whose pair names no attack that breaks it on all but variants."""
    chosen, pairs = said_of(matrix, "defenses", defense, AGAINST), matrix.get("pairs")
    if chosen is not None:
        return attack in chosen
    if not pairs:
        return True
    entry = pairs.get(defense)
    if entry is None or "broken_by" in entry:
        return entry is not None and attack in (*entry["kept_by"], *entry["broken_by"])
    return said_of(matrix, "attacks", attack, OF) is None or attack in entry["kept_by"]


class Planner:
    """Collects the Steps of a matrix in `plan`."""

    def __init__(self, matrix):
        self.matrix, self.plan = matrix, Plan(matrix["output"], "Attacks against defenses")
        self.data, self.training = (matrix.get(key) or {} for key in ("data", "training"))
        self.prepared = set()  # the names under prepare whose flags a step has taken
        self.attacks, self.defenses = cells_of(matrix, "attacks"), cells_of(matrix, "defenses")

    def flags_of(self, key, name):
        """The flags that the matrix has for a name under attacks, defenses or prepare."""
        if key == "prepare":
            self.prepared.add(name)
        return flags_of(self.matrix, key, name)

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
        if cell.name in gifts():
            script, gift = gifts()[cell.name]
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
                **self.flags_of("prepare", self.attacks[name][1].name)}

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
        own = {**cell.flags, **self.flags_of("prepare", cell.name), **self.flags_of("defenses", name)}
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
                if not is_asked_for(matrix, defense, attack):
                    continue
                if planner.is_possible(defense, attack):
                    planner.defense(defense, attack, seed)
                elif said_of(matrix, "defenses", defense, AGAINST):
                    raise UserError(f"defenses: {defense}: {AGAINST}: it cannot be run on {attack}, whose training "
                                    "set it would need")
    unused = [name for name in matrix.get("prepare") or {} if name not in {*planner.prepared, *stored_names()}]
    if unused:
        raise UserError(f"prepare: {unused[0]}: no attack and no defense here takes it, so its flags have no effect")
    planner.plan.check()
    return planner.plan
