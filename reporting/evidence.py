"""The findings of each test of an audit, in words."""
import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engine.command_line.aim_flags import called
from methods.witnesses import TITLES


@dataclass(frozen=True)
class Evidence:
    """A test's finding. points_to: the label that it suspects, None if it suspects none or does not look for one."""

    test: str
    points_to: int | None
    words: str


def cleanse_evidence(method: dict, classes: Sequence[str]) -> list[Evidence]:
    """[Evidence] of Neural Cleanse: one for each label flagged by most searches, or one that says that there is none.

    method: the method entry of its results.json.
    """
    labels, targets = method["labels"], method["targets"]
    able = method.get("searches_able_to_flag", labels[0]["seeds"])
    searches, others = labels[0]["seeds"], [label for label in labels if label["label"] not in targets]
    norms = [min(label["norm"]) for label in others if label["norm"]]
    rest = f"; the smallest norms of the others have median {np.median(norms):.1f}" if norms else ""
    found = [Evidence("Neural Cleanse", label["label"],
                      f"{label['flagged_in']} of {searches} searches flag label {called(label['label'], classes)}: "
                      f"norm {span(label['norm'], '.1f')}, anomaly index {span(label['index'], '.2f')} (above 2 is "
                      f"flagged){rest}") for label in labels if label["label"] in targets]
    if found:
        return found
    once = "".join(f", label {called(label['label'], classes)} by {label['flagged_in']}" for label in labels
                   if label["flagged_in"])
    rest += f"; {able} of the searches could flag a label at all" if able < searches else ""
    return [Evidence("Neural Cleanse", None, f"no label is flagged by most of {searches} searches{once}{rest}")]


def span(pair: Sequence[float] | None, form: str) -> str:
    """The lowest and the highest value in words."""
    low, high = (format(value, form) for value in pair or (math.nan, math.nan))
    return low if low == high else f"{low} to {high}"


def leaning(rows: Sequence[dict]) -> tuple[float, dict[int, int], int]:
    """(epsilon, {label: starts that lean to it}, starts) under neuron noise.

    epsilon is the least at which half of the images are misclassified, otherwise the largest. A start leans to a label
    that makes up more than half of its errors. rows: those of studies.neuron_noise.
    """
    rows = [row for row in rows if row["model"] == "suspect"]
    epsilons = sorted({row["epsilon"] for row in rows})
    at = {epsilon: [row for row in rows if row["epsilon"] == epsilon] for epsilon in epsilons}
    epsilon = next((epsilon for epsilon in epsilons if np.mean([row["error_rate"] for row in at[epsilon]]) >= 0.5),
                   epsilons[-1])
    labels = [row["leaning"] for row in at[epsilon] if (row["leaning_share_of_errors"] or 0) > 0.5]
    return epsilon, {label: labels.count(label) for label in sorted(set(labels))}, len(at[epsilon])


def noise_evidence(rows: Sequence[dict], classes: Sequence[str]) -> Evidence:
    """The Evidence of the neuron perturbation curves: it points to a label if every start leans to it."""
    epsilon, labels, starts = leaning(rows)
    errs = np.mean([row["error_rate"] for row in rows if row["epsilon"] == epsilon and row["model"] == "suspect"])
    where = ", ".join(f"{called(label, classes)} in {count}" for label, count in labels.items()) or "none"
    return Evidence("neuron noise", next((label for label, count in labels.items() if count == starts), None),
                    f"at epsilon {epsilon:g} {100 * errs:.0f} % of the images are misclassified, over {starts} random "
                    f"starts; labels that most errors are: {where}")


def witness_evidence(rows: Sequence[dict]) -> list[Evidence]:
    """[Evidence] of an audit's witnesses. rows: those of its witnesses.csv."""
    def p_value(row: dict):
        return "no p-value" if row["p_value"] is None else f"p-value {row['p_value']:.2g}"
    return [Evidence(TITLES[row["witness"]] + ("" if row["p_value"] is None else ", calibrated"), row["points_to"],
                     f"{row['words']}: {p_value(row)}") for row in rows]


def strip_evidence(method: dict, folder: Path, checkpoint: str) -> Evidence:
    """The Evidence of STRIP's calibration, which filters inputs and says nothing about the model."""
    screen = shlex.join(["python", "-m", "defenses.strip", "--checkpoint", checkpoint, "--calibration-file",
                         str(folder / "strip.json"), "--images"])
    boundary = method["boundaries"][method["boundary"]]
    return Evidence("STRIP", None, f"calibrated, not evidence by itself: inputs of at most {boundary:.3f} bits "
                    f"are rejected, {100 * method['frr']['value']:.1f} % of fresh clean images; {screen} FOLDER "
                    "screens new inputs")
