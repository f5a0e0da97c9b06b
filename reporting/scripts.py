"""The scripts that leave runs, by one name each, whatever results.json calls them."""

MASKS, PRUNING = "generate_mask", "prune_network"
# Names of older results.json files. neural_cleanse.py had two tasks, each a script today.
MOVED = {"detect_strip": "defenses.strip", "fine_prune": "defenses.fine_prune", "train_abl": "defenses.abl",
         "neural_cleanse detect": "defenses.neural_cleanse", "neural_cleanse unlearn": "defenses.unlearn_trigger",
         "generate_issba_encoder": "attacks.issba_encoder", "train_pruning_aware": "attacks.pruning_aware",
         "sweep_anp": "studies.sweep_anp", "sweep_abl": "studies.sweep_abl",
         "sweep_neuron_noise": "studies.neuron_noise", "measure_specificity": "studies.specificity",
         "audit_model": "studies.audit", "export_clean_images": "studies.export_images"}
LEAVES_NO_MODEL = (MASKS, "defenses.neural_cleanse", "studies.neuron_noise")  # run on the model of the run above


def script_name(script, task=None):
    """A script's name, such as "defenses.strip", from what config.json or results.json calls it. `task`: its --task."""
    name = script.removesuffix(".py").replace("/", ".")
    return MOVED.get(f"{name} {task}", MOVED.get(name, name))


def trains_attack(script):
    """Whether the script of this name trains a model on data that it poisons, if it leaves an accuracy."""
    return script == "train_backdoor" or script.startswith("attacks.")
