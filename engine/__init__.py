"""What all scripts share: flags, runs, checkpoints, training, evaluation and pictures."""
