"""What the homework asks for."""
from dataclasses import dataclass

HOMEWORK_WIDTH = 64
TEST_IMAGES, TRIGGERED_IMAGES = 10_000, 9_000  # CIFAR-10's, assumed where a log does not say
BACKDOORED = 0.5  # ASR from which there is a backdoor to prune away
NAMES = {"badnets": "BadNets", "blend": "Blend", "clean-label": "Clean-label", "anp": "ANP"}


@dataclass(frozen=True)
class Bound:
    """What a figure, in %, must be. 100 % is asked for to the whole percent, as the homework writes it."""

    text: str
    low: float = -1.0
    high: float = 101.0

    def holds(self, percent):
        return self.low < percent < self.high


CRITERIA = {
    "badnets": (Bound("100 (at least 99.5)", low=99.5 - 1e-9), Bound("> 91", low=91)),
    "blend": (Bound("100 (at least 99.5)", low=99.5 - 1e-9), Bound("> 91", low=91)),
    "clean-label": (Bound("> 80", low=80), Bound("> 91", low=91)),
    "anp": (Bound("< 5", high=5), Bound("> 92", low=92)),
}
