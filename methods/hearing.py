"""What an audit's witnesses find on a model, one after the other, and what a reference makes of it."""
import logging
import time
from collections.abc import Sequence
from dataclasses import replace

import torch

from common.errors import UserError
from engine.command_line.aim_flags import called
from engine.defending.without_images import Subject
from engine.runs import machine
from methods.calibration import LEAST, UNDECIDED, Judgment, judge, needs_more
from methods.reference import Reference
from methods.trigger_search import Search, check_clean_images, smallest
from methods.witnesses import (
    CHANNELS,
    CLEANSE,
    MARGINS,
    TITLES,
    Finding,
    Settings,
    channel_witness,
    cleanse_witness,
    margin_witness,
    search_triggers,
)

COLUMNS = ("witness", "statistic", "p_value", "points_to", "speaks", "words")
log = logging.getLogger("backdoor")


class Hearing:
    """The witnesses' findings so far, and their p-values by the reference."""

    def __init__(self, reference: Reference, alpha: float, classes: Sequence[str]):
        self.reference, self.alpha, self.classes = reference, alpha, classes
        self.findings, self.p_values, self.seconds = {}, {}, {}

    def note(self, witness: str, finding: Finding, started: float, searches: int = 0) -> None:
        """Record and log what a witness found."""
        self.findings[witness] = finding
        self.p_values[witness] = self.reference.p_value(witness, finding.statistic, searches)
        self.seconds[witness] = round(time.perf_counter() - started, 2)
        value = self.p_values[witness]
        points = "" if finding.label is None else f"; label {called(finding.label, self.classes)}"
        said = "" if value is None else f"; p-value {value:.2g}"
        log.info("%s: %s%s%s", TITLES[witness], finding.words, points, said)

    def leave_itself_out(self) -> None:
        """Compare a model of the reference with the others of it, as the table does, once the first two have spoken."""
        population = self.reference.population
        itself = population and population.reference_of(self.statistics())
        if itself:
            log.info("this is a model of the reference (seed %d); it is compared with the others", itself.seed)
            self.reference = replace(self.reference, population=population.without(itself))
            self.p_values = {name: self.reference.p_value(name, finding.statistic)
                             for name, finding in self.findings.items()}
            log.info("p-values among them: %s", ", ".join(
                f"{TITLES[name]} {value:.2g}" for name, value in self.p_values.items() if value is not None))

    def statistics(self) -> dict[str, float | None]:
        """{witness: its statistic}."""
        return {name: finding.statistic for name, finding in self.findings.items()}

    def judge(self, doubt: str | None = None) -> Judgment:
        """The Judgment; UNDECIDED with a doubt."""
        found = judge(self.p_values, {name: finding.label for name, finding in self.findings.items()}, self.alpha)
        return replace(found, verdict=UNDECIDED, target=None) if doubt else found

    def silence(self) -> str | None:
        """Why there is no p-value at all; None if there is one, or if the reference's doubt says it."""
        if self.reference.doubt or any(value is not None for value in self.p_values.values()):
            return None
        if all(finding.statistic is None for finding in self.findings.values()):
            return "no witness had anything to say"
        return f"fewer than {LEAST} other benign models of its kind have been measured by studies.calibrate_audit"

    def rows(self, judgment: Judgment) -> list[dict]:
        """The rows of witnesses.csv."""
        return [dict(zip(COLUMNS, (name, finding.statistic, self.p_values[name], finding.label,
                                   int(name in judgment.speaking), finding.words), strict=True))
                for name, finding in self.findings.items()]


def hear_cleanse(hearing: Hearing, subject: Subject, settings: Settings, seed: int, device: torch.device
                 ) -> dict[int, Search]:
    """Neural Cleanse's searches, as many as the verdict depends on; returns {label: its Search of smallest norm}."""
    images, by_seed, started = subject.suspect.defender, [], time.perf_counter()
    try:
        check_clean_images(images, settings.batch_size * settings.batches)
    except UserError as error:
        log.warning("Neural Cleanse is left out: %s", error)
        return {}
    others = {name: value for name, value in hearing.p_values.items() if name != CLEANSE}
    for number in range(settings.searches):
        by_seed.append(search_triggers(subject.model, images, settings, seed + number, device))
        norms = [[search.norm for search in found] for found in by_seed]
        hearing.note(CLEANSE, cleanse_witness(norms), started, len(norms))
        if not needs_more(hearing.p_values[CLEANSE], others, hearing.alpha):
            break
    return smallest(by_seed)


def hear(hearing: Hearing, subject: Subject, settings: Settings, seed: int, device: torch.device) -> dict[int, Search]:
    """All witnesses, the cheap ones first; returns what hear_cleanse does, {} without images."""
    machine.set_cudnn_benchmark(False)  # classes that are done leave the batch, so that it takes many sizes
    hearing.note(CHANNELS, channel_witness(subject.model), time.perf_counter())
    started, generator = time.perf_counter(), torch.Generator().manual_seed(seed)
    hearing.note(MARGINS, margin_witness(subject.model, len(subject.classes), subject.image_size, settings, device,
                                         generator), started)
    hearing.leave_itself_out()
    if subject.suspect:
        return hear_cleanse(hearing, subject, settings, seed, device)
    log.info("without images Neural Cleanse says nothing")
    return {}
