"""A matrix that is done in a minute."""

TINY = {"seeds": [0], "data": {"dataset": "digits"}, "attacks": {"badnets": {"poison_rate": 0.2}},
        "training": {"width": 4, "batch_size": 256, "epochs": 1, "milestones": []},
        "defences": {"fine-tuning": {"val_frac": 0.05, "epochs": 1}, "pruning": {"val_frac": 0.05}}}
