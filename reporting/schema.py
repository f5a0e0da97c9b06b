"""What the JSON files of a run must hold for a report to be made of it; a stranger's files need not hold it.

Entries that no report reads are not checked. Importing pydantic takes a tenth of a second, so this module is imported
where a file is read.
"""
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from reporting.scripts import found_at, own_titles, script_name

LARGEST = 1e15  # no figure of ours lies beyond it
Number = Annotated[float, Field(allow_inf_nan=False, gt=-LARGEST, lt=LARGEST)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Two = Field(min_length=2, max_length=2)
Interval = Annotated[list[Number], Two]


def whole(pair):
    """Two values, of which both or none is known. Raises ValueError for any others."""
    if len({value is None for value in pair}) > 1:
        raise ValueError("one end is known and the other is not")
    return pair


Pair = Annotated[list[Number | None], Two, AfterValidator(whole)]  # from the lowest to the highest


class Checked(BaseModel):
    """A JSON object. Nothing is converted: "3" and true do not count as numbers."""

    model_config = ConfigDict(strict=True, protected_namespaces=())


class Proportion(Checked):
    """A share with its 95 % interval, of `n` images."""

    value: Fraction
    interval: Annotated[list[Fraction], Two]
    n: Annotated[int, Field(gt=0, lt=LARGEST)]

    @model_validator(mode="after")
    def value_in_interval(self):
        if not self.interval[0] <= self.value <= self.interval[1]:
            raise ValueError("the value lies outside its interval")
        return self


class OwnFigure(Checked):
    """A figure that a script's row in the catalogue names."""

    value: Number | Proportion | list[Number | Proportion | None] | None


class Shares(Checked):
    """Figures of one model."""

    acc: Proportion | None = None
    asr: Proportion | None = None
    asr_other_classes: Proportion | None = None
    robust_acc: Proportion | None = None
    acc_outside_target: Proportion | None = None


class Pruned(Shares):
    """Figures of a model at one place of a pruning sweep."""

    threshold: Number | None = None
    pruned: Number | None = None


class Label(Checked):
    """What Neural Cleanse found for one label: norm and anomaly index from the lowest to the highest over seeds."""

    label: Number | None = None
    flagged_in: Number | None = None
    seeds: Number | None = None
    norm: Pair | None = None
    index: Pair | None = None


class Method(Checked):
    """A method's own figures: results.json's "method"."""

    name: str = ""
    before: Shares | None = None
    control: Shares | None = None
    chosen: Pruned | None = None
    filtered: Shares | None = None
    sweep: list[Pruned] | None = None
    labels: list[Label] | None = None
    targets: list[Number | None] | None = None
    superimpose: str | None = None
    patch_with: str | None = None
    frr: Proportion | None = None
    far: Proportion | None = None
    precision: Proportion | None = None
    recall: Proportion | None = None
    mean_entropy: dict[str, Number | None] = {}
    asr_with_residual: dict[str, Proportion | None] = {}
    poisoned: Number | None = None
    of_training_set: Number | None = None
    auroc: Number | None = None
    overlays: Number | None = None
    isolated: Number | None = None
    suspected: Number | None = None
    images: Number | None = None
    flagged: list[Number] | None = None
    bits: Number | None = None
    bit_accuracy: Number | None = None
    bit_accuracy_swapped: Number | None = None
    psnr: Number | None = None
    shared_energy: Number | None = None


class Evidence(Checked):
    """What one test of an audit found."""

    test: str
    points_to: Number | None
    words: str


class Repaired(Checked):
    """A repaired model of an audit beside the model as it is."""

    name: str
    changed: bool
    acc: Proportion
    lost: Number
    lost_interval: Interval
    asr_of_reversed: dict[str, Proportion | None]


class Errors(Checked):
    """How often an audit was wrong on models of ours with one attack."""

    attack: str
    models: Annotated[float, Field(ge=1, lt=1e6)]
    wrong: Annotated[Number, Field(ge=0)]
    undecided: Number
    named: Number

    @model_validator(mode="after")
    def wrong_on_some_of_them(self):
        if self.wrong > self.models:
            raise ValueError("wrong on more models than there are")
        return self


class Repairs(Method):
    """The "method" of studies.verdict, the audit with repairs."""

    verdict: str
    targets: list[Number | None]
    target_classes: list[str]
    evidence: list[Evidence]
    repaired: list[Repaired]
    least_lost: list[str]
    missing: list[str] | None = None
    doubt: str | None = None
    trust: str | None = None
    errors: list[Errors] | None = None
    combined: Number | None = None


class Audit(Method):
    """The "method" of studies.audit."""

    verdict: str
    target: Number | None
    target_class: str | None
    combined: Number | None
    doubt: str | None = None
    trust: str | None = None


class Spec(Checked):
    """The network that was run."""

    arch: str | None = None
    width: Number | None = None
    num_classes: Annotated[Number, Field(ge=1)] | None = None


class Results(Shares):
    """results.json."""

    script: str
    seconds: Number
    method: Method = Method()
    parent: str | None = None
    dataset: str | None = None
    device: str | None = None
    spec: Spec | None = None
    all_to_all: bool | None = None
    sources: list[Number] | None = None
    width: Number | None = None
    epochs: Number | None = None
    seed: Number | None = None


class RepairsResults(Results):
    """results.json of an audit's end."""

    method: Repairs


class AuditResults(Results):
    """results.json of studies.audit."""

    method: Audit


class Arguments(Checked):
    """The flags that a report reads."""

    arch: str | None = None
    poison_type: str | None = None
    pruning_by: str | None = None
    epochs: Number | None = None
    anp_alpha: Number | None = None
    nb_iter: Number | None = None
    max_drop: Number | None = None
    isolation_rate: Number | None = None


class Config(Checked):
    """config.json."""

    script: str = ""
    arguments: Arguments


class Epoch(Checked):
    """A line of metrics.jsonl."""

    epoch: Number
    clean_acc: Number | None = None
    poison_acc: Number | None = None


def check(schema, value):
    """Raise ValueError, in one line that names the field, unless `value` is what the schema says."""
    try:
        schema.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"])) or "all of it"
        raise ValueError(f"{place[:80]}: {first['msg'].removeprefix('Value error, ')}") from None


def check_config(config):
    """Raise ValueError unless config.json's object is what the schema says."""
    check(Config, config)


def check_results(results):
    """Raise ValueError unless results.json's object is what the schema says."""
    check(Results, results)
    schema = {"audit": RepairsResults, "calibrated audit": AuditResults}.get(results.get("method", {}).get("name"))
    if schema:
        check(schema, results)
    for place in own_titles(script_name(results["script"])):
        try:
            check(OwnFigure, {"value": found_at(results.get("method", {}), place)})
        except ValueError:
            raise ValueError(f"method.{place}: expected a number, a share, or a list of those") from None


CHECKS = {"config.json": check_config, "results.json": check_results}
