"""Draw the README's two pictures from what lies under results/.

    python docs/make_pictures.py

Reads poisoned_examples.png of one run of each attack and results.json of every cell of the matrix. Writes
docs/pictures/attacks.png (images before and after each attack, and what it changed) and docs/pictures/matrix.png (ASR
and ACC of every attack after every defense).
"""
import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
PICTURES = ROOT / "docs/pictures"
RUNS = ROOT / "results/cifar10-jpeg-width16"
MATRIX = ROOT / "results/cifar10-jpeg-width16-matrix"
DPI = 110
PIXELS = 32  # of a CIFAR image
MAGNIFIED = 3  # the change is shown that many times larger, around gray

# attack: (run, its examples that are shown with the words below each)
EXAMPLES = {
    "BadNets": ("badnets", {2: "horse → airplane", 0: "horse → airplane"}),
    "Blend": ("blend", {2: "horse → airplane", 0: "horse → airplane"}),
    "clean-label": ("clean-label-0.8", {2: "airplane", 5: "airplane"}),
    "ISSBA": ("issba", {2: "horse → airplane", 0: "horse → airplane"}),
}
ATTACKS = {"BadNets": "badnets", "Blend": "blend", "clean-label, 0.8": "clean-label", "ISSBA": "issba"}
DEFENSES = {"no defense": ".", "fine-tuning": "fine-tune", "Fine-Pruning": "fine-prune", "ANP": "anp/pruned",
            "NC unlearning": "unlearn-reversed", "ABL": "abl"}


def main():
    for name, figure in (("attacks", draw_attacks()), ("matrix", draw_matrix())):
        figure.savefig(PICTURES / f"{name}.png", dpi=DPI, pil_kwargs={"optimize": True})


def draw_attacks():
    """Two images of each attack: original, poisoned, and the difference."""
    figure = plt.figure(figsize=(9, 4))
    for part, (attack, (run, shown)) in zip(figure.subfigures(1, len(EXAMPLES)), EXAMPLES.items(), strict=True):
        part.suptitle(attack, fontsize=12, fontweight="bold", y=0.985)
        examples = read_examples(RUNS / run / "poisoned_examples.png")
        axes = part.subplots(3, len(shown), gridspec_kw={"wspace": 0.06, "hspace": 0.06, "left": 0.1, "right": 1,
                                                         "top": 0.91, "bottom": 0.08})
        for column, (number, words) in enumerate(shown.items()):
            original, poisoned = examples[number]
            change = np.clip(127.5 + MAGNIFIED * (poisoned.astype(float) - original), 0, 255).astype(np.uint8)
            draw_column(axes[:, column], (original, poisoned, change), words)
        for axis, words in zip(axes[:, 0], ("original", "poisoned", f"change ×{MAGNIFIED}"), strict=True):
            axis.set_ylabel(words if attack == next(iter(EXAMPLES)) else "", fontsize=9)
    return figure


def draw_column(axes, images, words):
    for axis, image in zip(axes, images, strict=True):
        axis.imshow(image, interpolation="nearest")
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    axes[-1].set_xlabel(words, fontsize=8)


def read_examples(path):
    """[(original, poisoned)] as uint8 (32, 32, 3), read back from a run's picture at the middle of every pixel."""
    picture = np.asarray(Image.open(path).convert("RGB"))
    ink = (picture != 255).any(-1)
    rows = stretches(ink.mean(1) > 0.5)
    columns = stretches(ink[rows[0][0]:].mean(0) > 0.15)
    return [tuple(picture[np.ix_(middles(*row), middles(*column))] for row in rows) for column in columns]


def stretches(inside, shortest=100):
    """[(first, after the last)] of the runs of True that are long enough to be an image and not a label."""
    edges = np.flatnonzero(np.diff(inside.astype(int), prepend=0, append=0)).reshape(-1, 2)
    return [(first, end) for first, end in edges if end - first >= shortest]


def middles(first, end):
    """Where the middles of the image's 32 pixels lie between two edges."""
    return (first + (np.arange(PIXELS) + 0.5) * (end - first) / PIXELS).astype(int)


def read_cell(attack, defense):
    """(ACC, ASR) in % of a cell of the matrix."""
    results = json.loads((MATRIX / attack / "seed-0" / defense / "results.json").read_text())
    return tuple(100 * results[figure]["value"] for figure in ("acc", "asr"))


def draw_matrix():
    """ASR in large figures and as color, ACC in small ones."""
    cells = [[read_cell(attack, defense) for defense in DEFENSES.values()] for attack in ATTACKS.values()]
    figure, axis = plt.subplots(figsize=(9, 3.4))
    figure.subplots_adjust(left=0.15, right=0.99, top=0.83, bottom=0.02)
    axis.imshow([[asr for _, asr in row] for row in cells], cmap="OrRd", vmin=0, vmax=150, aspect="auto")
    for y, row in enumerate(cells):
        for x, (acc, asr) in enumerate(row):
            axis.text(x, y - 0.1, f"{asr:.1f}", ha="center", va="center", fontsize=14, fontweight="bold")
            axis.text(x, y + 0.28, f"ACC {acc:.2f}", ha="center", va="center", fontsize=8.5)
    axis.xaxis.tick_top()
    axis.set_xticks(range(len(DEFENSES)), DEFENSES, fontsize=11)
    axis.set_yticks(range(len(ATTACKS)), ATTACKS, fontsize=11)
    axis.set_xticks(np.arange(0.5, len(DEFENSES) - 1), minor=True)
    axis.set_yticks(np.arange(0.5, len(ATTACKS) - 1), minor=True)
    axis.grid(which="minor", color="white", linewidth=3)
    axis.tick_params(which="both", length=0)
    axis.spines[:].set_visible(False)
    figure.suptitle("Attack success rate in % (lower is better for the defender), and accuracy on clean images",
                    fontsize=11, y=0.985)
    return figure


if __name__ == "__main__":
    main()
