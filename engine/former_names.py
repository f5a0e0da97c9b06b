"""What earlier versions called the scripts, whose runs are still read."""

# The names that results.json and config.json of earlier versions give to scripts.
FORMER = {"detect_strip.py": "defenses.strip", "fine_prune.py": "defenses.fine_prune", "train_abl.py": "defenses.abl",
          "neural_cleanse.py": "defenses.neural_cleanse", "neural_cleanse.py unlearn": "defenses.unlearn_trigger",
          "generate_issba_encoder.py": "attacks.issba_encoder", "train_pruning_aware.py": "attacks.pruning_aware",
          "sweep_neuron_noise.py": "studies.neuron_noise", "measure_specificity.py": "studies.specificity",
          "sweep_anp.py": "studies.sweep_anp", "sweep_abl.py": "studies.sweep_abl", "audit_model.py": "studies.verdict",
          "export_clean_images.py": "studies.export_images"}


def script_of(name: str, task: str | None = None) -> str:
    """The module of a run whose files call its script `name`. task: which of two tasks a former script had run."""
    return FORMER.get(f"{name} {task}") or FORMER.get(name) or name.removesuffix(".py")
