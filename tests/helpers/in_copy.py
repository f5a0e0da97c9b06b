"""What tests/test_extending.py runs in its copy of the suite, a process each: `python in_copy.py TASK WORD ...`."""
import contextlib
import importlib
import json
import sys

import numpy as np


def drive():
    """Run scripts one after another in one process, since every start of PyTorch takes seconds.

    Standard input is [[module, word, ...], ...] as JSON.
    """
    for module, *words in json.load(sys.stdin):
        importlib.import_module(module).main(words)


def read_back(*paths):
    """Stamp the test digits with the triggers in `paths`: stamped.npy beside each, clean.npy beside the last."""
    from data.datasets import load_splits
    from data.poison_cifar import stamp_all
    from engine.weights.checkpoint import load_trigger
    test = load_splits("digits", "")[2]
    for path in paths:
        np.save(path.replace("trigger_info.th", "stamped.npy"), stamp_all(test, load_trigger(path)).data)
    np.save(path.replace("trigger_info.th", "clean.npy"), test.data[test.targets != 0])


def plan():
    """Print {cell: words} of a matrix of what the page adds, as JSON."""
    from workflow import plan as planning
    matrix = {"output": "out", "seeds": [0], "data": {"dataset": "digits"}, "training": {"width": 2, "epochs": 1},
              "attacks": {"square": {}, "sway": {"amplitude": 3}, "late": {}},
              "defenses": {"squeeze": {"bits": 2}, "retrain-head": {}, "strip": {}, "abl": {}}}
    print(json.dumps({step.cell: step.words() for step in planning.plan(matrix).steps.values()}))


def count_stamped():
    """Print, for each of four epochs, two of them clean, how many of a batch of eight black images of class 1 late.py
    stamps, and its loss for a model that calls all images class 0, sure by 10."""
    from types import SimpleNamespace

    import torch

    from attacks.late import step_of
    from data.triggers import PatternTrigger, checkerboard_1corner
    shown = []

    def model(pixels):
        shown.append(pixels)
        return torch.eye(10)[torch.zeros(len(pixels), dtype=torch.long)] * 10
    trigger = PatternTrigger(*checkerboard_1corner(), alpha=1.0, target=0)
    for epoch in range(4):
        run = SimpleNamespace(epoch=epoch, device="cpu")
        loss, _ = step_of(run, trigger, 0.5, 2)(model, torch.zeros(8, 3, 32, 32), torch.ones(8, dtype=torch.long))
        print(int((shown[-1] > 0).flatten(1).any(1).sum()), round(float(loss)))


def parse():
    """Print, for each of [[module, word, ...], ...] on standard input, what the script's flags come to or what it says
    when it refuses them, a line each."""
    for module, *words in json.load(sys.stdin):
        try:
            with contextlib.redirect_stderr(sys.stdout):
                print(importlib.import_module(module).parse_args(words))
        except SystemExit as refused:
            if refused.code != 2:
                raise


if __name__ == "__main__":
    tasks = {task.__name__: task for task in (drive, read_back, plan, count_stamped, parse)}
    tasks[sys.argv[1]](*sys.argv[2:])
