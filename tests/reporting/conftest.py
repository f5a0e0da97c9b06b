"""Runs made of files alone: what scripts leave, without running them."""
import json

import pytest
from helpers.reporting import share

HEADER = "Epoch \t lr \t Time \t TrainLoss \t TrainACC \t PoisonLoss \t PoisonACC \t CleanLoss \t CleanACC"


@pytest.fixture
def tree(tmp_path):
    """An empty output folder, with functions that put runs into it."""
    return Tree(tmp_path / "output")


class Tree:
    def __init__(self, root):
        self.root = root
        root.mkdir()

    def run(self, name, script="train_backdoor.py", arguments=None, acc=0.93, asr=1.0, method=None, **results):
        """A finished run; returns its folder."""
        folder = self.begin(name, script, arguments)
        (folder / "results.json").write_text(json.dumps({
            "script": script, "acc": share(acc), "asr": share(asr, 9000), "robust_acc": share(0.5, 9000),
            "parent": None, "dataset": "cifar10", "width": 64, "epochs": 2, "seed": 0, "seconds": 10.0, "device": "CPU",
            "method": method or {}} | results))
        return folder

    def begin(self, name, script="train_backdoor.py", arguments=None):
        """A run that has begun and no more; returns its folder."""
        folder = self.root / name
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps({"script": script, "arguments": arguments or {}, "seed": 0}))
        return folder

    def attack(self, name, poison_type, acc, asr, seed=0, **arguments):
        """A finished training with its log and metrics; returns its folder."""
        folder = self.run(name, arguments={"poison_type": poison_type, "seed": seed, "epochs": 2} | arguments, acc=acc,
                          asr=asr, method={"poison_type": poison_type, "poisoned": 5}, seed=seed)
        self.log(name, [(1, 0.5, 0.5), (2, asr, acc)])
        (folder / "metrics.jsonl").write_text("".join(
            json.dumps({"epoch": epoch, "poison_acc": a, "clean_acc": c}) + "\n" for epoch, a, c in
            [(1, 0.5, 0.5), (2, asr, acc)]))
        return folder

    def log(self, name, rows, first=""):
        """An output.log in the homework's format; rows are (epoch, ASR, ACC). Returns its folder."""
        folder = self.root / name
        folder.mkdir(parents=True, exist_ok=True)
        lines = [first, HEADER, *(f"{epoch} \t 0.100 \t 9.1 \t 0.3 \t 0.9 \t 0.1 \t {asr:.4f} \t 0.3 \t {acc:.4f}"
                                  for epoch, asr, acc in rows)]
        (folder / "output.log").write_text("".join(f"[2026/11/24 10:00:00] - {line}\n" for line in lines if line))
        return folder

    def pruned(self, name, asr, acc, threshold=0.2, alpha=0.2, before=1.0):
        """Masks in `name` and a finished prune_network.py run beneath them; returns the latter's folder."""
        self.run(name, "generate_mask.py", {"anp_alpha": alpha}, method={"name": "ANP mask"})
        sweep = [{"pruned": 0, "threshold": None, "acc": share(0.93), "asr": share(before)},
                 {"pruned": 9, "threshold": threshold, "acc": share(acc), "asr": share(asr)},
                 {"pruned": 30, "threshold": 0.9, "acc": share(0.2), "asr": share(0.0)}]
        folder = self.run(f"{name}/pruned", "prune_network.py", {"pruning_by": "threshold"}, acc=acc, asr=asr, method={
            "name": "ANP", "before": sweep[0], "chosen": sweep[1], "sweep": sweep})
        (folder / "pruning_by_threshold.txt").write_text(
            "No \t Layer Name \t Neuron Idx \t Mask \t PoisonLoss \t PoisonACC \t CleanLoss \t CleanACC\n"
            f"0.00 \t None \t None \t None \t 0.0 \t {before:.4f} \t 0.3 \t 0.9300\n"
            f"9.00 \t layer4.1.bn2 \t 7 \t {threshold} \t 3.0 \t {asr:.4f} \t 0.3 \t {acc:.4f}\n")
        return folder

    def homework(self):
        """Runs that meet all of the homework's criteria."""
        self.attack("badnets", "badnets", 0.93, 1.0)
        self.attack("blend", "blend", 0.92, 0.9999)
        self.attack("clean-label", "clean-label", 0.915, 0.85)
        self.pruned("badnets/anp", 0.01, 0.921)
