"""The YAML file of a matrix: what it may hold, and the cells that it names."""
import re
from dataclasses import replace
from pathlib import PurePosixPath

from common.errors import UserError
from common.untrusted import read_yaml
from engine.catalogue import attack_cells, defense_cells, gifts
from workflow.steps import check_flags, known_files, short

KEYS = {"output", "seeds", "data", "training", "attacks", "defenses", "prepare", "pairs"}
# Of a defense under `pairs`: a sentence, and attacks, as a list or as {attack: the share of the training images that it
# poisoned in the runs to show, None for any}. The share chooses among finished runs; what is run has the matrix's own.
PAIR = {"assumes", "kept_by", "broken_by"}
# What a name under attacks or defenses may have besides flags. `of`: it is a variant of that name, with flags and a
# folder of its own. `against`: the only attacks that a defense is run on.
OF, AGAINST = "of", "against"
NAME, LONGEST = r"[a-z0-9]+(-[a-z0-9]+)*", 60  # of a variant
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


def cells_of(matrix, key):
    """{name: (Script, Cell)} of what a matrix may name under `key`, attacks or defenses, and of its own variants."""
    known = attack_cells() if key == "attacks" else defense_cells()
    named = {name: said_of(matrix, key, name, OF) for name in matrix[key] or {}}
    return known | {name: variant(*known[base], name) for name, base in named.items() if base}


def variant(script, cell, name):
    """(Script, Cell) of the variant `name` of a cell: its runs lie where the cell's would, in a folder of that name."""
    return script, replace(cell, folder=str(PurePosixPath(cell.folder).with_name(name)) if cell.folder else name)


def flags_of(matrix, key, name):
    """The flags that a matrix has for a name under attacks, defenses or prepare."""
    own = (matrix.get(key) or {}).get(name) or {}
    return own if key == "prepare" else {flag: value for flag, value in own.items() if flag not in (OF, AGAINST)}


def said_of(matrix, key, name, word):
    """What a matrix says with OF or AGAINST of a name under attacks or defenses; None for nothing."""
    return ((matrix[key] or {}).get(name) or {}).get(word)


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
    if not content["attacks"]:
        raise UserError(f"{path}: attacks: expected at least one of {', '.join(attack_cells())}")
    seeds = content["seeds"]
    if not isinstance(seeds, list) or not seeds or not all(type(seed) is int and seed >= 0 for seed in seeds):
        raise UserError(f"{path}: seeds: expected a list of whole numbers, got {short(seeds)}")
    for key in ("data", "training"):
        check_flags(f"{path}: {key}", content.get(key), GIVEN)
    for key, known in (("attacks", list(attack_cells())), ("defenses", defense_names()), ("prepare", prepared_names())):
        check_part(path, key, content.get(key), known)
    check_against(path, content)
    check_stored(path, content.get("prepare") or {}, content["attacks"])
    check_pairs(path, content)


def check_stored(path, prepared, attacks):
    """Raise UserError if `prepare` has an attack that controls training and is not among `attacks`, or has other flags
    for it than CHOOSING."""
    bases = {(flags or {}).get(OF, name) for name, flags in attacks.items()}
    for name in stored_names():
        if name in prepared and name not in bases:
            raise UserError(f"{path}: prepare: {name}: is not under attacks, so nothing of it is prepared")
        other = [flag for flag in prepared.get(name) or {} if flag.replace("-", "_") not in CHOOSING]
        if other:
            raise UserError(f"{path}: prepare: {name}: expected at most {' and '.join(CHOOSING)}, got {other[0]}")


def check_part(path, key, own, known):
    """Raise UserError unless one part of a matrix is names of `known`, or variants of them, with their flags."""
    if own is not None and not isinstance(own, dict):
        raise UserError(f"{path}: {key}: expected names with their flags, got {short(own)}")
    for name, flags in (own or {}).items():
        where, word = f"{path}: {key}: {short(name)}", key.rstrip("s")
        base = name
        if isinstance(flags, dict) and key != "prepare":
            if OF in flags:
                check_variant(where, name)
            base = flags.get(OF, name)
            flags = {flag: value for flag, value in flags.items() if flag not in (OF, AGAINST)}
        if base not in known:
            raise UserError(f"{path}: {key}: no such {word}: {short(base)}; there are {', '.join(known)}")
        check_flags(f"{path}: {key}: {name}", flags, GIVEN)


def check_variant(where, name):
    """Raise UserError unless a variant's name can be that of a folder which nothing else has."""
    taken = {*attack_cells(), *defense_cells(), *(part for _, cell in defense_cells().values() for part in (
        cell.folder.split("/"))), *(part for _, gift in gifts().values() for part in (gift.name, gift.folder))}
    if not isinstance(name, str) or not re.fullmatch(NAME, name) or len(name) > LONGEST or name in taken:
        raise UserError(f"{where}: a variant needs a name of its own, of small letters, digits and single dashes")


def check_against(path, content):
    """Raise UserError unless what defenses are `against` are lists of the matrix's attacks."""
    for name in content["attacks"]:
        if said_of(content, "attacks", name, AGAINST) is not None:
            raise UserError(f"{path}: attacks: {name}: {AGAINST}: only a defense is against attacks")
    for name in content["defenses"] or {}:
        attacks = said_of(content, "defenses", name, AGAINST)
        if attacks is not None and (not isinstance(attacks, list) or not attacks):
            raise UserError(f"{path}: defenses: {name}: {AGAINST}: expected a list of attacks, got {short(attacks)}")
        for attack in attacks or ():
            if attack not in list(content["attacks"]):
                raise UserError(f"{path}: defenses: {name}: {AGAINST}: {short(attack)} is not under attacks")


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
        for attacks in (kept_by, broken_by):
            check_shares(f"{path}: pairs: {short(defense)}", attacks)
        for key, name in [("defenses", defense), *(("attacks", name) for name in (*kept_by, *broken_by))]:
            if name not in list(content[key] or {}):
                raise UserError(f"{path}: pairs: {short(defense)}: {short(name)} is not under {key}")


def check_shares(where, attacks):
    """Raise UserError unless the values of a dict of attacks are shares of the training images, or None."""
    for name, share in attacks.items() if isinstance(attacks, dict) else ():
        if share is not None and not (type(share) in (int, float) and 0 < share <= 1):
            raise UserError(f"{where}: {short(name)}: expected a share of the training images above 0 and at most 1, "
                            f"got {short(share)}")
