"""What a row of engine/catalogue.py says about a script."""
from dataclasses import dataclass, field

ATTACK, INGREDIENT, REPAIR, VERDICT, STUDY, REPORT = "attack", "ingredient", "repair", "verdict", "study", "report"


@dataclass(frozen=True)
class Cell:
    """One way in which a matrix runs a script: an attack, or a defense on an attack's model.

    name: its name in matrix files. folder: its output folder beneath the model's run. flags: the flags that select it.
    needs: the cell that must have run on the same model before. takes: {flag: file that `needs` left}, given in place
    of --checkpoint, or to a training beside the attack's flags. is_prepared: whether matrix files set its flags under
    `prepare` instead of under `defenses`. draws: whether it takes a seed, if its script takes one at all. in_audit: its
    name in an audit's settings, "" if audits do not run it.
    """

    name: str
    folder: str = ""
    flags: dict = field(default_factory=dict)
    needs: str = ""
    takes: dict = field(default_factory=dict)
    is_prepared: bool = False
    is_heavy: bool = True
    draws: bool = True
    in_audit: str = ""


@dataclass(frozen=True)
class Gift:
    """What an ingredient makes for an attack from the benign model.

    attack: the attack that needs it. name: the name of its flags under `prepare` in a matrix. folder: its output folder
    in a matrix. flag: the attack's flag that takes it. file: the file in the folder, "" for the folder itself.
    """

    attack: str
    name: str
    folder: str
    flag: str
    file: str = ""


@dataclass(frozen=True)
class Script:
    """One script of the suite.

    module: what `python -m` runs; a module without a dot is a file at the top, run as module.py. title: its name in
    print. kind: attack (leaves a model with a backdoor), ingredient (makes what another script needs), repair (leaves a
    model without a backdoor), verdict, study or report. again: the flag that lets the same command continue after a
    stop: --resume, --overwrite (it starts over), or "" if the same command continues by itself. is_heavy: whether it is
    worth a GPU. trains: whether it trains on an attack's data, and so takes the attack's flags instead of a model.
    inspects: whether it looks at an attack's data through a model that was trained on it, and so takes both.
    leaves_run: whether it leaves a folder with results.json (a sweep leaves folders of them). draws: whether its seed
    changes what it leaves. supposes: {"all_to_all", "sources": what it supposes of a trigger and such a one is not},
    which its log and the report say where it is run on one. figures: {entry of "method" in results.json, or one within
    it such as "rounds.gap": title}, which the report and the summary show; a share that has no interval there is named
    with a % at the end of its title.

    The other fields are for tests. reads: its inputs in a run on handwritten digits; {names} are files that
    tests/helpers makes. small: flags that make a run short on any images. lasting: flags of a run that lasts long
    enough to be killed. after: command lines that must run before the docstring's own. other: {flag: another value of
    it that changes what a short run leaves}, for flags whose next value does not; (flags that both runs get in
    addition, the value) for a value that needs them, where a leading "=" makes them the run's only flags; None if the
    script's own test covers the flag.
    """

    module: str
    title: str
    kind: str
    again: str = "--overwrite"
    is_heavy: bool = True
    trains: bool = False
    inspects: bool = False
    leaves_run: bool = True
    draws: bool = True
    cells: tuple = ()
    gives: Gift | None = None
    supposes: dict = field(default_factory=dict)
    figures: dict = field(default_factory=dict)
    reads: str = ""
    small: str = ""
    lasting: str = ""
    after: tuple = ()
    other: dict = field(default_factory=dict)

    @property
    def is_sweep(self) -> bool:
        return self.leaves_run and not self.again

    @property
    def resumes(self) -> bool:
        return self.again == "--resume"

    @property
    def leaves_model(self) -> bool:
        return self.kind in (ATTACK, REPAIR)

    @property
    def controls_training(self) -> bool:
        """Whether it is an attack that leaves a trigger and no poisoned data."""
        return self.kind == ATTACK and not self.trains

    @property
    def name(self) -> str:
        """The last part of the module's name."""
        return self.module.rpartition(".")[2]

    def words(self) -> list[str]:
        """The words of the command line after `python`."""
        return ["-m", self.module] if "." in self.module else [f"{self.module}.py"]

    def command(self) -> str:
        """The command that a user types."""
        return " ".join(["python", *self.words()])
