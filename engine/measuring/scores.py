"""What was measured of a model: ACC, ASR and their intervals, in numbers and in words."""
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

log = logging.getLogger("backdoor")
TELLING = 30  # images: of fewer, the interval reaches down to chance even where all are right


@dataclass(frozen=True)
class Proportion:
    """`hits` out of `n`, with its 95 % Wilson interval."""

    hits: int
    n: int

    @property
    def value(self) -> float:
        return self.hits / self.n if self.n else math.nan

    def as_dict(self) -> dict | None:
        """{"value", "interval": [low, high], "n"}; None if nothing was counted."""
        if not self.n:
            return None
        from scipy.stats import binomtest  # takes half a second, which a script that only trains does not need
        low, high = binomtest(self.hits, self.n).proportion_ci(0.95, method="wilson")
        return {"value": self.value, "interval": [float(low), float(high)], "n": self.n}


@dataclass(frozen=True)
class Score:
    """Mean loss and accuracy against the targets of a set, and accuracy against its labels before poisoning."""

    loss: float
    accuracy: Proportion
    original_accuracy: Proportion


UNKNOWN = Score(math.nan, Proportion(0, 0), Proportion(0, 0))


@dataclass(frozen=True)
class Evaluation:
    """The Scores on clean and on triggered test images: ACC, ASR and robust accuracy. UNKNOWN if no trigger is known.

    bystanders: on triggered images of classes that the trigger is not meant for; UNKNOWN if it is meant for all.
    outside_target: ACC on the clean images outside the target class; unknown without one target.
    """

    clean: Score
    triggered: Score
    bystanders: Score = UNKNOWN
    outside_target: Proportion = UNKNOWN.accuracy

    def figures(self) -> dict:
        """acc, asr and robust_acc in the form of results.json; acc_outside_target and, for a trigger with sources,
        asr_other_classes, where they are known."""
        others = {"acc_outside_target": self.outside_target.as_dict(),
                  "asr_other_classes": self.bystanders.accuracy.as_dict()}
        return {"acc": self.clean.accuracy.as_dict(), "asr": self.triggered.accuracy.as_dict(),
                "robust_acc": self.triggered.original_accuracy.as_dict(),
                **{name: known for name, known in others.items() if known}}


UNTESTED = Evaluation(UNKNOWN, UNKNOWN)


def plain_values(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> list[dict[str, Any]]:
    """Rows of results.json as a table has them: of `columns` alone, and of a share its value."""
    return [{name: row[name]["value"] if isinstance(row[name], dict) else row[name] for name in columns}
            for row in rows]


def warn_of_chance(tested: Evaluation, num_classes: int, is_attacked: bool) -> None:
    """Log a warning if the accuracy in an Evaluation, or an attack's success rate, is not above chance."""
    shares = [("ACC", tested.clean.accuracy, "nothing was learned")]
    if is_attacked:
        shares.append(("ASR", tested.triggered.accuracy, "the backdoor was not learned"))
    for name, share, meaning in shares:
        known = share.as_dict()
        chance = 1 / num_classes
        if known and known["interval"][0] <= chance and (share.value <= chance or share.n >= TELLING):
            log.warning("%s %.4f is not above chance (%.4f for %d classes): %s", name, share.value, chance,
                        num_classes, meaning)


def log_figures(title: str, tested: Evaluation) -> Evaluation:
    """Log one line, the ASR and ACC of an Evaluation, and return it."""
    log.info("%s: ASR %.4f, ACC %.4f", title, tested.triggered.accuracy.value, tested.clean.accuracy.value)
    return tested


def last_within(accuracies: Sequence[float], max_drop: float) -> int:
    """The defender's choice in a sweep: the last place that loses at most `max_drop` against the first."""
    return max(i for i, accuracy in enumerate(accuracies) if accuracy >= accuracies[0] - max_drop - 1e-9)
